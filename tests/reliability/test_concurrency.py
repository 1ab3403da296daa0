"""Threads and processes at once: nobody's result is lost, torn, or another's."""

import hashlib
import os
import random
import signal
import threading
import time

import pytest
import torch
from clones import small_clone, start, write_notebook
from faults import in_child
from PIL import Image
from tiny import KINDS, text_to_image, unconditional
from untrained import untrained

from lsvd import avi
from lsvd.__main__ import main
from lsvd.avi import attribute
from lsvd.backbones import checksums, clip
from lsvd.sampling import kept, trajectory
from lsvd.storage import cache, files, results
from lsvd.studies import edits
from lsvd.studies.rig import Rig
from lsvd.studies.ways import Way


def in_threads(actions):
    """The results of actions that all run at once, each in a thread of its own."""
    found, together = [None] * len(actions), threading.Barrier(len(actions))

    def run(number):
        together.wait()
        found[number] = actions[number]()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def in_children(actions):
    """The exit statuses of actions that all run at once, each in a process of its own."""
    pids = []
    for action in actions:
        pid = os.fork()
        if not pid:
            signal.alarm(60)
            status = 1
            try:
                status = action() or 0
            finally:
                os._exit(status)
        pids.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def drawn(backbone, guidance=None, seed=0):
    prompt = "a person" if backbone.kind == "text-to-image" else None
    return trajectory.run(backbone, prompt, [seed, seed + 1], steps=3, guidance=guidance).codes


@pytest.mark.parametrize("kind", KINDS)
def test_threads_that_share_a_model(kind):
    """Another guidance, scheduler and seed each; a pipeline by itself keeps its guidance in an attribute."""
    from diffusers import EulerDiscreteScheduler

    backbone = KINDS[kind]()
    models = [backbone, backbone.with_scheduler(EulerDiscreteScheduler)]
    guided = (1.0, 5.0) if kind == "text-to-image" else (None,)
    requests = [(model, guidance, seed) for model in models for guidance in guided for seed in (0, 7)]
    expected = [drawn(*request) for request in requests]
    found = in_threads([lambda request=request: drawn(*request) for request in requests])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_edits_in_threads():
    backbone = text_to_image()

    def edit(seed):
        made = avi.edit_prompt(backbone, "a person", "an old person", seeds=seed, steps=4)
        return backbone.decode(made.edited.final)

    expected = [edit(seed) for seed in range(3)]
    found = in_threads([lambda seed=seed: edit(seed) for seed in range(3)])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_copy_of_the_process_draws_the_same():
    backbone = text_to_image()
    expected = drawn(backbone)

    def draw():
        assert torch.equal(drawn(backbone), expected)

    assert in_child(draw) == 0


def test_many_processes_and_one_result(tmp_path):
    backbone = unconditional()
    expected = kept.trajectories(backbone, seeds=range(4), steps=2, batch=2, folder=tmp_path / "alone").codes

    def draw():
        found = kept.trajectories(backbone, seeds=range(4), steps=2, batch=2, folder=tmp_path / "shared")
        assert torch.equal(found.codes, expected)

    assert in_children([draw] * 5) == [0] * 5
    assert len(list((tmp_path / "shared").rglob("*"))) == 3


def test_two_save_one_attribute_and_others_read_it(tmp_path):
    backbone, path = text_to_image(), tmp_path / "a.safetensors"
    learned = [attribute.learn(backbone, "a person", "an old person", seed, steps=4) for seed in (0, 1)]
    learned[0].save(path)

    def save(number):
        for _ in range(40):
            learned[number].save(path)

    def read():
        for _ in range(200):
            assert attribute.load(path).settings.seeds in ((0,), (1,))

    assert in_children([lambda: save(0), lambda: save(1), read, read]) == [0] * 4
    assert os.listdir(tmp_path) == [path.name]


def test_a_cache_that_is_emptied_while_others_use_it(tmp_path, monkeypatch):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    expected = {n: torch.full((50,), float(n)) for n in range(10)}

    def use():
        for n in list(expected) * 10:
            found = results.remember("r", {"n": n}, lambda n=n: {"x": expected[n]})
            assert torch.equal(found["x"], expected[n])

    def empty():
        for _ in range(60):
            cache.trim(0)

    assert in_children([use, use, empty, empty]) == [0] * 4


def test_a_bless_waits_for_a_reproduce(tmp_path):
    clone = small_clone(tmp_path / "clone")
    write_notebook(clone / "notebooks/00_one.ipynb", "import time; time.sleep(1)")
    first = start(clone, "reproduce")
    while not (clone / "runs.txt").exists():
        time.sleep(0.05)
    second = start(clone, "bless", "NOTEBOOKS=notebooks/02_none.ipynb")
    said = second.stdout.readline()
    assert said == "another make reproduce or make bless runs in this clone: waiting for its end\n"
    second.kill()
    told, errors = first.communicate(timeout=60)
    assert "3 up to date" in told and not errors
    second.communicate(timeout=60)


