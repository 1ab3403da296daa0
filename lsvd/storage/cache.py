"""The cache of what can be computed again, build("cache"), kept below a size: least recently used files leave first.

The limit is $LSVD_CACHE_GB, 2 GB (10^9 bytes each) if it is not set. A file's time of change says when it was last
used. Results are read in one piece (lsvd.storage.files.read_bytes) and may leave at any time; a folder whose files are
used together for long, such as memory-mapped renderings, is held, and stays until the process ends.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lsvd.paths import build
from lsvd.storage.files import is_temporary

try:
    import fcntl
except ImportError:  # no such locks on this system, which does not remove open files either
    fcntl = None

GB = 10**9
LIMIT_GB = 2.0
VARIABLE = "LSVD_CACHE_GB"
_held: dict[Path, int] = {}


@dataclass(frozen=True)
class Entry:
    """A file of the cache: its size in bytes, and when it was last used, in nanoseconds since 1970."""

    path: Path
    size: int
    used: int


def root() -> Path:
    """The folder of the cache."""
    return build("cache")


def limit() -> int:
    """How many bytes the cache may hold. Raises ValueError unless $LSVD_CACHE_GB is a number from 0 on."""
    text = os.environ.get(VARIABLE, "").strip() or str(LIMIT_GB)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"{VARIABLE} cannot be {text!r}: give a number of GB from 0 on, such as {LIMIT_GB:g}")
    return int(value * GB)


def entries() -> list[Entry]:
    """All files of the cache, the least recently used first, unfinished ones left out."""
    listing = []
    for path in _files(root()):
        with suppress(FileNotFoundError):  # removed by another process
            status = path.stat()
            listing.append(Entry(path, status.st_size, status.st_mtime_ns))
    return sorted(listing, key=lambda entry: (entry.used, str(entry.path)))


def use(file: Path) -> None:
    """Note that a file is used now, if it is one of the cache: it will be among the last to leave."""
    if root() in file.parents:
        with suppress(OSError):
            os.utime(file)


def hold(folder: Path) -> None:
    """Keep a folder's files, if it is one of the cache, until this process ends; makes the folder."""
    if fcntl is None or root() not in folder.parents or folder in _held:
        return
    with suppress(OSError):  # a disk that takes no lock or no folder: whoever writes there says so
        folder.mkdir(parents=True, exist_ok=True)
        _held[folder] = os.open(folder, os.O_RDONLY)
        fcntl.flock(_held[folder], fcntl.LOCK_SH)


def trim(least: int | None = None) -> list[Entry]:
    """Remove the least recently used files until the cache holds no more than `least` bytes, limit() if None.

    Files of folders that a running process holds stay. Returns what was removed.
    """
    least = limit() if least is None else least
    listing, removed = entries(), []
    total = sum(entry.size for entry in listing)
    for entry in listing:
        if total <= least:
            break
        with suppress(OSError), _alone(entry.path.parent) as alone:
            if alone:
                entry.path.unlink()
                total -= entry.size
                removed.append(entry)
    return removed


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether no process holds a folder; while the block lasts, none begins to."""
    if fcntl is None:
        yield True
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def _files(folder: Path) -> Iterator[Path]:
    with suppress(OSError):
        for path in sorted(folder.iterdir()):
            if path.is_dir() and not path.is_symlink():
                yield from _files(path)
            elif path.is_file() and not is_temporary(path):
                yield path
