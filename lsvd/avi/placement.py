"""Where an edit takes x and z, on the schedule of a trajectory."""

from diffusers import SchedulerMixin
from torch import Tensor

from lsvd.avi.exact import check_pair


def renoise(scheduler: SchedulerMixin, code: Tensor, final: Tensor, t: int, to: int) -> Tensor:
    """The code z at timestep t brought to the noise level of timestep `to`, of code's shape and dtype.

    With the scheduler's alpha and sigma, alpha^2 = alphas_cumprod = 1 - sigma^2, a code is z = alpha_t z_0 + sigma_t e.
    Taking for z_0 the code that the trajectory ends in, `final`, e = (z - alpha_t z_0) / sigma_t, and the result is
    alpha_to z_0 + sigma_to e: no model is called.

    Raises ValueError for codes that do not fit, a timestep that is not one of training, or a scheduler without
    alphas_cumprod, or whose codes are not of that form.
    """
    check_pair(final, code)
    levels = getattr(scheduler, "alphas_cumprod", None)
    if levels is None or float(scheduler.init_noise_sigma) != 1:
        name = type(scheduler).__name__
        raise ValueError(f"{name} has no codes alpha x_0 + sigma noise with alphas_cumprod alpha^2: take DDIMScheduler")
    for time in (t, to):
        if not 0 <= time < len(levels) or time != int(time):
            raise ValueError(f"timestep {time} has no noise level: choose a whole number from 0 to {len(levels) - 1}")
    if t == to:
        return code
    level, wanted = (float(levels[int(time)]) for time in (t, to))
    # e's factor sigma_to / sigma_t times the code, and what is then missing of z_0
    ratio = ((1 - wanted) / (1 - level)) ** 0.5
    return ratio * code + (wanted**0.5 - ratio * level**0.5) * final
