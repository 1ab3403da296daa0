"""Low-rank guidance in the command `edit`: its options as a direction, and the trajectories that are shown."""

import argparse
from collections.abc import Sequence
from typing import Any

from lsvd.avi.edit import edit_prompt
from lsvd.backbones.models import Backbone
from lsvd.guidance import direction as directions
from lsvd.guidance.direction import Direction
from lsvd.guidance.settings import LowRank
from lsvd.sampling.trajectory import Trajectory, run
from lsvd.storage.files import read_bytes


def direction_of(options: argparse.Namespace) -> Direction | None:
    """The direction that --method low-rank asks for, or that the files of --attribute hold; None for AVI.

    Raises ValueError for files of both kinds, or bad numbers.
    """
    strengths = options.strength or [1.0]
    if options.method == "low-rank":
        strengths = strengths * len(options.to) if len(strengths) == 1 else strengths
        settings = {name: getattr(options, name) for name in ("rank", "start", "end")}
        settings = LowRank(**{name: value for name, value in settings.items() if value is not None})
        return directions.together([Direction({to: c}, settings) for to, c in zip(options.to, strengths, strict=True)])
    files = [path for path in options.attribute or () if path.is_file()]
    kinds = [directions.is_direction(read_bytes(path)) for path in files]
    if not any(kinds):
        return None
    if not all(kinds) or len(files) < len(options.attribute):
        raise ValueError("directions of low-rank guidance and learned attributes do not add up: give files of one kind")
    strengths = strengths * len(files) if len(strengths) == 1 else strengths
    pairs = zip(files, strengths, strict=True)
    return directions.together([directions.load(path).scaled(strength) for path, strength in pairs])


def guided(
    backbone: Backbone, source: str, direction: Direction, seeds: Sequence[int], compare: bool, **drawing: Any
) -> tuple[Trajectory, ...]:
    """The edit's trajectory, after those of the source and each target if they are to be compared."""
    edit = edit_prompt(
        backbone, source, direction.targets, seeds=seeds, method=direction.settings, whole=compare, **drawing
    )
    if not compare:
        return (edit.edited,)
    return edit.source, *(run(backbone, target, seeds, **drawing) for target in direction.targets), edit.edited
