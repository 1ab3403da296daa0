"""Disks that are full, read-only or odd: one sentence, and what was there stays; a cache costs a warning at most."""

import errno
import fcntl
import os
import resource
import socket
import time
from functools import partial

import pytest
import torch
from faults import disk, fill, limited, sentence
from tiny import text_to_image, unconditional

from lsvd.__main__ import main
from lsvd.avi import attribute
from lsvd.sampling import kept
from lsvd.storage import cache, files, results
from lsvd.testbed.training import checkpoints
from tools import running


def folder_of(path, text):
    with files.replace_folder(path) as new:
        (new / "file").write_text(text * 1000)


def remembered(path, text):
    made = {"x": torch.full((4000,), float(len(text)))}
    results.remember(path.name, {"text": text}, lambda: made, folder=path.parent, must_keep=True)


WRITERS = {
    "file": lambda path, text: files.write_bytes(path, text.encode() * 1000),
    "table": lambda path, text: files.write_csv(path, [{"a": text * 1000}]),
    "row": lambda path, text: files.update_csv(path, [{"a": text, "b": text * 1000}], ["a"]),
    "folder": folder_of,
    "result": remembered,
    "checkpoint": lambda path, text: checkpoints.save(path, {"w": torch.zeros(4000)}, {"text": text}),
}


def contents(folder):
    """All files below a folder with what they hold; unfinished ones would be among them."""
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_real_full_disk(tmp_path, writer):
    write = WRITERS[writer]
    with disk(tmp_path / "disk") as small:
        write(small / "x", "old")
        fill(small)
        before = contents(small)
        with pytest.raises(files.WriteError) as caught:
            write(small / "x", "new")
        assert "the disk is full; free some space and run again" in sentence(caught)
        assert contents(small) == before
        (small / "filling").unlink()
        write(small / "x", "new")


@pytest.mark.parametrize("writer", WRITERS)
def test_a_disk_that_takes_no_more_names(tmp_path, writer):
    write = WRITERS[writer]
    with disk(tmp_path / "disk", "nr_inodes=12") as small:
        write(small / "x", "old")
        with pytest.raises(OSError):
            for number in range(12):
                (small / f"name {number}").touch()
        before = contents(small)
        with pytest.raises(files.WriteError, match="the disk is full") as caught:
            write(small / "x", "new")
        assert sentence(caught) and contents(small) == before


@pytest.mark.parametrize("writer", WRITERS)
def test_a_read_only_disk(tmp_path, writer):
    write = WRITERS[writer]
    with disk(tmp_path / "disk") as small:
        write(small / "x", "old")
        before = contents(small)
        os.system(f"mount -o remount,ro '{small}'")
        with pytest.raises(files.WriteError, match="permission denied; make the folder writable or choose") as caught:
            write(small / "x", "new")
        assert sentence(caught) and contents(small) == before


@pytest.mark.parametrize("writer", WRITERS)
def test_a_limit_on_the_size_of_files(tmp_path, writer):
    write = WRITERS[writer]
    write(tmp_path / "x", "old")
    before = contents(tmp_path)
    with limited(resource.RLIMIT_FSIZE, 1500), pytest.raises(files.WriteError, match="too large; choose") as caught:
        write(tmp_path / "x", "new")
    assert sentence(caught) and contents(tmp_path) == before


@pytest.mark.parametrize("spoil", [fill, lambda folder: os.system(f"mount -o remount,ro '{folder}'")])
def test_a_cache_on_a_spoilt_disk_costs_a_warning(tmp_path, caplog, spoil):
    draw = partial(kept.trajectories, unconditional(), seeds=range(2), steps=2)
    expected = draw(folder=tmp_path / "sound").codes
    with disk(tmp_path / "disk") as small:
        spoil(small)
        assert torch.equal(draw(folder=small / "kept").codes, expected)
        assert "the result is used, but not kept" in caplog.text
        assert all(sentence(record.getMessage()) for record in caplog.records)


