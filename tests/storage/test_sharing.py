"""Processes that are given the same pieces share them: each is done once, and all end with the same."""

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from lsvd.storage import cache, results, sharing
from lsvd.storage.files import write_bytes
from lsvd.storage.sharing import Piece, collect, remembered, work_off

PROCESS = """
import os, sys, time
from functools import partial
from pathlib import Path
import torch
from lsvd.storage.sharing import collect, remembered

home, seconds = Path(sys.argv[1]), float(sys.argv[2])

def make(number):
    with open(home / "log", "a") as log:
        log.write(f"{number} {os.getpid()}\\n")
    time.sleep(seconds)
    return {"x": torch.full((2,), float(number))}

pieces = [remembered("toy", {"number": number}, partial(make, number)) for number in range(12)]
print(sum(part["x"].sum().item() for part in collect(pieces, title="toy")))
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("LSVD_MEASUREMENTS", str(tmp_path / "measurements"))
    for name in ("RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def process(home, seconds, **variables):
    command = [sys.executable, "-c", PROCESS, str(home), str(seconds)]
    return subprocess.Popen(command, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True)


def log(home):
    file = home / "log"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def wait_for(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, "nothing happened in a minute"
        time.sleep(0.02)


def toy(home, n, make=None):
    def write(number):
        return write_bytes(home / f"{number}", f"{number}".encode())

    return [Piece((home / f"{number}",), partial(make or write, number)) for number in range(n)]


def locks():
    folder = sharing._locks()
    return sorted(folder.iterdir()) if folder.exists() else []


def test_two_processes_do_each_piece_once_and_end_with_the_same(tmp_path):
    both = [process(tmp_path, 0.3, RANK=str(rank)) for rank in range(2)]
    found = [one.communicate(timeout=120)[0] for one in both]
    assert found == [f"{2.0 * sum(range(12))}\n"] * 2 and not any(one.returncode for one in both)
    done = log(tmp_path)
    assert sorted(int(number) for number, _ in done) == list(range(12))
    assert len({pid for _, pid in done}) == 2
    assert locks() == []


def test_a_killed_process_loses_one_piece(tmp_path):
    first = process(tmp_path, 0.3)
    wait_for(lambda: len(log(tmp_path)) > 2)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    begun = log(tmp_path)
    second = process(tmp_path, 0)
    assert second.communicate(timeout=120)[0] and second.returncode == 0
    again = [number for number, pid in log(tmp_path) if pid == str(second.pid)]
    finished = {number for number, _ in begun[:-1]}
    assert not finished & set(again) and len(again) >= 12 - len(begun)
    assert {number for number, _ in log(tmp_path)} == {str(number) for number in range(12)}


@pytest.mark.skipif(os.name != "posix", reason="a stopped process")
def test_what_another_works_on_is_waited_for(tmp_path):
    first = process(tmp_path, 2.0, RANK="0")
    wait_for(lambda: log(tmp_path))
    os.kill(first.pid, signal.SIGSTOP)
    second = process(tmp_path, 0, RANK="0")
    wait_for(lambda: len(log(tmp_path)) == 12)
    time.sleep(0.5)
    assert second.poll() is None  # the twelfth piece is the first process's
    first.kill()
    first.communicate()
    assert second.communicate(timeout=60)[0] == f"{2.0 * sum(range(12))}\n"
    assert len(log(tmp_path)) == 13


def test_each_process_begins_at_another_place(tmp_path, monkeypatch):
    begun = []
    for rank in range(4):
        monkeypatch.setenv("SLURM_PROCID", str(rank))
        order = []

        def make(number, order=order, home=tmp_path / str(rank)):
            order.append(number)
            write_bytes(home / f"{number}", b"")

        work_off(toy(tmp_path / str(rank), 10, make), title="toy")
        assert sorted(order) == list(range(10))
        begun.append(order[0])
    assert len(set(begun)) == 4 and begun[0] == 0


def test_a_piece_that_fails_is_freed(tmp_path):
    def fail(number):
        raise ZeroDivisionError(number)

    with pytest.raises(ZeroDivisionError):
        work_off(toy(tmp_path, 3, fail), title="toy")
    assert locks() == []
    assert len(work_off(toy(tmp_path, 3), title="toy")) == 3
    assert work_off(toy(tmp_path, 3, fail), title="toy") == {}


def test_a_disk_that_keeps_nothing_is_asked_once(tmp_path, monkeypatch, caplog):
    calls = []

    def make(number):
        calls.append(number)
        return {"x": torch.tensor([number])}

    write_bytes(tmp_path / "build" / "cache", b"")  # a file where the folder should be
    pieces = [remembered("toy", {"number": number}, partial(make, number)) for number in range(3)]
    assert [part["x"].item() for part in collect(pieces, title="toy")] == [0, 1, 2]
    assert sorted(calls) == [0, 1, 2] and "not kept" in caplog.text


def test_a_piece_that_leaves_the_cache_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.VARIABLE, "0")
    calls = []

    def make(number):
        calls.append(number)
        return {"x": torch.tensor([number])}

    pieces = [remembered("toy", {"number": number}, partial(make, number)) for number in range(3)]
    assert [part["x"].item() for part in collect(pieces, title="toy")] == [0, 1, 2]
    assert sorted(calls) == [0, 1, 2] and not any(piece.done for piece in pieces)


def test_locks_in_use_stay_in_the_cache(tmp_path):
    def make(number):
        held = locks()
        cache.trim(0)
        assert held and locks() == held
        write_bytes(tmp_path / f"{number}", b"")

    work_off(toy(tmp_path, 1, make), title="toy")


def test_damage_is_made_good(tmp_path):
    pieces = [remembered("toy", {"number": 1}, lambda: {"x": torch.ones(2)})]
    collect(pieces, title="toy")
    pieces[0].files[0].write_bytes(b"nothing")
    assert torch.equal(collect(pieces, title="toy")[0]["x"], torch.ones(2))
    assert results.read(pieces[0].files[0], results.label_of({"number": 1})) is not None


def test_threads_share_too(tmp_path):
    done, slow = [], threading.Event()

    def make(number):
        done.append(number)
        slow.wait(0.05)
        write_bytes(tmp_path / f"{number}", b"")

    pieces = toy(tmp_path, 6, make)
    threads = [threading.Thread(target=work_off, args=(pieces,), kwargs={"title": "toy"}) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == list(range(6))


def test_machines_that_share_a_folder_mean_the_same_lock(tmp_path, monkeypatch):
    names = []
    for mount in ("one", "two"):
        monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path / mount))
        monkeypatch.setenv("LSVD_MEASUREMENTS", str(tmp_path / mount / "measurements"))
        home = tmp_path / mount
        names.append([sharing._name(home / "build" / "x"), sharing._name(home / "measurements" / "x")])
    assert names[0] == names[1] and len(set(names[0])) == 2
    assert sharing._name(Path("x")) == sharing._name(Path("x").absolute())
