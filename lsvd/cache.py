"""Expensive results kept on disk, shared between notebooks: trajectories, and any tensors besides.

A file holds one result, is named by a digest of everything that determines it, and carries these settings in its
metadata. Files are written whole or not at all; one that is truncated or altered is noticed when it is read, and made
anew with a warning. A disk that takes no file costs a warning too, never the result. Nothing is ever deleted: remove
the folder to free the space.
"""

import ast
import functools
import hashlib
import inspect
import json
import logging
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import diffusers
import safetensors.torch
import torch
import transformers
from diffusers import DiffusionPipeline, SchedulerMixin
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm.auto import tqdm

from lsvd import backbones, families, schedulers, trajectory
from lsvd.backbones import Backbone
from lsvd.files import WriteError, outputs, write_bytes
from lsvd.trajectory import Settings, Trajectory, config_text, draw

CHUNK = 32  # pictures drawn together, and kept in one file
FORMAT = 1  # of the files; raise it when what is stored changes
Tensors = dict[str, Tensor]
log = logging.getLogger(__name__)


def trajectories(
    backbone: Backbone,
    prompts: str | Sequence[str] | None = None,
    seeds: int | Sequence[int] = 0,
    *,
    steps: int | None = None,
    guidance: float | None = None,
    eta: float = 0.0,
    batch: int = CHUNK,
    scheduler: SchedulerMixin | type[SchedulerMixin] | None = None,
    folder: str | Path | None = None,
    progress: bool = False,
) -> Trajectory:
    """As `lsvd.trajectory.run`, `batch` seeds at a time; what was drawn before is read from the disk instead.

    scheduler: another than the backbone's, as for `Backbone.with_scheduler`; resume with the same. folder:
    outputs("cache", "trajectories") if None. Each chunk of `batch` seeds is a file of its own: more seeds, appended,
    draw only what is new, and a stopped run goes on with the first chunk that is missing. Codes are kept exactly, in
    the dtype they have. progress: a bar over the chunks.

    How a picture is rounded depends on those drawn with it, so `batch` is part of what is drawn. Bit for bit,
    `resume` repeats the chunks (see `split`), not the whole, and only on a machine that rounds alike: device and
    number of threads count as settings (see `identity`).

    Raises ValueError for bad arguments.
    """
    _check_batch(batch)
    backbone = backbone if scheduler is None else backbone.with_scheduler(scheduler)
    # checked as a whole, before it is cut up; warnings of odd prompts name who called this
    settings = Settings.of(backbone, prompts, seeds, steps, guidance, eta)
    shared = {"made by": identity(backbone), "steps": settings.steps, "guidance": settings.guidance}
    shared |= {"eta": settings.eta, "format": FORMAT}
    home = Path(folder or outputs("cache", "trajectories")) / _safe(backbone.name)
    parts, keeping = [], True
    for start in tqdm(
        range(0, len(settings.seeds), batch), desc=backbone.name, unit="chunk", disable=not progress, leave=False
    ):
        rows = slice(start, start + batch)
        label = _label({**shared, "prompts": settings.prompts[rows], "seeds": settings.seeds[rows]})
        part = _read(_file(home, label), label)
        if part is None:
            walk = draw(backbone, replace(settings, prompts=settings.prompts[rows], seeds=settings.seeds[rows]))
            part = {"codes": walk.codes.cpu(), "timesteps": walk.timesteps.cpu()}
            keeping = keeping and _keep(_file(home, label), label, part)
        parts.append(part)
    codes = torch.cat([part["codes"] for part in parts], dim=1).to(backbone.device)
    return Trajectory(settings, parts[0]["timesteps"], codes, backbone.T)


def split(walk: Trajectory, batch: int = CHUNK) -> list[Trajectory]:
    """The trajectories of each `batch` pictures, sharing memory with the whole: the chunks that `trajectories` drew.

    `resume` repeats each of them bit for bit; the whole it repeats to rounding, since it would be one batch.
    """
    _check_batch(batch)
    return [walk.rows(slice(start, start + batch)) for start in range(0, len(walk.settings.seeds), batch)]


def remember(
    name: str,
    settings: Mapping[str, Any],
    make: Callable[[], Mapping[str, Tensor]],
    *,
    folder: str | Path | None = None,
) -> Tensors:
    """The tensors that make() returns, read from the disk if they were made with the same settings before.

    name: what they are, for the folder they go to. settings: everything that determines them, as JSON can hold it; put
    `identity(backbone)` in if a backbone has part in it, and a number to raise when the code of `make` changes. folder:
    outputs("cache") if None. Tensors come back on the CPU, contiguous. Raises ValueError if settings are no JSON, or
    make() returns no dict of tensors.
    """
    label, file = _label(settings), place(name, settings, folder)
    found = _read(file, label)
    if found is None:
        made = make()
        if not isinstance(made, Mapping) or not all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in made.items()
        ):
            raise ValueError(f"what makes {name!r} returned no dict of tensors: name each tensor by a text")
        # of its own storage each: files hold no views
        found = {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in made.items()}
        _keep(file, label, found)
    return found


def place(name: str, settings: Mapping[str, Any], folder: str | Path | None = None) -> Path:
    """The file that `remember` keeps, with the same arguments, whether it is there or not."""
    return _file(Path(folder or outputs("cache")) / _safe(name), _label(settings))


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
        "code": _code(trajectory, backbones, families, schedulers),
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


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """A digest of tensors with their names, dtypes and shapes."""
    seen = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        seen.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        seen.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return seen.hexdigest()


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


def _check_batch(batch: int) -> None:
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise ValueError(f"cannot take {batch} pictures at a time: choose a whole number from 1")


def _safe(name: str) -> str:
    """A name as a folder's."""
    return re.sub(r"[^\w-]+", "_", name) or "_"


def _label(settings: Mapping[str, Any]) -> str:
    """Settings as text, the same for the same settings."""
    try:
        return json.dumps(settings, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"settings cannot be written as JSON ({error}): give texts, finite numbers, lists and dicts"
        ) from error


def _file(home: Path, label: str) -> Path:
    return home / f"{hashlib.sha256(label.encode()).hexdigest()[:24]}.safetensors"


def _read(file: Path, label: str) -> Tensors | None:
    """The tensors of a file, or None if there is none, or none to be trusted (with a warning)."""
    try:
        with safe_open(file, framework="pt") as opened:
            noted = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, SafetensorError) as error:
        problem = str(error) or type(error).__name__
    else:
        if noted.get("settings") == label and noted.get("sha256") == checksum(tensors):
            return tensors
        problem = "its contents are not what was written"
    log.warning("%s is damaged or cannot be read (%s): making it anew", file, problem)
    return None


def _keep(file: Path, label: str, tensors: Tensors) -> bool:
    """Write tensors to a file; False, and a warning, if the disk refuses."""
    noted = {"settings": label, "sha256": checksum(tensors)}
    try:
        write_bytes(file, safetensors.torch.save(tensors, noted))
    except WriteError as error:
        log.warning("%s; the result is used, but not kept for the next time", error)
        return False
    return True
