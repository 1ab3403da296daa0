"""Numbers with their uncertainty: means, proportions, medians, correlations and other statistics, with 95% intervals.

Which interval stands for what was chosen by simulation: `python -m lsvd study intervals` counts how often each covers
the truth (lsvd.statistics.coverage), under laws that are skewed, rare or clustered as the project's own numbers are.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from torch import Tensor

LEVEL = 0.95
DRAWS = 9999
Bounds = tuple[float, float]
UNIT: Bounds = (0.0, 1.0)
"""Bounds of shares, probabilities and moves."""

SIGNED: Bounds = (-1.0, 1.0)
"""Bounds of their differences, and of correlations."""


@dataclass(frozen=True)
class Interval:
    """A value with the low and high end of its confidence interval.

    n: how many independent pictures or seeds it rests on; again: computes it at another level. Neither counts when two
    intervals are compared.
    """

    value: float
    low: float
    high: float
    n: int = field(default=0, compare=False, repr=False)
    again: Callable[[float], "Interval"] | None = field(default=None, compare=False, repr=False)

    def __format__(self, spec: str) -> str:
        """`f"{interval:.2f}"` gives "0.91 [0.85, 0.95]"."""
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    def at(self, level: float) -> "Interval":
        """The interval at another level. Raises ValueError where only the ends are known."""
        if level == LEVEL:
            return self
        if self.again is None:
            raise ValueError("these ends came without their sample: take an interval that lsvd.statistics computed")
        return self.again(level)


def mean(values: ArrayLike, level: float = LEVEL, bounds: Bounds | None = None, *, seed: int = 0) -> Interval:
    """Mean of independent values, shape (n,), with its interval.

    At each end the wider of Student's t and the studentised bootstrap (bootstrap-t, Efron and Tibshirani 1993, chapter
    12; seeded). Where all values are equal, or all but a few, neither says how far the mean may lie off, and an end is
    where it would be if the largest part of the law that n values can all miss sat at the bound.

    bounds: what no value can exceed, (low, high); give them where there are any. Without, such an end is infinite.
    Values that all are one of the two bounds, or without bounds 0 or 1, have the exact interval of a `share`.

    Raises ValueError for fewer than two values, or values that are not finite.
    """
    x = _array(values).ravel()
    if len(x) < 2 or not np.isfinite(x).all():
        raise ValueError(f"a mean needs two or more finite values, not {len(x)}: take more pictures")
    value, low, high = means(x[None], level, bounds, seed=seed)
    again = functools.partial(mean, x, bounds=bounds, seed=seed)
    return Interval(float(value[0]), float(low[0]), float(high[0]), len(x), again)


def means(
    rows: ArrayLike, level: float = LEVEL, bounds: Bounds | None = None, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `mean` of each row of finite values, (m, n), n >= 2, with the low and high ends: shape (m,) each."""
    x = np.asarray(rows, np.float64)
    value = x.mean(1)
    ends = _ends(value, x - value[:, None], level, bounds, seed)
    start, end = bounds or UNIT
    for i in np.flatnonzero(((x == start) | (x == end)).all(1)):
        exact = share(int((x[i] == end).sum()), x.shape[1], level)
        for side, at in zip(ends, (exact.low, exact.high), strict=True):
            side[i] = start + at * (end - start)
    return value, *ends


def jackknife(
    value: float, left_out: ArrayLike, level: float = LEVEL, bounds: Bounds | None = None, *, seed: int = 0
) -> Interval:
    """A statistic with its interval, from what it is without each of n independent seeds in turn: left_out, (n,).

    The seeds' influences, (n - 1) * (mean of left_out - left_out) (Efron and Tibshirani 1993, chapter 11), stand for
    the deviations that a `mean` has. Raises ValueError for fewer than two seeds, or values that are not finite.
    """
    left = _array(left_out).ravel()
    if len(left) < 2 or not np.isfinite([value, *left]).all():
        raise ValueError("a statistic needs finite values without each of two or more seeds: take more pictures")
    influence = (len(left) - 1) * (left.mean() - left)
    low, high = _ends(np.array([value]), influence[None], level, bounds, seed)
    again = functools.partial(jackknife, value, left, bounds=bounds, seed=seed)
    return Interval(float(value), float(low[0]), float(high[0]), len(left), again)


