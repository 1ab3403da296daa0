"""The failures that the paper names for each loss left out, as numbers (Wang et al. 2025, arXiv 2502.02225, Figure 8).

Without L1 no attribute: success falls. Without L2 identity is lost: side effects grow. Without L3 colours saturate:
chroma grows. Without L4 quality drops: the Frechet distance from renderings grows. Each is held against the full loss
in the same basis.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lsvd.statistics import fidelity, intervals
from lsvd.statistics.intervals import Interval
from lsvd.studies.merit import Measured, of_seeds, values
from lsvd.studies.stages import LOSSES
from lsvd.studies.ways import Way

MEASURES = ("success", "side effects", "chroma")
FIELDS = dict(zip(MEASURES, ("has", "side", "chroma"), strict=True))
EXPECTED = dict(
    zip(LOSSES, ((*MEASURES[:1], -1), (*MEASURES[1:2], 1), (*MEASURES[2:], 1), ("frechet", 1)), strict=True)
)
"""For each loss what should change without it, and in which direction."""


def level(measured: Measured, way: Way, name: str) -> Interval:
    """One of MEASURES, mean over attributes and the pictures that lacked them."""
    return intervals.mean(of_seeds(values(measured, [way], FIELDS[name])[:, 0]))


def change(measured: Measured, way: Way, full: Way, name: str) -> Interval:
    """By how much one of MEASURES is larger than with the full loss, paired by picture."""
    pair = values(measured, [way, full], FIELDS[name])
    return intervals.mean(of_seeds(pair[:, 0] - pair[:, 1]))


def drawn(measured: Measured, way: Way, reference: NDArray, draws: int = 200, seed: int = 0) -> NDArray:
    """Frechet distance of all edited pictures together from reference features (m, d), shape (1 + draws,).

    First of the pictures there are, then with seeds drawn with replacement, alike for all ways: the pictures of one
    seed hang together. The reference stays as it is. Raises ValueError for few pictures.
    """
    features = np.stack([each[way].features.double().numpy() for each in measured.values()])  # (attributes, n, d)
    away, (n, d) = fidelity.measure_from(reference), features.shape[1:]
    rows = np.random.default_rng(seed).integers(n, size=(draws, n))
    return np.array([away(features[:, own].reshape(-1, d)) for own in (np.arange(n), *rows)])


def distance(own: NDArray) -> Interval:
    """The Frechet distance of what was `drawn`, with its interval, which is cut at 0."""
    gap = farther(own, np.zeros_like(own))
    return Interval(gap.value, max(0.0, gap.low), gap.high)


def farther(own: NDArray, full: NDArray) -> Interval:
    """By how much the Frechet distance is larger than with the full loss, both as `drawn`.

    Both distances are biased upwards alike, as they are of as many pictures; draws repeat pictures, so that they are
    shifted until their mean is the estimate.
    """
    value, gaps = float(own[0] - full[0]), (own - full)[1:]
    low, high = value + np.quantile(gaps - gaps.mean(), [0.025, 0.975])
    return Interval(value, float(low), float(high))


def shown(changes: Mapping[str, Interval], loss: str) -> bool:
    """Does what the paper expects without a loss show, with its interval? changes: by measure."""
    name, sign = EXPECTED[loss]
    return min(sign * changes[name].low, sign * changes[name].high) > 0
