"""Property 3, order: which triplet answers most to a factor, and does its rank move with the timestep?

Wang et al. 2025 (arXiv 2502.02225, Figure 3) say that the triplets of coarse attributes stand high in the order of
singular values at large t, and those of fine ones rise as t falls. A factor's carrier in a picture at t is the band of
triplets that moves it most when scaled; its rank counts from 0, the largest. Spearman's correlation of rank with t is
then below 0 for an attribute whose carrier sinks in the order as t falls, and above 0 for one whose carrier rises.

The null: the same for random directions of the same norms (lsvd.studies.responses). The spectrum itself changes with t,
flat in noise and steep in pictures; the band that does most merely by its norm moves too, whatever its vectors are.
Scaling changes the energy of a code more than a random direction of the same norm does. The null does not hold that
fixed.

Triplets are also followed by themselves, from step to step (lsvd.decomposition.mobility): how far do their ranks move,
and how far if matched with another picture's triplets?
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from lsvd.backbones.models import Backbone
from lsvd.checks import check_seeds
from lsvd.decomposition.mobility import Movement, Paths, chance, follow, movement
from lsvd.decomposition.svd import svd
from lsvd.sampling.kept import trajectories
from lsvd.sampling.trajectory import Trajectory
from lsvd.statistics.intervals import SIGNED, UNIT, Interval, jackknife, mean, weighted_spearman, without_each
from lsvd.statistics.verdicts import Part, Verdict, judge
from lsvd.storage.steady import rounding
from lsvd.studies.encoding import Evidence, evidence
from lsvd.studies.responses import Responses, pictures, stack
from lsvd.studies.survey import SAMPLES, Plan, survey
from lsvd.testbed.reader import Reader
from lsvd.testbed.scenes.scene import Scale

TRIPLETS = 8  # to follow, those with the largest singular values
PICTURES = 4  # whose paths are drawn
CLAIMS = {
    "coarse": ("coarse attributes sink in the order as t falls", -1),
    "fine": ("fine attributes rise in the order as t falls", 1),
}
"""The claim on each scale, and the sign of the correlation that it asks for."""
LEAST = 1e-3  # of a move that says which band moves a factor most: below, it is rounding
MARGIN = 0.05  # of a correlation beyond its null: less is none
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


def order(responses: Sequence[Responses]) -> dict[str, Order]:
    """Whether carriers change their rank with t, for each factor by name; and for each scale, the mean of its factors.

    responses: those of one backbone at each timestep, of the same pictures, bands and factors. Correlations are over
    all timesteps and pictures together; intervals are over pictures, each left out in turn for all factors. A factor is
    left out if it counts in fewer than two pictures, or its carrier, or that of the null, is the same everywhere, be it
    without one picture; for its scale it must count in SHARE of them. Raises ValueError for fewer than two timesteps or
    pictures, and if responses do not fit each other.
    """
    moved, null = stack(responses)
    t, B = [part.t for part in responses], moved.shape[2]
    if len(set(t)) < 2:
        raise ValueError("one timestep shows no order: take responses at two or more")
    if B < 2:
        raise ValueError("a correlation's interval needs two or more pictures: take more seeds")
    weights = without_each(B)
    ranks = [carriers(part).numpy() for part in (moved, null)]
    rho, chance = (np.stack([_correlations(t, rank[..., i], weights) for i in range(rank.shape[-1])]) for rank in ranks)
    n = (np.isfinite(ranks[0]).sum(0) > 1).sum(0)
    valid = np.isfinite(rho).all(1) & np.isfinite(chance).all(1) & (n > 1)
    rows = {name: [i] for i, name in enumerate(responses[0].names)}
    for i, scale in enumerate(responses[0].scales):
        rows.setdefault(scale, []).extend([i] if n[i] >= SHARE * B else [])
    result = {}
    for name, which in rows.items():
        which = [i for i in which if valid[i]]
        if which:
            parts = rho[which].mean(0), chance[which].mean(0), (rho - chance)[which].mean(0)
            bounds = SIGNED, SIGNED, (-2.0, 2.0)
            known = (jackknife(p[0], p[1:], bounds=ends) for p, ends in zip(parts, bounds, strict=True))
            result[name] = Order(*known, int(n[which].min()))
    return result


def main_factors(test: Evidence, step: int) -> list[int | None]:
    """For each of the TRIPLETS first bands, the factor it moves most above chance at one timestep, or None."""
    excess, above = test.excess[step, :TRIPLETS], test.above[step, :TRIPLETS]
    best = excess.where(above, -1).argmax(-1).tolist()
    return [factor if some else None for factor, some in zip(best, above.any(-1).tolist(), strict=True)]


def gallery(
    backbone: Backbone, walk: Trajectory, times: Sequence[float], factors: Sequence[float] = (0.0, 2.0)
) -> Tensor:
    """A picture, and it with each of its first TRIPLETS triplets scaled: (times * factors, 1 + TRIPLETS, 3, h, w).

    The triplets are those of the first timestep, followed to the others in each channel of the walk's first picture.
    """
    ranks = follow(walk.codes[:-1], k=TRIPLETS, reference=walk.index(times[0])).ranks[:, 0]
    left, rows = backbone.decode(walk.final).cpu()[:1], []
    for t in times:
        for factor in factors:
            codes = [_scale(walk.at(t), row, factor) for row in ranks[walk.index(t)].T.tolist()]
            rows.append(torch.cat([left, pictures(backbone, walk, t, torch.stack(codes))[:, 0]]))
    return torch.stack(rows)


def _scale(x: Tensor, ranks: Sequence[int], factor: float) -> Tensor:
    """x, (B, C, H, W), with the triplet of rank ranks[c] scaled in channel c."""
    triplets = svd(x)
    for channel, rank in enumerate(ranks):
        triplets = triplets.scale(rank, factor, channels=channel)
    return triplets.recompose()


@dataclass(frozen=True, eq=False)
class Mobility:
    """How far the ranks of the TRIPLETS first triplets move, and how far if matched with the next picture's triplets.

    lost: share of the paths with a match no better than `level`, that of matches between noise. paths: of the first
    PICTURES pictures, from a middle timestep on, against timesteps, (n,). most: by how much a rank can change.
    """

    same: Movement
    null: Movement
    lost: Interval
    level: float
    paths: Paths
    timesteps: Tensor
    most: int

    def far(self) -> tuple[Interval, Interval, Interval]:
        """Mean rank change over half the way and more, that of the null, and their difference."""
        half = self.same.dt >= self.same.dt.max() / 2
        same, null = (part.by_sample[half].mean(0) for part in (self.same, self.null))
        return self.means(same, null)

    def means(self, same: Tensor, null: Tensor) -> tuple[Interval, Interval, Interval]:
        """The means over pictures of rank changes, (B,), of those of the null, and of their difference."""
        bounds = (0, self.most), (0, self.most), (-self.most, self.most)
        return tuple(mean(x, bounds=ends) for x, ends in zip((same, null, same - null), bounds, strict=True))


@dataclass(frozen=True, eq=False)
class Result:
    """The study of some backbones, by name; responses, evidence and orders of those that have a reader."""

    plan: Plan
    mobility: dict[str, Mobility]
    responses: dict[str, list[Responses]]
    evidence: dict[str, Evidence]
    orders: dict[str, dict[str, Order]]

    def by_scale(self, name: str) -> dict[str, tuple[Order, Scale]]:
        """The orders of one backbone: of the factors of each scale, and below them their mean, with the scale."""
        first, table = self.responses[name][0], {}
        for scale in get_args(Scale):
            factors = [factor for factor, other in zip(first.names, first.scales, strict=True) if other == scale]
            keys = {factor: factor for factor in factors} | {f"mean {scale}": scale}
            table |= {label: (self.orders[name][key], scale) for label, key in keys.items() if key in self.orders[name]}
        return table


def mobility(walk: Trajectory, start: float) -> Mobility:
    """The mobility of a trajectory's triplets; start: the timestep, a fraction of T, that the drawn paths start from.

    Raises ValueError as lsvd.decomposition.mobility.follow, and for a walk of one picture, which has no null.
    """
    return mobility_of(walk.codes[:-1], walk.timesteps, walk.index(walk.nearest(start)))


def mobility_of(codes: Tensor, timesteps: Tensor, reference: int) -> Mobility:
    """The mobility of the triplets of codes, (n, B, C, H, W), at timesteps (n,); reference: where drawn paths start."""
    same, null = (follow(codes, k=TRIPLETS, shift=shift) for shift in (0, 1))
    level = chance(*codes.shape[-2:])
    return Mobility(
        movement(same, timesteps),
        movement(null, timesteps),
        mean(1 - same.kept(level)[-1].double().mean((1, 2)), bounds=UNIT),
        level,
        follow(codes[:, :PICTURES], k=TRIPLETS, reference=reference),
        timesteps,
        min(codes.shape[-2:]) - 1,
    )


def measure(
    models: Mapping[str, Backbone],
    readers: Mapping[str, Reader],
    plan: Plan | None = None,
    seeds: int | Sequence[int] = range(SAMPLES),
    paths: int | Sequence[int] = range(16),
    *,
    progress: bool = False,
) -> Result:
    """The study of the models, from trajectories and responses that are kept on disk.

    seeds: of the responses, see lsvd.studies.survey; paths: those whose triplets are followed. Raises ValueError as
    `mobility`, `survey` and `order`.
    """
    plan, paths, moving = plan or Plan(), check_seeds(paths), {}
    for name, model in models.items():
        prompt = plan.prompt if model.kind == "text-to-image" else None
        walk = trajectories(model, prompt, paths, batch=len(paths), progress=progress)
        moving[name] = mobility(walk, plan.times[len(plan.times) // 2])
    responses = {name: survey(models[name], reader, plan, seeds, progress=progress) for name, reader in readers.items()}
    tests = ({name: test(parts) for name, parts in responses.items()} for test in (evidence, order))
    return Result(plan, moving, responses, *tests)


def verdicts(result: Result) -> list[Verdict]:
    """Whether ranks move by more than a place, coarse attributes sink in the order as t falls, and fine ones rise.

    Ranks: those of the TRIPLETS first triplets over half the way and more; the threshold of one place is ours. Sink and
    rise: the correlation lies beyond that of the null by more than MARGIN; wholly if it lies beyond 0 itself.
    """
    claims = []
    for name, mobile in result.mobility.items():
        moved = mobile.far()[0]
        claims.append(judge("order", "ranks move by more than a place", name, [Part(moved, null=1.0)]))
        claims += scale_verdicts(name, result.orders.get(name, {}))
    return claims


def scale_verdicts(name: str, orders: Mapping[str, Order]) -> list[Verdict]:
    """The verdicts on CLAIMS, for the orders of one backbone."""
    claims = []
    for scale, (claim, sign) in CLAIMS.items():
        if scale in orders:
            parts = [Part(orders[scale].beyond, margin=MARGIN, sign=sign), Part(orders[scale].rho, sign=sign)]
            claims.append(judge("order", claim, name, parts, gate=True))
    return claims


def rows(result: Result) -> list[dict[str, str | int]]:
    """The rows of outputs/tables/order.csv: rank changes by the time between steps, and correlations of rank with t."""
    table = []
    for name, mobile in result.mobility.items():
        same, null = mobile.same.by_sample, mobile.null.by_sample
        lines = [
            ("rank change", f"dt = {dt:g}", *mobile.means(y, z), len(y))
            for dt, y, z in zip(mobile.same.dt.tolist(), same, null, strict=True)
        ]
        lines.append(("rank change", "half the way and more", *mobile.far(), same.shape[1]))
        for label, row in result.orders.get(name, {}).items():
            lines.append(("Spearman of rank and t", label, row.rho, row.null, row.beyond, row.n))
        for what, of, *parts, n in lines:
            row = {"backbone": name, "measure": what, "of": of}
            for label, part in zip(("", "null ", "beyond "), parts, strict=True):
                numbers = {"value": part.value, "low": part.low, "high": part.high}
                row |= {f"{label}{end}": f"{x:.4f}" for end, x in numbers.items()}
            table.append(row | {"n": n})
    return table


def tolerance(row: Mapping[str, str], column: str) -> float:
    """The relative difference in `rows` that is rounding.

    Unrelated triplets are matched by near-ties, which rounding decides: the null's mean rank change of some 10 places
    moves by up to 0.05.
    """
    chance = row["measure"] == "rank change" and column.startswith(("null", "beyond"))
    return 0.01 if chance else rounding(row, column)


def _correlations(t: Sequence[float], ranks: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Spearman's correlation of ranks, (timesteps, B), with t for each row of weights, (draws, B)."""
    there = np.isfinite(ranks).ravel()
    if not there.any():
        return np.full(len(weights), np.nan)
    times = np.repeat(np.asarray(t, np.float64), ranks.shape[1])
    return weighted_spearman(times[there], ranks.ravel()[there], np.tile(weights, len(ranks))[:, there])
