"""Trajectories of pictures that no sampler drew: a photograph, taken back to the noise that it would be drawn from.

diffusers' inverse schedulers go from x_0 to x_T with the prediction made at the code before, which is not where the
sampler makes it; the picture that is drawn from there is another. So each step is then solved for the code that the
sampler's own step leads from to where it should, by fixed-point iteration.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DPMSolverMultistepInverseScheduler,
    DPMSolverMultistepScheduler,
)
from torch import Tensor
from tqdm.auto import tqdm

from lsvd.backbones.models import Backbone
from lsvd.backbones.schedulers import remembers, starting_at
from lsvd.decomposition.svd import double
from lsvd.sampling.trajectory import Settings, Trajectory

MEMORY = 5  # how many codes before the last are mixed
INVERSES = {DDIMScheduler: DDIMInverseScheduler, DPMSolverMultistepScheduler: DPMSolverMultistepInverseScheduler}


@dataclass(frozen=True, eq=False)
class Inversion:
    """A trajectory that ends in given codes x_0, and how nearly each of its steps leads to the next code.

    trajectory: whole, from x_T to x_0; resume, branch and edit it as any other. residual: shape (n, B), of step i the
    distance ||step(x_i) - x_(i+1)|| / ||x_(i+1)||, NaN where it was not measured.
    """

    trajectory: Trajectory
    residual: Tensor


def invert(
    backbone: Backbone,
    codes: Tensor,
    prompts: str | Sequence[str] | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    *,
    negative_prompt: str | Sequence[str] | None = None,
    iterations: int = 20,
    tolerance: float = 1e-5,
    progress: bool = False,
    **call_kwargs: Any,
) -> Inversion:
    """The trajectory that the backbone's scheduler would draw `codes` by, x_0 of shape (B, C, H, W).

    Take codes from `backbone.encode(pictures)`. prompts: what the pictures show, one for all or one each; None for
    unconditional models. guidance: none if None (that is 1, in some families 0), since with it the steps may have no
    solution that iteration finds. First diffusers' inverse scheduler of the backbone's, where there is one (DDIM,
    DPM-Solver); then up to `iterations` evaluations of the model a step, until all residuals are below `tolerance`, of
    which the best is kept. Multistep samplers, such as DPM-Solver, are only inverted, not iterated: a step of theirs
    has no code of its own to solve for. Nor is there a code that leads back where a sampler clips what it predicts
    (`clip_sample`).

    Raises ValueError for codes of another shape or that are not finite, as `lsvd.sampling.trajectory.run` for the
    rest, and for fewer than no iterations.
    """
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 0:
        raise ValueError(f"cannot iterate {iterations} times: choose 0 for none, or more")
    final = backbone.check_codes(codes)
    if backbone.kind == "text-to-image" and guidance is None:
        guidance = backbone.family.off
    settings = Settings.of(
        backbone, prompts, range(len(final)), steps, guidance, negative_prompt=negative_prompt, **call_kwargs
    )
    schedule = backbone.schedule(settings.steps)
    memory = remembers(backbone.prepared(settings.steps))
    inverse = INVERSES.get(type(backbone.scheduler))
    count = len(schedule)
    walk = final.new_empty(count + 1, *final.shape)
    walk[-1] = final
    guess = _by_scheduler(backbone, inverse, settings, final) if inverse else None
    if guess is not None and len(guess) == count:
        walk[:-1] = guess.flip(0)
    elif memory:
        raise ValueError(f"{settings.scheduler} has no inverse in diffusers: invert with DDIMScheduler")
    else:
        guess = None
    residual = torch.full((count, len(final)), torch.nan, dtype=torch.float64)
    if iterations and not memory:
        for i in tqdm(range(count - 1, -1, -1), disable=not progress, desc="inverting", leave=False):
            start = walk[i + 1] if guess is None else walk[i]
            walk[i], residual[i] = _solve(backbone, settings, i, start, walk[i + 1], iterations, tolerance)
    return Inversion(Trajectory(settings, schedule, walk), residual)


def _by_scheduler(backbone: Backbone, inverse: type, settings: Settings, final: Tensor) -> Tensor:
    """The codes after each step of an inverse scheduler, (n, B, C, H, W), the cleanest first."""
    found = []

    def keep(step: int, t: Tensor, x: Tensor) -> Tensor:
        found.append(x.clone())
        return x

    scheduler = inverse.from_config(backbone.scheduler.config)
    _denoise(backbone, settings, starting_at(scheduler, 0), final, keep)
    return torch.stack(found)


def _solve(
    backbone: Backbone, settings: Settings, i: int, x: Tensor, wanted: Tensor, iterations: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """The code, from x on, that step i leads from to `wanted`, and its residual, (B,). Each picture keeps its best."""
    scale = _linear(backbone, settings, i)
    size = double(wanted).flatten(1).norm(dim=1).clamp_min(1e-12)
    best, least = x.clone(), torch.full_like(size, torch.inf)
    x, tried, moves = x.clone(), [], []
    for _ in range(iterations):
        going = (least >= tolerance).nonzero().flatten()  # the others cost no more evaluations
        if not len(going):
            break
        rows, here = going.tolist(), going.to(x.device)
        own = settings.rows(rows)
        missing = double(wanted[here]) - double(_step(backbone, own, i, x[here]))
        residual = missing.flatten(1).norm(dim=1) / size[going]
        better = residual < least[going]
        least[going[better]] = residual[better]
        nearer = here[better.to(here.device)]
        best[nearer] = x[nearer]
        tried, moves = [*tried[-MEMORY:], double(x)], [*moves[-MEMORY:], torch.zeros_like(double(x))]
        near = going.to(missing.device)  # of mps, the CPU
        moves[-1][near] = missing / scale
        x[here] = _mixed(torch.stack(tried)[:, near], torch.stack(moves)[:, near]).to(wanted)
    return best, least.cpu()


def _mixed(tried: Tensor, moves: Tensor) -> Tensor:
    """The next code to try, (B, C, H, W), after those `tried` and the `moves` from them, (m, B, C, H, W), oldest first.

    Anderson's mixing (Walker and Ni 2011, doi 10.1137/10078356X, their equation 2.2 for differences): the combination
    of the moves that comes nearest to none is taken off, so steps whose plain iteration diverges are solved too.
    """
    last = tried[-1] + moves[-1]
    if len(tried) == 1:
        return last
    change = moves.diff(dim=0).flatten(2).transpose(0, 1)  # (B, m - 1, C H W)
    gram, against = change @ change.mT, change @ moves[-1].flatten(1)[..., None]
    share = (torch.linalg.pinv(gram, rtol=1e-12, hermitian=True) @ against).mT
    both = tried.diff(dim=0).flatten(2).transpose(0, 1) + change
    return last - (share @ both).reshape(last.shape)


def _step(backbone: Backbone, settings: Settings, i: int, x: Tensor) -> Tensor:
    """The code after step i, from x at its start."""
    after = []

    def keep(step: int, t: Tensor, x: Tensor) -> Tensor:
        after.append(x.clone())
        return x

    _denoise(backbone, settings, starting_at(backbone.scheduler, i, i + 1), x, keep)
    return after[0]


def _denoise(backbone: Backbone, settings: Settings, scheduler, x: Tensor, keep) -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in settings.seeds]
    x = x.clone(memory_format=torch.contiguous_format)
    backbone.denoise(x, scheduler, settings, generators, keep)


def _linear(backbone: Backbone, settings: Settings, i: int) -> float:
    """What the scheduler multiplies the code by in step i, besides what it does with the model's prediction."""
    scheduler = copy.deepcopy(backbone.prepared(settings.steps))
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(i)
    t = scheduler.timesteps[i]
    x = torch.full((1, 1, 8, 8), 1e-3, device=scheduler.timesteps.device)
    if hasattr(scheduler, "scale_model_input"):
        scheduler.scale_model_input(x, t)
    return float(scheduler.step(torch.zeros_like(x), t, x).prev_sample.mean() / 1e-3)
