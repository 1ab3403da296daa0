"""Files that are written whole or not at all.

Each writer fills a temporary neighbour, flushes it to the disk and only then gives it its name, so that a stopped run
leaves either the old file or the new one. A killed writer leaves its temporary file, which the next writer in the
folder removes. What cannot be written raises WriteError, what cannot be read ReadError, in one sentence.
"""

import csv
import ctypes
import errno
import hashlib
import io
import logging
import os
import platform
import re
import secrets
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from lsvd.storage.steady import Tolerance, rounding, same_table

log = logging.getLogger(__name__)


def _machine() -> str:
    """Eight hex digits of where process ids have the meaning that they have here: the host, and its container."""
    name = platform.node()
    with suppress(OSError):
        name += os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(name.encode()).hexdigest()[:8]


MACHINE = _machine()
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?:(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-)?[0-9a-f]{12}\.(?P<kind>tmp|old)")
DAY = 86400
"""Seconds after which the temporary file of an unknown writer counts as left behind."""

writes: Counter[Path] = Counter()
"""How many files and folders this process has written, by the folder they are in."""


class WriteError(OSError):
    """A file or folder could not be written; the message says which and what to do, `errno` says why."""


class InUseError(WriteError):
    """A folder or file that another process works with; the message says what to do."""


class ReadError(OSError):
    """A file is there and could not be read; the message says which and what to do, `errno` says why."""


_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


def _advice(error: OSError) -> str:
    if error.errno in _FULL:
        return "the disk is full; free some space and run again"
    match error.errno:
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return "permission denied; make the folder writable or choose another"
        case errno.ENOTDIR | errno.EEXIST | errno.EISDIR:
            return "a file stands where a folder is needed, or a folder where a file is; move it away"
        case _:
            return f"{(error.strerror or str(error)).lower()}; choose another place"


def _refusal(path: Path, error: OSError) -> WriteError:
    refusal = WriteError(f"cannot write {path}: {_advice(error)}")
    refusal.errno = error.errno
    return refusal


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn any OSError of the block into a WriteError that names the path."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise _refusal(path, error) from error


def _neighbour(path: Path, kind: str = "tmp") -> Path:
    """A name beside path that says who writes it, unique, so that two writers never share a temporary file."""
    return path.parent / f".{path.name}.{MACHINE}-{os.getpid()}-{secrets.token_hex(6)}.{kind}"


def is_temporary(path: Path) -> bool:
    """Whether a path is named as the unfinished work of a writer, which never counts as a result."""
    return _TEMPORARY.fullmatch(path.name) is not None


def abandoned(machine: str | None, pid: str | int | None, path: Path) -> bool:
    """Whether a writer is gone: its process ended, or, on another machine, what it left at path is a day old."""
    if machine != MACHINE or pid is None:
        return time.time() - path.lstat().st_mtime > DAY
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        pass  # another user's
    return False


