"""The model's estimate of x_0 at every step, from the codes of a deterministic trajectory alone.

A step of DDIM (Song et al. 2021, arXiv 2010.02502, Equation 12) mixes two unknowns, x_t = alpha_t x̂_0 + sigma_t ε̂ and
x_s = alpha_s x̂_0 + sigma_s ε̂, so two codes determine them. With guidance they are those of the guided prediction.

A sampler that clips x̂_0, as those of pixel models may, forgets by how much: its codes alone do not give x̂_0. One more
step from each code, without clipping, does.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from lsvd.backbones.configs import scheduler_text
from lsvd.backbones.models import Backbone
from lsvd.decomposition.svd import double
from lsvd.sampling.estimates import Levels
from lsvd.sampling.trajectory import Trajectory, resume


def available(backbone: Backbone) -> bool:
    """Whether codes give the estimates: for DDIM without thresholding, whose limits depend on the picture."""
    return isinstance(backbone.scheduler, DDIMScheduler) and not backbone.scheduler.config.thresholding


def clips(backbone: Backbone) -> bool:
    """Whether the sampler clips x̂_0 to a fixed range."""
    return bool(backbone.scheduler.config.clip_sample)


def estimates(backbone: Backbone, walk: Trajectory) -> Tensor:
    """x̂_0 at each timestep of a trajectory, shape (n, B, C, H, W), float64, on the codes' device.

    It is what the sampler goes on with: where it clips, x̂_0 is clipped. Each timestep then costs one call of the model.
    Raises ValueError unless the trajectory is DDIM's, without noise of its own (eta 0) and without thresholding.
    """
    levels, codes = _levels(backbone, walk), double(walk.codes)
    after = _unclipped(backbone, walk) if clips(backbone) else codes[1:]
    clean = torch.stack([levels.clean(step, codes[step], x) for step, x in enumerate(after)])
    bound = backbone.scheduler.config.clip_sample_range
    return clean.clamp(-bound, bound) if clips(backbone) else clean


def _unclipped(backbone: Backbone, walk: Trajectory) -> Tensor:
    """What each code of a trajectory becomes in one step without clipping, (n, B, C, H, W), float64."""
    scheduler = DDIMScheduler.from_config(backbone.scheduler.config, clip_sample=False)
    free = backbone.with_scheduler(scheduler)
    settings = replace(walk.settings, config=scheduler_text(free.scheduler))
    ends = [*walk.timesteps[1:], None]
    steps = [
        resume(free, settings, t, x, until=until).codes[1]
        for t, x, until in zip(walk.timesteps, walk.codes[:-1], ends, strict=True)
    ]
    return double(torch.stack(steps))


def differences(backbone: Backbone, walk: Trajectory, prompt: str | Sequence[str]) -> Tensor:
    """The move of x̂_0 by another prompt at each x_t of a trajectory, shape (n, B, C, H, W), float64.

    It is d_t, the guided x̂_0 for the prompt minus that for the walk's own, which is -sigma_t / alpha_t times the
    difference of the predictions ε̂. Each timestep costs one step of the sampler. Raises ValueError for a sampler that
    clips, and as `estimates` and lsvd.sampling.trajectory.resume.
    """
    levels = _levels(backbone, walk)
    if clips(backbone):
        raise ValueError("two codes give no difference of clipped estimates: take a sampler without clipping")
    alpha, sigma = levels.alpha.to(walk.codes.device), levels.sigma.to(walk.codes.device)
    moves = []
    for step, t in enumerate(walk.timesteps):
        until = walk.timesteps[step + 1] if step + 1 < len(walk.timesteps) else None
        changed_code = resume(backbone, walk, t, prompts=prompt, until=until).codes[1]
        moves.append(changed_code.double() - walk.codes[step + 1].double())
    rate = alpha[1:] - sigma[1:] * alpha[:-1] / sigma[:-1]
    return torch.stack(moves) / rate.view(-1, 1, 1, 1, 1)


def level(backbone: Backbone, walk: Trajectory, t: float | Tensor) -> float:
    """alpha_t, by which x_t holds x̂_0. Raises ValueError as `estimates`, and if t is not on the walk's schedule."""
    return float(_levels(backbone, walk).alpha[walk.index(t)])


def _levels(backbone: Backbone, walk: Trajectory) -> Levels:
    """The levels of a trajectory's steps, and of its end."""
    if not available(backbone) or walk.settings.eta != 0:
        raise ValueError("two codes give x̂_0 for DDIM alone, with eta 0 and no thresholding: take such a trajectory")
    levels, n = Levels.of(backbone.prepared(walk.settings.steps)), len(walk.codes)
    first = backbone.schedule(walk.settings.steps).step_of(walk.timesteps[0])
    return Levels(levels.alpha[first : first + n], levels.sigma[first : first + n])
