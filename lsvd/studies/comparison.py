"""Comparison: which editor brings attributes in best? The rows and columns of the paper's Table 1, and what it lacks.

Wang et al. 2025 (arXiv 2502.02225, Table 1) compare edits towards female, male, old and young by CLIP score, FID and
LPIPS. Here each method first tries a grid of settings on seeds of its own (lsvd.studies.editors.grids); the gentlest
setting that succeeds is the method's row, on other seeds, with the paper's columns and, where a reader knows the
pictures, success and side effects. Methods are also held against each other at equal side effects
(lsvd.studies.merit), where each may use all settings that were chosen for it. The numbers of seeds and settings are
those of a Plan: a larger machine repeats the same with more.

The work is cut into pieces of one setting, one attribute and a few seeds. Each is kept in build/cache when it is done,
so a stopped run goes on; a whole stage is then kept in measurements/comparison.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite
from pathlib import Path

import torch
from torch import Tensor

from lsvd.checks import check_seeds, known, whole
from lsvd.paths import outputs
from lsvd.statistics import fidelity
from lsvd.statistics.intervals import Interval, columns, jackknife, mean, without_each
from lsvd.statistics.verdicts import Part, Verdict, judge
from lsvd.storage.files import update_csv
from lsvd.studies import merit
from lsvd.studies.editors import METHODS, Editor, tries
from lsvd.studies.editors.measuring import Bench, Measured, Outcome, drawn, references, stage
from lsvd.studies.tables import FOUR
from lsvd.studies.ways import ATTRIBUTES

PAPER = ("female", "male", "old", "young")
"""The attributes of the paper's Table 1."""
MINE, SEARCHED = OURS = ("low-rank guidance", "low-rank, searched")
"""Low-rank guidance in as many settings as every method tries, and after a longer search on the same seeds."""
BUDGETS = (0.02, 0.03, 0.05, 0.1)
"""Side effects at which methods are compared."""
ALL = "all others together"
BEST = "AVI has the highest CLIP score of all editors"
CLAIM = "{} beats {} at side effects of {:g}"
REPORTED = {"female": {"theirs": 28.4, "next best": 26.6}}
"""CLIP scores of the paper's Table 1, as far as the summary that is at hand has them."""
WITHIN = (0.03,)
"""Side effects within which each method's most successful setting is chosen, beside the gentlest that succeeds."""


@dataclass(frozen=True)
class Plan:
    """What is measured: attributes of lsvd.studies.ways, seeds for choosing and others for reporting, and methods.

    chunk: seeds a piece. tuned: the attributes that settings are chosen on, all if None. settings: how many each method
    tries, all of its grid if None. references: pictures of each target prompt that Fréchet distances are taken from.
    Raises ValueError for seeds that serve both, or unknown names.
    """

    attributes: tuple[str, ...] = PAPER
    choosing: tuple[int, ...] = tuple(range(100, 108))
    reported: tuple[int, ...] = tuple(range(1000, 1016))
    methods: tuple[str, ...] = METHODS
    chunk: int = 8
    tuned: tuple[str, ...] | None = None
    settings: int | None = 3
    references: int = 24

    def __post_init__(self):
        for name in (*self.attributes, *(self.tuned or ())):
            known(name, ATTRIBUTES, "attribute")
        for name in self.methods:
            known(name, METHODS, "method")
        whole(self.chunk, "the number of seeds a piece", 1)
        whole(self.references, "the number of pictures of each target prompt", 3)
        if self.settings is not None:
            whole(self.settings, "the number of settings a method", 1)
        if set(check_seeds(self.choosing)) & set(check_seeds(self.reported)):
            raise ValueError("settings are chosen on some of the seeds that are reported: give other seeds for either")

    def of_seeds(self, choosing: int | None = None, reported: int | None = None) -> "Plan":
        """The same with other numbers of seeds, each from the first on; None for as many as there are.

        Raises ValueError for fewer than two, or more than 500.
        """
        given = {"choosing": choosing, "reported": reported}
        firsts = {name: getattr(self, name)[0] for name in given}
        for name, count in given.items():
            if count is not None:
                whole(count, f"the number of {name} seeds", 2, 500)
        return replace(self, **{n: tuple(range(firsts[n], firsts[n] + k)) for n, k in given.items() if k is not None})


SMALL = Plan(tuned=("female", "young"))
"""What the repository's measurements are of: settings are chosen on two attributes, which half of all pictures lack."""


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

    def leads(self, mine: str = MINE) -> dict[str, dict[float, Interval]]:
        """By how much low-rank guidance succeeds more often than each other method, and all, at each of BUDGETS.

        mine: one of OURS, which are not among the others.
        """
        others = {method: list(ways) for method, ways in self.chosen.items() if method not in OURS}
        others |= {ALL: [way for ways in others.values() for way in ways]} if others else {}
        return {
            method: {budget: merit.lead(self.reported, self.chosen[mine], ways, budget) for budget in BUDGETS}
            for method, ways in others.items()
        }

    def more(self, method: str, other: str, what: str) -> Interval:
        """By how much the first row exceeds the second in a field of Outcome, paired by seed, mean over attributes."""
        values = [
            torch.stack([getattr(outcomes[self.chosen[name][0]], what).double() for outcomes in self.reported.values()])
            for name in (method, other)
        ]
        return mean((values[0] - values[1]).mean(0))

    def drawn(self, bench: Bench, name: str, count: int = 8, folder: str | Path | None = None) -> dict[str, Tensor]:
        """The first reported seeds' pictures, and those of each method's row: (count, 3, H, W) each, as stored."""
        editors = [settings[0] for settings in self.chosen.values()]
        pictures = drawn(bench, name, editors, self.plan.reported[:count], folder)
        return dict(zip(("source", *self.chosen), pictures, strict=True))