def tidy(folder: Path, deep: bool = False) -> None:
    """Remove what killed writers left in a folder; a folder that one had set aside takes its name again.

    deep: in all folders below it, too.
    """
    paths: list[Path] = []
    with suppress(OSError):
        paths = list(folder.rglob("*") if deep else folder.iterdir())
    for path in paths:
        parts = _TEMPORARY.fullmatch(path.name)
        with suppress(OSError):
            if not parts or not abandoned(parts["machine"], parts["pid"], path):
                continue
            if parts["kind"] == "old" and not path.with_name(parts["name"]).exists():
                os.replace(path, path.with_name(parts["name"]))
            elif path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def _sync(path: Path) -> None:
    """Flush a file to the disk, and with a folder the names in it; skip folders where the system cannot."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write data to path, whole or not at all, making the folders above it. Returns the path. Raises WriteError."""
    path = Path(path)
    temporary = _neighbour(path)
    with _explained(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            tidy(path.parent)
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync(path.parent)
    writes[path.parent] += 1
    return path


def write_steady(path: str | Path, data: bytes, same: Callable[[bytes, bytes], bool]) -> Path:
    """Write data to path, unless same(old, data) says that the file there differs by rounding only.

    Such a file stays as it is but for its date. Returns the path. Raises WriteError.
    """
    path = Path(path)
    with _explained(path):
        old = path.read_bytes() if path.is_file() else None
        if old is None or old == data or not same(old, data):
            return write_bytes(path, data)
        os.utime(path)
    log.info("%s differs by rounding only: left as it is", path)
    return path


def read_bytes(path: str | Path) -> bytes:
    """What a file holds, read in one piece: all of the old file or all of the new one while another is written.

    Raises FileNotFoundError, or ReadError, which tells a refusal from damage.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise ReadError(errno.EINVAL, "it is a folder or a device; name a file")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"there is no file {path}") from error
    except OSError as error:
        denied = error.errno in (errno.EACCES, errno.EPERM)
        why = "permission denied; make it readable" if denied else f"{(error.strerror or str(error))}".lower()
        refusal = ReadError(f"cannot read {path}: {why}")
        refusal.errno = error.errno
        raise refusal from error


def check_writable(path: str | Path) -> None:
    """Raise WriteError unless a file could be made beside path; makes the folders above it. For before a long run."""
    path = Path(path)
    probe = _neighbour(path)
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        tidy(path.parent)
        try:
            # a full disk takes names still, and no bytes
            with open(probe, "xb") as file:
                file.write(b"\0" * 4096)
                file.flush()
                os.fsync(file.fileno())
        finally:
            with suppress(OSError):
                probe.unlink(missing_ok=True)


def check_replaceable(
    path: str | Path, what: str, is_one: Callable[[bytes], bool], reads: Iterable[str | Path] = (), force: bool = False
) -> None:
    """Raise ValueError unless a file may be written at path without losing another.

    A file that is there must be writable, hold what the new one will (`what`, as is_one(its bytes) says), and be none
    of those that are read (`reads`); with `force` anything that is a file may be replaced.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file in it")
    if not path.exists():
        return
    if not path.is_file():
        raise ValueError(f"{path} is a device: name a file")
    if force:
        return
    if any(Path(other).exists() and path.samefile(other) for other in reads):
        raise ValueError(f"{path} is read by this very command: choose another name, or replace it with --force")
    if not path.stat().st_mode & 0o222 or not os.access(path, os.W_OK):
        raise ValueError(f"{path} is read-only: choose another name, or replace it with --force")
    if path.stat().st_size and not is_one(read_bytes(path)):
        raise ValueError(f"{path} is there and not {what}: choose another name, or replace it with --force")


def write_csv(path: str | Path, rows: Iterable[Mapping[str, Any]], tolerance: Tolerance = rounding) -> Path:
    """Write rows as a CSV file with a header, whole or not at all; the first row's keys are the columns.

    A table that differs from the one there by rounding only (lsvd.storage.steady) is left as it is. tolerance: where
    rounding makes larger differences, as a match between near-ties does.

    Returns the path. Raises ValueError if there are no rows or their keys differ, WriteError if the disk refuses.
    """
    rows = [dict(row) for row in rows]
    if not rows:
        raise ValueError(f"no rows to write to {path}: compute at least one")
    columns = list(rows[0])
    for number, row in enumerate(rows):
        if set(row) != set(columns):
            raise ValueError(f"row {number} for {path} has {', '.join(row)}; the first has {', '.join(columns)}")
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return write_steady(path, text.getvalue().encode(), partial(same_table, tolerance=tolerance))


def update_csv(
    path: str | Path,
    rows: Sequence[Mapping[str, Any]],
    keys: Sequence[str],
    order: Iterable[str] | Callable[[Mapping[str, str]], Any] = (),
    tolerance: Tolerance = rounding,
) -> Path:
    """Write rows into a table, in place of those that agree with one of them in all `keys`; the others stay.

    Rows come in the order of `order`, by the first key, those not named there at the end; or they are sorted by what
    `order` returns for each. Then comes the order of the keys' texts, whoever wrote first; rows of the same keys stay
    as they are given. Two writers at once lose nothing: one waits for the other. Returns the path. Raises ValueError if
    the table there has other columns or is damaged, else as write_csv.
    """
    path = Path(path)
    rows = [{name: str(value) for name, value in row.items()} for row in rows]
    if not rows:
        raise ValueError(f"no rows to write to {path}: compute at least one")
    rank = {} if callable(order) else {name: i for i, name in enumerate(order)}
    place = order if callable(order) else lambda row: rank.get(row[keys[0]], len(rank))

    def named(row: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(row[key] for key in keys)

    with locked(path):
        old = _rows(path, set(rows[0]))
        if old is None:
            raise ValueError(f"{path} is damaged or has other columns than {', '.join(rows[0])}: move it away")
        new = {named(row) for row in rows}
        kept = [{name: row[name] for name in rows[0]} for row in old if named(row) not in new]
        return write_csv(path, sorted([*kept, *rows], key=lambda row: (place(row), named(row))), tolerance)


def _rows(path: Path, columns: set[str]) -> list[dict[str, str]] | None:
    """The rows of a table, none if there is no table; None if it is damaged or has other columns."""
    try:
        reader = csv.DictReader(io.StringIO(read_bytes(path).decode(), newline=""))
        rows = list(reader)
    except FileNotFoundError:
        return []
    except (UnicodeDecodeError, csv.Error):
        return None
    whole = all(set(row) == columns and None not in row.values() for row in rows)
    return rows if whole and set(reader.fieldnames or columns) == columns else None


@contextmanager
def locked(path: Path, busy: str = "") -> Iterator[None]:
    """Hold the only lock on path, which ends with the process; its file is gone afterwards.

    Waits for it, or with `busy` raises InUseError, which says so, where another process holds it.
    """
    from filelock import FileLock, Timeout  # takes as long to import as the rest of the command line

    lock = path.parent / f".{path.name}.lock"
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(lock)
        try:
            held.acquire(timeout=0 if busy else -1)
        except Timeout as error:
            raise InUseError(f"{path} is in use by another process: {busy}") from error
    try:
        yield
    finally:
        # before the release: whoever waits sees that the file is gone, and makes another
        with suppress(OSError):
            lock.unlink()
        held.release()


def alone(path: str | Path, remedy: str) -> AbstractContextManager[None]:
    """Be the only process that works in a folder, or raise InUseError, a WriteError, with the remedy."""
    return locked(Path(path), remedy)


def swap(one: Path, other: Path) -> bool:
    """Exchange two files or folders of one disk in one step; False, and nothing done, where the system cannot."""
    try:
        # AT_FDCWD and RENAME_EXCHANGE of Linux
        return _RENAME is not None and _RENAME(-100, os.fsencode(one), -100, os.fsencode(other), 2) == 0
    except ctypes.ArgumentError:
        return False


_RENAME = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None


@contextmanager
def replace_folder(path: str | Path) -> Iterator[Path]:
    """Fill a temporary folder, which takes path's place when the block ends well; if it fails, path is as before.

    On Linux the two are swapped in one step, so a reader always finds one of them. Elsewhere the old one is set aside
    first, and put back should the second step fail. Files get the permissions that the umask leaves, whoever made them.
    Raises WriteError.
    """
    path = Path(path)
    temporary, aside = _neighbour(path), _neighbour(path, "old")
    try:
        with _explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            tidy(path.parent)
            temporary.mkdir()
        try:
            yield temporary
        except OSError as error:
            # any other failure of the block is the caller's to explain
            if error.errno in {*_FULL, errno.EFBIG, errno.EROFS}:
                raise _refusal(path, error) from error
            raise
        with _explained(path):
            # what the umask left of a folder's permissions
            allowed = temporary.stat().st_mode & 0o777
            for file in sorted(temporary.rglob("*")):
                file.chmod(allowed if file.is_dir() else allowed & 0o666)
                _sync(file)
            had = path.exists()
            if not (had and swap(temporary, path)):
                if had:
                    os.replace(path, aside)
                try:
                    os.replace(temporary, path)
                except BaseException:
                    if had:
                        os.replace(aside, path)
                    raise
            _sync(path.parent)
        writes[path.parent] += 1
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if path.exists():
            shutil.rmtree(aside, ignore_errors=True)
