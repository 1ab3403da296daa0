"""Expensive results kept on disk: any tensors, under the settings that determine them.

A file holds one result, is named by a digest of everything that determines it, and carries these settings in its
metadata. Files are written whole or not at all. A file that is truncated or altered is noticed when it is read, and
made again with a warning. A disk that takes no file costs a warning too, never the result.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lsvd.paths import build
from lsvd.storage.files import WriteError, write_bytes

log = logging.getLogger(__name__)
Tensors = dict[str, Tensor]


def remember(
    name: str,
    settings: Mapping[str, Any],
    make: Callable[[], Mapping[str, Tensor]],
    *,
    folder: str | Path | None = None,
) -> Tensors:
    """The tensors that make() returns, read from the disk if they were made with the same settings before.

    name: what they are, for the folder they go to. settings: everything that determines them, as JSON can hold it; put
    `identity(backbone)` in if a backbone has part in it, and a number to raise when the code of `make` changes. folder:
    build("cache") if None. Tensors come back on the CPU, contiguous. Raises ValueError if settings are no JSON, or
    make() returns no dict of tensors.
    """
    label, file = label_of(settings), place(name, settings, folder)
    found = read(file, label)
    if found is None:
        made = make()
        if not isinstance(made, Mapping) or not all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in made.items()
        ):
            raise ValueError(f"what makes {name!r} returned no dict of tensors: name each tensor by a text")
        # of its own storage each: files hold no views
        found = {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in made.items()}
        keep(file, label, found)
    return found


def place(name: str, settings: Mapping[str, Any], folder: str | Path | None = None) -> Path:
    """The file that `remember` keeps, with the same arguments, whether it is there or not."""
    return file_of(Path(folder or build("cache")) / safe(name), label_of(settings))


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """A digest of tensors with their names, dtypes and shapes."""
    seen = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        seen.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        seen.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return seen.hexdigest()


def safe(name: str) -> str:
    """A name as a folder's."""
    return re.sub(r"[^\w-]+", "_", name) or "_"


def label_of(settings: Mapping[str, Any]) -> str:
    """Settings as text, the same for the same settings."""
    try:
        return json.dumps(settings, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"settings cannot be written as JSON ({error}): give texts, finite numbers, lists and dicts"
        ) from error


def file_of(home: Path, label: str) -> Path:
    """The file in the folder `home` that holds the result of these settings."""
    return home / f"{hashlib.sha256(label.encode()).hexdigest()[:24]}.safetensors"


def read(file: Path, label: str) -> Tensors | None:
    """The tensors of a file, or None if there is none, or none to be trusted (with a warning)."""
    try:
        with safe_open(file, framework="pt") as opened:
            noted = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, SafetensorError) as error:
        problem = str(error) or type(error).__name__
    else:
        if noted.get("settings") == label and noted.get("sha256") == checksum(tensors):
            return tensors
        problem = "its contents are not what was written"
    log.warning("%s is damaged or cannot be read (%s): making it anew", file, problem)
    return None


def keep(file: Path, label: str, tensors: Tensors) -> bool:
    """Write tensors to a file; False, and a warning, if the disk refuses."""
    noted = {"settings": label, "sha256": checksum(tensors)}
    try:
        write_bytes(file, safetensors.torch.save(tensors, noted))
    except WriteError as error:
        log.warning("%s; the result is used, but not kept for the next time", error)
        return False
    return True
