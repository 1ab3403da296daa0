"""Intervals cover what they say, by a small simulation, and the table of the large one."""

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lsvd.statistics.intervals import Interval
from lsvd.studies import coverage
from lsvd.studies.coverage import CASES, Case

TABLE = Path(__file__).resolve().parents[2] / "outputs" / "tables" / "coverage.csv"
LEAST = 0.93  # of what is to be covered


def covered_enough(share: float, repetitions: int) -> bool:
    """Whether as few covered samples would be seen once in a thousand times if LEAST were covered."""
    return stats.binom.cdf(round(share * repetitions), repetitions, LEAST) > 1e-3


@pytest.mark.parametrize("n", coverage.SIZES)
@pytest.mark.parametrize("case", [case for case in CASES if case.cost == 1], ids=lambda case: case.law)
def test_means_cover_under_every_law(case, n):
    share, width = coverage.coverage(case, n, 300)
    assert covered_enough(share, 300) and np.isfinite(width)


@pytest.mark.parametrize("case", [case for case in CASES if case.cost == 4], ids=lambda c: f"{c.interval}, {c.law}")
def test_what_shares_seeds_is_covered(case):
    share, _ = coverage.coverage(case, 16, 40)
    assert covered_enough(share, 40)


def test_students_t_alone_would_not_do():
    """The check sees what it is there for."""

    def student(rng, n, m):
        ends = stats.ttest_1samp(rng.beta(0.3, 3, (m, n)), 0, axis=1).confidence_interval()
        return ends.low, ends.high

    share, _ = coverage.coverage(Case("t", "beta", student, lambda n: 0.3 / 3.3), 8, 300)
    assert not covered_enough(share, 300)


def test_the_bend_of_a_line_may_be_none_and_that_of_a_curve_may_not():
    line, curve = (coverage.of_bends(step).ends(np.random.default_rng(0), 16, 12) for step in (False, True))
    assert (line[0] == 0).mean() > 0.7 and (curve[0] > 0.1).all()


def test_chunks_are_kept_and_a_stopped_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    calls = []

    def ends(rng, n, m):
        calls.append(m)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return -rng.random(m), rng.random(m)

    case = Case("mine", "uniform", ends, lambda n: 0.0)
    with pytest.raises(KeyboardInterrupt):
        coverage.coverage(case, 8, 50, 20, keep=True)
    assert coverage.coverage(case, 8, 50, 20, keep=True)[0] == 1 and calls == [20, 20, 10, 10]
    assert coverage.coverage(case, 8, 50, 20, keep=True) == coverage.coverage(case, 8, 50, 20)


def test_the_table_has_every_case_and_covers(monkeypatch):
    with TABLE.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    shown = {(row["interval"], row["law"], int(row["n"])) for row in rows}
    assert shown == {(case.interval, case.law, n) for case in CASES for n in coverage.SIZES}
    for row in rows:
        assert covered_enough(float(row["covers"]), int(row["repetitions"])), row
        if row["interval"] == "mean":
            assert float(row["covers"]) >= LEAST


def test_a_case_counts_what_its_interval_holds():
    case = Case("mine", "none", coverage._each(lambda rng, n: Interval(0, -1, rng.random() - 0.25)), lambda n: 0.0)
    share, width = coverage.coverage(case, 8, 400)
    assert share == pytest.approx(0.75, abs=0.07) and width == pytest.approx(1.25, abs=0.1)
