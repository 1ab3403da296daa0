"""Inversion: pictures that the model did not draw, taken back to the noise, drawn again, and edited.

The paper edits pictures that the model drew itself; inversion (lsvd.sampling.inversion) is an addition of ours. The
pictures are renderings that the model was not trained on. Three questions, a number each: does the trajectory lead back
to the picture, does an edit bring the attribute in, and does everything else stay?
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from lsvd.avi import edit_prompt
from lsvd.backbones.models import Backbone
from lsvd.sampling.inversion import invert
from lsvd.sampling.trajectory import Trajectory, resume
from lsvd.statistics import fidelity
from lsvd.statistics.intervals import Interval, columns, mean
from lsvd.statistics.verdicts import Part, Verdict, judge
from lsvd.studies.ways import ATTRIBUTES, SOURCE, target_prompt
from lsvd.testbed.effects import Effects, compare, tally
from lsvd.testbed.reader import Reader, Reading
from lsvd.testbed.renderings import generator

LIMIT = "autoencoder"
"""The best that any way back can reach: the picture encoded and decoded."""

ITERATED = "fixed points"
NEAR = 40.0  # dB of PSNR from the limit, from which on a picture counts as the same
DECIBELS = 0.0, 120.0  # what lsvd.statistics.fidelity.psnr can be


@dataclass(frozen=True, eq=False)
class AttributeEdit:
    """An edit of all pictures towards an attribute: the pictures after it, (n, 3, H, W), and its effects.

    null: the effects of going on from the same timestep without an edit.
    """

    pictures: Tensor
    effects: Effects
    null: Effects


@dataclass(frozen=True, eq=False)
class Result:
    """The study on one backbone.

    pictures: (n, 3, H, W). back: what each way draws from the noise that it finds, of the same shape, LIMIT first.
    moved: by how much a reader sees all factors move, 0 to 1, for each of them. edits: by attribute.
    """

    backbone: str
    pictures: Tensor
    back: dict[str, Tensor]
    moved: dict[str, Interval]
    edits: dict[str, AttributeEdit]

    def psnr(self, way: str) -> Tensor:
        """PSNR in dB of what a way leads back to from the pictures, (n,)."""
        return fidelity.psnr(self.back[way], self.pictures)

    def from_limit(self, way: str) -> Tensor:
        """PSNR in dB of what a way leads back to from the LIMIT, (n,)."""
        return fidelity.psnr(self.back[way], self.back[LIMIT])


def measure(
    backbone: Backbone,
    reader: Reader,
    n: int = 8,
    guidance: float = 3.0,
    attributes: Sequence[str] = ("old", "young", "glasses", "smile"),
    *,
    progress: bool = False,
) -> Result:
    """The study of n renderings of the reader's scene, each edited towards each of `attributes`.

    guidance: of the inversion and of the edits. Edits start from the trajectory of ITERATED, with the backbone's
    placement and method. Raises ValueError as lsvd.sampling.inversion.invert and lsvd.avi.edit_prompt, and KeyError for
    an attribute that ATTRIBUTES lacks.
    """
    scene = reader.scene
    values = scene.sample(n, generator(8, 2), style="photo")
    pictures = scene.render(values, backbone.size[0], device=backbone.device)
    codes, before = backbone.encode(pictures), reader.read(pictures)
    solver = backbone.with_scheduler(DPMSolverMultistepScheduler)
    ways = {"DDIM": (backbone, 0), "DPM-Solver": (solver, 0), ITERATED: (backbone, 20)}
    back = {LIMIT: backbone.decode(codes)}
    for way, (model, iterations) in ways.items():
        options = {"guidance": guidance, "iterations": iterations, "progress": progress}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # how far a way leads astray is what is measured
            walk = invert(model, codes, SOURCE, **options).trajectory
        back[way] = model.decode(resume(model, walk, walk.timesteps[0]).final)
    # which factor is left out of the moves makes no difference to a picture drawn again
    moved = {way: _effects(reader, before, picture, {"age": "old"}).side for way, picture in back.items()}
    edits = {name: _edit(backbone, reader, walk, before, name) for name in attributes}
    return Result(backbone.name, pictures, back, moved, edits)


def _edit(backbone: Backbone, reader: Reader, walk: Trajectory, before: Reading, name: str) -> AttributeEdit:
    """The edit of a trajectory towards an attribute."""
    edit = edit_prompt(backbone, walk, target_prompt(ATTRIBUTES[name]))
    pictures = backbone.decode(edit.edited.final)
    unedited = backbone.decode(resume(backbone, walk, edit.t).final)
    effects, null = (_effects(reader, before, after, ATTRIBUTES[name]) for after in (pictures, unedited))
    return AttributeEdit(pictures, effects, null)


def _effects(reader: Reader, before: Reading, after: Tensor, wanted: dict[str, str]) -> Effects:
    return tally(*compare(before, reader.read(after), reader.scene, wanted))


def verdicts(result: Result) -> list[Verdict]:
    """Whether each way leads back to the picture, and each edit brings its attribute in.

    Back: the mean PSNR from the LIMIT exceeds NEAR. In: the attribute is read in more than half of the pictures that
    lacked it. Both thresholds are ours.
    """
    claims = []
    for way in [way for way in result.back if way != LIMIT]:
        part = Part(mean(result.from_limit(way), bounds=DECIBELS), null=NEAR)
        claims.append(judge("inversion", f"leads back to the picture: {way}", result.backbone, [part]))
    for name, edit in result.edits.items():
        if (success := edit.effects.success) is not None:
            part = Part(success, null=0.5)
            claims.append(judge("inversion", f"an edit mostly brings in: {name}", result.backbone, [part]))
    return claims


def rows(result: Result) -> list[dict[str, str]]:
    """The rows of outputs/tables/inversion.csv: PSNR of each way back, its mean and the least, and factors moved."""
    table = []
    for way, moved in result.moved.items():
        psnr = result.psnr(way)
        row = {"way": way, **columns("psnr", mean(psnr, bounds=DECIBELS)), "least": f"{psnr.min():.4f}"}
        table.append(row | columns("factors_moved", moved))
    return table


def edit_rows(result: Result) -> list[dict[str, str | int]]:
    """The rows of outputs/tables/inversion_edits.csv; success is empty where all pictures had the attribute before."""
    table = []
    for name, edit in result.edits.items():
        row = {"attribute": name, "lacking": edit.effects.lacking, **columns("success", edit.effects.success)}
        table.append(row | columns("side_effects", edit.effects.side) | columns("null", edit.null.side))
    return table
