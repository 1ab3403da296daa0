"""What a reader learns."""

from pathlib import Path

import torch
from torch import Tensor, nn

from lsvd.testbed import reader
from lsvd.testbed.training.jobs import Job


class ReaderJob(Job):
    """Every factor that is visible, from renderings made as imperfect as generated pictures are."""

    def build(self) -> nn.Module:
        return reader.Reader(self.scene, **self.recipe.model)

    def forward(self, *inputs) -> Tensor:
        return self.model.loss(*inputs)

    def loss(self, step: int, g: torch.Generator) -> Tensor:
        index = self.draw(g)
        values = self.data.values_at(index)
        seen = self.scene.visible(values)
        values, seen = ({k: v.to(self.device) for k, v in columns.items()} for columns in (values, seen))
        with self.amp():
            return self.forward(reader.degrade(self.data[index], g).to(self.device), values, seen)

    @property
    def ships(self) -> Path:
        return self.weights / "readers" / self.name.removeprefix("reader-")

    def export(self) -> None:
        self.model.save(self.folder)

    def stored(self, folder: Path) -> nn.Module:
        return reader.load(self.scene, folder=folder)
