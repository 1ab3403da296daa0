"""Parts of d_t by themselves: which brings the attribute in, and which moves everything else?

d_t is what another prompt changes in the prediction (lsvd.sampling.predictions). Each step within a window is that of
the source prompt plus a part of what the target prompt changes in it, channel by channel; then the source goes on.
DDIM's step is linear in the prediction, so a part of the step is the step of that part. Low-rank guidance
(lsvd.guidance) adds the first triplet in this way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lsvd.backbones.models import Backbone
from lsvd.checks import check_seeds
from lsvd.paths import measurements
from lsvd.sampling.kept import trajectories
from lsvd.sampling.predictions import available, clips
from lsvd.sampling.trajectory import Trajectory, resume
from lsvd.statistics.intervals import SIGNED, UNIT, Interval, jackknife, mean
from lsvd.storage import results
from lsvd.storage.sharing import Piece, collect, remembered
from lsvd.storage.tensors import Spec
from lsvd.studies import survey
from lsvd.studies.edits import probability
from lsvd.studies.merit import of_seeds
from lsvd.studies.responses import scale_bands
from lsvd.studies.ways import ATTRIBUTES, SOURCE, target_prompt
from lsvd.testbed.effects import compare
from lsvd.testbed.reader import Reader

ALL, FIRST, REST, SMALL, RANDOM = "all", "first triplet", "all but the first", "all, made as small", "random directions"
PARTS = (ALL, FIRST, REST, SMALL, RANDOM)
"""All of d_t; its first triplet; what is left; all of it at the norm of the first; a random rank one of that norm."""

TARGETS = ("young", "glasses", "female")
WINDOW = (0.6, 0.3)  # where d_t is added, as fractions of T; that of lsvd.guidance.LowRank
CHUNK = 16  # seeds in one file: a stopped run loses no more
SEEDS = range(32)
FORMAT = 1  # of what is measured; raise it when the code that measures changes


@dataclass(frozen=True, eq=False)
class Parts:
    """What each of PARTS did to B pictures of each of the attributes TARGETS.

    had: whether the attribute was read before, bool, and before: its probability, (targets, B). after: its probability
    then, and side: the mean move of all other factors, (parts, targets, B).
    """

    had: Tensor
    before: Tensor
    after: Tensor
    side: Tensor

    def rises(self) -> dict[str, NDArray]:
        """By how much the attribute's probability grows, means over attributes that were not there, (seeds,) each."""
        grown = (self.after - self.before).double().numpy()
        return dict(zip(PARTS, (self._by_seed(part) for part in grown), strict=True))

    def sides(self) -> dict[str, NDArray]:
        """Side effects, in the same pictures, (seeds,) each."""
        return dict(zip(PARTS, (self._by_seed(part) for part in self.side.double().numpy()), strict=True))

    def share(self, part: str) -> Interval:
        """The rise that a part brings by itself, as a share of that of all of d_t; NaN where that is 0."""
        rises = self.rises()
        own, whole = rises[part], rises[ALL]
        without = [(x.sum() - x) / (len(x) - 1) for x in (own, whole)]
        if not (whole.mean() and without[1].all()):
            return Interval(np.nan, np.nan, np.nan, len(own))
        return jackknife(own.mean() / whole.mean(), without[0] / without[1])

    def means(self) -> dict[str, tuple[Interval, Interval]]:
        """Rise and side effects of each part, means over seeds."""
        rises, sides = self.rises(), self.sides()
        return {part: (mean(rises[part], bounds=SIGNED), mean(sides[part], bounds=UNIT)) for part in PARTS}

    def _by_seed(self, values: NDArray) -> NDArray:
        return of_seeds(np.where(self.had.numpy(), np.nan, values))


def measure(
    backbone: Backbone,
    reader: Reader,
    seeds: Sequence[int] = SEEDS,
    *,
    folder: str | Path | None = None,
) -> Parts:
    """What each part does; read if it was measured before.

    folder: where it is kept, measurements("predictions") if None. Raises ValueError for a sampler that clips, and as
    `edited`, and WriteError where it cannot be kept.
    """
    parts = collect(pieces(backbone, reader, seeds, folder), title=backbone.name)
    return Parts(**{name: torch.cat([part[name] for part in parts], -1) for name in parts[0]})


