"""Files that are written whole or not at all, and the folder that results go to.

Each writer fills a temporary neighbour, flushes it to the disk and only then gives it its name, so that a stopped run
leaves either the old file or the new one. What cannot be written raises WriteError, in one sentence.
"""

import csv
import errno
import io
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


class WriteError(OSError):
    """A file or folder could not be written; the message says which and what to do, `errno` says why."""


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


def _neighbour(path: Path) -> Path:
    """A name beside path, unique, so that two writers never share a temporary file."""
    return path.parent / f".{path.name}.{secrets.token_hex(6)}.tmp"


def _sync(path: Path) -> None:
    """Flush a file to the disk, and with a folder the names in it; where the system cannot open folders, skip those."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _follow_umask(folder: Path) -> None:
    """Give every file below a folder the mode of a new file: safetensors writes for the owner's eyes alone."""
    new = folder / f".{secrets.token_hex(6)}.tmp"
    new.touch(exist_ok=False)
    mode = stat.S_IMODE(new.stat().st_mode)
    new.unlink()
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(mode)


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write data to path, whole or not at all, making the folders above it. Returns the path. Raises WriteError."""
    path = Path(path)
    temporary = _neighbour(path)
    with _explained(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
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
    return path


def check_writable(path: str | Path) -> None:
    """Raise WriteError unless a file could be made beside path; makes the folders above it. For before a long run."""
    path = Path(path)
    probe = _neighbour(path)
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()


def write_csv(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows as a CSV file with a header, whole or not at all; the first row's keys are the columns.

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
    return write_bytes(path, text.getvalue().encode())


def update_csv(
    path: str | Path,
    rows: Sequence[Mapping[str, Any]],
    keys: Sequence[str],
    order: Iterable[str] | Callable[[Mapping[str, str]], Any] = (),
) -> Path:
    """Write rows into a table, in place of those that agree with one of them in all `keys`; the others stay.

    Rows come in the order of `order`, by the first key, those not named there at the end; or they are sorted by what
    `order` returns for each. Returns the path. Raises ValueError if the table there has other columns or is damaged,
    else as write_csv.
    """
    path, old = Path(path), []
    rows = [{name: str(value) for name, value in row.items()} for row in rows]
    if not rows:
        raise ValueError(f"no rows to write to {path}: compute at least one")
    if path.exists():
        with path.open(newline="") as file:
            old = list(csv.DictReader(file))
    if any(set(row) != set(rows[0]) or None in row.values() for row in old):
        raise ValueError(f"{path} is damaged or has other columns than {', '.join(rows[0])}: move it away")
    new = {tuple(row[key] for key in keys) for row in rows}
    rank = {} if callable(order) else {name: i for i, name in enumerate(order)}
    place = order if callable(order) else lambda row: rank.get(row[keys[0]], len(rank))
    kept = [{name: row[name] for name in rows[0]} for row in old if tuple(row[key] for key in keys) not in new]
    return write_csv(path, sorted([*kept, *rows], key=place))


@contextmanager
def replace_folder(path: str | Path) -> Iterator[Path]:
    """Fill a temporary folder, which takes path's place when the block ends well; if it fails, path is as before.

    A folder cannot be swapped in one step everywhere: the old one is set aside first, and put back should the second
    step fail. Raises WriteError.
    """
    path = Path(path)
    temporary, aside = _neighbour(path), _neighbour(path)
    try:
        with _explained(path):
            temporary.mkdir(parents=True)
        try:
            yield temporary
        except OSError as error:
            # any other failure of the block is the caller's to explain
            if error.errno in _FULL:
                raise _refusal(path, error) from error
            raise
        with _explained(path):
            _follow_umask(temporary)
            for file in sorted(temporary.rglob("*")):
                _sync(file)
            had = path.exists()
            if had:
                os.replace(path, aside)
            try:
                os.replace(temporary, path)
            except BaseException:
                if had:
                    os.replace(aside, path)
                raise
            _sync(path.parent)
    finally:
        for folder in (temporary, aside):
            shutil.rmtree(folder, ignore_errors=True)
