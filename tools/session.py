"""What `make reproduce` and `make bless` share: their variables, their folders, and executing one notebook."""

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
    """One run of a command in a clone: its root, the process that started it, and seconds that a cell may take."""

    root: Path
    parent: int
    seconds: int

    def execute(self, name: Path, parameters: Mapping[str, Any] | None = None) -> Path:
        """Execute a notebook; the file that it was written to, under a name that does not look done.

        Raises ValueError, in one sentence, if it did not finish: the file holds what it got done.
        """
        target = unfinished(name)
        (self.root / target).unlink(missing_ok=True)
        command = [sys.executable, "-m", "tools.execute", str(name), str(target), str(self.seconds)]
        if running.run(command if parameters is None else [*command, json.dumps(parameters)], self.parent):
            kept = f"; what it got done is in {target}" if (self.root / target).exists() else ""
            raise ValueError(f"{name} did not finish{kept}")
        return target


def unfinished(name: Path) -> Path:
    """The file that a notebook is written to while it runs, which stays if it fails."""
    return Path("build", "notebooks", name.stem + ".failed.ipynb")


def read(path: Path) -> dict[str, Any]:
    """A notebook as its file has it, but with each cell's source as one text. Raises ValueError if the file has none.

    Read as JSON: nbformat would take a second to be imported.
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

    stopped: what to say after a signal. The working folder is the clone's root.
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
    """Raise ValueError unless files can be written to a folder, which is made if it is not there."""
    try:
        os.makedirs(folder, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise ValueError(
            f"cannot write to the folder {folder}: make it writable, or move away what stands in its place"
        )
