"""make runs what it should and leaves alone the rest: the Makefile and its tools, with a stand-in for papermill.

A folder of its own has a small package, and notebooks that are executed in the process that would start their kernel.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from clones import (
    NOTEBOOKS,
    PARAMETERS,
    ROOT,
    VARIABLES,
    complaint,
    environment,
    figure,
    make,
    reproduce,
    small_clone,
    start,
    wait_for,
    write_notebook,
)

from lsvd.paths import outputs


@pytest.fixture
def clone(tmp_path):
    return small_clone(tmp_path / "a clone's größe; $x")


# What is stale


def test_what_is_up_to_date_does_not_run_again(clone):
    assert reproduce(clone) == ["00", "01", "02"]
    assert reproduce(clone) == []
    for path in clone.rglob("*"):
        os.utime(path, (time.time() - 10**6,) * 2)
    assert reproduce(clone) == reproduce(clone, "-j4") == []


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("outputs/figures/00 first.png", ["00"]),
        ("outputs/tables/01_2.csv", ["01"]),
        ("outputs/tables/verdicts.csv", ["01", "02"]),
        ("build/notebooks/02_none.ipynb", ["02"]),
        ("build/notebooks/01_two.json", ["01"]),
    ],
)
def test_results_that_are_gone_or_changed_come_again(clone, name, runs):
    reproduce(clone)
    path = clone / name
    whole, date = path.read_bytes(), path.stat().st_mtime
    for spoil in (path.unlink, lambda: path.write_bytes(whole[:-1]), lambda: path.write_bytes(b"\0" + whole[1:])):
        spoil()
        if path.exists():
            os.utime(path, (date, date))
        if name.endswith("verdicts.csv") and path.exists():
            path.unlink()  # a damaged one is refused by the notebook itself
        assert reproduce(clone) == runs and path.exists()
    assert reproduce(clone) == []


@pytest.mark.parametrize("folder", ["outputs/figures", "outputs", "build", "build/notebooks"])
def test_folders_that_are_gone_come_again(clone, folder):
    reproduce(clone)
    shutil.rmtree(clone / folder)
    assert reproduce(clone) == (["00"] if folder.endswith("figures") else ["00", "01", "02"])
    assert reproduce(clone) == []


def test_figures_behind_a_link_are_missed(clone, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (clone / "outputs").mkdir()
    (clone / "outputs/figures").symlink_to(tmp_path / "elsewhere")
    reproduce(clone)
    (tmp_path / "elsewhere/00 first.png").unlink()
    assert reproduce(clone) == ["00"]


def test_results_of_others_and_unfinished_files_are_not_missed(clone):
    other = clone / "outputs/figures/samples.png"
    other.parent.mkdir(parents=True)
    other.touch()
    reproduce(clone)
    other.unlink()
    (clone / "outputs/figures/.00.tmp").unlink()
    assert reproduce(clone) == []


ALL = ["00", "01", "02"]
CHANGES = {
    "lsvd/first.py": ["00"],
    "lsvd/deep/second.py": ["01"],
    "lsvd/deep/third.py": ["01"],
    "lsvd/paths.py": ALL,
    "lsvd/unused.py": [],
    "benchmarks/speed.py": [],
    "lsvd/weights/m/model.safetensors": ALL,
    "lsvd/weights/new.json": ALL,
    "lsvd/weights/m/.model.safetensors.ab12.tmp": [],
    "measurements/a/one.safetensors": ["00"],
    "measurements/a/two.safetensors": ["00"],
    "measurements/b/three.safetensors": [],
    "README.md": [],
}


def test_what_changed_runs_again_and_nothing_else(clone):
    reproduce(clone)
    for name, runs in CHANGES.items():
        path = clone / name
        path.parent.mkdir(exist_ok=True)
        with open(path, "ab") as file:
            file.write(b"# a remark\n")
        os.utime(path, (0, 0))
        assert reproduce(clone) == runs, name
    assert reproduce(clone) == []


def test_a_notebook_runs_again_for_its_cells_and_not_for_its_outputs(clone):
    reproduce(clone)
    path = clone / "notebooks/02_none.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="a line")]
    nbformat.write(notebook, path)
    assert reproduce(clone) == []
    notebook.cells[1].source += "\npass"
    nbformat.write(notebook, path)
    assert reproduce(clone) == ["02"]


def test_pins_count_and_remarks_on_them_do_not(clone):
    reproduce(clone)
    pins = clone / "constraints.txt"
    pins.write_text("# a remark\n" + pins.read_text())
    assert reproduce(clone) == []
    pins.write_text(pins.read_text() + "another==1.0\n")
    assert reproduce(clone) == ALL


# Parameters


def test_parameters_reach_the_notebooks_that_declare_them(clone):
    reproduce(clone)
    assert figure(clone) == {"backbone": "mini-sd", "device": "cpu", "count": 2, "names": ["a"]}
    (clone / "my file.yml").write_text("count: 5\nnames: [x, 'y z']\n")
    assert reproduce(clone, "PARAMS=my file.yml") == ["00"]
    assert figure(clone)["count"] == 5 and figure(clone)["names"] == ["x", "y z"]
    assert reproduce(clone, "PARAMS=my file.yml") == []
    (clone / "my file.yml").write_text("# the same\ncount: 5\nnames: [x, 'y z']\n")
    assert reproduce(clone, "PARAMS=my file.yml") == []
    (clone / "my file.yml").write_text("count: 6\nbackbone: other\n")
    assert reproduce(clone, "PARAMS=my file.yml") == ["00", "01"] and figure(clone)["count"] == 6
    assert reproduce(clone, "PARAMS=my file.yml", "BACKBONE=2024", "DEVICE=cuda") == ["00", "01"]
    assert figure(clone) == {"backbone": "2024", "device": "cuda", "count": 6, "names": ["a"]}
    assert reproduce(clone) == ["00", "01"]


def test_a_folder_is_looked_up_where_make_is_typed_and_counts_by_content(clone):
    folder = clone / 'my models\' "best" $1'
    folder.mkdir()
    (folder / "model_index.json").write_text("{}")
    arguments = {"BACKBONE": folder.name}
    assert reproduce(clone, **arguments) == ALL
    assert figure(clone)["backbone"] == str(folder)
    assert reproduce(clone, **arguments) == []
    (folder / "unet.safetensors").write_bytes(b"new")
    os.utime(folder / "unet.safetensors", (0, 0))
    assert reproduce(clone, **arguments) == ["00", "01"]


HOSTILE = [
    "x; touch ran",
    "$(touch ran)",
    "`touch ran`",
    "$(shell touch ran)",
    "${eval X:=$(shell touch ran)}",
    "x' ; touch ran ; '",
    'x" ; touch ran ; "',
    "| touch ran &",
    "$HOME $$ \\ * ~",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_values_arrive_as_they_are_and_run_nothing(clone, value):
    doubled = {"BACKBONE": value, "DEVICE": value}
    assert reproduce(clone, **doubled) == ALL
    assert figure(clone)["backbone"] == value == figure(clone)["device"]
    assert reproduce(clone, *(f"{name}={value}" for name in doubled)) == []
    every = {name: value for name in VARIABLES if name != "USE_ENV"}
    for arguments, extra in (([f"{name}={value}" for name in every], {}), ([], every)):
        for target in ("reproduce", "train", "test"):
            make(clone, target, *arguments, **extra)
        make(clone, "env", "USE_ENV=", *arguments, **extra)
    command = ["make", "reproduce"]
    for arguments, extra in (([f"USE_ENV={value}"], {}), ([], {"USE_ENV": value})):
        done = subprocess.run(
            command + arguments, cwd=clone, env=environment(**extra), capture_output=True, text=True, check=False
        )
        assert "there is no Python at" in complaint(done)
    assert not list(clone.rglob("ran"))


# ten to the twelfth texts, if they were written out
BOMB = "names: [" + ", ".join(["&a0 [x]", *(f"&a{i + 1} [{', '.join([f'*a{i}'] * 10)}]" for i in range(12))]) + "]"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("samples: 3", "no notebook has a parameter 'samples': choose from backbone, count, device, names"),
        ("'x = 1; import os': 3", "no notebook has a parameter 'x = 1; import os'"),
        ("count: many", "count is a whole number in notebooks/00_one.ipynb, not 'many'"),
        ("count: 1.5", "count is a whole number in notebooks/00_one.ipynb, not 1.5"),
        ("count: true", "count is a whole number"),
        ("count:", "count is a whole number in notebooks/00_one.ipynb, not None"),
        ("share: yes", "share is a number in notebooks/00_one.ipynb, not True"),
        ("quiet: 1", "quiet is true or false"),
        ("backbone: 2024", "backbone is a text in notebooks/00_one.ipynb, not 2024"),
        ("backbone: 2024-01-01", "backbone is a text"),
        ("names: a", "names is a list (each a text) in notebooks/00_one.ipynb, not 'a'"),
        ("names: [1]", "names is a list (each a text)"),
        ("words: [1]", "words is a map"),
        ("words: {a: 1}", "words is a map"),
        (BOMB, "names is a list (each a text)"),
        ("count: !!python/object/apply:os.system ['touch ran']", "is not plain YAML in line 1"),
        ("count: [", "is not plain YAML in line"),
        ("[" * 5000, "is not plain YAML"),
        ("- count", "holds no `name: value` lines"),
        ("3: 4", "holds no `name: value` lines"),
        (b"\xff\xfe\xfa: 1", "is not plain YAML"),
        (None, "cannot read p.yml (No such file or directory)"),
    ],
)
def test_a_parameter_that_will_not_do_is_one_sentence(clone, text, told):
    if text is not None:
        (clone / "p.yml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert told in complaint(make(clone, "reproduce", "PARAMS=p.yml"))
    assert not (clone / "runs.txt").exists() and not (clone / "ran").exists()


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("BACKBONE=./nowhere", "BACKBONE: there is no folder "),
        ("BACKBONE=lsvd", "holds no model of diffusers (no model_index.json)"),
        ("PARAMS=lsvd", "PARAMS: cannot read lsvd (Is a directory)"),
        ("CELL_TIMEOUT=soon", "CELL_TIMEOUT is a whole number of seconds, not 'soon'"),
        ("CELL_TIMEOUT=9999999999", "CELL_TIMEOUT is a whole number of seconds, not '9999999999'"),
        ("CELL_TIMEOUT=0", "CELL_TIMEOUT is a whole number of seconds, not '0'"),
        ("NOTEBOOKS=notebooks/09.ipynb", "NOTEBOOKS: there is no 'notebooks/09.ipynb': choose from notebooks/00_one"),
        ("NOTEBOOKS=/etc/passwd", "NOTEBOOKS: there is no '/etc/passwd'"),
        ("USE_ENV=nowhere", "there is no Python at nowhere/bin/python: name an environment, or leave USE_ENV out"),
    ],
)
def test_a_variable_that_will_not_do_is_one_sentence(clone, argument, told):
    assert told in complaint(make(clone, "reproduce", argument))
    assert not (clone / "runs.txt").exists()


def test_notebooks_can_be_named(clone):
    (clone / "runs.txt").touch()
    done = make(clone, "reproduce", "NOTEBOOKS=./notebooks/02_none.ipynb notebooks/00_one.ipynb")
    assert "2 up to date" in done.stdout and (clone / "runs.txt").read_text().split() == ["00", "02"]
    assert reproduce(clone) == ["01"]


# Failures, stops, and two at once


def test_what_failed_is_not_taken_for_done_and_the_earlier_result_stays(clone):
    reproduce(clone)
    earlier = (clone / "build/notebooks/01_two.ipynb").read_bytes()
    write_notebook(clone / "notebooks/01_two.ipynb", "raise ValueError('there is no such thing')")
    for _ in range(2):
        done = make(clone, "reproduce")
        told = "notebooks/01_two.ipynb did not finish; what it got done is in build/notebooks/01_two.failed.ipynb"
        assert done.returncode != 0 and done.stderr.splitlines()[:2] == ["ValueError: there is no such thing", told]
        assert (clone / "build/notebooks/01_two.ipynb").read_bytes() == earlier
    write_notebook(clone / "notebooks/01_two.ipynb", NOTEBOOKS["01_two"], PARAMETERS["01_two"])
    assert reproduce(clone) == []


def test_the_others_run_under_make_k(clone):
    write_notebook(clone / "notebooks/00_one.ipynb", "1 / 0")
    assert make(clone, "reproduce").returncode != 0 and not (clone / "build/notebooks/01_two.ipynb").exists()
    done = make(clone, "-k", "reproduce", "BACKBONE=kk")
    assert done.returncode != 0 and "notebooks/00_one.ipynb did not finish" in done.stderr
    assert (clone / "build/notebooks/01_two.ipynb").exists() and (clone / "build/notebooks/02_none.ipynb").exists()


def test_a_damaged_notebook_is_one_sentence(clone):
    (clone / "notebooks/01_two.ipynb").write_text('{"cells": [')
    assert complaint(make(clone, "reproduce")) == ("notebooks/01_two.ipynb is damaged: restore it with `git checkout`")


def test_two_at_once_both_end_well(clone):
    write_notebook(clone / "notebooks/00_one.ipynb", "import time; time.sleep(1.5)")
    first = start(clone, "reproduce")
    wait_for((clone / "runs.txt").exists)
    second = start(clone, "reproduce")
    told = [process.communicate(timeout=60) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0] and [errors for _, errors in told] == ["", ""]
    assert told[1][0].startswith("another make reproduce or make bless runs in this clone: waiting for its end\n")
    assert sorted((clone / "runs.txt").read_text().split()) == ALL


SLOW = """import subprocess, time, os
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
os.chdir(os.environ["PYTHONPATH"])
with open("now.txt", "w") as file:
    file.write(f"{child.pid} {os.getpid()}")
