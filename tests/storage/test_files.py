"""Files appear whole or not at all, and a refused write is explained in one sentence."""

import csv
import errno
import os
import stat
import subprocess
import sys
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_folders_replace_one_another_without_a_swap_too(tmp_path, no_swap):
    test_folder_replaces_whole(tmp_path)


READER = """
import os, sys
path, seen = sys.argv[1], set()
print("reading", flush=True)
while not os.path.exists(path + " done"):
    try:
        seen.update(os.listdir(path))
    except FileNotFoundError:
        seen.add("missing")
print(*sorted(seen))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges two folders in one step")
def test_a_reader_never_finds_a_folder_missing(tmp_path):
    path = tmp_path / "weights"
    with files.replace_folder(path) as new:
        (new / "file").touch()
    assert files.swap(path, path), "the disk of temporary files cannot exchange folders"
    with subprocess.Popen([sys.executable, "-c", READER, str(path)], stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout.readline() == "reading\n"
        for _ in range(100):
            with files.replace_folder(path) as new:
                (new / "file").touch()
        (tmp_path / "weights done").touch()
        assert reader.stdout.read() == "file\n"
    assert leftovers(tmp_path) == ["weights", "weights done"]


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


@pytest.fixture
def no_swap(monkeypatch):
    """As on a system that cannot exchange two folders in one step."""
    monkeypatch.setattr(files, "swap", lambda one, other: False)


def test_folder_is_put_back_when_the_swap_fails(tmp_path, monkeypatch, no_swap):
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


# Two writers


WRITER = """
import sys
from pathlib import Path
from lsvd.storage.files import update_csv
path, name = Path(sys.argv[1]), sys.argv[2]
sys.stdin.readline()
for i in range(100):
    update_csv(path, [{"claim": f"{name} {i:02d}", "value": i}], ["claim"])
"""


def test_two_writers_at_once_lose_no_row(tmp_path):
    path = tmp_path / "tables" / "verdicts.csv"
    start = {"stdin": subprocess.PIPE, "text": True}
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name], **start) for name in "ab"]
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        assert writer.communicate() is not None and writer.returncode == 0
    with path.open(newline="") as file:
        rows = [row["claim"] for row in csv.DictReader(file)]
    assert rows == [f"{name} {i:02d}" for name in "ab" for i in range(100)]
    assert leftovers(path.parent) == ["verdicts.csv"]


def test_a_killed_writer_leaves_no_lock(tmp_path):
    path = tmp_path / "t.csv"
    code = (
        "import os, sys; from pathlib import Path; from lsvd.storage import files\n"
        "with files.locked(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(path)])
    assert killed.returncode == -9 and leftovers(tmp_path) == [".t.csv.lock"]
    files.update_csv(path, [{"a": 1}], ["a"])
    assert leftovers(tmp_path) == ["t.csv"]


@given(st.permutations(range(8)), st.booleans())
def test_rows_do_not_depend_on_the_order_of_runs(numbers, named):
    with tempfile.TemporaryDirectory() as folder:
        for number in numbers:
            row = {"claim": f"claim {number % 4}", "backbone": f"b{number // 4}", "value": number}
            order = ["claim 2", "claim 0"] if named else ()
            path = files.update_csv(f"{folder}/t.csv", [row], ["claim", "backbone"], order)
        values = [int(line.rsplit(",", 1)[1]) for line in path.read_text().splitlines()[1:]]
    assert values == ([2, 6, 0, 4, 1, 5, 3, 7] if named else [0, 4, 1, 5, 2, 6, 3, 7])


def test_rows_in_an_order_of_ones_own(tmp_path):
    for value in (3, 1, 2):
        path = files.update_csv(tmp_path / "t.csv", [{"a": value}], ["a"], lambda row: -int(row["a"]))
    assert path.read_text() == "a\n3\n2\n1\n"


@pytest.mark.parametrize("data", [b"a,b\n1,\xff\n", b"a,b\n1\n", b"a,b\n1,2,3\n", b"\x00\x00", b"b\n1\n"])
def test_a_damaged_table_stays_as_it_is(tmp_path, data):
    path = files.write_bytes(tmp_path / "t.csv", data)
    with pytest.raises(ValueError, match="is damaged or has other columns than a, b: move it away"):
        files.update_csv(path, [{"a": 1, "b": 2}], ["a"])
    assert path.read_bytes() == data and leftovers(tmp_path) == ["t.csv"]


# What killed writers leave

KILLED = """
import os, sys
from lsvd.storage import files
def die(*args):
    os.kill(os.getpid(), 9)
setattr(os, sys.argv[2], die)
if sys.argv[3] == "file":
    files.write_bytes(sys.argv[1], b"half")
