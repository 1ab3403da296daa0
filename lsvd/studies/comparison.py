"""Comparison: which editor brings attributes in best? The rows and columns of the paper's Table 1, and what it lacks.

Wang et al. 2025 (arXiv 2502.02225, Table 1) compare edits towards female, male, old and young by CLIP score, FID and
LPIPS. Here each method first tries a grid of settings on seeds of its own (lsvd.studies.editors.grids); the gentlest
setting that succeeds is the method's row, on other seeds, with the paper's columns and, where a reader knows the
pictures, success and side effects. Methods are also held against each other at equal side effects
(lsvd.studies.merit), where each may use all settings that were chosen for it.

The work is cut into pieces of one setting, one attribute and a few seeds. Each is kept in build/cache when it is done,
so a stopped run goes on; a whole stage is then kept in measurements/comparison.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from lsvd.checks import check_seeds, known, whole
from lsvd.paths import outputs
from lsvd.statistics import fidelity
from lsvd.statistics.intervals import Interval, columns, mean
from lsvd.statistics.verdicts import Part, Verdict, judge
from lsvd.storage.files import update_csv
from lsvd.studies import merit
from lsvd.studies.editors import METHODS, Editor, tries
from lsvd.studies.editors.measuring import Bench, Measured, Outcome, reference, stage
from lsvd.studies.ways import ATTRIBUTES

PAPER = ("female", "male", "old", "young")
"""The attributes of the paper's Table 1."""
MINE = "low-rank guidance"
BUDGETS = (0.02, 0.03, 0.05, 0.1)
"""Side effects at which methods are compared."""
CLAIM = "low-rank guidance beats {} at side effects of {:g}"
LEAST = 128
"""Pictures of each target prompt that Fréchet distances are taken from, or as many as are reported."""


@dataclass(frozen=True)
class Plan:
    """What is measured: attributes of lsvd.studies.ways, seeds for choosing and others for reporting, and methods.

    chunk: seeds a piece. Raises ValueError for seeds that serve both, or unknown names.
    """

    attributes: tuple[str, ...] = (*PAPER, "glasses", "smile", "red hair", "drawing")
    choosing: tuple[int, ...] = tuple(range(100, 116))
    reported: tuple[int, ...] = tuple(range(1000, 1064))
    methods: tuple[str, ...] = METHODS
    chunk: int = 16

    def __post_init__(self):
        for name in self.attributes:
            known(name, ATTRIBUTES, "attribute")
        for name in self.methods:
            known(name, METHODS, "method")
        whole(self.chunk, "the number of seeds a piece", 1)
        if set(check_seeds(self.choosing)) & set(check_seeds(self.reported)):
            raise ValueError("settings are chosen on some of the seeds that are reported: give other seeds for either")


@dataclass(frozen=True, eq=False)
class Result:
    """The study on one backbone.

    tried: all settings on the seeds for choosing. chosen: of each method its settings, that of its row first. reported:
    the chosen settings on the other seeds. reference: features of pictures of the target prompts, (m, d), by attribute.
    read: whether a reader knows the pictures.
    """

    backbone: str
    plan: Plan
    tried: Measured
    chosen: Mapping[str, Sequence[Editor]]
    reported: Measured
    reference: Mapping[str, Tensor]
    read: bool

    @cached_property
    def points(self) -> dict[Editor, merit.Point]:
        """Success and side effects of the chosen settings, means over attributes."""
        return {point.way: point for point in merit.points(self.reported)}

    def lead(self, method: str, budget: float) -> Interval:
        """By how much low-rank guidance succeeds more often than a method at the same side effects."""
        return merit.lead(self.reported, self.chosen[MINE], self.chosen[method], budget)


def measure(bench: Bench, plan: Plan | None = None, *, folder: str | Path | None = None, progress: bool = False):
    """The study of a backbone, from measurements that are kept on disk: a Result.

    folder: measurements("comparison") if None. Methods that cannot edit the backbone's pictures, or whose library is
    missing, are left out. Raises ValueError for bad arguments, and WriteError before anything is measured, where it
    cannot be kept.
    """
    plan = plan or Plan()
    editors = [editor for editor in tries(plan.methods) if editor.fits(bench.backbone)]
    shared = {"chunk": plan.chunk, "folder": folder, "progress": progress}
    tried = stage(bench, plan.attributes, editors, plan.choosing, **shared)
    chosen = choose(tried, bench.judge is not None)
    kept = [editor for group in chosen.values() for editor in group]
    reported = stage(bench, plan.attributes, kept, plan.reported, **shared)
    count = max(LEAST, len(plan.reported))
    drawn = {name: reference(bench, name, count, plan.chunk, folder) for name in plan.attributes}
    return Result(bench.backbone.name, plan, tried, chosen, reported, drawn, bench.judge is not None)


