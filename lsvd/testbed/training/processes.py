"""One training in several processes: each takes its share of every batch, and they average their gradients.

`accelerate launch --num_processes 2 -m lsvd train NAME` starts them on GPUs, and on CPUs, where
accelerate's launcher needs MPI, `torchrun --nproc-per-node 2 -m ...` does. Without either there is one process, and
nothing here does anything.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor

PATIENCE = timedelta(hours=6)  # the others wait while the first process renders and encodes


class Processes:
    """This process among `count`; `rank` 0 is the one that writes files. `device`: where this one computes."""

    def __init__(self, device: str = "cpu"):
        self.rank, self.count, self.device, self.state = 0, 1, device, None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            self.state = PartialState(cpu=torch.device(device).type == "cpu", timeout=PATIENCE)
            self.rank, self.count = self.state.process_index, self.state.num_processes
            if torch.device(device).index is None:
                self.device = str(self.state.device)

    @property
    def first(self) -> bool:
        """Is this the process that writes files?"""
        return self.rank == 0

    def share(self, batch: int) -> int:
        """How many of a batch's items this process takes. Raises ValueError if they cannot be shared equally."""
        if batch % self.count:
            raise ValueError(f"a batch of {batch} does not divide among {self.count} processes: choose another --batch")
        return batch // self.count

    def average(self, parameters: Sequence[Tensor], *numbers: float) -> tuple[float, ...]:
        """Replace the gradients by their mean over all processes; returns the means of some numbers besides."""
        if self.count == 1:
            return numbers
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        extra = torch.tensor(numbers, dtype=torch.float32, device=gradients[0].device)
        flat = reduce(torch.cat([*(g.reshape(-1).float() for g in gradients), extra]), "mean")
        *means, extra = flat.split([*(g.numel() for g in gradients), len(numbers)])
        for parameter, mean in zip(parameters, means, strict=True):
            parameter.grad = mean.view_as(parameter).to(parameter.dtype)
        return tuple(extra.tolist())

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.state is not None:
            self.state.wait_for_everyone()

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """The first process does the block; only then do the others, which find its files."""
        if not self.first:
            self.wait()
        try:
            yield
        finally:
            if self.first:
                self.wait()
