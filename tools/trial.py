"""make trials: tries every kind of fault in tools/kinds.csv by its tests, and keeps the outcomes in a table.

python -m tools.trial [GROUP ...]: tries the kinds of some groups only, and replaces their lines. Each failure counts as
the worst that it could mean, as in kinds.csv: lost work, a wrong answer without a word, or an unclear refusal.
"""

import csv
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from lsvd.checks import known
from lsvd.paths import build, outputs
from lsvd.storage.files import update_csv

ROOT = Path(__file__).resolve().parents[1]
WORST = ("lost", "wrong", "unclear")


@dataclass(frozen=True)
class Kind:
    """A kind of fault: the trial, its outcome, the meaning of a failure, and its tests.

    tests: names as `file::test`, or `file::test[case]` with _ for blanks. A named case belongs to that kind alone, not
    to one that names the whole test.
    """

    group: str
    trial: str
    outcome: str
    worst: str
    tests: tuple[str, ...]


def kinds() -> list[Kind]:
    """All kinds, in the order of the table."""
    with (Path(__file__).parent / "kinds.csv").open(newline="", encoding="utf-8") as file:
        return [Kind(**row | {"tests": tuple(row["tests"].split())}) for row in csv.DictReader(file)]


def file_of(test: str) -> Path:
    """The file of a test, relative to the root; names of test files are unique."""
    [path] = (ROOT / "tests").rglob(f"{test.partition('::')[0]}.py")
    return path.relative_to(ROOT)


def run(tests: Iterable[str], report: Path) -> dict[str, str]:
    """Run tests, and return the outcome of each case, held, failed or skipped, by its name as in Kind."""
    whole = sorted({test.partition("[")[0] for test in tests})
    names = [f"{file_of(test)}::{test.partition('::')[2]}" for test in whole]
    workers = os.environ.get("WORKERS") or "2"
    options = ["-q", "-n", workers, "--dist", "loadfile", "-p", "no:cacheprovider", f"--junitxml={report}"]
    environment = {**os.environ, "LSVD_TRIALS": "1"}
    subprocess.run([sys.executable, "-m", "pytest", *options, *names], cwd=ROOT, env=environment)
    return outcomes(report)


def outcomes(report: Path) -> dict[str, str]:
    """The outcome of each case in a report of pytest in JUnit's format."""
    results = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname').rpartition('.')[2]}::{case.get('name')}".replace(" ", "_")
        tags = {child.tag for child in case}
        results[name] = "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "held"
    return results


def rows(selection: Iterable[Kind], results: dict[str, str]) -> list[dict[str, str | int]]:
    """A line of the table for each kind. A kind whose tests are not among `results` counts as one failure."""
    claimed = {test for kind in kinds() for test in kind.tests if "[" in test}
    lines = []
    for kind in selection:
        cases = [
            outcome
            for name, outcome in results.items()
            if name in kind.tests or (name.partition("[")[0] in kind.tests and name not in claimed)
        ] or ["failed"]
        line = {"group": kind.group, "kind": kind.trial, "outcome": kind.outcome, "trials": len(cases)}
        line |= {"held": cases.count("held")}
        line |= {worst: cases.count("failed") if worst == kind.worst else 0 for worst in WORST}
        lines.append(line | {"skipped": cases.count("skipped")})
    return lines


def main(groups: list[str]) -> int:
    """Try the kinds of some groups, or all; 0 if all of them held."""
    all_kinds = kinds()
    names = list(dict.fromkeys(kind.group for kind in all_kinds))
    for group in groups:
        known(group, names, "group of trials")
    selection = [kind for kind in all_kinds if not groups or kind.group in groups]
    report = build("trials.xml")
    report.parent.mkdir(parents=True, exist_ok=True)
    lines = rows(selection, run({test for kind in selection for test in kind.tests}, report))
    place = {(kind.group, kind.trial): number for number, kind in enumerate(all_kinds)}
    table = outputs("tables", "reliability.csv")
    update_csv(table, lines, ["group", "kind"], lambda row: place.get((row["group"], row["kind"]), len(place)))
    total = {name: sum(line[name] for line in lines) for name in ("trials", "held", *WORST, "skipped")}
    print(f"{len(lines)} kinds:", ", ".join(f"{count} {name}" for name, count in total.items()), f"({table})")
    return 0 if total["held"] + total["skipped"] == total["trials"] else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ValueError, OSError) as error:
        sys.exit(str(error))
