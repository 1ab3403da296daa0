"""Success at equal side effect, on results made by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lsvd.studies import merit
from lsvd.studies.edits import Outcome
from lsvd.studies.ways import Way

HALF, FULL, SWITCH = Way("lerp", 0.5, weight=0.5), Way("lerp", 0.5, weight=1.0), Way("prompt switching", 0.5)
shares = st.integers(0, 100).map(lambda i: i / 100)


def found(has: list[int], side: float, had: list[int] | None = None) -> Outcome:
    n = len(has)
    had, has = (torch.tensor(each or [0] * n, dtype=torch.bool) for each in (had, has))
    rest = dict.fromkeys(("before", "after", "distance", "chroma"), torch.zeros(n))
    return Outcome(had, has, side=torch.full((n,), side), features=torch.zeros(n, 4), **rest)


MEASURED = {
    "old": {HALF: found([1, 0, 0, 0], 0.1), FULL: found([1, 1, 1, 1], 0.4), SWITCH: found([1, 1, 0, 0], 0.2)},
    "young": {HALF: found([1, 1, 1, 0], 0.1), FULL: found([1, 1, 1, 1], 0.2), SWITCH: found([1, 1, 1, 1], 0.2)},
}


def test_a_point_is_a_mean_over_attributes():
    half, full, switch = merit.points(MEASURED)
    assert half.success.value == pytest.approx(0.5) and half.side.value == pytest.approx(0.1)
    # four seeds that all succeed: 0.025 ** (1 / 4)
    assert (full.success.value, full.success.low, full.success.high) == pytest.approx((1, 0.398, 1), abs=1e-3)
    assert full.side.value == pytest.approx(0.3)
    assert switch.success.value == pytest.approx(0.75)
    assert switch.success.low < 0.75 < switch.success.high


def test_pictures_that_had_the_attribute_do_not_count():
    own = {"old": {HALF: found([1, 1, 0, 1], 0.1, had=[1, 0, 0, 0])}}
    (point,) = merit.points(own)
    assert point.success.value == pytest.approx(2 / 3)


def test_the_best_within_a_budget_is_chosen():
    found = merit.points(MEASURED)
    assert merit.choose(found, [0.05, 0.11, 0.25, 0.9]) == {0.11: HALF, 0.25: SWITCH, 0.9: FULL}


def test_the_gentlest_of_those_that_succeed_is_drawn():
    found = merit.points(MEASURED)
    assert merit.gentlest(found, 0.7) == SWITCH and merit.gentlest(found, 0.9) == FULL
    assert merit.gentlest(found[:1], 0.9) == HALF
    with pytest.raises(ValueError, match="no points"):
        merit.gentlest([])


def test_the_front_leaves_out_what_is_beaten():
    worse = Way("swap", 0.5, k=1)
    each = {name: {**ways, worse: found([0, 0, 0, 1], 0.25)} for name, ways in MEASURED.items()}
    assert [point.way for point in merit.front(merit.points(each))] == [HALF, SWITCH, FULL]


def test_an_advantage_is_measured_at_equal_side_effects():
    # the hull of no edit, (0.1, 0.5) and (0.3, 1) reaches 0.75 at 0.2, just what switching does
    assert merit.advantage(MEASURED, SWITCH, [HALF, FULL]).value == pytest.approx(0)
    assert merit.advantage(MEASURED, SWITCH, [FULL]).value == pytest.approx(0.75 - 2 / 3)
    gain = merit.advantage(MEASURED, FULL, [HALF])
    assert gain.value == pytest.approx(0.5) and gain.low <= 0.5 <= gain.high


def test_a_way_has_no_advantage_over_itself():
    gain = merit.advantage(MEASURED, SWITCH, [SWITCH, HALF, FULL])
    assert gain.low <= gain.value <= gain.high <= 1e-6


def test_bad_arguments_are_told():
    with pytest.raises(ValueError, match="nothing to compare"):
        merit.advantage(MEASURED, SWITCH, [])
    for wrong in ({}, {"a": {HALF: found([1], 0.1)}}, {**MEASURED, "a": {HALF: found([1, 1], 0.1)}}):
        with pytest.raises(ValueError, match="the same two or more"):
            merit.points(wrong)


@given(st.lists(st.tuples(shares, shares), min_size=1, max_size=8), shares, shares)
def test_the_hull_is_above_all_points_rises_and_is_concave(own, a, b):
    side, success = np.array(own).T

    def at(x):
        return merit.reach(side, success, x)

    for x, y in own:
        assert at(x) >= y - 1e-12
    low, high = sorted((a, b))
    assert at(low) <= at(high) + 1e-12 and at((a + b) / 2) >= (at(a) + at(b)) / 2 - 1e-9
    assert at(1.0) <= max(0.0, success.max()) + 1e-12


def test_the_hull_of_one_point_is_a_line_from_no_edit():
    assert merit.reach(np.array([0.2]), np.array([0.6]), 0.1) == pytest.approx(0.3)
    assert merit.reach(np.array([0.2]), np.array([0.6]), 0.9) == pytest.approx(0.6)
