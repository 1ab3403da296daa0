"""Tensors in safetensors files: the same bytes for the same content, and one reader that trusts no file.

A file is read in one piece: while it is replaced, a reader sees the old content or the new one. (`safe_open` opens it
twice.) Whoever reads states what the file must hold; a file that holds anything else is refused in one sentence.
"""

import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from lsvd.storage.files import read_bytes

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Spec:
    """What a tensor must be. shape: None for any size of a dimension. dtype: None for any. finite: without NaN."""

    shape: tuple[int | None, ...]
    dtype: torch.dtype | None = None
    finite: bool = True


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Tensors and texts as a safetensors file, the texts in the order of their names: equal content, equal bytes."""
    data = safetensors.torch.save(dict(tensors), dict(metadata or {}) or None)
    header, rest = _split(data)
    if metadata:
        header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the tensors
    return len(text).to_bytes(8, "little") + text + rest


def unpack(data: bytes) -> tuple[Tensors, dict[str, str]]:
    """Tensors and texts of a safetensors file. Raises ValueError if it is not one, or truncated or damaged."""
    try:
        # checks the header, too: what follows relies on that
        tensors = safetensors.torch.load(data)
        return tensors, _split(data)[0].get("__metadata__") or {}
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("not a safetensors file, or truncated or damaged") from error


def load(path: str | Path) -> tuple[Tensors, dict[str, str]]:
    """Tensors and texts of a safetensors file, read in one piece.

    Raises FileNotFoundError, lsvd.storage.files.ReadError if the system refuses, and ValueError for damage.
    """
    data = read_bytes(path)
    try:
        return unpack(data)
    except ValueError as error:
        raise ValueError(f"{path} is {error}") from error


def mismatch(tensors: Mapping[str, Tensor], specs: Mapping[str, Spec]) -> str:
    """How tensors differ from what they must be, in a few words with names escaped; empty if they do not."""
    if tensors.keys() != specs.keys():
        return f"it holds {reprlib.repr(sorted(tensors))}, not {', '.join(sorted(specs))}"
    for name, spec in specs.items():
        tensor = tensors[name]
        fits = tensor.ndim == len(spec.shape) and all(
            size in (None, actual) for size, actual in zip(spec.shape, tensor.shape, strict=True)
        )
        if not fits:
            wanted = ", ".join("any" if size is None else str(size) for size in spec.shape)
            return f"{name} has shape {tuple(tensor.shape)}, not ({wanted})"
        if spec.dtype not in (None, tensor.dtype):
            return f"{name} is {tensor.dtype}, not {spec.dtype}"
        if spec.finite and not tensor.isfinite().all():
            return f"{name} holds NaN or infinity"
    return ""


def parse(text: str) -> Any:
    """What a JSON text from a file holds. Raises ValueError for any other text, one nested too deep included."""
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError("a note that is not JSON, or nested too deep") from error


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]
