"""Files that are damaged anywhere: refused in one sentence, or computed again; never another result without a word."""

import json
import logging
import random
import shutil
from pathlib import Path

import pytest
import torch
from clones import complaint, make, reproduce, small_clone
from faults import sentence, slow
from tiny import WORDS, text_to_image, unconditional

from lsvd import backbones
from lsvd.avi import attribute
from lsvd.backbones import checksums
from lsvd.paths import WEIGHTS
from lsvd.sampling import kept
from lsvd.sampling.identity import weights
from lsvd.storage import results
from lsvd.studies import tables
from lsvd.testbed import reader
from lsvd.testbed.training import checkpoints
from tools import session
from tools.reproduce import Manifest


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :]


def places(data, count):
    """Where to damage a file: all over it, and each of its first bytes, which say where the rest is."""
    spread = random.Random(0).sample(range(len(data)), min(count, len(data)))
    return sorted({*range(24), *spread, len(data) - 1} & set(range(len(data))))


DAMAGES = {
    "a bit is flipped": flipped,
    "the rest is missing": lambda data, place: data[:place],
    "the rest is zeros": lambda data, place: data[:place] + bytes(len(data) - place),
    "a block is another's": lambda data, place: data[:place] + data[: len(data) - place],
    "a byte is added": lambda data, place: data[:place] + b"!" + data[place:],
}


def damaged_everywhere(path, damage, count=60):
    """A file with each of its damages in turn; it is whole again in the end."""
    whole = path.read_bytes()
    for place in places(whole, count):
        spoilt = DAMAGES[damage](whole, place)
        if spoilt != whole:
            path.write_bytes(spoilt)
            yield place
    path.write_bytes(whole)


@pytest.fixture(scope="module")
def learned():
    return attribute.learn(text_to_image(), "a person", "an old person", (0, 1), steps=4)


def same(a, b):
    return torch.equal(a.left, b.left) and torch.equal(a.right, b.right) and a.settings == b.settings and a.t == b.t


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_attribute_that_is_damaged_anywhere(tmp_path, learned, damage):
    path = learned.save(tmp_path / "a.safetensors")
    refused = 0
    for _ in damaged_everywhere(path, damage, 150):
        try:
            assert same(attribute.load(path), learned)  # blanks in the header may change
        except ValueError as error:
            assert "a.safetensors" in sentence(error)
            refused += 1
    assert refused > 20 and same(attribute.load(path), learned)


@slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_cached_trajectory_that_is_damaged_anywhere(tmp_path, damage, caplog):
    backbone = unconditional()

    def draw():
        return kept.trajectories(backbone, seeds=[0], steps=1, folder=tmp_path).codes

    expected = draw()
    [path] = tmp_path.rglob("*.safetensors")
    caplog.set_level(logging.WARNING)
    for _ in damaged_everywhere(path, damage, 10):
        assert torch.equal(draw(), expected)
    assert len(caplog.records) > 10 and all(sentence(record.getMessage()) for record in caplog.records)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_that_is_damaged_anywhere(tmp_path, damage):
    path, whole = tmp_path / "checkpoint.safetensors", {"w": torch.arange(50.0)}
    checkpoints.save(path, whole, {"step": 3})
    for _ in damaged_everywhere(path, damage, 100):
        try:
            tensors, about = checkpoints.load(path)
            assert torch.equal(tensors["w"], whole["w"]) and about == {"step": 3}
        except ValueError as error:
            assert "checkpoint.safetensors" in sentence(error)


def test_two_results_that_changed_places(tmp_path, caplog):
    def remember(n):
        return results.remember("r", {"n": n}, lambda: {"x": torch.tensor([float(n)])}, folder=tmp_path)["x"].item()

    assert [remember(n) for n in (1, 2)] == [1, 2]
    one, other = (results.place("r", {"n": n}, tmp_path) for n in (1, 2))
    data = one.read_bytes(), other.read_bytes()
    one.write_bytes(data[1])
    other.write_bytes(data[0])
    assert [remember(n) for n in (1, 2)] == [1, 2] and len(caplog.records) == 2