def test_what_must_be_kept_is_not_computed_where_it_cannot_be(tmp_path):
    with disk(tmp_path / "disk") as small:
        fill(small)
        with pytest.raises(files.WriteError, match="the disk is full"):
            results.remember("r", {}, lambda: pytest.fail("computed"), folder=small, must_keep=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    text_to_image().pipe.save_pretrained(folder)
    return folder


def edit(model, *options):
    few = ["--backbone", str(model), "--steps", "4", "--guidance", "1"]
    return main(["edit", "a person", "--to", "an old person", *few, *options])


def said(capsys):
    error = capsys.readouterr().err
    assert error.startswith("lsvd: ") and error.count("\n") == 1
    return error


@pytest.mark.parametrize("option", ["--out", "--save"])
def test_an_edit_to_a_full_disk_is_refused_before_it_is_drawn(tmp_path, model, capsys, monkeypatch, option):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lsvd.avi.edit_prompt", lambda *args, **kwargs: pytest.fail("drawn"))
    with disk(tmp_path / "disk") as small:
        fill(small)
        name = {"--out": "x.png", "--save": "x.safetensors"}[option]
        assert edit(model, option, str(small / name)) == 1
        assert "the disk is full" in said(capsys)


# Odd places


def loop(path):
    path.symlink_to(path)


def dangling(path):
    path.symlink_to(path.parent / "nowhere" / "at all")


def pipe(path):
    os.mkfifo(path)


def plug(path):
    with socket.socket(socket.AF_UNIX) as listening:
        os.chdir(path.parent)
        listening.bind(path.name)


PLACES = {
    "a link to itself": loop,
    "a link to nowhere": dangling,
    "a pipe": pipe,
    "a socket": plug,
    "a folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("place", PLACES)
def test_odd_places_are_read_as_missing_or_refused_and_never_waited_for(tmp_path, monkeypatch, caplog, place):
    monkeypatch.chdir(tmp_path)
    PLACES[place](tmp_path / "x")
    with pytest.raises((FileNotFoundError, files.ReadError)) as caught:
        attribute.load(tmp_path / "x")
    sentence(caught)
    file = results.place("r", {}, tmp_path)
    file.parent.mkdir()
    PLACES[place](file)
    made = results.remember("r", {}, lambda: {"x": torch.ones(2)}, folder=tmp_path)
    assert made["x"].tolist() == [1, 1] and all(sentence(record.getMessage()) for record in caplog.records)


@pytest.mark.parametrize("place", [place for place in PLACES if "link" not in place])
def test_odd_places_are_not_written_to(tmp_path, model, monkeypatch, capsys, place):
    monkeypatch.chdir(tmp_path)
    PLACES[place](tmp_path / "x.png")
    assert edit(model, "--out", "x.png", "--force") == 1
    assert "is a folder: name a file" in (error := said(capsys)) or "is a device: name a file" in error


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "target").write_bytes(b"precious")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    files.write_bytes(tmp_path / "link", b"new")
    assert (tmp_path / "target").read_bytes() == b"precious" and (tmp_path / "link").read_bytes() == b"new"


NAMES = [
    "a" * 251 + ".png",
    "a\nb.png",
    "-x.png",
    "grün.png",
    "🎨.png",
    "a\udcffb.png",
    " .png",
    "'$(x)`.png",
    ".png.png",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_odd_names(tmp_path, model, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    if edit(model, f"--out={name}"):
        assert "file name too long; choose another" in said(capsys) and not list(tmp_path.iterdir())
    else:
        assert os.listdir(tmp_path) == [name]


# Odd systems


def test_folders_that_cannot_be_flushed(tmp_path, monkeypatch):
    """Some network disks refuse it; the file is there all the same."""
    real = os.fsync

    def fsync(handle):
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    assert files.write_bytes(tmp_path / "x", b"whole").read_bytes() == b"whole"
    folder_of(tmp_path / "folder", "new")
    assert sorted(os.listdir(tmp_path)) == ["folder", "x"]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_disks_without_locks(tmp_path, monkeypatch, code):
    """Where the system has none, tables do without; where the disk refuses, a row could be lost: one sentence."""

    def flock(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    if code == errno.ENOSYS:
        files.update_csv(tmp_path / "t.csv", [{"a": 1}], ["a"])
        assert (tmp_path / "t.csv").read_text() == "a\n1\n" and os.listdir(tmp_path) == ["t.csv"]
    else:
        with pytest.raises(files.WriteError, match="cannot write .*t.csv: .*; choose another place"):
            files.update_csv(tmp_path / "t.csv", [{"a": 1}], ["a"])
    cache.hold(cache.root() / "renderings")
    (cache.root() / "x").write_bytes(b"x")
    cache.trim(0)
    with pytest.raises(OSError) as caught, running.alone(tmp_path / "lock", os.getppid()):
        pass
    sentence(caught)


@pytest.mark.parametrize("date", [0, 2**33, time.time() + 10**9], ids=["1970", "2242", "in 30 years"])
def test_dates_of_another_clock(tmp_path, monkeypatch, date):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    draw = partial(kept.trajectories, unconditional(), seeds=range(2), steps=2)
    expected = draw().codes
    for path in cache.root().rglob("*"):
        os.utime(path, (date, date))
    assert torch.equal(draw().codes, expected)
    assert main(["cache"]) == 0 and main(["cache", "empty"]) == 0 and cache.entries() == []
