"""What differs between diffusers' text-to-image pipelines, a line each: how their latents lie, and further arguments.

Everything else is the same for all of them: a pipeline is called with `latents`, and read and written at each step
through `callback_on_step_end`. Codes are (B, C, H, W) here, whatever a pipeline makes of them.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

Layout = Literal["grid", "tokens", "patches"]


@dataclass(frozen=True)
class Family:
    """How a pipeline class takes and gives its latents.

    layout, of codes (B, C, H, W) within the pipeline: `grid`, as they are; `tokens`, (B, HW, C), row by row; `patches`,
    (B, HW / 4, 4C), each token a 2 x 2 patch of each channel. given: the layout that `latents=` is taken in, where it
    is another. guidance: the name of the argument for it, None for pipelines without. default: what it is where nothing
    else is said. off: the guidance that is none, if there is one. call_kwargs: further arguments of every call, a text
    for each prompt. flow: whether the pipeline computes its schedule itself and hands it to the scheduler. whole:
    whether codes are float32 whatever the model's dtype. scale: how many of the pipeline's vae_scale_factor go into a
    side of a code's element.
    """

    layout: Layout = "grid"
    given: Layout | None = None
    guidance: str | None = "guidance_scale"
    default: float = 7.5
    off: float = 1.0
    call_kwargs: Mapping[str, Any] = field(default_factory=dict)
    flow: bool = False
    whole: bool = False
    scale: float = 1.0


# The names are those of diffusers' classes.
FAMILIES: dict[str, Family] = {
    "StableDiffusionPipeline": Family(),
    "StableDiffusionXLPipeline": Family(default=5.0),
    "LatentConsistencyModelPipeline": Family(default=8.5),
    "StableDiffusion3Pipeline": Family(default=7.0, flow=True),
    "FluxPipeline": Family("patches", default=3.5, flow=True),
    "Flux2Pipeline": Family("tokens", "grid", default=4.0, flow=True, scale=2.0),
    "Flux2KleinPipeline": Family("tokens", "grid", default=4.0, flow=True, scale=2.0),
    "ChromaPipeline": Family("patches", default=5.0, flow=True),
    "SanaPipeline": Family(default=4.5, call_kwargs={"use_resolution_binning": False}, flow=True, whole=True),
    "Lumina2Pipeline": Family(default=4.0, flow=True),
    "QwenImagePipeline": Family(
        "patches", guidance="true_cfg_scale", default=4.0, call_kwargs={"negative_prompt": " "}, flow=True
    ),
    "ZImagePipeline": Family(default=5.0, off=0.0, flow=True, whole=True),
    "CogView4Pipeline": Family(default=5.0, flow=True, whole=True),
    "StableDiffusionPAGPipeline": Family(),
    "StableDiffusionXLPAGPipeline": Family(default=5.0),
    "StableDiffusion3PAGPipeline": Family(default=7.0, flow=True),
    "SanaPAGPipeline": Family(default=4.5, call_kwargs={"use_resolution_binning": False}, flow=True, whole=True),
    "AuraFlowPipeline": Family(default=3.5),
    "HunyuanDiTPipeline": Family(default=5.0, call_kwargs={"use_resolution_binning": False}),
    "OvisImagePipeline": Family("patches", default=5.0, flow=True),
    "HiDreamImagePipeline": Family(default=5.0, flow=True),
    "CogView3PlusPipeline": Family(default=5.0),
    "LuminaPipeline": Family(default=4.0),
    "Krea2Pipeline": Family("patches", default=4.5, off=0.0, flow=True),
    "ErnieImagePipeline": Family(default=4.0, flow=True),
    "BriaPipeline": Family("patches", default=5.0, flow=True, scale=0.5),
    "BriaFiboPipeline": Family("tokens", default=5.0, flow=True),
    "BriaFibo2Pipeline": Family(default=5.0, flow=True, whole=True),
    "NucleusMoEImagePipeline": Family("patches", default=4.0, flow=True),
    "ZImageOmniPipeline": Family(default=5.0, off=0.0, flow=True, whole=True),
}


def family_of(pipeline: type) -> Family | None:
    """The family of a pipeline class, or of the first class that it inherits from; None if there is none."""
    return next((FAMILIES[kind.__name__] for kind in pipeline.__mro__ if kind.__name__ in FAMILIES), None)


def pack(codes: Tensor, layout: Layout) -> Tensor:
    """Codes, shape (B, C, H, W), in a pipeline's layout (see Family). H and W are even for `patches`."""
    match layout:
        case "tokens":
            return codes.flatten(2).mT.contiguous()
        case "patches":
            b, c, h, w = codes.shape
            parts = codes.reshape(b, c, h // 2, 2, w // 2, 2)
            return parts.permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)
    return codes


