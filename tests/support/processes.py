"""Processes that heed signals, whatever this one was started with: a shell's background jobs ignore Ctrl-C."""

import signal
import subprocess
from contextlib import contextmanager


@contextmanager
def _heeded():
    """SIGINT and SIGHUP as by default, which children take over unless they are ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def heeding(command, **options) -> subprocess.Popen:
    """As subprocess.Popen."""
    with _heeded():
        return subprocess.Popen(command, **options)
