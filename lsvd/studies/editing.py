"""Editing: does Attribute Vector Integration (AVI) bring attributes into pictures better than plainer ways do?

Wang et al. 2025 (arXiv 2502.02225, Figures 1 and 6). Settings are chosen on the seeds CHOOSING, one for all attributes:
for each family of ways, the most successful within BUDGETS of side effects. What is reported is of the seeds REPORTED,
which have no part in any choice. AVI is held against its controls at equal side effects (lsvd.studies.merit).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

from torch import Tensor

from lsvd import avi
from lsvd.avi.edit import codes_between
from lsvd.backbones.models import Backbone
from lsvd.paths import outputs
from lsvd.sampling.trajectory import Trajectory
from lsvd.statistics.intervals import Interval, columns, mean
from lsvd.statistics.verdicts import Part, Verdict, judge
from lsvd.storage.files import update_csv
from lsvd.studies import edits, merit
from lsvd.studies.edits import Measured, photos
from lsvd.studies.merit import Point, advantage
from lsvd.studies.rig import Rig
from lsvd.studies.ways import ATTRIBUTES, CENTRES, CHOOSING, REPORTED, Way, difference, singly, target_prompt, tries
from lsvd.testbed.effects import compare

BUDGETS = (0.02, 0.04, 0.06, 0.1, 0.2)
"""Side effects within which each family's best setting is chosen."""

MARGIN = 0.02  # of success: a lead of less is none
CLAIM = "AVI beats {} at equal side effects"
ALL = "all controls"


@dataclass(frozen=True, eq=False)
class Result:
    """The study on one backbone.

    tried: all settings on the seeds CHOOSING. chosen: each family's settings, without repetition; a family whose
    settings all exceed the budgets has none. reported: the chosen settings on the seeds REPORTED.
    """

    backbone: str
    tried: Measured
    chosen: Mapping[str, Sequence[Way]]
    reported: Measured

    @cached_property
    def families(self) -> dict[str, list[Point]]:
        """The points of all settings that were tried, by family."""
        return families(self.tried)

    @property
    def controls(self) -> dict[str, list[Way]]:
        """The chosen settings of each family that is not AVI."""
        return {family: list(ways) for family, ways in self.chosen.items() if ways and not family.startswith("AVI")}

    @property
    def rivals(self) -> list[Way]:
        """The chosen settings of all controls together."""
        return [way for ways in self.controls.values() for way in ways]

    @property
    def candidates(self) -> list[Way]:
        """The chosen settings of AVI."""
        return [way for ways in self.chosen.values() for way in ways if way.method == "AVI"]

    @cached_property
    def best(self) -> Way:
        """The setting of AVI with the largest gain over all controls on the seeds CHOOSING. It is held against them."""
        return max(self.candidates, key=lambda way: advantage(self.tried, way, self.rivals).value)

    @cached_property
    def against(self) -> dict[str, Interval]:
        """The gain of the best setting over each family of controls and over all, on the seeds REPORTED."""
        controls = {**self.controls, ALL: self.rivals}
        return {family: advantage(self.reported, self.best, ways) for family, ways in controls.items()}

    @cached_property
    def gains(self) -> dict[str, dict[Way, Interval]]:
        """The gain of each candidate over all controls: of all attributes, and of those that are not a style."""
        groups = {"eight attributes": self.reported, "without the style": photos(self.reported)}
        return {
            label: {way: advantage(group, way, self.rivals) for way in self.candidates}
            for label, group in groups.items()
        }

    @cached_property
    def by_attribute(self) -> dict[str, Interval]:
        """The gain of the best setting over all controls, attribute by attribute."""
        return {name: advantage({name: outcomes}, self.best, self.rivals) for name, outcomes in self.reported.items()}


def search(rig: Rig, *, progress: bool = False) -> Measured:
    """All settings on the seeds CHOOSING."""
    return edits.of_attributes(rig, tries(), CHOOSING, features=False, progress=progress)


def measure(rig: Rig, *, progress: bool = False) -> Result:
    """The study of the rig's backbone, from measurements that are kept on disk.

    Raises ValueError and WriteError as lsvd.studies.edits.outcomes.
    """
    tried = search(rig, progress=progress)
    chosen = choose(tried)
    ways = [way for selection in chosen.values() for way in selection]
    return Result(rig.backbone.name, tried, chosen, edits.of_attributes(rig, ways, REPORTED, progress=progress))


def run(rig: Rig, progress: bool = True) -> None:
    """Measure the study; all settings that were tried go to outputs/tables/sweep.csv."""
    result = measure(rig, progress=progress)
    update_csv(outputs("tables", "sweep.csv"), sweep(result), ["attribute", "backbone"], ATTRIBUTES)


def families(tried: Measured) -> dict[str, list[Point]]:
    """The points of settings, by family."""
    groups: dict[str, list[Point]] = {}
    for point in merit.points(tried):
        groups.setdefault(point.way.family, []).append(point)
    return groups


def gentlest(tried: Measured) -> dict[str, Way]:
    """One setting of AVI for each kind of z: the gentlest of those that succeed. Pictures are drawn with these.

    The style is left out of the choice: it does not outlive the source prompt at any setting with few side effects.
    """
    groups = families(photos(tried))
    return {family: merit.gentlest(points) for family, points in groups.items() if family.startswith("AVI")}


def choose(tried: Measured, budgets: Sequence[float] = BUDGETS) -> dict[str, list[Way]]:
    """Each family's best settings within the budgets, without repetition, and those of `gentlest`."""
    pictured, chosen = gentlest(tried), {}
    for family, points in families(tried).items():
        ways = [*merit.choose(points, budgets).values(), *([pictured[family]] if family in pictured else [])]
        chosen[family] = list(dict.fromkeys(ways))
    return chosen


