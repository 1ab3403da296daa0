"""Everything that a notebook's results depend on, found without running it, as digests of content."""

import ast
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PINS = ("requirements.txt", "constraints.txt")


def inputs(root: Path, name: str, notebook: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, str]:
    """Everything that determines the results of a notebook, each with a digest.

    These are its cells, the modules of the clone that it imports, directly or through others, every other file in the
    package (weights, vocabularies), the folders of measurements that those modules read, the versions of the pinned
    packages, its parameters, and the files of a backbone's folder.
    """
    cells = [[cell["cell_type"], cell["source"], cell["metadata"].get("tags", [])] for cell in notebook["cells"]]
    digests = {name: digest_of(cells), "the pins": pins(root), "the parameters": digest_of(parameters)}
    modules = imported(root, [source for kind, source, _ in cells if kind == "code"])
    data = [path for path in files(root / "lsvd") if path.suffix != ".py"]
    for path in modules:
        for folder in read_measurements(path):
            data += files(root / "measurements" / folder)
    backbone = parameters.get("backbone")
    if isinstance(backbone, str) and Path(backbone).is_absolute():
        data += files(Path(backbone))
    for path in {*modules, *data}:
        digests[str(path.relative_to(root)) if path.is_relative_to(root) else str(path)] = digest(path)
    return digests


def digest_of(value: Any) -> str:
    """A digest of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@cache
def digest(path: Path) -> str:
    """A digest of a file's bytes, taken once a process: a file edited meanwhile keeps its old digest."""
    return fresh_digest(path)


def fresh_digest(path: Path) -> str:
    """A digest of a file's bytes as they are now; empty if there is no such file."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return ""


@cache
def files(place: Path) -> tuple[Path, ...]:
    """The files in a folder and those below it, without hidden ones (unfinished writes) and Python's caches.

    Linked folders are followed. A file holds itself, a missing path no files.
    """
    return tuple(sorted(walk(place))) if place.is_dir() else (place,) if place.is_file() else ()


def walk(folder: str | Path) -> Iterator[Path]:
    """The files in a folder as they are now, as `files` gives them."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not hidden(name)]
        yield from (path for name in names if not hidden(name) and (path := Path(parent, name)).is_file())


def hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or a cache of Python's."""
    return name.startswith(".") or name == "__pycache__"


@cache
def pins(root: Path) -> str:
    """A digest of the Python version, of the pins, and of the installed versions."""
    lines = [line for name in PINS for line in (root / name).read_text().splitlines()]
    pin_lines = sorted(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    return digest_of([sys.version_info[:2], [[line, installed(line.split("==")[0])] for line in pin_lines]])


def installed(name: str) -> str | None:
    """The version of an installed package; None if there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def imported(root: Path, sources: list[str]) -> set[Path]:
    """The files of the clone's modules that some code imports, at once or lazily, and of all their imports.

    Code that is not plain Python, such as a cell with a magic, may import anything: it counts as the whole package.
    """
    try:
        queue = [name for source in sources for name in imports(ast.parse(source), "")]
    except SyntaxError:
        return {path for path in files(root / "lsvd") if path.suffix == ".py"}
    paths: set[Path] = set()
    names = set()
    while queue:
        name = queue.pop()
        if name in names:
            continue
        names.add(name)
        for path in modules_of(root, name):
            if path not in paths:
                paths.add(path)
                queue += imports_of(path, root)
    return paths


def modules_of(root: Path, name: str) -> list[Path]:
    """The files that importing a dotted name runs: of its packages, and of itself if it is a module.

    Any other name may be one that its package hands out lazily: the modules named in the package then count too.
    """
    result: list[Path] = []
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        module = module_file(root.joinpath(*parts[:count]))
        if module is None:
            lazy = named(result[-1], root) if result and result[-1].name == "__init__.py" else ()
            return result + [path for entry in lazy for path in modules_of(root, entry)]
        result.append(module)
    return result


def module_file(place: Path) -> Path | None:
    """The file of a module or package at a path without suffix; None if there is none."""
    candidates = place / "__init__.py", place.with_name(place.name + ".py")
    return next((path for path in candidates if path.is_file()), None)


@cache
def named(path: Path, root: Path) -> tuple[str, ...]:
    """The modules of the clone whose dotted names are strings in a module's code."""
    texts = {node.value for node in ast.walk(parsed(path)) if isinstance(node, ast.Constant)}
    dotted = [text for text in texts if isinstance(text, str) and re.fullmatch(r"\w+(\.\w+)+", text)]
    return tuple(sorted(text for text in dotted if module_file(root.joinpath(*text.split(".")))))


@cache
def parsed(path: Path) -> ast.Module:
    """A module's syntax tree; an empty one for a file that is not Python, which fails when it is imported."""
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return ast.parse("")


@cache
def imports_of(path: Path, root: Path) -> tuple[str, ...]:
    """The dotted names that a module imports."""
    return tuple(imports(parsed(path), ".".join(path.relative_to(root).parent.parts)))


def imports(node: ast.AST, package: str) -> Iterator[str]:
    """The dotted names that code imports, in functions too, except imports for type checkers only."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        for child in node.orelse:
            yield from imports(child, package)
        return
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name
            # lazy attributes of the packages can be reached by their names
            parts = alias.name.split(".")
            yield from (".".join([*parts[:count], "*"]) for count in range(1, len(parts) + 1))
    elif isinstance(node, ast.ImportFrom):
        parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        module = ".".join([*parents, *([node.module] if node.module else [])])
        yield from (f"{module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from imports(child, package)


@cache
def read_measurements(path: Path) -> set[str]:
    """The folders of measurements that a module asks for by measurements("name"), the root if it names none."""
    if path.name == "paths.py":
        return set()
    calls = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)]
    calls = [call for call in calls if "measurements" in (getattr(call.func, "id", ""), getattr(call.func, "attr", ""))]
    texts = [[part.value if isinstance(part, ast.Constant) else "" for part in call.args] for call in calls]
    return {str(parts[0]) if parts else "" for parts in texts}
