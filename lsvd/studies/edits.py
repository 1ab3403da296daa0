"""Edits in many ways, measured and kept with the project: what the studies editing, strength and ablation rest on.

Each attribute is brought into pictures of one source prompt by Attribute Vector Integration at many settings, and by
its controls: the target prompt from some timestep on (prompt switching), linear and spherical interpolation of the two
codes, and an exchange of their leading triplets. A reader says of each picture whether the attribute is there, and how
far everything else has moved.

Measurements lie in measurements/edits, named by a digest of weights, reader and settings. Each way is kept in
build/cache as well, so a stopped run goes on, and several processes share the work.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lsvd.avi.edit import codes_between, edit_between
from lsvd.avi.placement import Placement
from lsvd.backbones.models import Backbone
from lsvd.checks import check_seeds
from lsvd.paths import measurements
from lsvd.sampling import trajectory
from lsvd.sampling.kept import trajectories
from lsvd.sampling.trajectory import Trajectory, resume
from lsvd.storage import results
from lsvd.storage.files import check_writable
from lsvd.storage.sharing import Piece, collect, remembered, work_off
from lsvd.storage.tensors import Spec
from lsvd.studies.rig import Rig
from lsvd.studies.ways import ATTRIBUTES, LEARNED, SOURCE, Way, target_prompt
from lsvd.testbed.effects import Effects, compare, tally
from lsvd.testbed.reader import Reading
from lsvd.testbed.scenes.scene import Scene


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one way did to n pictures, each a tensor of shape (n,) or (n, d).

    had, has: whether the attribute was read before and after, bool. before, after: the probability that the reader
    gives it. side: the mean move of all other factors that can be seen, 0 to 1. distance: 1 - cosine of mini-clip's
    vectors of the picture before and after. chroma: by how much the mean of (largest - smallest colour) grows.
    features: of the reader, float16, for Frechet distances, if they were kept.
    """

    had: Tensor
    has: Tensor
    before: Tensor
    after: Tensor
    side: Tensor
    distance: Tensor
    chroma: Tensor
    features: Tensor | None = None

    @property
    def effects(self) -> Effects:
        """Success and side effects, with intervals."""
        return tally(self.had, self.has, self.side)


Measured = Mapping[str, Mapping[Way, Outcome]]
"""What each way did, by attribute."""


def target_walk(backbone: Backbone, source: Trajectory, target: str, way: Way) -> Trajectory:
    """The trajectory that a way takes z from: with the target prompt from x_T on, or from the way's branch on.

    A branch is drawn no further than z. Raises ValueError if z is off the schedule, or from before the branch.
    """
    places = way.placement.on(source.schedule)
    if places.t_branch is None:
        return trajectories(backbone, target, source.settings.seeds, steps=source.settings.steps)
    until = None if places.same_level else places.t_target
    return trajectory.branch(backbone, source, places.t_branch, target, until=until)


def final_codes(
    backbone: Backbone, source: Trajectory, target: Trajectory, way: Way, change: Tensor | None = None
) -> Tensor:
    """The codes x_0 that the edit of the source's pictures ends in: shape (n, C, H, W).

    target: the trajectory that z is taken from, with the target prompts. change: (C, H, W), what `transfer` adds to x
    (see `mean_change`). Raises ValueError as lsvd.avi.edit.edit_between.
    """
    if way.method == "target prompt":
        return target.final
    places = way.placement.on(source.schedule)
    if way.method == "prompt switching":
        return resume(backbone, source, places.t, prompts=target.settings.prompts).final
    method = way.code if change is None else lambda x, z: x + change
    return edit_between(backbone, source, target, places, method).edited.final


def pictures(backbone: Backbone, source: Trajectory, target: str, ways: Sequence[Way]) -> Tensor:
    """The source's pictures after the edit by each way: (ways, n, 3, H, W). target: the prompt. Not of `transfer`.

    Raises ValueError as `target_walk` and `final_codes`.
    """
    walks: dict[Placement, Trajectory] = {}
    for way in ways:
        if way.placement not in walks:
            walks[way.placement] = target_walk(backbone, source, target, way)
    return torch.stack([backbone.decode(final_codes(backbone, source, walks[way.placement], way)) for way in ways])


