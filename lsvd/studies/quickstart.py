"""The quickstart: a first edit beside its controls, as a reader counts them. It shows, and judges no claim.

Beside the edit stand the target prompt from its branch on (prompt switching), the point nine tenths of the way from x
to z (linear interpolation), the edit with the paper's z, and the target prompt from the start.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lsvd.avi import Edit
from lsvd.sampling.trajectory import Trajectory, resume
from lsvd.statistics.intervals import Interval
from lsvd.studies.rig import Rig
from lsvd.testbed.effects import Effects, effects

MIXED = 0.9  # of the way from x to z, for linear interpolation


def energy(S: Tensor, k: int) -> Tensor:
    """The share of energy in the first k of singular values (..., C, r), mean over channels: shape (...)."""
    return (S[..., :k].square().sum(-1) / S.square().sum(-1)).mean(-1)


@dataclass(frozen=True)
class Result:
    """Effects by target, a level of the factor, and by method; prompts: that of each target."""

    effects: dict[str, dict[str, Effects]]
    prompts: dict[str, str]


def measure(
    rig: Rig, edits: Mapping[str, Edit], plain: Mapping[str, Edit], alone: Mapping[str, Trajectory], factor: str
) -> Result:
    """The effects of edits towards levels of a factor, by level, and of their controls.

    edits: with z branched off the source, drawn whole; plain: with the paper's z; alone: trajectories of the target
    prompts. Raises ValueError and KeyError as lsvd.testbed.effects.effects.
    """
    backbone, reader = rig.backbone, rig.judge
    counts, prompts = {}, {}
    for level, edit in edits.items():
        before = reader.read(backbone.decode(edit.source.final))
        y = torch.lerp(edit.source.at(edit.t), edit.target.at(edit.t_target), MIXED)
        walks = {
            "edit": edit.edited,
            "prompt switching": edit.target,
            "interpolation": resume(backbone, edit.source, edit.t, y),
            "edit, paper's z": plain[level].edited,
            "target prompt": alone[level],
        }
        pictures = {way: backbone.decode(walk.final) for way, walk in walks.items()}
        counts[level] = {
            way: effects(before, reader.read(after), reader.scene, {factor: level}) for way, after in pictures.items()
        }
        prompts[level] = edit.target.settings.prompts[0]
    return Result(counts, prompts)


def rows(result: Result) -> list[dict[str, str | int]]:
    """The rows of outputs/tables/quickstart.csv; success is empty where every picture had the attribute before."""
    table = []
    for level, ways in result.effects.items():
        for way, effect in ways.items():
            row = {"target": result.prompts[level], "method": way}
            row |= _cells(effect.success, ("success", "low", "high"))
            row |= _cells(effect.side, ("side effects", "side low", "side high"))
            table.append(row | {"n": effect.lacking})
    return table


def _cells(value: Interval | None, heads: tuple[str, str, str]) -> dict[str, str]:
    numbers = (value.value, value.low, value.high) if value else ()
    return dict(zip(heads, (f"{x:.4f}" for x in numbers), strict=True)) if value else dict.fromkeys(heads, "")
