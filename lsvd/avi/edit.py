"""Prompt edits by Attribute Vector Integration: what is drawn, where x and z are taken, and how the source goes on.

Wang et al. 2025 (arXiv 2502.02225, Figure 1).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lsvd.avi.exact import AVIConfig, Solution, solve
from lsvd.avi.placement import renoise
from lsvd.backbones.models import Backbone
from lsvd.checks import check_seeds, out_of_memory
from lsvd.sampling import trajectory
from lsvd.sampling.trajectory import Settings, Trajectory, draw, nearest, resume, step_of


@dataclass(frozen=True, eq=False)
class Edit:
    """A prompt edit: the two trajectories it is made of, the codes integrated, and how the source went on.

    x was taken from `source` at timestep `t`, z from `target` at timestep `t_target`, brought to x's noise level if
    `same_level`; both trajectories end there, unless they were drawn whole. `edited` is the trajectory from t on, with
    the source prompts. `target` has the target prompts from timestep `t_branch` on, and is the source before; None if
    it has them throughout. Draw `backbone.decode(edit.edited.final)`.
    """

    source: Trajectory
    target: Trajectory
    edited: Trajectory
    t: int | float
    t_target: int | float
    solution: Solution
    config: AVIConfig
    same_level: bool = False
    t_branch: int | float | None = None


def edit_prompt(
    backbone: Backbone,
    source: str | Sequence[str] | Trajectory,
    target: str | Sequence[str],
    seeds: int | Sequence[int] = 0,
    *,
    tx: float | None = None,
    dtau: int | None = None,
    branch: float | None = None,
    config: AVIConfig | None = None,
    same_level: bool = False,
    solver: Callable[[Tensor, Tensor, AVIConfig], Solution] = solve,
    steps: int | None = None,
    guidance: float | None = None,
    eta: float = 0.0,
    whole: bool = False,
    together: bool | None = None,
    progress: bool = False,
) -> Edit:
    """Edit the pictures of the source prompt towards the target prompt, from the same noise (the paper's Figure 1).

    Drawn is what the edit takes: the source down to x, the target down to z, and the source's rest from y on.

    source: prompts, to be drawn with `seeds`, `steps`, `guidance` and `eta`; or a whole trajectory, drawn before or
    found by lsvd.sampling.inversion.invert, whose own settings hold then, for the target as well.
    tx: where x is taken, as a fraction of T (rounded to the schedule). dtau: where z is taken, in steps from there;
    positive is noisier (larger t), negative cleaner. branch: the fraction of T from which on z's trajectory has the
    target prompt; before, it has the source's, so that both pictures share what is settled by then, such as pose and
    layout. This is ours: in the paper z has the target prompt from the noise on, which is branch = 1. The paper's
    summary leaves tx and dtau open; None takes the backbone's entry, for branch and config as well.
    same_level: bring z to x's noise level first (see `renoise`). solver: makes the solution of x, z and the config,
    such as `lambda x, z, config: lsvd.avi.network.fit(x, z, config).solution`. steps, guidance, eta: as for
    `lsvd.sampling.trajectory.run`. whole: draw source and target to their ends as well, to see their pictures.
    together: source and target as one batch, which takes more memory and rounds otherwise; None for one
    batch wherever memory allows it but on the CPU, which is no faster for it.

    Raises ValueError for bad arguments, a z off the schedule or from before the branch, or prompts that are all the
    same.
    """
    if backbone.kind != "text-to-image":
        raise ValueError(f"{backbone.name} takes no prompts: edit with a text-to-image backbone")
    entry = backbone.entry
    k_x = entry.k if entry.basis == "both" else None
    config = config or AVIConfig(k_x, entry.k, entry.keep_rest, basis=entry.basis)
    walk = source if isinstance(source, Trajectory) else None
    if walk is not None:
        made = walk.settings
        source, seeds, steps, guidance, eta = made.prompts, made.seeds, made.steps, made.guidance, made.eta
    seeds = check_seeds(seeds)
    if _lines(source, len(seeds)) == _lines(target, len(seeds)):
        raise ValueError("source and target prompt are the same, so there is nothing to edit: change one")
    settings = Settings.of(backbone, source, seeds, steps, guidance, eta)
    timesteps, _ = backbone.schedule(settings.steps)
    if walk is not None and walk.timesteps[0] != timesteps[0]:
        raise ValueError("only a part of the source trajectory is there: edit the whole one")
    t = nearest(timesteps, backbone.T, entry.tx if tx is None else tx)
    dtau = entry.dtau if dtau is None else dtau
    place = step_of(timesteps, t) - dtau  # larger t comes first
    if not 0 <= place < len(timesteps):
        raise ValueError(f"dtau = {dtau} from timestep {t} leaves the schedule: choose another tx or dtau")
    t_target = timesteps[place].item()
    part = entry.branch if branch is None else branch
    t_branch = nearest(timesteps, backbone.T, part) if part != 1 else None
    if t_branch is not None and step_of(timesteps, t_branch) >= place:
        raise ValueError(
            f"at timestep {t_target} z has not left x yet, it does at {t_branch}: raise branch, or lower tx"
        )
    ends = (None, None) if whole else (t, None if same_level else t_target)
    x_walk, z_walk = _pair(backbone, settings, walk, target, t_branch, ends, together, progress)
    z = z_walk.at(t_target)
    if same_level:
        z = renoise(backbone.scheduler, z, z_walk.final, t_target, t)
    solution = solver(x_walk.at(t), z, config)
    edited = resume(backbone, x_walk, t, solution.y, progress=progress)
    return Edit(x_walk, z_walk, edited, t, t_target, solution, config, same_level, t_branch)


def _lines(prompts: str | Sequence[str], count: int) -> list[str]:
    return [prompts] * count if isinstance(prompts, str) else list(prompts)


def _pair(
    backbone: Backbone,
    source: Settings,
    walk: Trajectory | None,
    prompts: str | Sequence[str],
    t_branch: float | None,
    ends: tuple[float | None, float | None],
    together: bool | None,
    progress: bool,
) -> tuple[Trajectory, Trajectory]:
    """Source and target trajectory, each down to its end of `ends`, None for x_0; `walk` is the source if it is there
    already. As one batch where that is wanted and memory allows, else one after the other."""
    if walk is None and (together or (together is None and _gains(backbone.device))):
        try:
            return _together(backbone, source, prompts, t_branch, ends, progress)
        except RuntimeError as error:
            if together or not out_of_memory(error):
                raise
    until, until_target = ends
    walk = walk or draw(backbone, source, until=until, progress=progress)
    if t_branch is not None:
        return walk, trajectory.branch(backbone, walk, t_branch, prompts, until=until_target, progress=progress)
    target = _prompted(backbone, source, prompts)
    return walk, draw(backbone, target, codes=walk.codes[0], until=until_target, progress=progress)


def _gains(device: torch.device) -> bool:
    """Whether one large batch is faster there than two small ones: not where one already takes all cores."""
    return device.type != "cpu"


def _together(
    backbone: Backbone,
    source: Settings,
    prompts: str | Sequence[str],
    t_branch: float | None,
    ends: tuple[float | None, float | None],
    progress: bool,
) -> tuple[Trajectory, Trajectory]:
    """As `_pair`, in one batch of twice as many pictures, both down to the later of their ends."""
    n, until = len(source.seeds), None if None in ends else min(ends)
    target = _prompted(backbone, source, prompts)
    both = replace(source, prompts=source.prompts + target.prompts, seeds=source.seeds * 2)
    if t_branch is None:
        walk = draw(backbone, both, until=until, progress=progress)
    else:
        head = draw(backbone, source, until=t_branch, progress=progress)
        twice = replace(both, prompts=source.prompts * 2)
        head = replace(head, settings=twice, codes=head.codes.repeat(1, 2, 1, 1, 1))
        walk = trajectory.branch(backbone, head, t_branch, both.prompts, until=until, progress=progress)
    return walk.rows(slice(n)), walk.rows(slice(n, None))


def _prompted(backbone: Backbone, made: Settings, prompts: str | Sequence[str]) -> Settings:
    return Settings.of(backbone, prompts, made.seeds, made.steps, made.guidance, made.eta)
