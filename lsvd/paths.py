"""Where things lie: the one module that asks for the place of its own file."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
WEIGHTS = PACKAGE / "weights"


def clone() -> Path | None:
    """The clone that this package lies in; None if it was installed from a wheel."""
    return PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").is_file() else None


def outputs(*parts: str) -> Path:
    """The path of a result, such as outputs("figures", "x.png").

    The root is $LSVD_OUTPUTS if set, else `outputs` in the clone, else `outputs` in the current folder.
    """
    root = os.environ.get("LSVD_OUTPUTS")
    return (Path(root) if root else (clone() or Path.cwd()) / "outputs").joinpath(*parts)


def build(*parts: str) -> Path:
    """The path of what can be made again at any time, such as build("cache"): caches and executed notebooks.

    The root is `build` beside `outputs`; under $LSVD_OUTPUTS, it is the folder `build` in that.
    """
    root = os.environ.get("LSVD_OUTPUTS")
    return (Path(root) / "build" if root else (clone() or Path.cwd()) / "build").joinpath(*parts)


def measurements(*parts: str) -> Path:
    """The path of measurements that are kept with the project, such as measurements("edits").

    The root is $LSVD_MEASUREMENTS if set, else `measurements` in the clone, else `measurements` in the current folder.
    """
    root = os.environ.get("LSVD_MEASUREMENTS")
    return (Path(root) if root else (clone() or Path.cwd()) / "measurements").joinpath(*parts)
