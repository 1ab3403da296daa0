"""The schedule of any diffusers scheduler: its timesteps, how it begins at a later one, and what it remembers.

Everything is done by subclassing copies: no scheduler or pipeline is altered.
"""

import copy
import functools
import inspect
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import PNDMScheduler, SASolverScheduler, SchedulerMixin
from torch import Tensor

from lsvd.backbones.devices import cpu_by_default
from lsvd.checks import number, shown


@dataclass(frozen=True, eq=False)
class Schedule:
    """The steps of a sampler, and where codes may be taken up.

    timesteps: shape (n,), on the CPU, as the scheduler gives them, the noisiest first. whole: shape (n,), bool, whether
    a whole step begins there. Solvers of second order also list the middles of their steps, where a code is read for a
    derivative only. fractions: shape (n,), how noisy each timestep is, 1 for T and 0 for the end; None if the scheduler
    does not say. T: the number of timesteps of training. sigma: the scale of the noise at the first. name: of the
    scheduler's class.
    """

    timesteps: Tensor
    whole: Tensor
    fractions: Tensor | None
    T: int
    sigma: float = 1.0
    name: str = "the scheduler"

    @classmethod
    def of(cls, prepared: SchedulerMixin) -> "Schedule":
        """The schedule of a scheduler that is set to its steps."""
        timesteps = prepared.timesteps.detach().cpu()
        T, sigma = prepared.config.num_train_timesteps, float(getattr(prepared, "init_noise_sigma", 1.0))
        return cls(timesteps, _whole(prepared), _fractions(prepared, timesteps, T), T, sigma, type(prepared).__name__)

    def __len__(self) -> int:
        return len(self.timesteps)

    def part(self, first: int, end: int) -> "Schedule":
        """The steps from `first` to before `end`."""
        rows = slice(first, end)
        fractions = None if self.fractions is None else self.fractions[rows]
        return replace(self, timesteps=self.timesteps[rows], whole=self.whole[rows], fractions=fractions)

    def joined(self, later: "Schedule") -> "Schedule":
        """These steps and then those of `later`."""
        both = [getattr(self, name) for name in ("fractions",)] + [later.fractions]
        return replace(
            self,
            timesteps=torch.cat([self.timesteps, later.timesteps]),
            whole=torch.cat([self.whole, later.whole]),
            fractions=None if any(fraction is None for fraction in both) else torch.cat(both),
        )

    def nearest(self, fraction: float) -> int | float:
        """The timestep nearest to fraction * T at which a code may be taken up.

        Timesteps that count noise levels instead of training's timesteps are placed by the noise. Raises ValueError
        unless 0 <= fraction <= 1, and for schedulers that do not tell how noisy their timesteps are.
        """
        share = number(fraction)
        if share is None or not 0 <= share <= 1:
            raise ValueError(f"{shown(fraction)} of T is not a timestep: give a fraction from 0 to 1")
        if self.fractions is None:
            raise ValueError(
                f"the timesteps of {self.name} are not fractions of T: take another scheduler, such as Euler"
            )
        away = (self.fractions - share).abs().where(self.whole, torch.inf)
        return self.timesteps[away.argmin()].item()

    def step_of(self, t: float | Tensor) -> int:
        """The step that begins at timestep t. Raises ValueError, naming the nearest, if no whole step does."""
        given, t = t, number(t)
        if t is None:
            raise ValueError(f"not a timestep: {shown(given)}; choose one of {self}")
        hits = ((self.timesteps == t) & self.whole).nonzero()
        if len(hits):
            return int(hits[0])
        if t != t:
            raise ValueError(f"NaN is not a timestep: choose one of {self}")
        near = self.timesteps[(self.timesteps - t).abs().where(self.whole, torch.inf).argmin()].item()
        if (self.timesteps == t).any():
            raise ValueError(
                f"timestep {t:g} is the middle of a step of {self.name}, which takes up no code there: "
                f"the nearest that does is {near:g}"
            )
        raise ValueError(f"timestep {t:g} is not on the schedule {self}: the nearest that is, is {near:g}")

    def end(self, first: int, until: float | Tensor | None) -> int:
        """The step to stop before: the one that begins at `until`, or one more than there are.

        Raises ValueError for an `until` that is not on the schedule, or noisier than step `first`.
        """
        if until is None:
            return len(self)
        end = self.step_of(until)
        if end < first:
            raise ValueError(f"timestep {float(until):g} comes before {self.timesteps[first]:g}: stop at a later one")
        return end

    def __str__(self) -> str:
        values = [f"{t:g}" for t in self.timesteps[self.whole].tolist()]
        return ", ".join(values if len(values) < 8 else [*values[:3], "...", *values[-2:]])


