"""The identity of a model: what it computes, by weights, scheduler, versions and code, not by its name."""

import ast
import functools
import hashlib
import inspect
import json
import platform
from importlib import import_module
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline

from lsvd.backbones import families, models, schedulers
from lsvd.backbones.models import Backbone
from lsvd.backbones.schedulers import config_text
from lsvd.storage.results import checksum


def identity(backbone: Backbone) -> dict[str, Any]:
    """What in a backbone determines its results, for the settings of `remember`: a dict that JSON can hold.

    Weights, scheduler class and config, dtype, versions of the libraries, this package's sampling code, and what
    rounding depends on: the device, and on a CPU the number of threads. Two machines of the same description agree to
    rounding. A scheduler whose attributes were changed by hand is not told apart: change its config.
    """
    scheduler, device = backbone.scheduler, backbone.device
    if device.type == "cpu":
        threads, instructions = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
        machine = f"cpu {platform.machine()} {instructions}, {threads} threads"
    else:
        machine = f"cuda {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type
    return {
        "weights": weights(backbone),
        "scheduler": f"{type(scheduler).__module__}.{type(scheduler).__qualname__}",
        "config": config_text(scheduler.config),
        "dtype": str(backbone.dtype),
        "size": list(backbone.size),
        "machine": machine,
        "versions": {module.__name__: str(module.__version__) for module in (torch, diffusers, transformers)},
        "code": _code(import_module("lsvd.sampling.trajectory"), models, families, schedulers),
    }


_digests: WeakKeyDictionary[DiffusionPipeline, tuple[tuple, str]] = WeakKeyDictionary()


def weights(backbone: Backbone) -> str:
    """A digest of a backbone's networks as they are in memory, with their configurations, and of its tokenizers.

    Computed once for each pipeline, and again after its parameters were loaded, cast, moved or changed in place (other
    than through `.data`, which torch does not record).
    """
    parts = backbone.pipe.components
    networks = {name: part for name, part in sorted(parts.items()) if isinstance(part, torch.nn.Module)}
    tensors = {f"{name}.{key}": t for name, part in networks.items() for key, t in part.state_dict().items()}
    stamp = tuple((key, t.data_ptr(), 0 if t.is_inference() else t._version) for key, t in tensors.items())
    known = _digests.get(backbone.pipe)
    if known is None or known[0] != stamp:
        described = {name: (type(part).__qualname__, _settled(part)) for name, part in networks.items()}
        described["tokenizer"] = None
        readers = {name: part for name, part in parts.items() if name.startswith(("tokenizer", "processor"))}
        described |= {name: _vocabulary(getattr(part, "tokenizer", part)) for name, part in readers.items()}
        text = checksum(tensors) + json.dumps(described, sort_keys=True)
        known = _digests[backbone.pipe] = stamp, hashlib.sha256(text.encode()).hexdigest()
    return known[1]


def _settled(network: torch.nn.Module) -> str:
    """A network's configuration as text.

    transformers' are no dicts, name the version that they are used with, and are filled in when the network is saved.
    """
    config = network.config
    if not hasattr(config, "to_dict"):
        return config_text(config)
    saved = {"architectures": [type(network).__name__], "dtype": str(network.dtype).removeprefix("torch.")}
    return config_text({k: v for k, v in (config.to_dict() | saved).items() if k != "transformers_version"})


def _vocabulary(tokenizer: Any) -> Any:
    """What a tokenizer makes of a text depends on this."""
    if tokenizer is None:
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return [tokenizer.model_max_length, sorted(tokenizer.get_vocab().items())]
    # padding and truncation are those of the last call
    state = {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("padding", "truncation")}
    return [tokenizer.model_max_length, state]


@functools.cache
def _code(*modules: ModuleType) -> str:
    """A digest of modules' code, as it was at the first call; comments and layout do not count."""
    trees = [ast.dump(ast.parse(inspect.getsource(module))) for module in modules]
    return hashlib.sha256("\n".join(trees).encode()).hexdigest()
