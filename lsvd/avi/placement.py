"""Where an edit takes x and z, on the schedule of a trajectory."""

from dataclasses import dataclass, replace

from diffusers import SchedulerMixin
from torch import Tensor

from lsvd.avi.exact import check_pair
from lsvd.backbones.registry import Entry
from lsvd.backbones.schedulers import Schedule
from lsvd.checks import integer, shown


@dataclass(frozen=True)
class Placement:
    """Where an edit takes its codes. None stands for the backbone's entry, in tx, dtau and branch.

    tx: where x is taken, as a fraction of T, rounded to the schedule. dtau: where z is taken, in steps from there;
    positive is noisier (larger t), negative cleaner. branch: the fraction of T from which on z's trajectory has the
    target prompt; before, it has the source's, so that both pictures share what is settled by then, such as pose and
    layout. The branch is ours: in the paper z has the target prompt from the noise on, which is branch = 1. The paper's
    summary leaves tx and dtau open. same_level: whether z is brought to x's noise level first (see `renoise`).
    """

    tx: float | None = None
    dtau: int | None = None
    branch: float | None = None
    same_level: bool = False

    def __post_init__(self):
        if self.dtau is not None and integer(self.dtau) is None:
            raise ValueError(f"dtau cannot be {shown(self.dtau)}: give a whole number of steps")

    def filled(self, entry: Entry) -> "Placement":
        """The same placement with the defaults of a backbone's entry."""
        names = ("tx", "dtau", "branch")
        return replace(self, **{name: getattr(entry, name) for name in names if getattr(self, name) is None})

    def on(self, schedule: Schedule) -> "Places":
        """The timesteps on a schedule, of a placement that is filled.

        Raises ValueError for fractions outside of 0 to 1, a z that is off the schedule, or one from before the branch.
        """
        t = schedule.nearest(self.tx)
        steps = schedule.whole.nonzero().flatten().tolist()
        place = steps.index(schedule.step_of(t)) - self.dtau  # larger t comes first
        if not 0 <= place < len(steps):
            raise ValueError(f"dtau = {self.dtau} from timestep {t} leaves the schedule: choose another tx or dtau")
        t_target = schedule.timesteps[steps[place]].item()
        t_branch = None if self.branch == 1 else schedule.nearest(self.branch)
        if t_branch is not None and schedule.step_of(t_branch) >= steps[place]:
            raise ValueError(
                f"z is taken at timestep {t_target}, before the branch at {t_branch}: raise branch or lower tx"
            )
        return Places(t, t_target, t_branch, self.same_level)


@dataclass(frozen=True)
class Places:
    """The timesteps of an edit: t of x, t_target of z, and t_branch, from which on z has the target prompt.

    t_branch is None if z has the target prompt throughout. same_level: as in Placement.
    """

    t: int | float
    t_target: int | float
    t_branch: int | float | None = None
    same_level: bool = False


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