with files.replace_folder(sys.argv[1]) as new:
    (new / "weights").write_bytes(b"new")
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_next_writer_removes_what_a_killed_one_left(tmp_path, kind):
    path = tmp_path / "x"
    assert subprocess.run([sys.executable, "-c", KILLED, str(path), "fsync", kind]).returncode == -9
    [temporary] = tmp_path.iterdir()
    assert files.is_temporary(temporary) and not files.is_temporary(path)
    files.write_bytes(tmp_path / "another", b"")
    assert leftovers(tmp_path) == ["another"]


def test_a_folder_that_was_set_aside_is_put_back(tmp_path):
    """Killed between the two steps of a swap, the old folder is not lost, whoever writes next."""
    path = tmp_path / "weights"
    with files.replace_folder(path) as new:
        (new / "weights").write_bytes(b"old")
    code = KILLED.replace("def die(*args):", "real = os.replace\ndef die(a, b):\n    real(a, b)")
    code = code.replace("setattr(", "files.swap = lambda *args: False\nsetattr(", 1)
    assert subprocess.run([sys.executable, "-c", code, str(path), "replace", "folder"]).returncode == -9
    assert not path.exists()
    files.check_writable(tmp_path / "another")
    assert leftovers(tmp_path) == ["weights"] and (path / "weights").read_bytes() == b"old"


def test_what_a_running_or_unknown_writer_has_begun_stays_for_a_day(tmp_path):
    names = [
        f".x.{files.MACHINE}-{os.getpid()}-0123456789ab.tmp",  # ours
        f".x.{files.MACHINE}-1-0123456789ab.tmp",  # another user's
        ".x.00000000-1-0123456789ab.tmp",  # another machine's
        ".x.0123456789ab.tmp",  # an earlier version's
        ".x.tmp",  # somebody else's
        "x.0123456789ab.tmp",
        f".x.{files.MACHINE}-{10**30}-0123456789ab.tmp",
    ]
    for name in names:
        (tmp_path / name).write_bytes(b"half")
    files.write_bytes(tmp_path / "y", b"")
    assert leftovers(tmp_path) == sorted([*names[:-1], "y"])
    for name in names[:-1]:
        os.utime(tmp_path / name, (0, 0))
    files.write_bytes(tmp_path / "y", b"")
    assert leftovers(tmp_path) == sorted([*names[:2], *names[4:6], "y"])


# Permissions


def test_exported_files_follow_the_umask(tmp_path):
    """Some writers of weights make their files readable to nobody else."""
    before = os.umask(0o027)
    try:
        with files.replace_folder(tmp_path / "weights") as new:
            (new / "unet").mkdir(mode=0o700)
            (new / "unet" / "w").touch(mode=0o600)
            (new / "config").touch(mode=0o600)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"weights": 0o750, "unet": 0o750, "w": 0o640, "config": 0o640}


def is_text(data):
    return data.startswith(b"text")


def test_files_that_may_be_replaced(tmp_path):
    def refused(said, *args):
        with pytest.raises(ValueError, match=said) as caught:
            files.check_replaceable(*args)
        assert "\n" not in str(caught.value)

    path = tmp_path / "x"
    files.check_replaceable(path, "a text", is_text)
    for content in (b"", b"text"):
        path.write_bytes(content)
        files.check_replaceable(path, "a text", is_text)
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "hard").hardlink_to(path)
    for other in ("x", "link", "hard"):
        refused("is read by this very command: .*--force", path, "a text", is_text, [tmp_path / other])
        refused("is read by this very command", tmp_path / other, "a text", is_text, [path])
        files.check_replaceable(path, "a text", is_text, [tmp_path / other], True)
    path.write_bytes(b"picture")
    refused("is there and not a text: .*--force", path, "a text", is_text)
    files.check_replaceable(path, "a text", is_text, force=True)
    path.write_bytes(b"text")
    path.chmod(0o444)
    refused("is read-only: .*--force", path, "a text", is_text)
    files.check_replaceable(path, "a text", is_text, force=True)
    for force in (False, True):
        refused("is a folder: name a file in it", tmp_path, "a text", is_text, [], force)
        refused("is a device: name a file", "/dev/null", "a text", is_text, [], force)


def test_a_full_disk_is_noticed_before_a_long_run(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(files.WriteError, match="the disk is full"):
        files.check_writable(tmp_path / "x")
    assert leftovers(tmp_path) == []


def test_writes_are_counted_by_folder(tmp_path):
    before = files.writes.copy()
    files.write_bytes(tmp_path / "a" / "x", b"")
    files.write_csv(tmp_path / "a" / "y", [{"a": 1}])
    with files.replace_folder(tmp_path / "b"):
        pass
    assert files.writes - before == {tmp_path / "a": 2, tmp_path: 1}
