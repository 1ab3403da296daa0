"""The device of a process, and where tensors are made that nobody says a device of."""

import os
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


def of_process(device: str) -> str:
    """The device that this process is to take: of "cuda", the one with the number $LOCAL_RANK, if it is set.

    Launchers such as torchrun number the processes of a machine by it; more of them than devices share these.
    """
    rank = os.environ.get("LOCAL_RANK", "")
    if device != "cuda" or not rank.isdecimal() or not (count := torch.cuda.device_count()):
        return device
    return f"cuda:{int(rank) % count}"