def mean_change(rig: Rig, source: str, target: str, way: Way) -> Tensor:
    """The mean change of the code that a way makes of the seeds LEARNED, (C, H, W), as lsvd.avi.attribute has it.

    source, target: prompts.
    """
    backbone = rig.backbone
    x_walk = trajectories(backbone, source, check_seeds(LEARNED))
    z_walk = target_walk(backbone, x_walk, target, way)
    x, z = codes_between(backbone, x_walk, z_walk, way.placement.on(x_walk.schedule))
    return (way.code(x, z) - x).mean(0)


def of_attributes(
    rig: Rig, ways: Sequence[Way], seeds: Sequence[int], *, features: bool = True, progress: bool = False
) -> Measured:
    """The outcomes of ways for each of ATTRIBUTES, worked off together. Arguments and errors as `outcomes`."""
    source = _Source(rig, SOURCE, check_seeds(seeds))
    attributes = {name: _Edits(source, wanted, tuple(ways), features) for name, wanted in ATTRIBUTES.items()}
    missing = [edit for edit in attributes.values() if not edit.file.exists()]
    for edit in missing:
        check_writable(edit.file)
    pieces = [piece for edit in missing for piece in edit.pieces]
    made = work_off(pieces, title=f"{rig.backbone.name}, edits", progress=progress)
    return {name: edit.outcomes(made if edit in missing else None, progress) for name, edit in attributes.items()}


def photos(measured: Measured) -> Measured:
    """The attributes that are not a style: pictures with them are still to look like photographs."""
    return {name: by_way for name, by_way in measured.items() if "style" not in ATTRIBUTES[name]}


def outcomes(
    rig: Rig,
    wanted: Mapping[str, str],
    ways: Sequence[Way],
    seeds: Sequence[int],
    *,
    source: str = SOURCE,
    features: bool = True,
    folder: str | Path | None = None,
    progress: bool = False,
) -> dict[Way, Outcome]:
    """What each way does to the pictures of the source prompt, with the attribute `wanted`; read if measured before.

    features: whether the reader's are kept, which are most of what there is to keep.
    folder: where it is kept, measurements("edits") if None. Raises ValueError for bad arguments, KeyError for a factor
    or level that the scene does not have, and WriteError, before anything is measured, where it cannot be kept.
    """
    return _Edits(_Source(rig, source, check_seeds(seeds)), wanted, tuple(ways), features, folder).outcomes(
        None, progress
    )


def _specs(ways: int, pictures: int, features: bool) -> dict[str, Spec]:
    """What a file of measurements must hold."""
    specs = {field.name: Spec((ways, pictures), finite=False) for field in fields(Outcome)}
    specs |= {name: Spec((ways, pictures), torch.bool) for name in ("had", "has")}
    specs["features"] = Spec((ways, pictures, None), torch.float16, finite=False)
    return specs if features else {name: spec for name, spec in specs.items() if name != "features"}


