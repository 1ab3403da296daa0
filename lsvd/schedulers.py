"""Two questions about any diffusers scheduler: can it begin at a later step, and does it remember earlier ones?

Everything is done by subclassing: no scheduler or pipeline is altered.
"""

import copy
import functools
import inspect

import torch
from diffusers import SchedulerMixin
from torch import Tensor


def accepts(function, name: str) -> bool:
    """Whether a method takes an argument of that name; diffusers' step functions do not all take the same."""
    return name in inspect.signature(function).parameters


def starting_at(scheduler: SchedulerMixin, first: int) -> SchedulerMixin:
    """A fresh copy of a scheduler that leaves out the first `first` steps of every schedule it is asked for.

    It takes the code it is given as x_t at its first step, so it does not multiply it by init_noise_sigma as the
    original does with noise. The steps that are left are the original's, number for number: pipelines find the
    shortened schedule in `timesteps`, while the scheduler itself works on its whole one, which some look ahead in.
    """
    base = type(scheduler)

    @functools.wraps(base.set_timesteps)  # pipelines look at the signature to learn which schedules it accepts
    def set_timesteps(self, *args, **kwargs):
        base.set_timesteps(self, *args, **kwargs)
        self.whole_schedule = self.timesteps
        self.timesteps = self.timesteps[first:]
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
    if hasattr(base, "scale_model_input"):
        members["scale_model_input"] = on_whole_schedule(base.scale_model_input)
    if hasattr(base, "set_begin_index"):
        members["set_begin_index"] = lambda self, begin_index=0: base.set_begin_index(self, begin_index + first)
    # a copy, since from_config repeats the constructor's warnings at every call
    later = copy.deepcopy(scheduler)
    later.__class__ = type(base.__name__, (base,), members)
    return later


def schedule(scheduler: SchedulerMixin, steps: int) -> tuple[Tensor, float]:
    """The timesteps of `steps` inference steps, as the scheduler gives them, on the CPU, and its init_noise_sigma.

    A scheduler of second order may list more timesteps than steps.
    """
    own = copy.deepcopy(scheduler)
    own.set_timesteps(steps)
    return own.timesteps.cpu(), float(own.init_noise_sigma)


def remembers(scheduler: SchedulerMixin, steps: int) -> bool:
    """Whether a step leaves anything in the scheduler that later steps may use: true of multistep solvers.

    Found out by taking a step on zeros and comparing the scheduler's attributes, so it needs no list of classes. When
    a step fails on zeros, the answer is True, which is safe: resuming is then slower but exact.
    """
    own = copy.deepcopy(scheduler)
    own.set_timesteps(steps)
    before = _state(own)
    try:
        x = torch.zeros(1, 1, 8, 8)
        t = own.timesteps[0]
        own.step(torch.zeros_like(own.scale_model_input(x, t)), t, x)
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
