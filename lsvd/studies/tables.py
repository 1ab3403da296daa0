"""Measured numbers as tables for the README: python -m lsvd.studies.tables [NAME ...]."""

import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from math import isfinite
from pathlib import Path

from lsvd.paths import outputs

# Verdicts are shown property by property: those on claims that begin like this.
CLAIMS = {
    "neighbourhood": ("nearer than", "varies less"),
    "encoded": ("encoded", "coarse at large t"),
    "order": ("coarse attributes", "fine attributes", "ranks move"),
    "editing": ("AVI beats",),
    "strength": ("strength turns",),
    "ablation": ("without L",),
}
VERDICTS = {
    "claim": "claim",
    "backbone": "backbone",
    "effect [95% interval]": ("effect", "low", "high"),
    "null": "null",
    "verdict": "verdict",
}
# For each table of outputs/tables: heading and column of each column shown, or value, low and high end of an interval.
TABLES: dict[str, dict[str, str | tuple[str, str, str]]] = {
    "backbones": {
        "backbone": "backbone",
        "measure": "measure",
        "value [95% interval]": ("value", "low", "high"),
        "floor": "floor",
    },
    "quickstart": {
        "target": "target",
        "method": "method",
        "success [95% interval]": ("success", "low", "high"),
        "seeds": "n",
        "side effects [95% interval]": ("side effects", "side low", "side high"),
    },
    **dict.fromkeys(CLAIMS, VERDICTS),
}
NUMBERS = ("floor", "null")


def read(name: str) -> list[dict[str, str]]:
    """The rows of one of TABLES. Raises ValueError if it is missing, or lacks a column."""
    path = Path(outputs("tables", f"{'verdicts' if name in CLAIMS else name}.csv"))
    if not path.is_file():
        raise ValueError(f"there is no {path}: run make measure and make reproduce")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if name in CLAIMS:
        rows = [row for row in rows if (row.get("claim") or "").startswith(CLAIMS[name])]
    needed = [part for column in TABLES[name].values() for part in ([column] if isinstance(column, str) else column)]
    if not rows or any(row.get(part) is None for row in rows for part in needed):
        raise ValueError(f"{path} is damaged or lacks one of {', '.join(needed)}: move it away and make it anew")
    return rows


def markdown(name: str, rows: Iterable[Mapping[str, str]]) -> str:
    """Rows of a table as Markdown, one line each.

    A number has three decimals where all of its line's first interval lies in [-1, 1], as shares do; one otherwise.
    Halves are rounded away from zero. An interval that was not measured stays empty. Raises ValueError for what is no
    finite number.
    """
    columns = TABLES[name]
    first = next(column for column in columns.values() if not isinstance(column, str))
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for row in rows:
        fine = all(not row[part] or abs(float(row[part])) <= 1 for part in first)
        cells = [_cell(row, column, fine) for column in columns.values()]
        lines.append("".join(f"| {cell} " if cell else "| " for cell in cells) + "|")
    return "\n".join(lines)


def _cell(row: Mapping[str, str], column: str | tuple[str, str, str], fine: bool) -> str:
    if isinstance(column, str):
        return _rounded(row[column], fine) if column in NUMBERS else row[column]
    value, low, high = (_rounded(row[part], fine) for part in column)
    return f"{value} [{low}, {high}]" if value else ""


def _rounded(number: str, fine: bool) -> str:
    if number and not isfinite(float(number)):
        raise ValueError(f"{number} is no finite number: run make measure")
    # of the decimals as they are written: binary ones would make 0.417 of 0.4175
    return str(Decimal(number).quantize(Decimal("0.001" if fine else "0.1"), ROUND_HALF_UP)) if number else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: prints the tables named, or all; returns 0."""
    names = list(sys.argv[1:] if arguments is None else arguments) or list(TABLES)
    try:
        strange = [name for name in names if name not in TABLES]
        if strange:
            raise ValueError(f"there is no table {strange[0]!r}: choose from {', '.join(TABLES)}")
        texts = [f"<!-- {name} -->\n\n{markdown(name, read(name))}\n\n<!-- /{name} -->\n" for name in names]
    except (ValueError, OSError) as error:
        raise SystemExit(str(error)) from error
    sys.stdout.write("\n".join(texts))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
