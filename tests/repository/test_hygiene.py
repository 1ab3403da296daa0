"""What the repository promises about its own files: notebooks, pins, package data, weights, commands."""

import ast
import copy
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
WEIGHTS = ROOT / "lsvd" / "weights"
MAX_CELL_LINES, MAX_LINES = 20, 800  # of a notebook's cell, and of all notebooks' code
WIDGET = "application/vnd.jupyter.widget-view+json"
MAX_WEIGHT_BYTES = 60 * 10**6
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


# Notebooks


def machine_paths(text: str) -> list[str]:
    """Paths in `text` that exist on one machine only: homes, temporary folders, this checkout."""
    places = [r"/home/\w", r"/Users/\w", r"/root\b", r"(?<![\w.])/tmp\b", r"/var/folders/", r"[A-Za-z]:\\+Users"]
    places += [re.escape(str(path)) + r"\b" for path in (ROOT, Path.home()) if len(path.parts) > 2]
    return [found for place in places for found in re.findall(place, text)]


def output_texts(output: dict) -> list[str]:
    """The texts of one output, pictures left out."""
    data = {kind: value for kind, value in output.get("data", {}).items() if not kind.startswith("image/")}
    return [
        value if isinstance(value, str) else json.dumps(value) for value in [output.get("text", ""), *data.values()]
    ]


def problems(notebook: dict) -> list[str]:
    """What keeps a notebook from being stored: an empty list if nothing does."""
    found = []
    kernel = notebook["metadata"].get("kernelspec", {})
    if (kernel.get("name"), kernel.get("display_name")) != ("python3", "Python 3 (ipykernel)"):
        # under another name, JupyterLab opens it as changed
        found.append("the kernelspec is not python3, named as ipykernel does")
    if "papermill" in notebook["metadata"] or "widgets" in notebook["metadata"]:
        found.append("metadata of papermill or of widgets")
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    if not code:
        found.append("no code cells")
    counts = [cell["execution_count"] for cell in code]
    if counts != list(range(1, len(code) + 1)):
        found.append(f"execution counts are {counts}, not 1 to {len(code)}: run it from top to bottom (make bless)")
    for index, cell in enumerate(notebook["cells"]):
        if {"papermill", "execution"} & cell["metadata"].keys() or "injected-parameters" in cell["metadata"].get(
            "tags", []
        ):
            found.append(f"cell {index}: metadata of an execution")
        texts = [cell["source"]]
        if cell["cell_type"] == "code":
            if not cell["source"].strip():
                found.append(f"cell {index}: empty")
            if len(cell["source"].splitlines()) > MAX_CELL_LINES:
                found.append(f"cell {index}: more than {MAX_CELL_LINES} lines")
            if any(output["output_type"] == "error" for output in cell["outputs"]):
                found.append(f"cell {index}: ended in an error")
            kinds = {kind for output in cell["outputs"] for kind in output.get("data", {})}
            if WIDGET in kinds and "nbval-ignore-output" not in cell["metadata"].get("tags", []):
                found.append(f"cell {index}: a widget or progress bar in an output that nbval compares")
            views = [view for output in cell["outputs"] if (view := output.get("data", {}).get(WIDGET))]
            if any(view.get("model_id") != "not kept" for view in views):
                found.append(f"cell {index}: the random name of a widget that is gone: run make bless")
            texts += [text for output in cell["outputs"] for text in output_texts(output)]
        for path in machine_paths("\n".join(texts)):
            found.append(f"cell {index}: names a place on one machine, {path}")
    if code and "parameters" in code[0]["metadata"].get("tags", []):
        found += [f"parameters cell: {line!r} is not a literal" for line in not_literal(code[0]["source"])]
    return found


def not_literal(source: str) -> list[str]:
    """The statements of a parameters cell that are anything but `name = literal`."""
    found = []
    for statement in ast.parse(source).body:
        value = statement.value if isinstance(statement, ast.Assign | ast.AnnAssign) else None
        try:
            ast.literal_eval(value)
        except (ValueError, TypeError):
            found.append(ast.unparse(statement))
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_stored_notebook_is_clean(path):
    assert problems(nbformat.read(path, as_version=4)) == []


def test_notebooks_hold_little_code():
    cells = [cell for path in NOTEBOOKS for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    assert sum(len("".join(c["source"]).splitlines()) for c in cells if c["cell_type"] == "code") <= MAX_LINES


def test_every_notebook_is_in_the_one_glob():
    assert NOTEBOOKS, "no notebooks: nbval would check nothing"
    assert [path.name for path in NOTEBOOKS if not re.fullmatch(r"\d\d_\w+\.ipynb", path.name)] == []


def clean_notebook() -> dict:
    cells = [nbformat.v4.new_markdown_cell("# Title"), nbformat.v4.new_code_cell("steps = 3", execution_count=1)]
    cells[1]["metadata"]["tags"] = ["parameters"]
    printed = nbformat.v4.new_output("stream", name="stdout", text="3\n")
    cells.append(nbformat.v4.new_code_cell("print(steps)", execution_count=2, outputs=[printed]))
    return nbformat.v4.new_notebook(
        cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)"}}
    )


def change(path: list, value) -> callable:
    """A function that sets notebook[path[0]][path[1]]... to `value`."""

    def apply(notebook):
        for key in path[:-1]:
            notebook = notebook[key]
        notebook[path[-1]] = value

    return apply


