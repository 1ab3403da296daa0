"""Ablation: do the failures that the paper names for each loss left out show, as numbers?

Wang et al. 2025 (arXiv 2502.02225, Figure 8). Without L1 no attribute: success falls. Without L2 identity is lost: side
effects grow. Without L3 colours saturate: chroma grows. Without L4 quality drops: the Frechet distance from renderings
grows. Each is held against the full loss in the same basis.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from lsvd.avi.edit import codes_between
from lsvd.backbones.models import Backbone
from lsvd.sampling.trajectory import Trajectory
from lsvd.statistics import fidelity, intervals
from lsvd.statistics.intervals import Interval
from lsvd.statistics.verdicts import Verdict, judge
from lsvd.studies import edits
from lsvd.studies.edits import Measured
from lsvd.studies.merit import of_seeds, values
from lsvd.studies.rig import Rig
from lsvd.studies.ways import ATTRIBUTES, CENTRES, FEW, Way, target_prompt
from lsvd.testbed.evaluate import reference_features

LOSSES = ("target", "source", "target_spectrum", "source_spectrum")
"""L1 to L4, as lsvd.avi.losses.Lambdas names their weights."""

FULL = "none"  # the loss left out of the full loss
FIELDS = {"success": "has", "side effects": "side", "chroma": "chroma"}
"""The field of lsvd.studies.edits.Outcome that each measure but the Frechet distance is the mean of."""

MEASURES = tuple(FIELDS)
EXPECTED = dict(zip(LOSSES, (("success", -1), ("side effects", 1), ("chroma", 1), ("frechet", 1)), strict=True))
"""For each loss what should change without it, and in which direction."""

FAILURES = dict(zip(LOSSES, ("no attribute", "identity lost", "colours saturate", "quality drops"), strict=True))


@dataclass(frozen=True, eq=False)
class Result:
    """The study on one backbone, by (basis, loss left out).

    levels: each measure, mean over attributes and pictures. changes: by how much it is larger than with the full loss.
    pictures: how many the Frechet distances are of; floor: the distance of as many renderings from other ones.
    """

    backbone: str
    levels: Mapping[tuple[str, str], Mapping[str, Interval]]
    changes: Mapping[tuple[str, str], Mapping[str, Interval]]
    pictures: int
    floor: float

    @property
    def bases(self) -> list[str]:
        """The integration bases, with the rest kept or dropped."""
        return list(dict.fromkeys(basis for basis, _ in self.levels))


def setting() -> Way:
    """The setting that losses are taken from: one with the paper's z, which its claims are about."""
    return CENTRES["AVI"]


def without(way: Way) -> dict[tuple[str, str], Way]:
    """An edit without one loss at a time, or with all four (FULL), by the basis and the loss left out.

    Bases: both and complement, each with the rest of x's spectrum kept and dropped.
    """
    ways = {}
    for basis in ("both", "complement"):
        for keep in (True, False):
            for loss in (FULL, *LOSSES):
                lambdas = way.config.lambdas if loss == FULL else replace(way.config.lambdas, **{loss: 0.0})
                config = replace(way.config, basis=basis, keep_rest=keep, lambdas=lambdas)
                ways[f"{basis}, rest {'kept' if keep else 'dropped'}", loss] = replace(way, config=config)
    return ways


def label(loss: str) -> str:
    """The name of the full loss, or of the loss that is left out."""
    return "full loss" if loss == FULL else f"without L{LOSSES.index(loss) + 1}"


def measure(rig: Rig, way: Way | None = None, *, references: int = 2000, progress: bool = False) -> Result:
    """The study of the rig's backbone, from measurements that are kept on disk. way: `setting` if None.

    references: how many renderings of photographs, which no training used, Frechet distances are from. An attribute
    that is a style is left out of them. Raises ValueError and WriteError as lsvd.studies.edits.outcomes, and ValueError
    for too few references.
    """
    ways = without(setting() if way is None else way)
    measured = edits.of_attributes(rig, list(ways.values()), FEW, progress=progress)
    features = reference_features(rig.judge, references, rig.backbone.entry.size, {"style": "photo"})
    return from_outcomes(rig.backbone.name, measured, ways, features)


def from_outcomes(backbone: str, measured: Measured, ways: Mapping[tuple[str, str], Way], reference: NDArray) -> Result:
    """The study from outcomes of all ways, and the features of reference pictures, (m, d)."""
    photos = edits.photos(measured)
    pictures = sum(len(next(iter(outcomes.values())).had) for outcomes in photos.values())
    far = {key: distances(photos, way, reference) for key, way in ways.items()}
    levels, changes = {}, {}
    for (basis, loss), way in ways.items():
        full = ways[basis, FULL]
        levels[basis, loss] = {name: level(measured, way, name) for name in MEASURES}
        levels[basis, loss]["frechet"] = distance(far[basis, loss])
        changes[basis, loss] = {name: change(measured, way, full, name) for name in MEASURES}
        changes[basis, loss]["frechet"] = farther(far[basis, loss], far[basis, FULL])
    floor = fidelity.frechet(reference[:pictures], reference[pictures:])
    return Result(backbone, levels, changes, pictures, floor)


