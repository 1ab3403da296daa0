"""Rendered pictures kept on disk: drawn once, in chunks that depend only on the scene, the seed and their number."""

import ast
import copy
import hashlib
import inspect
import io
import logging
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from lsvd.checks import mix
from lsvd.storage import cache
from lsvd.storage.files import write_bytes
from lsvd.storage.sharing import Piece, work_off
from lsvd.testbed.scenes import scene as scene_module
from lsvd.testbed.scenes import sdf
from lsvd.testbed.scenes.scene import Scene, Values

CHUNK = 1024
AGAIN = "and it is computed again"
REMEDY = f"delete it, {AGAIN}"
log = logging.getLogger(__name__)


def generator(*keys: int) -> torch.Generator:
    """A CPU generator seeded by several integers together, such as (seed, step)."""
    return torch.Generator().manual_seed(mix(*keys))


def fingerprint(scene: Scene) -> str:
    """Eight hex digits of the code that draws the scene (see `digest`)."""
    drawing = inspect.getmodule(inspect.unwrap(scene.draw))
    used = {getattr(v, "__module__", None) or getattr(v, "__name__", "") for v in vars(drawing).values()}
    helpers = [sys.modules[name] for name in used if isinstance(name, str) and name.startswith(__package__ + ".")]
    return digest(sdf, scene_module, drawing, *helpers)


def digest(*modules: ModuleType) -> str:
    """Eight hex digits of the code of modules; comments, docstrings and layout do not count."""
    named = {m.__name__: m for m in modules}
    trees = [_undocumented(ast.parse(inspect.getsource(named[name]))) for name in sorted(named)]
    return hashlib.sha256("\n".join(map(ast.dump, trees)).encode()).hexdigest()[:8]


def _undocumented(tree: ast.Module) -> ast.Module:
    """The same code without its docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            del node.body[0]
    return tree


class Chunks:
    """Rows kept in files 00000.npy, 00001.npy, ..., memory-mapped; index by a tensor of row numbers.

    `shape` is that of a row, checked if it is given. Raises ValueError, with the file's name, if one is damaged.
    """

    held: Tensor | None = None

    def __init__(self, files: Iterable[Path], chunk: int, n: int, shape: tuple[int, ...] | None = None):
        self.parts = [_rows(file, min(chunk, n - i * chunk), shape) for i, file in enumerate(files)]
        self.chunk, self.n = chunk, n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: Tensor) -> Tensor:
        """Rows, shape (b, ...), for row numbers of shape (b,), in the type they are stored in."""
        if self.held is not None:
            return self.held[index.to(self.held.device)]
        where = [divmod(i, self.chunk) for i in index.tolist()]
        return torch.from_numpy(np.stack([self.parts[part][row] for part, row in where]))

    def to(self, device: str | torch.device) -> Self:
        """The same rows in a device's memory, so that batches do not cross over; on the CPU they stay on the disk."""
        if torch.device(device).type == "cpu":
            return self
        other = copy.copy(self)
        other.held = torch.cat([torch.from_numpy(np.array(part)).to(device) for part in self.parts])[: self.n]
        return other


def _rows(file: Path, least: int, shape: tuple[int, ...] | None) -> np.ndarray:
    """The memory-mapped rows of one file, at least so many."""
    try:
        rows = np.load(file, mmap_mode="r")
    except PermissionError as error:
        raise PermissionError(f"{file} cannot be read: permission denied") from error
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{file} is truncated or damaged: {REMEDY}") from error
    if rows.ndim == 0 or len(rows) < least or (shape is not None and rows.shape[1:] != shape):
        raise ValueError(f"{file} holds an array of shape {rows.shape}, which is not what was written: {REMEDY}")
    return rows


