"""Verdicts follow from the parts of a claim, and their table does not depend on who wrote first."""

import csv
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsvd.paths import outputs
from lsvd.statistics import verdicts
from lsvd.statistics.intervals import Interval, mean
from lsvd.statistics.verdicts import HOLDS, IN_PART, NOT, STUDIES, UNDECIDED, Part, Verdict, holm, judge


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))


def small(study="order", claim="small", backbone="a", value=0.5, said=HOLDS):
    return Verdict(study, claim, backbone, Interval(value, value - 0.1, value + 0.1), 0.8, said)


def table():
    with outputs("tables", "verdicts.csv").open(newline="") as file:
        return list(csv.DictReader(file))


UP, OPEN, DOWN = (mean(np.linspace(-1, 1, 16) + shift) for shift in (2, 0.1, -2))


def word(parts, **options):
    return judge("order", "small", "a", [Part(each) for each in parts], **options).verdict


@given(st.lists(st.sampled_from([UP, OPEN, DOWN]), min_size=1, max_size=4))
def test_a_claim_of_several_parts(parts):
    expected = (
        HOLDS
        if all(part is UP for part in parts)
        else IN_PART
        if UP in parts
        else NOT
        if all(part is DOWN for part in parts)
        else UNDECIDED
    )
    assert word(parts) == expected
    gated = {UP: HOLDS if all(part is UP for part in parts) else IN_PART, DOWN: NOT, OPEN: UNDECIDED}
    assert word(parts, gate=True) == next(gated[part] for part in (UP, DOWN, OPEN) if part is parts[0])


def test_the_threshold_is_the_null_with_its_margin():
    """One threshold: more seeds never turn what was refuted into what holds."""
    small = mean(0.05 + 0.01 * np.linspace(-1, 1, 16))  # above 0 for certain, below 0.1 for certain
    for sign in (1, -1):
        effect = small if sign > 0 else mean(-0.05 + 0.01 * np.linspace(-1, 1, 16))
        for null, margin, said in ((0, 0, HOLDS), (0, 0.05, UNDECIDED), (0, 0.1, NOT), (sign * 0.1, 0, NOT)):
            claim = judge("order", "small", "a", [Part(effect, null, margin, sign)])
            assert (claim.verdict, claim.null, claim.margin) == (said, null, margin)


def test_the_seeds_that_would_decide():
    """Four in five samples of that many seeds decide, of those of the formula's own law."""
    rng = np.random.default_rng(0)
    sample = rng.standard_normal(32)
    sample = (sample - sample.mean()) / sample.std(ddof=1) + 0.25
    claim = judge("order", "small", "a", [Part(mean(sample))])
    assert claim.verdict == UNDECIDED and 32 < claim.seeds < 200
    shown = [Part(mean(0.25 + rng.standard_normal(int(claim.seeds)))).shown() for _ in range(200)]
    assert 0.7 < np.mean(shown) < 0.9
    nearer, farther = (judge("order", "small", "a", [Part(mean(sample - x))]).seeds for x in (0.2, 0.1))
    assert nearer > farther > claim.seeds
    assert judge("order", "small", "a", [Part(mean(sample - 0.25))]).seeds == float("inf")
    assert judge("order", "small", "a", [Part(UP)]).seeds is None


def test_holm_is_that_of_p_values():
    """Step down: the i-th smallest p of m is held against 0.025 / (m - i + 1)."""
    rng = np.random.default_rng(1)
    for shift in rng.uniform(0, 1.5, 12):
        samples = rng.standard_normal((4, 16)) + shift * rng.random((4, 1))
        parts = [Part(mean(each)) for each in samples]
        grid = np.linspace(0.0002, 0.05, 200)
        p = np.array([next((a for a in grid if part.shown(1 - 2 * a)), 1.0) for part in parts])
        expected, order = np.zeros(4, bool), p.argsort()
        for rank, i in enumerate(order):
            if p[i] > 0.025 / (4 - rank):
                break
            expected[i] = True
        near = np.abs(p[:, None] - 0.025 / np.arange(1, 5)).min() < 0.0005
        assert near or holm(parts) == expected.tolist()


def test_parts_that_are_shown_only_by_themselves_are_not_shown_together():
    edge = next(e for shift in np.linspace(0, 1, 200) if (e := mean(np.linspace(-1, 1, 16) + shift)).low > 0.001)
    assert word([edge]) == HOLDS and word([edge, OPEN, OPEN, OPEN]) == UNDECIDED and word([edge] * 4) == HOLDS


def test_a_later_verdict_on_the_same_claim_replaces_the_earlier():
    verdicts.write([small(), small(backbone="b"), small("encoding")])
    verdicts.write([small(value=0.9, said=NOT)])
    rows = {(row["study"], row["claim"], row["backbone"]): row for row in table()}
    assert len(rows) == 3 and rows["encoding", "small", "a"]["verdict"] == HOLDS
    expected = {"effect": "0.900000", "low": "0.800000", "high": "1.000000", "null": "0.800000", "margin": "0.000000"}
    expected |= {"n": "0", "verdict": NOT, "seeds": ""}
    assert rows["order", "small", "a"] == {"study": "order", "claim": "small", "backbone": "a"} | expected
    verdicts.write([Verdict("order", "small", "a", Interval(0, -1, 1), 0, UNDECIDED, seeds=120)])
    assert table()[-2]["seeds"] == "120"
    verdicts.write([Verdict("order", "small", "a", Interval(0, -1, 1), 0, UNDECIDED, seeds=float("inf"))])
    assert table()[-2]["seeds"] == "more than 100000"


def test_the_table_is_the_same_whichever_study_ran_first(tmp_path):
    groups = [[small(study, claim, name) for claim in "ba" for name in "dc"] for study in ("order", STUDIES[0], "mine")]
    texts = set()
    for ordered in itertools.permutations(groups):
        for each in ordered:
            path = verdicts.write(each)
        texts.add(path.read_text())
        path.unlink()
    [text] = texts
    assert [line.split(",")[0] for line in text.splitlines()[1::4]] == [STUDIES[0], "order", "mine"]


def test_no_verdicts_write_no_table():
    assert verdicts.write([]) is None and not outputs("tables", "verdicts.csv").exists()


def test_print_has_a_line_for_each_claim_and_a_column_for_each_backbone():
    found = [
        small(claim="one"),
        small(claim="two, part", backbone="mini", said=NOT),
        small(claim="one", backbone="mini"),
    ]
    assert verdicts.text(found).splitlines() == [
        "            a       mini",
        "one         holds   holds",
        "two, part   -       does not hold",
    ]


def test_bad_input_is_explained():
    with pytest.raises(ValueError, match="at least one"):
        judge("order", "small", "a", [])
    for wrong in ({"margin": -0.1}, {"sign": 2}):
        with pytest.raises(ValueError, match="a margin from 0"):
            Part(UP, **wrong)
    with pytest.raises(ValueError, match="not a verdict: 'perhaps'; choose from holds"):
        small(said="perhaps")
