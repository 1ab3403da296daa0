"""make runs what it should and leaves alone the rest: the Makefile itself, with a stand-in for Python.

In a folder of its own the notebooks are shell scripts, and the interpreter is one that runs them as papermill would.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from lsvd.paths import outputs

ROOT = Path(__file__).resolve().parents[2]
PAPERMILL = """#!/bin/sh
[ "$2" = papermill ] || { echo "$@" >> commands.txt; exit 0; }
echo "$3" | sed 's,.*/,,; s,_.*,,' >> runs.txt
echo "$@" > arguments.txt
sleep 0.05
sh "$3" && cp "$3" "$4"
"""
NOTEBOOKS = {
    "00_one": 'echo "$LSVD_OUTPUTS" > "$LSVD_OUTPUTS/figures/00 first.png"; touch outputs/figures/.00.tmp',
    "01_two": "for i in 1 2; do echo $i > outputs/tables/01_$i.csv; done",
    "02_none": "true",
}


@pytest.fixture
def repository(tmp_path):
    """A folder with the Makefile and what it reads, in whose name there is a space."""
    home = tmp_path / "a clone"
    for folder in ("env/bin", "lsvd", "notebooks"):
        (home / folder).mkdir(parents=True)
    for name in ("Makefile", "requirements.txt", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, home / name)
    (home / "lsvd" / "module.py").touch()
    (home / "env" / "bin" / "python").write_text(PAPERMILL)
    (home / "env" / "bin" / "python").chmod(0o755)
    for name, script in NOTEBOOKS.items():
        (home / "notebooks" / f"{name}.ipynb").write_text(script)
    return home


def make(home, *arguments):
    # what an outer make passes on, `make test`, is not for this one
    outer = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "GNUMAKEFLAGS"}
    outer |= {"NOTEBOOKS", "PARAMS", "BACKBONE", "DEVICE"}
    env = {name: value for name, value in os.environ.items() if name not in outer}
    return subprocess.run(["make", "USE_ENV=env", *arguments], cwd=home, env=env, capture_output=True, text=True)


def reproduce(home, *arguments):
    """Run `make reproduce`; the numbers of the notebooks that ran."""
    (home / "runs.txt").write_text("")
    done = make(home, "reproduce", *arguments)
    assert done.returncode == 0, done.stderr
    assert "outputs/notebooks: 3 up to date" in done.stdout and not done.stderr
    return sorted((home / "runs.txt").read_text().split())


def test_what_is_up_to_date_does_not_run_again(repository):
    assert reproduce(repository) == ["00", "01", "02"]
    assert reproduce(repository) == reproduce(repository, "-n") == []


@pytest.mark.parametrize(
    ("gone", "runs"),
    [
        ("figures/00 first.png", ["00"]),
        ("tables/01_1.csv", ["01"]),
        ("tables/01_2.csv", ["01"]),
        ("figures", ["00"]),
        ("notebooks/02_none.ipynb", ["02"]),
        ("notebooks/.01_two.wrote", ["01"]),
        ("notebooks", ["00", "01", "02"]),
        (".", ["00", "01", "02"]),
    ],
)
def test_what_was_deleted_is_made_again(repository, gone, runs):
    reproduce(repository)
    place = repository / "outputs" / gone
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    assert reproduce(repository) == runs
    assert place.exists() and reproduce(repository) == []


def test_results_of_others_are_not_missed(repository):
    other = repository / "outputs" / "figures" / "samples.png"
    other.parent.mkdir(parents=True)
    other.touch()
    reproduce(repository)
    other.unlink()
    (repository / "outputs" / "figures" / ".00.tmp").unlink()
    assert reproduce(repository) == []


def test_side_by_side_they_come_to_rest(repository):
    assert reproduce(repository, "-j3") == ["00", "01", "02"]
    assert reproduce(repository, "-j3") == []
    (repository / "outputs" / "tables" / "01_1.csv").unlink()
    assert "01" in reproduce(repository, "-j3")
    assert reproduce(repository) == []


def test_what_changed_runs_again(repository):
    reproduce(repository)
    notebook = repository / "notebooks" / "01_two.ipynb"
    notebook.write_text(NOTEBOOKS["01_two"] + "; true")
    assert reproduce(repository) == ["01"]
    for change in (
        lambda: (repository / "lsvd" / "module.py").write_text("x = 1\n"),
        lambda: (repository / "lsvd" / "other.py").touch(),
        lambda: (repository / "lsvd" / "other.py").unlink(),
        lambda: (repository / "constraints.txt").write_text("\n"),
    ):
        change()
        assert reproduce(repository) == ["00", "01", "02"]
    assert reproduce(repository, "BACKBONE=mini-cats") == ["00", "01", "02"]
    assert reproduce(repository, "BACKBONE=mini-cats") == []
    assert reproduce(repository, "BACKBONE=mini-cats", "DEVICE=cuda") == ["00", "01", "02"]
    assert " -p backbone mini-cats -p device cuda" in (repository / "arguments.txt").read_text()


def test_what_failed_is_not_taken_for_done(repository):
    reproduce(repository)
    notebook = repository / "notebooks" / "01_two.ipynb"
    notebook.write_text("cp notebooks/01_two.ipynb outputs/notebooks/01_two.failed.ipynb; exit 1")
    for _ in range(2):
        done = make(repository, "reproduce")
        assert done.returncode != 0 and not (repository / "outputs" / "notebooks" / "01_two.ipynb").exists()
        told = "notebooks/01_two.ipynb did not finish; what it got done is in outputs/notebooks/01_two.failed.ipynb"
        assert told in done.stderr
    notebook.write_text(NOTEBOOKS["01_two"])
    assert reproduce(repository) == ["01"]


def test_results_go_to_outputs_whatever_is_set_outside(repository):
    assert "LSVD_OUTPUTS" in os.environ
    reproduce(repository)
    assert (repository / "outputs" / "figures" / "00 first.png").read_text().strip() == str(repository / "outputs")


@pytest.mark.parametrize("command", ["reproduce", "bless"])
@pytest.mark.parametrize("folder", ["outputs", "outputs/figures", "outputs/tables", "outputs/notebooks"])
def test_a_folder_that_cannot_be_written_is_one_sentence(repository, command, folder):
    (repository / folder).parent.mkdir(exist_ok=True)
    (repository / folder).touch()
    done = make(repository, command)
    assert done.returncode != 0 and not (repository / "runs.txt").exists()
    assert not (repository / "commands.txt").exists()
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    [told] = lines
    assert told.startswith(f"cannot write to the folder {folder}") and told.endswith(
        ": make it writable, or move away what stands in its place"
    )


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_folder(repository):
    (repository / "outputs" / "figures").mkdir(parents=True)
    (repository / "outputs" / "figures").chmod(0o500)
    done = make(repository, "reproduce")
    assert done.returncode != 0 and "cannot write to the folder outputs/figures: make it writable" in done.stderr


@pytest.mark.parametrize("python", ["no-such-python", "./old"])
def test_a_python_that_will_not_do_is_one_sentence(repository, python):
    (repository / "old").write_text("#!/bin/sh\nexit 1\n")
    (repository / "old").chmod(0o755)
    done = make(repository, "USE_ENV=", "env", f"PYTHON={python}")
    [told] = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode != 0 and told.startswith(f"Python 3.11 or later is needed, and {python} is older or missing")


def test_help_tells_of_files_that_the_commands_write():
    help_of = dict(line.split(None, 2)[1:] for line in make(ROOT, "help").stdout.splitlines())
    for command, module in (("measure", "lsvd/testbed/evaluate.py"), ("bench", "benchmarks/speed.py")):
        named = [word.strip(",") for word in help_of[command].replace("/", " ").split() if ".csv" in word]
        assert named and all(f'"{name}"' in (ROOT / module).read_text() for name in named)


def test_clean_spares_results(repository):
    reproduce(repository)
    for name in ("outputs/notebooks/01_two.failed.ipynb", "outputs/cache/x", "lsvd/__pycache__/x", "runs/x"):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).touch()
    assert make(repository, "clean").returncode == 0
    there = {str(path.relative_to(repository)) for path in repository.rglob("*")}
    assert {"outputs/cache/x", "runs/x", "outputs/figures/00 first.png", "outputs/notebooks/01_two.ipynb"} <= there
    assert there.isdisjoint({"outputs/notebooks/01_two.failed.ipynb", "lsvd/__pycache__"})
    assert reproduce(repository) == []


# Tests leave results alone

WRITES = """import json
from lsvd.paths import outputs
from lsvd.storage.files import write_bytes
path = write_bytes(outputs("figures", "mine.png"), b"")
with open("where.json", "w") as file:
    json.dump([str(path), str(outputs())], file)
"""


def test_tests_write_elsewhere():
    assert not outputs().is_relative_to(ROOT) and outputs().is_dir()


def test_notebooks_under_test_write_elsewhere(tmp_path):
    """nbval, with the conftest.py of this repository, on a notebook that writes a figure that is there already."""
    figure = tmp_path / "outputs" / "figures" / "mine.png"
    figure.parent.mkdir(parents=True)
    figure.write_bytes(b"mine")
    cell = nbformat.v4.new_code_cell(WRITES, execution_count=1)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "00_one.ipynb")
    shutil.copy(ROOT / "conftest.py", tmp_path)
    (tmp_path / "measurements").mkdir()
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-p", "no:cacheprovider", "."]
    env = os.environ | {"LSVD_OUTPUTS": str(tmp_path / "outputs")}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout
    assert figure.read_bytes() == b"mine"
    wrote, folder = map(Path, json.loads((tmp_path / "where.json").read_text()))
    assert wrote.is_relative_to(folder) and not folder.is_relative_to(ROOT)
    assert not folder.exists(), "the temporary folder is still there"
