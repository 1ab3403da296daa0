"""The cache keeps below its limit, the least recently used leaving first, and never what is in use."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from lsvd.__main__ import main
from lsvd.storage import cache, results
from lsvd.storage.files import write_bytes
from lsvd.testbed import renderings
from lsvd.testbed.scenes.cats import CATS


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    monkeypatch.delenv(cache.VARIABLE, raising=False)
    return cache.root()


def fill(root, *ages, size=1000):
    """Files of `size` bytes, last used so many seconds ago."""
    for number, age in enumerate(ages):
        path = write_bytes(root / f"folder{number % 2}" / f"{number}", b"\0" * size)
        os.utime(path, (time.time() - age,) * 2)


def left(root):
    return sorted(int(entry.path.name) for entry in cache.entries())


def test_the_least_recently_used_leave_first(root):
    fill(root, 50, 10, 40, 20, 30)
    assert [entry.path.name for entry in cache.trim(3000)] == ["0", "2"] and left(root) == [1, 3, 4]
    cache.use(root / "folder0" / "4")
    cache.trim(1000)
    assert left(root) == [4]
    assert cache.trim(1000) == [] and [entry.path.name for entry in cache.trim(999)] == ["4"]


def test_what_was_read_is_used(root):
    def value(n):
        return results.remember("r", {"n": n}, lambda: {"x": torch.full((100,), n)})["x"][0].item()

    for n in range(3):
        value(n)
        os.utime(results.place("r", {"n": n}), (100 + n,) * 2)
    assert value(0) == 0
    kept = cache.entries()[-1]
    assert kept.path == results.place("r", {"n": 0})
    cache.trim(kept.size)
    assert [entry.path for entry in cache.entries()] == [kept.path]


def test_results_keep_below_the_limit(root, monkeypatch):
    monkeypatch.setenv(cache.VARIABLE, "1e-5")  # 10 kB
    for n in range(10):
        results.remember("r", {"n": n}, lambda n=n: {"x": torch.full((500,), float(n))})
        assert sum(entry.size for entry in cache.entries()) <= 10_000
        assert results.place("r", {"n": n}).exists()
    assert 2 <= len(cache.entries()) < 10


def test_measurements_and_other_folders_are_not_the_cache(root, tmp_path, monkeypatch):
    monkeypatch.setenv(cache.VARIABLE, "0")
    for n in range(3):
        results.remember("r", {"n": n}, lambda: {"x": torch.ones(100)}, folder=tmp_path / "measurements")
    assert len(list((tmp_path / "measurements").rglob("*.safetensors"))) == 3
    assert main(["cache", "empty"]) == 0
    assert len(list((tmp_path / "measurements").rglob("*.safetensors"))) == 3


HOLDER = """
import sys
from lsvd.storage import cache
cache.hold(cache.root() / "folder0")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_what_another_process_holds_stays_until_it_ends(root, end, capsys):
    fill(root, 50, 10, 40, 20)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        cache.trim(1000)
        assert left(root) == [0, 2]
        assert main(["cache", "empty"]) == 0
        assert "2 files, 0.0 MB in use by a running process stay" in capsys.readouterr().out
        assert left(root) == [0, 2]
    finally:
        if end == "kill":
            holder.kill()
        holder.communicate()
    cache.trim(1000)
    assert left(root) == [2]


def test_renderings_in_use_stay_and_incomplete_ones_are_drawn_again(root, monkeypatch):
    monkeypatch.setenv(cache.VARIABLE, "0")
    monkeypatch.setattr(cache, "_held", {})
    drawn = renderings.pictures(CATS, 4, 8, 0, root / "renderings", chunk=2)
    first, values = drawn[torch.arange(4)], drawn.values
    assert len(cache.entries()) == 4 and cache.trim(0) == []
    for handle in cache._held.values():
        os.close(handle)
    cache._held.clear()
    # the values of one chunk leave, its pictures do not
    next(entry for entry in cache.entries() if entry.path.name == "00001.npz").path.unlink()
    again = renderings.pictures(CATS, 4, 8, 0, root / "renderings", chunk=2)
    assert torch.equal(again[torch.arange(4)], first)
    assert all(torch.equal(again.values[name], values[name]) for name in values)


def test_memory_mapped_samples_outlive_a_trim(root):
    files = renderings.fill(root / "samples", 2, lambda number: np.full((2, 3), number), "sampling")
    chunks = renderings.Chunks(files, 2, 4)
    cache.trim(0)
    assert chunks[torch.tensor([0, 3])].tolist() == [[0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf", "1 GB"])
def test_a_limit_that_is_not_a_number(root, monkeypatch, capsys, text):
    monkeypatch.setenv(cache.VARIABLE, text)
    assert main(["cache"]) == 1
    assert f"lsvd: LSVD_CACHE_GB cannot be '{text}': give a number of GB" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "size"), [("", 2 * 10**9), ("0", 0), ("0.5", 5 * 10**8), (" 3 ", 3 * 10**9)])
def test_limits(monkeypatch, text, size):
    monkeypatch.setenv(cache.VARIABLE, text)
    assert cache.limit() == size


def test_the_command_shows_and_empties(root, capsys):
    assert main(["cache"]) == 0
    assert "0 files, 0.0 MB, limit 2 GB" in capsys.readouterr().out
    fill(root, 0, 100_000, 200_000, size=1_000_000)
    unfinished = write_bytes(root / "folder0" / ".x.0123456789ab.tmp", b"half")
    assert main(["cache", "show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["folder0: 2 files", "folder1: 1 files", f"{root}: 3 files"]
    assert " 3.0 MB, limit 2 GB" in lines[-1]
    os.utime(unfinished, (0, 0))
    assert main(["cache", "empty"]) == 0
    assert capsys.readouterr().out == "removed 3 files, 3.0 MB\n"
    assert cache.entries() == [] and not unfinished.exists()


def test_the_cache_is_shown_without_loading_torch(root):
    code = "import sys; from lsvd.__main__ import main; main(['cache']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0
