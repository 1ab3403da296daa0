"""Trajectories of pictures that no sampler drew, such as a photograph: from the picture back to its noise.

diffusers' inverse schedulers go from x_0 to x_T with the prediction at the preceding code. The sampler predicts at
another code, so it draws another picture from that x_T. Each step is therefore solved, by fixed-point iteration, for
the code from which the sampler's own step leads to the right place. The steps of a solver that remembers earlier ones
cannot be solved alone: there all codes are solved for together. Every result is drawn again, and compared.
"""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, isfinite
from typing import Any

import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DPMSolverMultistepInverseScheduler,
    DPMSolverMultistepScheduler,
    PNDMScheduler,
    SchedulerMixin,
)
from torch import Tensor

from lsvd.backbones.devices import cpu_by_default
from lsvd.backbones.models import Backbone
from lsvd.backbones.schedulers import Schedule, accepts, passing_on, remembers, starting_at
from lsvd.checks import integer, shown
from lsvd.decomposition.svd import double
from lsvd.progress import bar
from lsvd.sampling.estimates import Levels
from lsvd.sampling.memory import MAX_MEMORY, Limit
from lsvd.sampling.trajectory import Settings, Trajectory, denoise

MEMORY = 5  # how many codes before the last are mixed
INNER = 6  # how often a code is tried in one sweep over all of them
EXTRA, PATIENCE = 3, 4
"""How many times its budget a solver with a memory may take where sweeps still help, seen over so many sweeps."""
FAR, LOUD = 0.05, 3.0
"""The distance, and the size of x_T as a multiple of noise's, above which `invert` warns."""


@dataclass(frozen=True, eq=False)
class Inversion:
    """A trajectory that ends in given codes x_0, and its accuracy.

    trajectory: whole, from x_T to x_0; resume, branch and edit it like any other. residual: shape (n, B), for step i
    the distance ||step(x_i) - x_(i+1)|| / ||x_(i+1)||, NaN where it was not measured. distance: shape (B,), of the
    codes that the sampler draws from x_T: ||drawn - x_0|| / ||x_0||; always measured, always finite.
    """

    trajectory: Trajectory
    residual: Tensor
    distance: Tensor


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
    max_memory: float = MAX_MEMORY,
    progress: bool = False,
    **call_kwargs: Any,
) -> Inversion:
    """The trajectory that the backbone's scheduler would draw `codes` by, x_0 of shape (B, C, H, W).

    Take codes from `backbone.encode(pictures)`. prompts: what the pictures show, one for all or one each; None for
    unconditional models. guidance: None for no guidance (1, in some families 0), since iteration may fail to solve
    guided steps. Edits of the trajectory take over its guidance, and without guidance a prompt has little effect on
    text-to-image models (3 is a good choice). max_memory: as for `lsvd.sampling.trajectory.run`; more pictures than fit
    are inverted in chunks.

    The start is diffusers' inverse of the backbone's scheduler, on the sampler's own noise levels, where there is one
    (DDIM, DPM-Solver), or else the sampler's own steps backwards. Then follow up to `iterations` evaluations of the
    model a step, until all residuals are below `tolerance`; the best codes are kept. A solver that remembers
    earlier steps takes up to three times as many where they still help.

    Warns (UserWarning) if the distance exceeds 0.05, or if x_T is more than 3 times as large as noise. Not every
    sampler can be inverted (one that clips its predictions cannot), nor every guidance.

    Raises ValueError for codes of another shape or that are not finite, for negative iterations, for samplers that add
    noise on the way (codes that lead back through another picture's noise are many times as large as noise), if NaN or
    infinity appears, and otherwise as `lsvd.sampling.trajectory.run`.
    """
    if integer(iterations) is None or iterations < 0:
        raise ValueError(f"cannot iterate {shown(iterations)} times: choose 0 for none, or more")
    final = backbone.check_codes(codes)
    if backbone.kind == "text-to-image" and guidance is None:
        guidance = backbone.family.off
    settings = Settings.of(
        backbone, prompts, range(len(final)), steps, guidance, negative_prompt=negative_prompt, **call_kwargs
    )
    if _adds_noise(backbone, settings):
        raise ValueError(
            f"{settings.scheduler} adds noise on the way, which cannot be told from a picture: invert by "
            f"backbone.with_scheduler({_deterministic(backbone)}) at eta 0"
        )
    schedule, limit = backbone.schedule(settings.steps), Limit.of(backbone, max_memory)
    limit.check(len(final), 2 * (len(schedule) + 1))
    method = _whole if remembers(backbone.prepared(settings.steps)) else _stepwise
    parts = [
        method(backbone, settings.rows(rows), schedule, final[rows], iterations, tolerance, progress)
        for rows in limit.chunks(len(final))
    ]
    walk, residual = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
    if not walk.isfinite().all():
        raise ValueError(f"inverting by {settings.scheduler} leads to NaN or infinity: {_remedy(backbone, settings)}")
    inverted = Trajectory(settings, schedule, walk)
    redrawn = denoise(backbone, settings, schedule, 0, len(schedule), walk[0], max_memory=max_memory).codes[-1]
    distance = _distance(redrawn, final).cpu()
    if not distance.isfinite().all():
        raise ValueError(f"{settings.scheduler} draws NaN from the inverted codes: {_remedy(backbone, settings)}")
    size = double(walk[0]).flatten(1).norm(dim=1).cpu() / (final[0].numel() ** 0.5 * schedule.sigma)
    count = int(((distance > FAR) | (size > LOUD)).sum())
    if count:
        warnings.warn(
            f"{count} of {len(final)} inverted pictures do not lead back: {settings.scheduler} ends off by up to "
            f"{distance.max():.2g} of their norm, from codes up to {size.max():.2g} times as large as noise: "
            f"{_remedy(backbone, settings)}",
            UserWarning,
            stacklevel=2,
        )
    return Inversion(inverted, residual, distance)


