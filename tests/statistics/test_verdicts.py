"""Verdicts follow from the parts of a claim, and their table does not depend on who wrote first."""

import csv
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsvd.paths import outputs
from lsvd.statistics import verdicts
from lsvd.statistics.intervals import Interval
from lsvd.statistics.verdicts import HOLDS, IN_PART, NOT, STUDIES, Verdict


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))


def small(study="order", claim="small", backbone="a", value=0.5, said=HOLDS):
    return Verdict(study, claim, backbone, Interval(value, value - 0.1, value + 0.1), 0.8, said)


def table():
    with outputs("tables", "verdicts.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@given(st.lists(st.booleans(), min_size=1))
def test_a_claim_holds_if_all_its_parts_do(shown):
    assert verdicts.judge(shown) == {len(shown): HOLDS, 0: NOT}.get(sum(shown), IN_PART)


def test_a_later_verdict_on_the_same_claim_replaces_the_earlier():
    verdicts.write([small(), small(backbone="b"), small("encoding")])
    verdicts.write([small(value=0.9, said=NOT)])
    rows = {(row["study"], row["claim"], row["backbone"]): row for row in table()}
    assert len(rows) == 3 and rows["encoding", "small", "a"]["verdict"] == HOLDS
    expected = {"effect": "0.900000", "low": "0.800000", "high": "1.000000", "null": "0.800000", "verdict": NOT}
    assert rows["order", "small", "a"] == {"study": "order", "claim": "small", "backbone": "a"} | expected


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
        verdicts.judge([])
    with pytest.raises(ValueError, match="not a verdict: 'perhaps'; choose from holds"):
        small(said="perhaps")
