"""Editors of diffusers, as they ship: SDEdit, LEDITS++ and SEGA.

Each has its own pipeline, which shares the backbone's parts. LEDITS++ exchanges the network's attention processors and
changes its scheduler's configuration, so it gets copies of both.
"""

import copy
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    LEditsPPPipelineStableDiffusion,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from torch import Tensor

from lsvd.backbones.configs import given
from lsvd.backbones.models import TextToImage
from lsvd.checks import mix
from lsvd.studies.editors.editor import Editor, Job


@dataclass(frozen=True)
class Shipped(Editor):
    """An editor that diffusers has for Stable Diffusion."""

    def fits(self, backbone: TextToImage) -> bool:
        """See Editor."""
        return type(backbone.pipe) is StableDiffusionPipeline


@dataclass(frozen=True)
class SDEdit(Shipped):
    """SDEdit (Meng et al. 2022, arXiv 2108.01073): the picture noised to a strength, and denoised with the target."""

    method: ClassVar[str] = "SDEdit"
    strength: float = 0.6

    def edit(self, job: Job) -> Tensor:
        """See Editor."""
        settings = job.source.settings
        output = _pipeline(StableDiffusionImg2ImgPipeline, job.backbone)(
            prompt=[job.target] * job.count,
            image=job.pictures,
            strength=self.strength,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            generator=[torch.Generator().manual_seed(mix(seed, 1)) for seed in settings.seeds],
            output_type="pt",
        )
        return output.images.float()


@dataclass(frozen=True)
class LEditsPP(Shipped):
    """LEDITS++ (Brack et al. 2024, arXiv 2311.16711): the picture inverted, and the largest entries guided.

    Without its masks of attention, which mix the pictures of a batch under transformers 5. Its editing prompt is the
    whole target prompt, its source prompt empty, as in its defaults.
    """

    method: ClassVar[str] = "LEDITS++"
    scale: float = 6.0
    threshold: float = 0.95
    skip: float = 0.4

    def fits(self, backbone: TextToImage) -> bool:
        """See Editor. The sides of its pictures are multiples of 32 pixels."""
        return super().fits(backbone) and not any(side % 32 for side in backbone.size)

    def edit(self, job: Job) -> Tensor:
        """See Editor."""
        config = given(job.backbone.scheduler.config)
        scheduler = DPMSolverMultistepScheduler.from_config(config, algorithm_type="sde-dpmsolver++", solver_order=2)
        pipe = _pipeline(
            LEditsPPPipelineStableDiffusion, job.backbone, scheduler, copy.deepcopy(job.backbone.pipe.unet)
        )
        generator = torch.Generator().manual_seed(mix(*job.source.settings.seeds, 2))
        pipe.invert(
            image=job.pictures, num_inversion_steps=job.source.settings.steps, skip=self.skip, generator=generator
        )
        output = pipe(
            editing_prompt=[job.target],
            edit_guidance_scale=self.scale,
            edit_threshold=self.threshold,
            use_cross_attn_mask=False,
            use_intersect_mask=False,
            generator=generator,
            output_type="np",
        )
        return _pictures(output.images, job)


@dataclass(frozen=True)
class SEGA(Shipped):
    """SEGA (Brack et al. 2023, arXiv 2301.12247): the source drawn again, the largest entries guided after warm-up."""

    method: ClassVar[str] = "SEGA"
    scale: float = 5.0
    threshold: float = 0.9
    warmup: int = 8

    def edit(self, job: Job) -> Tensor:
        """See Editor."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # diffusers keeps it as deprecated
            from diffusers import SemanticStableDiffusionPipeline

            pipe = _pipeline(SemanticStableDiffusionPipeline, job.backbone, copy.deepcopy(job.backbone.scheduler))
        settings = job.source.settings
        output = pipe(
            prompt=[job.prompt] * job.count,
            latents=job.source.codes[0].clone(),
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            editing_prompt=[job.target],
            edit_guidance_scale=self.scale,
            edit_threshold=self.threshold,
            edit_warmup_steps=self.warmup,
            output_type="np",
        )
        return _pictures(output.images, job)


def _pipeline(kind: type, backbone: TextToImage, scheduler: Any = None, network: Any = None) -> Any:
    """A pipeline of a class with the backbone's parts, some replaced; it shows no bars."""
    pipe = backbone.pipe
    parts = {name: getattr(pipe, name) for name in ("vae", "text_encoder", "tokenizer", "unet")}
    parts |= {"scheduler": scheduler or copy.deepcopy(backbone.scheduler)}
    parts |= {"unet": network} if network is not None else {}
    result = kind(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    result.set_progress_bar_config(disable=True)
    return result


def _pictures(images: np.ndarray, job: Job) -> Tensor:
    """The pictures of a pipeline, (n, H, W, 3), as (n, 3, H, W) on the device of the job's."""
    return torch.from_numpy(np.asarray(images)).permute(0, 3, 1, 2).float().to(job.pictures.device).clamp(0, 1)
