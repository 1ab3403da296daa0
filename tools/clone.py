"""Ends with one sentence unless the interpreter is recent enough and imports the package of this clone.

The Makefile runs this file by its path before every command, so the current folder does not affect the answer.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path


def problem(clone: Path) -> str | None:
    """Why this interpreter will not do for the clone, in one sentence; None if it will."""
    if sys.version_info < (3, 11):  # noqa: UP036
        return f"Python 3.11 or later is needed, and {sys.executable} is {sys.version.split()[0]}: name another"
    spec = find_spec("lsvd")
    location = Path(spec.origin).resolve().parent.parent if spec and spec.origin else None
    if location == clone:
        return None
    what = f"imports lsvd from {location}" if location else "finds no lsvd"
    return f"{sys.executable} {what}, not from this clone, {clone}: move the clone to a path without a colon"


if __name__ == "__main__":
    if sentence := problem(Path(__file__).resolve().parent.parent):
        sys.exit(sentence)
