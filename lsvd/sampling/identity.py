"""The identity of a model: what it computes, by weights, scheduler, versions and code, not by its name."""

import ast
import functools
import hashlib
import importlib
import inspect
import json
import platform
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from lsvd.backbones.checkpoints import silently
from lsvd.backbones.configs import config_text, described, origin, scheduler_text, settled
from lsvd.backbones.models import Backbone
from lsvd.storage.results import checksum

SAMPLING = (
    "sampling.trajectory",
    "sampling.memory",
    "backbones.models",
    "backbones.families",
    "backbones.schedulers",
    "backbones.calls",
)
UNUSED = ("safety_checker",)  # networks without influence on the pictures
PLAIN = ("StableDiffusionPipeline", "DDPMPipeline", "DDIMPipeline")  # pipelines that their networks determine
PRIVATE = ("_disable_adapters", "_active_adapter")  # attributes that turn adapters off, and choose them
# Attributes of a module without influence on its results: torch's own, configurations, which are counted once, options
# that only spare memory, and how accelerate and diffusers move weights.
PASSED_OVER = {
    *vars(nn.Module()),
    *(
        "_internal_dict",
        "config",
        "name_or_path",
        "use_slicing",
        "gradient_checkpointing",
        "_gradient_checkpointing_func",
    ),
    *("_hf_hook", "_old_forward", "_diffusers_hook", "_is_hf_initialized", "hf_device_map", "_hf_peft_config_loaded"),
    *("_weight_conversions", "_use_kernels"),
    *("_output_capturing_hooks_installed", "rope_embedder"),  # set or filled at the first use
}


def identity(backbone: Backbone) -> dict[str, Any]:
    """The parts of a backbone that determine its results, for the settings of `remember`: a dict that JSON can hold.

    Weights, scheduler class and config, dtype, versions of the libraries, this package's sampling code, hooks, and the
    causes of rounding: the device, on a CPU the number of threads, and autocast. Two machines of the same description
    agree to rounding.
    """
    scheduler, device = backbone.scheduler, backbone.device
    if device.type == "cpu":
        threads, instructions = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
        machine = f"cpu {platform.machine()} {instructions}, {threads} threads"
    else:
        machine = f"cuda {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type
    if torch.is_autocast_enabled(device.type):
        machine += f", autocast to {torch.get_autocast_dtype(device.type)}"
    return {
        "weights": weights(backbone),
        "scheduler": origin(type(scheduler)),
        "config": scheduler_text(scheduler),
        "dtype": str(backbone.dtype),
        "size": list(backbone.size),
        "machine": machine,
        "versions": {module.__name__: str(module.__version__) for module in (torch, diffusers, transformers)},
        "code": _code(*SAMPLING),
        "hooks": _hooks(backbone.pipe),
    }


def weights(backbone: Backbone) -> str:
    """A digest, in hexadecimal, of a backbone's pipeline; see `fingerprint`."""
    return fingerprint(backbone.pipe)


_digests: WeakKeyDictionary[DiffusionPipeline, dict[Any, Any]] = WeakKeyDictionary()


def fingerprint(pipe: DiffusionPipeline) -> str:
    """A digest of a pipeline's networks as they are in memory, with their configurations, and of its tokenizers.

    Changes since a network was built from its configuration count too: adapters and their strengths, attention
    processors, FreeU, padding and the like. So does the way in which a pipeline uses its networks. The scheduler does
    not count, nor do hooks on modules, which mostly only watch (`identity` lists both).

    It is computed once, and again after any such change. A change of tensors through `.data`, which torch does not
    record, shows in their sums.
    """
    state, digests = _state(pipe), _digests.setdefault(pipe, {})
    if state.stamp not in digests:
        notes = {**state.configs, **{name: part and _vocabulary(part) for name, part in state.readers.items()}}
        notes |= {name: value for name, value in (("changed", state.changed()), ("use", state.use)) if value}
        tensors = {f"{name}.{key}": t for name, part in state.tensors.items() for key, t in part.items()}
        text = checksum(tensors) + json.dumps(notes, sort_keys=True)
        digests[state.stamp] = hashlib.sha256(text.encode()).hexdigest()
    return digests[state.stamp]