def run(rig: Rig, progress: bool = True) -> None:
    """Measure the study."""
    edits.of_attributes(rig, list(without(setting()).values()), FEW, progress=progress)


def code_changes(
    backbone: Backbone, source: Trajectory, ways: Mapping[tuple[str, str], Way]
) -> dict[tuple[str, str], Interval]:
    """How far y lies from that of the full loss in the same basis, as a share of the way from x to it.

    Means over all ATTRIBUTES and the pictures of the source's trajectory, before any picture is decoded.
    """
    shares: dict[tuple[str, str], list[torch.Tensor]] = {key: [] for key in ways}
    first = next(iter(ways.values()))  # the others take x and z from the same places
    for wanted in ATTRIBUTES.values():
        target = edits.target_walk(backbone, source, target_prompt(wanted), first)
        places = first.placement.on(source.schedule)
        x, z = (code.cpu().double() for code in codes_between(backbone, source, target, places))
        for (basis, loss), way in ways.items():
            y, other = ways[basis, FULL].code(x, z), way.code(x, z)
            shares[basis, loss].append((other - y).flatten(1).norm(dim=1) / (y - x).flatten(1).norm(dim=1))
    return {key: intervals.mean(torch.cat(parts)) for key, parts in shares.items()}


def level(measured: Measured, way: Way, name: str) -> Interval:
    """One of MEASURES, mean over attributes and the pictures that lacked them."""
    return intervals.mean(of_seeds(values(measured, [way], FIELDS[name])[:, 0]))


def change(measured: Measured, way: Way, full: Way, name: str) -> Interval:
    """By how much one of MEASURES is larger than with the full loss, paired by picture."""
    pair = values(measured, [way, full], FIELDS[name])
    return intervals.mean(of_seeds(pair[:, 0] - pair[:, 1]))


def distances(measured: Measured, way: Way, reference: NDArray, draws: int = 200, seed: int = 0) -> NDArray:
    """Frechet distance of all edited pictures together from reference features (m, d), shape (1 + draws,).

    First of the pictures themselves, then of bootstrap draws of seeds, the same for all ways: the pictures of one seed
    hang together. The reference stays as it is. Raises ValueError for few pictures.
    """
    features = np.stack(
        [outcomes[way].features.double().numpy() for outcomes in measured.values()]
    )  # (attributes, n, d)
    away, (n, d) = fidelity.measure_from(reference), features.shape[1:]
    draws_of_seeds = np.random.default_rng(seed).integers(n, size=(draws, n))
    return np.array([away(features[:, seeds].reshape(-1, d)) for seeds in (np.arange(n), *draws_of_seeds)])


def distance(draws: NDArray) -> Interval:
    """The Frechet distance of `distances`, with its interval, which is cut at 0."""
    gap = farther(draws, np.zeros_like(draws))
    return Interval(gap.value, max(0.0, gap.low), gap.high)


def farther(draws: NDArray, full: NDArray) -> Interval:
    """By how much the Frechet distance is larger than with the full loss, both of `distances`.

    Both distances are biased upwards alike, as they are of as many pictures; draws repeat pictures, so they are shifted
    until their mean is the estimate.
    """
    value, gaps = float(draws[0] - full[0]), (draws - full)[1:]
    low, high = value + np.quantile(gaps - gaps.mean(), [0.025, 0.975])
    return Interval(value, float(low), float(high))


def shows(changes: Mapping[str, Interval], loss: str) -> bool:
    """Does what the paper expects without a loss show, with its interval? changes: by measure."""
    name, sign = EXPECTED[loss]
    return min(sign * changes[name].low, sign * changes[name].high) > 0


def bases_with(result: Result, loss: str) -> list[bool]:
    """Whether the failure without a loss shows, for each basis of the result."""
    return [shows(result.changes[basis, loss], loss) for basis in result.bases]


def verdicts(result: Result) -> list[Verdict]:
    """Whether the failure shows without each loss: in all bases, in part if in some.

    The effect is the change in the first basis.
    """
    return [
        Verdict(
            "ablation",
            f"{label(loss)}: {failure}",
            result.backbone,
            result.changes[result.bases[0], loss][EXPECTED[loss][0]],
            0.0,
            judge(bases_with(result, loss)),
        )
        for loss, failure in FAILURES.items()
    ]


def rows(result: Result) -> list[dict[str, str]]:
    """The rows of outputs/tables/ablation.csv: each measure without each loss in each basis, and its change."""
    table = []
    for (basis, loss), measures in result.levels.items():
        for name, value in measures.items():
            row = {"loss": "full" if loss == FULL else f"without {loss}", "basis": basis, "measure": name}
            changed = result.changes[basis, loss][name]
            table.append(row | intervals.columns("value", value) | intervals.columns("change", changed))
    return table
