"""The common interface of all editors, which take pictures of a source prompt to a target prompt."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from torch import Tensor

from lsvd.backbones.models import TextToImage
from lsvd.sampling.trajectory import Trajectory


@dataclass(frozen=True, eq=False)
class Job:
    """The input of an edit: the whole trajectory of the source prompt, its pictures (n, 3, H, W) in [0, 1], the target.

    The source prompt is that of the trajectory.
    """

    backbone: TextToImage
    source: Trajectory
    pictures: Tensor
    target: str

    @property
    def prompt(self) -> str:
        """The source prompt."""
        return self.source.settings.prompts[0]

    @property
    def count(self) -> int:
        """The number of pictures."""
        return len(self.source.settings.seeds)


@dataclass(frozen=True)
class Editor(ABC):
    """An editor with its settings: two with the same settings are equal, and do the same."""

    method: ClassVar[str]
    """The name in tables."""

    @abstractmethod
    def edit(self, job: Job) -> Tensor:
        """The edited pictures, shape (n, 3, H, W) in [0, 1]."""

    def prepare(self, job: Job) -> None:  # noqa: B027, most have nothing to prepare
        """Train what serves all pictures of a pair of prompts; what it costs is not counted as the edit's."""

    def fits(self, backbone: TextToImage) -> bool:
        """Whether it can edit pictures of a backbone."""
        return True

    @property
    def setting(self) -> str:
        """The settings in short."""
        return ", ".join(f"{entry.name.replace('_', ' ')} {_text(getattr(self, entry.name))}" for entry in fields(self))

    def key(self) -> dict[str, Any]:
        """The settings by which its measurements are named on disk."""
        return {"method": self.method, **asdict(self)}


def _text(value: Any) -> str:
    return format(value, "g") if isinstance(value, float) else str(value)