def parts(pipe: DiffusionPipeline, dtype: torch.dtype, only: Collection[str] | None = None) -> dict[str, str]:
    """A digest of each network and tokenizer of a pipeline by its name, and of how it uses them, as "pipeline".

    Weights are rounded to `dtype` first, and no dtype is noted: a model agrees with itself loaded in that dtype. only:
    the names to digest, all if None. Otherwise as `fingerprint`.
    """
    state, cached = _state(pipe), _digests.setdefault(pipe, {})
    changes, result = None, {}
    for name in (*state.tensors, *state.readers, "pipeline"):
        key = state.stamp, dtype, name
        if only is not None and name not in only:
            continue
        if key not in cached:
            if name in state.tensors:
                changes = state.changed() if changes is None else changes
                kind, config = state.configs[name]
                config = {n: value for n, value in json.loads(config).items() if n not in ("dtype", "torch_dtype")}
                # one tensor after the other, so that no whole copy of the network is made
                digests = {n: checksum({n: _rounded(t, dtype)}) for n, t in state.tensors[name].items()}
                cached[key] = _sha(kind, config, changes.get(name), digests)
            else:
                reader = state.readers.get(name)
                cached[key] = _sha(state.use if name == "pipeline" else reader and _vocabulary(reader))
        result[name] = cached[key]
    return result


def _rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


@dataclass(frozen=True)
class _State:
    """The parts of a pipeline that determine its results. stamp: changes whenever one of them does."""

    networks: dict[str, nn.Module]
    tensors: dict[str, dict[str, Tensor]]
    attributes: dict[str, dict[str, Any]]
    configs: dict[str, tuple[str, str]]
    readers: dict[str, Any]
    use: list
    stamp: str

    def changed(self) -> dict[str, Any]:
        """The attributes of each network that is not as its configuration makes it."""
        return {n: values for n, values in self.attributes.items() if values != _fresh_attributes(self.networks[n])}


def _state(pipe: DiffusionPipeline) -> _State:
    networks = _networks(pipe)
    tensors = {name: _tensors(part) for name, part in networks.items()}
    flat = {f"{name}.{key}": t for name, part in tensors.items() for key, t in part.items()}
    attributes = {name: _attributes(part) for name, part in networks.items()}
    configs = {name: (type(part).__qualname__, _settled(part)) for name, part in networks.items()}
    readers = {n: part for n, part in pipe.components.items() if n.startswith(("tokenizer", "processor"))}
    readers = {name: getattr(part, "tokenizer", part) for name, part in {"tokenizer": None, **readers}.items()}
    lengths = {name: part and [len(part), part.model_max_length] for name, part in readers.items()}
    use = _use(pipe)
    stamp = _sha(_stamp(flat), attributes, configs, lengths, use)
    return _State(networks, tensors, attributes, configs, readers, use, stamp)


def _networks(pipe: DiffusionPipeline) -> dict[str, nn.Module]:
    """The networks behind a pipeline's pictures; of compiled ones, the original."""
    parts = {name: getattr(part, "_orig_mod", part) for name, part in sorted(pipe.components.items())}
    return {name: part for name, part in parts.items() if isinstance(part, nn.Module) and name not in UNUSED}


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """A network's parameters and buffers, including those that accelerate keeps elsewhere until they are needed."""
    tensors = dict(_flat(network.state_dict()))
    if any(t.is_meta for t in tensors.values()):
        for place, module in network.named_modules():
            kept = getattr(getattr(module, "_hf_hook", None), "weights_map", None) or {}
            for key in kept:  # in full, where it looks names up without the module's
                name = key.removeprefix(getattr(kept, "prefix", ""))
                tensors[f"{place}.{name}" if place else name] = kept[name]
    return tensors


