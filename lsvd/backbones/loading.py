"""Backbones from registered names, folders, ids of the hub, and pipelines in memory."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DDIMScheduler, DDPMPipeline, DiffusionPipeline

from lsvd import paths
from lsvd.backbones import checkpoints, hub
from lsvd.backbones.families import FAMILIES
from lsvd.backbones.models import Backbone, TextToImage, Unconditional, _words
from lsvd.backbones.registry import REGISTRY, Entry, Kind

UNCONDITIONAL = ("DDPMPipeline", "DDIMPipeline")


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

    dtype: None for float32 on the CPU and with embedded weights, and for the registered half precision elsewhere. size:
    of pictures in pixels, or (height, width); None for the model's own. revision, variant: of a repository on the hub,
    None for those registered. Weights are read from safetensors files; where a checkpoint has only others, with
    weights_only. Unconditional models get a DDIM scheduler with the settings of their own.

    Raises ValueError for a name that is none of these, a pipeline class that is not supported, a size that it cannot
    draw, damaged files, or files that do not fit together; FileNotFoundError for missing ones.
    """
    entry = REGISTRY.get(str(name))
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
    own = bool(entry and entry.folder)
    parts = _read_parts(folder, components, remedy, dtype, variant, own)
    extra = {"requires_safety_checker": False} if "requires_safety_checker" in components else {}
    extra |= {"variant": variant} if variant and any(folder.glob(f"*/*.{variant}*")) else {}
    with checkpoints.explained(folder, remedy), checkpoints.silently():
        # imports the pipeline's module, which has reports of its own
        loader = getattr(diffusers, components["_class_name"]) if kind == "text-to-image" else DDPMPipeline
        pipe = loader.from_pretrained(folder, **parts, **extra, dtype=dtype, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)  # lsvd.sampling.trajectory shows one bar for both kinds
    for network in (part for part in pipe.components.values() if own and isinstance(part, torch.nn.Module)):
        network.to(memory_format=torch.channels_last)  # up to a fifth faster on a CPU
    label = str(name) if hub.is_id(str(name)) and not Path(name).expanduser().is_dir() else folder.name
    return from_pipeline(pipe.to(device), entry or _entry(label, kind, pipe, str(folder)), words, size)


def _find(name, entry, device, revision, variant) -> tuple[Path, str, str | None]:
    """The folder of a backbone, what to do if something is wrong with it, and the variant of its files."""
    if entry and entry.folder:
        return paths.WEIGHTS / entry.folder, checkpoints.restore(entry.folder), None
    folder = Path(name).expanduser()
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
    raise ValueError(f"a {pipeline}{where} is not supported: choose from {known}")


def _entry(name: str, kind: Kind, pipe: DiffusionPipeline, folder: str = "") -> Entry:
    """The defaults of a model that is not registered."""
    return Entry(
        name, kind, folder, guidance=FAMILIES[type(pipe).__name__].default if kind == "text-to-image" else None
    )


def from_pipeline(
    pipe: DiffusionPipeline,
    entry: Entry | None = None,
    words: Iterable[str] = (),
    size: int | tuple[int, int] | None = None,
) -> Backbone:
    """A backbone around a diffusers pipeline in memory; `words` are those it knows, none to check none.

    size: of its pictures in pixels, or (height, width); None for the model's own. Raises ValueError for a pipeline
    class that is not supported, or a size that it cannot draw.
    """
    name = type(pipe).__name__
    kind = _kind(name)
    entry = entry or _entry(name, kind, pipe)
    size = (size, size) if isinstance(size, int) else size
    if kind == "text-to-image":
        return TextToImage(pipe, entry, pipe.scheduler, words, size)
    return Unconditional(pipe, entry, DDIMScheduler.from_config(pipe.scheduler.config), words, size)


def _read_parts(
    folder: Path, components: Mapping[str, Any], remedy: str, dtype: torch.dtype, variant: str | None, own: bool
) -> dict[str, Any]:
    """The networks and the CLIP tokenizers of a pipeline, checked; of its other parts, only that they can be read.

    `own` are weights of this package, which hold exactly what is asked for; others may hold more.
    """
    libraries = {"diffusers": diffusers, "transformers": transformers}
    networks, tokenizers = {}, []
    for name, value in components.items():
        match value:
            case [("diffusers" | "transformers") as library, str(kind)]:
                found = getattr(libraries[library], kind, None)
                if isinstance(found, type) and issubclass(found, torch.nn.Module):
                    networks[name] = checkpoints.read_model(found, folder / name, remedy, dtype, variant, strict=own)
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
        raise ValueError(f"{file} cannot be read as UTF-8 text: {remedy}") from error