os.rename("now.txt", "pids.txt")
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_ends_all_that_make_started(clone, number):
    """Ctrl-C reaches the whole group of a terminal's foreground; the others go to make alone."""
    write_notebook(clone / "notebooks/01_two.ipynb", SLOW)
    running = start(clone, "reproduce")
    child, parent = map(
        int, wait_for(lambda: (clone / "pids.txt").exists() and (clone / "pids.txt").read_text().split())
    )
    whole = number in (signal.SIGINT, signal.SIGHUP)
    os.killpg(running.pid, number) if whole else os.kill(running.pid, number)
    told, errors = running.communicate(timeout=60)
    assert running.returncode != 0
    wait_for(
        lambda: not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in (child, parent))
    )
    sentence = "stopped: 1 of 3 notebooks are up to date and kept, notebooks/01_two.ipynb starts again next time"
    assert [line for line in errors.splitlines() if not line.startswith("make")] == [sentence]
    write_notebook(clone / "notebooks/01_two.ipynb", NOTEBOOKS["01_two"], PARAMETERS["01_two"])
    assert reproduce(clone) == ["01", "02"]


def test_a_table_that_stays_is_named_in_one_line(clone):
    """As on another processor: the stored table has another last digit, and all is executed."""
    reproduce(clone)
    table = clone / "outputs/tables/verdicts.csv"
    text = table.read_text().replace("0.5", "0.5000001")
    table.write_text(text)
    shutil.rmtree(clone / "build")
    done = make(clone, "reproduce")
    assert done.returncode == 0 and table.read_text() == text
    told = "left as they are, for they differ by rounding only: outputs/tables/verdicts.csv"
    assert done.stdout.count(told) == 2
    assert reproduce(clone) == []


