"""Parameters for the notebooks: PARAMS, BACKBONE and DEVICE, checked against the notebooks' declarations."""

import ast
import os
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

KINDS = {str: "a text", bool: "true or false", int: "a whole number", float: "a number", list: "a list", dict: "a map"}


def declared(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """Names and defaults in the cell tagged `parameters`; empty if there is none.

    Raises ValueError if the cell holds anything but `name = literal`.
    """
    for cell in notebook["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            try:
                assignments = [
                    (getattr(node, "targets", None) or [node.target], node) for node in ast.parse(cell["source"]).body
                ]
                return {target.id: ast.literal_eval(node.value) for [target], node in assignments}
            except (SyntaxError, AttributeError, ValueError) as error:
                raise ValueError("a parameters cell holds anything but `name = literal`") from error
    return {}


def read(path: str) -> dict[str, Any]:
    """The parameters in a YAML file. Raises ValueError, in one sentence, for a file that holds none."""
    try:
        values = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"PARAMS: cannot read {path} ({error.strerror}): give the path of a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise ValueError(f"PARAMS: {path} is not plain YAML{line} ({reason}): write `name: value` lines") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ValueError(f"PARAMS: {path} holds no `name: value` lines: write one for each parameter")
    return values


def requested(params: str, backbone: str, device: str, root: Path) -> dict[str, Any]:
    """The parameters of the make variables, without empty ones; a backbone's folder, relative to root, as a full path.

    Raises ValueError for an unreadable file, and for a path to a missing folder.
    """
    values = read(params) if params else {}
    values |= {name: value for name, value in (("backbone", backbone), ("device", device)) if value}
    name = values.get("backbone")
    if isinstance(name, str) and not (root / "lsvd" / "weights" / name / "model_index.json").is_file():
        place = (root / Path(name).expanduser()).resolve()
        if place.is_dir() and not (place / "model_index.json").is_file():
            raise ValueError(
                f"BACKBONE: {place} holds no model of diffusers (no model_index.json): name another folder"
            )
        if place.exists():
            values["backbone"] = str(place)
        elif name.startswith((".", "/", "~")):
            raise ValueError(f"BACKBONE: there is no folder {place}: give a name, a folder seen from {root}, or an id")
    return values


def check(values: Mapping[str, Any], notebooks: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ValueError unless each name is declared by a notebook, and each value of the kind of its defaults.

    notebooks: the declared parameters of each.
    """
    known = sorted({name for defaults in notebooks.values() for name in defaults})
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"no notebook has a parameter {name!r}: choose from {', '.join(known) or 'none'}")
        for notebook, defaults in notebooks.items():
            if name in defaults and not alike(value, defaults[name]):
                kind = describe(defaults[name])
                raise ValueError(
                    f"{name} is {kind} in {notebook}, not {reprlib.repr(value)}: give {kind}, as {defaults[name]!r}"
                )


def alike(value: Any, default: Any) -> bool:
    """Whether a value is of a default's kind: whole numbers pass as numbers, lists and maps by their entries."""
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if default is None:
        return value is None or isinstance(value, str | int | float)
    if type(value) is not type(default):
        return False
    if isinstance(default, list):
        return not default or all(alike(item, default[0]) for item in value)
    if isinstance(default, dict):
        pattern = next(iter(default.items()), None)
        return pattern is None or all(alike(k, pattern[0]) and alike(v, pattern[1]) for k, v in value.items())
    return True


def describe(default: Any) -> str:
    """The kind of a default in words, such as "a list (each a text)"."""
    kind = KINDS.get(type(default), "nothing")
    items = default if isinstance(default, list) else list(default.values()) if isinstance(default, dict) else ()
    return f"{kind} (each {describe(items[0])})" if items else kind


def named(text: str, root: Path) -> list[Path]:
    """The notebooks that NOTEBOOKS names, or all, relative to root. Raises ValueError for missing ones."""
    notebooks = sorted(path.relative_to(root) for path in (root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if not text.strip():
        return notebooks
    by_name = {str(path): path for path in notebooks}
    names = [os.path.normpath(name) for name in text.split()]
    if unknown := [name for name in names if name not in by_name]:
        raise ValueError(f"NOTEBOOKS: there is no {unknown[0]!r}: choose from {', '.join(by_name)}")
    return sorted({by_name[name] for name in names})
