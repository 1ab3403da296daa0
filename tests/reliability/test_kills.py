"""Killed at any step of writing, or stopped at any moment: what was there stays or what is new is whole."""

import functools
import io
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from clones import environment, make, reproduce, small_clone, start, wait_for, write_notebook
from faults import in_child, killed_everywhere, slow
from PIL import Image
from processes import heeding
from tiny import text_to_image, unconditional

from lsvd import avi
from lsvd.__main__ import main
from lsvd.avi import attribute
from lsvd.sampling import kept, trajectory
from lsvd.storage import files, results
from lsvd.testbed.training import checkpoints

ROOT = Path(__file__).resolve().parents[2]


def tidied(folder):
    """The names in a folder after the next writer has passed by."""
    files.tidy(folder)
    return sorted(path.name for path in folder.iterdir())


# At each step of writing


def test_a_file_is_the_old_one_or_the_new_one_at_each_step(tmp_path):
    path = tmp_path / "x"

    def check():
        assert path.read_bytes() in (b"old" * 99, b"new" * 99) and tidied(tmp_path) == ["x"]
        files.write_bytes(path, b"old" * 99)

    files.write_bytes(path, b"old" * 99)
    assert killed_everywhere(lambda: files.write_bytes(path, b"new" * 99), check) > 4
    assert path.read_bytes() == b"new" * 99


def test_a_table_keeps_its_rows_at_each_step(tmp_path):
    path, keys = tmp_path / "t.csv", ["name"]
    old, new = ({"name": name, "value": name * 50} for name in ("old", "new"))

    def check():
        lines = path.read_text().splitlines()
        assert lines[0] == "name,value" and lines[-1] == f"old,{'old' * 50}"
        files.update_csv(path, [{"name": "z", "value": 1}], keys)  # no lock is left
        path.unlink()
        files.update_csv(path, [old], keys)
        assert tidied(tmp_path) == ["t.csv"]

    files.update_csv(path, [old], keys)
    assert killed_everywhere(lambda: files.update_csv(path, [new], keys), check) > 4
    assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize("swaps", [True, False])
def test_a_folder_is_the_old_one_or_the_new_one_at_each_step(tmp_path, monkeypatch, swaps):
    path = tmp_path / "weights"
    if not swaps:
        monkeypatch.setattr(files, "swap", lambda one, other: False)

    def fill(text):
        with files.replace_folder(path) as new:
            for name in ("a", "b"):
                (new / name).write_text(text * 99)

    def check():
        assert tidied(tmp_path) == ["weights"]
        assert {(path / name).read_text()[:3] for name in ("a", "b")} in ({"old"}, {"new"})
        fill("old")

    fill("old")
    assert killed_everywhere(lambda: fill("new"), check) > 8
    assert tidied(tmp_path) == ["weights"] and (path / "a").read_text() == "new" * 99


def test_a_cached_result_is_right_at_each_step(tmp_path):
    def remember():
        return results.remember("r", {"a": 1}, lambda: {"x": torch.arange(99.0)}, folder=tmp_path)

    def check():
        assert torch.equal(remember()["x"], torch.arange(99.0))
        assert len(tidied(tmp_path / "r")) == 1
        results.place("r", {"a": 1}, tmp_path).unlink()

    assert killed_everywhere(remember, check) > 4


def test_an_attribute_is_the_old_one_or_the_new_one_at_each_step(tmp_path):
    backbone, path = text_to_image(), tmp_path / "old.safetensors"
    one, other = (attribute.learn(backbone, "a person", "an old person", seed, steps=4) for seed in (0, 1))

    def check():
        assert attribute.load(path).settings.seeds in ((0,), (1,)) and tidied(tmp_path) == [path.name]
        one.save(path)

    one.save(path)
    assert killed_everywhere(lambda: other.save(path), check) > 4


def test_a_checkpoint_is_the_old_one_or_the_new_one_at_each_step(tmp_path):
    path = tmp_path / "checkpoint.safetensors"

    def save(step):
        checkpoints.save(path, {"w": torch.full((99,), float(step))}, {"step": step})

    def check():
        tensors, about = checkpoints.load(path)
        assert (tensors["w"] == about["step"]).all() and tidied(tmp_path) == [path.name]
        save(1)

    save(1)
    assert killed_everywhere(lambda: save(2), check) > 4


def test_kept_trajectories_go_on_to_the_same_at_each_step(tmp_path):
    backbone = unconditional()

    def draw(folder=tmp_path / "kept"):
        return kept.trajectories(backbone, seeds=range(3), steps=2, batch=1, folder=folder)

    expected = draw(tmp_path / "whole").codes
    assert killed_everywhere(draw, lambda: None) > 5  # each goes on where the one before it was killed
    assert torch.equal(draw().codes, expected)
    assert len(tidied(tmp_path / "kept" / backbone.name)) == 3


