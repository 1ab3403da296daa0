"""One process at a time in a clone, whose children end with it."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

PATIENCE = 5.0


class Stopped(BaseException):
    """The process was asked to stop; holds the signal's number."""


def catch_signals() -> None:
    """From now on, raise Stopped on a signal to stop; ignored signals stay ignored (nohup)."""

    def stop(number, frame):
        for signum in signals:
            signal.signal(signum, signal.SIG_IGN)  # a second Ctrl-C would interrupt the tidying up
        raise Stopped(number)

    stop_signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    signals = [number for number in stop_signals if signal.getsignal(number) != signal.SIG_IGN]
    for number in signals:
        signal.signal(number, stop)


def wait(parent: int) -> None:
    """Wait a moment. Raises Stopped if the parent process, make, is gone."""
    time.sleep(0.1)
    if os.getppid() != parent:
        raise Stopped(signal.SIGHUP)


@contextmanager
def alone(path: Path, parent: int) -> Iterator[None]:
    """Hold the lock of a clone, a file at `path`. While another process has it, say so once, and wait.

    The system releases the lock when the process ends, in whatever way.
    """
    with open(path, "a+") as file:
        reported = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not reported:
                    print("another make reproduce or make bless runs in this clone: waiting for its end", flush=True)
                reported = True
                wait(parent)
        yield


def run(command: Sequence[str], parent: int) -> int:
    """Run a command to its end and return its status. When this process is stopped, its children end too."""
    # a session of its own: Ctrl-C reaches this process alone, which ends the others in order
    child = subprocess.Popen(command, start_new_session=True)
    try:
        while (status := child.poll()) is None:
            wait(parent)
        return status
    except BaseException:
        end(child)
        raise


def end(child: subprocess.Popen) -> None:
    """End a process and its children, by force if they do not react."""
    try:
        process = psutil.Process(child.pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for force in (False, True):
        for member in family:
            try:
                member.kill() if force else member.terminate()
            except psutil.NoSuchProcess:
                pass
        _, family = psutil.wait_procs(family, timeout=PATIENCE)


def complain(sentence: str) -> int:
    """Write a sentence to stderr; the status to end with."""
    sys.stderr.write(sentence + "\n")
    return 1
