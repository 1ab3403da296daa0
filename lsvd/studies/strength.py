"""Strength: does the attribute rise steadily with the strength of the edit, and in proportion to it?

Wang et al. 2025 (arXiv 2502.02225, Figure 7) interpolate and extrapolate a learned attribute: strength 0 is the source,
1 what was learned. The control is lerp, the straight line to the same z. Pictures that had the attribute before do not
count. Intervals are over seeds, which all attributes and strengths share.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import stats
from torch import Tensor

from lsvd.avi import attribute
from lsvd.backbones.models import Backbone
from lsvd.sampling.kept import trajectories
from lsvd.statistics import intervals
from lsvd.statistics.intervals import LEVEL, SIGNED, Interval, jackknife, without_each
from lsvd.statistics.verdicts import Part, Verdict, judge
from lsvd.studies import editing, edits, merit
from lsvd.studies.edits import Measured
from lsvd.studies.merit import BOUNDS, of_seeds, values
from lsvd.studies.rig import Rig
from lsvd.studies.ways import ATTRIBUTES, FEW, SOURCE, Way, target_prompt
from lsvd.testbed.effects import Effects
from lsvd.testbed.reader import Reader

STRENGTHS = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
CLAIM = "strength turns the attribute up"
FIELDS = {"probability": "after", "side_effects": "side"}
"""The columns of the table, and the fields of lsvd.studies.edits.Outcome that they hold."""

CHANGES = ("side", "distance", "chroma")
"""The fields that say how far a picture is from the source's."""

STEADY = 0.9
"""Spearman's correlation of strength and probability above which the claim holds wholly."""


@dataclass(frozen=True, eq=False)
class Result:
    """The study on one backbone: a setting at all STRENGTHS, lerp towards the same z, and what transfers.

    way: the setting at strength 1. measured: on the seeds FEW.
    """

    backbone: str
    way: Way
    measured: Measured

    @property
    def ways(self) -> dict[str, list[Way]]:
        """The edit and lerp at all STRENGTHS."""
        return at_strengths(self.way)

    def curves(self, what: str) -> dict[str, np.ndarray]:
        """A field of lsvd.studies.edits.Outcome against STRENGTHS by method: value, low and high, (3, strengths)."""
        return {
            method: np.array([[p.value, p.low, p.high] for p in curve(self.measured, ways, what)]).T
            for method, ways in self.ways.items()
        }

    def monotone(self, method: str) -> Interval:
        """Spearman's correlation of strength and probability, over all STRENGTHS (see `monotone`)."""
        return monotone(self.measured, self.ways[method], STRENGTHS)

    def bend(self, method: str) -> Interval:
        """How far the curve leaves a straight line between strengths 0 and 1 (see `bend`)."""
        pairs = zip(self.ways[method], STRENGTHS, strict=True)
        ways, inside = zip(*((way, strength) for way, strength in pairs if 0 <= strength <= 1), strict=True)
        return bend(self.measured, ways, inside)

    def transfer(self) -> dict[str, tuple[merit.Point, dict[str, Effects]]]:
        """The edit by each seed's own change, and by that of other seeds: its point, and its effects by attribute."""
        ways = {"its own": self.way, "of other seeds": transfer_of(self.way)}
        points = merit.points(self.measured, ways.values())
        effects = [{name: outcomes[way].effects for name, outcomes in self.measured.items()} for way in ways.values()]
        return dict(zip(ways, zip(points, effects, strict=True), strict=True))


def setting(rig: Rig) -> Way:
    """The setting whose strength varies: that of the study of editing with a branched z, if any was tried."""
    return list(editing.gentlest(editing.search(rig)).values())[-1]


def at_strengths(way: Way) -> dict[str, list[Way]]:
    """An edit and lerp towards the same z at the same timestep, at all STRENGTHS."""
    lerp = Way("lerp", way.tx, way.dtau, way.same_level, way.branch)
    return {
        name: [replace(one, weight=strength) for strength in STRENGTHS] for name, one in (("AVI", way), ("lerp", lerp))
    }


def transfer_of(way: Way) -> Way:
    """The same edit with what was learned on other seeds."""
    return replace(way, method="transfer")


def measure(rig: Rig, way: Way | None = None, *, progress: bool = False) -> Result:
    """The study of the rig's backbone, from measurements that are kept on disk. way: `setting` if None.

    Raises ValueError and WriteError as lsvd.studies.edits.outcomes.
    """
    way = setting(rig) if way is None else way
    ways = [one for group in at_strengths(way).values() for one in group]
    measured = edits.of_attributes(rig, [*ways, transfer_of(way)], FEW, progress=progress)
    return Result(rig.backbone.name, way, measured)


def run(rig: Rig, progress: bool = True) -> None:
    """Measure the study."""
    measure(rig, progress=progress)


def pair_pictures(
    backbone: Backbone, names: Sequence[str], way: Way, seeds: Sequence[int], doses: Sequence[float]
) -> Tensor:
    """Two attributes added to the same code at all pairs of strengths: (doses, doses, n, 3, H, W).

    The first attribute's strength goes down the rows, the second's along the columns. names: of ATTRIBUTES.
    """
    prompts = [target_prompt(ATTRIBUTES[name]) for name in names]
    settings = {"placement": way.placement, "method": way.config}
    learned = [attribute.learn(backbone, SOURCE, prompt, seeds, **settings) for prompt in prompts]
    source = trajectories(backbone, SOURCE, seeds)
    walks = [[attribute.apply_to(backbone, source, learned, [a, b]) for b in doses] for a in doses]
    return torch.stack([torch.stack([backbone.decode(walk.final) for walk in row]) for row in walks])


