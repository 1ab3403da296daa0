"""Carriers that are planted, and correlations that are known."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lsvd.statistics import intervals
from lsvd.studies.encoding import Responses
from lsvd.studies.order import carriers, order

TIMES = (800.0, 600.0, 400.0, 200.0, 0.0)
BANDS = tuple((i,) for i in range(5))


def planted(places, null=None, B=30, seed=0):
    """Responses at TIMES of two factors: places[f][i] is the band that moves factor f most at the i-th time."""
    g = torch.Generator().manual_seed(seed)
    found = []
    for i, t in enumerate(TIMES):
        moved, chance = (0.1 * torch.rand(len(BANDS), B, 2, generator=g) for _ in range(2))
        for f, its in enumerate(places):
            moved[its[i], :, f] += 0.5
        for f, its in enumerate(null or ()):
            chance[its[i], :, f] += 0.5
        found.append(Responses(moved, chance, ("a", "b"), ("coarse", "fine"), t, BANDS, 2.0))
    return found


FALLS, RISES = (0, 1, 2, 3, 4), (4, 3, 2, 1, 0)


def test_planted_carriers_are_found():
    found = planted([FALLS, (2, 2, 0, 0, 4)])
    ranks = torch.stack([carriers(each.moved) for each in found])
    assert carriers(torch.stack([each.moved for each in found])).equal(ranks)
    assert ranks.shape == (5, 30, 2)
    assert (ranks[..., 0] == torch.tensor(FALLS)[:, None]).all()
    assert (ranks[..., 1] == torch.tensor((2, 2, 0, 0, 4))[:, None]).all()


def test_the_correlation_has_the_sign_of_the_claim():
    found = order(planted([FALLS, RISES]))
    assert list(found) == ["a", "b", "coarse", "fine"]
    # t falls along the list: the carrier of a goes down the order, to larger ranks, as t falls
    assert found["a"].rho.value == pytest.approx(-1) and found["b"].rho.value == pytest.approx(1)
    assert abs(found["a"].null.value) < 0.3 < found["a"].null.high - found["a"].rho.value
    assert found["a"].beyond.high < 0 < found["b"].beyond.low
    assert found["coarse"] == found["a"] and found["a"].n == 30


def test_what_the_null_does_too_is_taken_off():
    found = order(planted([FALLS, RISES], null=[FALLS, RISES]))
    assert found["a"].rho.value == found["a"].null.value == pytest.approx(-1)
    assert found["a"].beyond.value == pytest.approx(0) and found["b"].beyond.value == pytest.approx(0)


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_values_are_scipys_and_random_ones_show_nothing_much(seed):
    g = torch.Generator().manual_seed(seed)
    found = [
        Responses(*torch.rand(2, 5, 20, 2, generator=g), ("a", "b"), ("coarse", "fine"), t, BANDS, 2.0) for t in TIMES
    ]
    ranks = torch.stack([carriers(each.moved) for each in found])[..., 1].numpy()
    its = order(found, draws=50)["b"]
    t = np.broadcast_to(np.array(TIMES)[:, None], ranks.shape)
    assert its.rho.value == pytest.approx(stats.spearmanr(t.ravel(), ranks.ravel()).statistic)
    assert its.beyond.value == pytest.approx(its.rho.value - its.null.value)
    assert abs(its.rho.value) < 0.5


def test_the_interval_is_that_of_spearman_over_pictures():
    g = torch.Generator().manual_seed(3)
    found = [Responses(*torch.rand(2, 5, 40, 1, generator=g), ("a",), ("fine",), t, BANDS, 2.0) for t in TIMES]
    ranks = torch.stack([carriers(each.moved) for each in found])[..., 0].numpy()
    t = np.broadcast_to(np.array(TIMES)[:, None], ranks.shape)
    other = intervals.spearman(t, ranks, np.arange(40), draws=2000)
    its = order(found, draws=2000)["a"].rho
    assert (its.value, its.low, its.high) == pytest.approx((other.value, other.low, other.high), abs=0.02)


def test_pictures_that_do_not_show_a_factor_are_left_out():
    found = planted([FALLS, RISES], B=12)
    whole = order(found)
    for each in found:
        each.moved[:, 6:, 0] = torch.nan
        each.null[:, 6:, 0] = torch.nan
    some = order(found)
    assert some["a"].n == 6 and some["b"] == whole["b"] and some["a"].rho.value == pytest.approx(-1)
    for each in found:
        each.moved[:, 1:, 0] = torch.nan
        each.null[:, 1:, 0] = torch.nan
    assert list(order(found)) == ["b", "fine"]


def test_a_carrier_that_never_moves_has_no_correlation():
    assert "a" not in order(planted([(0,) * 5, RISES]))


def test_moves_too_small_to_tell_are_left_out():
    found = planted([FALLS, RISES], B=12)
    whole = order(found)
    for each in found[1:4]:
        each.moved[:, :, 0] = 1e-4 * torch.rand(5, 12, generator=torch.Generator().manual_seed(0))
    assert carriers(found[1].moved)[:, 0].isnan().all() and carriers(found[0].moved).isfinite().all()
    some = order(found)
    assert some["a"].rho.value == pytest.approx(-1) and some["a"].n == 12 and some["b"] == whole["b"]
    for each in found[:4]:
        each.moved[:, :, 0] = 0
    assert list(order(found)) == ["b", "fine"]


def test_a_factor_that_is_hardly_ever_there_does_not_count_for_its_scale():
    found = [dataclasses.replace(each, scales=("fine", "fine")) for each in planted([FALLS, RISES], B=20)]
    both = order(found)
    assert both["fine"].rho.value == pytest.approx(0)
    for each in found:
        each.moved[:, 4:, 0] = torch.nan
        each.null[:, 4:, 0] = torch.nan
    some = order(found)
    assert some["a"].n == 4 and some["fine"] == some["b"] and some["fine"].n == 20


def test_bad_responses_are_explained():
    found = planted([FALLS, RISES])
    other = [dataclasses.replace(found[0], factor=3.0), *found[1:]]
    for bad, said in ((found[:1], "two or more"), (planted([FALLS, RISES], B=1), "more seeds"), (other, "made alike")):
        with pytest.raises(ValueError, match=said):
            order(bad)
    with pytest.raises(ValueError, match="no responses"):
        order([])
