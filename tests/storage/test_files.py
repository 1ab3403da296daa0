"""Files appear whole or not at all, and a refused write is explained in one sentence."""

import csv
import errno
import os
import stat

import pytest

from lsvd import paths
from lsvd.storage import files


def leftovers(folder):
    return sorted(p.name for p in folder.iterdir())


def test_bytes_make_folders_and_replace(tmp_path):
    path = tmp_path / "a" / "b.bin"
    assert files.write_bytes(path, b"one") == path
    files.write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert leftovers(path.parent) == ["b.bin"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize(("code", "word"), [(errno.ENOSPC, "is full"), (errno.EACCES, "permission"), (5, "choose")])
def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch, code, word):
    path = files.write_bytes(tmp_path / "x", b"old")

    def fail(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(files.WriteError, match=word) as caught:
        files.write_bytes(path, b"new")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and caught.value.errno == code
    assert path.read_bytes() == b"old" and leftovers(tmp_path) == ["x"]


def test_a_file_in_the_way_of_a_folder(tmp_path):
    files.write_bytes(tmp_path / "outputs", b"")
    with pytest.raises(files.WriteError, match="a file stands where a folder"):
        files.write_bytes(tmp_path / "outputs" / "x", b"")
    with pytest.raises(files.WriteError), files.replace_folder(tmp_path / "outputs" / "x"):
        pass


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(files.WriteError, match="permission denied"):
        files.write_bytes(tmp_path / "x", b"")
    with pytest.raises(files.WriteError, match="permission denied"):
        files.check_writable(tmp_path / "x")


def test_a_place_is_tried_without_a_trace(tmp_path):
    files.check_writable(tmp_path / "a" / "b")
    assert leftovers(tmp_path) == ["a"] and leftovers(tmp_path / "a") == []
    path = files.write_bytes(tmp_path / "x", b"old")
    files.check_writable(path)
    assert path.read_bytes() == b"old"
    with pytest.raises(files.WriteError, match="cannot write .*x/y: a file stands where a folder"):
        files.check_writable(path / "y")


def test_csv(tmp_path):
    path = files.write_csv(tmp_path / "t.csv", [{"a": 1, "b": "x, y"}, {"b": "é", "a": 0.5}])
    assert path.read_bytes() == 'a,b\n1,"x, y"\n0.5,é\n'.encode()
    with pytest.raises(ValueError, match="row 1"):
        files.write_csv(path, [{"a": 1}, {"b": 1}])
    with pytest.raises(ValueError, match="no rows"):
        files.write_csv(path, [])


def test_folder_replaces_whole(tmp_path):
    path = tmp_path / "weights"
    for text in ("one", "two"):
        with files.replace_folder(path) as new:
            (new / "sub").mkdir()
            (new / "sub" / text).write_text(text)
    assert leftovers(path / "sub") == ["two"] and leftovers(tmp_path) == ["weights"]


def test_folder_stays_when_the_block_fails(tmp_path):
    path = tmp_path / "weights"
    with files.replace_folder(path) as new:
        (new / "good").touch()
    with pytest.raises(RuntimeError, match="mine"), files.replace_folder(path) as new:
        (new / "bad").touch()
        raise RuntimeError("mine")
    with pytest.raises(FileNotFoundError), files.replace_folder(path) as new:
        (new / "absent").read_text()
    with pytest.raises(files.WriteError, match="disk is full"), files.replace_folder(path) as new:
        raise OSError(errno.ENOSPC, "no space")
    assert leftovers(path) == ["good"] and leftovers(tmp_path) == ["weights"]


def test_folder_is_put_back_when_the_swap_fails(tmp_path, monkeypatch):
    path = tmp_path / "weights"
    with files.replace_folder(path) as new:
        (new / "good").touch()
    real, calls = os.replace, []

    def second_fails(a, b):
        calls.append(a)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "full")
        real(a, b)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(files.WriteError, match="full"), files.replace_folder(path) as new:
        (new / "bad").touch()
    assert leftovers(path) == ["good"] and leftovers(tmp_path) == ["weights"]


def test_outputs_can_be_moved(tmp_path, monkeypatch):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    assert paths.outputs("figures", "x.png") == tmp_path / "figures" / "x.png"
    monkeypatch.delenv("LSVD_OUTPUTS")
    assert paths.outputs().name == "outputs"


def test_merging_replaces_what_was_measured_and_keeps_the_rest(tmp_path):
    def rows(name, *values):
        return [{"backbone": name, "measure": f"m{i}", "value": v} for i, v in enumerate(values)]

    def read():
        with path.open(newline="") as file:
            return [(r["backbone"], r["measure"], r["value"]) for r in csv.DictReader(file)]

    path, order = tmp_path / "tables" / "t.csv", ["a", "b"]
    files.update_csv(path, rows("b", "1", "2"), ["backbone"], order)
    files.update_csv(path, rows("other", "9"), ["backbone"], order)
    files.update_csv(path, rows("a", "3"), ["backbone"], order)
    assert read() == [("a", "m0", "3"), ("b", "m0", "1"), ("b", "m1", "2"), ("other", "m0", "9")]
    files.update_csv(path, rows("b", "5"), ["backbone"], order)
    assert read() == [("a", "m0", "3"), ("b", "m0", "5"), ("other", "m0", "9")]
    whole = path.read_text()
    path.write_text(whole[:-4])
    with pytest.raises(ValueError, match="damaged or has other columns"):
        files.update_csv(path, rows("a", "1"), ["backbone"], order)
    path.write_text("x,y\n1,2\n")
    with pytest.raises(ValueError, match="backbone, measure, value"):
        files.update_csv(path, rows("a", "1"), ["backbone"], order)
    assert path.read_text() == "x,y\n1,2\n"
