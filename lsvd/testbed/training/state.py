"""A run of training: its settings, and a model with its moving averages and optimiser on the way to a checkpoint."""

import csv
import io
import json
import logging
import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lsvd.storage.files import write_bytes
from lsvd.testbed.renderings import generator
from lsvd.testbed.training import checkpoints
from lsvd.testbed.training.processes import Processes

Loss = Callable[[int, torch.Generator], Tensor]  # at a step of those that Settings.steps counts
Score = Callable[[], float]  # of the model as it is
# Settings that may change when a run goes on.
FREE = ("steps", "minutes", "by_clock", "save_minutes", "log_every", "progress")
COLUMNS = ("step", "loss", "lr", "pictures_per_second")
CHECKPOINT, LOSSES = "checkpoint.safetensors", "loss.csv"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How long and how fast to train. `minutes` stops early, to go on another time; the decay follows `steps`.

    `by_clock`: the run has as many steps as fit into the minutes, those of a run that was stopped included, and the
    decay follows the minutes. What the loss does at a step of `steps`, it does at that part of the minutes.
    `averages` are the widths of the moving averages of the weights that are kept, as parts of the run so far.
    """

    steps: int
    lr: float
    seed: int = 0
    warmup: int = 300
    final_lr: float = 0.0  # of lr, where the cosine ends
    weight_decay: float = 0.01
    clip: float = 1.0
    averages: tuple[float, ...] = (0.03, 0.08, 0.16)
    minutes: float | None = None
    by_clock: bool = False
    save_minutes: float = 10.0
    log_every: int = 50
    progress: bool = True


def rate(step: int, settings: Settings, part: float | None = None) -> float:
    """Learning rate at a step: a linear warm-up, then half a cosine down to final_lr.

    part: how much of the run is over, 0 to 1, if the clock says so.
    """
    warm = min(1.0, (step + 1) / max(1, settings.warmup))
    decay = 0.5 * (1 + math.cos(math.pi * min(1.0, step / settings.steps if part is None else part)))
    return settings.lr * warm * (settings.final_lr + (1 - settings.final_lr) * decay)


def averaging(step: int, width: float) -> float:
    """Decay at a step of the moving average whose weights over time have a standard deviation of `width` times the run.

    The power function of Karras et al. 2024 (arXiv 2312.02696, eqs. 2 and 3): an average of 0.1 follows the last
    fifth of a run, however long the run gets.
    """
    return (1 - 1 / (step + 1)) ** (exponent(width) + 1)


@cache
def exponent(width: float) -> float:
    """The exponent of the power function with this relative width, below 0.28."""
    t = width**-2
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


def identity(settings: Settings, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What determines a run, but for its length: the settings that are not FREE, and whatever `recipe` says.

    In the types that JSON has, so that it compares equal to what a checkpoint gives back.
    """
    about = {**{name: value for name, value in asdict(settings).items() if name not in FREE}, **recipe}
    return json.loads(json.dumps(about, sort_keys=True))


