"""What an edit does to pictures, as a reader counts it: success, and side effects on everything else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lsvd.statistics.intervals import UNIT, Interval, mean, share
from lsvd.testbed.reader import Reading
from lsvd.testbed.scenes.scene import Factor, Scene


@dataclass(frozen=True)
class Effects:
    """success: the share of the `lacking` pictures, those without the attribute before, that have it afterwards; None
    if all had it. side: the mean move of all other factors, 0 to 1 (`moves`), over all pictures."""

    success: Interval | None
    lacking: int
    side: Interval


def effects(before: Reading, after: Reading, scene: Scene, wanted: Mapping[str, str]) -> Effects:
    """The effects of an edit of n pictures towards levels of categorical factors, such as {"age": "old"}.

    Raises ValueError and KeyError as `compare`, and ValueError for fewer than two pictures.
    """
    return tally(*compare(before, after, scene, wanted))


def compare(before: Reading, after: Reading, scene: Scene, wanted: Mapping[str, str]) -> tuple[Tensor, Tensor, Tensor]:
    """Of each of n pictures: whether the levels were there before, whether after, and the mean move of other factors.

    Shapes (n,), bool, bool and float. The move is over the factors that can be seen both before and after. Raises
    KeyError for a factor or level that the scene does not have, and ValueError for none or readings that differ in n.
    """
    if not wanted:
        raise ValueError("an edit of nothing has no effects: name a factor and its level")
    sizes = {len(r.levels[name]) for r in (before, after) for name in r.levels}
    if len(sizes) != 1:
        raise ValueError(f"readings of {' and '.join(map(str, sorted(sizes)))} pictures differ: read the same pictures")
    levels = {name: scene.index(name, level) for name, level in wanted.items()}
    had, has = (
        torch.stack([r.levels[name] == level for name, level in levels.items()]).all(0) for r in (before, after)
    )
    others = [f for f in scene.factors if f.name not in wanted]
    seen = [scene.visible(r.values) for r in (before, after)]
    seen = torch.stack([seen[0][f.name] & seen[1][f.name] for f in others], -1)
    return had, has, moves(before, after, others).where(seen, torch.nan).nanmean(-1)


def tally(had: Tensor, has: Tensor, side: Tensor) -> Effects:
    """The effects on n pictures: whether each had the attribute, has it now, and how far all else moved, shape (n,).

    Raises ValueError for fewer than two pictures, or side effects that are not finite.
    """
    lacking = int((~had).sum())
    success = share(int((has & ~had).sum()), lacking) if lacking else None
    return Effects(success, lacking, mean(side, bounds=UNIT))


def moves(before: Reading, after: Reading, factors: Sequence[Factor]) -> Tensor:
    """How far each factor has moved between two readings of n pictures each, shape (n, factors), from 0 to 1."""
    columns = []
    for f in factors:
        if f.levels:
            columns.append((after.probabilities[f.name] - before.probabilities[f.name]).abs().sum(-1) / 2)
        else:
            low, high = f.range
            columns.append((after.numbers[f.name] - before.numbers[f.name]).abs() / (high - low))
    return torch.stack(columns, -1).clamp(0, 1)
