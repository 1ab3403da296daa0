"""make runs what it should and leaves alone the rest: the Makefile and its tools, with a stand-in for papermill.

A folder of its own has a small package, and notebooks that are executed in the process that would start their kernel.
"""

import base64
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest
from PIL import Image

from lsvd.paths import outputs
from tools import bless, inputs, session

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = """#!/bin/sh
case "$*" in
  "-m tools."* | tools/clone.py) exec {python} "$@" ;;
  *) printf '%s\\n' "$@" >> commands.txt ;;
esac
"""
PAPERMILL = '''"""Executes a notebook here and now."""
import json, os

def execute_notebook(source, target, parameters, **options):
    root = os.getcwd()
    with open("runs.txt", "a") as file:
        file.write(os.path.basename(source)[:2] + "\\\\n")
    os.chdir(options["cwd"])
    names = {}
    with open(os.path.join(root, source)) as file:
        notebook = json.load(file)
    for cell in notebook["cells"]:
        exec("".join(cell["source"]), names)
        names |= parameters
        with open(os.path.join(root, target), "w") as file:
            json.dump(notebook, file)
'''.replace("\\\\n", "\\n")
IMPORTS = "from lsvd.paths import outputs\nfrom lsvd.storage.files import update_csv, write_bytes\nimport json\n"
NOTEBOOKS = {
    "00_one": """
from lsvd import first
told = {"backbone": backbone, "device": device, "count": count, "names": names}
write_bytes(outputs("figures", "00 first.png"), json.dumps(told).encode())
write_bytes(outputs("figures", ".00.tmp"), b"")
""",
    "01_two": """
def later():
    from lsvd.deep import second
for i in (1, 2):
    write_bytes(outputs("tables", f"01_{i}.csv"), b"x")
update_csv(outputs("tables", "verdicts.csv"), [{"claim": "one", "value": 0.5}], ["claim"], ["one", "two"])
""",
    "02_none": """
update_csv(outputs("tables", "verdicts.csv"), [{"claim": "two", "value": 0.5}], ["claim"], ["one", "two"])
""",
}
PARAMETERS = {
    "00_one": 'backbone = "mini-sd"; device = "cpu"; count = 2; share = 0.5; names = ["a"]; '
    'words = {"a": "b"}; quiet = False',
    "01_two": 'backbone = "mini-sd"',
    "02_none": "",
}


def write_notebook(path, source, parameters=""):
    declared = nbformat.v4.new_code_cell(parameters, id="0", metadata={"tags": ["parameters"]})
    cells = [declared, nbformat.v4.new_code_cell(IMPORTS + source, id="1")]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)


@pytest.fixture
def clone(tmp_path):
    """A folder with the Makefile and what it reads, in whose name there is a space."""
    home = tmp_path / "a clone"
    for folder in (
        "env/bin",
        "lsvd/storage",
        "lsvd/deep",
        "lsvd/weights/m",
        "notebooks",
        "measurements/a",
        "papermill",
    ):
        (home / folder).mkdir(parents=True)
    for name in ("Makefile", "requirements.txt", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, home / name)
    for name in ("__init__", "paths", "storage/__init__", "storage/files", "storage/steady"):
        shutil.copy(ROOT / "lsvd" / f"{name}.py", home / "lsvd" / f"{name}.py")
    shutil.copytree(ROOT / "tools", home / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    (home / "lsvd/first.py").write_text("from lsvd import paths\npaths.measurements('a')\n")
    (home / "lsvd/deep/__init__.py").touch()
    (home / "lsvd/deep/second.py").write_text("from . import third\n")
    (home / "lsvd/deep/third.py").touch()
    (home / "lsvd/unused.py").touch()
    (home / "lsvd/weights/m/model.safetensors").write_bytes(b"weights")
    (home / "measurements/a/one.safetensors").write_bytes(b"measured")
    (home / "papermill/__init__.py").write_text(PAPERMILL)
    (home / "env/bin/python").write_text(COMMANDS.format(python=sys.executable))
    (home / "env/bin/python").chmod(0o755)
    for name, source in NOTEBOOKS.items():
        write_notebook(home / "notebooks" / f"{name}.ipynb", source, PARAMETERS[name])
    return home


# what an outer make passes on, `make test`, is not for this one
OUTER = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "GNUMAKEFLAGS", "PY", "LSVD_OUTPUTS", "LSVD_MEASUREMENTS"}
VARIABLES = ("PYTHON", "TORCH_INDEX", "USE_ENV", "PARAMS", "BACKBONE", "DEVICE", "NOTEBOOKS", "CELL_TIMEOUT", "WORKERS")
VARIABLES += ("TESTS", "MODELS")


