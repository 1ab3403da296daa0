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
from lsvd.statistics.intervals import Interval, jackknife, without_each
from lsvd.statistics.verdicts import Part, Verdict, holm, judge
from lsvd.studies import edits
from lsvd.studies.edits import Measured
from lsvd.studies.merit import change, level
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
    features = reference_features(rig.judge, references, rig.backbone.entry.size, {"style": "photo"})
    return from_outcomes(rig.backbone.name, measured(rig, ways, progress=progress), ways, features)


def measured(rig: Rig, ways: Mapping[tuple[str, str], Way], *, progress: bool = False) -> Measured:
    """The outcomes of all ways."""
    return edits.of_attributes(rig, list(ways.values()), FEW, progress=progress)


def from_outcomes(backbone: str, measured: Measured, ways: Mapping[tuple[str, str], Way], reference: NDArray) -> Result:
    """The study from outcomes of all ways, and the features of reference pictures, (m, d)."""
    photos = edits.photos(measured)
    pictures = sum(len(next(iter(outcomes.values())).had) for outcomes in photos.values())
    far = {key: distances(photos, way, reference) for key, way in ways.items()}
    levels, changes = {}, {}
    for (basis, loss), way in ways.items():
        full = ways[basis, FULL]
        levels[basis, loss] = {name: level(measured, way, field) for name, field in FIELDS.items()}
        levels[basis, loss]["frechet"] = distance(far[basis, loss])
        changes[basis, loss] = {name: change(measured, way, full, field) for name, field in FIELDS.items()}
        changes[basis, loss]["frechet"] = farther(far[basis, loss], far[basis, FULL])
    floor = fidelity.frechet(reference[:pictures], reference[pictures:])
    return Result(backbone, levels, changes, pictures, floor)


def run(rig: Rig, progress: bool = True) -> None:
    """Measure the study."""
    measured(rig, without(setting()), progress=progress)


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
    return {
        key: intervals.mean(torch.cat(parts)) if key[1] != FULL else Interval(0.0, 0.0, 0.0)
        for key, parts in shares.items()
    }


def distances(measured: Measured, way: Way, reference: NDArray) -> NDArray:
    """Frechet distance of all edited pictures together from reference features (m, d), shape (1 + n,).

    First of all pictures, then without those of each of the n seeds in turn: the pictures of one seed hang together.
    The reference stays as it is. Raises ValueError for few pictures.
    """
    features = np.stack(
        [outcomes[way].features.double().numpy() for outcomes in measured.values()]
    )  # (attributes, n, d)
    away, (n, d) = fidelity.measure_from(reference), features.shape[1:]
    kept = without_each(n) > 0
    return np.array([away(features[:, some].reshape(-1, d), few=i > 0) for i, some in enumerate(kept)])


def distance(far: NDArray) -> Interval:
    """The Frechet distance of `distances`, with its interval."""
    return jackknife(far[0], far[1:], bounds=(0.0, np.inf))


def farther(far: NDArray, full: NDArray) -> Interval:
    """By how much the Frechet distance is larger than with the full loss, both of `distances`.

    Both are biased upwards alike, as they are of as many pictures. Of a setting and itself it is 0 for certain.
    """
    if np.array_equal(far, full):
        return Interval(0.0, 0.0, 0.0, len(far) - 1, lambda level: Interval(0.0, 0.0, 0.0, len(far) - 1))
    gap = far - full
    return jackknife(gap[0], gap[1:])


def parts(result: Result, loss: str) -> list[Part]:
    """What the paper expects without a loss, as one part for each basis."""
    name, sign = EXPECTED[loss]
    return [Part(result.changes[basis, loss][name], sign=sign) for basis in result.bases]


def bases_with(result: Result, loss: str) -> list[bool]:
    """Whether the failure without a loss shows, for each basis of the result, corrected for their number (Holm)."""
    return holm(parts(result, loss))


def verdicts(result: Result) -> list[Verdict]:
    """Whether the failure shows without each loss: in all bases, in part if in some (`bases_with`).

    The effect is the change in the first basis.
    """
    return [verdict(result, loss) for loss in FAILURES]


def verdict(result: Result, loss: str) -> Verdict:
    """The verdict on one loss."""
    return judge("ablation", f"{label(loss)}: {FAILURES[loss]}", result.backbone, parts(result, loss))


def rows(result: Result) -> list[dict[str, str]]:
    """The rows of outputs/tables/ablation.csv: each measure without each loss in each basis, and its change."""
    table = []
    for (basis, loss), measures in result.levels.items():
        for name, value in measures.items():
            row = {"loss": "full" if loss == FULL else f"without {loss}", "basis": basis, "measure": name}
            changed = result.changes[basis, loss][name]
            table.append(row | intervals.columns("value", value) | intervals.columns("change", changed))
    return table
