"""Where labels are exchanged nothing is true, and verdicts hold no more often than they may."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from outcomes import outcome
from scipy import stats

from lsvd.statistics.verdicts import HOLDS, STUDIES
from lsvd.studies import ablation, editing, encoding, exchanges, order, strength, survey
from lsvd.studies.rig import load_rig
from lsvd.studies.ways import Way

TABLE = Path(__file__).resolve().parents[2] / "outputs" / "tables" / "exchanges.csv"


def few(false: int, of: int) -> bool:
    """Whether as many false verdicts would be seen once in a thousand times if MOST were false."""
    return stats.binom.sf(false - 1, of, exchanges.MOST) > 1e-3


@pytest.fixture(scope="module")
def responses():
    models, readers = survey.subjects("mini-cats")
    return survey.survey(models["mini-cats"], readers["mini-cats"], survey.Plan(), range(survey.SAMPLES))


@pytest.fixture(scope="module")
def rig():
    return load_rig()


@pytest.mark.parametrize(("number", "draws"), [(0, 20), (1, 20), (2, 8)])
def test_rules_on_responses(responses, number, draws):
    rule = list(exchanges.of_responses("mini-cats", responses))[number]
    assert few(*rule.false(draws))


def test_rules_on_edits(rig):
    result = editing.measure(rig)
    assert few(*exchanges.of_gains(result).false(12))
    assert few(*exchanges.of_strengths(strength.measure(rig)).false(40))
    ways = ablation.without(ablation.setting())
    reference = np.random.default_rng(0).normal(size=(200, 64))
    rule = exchanges.of_losses("mini-sd", ablation.measured(rig, ways), ways, reference)
    assert few(*rule.false(6))


def test_the_same_verdicts_hold_where_labels_are_left(responses, monkeypatch):
    """What is exchanged is what made them hold."""
    monkeypatch.setattr(exchanges, "coins", lambda rng, n: torch.zeros(n, dtype=torch.bool))
    rules = list(exchanges.of_responses("mini-cats", responses))
    assert rules[0].false(1) == (3, 3) and rules[2].false(1)[0] == 1
    means = {"mini-cats": encoding.scale_means(responses)}
    own = encoding.verdicts(encoding.Result(survey.Plan(), {}, {}, means, {"mini-cats": {}}))
    assert [claim.verdict for claim in rules[0].exchanged(None)] == [claim.verdict for claim in own]
    assert HOLDS in [claim.verdict for claim in order.scale_verdicts("mini-cats", order.order(responses))]


def test_an_exchange_is_of_whole_seeds():
    one, other, third = (Way("lerp", 0.5, weight=weight) for weight in (0.1, 0.2, 0.3))
    measured = {name: {one: outcome(1.0, 0.1), other: outcome(0.0, 0.3), third: outcome(0.5)} for name in "ab"}
    changed = exchanges.swap(measured, {one: other}, np.random.default_rng(0))
    gone = ~changed["a"][one].has
    assert 10 < gone.sum() < 30 and changed["b"][one].has.equal(~gone)
    for name in "ab":
        assert changed[name][other].has.equal(gone) and changed[name][third] is measured[name][third]
        assert changed[name][one].side.equal(torch.where(gone, 0.3, 0.1))
        assert changed[name][one].features.shape == (40, 4)


def test_the_table_has_every_study_that_judges_by_exchangeable_labels_and_few_false_verdicts():
    with TABLE.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["study"] for row in rows} == set(STUDIES) - {"comparison", "inversion", "predictions"}
    for row in rows:
        of = int(row["verdicts"])
        assert few(round(float(row["false"]) * of), of), row
    for rule in {row["rule"].split(" mini-")[0] for row in rows}:
        own = [row for row in rows if row["rule"].split(" mini-")[0] == rule]
        of = sum(int(row["verdicts"]) for row in own)
        false = sum(round(float(row["false"]) * int(row["verdicts"])) for row in own)
        assert false / of <= exchanges.MOST, rule
