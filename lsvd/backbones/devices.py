"""Where tensors are made that nobody says a device of."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def cpu_by_default() -> Iterator[None]:
    """Make such tensors on the CPU for a while, whatever `torch.set_default_device` was told.

    Schedulers and pipelines make some, and name a device where they need another.
    """
    if torch.get_default_device().type == "cpu":
        yield
        return
    with torch.device("cpu"):
        yield