def environment(**extra):
    return {name: value for name, value in os.environ.items() if name not in {*OUTER, *VARIABLES}} | extra


def make(home, *arguments, **extra):
    command = ["make", "USE_ENV=env", *arguments]
    return subprocess.run(command, cwd=home, env=environment(**extra), capture_output=True, text=True)


def complaint(done):
    """The one sentence on stderr of a make that failed."""
    [sentence] = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode != 0
    return sentence


def reproduce(home, *arguments, **extra):
    """Run `make reproduce`; the numbers of the notebooks that ran."""
    (home / "runs.txt").write_text("")
    done = make(home, "reproduce", *arguments, **extra)
    assert done.returncode == 0, done.stderr
    assert "build/notebooks: 3 up to date" in done.stdout and not done.stderr
    return sorted((home / "runs.txt").read_text().split())


def figure(home):
    """What the first notebook was told."""
    return json.loads((home / "outputs/figures/00 first.png").read_text())


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
        for target in ("reproduce", "bless", "train", "test"):
            make(clone, target, *arguments, **extra)
        make(clone, "env", "USE_ENV=", *arguments, **extra)
    command = ["make", "reproduce"]
    for arguments, extra in (([f"USE_ENV={value}"], {}), ([], {"USE_ENV": value})):
        done = subprocess.run(
            command + arguments, cwd=clone, env=environment(**extra), capture_output=True, text=True, check=False
        )
        assert "there is no Python at" in complaint(done)
    assert not list(clone.rglob("ran"))


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


def start(home, *arguments, **extra):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = ["make", "USE_ENV=env", *arguments]
    return subprocess.Popen(command, cwd=home, env=environment(**extra), start_new_session=True, **pipes)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


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
    sentence = "stopped; 1 notebooks are up to date and stay so, notebooks/01_two.ipynb starts again next time"
    assert [line for line in errors.splitlines() if not line.startswith("make")] == [sentence]
    write_notebook(clone / "notebooks/01_two.ipynb", NOTEBOOKS["01_two"], PARAMETERS["01_two"])
    assert reproduce(clone) == ["01", "02"]


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
    assert " ".join(told) == (
        "-m lsvd train one -m lsvd train two -m lsvd evaluate -m lsvd survey -m lsvd study editing "
    )


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


# With a kernel

HOSTILE_SETTINGS = {
    ".ipython/profile_default/ipython_config.py": "get_config().InteractiveShell.ast_node_interactivity = 'all'\n",
    ".config/matplotlib/matplotlibrc": "image.origin: lower\nfigure.dpi: 150\n",
    "startup.py": "print('good morning')\n",
}
PRINTS = """import time
import matplotlib
for i in range(3):
    print(i, flush=True)
    time.sleep(0.3)
print(matplotlib.rcParams["image.origin"], matplotlib.rcParams["figure.dpi"])
len("a")
len("ab")"""


