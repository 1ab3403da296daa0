"""A worker beside the main thread: the newest request wins, older ones are dropped, and errors become a sentence."""

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lsvd.checks import out_of_memory, printable
from lsvd.explorer.watch import Dropped, Stopped, Watch

log = logging.getLogger(__name__)


class Worker:
    """Runs one piece of work at a time in its own thread.

    work: called with (job, watch). ended: called with (job, error), where error is a sentence, "" if all went well, and
    None for work that was dropped. remark: called with the text of each warning. All three are called in the worker's
    thread, where torch records no gradients.
    """

    def __init__(
        self,
        work: Callable[[Any, Watch], None],
        ended: Callable[[Any, str | None], None] = lambda job, error: None,
        remark: Callable[[str], None] = lambda text: None,
    ):
        self._work, self._ended, self._remark = work, ended, remark
        self._change = threading.Condition()
        self._next: tuple[Any, Watch] | None = None
        self._now: Watch | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether something runs or waits."""
        return self._now is not None or self._next is not None

    def submit(self, job: Any, watch: Watch) -> None:
        """Do this next, and drop all other work. Returns at once."""
        with self._change:
            if self._closed:
                return
            if self._now is not None:
                self._now.dropped.set()
            self._next = (job, watch)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="lsvd explorer", daemon=True)
                self._thread.start()
            self._change.notify_all()

    def stop(self) -> None:
        """End the current work at its next step, and keep the part done so far."""
        with self._change:
            for watch in (self._now, self._next and self._next[1]):
                if watch:
                    watch.stopped.set()

    def close(self) -> None:
        """Drop all work, and accept no more."""
        with self._change:
            self._closed, self._next = True, None
            if self._now is not None:
                self._now.dropped.set()
            self._change.notify_all()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until there is nothing to do; False if it takes longer."""
        with self._change:
            return self._change.wait_for(lambda: not self.busy, seconds)

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._next is not None or self._closed)
                if self._closed:
                    return
                (job, watch), self._next = self._next, None
                self._now = watch
            error: str | None = ""
            try:
                # grad mode belongs to the thread: that of a notebook's cells does not apply here
                with torch.no_grad(), heard(self._remark):
                    self._work(job, watch)
            except Dropped:
                error = None
            except Stopped:
                error = ""
            except Exception as raised:
                error = None if watch.dropped.is_set() else sentence(raised)
            try:
                self._ended(job, error)
            except Exception:
                log.exception("the explorer cannot show a result")
            finally:
                with self._change:
                    self._now = None
                    self._change.notify_all()


def sentence(error: BaseException) -> str:
    """What went wrong, in one line that says what to do."""
    if out_of_memory(error):
        return "there is not enough memory: take another device, or a smaller model"
    text = printable("; ".join(str(error).split("\n"))).strip()
    if isinstance(error, ValueError | OSError) and text:
        return text
    log.warning("the explorer met an error", exc_info=error)
    return f"something went wrong ({type(error).__name__}: {text[:200]}): try other settings, or restart the kernel"


@contextmanager
def heard(remark: Callable[[str], None]) -> Iterator[None]:
    """Pass this thread's warnings for the user to `remark`; those of other threads go where they went before."""
    here = threading.get_ident()
    with warnings.catch_warnings():
        original = warnings.showwarning

        def show(message, category, *where, **more):
            if threading.get_ident() != here:
                original(message, category, *where, **more)
            elif issubclass(category, UserWarning):
                remark(printable(str(message)))

        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield
