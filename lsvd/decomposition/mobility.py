"""Singular triplets followed through time: which rank does a triplet have at another timestep?

Two triplets are as alike as their rank-one matrices are parallel, |<u v^T, u' v'^T>| = |u . u'| |v . v'|: 1 for the
same triplet, 0 for an orthogonal one, blind to signs. Matched one-to-one, the triplets of a trajectory draw paths of
ranks. Wang et al. 2025 (arXiv 2502.02225) show such paths for Stable Diffusion; how they match triplets is not in the
paper's summary, so the matching is ours. Ranks count from 0, the largest singular value.

What no matching can tell: triplets of equal singular values are known as a group only, any rotation of them being as
good, and their similarities are low or arbitrary; singular values that come close to each other mix their vectors in
the same way. A matching always pairs every triplet with something, so a similarity says little until it is compared
with `chance`, and a path until it is compared with one between different samples (`shift` of `follow`).
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from lsvd.checks import integer
from lsvd.decomposition.svd import ChannelSVD, svd

# What a match gives up, at most, to stay near its rank: about the rounding of float32, so it decides only ties.
TIE = 1e-7


@dataclass(frozen=True, eq=False)
class Paths:
    """Ranks of triplets at every step; on the CPU, where they are matched.

    ranks: (steps, B, C, k), int64; ranks[s, b, c, i] is the rank, at step s, of the triplet of rank i at step
    `reference`. similarity: the same shape, 0 to 1, of the match that led there: with the reference step itself if
    `direct`, else with the step before on the way from the reference; 1 at the reference.
    """

    ranks: Tensor
    similarity: Tensor
    reference: int
    direct: bool

    def kept(self, level: float) -> Tensor:
        """Whether a path can still be trusted, (steps, B, C, k): every match that led there is above `level`."""
        above = (self.similarity > level).long()
        above[self.reference] = 1
        if not self.direct:
            above[self.reference :] = above[self.reference :].cumprod(0)
            above[: self.reference + 1] = above[: self.reference + 1].flip(0).cumprod(0).flip(0)
        return above.bool()


@dataclass(frozen=True, eq=False)
class Movement:
    """How far ranks move against the time between two steps; all on the CPU.

    dt: (m,), ascending, the differences of timesteps that occur. change: (m, B, C, k), the mean |rank change| over all
    `pairs`, (m,), of steps that far apart; NaN where no path lasts that long.
    """

    dt: Tensor
    change: Tensor
    pairs: Tensor

    @property
    def by_sample(self) -> Tensor:
        """The mean over channels and triplets, NaN left out, (m, B): what to draw an interval over samples from."""
        return self.change.nanmean((-2, -1))


def similarity(a: ChannelSVD, b: ChannelSVD) -> Tensor:
    """|<u_i v_i^T, u'_j v'_j^T>| of all triplets of a and of b in each channel, shape (..., C, k, k').

    Leading dimensions broadcast. A triplet whose singular value is zero to rounding has no direction of its own, as in
    a constant channel beyond rank 1: its similarity is 0. Raises ValueError if codes differ in shape or are not finite.
    """
    ours, theirs = ((*d.S.shape[:-1], d.U.shape[-2], d.Vh.shape[-1]) for d in (a, b))
    try:
        torch.broadcast_shapes(ours[:-3], theirs[:-3])
        fit = ours[-3:] == theirs[-3:]
    except RuntimeError:
        fit = False
    if not fit:
        raise ValueError(f"triplets of codes of shapes {ours} and {theirs} cannot be compared: make the codes alike")
    dtype = torch.promote_types(a.S.dtype, b.S.dtype)
    left = (a.U.mT.to(dtype) @ b.U.to(dtype)).abs()
    right = (a.Vh.to(dtype) @ b.Vh.mT.to(dtype)).abs()
    product = (left * right).clamp_max(1)
    if not (product.isfinite().all() and a.S.isfinite().all() and b.S.isfinite().all()):
        raise ValueError("triplets hold NaN or infinity: decompose finite codes")
    return product * (_present(a).unsqueeze(-1) & _present(b).unsqueeze(-2))


def _present(d: ChannelSVD) -> Tensor:
    """Where singular values, (..., C, k), are above rounding; the bound is that of torch.linalg.matrix_rank."""
    size = d.S.abs()
    if not d.rank:
        return size.bool()
    bound = max(d.U.shape[-2], d.Vh.shape[-1]) * torch.finfo(size.dtype).eps
    return size > bound * size.amax(-1, keepdim=True)


def match(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """The one-to-one assignment of rows to columns with the largest total, for each matrix of shape (..., k, k').

    Returns the column of each row, (..., k), int64, and the similarity of the pair. With fewer columns than rows, the
    rows left over get column -1 and similarity 0; with more, the columns left over are in nobody's. Ties go to the
    nearest rank. Solved on the CPU (scipy's linear_sum_assignment), one matrix after the other. Raises ValueError if
    the similarities are not finite.
    """
    if not isinstance(similarity, Tensor) or not similarity.is_floating_point() or similarity.ndim < 2:
        raise ValueError("similarities must be a floating-point tensor of shape (..., k, k'): take those of similarity")
    if not similarity.isfinite().all():
        raise ValueError("similarities hold NaN or infinity, which cannot be matched: decompose finite codes")
    *lead, rows, columns = similarity.shape
    offset = np.arange(rows)[:, None] - np.arange(columns)
    handicap = TIE * (offset / max(rows, columns, 1)) ** 2
    matrices = similarity.detach().cpu().double().reshape(math.prod(lead), rows, columns).numpy()
    columns_of = np.full((len(matrices), rows), -1)
    for matrix, row in zip(matrices, columns_of, strict=True):
        i, j = linear_sum_assignment(matrix - handicap, maximize=True)
        row[i] = j
    indices = torch.from_numpy(columns_of).reshape(*lead, rows).to(similarity.device, torch.int64)
    if not columns:
        return indices, similarity.new_zeros(indices.shape)
    pairs = similarity.gather(-1, indices.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    return indices, pairs.where(indices >= 0, 0)


def follow(
    codes: Tensor | ChannelSVD, k: int | None = None, *, reference: int = 0, direct: bool = False, shift: int = 0
) -> Paths:
    """Follow the k leading triplets of step `reference` through all steps of codes (steps, B, C, H, W).

    codes: as `Trajectory.codes`, or their decomposition. All triplets of the codes take part in the matching, k only
    says which paths are returned (all if None): a path may lead to any rank. Matches go from each step to the next,
    away from the reference, and are chained; with `direct`, each step is matched with the reference itself.

    shift: 0 for the paths themselves. Otherwise the null: each match is between sample b on one side and sample
    b + shift (counted around) on the other, everything else being the same. It takes at least two samples.

    Raises ValueError for another shape, codes that are not finite, or k, reference or shift out of range.
    """
    if not isinstance(codes, Tensor | ChannelSVD):
        raise ValueError(f"cannot follow a {type(codes).__name__}: put codes of one shape together with torch.stack")
    triplets = codes if isinstance(codes, ChannelSVD) else svd(codes)
    shape = tuple(triplets.S.shape)
    if len(shape) != 4 or not shape[0]:
        kind = f"singular values of shape {shape}" if codes is triplets else f"codes of shape {tuple(codes.shape)}"
        raise ValueError(f"cannot follow {kind}: give codes (steps, B, C, H, W), one step at least")
    steps, samples, _, rank = shape
    k = rank if k is None else k
    if integer(k) is None or not 0 <= k <= rank:
        raise ValueError(f"cannot follow {k} triplets: choose a whole number from 0 to {rank}")
    if integer(reference) is None or not 0 <= reference < steps:
        raise ValueError(f"not a step: {reference}; choose a reference from 0 to {steps - 1}")
    if shift and (samples < 2 or shift % samples == 0):
        raise ValueError(f"{samples} samples shifted by {shift} are not matched with others: give two or more, shift 1")

    ranks = torch.arange(k, device="cpu").expand(*shape[:-1], k).clone()
    alike = torch.ones(ranks.shape, dtype=triplets.S.dtype, device="cpu")
    for s in [*range(reference + 1, steps), *range(reference - 1, -1, -1)]:
        before = s - 1 if s > reference else s + 1
        likeness = similarity(_at(triplets, reference if direct else before), _at(triplets, s, shift))
        partners, pairs = match(likeness.cpu())
        last = ranks[reference if direct else before]
        ranks[s], alike[s] = partners.gather(-1, last), pairs.gather(-1, last)
    return Paths(ranks, alike, reference, direct)


def _at(triplets: ChannelSVD, step: int, shift: int = 0) -> ChannelSVD:
    """The decomposition at one step, with sample b + shift in the place of sample b."""
    U, S, Vh = (part[step].roll(-shift, 0) for part in (triplets.U, triplets.S, triplets.Vh))
    return replace(triplets, U=U, S=S, Vh=Vh)


def chance(height: int, width: int, *, quantile: float = 0.99, draws: int = 100, seed: int = 0) -> float:
    """The similarity that one in a hundred matches (1 - quantile) of triplets of unrelated codes exceeds.

    It is estimated from `draws` matched pairs of height x width matrices of Gaussian noise, seeded. A path is lost, or
    as good as lost, where it falls below; see `Paths.kept`. Raises ValueError for arguments out of range.
    """
    if min(height, width, draws) < 1:
        raise ValueError(f"cannot match {draws} draws of {height} x {width} matrices: give at least 1 of each")
    if not 0 <= quantile <= 1:
        raise ValueError(f"not a quantile: {quantile}; choose from 0 to 1")
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, draws, 1, height, width, generator=generator, dtype=torch.float32, device="cpu")
    return float(np.quantile(follow(noise).similarity[1].numpy(), quantile))


def movement(paths: Paths, timesteps: Tensor, level: float | None = None) -> Movement:
    """Mean |rank change| of each path over all pairs of steps, by the difference of their timesteps.

    timesteps: (steps,), one for each step of the paths, in the scheduler's units. Trajectories hold one code more than
    timesteps: follow `codes[:-1]`. Differences are rounded to thousandths. Of direct paths only pairs with the
    reference count, since no two other steps were matched with each other. With `level`, a pair counts only while
    every match between its two steps is above it; without, lost paths count too, and move as chance has it.

    The null is movement(follow(codes, shift=1), timesteps). Raises ValueError if timesteps are not finite or not one
    for each step.
    """
    ranks, alike = paths.ranks, paths.similarity
    steps = len(ranks)
    times = torch.as_tensor(timesteps, device="cpu").detach().cpu().double()
    if times.shape != (steps,):
        raise ValueError(
            f"timesteps of shape {tuple(times.shape)} for {steps} steps: give one for each step; a trajectory's last "
            "code has none, so follow codes[:-1]"
        )
    if not times.isfinite().all():
        raise ValueError("timesteps hold NaN or infinity: give those of the trajectory")
    first, last = torch.triu_indices(steps, steps, 1)
    if paths.direct:
        first, last = (part[(first == paths.reference) | (last == paths.reference)] for part in (first, last))
    dt, where = (times[first] - times[last]).abs().mul(1000).round().div(1000).unique(return_inverse=True)

    # to every step but the reference leads one match; in this order, that of a chain between steps s and s + 1 is s-th
    weak = torch.zeros_like(ranks)
    if level is not None:
        others = [s for s in range(steps) if s != paths.reference]
        if paths.direct:
            weak[others] = (alike[others] <= level).long()
        else:
            weak[1:] = (alike[others] <= level).long().cumsum(0)

    total = torch.zeros(len(dt), *ranks.shape[1:], dtype=torch.float64, device="cpu")
    count = torch.zeros_like(total)
    for s in range(steps):
        mine = first == s
        later, bins = last[mine], where[mine]
        lasting = (weak[later] == weak[s]).double()
        total.index_add_(0, bins, (ranks[later] - ranks[s]).abs() * lasting)
        count.index_add_(0, bins, lasting)
    return Movement(dt, total / count, where.bincount(minlength=len(dt)))
