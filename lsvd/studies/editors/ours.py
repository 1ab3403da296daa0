"""The editors of this package: low-rank guidance with its controls, AVI, and plain ways from one prompt to another."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lsvd.avi import network
from lsvd.avi.edit import edit_prompt
from lsvd.avi.exact import AVIConfig
from lsvd.avi.placement import Placement
from lsvd.guidance.settings import LowRank
from lsvd.sampling.trajectory import draw, resume
from lsvd.studies.editors.editor import Editor, Job


@dataclass(frozen=True)
class LowRankGuidance(Editor):
    """Low-rank guidance: the leading triplets of the difference of two predictions, within a window."""

    method: ClassVar[str] = "low-rank guidance"
    rank: int | None = 1
    strength: float = 1.0
    start: float = 0.6
    end: float = 0.3
    channels: str = "apart"
    entries: float | None = None

    def edit(self, job: Job) -> Tensor:
        """See Editor."""
        values = (self.rank, self.strength, self.start, self.end, self.channels, self.entries)
        edit = edit_prompt(job.backbone, job.source, job.target, method=LowRank(*values))
        return job.backbone.decode(edit.edited.final)

    @property
    def setting(self) -> str:
        """The settings in short."""
        parts = [f"k = {self.rank}"] * (self.rank is not None) + [f"c = {self.strength:g}"]
        parts += [f"{self.start:g} to {self.end:g} T"] + ["channels together"] * (self.channels == "together")
        if self.entries is not None:
            parts.append(f"{self.entries:g} of the entries")
        return ", ".join(parts)


@dataclass(frozen=True)
class SearchedGuidance(LowRankGuidance):
    """The same, in settings of a longer search than other methods have."""

    method: ClassVar[str] = "low-rank, searched"


@dataclass(frozen=True)
class ScaledGuidance(LowRankGuidance):
    """The whole difference, scaled: what low-rank guidance has to beat."""

    method: ClassVar[str] = "scaled guidance"
    rank: int | None = None


@dataclass(frozen=True)
class MaskedGuidance(LowRankGuidance):
    """The largest entries of the difference, in place of its leading triplets."""

    method: ClassVar[str] = "masked guidance"
    rank: int | None = None
    entries: float | None = 0.05


@dataclass(frozen=True)
class Integration(Editor):
    """AVI (Wang et al. 2025, arXiv 2502.02225) by its exact solution."""

    method: ClassVar[str] = "AVI"
    branch: float = 0.6
    tx: float = 0.2
    k: int = 8
    basis: str = "complement"
    keep_rest: bool = False

    @property
    def config(self) -> AVIConfig:
        """How codes are integrated."""
        return AVIConfig(k_z=self.k, basis=self.basis, keep_rest=self.keep_rest)

    def edit(self, job: Job) -> Tensor:
        """See Editor."""
        placement = Placement(self.tx, 0, self.branch)
        edit = edit_prompt(job.backbone, job.source, job.target, placement=placement, method=self.how())
        return job.backbone.decode(edit.edited.final)

    def how(self):
        """The method of lsvd.avi.edit.edit_prompt."""
        return self.config


@dataclass(frozen=True)
class TrainedIntegration(Integration):
    """AVI by the paper's network, trained on each pair of codes."""

    method: ClassVar[str] = "AVI, network"

    def how(self):
        """The method of lsvd.avi.edit.edit_prompt."""
        return lambda x, z: network.fit(x, z, self.config).solution


@dataclass(frozen=True)
class Lerp(Editor):
    """Linear interpolation to the code of a trajectory that branches off."""

    method: ClassVar[str] = "lerp"
    branch: float = 0.6
    tx: float = 0.2
    weight: float = 0.8

    def edit(self, job: Job) -> Tensor:
        """See Editor."""
        placement = Placement(self.tx, 0, self.branch)
        method = lambda x, z: torch.lerp(x, z, self.weight)  # noqa: E731
        edit = edit_prompt(job.backbone, job.source, job.target, placement=placement, method=method)
        return job.backbone.decode(edit.edited.final)


@dataclass(frozen=True)
class PromptSwitching(Editor):
    """The target prompt from a timestep on."""

    method: ClassVar[str] = "prompt switching"
    tx: float = 0.6

    def edit(self, job: Job) -> Tensor:
        """See Editor."""
        t = job.source.nearest(self.tx)
        return job.backbone.decode(resume(job.backbone, job.source, t, prompts=job.target).final)


@dataclass(frozen=True)
class TargetPrompt(Editor):
    """The target prompt alone, from the same noise."""

    method: ClassVar[str] = "target prompt"

    def edit(self, job: Job) -> Tensor:
        """See Editor."""
        settings = job.source.settings.with_prompts(job.backbone, job.target)
        return job.backbone.decode(draw(job.backbone, settings, codes=job.source.codes[0]).final)
