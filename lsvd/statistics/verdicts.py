"""Verdicts on the paper's claims, computed from intervals: outputs/tables/verdicts.csv."""

from collections.abc import Sequence
from pathlib import Path

from lsvd.paths import outputs
from lsvd.statistics.intervals import Interval
from lsvd.storage.files import update_csv

HOLDS, IN_PART, NOT = "holds", "holds in part", "does not hold"


def verdict(shown: Sequence[bool]) -> str:
    """ "holds" if all parts of a claim are shown, "does not hold" if none is, else "holds in part".

    Raises ValueError for a claim without parts.
    """
    if not shown:
        raise ValueError("a claim without parts has no verdict: test at least one")
    return HOLDS if all(shown) else IN_PART if any(shown) else NOT


def record(claim: str, backbone: str, effect: Interval, null: float, said: str) -> Path:
    """Write a verdict into the table, in place of an earlier one on the same claim and backbone; returns its path.

    effect: what was measured, with its interval; null: what it is held against.
    """
    if said not in (HOLDS, IN_PART, NOT):
        raise ValueError(f"{said!r} is no verdict: choose from {HOLDS}, {IN_PART}, {NOT}")
    numbers = {"effect": effect.value, "low": effect.low, "high": effect.high, "null": null}
    row = {"claim": claim, "backbone": backbone, **{name: f"{x:.6f}" for name, x in numbers.items()}, "verdict": said}
    return update_csv(outputs("tables", "verdicts.csv"), [row], ["claim", "backbone"])
