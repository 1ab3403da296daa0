"""Property 2, encoded attributes: does scaling a singular value move an attribute further than chance does?

Wang et al. 2025 (arXiv 2502.02225, Figures 2 and 4): attributes change with their singular values, coarse ones at large
t, fine ones at small t. What is judged is the excess of a picture: how far a factor moves when a band of triplets is
scaled, minus how far it moves in random directions of the same norm (lsvd.studies.responses).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from lsvd.backbones.models import Backbone
from lsvd.statistics.intervals import SIGNED, Interval, mean, means
from lsvd.statistics.verdicts import Part, Verdict, holm, judge
from lsvd.studies.responses import Responses, stack
from lsvd.studies.survey import SAMPLES, Plan, survey
from lsvd.testbed.reader import Reader
from lsvd.testbed.scenes.scene import Scale

LEVEL = 0.05  # of false discoveries among all that is called above chance
MARGIN = 0.05  # of a difference of correlations: less is none


@dataclass(frozen=True, eq=False)
class Evidence:
    """Which bands move which factors further than chance does; all tensors of shape (timesteps, bands, factors).

    excess: mean over pictures of moved - null, with the low and high end of its 95% interval. p: one-sided. q: p
    corrected for all cells together. n: pictures that count. NaN where fewer than two do.
    """

    excess: Tensor
    low: Tensor
    high: Tensor
    p: Tensor
    q: Tensor
    n: Tensor

    @property
    def above(self) -> Tensor:
        """Where a factor answers above chance, bool; on average at most LEVEL of these are false.

        q is of ranks: a few moves that are far below the null may outweigh many above it in the mean. Such cells are
        left out."""
        return (self.q <= LEVEL) & (self.excess > 0)

    @property
    def strongest(self) -> list[tuple[int, int] | None]:
        """Of each factor, the timestep and band of its largest excess among those above chance; None if none is."""
        excess = self.excess.where(self.above, -1).flatten(0, 1)
        cells = [divmod(i, self.above.shape[1]) for i in excess.argmax(0).tolist()]
        return [cell if some else None for cell, some in zip(cells, self.above.any(0).any(0).tolist(), strict=True)]


def evidence(responses: Sequence[Responses]) -> Evidence:
    """The test of each band and factor at each timestep: does it move further than in random directions?

    responses: those of one backbone at each timestep, of the same pictures, bands and factors. p is that of
    Wilcoxon's signed-rank test of moved - null: if a triplet is no better than a random direction, the two could be
    exchanged in each picture, and that is all the test asks for. Ranks keep a few pictures that change altogether from
    deciding, and no resampling limits how small p can be: it must be small to outlive the correction, which is for all
    cells together and right under any dependence between them (Benjamini and Yekutieli 2001), as they share pictures.
    With fewer than about 16 pictures (p >= 2^-n) hardly anything can. Raises ValueError if responses do not fit.
    """
    d = _excess(responses).movedim(2, -1)
    values = np.full((5, *d.shape[:-1]), np.nan)
    n, seen = d.isfinite().sum(-1), d.isfinite().numpy()
    cells = seen.sum(-1) > 1
    for mask in np.unique(seen[cells], axis=0):  # cells of the same pictures are tested together
        which = cells & (seen == mask).all(-1)
        excess = d.numpy()[which][:, mask]
        values[:3, which] = means(excess, bounds=SIGNED)
        values[3, which] = stats.wilcoxon(excess, alternative="greater", zero_method="zsplit", axis=1).pvalue
    tested = np.isfinite(values[3])
    if not tested.any():
        raise ValueError("no factor is visible in two pictures: take more pictures")
    values[4][tested] = stats.false_discovery_control(values[3][tested], method="by")
    return Evidence(*torch.from_numpy(values), n)


def by_scale(responses: Sequence[Responses]) -> dict[Scale, Tensor]:
    """moved - null of each picture, mean over bands and over the factors of one scale: (timesteps, B), float64.

    responses: as for `evidence`. NaN where no factor of the scale is visible.
    """
    d = _excess(responses)
    return {scale: d[..., columns].nanmean((1, 3)) for scale, columns in _columns(responses).items()}


def moves(responses: Sequence[Responses]) -> tuple[dict[Scale, Tensor], dict[Scale, Tensor]]:
    """Mean move of the factors of each scale, (timesteps,): when bands are scaled, and in random directions."""
    moved, null = (
        {scale: part[..., columns].nanmean((1, 2, 3)) for scale, columns in _columns(responses).items()}
        for part in stack(responses)
    )
    return moved, null


def scale_means(responses: Sequence[Responses]) -> dict[Scale, tuple[Interval, list[Interval]]]:
    """The mean excess of each scale, with its 95% interval: over all timesteps, and at each timestep."""
    found = {}
    for scale, excess in by_scale(responses).items():
        overall, *by_time = (mean(row[row.isfinite()], bounds=SIGNED) for row in (excess.nanmean(0), *excess))
        found[scale] = overall, by_time
    return found


def curves(responses: Sequence[Responses]) -> dict[Scale, Tensor]:
    """The mean excess of each scale at each timestep with the ends of its 95% interval, shape (3, timesteps)."""
    found = {scale: by_time for scale, (_, by_time) in scale_means(responses).items()}
    return {scale: torch.tensor([(x.value, x.low, x.high) for x in values]).T for scale, values in found.items()}


def trend(responses: Sequence[Responses]) -> dict[str, Interval]:
    """Whether responses grow with t: Spearman's correlation of `by_scale` with t in each picture, mean over pictures.

    One interval for each scale, over pictures, and for "coarse - fine", paired by picture: positive if
    coarse factors answer at large t and fine ones at small t (Wang et al. 2025). It is a rank correlation rather than
    the centre of mass over t since moved - null may be negative, which no mass can be, and since the timestep where
    everything moves most would settle the centre of all scales. Pictures in which a scale is not visible, or answers
    the same at all t, are left out. Raises ValueError for fewer than two timesteps or pictures, and as `evidence`.
    """
    curves = by_scale(responses)
    t = [part.t for part in responses]
    if len(set(t)) < 2:
        raise ValueError("one timestep shows no trend: take responses at two or more")
    rho = {scale: np.array([_correlation(t, y) for y in curve.T.numpy()]) for scale, curve in curves.items()}
    if "coarse" in rho and "fine" in rho:
        rho["coarse - fine"] = rho["coarse"] - rho["fine"]
    bounds = {name: (-2.0, 2.0) if "-" in name else SIGNED for name in rho}
    return {name: mean(values[np.isfinite(values)], bounds=bounds[name]) for name, values in rho.items()}


@dataclass(frozen=True, eq=False)
class Result:
    """The study of some backbones, by name: responses, and what `evidence`, `scale_means` and `trend` say of them."""

    plan: Plan
    responses: dict[str, list[Responses]]
    evidence: dict[str, Evidence]
    means: dict[str, dict[Scale, tuple[Interval, list[Interval]]]]
    trends: dict[str, dict[str, Interval]]


def measure(
    models: Mapping[str, Backbone],
    readers: Mapping[str, Reader],
    plan: Plan | None = None,
    seeds: int | Sequence[int] = range(SAMPLES),
    *,
    progress: bool = False,
) -> Result:
    """The study of all models that have a reader; responses measured before are read, see lsvd.studies.survey.

    Raises ValueError as `survey`, `evidence` and `trend`.
    """
    plan = plan or Plan()
    responses = {name: survey(models[name], reader, plan, seeds, progress=progress) for name, reader in readers.items()}
    tests = ({name: test(parts) for name, parts in responses.items()} for test in (evidence, scale_means, trend))
    return Result(plan, responses, *tests)


def encoded_at(by_time: Sequence[Interval]) -> list[bool]:
    """At which of the timesteps a scale is encoded: its mean excess lies above 0, corrected for all of them (Holm)."""
    return holm([Part(value) for value in by_time])


def verdicts(result: Result) -> list[Verdict]:
    """Whether each scale is encoded, and whether coarse factors answer at large t and fine ones at small t.

    Encoded: the mean excess lies above 0 at every timestep, in part at some (`encoded_at`). Coarse at large t, fine at
    small t: the difference of the correlations with t lies above 0 by more than MARGIN; wholly if coarse lies above 0
    and fine below 0 as well.
    """
    claims = []
    for name, scales in result.means.items():
        for scale, (effect, by_time) in scales.items():
            parts = [Part(value) for value in by_time]
            claims.append(judge("encoding", f"encoded: {scale} attributes", name, parts, effect=effect))
        trends = result.trends[name]
        if "coarse - fine" in trends:
            parts = [
                Part(trends["coarse - fine"], margin=MARGIN),
                Part(trends["coarse"]),
                Part(trends["fine"], sign=-1),
            ]
            claims.append(judge("encoding", "coarse at large t, fine at small t", name, parts, gate=True))
    return claims


def rows(result: Result) -> list[dict[str, str | int]]:
    """The rows of outputs/tables/encoding.csv: every cell of timestep, band and factor that was tested."""
    table = []
    for name, parts in result.responses.items():
        test = result.evidence[name]
        moved, null = (part.nanmean(2) for part in stack(parts))
        numbers = {"moved": moved, "null": null, "excess": test.excess, "low": test.low, "high": test.high}
        for i, j, f in test.q.isfinite().nonzero().tolist():
            row = {"backbone": name, "t": f"{parts[i].t:g}", "triplets": result.plan.names[j]}
            row |= {"factor": parts[i].names[f], "scale": parts[i].scales[f]}
            row |= {head: f"{values[i, j, f]:.4f}" for head, values in numbers.items()}
            table.append(row | {"q": f"{test.q[i, j, f]:.2g}", "n": int(test.n[i, j, f])})
    return table


def _excess(responses: Sequence[Responses]) -> Tensor:
    """moved - null of all timesteps, shape (timesteps, bands, B, factors), float64, on the CPU."""
    moved, null = stack(responses)
    return moved - null


def _correlation(t: Sequence[float], y: np.ndarray) -> float:
    varied = np.isfinite(y).all() and np.ptp(y) > 0
    return stats.spearmanr(t, y).statistic if varied else np.nan


def _columns(responses: Sequence[Responses]) -> dict[Scale, list[int]]:
    """The places of each scale's factors; scales without factors are left out."""
    which = {scale: [i for i, other in enumerate(responses[0].scales) if other == scale] for scale in get_args(Scale)}
    return {scale: columns for scale, columns in which.items() if columns}
