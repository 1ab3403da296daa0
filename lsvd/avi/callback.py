"""Learned attributes as a callback of diffusers' own: pipe(prompt, callback_on_step_end=AddAttributes(attribute)).

For whoever draws with a diffusers pipeline and wants nothing else of this package. It works in every pipeline of
lsvd.backbones.families, and goes together with other callbacks in a `diffusers.callbacks.MultiPipelineCallbacks`.
"""

from collections.abc import Sequence
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.callbacks import PipelineCallback
from torch import Tensor

from lsvd.avi.attribute import Attribute, add, paired
from lsvd.backbones.families import FAMILIES, Family, pack, unpack
from lsvd.checks import check_seeds
from lsvd.sampling.trajectory import step_of


class AddAttributes(PipelineCallback):
    """Adds attributes to the latents, each at the timestep it was learned at.

    attributes: one or several. strengths: 0 for none of it, 1 as learned, beyond for more, one for all or one each.
    seeds: of the pictures of the call, which take what was learned on their seed; None for the mean of all that were
    learned on. The pipeline is to have the scheduler and the number of steps that the attributes were learned with.

    In the call of the pipeline, ValueError is raised for a scheduler of another class, latents of another shape, a
    number of pictures that is not that of the seeds, or an attribute of a timestep that is not on the schedule, or the
    first there, at whose start no callback is called.
    """

    tensor_inputs = ["latents"]

    def __init__(
        self,
        attributes: Attribute | Sequence[Attribute],
        strengths: float | Sequence[float] = 1.0,
        seeds: int | Sequence[int] | None = None,
    ):
        super().__init__()
        self.attributes, self.strengths = paired(attributes, strengths)
        self.seeds = None if seeds is None else check_seeds(seeds)

    def callback_fn(
        self, pipeline: DiffusionPipeline, step_index: int, timesteps: Any, callback_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """Called by the pipeline at the end of each step; puts in the latents that the next one starts from."""
        schedule = pipeline.scheduler.timesteps.cpu()
        places = [self._place(pipeline, attribute, schedule) for attribute in self.attributes]
        here = [
            (attribute, strength)
            for attribute, strength, place in zip(self.attributes, self.strengths, places, strict=True)
            if strength and place == step_index + 1
        ]
        if here:
            latents = callback_kwargs["latents"]
            layout = FAMILIES.get(type(pipeline).__name__, Family()).layout
            x = unpack(latents, layout, here[0][0].latent_shape)
            shift = sum(strength * self._delta(attribute, x) for attribute, strength in here)
            callback_kwargs["latents"] = pack(add(x, shift), layout).to(latents.dtype)
        return callback_kwargs

    def _place(self, pipeline: DiffusionPipeline, attribute: Attribute, schedule: Tensor) -> int:
        """The step of the schedule that an attribute is added at the start of."""
        made, here = attribute.settings.scheduler, type(pipeline.scheduler).__name__
        if made != here:
            raise ValueError(
                f"the attribute {attribute.name} was learned with {made}: give the pipeline one, not {here}"
            )
        place = step_of(schedule, attribute.t)
        if not place:
            raise ValueError(f"the attribute {attribute.name} is of the first timestep, where no callback is called")
        return place

    def _delta(self, attribute: Attribute, x: Tensor) -> Tensor:
        attribute.check_shape(x)
        if self.seeds is None:
            return attribute.mean
        if len(self.seeds) != len(x):
            raise ValueError(f"{len(self.seeds)} seeds for {len(x)} pictures: give one each")
        return attribute.delta(self.seeds)
