"""Safetensors files: the same bytes for the same content, never torn, and nothing in them is trusted."""

import json
import os
import stat
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lsvd.storage import results, tensors
from lsvd.storage.files import ReadError, write_bytes
from lsvd.storage.tensors import Spec

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8]
names = st.text(st.characters(codec="utf-8"), max_size=8)


def random(shape, dtype):
    return torch.randint(0, 2, tuple(shape), generator=torch.Generator().manual_seed(0)).to(dtype)


@settings(max_examples=60)
@given(
    st.dictionaries(
        names.filter(lambda name: name != "__metadata__"),
        st.tuples(st.lists(st.integers(0, 3), max_size=3), st.sampled_from(DTYPES)),
        max_size=4,
    ),
    st.dictionaries(names, st.text(st.characters(codec="utf-8"), max_size=20), max_size=5),
)
def test_what_is_packed_is_unpacked_and_other_readers_agree(shapes, notes):
    given = {name: random(*each) for name, each in shapes.items()}
    data = tensors.pack(given, notes)
    found, texts = tensors.unpack(data)
    theirs = safetensors.torch.load(data)
    assert texts == notes and found.keys() == given.keys() == theirs.keys()
    for name, tensor in given.items():
        for other in (found[name], theirs[name]):
            assert tensor.dtype == other.dtype and torch.equal(tensor, other)
    shuffled = dict(reversed(notes.items())), dict(reversed(given.items()))
    assert tensors.pack(shuffled[1], shuffled[0]) == data


def test_other_processes_write_the_same_bytes(tmp_path):
    code = (
        "import sys, torch; from lsvd.storage import tensors; "
        "sys.stdout.buffer.write(tensors.pack({'b': torch.ones(3), 'a': torch.zeros(2)}, dict.fromkeys('qwertz', 'x')))"
    )
    written = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(3)}
    assert len(written) == 1 and tensors.unpack(written.pop())[0]["b"].tolist() == [1, 1, 1]


def header(mapping, rest=b""):
    text = json.dumps(mapping).encode()
    return len(text).to_bytes(8, "little") + text + rest


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
FORGED = {
    "nothing": b"",
    "text": b"a picture",
    "endless header": (2**63).to_bytes(8, "little") + b"{}",
    "header beyond the end": (100).to_bytes(8, "little") + b"{}",
    "deep header": header(0)[:0] + (100_000).to_bytes(8, "little") + b"[" * 100_000,
    "list": header([1, 2]),
    "offsets beyond the end": header({"a": {**ONE, "data_offsets": [0, 400]}}, b"\0" * 4),
    "offsets that overlap": header({"a": ONE, "b": ONE}, b"\0" * 4),
    "offsets backwards": header({"a": {**ONE, "data_offsets": [4, 0]}}, b"\0" * 4),
    "a hole": header({"a": {**ONE, "data_offsets": [4, 8]}}, b"\0" * 8),
    "huge shape": header({"a": {**ONE, "shape": [2**40, 2**40]}}, b"\0" * 4),
    "negative shape": header({"a": {**ONE, "shape": [-1]}}, b"\0" * 4),
    "unknown dtype": header({"a": {**ONE, "dtype": "F13"}}, b"\0" * 4),
    "dtype without a tensor": header({"a": {"dtype": "F6_E3M2", "shape": [4], "data_offsets": [0, 3]}}, b"\0" * 3),
    "notes that are not texts": header({"__metadata__": {"a": {"b": 1}}}),
    "notes that are a list": header({"__metadata__": [1]}),
    "more than the tensors": header({"a": ONE}, b"\0" * 9),
    "not UTF-8": (4).to_bytes(8, "little") + b"{\xff}\xff",
}


@pytest.mark.parametrize("data", FORGED.values(), ids=FORGED)
def test_forged_headers_are_refused(tmp_path, data):
    path = write_bytes(tmp_path / "x", data)
    with pytest.raises(ValueError, match="x is not a safetensors file, or truncated or damaged$"):
        tensors.load(path)