def run(bench: Bench, plan: Plan | None = None, progress: bool = True) -> None:
    """Measure the study, and write outputs/tables/comparison.csv."""
    update_csv(outputs("tables", "comparison.csv"), rows(measure(bench, plan, progress=progress)), ["backbone"])


def choose(tried: Measured, read: bool, budgets: Sequence[float] = BUDGETS) -> dict[str, list[Editor]]:
    """Each method's settings: the gentlest that succeeds, and the most successful within each budget.

    read: by success and side effects; else by the gain in CLIP score and the LPIPS to the source.
    """
    groups: dict[str, list[merit.Point]] = {}
    for point in merit.points(tried) if read else _unread(tried):
        groups.setdefault(point.way.method, []).append(point)
    chosen = {}
    for method, points in groups.items():
        best = [merit.gentlest(points)]
        best += merit.choose(points, budgets).values() if read else []
        chosen[method] = list(dict.fromkeys(best))
    return chosen


def verdicts(result: Result) -> list[Verdict]:
    """Whether low-rank guidance beats each other method at each budget: the interval of the difference lies above 0."""
    claims = []
    for method in result.chosen if result.read and MINE in result.chosen else ():
        for budget in BUDGETS if method != MINE else ():
            claim, lead = CLAIM.format(method, budget), Part(result.lead(method, budget))
            claims.append(judge("comparison", claim, result.backbone, [lead]))
    return claims


def rows(result: Result) -> list[dict[str, str]]:
    """The rows of outputs/tables/comparison.csv: each method's setting, for each attribute and in the mean.

    A column is empty that could not be measured, as Fréchet distances of few pictures.
    """
    table = []
    for method, settings in result.chosen.items():
        editor = settings[0]
        outcomes = {name: each[editor] for name, each in result.reported.items()}
        groups = {name: [name] for name in outcomes}
        groups |= {"the paper's four": [name for name in PAPER if name in outcomes], "all": list(outcomes)}
        for label, names in groups.items():
            if names:
                row = {"backbone": result.backbone, "method": method, "setting": editor.setting, "attribute": label}
                table.append(row | _cells(result, [outcomes[name] for name in names], names))
    return table


def _cells(result: Result, outcomes: Sequence[Outcome], names: Sequence[str]) -> dict[str, str]:
    """The columns of one row: of one attribute's outcomes, or of several together, pictures of a seed averaged."""
    n = len(outcomes[0].clip)
    cells = {"pictures": str(n * len(names))}
    each = {name: torch.stack([getattr(outcome, name).double() for outcome in outcomes]).mean(0) for name in MEANS}
    cells |= columns("clip", mean(each["clip"]))
    cells |= columns("fid", _distance(outcomes, [result.reference[name] for name in names]))
    for name in ("lpips_clip", "lpips_imagenet"):
        cells |= columns(name, mean(each[name]) if each[name].isfinite().all() else None)
    lacking = torch.stack([~outcome.had for outcome in outcomes])
    has = torch.stack([outcome.has for outcome in outcomes]).double().where(lacking, torch.nan)
    some = lacking.any(0)
    success = mean(has.nanmean(0)[some]) if result.read and some.sum() > 1 else None
    cells |= columns("success", success) | columns("side_effects", mean(each["side"]) if result.read else None)
    return cells | {"evaluations": f"{each['evaluations'].mean():.1f}", "seconds": f"{each['seconds'].mean():.2f}"}


MEANS = ("clip", "lpips_clip", "lpips_imagenet", "side", "evaluations", "seconds")


def _distance(outcomes: Sequence[Outcome], references: Sequence[Tensor]) -> Interval | None:
    """The Fréchet distance to pictures of the target prompts; None of too few pictures to fit a covariance."""
    edited = torch.cat([outcome.features.double() for outcome in outcomes]).numpy()
    reference = torch.cat([each.double() for each in references]).numpy()
    if min(len(edited), len(reference)) <= edited.shape[1] + 1:
        return None
    return fidelity.bootstrap(edited, reference)


def _unread(tried: Measured) -> list[merit.Point]:
    """Points without a reader: the gain in CLIP score in place of success, LPIPS in place of side effects."""
    points = []
    for editor in next(iter(tried.values())):
        outcomes = [each[editor] for each in tried.values()]
        gain, moved = (torch.stack([getattr(o, name) for o in outcomes]).mean(0) for name in ("gain", "lpips_clip"))
        points.append(merit.Point(editor, mean(gain), mean(moved)))
    return points
