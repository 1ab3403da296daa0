"""The Fréchet distance between two sets of features, as in the FID of Heusel et al. 2017 (arXiv 1706.08500)."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lsvd.statistics.intervals import Interval


def frechet(a: ArrayLike, b: ArrayLike) -> float:
    """Squared Fréchet distance of the normal distributions fitted to features a (n, d) and b (m, d).

    |μa - μb|² + tr(Σa + Σb - 2 (Σa Σb)^½), in float64. Raises ValueError if the sets differ in d, hold values that are
    not finite, or have too few rows (d + 1 or less) to fit a covariance.
    """
    return measure_from(b)(a)


def measure_from(b: ArrayLike) -> Callable[[ArrayLike], float]:
    """The function that gives the distance of features a (n, d) from b (m, d): for many a, b is taken apart once.

    With few=True it takes sets of two rows and more, whose distances can be compared among sets of one size alone.
    """
    b = _checked(b)
    mean, cov = b.mean(0), np.cov(b, rowvar=False)
    root = _root(np.atleast_2d(cov))

    def distance(a: ArrayLike, few: bool = False) -> float:
        a = _checked(a, few)
        if a.shape[1] != b.shape[1]:
            raise ValueError(
                f"features of size {a.shape[1]} and {b.shape[1]} cannot be compared: use one feature network"
            )
        return _distance(a.mean(0), np.cov(a, rowvar=False), mean, cov, root)

    return distance


def frechet_of_moments(mean_a: ArrayLike, cov_a: ArrayLike, mean_b: ArrayLike, cov_b: ArrayLike) -> float:
    """The same from means (d,) and covariances (d, d); a singular covariance is allowed."""
    return _distance(mean_a, cov_a, mean_b, cov_b, _root(np.atleast_2d(cov_b)))


def _distance(mean_a: ArrayLike, cov_a: ArrayLike, mean_b: ArrayLike, cov_b: ArrayLike, root_b: NDArray) -> float:
    """The same, with the root of the second covariance.

    tr (Σa Σb)^½ is taken as the trace of (Σb^½ Σa Σb^½)^½: of a symmetric matrix, it cannot turn complex.
    """
    shift = np.asarray(mean_a, np.float64) - np.asarray(mean_b, np.float64)
    cov_a, cov_b = np.atleast_2d(cov_a), np.atleast_2d(cov_b)
    cross = np.sqrt(np.linalg.eigvalsh(root_b @ cov_a @ root_b).clip(0)).sum()
    return max(0.0, float(shift @ shift + np.trace(cov_a) + np.trace(cov_b) - 2 * cross))


def floor(features: ArrayLike, *, repeats: int = 10, seed: int = 0) -> float:
    """What identical distributions score: the mean distance of two disjoint random halves of features (2n, d).

    The distance is biased upwards at finite n: give twice as many rows as a compared set has, and the floor is that of
    n against n. Raises ValueError like `frechet`.
    """
    features = _checked(features)
    rng, half = np.random.default_rng(seed), len(features) // 2
    orders = (rng.permutation(len(features)) for _ in range(repeats))
    return float(np.mean([frechet(features[o[:half]], features[o[half : 2 * half]]) for o in orders]))


def bootstrap(a: ArrayLike, b: ArrayLike, *, repeats: int = 200, level: float = 0.95, seed: int = 0) -> Interval:
    """The distance with a bootstrap interval: rows of both sets are redrawn with replacement, seeded.

    Resampling repeats the upward bias that the distance has at finite n, so the percentiles are shifted until their
    mean is the estimate. The interval is one for the *expected* distance of two sets of these sizes, bias included:
    compare it with `floor` at the same n. The distance of two other sets varies as this one does, and so falls into it
    less often than 95%. With few rows for their features it is too wide: it covers more. Its ends are cut at 0. Raises
    ValueError like `frechet`.
    """
    a, b = _checked(a), _checked(b)
    value = frechet(a, b)
    rng = np.random.default_rng(seed)
    replicates = np.array([frechet(_redraw(a, rng), _redraw(b, rng)) for _ in range(repeats)])
    low, high = value + np.quantile(replicates - replicates.mean(), [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, max(0.0, float(low)), float(high))


def _redraw(x: NDArray, rng: np.random.Generator) -> NDArray:
    return x[rng.integers(len(x), size=len(x))]


def _root(cov: NDArray) -> NDArray:
    """Symmetric square root of a covariance; eigenvalues that rounding made negative count as 0."""
    values, vectors = np.linalg.eigh(np.asarray(cov, np.float64))
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def _checked(features: ArrayLike, few: bool = False) -> NDArray[np.float64]:
    x = np.asarray(features, np.float64)
    if x.ndim != 2:
        raise ValueError(f"features must have shape (n, d), not {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("the features hold values that are not finite: look at the pictures they were taken from")
    if len(x) < (2 if few else x.shape[1] + 2):
        raise ValueError(f"{len(x)} pictures are too few for {x.shape[1]} features: take at least {x.shape[1] + 2}")
    return x


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of pictures (n, 3, H, W) in [0, 1], shape (n,), on a's device; 120 where equal.

    Raises ValueError if the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"pictures of shapes {tuple(a.shape)} and {tuple(b.shape)} differ: compare like with like")
    return -10 * (a - b.to(a.device)).square().mean((-3, -2, -1)).clamp_min(1e-12).log10()
