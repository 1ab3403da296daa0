"""Two questions about any diffusers scheduler: can it begin at a later step, and does it remember earlier ones?

Everything is done by subclassing: no scheduler or pipeline is altered.
"""

import copy
import functools
import inspect

import torch
from diffusers import SchedulerMixin


def accepts(function, name: str) -> bool:
    """Whether a method takes an argument of that name; diffusers' step functions do not all take the same."""
    return name in inspect.signature(function).parameters


def starting_at(scheduler: SchedulerMixin, first: int, last: int | None = None) -> SchedulerMixin:
    """A fresh copy of a scheduler that leaves out the first `first` steps of every schedule it is asked for.

    last: the step before which it ends; None for the whole rest.

    It takes the code it is given as x_t at its first step, so it does not multiply it by init_noise_sigma as the
    original does with noise. The steps that are left are the original's, number for number: pipelines find the
    shortened schedule in `timesteps`, while the scheduler itself works on its whole one, which some look ahead in.
    """
    base = type(scheduler)

    @functools.wraps(base.set_timesteps)  # pipelines look at the signature to learn which schedules it accepts
    def set_timesteps(self, *args, **kwargs):
        base.set_timesteps(self, *args, **kwargs)
        self.whole_schedule = self.timesteps
        self.timesteps = self.timesteps[first:last]
        if first and hasattr(base, "set_begin_index"):
            base.set_begin_index(self, first)

    def on_whole_schedule(method):
        @functools.wraps(method)
        def wrapped(self, *args, **kwargs):
            self.timesteps = self.whole_schedule
            return method(self, *args, **kwargs)

        return wrapped

    members = {
        "set_timesteps": set_timesteps,
        "step": on_whole_schedule(base.step),
        # with a setter, so that it goes before the attribute of that name, which some originals set
        "init_noise_sigma": property(lambda self: 1.0, lambda self, value: None),
    }
    # some pipelines call it of every scheduler whose class they do not know, as they do not know this one
    as_it_is = base.scale_model_input if hasattr(base, "scale_model_input") else lambda self, sample, timestep: sample
    members["scale_model_input"] = on_whole_schedule(as_it_is)
    if hasattr(base, "set_begin_index"):
        members["set_begin_index"] = lambda self, begin_index=0: base.set_begin_index(self, begin_index + first)
    # a copy, since from_config repeats the constructor's warnings at every call
    later = copy.deepcopy(scheduler)
    later.__class__ = type(base.__name__, (base,), members)
    return later


class Scheduled(Exception):
    """Raised by a scheduler of `probing`: `scheduler` is a copy of the original, set to its schedule."""

    def __init__(self, scheduler: SchedulerMixin):
        super().__init__("the schedule is set")
        self.scheduler = scheduler


def probing(scheduler: SchedulerMixin) -> SchedulerMixin:
    """A copy of a scheduler that raises Scheduled when it is asked for a schedule.

    Pipelines of flow matching work out noise levels from the size of a picture and hand them to the scheduler: this is
    how to learn them without drawing.
    """
    base = type(scheduler)

    @functools.wraps(base.set_timesteps)
    def set_timesteps(self, *args, **kwargs):
        self.__class__ = base
        self.set_timesteps(*args, **kwargs)
        raise Scheduled(self)

    probe = copy.deepcopy(scheduler)
    probe.__class__ = type(base.__name__, (base,), {"set_timesteps": set_timesteps})
    return probe


def prepare(scheduler: SchedulerMixin, steps: int) -> SchedulerMixin:
    """A copy of a scheduler, set to its schedule of `steps` inference steps."""
    own = copy.deepcopy(scheduler)
    own.set_timesteps(steps)
    return own


def remembers(prepared: SchedulerMixin) -> bool:
    """Whether a step leaves anything in the scheduler that later steps may use: true of multistep solvers.

    Found out by taking a step on zeros and comparing the scheduler's attributes, so it needs no list of classes. When
    a step fails on zeros, the answer is True, which is safe: resuming is then slower but exact. `prepared` is a
    scheduler set to its schedule, and stays as it is.
    """
    own = copy.deepcopy(prepared)
    before = _state(own)
    try:
        x = torch.zeros(1, 1, 8, 8, device=own.timesteps.device)
        t = own.timesteps[0]
        if hasattr(own, "scale_model_input"):
            own.scale_model_input(x, t)
        own.step(torch.zeros_like(x), t, x)
    except Exception:
        return True
    after = _state(own)
    return before.keys() != after.keys() or any(_differ(before[k], after[k]) for k in before)


def _state(scheduler: SchedulerMixin) -> dict:
    """The attributes that a step might change, lists copied; the counter is set anew by set_begin_index."""
    ignore = {"_step_index", "_begin_index", "is_scale_input_called"}
    return {k: list(v) if isinstance(v, list) else v for k, v in vars(scheduler).items() if k not in ignore}


def _differ(a, b) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) != len(b) or any(_differ(x, y) for x, y in zip(a, b, strict=True))
    if a is b:
        return False
    plain = (bool, int, float, str)
    return not (isinstance(a, plain) and isinstance(b, plain) and a == b)
