"""Measured numbers as Markdown, for README and docs, from outputs/tables: python -m lsvd tables [NAME ...]."""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from math import isfinite

from lsvd.checks import known
from lsvd.paths import outputs

Column = str | tuple[str, str, str]  # of a table: one of its columns, or the value, low and high end of an interval


def ends(head: str) -> tuple[str, str, str]:
    """The columns of a value and its interval, as lsvd.statistics.intervals.columns names them."""
    return head, f"{head}_low", f"{head}_high"


VERDICTS: dict[str, Column] = {
    "claim": "claim",
    "backbone": "backbone",
    "effect [95% interval]": ("effect", "low", "high"),
    "null": "null",
    "margin": "margin",
    "seeds": "n",
    "verdict": "verdict",
}
JUDGED = ("neighbourhood", "encoding", "order", "editing", "strength", "ablation", "predictions")
"""The studies whose claims are shown; each table is the part of verdicts.csv that is theirs."""
TABLES: dict[str, dict[str, Column]] = {
    **dict.fromkeys(JUDGED, VERDICTS),
    "comparison": {
        "method": "method",
        "CLIP score": "clip",
        "FID": "fid",
        "LPIPS": "lpips_imagenet",
        "success [95% interval]": ends("success"),
        "side effects [95% interval]": ends("side_effects"),
        "evaluations": "evaluations",
    },
    "inversion": {
        "way back to the noise": "way",
        "PSNR, dB [95% interval]": ("psnr", "psnr_low", "psnr_high"),
        "least": "least",
        "factors moved [95% interval]": ("factors_moved", "factors_moved_low", "factors_moved_high"),
    },
    "inversion_edits": {
        "attribute": "attribute",
        "success [95% interval]": ("success", "success_low", "success_high"),
        "portraits": "lacking",
        "side effects [95% interval]": ("side_effects", "side_effects_low", "side_effects_high"),
        "without the edit": ("null", "null_low", "null_high"),
    },
    "backbones": {
        "backbone": "backbone",
        "measure": "measure",
        "value [95% interval]": ("value", "low", "high"),
        "floor": "floor",
    },
    "reader": {"scene": "scene", "factor": "factor", "score": "score", "degraded": "degraded"},
    "coverage": {
        "interval": "interval",
        "law": "law",
        "seeds": "n",
        "covers": "covers",
        "median width": "width",
        "samples": "repetitions",
    },
    "exchanges": {
        "study": "study",
        "rule": "rule",
        "backbone": "backbone",
        "verdicts": "verdicts",
        "hold by mistake [95% interval]": ("false", "false_low", "false_high"),
    },
    "bench": {"what": "name", "times as fast [95% interval]": ("ratio", "low", "high"), "seconds": "seconds"},
    "explorer": {"what": "what", "seconds, median": "median", "least": "least", "most": "most"},
    "fullsize": {
        "model": "name",
        "device": "device",
        "dtype": "dtype",
        "steps": "steps",
        "picture": "way",
        "calls of the UNet": "calls",
        "seconds": "seconds",
        "of two trajectories": "of_two_trajectories",
        "peak memory, GiB": "peak_gib",
        "of the plain pipeline's": "of_plain_memory",
    },
    "reliability": {"group": "group", "trial": "kind", "what happens": "outcome", "trials": "trials", "held": "held"},
}
"""For each table: heading and column of each column shown."""
DIGITS = {"clip": "0.1", "fid": "0.1", "lpips_imagenet": "0.001"}
"""Of columns that are numbers by themselves."""
ROUNDED = ("floor", "null", "margin", "least")
FOUND = (
    ("Codes along a trajectory lie nearer than chance (property 1)", "neighbourhood", "nearer than: chance"),
    (
        "They lie nearer than the starting noise alone explains",
        "neighbourhood",
        "nearer than: its noise, another's x_0",
    ),
    ("Fine attributes answer to singular values (property 2)", "encoding", "encoded: fine attributes"),
    ("Coarse attributes answer at large t, fine ones at small t", "encoding", "coarse at large t, fine at small t"),
    (
        "Fine attributes rise in the order as t falls (property 3)",
        "order",
        "fine attributes rise in the order as t falls",
    ),
    ("AVI beats all its controls at equal side effects", "editing", "AVI beats all controls at equal side effects"),
    ("Strength turns an attribute up", "strength", "strength turns the attribute up (AVI, z branched)"),
    ("Without the loss L1 there is no attribute", "ablation", "without L1: no attribute"),
)
"""The README's rows: what was asked, in words, its study, and its claim in verdicts.csv."""
FOUR = "the paper's four"
"""The rows of comparison.csv that are shown: means over the attributes of the paper's Table 1."""
SECTIONS = "docs/results.md#{}"


def read(name: str) -> list[dict[str, str]]:
    """The rows of a table of outputs/tables, or of a study's verdicts.

    Raises ValueError if the table is missing, or lacks a column that is shown.
    """
    path = outputs("tables", f"{'verdicts' if name in JUDGED else name}.csv")
    if not path.is_file():
        raise ValueError(f"there is no {path}: run make measure and make reproduce")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if name in JUDGED:
        rows = [row for row in rows if row.get("study") == name]
    if name == "comparison":
        rows = [row for row in rows if row.get("attribute") == FOUR and row.get("backbone") == "mini-sd"]
    needed = [part for column in TABLES.get(name, {}).values() for part in _parts(column)]
    if not rows or any(None in row.values() or None in row or not row.keys() >= set(needed) for row in rows):
        raise ValueError(f"{path} is damaged or lacks one of {', '.join(needed)}: move it away and measure again")
    return rows


