"""The settings that each editor tries on the seeds for choosing: a few values of every option."""

from lsvd.studies.editors.attention import PromptToPrompt
from lsvd.studies.editors.editor import Editor
from lsvd.studies.editors.ours import (
    Integration,
    Lerp,
    LowRankGuidance,
    MaskedGuidance,
    PromptSwitching,
    ScaledGuidance,
    TargetPrompt,
    TrainedIntegration,
)
from lsvd.studies.editors.shipped import SEGA, LEditsPP, SDEdit
from lsvd.studies.editors.sliders import ConceptSlider

WINDOWS = ((0.8, 0.3), (0.7, 0.3), (0.6, 0.3), (0.52, 0.2))
BRANCHES = (0.68, 0.6, 0.52)

GRIDS: dict[str, list[Editor]] = {
    "low-rank guidance": [
        *(LowRankGuidance(1, c, *window) for window in WINDOWS for c in (1.0, 1.5)),
        LowRankGuidance(2, 1.0, 0.6, 0.3),
        LowRankGuidance(1, 1.0, 0.6, 0.3, "together"),
        LowRankGuidance(1, 1.0, 0.6, 0.0),
        LowRankGuidance(2, 1.5, 0.6, 0.3, entries=0.2),
    ],
    "scaled guidance": [ScaledGuidance(None, c, *window) for window in WINDOWS for c in (0.5, 0.75)],
    "masked guidance": [
        MaskedGuidance(None, 1.0, *window, entries=entries) for window in WINDOWS for entries in (0.05, 0.1)
    ],
    "AVI": [Integration(branch, k=k) for branch in BRANCHES for k in (8, 16)],
    "AVI, network": [TrainedIntegration(branch) for branch in BRANCHES],
    "prompt switching": [PromptSwitching(tx) for tx in (0.76, 0.68, 0.64, 0.6, 0.56, 0.52, 0.44)],
    "lerp": [Lerp(branch, weight=weight) for branch in BRANCHES for weight in (0.8, 1.0)],
    "SDEdit": [SDEdit(strength) for strength in (0.4, 0.5, 0.6, 0.7, 0.8)],
    "LEDITS++": [LEditsPP(s, t, skip) for s in (4.0, 6.0) for t in (0.9, 0.95) for skip in (0.2, 0.4)],
    "SEGA": [SEGA(s, t, warmup) for s in (4.0, 6.0) for t in (0.9, 0.95) for warmup in (6, 10)],
    "prompt-to-prompt": [PromptToPrompt(cross, own) for cross in (0.4, 0.8) for own in (0.2, 0.4, 0.6)],
    "Concept Sliders": [ConceptSlider(scale, start) for scale in (1.0, 2.0) for start in (0.8, 0.6)],
    "target prompt": [TargetPrompt()],
}
METHODS = tuple(GRIDS)


def tries(methods: tuple[str, ...] = METHODS) -> list[Editor]:
    """All settings of some methods."""
    return [editor for method in methods for editor in GRIDS[method]]
