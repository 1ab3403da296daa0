"""What a scene is: a typed table of factors, and a function that draws them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Scale = Literal["coarse", "middle", "fine"]
Values = dict[str, Tensor]


@dataclass(frozen=True)
class Factor:
    """One thing that varies between pictures.

    A categorical factor has `levels`, drawn with the probabilities `p` (equal if empty) and stored as int64 indices; a
    continuous one has a `range`, drawn uniformly and stored as float32 in `unit`. `visible_if` names the levels of
    other factors under which this one can be told from the picture.
    """

    name: str
    scale: Scale
    levels: tuple[str, ...] = ()
    p: tuple[float, ...] = ()
    range: tuple[float, float] | None = None
    unit: str = ""
    visible_if: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def kind(self) -> Literal["categorical", "continuous"]:
        return "categorical" if self.levels else "continuous"


@dataclass(frozen=True)
class Scene:
    """A world of pictures: `factors` says what varies, `draw(values, size)` paints it."""

    name: str
    factors: tuple[Factor, ...]
    draw: Callable[..., Tensor]

    def factor(self, name: str) -> Factor:
        """The factor of that name. Raises KeyError with the names there are."""
        for f in self.factors:
            if f.name == name:
                return f
        raise KeyError(f"{self.name} has no factor {name!r}; it has {', '.join(f.name for f in self.factors)}")

    def index(self, name: str, level: str) -> int:
        """The number of a level of a categorical factor. Raises KeyError with the levels there are."""
        levels = self.factor(name).levels
        if level not in levels:
            raise KeyError(f"{name} of {self.name} has no level {level!r}; it has {', '.join(levels) or 'a range'}")
        return levels.index(level)

    def sample(self, n: int, generator: torch.Generator, **fixed: str | float) -> Values:
        """Draw n pictures' factors, each independently; `fixed` pins some to a level's name or a number.

        Returns a dict from name to shape (n,), int64 for levels and float32 for ranges. Uses a CPU generator.
        """
        values = {}
        for f in self.factors:
            if f.levels:
                weights = torch.tensor(f.p or (1.0,) * len(f.levels))
                values[f.name] = torch.multinomial(weights, n, replacement=True, generator=generator)
            else:
                low, high = f.range
                values[f.name] = low + (high - low) * torch.rand(n, generator=generator)
        for name, value in fixed.items():
            level = self.index(name, value) if isinstance(value, str) else value
            self.factor(name)
            values[name] = torch.full_like(values[name], level)
        return values

    def visible(self, values: Values) -> dict[str, Tensor]:
        """For each factor, shape (n,) bool: can it be told from these pictures?"""
        seen = {}
        for f in self.factors:
            mask = torch.ones_like(values[f.name], dtype=torch.bool)
            for other, levels in f.visible_if.items():
                allowed = torch.tensor([self.index(other, level) for level in levels], device=mask.device)
                mask &= torch.isin(values[other], allowed)
            seen[f.name] = mask
        return seen

    def render(self, values: Values, size: int, *, device="cpu", batch: int = 64) -> Tensor:
        """Draw pictures from their factors: shape (n, 3, size, size), float32 in [0, 1].

        Raises ValueError if a factor is missing or not finite.
        """
        missing = [f.name for f in self.factors if f.name not in values]
        if missing:
            raise ValueError(f"{self.name} cannot be drawn without {', '.join(missing)}: take values from sample()")
        values = {f.name: values[f.name].to(device) for f in self.factors}
        for name, value in values.items():
            if not torch.isfinite(value.float()).all():
                raise ValueError(f"the factor {name} holds a value that is not finite: redraw it with sample()")
        n = len(values[self.factors[0].name])
        parts = [self.draw({k: v[i : i + batch] for k, v in values.items()}, size) for i in range(0, n, batch)]
        return torch.cat(parts).clamp_(0, 1) if parts else torch.zeros(0, 3, size, size, device=device)


@dataclass(frozen=True)
class Twins(Scene):
    """A scene whose pictures come in pairs, rows 2i and 2i + 1, that differ in one factor of `differ`."""

    differ: tuple[str, ...] = ()

    def sample(self, n: int, generator: torch.Generator, **fixed: str | float) -> Values:
        """As Scene.sample, but in pairs; n is even. Which factor differs is drawn afresh for each pair."""
        values = {name: v.repeat_interleave(2) for name, v in super().sample(n // 2, generator, **fixed).items()}
        chosen = torch.randint(len(self.differ), (n // 2,), generator=generator)
        for number, name in enumerate(self.differ):
            count = len(self.factor(name).levels)
            step = torch.randint(1, count, (n // 2,), generator=generator)
            values[name][1::2] = torch.where(chosen == number, values[name][1::2] + step, values[name][1::2]) % count
        return values


def twins(scene: Scene, differ: tuple[str, ...]) -> Twins:
    """The same scene in pairs that differ in one of these categorical factors each."""
    return Twins(f"{scene.name}-twins", scene.factors, scene.draw, differ)


def palette(colours: Mapping[str, tuple[float, float, float]], levels: tuple[str, ...], index: Tensor) -> Tensor:
    """The colours, shape (n, 3), of levels given by their indices, shape (n,)."""
    return torch.tensor([colours[level] for level in levels], device=index.device)[index]


def per_picture(value: Tensor) -> Tensor:
    """A factor's values, shape (n,), as float32 of shape (n, 1, 1), to broadcast over a picture."""
    return value.float().view(-1, 1, 1)
