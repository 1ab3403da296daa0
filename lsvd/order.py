"""Property 3, order: which triplet answers most to a factor, and does its rank move with the timestep?

Wang et al. 2025 (arXiv 2502.02225, Figure 3) say that the triplets of coarse attributes stand high in the order of
singular values at large t, and those of fine ones rise as t falls. A factor's carrier in a picture at t is the band of
triplets that moves it most when scaled; its rank counts from 0, the largest. Spearman's correlation of rank with t is
then below 0 for an attribute whose carrier sinks in the order as t falls, and above 0 for one whose carrier rises.

The null: the same for random directions of the same norms (lsvd.response). The spectrum itself changes with t, flat in
noise and steep in pictures; the band that does most merely by its norm moves too, whatever its vectors are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lsvd.measure import Interval, percentiles, weighted_spearman
from lsvd.response import Responses, stack


@dataclass(frozen=True)
class Order:
    """Spearman's correlation of the carrier's rank with t, that of the null, and their difference, paired by picture.

    n: pictures that count."""

    rho: Interval
    null: Interval
    beyond: Interval
    n: int


def carriers(moved: Tensor) -> Tensor:
    """The band that moves each factor most: its place among the bands, float64, NaN where the factor is not visible.

    moved: shape (..., bands, B, factors), as Responses.moved; returns (..., B, factors).
    """
    found = moved.nan_to_num(-1).argmax(-3).double()
    return found.where(moved.isfinite().all(-3), torch.nan)


def order(found: Sequence[Responses], *, draws: int = 1000, seed: int = 0) -> dict[str, Order]:
    """Whether carriers change their rank with t, for each factor by name; and for each scale, the mean of its factors.

    found: one backbone's responses, one for each timestep, of the same pictures, bands and factors. Correlations are
    over all timesteps and pictures together; intervals are by bootstrap over pictures (percentiles, seeded), the same
    pictures for all factors. A factor is left out if it is visible in fewer than two pictures, or its carrier, or that
    of the null, is the same everywhere. Raises ValueError for fewer than two timesteps or pictures, and if responses
    do not fit each other.
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
    seen = np.isfinite(ranks[0]).all(0).sum(0)
    rows = {name: [i] for i, name in enumerate(found[0].names)}
    rows |= {scale: [i for i, its in enumerate(found[0].scales) if its == scale] for scale in found[0].scales}
    told = np.isfinite(own[:, 0]) & np.isfinite(chance[:, 0]) & (seen > 1)
    result = {}
    for name, which in rows.items():
        which = [i for i in which if told[i]]
        if which:
            parts = own[which].mean(0), chance[which].mean(0), (own - chance)[which].mean(0)
            result[name] = Order(*(Interval(float(p[0]), *percentiles(p[1:])) for p in parts), int(seen[which].max()))
    return result


def _correlations(t: Sequence[float], ranks: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Spearman's correlation of ranks, (timesteps, B), with t for each row of weights, (draws, B)."""
    visible = np.isfinite(ranks).all(0)
    if not visible.any():
        return np.full(len(weights), np.nan)
    ranks = ranks[:, visible]
    times = np.broadcast_to(np.asarray(t, np.float64)[:, None], ranks.shape)
    return weighted_spearman(times.ravel(), ranks.ravel(), np.tile(weights[:, visible], len(ranks)))