def _remedy(backbone: Backbone, settings: Settings) -> str:
    """The advice for an inversion that does not lead back."""
    config, alternative = backbone.scheduler.config, _deterministic(backbone)
    if any(config.get(name) for name in ("clip_sample", "thresholding")):
        return "give the scheduler clip_sample=False and thresholding=False"
    if accepts(backbone.pipe.__call__, "pag_scale") and dict(settings.call_kwargs).get("pag_scale", 1):
        return "leave out perturbed-attention guidance with pag_scale=0.0"
    if settings.guidance is not None and settings.guidance > backbone.family.off:
        return "lower the guidance, or raise iterations or steps"
    if settings.scheduler not in alternative:
        return f"raise iterations or steps, or invert by backbone.with_scheduler({alternative})"
    return "raise iterations or steps"


def _deterministic(backbone: Backbone) -> str:
    """The Python name of a scheduler for the backbone whose steps can be solved for."""
    flow = backbone.kind == "text-to-image" and backbone.family.flow
    return "FlowMatchEulerDiscreteScheduler" if flow else "DDIMScheduler"


def _stepwise(
    backbone: Backbone,
    settings: Settings,
    schedule: Schedule,
    final: Tensor,
    iterations: int,
    tolerance: float,
    progress: bool,
) -> tuple[Tensor, Tensor]:
    """Codes (n + 1, B, C, H, W) and residuals (n, B) of a solver whose steps stand alone: each is solved alone."""
    count = len(schedule)
    residual = torch.full((count, len(final)), torch.nan, dtype=torch.float64, device="cpu")
    inverse = _inverse(backbone, settings)
    if inverse is not None:
        walk = torch.cat([_inverted(backbone, settings, inverse, final).flip(0), final[None]])
    elif not iterations:
        return _backward(backbone, settings, schedule, final), residual
    else:
        walk = final.expand(count + 1, *final.shape).clone()
    if iterations:
        for i in bar(range(count - 1, -1, -1), progress=progress, desc="inverting"):
            start = walk[i + 1] if inverse is None else walk[i]
            walk[i], residual[i] = _solve(backbone, settings, i, start, walk[i + 1], iterations, tolerance)
    return walk, residual


