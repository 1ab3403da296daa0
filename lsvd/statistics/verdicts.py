"""Verdicts on the paper's claims, and their table outputs/tables/verdicts.csv.

Each study has three doors: `measure` returns its numbers, `verdicts` judges them, `rows` are its table's rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lsvd.paths import outputs
from lsvd.statistics.intervals import Interval
from lsvd.storage.files import update_csv

HOLDS, IN_PART, NOT = "holds", "holds in part", "does not hold"
STUDIES = ("neighbourhood", "encoding", "order", "editing", "strength", "ablation", "inversion")
"""The studies in the order of their notebooks; the table of verdicts has the same order."""


@dataclass(frozen=True)
class Verdict:
    """What a study says of one claim on one backbone.

    effect: what was measured, with its interval; null: what it is held against. Raises ValueError for a verdict other
    than HOLDS, IN_PART and NOT.
    """

    study: str
    claim: str
    backbone: str
    effect: Interval
    null: float
    verdict: str

    def __post_init__(self):
        if self.verdict not in (HOLDS, IN_PART, NOT):
            raise ValueError(f"not a verdict: {self.verdict!r}; choose from {HOLDS}, {IN_PART}, {NOT}")


def judge(parts: Sequence[bool]) -> str:
    """ "holds" if all parts of a claim are shown, "does not hold" if none is, else "holds in part".

    Raises ValueError for a claim without parts.
    """
    if not parts:
        raise ValueError("a claim without parts has no verdict: test at least one")
    return HOLDS if all(parts) else IN_PART if any(parts) else NOT


def write(verdicts: Iterable[Verdict]) -> Path | None:
    """Write verdicts into the table, in place of earlier ones on the same study, claim and backbone.

    Rows are sorted by study, claim and backbone, whichever study ran first. Returns the table's path, None if there
    are not verdicts.
    """
    rows = []
    for v in verdicts:
        numbers = {"effect": v.effect.value, "low": v.effect.low, "high": v.effect.high, "null": v.null}
        row = {"study": v.study, "claim": v.claim, "backbone": v.backbone}
        rows.append(row | {name: f"{x:.6f}" for name, x in numbers.items()} | {"verdict": v.verdict})
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