@settings(max_examples=150)
@given(st.data())
def test_any_damage_is_a_value_error_or_other_content(data):
    whole = bytearray(tensors.pack({"a": torch.ones(2, 2), "b": torch.zeros(3)}, {"settings": "{}", "sha256": "0"}))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        found, notes = tensors.unpack(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    except ValueError:
        return
    assert all(isinstance(each, torch.Tensor) for each in found.values())
    assert all(isinstance(each, str) for each in (*notes, *notes.values()))


def test_no_file_a_folder_and_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="there is no file .*none"):
        tensors.load(tmp_path / "none")
    with pytest.raises(ReadError, match="cannot read .*: it is a folder"):
        tensors.load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ReadError, match="a device"):
        tensors.load(tmp_path / "pipe")
    path = write_bytes(tmp_path / "x", tensors.pack({}))

    def deny(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "read_bytes", deny)
    with pytest.raises(ReadError, match="cannot read .*x: permission denied; make it readable$"):
        tensors.load(path)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"a": torch.ones(2, 3)}, ""),
        ({"a": torch.ones(5, 3)}, ""),
        ({}, "it holds [], not a"),
        ({"a": torch.ones(2, 3), "\x1b[2J": torch.ones(1)}, r"it holds ['\x1b[2J', 'a'], not a"),
        ({"a": torch.ones(2, 4)}, "a has shape (2, 4), not (any, 3)"),
        ({"a": torch.ones(3)}, "a has shape (3,), not (any, 3)"),
        ({"a": torch.ones(2, 3).double()}, "a is torch.float64, not torch.float32"),
        ({"a": torch.full((1, 3), float("inf"))}, "a holds NaN or infinity"),
        ({"a": torch.full((1, 3), float("nan"))}, "a holds NaN or infinity"),
    ],
)
def test_what_is_not_as_it_must_be(found, said):
    assert tensors.mismatch(found, {"a": Spec((None, 3), torch.float32)}) == said
    if "NaN" in said:
        assert tensors.mismatch(found, {"a": Spec((None, 3), torch.float32, finite=False)}) == ""


@pytest.mark.parametrize("text", ["", "[", "[" * 10**6, '{"a":' * 10**5, "9" * 10**5, "\ud800", None])
def test_notes_that_are_not_json(text):
    with pytest.raises(ValueError, match="not JSON, or nested too deep"):
        tensors.parse(text)


OVERWRITE = """
import os, sys
from pathlib import Path
import torch
from lsvd.storage import results
os.fsync = lambda _: None  # faster, so that more files are replaced
path, label = Path(sys.argv[1]), results.label_of({})
kinds = [{"a": torch.full((n,), float(n)), "b" * n: torch.ones(n)} for n in (3, 2000)]
for i in range(800):
    results.keep(path, label, kinds[i % 2])
"""


def test_a_reader_during_an_overwrite_sees_the_old_or_the_new(tmp_path, caplog):
    """A reader that opens the file twice is torn in 6 of 1000 tries."""
    path, label, seen = tmp_path / "x.safetensors", results.label_of({}), set()
    writer = subprocess.Popen([sys.executable, "-c", OVERWRITE, str(path)])
    while writer.poll() is None:
        found = results.read(path, label)
        if found is not None or seen:
            assert found["a"].tolist() == [float(len(found["a"]))] * len(found["a"])
            seen.add(len(found["a"]))
    assert writer.returncode == 0 and seen == {3, 2000} and not caplog.records


# Results


def forged(path, settings, found):
    """A file of the cache whose checksum is right."""
    notes = {"settings": results.label_of(settings), "sha256": results.checksum(found)}
    return write_bytes(path, tensors.pack(found, notes))


@pytest.mark.parametrize(
    "found",
    [
        {"y": torch.ones(2)},
        {"x": torch.ones(2), "y": torch.ones(2)},
        {"x": torch.ones(3)},
        {"x": torch.ones(2).double()},
        {"x": torch.full((2,), float("nan"))},
        {},
    ],
    ids=str,
)
def test_a_forged_result_is_computed_again(tmp_path, caplog, found):
    specs = {"x": Spec((2,), torch.float32)}
    file = forged(results.place("r", {"a": 1}, tmp_path), {"a": 1}, found)
    for warnings in (1, 0):
        caplog.clear()
        again = results.remember("r", {"a": 1}, lambda: {"x": torch.zeros(2)}, folder=tmp_path, specs=specs)
        assert again["x"].tolist() == [0, 0] and len(caplog.records) == warnings
    assert results.read(file, results.label_of({"a": 1}), specs)["x"].tolist() == [0, 0]


def test_the_same_result_is_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        results.remember(
            "r", {"b": 1, "a": 2}, lambda: {"x": torch.ones(2), "y": torch.ones(1)}, folder=tmp_path / name
        )
    one, two = (path.read_bytes() for path in sorted(tmp_path.rglob("*.safetensors")))
    assert one == two
    umask = os.umask(0)
    os.umask(umask)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*.safetensors")} == {0o666 & ~umask}