def _whole(
    backbone: Backbone,
    settings: Settings,
    schedule: Schedule,
    final: Tensor,
    iterations: int,
    tolerance: float,
    progress: bool,
) -> tuple[Tensor, Tensor]:
    """The same for a solver that remembers earlier steps: x_T is solved for, and the rest is drawn from it.

    All codes are solved for together where the sampler is linear in the model's predictions, as most are. Elsewhere,
    with G an approximate inverse of the whole sampler D, x_T + G(x_0) - G(D(x_T)) is the next x_T, mixed as in
    `_solve`; each costs two evaluations of the model a step.
    """
    inverse = _inverse(backbone, settings)

    def back(codes: Tensor) -> Tensor:
        if inverse is not None:
            return _inverted(backbone, settings, inverse, codes)[-1]
        return _backward(backbone, settings, schedule, codes)[0]

    # second-order steps stand alone, apart from their middles
    skip = not iterations or not schedule.whole.all() and not isinstance(backbone.scheduler, PNDMScheduler)
    shares = None if skip else _shares(backbone, settings)
    best, least = None, torch.full((len(final),), torch.inf, dtype=torch.float64, device="cpu")

    def try_start(x: Tensor) -> Tensor | None:
        """The end of the trajectory from x; None if it is not finite. Each picture keeps its nearest trajectory."""
        nonlocal best, least
        walk = denoise(backbone, settings, schedule, 0, len(schedule), x).codes
        distance = _distance(walk[-1], final).cpu()
        nearer = (distance < least).to(walk.device)
        best = walk if best is None else torch.where(nearer[:, None, None, None], walk, best)
        least = torch.where(distance < least, distance, least)
        return walk[-1] if distance.isfinite().all() else None

    if shares is not None:
        x = _together(backbone, settings, shares, final, iterations, tolerance, progress)
        if x.isfinite().all():
            try_start(x)
    if shares is None or not (least < FAR).all():
        goal = x = back(final)
        starts, moves = [], []
        rounds = iterations // 2 if shares is None else 0
        for number in bar(range(rounds + 1), progress=progress, desc="inverting"):
            if not x.isfinite().all():
                break
            end = try_start(x)
            if number == rounds or end is None or (least < tolerance).all():
                break
            starts, moves = [*starts[-MEMORY:], double(x)], [*moves[-MEMORY:], double(goal) - double(back(end))]
            x = _mixed(torch.stack(starts), torch.stack(moves)).to(x)
    residual = torch.zeros(len(schedule), len(final), dtype=torch.float64, device="cpu")
    residual[-1] = least
    walk = x.expand(len(schedule) + 1, *x.shape) if best is None else best
    return torch.cat([walk[:-1], final[None]]), residual


