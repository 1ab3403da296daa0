"""The one command: python -m lsvd COMMAND. Each command is a module of lsvd.commands.

What goes wrong ends here, in one sentence on stderr: exit status 1 for what cannot be done, 2 for bad usage, 130 for a
run that Ctrl-C or SIGTERM stopped; that one says what it has kept. While modules are imported, both signals end the
process at once and silently.
"""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while the rest is imported, Ctrl-C just ends it

import argparse
import errno
import io
import logging
import os
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import FrameType

from lsvd.checks import out_of_memory, printable
from lsvd.commands import COMMANDS
from lsvd.storage import files


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0, or the exit status of what went wrong; argparse ends with 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _open_streams()
    if sys.flags.optimize > 1:
        return _complain("Python's -OO takes docstrings away, which transformers reads: leave it out, or take -O")
    before = files.writes.copy()
    try:
        with _reporting(), _stoppable():
            return _run(arguments)
    except KeyboardInterrupt:
        return _complain(f"stopped; {_kept(files.writes - before)}", 130)
    except BrokenPipeError:
        # whoever read the output has seen enough; nothing more must be written when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if out_of_memory(error):
            return _complain("there is not enough memory: take fewer seeds at a time, or another device")
        if not isinstance(error, (ValueError, OSError)):
            raise
        said = str(error) or type(error).__name__
        if type(error) is OSError and error.errno == errno.ENOSPC and error.filename is None:  # of stdout itself
            said = "cannot write the output, the disk is full: send it elsewhere"
        return _complain(": ".join([*getattr(error, "__notes__", []), said]))


def _open_streams() -> None:
    """Have somewhere to write where the shell has closed stdout or stderr, whatever their encoding."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m lsvd", description="The latent space of diffusion models, by SVD.")
    listed = "\n".join(f"  {name:10}{what}" for name, what in COMMANDS.items())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"commands:\n{listed}\n\npython -m lsvd COMMAND --help says more."
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="what to do, see below")
    # the rest is the command's: only its module knows the options, and only that one is imported
    name = parser.parse_args(arguments[:1]).command
    module = import_module(f"lsvd.commands.{name}")
    if hasattr(module, "main"):
        return module.main(arguments[1:])
    command_line = argparse.ArgumentParser(prog=f"python -m lsvd {name}", description=module.__doc__)
    module.configure(command_line)
    status = module.run(command_line.parse_args(arguments[1:])) or 0
    sys.stdout.flush()  # here, where a reader that has gone is expected
    return status


def _kept(writes: Counter) -> str:
    if not writes:
        return "nothing was written"
    places = ", ".join(f"{count} in {folder}" for folder, count in sorted(writes.items()))
    return f"finished files are kept ({places}), and the same command goes on from there"


def _complain(message: str, status: int = 1) -> int:
    sys.stderr.write(f"lsvd: {printable('; '.join(message.splitlines()))}\n")
    return status


@contextmanager
def _reporting() -> Iterator[None]:
    """Show the package's log and its warnings on stderr, a line each, with terminal escapes written out."""
    handler, log = logging.StreamHandler(sys.stderr), logging.getLogger("lsvd")
    handler.setFormatter(_Lines())
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _remark
            yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(record.getMessage())


def _remark(message, category, *rest) -> None:
    """What to show of a warning: those for the user without the place in the code."""
    if issubclass(category, UserWarning):
        _complain(str(message))


@contextmanager
def _stoppable() -> Iterator[None]:
    """Have SIGTERM and Ctrl-C stop the command (see `_stop`). Only the main thread can; what else heeds Ctrl-C, stays.

    Both act as before afterwards.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signal.SIGTERM: signal.getsignal(signal.SIGTERM)}
    if (interrupt := signal.getsignal(signal.SIGINT)) in (signal.SIG_DFL, signal.default_int_handler):
        before[signal.SIGINT] = interrupt
    try:
        for number in before:
            signal.signal(number, _stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt; during an import, end the process instead: a module that is half there breaks others."""
    while frame is not None and frame.f_code is not main.__code__:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        frame = frame.f_back
    raise KeyboardInterrupt


if __name__ == "__main__":
    raise SystemExit(main())
