"""Intervals cover what they should, and the fidelity of a picture is what its formula says."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lsvd.statistics import intervals
from lsvd.statistics.fidelity import psnr
from lsvd.statistics.intervals import mean, share

seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=25, deadline=None)


def draw(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_mean_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [mean(rng.normal(3.0, 1.0, 40)) for _ in range(60)]
    assert 0.85 <= np.mean([i.low <= 3.0 <= i.high for i in intervals]) < 1
    assert all(i.low < i.value < i.high for i in intervals)


@quick
@given(st.integers(2, 80), seeds, st.sampled_from([0.95, 0.99]))
def test_the_interval_of_a_mean_is_scipys(n, seed, level):
    x = draw(n, seed).double().numpy()
    interval = mean(x, seed=3, level=level)
    theirs = stats.bootstrap((x,), np.mean, confidence_level=level, method="percentile", rng=3).confidence_interval
    assert (interval.low, interval.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_mean_of_equal_values_is_certain():
    interval = mean([2.0, 2.0, 2.0])
    assert (interval.value, interval.low, interval.high) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, np.nan]])
def test_mean_needs_values(values):
    with pytest.raises(ValueError, match="take more pictures"):
        mean(values)


def test_share_agrees_with_the_table():
    interval = share(9, 10)  # Wilson's interval, as in textbooks
    assert (interval.value, round(interval.low, 3), round(interval.high, 3)) == (0.9, 0.596, 0.982)
    assert f"{interval:.2f}" == "0.90 [0.60, 0.98]"
    for hits, n in ((3, 2), (-1, 4), (0, 0)):
        with pytest.raises(ValueError, match="is not a share"):
            share(hits, n)


def test_psnr():
    a = torch.zeros(2, 3, 4, 4)
    b = a.clone()
    b[0] += 0.1
    assert psnr(a, b).tolist() == pytest.approx([20.0, 120.0], abs=1e-4)
    with pytest.raises(ValueError, match="like with like"):
        psnr(a, b[:, :, :2])


def test_the_median_and_its_interval():
    interval = intervals.median([3, 1, 2, 9, 5, 4])
    assert (interval.value, interval.low, interval.high) == (3.5, 1, 9)
    # 11 values: the 2nd smallest and the 2nd largest hold the median in 98.8% of samples, the 3rd in 93.5%
    interval = intervals.median(np.arange(11) ** 2)
    assert (interval.value, interval.low, interval.high) == (25, 1, 81)


def test_spearman_is_scipys():
    x, y = draw((30, 4), 0).round(decimals=1), draw((30, 4), 1).round(decimals=1) + draw((30, 4), 0)
    found = intervals.spearman(x, y)
    assert found.value == pytest.approx(stats.spearmanr(x.flatten(), y.flatten()).statistic)
    assert found.low < found.value < found.high and found == intervals.spearman(x, y)
    assert found != intervals.spearman(x, y, seed=1)


@quick
@given(seeds)
def test_ranks_of_a_resample_are_scipys(seed):
    rng = np.random.default_rng(seed)
    values, weights = rng.integers(0, 6, 9).astype(float), rng.integers(0, 4, (3, 9))
    found = intervals._ranks(values, weights.astype(float))
    for ranks, counts in zip(found, weights, strict=True):
        assert ranks[counts > 0].repeat(counts[counts > 0]) == pytest.approx(stats.rankdata(values.repeat(counts)))


def test_spearman_interval_is_the_bootstraps():
    x = draw((60,), 0)
    y = x + draw((60,), 1)
    ours = intervals.spearman(x, y, draws=4000)
    theirs = stats.bootstrap(
        (x.numpy(), y.numpy()),
        lambda a, b: stats.spearmanr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=1000,
        method="percentile",
        rng=0,
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs), abs=0.03)


def test_groups_widen_the_interval():
    """Points that only repeat their sample tell nothing new: the interval is that of the samples alone."""
    x, y = draw((12,), 0), draw((12,), 1) + 0.5 * draw((12,), 0)
    many = [v[:, None].expand(12, 20) for v in (x, y)]
    alone, grouped = intervals.spearman(x, y), intervals.spearman(*many, torch.arange(12)[:, None])
    naive = intervals.spearman(*many)
    assert (grouped.value, grouped.low, grouped.high) == pytest.approx((alone.value, alone.low, alone.high))
    assert naive.high - naive.low < (grouped.high - grouped.low) / 2


def test_spearman_of_what_falls_and_what_rises():
    t = torch.arange(10).expand(5, 10)
    assert intervals.spearman(t, -t.float().exp(), torch.arange(5)[:, None]) == intervals.Interval(-1, -1, -1)
    assert intervals.spearman(t, t**3).low == pytest.approx(1)


@pytest.mark.parametrize(
    ("x", "y", "groups", "message"),
    [
        ([1, 2], [1, 2, 3], None, "give pairs"),
        ([1, float("nan")], [1, 2], None, "finite"),
        ([1, 1, 1], [1, 2, 3], None, "constant"),
        ([1, 2, 3], [1, 2, 3], [0, 0, 0], "two or more groups"),
        ([1], [1], None, "two or more groups"),
        ([], [], None, "two or more groups"),
        ([1, 2, 3], [1, 2, 3], [0, 1], "do not fit"),
    ],
)
def test_spearman_refuses(x, y, groups, message):
    with pytest.raises(ValueError, match=message):
        intervals.spearman(x, y, groups)


def test_weighted_spearman_is_that_of_repeated_points():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, 12), rng.normal(size=12)
    weights = rng.integers(0, 4, (3, 12))
    found = intervals.weighted_spearman(x, y, weights)
    for value, own in zip(found, weights, strict=True):
        assert value == pytest.approx(stats.spearmanr(x.repeat(own), y.repeat(own)).statistic)
    assert np.isnan(intervals.weighted_spearman(x, y, np.eye(12)[:2])).all()


def test_percentiles_leave_out_nan():
    assert intervals.percentiles([*range(101), np.nan]) == pytest.approx((2.5, 97.5))


def test_columns_of_a_table_hold_a_value_and_its_interval():
    assert intervals.columns("x", intervals.Interval(0.5, 0.25, 1)) == {
        "x": "0.5000",
        "x_low": "0.2500",
        "x_high": "1.0000",
    }
    assert intervals.columns("x", None) == {"x": "", "x_low": "", "x_high": ""}
