"""Backbones from registered names, folders, ids of the hub, and pipelines in memory."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DDIMScheduler, DDPMPipeline, DiffusionPipeline

from lsvd import paths
from lsvd.backbones import checkpoints, checksums, hub, single_file
from lsvd.backbones.configs import given
from lsvd.backbones.families import FAMILIES, family_of
from lsvd.backbones.models import Backbone, TextToImage, Unconditional, _words
from lsvd.backbones.registry import REGISTRY, Entry, Kind

UNCONDITIONAL = ("DDPMPipeline", "DDIMPipeline")
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")  # optional parts, which drawing from text never asks


def load(
    name: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    *,
    size: int | tuple[int, int] | None = None,
    revision: str | None = None,
    variant: str | None = None,
) -> Backbone:
    """The backbone of a registered name, of a folder on disk in diffusers' format, or of an id on the hub.

    A single .safetensors file loads too, where diffusers finds the configuration of its model, in the hub's cache or
    with a network.

    dtype: None for float32 on the CPU and with embedded weights, and for the registered half precision elsewhere. size:
    of pictures in pixels, or (height, width); None for the model's own. revision, variant: of a repository on the hub,
    None for those registered; a folder of only one variant loads without. What is never used, such as the safety
    checker, is left out. Weights are read from safetensors files; where a checkpoint has only others, with
    weights_only. Unconditional models get a DDIM scheduler with the settings of their own.

    Raises ValueError for a name that is none of these, a pipeline class that is not supported, a size that it cannot
    draw, damaged files, or files that do not fit together; FileNotFoundError for missing ones.
    """
    name = _name(name)
    entry, file = REGISTRY.get(str(name)), _path(name)
    if entry is None and file.is_file():
        pipe = single_file.read(file, dtype or torch.float32)
        return from_pipeline(pipe.to(device), _entry(file.stem, "text-to-image", pipe, str(file)), size=size)
    folder, remedy, variant = _find(name, entry, device, revision, variant)
    index = folder / "model_index.json"
    if not index.is_file():
        raise FileNotFoundError(f"there are no weights in {folder} (no model_index.json): {remedy}")
    components = checkpoints.read_json(index, remedy)
    if "_class_name" not in components:
        raise ValueError(f"{index} is damaged: {remedy}")
    kind = _kind(str(components["_class_name"]), f", as in {folder},")
    words = _read_words(folder / "vocabulary.txt", remedy)
    dtype = dtype or (entry.dtype(device) if entry else torch.float32)
    shipped = bool(entry and entry.folder)
    with checkpoints.explained(folder, remedy), checkpoints.silently():
        # imports the pipeline's module, which has reports of its own
        loader = getattr(diffusers, components["_class_name"]) if kind == "text-to-image" else DDPMPipeline
        taken = inspect.signature(loader.__init__).parameters
    unused = {name: None for name in UNUSED if name in taken and _left_out(folder, name, components.get(name))}
    # diffusers wants to be told again of encoders that were left out when the pipeline was saved
    unused |= {n: None for n, v in components.items() if v == [None, None] and n.startswith(("text_enc", "tokenizer"))}
    parts = {name: value for name, value in components.items() if name not in unused}
    parts = unused | _read_parts(folder, parts, remedy, dtype, variant, shipped)
    extra = {"requires_safety_checker": False} if "requires_safety_checker" in taken else {}
    with checkpoints.explained(folder, remedy), checkpoints.silently():
        pipe = loader.from_pretrained(folder, **parts, **extra, dtype=dtype, local_files_only=True)
    if shipped:
        checksums.verify(folder, remedy)
    pipe.set_progress_bar_config(disable=True)  # lsvd.sampling.trajectory shows one bar for both kinds
    for network in (part for part in pipe.components.values() if shipped and isinstance(part, torch.nn.Module)):
        network.to(memory_format=torch.channels_last)  # up to a fifth faster on a CPU
    label = str(name) if hub.is_id(str(name)) and not file.is_dir() else folder.name
    with _explained_oddities(folder, remedy):
        return from_pipeline(pipe.to(device), entry or _entry(label, kind, pipe, str(folder)), words, size)


def _name(name: Any) -> str | Path:
    """A backbone's name as text or a path: a number may be the name of a folder. Raises ValueError for all else."""
    if isinstance(name, str | Path):
        return name
    if isinstance(name, int | float) and not isinstance(name, bool):
        return str(name)
    raise ValueError(f"not a backbone's name: {name!r}; choose from {', '.join(REGISTRY)}, or name a folder")


def _path(name: str | Path) -> Path:
    """The path of that name. Raises ValueError for one that no file can have, PermissionError if it may not be seen."""
    try:
        path = Path(name).expanduser()
        path.is_dir()
    except PermissionError as error:
        raise PermissionError(f"{name} cannot be read, permission is denied: make it readable") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"not a backbone's name: {str(name)[:80]!r}; choose from {', '.join(REGISTRY)}") from error
    return path


def _left_out(folder: Path, name: str, listed: Any) -> bool:
    """Whether a part that nothing here uses is to be passed over: it is not there, or it is large."""
    return name == "safety_checker" or not (folder / name).is_dir() or not isinstance(listed, list) or None in listed


@contextmanager
def _explained_oddities(folder: Path, remedy: str) -> Iterator[None]:
    """Turn what odd values of a configuration lead to into a ValueError of one sentence."""
    try:
        yield
    except (TypeError, AttributeError, KeyError, ArithmeticError) as error:
        raise ValueError(f"a configuration in {folder} cannot be used ({error}): {remedy}") from error


