"""The rig: what every edit is made and measured with."""

import sys
from dataclasses import dataclass
from typing import Any

from lsvd import backbones
from lsvd.backbones import clip
from lsvd.backbones.clip import Clip
from lsvd.backbones.configs import scheduler_text
from lsvd.backbones.models import Backbone
from lsvd.sampling import identity
from lsvd.storage import results
from lsvd.testbed import reader as readers
from lsvd.testbed.evaluate import GENERATORS
from lsvd.testbed.reader import Reader

FORMAT = 1  # of what is measured; raise it when the code that measures changes


@dataclass(frozen=True, eq=False)
class Rig:
    """What every edit is made and measured with: a text-to-image model, a reader of its pictures, a CLIP model."""

    backbone: Backbone
    judge: Reader
    clip: Clip

    def __post_init__(self):
        if self.backbone.kind != "text-to-image":
            raise ValueError(f"{self.backbone.name} takes no prompts: edit with a text-to-image backbone")

    @property
    def identity(self) -> dict[str, Any]:
        """What determines a measurement, but for rounding, no matter on what machine."""
        backbone = self.backbone
        return {
            "weights": identity.weights(backbone),
            "scheduler": f"{type(backbone.scheduler).__name__} {scheduler_text(backbone.scheduler)}",
            "steps": backbone.entry.steps,
            "guidance": backbone.entry.guidance,
            "dtype": str(backbone.dtype),
            "reader": results.checksum(self.judge.state_dict()),
            "clip": results.checksum(self.clip.model.state_dict()),
            "format": FORMAT,
        }


def load_rig(name: str = "mini-sd", device: str = "cpu") -> Rig:
    """The rig of an embedded backbone. Raises ValueError without prompts, or a reader that knows its pictures."""
    backbone = backbones.load(name, device)
    rig = rig_of(backbone)
    if rig is None:
        raise ValueError(f"no reader knows the pictures of {backbone.name}: its edits can be drawn, not measured")
    return rig


def rig_of(backbone: Backbone) -> Rig | None:
    """The rig of a backbone, None where no reader knows its pictures. Raises ValueError as Rig does."""
    if backbone.name not in GENERATORS:
        return None
    device = backbone.device
    return Rig(backbone, readers.load(GENERATORS[backbone.name][0], device), clip.load(device=device))


def stop_without(rig: Rig | None) -> None:
    """End a notebook here, with a sentence and no error, where there is nothing to measure its edits with."""
    if rig is None:
        sys.stdout.write("No reader knows the pictures of this model: its edits are drawn above, and not measured.\n")
        raise SystemExit