# Surroundings


def test_results_go_to_outputs_whatever_is_set_outside(clone, tmp_path):
    assert "LSVD_OUTPUTS" in os.environ
    elsewhere = str(tmp_path / "elsewhere")
    assert reproduce(clone, LSVD_OUTPUTS=elsewhere, LSVD_MEASUREMENTS=elsewhere, PYTHONOPTIMIZE="1") == ALL
    assert (clone / "outputs/figures/00 first.png").exists() and not Path(elsewhere).exists()


@pytest.fixture
def other_environment(clone, tmp_path):
    """An environment that was made for another clone."""
    other = tmp_path / "other"
    shutil.copytree(clone / "lsvd", other / "lsvd")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", other / ".venv"], check=True)
    site = next((other / ".venv").glob("lib/python*/site-packages"))
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    (site / "others.pth").write_text(f"{other}\n{ours}\n")
    return other / ".venv"


def test_the_package_is_this_clones_whatever_the_environment_was_made_for(clone, other_environment):
    write_notebook(clone / "notebooks/02_none.ipynb", "import lsvd; write_bytes('../where', lsvd.__file__.encode())")
    assert reproduce(clone, f"USE_ENV={other_environment}") == ALL
    assert (clone / "where").read_text() == str(clone / "lsvd/__init__.py")
    moved = clone.rename(clone.parent / "moved: away")
    done = make(moved, "reproduce", f"USE_ENV={other_environment}")
    assert f"imports lsvd from {other_environment.parent}, not from this clone, {moved}" in complaint(done)


