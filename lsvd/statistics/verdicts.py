"""Verdicts on the paper's claims, and their table outputs/tables/verdicts.csv.

Each study has three doors: `measure` returns its numbers, `verdicts` judges them, `rows` are its table's rows.

A claim says that an effect exceeds a threshold: its null, plus a margin that the code states. It *holds* if the whole
95% interval lies beyond the threshold, *does not hold* if the whole interval lies on the other side (the opposite is
shown, or an effect smaller than the margin), and is *undecided* otherwise. Either error has a chance of 2.5%. A claim
of several parts may hold *in part*; the parts are then corrected for their number.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf, isfinite
from pathlib import Path

from scipy import stats

from lsvd.paths import outputs
from lsvd.statistics.intervals import LEVEL, Interval
from lsvd.storage.files import update_csv

HOLDS, IN_PART, NOT, UNDECIDED = "holds", "holds in part", "does not hold", "undecided"
WORDS = (HOLDS, IN_PART, NOT, UNDECIDED)
STUDIES = (
    "neighbourhood",
    "encoding",
    "order",
    "editing",
    "strength",
    "ablation",
    "comparison",
    "inversion",
    "predictions",
)
"""The studies in the order of their notebooks; the table of verdicts has the same order."""

POWER = 0.8  # the chance to decide that `seeds_to_decide` asks for
MOST = 100_000  # seeds; an effect that needs more lies on its threshold


@dataclass(frozen=True)
class Part:
    """One part of a claim: that the effect exceeds null + margin; with sign -1, that it lies below null - margin.

    Raises ValueError for a negative margin, or another sign.
    """

    effect: Interval
    null: float = 0.0
    margin: float = 0.0
    sign: int = 1

    def __post_init__(self):
        if self.margin < 0 or self.sign not in (-1, 1):
            raise ValueError(f"margin {self.margin} and sign {self.sign}: give a margin from 0, and 1 or -1")

    @property
    def threshold(self) -> float:
        """What the effect is held against."""
        return self.null + self.sign * self.margin

    def shown(self, level: float = LEVEL) -> bool:
        """Whether the whole interval lies beyond the threshold."""
        ends = self.effect.at(level)
        return ends.low > self.threshold if self.sign > 0 else ends.high < self.threshold

    def refuted(self, level: float = LEVEL) -> bool:
        """Whether the whole interval lies on the other side."""
        ends = self.effect.at(level)
        return ends.high < self.threshold if self.sign > 0 else ends.low > self.threshold

    def seeds_to_decide(self) -> float:
        """How many seeds decide with a chance of POWER if the effect is as measured, infinite if MOST do not.

        n (h / d)^2 (1 + z / z')^2: h is half the interval, d the distance from effect to threshold, z and z' the normal
        quantiles of POWER and of the level; h shrinks as one over the root of n.
        """
        half, away = (self.effect.high - self.effect.low) / 2, abs(self.effect.value - self.threshold)
        if not away or not isfinite(half) or not self.effect.n:
            return inf
        quantiles = stats.norm.ppf(POWER) / stats.norm.ppf((1 + LEVEL) / 2)
        needed = max(self.effect.n + 1, ceil(self.effect.n * (half / away * (1 + quantiles)) ** 2))
        return needed if needed <= MOST else inf


@dataclass(frozen=True)
class Verdict:
    """What a study says of one claim on one backbone.

    effect: what was measured, with its interval, of the claim's first part; null: what it is held against, with its
    margin. n: seeds; seeds: how many would decide, of an undecided claim, infinite if more than MOST. Raises ValueError
    for a verdict that is not one of WORDS.
    """

    study: str
    claim: str
    backbone: str
    effect: Interval
    null: float
    verdict: str
    margin: float = 0.0
    seeds: float | None = None

    def __post_init__(self):
        if self.verdict not in WORDS:
            raise ValueError(f"not a verdict: {self.verdict!r}; choose from {', '.join(WORDS)}")


def judge(
    study: str, claim: str, backbone: str, parts: Sequence[Part], *, gate: bool = False, effect: Interval | None = None
) -> Verdict:
    """The verdict on a claim from its parts.

    One part: as it is shown, refuted, or neither. Several of equal standing, such as timesteps: the claim holds if all
    are shown, in part if some are after Holm's correction (1979) for their number, not if all are refuted. gate: the
    first part is the claim, and the others are what makes it whole; they count only once it is shown, so that nothing
    need be corrected. effect: what the table shows, that of the first part if None. Raises ValueError for a claim
    without parts.
    """
    if not parts:
        raise ValueError("a claim without parts has no verdict: test at least one")
    first = parts[0]
    if gate:
        shown, refuted = [part.shown() for part in parts], first.refuted()
        word = HOLDS if all(shown) else IN_PART if shown[0] else NOT if refuted else UNDECIDED
        open_parts = [first]
    else:
        shown = [part.shown() for part in parts]
        refuted = [part.refuted() for part in parts]
        some = any(holm(parts))
        word = HOLDS if all(shown) else IN_PART if some else NOT if all(refuted) else UNDECIDED
        open_parts = [part for part, one, other in zip(parts, shown, refuted, strict=True) if not (one or other)]
    # a part that was shown by itself, but not for all together, is as far from its threshold as it can be
    seeds = max((part.seeds_to_decide() for part in open_parts or parts), default=inf) if word == UNDECIDED else None
    return Verdict(study, claim, backbone, effect or first.effect, first.null, word, first.margin, seeds)


def holm(parts: Sequence[Part]) -> list[bool]:
    """Which parts are shown after Holm's correction: with a chance of 2.5% at most that any of them is by mistake.

    Step by step: of m parts that are left, those whose interval at level 1 - 0.05 / m lies beyond the threshold.
    """
    shown = [False] * len(parts)
    while left := [i for i, done in enumerate(shown) if not done]:
        more = [i for i in left if parts[i].shown(1 - (1 - LEVEL) / len(left))]
        if not more:
            break
        for i in more:
            shown[i] = True
    return shown


def write(verdicts: Iterable[Verdict]) -> Path | None:
    """Write verdicts into the table, in place of earlier ones on the same study, claim and backbone.

    Rows are sorted by study, claim and backbone, whichever study ran first. Returns the table's path, None if there
    are not verdicts.
    """
    rows = []
    for v in verdicts:
        numbers = {"effect": v.effect.value, "low": v.effect.low, "high": v.effect.high, "null": v.null}
        numbers["margin"] = v.margin
        row = {"study": v.study, "claim": v.claim, "backbone": v.backbone}
        row |= {name: f"{x:.6f}" for name, x in numbers.items()} | {"n": v.effect.n, "verdict": v.verdict}
        rows.append(
            row | {"seeds": "" if v.seeds is None else f"more than {MOST}" if v.seeds == inf else f"{v.seeds:g}"}
        )
    path = outputs("tables", "verdicts.csv")
    return update_csv(path, rows, ["study", "claim", "backbone"], _place) if rows else None


def _place(row: Mapping[str, str]) -> tuple[int, str, str]:
    """What the table's rows are sorted by."""
    study = STUDIES.index(row["study"]) if row["study"] in STUDIES else len(STUDIES)
    return study, row["claim"], row["backbone"]


def text(verdicts: Sequence[Verdict]) -> str:
    """Verdicts as a table for print: one line for each claim, one column for each backbone, "-" where there is none."""
    columns = list(dict.fromkeys(v.backbone for v in verdicts))
    cells = {(v.claim, v.backbone): v.verdict for v in verdicts}
    claims = list(dict.fromkeys(v.claim for v in verdicts))
    lines = [["", *columns], *([claim, *(cells.get((claim, name), "-") for name in columns)] for claim in claims)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("   ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
