"""Success and side effects, counted on readings made by hand."""

import pytest
import torch

from lsvd.testbed.effects import effects
from lsvd.testbed.reader import Reading
from lsvd.testbed.scenes.portraits import PORTRAITS

N = 4


def reading(**levels: list[int]) -> Reading:
    """Certain of every level: 0 of each factor but those given; numbers in the middle of their range."""
    chosen, probabilities, numbers = {}, {}, {}
    for f in PORTRAITS.factors:
        if f.levels:
            chosen[f.name] = torch.tensor(levels.get(f.name, [0] * N))
            probabilities[f.name] = torch.nn.functional.one_hot(chosen[f.name], len(f.levels)).float()
        else:
            numbers[f.name] = torch.full((N,), sum(f.range) / 2)
    return Reading(chosen, probabilities, numbers)


YOUNG, OLD = PORTRAITS.index("age", "young"), PORTRAITS.index("age", "old")


def test_success_counts_only_pictures_that_lacked_the_attribute():
    found = effects(
        reading(age=[OLD, YOUNG, YOUNG, YOUNG]), reading(age=[OLD, OLD, OLD, YOUNG]), PORTRAITS, {"age": "old"}
    )
    assert found.lacking == 3 and found.success.value == pytest.approx(2 / 3)
    assert (found.side.value, found.side.low) == (0, 0)
    assert found.side.high == pytest.approx(1 - 0.025 ** (1 / N))  # four pictures without one do not exclude 0.6


def test_an_attribute_that_all_had_has_no_success():
    old = reading(age=[OLD] * N)
    assert effects(old, old, PORTRAITS, {"age": "old"}).success is None


def test_two_attributes_succeed_together_or_not_at_all():
    glasses = PORTRAITS.index("glasses", "glasses")
    before, wanted = reading(age=[YOUNG] * N), {"age": "old", "glasses": "glasses"}
    after = reading(age=[OLD, OLD, YOUNG, YOUNG], glasses=[glasses, 0, glasses, 0])
    assert effects(before, after, PORTRAITS, wanted).success.value == pytest.approx(1 / 4)


def test_a_side_effect_is_a_share_of_what_else_can_be_seen():
    before, after = reading(age=[YOUNG] * N), reading(age=[OLD] * N, gender=[1, 1, 1, 1])
    seen = [PORTRAITS.visible(r.values) for r in (before, after)]
    others = sum(bool(seen[0][f.name][0] & seen[1][f.name][0]) for f in PORTRAITS.factors if f.name != "age")
    assert effects(before, after, PORTRAITS, {"age": "old"}).side.value == pytest.approx(1 / others)


def test_what_cannot_be_seen_does_not_count(monkeypatch):
    hidden = next(f for f in PORTRAITS.factors if f.visible_if and f.levels and "age" not in f.visible_if)
    condition, shown = next(iter(hidden.visible_if.items()))
    level = next(i for i, name in enumerate(PORTRAITS.factor(condition).levels) if name not in shown)
    before = reading(**{condition: [level] * N})
    after = reading(**{condition: [level] * N, hidden.name: [1] * N})
    assert effects(before, after, PORTRAITS, {"age": "old"}).side.value == 0


def test_bad_arguments_are_told():
    young = reading(age=[YOUNG] * N)
    with pytest.raises(ValueError, match="name a factor"):
        effects(young, young, PORTRAITS, {})
    with pytest.raises(KeyError, match="no level"):
        effects(young, young, PORTRAITS, {"age": "ancient"})
    few = Reading(*({k: v[:2] for k, v in t.items()} for t in (young.levels, young.probabilities, young.numbers)))
    with pytest.raises(ValueError, match="read the same pictures"):
        effects(young, few, PORTRAITS, {"age": "old"})
