"""Edits in many ways, measured and kept with the project: what the studies editing, strength and ablation rest on.

Each attribute is brought into pictures of one source prompt by Attribute Vector Integration at many settings, and by
its controls: the target prompt from some timestep on (prompt switching), linear and spherical interpolation of the two
codes, and an exchange of their leading triplets. A reader says of each picture whether the attribute is there, and how
far everything else has moved.

Measurements lie in measurements/edits, named by a digest of weights, reader and settings. Each way is kept in
build/cache as well, so a stopped run goes on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lsvd.avi.edit import codes_between, edit_between
from lsvd.avi.placement import Placement
from lsvd.backbones.models import Backbone
from lsvd.checks import check_seeds
from lsvd.paths import measurements
from lsvd.progress import bar
from lsvd.sampling import trajectory
from lsvd.sampling.kept import trajectories
from lsvd.sampling.trajectory import Trajectory, resume
from lsvd.storage import results
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
    """The outcomes of ways for each of ATTRIBUTES. Arguments and errors as `outcomes`."""
    return {
        name: outcomes(rig, wanted, ways, seeds, features=features, progress=progress)
        for name, wanted in ATTRIBUTES.items()
    }


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
    seeds, ways = check_seeds(seeds), list(ways)
    if len(set(map(repr, ways))) < len(ways) or not ways:
        raise ValueError("no way is given, or one is given twice: give each once")
    about = {**rig.identity, "source": source, "wanted": dict(wanted), "seeds": list(seeds)}
    made_by = {**about, "ways": [way.key() for way in ways], **({} if features else {"features": False})}
    tensors = results.remember(
        rig.backbone.name,
        made_by,
        lambda: _measure(rig, wanted, ways, seeds, source, about, features, progress),
        folder=folder or measurements("edits"),
        specs=_specs(len(ways), len(seeds), features),
        must_keep=True,
    )
    return {way: Outcome(**{name: values[i] for name, values in tensors.items()}) for i, way in enumerate(ways)}


def _specs(ways: int, pictures: int, features: bool) -> dict[str, Spec]:
    """What a file of measurements must hold."""
    specs = {field.name: Spec((ways, pictures), finite=False) for field in fields(Outcome)}
    specs |= {name: Spec((ways, pictures), torch.bool) for name in ("had", "has")}
    specs["features"] = Spec((ways, pictures, None), torch.float16, finite=False)
    return specs if features else {name: spec for name, spec in specs.items() if name != "features"}


def _measure(
    rig: Rig,
    wanted: Mapping[str, str],
    ways: Sequence[Way],
    seeds: Sequence[int],
    source: str,
    about: Mapping[str, Any],
    features: bool,
    progress: bool,
) -> results.Tensors:
    """The fields of Outcome of all ways, stacked; each way is kept in build/cache on the way."""
    backbone, prompt = rig.backbone, target_prompt(wanted)
    x_walk = trajectories(backbone, source, seeds)
    before = backbone.decode(x_walk.final)
    reading, parts = rig.judge.read(before), []
    for way in bar(ways, desc=prompt, progress=progress):

        def one(way: Way = way) -> results.Tensors:
            z_walk = target_walk(backbone, x_walk, prompt, way)
            change = mean_change(rig, source, prompt, way) if way.method == "transfer" else None
            after = backbone.decode(final_codes(backbone, x_walk, z_walk, way, change))
            return _compare(rig, before, reading, after, wanted)

        parts.append(results.remember(f"{backbone.name}-edits", {**about, "way": way.key()}, one))
    kept = [name for name in parts[0] if features or name != "features"]
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
