"""What a scheduler can take: numbers of steps, and predictions of the variance."""

import copy

import torch
from diffusers import SchedulerMixin

from lsvd.backbones.devices import cpu_by_default
from lsvd.backbones.schedulers import accepts


def first_step_fails(prepared: SchedulerMixin) -> Exception | None:
    """The error of the first step of a scheduler that is set to its schedule, None if there is none.

    Found out by a step on zeros: the step lies beyond the tables of noise levels, or a configuration holds what cannot
    be computed with. Other errors than these come from what such a step lacks.
    """
    probe = copy.deepcopy(prepared)
    try:
        x, t = torch.zeros(1, 1, 8, 8, device=probe.timesteps.device), probe.timesteps[0]
        if hasattr(probe, "scale_model_input"):
            probe.scale_model_input(x, t)
        with cpu_by_default(), torch.random.fork_rng(devices=[]):  # some steps draw noise
            probe.step(x.repeat(1, 1 + takes_variance(probe), 1, 1), t, x)
    except (IndexError, NotImplementedError) as error:
        return error
    except TypeError as error:
        return None if "argument" in str(error) else error
    except Exception:
        return None
    return None


def begins_late(prepared: SchedulerMixin, T: int, steps: int) -> float | None:
    """The first timestep of a schedule that begins well below T, None for others.

    That is more than two steps and a tenth of T below it, or below half of it: "leading" spacing rounds T / steps
    down, so that 350 of 1,000 steps cover 700 timesteps. Only schedules in whole timesteps of training are judged.
    """
    table, start = getattr(prepared, "alphas_cumprod", None), float(prepared.timesteps.max())
    if table is None or len(table) != T or start != int(start):
        return None
    return start if T - 1 - start > max(2 * T / steps, T / 10) or start < T / 2 - 1 else None


def takes_variance(scheduler: SchedulerMixin) -> bool:
    """Whether a scheduler's step takes predictions of the variance too, as twice as many channels.

    Nichol and Dhariwal 2021, arXiv 2102.09672, equation 15. Of diffusers' schedulers, those of DDPM do.
    """
    learned = getattr(scheduler.config, "variance_type", None) in ("learned", "learned_range")
    return learned and accepts(getattr(scheduler, "_get_variance", len), "predicted_variance")