# Folders of models

TEXTS = {
    "empty": b"",
    "zeros": bytes(99),
    "half": None,
    "null": b"null",
    "a list": b"[]",
    "a number": b"1e999",
    "an empty map": b"{}",
    "not UTF-8": b'{"a": "\xff"}',
    "deep": b"[" * 10**5,
    "many digits": b'{"sample_size": ' + b"9" * 5000 + b"}",
    "another kind of file": b"\x80\x04\x95K",
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    text_to_image().pipe.save_pretrained(folder)
    (folder / "vocabulary.txt").write_text("\n".join(WORDS))
    return folder


JSONS = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "unet/config.json",
    "vae/config.json",
]


def loaded_or_refused(folder, expected):
    """Whether a folder is refused, in one sentence; else it is the model that is expected, or says that it is not."""
    try:
        backbone = backbones.load(folder)
    except (ValueError, OSError) as error:
        sentence(error)
        return True
    assert weights(backbone) == expected or weights(backbone) != weights(text_to_image())
    return False


@slow
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", JSONS)
def test_a_configuration_that_is_damaged(tmp_path, saved, name, text):
    folder = Path(shutil.copytree(saved, tmp_path / "tiny"))
    data = TEXTS[text]
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2] if data is None else data)
    refused = loaded_or_refused(folder, "")
    may_load = name == "tokenizer/tokenizer_config.json" or text in ("an empty map", "many digits")
    assert refused or may_load, "it loads as if nothing had happened"


@slow
@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"])
@pytest.mark.parametrize("damage", ["empty", "zeros", "half", "another's", "a text"])
def test_weights_that_are_damaged(tmp_path, saved, part, damage):
    folder = Path(shutil.copytree(saved, tmp_path / "tiny"))
    path = folder / f"{part}.safetensors"
    whole = path.read_bytes()
    other = next(each for each in folder.rglob("*.safetensors") if each != path).read_bytes()
    texts = {"empty": b"", "zeros": bytes(len(whole)), "half": whole[: len(whole) // 2]}
    path.write_bytes((texts | {"another's": other, "a text": b"version https://git-lfs.github.com/spec/v1"})[damage])
    with pytest.raises((ValueError, OSError)) as caught:
        backbones.load(folder)
    sentence(caught)


@pytest.mark.parametrize("data", [b"", b"\xff\xfe\x00", bytes(999), b"a\n" * 10**5, b"\x1b[2J\n"])
def test_a_vocabulary_that_is_damaged(tmp_path, saved, data):
    folder = Path(shutil.copytree(saved, tmp_path / "tiny"))
    (folder / "vocabulary.txt").write_bytes(data)
    loaded_or_refused(folder, weights(backbones.load(saved)))


@slow
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_reader_that_is_damaged(tmp_path, name, text):
    folder = Path(shutil.copytree(reader.FOLDER / "cats", tmp_path / "cats"))
    data = TEXTS[text]
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2] if data is None else data)
    with pytest.raises((ValueError, OSError)) as caught:
        reader.load("cats", folder=folder)
    sentence(caught)


# Checksums


@pytest.mark.parametrize("damage", DAMAGES)
def test_checksums_that_are_damaged_anywhere(tmp_path, monkeypatch, damage):
    """The list of checksums itself: the weights that it names are refused, or still held against it."""
    home = tmp_path / "weights"
    shutil.copytree(WEIGHTS / "readers" / "cats", home / "cats")
    monkeypatch.setattr("lsvd.paths.WEIGHTS", home)
    checksums.record(home / "cats")
    checksums.verify(home / "cats", "restore it")
    path = home / checksums.NAME
    weight = home / "cats" / "model.safetensors"
    data = weight.read_bytes()
    weight.write_bytes(flipped(data, len(data) - 9))
    for _ in damaged_everywhere(path, damage, 30):
        with pytest.raises(ValueError) as caught:
            checksums.verify(home / "cats", "restore it")
        sentence(caught)


