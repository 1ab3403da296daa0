"""How low-rank guidance edits: rank, strength and window."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

from lsvd.backbones.schedulers import Schedule
from lsvd.checks import known, shown, whole

CHANNELS = ("apart", "together")


@dataclass(frozen=True)
class LowRank:
    """The settings of low-rank guidance.

    rank: how many triplets of the difference are added; None for the whole difference, which is prompt switching at
    strength 1 and scaled guidance otherwise. strength: c, 0 for the source, 1 for the triplets as they are, above 1 for
    more, below 0 away from the target. start, end: the window, as fractions of T, rounded to the schedule. The step
    that begins at `end` is the first without guidance; an end of 0 includes the last step. channels: each channel is a
    matrix of its own, `apart`, or all channels are one, `together`, one below the other. entries: keep only this
    fraction of the added part, its largest entries; None for all.

    Raises ValueError for values out of range.
    """

    rank: int | None = 1
    strength: float = 1.0
    start: float = 0.6
    end: float = 0.3
    channels: Literal["apart", "together"] = "apart"
    entries: float | None = None

    def __post_init__(self):
        if self.rank is not None:
            whole(self.rank, "the rank", 1)
        check_strength(self.strength)
        if not all(_number(edge) and 0 <= edge <= 1 for edge in (self.start, self.end)) or self.end >= self.start:
            raise ValueError(
                f"a window from {self.start} to {self.end} of T makes no sense: give fractions from 0 to 1, the start "
                "above the end"
            )
        known(self.channels, CHANNELS, "arrangement of channels")
        if self.entries is not None and not (_number(self.entries) and 0 < self.entries <= 1):
            raise ValueError(f"cannot keep {self.entries} of the entries: give a fraction above 0, up to 1, or None")

    def window(self, schedule: Schedule) -> range:
        """The steps of a schedule with low-rank guidance. Raises ValueError if there are none."""
        first = schedule.step_of(schedule.nearest(self.start))
        last = schedule.step_of(schedule.nearest(self.end)) if self.end else len(schedule)
        if first >= last:
            raise ValueError(
                f"the window from {self.start:g} to {self.end:g} of T holds no step of the schedule {schedule}: widen "
                "it, or take more steps"
            )
        return range(first, last)

    def targets(self, target: Mapping[str, float] | Any) -> dict[Any, float]:
        """Each target with its strength: those of a mapping, else the one target with that of the settings.

        Raises ValueError for strengths that are not finite, or a mapping without targets.
        """
        if not isinstance(target, Mapping):
            return {target if isinstance(target, str) else tuple(target): self.strength}
        if not target:
            raise ValueError("there are no target prompts: give at least one, with its strength")
        return {prompt: check_strength(strength) * self.strength for prompt, strength in target.items()}


def check_strength(strength: float) -> float:
    """The strength. Raises ValueError unless it is a finite number."""
    if not _number(strength):
        raise ValueError(
            f"{shown(strength)} is not a strength: give a number, 0 for the source, 1 for all of the triplets"
        )
    return strength


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


DEFAULT = LowRank()