def markdown(name: str, rows: Iterable[Mapping[str, str]]) -> str:
    """Rows of a table as Markdown, one line each; a table that is not one of TABLES is shown as it is.

    An interval has three decimals where all of it lies in [-1, 1], as shares do, and one otherwise; single numbers have
    those of their line's first interval. Halves are rounded away from zero. An interval that was not measured stays
    empty. Raises ValueError for numbers that are not finite.
    """
    rows = list(rows)
    columns = TABLES.get(name) or {key: key for key in rows[0]}
    first = next((column for column in columns.values() if not isinstance(column, str)), None)
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for row in rows:
        cells = (
            interval(row, column)
            if not isinstance(column, str)
            else _rounded(row[column], DIGITS[column])
            if column in DIGITS
            else _rounded(row[column], _decimals(row, first))
            if column in ROUNDED and first
            else verdict(row)
            if column == "verdict"
            else row[column]
            for column in columns.values()
        )
        lines.append("".join(f"| {cell} " if cell else "| " for cell in cells) + "|")
    return "\n".join(lines)


def interval(row: Mapping[str, str], column: tuple[str, str, str]) -> str:
    """Three numbers of a row as `value [low, high]`, "" if they were not measured."""
    value, low, high = (_rounded(row[part], _decimals(row, column)) for part in column)
    return f"{value} [{low}, {high}]" if value else ""


def verdict(row: Mapping[str, str]) -> str:
    """The verdict of a row of verdicts.csv, with the number of seeds that would decide what is undecided."""
    return f"{row['verdict']} ({row['seeds']} seeds would decide)" if row["seeds"] else row["verdict"]


def findings() -> str:
    """The README's table: each line of FOUND with its effect on mini-sd, and on how many models its claim holds."""
    lines = ["| question | effect on mini-sd [95% interval] | verdict |", "|---|---|---|"]
    for words, study, claim in FOUND:
        rows = {row["backbone"]: row for row in read(study) if row["claim"] == claim}
        if "mini-sd" not in rows:
            raise ValueError(f"verdicts.csv has no line on {claim!r} and mini-sd: run make reproduce")
        counts = Counter(row["verdict"] for row in rows.values())
        most = sorted(counts, key=lambda word: (-counts[word], word))
        word = most[0] if len(rows) == 1 else ", ".join(f"{kind}: {counts[kind]} of {len(rows)}" for kind in most)
        effect = interval(rows["mini-sd"], VERDICTS["effect [95% interval]"])
        lines.append(f"| [{words}]({SECTIONS.format(study)}) | {effect} | {word} |")
    return "\n".join(lines)


def trials() -> str:
    """How many kinds of fault were tried, in how many single trials, and what came of them, by group and in all."""
    counted = ("trials", "held", "lost", "wrong", "unclear", "skipped")
    groups: dict[str, Counter] = {}
    for row in read("reliability"):
        numbers = {"kinds": 1, **{name: int(row[name]) for name in counted}}
        for group in (row["group"], "all"):
            groups.setdefault(group, Counter()).update(numbers)
    groups["all"] = groups.pop("all")
    heads = ("group", "kinds", *counted[:3], "silently wrong", *counted[4:])
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for group, counts in groups.items():
        lines.append(f"| {' | '.join(map(str, (group, *(counts[name] for name in ('kinds', *counted)))))} |")
    return "\n".join(lines)


def registry() -> str:
    """The checkpoints of the hub that have a name: their defaults, and an edit's memory where it was measured."""
    from lsvd.backbones.registry import EMBEDDED, REGISTRY  # loads torch, which no other table needs

    measured = [row for row in read("fullsize") if row["device"] == "cpu" and row["way"] == "edit"]
    peaks = {row["name"]: row["peak_gib"] for row in measured}
    heads = ("name", "is", "on the hub", "pixels", "steps", "guidance", "dtype on a GPU")
    lines = [f"| {' | '.join(heads)} | memory of an edit, float32 | tried with random weights |", f"|{'---|' * 9}"]
    for name, entry in REGISTRY.items():
        if name in EMBEDDED:
            continue
        like = "ddpm-celebahq" if name.startswith("ddpm") else name  # of one architecture
        guidance = "" if entry.guidance is None else format(entry.guidance, "g")
        cells = [f"`{name}`", entry.stands_for, ", ".join(entry.hub), entry.size, entry.steps, guidance, entry.half]
        cells += [f"{peaks[like]} GiB", "full size"] if like in peaks else ["not measured", "tiny"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _parts(column: Column) -> Sequence[str]:
    return (column,) if isinstance(column, str) else column


def _decimals(row: Mapping[str, str], column: tuple[str, str, str]) -> str:
    return "0.001" if all(not row[part] or abs(float(row[part])) <= 1 for part in column) else "0.1"


def _rounded(number: str, decimals: str) -> str:
    if number and not isfinite(float(number)):
        raise ValueError(f"not a finite number: {number}; run make measure")
    # of the decimals as they are written: binary ones would make 0.417 of 0.4175
    return str(Decimal(number).quantize(Decimal(decimals), ROUND_HALF_UP)) if number else ""


def text(name: str) -> str:
    """A table by its name, one of NAMES, as Markdown. Raises ValueError for another name, and as `read`."""
    known(name, NAMES, "table")
    special = {"found": findings, "registry": registry, "trials": trials}
    return special[name]() if name in special else markdown(name, read(name))


NAMES = ("found", *TABLES, "trials", "families", "schedulers", "registry")
