"""What every part of the package checks of its input: whole numbers, seeds, codes and pictures."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def check_pictures(pictures: Tensor) -> Tensor:
    """The pictures. Raises ValueError unless their shape is (B, 3, height, width) and they lie in [0, 1]."""
    check_code(pictures, "the picture")
    if pictures.ndim != 4 or pictures.shape[1] != 3:
        raise ValueError(f"pictures have shape (B, 3, height, width), not {tuple(pictures.shape)}")
    if pictures.min() < 0 or pictures.max() > 1:
        raise ValueError("pictures lie in [0, 1]: divide bytes by 255, map [-1, 1] by (x + 1) / 2")
    return pictures


def mix(*keys: int) -> int:
    """One seed made of several integers, such as (seed, step), unrelated for close ones; a last 0 counts as none."""
    return int(np.random.SeedSequence(keys).generate_state(1)[0])


def check_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """Seeds as a tuple of at least one int. Raises ValueError unless each is whole and from 0 to 2**32 - 1."""
    seeds = [seeds] if isinstance(seeds, int) else list(seeds)
    for seed in seeds:
        if isinstance(seed, bool) or not hasattr(seed, "__index__") or not 0 <= seed < 2**32:
            raise ValueError(f"{seed!r} is no seed: give whole numbers from 0 to {2**32 - 1}")
    if not seeds:
        raise ValueError("there are no seeds: give at least one")
    return tuple(int(seed) for seed in seeds)


def check_code(x: Tensor, name: str = "the code") -> None:
    """Raise ValueError unless x is a finite floating-point tensor of shape (..., C, H, W), none of C, H, W empty."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name} must be a floating-point tensor, not {kind}: convert it with .float()")
    if x.ndim < 3 or 0 in x.shape[-3:]:
        raise ValueError(f"{name} has shape {tuple(x.shape)}: give (C, H, W) or (..., C, H, W), none of these empty")
    if not torch.isfinite(x).all():
        raise ValueError(f"{name} holds NaN or infinity: find the step that made it before decomposing")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is that a device has no memory left, which is said in many ways."""
    said = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        each in said for each in ("out of memory", "not enough memory")
    )