@pytest.fixture
def personal(clone, tmp_path):
    """Settings that a person may have; papermill and the kernels are the real ones."""
    shutil.rmtree(clone / "papermill")
    (clone / "notebooks/01_two.ipynb").unlink()
    (clone / "notebooks/02_none.ipynb").unlink()
    home = tmp_path / "home"
    for name, text in HOSTILE_SETTINGS.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    settings = {"HOME": str(home), "IPYTHONDIR": str(home / ".ipython"), "PYTHONSTARTUP": str(home / "startup.py")}
    return settings | {"MATPLOTLIBRC": str(home / ".config/matplotlib"), "MPLBACKEND": "svg"}


@pytest.mark.parametrize("command", ["reproduce", "bless"])
def test_a_persons_settings_stay_out(clone, personal, command):
    path = clone / "notebooks/00_one.ipynb"
    write_notebook(path, PRINTS, 'backbone = "mini-sd"')
    done = make(clone, command, "BACKBONE=other", **personal)
    assert done.returncode == 0 and not done.stderr, done.stderr
    executed = nbformat.read(path if command == "bless" else clone / "build/notebooks/00_one.ipynb", as_version=4)
    outputs = executed.cells[-1].outputs
    assert "".join(output.text for output in outputs[:-1]) == "0\n1\n2\nupper 100.0\n"
    assert outputs[-1].data == {"text/plain": "2"}
    if command == "reproduce":
        assert "backbone = 'other'" in executed.cells[1].source.replace('"', "'")
        return
    assert len(outputs) == 2 and [cell.execution_count for cell in executed.cells] == [1, 2]
    assert executed.metadata.kernelspec.display_name == "Python 3 (ipykernel)"
    assert "widgets" not in executed.metadata and not any("execution" in cell.metadata for cell in executed.cells)
    place = path.stat().st_ino
    done = make(clone, command)
    assert "1 executed, 0 replaced" in done.stdout and path.stat().st_ino == place


def test_bless_leaves_a_notebook_as_it_was_where_the_disk_is_full(clone, personal):
    """A limit on the size of files takes the disk's part."""
    path = clone / "notebooks/00_one.ipynb"
    write_notebook(path, "print('a line\\n' * 10000)")
    before = path.read_bytes()
    command = ["sh", "-c", "ulimit -f 64; exec make bless USE_ENV=env"]
    done = subprocess.run(command, cwd=clone, env=environment(), capture_output=True, text=True)
    assert done.returncode != 0 and "File too large" in done.stderr and "Traceback" not in done.stderr
    assert path.read_bytes() == before
    assert make(clone, "bless").returncode == 0 and path.read_bytes() != before


@pytest.mark.parametrize(
    "source", ["raise ValueError('what\\nnow')", "import os; os._exit(3)", "import time; time.sleep(60)"]
)
def test_what_ends_a_notebook_is_one_line(clone, personal, source):
    write_notebook(clone / "notebooks/00_one.ipynb", source)
    for command in ("reproduce", "bless"):
        done = make(clone, command, "CELL_TIMEOUT=2")
        lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
        assert done.returncode != 0 and len(lines) == 2, done.stderr
        assert lines[1].startswith("notebooks/00_one.ipynb did not finish; what it got done is in build/notebooks/")


def test_pictures_that_differ_by_rounding_do_not_replace_a_notebook():
    def notebook(pixels, text="one"):
        data = io.BytesIO()
        Image.fromarray(np.asarray(pixels, np.uint8).reshape(2, 2)).save(data, format="PNG")
        shown = {"text/plain": text, "image/png": base64.b64encode(data.getvalue()).decode()}
        return {"cells": [{"source": "draw()", "outputs": [{"output_type": "display_data", "data": shown}]}]}

    old = notebook([1, 2, 3, 4])
    assert bless.same(old, notebook([2, 2, 3, 4])) and old == notebook([1, 2, 3, 4])
    assert not bless.same(old, notebook([9, 2, 3, 4]))
    assert not bless.same(old, notebook([1, 2, 3, 4], "two"))
    assert not bless.same(old, {"cells": [{"source": "draw()", "outputs": []}]})


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
