"""One process at a time in a clone, and its children ended when it is stopped."""

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
    """Raise Stopped, from now on, where a signal asks to stop; signals that are ignored stay so (nohup)."""

    def stop(number, frame):
        for signum in caught:
            signal.signal(signum, signal.SIG_IGN)  # a second Ctrl-C would interrupt the tidying up
        raise Stopped(number)

    asked = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    caught = [number for number in asked if signal.getsignal(number) != signal.SIG_IGN]
    for number in caught:
        signal.signal(number, stop)


def wait(parent: int) -> None:
    """A short while; raises Stopped if the process that started this one, make, is gone."""
    time.sleep(0.1)
    if os.getppid() != parent:
        raise Stopped(signal.SIGHUP)


@contextmanager
def alone(path: Path, parent: int) -> Iterator[None]:
    """Hold the lock of a clone, a file at `path`; while another process has it, say so once, and wait.

    The system releases it with the process, however that ends.
    """
    with open(path, "a+") as file:
        stopping = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not stopping:
                    print("another make reproduce or make bless runs in this clone: waiting for its end", flush=True)
                stopping = True
                wait(parent)
        yield


def run(command: Sequence[str], parent: int) -> int:
    """Run a command to its end and return its status. When this process is stopped, all that it started is ended."""
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
    """End a process and those that it started, by force where they do not follow."""
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
