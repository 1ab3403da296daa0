"""Low-rank guidance in any diffusers pipeline of lsvd.backbones.families: LowRankPipeline(pipe, target)(prompt, ...).

For whoever draws with a diffusers pipeline and wants nothing else of this package. The pipeline's network is passed
wrapped, as a component, and a callback at the end of each step tells it where the window is: nothing is patched.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

from lsvd.backbones.families import denoiser, family_of, latent_shape, native_size
from lsvd.backbones.schedulers import Schedule
from lsvd.guidance.conditioning import conditioning, stopping, with_network
from lsvd.guidance.denoiser import GuidedNetwork
from lsvd.guidance.edit import reruns
from lsvd.guidance.settings import DEFAULT, LowRank


class LowRankPipeline:
    """A diffusers pipeline whose calls are edited towards target prompts, and return what the pipeline's own do.

    target: a prompt, or several with their strengths. The pipeline stays as it is, and shares its components.

    Raises ValueError for a pipeline that is not of lsvd.backbones.families.
    """

    def __init__(self, pipe: DiffusionPipeline, target: str | Mapping[str, float], settings: LowRank = DEFAULT):
        if family_of(type(pipe)) is None:
            raise ValueError(f"low-rank guidance does not know a {type(pipe).__name__}: see docs/real-models.md")
        self.pipe, self.settings = pipe, settings
        self.targets = settings.targets(target)

    def __call__(self, prompt: str | Sequence[str], *, callback_on_step_end: Any = None, **call: Any) -> Any:
        """Call the pipeline, with all that it takes itself.

        Raises ValueError for a call without guidance, a window or rank that does not fit, or targets that are the
        prompt.
        """
        pipe, family = self.pipe, family_of(type(self.pipe))
        prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt)
        count = len(prompts) * call.get("num_images_per_prompt", 1)
        height, width = native_size(pipe)
        shape = latent_shape(pipe, family, (call.get("height") or height, call.get("width") or width))

        def drawn(watched, prompts):
            aside = {"generator": torch.Generator().manual_seed(0), "output_type": "latent"}
            watched(prompt=list(prompts), **call | aside)  # a list of its own, since some pipelines change it

        targets, strengths = [(target,) * len(prompts) for target in self.targets], list(self.targets.values())
        watched = stopping(pipe.scheduler)
        told = conditioning(pipe, watched, drawn, prompts, targets, count)
        window = self.settings.window(Schedule.of(watched))
        network = GuidedNetwork(
            denoiser(pipe), told, strengths, self.settings, window, family.layout, shape, reruns(pipe)
        )
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            call["callback_on_step_end_tensor_inputs"] = callback_on_step_end.tensor_inputs

        def counted(pipe, step, t, tensors):
            network.place = step + 1
            return tensors if callback_on_step_end is None else callback_on_step_end(pipe, step, t, tensors)

        guided = with_network(pipe, network, copy.deepcopy(pipe.scheduler))
        return guided(prompt=list(prompts), callback_on_step_end=counted, **call)
