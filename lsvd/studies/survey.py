"""Responses of many pictures, kept with the project: python -m lsvd survey [NAME ...].

At each of a few timesteps each band of singular values is scaled, the denoising is finished, and a reader says how far
each factor has moved (lsvd.studies.responses). 64 seeds and four models take some 40 minutes on two cores, so
measurements lie in measurements/responses, named by a digest of weights, reader and plan: notebooks read them, measure
a part of them again, and compare. Measurements of other weights are not taken for these. A stopped run goes on.
"""

import logging
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lsvd import backbones
from lsvd.backbones.configs import scheduler_text
from lsvd.backbones.models import Backbone
from lsvd.backbones.registry import EMBEDDED
from lsvd.checks import check_seeds, known, whole
from lsvd.paths import measurements
from lsvd.sampling import identity
from lsvd.sampling.kept import trajectories
from lsvd.sampling.trajectory import Trajectory
from lsvd.storage import results
from lsvd.storage.sharing import Piece, collect, remembered
from lsvd.storage.tensors import Spec
from lsvd.studies.responses import Responses, responses, stack
from lsvd.testbed import reader as readers
from lsvd.testbed.evaluate import GENERATORS
from lsvd.testbed.reader import Reader

SAMPLES = 64
CHUNK = 16  # seeds in one file: a stopped run loses no more
FORMAT = 1  # of what is measured; raise it when the code that measures changes
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What is scaled, and when. times: fractions of T. bands: triplets scaled together, 0 the largest; factor: by how
    much. steps: of the sampler; prompt: of text-to-image models."""

    steps: int = 10
    times: tuple[float, ...] = (0.8, 0.6, 0.4, 0.2, 0.0)
    bands: tuple[tuple[int, ...], ...] = (*((i,) for i in range(8)), tuple(range(8, 16)), tuple(range(16, 32)))
    factor: float = 1.5
    prompt: str = "a person"

    @property
    def names(self) -> list[str]:
        """The bands as labels, counted from 1 as the paper counts singular values."""
        return [f"{b[0] + 1}" if len(b) == 1 else f"{b[0] + 1}-{b[-1] + 1}" for b in self.bands]


def subjects(name: str = "all", scene: str = "", device="cpu") -> tuple[dict[str, Backbone], dict[str, Reader]]:
    """The models to look at, and the readers of those whose scene is known, both by the model's name.

    name: of one embedded model, a folder, or all embedded models. scene: which one a model of your own draws; without,
    nobody reads its pictures. Raises ValueError for an unknown name or scene, and as lsvd.backbones.loading.load.
    """
    models = [backbones.load(which, device) for which in (EMBEDDED if name == "all" else [name])]
    scenes = {model.name: GENERATORS[model.name][0] if model.name in GENERATORS else scene for model in models}
    judges = {model: readers.load(scene, device) for model, scene in scenes.items() if scene}
    return {model.name: model for model in models}, judges


def walk(backbone: Backbone, plan: Plan, seeds: Sequence[int]) -> Trajectory:
    """The trajectories whose singular values are scaled, from the cache if they are there."""
    prompt = plan.prompt if backbone.kind == "text-to-image" else None
    return trajectories(backbone, prompt, seeds, steps=plan.steps, batch=CHUNK)


def survey(
    backbone: Backbone,
    reader: Reader,
    plan: Plan,
    seeds: Sequence[int],
    *,
    folder: str | Path | None = None,
    progress: bool = False,
) -> list[Responses]:
    """Responses at each time of the plan, for all seeds together; those measured before are read.

    folder: where they are kept, measurements("responses") if None; another, such as a temporary one, to measure again.
    Raises ValueError as lsvd.studies.responses.responses, and for two times that are the same timestep of the schedule;
    WriteError, before anything is measured, where it cannot be kept.
    """
    seeds = check_seeds(seeds)
    parts = collect(pieces(backbone, reader, plan, seeds, folder, progress), title=backbone.name, progress=progress)
    joined = {name: torch.cat([part[name] for part in parts], 2)[:, :, : len(seeds)] for name in ("moved", "null")}
    return [
        Responses.of({name: joined[name][i] for name in joined}, reader.scene, t, plan.bands, plan.factor)
        for i, t in enumerate(parts[0]["timesteps"])
    ]


def pieces(
    backbone: Backbone,
    reader: Reader,
    plan: Plan,
    seeds: Sequence[int],
    folder: str | Path | None = None,
    progress: bool = False,
) -> list[Piece[results.Tensors]]:
    """The chunks of a survey, each of which is measured and kept by itself; arguments as `survey`."""
    parts = []
    for start in range(0, len(seeds), CHUNK):
        chunk = seeds[start : start + CHUNK]
        # a chunk that is not full may be the beginning of one that was measured
        full = (*chunk, *range(chunk[-1] + 1, chunk[-1] + 1 + CHUNK - len(chunk)))
        if place(backbone, reader, plan, full, folder).exists():
            chunk = full

        def measure(chunk: Sequence[int] = chunk) -> results.Tensors:
            return _measure(backbone, reader, plan, chunk, progress)

        made_by = settings(backbone, reader, plan, chunk)
        shape = (len(plan.times), len(plan.bands), len(chunk), len(reader.scene.factors))
        specs = {"moved": Spec(shape, finite=False), "null": Spec(shape, finite=False), "timesteps": Spec(shape[:1])}
        keeping = {"folder": folder or measurements("responses"), "specs": specs, "must_keep": True}
        parts.append(remembered(backbone.name, made_by, measure, **keeping))
    return parts


def disagreement(
    backbone: Backbone, reader: Reader, plan: Plan, kept: Sequence[Responses], seeds: Sequence[int]
) -> float:
    """The largest difference between the moves of the first pictures of a survey and the same ones measured again.

    kept: the survey; seeds: of its first pictures. Infinite where a factor is visible in only one of the two. Raises
    ValueError as `survey`.
    """
    with tempfile.TemporaryDirectory() as elsewhere:
        again = torch.stack(stack(survey(backbone, reader, plan, seeds, folder=elsewhere)))
    first = torch.stack(stack(kept))[:, :, :, : len(seeds)]
    return (first - again).abs().nan_to_num(0).max().item() if first.isnan().equal(again.isnan()) else math.inf


def settings(backbone: Backbone, reader: Reader, plan: Plan, seeds: Sequence[int]) -> dict[str, Any]:
    """What determines a chunk of the survey; but for rounding, no matter on what machine."""
    asked = asdict(plan)
    if backbone.kind == "unconditional":
        del asked["prompt"]
    return {
        "weights": identity.weights(backbone),
        "scheduler": f"{type(backbone.scheduler).__name__} {scheduler_text(backbone.scheduler)}",
        "guidance": backbone.entry.guidance,
        "dtype": str(backbone.dtype),
        "reader": results.checksum(reader.state_dict()),
        "plan": asked,
        "format": FORMAT,
        "seeds": list(seeds),
    }


def place(
    backbone: Backbone, reader: Reader, plan: Plan, seeds: Sequence[int], folder: str | Path | None = None
) -> Path:
    """The file that holds a chunk of the survey, whether it is there or not."""
    return results.place(backbone.name, settings(backbone, reader, plan, seeds), folder or measurements("responses"))


def _measure(backbone: Backbone, reader: Reader, plan: Plan, seeds: Sequence[int], progress: bool) -> results.Tensors:
    """moved and null, (timesteps, bands, B, factors), and the timesteps."""
    source = walk(backbone, plan, seeds)
    times = [source.nearest(time) for time in plan.times]
    if len(set(times)) < len(times):
        raise ValueError(f"two of the times {plan.times} are the same of {plan.steps} steps: take more steps")
    parts = [responses(backbone, source, reader, t, plan.bands, plan.factor, progress=progress) for t in times]
    stacked = {name: torch.stack([part.tensors[name] for part in parts]) for name in ("moved", "null")}
    return stacked | {"timesteps": torch.tensor(times, dtype=torch.float64)}


def survey_models(names: Sequence[str] = (), samples: int = SAMPLES, device: str = "cpu") -> None:
    """Survey generators, all if none is named, with seeds from 0 on, by the whole Plan; what is measured is kept.

    Raises ValueError for an unknown name or fewer than two seeds, and WriteError where nothing can be kept.
    """
    names = [known(name, GENERATORS, "survey of") for name in names] or list(GENERATORS)
    whole(samples, "the number of seeds", 2)
    for name in names:
        try:
            backbone = backbones.load(name, device)
            reader = readers.load(GENERATORS[name][0], device)
            survey(backbone, reader, Plan(), range(samples), progress=True)
        except (ValueError, OSError) as error:
            error.add_note(name)
            raise
        log.info("%s: %d seeds", name, samples)