def pieces(
    backbone: Backbone, reader: Reader, seeds: Sequence[int], folder: str | Path | None = None
) -> list[Piece[results.Tensors]]:
    """The fields of Parts of each chunk of seeds, measured and kept by itself; arguments as `measure`."""
    seeds, parts = check_seeds(seeds), []
    if not available(backbone) or clips(backbone):
        raise ValueError(f"{backbone.name} has no d_t to take apart: take a model with DDIM and without clipping")
    shapes = {"had": 1, "before": 1, "after": len(PARTS), "side": len(PARTS)}
    for start in range(0, len(seeds), CHUNK):
        chunk = seeds[start : start + CHUNK]
        made_by: dict[str, Any] = survey.settings(backbone, reader, survey.Plan(), chunk)
        del made_by["plan"]
        made_by |= {"of": "parts of d_t", "parts": PARTS, "targets": TARGETS, "window": WINDOW, "source": SOURCE}
        made_by |= {"steps": backbone.entry.steps, "format": FORMAT}
        size = len(TARGETS), len(chunk)
        specs = {name: Spec(size if n == 1 else (n, *size), torch.float16) for name, n in shapes.items()}
        specs["had"] = Spec(size, torch.bool)

        def measure(chunk: Sequence[int] = chunk) -> results.Tensors:
            return _measure(backbone, reader, chunk)

        keeping = {"folder": folder or measurements("predictions"), "specs": specs, "must_keep": True}
        parts.append(remembered(backbone.name, made_by, measure, **keeping))
    return parts


def _measure(backbone: Backbone, reader: Reader, seeds: Sequence[int]) -> results.Tensors:
    """The fields of Parts, in half precision."""
    walk = trajectories(backbone, SOURCE, seeds)
    before, scene = reader.read(backbone.decode(walk.final)), reader.scene
    tables: dict[str, list[Tensor]] = {"had": [], "before": [], "after": [], "side": []}
    for name in TARGETS:
        wanted, rows = ATTRIBUTES[name], []
        for part in PARTS:
            after = reader.read(backbone.decode(edited(backbone, walk, target_prompt(wanted), part)))
            had, _, side = compare(before, after, scene, wanted)
            rows.append((probability(after, scene, wanted), side))
        tables["had"].append(had)
        tables["before"].append(probability(before, scene, wanted))
        tables["after"].append(torch.stack([row[0] for row in rows]))
        tables["side"].append(torch.stack([row[1] for row in rows]))
    stacked = {name: torch.stack(values, -2) for name, values in tables.items()}
    return {name: values if name == "had" else values.half() for name, values in stacked.items()}


def edited(backbone: Backbone, walk: Trajectory, prompt: str, part: str) -> Tensor:
    """The final codes of a walk whose steps in WINDOW have a part of d_t besides, one of PARTS: (B, C, H, W).

    Raises ValueError as lsvd.sampling.trajectory.resume, and KeyError for another part.
    """
    take = TAKEN[part]
    first, last = (walk.index(walk.nearest(fraction)) for fraction in WINDOW)
    code = walk.codes[first]
    for t, until in zip(walk.timesteps[first:last], walk.timesteps[first + 1 : last + 1], strict=True):
        source = resume(backbone, walk.settings, t, code, until=until).codes[1]
        target = resume(backbone, walk.settings, t, code, prompts=prompt, until=until).codes[1]
        code = source + take(walk, t, target - source)
    return resume(backbone, walk.settings, walk.timesteps[last], code).final


def _first(walk: Trajectory, t: Tensor, d: Tensor) -> Tensor:
    """The first triplet of each channel of d, which has the codes' shape."""
    return scale_bands(walk, t, [0], 2.0, d)[0][0] - d


def _random(walk: Trajectory, t: Tensor, d: Tensor) -> Tensor:
    """A rank one of the same norm in random directions, which depend on seed and timestep."""
    return scale_bands(walk, t, [0], 2.0, d)[1][0] - d


def _small(walk: Trajectory, t: Tensor, d: Tensor) -> Tensor:
    """All of d, scaled to the norm of its first triplet, channel by channel."""
    norms = [torch.linalg.matrix_norm(x, keepdim=True) for x in (_first(walk, t, d), d)]
    return d * (norms[0] / norms[1].clamp_min(torch.finfo(d.dtype).tiny))


TAKEN: dict[str, Callable[[Trajectory, Tensor, Tensor], Tensor]] = {
    ALL: lambda walk, t, d: d,
    FIRST: _first,
    REST: lambda walk, t, d: d - _first(walk, t, d),
    SMALL: _small,
    RANDOM: _random,
}
