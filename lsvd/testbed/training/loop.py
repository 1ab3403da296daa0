"""One training loop for every model: warm-up and decay, a moving average, checkpoints from which it goes on exactly.

A run goes on only with the options it was begun with. `steps` alone may change: the rate then follows the new length
from the next step on, which is not the run that would have had this length from the start.
"""

import csv
import io
import logging
import math
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from lsvd.storage.files import WriteError, check_writable, write_bytes
from lsvd.testbed.renderings import generator

Loss = Callable[[int, torch.Generator], Tensor]
FREE = ("steps", "minutes", "save_minutes", "log_every", "progress")  # settings that may change when a run goes on
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How long and how fast to train. `minutes` stops early, to go on another time; the decay follows `steps`."""

    steps: int
    lr: float
    seed: int = 0
    warmup: int = 300
    final_lr: float = 0.02  # of lr, where the cosine ends
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.9995
    minutes: float | None = None
    save_minutes: float = 10.0
    log_every: int = 50
    progress: bool = True


def rate(step: int, settings: Settings) -> float:
    """Learning rate at a step: a linear warm-up, then half a cosine down to final_lr."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup))
    decay = 0.5 * (1 + math.cos(math.pi * min(1.0, step / settings.steps)))
    return settings.lr * warm * (settings.final_lr + (1 - settings.final_lr) * decay)


def averaging(step: int, settings: Settings) -> float:
    """Decay of the moving average at a step: it starts at 0.1 and rises to settings.ema."""
    return min(settings.ema, (step + 1) / (step + 10))


def identity(settings: Settings, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What determines a run, but for its length: the settings that are not FREE, and whatever `recipe` says."""
    return {**{name: value for name, value in asdict(settings).items() if name not in FREE}, **recipe}


def fit(
    model: nn.Module, loss: Loss, settings: Settings, folder: Path, recipe: Mapping[str, Any] | None = None
) -> bool:
    """Train `model` in place; on return it holds the averaged weights. True if all steps are done.

    `loss(step, generator)` draws the batch and everything random from the generator, which depends on seed and step
    alone: a run that was stopped and taken up again ends in the same weights, bit for bit, as one that was not.
    Checkpoints go to folder/checkpoint.pt every save_minutes, at the end, on Ctrl-C or SIGTERM, and when `minutes` are
    over; the loss goes to folder/loss.csv. `recipe` holds what else determines the run, in plain types.

    Raises ValueError if the checkpoint there is damaged or another run's, FloatingPointError if the loss is not finite,
    and WriteError if the folder cannot be written at the start or when the run is stopped. In between and at the end,
    that is a warning: the checkpoint before stays, and the model is there to be exported.
    """
    path, run = folder / "checkpoint.pt", identity(settings, recipe or {})
    check_writable(path)
    average = deepcopy(model).requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, settings.lr, weight_decay=settings.weight_decay)
    step = restore(path, run, model, average, optimiser) if path.exists() else 0
    rows, running = _read_losses(folder / "loss.csv", step), []
    saved = began = time.monotonic()
    model.train()

    def save() -> None:
        state = {"step": step, "run": run, "model": model.state_dict(), "ema": average.state_dict()}
        buffer = io.BytesIO()
        torch.save({**state, "optimiser": optimiser.state_dict()}, buffer)
        write_bytes(path, buffer.getvalue())
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("step", "loss", "lr"), *rows])
        write_bytes(folder / "loss.csv", text.getvalue().encode())

    def try_to_save() -> None:
        try:
            save()
        except WriteError as error:
            log.warning("%s: step %d is not kept (%s)", folder.name, step, error)

    pause = 0.5 if sys.stderr.isatty() else 30  # a log file gets a line now and then
    bar = tqdm(total=settings.steps, initial=step, desc=folder.name, mininterval=pause, disable=not settings.progress)
    with bar, _asked_to_stop() as stopping:
        while step < settings.steps:
            for group in optimiser.param_groups:
                group["lr"] = rate(step, settings)
            value = loss(step, generator(settings.seed, step))
            if not torch.isfinite(value):
                raise FloatingPointError(f"{folder.name}: the loss is {value.item()} at step {step}: lower --lr")
            value.backward()
            nn.utils.clip_grad_norm_(trained, settings.clip)
            optimiser.step()
            optimiser.zero_grad()
            with torch.no_grad():
                tensors = [t for t in model.state_dict().values() if t.is_floating_point()]
                means = [t for t in average.state_dict().values() if t.is_floating_point()]
                torch._foreach_lerp_(means, tensors, 1 - averaging(step, settings))
            step += 1
            running.append(value.item())
            bar.update()
            if step % settings.log_every == 0:
                rows.append((step, f"{sum(running) / len(running):.6f}", f"{rate(step, settings):.3e}"))
                bar.set_postfix(loss=rows[-1][1], refresh=False)
                running.clear()
            now = time.monotonic()
            over = settings.minutes is not None and now - began > settings.minutes * 60
            done = step >= settings.steps
            if (over or stopping.is_set()) and not done:
                save()
                break
            if now - saved > settings.save_minutes * 60 or done:
                try_to_save()
                saved = now
    log.info("%s: %d of %d steps", folder.name, step, settings.steps)
    model.load_state_dict(average.state_dict())
    return step >= settings.steps


def read(path: Path) -> dict:
    """What a checkpoint holds: step, run, model, ema, optimiser. Raises FileNotFoundError or ValueError."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: train first, without --export")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path} is truncated or damaged: delete it to start this training anew") from error


def check(path: Path, state: dict, run: Mapping[str, Any]) -> None:
    """Raise ValueError if a checkpoint belongs to a run with other options; older ones do not say, and are accepted."""
    before = state.get("run", {})
    other = [name for name in run if name in before and before[name] != run[name]]
    if other:
        was, now = (" and ".join(f"{name} {each[name]}" for name in other) for each in (before, run))
        raise ValueError(
            f"{path} was begun with {was}, not {now}: give the same options, or delete it to start this training anew"
        )


def restore(
    path: Path, run: Mapping[str, Any], model: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer
) -> int:
    """Load a checkpoint into model, average and optimiser; return its step. Raises ValueError if it does not fit."""
    state = read(path)
    check(path, state, run)
    load(path, state, "model", model)
    load(path, state, "ema", average)
    optimiser.load_state_dict(state["optimiser"])
    return state["step"]


def load(path: Path, state: dict, part: str, model: nn.Module) -> None:
    """Load one part of a checkpoint into a model. Raises ValueError if it is another architecture's."""
    try:
        model.load_state_dict(state[part])
    except (RuntimeError, KeyError) as error:
        raise ValueError(f"{path} belongs to another architecture: delete it to start this training anew") from error


def _read_losses(path: Path, step: int) -> list[tuple[str, ...]]:
    """Rows of loss.csv up to a step; those after it will be written again."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [tuple(row) for row in list(csv.reader(file))[1:] if int(row[0]) <= step]


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; a second signal acts as usual. Only the main thread can catch signals."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number, frame) -> None:
        event.set()
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, stop)
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
