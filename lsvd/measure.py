"""Numbers with their uncertainty: means and shares with 95% intervals, and the fidelity of a picture."""

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


def mean(values: ArrayLike, seed: int = 0) -> Interval:
    """Mean of independent values, shape (n,), with its bootstrap interval (percentiles, seeded).

    Raises ValueError for fewer than two values, or values that are not finite.
    """
    x = np.asarray(values, np.float64).ravel()
    if len(x) < 2 or not np.isfinite(x).all():
        raise ValueError(f"a mean needs two or more finite values, not {len(x)}: take more pictures")
    if np.ptp(x) == 0:
        return Interval(float(x[0]), float(x[0]), float(x[0]))
    low, high = stats.bootstrap(
        (x,), np.mean, confidence_level=LEVEL, method="percentile", rng=seed
    ).confidence_interval
    return Interval(float(x.mean()), float(low), float(high))


def share(hits: int, n: int) -> Interval:
    """Share of successes with its Wilson interval. Raises ValueError unless 0 <= hits <= n and n > 0."""
    if not 0 <= hits <= n or n == 0:
        raise ValueError(f"{hits} of {n} is no share: count at least one picture")
    ends = stats.binomtest(int(hits), int(n)).proportion_ci(LEVEL, method="wilson")
    return Interval(hits / n, ends.low, ends.high)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of pictures (n, 3, H, W) in [0, 1], shape (n,); 120 where they are equal.

    Raises ValueError if the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"pictures of shapes {tuple(a.shape)} and {tuple(b.shape)} differ: compare like with like")
    return -10 * (a - b).square().mean((-3, -2, -1)).clamp_min(1e-12).log10()