def unpack(latents: Tensor, layout: Layout, shape: tuple[int, int, int]) -> Tensor:
    """The inverse of `pack`, to codes of `shape` (C, H, W), contiguous."""
    c, h, w = shape
    match layout:
        case "tokens":
            return latents.mT.reshape(-1, c, h, w).contiguous()
        case "patches":
            parts = latents.reshape(-1, h // 2, w // 2, c, 2, 2)
            return parts.permute(0, 3, 1, 4, 2, 5).reshape(-1, c, h, w)
    return latents


def denoiser(pipe: DiffusionPipeline) -> torch.nn.Module:
    """The network that a pipeline denoises with. Raises ValueError if there is none."""
    found = (getattr(pipe, name, None) for name in ("unet", "transformer"))
    network = next((part for part in found if part is not None), None)
    if network is None:
        raise ValueError(f"this {type(pipe).__name__} has no unet and no transformer: give one that is whole")
    return network


def native_size(pipe: DiffusionPipeline) -> tuple[int, int]:
    """Height and width in pixels that a pipeline draws if it is not told."""
    parameter = inspect.signature(pipe.__call__).parameters.get("height")
    if parameter is not None and isinstance(parameter.default, int):  # the width is the same in all of diffusers
        return parameter.default, parameter.default
    size = getattr(pipe, "default_sample_size", None) or denoiser(pipe).config.get("sample_size")
    if size is None:
        return 1024, 1024  # what the pipelines of such models say in their arguments
    height, width = (size, size) if isinstance(size, int) else size
    return height * pipe.vae_scale_factor, width * pipe.vae_scale_factor


def latent_shape(pipe: DiffusionPipeline, family: Family, size: tuple[int, int]) -> tuple[int, int, int]:
    """The shape (C, H, W) of the codes of pictures of `size` (height, width) in pixels.

    Raises ValueError for a size that the pipeline's latents cannot have.
    """
    channels = denoiser(pipe).config.in_channels
    patches = family.layout == "patches"
    shrink = round(pipe.vae_scale_factor * family.scale)
    step = 2 * shrink if patches else shrink
    if any(side < step or side % step for side in size):
        raise ValueError(
            f"a {type(pipe).__name__} draws pictures of multiples of {step} pixels, not {size[0]}x{size[1]}"
        )
    return channels // 4 if patches else channels, size[0] // shrink, size[1] // shrink


def makes_films(vae: torch.nn.Module) -> bool:
    """Whether an autoencoder is made for films, and takes and gives (B, C, frames, H, W)."""
    return "temperal_downsample" in vae.config


def to_autoencoder(pipe: DiffusionPipeline, codes: Tensor) -> Tensor:
    """Codes, shape (B, C, H, W), as the autoencoder's decoder takes them, in its dtype."""
    vae = pipe.vae
    config, codes = vae.config, codes.to(vae.dtype)
    _check_scale(vae)
    if hasattr(vae, "bn"):  # Flux 2: normalised patches of 2 x 2
        patches = codes if _patched(pipe) else _fold(codes)
        mean, std = _batch_norm(vae, patches)
        return _unfold(patches * std + mean)
    if config.get("latents_mean") is not None:
        mean, std = _statistics(config, codes)
        scale = 1 if "z_dim" in config else config.scaling_factor
        codes = codes * std / scale + mean
    else:
        codes = codes / config.scaling_factor + (config.get("shift_factor") or 0)
    return codes.unsqueeze(2) if makes_films(vae) else codes


def from_autoencoder(pipe: DiffusionPipeline, means: Tensor) -> Tensor:
    """The inverse of `to_autoencoder`, for the means that the encoder gives."""
    vae = pipe.vae
    config = vae.config
    _check_scale(vae)
    if hasattr(vae, "bn"):
        patches = _fold(means)
        mean, std = _batch_norm(vae, patches)
        patches = (patches - mean) / std
        return patches if _patched(pipe) else _unfold(patches)
    means = means.squeeze(2) if makes_films(vae) else means
    if config.get("latents_mean") is not None:
        mean, std = _statistics(config, means)
        scale = 1 if "z_dim" in config else config.scaling_factor
        return (means - mean) * scale / std
    return (means - (config.get("shift_factor") or 0)) * config.scaling_factor


def _check_scale(vae: torch.nn.Module) -> None:
    """Raise ValueError if an autoencoder's configuration scales or shifts its latents by nothing, or by no number."""
    config = vae.config
    for name in ("scaling_factor", "latents_std", "shift_factor", "latents_mean"):
        value = getattr(config, name, None)
        optional = value is None and (name != "scaling_factor" or name not in config)
        entries = value if isinstance(value, list | tuple) and name.startswith("latents") else [value]
        good = all(isinstance(x, int | float) and abs(x) < float("inf") for x in entries)
        scales = name in ("scaling_factor", "latents_std")
        if not optional and (not good or not entries or (scales and not all(entries))):
            raise ValueError(f"the autoencoder's {name} is {value}: correct its config.json, or load another copy")


def _statistics(config: Mapping[str, Any], like: Tensor) -> tuple[Tensor, Tensor]:
    return tuple(torch.tensor(config[n]).to(like).reshape(1, -1, 1, 1) for n in ("latents_mean", "latents_std"))


def _patched(pipe: DiffusionPipeline) -> bool:
    """Whether the codes of a pipeline are patches of what its autoencoder takes, as channels."""
    return denoiser(pipe).config.in_channels != pipe.vae.config.latent_channels


def _batch_norm(vae: torch.nn.Module, like: Tensor) -> tuple[Tensor, Tensor]:
    mean = vae.bn.running_mean.reshape(1, -1, 1, 1).to(like)
    return mean, (vae.bn.running_var.reshape(1, -1, 1, 1) + vae.config.batch_norm_eps).sqrt().to(like)


def _fold(latents: Tensor) -> Tensor:
    """Patches of 2 x 2 as channels: (B, C, H, W) to (B, 4C, H / 2, W / 2)."""
    return torch.nn.functional.pixel_unshuffle(latents, 2)


def _unfold(patches: Tensor) -> Tensor:
    return torch.nn.functional.pixel_shuffle(patches, 2)
