"""Property 3, order: which triplet answers most to a factor, and does its rank move with the timestep?

Wang et al. 2025 (arXiv 2502.02225, Figure 3) say that the triplets of coarse attributes stand high in the order of
singular values at large t, and those of fine ones rise as t falls. A factor's carrier in a picture at t is the band of
triplets that moves it most when scaled; its rank counts from 0, the largest. Spearman's correlation of rank with t is
then below 0 for an attribute whose carrier sinks in the order as t falls, and above 0 for one whose carrier rises.

The null: the same for random directions of the same norms (lsvd.studies.encoding). The spectrum itself changes with t,
flat in noise and steep in pictures; the band that does most merely by its norm moves too, whatever its vectors are.
Scaling changes the energy of a code more than a random direction of the same norm does. The null does not hold that
fixed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lsvd.statistics.intervals import Interval, percentiles, weighted_spearman
from lsvd.studies.encoding import Responses, stack

LEAST = 1e-3  # of a move that says which band moves a factor most: below, it is rounding
SHARE = 0.25  # of the pictures in which a factor must count to count for its scale


@dataclass(frozen=True)
class Order:
    """Spearman's correlation of the carrier's rank with t, that of the null, and their difference, paired by picture.

    n: pictures that count, those where the factor moves at two timesteps or more; of a scale, the least of its factors.
    """

    rho: Interval
    null: Interval
    beyond: Interval
    n: int


def carriers(moved: Tensor) -> Tensor:
    """The band that moves each factor most: its place among the bands, float64.

    moved: shape (..., bands, B, factors), as Responses.moved; returns (..., B, factors). NaN where the factor is not
    visible, or no band moves it by LEAST.
    """
    most, band = moved.nan_to_num(0).max(-3)
    return band.double().where(most >= LEAST, torch.nan)


def order(found: Sequence[Responses], *, draws: int = 1000, seed: int = 0) -> dict[str, Order]:
    """Whether carriers change their rank with t, for each factor by name; and for each scale, the mean of its factors.

    found: one backbone's responses, one for each timestep, of the same pictures, bands and factors. Correlations are
    over all timesteps and pictures together; intervals are by bootstrap over pictures (percentiles, seeded), the same
    pictures for all factors. A factor is left out if it counts in fewer than two pictures, or its carrier, or that of
    the null, is the same everywhere; for its scale it must count in SHARE of them. Raises ValueError for fewer than two
    timesteps or pictures, and if responses do not fit each other.
    """
    moved, null = stack(found)
    t, B = [each.t for each in found], moved.shape[2]
    if len(set(t)) < 2:
        raise ValueError("one timestep shows no order: take responses at two or more")
    if B < 2:
        raise ValueError("a correlation's interval needs two or more pictures: take more seeds")
    counts = np.random.default_rng(seed).multinomial(B, np.full(B, 1 / B), draws)
    # the first row is the sample itself
    weights = np.concatenate([np.ones((1, B), int), counts])
    ranks = [carriers(each).numpy() for each in (moved, null)]
    own, chance = (np.stack([_correlations(t, rank[..., i], weights) for i in range(rank.shape[-1])]) for rank in ranks)
    n = (np.isfinite(ranks[0]).sum(0) > 1).sum(0)
    told = np.isfinite(own[:, 0]) & np.isfinite(chance[:, 0]) & (n > 1)
    rows = {name: [i] for i, name in enumerate(found[0].names)}
    for i, scale in enumerate(found[0].scales):
        rows.setdefault(scale, []).extend([i] if n[i] >= SHARE * B else [])
    result = {}
    for name, which in rows.items():
        which = [i for i in which if told[i]]
        if which:
            parts = own[which].mean(0), chance[which].mean(0), (own - chance)[which].mean(0)
            result[name] = Order(*(Interval(float(p[0]), *percentiles(p[1:])) for p in parts), int(n[which].min()))
    return result


def _correlations(t: Sequence[float], ranks: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Spearman's correlation of ranks, (timesteps, B), with t for each row of weights, (draws, B)."""
    there = np.isfinite(ranks).ravel()
    if not there.any():
        return np.full(len(weights), np.nan)
    times = np.repeat(np.asarray(t, np.float64), ranks.shape[1])
    return weighted_spearman(times[there], ranks.ravel()[there], np.tile(weights, len(ranks))[:, there])
