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


@quick
@given(st.integers(8, 80), seeds, st.sampled_from([0.95, 0.99]))
def test_the_interval_of_a_mean_holds_students_t_and_scipys_pivots(n, seed, level):
    x = draw(n, seed).double().numpy()
    interval, student = mean(x, level), stats.ttest_1samp(x, 0).confidence_interval(level)
    resamples = np.random.default_rng(seed).choice(x, (2000, n))
    t = stats.ttest_1samp(resamples, x.mean(), axis=1).statistic
    low, high = np.quantile(t[np.isfinite(t)], [(1 - level) / 2, (1 + level) / 2])
    error = x.std(ddof=1) / n**0.5
    assert interval.low <= student.low + 1e-9 and student.high - 1e-9 <= interval.high
    assert interval.value - interval.low == pytest.approx(max(high * error, x.mean() - student.low), rel=0.35)
    assert interval.high - interval.value == pytest.approx(max(-low * error, student.high - x.mean()), rel=0.35)


def test_rows_are_means():
    x = np.random.default_rng(0).beta(0.3, 3, (130, 9))
    value, low, high = intervals.means(x, 0.9, intervals.UNIT)
    for i in (0, 49, 50, 129):
        one = mean(x[i], 0.9, intervals.UNIT)
        assert (value[i], low[i], high[i]) == pytest.approx((one.value, one.low, one.high))


def test_equal_values_are_not_certain():
    """Eight pictures that all succeed may be of a way that fails once in three times."""
    assert (mean([2.0] * 8).low, mean([2.0] * 8).high) == (-np.inf, np.inf)
    level = mean([0.25] * 8, bounds=(0, 1))
    missed = 1 - 0.025 ** (1 / 8)
    assert (level.low, level.high) == pytest.approx((0.25 * (1 - missed), 0.25 + 0.75 * missed))
    for successes in (mean([1.0] * 8), mean([1.0] * 8, bounds=(0, 1))):
        assert (successes.low, successes.high) == pytest.approx((0.025 ** (1 / 8), 1))
    assert mean([-1.0] * 8, bounds=(-1, 1)).high == pytest.approx(1 - 2 * 0.025 ** (1 / 8))


def test_values_that_are_equal_but_for_a_few_are_not_nearly_certain():
    rare = [0.0] * 14 + [1.0, 1.0]
    for interval in (mean(rare), mean([*rare[:-1], 0.9], bounds=(0, 1)), mean([*rare[:-1], 0.9], bounds=(-1, 1))):
        assert interval.high > 0.3 > interval.value > interval.low
    # what happened twice of 16 times in one direction is not shown
    assert mean([0.0] * 14 + [0.5, 0.5], bounds=(-1, 1)).low < 0


@quick
@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.sampled_from([0.8, 0.95, 0.99]))
def test_ends_hold_the_value_keep_to_the_bounds_and_widen_with_the_level(values, level):
    own, wider = mean(values, level, (0, 1)), mean(values, 1 - (1 - level) / 2, (0, 1))
    assert 0 <= wider.low <= own.low <= own.value + 1e-9 and own.value - 1e-9 <= own.high <= wider.high <= 1


def test_a_jackknifed_mean_is_the_mean():
    x = draw(12, 0).double().numpy()
    left_out = (x.sum() - x) / 11
    own, theirs = intervals.jackknife(x.mean(), left_out), mean(x)
    assert (own.value, own.low, own.high) == pytest.approx((theirs.value, theirs.low, theirs.high))
    assert intervals.jackknife(x.mean(), left_out, 0.8).high < own.high and own.n == 12
    with pytest.raises(ValueError, match="two or more seeds"):
        intervals.jackknife(0.5, [np.nan, 0.5])


def test_an_interval_knows_itself_at_other_levels():
    own = mean(draw(20, 0))
    assert own.at(0.95) is own and own.at(0.99) == mean(draw(20, 0), 0.99) and own.at(0.99).low < own.low
    assert intervals.share(3, 9).at(0.5) == intervals.share(3, 9, 0.5)
    with pytest.raises(ValueError, match="without their sample"):
        intervals.Interval(1, 0, 2).at(0.99)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, np.nan]])
def test_mean_needs_values(values):
    with pytest.raises(ValueError, match="take more pictures"):
        mean(values)


def test_share_is_the_exact_interval():
    interval = share(9, 10)  # Clopper and Pearson's, as in textbooks
    assert (interval.value, round(interval.low, 3), round(interval.high, 3)) == (0.9, 0.555, 0.997)
    assert f"{interval:.2f}" == "0.90 [0.55, 1.00]"
    for hits, n in ((0, 7), (3, 7), (7, 7), (64, 64)):
        theirs = stats.binomtest(hits, n).proportion_ci(method="exact")
        assert (share(hits, n).low, share(hits, n).high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    for hits, n in ((3, 2), (-1, 4), (0, 0)):
        with pytest.raises(ValueError, match="is not a share"):
            share(hits, n)


def test_successes_of_one_seed_count_as_much_as_they_agree():
    """Ten seeds with eight attributes each: as 80 trials where attributes are independent, as ten where they agree."""

    def of(hits):  # (attributes, seeds)
        return intervals.clustered_share(hits.mean(), (hits.sum() - hits.sum(0)) / (hits.size - len(hits)))

    rng = np.random.default_rng(0)
    independent = np.stack([rng.permutation(np.arange(64) < 51) for _ in range(8)]) * 1.0
    agreeing = np.tile(independent[:1], (8, 1))
    few, many = share(51, 64), share(8 * 51, 8 * 64)
    assert of(agreeing).high - of(agreeing).low == pytest.approx(few.high - few.low, rel=0.1)
    assert of(independent).high - of(independent).low == pytest.approx(many.high - many.low, rel=0.4)
    sure = of(np.ones((8, 10)))
    assert (sure.value, sure.low, sure.high) == pytest.approx((1, share(10, 10).low, 1))
    with pytest.raises(ValueError, match="from 0 to 1"):
        intervals.clustered_share(1.2, [1.0, 1.0])


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
    ours = intervals.spearman(x, y)
    theirs = stats.bootstrap(
        (x.numpy(), y.numpy()),
        lambda a, b: stats.spearmanr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=1000,
        method="percentile",
        rng=0,
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs), abs=0.06)


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
    falls = intervals.spearman(t, -t.float().exp(), torch.arange(5)[:, None])
    # five samples that all fall: another may rise, once in two times
    assert (falls.value, falls.low) == (-1, -1) and -1 < falls.high < 1
    assert intervals.spearman(t, t**3).low > 0.8


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


def test_columns_of_a_table_hold_a_value_and_its_interval():
    assert intervals.columns("x", intervals.Interval(0.5, 0.25, 1)) == {
        "x": "0.5000",
        "x_low": "0.2500",
        "x_high": "1.0000",
    }
    assert intervals.columns("x", None) == {"x": "", "x_low": "", "x_high": ""}
