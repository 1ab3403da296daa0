"""The trials of docs/reliability.md: each kind has tests, and each failure counts as the worst that it could mean."""

import ast
import csv

import pytest
from clones import ROOT

from tools import trial

KINDS = trial.kinds()


def test_every_kind_has_tests_and_every_trial_a_kind():
    functions = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions |= {f"{path.stem}::{node.name}": path for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    named = {test.partition("[")[0] for kind in KINDS for test in kind.tests}
    assert named <= functions.keys()
    here = {name for name, path in functions.items() if path.parent.name == "reliability" and "::test_" in name}
    # that is not of a fault
    assert here - named == {"test_load::test_edits_of_many_pictures_are_those_of_few"}


def test_kinds_are_told_apart():
    assert len({(kind.group, kind.trial) for kind in KINDS}) == len(KINDS) >= 167
    assert {kind.worst for kind in KINDS} <= set(trial.WORST)
    assert all(kind.tests and kind.outcome for kind in KINDS)


def test_the_table_is_of_these_kinds():
    with (ROOT / "outputs/tables/reliability.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    known = [(kind.group, kind.trial, kind.outcome) for kind in KINDS]
    shown = [(row["group"], row["kind"], row["outcome"]) for row in rows]
    assert shown == [each for each in known if each in shown]
    for row in rows:
        counts = [int(row[name]) for name in ("held", *trial.WORST, "skipped")]
        assert int(row["trials"]) == sum(counts) > 0


REPORT = """<testsuites><testsuite>
<testcase classname="tests.a.test_a" name="test_one" />
<testcase classname="tests.a.test_a" name="test_two[first case]" />
<testcase classname="tests.a.test_a" name="test_two[second]"><failure message="x" /></testcase>
<testcase classname="tests.a.test_a" name="test_two[third]"><error message="x" /></testcase>
<testcase classname="tests.a.test_a" name="test_three"><skipped message="x" /></testcase>
</testsuite></testsuites>"""


def test_failures_count_as_the_worst(tmp_path, monkeypatch):
    (tmp_path / "r.xml").write_text(REPORT)
    found = trial.outcomes(tmp_path / "r.xml")
    assert list(found.values()) == ["held", "held", "failed", "failed", "skipped"]
    made = [
        trial.Kind("g", "a", "", "lost", ("test_a::test_one", "test_a::test_two")),
        trial.Kind("g", "b", "", "wrong", ("test_a::test_two[first_case]", "test_a::test_three")),
        trial.Kind("g", "c", "", "unclear", ("test_a::test_gone",)),
    ]
    monkeypatch.setattr(trial, "kinds", lambda: made)
    counts = [[row[name] for name in ("trials", "held", *trial.WORST, "skipped")] for row in trial.rows(made, found)]
    assert counts == [[3, 1, 2, 0, 0, 0], [2, 1, 0, 0, 0, 1], [1, 0, 0, 0, 1, 0]]


def test_a_group_that_is_not_there():
    with pytest.raises(ValueError, match="there is no group of trials 'weather': choose from kills, disks"):
        trial.main(["weather"])