def _ends(
    value: np.ndarray, deviations: np.ndarray, level: float, bounds: Bounds | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The ends around values, (m,), from which n independent seeds deviate by `deviations`, (m, n), of mean 0."""
    n, tail = deviations.shape[1], (1 - level) / 2
    rounding = 1e-12 * (np.abs(value) + np.abs(deviations).max(1))
    error = np.sqrt((deviations**2).sum(1) / (n - 1) / n)
    student = stats.t.ppf(1 - tail, n - 1) * error
    missed = 1 - tail ** (1 / n)  # of n values, all miss a part of the law of this size with a chance of `tail`
    below, above = _studentised(deviations, rounding, tail, seed)
    ends = []
    for sign, pivot, bound in zip((-1, 1), (below, above), bounds or (-inf, inf), strict=True):
        known = np.isfinite(pivot) & (error > rounding)
        apart = np.where(known, np.maximum(student, np.where(known, pivot, 0) * error), student)
        end = value + sign * apart
        if not known.all():
            unseen = (1 - missed) * value + missed * bound
            end = np.where(known, end, sign * np.maximum(sign * end, sign * unseen))
        ends.append(end.clip(*bounds) if bounds else end)
    return ends[0], ends[1]


def _studentised(deviations: np.ndarray, rounding: np.ndarray, tail: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """By how many standard errors the ends lie below and above, (m,), by the studentised bootstrap.

    Infinite where too many resamples have no spread.
    """
    n, shares = deviations.shape[1], _shares(deviations.shape[1], seed)
    pivots = np.empty((2, len(deviations)))
    for part in np.array_split(np.arange(len(deviations)), -(-len(deviations) // 50)):
        block, small = deviations[part], rounding[part]
        shift = shares @ block.T
        error = np.sqrt(np.maximum(shares @ (block**2).T - shift**2, 0) / (n - 1))
        flat = error <= small
        t = np.where(np.abs(shift) <= small, 0, np.copysign(inf, shift))
        np.divide(shift, error, out=t, where=~flat)
        low, high = np.quantile(t, [tail, 1 - tail], axis=0, method="inverted_cdf")
        pivots[:, part] = high, -low
    return pivots[0], pivots[1]


@functools.lru_cache(maxsize=8)
def _shares(n: int, seed: int, draws: int = DRAWS) -> np.ndarray:
    """The share that each of n values has in each bootstrap sample, (draws, n)."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), draws) / n


def median(values: ArrayLike) -> Interval:
    """Median of independent values, shape (n,), n >= 6, with its interval, which assumes nothing of their distribution.

    The ends are values themselves, by the binomial law of their ranks (scipy.stats.quantile_test).
    """
    x = _array(values)
    ends = stats.quantile_test(x, p=0.5).confidence_interval(LEVEL)
    return Interval(float(np.median(x)), float(ends.low), float(ends.high), len(x))


def share(hits: int, n: int, level: float = LEVEL) -> Interval:
    """Share of successes in n independent trials with its exact interval (Clopper and Pearson 1934).

    Raises ValueError unless 0 <= hits <= n and n > 0.
    """
    if not 0 <= hits <= n or n == 0:
        raise ValueError(f"{hits} of {n} is not a share: count at least one picture")
    return Interval(hits / n, *_exact(hits, n, level), int(n), functools.partial(share, hits, n))


def _exact(hits: float, trials: float, level: float) -> tuple[float, float]:
    """The ends of Clopper and Pearson's interval, as quantiles of beta laws, for whole numbers or not."""
    tail = (1 - level) / 2
    low = stats.beta.ppf(tail, hits, trials - hits + 1) if hits > 0 else 0.0
    high = stats.beta.ppf(1 - tail, hits + 1, trials - hits) if hits < trials else 1.0
    return float(low), float(high)


def clustered_share(value: float, left_out: ArrayLike, level: float = LEVEL) -> Interval:
    """A share of successes that seeds contribute to in clusters, with its interval (Korn and Graubard 1998).

    left_out: the share without each seed in turn, (n,). It is the exact interval for as many independent trials as
    would have the variance that the seeds show; where they show none, n. Ends thus stay in [0, 1], and a share of 1
    does not look certain. Raises ValueError for fewer than two seeds, or shares that are not in [0, 1].
    """
    left = _array(left_out).ravel()
    n, tail = len(left), (1 - level) / 2
    if (
        n < 2
        or not np.isfinite(left).all()
        or not -1e-12 <= min(value, left.min()) <= max(value, left.max()) <= 1 + 1e-12
    ):
        raise ValueError("a share needs shares without each of two or more seeds, from 0 to 1: take more pictures")
    p = min(max(float(value), 0.0), 1.0)
    variance = (n - 1) / n * ((left - left.mean()) ** 2).sum()
    trials = float(n)
    if 0 < p < 1 and variance > 1e-24:
        trials = p * (1 - p) / variance * (stats.norm.ppf(1 - tail) / stats.t.ppf(1 - tail, n - 1)) ** 2
    return Interval(p, *_exact(p * trials, trials, level), n, functools.partial(clustered_share, value, left))


def without_each(n: int) -> np.ndarray:
    """Weights of n seeds: all of them in the first row, then all but each in turn, shape (1 + n, n)."""
    return np.concatenate([np.ones((1, n)), 1 - np.eye(n)])


def spearman(x: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None, level: float = LEVEL) -> Interval:
    """Spearman's rank correlation of x and y, any one shape, with its interval (`jackknife`).

    groups: of the same shape, or one that broadcasts to it; points of one group, such as the timesteps of one sample,
    are not independent and are left out together. Without, each point is by itself.

    Raises ValueError for values that are not finite, shapes that differ, fewer than two groups, or x or y that are
    constant, or are so without one group.
    """
    x, y = (_array(values) for values in (x, y))
    if x.shape != y.shape:
        raise ValueError(f"x and y have shapes {x.shape} and {y.shape}: give pairs")
    try:
        groups = np.arange(x.size) if groups is None else np.broadcast_to(np.asarray(groups), x.shape).ravel()
    except ValueError as error:
        raise ValueError(f"groups of shape {np.shape(groups)} do not fit {x.shape}: name each point's group") from error
    x, y = x.ravel(), y.ravel()
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("a correlation takes finite values: leave out lost paths and NaN, or set them to a rank")
    names, group = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"a correlation's interval needs two or more groups, not {len(names)}: take more samples")
    rho = weighted_spearman(x, y, without_each(len(names))[:, group])
    if not np.isfinite(rho).all():
        raise ValueError("a constant has no correlation with anything: take other points")
    return jackknife(rho[0], rho[1:], level, SIGNED)


