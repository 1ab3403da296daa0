"""What every part of the package checks of its input: whole numbers, names, seeds, codes, pictures and texts."""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# torch and numpy are imported where they are needed: the command line uses this module before either is loaded.


def whole(value: Any, name: str, low: int = 0, high: int | None = None) -> int:
    """The value as an int. Raises ValueError unless it is a whole number from low to high, both included."""
    number = integer(value)
    if number is None or number < low or (high is not None and number > high):
        bounds = f"from {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} cannot be {shown(value)}: give a whole number {bounds}")
    return number


def integer(value: Any) -> int | None:
    """A whole number of any library as an int; None for all else, True and False included."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        return None


def number(value: Any) -> float | None:
    """One real number of any library as a float; None for all else, texts, True and False included."""
    if isinstance(value, bool | str | bytes | bytearray):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None


def check_kind(value: Any, kind: type | tuple[type, ...], what: str) -> None:
    """Raise ValueError unless the value is of a class, or one of several; `what` says what to give instead."""
    if not isinstance(value, kind):
        raise ValueError(f"{shown(value)} will not do: give {what}")


def known(name: Any, choices: Iterable[str], what: str) -> str:
    """The name. Raises ValueError, with all choices, unless it is one of them; `what` says what it names."""
    choices = list(choices)
    if name not in choices:
        raise ValueError(f"there is no {what} {shown(name)}: choose from {', '.join(choices)}")
    return name


def check_text(text: Any, name: str) -> str:
    """The text. Raises ValueError unless it is a str that UTF-8 can write."""
    if not isinstance(text, str):
        raise ValueError(f"{name} must be a text, not {type(text).__name__}: give a str")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} {text!r} is not UTF-8: write it in UTF-8") from error
    return text


def printable(text: str) -> str:
    """The text on one line, with every character that a terminal would act on written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(value: Any) -> str:
    """A value as messages name it: on one line, and cut where it is long."""
    text = " ".join(printable(repr(value)).replace("\\n", " ").split())
    return text if len(text) <= 80 else f"{text[:76]} ..."


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
    import numpy as np

    return int(np.random.SeedSequence(keys).generate_state(1)[0])


def check_seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """Seeds as a tuple of at least one int. Raises ValueError unless each is whole and from 0 to 2**32 - 1."""
    try:
        seeds = [seeds] if hasattr(seeds, "__index__") and not getattr(seeds, "ndim", 0) else list(seeds)
    except TypeError as error:
        raise ValueError(f"seeds cannot be {shown(seeds)}: give a whole number, or a list of them") from error
    if not seeds:
        raise ValueError("there are no seeds: give at least one")
    return tuple(whole(seed, "a seed", 0, 2**32 - 1) for seed in seeds)


def check_code(x: Tensor, name: str = "the code") -> None:
    """Raise ValueError unless x is a finite floating-point tensor of shape (..., C, H, W), none of C, H, W empty."""
    import torch

    if not isinstance(x, torch.Tensor) or not x.is_floating_point() or not x.dtype.itemsize > 1:
        kind = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
        raise ValueError(f"{name} must be a floating-point tensor, not {kind}: convert it with .float()")
    if x.ndim < 3 or 0 in x.shape[-3:]:
        raise ValueError(f"{name} has shape {tuple(x.shape)}: give (C, H, W) or (..., C, H, W), none of these empty")
    if x.layout != torch.strided or x.is_meta:
        kind = "without values" if x.is_meta else "sparse"
        raise ValueError(f"{name} is {kind}: give a dense tensor")
    if not torch.isfinite(x).all():
        raise ValueError(f"{name} holds NaN or infinity: find the step that made it before decomposing")


def check_device(device: str) -> None:
    """Raise ValueError unless torch can compute on the device, which it says in all kinds of errors."""
    import torch

    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"there is no device {device!r} here: leave --device out, or name one as torch does"
        ) from error


# How torch, oneDNN and the system say it.
_NO_MEMORY = (
    "out of memory",
    "not enough memory",
    "t allocate memory",
    "cannot allocate memory",
    "bad_alloc",
    "could not create a memory",
)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is that a device or the CPU has no memory left, which is said in many ways."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch and isinstance(error, torch.OutOfMemoryError)):
        return True
    said = str(error).lower()
    return any(phrase in said for phrase in _NO_MEMORY)