def _find(name, entry, device, revision, variant) -> tuple[Path, str, str | None]:
    """The folder of a backbone, what to do if something is wrong with it, and the variant of its files."""
    if entry and entry.folder:
        return paths.WEIGHTS / entry.folder, checkpoints.restore(entry.folder), None
    folder = _path(name)
    if entry is None and folder.is_dir():
        if not (folder / "model_index.json").is_file() and _is_clip(folder / "config.json"):
            raise ValueError(
                f"{name} is a CLIP model, which compares pictures with texts: load it with lsvd.backbones.clip.load"
            )
        return folder, checkpoints.COPY, variant
    if str(name) == "mini-clip":
        raise ValueError(
            f"{name} is a CLIP model, which compares pictures with texts: load it with lsvd.backbones.clip.load"
        )
    if entry is None and not hub.is_id(str(name)):
        known = ", ".join(REGISTRY)
        raise ValueError(f"there is no backbone {str(name)!r}, nor a folder of that name: choose from {known}")
    half = torch.device(device).type != "cpu"
    variants = [variant] if variant else [entry.variant, None] if entry and entry.variant and half else [None]
    folder, variant = hub.fetch(entry.hub if entry else (str(name),), revision or (entry and entry.revision), variants)
    return folder, f"remove {folder} and load it again", variant


def _kind(pipeline: str, where: str = "") -> Kind:
    """The kind of a diffusers pipeline class. Raises ValueError for one that is not supported."""
    if pipeline in FAMILIES:
        return "text-to-image"
    if pipeline in UNCONDITIONAL:
        return "unconditional"
    known = ", ".join((*FAMILIES, *UNCONDITIONAL))
    advice = "" if hasattr(diffusers, pipeline) else ", or load one of your own with its class and use from_pipeline"
    raise ValueError(f"a {pipeline}{where} is not supported: choose from {known}{advice}")


def _entry(name: str, kind: Kind, pipe: DiffusionPipeline, folder: str = "") -> Entry:
    """The defaults of a model that is not registered."""
    return Entry(name, kind, folder, guidance=family_of(type(pipe)).default if kind == "text-to-image" else None)


def from_pipeline(
    pipe: DiffusionPipeline,
    entry: Entry | None = None,
    words: Iterable[str] = (),
    size: int | tuple[int, int] | None = None,
) -> Backbone:
    """A backbone around a diffusers pipeline in memory; `words` are those it knows, none to check none.

    A class that inherits from a supported one is taken for that. size: of its pictures in pixels, or (height, width);
    None for the model's own. Raises ValueError for a pipeline class that is not supported, or a size that it cannot
    draw.
    """
    name = type(pipe).__name__
    known = [kind.__name__ for kind in type(pipe).__mro__ if kind.__name__ in (*FAMILIES, *UNCONDITIONAL)]
    kind = _kind(known[0] if known else name)
    entry = entry or _entry(name, kind, pipe)
    size = None if size is None else _size(size)
    if kind == "text-to-image":
        return TextToImage(pipe, entry, pipe.scheduler, words, size)
    return Unconditional(pipe, entry, DDIMScheduler.from_config(given(pipe.scheduler.config)), words, size)


def _size(size: Any) -> tuple[int, int]:
    sides = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, list | tuple) else ()
    if len(sides) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides):
        raise ValueError(f"not a size: {size!r}; give a whole number of pixels, or (height, width)")
    return sides


def _read_parts(
    folder: Path, components: Mapping[str, Any], remedy: str, dtype: torch.dtype, variant: str | None, shipped: bool
) -> dict[str, Any]:
    """The networks and the CLIP tokenizers of a pipeline, checked; of its other parts, only that they can be read.

    `own` are weights of this package, which hold exactly what is asked for; others may hold more.
    """
    libraries = {"diffusers": diffusers, "transformers": transformers}
    networks, tokenizers = {}, []
    for name, value in components.items():
        match value:
            case [("diffusers" | "transformers") as library, str(kind)]:
                network_class = getattr(libraries[library], kind, None)
                if isinstance(network_class, type) and issubclass(network_class, torch.nn.Module):
                    networks[name] = checkpoints.read_model(
                        network_class, folder / name, remedy, dtype, variant, strict=shipped
                    )
                elif kind in ("CLIPTokenizer", "CLIPTokenizerFast"):
                    tokenizers.append(name)
                else:
                    checkpoints.check_json(folder / name, remedy)
    # tokenizer_2 is read by text_encoder_2; without an encoder, the pipeline will refuse
    towers = {name: networks.get(name.replace("tokenizer", "text_encoder")) for name in tokenizers}
    read = {
        name: checkpoints.read_tokenizer(folder / name, remedy, text.config) for name, text in towers.items() if text
    }
    return networks | read


def _is_clip(config: Path) -> bool:
    return config.is_file() and checkpoints.read_json(config, checkpoints.COPY).get("model_type") == "clip"


def _read_words(file: Path, remedy: str) -> list[str]:
    """The words of vocabulary.txt, none if there is no such file. Raises ValueError if it is not UTF-8."""
    try:
        return _words(file.read_text(encoding="utf-8")) if file.is_file() else []
    except (OSError, ValueError) as error:
        if isinstance(error, PermissionError):
            raise PermissionError(f"{file} cannot be read, permission is denied: make it readable") from error
        raise ValueError(f"{file} cannot be read as UTF-8 text: {remedy}") from error