@dataclass(frozen=True, eq=False)
class _Source:
    """The pictures that are edited."""

    rig: Rig
    prompt: str
    seeds: tuple[int, ...]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What determines a measurement of them, but for what they are edited towards, and how."""
        return {**self.rig.identity, "source": self.prompt}

    @cached_property
    def walk(self) -> Trajectory:
        return trajectories(self.rig.backbone, self.prompt, self.seeds)

    @cached_property
    def pictures(self) -> Tensor:
        return self.rig.backbone.decode(self.walk.final)

    @cached_property
    def reading(self) -> Reading:
        return self.rig.judge.read(self.pictures)


@dataclass(frozen=True, eq=False)
class _Edits:
    """Edits of pictures towards one attribute, by all ways. Raises ValueError for no way, or one given twice."""

    source: _Source
    wanted: Mapping[str, str]
    ways: tuple[Way, ...]
    features: bool
    folder: str | Path | None = None

    def __post_init__(self):
        if len(set(map(repr, self.ways))) < len(self.ways) or not self.ways:
            raise ValueError("no way is given, or one is given twice: give each once")

    @property
    def about(self) -> dict[str, Any]:
        """What determines all of them but the way."""
        return {**self.source.identity, "wanted": dict(self.wanted), "seeds": list(self.source.seeds)}

    @property
    def kept(self) -> tuple[str, dict[str, Any], str | Path]:
        """The name, settings and folder that the outcomes of all ways are kept by."""
        made_by = {**self.about, "ways": [way.key() for way in self.ways]}
        made_by |= {} if self.features else {"features": False}
        return self.source.rig.backbone.name, made_by, self.folder or measurements("edits")

    @property
    def file(self) -> Path:
        """The file of the outcomes of all ways."""
        return results.place(*self.kept)

    @cached_property
    def pieces(self) -> list[Piece[results.Tensors]]:
        """The outcome of each way, kept in build/cache."""
        name, about = f"{self.source.rig.backbone.name}-edits", self.about
        return [remembered(name, {**about, "way": way.key()}, partial(self.measure, way)) for way in self.ways]

    def measure(self, way: Way) -> results.Tensors:
        """The fields of Outcome of one way."""
        source, rig, prompt = self.source, self.source.rig, target_prompt(self.wanted)
        z_walk = target_walk(rig.backbone, source.walk, prompt, way)
        change = mean_change(rig, source.prompt, prompt, way) if way.method == "transfer" else None
        after = rig.backbone.decode(final_codes(rig.backbone, source.walk, z_walk, way, change))
        return _compare(rig, source.pictures, source.reading, after, self.wanted)

    def outcomes(self, made: Mapping[Path, results.Tensors] | None, progress: bool) -> dict[Way, Outcome]:
        """The outcomes of all ways. made: by this process, if pieces have been worked off."""
        name, made_by, folder = self.kept
        tensors = results.remember(
            name,
            made_by,
            lambda: _measure(self, made, progress),
            folder=folder,
            specs=_specs(len(self.ways), len(self.source.seeds), self.features),
            must_keep=True,
        )
        return {
            way: Outcome(**{field: values[i] for field, values in tensors.items()}) for i, way in enumerate(self.ways)
        }


def _measure(edit: _Edits, made: Mapping[Path, results.Tensors] | None, progress: bool) -> results.Tensors:
    """The fields of Outcome of all ways, stacked."""
    parts = collect(edit.pieces, made, title=target_prompt(edit.wanted), progress=progress)
    kept = [name for name in parts[0] if edit.features or name != "features"]
    return {name: torch.stack([part[name] for part in parts]) for name in kept}


def _compare(rig: Rig, before: Tensor, reading: Reading, after: Tensor, wanted: Mapping[str, str]) -> results.Tensors:
    """The fields of Outcome, of pictures before and after and the reading of those before."""
    scene, now = rig.judge.scene, rig.judge.read(after)
    had, has, side = compare(reading, now, scene, wanted)
    outcome = {"had": had, "has": has, "side": side}
    for name, answers in (("before", reading), ("after", now)):
        outcome[name] = probability(answers, scene, wanted)
    vectors = [rig.clip.pictures(pictures) for pictures in (before, after)]
    outcome["distance"] = 1 - (vectors[0] * vectors[1]).sum(-1)
    spans = [(p.amax(1) - p.amin(1)).mean((1, 2)) for p in (before, after)]
    outcome["chroma"] = spans[1] - spans[0]
    with torch.no_grad():
        outcome["features"] = rig.judge.features(after).half()
    return outcome


def probability(reading: Reading, scene: Scene, wanted: Mapping[str, str]) -> Tensor:
    """The probability that the reader gives to all levels wanted, of n pictures: shape (n,)."""
    chances = [reading.probabilities[factor][:, scene.index(factor, level)] for factor, level in wanted.items()]
    return torch.stack(chances).prod(0)