def _factors(file: Path, scene: Scene, rows: int) -> dict[str, np.ndarray]:
    """The factors of one chunk of pictures, each of shape (rows,)."""
    try:
        with np.load(file) as stored:
            values = {f.name: stored[f.name] for f in scene.factors}
    except PermissionError as error:
        raise PermissionError(f"{file} cannot be read: permission denied") from error
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{file} is missing, truncated or damaged: delete the .npy beside it too, {AGAIN}") from error
    if any(value.shape != (rows,) for value in values.values()):
        raise ValueError(f"{file} does not belong to the pictures beside it: delete both, {AGAIN}")
    return values


class Pictures(Chunks):
    """Pictures on disk and their factors: `pictures[index]` gives (b, 3, size, size), float32 in [0, 1]."""

    def __init__(self, files: Iterable[Path], chunk: int, n: int, shape: tuple[int, ...], values: Values, key: str):
        super().__init__(files, chunk, n, shape)
        self.values, self.key = values, key

    def __getitem__(self, index: Tensor) -> Tensor:
        return super().__getitem__(index).float().div_(255)

    def values_at(self, index: Tensor) -> Values:
        """The factors of the pictures of these numbers, each of shape (b,)."""
        return {name: value[index] for name, value in self.values.items()}


def pictures(
    scene: Scene,
    n: int,
    size: int,
    seed: int,
    folder: str | Path,
    fixed: Mapping[str, str | float] | None = None,
    *,
    chunk: int | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> Pictures:
    """n pictures of a scene at `size` pixels a side, rendered into `folder` unless they are there already.

    Held-out pictures are those of another seed. `fixed` pins factors, as in Scene.sample. Stopped half-way, it goes on
    with the first chunk that is missing. device: where pictures are drawn. progress: a bar over the missing chunks.
    Raises ValueError, with the file's name, if one is damaged.
    """
    fixed, chunk = dict(fixed or {}), chunk or CHUNK
    pins = "".join(f"-{name}-{value}" for name, value in sorted(fixed.items()))
    key = f"{scene.name}-{size}-seed{seed}{pins}-{chunk}-{fingerprint(scene)}"
    home = Path(folder) / key

    def draw(number: int) -> np.ndarray:
        values = scene.sample(chunk, generator(seed, number), **fixed)
        batch = 8 if torch.device(device).type == "cpu" else 512  # what fits into a processor's cache, or fills a GPU
        rendered = (scene.render(values, size, device=device, batch=batch) * 255).round().to(torch.uint8).cpu().numpy()
        buffer = io.BytesIO()
        np.savez(buffer, **{name: value.numpy() for name, value in values.items()})
        write_bytes(home / f"{number:05d}.npz", buffer.getvalue())
        return rendered

    files = fill(home, -(-n // chunk), draw, f"drawing {key}", beside=(".npz",), progress=progress)
    loaded = [_factors(file.with_suffix(".npz"), scene, chunk) for file in files]
    values = {f.name: torch.from_numpy(np.concatenate([v[f.name] for v in loaded]))[:n] for f in scene.factors}
    return Pictures(files, chunk, n, (3, size, size), values, key)


def fill(
    home: Path,
    parts: int,
    make: Callable[[int], np.ndarray],
    title: str,
    *,
    beside: Sequence[str] = (),
    progress: bool = False,
) -> list[Path]:
    """Files home/00000.npy, ..., as many as `parts`, each made by make(number) unless it is there already.

    beside: suffixes of further files that make writes for each number, and that must be there too. progress: a bar,
    named by `title`. Processes that fill a folder at once share the work (lsvd.storage.sharing). A folder of the cache
    is held until the process ends.
    """
    cache.hold(home)
    files = [home / f"{number:05d}.npy" for number in range(parts)]
    whole = {file: (file, *(file.with_suffix(suffix) for suffix in beside)) for file in files}

    def write(number: int) -> None:
        buffer = io.BytesIO()
        np.save(buffer, make(number))
        write_bytes(files[number], buffer.getvalue())

    pieces = [Piece(whole[file], partial(write, number)) for number, file in enumerate(files)]
    made = work_off(pieces, title=title, progress=progress)
    for group in whole.values():
        for file in group:
            cache.use(file)
    if made and cache.root() in home.parents:
        cache.trim()
    return files
