"""Numbers with their uncertainty: means, medians, shares and correlations with 95% intervals; a picture's fidelity."""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from torch import Tensor

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A value with the low and high end of its confidence interval."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """`f"{interval:.2f}"` gives "0.91 [0.85, 0.95]"."""
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def mean(values: ArrayLike, seed: int = 0, level: float = LEVEL) -> Interval:
    """Mean of independent values, shape (n,), with its bootstrap interval (percentiles, seeded).

    level: of the interval; 1 - 0.05 / m for m that are judged together.

    Raises ValueError for fewer than two values, or values that are not finite.
    """
    x = _array(values).ravel()
    if len(x) < 2 or not np.isfinite(x).all():
        raise ValueError(f"a mean needs two or more finite values, not {len(x)}: take more pictures")
    if np.ptp(x) == 0:
        return Interval(float(x[0]), float(x[0]), float(x[0]))
    low, high = np.quantile(_shares(len(x), seed) @ x, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(x.mean()), float(low), float(high))


@functools.lru_cache(maxsize=4)
def _shares(n: int, seed: int, draws: int = 9999) -> np.ndarray:
    """The share that each of n values has in each bootstrap sample, (draws, n).

    As scipy.stats.bootstrap draws them; it draws again for each of the hundreds of means that a table may hold.
    """
    drawn = np.random.default_rng(seed).integers(0, n, (draws, n))
    counts = np.bincount((drawn + n * np.arange(draws)[:, None]).ravel(), minlength=draws * n)
    return counts.reshape(draws, n) / n


def median(values: ArrayLike) -> Interval:
    """Median of independent values, shape (n,), n >= 6, with its interval, which assumes nothing of their distribution.

    The ends are values themselves, by the binomial law of their ranks (scipy.stats.quantile_test).
    """
    x = _array(values)
    ends = stats.quantile_test(x, p=0.5).confidence_interval(LEVEL)
    return Interval(float(np.median(x)), float(ends.low), float(ends.high))


def share(hits: int, n: int) -> Interval:
    """Share of successes with its Wilson interval. Raises ValueError unless 0 <= hits <= n and n > 0."""
    if not 0 <= hits <= n or n == 0:
        raise ValueError(f"{hits} of {n} is not a share: count at least one picture")
    ends = stats.binomtest(int(hits), int(n)).proportion_ci(LEVEL, method="wilson")
    return Interval(hits / n, ends.low, ends.high)


def spearman(
    x: ArrayLike,
    y: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Spearman's rank correlation of x and y, any one shape, with its bootstrap interval (percentiles, seeded).

    groups: of the same shape, or one that broadcasts to it; points of one group, such as the timesteps of one sample,
    are not independent and are drawn together. Without, each point is drawn by itself. Draws in which x or y is
    constant have no correlation and are left out.

    Raises ValueError for values that are not finite, shapes that differ, fewer than two groups, or a constant x or y.
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
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        raise ValueError("a constant has no correlation with anything: take other points")
    value = float(stats.spearmanr(x, y).statistic)

    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), draws)
    found = weighted_spearman(x, y, counts[:, group])
    return Interval(value, *percentiles(found))


def weighted_spearman(x: ArrayLike, y: ArrayLike, weights: ArrayLike) -> np.ndarray:
    """Spearman's correlation of points x, y, shape (n,), in samples that hold point i weights[d, i] times, (draws, n).

    Returns shape (draws,); NaN where x or y is constant.
    """
    x, y, weights = (np.asarray(values, np.float64) for values in (x, y, weights))
    found = []
    for part in np.array_split(weights, -(-len(weights) // 100)):
        total = part.sum(1, keepdims=True)
        a, b = (_ranks(values, part) - (total + 1) / 2 for values in (x, y))
        ab, aa, bb = ((part * product).sum(1) for product in (a * b, a * a, b * b))
        varied = (aa > 0) & (bb > 0)
        found.append(np.divide(ab, np.sqrt(aa * bb), out=np.full(len(ab), np.nan), where=varied))
    return np.concatenate(found)


def percentiles(draws: ArrayLike) -> tuple[float, float]:
    """The ends of the interval that bootstrap draws, shape (n,), give; NaN among them is left out."""
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(np.asarray(draws, np.float64), [tail, 1 - tail])
    return float(low), float(high)


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