# Tables and notes


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: bytes(len(data)),
        lambda data: b"\xff" + data,
        lambda data: data.replace(b",", b";"),
        lambda data: data[:99] + data[99:].replace(b"\n", b",more\n"),
        lambda data: data + b'"',
        lambda data: data.replace(b"0.", b"nan"),
        lambda data: b"\x80\x04" + data,
    ],
    ids=["half", "empty", "zeros", "not UTF-8", "semicolons", "a column more", "a quote", "words", "another kind"],
)
def test_tables_that_are_damaged(tmp_path, monkeypatch, spoil):
    from lsvd.paths import outputs

    monkeypatch.delenv("LSVD_OUTPUTS")
    data = outputs("tables", "backbones.csv").read_bytes()
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "backbones.csv").write_bytes(spoil(data))
    with pytest.raises(ValueError) as caught:
        tables.text("backbones")
    sentence(caught)


def test_tables_with_the_line_ends_of_another_system(tmp_path, monkeypatch):
    from lsvd.paths import outputs

    monkeypatch.delenv("LSVD_OUTPUTS")
    data, expected = outputs("tables", "backbones.csv").read_bytes(), tables.text("backbones")
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "backbones.csv").write_bytes(data.replace(b"\n", b"\r\n"))
    assert tables.text("backbones") == expected


def test_notes_of_what_was_executed_that_are_damaged(tmp_path):
    clone = small_clone(tmp_path / "clone")
    reproduce(clone)
    path = clone / "build/notebooks/01_two.json"
    whole = path.read_bytes()
    for data in TEXTS.values():
        path.write_bytes(whole[: len(whole) // 2] if data is None else data)
        assert Manifest.read(path).changes({}) == ["not executed yet"]
    assert reproduce(clone) == ["01"] and reproduce(clone) == []


def test_notebooks_that_are_damaged(tmp_path):
    clone = small_clone(tmp_path / "clone")
    path = clone / "notebooks/01_two.ipynb"
    whole = path.read_bytes()
    for text, data in TEXTS.items():
        path.write_bytes(whole[: len(whole) // 2] if data is None else data)
        with pytest.raises(ValueError, match="01_two.ipynb is damaged: restore it with `git checkout`"):
            session.read(path)
        if text in ("deep", "not UTF-8"):
            assert "01_two.ipynb is damaged: restore it with `git checkout`" in complaint(make(clone, "reproduce"))


def test_weights_with_nan_in_the_denoiser(tmp_path):
    """No autoencoder would notice: what is drawn is not finite, and refused before it is decoded."""
    from tiny import Entry, from_pipeline, tiny_pipeline

    pipe = tiny_pipeline()
    with torch.no_grad():
        pipe.unet.conv_out.weight.fill_(float("nan"))
    backbone = from_pipeline(pipe, Entry("nan", "text-to-image", "", size=16, steps=4, guidance=3.0, k=3), WORDS)
    from lsvd import avi
    from lsvd.sampling import trajectory

    with pytest.raises(ValueError, match="NaN") as caught:
        backbone.decode(trajectory.run(backbone, "a person").final)
    sentence(caught)
    with pytest.raises(ValueError, match="NaN") as caught:
        avi.edit_prompt(backbone, "a person", "an old person")
    sentence(caught)


def test_the_settings_of_an_attribute_are_checked_as_a_whole(tmp_path, learned):
    """Each value of its notes, replaced by each of these and signed again: refused in one sentence, or the same."""
    from lsvd.storage.tensors import load, pack

    path = learned.save(tmp_path / "a.safetensors")
    tensors, metadata = load(path)
    notes = json.loads(metadata["attribute"])
    for name in notes:
        for value in (None, [], {}, "x", -1, 10**400, float("nan"), True, [[]], {"a": 1}):
            text = json.dumps(notes | {name: value})
            sha = attribute._digest(tensors, text)
            path.write_bytes(pack(tensors, metadata | {"attribute": text, "sha256": sha}))
            try:
                attribute.load(path)
            except ValueError as error:
                sentence(error)
                continue
            assert value in (None, True, -1) or name in ("target", "t_branch", "models"), (name, value)
