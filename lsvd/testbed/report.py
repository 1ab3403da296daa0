"""The measured models as a table for the README: python -m lsvd.testbed.report."""

import csv
import sys
from collections.abc import Iterable, Mapping
from decimal import ROUND_HALF_UP, Decimal
from math import isfinite
from pathlib import Path

from lsvd.files import outputs

COLUMNS = ("backbone", "measure", "value", "low", "high", "floor")


def read(path: str | Path) -> list[dict[str, str]]:
    """The rows of a table as `make measure` writes it. Raises ValueError if it is missing, or lacks a column."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no {path}: run make measure")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or any(row.get(name) is None for row in rows for name in COLUMNS):
        raise ValueError(f"{path} is damaged or lacks one of {', '.join(COLUMNS)}: move it away and run make measure")
    return rows


def markdown(rows: Iterable[Mapping[str, str]]) -> str:
    """Rows of backbones.csv as a Markdown table, one line each: backbone, measure, value [low, high], floor.

    Three decimals where value, low and high lie in [0, 1], as shares do; one otherwise. Halves are rounded up. Raises
    ValueError for what is no finite number.
    """
    lines = ["| backbone | measure | value [95% interval] | floor |", "|---|---|---|---|"]
    for row in rows:
        share = all(0 <= float(row[name]) <= 1 for name in ("value", "low", "high"))
        value, low, high, floor = (_rounded(row[name], share) for name in ("value", "low", "high", "floor"))
        lines.append(f"| {row['backbone']} | {row['measure']} | {value} [{low}, {high}] | {floor and floor + ' '}|")
    return "\n".join(lines)


def _rounded(number: str, share: bool) -> str:
    if number and not isfinite(float(number)):
        raise ValueError(f"{number} is no finite number: run make measure")
    # of the decimals as they are written: binary ones would make 0.417 of 0.4175
    return str(Decimal(number).quantize(Decimal("0.001" if share else "0.1"), ROUND_HALF_UP)) if number else ""


def main() -> int:
    """The command line; returns 0."""
    try:
        text = markdown(read(outputs("tables", "backbones.csv")))
    except (ValueError, OSError) as error:
        raise SystemExit(str(error)) from error
    sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