class Run:
    """A model in training: its weights, their moving averages and the optimiser, on their way to a checkpoint."""

    def __init__(
        self,
        model: nn.Module,
        settings: Settings,
        folder: Path,
        about: Mapping[str, Any],
        after_backward: Callable[[], None] = lambda: None,
    ):
        self.after_backward = after_backward
        self.model, self.settings, self.about, self.name = model, settings, about, folder.name
        self.path, self.losses = folder / CHECKPOINT, folder / LOSSES
        self.averages = {str(width): deepcopy(model).requires_grad_(False) for width in settings.averages}
        self.tensors = _floating(model)  # listed once: in each step that takes longer than the averages themselves
        self.averaged = {width: _floating(self.averages[str(width)]) for width in settings.averages}
        self.trained = [p for p in model.parameters() if p.requires_grad]
        fused = all(p.device.type == "cuda" for p in self.trained)
        self.optimiser = torch.optim.AdamW(
            self.trained, settings.lr, weight_decay=settings.weight_decay, fused=fused or None
        )
        self.step, self.rows = 0, []
        self.seconds = 0.0  # that the run took, as far as it goes by the clock
        if self.path.exists():
            self.restore()

    @property
    def part(self) -> float | None:
        """How much of the run is over, 0 to 1, if it goes by the clock."""
        if not self.settings.by_clock:
            return None
        return min(1.0, self.seconds / (60 * self.settings.minutes))

    @property
    def done(self) -> bool:
        """Is the run over?"""
        return self.step >= self.settings.steps if self.part is None else self.part == 1

    def learn(
        self, loss: Loss, processes: Processes, seconds: Callable[[], float], wishes: Callable[[], tuple[bool, ...]]
    ) -> tuple[float, ...]:
        """Take a step; returns the mean loss of all processes, and for each of their wishes the share that has it.

        seconds: what the run took so far, of which the mean counts: processes must not differ in the learning rate.
        Raises FloatingPointError if the loss is not finite.
        """
        keys = (self.settings.seed,) if processes.count == 1 else (self.settings.seed, processes.rank)
        step = self.step if self.part is None else int(self.part * self.settings.steps)
        value = loss(step, generator(*keys, self.step))
        value.backward()
        self.after_backward()
        numbers = value.item(), seconds(), *map(float, wishes())
        mean, took, *shares = processes.average(self.trained, *numbers)
        if not math.isfinite(mean):
            raise FloatingPointError(f"{self.name}: the loss is {mean} at step {self.step}: lower --lr")
        if self.settings.by_clock:
            self.seconds = took
        self.advance()
        return mean, *shares

    def advance(self) -> None:
        """Take a step down the gradients that are there."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate(self.step, self.settings, self.part)
        nn.utils.clip_grad_norm_(self.trained, self.settings.clip)
        self.optimiser.step()
        self.optimiser.zero_grad()
        with torch.no_grad():
            for width, average in self.averaged.items():
                torch._foreach_lerp_(average, self.tensors, 1 - averaging(self.step, width))
        self.step += 1

    def note(self, losses: list[float], speed: float) -> tuple[str, ...]:
        """Add the mean of the last losses and the throughput to the log; returns its row without the step."""
        row = (f"{sum(losses) / len(losses):.6f}", f"{rate(self.step, self.settings, self.part):.3e}", f"{speed:.1f}")
        self.rows.append((self.step, *row))
        return row

    def finish(self, score: Score | None) -> None:
        """Give the model the weights of an average: see `choose`."""
        choose(self.model, {width: a.state_dict() for width, a in self.averages.items()}, score, self.name)

    def save(self) -> None:
        """Write the checkpoint and the losses. Raises WriteError."""
        moments = self.optimiser.state_dict()["state"]
        parts = {"model": self.model.state_dict()}
        parts |= {f"average-{width}": average.state_dict() for width, average in self.averages.items()}
        parts |= {f"optimiser/{number}": state for number, state in moments.items()}
        about = {"step": self.step, "run": self.about, **({"seconds": self.seconds} if self.seconds else {})}
        checkpoints.save(self.path, checkpoints.flat(parts), about)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *self.rows])
        write_bytes(self.losses, text.getvalue().encode())

    def restore(self) -> None:
        """Go on from the checkpoint. Raises ValueError if it is damaged or another run's."""
        tensors, about = checkpoints.load(self.path)
        check(self.path, about, self.about)
        load(self.path, tensors, "model", self.model)
        for width, average in self.averages.items():
            load(self.path, tensors, f"average-{width}", average)
        state, moments = self.optimiser.state_dict(), checkpoints.part(tensors, "optimiser")
        for key, value in moments.items():
            number, name = key.split("/")
            state["state"].setdefault(int(number), {})[name] = value
        self.optimiser.load_state_dict(state)
        self.step, self.rows = about["step"], read_losses(self.losses, about["step"])
        self.seconds = about.get("seconds", 0.0)


def choose(model: nn.Module, averages: Mapping[str, Mapping[str, Tensor]], score: Score | None, name: str) -> str:
    """Load the average of the least score, or without `score` the widest; returns its width."""
    best = max(averages, key=float)
    if score is not None and len(averages) > 1:
        scores = {}
        for width, state in averages.items():
            model.load_state_dict(state)
            scores[width] = score()
        best = min(scores, key=scores.get)
        listed = ", ".join(f"{value:.5f} at {width}" for width, value in scores.items())
        log.info("%s: held-out loss by the average's width: %s; %s is taken", name, listed, best)
    model.load_state_dict(averages[best])
    return best


def read(path: Path) -> tuple[int, dict[str, dict[str, Tensor]]]:
    """The step of a checkpoint, and its averages by their width. Raises what checkpoints.load raises."""
    tensors, about = checkpoints.load(path)
    prefixes = {key.split("/")[0] for key in tensors if key.startswith("average-")}
    return about["step"], {p.removeprefix("average-"): checkpoints.part(tensors, p) for p in sorted(prefixes)}


def check(path: Path, about: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """Raise ValueError if a checkpoint belongs to a run with other options, or to another model."""
    before = about.get("run", {})
    other = [name for name in run if name in before and before[name] != run[name]]
    if other:
        was, now = (" and ".join(f"{name} {options[name]}" for name in other) for options in (before, run))
        raise ValueError(f"{path} was begun with {was}, not {now}: give the same options, or {checkpoints.REMEDY}")


def load(path: Path, tensors: Mapping[str, Tensor], part: str, model: nn.Module) -> None:
    """Load one part of a checkpoint into a model. Raises ValueError if it is another architecture's."""
    try:
        model.load_state_dict(checkpoints.part(tensors, part))
    except RuntimeError as error:
        raise ValueError(f"{path} belongs to another architecture: {checkpoints.REMEDY}") from error


def read_losses(path: Path, step: int) -> list[tuple[str, ...]]:
    """Rows of loss.csv up to a step; those after it will be written again. Raises ValueError if it is damaged."""
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        if tuple(header) != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
            raise ValueError("other columns")
        return [tuple(row) for row in rows if int(row[0]) <= step]
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} is damaged: move it away, and training goes on without its past losses") from error


def _floating(model: nn.Module) -> list[Tensor]:
    return [t for t in model.state_dict().values() if t.is_floating_point()]
