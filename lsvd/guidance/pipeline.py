"""Low-rank guidance in any diffusers pipeline of lsvd.backbones.families: LowRankPipeline(pipe, target)(prompt, ...).

For users of a diffusers pipeline who want nothing else of this package. The pipeline gets a wrapped network as a
component, and a callback at the end of each step tells it the place in the schedule. Nothing is patched.
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
    """A diffusers pipeline whose calls are edited towards target prompts; they return what the pipeline's calls return.

    target: a prompt, or several with their strengths. The pipeline is unchanged, and shares its components.

    Raises ValueError for a pipeline that is not in lsvd.backbones.families.
    """

    def __init__(self, pipe: DiffusionPipeline, target: str | Mapping[str, float], settings: LowRank = DEFAULT):
        if family_of(type(pipe)) is None:
            raise ValueError(f"low-rank guidance does not know a {type(pipe).__name__}: see docs/real-models.md")
        self.pipe, self.settings = pipe, settings
        self.targets = settings.targets(target)

    def __call__(self, prompt: str | Sequence[str], *, callback_on_step_end: Any = None, **call: Any) -> Any:
        """Call the pipeline, with any of its own arguments.

        Raises ValueError for a call without guidance, a window or rank that does not fit, or a target equal to the
        prompt.
        """
        pipe, family = self.pipe, family_of(type(self.pipe))
        prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt)
        count = len(prompts) * call.get("num_images_per_prompt", 1)
        height, width = native_size(pipe)
        shape = latent_shape(pipe, family, (call.get("height") or height, call.get("width") or width))

        def draw_with(watched_pipe, prompts):
            fixed = {"generator": torch.Generator().manual_seed(0), "output_type": "latent"}
            watched_pipe(prompt=list(prompts), **call | fixed)  # a list of its own, since some pipelines change it

        targets, strengths = [(target,) * len(prompts) for target in self.targets], list(self.targets.values())
        scheduler = stopping(pipe.scheduler)
        conditions = conditioning(pipe, scheduler, draw_with, prompts, targets, count)
        window = self.settings.window(Schedule.of(scheduler))
        network = GuidedNetwork(
            denoiser(pipe), conditions, strengths, self.settings, window, family.layout, shape, reruns(pipe)
        )
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            call["callback_on_step_end_tensor_inputs"] = callback_on_step_end.tensor_inputs

        def advance(pipe, step, t, tensors):
            network.place = step + 1
            return tensors if callback_on_step_end is None else callback_on_step_end(pipe, step, t, tensors)

        guided = with_network(pipe, network, copy.deepcopy(pipe.scheduler))
        return guided(prompt=list(prompts), callback_on_step_end=advance, **call)