# At any moment of a command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    text_to_image().pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def edit(folder, tmp_path, monkeypatch):
    """The command `edit`, which writes a picture and an attribute, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    files_ = ["--save", "old.safetensors", "--out", "x.png", "--steps", "4", "--guidance", "2"]
    return lambda: main(["edit", "a person", "--to", "an old person", "--backbone", str(folder), *files_])


def moments(seconds, count):
    generator = random.Random(0)
    return [generator.uniform(0, seconds) for _ in range(count)]


def stopped_after(delay, number, action, again=None):
    """The exit status and stderr of an action in a child that gets a signal after a while, and perhaps another."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.dup2(writing, 2)
        sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", 0), write_through=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        status = 70
        try:
            status = action()
        except KeyboardInterrupt:
            status = 71  # before or after the command itself
        finally:
            os._exit(status)
    os.close(writing)
    time.sleep(delay)
    os.kill(pid, number)
    if again is not None:
        time.sleep(again)
        os.kill(pid, number)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with os.fdopen(reading) as file:
        return status, file.read()


def check_files(folder):
    """Each of the two files that `edit` writes is whole or not there."""
    if (folder / "x.png").exists():
        Image.open(folder / "x.png").load()
    if (folder / "old.safetensors").exists():
        attribute.load(folder / "old.safetensors")


@pytest.fixture
def duration(edit):
    began = time.monotonic()
    assert in_child(edit) == 0
    return time.monotonic() - began


@slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_an_edit_stopped_at_any_moment_leaves_whole_files(edit, tmp_path, duration, number):
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for delay in moments(1.2 * duration, 12):
        for name in whole:
            (tmp_path / name).unlink(missing_ok=True)
        status, said = stopped_after(delay, number, edit)
        assert status in ((0, -number) if number == signal.SIGKILL else (0, 71, 130, -number)), said
        if status == 130:
            assert said.splitlines()[-1].startswith("lsvd: stopped; ") and said.count("\n") == 1
        check_files(tmp_path)
        assert in_child(edit) == 0
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == whole


@slow
def test_a_second_ctrl_c_adds_no_traceback(edit, tmp_path, duration):
    for delay in moments(duration, 6):
        status, said = stopped_after(delay, signal.SIGINT, edit, again=0.02)
        assert "Traceback" not in said and status in (0, 71, 130, -signal.SIGINT)


STARTING = """
import os, runpy, signal, sys
left = None
def at_import(event, args):
    global left
    if event == "import":
        left = left if left is not None else int(sys.argv.pop(1)) if args[0] == "argparse" else None
        if left is not None:
            left -= 1
            if left == -1:
                os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(at_import)
runpy.run_module("lsvd", run_name="__main__", alter_sys=True)
"""


