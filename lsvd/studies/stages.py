"""The measurements behind notebooks 04 to 06: python -m lsvd study [NAME ...].

Each stage is a list of ways of editing, made from what the one before has shown. choosing: all settings, on seeds of
their own (outputs/tables/sweep.csv). editing: each method's best within budgets of side effects, on other seeds.
strength: one setting at many strengths. ablation: that setting without one loss at a time, in each basis. What was
measured is kept in measurements/edits and not measured again; a stopped run goes on.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

from numpy.typing import NDArray

from lsvd.checks import known
from lsvd.paths import outputs
from lsvd.statistics import fidelity
from lsvd.storage.files import update_csv
from lsvd.studies import editing as edits
from lsvd.studies import merit
from lsvd.studies.merit import Measured, Point
from lsvd.studies.rig import Rig, load_rig
from lsvd.studies.ways import ATTRIBUTES, CENTRES, CHOOSING, REPORTED, Way, tries
from lsvd.testbed.evaluate import reference_features

BUDGETS = (0.02, 0.04, 0.06, 0.1, 0.2)
"""Side effects within which each method's best setting is chosen."""

STRENGTHS = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
FEW = REPORTED[:10]
LOSSES = ("target", "source", "target_spectrum", "source_spectrum")
"""L1 to L4, as lsvd.avi.losses.Lambdas names their weights."""

log = logging.getLogger(__name__)


def choosing(rig: Rig, *, progress: bool = False) -> Measured:
    """All settings on the seeds CHOOSING."""
    return _all(rig, tries(), CHOOSING, progress, features=False)


def families(tried: Measured) -> dict[str, list[Point]]:
    """The points of all settings, by family."""
    found: dict[str, list[Point]] = {}
    for point in merit.points(tried):
        found.setdefault(point.way.family, []).append(point)
    return found


def settings(tried: Measured) -> dict[str, Way]:
    """One setting of AVI for each kind of z: the gentlest of those that succeed. Pictures are drawn with these.

    The style is left out of the choice: it does not outlive the source prompt at any setting with few side effects.
    """
    found = families(photos(tried))
    return {name: merit.gentlest(own) for name, own in found.items() if name.startswith("AVI")}


def photos(measured: Measured) -> Measured:
    """The attributes that are not a style: pictures with them are to look like photographs still."""
    return {name: found for name, found in measured.items() if "style" not in ATTRIBUTES[name]}


def turned(tried: Measured) -> Way:
    """The setting that is turned up and down: that of `settings` with branched z, if any was tried."""
    return list(settings(tried).values())[-1]


def ablated() -> Way:
    """The setting that losses are taken from: one with the paper's z, which its claims are about."""
    return CENTRES["AVI"]


def chosen(tried: Measured, budgets: Sequence[float] = BUDGETS) -> dict[str, list[Way]]:
    """Each family's best settings within the budgets, without repetition, and those of `settings`."""
    drawn, found = settings(tried), {}
    for family, own in families(tried).items():
        ways = [*merit.choose(own, budgets).values(), *([drawn[family]] if family in drawn else [])]
        found[family] = list(dict.fromkeys(ways))
    return found


def editing(rig: Rig, ways: Sequence[Way], *, progress: bool = False) -> Measured:
    """Ways on the seeds REPORTED, which have no part in any choice."""
    return _all(rig, ways, REPORTED, progress)


def strengths(way: Way) -> dict[str, list[Way]]:
    """An edit and lerp towards the same z at the same timestep, at all STRENGTHS."""
    lerp = Way("lerp", way.tx, way.dtau, way.same_level, way.branch)
    return {
        name: [replace(own, weight=strength) for strength in STRENGTHS] for name, own in (("AVI", way), ("lerp", lerp))
    }


def transferred(way: Way) -> Way:
    """The same edit with what was learned on other seeds."""
    return replace(way, method="transfer")


def interpolation(rig: Rig, way: Way, *, progress: bool = False) -> Measured:
    """The strengths of an edit and of lerp, and what transfers, on some of the seeds REPORTED."""
    ways = [each for own in strengths(way).values() for each in own]
    return _all(rig, [*ways, transferred(way)], FEW, progress)


def without(way: Way) -> dict[tuple[str, str], Way]:
    """An edit without one loss at a time, or with all four ("none"), by the basis and the loss left out.

    Bases: both and complement, each with the rest of x's spectrum kept and dropped.
    """
    found = {}
    for basis in ("both", "complement"):
        for keep in (True, False):
            for loss in ("none", *LOSSES):
                lambdas = way.config.lambdas if loss == "none" else replace(way.config.lambdas, **{loss: 0.0})
                config = replace(way.config, basis=basis, keep_rest=keep, lambdas=lambdas)
                found[f"{basis}, rest {'kept' if keep else 'dropped'}", loss] = replace(way, config=config)
    return found


def ablation(rig: Rig, way: Way, *, progress: bool = False) -> Measured:
    """All of `without`, on some of the seeds REPORTED."""
    return _all(rig, list(without(way).values()), FEW, progress)


def reference(rig: Rig, n: int = 2000) -> NDArray:
    """The reader's features of n renderings of photographs that no training used, (n, d), for Frechet distances."""
    return reference_features(rig.judge, n, rig.backbone.entry.size, {"style": "photo"})


def floor(features: NDArray, n: int) -> float:
    """The Frechet distance of n renderings from the other ones: what edited pictures as good as these would have."""
    return fidelity.frechet(features[:n], features[n:])


def _all(rig: Rig, ways: Sequence[Way], seeds: Sequence[int], progress: bool, features: bool = True) -> Measured:
    return {
        name: edits.measure(rig, own, ways, seeds, features=features, progress=progress)
        for name, own in ATTRIBUTES.items()
    }


STAGES = ("choosing", "editing", "strength", "ablation")


def run(names: Sequence[str] = (), backbone: str = "mini-sd", device: str = "cpu") -> None:
    """Measure the stages that are named of STAGES, all if none is; what is measured is kept.

    Raises ValueError for an unknown name or backbone, and WriteError where nothing can be kept.
    """
    names = [known(name, STAGES, "stage") for name in names] or STAGES
    try:
        rig = load_rig(backbone, device)
        tried = choosing(rig, progress=True)
        if "choosing" in names:
            for name, found in tried.items():
                lines = [edits.row(rig, name, way, each) for way, each in found.items()]
                update_csv(outputs("tables", "sweep.csv"), lines, ["attribute", "backbone"], ATTRIBUTES)
        if "editing" in names:
            editing(rig, [way for own in chosen(tried).values() for way in own], progress=True)
        if "strength" in names:
            interpolation(rig, turned(tried), progress=True)
        if "ablation" in names:
            ablation(rig, ablated(), progress=True)
    except (ValueError, OSError) as error:
        error.add_note(backbone)
        raise
    log.info("%s: %s", backbone, ", ".join(names))
