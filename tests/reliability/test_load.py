"""Much of everything: edits, seeds, files, rows and words; and less memory, time and files than there usually are."""

import gc
import os
import resource
import threading
import time

import psutil
import pytest
import torch
from faults import in_child, limited, sentence, slow
from tiny import text_to_image, unconditional

from lsvd import avi
from lsvd.__main__ import main
from lsvd.avi import attribute
from lsvd.sampling import trajectory
from lsvd.storage import cache, files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    text_to_image().pipe.save_pretrained(folder)
    return folder


def held():
    """Bytes, open files and threads of this process."""
    gc.collect()
    process = psutil.Process()
    return process.memory_info().rss, process.num_fds(), threading.active_count()


@slow
def test_two_hundred_edits_in_one_process(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def edit(seed):
        few = ["--backbone", str(folder), "--steps", "4", "--guidance", "2", "--seed", str(seed)]
        assert main(["edit", "a person", "--to", "an old person", *few]) == 0

    for seed in range(20):
        edit(seed)
    before = held()
    for seed in range(200):
        edit(seed)
    after = held()
    assert after[1:] == before[1:] and after[0] - before[0] < 30e6


@slow
def test_two_hundred_numbers_of_steps():
    """A schedule is prepared for each, and kept."""
    backbone = unconditional()
    before = held()[0]
    for steps in range(1, 201):
        backbone.prepared(steps)
    assert held()[0] - before < 50e6


@slow
def test_three_hundred_seeds_in_one_attribute(tmp_path):
    backbone = text_to_image()
    learned = attribute.learn(backbone, "a person", "an old person", range(300), steps=4)
    again = attribute.load(learned.save(tmp_path / "a.safetensors"))
    assert torch.equal(again.left, learned.left) and again.settings == learned.settings
    with pytest.raises(ValueError, match="seed 299 is named twice"):
        attribute.learn(backbone, "a person", "an old person", [*range(300), 299], steps=4)


@slow
@pytest.mark.parametrize("text", ["a person " * 5000, "a" * 50_000, "👩" * 5000, "\n" * 9000, "a\0b"], ids=len)
def test_prompts_of_any_length(text, recwarn):
    walk = trajectory.run(text_to_image(), text, steps=1)
    assert walk.codes.isfinite().all()


@slow
def test_a_cache_of_thousands_of_files(tmp_path, monkeypatch):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    folder = cache.root() / "r"
    folder.mkdir(parents=True)
    for number in range(3000):
        (folder / f"{number:05}").write_bytes(b"x" * 10)
        os.utime(folder / f"{number:05}", (number, number))
    began = time.process_time()
    removed = cache.trim(10_000)
    assert len(removed) == 2000 and not (folder / "01999").exists() and (folder / "02000").exists()
    assert time.process_time() - began < 10


def test_a_table_of_thousands_of_rows(tmp_path):
    path, keys = tmp_path / "t.csv", ["a"]
    files.update_csv(path, [{"a": f"{i:05}", "b": i / 7} for i in range(5000)], keys)
    files.update_csv(path, [{"a": "02500", "b": "new"}], keys)
    lines = path.read_text().splitlines()
    assert len(lines) == 5001 and lines[2501] == "02500,new"


@slow
def test_a_sheet_that_no_jpeg_holds(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lsvd.avi.edit_prompt", lambda *args, **kwargs: pytest.fail("drawn"))
    seeds = [word for seed in range(4100) for word in ("--seed", str(seed))]
    command = ["edit", "a person", "--to", "an old person", "--backbone", str(folder), "--out", "x.jpg"]
    assert main([*command, *seeds]) == 1
    assert "a JPEG file has sides of at most 65500 pixels" in sentence(capsys.readouterr().err.strip())


def test_more_seeds_than_the_memory_given_holds(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["edit", "a person", "--to", "an old person", "--backbone", str(folder), "--steps", "4"]
    seeds = [word for seed in range(50) for word in ("--seed", str(seed))]
    assert main([*command, *seeds, "--max-memory", "0.0001"]) == 1
    said = sentence(capsys.readouterr().err.strip())
    assert "50 pictures of" in said and "at a time, or raise max_memory" in said
    assert main([*command, *seeds[:8], "--max-memory", "0.0005"]) == 0  # one after another
    assert main([*command, "--max-memory", "nan"]) == 1
    assert "max_memory cannot be nan" in sentence(capsys.readouterr().err.strip())


# Less than usual


def told(action, tmp_path):
    """The exit status of a command in a child, and what it says."""
    path = tmp_path / "said"

    def run():
        handle = os.open(path, os.O_CREAT | os.O_WRONLY)
        os.dup2(handle, 2)
        import sys

        sys.stderr = open(2, "w", buffering=1, closefd=False)
        status = action()
        sys.stderr.flush()
        os._exit(10 + status)

    return in_child(run) - 10, path.read_text()


def drawing(folder, *more):
    few = ["--backbone", str(folder), "--steps", "4", "--guidance", "2", "--out", "x.png", *more]
    return main(["edit", "a person", "--to", "an old person", *few])


@slow
def test_no_memory_left(folder, tmp_path, monkeypatch):
    """A limit on the memory that this process may have takes the machine's part."""
    monkeypatch.chdir(tmp_path)
    seeds = [word for seed in range(3000) for word in ("--seed", str(seed))]

    def draw():
        with limited(resource.RLIMIT_AS, psutil.Process().memory_info().vms + 40_000_000):
            return drawing(folder, *seeds)

    status, said = told(draw, tmp_path)
    assert status == 1 and said == "lsvd: there is not enough memory: take fewer seeds at a time, or another device\n"
    assert not (tmp_path / "x.png").exists()


@slow
def test_no_more_open_files(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def draw():
        with limited(resource.RLIMIT_NOFILE, psutil.Process().num_fds() + 1):
            return drawing(folder)

    status, said = told(draw, tmp_path)
    assert status in (0, 1) and said.count("\n") == status, said


def test_little_room_to_recurse(folder, tmp_path, monkeypatch):
    import sys

    monkeypatch.chdir(tmp_path)
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(400)
    try:
        assert drawing(folder) == 0
    finally:
        sys.setrecursionlimit(before)


@slow
def test_no_time_left(folder, tmp_path, monkeypatch):
    """The system ends a process that used up its time; nothing half is left."""
    monkeypatch.chdir(tmp_path)

    def draw():
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        resource.setrlimit(resource.RLIMIT_CPU, (int(used) + 1, int(used) + 2))
        while True:
            drawing(folder)

    assert in_child(draw) in (-24, -9)
    from PIL import Image

    if (tmp_path / "x.png").exists():
        Image.open(tmp_path / "x.png").load()


def test_edits_of_many_pictures_are_those_of_few():
    backbone = text_to_image()
    many = avi.edit_prompt(backbone, "a person", "an old person", seeds=range(40), steps=4)
    few = avi.edit_prompt(backbone, "a person", "an old person", seeds=[39], steps=4)
    assert torch.allclose(many.edited.final[-1], few.edited.final[0], atol=1e-4)
