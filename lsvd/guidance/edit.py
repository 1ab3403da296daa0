"""Edits by low-rank guidance: the source drawn to the window, then on with the targets' leading triplets added."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from lsvd.backbones.families import denoiser
from lsvd.backbones.models import TextToImage
from lsvd.guidance.conditioning import conditioning, stopping, with_network
from lsvd.guidance.denoiser import GuidedNetwork
from lsvd.guidance.settings import DEFAULT, LowRank
from lsvd.sampling.memory import MAX_MEMORY, Limit
from lsvd.sampling.trajectory import Settings, Trajectory, draw, resume

Prompts = str | Sequence[str]


@dataclass(frozen=True, eq=False)
class GuidedEdit:
    """An edit by low-rank guidance.

    source: the trajectory of the source prompt, down to timestep t unless drawn whole. edited: the trajectory from t
    on, guided in the window and then like the source. Its settings are the source's, so resume it at t_end or below.
    targets: the target prompts, one for each picture, with the strength of each target. t, t_end: where the window
    begins, and the timestep of the first step after it, None if it lasts to the end. Draw
    `backbone.decode(edit.edited.final)`.
    """

    source: Trajectory
    edited: Trajectory
    targets: tuple[tuple[tuple[str, ...], float], ...]
    settings: LowRank
    t: int | float
    t_end: int | float | None


def guide(
    backbone: TextToImage,
    source: Settings | Trajectory,
    target: Prompts | Mapping[str, float],
    settings: LowRank = DEFAULT,
    *,
    whole: bool = False,
    max_memory: float = MAX_MEMORY,
    progress: bool = False,
) -> GuidedEdit:
    """Edit the pictures of a request, or of a whole trajectory, by low-rank guidance.

    target: prompts, one for all pictures or one each; or several targets at once, a mapping from prompt to strength,
    multiplied by that of the settings. whole: draw the source to its end as well. The steps before the window are drawn
    once, and a given trajectory is resumed at the window, with the solver's memory. max_memory: as for
    `lsvd.sampling.trajectory.run`, for both trajectories together.

    Raises ValueError for a request without guidance, a window or rank that does not fit, or a target equal to
    the source.
    """
    walk = source if isinstance(source, Trajectory) else None
    request = source if walk is None else walk.settings
    targets = settings.targets(target)
    prompts = [request.with_prompts(backbone, prompt).prompts for prompt in targets]
    if request.prompts in prompts:
        raise ValueError("source and target prompt are the same, so there is nothing to edit: change one")
    schedule = backbone.schedule(request.steps)
    if walk is not None and walk.timesteps[0] != schedule.timesteps[0]:
        raise ValueError("only a part of the source trajectory is there: edit the whole one")
    window = settings.window(schedule)
    limit, count, steps = Limit.of(backbone, max_memory), len(request.seeds), len(schedule)
    limit.check(count, (steps if whole or walk is not None else window.start) + 1 + steps + 1 - window.start)
    t = schedule.timesteps[window.start].item()
    shared = {"max_memory": max_memory, "progress": progress}
    walk = walk or draw(backbone, request, until=None if whole else t, **shared)
    chunk, edits = max(1, limit.chunk * 2 // 3), []  # three predictions instead of two
    for start in range(0, count, chunk):
        rows = slice(start, start + chunk)
        part, part_prompts = request.rows(rows), [prompt[rows] for prompt in prompts]
        network = _network(backbone, part, part_prompts, list(targets.values()), settings, window)
        edits.append(resume(backbone, walk.rows(rows), t, by=_Guided(backbone, network), **shared))
    edited = replace(edits[0], settings=request, codes=torch.cat([edit.codes for edit in edits], 1))
    end = schedule.timesteps[window.stop].item() if window.stop < len(schedule) else None
    return GuidedEdit(walk, edited, tuple(zip(prompts, targets.values(), strict=True)), settings, t, end)


def _network(
    backbone: TextToImage,
    request: Settings,
    targets: Sequence[tuple[str, ...]],
    strengths: Sequence[float],
    settings: LowRank,
    window: range,
) -> GuidedNetwork:
    """The backbone's network, guided for a request's pictures."""
    pipe, count = backbone.pipe, len(request.seeds)
    code = torch.zeros(count, *backbone.latent_shape, device=backbone.device, dtype=backbone.dtype)

    def draw_with(watched_pipe, prompts):
        watcher = TextToImage(watched_pipe, backbone.entry, watched_pipe.scheduler, backbone.words, backbone.size)
        generators = [torch.Generator() for _ in request.seeds]
        watcher._call(watched_pipe.scheduler, code, replace(request, prompts=prompts), generators, None)

    conditions = conditioning(pipe, stopping(backbone.scheduler), draw_with, request.prompts, targets, count)
    return GuidedNetwork(
        denoiser(pipe),
        conditions,
        strengths,
        settings,
        window,
        backbone.family.layout,
        backbone.latent_shape,
        reruns(pipe),
    )


def reruns(pipe) -> bool:
    """Whether a pipeline's attention depends on the place of pictures in a batch: perturbed-attention guidance."""
    return "PAG" in type(pipe).__name__


class _Guided(TextToImage):
    """The same backbone with a guided network, which learns of each step."""

    def __init__(self, backbone: TextToImage, network: GuidedNetwork):
        pipe = with_network(backbone.pipe, network, backbone.scheduler)
        super().__init__(pipe, backbone.entry, backbone.scheduler, backbone.words, backbone.size)
        self._follows, self._network, self._source = False, network, backbone

    def denoise(self, code, scheduler, request, generators, on_step) -> None:
        """See Backbone.denoise."""
        self._network.begin(scheduler.first)

        def advance(step, t, x):
            self._network.place = scheduler.first + step + 1
            return on_step(step, t, x)

        super().denoise(code, scheduler, request, generators, self._source.noticing(code, request, advance))