@cpu_by_default()
def _shares(backbone: Backbone, settings: Settings) -> Tensor | None:
    """The shares of x_0 and of the predictions in each code of a trajectory, shape (n, n + 1), float64, x_0's first.

    With deterministic samplers x_i = a_i x_T + sum_j c_ij p_j, linear in the predictions p_j of the model at each
    x_j, whatever they remember, so x_T can be replaced by x_0. Of the predictions, velocities are taken (see
    `_velocities`): with those of the picture, the last step would not depend on x_T. The factors are read off one run
    on unit vectors, a batch of n + 1 numbers. None for samplers that are not linear, such as those that clip, and where
    x_0 depends on x_T hardly at all.
    """
    prepared = backbone.prepared(settings.steps)
    n = len(prepared.timesteps)
    random_unit = torch.randn(1, n + 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    units = torch.cat([torch.eye(n + 1, dtype=torch.float64), random_unit]).to(prepared.timesteps.device, torch.float32)
    try:
        codes = double(_of_predictions(backbone, settings, units, velocities=_velocities(prepared))).cpu()
    except (IndexError, RuntimeError, TypeError, ValueError):
        return None
    codes, check = codes[:, :-1], codes[:, -1]
    last = codes[-1]
    linear = torch.allclose(codes @ double(units[-1]).cpu(), check, rtol=1e-3, atol=1e-3 * float(check.abs().max()))
    if not codes.isfinite().all() or not linear or abs(last[0]) < 0.05:
        return None
    scale = codes[:-1, :1] / last[0]
    return torch.cat([scale, codes[:-1, 1:] - scale * last[1:]], dim=1)


def _velocities(prepared: SchedulerMixin) -> list[tuple[float, float]]:
    """The shares k of a code x = a x_0 + s e, and b of its velocity v, in what a model predicts of it: k x + b v.

    v = (a e - s x_0) / r with r^2 = a^2 + s^2 (Salimans and Ho 2022, arXiv 2202.00512, section 4), whose size is that
    of pictures at every level of noise. (0, 1), which is the prediction as it is, where the levels are not known.
    """
    kind, levels = prepared.config.get("prediction_type", "epsilon"), Levels.of(prepared)
    if levels is None or kind not in ("epsilon", "sample"):
        return [(0.0, 1.0)] * len(prepared.timesteps)
    a, s = levels.alpha[:-1], levels.sigma[:-1]
    square = a.square() + s.square()
    codes, others = (s, a) if kind == "epsilon" else (a, -s)
    if others.abs().min() < 1e-3:
        return [(0.0, 1.0)] * len(a)
    return list(zip((codes / square).tolist(), (others / square.sqrt()).tolist(), strict=True))


def _together(
    backbone: Backbone,
    settings: Settings,
    shares: Tensor,
    final: Tensor,
    iterations: int,
    tolerance: float,
    progress: bool,
) -> Tensor:
    """The x_T whose trajectory ends in `final`, by sweeps over all codes, the cleanest first.

    With the predictions of the other codes fixed, each code is solved for like a step that stands alone, to a tenth of
    its distance. In the first sweep the prediction of a code replaces those that the solver remembers; later sweeps
    take them from the sweep before. `_goes_on` says how many there are.
    """
    n, goal, velocities = len(shares), double(final), _velocities(backbone.prepared(settings.steps))
    codes, predictions = [goal] * n, [torch.zeros_like(goal)] * n
    evaluations, sweeps = 0, []  # of each sweep, the farthest move of a code
    with bar(total=iterations * n, progress=progress, desc="inverting") as shown:
        while _goes_on(sweeps, evaluations / (iterations * n), tolerance):
            farthest, first_sweep = 0.0, not sweeps
            for i in range(n - 1, -1, -1):
                others = [j for j in range(n) if j > i or (j < i and not first_sweep)]
                constant = shares[i, 0] * goal + sum(shares[i, 1 + j] * predictions[j] for j in others)
                share = shares[i, 1 : 2 + i].sum() if first_sweep else shares[i, 1 + i]
                x = constant + share * predictions[i + 1] if first_sweep and i < n - 1 else codes[i]
                attempts, moves = [], []
                for number in range(INNER):
                    (of_code, of_velocity), predicted = velocities[i], _predicted(backbone, settings, i, x.to(final))
                    predictions[i] = (double(predicted) - of_code * x) / of_velocity
                    move = constant + share * predictions[i] - x
                    distance = _distance(x + move, x).max().item()
                    if not isfinite(distance):
                        return (x + move).to(final)
                    if number == 0:
                        farthest, goal_distance = max(farthest, distance), max(tolerance, distance / 10)
                    attempts, moves = [*attempts, x], [*moves, move]
                    x = _mixed(torch.stack(attempts), torch.stack(moves))
                    if distance < goal_distance:
                        break
                evaluations += number + 1
                shown.update(number + 1)
                codes[i] = x
            sweeps.append(farthest)
    return codes[0].to(final)


def _goes_on(sweeps: list[float], spent: float, tolerance: float) -> bool:
    """Whether one more sweep is worth it, after `sweeps`, with that share of the budget spent.

    sweeps: the farthest move of a code in each. Up to EXTRA times the budget where codes still move so much that the
    picture would not lead back, if they move less than PATIENCE sweeps before.
    """
    if not sweeps:
        return True
    if sweeps[-1] <= tolerance or spent >= EXTRA:
        return False
    falls = min(sweeps[-PATIENCE:]) < min(sweeps[:-PATIENCE], default=inf)
    return spent < 1 or (sweeps[-1] > FAR / 10 and falls)


def _distance(codes: Tensor, goal: Tensor) -> Tensor:
    """||codes - wanted|| / ||wanted|| of each picture, shape (B,), in float64."""
    goal = double(goal).flatten(1)
    return (double(codes).flatten(1) - goal).norm(dim=1) / goal.norm(dim=1).clamp_min(1e-12)


class _DPMSolverInverse(DPMSolverMultistepInverseScheduler):
    """diffusers' inverse on the noise levels of a sampler; its own are those only if they are spaced by linspace."""

    sampler: DPMSolverMultistepScheduler

    def set_timesteps(self, num_inference_steps: int | None = None, device=None) -> None:
        """The sampler's levels, from the least of training up."""
        super().set_timesteps(num_inference_steps, device)
        levels, timesteps = self.sampler.sigmas[:-1].flip(0), self.sampler.timesteps.flip(0)
        least = ((1 - self.alphas_cumprod[0]) / self.alphas_cumprod[0]).sqrt().clamp_max(levels[0] / 2)
        self.sigmas = torch.cat([least[None].to(levels), levels])
        self.timesteps = torch.cat([torch.zeros_like(timesteps[:1]), timesteps[:-1]]).to(device)
        self.num_inference_steps = len(timesteps)


@cpu_by_default()
def _inverse(backbone: Backbone, settings: Settings) -> SchedulerMixin | None:
    """diffusers' inverse of the scheduler on its own noise levels; None if there is none."""
    forward, prepared = backbone.scheduler, backbone.prepared(settings.steps)
    if type(forward) is DDIMScheduler and forward.config.timestep_spacing != "linspace":
        return DDIMInverseScheduler.from_config(forward.config)
    if type(forward) is not DPMSolverMultistepScheduler or forward.config.get("use_flow_sigmas"):
        return None  # the inverse has the levels of flow matching the wrong way round
    inverse = _DPMSolverInverse.from_config(forward.config)
    inverse.sampler = prepared
    return inverse


def _inverted(backbone: Backbone, settings: Settings, inverse: SchedulerMixin, final: Tensor) -> Tensor:
    """The codes after each step of an inverse scheduler, (n, B, C, H, W), the cleanest first."""
    return torch.stack(_handed_on(backbone, settings, starting_at(inverse, 0), final))


def _handed_on(backbone: Backbone, settings: Settings, scheduler: SchedulerMixin, x: Tensor) -> list[Tensor]:
    """The output of each step of a scheduler from codes x, (B, C, H, W) each."""
    steps = []

    def keep(step: int, t: Tensor, after: Tensor) -> Tensor:
        steps.append(after.clone())
        return after

    generators = [torch.Generator().manual_seed(seed) for seed in settings.seeds]
    backbone.denoise(x.clone(memory_format=torch.contiguous_format), scheduler, settings, generators, keep)
    return steps


def _backward(backbone: Backbone, settings: Settings, schedule: Schedule, final: Tensor) -> Tensor:
    """The codes (n + 1, B, C, H, W) by the sampler's own steps, each taken from the code that it should lead to.

    The middle of a second-order step holds the code after it.
    """
    starts = schedule.whole.nonzero().flatten().tolist()
    walk = final.expand(len(schedule) + 1, *final.shape).clone()
    for first, end in reversed(list(pairwise([*starts, len(schedule)]))):
        x = walk[end]
        if not x.isfinite().all():
            walk[:end] = torch.nan
            break
        after = denoise(backbone, settings, schedule, first, end, x).codes[-1]
        walk[first:end] = (double(x) + (double(x) - double(after)) / _linear(backbone, settings, first, end)).to(x)
    return walk


def _solve(
    backbone: Backbone, settings: Settings, i: int, x: Tensor, goal: Tensor, iterations: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """The code, from x on, that step i leads from to `wanted`, and its residual, (B,). Each picture keeps its best."""
    scale = _linear(backbone, settings, i, i + 1)
    size = double(goal).flatten(1).norm(dim=1).clamp_min(1e-12)
    best, least = x.clone(), torch.full_like(size, torch.inf)
    active = torch.ones_like(size, dtype=torch.bool)
    x, attempts, moves = x.clone(), [], []
    for _ in range(iterations):
        # pictures that are solved, or not finite, cost no more evaluations
        active = active & (least >= tolerance) & x.flatten(1).isfinite().all(1).to(active.device)
        rows = active.nonzero().flatten()
        if not len(rows):
            break
        device_rows = rows.to(x.device)
        request = settings.rows(rows.tolist())
        gap = double(goal[device_rows]) - double(_step(backbone, request, i, x[device_rows]))
        residual = gap.flatten(1).norm(dim=1) / size[rows]
        active[rows[~residual.isfinite()]] = False
        improved = residual < least[rows]
        least[rows[improved]] = residual[improved]
        improved_rows = device_rows[improved.to(device_rows.device)]
        best[improved_rows] = x[improved_rows]
        attempts, moves = [*attempts[-MEMORY:], double(x)], [*moves[-MEMORY:], torch.zeros_like(double(x))]
        finite_rows = rows[residual.isfinite()].to(gap.device)  # of mps, the CPU
        moves[-1][finite_rows] = gap[residual.isfinite()] / scale
        mixed = _mixed(torch.stack(attempts)[:, finite_rows], torch.stack(moves)[:, finite_rows])
        x[finite_rows.to(x.device)] = mixed.to(goal)
    return best, least.cpu()


def _mixed(attempts: Tensor, moves: Tensor) -> Tensor:
    """The next code to try, (B, C, H, W), after those `tried` and the `moves` from them, (m, B, C, H, W), oldest first.

    Anderson's mixing (Walker and Ni 2011, doi 10.1137/10078356X, their equation 2.2 for differences): the combination
    of moves nearest to 0 is subtracted, so steps whose plain iteration diverges are solved too.
    """
    last = attempts[-1] + moves[-1]
    if len(attempts) == 1:
        return last
    change = moves.diff(dim=0).flatten(2).transpose(0, 1)  # (B, m - 1, C H W)
    gram, target = change @ change.mT, change @ moves[-1].flatten(1)[..., None]
    share = (torch.linalg.pinv(gram, rtol=1e-12, hermitian=True) @ target).mT
    changes = attempts.diff(dim=0).flatten(2).transpose(0, 1) + change
    return last - (share @ changes).reshape(last.shape)


def _step(backbone: Backbone, settings: Settings, i: int, x: Tensor) -> Tensor:
    """The code after step i, from x at its start."""
    return denoise(backbone, settings, backbone.schedule(settings.steps), i, i + 1, x).codes[1]


def _predicted(backbone: Backbone, settings: Settings, i: int, x: Tensor) -> Tensor:
    """The model's prediction at step i for codes x, (B, C, H, W), as the pipeline hands it to its scheduler."""
    return _handed_on(backbone, settings, passing_on(backbone.scheduler, i), x)[0]


def _linear(backbone: Backbone, settings: Settings, first: int, end: int) -> float:
    """The factor of the code from step `first` to `end` of the sampler, apart from its predictions.

    1 where the factor is nearly 0, since it is a divisor.
    """
    size = 1e-3  # small enough for samplers that clip
    change = _of_no_prediction(backbone, settings, first, end, size) - _of_no_prediction(backbone, settings, first, end)
    scale = change.mean().item() / size
    return scale if abs(scale) > 0.05 else 1.0


def _adds_noise(backbone: Backbone, settings: Settings) -> bool:
    """Whether the sampler adds noise on the way.

    The last step is left out: it adds none, and may hide the noise of earlier steps.
    """
    end = max(1, len(backbone.schedule(settings.steps)) - 1)
    codes, others = (_of_no_prediction(backbone, settings, 0, end, seed=seed) for seed in (0, 1))
    return not torch.equal(codes, others)


def _of_no_prediction(
    backbone: Backbone, settings: Settings, first: int, end: int, value: float = 0.0, seed: int = 0
) -> Tensor:
    """The code after steps `first` to `end`, from one of equal values, if the model predicts 0 in each."""
    inputs = torch.zeros(1, 1 + end, device=backbone.prepared(settings.steps).timesteps.device)
    inputs[0, 0] = value
    return _of_predictions(backbone, settings, inputs, first, end, seed)[-1]


@cpu_by_default()
def _of_predictions(
    backbone: Backbone,
    settings: Settings,
    inputs: Tensor,
    first: int = 0,
    end: int | None = None,
    seed: int = 0,
    velocities: list[tuple[float, float]] | None = None,
) -> Tensor:
    """The codes (m + 1, B) at steps `first` to `end`, each of equal values, for codes to start with and predictions
    in `inputs`: (B, 1 + n), the code of each first, and then the prediction of each step. With `velocities`, those of
    `_velocities`, `inputs` holds velocities instead.
    """
    prepared = backbone.prepared(settings.steps)
    if hasattr(prepared, "set_begin_index"):
        scheduler = copy.deepcopy(prepared)
        scheduler.set_begin_index(first)
    else:
        scheduler = starting_at(backbone.scheduler, first)
        scheduler.set_timesteps(settings.steps)
    options = {"generator": torch.Generator().manual_seed(seed), "eta": settings.eta}
    options = {name: option for name, option in options.items() if accepts(scheduler.step, name)}
    inputs = inputs[..., None, None, None]
    codes = [x := inputs[:, 0]]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):  # a few samplers take noise only from there
        torch.manual_seed(seed)
        for i, t in enumerate(prepared.timesteps[first:end], first):
            if hasattr(scheduler, "scale_model_input"):
                scheduler.scale_model_input(x, t)
            of_code, of_given = velocities[i] if velocities else (0.0, 1.0)
            x = scheduler.step(of_code * x + of_given * inputs[:, 1 + i], t, x, **options).prev_sample
            codes.append(x)
    return torch.stack(codes).flatten(1)