def pair_probabilities(reader: Reader, pictures: Tensor, names: Sequence[str]) -> Tensor:
    """The probability of each attribute of `names` in pictures (..., n, 3, H, W), mean over n: shape (..., names)."""
    reading = reader.read(pictures.flatten(0, -4))
    chances = [edits.probability(reading, reader.scene, ATTRIBUTES[name]) for name in names]
    return torch.stack(chances, -1).unflatten(0, pictures.shape[:-3]).mean(-2).cpu()


def verdicts(result: Result) -> list[Verdict]:
    """Whether strength turns the attribute up: the correlation lies above STEADY; in part if it lies above 0."""
    rho = result.monotone("AVI")
    claim = f"{CLAIM} ({result.way.family})"
    return [judge("strength", claim, result.backbone, [Part(rho), Part(rho, null=STEADY)], gate=True)]


def rows(result: Result) -> list[dict[str, str | int]]:
    """The rows of outputs/tables/strength.csv: the curves of each attribute.

    A mean is empty where fewer than two pictures count. Side effects at strength 0 are those of no edit (see `curve`).
    """
    table = []
    for ways in result.ways.values():
        for name, outcomes in result.measured.items():
            for strength, way in zip(STRENGTHS, ways, strict=True):
                outcome, lacking = outcomes[way], ~outcomes[way].had
                row = {"attribute": name, "method": way.family, "strength": f"{strength:g}", "tx": f"{way.tx:g}"}
                for head, numbers in (("probability", outcome.after[lacking]), ("side_effects", outcome.side)):
                    known = _mean(numbers, way, FIELDS[head]) if len(numbers) > 1 else None
                    row |= intervals.columns(head, known)
                table.append(row | {"n": int(lacking.sum())})
    return table


def curve(measured: Measured, ways: Sequence[Way], what: str) -> list[Interval]:
    """The mean over attributes and pictures at each strength.

    An edit of strength 0 is the source itself: its CHANGES are 0 by construction, and have no interval. Raises
    ValueError if fewer than two pictures count.
    """
    columns = values(measured, ways, what).swapaxes(0, 1)
    return [_mean(of_seeds(column), way, what) for column, way in zip(columns, ways, strict=True)]


def _mean(numbers: ArrayLike, way: Way, what: str) -> Interval:
    """The mean of a field of Outcome, with its interval unless it is known without one."""
    known = intervals.mean(numbers, bounds=BOUNDS[what])
    sure = what in CHANGES and way.weight == 0
    return Interval(known.value, known.value, known.value, known.n) if sure else known


def monotone(measured: Measured, ways: Sequence[Way], strengths: Sequence[float]) -> Interval:
    """Spearman's correlation of the attribute's probability and the strength in each picture: mean over all.

    1 if it rises at each step in every picture. Where nothing changes at all, it counts as 0.
    """
    p = values(measured, ways, "after")
    rho = np.full((p.shape[0], p.shape[2]), np.nan)
    for a, n in np.argwhere(np.isfinite(p).all(1)):
        chances = p[a, :, n]
        rho[a, n] = stats.spearmanr(strengths, chances).statistic if np.ptp(chances) > 0 else 0.0
    return intervals.mean(of_seeds(rho), bounds=SIGNED)


def bend(measured: Measured, ways: Sequence[Way], strengths: Sequence[float], level: float = LEVEL) -> Interval:
    """How far the mean probability leaves the straight line between its ends, as a share of its rise.

    0 for a line; a step has up to 1. The strengths must rise. The largest of several deviations is never 0 in a sample;
    its interval is that of all deviations together (Bonferroni), and so begins at 0 unless one of them leaves out 0.
    NaN where nothing rises.
    """
    p = values(measured, ways, "after")
    seen, counts = np.isfinite(p), without_each(merit.seeds_of(measured))
    count = np.einsum("dn,asn->das", counts, seen)
    mean = np.einsum("dn,asn->das", counts, np.where(seen, p, 0)) / np.maximum(count, 1)
    y = (mean * (count > 0)).sum(1) / np.maximum((count > 0).sum(1), 1)  # (1 + seeds, strengths)
    x = (np.asarray(strengths) - strengths[0]) / (strengths[-1] - strengths[0])
    rise = y[:, -1:] - y[:, :1]
    if not rise.all():
        return Interval(np.nan, np.nan, np.nan)
    inner = ((y - y[:, :1] - rise * x) / np.abs(rise))[:, 1:-1].T
    each = [jackknife(away[0], away[1:], 1 - (1 - level) / len(inner), SIGNED) for away in inner]
    low = max(max(own.low, -own.high, 0.0) for own in each)
    high = max(max(own.high, -own.low) for own in each)
    again = partial(bend, measured, ways, strengths)
    return Interval(float(np.abs(inner[:, 0]).max()), float(low), float(high), each[0].n, again)
