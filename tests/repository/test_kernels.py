"""make reproduce and make bless with papermill and kernels: personal settings, stored outputs, and what ends a run."""

import base64
import io
import os
import shutil
import signal
import subprocess

import nbformat
import numpy as np
import psutil
import pytest
from clones import environment, make, small_clone, start, wait_for, write_notebook
from PIL import Image

from tools import bless


@pytest.fixture
def clone(tmp_path):
    return small_clone(tmp_path / "a clone's größe; $x")


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
    ("command", "source"),
    [
        ("bless", "raise ValueError('what\\nnow')"),
        ("bless", "import os; os._exit(3)"),
        ("reproduce", "import os; os._exit(3)"),
        ("reproduce", "import time; time.sleep(60)"),
    ],
)
def test_what_ends_a_notebook_is_one_line(clone, personal, command, source):
    write_notebook(clone / "notebooks/00_one.ipynb", source)
    done = make(clone, command, "CELL_TIMEOUT=2")
    # a kernel that is killed may leave a line of libzmq's
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("make", "Assertion failed: pfd"))]
    assert done.returncode != 0 and len(lines) == 2, done.stderr
    assert lines[1].startswith("notebooks/00_one.ipynb did not finish; what it got done is in build/notebooks/")


def test_bless_takes_back_no_edit(clone, personal):
    path = clone / "notebooks/00_one.ipynb"
    write_notebook(path, "with open('00_one.ipynb', 'a') as file:\n    file.write(' ')")
    done = make(clone, "bless")
    assert "notebooks/00_one.ipynb was edited while it ran and is left as it is: run make bless again" in done.stderr
    assert done.returncode != 0 and path.read_text().endswith(" ")


def test_pictures_that_differ_by_rounding_do_not_replace_a_notebook():
    def notebook(pixels, text="one"):
        data = io.BytesIO()
        Image.fromarray(np.asarray(pixels, np.uint8).reshape(2, 2)).save(data, format="PNG")
        shown = {"text/plain": text, "image/png": base64.b64encode(data.getvalue()).decode()}
        return {"cells": [{"source": "draw()", "outputs": [{"output_type": "display_data", "data": shown}]}]}

    old = notebook([1, 2, 3, 4])
    assert bless.same(old, notebook([2, 2, 3, 4])) and old == notebook([1, 2, 3, 4])
    assert not bless.same(old, notebook([90, 2, 3, 4]))
    assert not bless.same(old, notebook([1, 2, 3, 4], "two"))
    assert not bless.same(old, {"cells": [{"source": "draw()", "outputs": []}]})


def test_a_signal_to_make_ends_the_kernel_within_seconds(clone, personal):
    code = "import os, time; write_bytes('../pid', str(os.getpid()).encode()); time.sleep(600)"
    write_notebook(clone / "notebooks/00_one.ipynb", code)
    running = start(clone, "reproduce", HOME="/dev/null/nowhere")
    wait_for((clone / "pid").exists)
    kernel = psutil.Process(int((clone / "pid").read_text()))
    os.kill(running.pid, signal.SIGTERM)
    _, errors = running.communicate(timeout=60)
    assert running.returncode != 0 and not kernel.is_running()
    told = "stopped: 0 of 1 notebooks are up to date and kept, notebooks/00_one.ipynb starts again next time"
    assert [line for line in errors.splitlines() if not line.startswith("make")] == [told]