def _whole(prepared: SchedulerMixin) -> Tensor:
    """Whether a whole step begins at each timestep of the schedule, shape (n,)."""
    n = len(prepared.timesteps)
    if isinstance(prepared, PNDMScheduler):
        runge_kutta = 0 if prepared.config.skip_prk_steps else len(prepared.prk_timesteps)
        # without Runge-Kutta steps, the second entry repeats the first step with a better derivative
        return torch.tensor(
            [i % 4 == 0 if i < runge_kutta else bool(runge_kutta) or i != 1 for i in range(n)], device="cpu"
        )
    return torch.arange(n, device="cpu") % getattr(prepared, "order", 1) == 0


def _fractions(prepared: SchedulerMixin, timesteps: Tensor, T: int) -> Tensor | None:
    """How noisy each timestep is, (n,) from 1 to 0: t / T, or by sigma where timesteps do not count from T down."""
    if len(timesteps) < 2 or timesteps.max() > 0.1 * T:
        return timesteps.double() / T
    levels, sigmas = getattr(prepared, "alphas_cumprod", None), getattr(prepared, "sigmas", None)
    if levels is None or sigmas is None or len(sigmas) < len(timesteps):
        return None
    trained = ((1 - levels) / levels).sqrt().log().double().cpu().contiguous()
    noise_levels = torch.as_tensor(sigmas, device="cpu")[: len(timesteps)].double().cpu().clamp_min(1e-12).log()
    return torch.searchsorted(trained, noise_levels).clamp(0, T - 1).double() / T


def accepts(function, name: str) -> bool:
    """Whether a method takes an argument of that name; diffusers' step functions do not all take the same."""
    return name in inspect.signature(function).parameters