def weighted_spearman(x: ArrayLike, y: ArrayLike, weights: ArrayLike) -> np.ndarray:
    """Spearman's correlation of points x, y, shape (n,), in samples that hold point i weights[d, i] times, (draws, n).

    Returns shape (draws,); NaN where x or y is constant.
    """
    x, y, weights = (np.asarray(values, np.float64) for values in (x, y, weights))
    correlations = []
    for part in np.array_split(weights, -(-len(weights) // 100)):
        total = part.sum(1, keepdims=True)
        a, b = (_ranks(values, part) - (total + 1) / 2 for values in (x, y))
        ab, aa, bb = ((part * product).sum(1) for product in (a * b, a * a, b * b))
        varied = (aa > 0) & (bb > 0)
        correlations.append(np.divide(ab, np.sqrt(aa * bb), out=np.full(len(ab), np.nan), where=varied))
    return np.concatenate(correlations)


def _array(values: ArrayLike | Tensor) -> np.ndarray:
    """Values as float64, wherever they are."""
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, np.float64)


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average ranks of values, (n,), in samples that hold value i weights[d, i] times, (draws, n)."""
    order = np.argsort(values, kind="stable")
    _, starts = np.unique(values[order], return_index=True)
    place = np.unique(values, return_inverse=True)[1]
    held = np.add.reduceat(weights[:, order], starts, axis=1)
    return (held.cumsum(1) - held / 2 + 0.5)[:, place]


def columns(head: str, value: Interval | None) -> dict[str, str]:
    """A value and its interval as cells of a table, under head, head_low and head_high; empty if there is none."""
    ends = {"": "value", "_low": "low", "_high": "high"}
    return {f"{head}{tail}": f"{getattr(value, end):.4f}" if value else "" for tail, end in ends.items()}
