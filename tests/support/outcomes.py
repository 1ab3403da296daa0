"""Outcomes of edits made by hand."""

import torch

from lsvd.studies.edits import Outcome


def outcome(success: float, side: float = 0.1, chroma: float = 0.0, features: float = 0.0, *, n: int = 40) -> Outcome:
    """n pictures that all lacked the attribute, the first of which have it.

    side: of each; chroma: their mean, from half of it to one and a half; features: their mean, of four.
    """
    has = torch.arange(n) < round(success * n)
    drawn = torch.randn(n, 4, generator=torch.Generator().manual_seed(0)) + features
    rest = {"side": torch.full((n,), side), "chroma": chroma * torch.linspace(0.5, 1.5, n), "distance": torch.zeros(n)}
    return Outcome(torch.zeros(n, dtype=torch.bool), has, torch.zeros(n), has.float(), **rest, features=drawn.half())
