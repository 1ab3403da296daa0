"""The one way to show progress: a bar on stderr that the environment variable TQDM_DISABLE turns off everywhere."""

import os
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm


def wanted() -> bool:
    """Whether TQDM_DISABLE leaves bars on: it is unset, empty or 0."""
    return os.environ.get("TQDM_DISABLE", "") in ("", "0")


def bar(iterable: Iterable | None = None, *, progress: bool, leave: bool = False, **options: Any) -> tqdm:
    """A tqdm bar, shown if `progress` is set and TQDM_DISABLE is not; the other arguments are tqdm's."""
    # an explicit switch overrules tqdm's own reading of the variable
    return tqdm(iterable, disable=not (progress and wanted()), leave=leave, **options)
