"""How an attribute answers to the strength it is applied with: curves, monotone or not, straight or a step.

Wang et al. 2025 (arXiv 2502.02225, Figure 7) interpolate and extrapolate a learned attribute. Pictures that had it
before do not count. Intervals are over seeds, which all attributes and strengths share.
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from lsvd.statistics import intervals
from lsvd.statistics.intervals import Interval, percentiles
from lsvd.studies import merit
from lsvd.studies.merit import Measured, of_seeds, values
from lsvd.studies.ways import Way


def curve(measured: Measured, ways: Sequence[Way], what: str) -> list[Interval]:
    """The mean over attributes and pictures at each strength. Raises ValueError if fewer than two pictures count."""
    return [intervals.mean(of_seeds(each)) for each in values(measured, ways, what).swapaxes(0, 1)]


def monotone(measured: Measured, ways: Sequence[Way], strengths: Sequence[float]) -> Interval:
    """Spearman's correlation of the attribute's probability and the strength in each picture: mean over all.

    1 if it rises at each step in every picture. Where nothing changes at all, it counts as 0.
    """
    p = values(measured, ways, "after")
    rho = np.full((p.shape[0], p.shape[2]), np.nan)
    for a, n in np.argwhere(np.isfinite(p).all(1)):
        own = p[a, :, n]
        rho[a, n] = stats.spearmanr(strengths, own).statistic if np.ptp(own) > 0 else 0.0
    return intervals.mean(of_seeds(rho))


def bend(measured: Measured, ways: Sequence[Way], strengths: Sequence[float], draws: int = merit.DRAWS) -> Interval:
    """How far the mean probability leaves the straight line between its ends, as a share of its rise.

    0 for a line; a step has up to 1. The strengths must rise. NaN where nothing rises.
    """
    p = values(measured, ways, "after")
    seen, drawn = np.isfinite(p), merit.weights(measured, draws)
    count = np.einsum("dn,asn->das", drawn, seen)
    mean = np.einsum("dn,asn->das", drawn, np.where(seen, p, 0)) / np.maximum(count, 1)
    y = (mean * (count > 0)).sum(1) / np.maximum((count > 0).sum(1), 1)  # (draws, strengths)
    x = (np.asarray(strengths) - strengths[0]) / (strengths[-1] - strengths[0])
    rise = y[:, -1:] - y[:, :1]
    if not rise[0, 0]:
        return Interval(np.nan, np.nan, np.nan)
    away = np.abs(y - (y[:, :1] + rise * x)).max(1)
    away = np.divide(away, np.abs(rise[:, 0]), out=np.full(len(y), np.nan), where=rise[:, 0] != 0)
    return Interval(float(away[0]), *percentiles(away[1:]))
