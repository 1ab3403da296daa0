"""The common part of `make reproduce` and `make bless`: variables, folders, and the execution of one notebook."""

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools import running, surroundings

WRITTEN = ("build/notebooks", "outputs/figures", "outputs/tables")


@dataclass
class Session:
    """One run of a command in a clone: its root, the parent process, and the time limit of a cell in seconds."""

    root: Path
    parent: int
    seconds: int

    def execute(self, name: Path, parameters: Mapping[str, Any] | None = None) -> Path:
        """Execute a notebook, and return its file, whose name marks it as unfinished.

        Raises ValueError, in one sentence, if it did not finish: the file holds the part that did.
        """
        target = unfinished(name)
        (self.root / target).unlink(missing_ok=True)
        command = [sys.executable, "-m", "tools.execute", str(name), str(target), str(self.seconds)]
        if running.run(command if parameters is None else [*command, json.dumps(parameters)], self.parent):
            note = f"; what it got done is in {target}" if (self.root / target).exists() else ""
            raise ValueError(f"{name} did not finish{note}")
        return target


def unfinished(name: Path) -> Path:
    """The file of a running notebook, which stays if it fails."""
    return Path("build", "notebooks", name.stem + ".failed.ipynb")


def read(path: Path) -> dict[str, Any]:
    """A notebook as in its file, but with each cell's source as one text. Raises ValueError if the file holds none.

    It is read as JSON, since importing nbformat takes a second.
    """
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            cell["source"] = "".join(cell["source"])
            cell["metadata"], cell["cell_type"]
        return notebook
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror}): make it readable") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: restore it with `git checkout`") from error


def main(command: Callable[[Session], str], stopped: Callable[[], str]) -> int:
    """Run a command alone in this clone; 0, or another status after one sentence on stderr.

    stopped: gives the line to print after a signal. The working folder is the clone's root.
    """
    parent = os.getppid()
    running.catch_signals()
    try:
        root = Path.cwd()
        seconds = os.environ.get("CELL_TIMEOUT") or "7200"
        if not re.fullmatch("[1-9][0-9]{0,8}", seconds):
            raise ValueError(f"CELL_TIMEOUT is a whole number of seconds, not {seconds!r}: give one above 0")
        for folder in WRITTEN:
            check_folder(folder)
        surroundings.set_up(root / "build")
        with running.alone(root / "build" / "lock", parent):
            print(command(Session(root, parent, int(seconds))), flush=True)
    except (ValueError, OSError) as error:
        return running.complain(str(error))
    except running.Stopped as error:
        running.complain(stopped())
        return 128 + signal.Signals(error.args[0])
    return 0


def check_folder(folder: str) -> None:
    """Raise ValueError unless files can be written to a folder. Makes a missing one."""
    try:
        os.makedirs(folder, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise ValueError(
            f"cannot write to the folder {folder}: make it writable, or move away what stands in its place"
        )
