"""Prompt edits by Attribute Vector Integration: what is drawn, where x and z are taken, and how the source goes on.

Wang et al. 2025 (arXiv 2502.02225, Figure 1).
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lsvd.avi.exact import AVIConfig, Solution, solve
from lsvd.avi.placement import Placement, Places, renoise
from lsvd.backbones.configs import described
from lsvd.backbones.models import Backbone
from lsvd.backbones.schedulers import remembers
from lsvd.checks import check_code, check_kind, check_seeds, known, out_of_memory, shown
from lsvd.guidance.edit import GuidedEdit, guide
from lsvd.guidance.settings import LowRank
from lsvd.sampling.memory import MAX_MEMORY, Limit
from lsvd.sampling.trajectory import Settings, Trajectory, branch, draw, resume

Method = AVIConfig | Callable[[Tensor, Tensor], Solution | Tensor]
"""How x and z become the edited code y: by the optimum of a configuration, or by a function of the two codes.

The function takes codes of shape (B, C, H, W) and returns a Solution, or y itself.
"""
NAMED: dict[str, LowRank | None] = {"avi": None, "low-rank": LowRank()}
"""Methods by name, with default settings."""


@dataclass(frozen=True, eq=False)
class Edit:
    """A prompt edit: the two trajectories it is made of, the codes integrated, and how the source went on.

    x was taken from `source` at timestep places.t, z from `target` at places.t_target; both trajectories end there,
    unless they were drawn whole. `edited` is the trajectory from places.t on, with the source prompts. Its first code
    is y. solution: what y is made of; None if the method made y alone. config: of the method, if it has one. Draw
    `backbone.decode(edit.edited.final)`.
    """

    source: Trajectory
    target: Trajectory
    edited: Trajectory
    places: Places
    solution: Solution | None = None
    config: AVIConfig | None = None

    @property
    def t(self) -> int | float:
        """The timestep of x and y."""
        return self.places.t

    @property
    def t_target(self) -> int | float:
        """The timestep of z."""
        return self.places.t_target


def edit_prompt(
    backbone: Backbone,
    source: str | Sequence[str] | Settings | Trajectory,
    target: str | Sequence[str] | Mapping[str, float],
    *,
    placement: Placement | None = None,
    method: Method | LowRank | str | None = None,
    whole: bool = False,
    max_memory: float = MAX_MEMORY,
    progress: bool = False,
    **request: Any,
) -> Edit | GuidedEdit:
    """Edit the pictures of the source prompt towards the target prompt, from the same noise (the paper's Figure 1).

    Only what the edit needs is drawn: the source to x, the target to z, then the source from y on.

    source: prompts, to be drawn with `request`: seeds, steps, guidance, negative_prompt and all else that `Settings.of`
    takes. Or such Settings. Or a whole trajectory, from `run` or from lsvd.sampling.inversion.invert, whose settings
    then hold for the target as well. placement: where x and z are taken. method: how they are integrated. None takes
    the backbone's entry for either. whole: draw source and target to their ends as well, to see their pictures.
    max_memory: as for `lsvd.sampling.trajectory.run`, for all three trajectories together.

    method="low-rank", or a lsvd.guidance.LowRank with settings, edits by low-rank guidance instead. It has no x and z,
    and returns a GuidedEdit. Several targets at once are a mapping from prompts to strengths.

    Raises ValueError for bad arguments, a z off the schedule or from before the branch, or equal prompts. Warns of a
    trajectory without guidance, in which the target prompt has little effect.
    """
    if backbone.kind != "text-to-image":
        raise ValueError(f"{backbone.name} takes no prompts: edit with a text-to-image backbone")
    if isinstance(method, str):
        method = NAMED[known(method, NAMED, "method")]
    check_kind(placement, (Placement, type(None)), "placement=Placement(tx=..., dtau=..., branch=...)")
    if not isinstance(method, LowRank | AVIConfig | None) and not callable(method):
        raise ValueError(f"{shown(method)} is not a method: give one of {', '.join(NAMED)}, or an AVIConfig")
    settings, walk = _request(backbone, source, request)
    if isinstance(method, LowRank):
        if placement is not None:
            raise ValueError("low-rank guidance has a window instead of a placement: give LowRank(start=..., end=...)")
        return guide(backbone, walk or settings, target, method, whole=whole, max_memory=max_memory, progress=progress)
    if isinstance(target, Mapping):
        raise ValueError("several targets with strengths are for method='low-rank': give one prompt, or one per seed")
    if settings.prompts == settings.with_prompts(backbone, target).prompts:
        raise ValueError("source and target prompt are the same, so there is nothing to edit: change one")
    schedule = backbone.schedule(settings.steps)
    if walk is not None and walk.timesteps[0] != schedule.timesteps[0]:
        raise ValueError("only a part of the source trajectory is there: edit the whole one")
    places = (placement or Placement()).filled(backbone.entry).on(schedule)
    ends = (None, None) if whole else (places.t, None if places.same_level else places.t_target)
    lengths = [schedule.end(0, until) + 1 for until in ends] + [len(schedule) + 1 - schedule.step_of(places.t)]
    Limit.of(backbone, max_memory).check(len(settings.seeds), sum(lengths))  # before anything is drawn
    shared = {"max_memory": max_memory, "progress": progress}
    x_walk, z_walk = draw_pair(backbone, walk or settings, target, places, ends, **shared)
    return edit_between(backbone, x_walk, z_walk, places, method, **shared)


def edit_between(
    backbone: Backbone,
    source: Trajectory,
    target: Trajectory,
    places: Places,
    method: Method | None = None,
    *,
    max_memory: float = MAX_MEMORY,
    progress: bool = False,
) -> Edit:
    """The edit that takes x and z from two trajectories: every edit, of users, studies and benchmarks, is made here.

    method: that of the backbone's entry if None. Raises ValueError for timesteps that the trajectories do not reach,
    and as the method and lsvd.sampling.trajectory.resume.
    """
    method = default_config(backbone) if method is None else method
    x, z = codes_between(backbone, source, target, places)
    # copies, which a method may change
    result = solve(x, z, method) if isinstance(method, AVIConfig) else method(x.clone(), z.clone())
    config = method if isinstance(method, AVIConfig) else getattr(method, "config", None)
    solution = result if isinstance(result, Solution) else None
    y = result if solution is None else solution.y
    check_code(y, "the method's result")
    edited = resume(backbone, source, places.t, y, max_memory=max_memory, progress=progress)
    return Edit(source, target, edited, places, solution, config)


def codes_between(backbone: Backbone, source: Trajectory, target: Trajectory, places: Places) -> tuple[Tensor, Tensor]:
    """The codes x and z that an edit takes from two trajectories, (B, C, H, W) each. Raises ValueError as `renoise`."""
    x, z = source.at(places.t), target.at(places.t_target)
    if places.same_level:
        z = renoise(backbone.scheduler, z, target.final, places.t_target, places.t)
    return x, z


def default_config(backbone: Backbone) -> AVIConfig:
    """How the backbone's entry integrates codes."""
    entry = backbone.entry
    return AVIConfig(entry.k if entry.basis == "both" else None, entry.k, entry.keep_rest, basis=entry.basis)


def _request(
    backbone: Backbone, source: str | Sequence[str] | Settings | Trajectory, request: dict[str, Any]
) -> tuple[Settings, Trajectory | None]:
    """The request for the source's pictures, and their trajectory if it is there already."""
    if not isinstance(source, Settings | Trajectory):
        return Settings.of(backbone, source, **request), None
    if request.get("seeds") is not None:
        request = request | {"seeds": check_seeds(request["seeds"])}
    walk = source if isinstance(source, Trajectory) else None
    settings = source if walk is None else walk.settings
    calls = {name: value for name, value in request.items() if name not in vars(settings)}
    request = request | dict(backbone.check_call(calls, len(settings.seeds)))
    for name, value in request.items():
        had = getattr(settings, name, dict(settings.call_kwargs).get(name))
        if value is not None and described(value) != described(had):
            what = "trajectory" if walk is not None else "request"
            raise ValueError(
                f"the {what} has its own {name}, {_short(had)}, not {_short(value)}: leave {name} out, or draw it with "
                "that"
            )
    if walk is not None and settings.guidance == backbone.family.off != backbone.entry.guidance:
        warnings.warn(
            "the trajectory was made without guidance, so the target prompt has little effect: invert or draw it with "
            "guidance, such as 3",
            UserWarning,
            stacklevel=3,
        )
    return settings, walk


def _short(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else str(value)


def draw_pair(
    backbone: Backbone,
    source: Settings | Trajectory,
    target: str | Sequence[str],
    places: Places,
    ends: tuple[float | None, float | None],
    *,
    together: bool | None = None,
    max_memory: float = MAX_MEMORY,
    progress: bool = False,
) -> tuple[Trajectory, Trajectory]:
    """Source and target trajectory, each down to its end of `ends`, None for x_0; target: its prompts.

    together: both as one batch, which takes more memory and rounds otherwise; None for one batch wherever memory allows
    it but on the CPU, which is no faster for it.
    """
    walk = source if isinstance(source, Trajectory) else None
    settings = source if walk is None else walk.settings
    # a branch lets a solver begin again, for the batch as a whole: not for a source that goes on as it was
    apart = places.t_branch is not None and remembers(backbone.prepared(settings.steps))
    shared = {"max_memory": max_memory, "progress": progress}
    if walk is None and not apart and (together or (together is None and _gains(backbone.device))):
        try:
            return _together(backbone, settings, target, places.t_branch, ends, **shared)
        except RuntimeError as error:
            if together or not out_of_memory(error):
                raise
    until, until_target = ends
    walk = walk or draw(backbone, settings, until=until, **shared)
    if places.t_branch is not None:
        return walk, branch(backbone, walk, places.t_branch, target, until=until_target, **shared)
    target_settings = settings.with_prompts(backbone, target)
    return walk, draw(backbone, target_settings, codes=walk.codes[0], until=until_target, **shared)


def _gains(device: torch.device) -> bool:
    """Whether one large batch is faster there than two small ones: not where one already takes all cores."""
    return device.type != "cpu"


def _together(
    backbone: Backbone,
    source: Settings,
    target: str | Sequence[str],
    t_branch: float | None,
    ends: tuple[float | None, float | None],
    **shared: Any,
) -> tuple[Trajectory, Trajectory]:
    """As `draw_pair`, in one batch of twice as many pictures, both down to the later of their ends."""
    n, until = len(source.seeds), None if None in ends else min(ends)
    twice = source.rows([*range(n), *range(n)])
    both = replace(twice, prompts=source.prompts + source.with_prompts(backbone, target).prompts)
    if t_branch is None:
        walk = draw(backbone, both, until=until, **shared)
    else:
        head = draw(backbone, source, until=t_branch, **shared)
        head = replace(head, settings=twice, codes=head.codes.repeat(1, 2, 1, 1, 1))
        walk = branch(backbone, head, t_branch, both.prompts, until=until, **shared)
    return walk.rows(slice(n)), walk.rows(slice(n, None))
