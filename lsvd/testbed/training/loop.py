"""One training loop for every model, stopped by time or by a signal, and taken up again where it was.

A run goes on only with the options it was begun with. Its length alone may change, in steps or by the clock: the rate
then follows the new length from the next step on, which is not the run that would have had this length from the start.
"""

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from lsvd.progress import bar
from lsvd.storage.files import WriteError, check_writable
from lsvd.testbed.training.processes import Processes
from lsvd.testbed.training.state import CHECKPOINT, Loss, Run, Score, Settings, identity

log = logging.getLogger(__name__)


class Watch:
    """The time that training takes: when to save, when to stop, how many pictures it learns from in a second."""

    def __init__(self, settings: Settings, pictures: int, before: float = 0.0):
        self.settings, self.pictures, self.before = settings, pictures, before
        self.began = self.saved = self.lapped = time.monotonic()

    def over(self) -> bool:
        """Are the minutes up?"""
        minutes = self.settings.minutes
        return minutes is not None and time.monotonic() - self.began > minutes * 60

    def seconds(self) -> float:
        """What the run took, with what it took `before` this session."""
        return self.before + time.monotonic() - self.began

    def late(self) -> bool:
        """Is it time for a checkpoint?"""
        return time.monotonic() - self.saved > self.settings.save_minutes * 60

    def lap(self, steps: int) -> float:
        """Pictures a second in the steps since the last lap."""
        self.lapped, before = time.monotonic(), self.lapped
        return self.pictures * steps / (self.lapped - before)

    def overall(self, steps: int) -> float:
        """Pictures a second in all steps of this session."""
        return self.pictures * steps / (time.monotonic() - self.began)


def fit(
    model: nn.Module,
    loss: Loss,
    settings: Settings,
    folder: Path,
    recipe: Mapping[str, Any] | None = None,
    *,
    score: Score | None = None,
    pictures: int = 1,
    processes: Processes | None = None,
    after_backward: Callable[[], None] = lambda: None,
) -> bool:
    """Train `model` in place; on return it holds averaged weights. True if the run is over.

    `loss(step, generator)` draws the batch and everything random from the generator, which depends on seed and step
    alone (and in one of several processes, on its number): a run that was stopped and taken up again ends in the same
    weights, bit for bit, as one that was not, unless it goes by the clock. Checkpoints go to
    folder/checkpoint.safetensors every save_minutes, at the end, on Ctrl-C or SIGTERM, and when `minutes` are over; the
    loss and the throughput go to folder/loss.csv. `recipe` holds what else determines the run, in plain types.
    `pictures` counts those that a step learns from, in all processes. `after_backward` runs before the optimiser sees
    the gradients. When the run is over, the average with the least `score()` is taken; otherwise, or without `score`,
    the widest.

    Raises ValueError if a file there is damaged or another run's, FloatingPointError if the loss is not finite, and
    WriteError if the folder cannot be written at the start or when the run is stopped. In between and at the end, that
    is a warning: the checkpoint before stays, and the model is there to be exported.
    """
    processes = processes or Processes()
    if processes.first:
        check_writable(folder / CHECKPOINT)
    run = Run(model, settings, folder, identity(settings, recipe or {}), after_backward)
    watch, losses = Watch(settings, pictures, run.seconds), []
    first = run.step
    model.train()
    with _bar(run, processes) as shown, _asked_to_stop() as stopping:
        while not run.done:
            value, stop, late = run.learn(loss, processes, watch.seconds, partial(_wishes, watch, stopping))
            losses.append(value)
            shown.update()
            if run.step % settings.log_every == 0:
                row = run.note(losses, watch.lap(len(losses)))
                shown.set_postfix(loss=row[0], pictures_per_second=row[-1], refresh=False)
                losses.clear()
            if stop and not run.done:
                _save(run, processes)
                break
            if late or run.done:
                _try_to_save(run, processes)
                watch.saved = time.monotonic()
    speed = f", {watch.overall(run.step - first):.0f} pictures/s" if run.step > first else ""
    of = "" if settings.by_clock else f" of {settings.steps}"
    log.info("%s: %d%s steps%s", run.name, run.step, of, speed)
    run.finish(score if run.done else None)
    return run.done


def _bar(run: Run, processes: Processes):
    pause = 0.5 if sys.stderr.isatty() else 30  # a log file gets a line now and then
    progress = run.settings.progress and processes.first
    total = None if run.settings.by_clock else run.settings.steps
    options = {"total": total, "initial": run.step, "desc": run.name}
    return bar(progress=progress, leave=True, mininterval=pause, **options)


def _wishes(watch: Watch, stopping: threading.Event) -> tuple[bool, bool]:
    """Is the session to stop? Is it time for a checkpoint?"""
    return stopping.is_set() or (watch.over() and not watch.settings.by_clock), watch.late()


def _save(run: Run, processes: Processes) -> None:
    try:
        if processes.first:
            run.save()
    finally:
        processes.wait()


def _try_to_save(run: Run, processes: Processes) -> None:
    try:
        _save(run, processes)
    except WriteError as error:
        log.warning("%s: step %d is not kept (%s)", run.name, run.step, error)


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
