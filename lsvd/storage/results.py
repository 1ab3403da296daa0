"""Expensive results kept on disk: any tensors, under the settings that determine them.

A file holds one result, is named by a digest of everything that determines it, and carries these settings in its
metadata. Files are written whole or not at all. A file that is truncated, altered or forged is noticed when it is read,
and made again with a warning. A disk that takes no file costs a warning too, never the result; but what must be kept is
not computed at all where it cannot be.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lsvd.paths import build
from lsvd.storage import cache
from lsvd.storage.files import WriteError, check_writable, write_bytes
from lsvd.storage.tensors import Spec, Tensors, load, mismatch, pack

log = logging.getLogger(__name__)


def remember(
    name: str,
    settings: Mapping[str, Any],
    make: Callable[[], Mapping[str, Tensor]],
    *,
    folder: str | Path | None = None,
    specs: Mapping[str, Spec] | None = None,
    must_keep: bool = False,
) -> Tensors:
    """The tensors that make() returns, read from the disk if they were made with the same settings before.

    name: what they are, for the folder they go to. settings: everything that determines them, as JSON can hold it; put
    `identity(backbone)` in if a backbone has part in it, and a number to raise when the code of `make` changes. folder:
    build("cache") if None. specs: what each tensor must be; a file that holds other tensors is not trusted. must_keep:
    for results that are computed to be kept; where they cannot be, WriteError is raised, before make() if that can be
    seen. Tensors come back on the CPU, contiguous. Raises ValueError if settings cannot be written as JSON, or make()
    does not return a dict of tensors.
    """
    label, file = label_of(settings), place(name, settings, folder)
    result = read(file, label, specs)
    if result is None:
        if must_keep:
            check_writable(file)
        output = make()
        if not isinstance(output, Mapping) or not all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in output.items()
        ):
            raise ValueError(f"what makes {name!r} did not return a dict of tensors: name each tensor by a text")
        # of its own storage each: files hold no views
        result = {
            key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in output.items()
        }
        keep(file, label, result, must_keep=must_keep)
    return result


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


def read(file: Path, label: str, specs: Mapping[str, Spec] | None = None) -> Tensors | None:
    """The tensors of a file, or None if there is none, or none to be trusted (with a warning)."""
    try:
        result, notes = load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        problem = str(error)
    else:
        problem = f"{file} is damaged, its contents are not what was written"
        if notes.get("settings") == label and notes.get("sha256") == checksum(result):
            other = mismatch(result, specs) if specs is not None else ""
            if not other:
                cache.use(file)
                return result
            problem = f"{file} is damaged or forged: {other}"
    log.warning("%s: computing it again", problem)
    return None


def keep(file: Path, label: str, result: Mapping[str, Tensor], *, must_keep: bool = False) -> bool:
    """Write tensors to a file. If the disk refuses: False, and a warning, or WriteError if they must be kept."""
    notes = {"settings": label, "sha256": checksum(result)}
    try:
        write_bytes(file, pack(result, notes))
    except WriteError as error:
        if must_keep:
            raise
        log.warning("%s; the result is used, but not kept for the next time", error)
        return False
    if cache.root() in file.parents:
        cache.use(file)
        cache.trim()
    return True
