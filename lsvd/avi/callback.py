"""Learned attributes as a callback of diffusers' own: pipe(prompt, callback_on_step_end=AddAttributes(attribute)).

For whoever draws with a diffusers pipeline and wants nothing else of this package. It works in every pipeline of
lsvd.backbones.families, and goes together with other callbacks in a `diffusers.callbacks.MultiPipelineCallbacks`.
"""

from collections.abc import Sequence
from typing import Any

from diffusers import DiffusionPipeline, LMSDiscreteScheduler, PNDMScheduler, SchedulerMixin
from diffusers.callbacks import PipelineCallback
from torch import Tensor

from lsvd.avi.attribute import Attribute, add, paired, same_but_rounded
from lsvd.backbones.families import FAMILIES, Family, denoiser, pack, unpack
from lsvd.backbones.schedulers import Schedule, forget
from lsvd.checks import check_seeds
from lsvd.guidance.conditioning import Network, with_network
from lsvd.sampling.trajectory import scheduler_differs


class AddAttributes(PipelineCallback):
    """Adds attributes to the latents, each at the timestep it was learned at.

    attributes: one or several. strengths: 0 for none of it, 1 as learned, beyond for more, one for all or one each.
    seeds: of the pictures of the call, which take what was learned on their seed; None for the mean of all that were
    learned on. The pipeline is to have the scheduler and the number of steps that the attributes were learned with. It
    may leave out the first steps, as image-to-image does: places go by timesteps, not by the numbers of steps.

    In the call of the pipeline, ValueError is raised for other weights, another scheduler, one that cannot begin again
    without a memory of earlier steps (PNDM, LMS), latents of another shape, a number of pictures that is not that of
    the seeds, or an attribute of a timestep that is not on the schedule, is left out, or is the first there, at whose
    start no callback is called.
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
        schedule = Schedule.of(pipeline.scheduler)
        done = _place(pipeline.scheduler, schedule, timesteps, step_index)
        if step_index == 0:  # not at each step: it takes a look at all weights
            self._check_model(pipeline)
        pairs = [(a, s) for a, s in zip(self.attributes, self.strengths, strict=True) if s]
        places = [self._check(pipeline, attribute, schedule) for attribute, _ in pairs]
        early = [attribute for (attribute, _), place in zip(pairs, places, strict=True) if place <= done]
        if early and step_index == 0:
            raise ValueError(
                f"the attribute {early[0].name} is of timestep {early[0].t:g}, and this call starts there or later, "
                "where no callback is called: start at a noisier timestep"
            )
        here = [pair for pair, place in zip(pairs, places, strict=True) if place == done + 1]
        if here:
            latents = callback_kwargs["latents"]
            layout = FAMILIES.get(type(pipeline).__name__, Family()).layout
            x = unpack(latents, layout, here[0][0].latent_shape)
            shift = sum(strength * self._delta(attribute, x) for attribute, strength in here)
            callback_kwargs["latents"] = pack(add(x, shift), layout).to(latents.dtype)
            forget(pipeline.scheduler)
        return callback_kwargs

    def _check_model(self, pipeline: DiffusionPipeline) -> None:
        """Raise ValueError if the pipeline's denoiser is not the one that an attribute was learned with.

        Attributes that were made without a backbone, and those of older files, do not tell, and are taken.
        """
        network = denoiser(pipeline)
        if isinstance(network, Network):  # low-rank guidance stands for it
            pipeline = with_network(pipeline, network.network, pipeline.scheduler)
        network = next(name for name, part in pipeline.components.items() if part is denoiser(pipeline))
        for attribute in self.attributes:
            if attribute.models and not same_but_rounded(pipeline, attribute, (network,)):
                raise ValueError(
                    f"the attribute {attribute.name} was learned with other weights: give the pipeline those of "
                    f"{attribute.settings.backbone}, or learn it again"
                )

    def _check(self, pipeline: DiffusionPipeline, attribute: Attribute, schedule: Schedule) -> int:
        """The step of the schedule that an attribute is added at the start of."""
        problem = scheduler_differs(pipeline.scheduler, attribute.settings, shared=True)
        if problem:
            raise ValueError(f"the attribute {attribute.name} was learned with {problem}: give the pipeline the same")
        if isinstance(pipeline.scheduler, PNDMScheduler | LMSDiscreteScheduler):
            raise ValueError(
                f"{schedule.name} cannot begin again in the middle of a pipeline's call: learn with DDIMScheduler and "
                "give the pipeline that, or draw with lsvd.avi.attribute.apply"
            )
        return schedule.step_of(attribute.t)

    def _delta(self, attribute: Attribute, x: Tensor) -> Tensor:
        attribute.check_shape(x)
        if self.seeds is None:
            return attribute.mean
        if len(self.seeds) != len(x):
            raise ValueError(f"{len(self.seeds)} seeds for {len(x)} pictures: give one each")
        return attribute.delta(self.seeds)


def _place(scheduler: SchedulerMixin, schedule: Schedule, t: Any, step_index: int) -> int:
    """The step of the schedule that a pipeline has just done, which it says began at timestep t.

    Most schedulers count their steps. For the others the timestep says it: whatever steps the pipeline left out, it
    takes the rest in order, and a timestep may be listed twice.
    """
    if getattr(scheduler, "step_index", None) is not None:
        return scheduler.step_index - 1
    hits = (schedule.timesteps == float(t)).nonzero().flatten().tolist()
    if not hits:
        raise ValueError(
            f"timestep {float(t):g} is not on the schedule {schedule}: give the pipeline its own scheduler"
        )
    return next((i for i in hits if (i - step_index) % 2 == 0), hits[0]) if len(hits) > 1 else hits[0]
