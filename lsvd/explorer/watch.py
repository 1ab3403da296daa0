"""Watching a model draw: progress, the estimate on the way, and stopping between two steps."""

import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lsvd.backbones.models import Backbone, OnStep
from lsvd.sampling.estimates import Levels

PATIENCE = 8  # estimates take at most about one part in this many of the time


class Stopped(Exception):
    """The person pressed stop: the part drawn so far is kept."""


class Dropped(Exception):
    """A newer request is waiting, or a preview is done: the rest is not needed."""


class Watch:
    """The reports of a piece of work while it runs, and the requests to end it.

    report: called with (label, done, total, seconds left or None) after each step. look: called with the estimate of
    the clean code, shape (B, C, H, W), after the first step, and when `every` seconds have passed since the last one,
    or more where looking takes long. preview: whether the work ends with the first estimate.
    """

    def __init__(
        self,
        report: Callable[[str, int, int, float | None], None] = lambda *progress: None,
        look: Callable[[Tensor], None] = lambda code: None,
        *,
        every: float = 0.4,
        preview: bool = False,
    ):
        self.report, self.look, self.every, self.preview = report, look, every, preview
        self.stopped, self.dropped = threading.Event(), threading.Event()
        self.codes: dict[int, Tensor] = {}  # of the run that goes on: the code at the start of each step
        self.label, self.total, self.done = "", 0, 0
        self._began = self._next = 0.0

    def begin(self, label: str, total: int, *, looking: bool = True) -> None:
        """Announce the next part of the work, and its number of steps. looking: whether to show estimates."""
        self.label, self.total, self.done, self.looking = label, total, 0, looking
        self._began, self._next = time.monotonic(), 0.0
        self.check()
        self.report(label, 0, total, None)

    def check(self) -> None:
        """Raise Dropped or Stopped if `dropped` or `stopped` is set."""
        if self.dropped.is_set():
            raise Dropped
        if self.stopped.is_set():
            raise Stopped

    def step(self, estimate: Callable[[], Tensor | None]) -> None:
        """Count a finished step. estimate() gives the clean code, and is called when it is time to show it."""
        self.done += 1
        now = time.monotonic()
        left = (now - self._began) / self.done * max(0, self.total - self.done)
        self.report(self.label, self.done, max(self.total, self.done), left if self.done > 1 else None)
        self.check()
        if self.looking and self.done < self.total and now >= self._next:
            code = estimate()
            if code is not None:
                self.look(code)
            end = time.monotonic()
            self._next = end + max(self.every, PATIENCE * (end - now))
            if self.preview and code is not None:
                raise Dropped
        self.check()


class Watched:
    """A backbone that reports every step to a Watch, and is otherwise unchanged.

    It can be used wherever the library takes a backbone; everything is drawn through `denoise`.
    """

    def __init__(self, backbone: Backbone, watch: Watch):
        self._backbone, self._watch = backbone, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def denoise(self, code, scheduler, request, generators, on_step) -> None:
        """See Backbone.denoise."""
        self._backbone.denoise(code, scheduler, request, generators, self.noticing(code, request, on_step))

    def noticing(self, code: Tensor, request: Any, on_step: OnStep) -> OnStep:
        """See Backbone.noticing."""
        prepared = self._backbone.prepared(request.steps)
        levels, times = Levels.of(prepared), prepared.timesteps.tolist()
        codes, before = {}, code
        self._watch.codes = codes

        def watched(i: int, t: Tensor, x: Tensor) -> Tensor:
            nonlocal before
            x, last = on_step(i, t, x), before
            before = x
            place = times.index(float(t)) if levels is not None and float(t) in times else None
            if place is not None:
                codes.setdefault(place, last)
                codes[place + 1] = x

            def estimate() -> Tensor | None:
                if place is None:
                    return None
                clean = levels.clean(place, last, x)
                return clean if torch.isfinite(clean).all() else None

            self._watch.step(estimate)
            return x

        return watched