def single_choices(result: Result) -> Iterator[tuple[str, Point, list[tuple[str, Point, Interval]]]]:
    """Each centre of AVI by family, its point, and what changes with one choice: its name, its point, and its gain.

    The gain is over mixtures of the centre and no edit, at the same side effects.
    """
    points = {point.way: point for group in result.families.values() for point in group}
    for family, centre in CENTRES.items():
        changes = [
            (difference(centre, way), points[way], advantage(result.tried, way, [centre])) for way in singly(centre)[1:]
        ]
        yield family, points[centre], changes


def truncations(result: Result) -> Iterator[tuple[float, Point, list[tuple[str, Point]]]]:
    """What truncation does by itself: for each branch, lerp and plain AVI with the same z, beside prompt switching.

    Yields the branch, the point of the target prompt from there on, and those of the edits that go on with the source
    prompt; AVI with all but k as in AVIConfig().
    """
    switched = {point.way.tx: point for point in result.families["prompt switching"]}
    branched = result.families["AVI, z branched"]
    for branch in sorted({point.way.branch for point in branched}, reverse=True):
        lerp = [point for point in result.families["lerp, z branched"] if point.way.branch == branch]
        lines = [(f"lerp, weight {point.way.weight:g}", point) for point in lerp]
        for point in branched:
            k = point.way.config.k_z
            plain = replace(CENTRES["AVI, z branched"], branch=branch, config=avi.AVIConfig(k_z=k))
            lines += [(f"AVI, k = {k}", point)] * (point.way == plain)
        yield branch, switched[branch], lines


def deviation(rig: Rig, pictures: Mapping[str, Tensor], before: Tensor, measured: Measured, way: Way) -> float:
    """By how much pictures by a way, (n, 3, H, W) by attribute, differ from the first n that were measured.

    The largest difference in side effects. Infinite where the pictures before, of the same shape, had the attribute in
    other places.
    """
    reading, largest = rig.judge.read(before), 0.0
    for name, after in pictures.items():
        had, _, side = (
            part.cpu() for part in compare(reading, rig.judge.read(after), rig.judge.scene, ATTRIBUTES[name])
        )
        outcome, n = measured[name][way], len(side)
        if not had.equal(outcome.had[:n]):
            return float("inf")
        largest = max(largest, (side - outcome.side[:n]).abs().max().item())
    return largest


def shares_of_bound(backbone: Backbone, source: Trajectory, way: Way) -> dict[str, tuple[Interval, Interval]]:
    """How far an edit by AVI moves the code of each attribute: as a share of lsvd.avi.exact.bound, and of the way to z.

    Means over the pictures of the source's trajectory. The first share is at most 1.
    """
    places, shares = way.placement.on(source.schedule), {}
    for name, wanted in ATTRIBUTES.items():
        target = edits.target_walk(backbone, source, target_prompt(wanted), way)
        x, z = (code.cpu() for code in codes_between(backbone, source, target, places))
        y = avi.solve(x, z, way.config).y
        moved, whole = ((code.double() - x.double()).flatten(1).norm(dim=1) for code in (y, z))
        shares[name] = mean(moved / avi.bound(x, z, way.config)), mean(moved / whole)
    return shares


def verdicts(result: Result) -> list[Verdict]:
    """Whether AVI beats each family of controls, and all together, at equal side effects, by more than MARGIN."""
    return [
        judge("editing", CLAIM.format(family), result.backbone, [Part(gain, margin=MARGIN)])
        for family, gain in result.against.items()
    ]


def rows(result: Result) -> list[dict[str, str | int]]:
    """The rows of outputs/tables/editing.csv, one for each attribute and chosen setting, on the seeds REPORTED.

    Success is empty where all pictures had the attribute before.
    """
    table = []
    for name, outcomes in result.reported.items():
        for way, outcome in outcomes.items():
            effects, perceptual = outcome.effects, mean(outcome.distance, bounds=merit.BOUNDS["distance"])
            row = {"attribute": name, "method": way.family, "setting": way.setting}
            row |= columns("success", effects.success) | columns("side_effects", effects.side)
            table.append(row | columns("perceptual", perceptual) | {"n": effects.lacking})
    return table


def sweep(result: Result) -> list[dict[str, str]]:
    """The rows of outputs/tables/sweep.csv, one for each attribute and setting tried, on the seeds CHOOSING."""
    table = []
    for name, outcomes in result.tried.items():
        for way, outcome in outcomes.items():
            config, effects = way.config or avi.AVIConfig(), outcome.effects
            by_avi = way.method == "AVI"
            row = {"attribute": name, "backbone": result.backbone, "method": way.method, "tx": f"{way.tx:g}"}
            row |= {"dtau": str(way.dtau), "same level": str(way.same_level), "branch": f"{way.branch:g}"}
            row |= {"weight": f"{way.weight:g}", "k": str(config.k_z if by_avi else way.k)}
            row |= {"basis": config.basis if by_avi else "", "rest": str(config.keep_rest) if by_avi else ""}
            weights = " ".join(f"{weight:g}" for weight in asdict(config.lambdas).values())
            row |= {"lambdas": weights if by_avi else "", "norm": config.norm if by_avi else ""}
            row |= columns("success", effects.success) | columns("side_effects", effects.side)
            table.append(row | {"perceptual": f"{outcome.distance.double().mean():.4f}", "n": str(effects.lacking)})
    return table
