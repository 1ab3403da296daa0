"""A sampler's estimate of the clean code on its way: x_0 at each x_t.

A step of a deterministic sampler leads along the line x = alpha x_0 + sigma e of its present estimates of x_0 and of
the noise e (Song et al. 2021, arXiv 2010.02502, equation 12, for DDIM). Two codes in a row thus determine x_0 without a
call of the model: x_0 = (sigma' x - sigma x') / (sigma' alpha - sigma alpha'), where x' follows x.
"""

from dataclasses import dataclass

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from lsvd.backbones.models import Backbone
from lsvd.decomposition.svd import double
from lsvd.sampling.trajectory import Trajectory


@dataclass(frozen=True)
class Levels:
    """The shares of the clean code and of noise at the start of each of n steps, and at the end.

    alpha, sigma: shape (n + 1,), float64.
    """

    alpha: Tensor
    sigma: Tensor

    @classmethod
    def of(cls, prepared: SchedulerMixin) -> "Levels | None":
        """The levels of a scheduler with its timesteps set; None if it gives none, or has middle steps."""
        timesteps = prepared.timesteps.detach().cpu()
        n, config = len(timesteps), prepared.config
        if getattr(prepared, "order", 1) != 1 or len(timesteps.unique()) < n:
            return None
        if getattr(prepared, "sigmas", None) is not None and len(prepared.sigmas) in (n, n + 1):
            sigma = torch.as_tensor(prepared.sigmas, device="cpu").double().cpu()
            sigma = sigma if len(sigma) > n else torch.cat([sigma, sigma.new_zeros(1)])
            if "FlowMatch" in type(prepared).__name__ or config.get("use_flow_sigmas"):
                return cls(1 - sigma, sigma)
            if float(getattr(prepared, "init_noise_sigma", 1.0)) != 1:
                return cls(torch.ones_like(sigma), sigma)
            alpha = (1 + sigma.square()).rsqrt()
            return cls(alpha, sigma * alpha)
        table = getattr(prepared, "alphas_cumprod", None)
        if table is None or timesteps.is_floating_point() or not 0 <= timesteps.min() <= timesteps.max() < len(table):
            return None
        end = torch.as_tensor(getattr(prepared, "final_alpha_cumprod", 1.0), device="cpu").double().cpu().reshape(1)
        share = torch.cat([table.double().cpu()[timesteps], end])
        return cls(share.sqrt(), (1 - share).sqrt())

    def clean(self, step: int, before: Tensor, after: Tensor) -> Tensor:
        """The estimate of x_0 that leads from the code before a step to the one after it, both (..., C, H, W)."""
        (a, b), (s, r) = self.alpha[step : step + 2].tolist(), self.sigma[step : step + 2].tolist()
        x, y = double(before), double(after)
        return ((r * x - s * y) / (r * a - s * b)).to(before)


def clean(backbone: Backbone, walk: Trajectory) -> Tensor:
    """The estimate of x_0 at each step of a trajectory that has a code after it, shape (m, B, C, H, W).

    m is n for a whole trajectory of n steps. The last row of a whole one is x_0 up to the noise that the schedule
    leaves. Raises ValueError for schedulers whose levels of noise are not known.
    """
    levels = Levels.of(backbone.prepared(walk.settings.steps))
    if levels is None:
        raise ValueError(
            f"{walk.settings.scheduler} does not say how noisy its codes are: draw with DDIMScheduler for estimates"
        )
    first = backbone.schedule(walk.settings.steps).step_of(walk.timesteps[0])
    pairs = zip(walk.codes[:-1], walk.codes[1:], strict=True)
    codes = [levels.clean(first + step, before, after) for step, (before, after) in enumerate(pairs)]
    return torch.stack(codes) if codes else walk.codes[:0]