def starting_at(
    scheduler: SchedulerMixin, first: int, last: int | None = None, generators: list[torch.Generator] | None = None
) -> SchedulerMixin:
    """A fresh copy of a scheduler that leaves out the first `first` steps of every schedule it is asked for.

    last: the step before which it ends; None for the whole rest. generators: what its noise comes from where a pipeline
    gives it none, as those of flow matching do; torch's global one if None. Solvers that remember earlier steps begin
    without a memory, at first order.

    `first` is kept on it. It takes the code it is given as x_t at its first step, so it does not multiply it by
    init_noise_sigma as the original does with noise. The steps that are left are the original's, number for number:
    pipelines find the shortened schedule in `timesteps`, while the scheduler itself works on its whole one, which some
    look ahead in.
    """
    base = type(scheduler)

    @functools.wraps(base.set_timesteps)  # pipelines look at the signature to learn which schedules it accepts
    def set_timesteps(self, *args, **kwargs):
        base.set_timesteps(self, *args, **kwargs)
        self.whole_schedule = self.timesteps
        self.timesteps = self.timesteps[first:last]
        self.steps_since = 0
        if first and hasattr(base, "set_begin_index"):
            base.set_begin_index(self, first)

    def on_whole_schedule(method):
        @functools.wraps(method)
        def wrapped(self, *args, **kwargs):
            self.timesteps = self.whole_schedule
            return method(self, *args, **kwargs)

        return wrapped

    @functools.wraps(base.step)
    def step(self, model_output, *args, **kwargs):
        self.timesteps = self.whole_schedule
        seen, self.steps_since = self.steps_since, self.steps_since + 1
        if generators and accepts(base.step, "generator") and kwargs.get("generator") is None:
            kwargs["generator"] = generators
        if first and accepts(base.step, "order"):  # LMS: its coefficients are for as many derivatives as it has
            kwargs.setdefault("order", min(inspect.signature(base.step).parameters["order"].default, seen + 1))
        if first and isinstance(self, PNDMScheduler):
            return _pndm_step(self, base, first, seen, model_output, *args, **kwargs)
        return base.step(self, model_output, *args, **kwargs)

    members = {
        "set_timesteps": set_timesteps,
        "step": step,
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
    later.__class__, later.first = type(base.__name__, (base,), members), first
    return later


def passing_on(scheduler: SchedulerMixin, i: int) -> SchedulerMixin:
    """A copy of a scheduler with step i alone, which returns the model's prediction as the next code."""
    later = starting_at(scheduler, i, i + 1)
    base = type(later)

    @functools.wraps(base.step)
    def step(self, model_output, timestep, sample, *args, return_dict=True, **kwargs):
        return SimpleNamespace(prev_sample=model_output) if return_dict else (model_output,)

    later.__class__ = type(base.__name__, (base,), {"step": step})
    return later


def _pndm_step(scheduler: PNDMScheduler, base: type, first: int, seen: int, model_output: Tensor, *args, **kwargs):
    """A step of PNDM `seen` steps after it began at step `first` without a memory.

    It tells by a counter what to do, and needs earlier derivatives: until there are enough, the present one stands in.
    """
    if not seen:
        scheduler.counter = first
    whole = scheduler.config.skip_prk_steps
    standing_in = 0
    if whole or scheduler.counter >= len(scheduler.prk_timesteps):
        wanted = (1 if not seen else 0) if whole else 3
        while len(scheduler.ets) < wanted:
            scheduler.ets.insert(0, model_output)
            standing_in += 1
    done = base.step(scheduler, model_output, *args, **kwargs)
    if whole and standing_in:
        del scheduler.ets[:standing_in]
    return done


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
    clone = copy.deepcopy(scheduler)
    with cpu_by_default():
        clone.set_timesteps(steps)
    return clone


def remembers(prepared: SchedulerMixin) -> bool:
    """Whether a step leaves anything in the scheduler that later steps may use: true of multistep solvers.

    `prepared` is a scheduler set to its schedule, and stays as it is.
    """
    changed = memory(prepared)
    return changed is None or bool(changed)


def memory(prepared: SchedulerMixin) -> dict[str, Any] | None:
    """The attributes that a step changes and later steps may use, as they are before the first one.

    Found out by taking a step on zeros and comparing the scheduler's attributes, so it needs no list of classes. None
    for a scheduler that cannot take such a step; it counts as one that remembers, so that resuming is slower but exact.
    `prepared` is a scheduler set to its schedule, and stays as it is.
    """
    probe = copy.deepcopy(prepared)
    before = _state(probe)
    try:
        x = torch.zeros(1, 1, 8, 8, device=probe.timesteps.device)
        t = probe.timesteps[0]
        noise = {"generator": torch.Generator().manual_seed(0)} if accepts(probe.step, "generator") else {}
        with cpu_by_default(), torch.random.fork_rng(devices=[]):  # a few take noise from nowhere else
            if hasattr(probe, "scale_model_input"):
                probe.scale_model_input(x, t)
            probe.step(torch.zeros_like(x), t, x, **noise)
    except Exception:
        return None
    after = _state(probe)
    return {k: before.get(k) for k in before.keys() | after.keys() if _differ(before.get(k), after.get(k))}


def check_takes_codes(scheduler: SchedulerMixin) -> None:
    """Raise ValueError for a scheduler that a code cannot be put into: SA-Solver redraws each code one step later."""
    if isinstance(scheduler, SASolverScheduler):
        raise ValueError(
            f"{type(scheduler).__name__} corrects each code after the fact, so another goes on than is put in: take "
            "DPMSolverMultistepScheduler"
        )


def forget(scheduler: SchedulerMixin) -> None:
    """Let a scheduler that is in use go on from its next step without a memory of those before, at first order.

    What remembers is found on a fresh copy; where the scheduler is, it keeps. Raises ValueError as `check_takes_codes`.
    """
    check_takes_codes(scheduler)
    with cpu_by_default():
        fresh = type(scheduler).from_config(scheduler.config)
    steps = scheduler.num_inference_steps
    sized = {"mu": 1.0} if fresh.config.get("use_dynamic_shifting") else {}
    with cpu_by_default():
        fresh.set_timesteps(steps, **sized)
    for name, value in (memory(fresh) or {}).items():
        setattr(scheduler, name, copy.copy(value))


def _state(scheduler: SchedulerMixin) -> dict:
    """The attributes that a step might change, lists copied; set_begin_index sets the counter."""
    ignore = {"_step_index", "_begin_index", "is_scale_input_called"}
    return {k: list(v) if isinstance(v, list) else v for k, v in vars(scheduler).items() if k not in ignore}


def _differ(a, b) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) != len(b) or any(_differ(x, y) for x, y in zip(a, b, strict=True))
    if a is b:
        return False
    plain = (bool, int, float, str)
    return not (isinstance(a, plain) and isinstance(b, plain) and a == b)
