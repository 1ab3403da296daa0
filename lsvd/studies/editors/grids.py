"""The settings that each editor tries on the seeds for choosing: a few values of everything that it lets one choose.

Of each method the first are a mild, a middling and a strong one, so that a short search tries as many of each.
"""

from lsvd.studies.editors.attention import PromptToPrompt
from lsvd.studies.editors.editor import Editor
from lsvd.studies.editors.ours import (
    Integration,
    Lerp,
    LowRankGuidance,
    MaskedGuidance,
    PromptSwitching,
    ScaledGuidance,
    SearchedGuidance,
    TargetPrompt,
    TrainedIntegration,
)
from lsvd.studies.editors.shipped import SEGA, LEditsPP, SDEdit
from lsvd.studies.editors.sliders import ConceptSlider

WINDOWS = ((0.8, 0.3), (0.7, 0.3), (0.6, 0.3), (0.52, 0.2))
BRANCHES = (0.68, 0.6, 0.52)

GRIDS: dict[str, list[Editor]] = {
    "low-rank guidance": [
        LowRankGuidance(1, 1.0, 0.6, 0.3),
        LowRankGuidance(1, 1.5, 0.6, 0.3),
        LowRankGuidance(1, 1.0, 0.7, 0.3),
        *(LowRankGuidance(1, c, *window) for window in WINDOWS[:1] + WINDOWS[3:] for c in (1.0, 1.5)),
        LowRankGuidance(1, 1.5, 0.7, 0.3),
        LowRankGuidance(2, 1.0, 0.6, 0.3),
        LowRankGuidance(1, 1.0, 0.6, 0.3, "together"),
        LowRankGuidance(1, 1.0, 0.6, 0.0),
        LowRankGuidance(2, 1.5, 0.6, 0.3, entries=0.2),
    ],
    "low-rank, searched": [
        SearchedGuidance(1, 1.0, 0.6, 0.3),
        SearchedGuidance(1, 1.0, 0.6, 0.3, "together"),
        *(SearchedGuidance(1, c, 0.56, 0.3) for c in (1.5, 2.0)),
        *(SearchedGuidance(2, 1.0, *window) for window in ((0.6, 0.3), (0.6, 0.4), (0.56, 0.3))),
        *(SearchedGuidance(k, 0.75, 0.6, 0.3) for k in (2, 3)),
        SearchedGuidance(4, 0.6, 0.6, 0.3),
        SearchedGuidance(4, 0.75, 0.56, 0.2),
        SearchedGuidance(2, 1.5, 0.6, 0.3, entries=0.2),
        SearchedGuidance(4, 1.0, 0.6, 0.3, entries=0.1),
    ],
    "scaled guidance": [
        ScaledGuidance(None, 0.5, 0.6, 0.3),
        ScaledGuidance(None, 0.75, 0.6, 0.3),
        ScaledGuidance(None, 0.5, 0.7, 0.3),
        ScaledGuidance(None, 0.75, 0.7, 0.3),
        *(ScaledGuidance(None, c, *window) for window in WINDOWS[:1] + WINDOWS[3:] for c in (0.5, 0.75)),
    ],
    "masked guidance": [
        MaskedGuidance(None, 1.0, 0.6, 0.3, entries=0.05),
        MaskedGuidance(None, 1.0, 0.6, 0.3, entries=0.1),
        MaskedGuidance(None, 1.0, 0.7, 0.3, entries=0.05),
        MaskedGuidance(None, 1.0, 0.7, 0.3, entries=0.1),
        *(
            MaskedGuidance(None, 1.0, *window, entries=entries)
            for window in WINDOWS[:1] + WINDOWS[3:]
            for entries in (0.05, 0.1)
        ),
    ],
    "AVI": [Integration(branch, k=k) for k in (8, 16) for branch in BRANCHES],
    "AVI, network": [TrainedIntegration(branch) for branch in BRANCHES],
    "prompt switching": [PromptSwitching(tx) for tx in (0.52, 0.6, 0.68, 0.44, 0.56, 0.64, 0.76)],
    "lerp": [Lerp(branch, weight=weight) for weight in (1.0, 0.8) for branch in BRANCHES],
    "SDEdit": [SDEdit(strength) for strength in (0.5, 0.6, 0.7, 0.4, 0.8)],
    "LEDITS++": [
        *(LEditsPP(6.0, 0.95, skip) for skip in (0.4, 0.7, 1.0, 0.2)),
        *(LEditsPP(6.0, 0.9, skip) for skip in (0.4, 0.2)),
        *(LEditsPP(4.0, t, skip) for t in (0.9, 0.95) for skip in (0.2, 0.4)),
    ],
    "SEGA": [
        SEGA(6.0, 0.95, 10),
        SEGA(6.0, 0.95, 6),
        SEGA(6.0, 0.9, 10),
        SEGA(6.0, 0.9, 6),
        *(SEGA(4.0, t, warmup) for t in (0.9, 0.95) for warmup in (6, 10)),
    ],
    "prompt-to-prompt": [
        PromptToPrompt(0.8, 0.6),
        PromptToPrompt(1.0, 0.8),
        PromptToPrompt(1.0, 1.0),
        *(PromptToPrompt(0.4, own) for own in (0.2, 0.4, 0.6)),
        *(PromptToPrompt(0.8, own) for own in (0.2, 0.4)),
    ],
    "Concept Sliders": [
        ConceptSlider(1.0, 0.6),
        ConceptSlider(2.0, 0.6),
        ConceptSlider(1.0, 0.8),
        ConceptSlider(2.0, 0.8),
    ],
    "target prompt": [TargetPrompt()],
}
METHODS = tuple(GRIDS)
WHOLE = ("low-rank, searched",)
"""Methods that always try all of their settings: a search of its own, which tables keep apart from the others."""


def tries(methods: tuple[str, ...] = METHODS, most: int | None = None) -> list[Editor]:
    """The settings of some methods, the first `most` of each, or all; of WHOLE always all."""
    return [editor for method in methods for editor in GRIDS[method][: None if method in WHOLE else most]]