@pytest.mark.parametrize("command", ["reproduce", "bless"])
@pytest.mark.parametrize("folder", ["outputs", "outputs/figures", "outputs/tables", "build/notebooks", "build"])
def test_a_folder_that_cannot_be_written_is_one_sentence(clone, command, folder):
    (clone / folder).parent.mkdir(exist_ok=True)
    (clone / folder).touch()
    told = complaint(make(clone, command))
    assert told.startswith(f"cannot write to the folder {folder}") and told.endswith(
        ": make it writable, or move away what stands in its place"
    )
    assert not (clone / "runs.txt").exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_folder(clone):
    (clone / "outputs/figures").mkdir(parents=True)
    (clone / "outputs/figures").chmod(0o500)
    assert "cannot write to the folder outputs/figures: make it writable" in complaint(make(clone, "reproduce"))


FRESH = """#!/bin/sh
case "$*" in
  "-m venv .venv") echo >> venvs.txt; sleep 1; mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
  "-m pip"*) printf '%s\\n' "$@" >> pip.txt ;;
  *) exec {python} "$@" ;;
esac
"""


def test_the_environment_is_made_once(clone):
    (clone / "my python").write_text(FRESH.format(python=sys.executable))
    (clone / "my python").chmod(0o755)
    arguments = ("env", "USE_ENV=", "PYTHON=./my python", "TORCH_INDEX=https://a/$(b) c")
    both = [start(clone, *arguments) for _ in range(2)]
    assert [process.communicate(timeout=60)[1].count("rror") for process in both] == [0, 0]
    assert [process.returncode for process in both] == [0, 0] and (clone / "venvs.txt").read_text() == "\n"
    told = (clone / "pip.txt").read_text().splitlines()
    assert told[told.index("--extra-index-url") + 1] == "https://a/$(b) c" and told.count("--editable") == 1
    make(clone, *arguments)
    assert (clone / "pip.txt").read_text().splitlines() == told
    assert reproduce(clone, "USE_ENV=", "PYTHON=./my python") == ALL