def measure(bench: Bench, plan: Plan | None = None, *, folder: str | Path | None = None, progress: bool = False):
    """The study of a backbone, from measurements that are kept on disk: a Result.

    folder: measurements("comparison") if None. Methods that cannot edit the backbone's pictures, or whose library is
    missing, are left out. Raises ValueError for bad arguments, and WriteError before anything is measured, where it
    cannot be kept.
    """
    plan = plan or SMALL
    editors = [editor for editor in tries(plan.methods, plan.settings) if editor.fits(bench.backbone)]
    shared = {"chunk": plan.chunk, "folder": folder, "progress": progress}
    tried = stage(bench, plan.tuned or plan.attributes, editors, plan.choosing, **shared)
    chosen = choose(tried, bench.judge is not None)
    kept = [editor for group in chosen.values() for editor in group]
    reported = stage(bench, plan.attributes, kept, plan.reported, **shared)
    drawn = references(bench, plan.attributes, plan.references, **shared)
    return Result(bench.backbone.name, plan, tried, chosen, reported, drawn, bench.judge is not None)


def run(bench: Bench, plan: Plan | None = None, progress: bool = True) -> None:
    """Measure the study, and write outputs/tables/comparison.csv."""
    update_csv(outputs("tables", "comparison.csv"), rows(measure(bench, plan, progress=progress)), ["backbone"])


def choose(tried: Measured, read: bool, budgets: Sequence[float] = WITHIN) -> dict[str, list[Editor]]:
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
    """What the paper claims of its edit, and whether low-rank guidance beats each other method at each budget.

    AVI has the highest CLIP score if it exceeds that of each other editor, which the target prompt is not. Either holds
    where the interval of the difference lies above 0, of the first those of all differences.
    """
    claims = []
    rivals = [method for method in result.chosen if method not in ("AVI", "AVI, network", "target prompt")]
    if "AVI" in result.chosen and rivals:
        leads = sorted((result.more("AVI", method, "clip") for method in rivals), key=lambda lead: lead.value)
        claims.append(judge("comparison", BEST, result.backbone, [Part(lead) for lead in leads]))
    for mine in OURS:
        for method, leads in result.leads(mine).items() if result.read and mine in result.chosen else ():
            for budget, lead in leads.items():
                claims.append(judge("comparison", CLAIM.format(mine, method, budget), result.backbone, [Part(lead)]))
    return claims


def rows(result: Result) -> list[dict[str, str]]:
    """The rows of outputs/tables/comparison.csv: each method's setting, for each attribute and in the mean.

    A column is empty that could not be measured, as Fréchet distances from few pictures of a prompt.
    """
    table = []
    for method, settings in result.chosen.items():
        editor = settings[0]
        outcomes = result.reported
        groups = {name: [name] for name in outcomes} | {FOUR: [name for name in PAPER if name in outcomes]}
        groups |= {} if set(outcomes) <= set(PAPER) else {"all": list(outcomes)}
        for label, names in groups.items():
            if names:
                row = {"backbone": result.backbone, "method": method, "setting": editor.setting, "attribute": label}
                table.append(row | _cells(result, editor, names))
    return table


def _cells(result: Result, editor: Editor, names: Sequence[str]) -> dict[str, str]:
    """The columns of one row: of one attribute, or the means of several, whose pictures share their seeds."""
    outcomes = [result.reported[name][editor] for name in names]
    cells = {"pictures": str(sum(len(outcome.clip) for outcome in outcomes))}
    each = {name: torch.stack([getattr(outcome, name).double() for outcome in outcomes]).mean(0) for name in MEANS}
    cells |= columns("clip", mean(each["clip"]))
    cells |= columns("fid", _distance(outcomes, [result.reference[name] for name in names]))
    for name in ("lpips_clip", "lpips_imagenet"):
        cells |= columns(name, mean(each[name]) if each[name].isfinite().all() else None)
    cells |= {"lacking": str(sum(int((~outcome.had).sum()) for outcome in outcomes)) if result.read else ""}
    success = side = None
    if result.read:
        (point,) = merit.points({name: result.reported[name] for name in names}, [editor])
        success, side = point.success if isfinite(point.success.value) else None, point.side
    cells |= columns("success", success) | columns("side_effects", side)
    return cells | {"evaluations": f"{each['evaluations'].mean():.1f}", "seconds": f"{each['seconds'].mean():.2f}"}


MEANS = ("clip", "lpips_clip", "lpips_imagenet", "evaluations", "seconds")


def _distance(outcomes: Sequence[Outcome], references: Sequence[Tensor]) -> Interval | None:
    """The Fréchet distance of all outcomes together to pictures of the target prompts; None if those are too few.

    It may be of fewer pictures than features: all methods have as many, so that their distances can be compared.
    """
    edited = torch.stack([outcome.features.double() for outcome in outcomes]).numpy()  # (attributes, n, d)
    reference = torch.cat([features.double() for features in references]).numpy()
    n, d = edited.shape[1:]
    if len(reference) <= d + 1 or n < 3:
        return None
    distance = fidelity.measure_from(reference)
    value, *left = (distance(edited[:, row > 0].reshape(-1, d), few=True) for row in without_each(n))
    return jackknife(value, left)


def _unread(tried: Measured) -> list[merit.Point]:
    """Points without a reader: the gain in CLIP score in place of success, LPIPS in place of side effects."""
    points = []
    for editor in next(iter(tried.values())):
        outcomes = [by_editor[editor] for by_editor in tried.values()]
        gain, moved = (torch.stack([getattr(o, name) for o in outcomes]).mean(0) for name in ("gain", "lpips_clip"))
        points.append(merit.Point(editor, mean(gain), mean(moved)))
    return points
