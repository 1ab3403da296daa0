"""The model's estimate of x_0 at every step, from the codes of a deterministic trajectory alone.

A step of DDIM (Song et al. 2021, arXiv 2010.02502, Equation 12) mixes two unknowns, x_t = alpha_t x̂_0 + sigma_t ε̂ and
x_s = alpha_s x̂_0 + sigma_s ε̂, so two codes determine them. With guidance they are those of the guided prediction.
"""

from collections.abc import Sequence

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from lsvd.backbones.models import Backbone
from lsvd.decomposition.svd import double
from lsvd.sampling.estimates import Levels
from lsvd.sampling.trajectory import Trajectory, resume


def available(backbone: Backbone) -> bool:
    """Whether two codes give the estimates: only for DDIM without clipping, which loses the estimate."""
    config = backbone.scheduler.config
    return isinstance(backbone.scheduler, DDIMScheduler) and not (config.clip_sample or config.thresholding)


def estimates(backbone: Backbone, walk: Trajectory) -> Tensor:
    """x̂_0 at each timestep of a trajectory, shape (n, B, C, H, W), float64, on the codes' device.

    Raises ValueError unless the trajectory is DDIM's, without noise of its own (eta 0) and without clipping.
    """
    levels, codes = _levels(backbone, walk), double(walk.codes)
    return torch.stack([levels.clean(step, codes[step], codes[step + 1]) for step in range(len(codes) - 1)])


def differences(backbone: Backbone, walk: Trajectory, prompt: str | Sequence[str]) -> Tensor:
    """The move of x̂_0 by another prompt at each x_t of a trajectory, shape (n, B, C, H, W), float64.

    It is d_t, the guided x̂_0 for the prompt minus that for the walk's own, which is -sigma_t / alpha_t times the
    difference of the predictions ε̂. Each timestep costs one step of the sampler. Raises ValueError as `estimates` and
    lsvd.sampling.trajectory.resume.
    """
    levels = _levels(backbone, walk)
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
        raise ValueError("two codes give x̂_0 for DDIM alone, with eta 0 and no clipping: take such a trajectory")
    levels, n = Levels.of(backbone.prepared(walk.settings.steps)), len(walk.codes)
    first = backbone.schedule(walk.settings.steps).step_of(walk.timesteps[0])
    return Levels(levels.alpha[first : first + n], levels.sigma[first : first + n])
