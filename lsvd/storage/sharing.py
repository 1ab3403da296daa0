"""Pieces of work that several processes share, on one machine or on machines that share a folder.

Each process is given the same list, takes a piece whose files are missing and that no other process works on, and goes
on until none is missing. A process that is alone takes them in order. Processes know of each other by files alone: by
those that pieces leave, and by a lock on the piece in work, in build("cache", "locks"). The system releases the lock of
a process that is killed, which so loses one piece. Where no lock can be had, a piece may be done twice, with the same
result.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Generic, TypeVar

from lsvd.paths import build, clone, measurements
from lsvd.progress import bar
from lsvd.storage import cache, results
from lsvd.storage.files import InUseError, alone
from lsvd.storage.tensors import Tensors

SHORTEST, LONGEST = 0.2, 2.0  # seconds between two looks at pieces that others work on
COUNTING = 5.0  # seconds between two counts of what others have done
GOLDEN = 0.618034  # of which multiples modulo 1 lie far apart
T = TypeVar("T")


@dataclass(frozen=True)
class Piece(Generic[T]):
    """A piece of work. files: what it leaves. make: writes them all, or raises, and returns the result."""

    files: tuple[Path, ...]
    make: Callable[[], T]

    @property
    def done(self) -> bool:
        """Whether all files are there."""
        return all(file.exists() for file in self.files)


def remembered(
    name: str, settings: Mapping[str, Any], make: Callable[[], Mapping[str, Any]], **options: Any
) -> Piece[Tensors]:
    """What `lsvd.storage.results.remember` keeps, with the same arguments, as a piece."""
    file = results.place(name, settings, options.get("folder"))
    return Piece((file,), partial(results.remember, name, settings, make, **options))


def work_off(pieces: Sequence[Piece[T]], *, title: str, progress: bool = False) -> dict[Path, T]:
    """Do all pieces whose files are missing, together with other processes that are given the same pieces.

    Ends when the files of each piece are there, or were made by this process: a file that is not kept, or leaves the
    cache, is not waited for. Returns what this process made, by the piece's first file. progress: a bar over all
    pieces. Raises what a piece raises.
    """
    left = deque(piece for piece in pieces if not piece.done)
    made: dict[Path, T] = {}
    if not left:
        return made
    cache.hold(_locks())  # locks in use are not to leave the cache
    left.rotate(-_start(_number(), len(left)))
    moved, wait = False, SHORTEST
    with bar(total=len(pieces), initial=len(pieces) - len(left), desc=title, unit="piece", progress=progress) as shown:
        counted, held = time.monotonic(), deque()
        while left:
            piece = left.popleft()
            if not _arrived(piece):
                with _taken(piece.files[0]) as mine:
                    if not mine:
                        held.append(piece)
                    elif not _arrived(piece):
                        made[piece.files[0]] = piece.make()
                        shown.update()
                        wait = SHORTEST
                if not (mine or moved):  # somebody works here: go on elsewhere
                    left.rotate(-_start(os.getpid(), len(left)))
                    moved = True
            if time.monotonic() - counted > COUNTING or not left:
                counted = _count(shown, pieces, made)
            if held and not left:
                time.sleep(wait)
                wait = min(2 * wait, LONGEST)
                left, held = held, left
    return made


def collect(pieces: Sequence[Piece[T]], made: Mapping[Path, T] | None = None, **options: Any) -> list[T]:
    """The results of pieces, each read by its `make` if its file is there; what is missing is worked off.

    made: what `work_off` has returned, if it was called before; else options are its arguments.
    """
    made = work_off(pieces, **options) if made is None else made
    # what is kept goes first: all processes end with the same, even if two have made it
    return [made[piece.files[0]] if piece.files[0] in made and not piece.done else piece.make() for piece in pieces]


def _count(shown: Any, pieces: Sequence[Piece], made: Mapping[Path, Any]) -> float:
    """Show how many pieces are there; returns the time."""
    if not shown.disable:
        shown.update(sum(piece.files[0] in made or piece.done for piece in pieces) - shown.n)
    return time.monotonic()


def _arrived(piece: Piece) -> bool:
    """Whether a piece is done, by this machine or another."""
    if piece.done:
        return True
    with suppress(OSError):  # a folder that is opened is looked at again, where a network keeps it
        os.close(os.open(piece.files[0].parent, os.O_RDONLY))
    return piece.done


def _number() -> int:
    """The number of this process among those that a launcher has started, 0 if it does not say."""
    given = (os.environ.get(name, "") for name in ("RANK", "SLURM_PROCID"))
    return next((int(number) for number in given if number.isdecimal()), 0)


def _start(number: int, pieces: int) -> int:
    """The piece that a process begins with, far from where those of other numbers do."""
    return int(number * GOLDEN % 1 * pieces)


def _locks() -> Path:
    return build("cache", "locks")


def _name(file: Path) -> str:
    """A digest of a file's place in the project, wherever a machine has the project."""
    file = file.absolute()
    for label, root in (("build", build()), ("measurements", measurements()), ("", clone())):
        if root is not None and root.absolute() in file.parents:
            return sha256(f"{label}/{file.relative_to(root.absolute()).as_posix()}".encode()).hexdigest()[:24]
    return sha256(str(file).encode()).hexdigest()[:24]


@contextmanager
def _taken(file: Path) -> Iterator[bool]:
    """Whether this process may make a file: no other works on it, or no lock can be had at all."""
    with ExitStack() as stack:
        try:
            stack.enter_context(alone(_locks() / _name(file), "wait for it"))
        except InUseError:
            mine = False
        except (OSError, NotImplementedError):
            mine = True
        else:
            mine = True
        yield mine
