"""What a notebook depends on is found without running it, and nothing that it uses is missing."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools import inputs, session

ROOT = Path(__file__).resolve().parents[2]


def test_modules_that_are_imported_are_found():
    """Held against what Python itself loads, for a notebook that imports much."""
    notebook = session.read(sorted((ROOT / "notebooks").glob("05_*.ipynb"))[0])
    sources = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    cell = next(source for source in sources if "import" in source)
    lines = [line for line in cell.splitlines() if line.startswith(("import ", "from "))]
    code = "\n".join([*lines, "import sys", "print(*(m.__file__ for n, m in sys.modules.items() if n[:4] == 'lsvd'))"])
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(map(Path, done.stdout.split()))
    found = inputs.imported(ROOT, sources)
    assert len(loaded) > 20 and loaded <= found
    assert not [path for path in found if path.match("training/*.py") or path.match("benchmarks/*.py")]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import p.a", {"p/__init__", "p/a", "p/lazy"}),
        ("from p import a", {"p/__init__", "p/a"}),
        ("from p import load", {"p/__init__", "p/lazy"}),
        ("def f():\n  if x:\n    from p.q import b", {"p/__init__", "p/q/__init__", "p/q/b", "p/a"}),
        ("from p.q.b import *", {"p/__init__", "p/q/__init__", "p/q/b", "p/a"}),
        ("from p import hint", {"p/__init__", "p/hint"}),
        ("import os, numpy.linalg", set()),
    ],
)
def test_every_way_to_import_is_seen(tmp_path, source, found):
    code = {
        "p/__init__": "HOMES = {'load': 'p.lazy'}",
        "p/a": "",
        "p/lazy": "",
        "p/q/__init__": "",
        "p/q/b": "from .. import a",
        "p/hint": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  from p import a",
    }
    for name, text in code.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.py").write_text(text)
    assert inputs.imported(tmp_path, [source]) == {tmp_path / f"{name}.py" for name in found}
