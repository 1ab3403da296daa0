"""Build the site, offline and without executing anything: python docs/build.py [FOLDER], by default build/docs.

Pages are gathered in a temporary folder first, so that the checkout stays as it is: docs/*.md with tables of
outputs/tables in the place of their marks, the notebooks with their stored outputs, the figures, and a page of
reference for each part of the package.
"""

import importlib
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from sphinx.cmd.build import build_main

ROOT = Path(__file__).resolve().parents[1]
INTERVAL = re.compile(r"(-?[\d.]+) (\[-?[\d.]+,) (-?[\d.]+\])")
MARK = re.compile(r"<!-- (\w+)(?: (\w+))? -->")
TITLES = {"": "Front door", "avi": "Attribute Vector Integration"}  # of parts whose names do not tell


def main(arguments: list[str]) -> int:
    """Build into the folder named; returns 0 if there was not one warning."""
    target = Path(arguments[0] if arguments else ROOT / "build" / "docs")
    os.environ["LSVD_OUTPUTS"] = str(ROOT / "outputs")
    with tempfile.TemporaryDirectory() as folder:
        pages = Path(folder) / "pages"
        gather(pages)
        shutil.rmtree(target, ignore_errors=True)
        options = ["--quiet", "--fail-on-warning", "--keep-going", "-d", f"{folder}/doctrees"]
        done = build_main(["-b", "html", *options, str(pages), str(target)])
    if not done:
        (target / ".nojekyll").touch()  # or GitHub leaves out folders that begin with _
        print(f"the site is in {target}: open index.html")
    return done


def gather(pages: Path) -> None:
    """Write every source of the site into a folder."""
    shutil.copytree(ROOT / "docs", pages, ignore=shutil.ignore_patterns("*.md", "__pycache__"))
    for part in ("notebooks", "outputs/figures"):
        shutil.copytree(ROOT / part, pages / part, ignore=shutil.ignore_patterns(".*"))
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = MARK.sub(filled, page.read_text(encoding="utf-8"))
        text = INTERVAL.sub("\\1\u00a0\\2\u00a0\\3", text)  # on one line
        (pages / page.name).write_text(re.sub(r"(?<=[( ])\.\./(?=outputs/|notebooks/)", "", text), encoding="utf-8")
    (pages / "api").mkdir()
    for name in ("", *(path.parent.name for path in (ROOT / "lsvd").glob("*/__init__.py"))):
        title = TITLES.get(name, name.capitalize())
        (pages / "api" / f"{name or 'lsvd'}.md").write_text(reference(name, title), encoding="utf-8")


def filled(mark: re.Match) -> str:
    """What stands in the place of a mark: a table by its name, or the link to a notebook by its number."""
    from lsvd.studies import tables

    name, number = mark.groups()
    if name != "notebook":
        return tables.text(name)
    [path] = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    return f"[{path.stem}](notebooks/{path.name})"


def reference(name: str, title: str) -> str:
    """The page of one part of the package, "" for its top: each of its modules, with what that defines itself."""
    files = sorted((ROOT / "lsvd").glob("*.py") if not name else (ROOT / "lsvd" / name).rglob("*.py"))
    dotted = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files if path.stem != "__main__")
    lines = [f"# {title}"]
    for module in (each.removesuffix(".__init__") for each in dotted):
        own = [x for x in vars(importlib.import_module(module)).values() if getattr(x, "__module__", "") == module]
        if module not in ("lsvd", f"lsvd.{name}"):
            lines.append(f"## {module}")
        lines.append(f"```{{eval-rst}}\n.. automodule:: {module}\n   {':members:' if own else ':no-index:'}\n```")
    return "\n\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
