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
from lsvd.statistics.intervals import Interval, mean
from lsvd.statistics.verdicts import Verdict, judge
from lsvd.studies.responses import Responses, stack
from lsvd.studies.survey import SAMPLES, Plan, survey
from lsvd.testbed.reader import Reader
from lsvd.testbed.scenes.scene import Scale

LEVEL = 0.05  # of false discoveries among all that is called above chance


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
    n = d.isfinite().sum(-1)
    for cell in np.argwhere(n.numpy() > 1):
        excess = d[tuple(cell)].numpy()
        excess = excess[np.isfinite(excess)]
        effect = mean(excess)
        p = stats.wilcoxon(excess, alternative="greater", zero_method="zsplit").pvalue
        values[:4, *cell] = effect.value, effect.low, effect.high, p
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
    """The mean excess of each scale: over all timesteps with its 95% interval, and at each timestep.

    The intervals at the timesteps are judged together, so their level is 1 - 0.05 / (number of timesteps).
    """
    means, level = {}, 1 - 0.05 / len(responses)
    for scale, excess in by_scale(responses).items():
        overall = excess.nanmean(0)
        by_time = [mean(row[row.isfinite()], level=level) for row in excess]
        means[scale] = mean(overall[overall.isfinite()]), by_time
    return means


def curves(responses: Sequence[Responses]) -> dict[Scale, Tensor]:
    """The mean excess of each scale at each timestep with the ends of its 95% interval, shape (3, timesteps)."""
    means = {scale: [mean(row[row.isfinite()]) for row in excess] for scale, excess in by_scale(responses).items()}
    return {scale: torch.tensor([(x.value, x.low, x.high) for x in values]).T for scale, values in means.items()}


def trend(responses: Sequence[Responses]) -> dict[str, Interval]:
    """Whether responses grow with t: Spearman's correlation of `by_scale` with t in each picture, mean over pictures.

    One interval for each scale, by bootstrap over pictures, and for "coarse - fine", paired by picture: positive if
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
    return {name: mean(values[np.isfinite(values)]) for name, values in rho.items()}


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


def verdicts(result: Result) -> list[Verdict]:
    """Whether each scale is encoded, and whether coarse factors answer at large t and fine ones at small t.

    Encoded: the mean excess lies above 0 at every timestep, in part at some. Coarse at large t, fine at small t: the
    difference of the correlations with t lies above 0; wholly if coarse lies above 0 and fine below 0 as well.
    """
    claims = []
    for name, scales in result.means.items():
        for scale, (effect, by_time) in scales.items():
            word = judge([value.low > 0 for value in by_time])
            claims.append(Verdict("encoding", f"encoded: {scale} attributes", name, effect, 0.0, word))
        trends = result.trends[name]
        if "coarse - fine" in trends:
            more = trends["coarse - fine"].low > 0
            word = judge([more, more and trends["coarse"].low > 0, more and trends["fine"].high < 0])
            claim = "coarse at large t, fine at small t"
            claims.append(Verdict("encoding", claim, name, trends["coarse - fine"], 0.0, word))
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
