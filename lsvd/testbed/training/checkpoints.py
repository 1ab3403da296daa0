"""Checkpoints of training: one safetensors file with its own description and checksum.

`save` writes whole files or none. `load` refuses a file in which any byte of the tensors or of the description changed,
in one sentence that names the file.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from lsvd.storage.files import write_bytes

REMEDY = "delete it to train from the start"


def digest(tensors: Mapping[str, Tensor], about: str) -> str:
    """SHA-256, in hex, of the tensors' names, types, shapes and bytes and of a description."""
    seen = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        seen.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        seen.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return seen.hexdigest()


def save(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors and `about`, which JSON can hold. Raises WriteError if the disk refuses."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(about, sort_keys=True)
    write_bytes(path, save_tensors(tensors, {"about": text, "sha256": digest(tensors, text)}))


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and `about`.

    Raises FileNotFoundError if the file is missing, PermissionError if it may not be read, and ValueError if it is
    damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: train first, without --export")
    try:
        path.open("rb").close()
    except PermissionError as error:
        raise PermissionError(f"{path} cannot be read: permission denied") from error
    try:
        with safe_open(path, framework="pt") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is truncated or damaged: {REMEDY}") from error
    if "about" not in metadata or "sha256" not in metadata:
        raise ValueError(f"{path} is not a checkpoint of training: {REMEDY}")
    if digest(tensors, metadata["about"]) != metadata["sha256"]:
        raise ValueError(f"{path} is damaged (its checksum does not match): {REMEDY}")
    return tensors, json.loads(metadata["about"])


def part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors below a name: part({"a/x": 1, "b/x": 2}, "a") is {"x": 1}."""
    return {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}


def flat(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of several parts in one dict: flat({"a": {"x": 1}}) is {"a/x": 1}."""
    return {f"{name}/{key}": value for name, tensors in parts.items() for key, value in tensors.items()}