def _flat(state: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a network's state, also those that quantised layers keep in tuples."""
    for name, value in state.items():
        if isinstance(value, Tensor):
            yield name, value.dequantize() if value.is_quantized else value
        elif isinstance(value, tuple):
            yield from _flat({f"{name}.{i}": item for i, item in enumerate(value)})


def _stamp(tensors: Mapping[str, Tensor]) -> list:
    """Signs of a change of tensors, cheaper than a digest: the count of changes, the first value, and the sum."""
    numbers: dict[torch.device, list[Tensor]] = {}
    for t in tensors.values():
        if t.numel() and t.dtype.itemsize > 1 and not t.is_complex():
            numbers.setdefault(t.device, []).extend([t[(0,) * t.ndim].float(), t.sum(dtype=torch.float32)])
    changes = [(name, str(t.dtype), 0 if t.is_inference() else t._version) for name, t in tensors.items()]
    return [changes, [torch.stack(values).tolist() for values in numbers.values()]]


def _attributes(network: nn.Module) -> dict[str, Any]:
    """The class of each module of a network, and its attributes that are not tensors; see PASSED_OVER."""
    return {name: [origin(type(part)), _notes(part)] for name, part in network.named_modules()}


def _notes(module: nn.Module) -> dict[str, Any]:
    # private attributes hold notes of running modules, such as an autoencoder's caches
    public = {name: value for name, value in vars(module).items() if not name.startswith("_") or name in PRIVATE}
    notes = {name: value for name, value in public.items() if name not in PASSED_OVER}
    if "_hf_hook" in vars(module) or "_diffusers_hook" in vars(module):
        notes.pop("forward", None)
    caches = getattr(vars(module).get("_diffusers_hook"), "hooks", {})
    notes |= {"hooks": sorted(name for name in caches if "offload" not in name)} if caches else {}
    if module.training and isinstance(module, nn.modules.dropout._DropoutNd | nn.modules.batchnorm._NormBase):
        notes["training"] = True
    return {name: described(value) for name, value in sorted(notes.items())}


def _fresh_attributes(network: nn.Module) -> dict[str, Any] | None:
    """The attributes of a network just built from its configuration; None where it cannot be built from that alone."""
    try:
        with torch.device("meta"), silently(), torch.random.fork_rng(devices=[]):
            if hasattr(network, "config_class") and not hasattr(network, "_internal_dict"):
                return _attributes(type(network)(network.config).eval())
            return _attributes(type(network).from_config(settled(network.config)).eval())
    except Exception:
        return None


def _use(pipe: DiffusionPipeline) -> list:
    """How a pipeline uses its networks, as far as these do not show it: its class, and its switches."""
    values = {**vars(pipe), **settled(pipe.config)}
    values = {name: value for name, value in values.items() if name not in pipe.components and not name.startswith("_")}
    ignored = ("vae_scale_factor", "requires_safety_checker")
    switches = {
        n: v for n, v in values.items() if n not in ignored and isinstance(v, bool | int | float | str | list | tuple)
    }
    return [origin(type(pipe)), described(switches)] if switches or type(pipe).__name__ not in PLAIN else []


def _hooks(pipe: DiffusionPipeline) -> list:
    """The hooks on a pipeline's networks, which may change their results, or only watch."""
    entries = []
    for name, network in _networks(pipe).items():
        for place, module in network.named_modules():
            hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
            entries += [[f"{name}.{place}", described(hook, depth=0)] for hook in hooks]
    return entries


def _settled(network: nn.Module) -> str:
    """A network's configuration as text.

    Those of transformers are not dicts, name the version in use, and are completed when the network is saved.
    """
    config = network.config
    if not hasattr(config, "to_dict"):
        return config_text(config)
    saved = {"architectures": [type(network).__name__], "dtype": str(network.dtype).removeprefix("torch.")}
    return config_text({k: v for k, v in (config.to_dict() | saved).items() if k != "transformers_version"})


def _vocabulary(tokenizer: Any) -> Any:
    """What determines a tokenizer's output for a text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return [tokenizer.model_max_length, sorted(tokenizer.get_vocab().items())]
    # padding and truncation are those of the last call
    state = {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("padding", "truncation")}
    return [tokenizer.model_max_length, state]


def _sha(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@functools.cache
def _code(*modules: str) -> str:
    """A digest of this package's modules' code, as it was at the first call; comments and layout do not count."""
    sources = [inspect.getsource(importlib.import_module(f"lsvd.{module}")) for module in modules]
    return hashlib.sha256("\n".join(ast.dump(ast.parse(source)) for source in sources).encode()).hexdigest()