@pytest.mark.parametrize("python", ["no-such-python", "./old"])
def test_a_python_that_will_not_do_is_one_sentence(clone, python):
    (clone / "old").write_text("#!/bin/sh\nexit 1\n")
    (clone / "old").chmod(0o755)
    told = complaint(make(clone, "USE_ENV=", "env", f"PYTHON={python}"))
    assert told.startswith(f"Python 3.11 or later is needed, and {python} is older or missing")


def test_commands_run_the_package(clone):
    for target in ("train", "measure", "survey", "edits"):
        make(clone, target, "MODELS=one two")
    told = (clone / "commands.txt").read_text().split("\n")
    assert " ".join(told) == ("train one train two -m lsvd evaluate -m lsvd survey -m lsvd study ")


def test_help_tells_of_files_that_the_commands_write():
    help_of = dict(line.split(None, 2)[1:] for line in make(ROOT, "help").stdout.splitlines())
    for command, module in (("measure", "lsvd/testbed/evaluate.py"), ("bench", "benchmarks/speed.py")):
        named = [word.strip(",") for word in help_of[command].replace("/", " ").split() if ".csv" in word]
        assert named and all(f'"{name}"' in (ROOT / module).read_text() for name in named)


def test_clean_spares_results(clone):
    reproduce(clone)
    old = ["build/notebooks/01_two.failed.ipynb", "build/lib/x", "lsvd/__pycache__/x", "lsvd/weights/.m.ab12.tmp"]
    spared = ["build/cache/x", "runs/x", "lsvd/weights/.now.ab12.tmp"]
    for name in old + spared:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).touch()
    os.utime(clone / "lsvd/weights/.m.ab12.tmp", (0, 0))
    assert make(clone, "clean").returncode == 0
    there = {str(path.relative_to(clone)) for path in clone.rglob("*")}
    assert {*spared, "outputs/figures/00 first.png", "build/notebooks/01_two.ipynb"} <= there
    assert there.isdisjoint(old)
    assert reproduce(clone) == []


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
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    (tmp_path / "measurements").mkdir()
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-p", "no:cacheprovider", "."]
    env = os.environ | {"LSVD_OUTPUTS": str(tmp_path / "outputs")}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout
    assert figure.read_bytes() == b"mine"
    wrote, folder = map(Path, json.loads((tmp_path / "where.json").read_text()))
    assert wrote.is_relative_to(folder) and not folder.is_relative_to(ROOT)
    assert not folder.exists(), "the temporary folder is still there"