def test_writers_that_are_killed_lose_no_row_of_others(tmp_path):
    path, numbers = tmp_path / "t.csv", random.Random(0)

    def write(name):
        for i in range(15):
            files.update_csv(path, [{"row": f"{name} {i:02d}"}], ["row"])

    def fall(name):
        signal.signal(signal.SIGALRM, lambda *args: os.kill(os.getpid(), signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, numbers.uniform(0.01, 0.1))
        while True:
            files.update_csv(path, [{"row": name}], ["row"])

    statuses = in_children([lambda: write("a"), lambda: write("b"), *(lambda n=n: fall(f"z{n}") for n in range(4))])
    assert statuses == [0, 0, -9, -9, -9, -9]
    files.update_csv(path, [{"row": "c"}], ["row"])
    rows = path.read_text().split("\n")[1:-1]
    assert {f"{name} {i:02d}" for name in "ab" for i in range(15)} <= set(rows)
    assert os.listdir(tmp_path) == ["t.csv"]


def test_two_edits_to_one_file(tmp_path, monkeypatch):
    folder = tmp_path / "tiny"
    text_to_image().pipe.save_pretrained(folder)
    monkeypatch.chdir(tmp_path)
    few = ["--backbone", str(folder), "--steps", "4", "--guidance", "1"]

    def edit(*seeds):
        more = [word for seed in seeds for word in ("--seed", str(seed))]
        return lambda: main(["edit", "a person", "--to", "an old person", *few, *more])

    assert in_children([edit(0), edit(0, 1), edit(0, 1, 2)]) == [0] * 3
    with Image.open("edit.png") as picture:
        picture.load()
        assert picture.size in ((16, 16), (16, 32), (16, 48))
    assert sorted(os.listdir()) == ["edit.png", "tiny"]


def test_a_model_folder_that_is_replaced_while_it_is_used(tmp_path):
    """What was loaded goes on as it was."""
    from lsvd import backbones

    folder = tmp_path / "tiny"
    with files.replace_folder(folder) as new:
        unconditional().pipe.save_pretrained(new)
    backbone = backbones.load(folder)
    expected = drawn(backbone)
    with files.replace_folder(folder) as new:
        text_to_image().pipe.save_pretrained(new)
    assert torch.equal(drawn(backbone), expected)
    assert backbones.load(folder).kind == "text-to-image"


def test_processes_that_measure_the_same_share_it(tmp_path, monkeypatch):
    """Of one process or of three at once, measurements are the same, byte for byte, and each way is tried once."""
    monkeypatch.setattr(edits, "ATTRIBUTES", {"red": {"hue": "red"}, "blue": {"hue": "blue"}})
    ways = [Way("lerp", 0.5, weight=weight) for weight in (0.25, 0.5, 0.75)] + [Way("target prompt")]
    rig, real = Rig(text_to_image(), untrained(), clip.load()), edits.final_codes
    kept = {}
    for label, count in (("one", 1), ("three", 3)):
        home = tmp_path / label
        home.mkdir()
        monkeypatch.setenv("LSVD_OUTPUTS", str(home))
        monkeypatch.setenv("LSVD_MEASUREMENTS", str(home / "measurements"))

        def tried(*args, log=home / "log"):
            with open(log, "a") as file:
                file.write(f"{args[3]}\n")
            return real(*args)

        monkeypatch.setattr(edits, "final_codes", tried)
        assert in_children([lambda: edits.of_attributes(rig, ways, (0, 1)) and None] * count) == [0] * count
        assert len((home / "log").read_text().splitlines()) == 2 * len(ways)
        found = sorted((home / "measurements").rglob("*.safetensors"))
        kept[label] = {file.name: file.read_bytes() for file in found}
    assert len(kept["one"]) == 2 and kept["one"] == kept["three"]


def test_two_publish_at_once(tmp_path):
    """Neither loses the other's checksums."""
    for name in "abcd":
        (tmp_path / name).mkdir()

    def publish(name):
        for number in range(20):
            (tmp_path / name / "w").write_text(f"{name} {number}")
            checksums.record(tmp_path / name, tmp_path)
            assert f"{name}/w" in checksums.read(tmp_path)

    assert in_children([lambda name=name: publish(name) for name in "abcd"]) == [0] * 4
    sums = {f"{name}/w": hashlib.sha256(f"{name} 19".encode()).hexdigest() for name in "abcd"}
    assert checksums.read(tmp_path) == sums and not list(tmp_path.glob(".*"))
