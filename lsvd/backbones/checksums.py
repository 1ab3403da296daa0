"""The checksums of the weights that come with this package, in SHA256SUMS beside them, as `sha256sum` writes it."""

import functools
import hashlib
import os
from pathlib import Path

from lsvd import paths
from lsvd.storage.files import locked, write_bytes

NAME = "SHA256SUMS"


def verify(folder: Path, remedy: str) -> None:
    """Raise ValueError, naming the file, unless a folder's files are those that were published.

    A file is read once in a process, and again after it was changed. Folders outside the package's weights, and weights
    without SHA256SUMS, are not checked.
    """
    home = paths.WEIGHTS
    sums = read(home)
    if not sums or not folder.is_relative_to(home):
        return
    for file in files(folder):
        state = file.stat()
        actual = _digest(file, state.st_size, state.st_mtime_ns, state.st_ino)
        if sums.get(file.relative_to(home).as_posix()) != actual:
            raise ValueError(f"{file} is not the file that was published, its checksum is another: {remedy}")


def read(home: Path) -> dict[str, str]:
    """The SHA-256 of each file below `home`, by its path from there; empty without a SHA256SUMS. Raises ValueError."""
    file = home / NAME
    if not file.is_file():
        return {}
    lines = [line.split("  ", 1) for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
    if not lines or any(len(line) != 2 or len(line[0]) != 64 for line in lines):
        raise ValueError(f"{file} is damaged: restore it with `git checkout -- lsvd/weights/{NAME}`")
    return {name: digest for digest, name in lines}


def record(folder: Path, home: Path | None = None) -> None:
    """Write a folder's checksums into the SHA256SUMS of `home`, in place of its old ones.

    home: the package's weights if None. Two that write at once lose nothing: one waits for the other. Raises
    lsvd.storage.files.WriteError.
    """
    home = home or paths.WEIGHTS
    inside = folder.relative_to(home).as_posix() + "/"
    with locked(home / NAME):
        sums = {name: digest for name, digest in read(home).items() if not name.startswith(inside)}
        for file in files(folder):
            sums[file.relative_to(home).as_posix()] = hashlib.sha256(file.read_bytes()).hexdigest()
        write_bytes(home / NAME, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode())


def files(folder: Path) -> list[Path]:
    """The files of a folder and of those in it, but for hidden ones."""
    return sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))


@functools.lru_cache(maxsize=256)
def _digest(file: os.PathLike, *state: int) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