@pytest.mark.parametrize(
    "spoil",
    [
        change(["metadata", "kernelspec", "name"], "lsvd"),
        change(["metadata", "kernelspec", "display_name"], "Python 3"),
        change(["metadata", "papermill"], {"duration": 1.0}),
        change(["cells", 1, "execution_count"], None),
        change(["cells", 2, "execution_count"], 7),
        change(["cells", 2, "metadata", "execution"], {"iopub.execute_input": "now"}),
        change(["cells", 2, "source"], "\n".join("x = 1" for _ in range(MAX_CELL_LINES + 1))),
        change(["cells", 2, "source"], "open('/home/ada/x.png')"),
        change(["cells", 1, "source"], "steps = 3\nhalf = steps // 2"),
        change(["cells", 2, "outputs", 0, "text"], "saved to /tmp/x.png"),
        change(["cells", 2, "outputs", 0, "text"], f"saved to {ROOT}/outputs"),
        change(["cells", 2, "outputs", 0], nbformat.v4.new_output("display_data", data={WIDGET: {}})),
        change(["cells", 2, "outputs", 0], nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])),
        change(["cells", 2, "outputs", 0], nbformat.v4.new_output("execute_result", data={"text/plain": "'/root/x'"})),
    ],
)
def test_the_check_finds_what_it_looks_for(spoil):
    notebook = clean_notebook()
    assert problems(notebook) == []
    spoil(notebook)
    assert problems(copy.deepcopy(notebook)) != []


# Pins


def pins(name: str) -> dict[str, str]:
    """Package to version, from a file of `package==version` lines."""
    lines = [line.strip() for line in (ROOT / name).read_text().splitlines()]
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs), f"{name}: every line pins one package exactly"
    assert len({canonicalize_name(name) for name, _ in pairs}) == len(pairs), f"{name}: a package is pinned twice"
    return {canonicalize_name(name): version for name, version in pairs}


def test_conda_environment_is_in_step_with_the_pins():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    listed = next(entry["pip"] for entry in dependencies if isinstance(entry, dict))
    conda = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in listed if "==" in line}
    assert conda == pins("requirements.txt") | pins("constraints.txt"), "run make pins"
    python = next(entry.split("=")[1] for entry in dependencies if str(entry).startswith("python="))
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python)


def test_pins_are_what_the_project_names():
    named = [Requirement(line) for line in PROJECT["dependencies"]]
    named += [Requirement(line) for extra in PROJECT["optional-dependencies"].values() for line in extra]
    pinned = pins("requirements.txt")
    assert {canonicalize_name(requirement.name) for requirement in named} == set(pinned)
    outside = [str(r) for r in named if not r.specifier.contains(pinned[canonicalize_name(r.name)])]
    assert outside == [], "pinned outside of the range that pyproject.toml allows"
    assert set(pinned).isdisjoint(pins("constraints.txt"))


# Package and weights


def test_wheel_holds_every_module_and_every_weight(tmp_path):
    """Built from a copy with empty weights: the names are what counts, and nothing is written into this folder."""
    files = [
        path.relative_to(ROOT)
        for path in (ROOT / "lsvd").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    ]
    for path in [*files, Path("lsvd/weights/some-model/unet/model.safetensors"), Path("lsvd/weights/top.json")]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".py":
            shutil.copy(ROOT / path, tmp_path / path)
        else:
            (tmp_path / path).touch()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        "dist",
        ".",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    held = zipfile.ZipFile(next((tmp_path / "dist").glob("*.whl"))).namelist()
    expected = {str(path.relative_to(tmp_path)) for path in (tmp_path / "lsvd").rglob("*") if path.is_file()}
    assert expected - set(held) == set()
    assert {name for name in held if ".dist-info/" not in name} <= expected


def test_weights_are_small_and_plain():
    files = [path for path in WEIGHTS.rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert sum(path.stat().st_size for path in files) <= MAX_WEIGHT_BYTES
    plain = (".safetensors", ".json", ".txt")
    assert [str(path) for path in files if path.suffix not in plain and path.name != "SHA256SUMS"] == []
    for path in files:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as tensors:
                assert len(list(tensors.keys())) > 0
        elif path.suffix == ".json":
            text = path.read_text(encoding="utf-8")
            json.loads(text)
            # diffusers notes the folder that a part was read from
            assert machine_paths(text) == [] and "_name_or_path" not in text, path
        else:
            path.read_text(encoding="utf-8")


# Commands


def make_targets() -> dict[str, str]:
    """Target to help text, from the Makefile's own comments."""
    return dict(re.findall(r"^([a-z]+):.*?## (.+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("name", ["README.md", ".ci/run", "environment.yml"])
def test_named_make_commands_exist(name):
    text = (ROOT / name).read_text()
    named = set(re.findall(r"(?:^|`|&& |then `|exec )make ([a-z]+)", text, flags=re.MULTILINE))
    assert named, f"{name} names no make command"
    assert named - make_targets().keys() == set()


def test_workflow_runs_the_same_script_and_every_python():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"]
    commands = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    *browser, test = commands.pop("test")
    assert test == ".ci/run ${{ matrix.paths }}" and commands == {"pages": ["make docs"]}
    assert browser == ["make env", ".venv/bin/python -m playwright install --with-deps chromium"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    runs = {run["python"]: run["paths"] for run in jobs["test"]["strategy"]["matrix"]["include"]}
    assert runs.pop("3.11") == "", "one of them checks everything"
    assert len(runs) >= 2 and all((ROOT / path).is_dir() for path in runs.values())
    assert all(Requirement(f"python{PROJECT['requires-python']}").specifier.contains(version) for version in runs)


def test_modules_that_the_makefile_runs_exist():
    modules = re.findall(r"-m ((?:lsvd|tools|benchmarks)[\w.]*)", (ROOT / "Makefile").read_text())
    assert {"lsvd", "tools.reproduce", "tools.bless", "benchmarks.speed"} <= set(modules)
    places = [ROOT / name.replace(".", "/") for name in modules]
    assert [str(p) for p in places if not p.with_suffix(".py").is_file() and not (p / "__main__.py").is_file()] == []


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