@slow
@pytest.mark.parametrize("number", [0, 1, 3, 10, 30, 60, 100, 300, 1000, 2000])
def test_ctrl_c_while_a_command_starts(tmp_path, number):
    """At an import of this package's command line, of which there are some 2,000 before it begins to work."""
    command = [sys.executable, "-c", STARTING, str(number), "survey", "mini-cats", "--samples", "2"]
    extra = {"LSVD_OUTPUTS": str(tmp_path), "LSVD_MEASUREMENTS": str(tmp_path), "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with heeding(command, cwd=tmp_path, env={**os.environ, **extra}, **pipes) as process:
        said = process.communicate(timeout=120)
    assert process.returncode in (130, -signal.SIGINT), said
    assert said in (("", ""), ("", "lsvd: stopped; nothing was written\n"))
    assert not list(tmp_path.iterdir())


@slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_command_stopped_within_its_first_seconds_says_one_line_at_most(tmp_path, number):
    command = [sys.executable, "-m", "lsvd", "survey", "mini-cats", "--samples", "2"]
    extra = {"LSVD_OUTPUTS": str(tmp_path), "LSVD_MEASUREMENTS": str(tmp_path), "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    for delay in moments(2.5, 8):
        with heeding(command, cwd=tmp_path, env={**os.environ, **extra}, **pipes) as process:
            time.sleep(0.2 + delay)
            process.send_signal(number)
            printed, said = process.communicate(timeout=120)
        assert process.returncode in (130, -number) and printed == "", said
        last = said.splitlines()[-1:]
        assert "Traceback" not in said and (not last or process.returncode == 130 and "lsvd: stopped; " in last[0])


# make and what it started


@pytest.fixture
def clone(tmp_path):
    return small_clone(tmp_path / "a clone's größe; $x")


TARGETS = (
    "reproduce",
    "bless",
    "test",
    "docs",
    "lab",
    "explore",
    "trials",
    "train",
    "measure",
    "survey",
    "edits",
    "bench",
    "bench-full",
)
ASLEEP = """#!/bin/sh
case "$*" in
  tools/clone.py|"-m ruff"*) exit 0 ;;
  *) echo $$ > pids.part; mv pids.part pids.txt; exec {python} -c "{code}" ;;
esac
"""
WAITS = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL); time.sleep(600)"


def gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie"


@pytest.mark.parametrize("target", TARGETS)
def test_what_make_started_ends_with_it(clone, target):
    """Ctrl-C, SIGTERM to make alone, and a closed terminal, for each command."""
    (clone / "env/bin/python").write_text(ASLEEP.format(python=sys.executable, code=WAITS))
    for number, whole in ((signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGHUP, True)):
        running = start(clone, target)
        wait_for((clone / "pids.txt").exists)
        pid = int((clone / "pids.txt").read_text())
        os.killpg(running.pid, number) if whole else os.kill(running.pid, number)
        running.communicate(timeout=30)
        assert running.returncode != 0
        wait_for(functools.partial(gone, pid), 10)
        (clone / "pids.txt").unlink()


FOREVER = """import os, time
os.chdir(os.environ["PYTHONPATH"])
with open("now.txt", "w") as file:
    file.write(str(os.getpid()))
os.rename("now.txt", "pids.txt")
time.sleep(600)
"""


def test_an_executing_process_that_is_killed_is_one_line(clone):
    """As the system does where memory is short."""
    reproduce(clone)
    earlier = (clone / "build/notebooks/01_two.ipynb").read_bytes()
    write_notebook(clone / "notebooks/01_two.ipynb", FOREVER)
    running = start(clone, "reproduce")
    pid = int(wait_for(lambda: (clone / "pids.txt").exists() and (clone / "pids.txt").read_text()))
    os.kill(pid, signal.SIGKILL)
    _, errors = running.communicate(timeout=60)
    [said] = [line for line in errors.splitlines() if not line.startswith("make")]
    assert said.startswith("notebooks/01_two.ipynb did not finish")
    assert (clone / "build/notebooks/01_two.ipynb").read_bytes() == earlier


def test_nohup_outlives_the_terminal(clone):
    write_notebook(clone / "notebooks/00_one.ipynb", "import time; time.sleep(1)")
    command = ["nohup", "make", "USE_ENV=env", "reproduce"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, cwd=clone, env=environment(), start_new_session=True, **pipes) as running:
        wait_for((clone / "runs.txt").exists)
        os.killpg(running.pid, signal.SIGHUP)
        told, _ = running.communicate(timeout=60)
    assert running.returncode == 0 and "3 up to date" in told


def test_a_suspended_run_holds_its_place_and_goes_on(clone):
    write_notebook(clone / "notebooks/00_one.ipynb", "import time; time.sleep(0.5)")
    first = start(clone, "reproduce")
    wait_for((clone / "runs.txt").exists)
    family = [first.pid, *(child.pid for child in psutil.Process(first.pid).children(recursive=True))]
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    second = start(clone, "reproduce")
    assert second.stdout.readline().startswith("another make reproduce or make bless runs in this clone: waiting")
    for pid in family:
        os.kill(pid, signal.SIGCONT)
    for process in (first, second):
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert (
        sorted((clone / "runs.txt").read_text().split()) == ["00", "01", "02"]
        and make(clone, "reproduce").returncode == 0
    )


def test_edits_that_were_interrupted_leave_the_model_as_it_was():
    """In a notebook, an interrupted cell is followed by others."""
    backbone = text_to_image()
    expected = avi.edit_prompt(backbone, "a person", "an old person", seeds=0, steps=4).edited.codes
    own, state = backbone.pipe.scheduler, torch.random.get_rng_state()
    for step in range(1, 12):
        calls = 0

        def stop(module, args, step=step):
            nonlocal calls
            calls += 1
            if calls == step:
                raise KeyboardInterrupt

        hook = backbone.pipe.unet.register_forward_pre_hook(stop)
        try:
            avi.edit_prompt(backbone, "a person", "an old person", seeds=0, steps=4)
        except KeyboardInterrupt:
            pass
        finally:
            hook.remove()
        assert backbone.pipe.scheduler is own is backbone.scheduler
        assert torch.equal(torch.random.get_rng_state(), state) and torch.is_grad_enabled()
    again = avi.edit_prompt(backbone, "a person", "an old person", seeds=0, steps=4).edited.codes
    assert torch.equal(again, expected)
    assert trajectory.run(backbone, "a person", 0, steps=2).codes.isfinite().all()
