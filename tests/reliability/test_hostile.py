"""Files and names made to do harm: nothing of theirs runs, and nothing leaves the folders it belongs to."""

import json
import os
import pickle
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from clones import make, small_clone
from faults import sentence, slow
from safetensors.torch import save_file
from tiny import text_to_image, unconditional

from lsvd import backbones
from lsvd.__main__ import main
from lsvd.avi import attribute
from lsvd.sampling import kept
from lsvd.storage import cache, files, results
from lsvd.testbed import reader
from lsvd.testbed.training import checkpoints
from tools import parameters


class Harm:
    """What a pickle of it does when it is read: make a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def harm(tmp_path):
    """A path that must not be there in the end."""
    path = tmp_path / "harmed"
    yield path
    assert not path.exists(), "what a file brought along was run"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    text_to_image().pipe.save_pretrained(folder)
    return folder


READERS = {
    "attribute": attribute.load,
    "checkpoint": checkpoints.load,
    "result": lambda path: results.read(path, "{}"),
    "weights": lambda path: _folder_with(path, "unet/diffusion_pytorch_model.safetensors"),
    "configuration": lambda path: _folder_with(path, "unet/config.json"),
    "index": lambda path: _folder_with(path, "model_index.json"),
    "single file": lambda path: backbones.load(path.rename(path.with_suffix(".ckpt"))),
    "reader": lambda path: _reader_with(path),
}


def _folder_with(path, name):
    folder = path.parent / "tiny"
    shutil.copy(path, folder / name)
    return backbones.load(folder)


def _reader_with(path):
    folder = Path(shutil.copytree(reader.FOLDER / "cats", path.parent / "cats"))
    shutil.copy(path, folder / "model.safetensors")
    return reader.load("cats", folder=folder)


@pytest.mark.parametrize("protocol", ["pickle", "torch", "numpy"])
@pytest.mark.parametrize("name", READERS)
def test_a_pickle_in_the_place_of_a_file_is_not_read(tmp_path, saved, harm, name, protocol):
    shutil.copytree(saved, tmp_path / "tiny")
    path = tmp_path / "evil.safetensors"
    if protocol == "pickle":
        path.write_bytes(pickle.dumps(Harm(harm)))
    elif protocol == "torch":
        torch.save(Harm(harm), path)
    else:
        with path.open("wb") as file:
            np.save(file, np.array([Harm(harm)], dtype=object), allow_pickle=True)
    try:
        found = READERS[name](path)
    except (ValueError, OSError) as error:
        sentence(error)
    else:
        assert found is None


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "pytorch_model.bin", "diffusion_pytorch_model.pt"])
def test_weights_that_are_pickled_are_refused(tmp_path, saved, harm, name):
    folder = Path(shutil.copytree(saved, tmp_path / "tiny"))
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"w": Harm(harm)}, folder / "unet" / name)
    with pytest.raises((ValueError, OSError)) as caught:
        backbones.load(folder)
    sentence(caught)


CODE = "import os\nos.mkdir({path!r})\nclass Harm:\n    pass\n"


@slow
@pytest.mark.parametrize(
    "entry",
    [
        {"_class_name": "Harm"},
        {"_class_name": ["pipeline", "Harm"]},
        {"_class_name": "os.system"},
        {"unet": ["pipeline", "Harm"]},
        {"unet": ["os", "system"]},
        {"unet": ["tiny.pipeline", "Harm"]},
        {"scheduler": ["subprocess", "Popen"]},
        {"tokenizer": ["builtins", "eval"]},
        {"text_encoder": ["__main__", "Harm"]},
        {"custom_pipeline": "pipeline"},
        {"unet": ["../pipeline", "Harm"]},
    ],
    ids=str,
)
def test_code_that_a_folder_brings_along_is_not_run(tmp_path, saved, harm, monkeypatch, entry):
    folder = Path(shutil.copytree(saved, tmp_path / "tiny"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | entry))
    for name in ("pipeline.py", "unet/pipeline.py", "unet/modeling.py", "__init__.py"):
        (folder / name).write_text(CODE.format(path=str(harm)))
    monkeypatch.chdir(folder)
    try:
        backbones.load(folder)
    except (ValueError, OSError) as error:
        sentence(error)
    else:
        assert "custom_pipeline" in entry  # not looked at


@slow
@pytest.mark.parametrize("part", ["text_encoder/config.json", "tokenizer/tokenizer_config.json", "unet/config.json"])
def test_a_configuration_cannot_name_code(tmp_path, saved, harm, part):
    folder = Path(shutil.copytree(saved, tmp_path / "tiny"))
    (folder / part).parent.joinpath("modeling.py").write_text(CODE.format(path=str(harm)))
    config = json.loads((folder / part).read_text())
    every = ("AutoModel", "AutoConfig", "AutoTokenizer", "AutoModelForCausalLM", "UNet2DConditionModel")
    more = {"auto_map": dict.fromkeys(every, "modeling.Harm"), "trust_remote_code": True}
    (folder / part).write_text(json.dumps(config | more))
    try:
        backbones.load(folder)
    except (ValueError, OSError) as error:
        sentence(error)


# Names


OUTSIDE = ["../../outside", "/outside", "..", ".", "a/../../b", "~/x", "a\0b", "con:", "x" * 200, "\n", "$(touch x)"]


@pytest.mark.parametrize("name", OUTSIDE, ids=ascii)
def test_names_stay_in_their_folder(tmp_path, name):
    """A model may be called anything, and its cache lies where caches lie."""
    home = tmp_path / "a" / "b" / "cache"
    file = results.place(name, {}, home)
    assert file.resolve().is_relative_to(home) and file.parent.parent == home
    assert len(results.safe(name)) <= max(1, len(name))


def test_temporary_files_cannot_be_foreseen(tmp_path, monkeypatch):
    """Whoever may write into the folder cannot have a link wait for the bytes; and an open never follows one."""
    names = {files._neighbour(tmp_path / "x").name for _ in range(100)}
    assert len(names) == 100
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "trap").symlink_to(tmp_path / "victim")
    monkeypatch.setattr(files, "_neighbour", lambda path, kind="tmp": tmp_path / "trap")
    with pytest.raises(files.WriteError):
        files.write_bytes(tmp_path / "x", b"new")
    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_emptying_the_cache_follows_no_link(tmp_path, monkeypatch):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path / "outputs"))
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_bytes(b"precious")
    cache.root().mkdir(parents=True)
    (cache.root() / "linked").symlink_to(tmp_path / "precious")
    (cache.root() / "own").write_bytes(b"x")
    assert main(["cache", "empty"]) == 0
    assert not (cache.root() / "own").exists() and (tmp_path / "precious" / "file").exists()


def test_what_killed_writers_left_is_removed_and_no_link_is_followed(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_bytes(b"precious")
    trap = tmp_path / "folder" / f".x.{files.MACHINE}-{2**22 + 1}-0123456789ab.tmp"
    trap.parent.mkdir()
    trap.symlink_to(tmp_path / "precious")
    files.tidy(trap.parent)
    assert not trap.is_symlink() and (tmp_path / "precious" / "file").exists()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_what_is_written_is_no_more_open_than_the_umask_says(tmp_path, umask):
    before = os.umask(umask)
    try:
        files.write_bytes(tmp_path / "new" / "x", b"x")
        files.update_csv(tmp_path / "new" / "t.csv", [{"a": 1}], ["a"])
        kept.trajectories(unconditional(), steps=1, folder=tmp_path / "kept")
        with files.replace_folder(tmp_path / "new" / "weights") as new:
            unconditional().pipe.save_pretrained(new)
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & umask, path


# make

HARMFUL = "x'\"$(touch harmed)`touch harmed`; touch harmed $(shell touch harmed)\ntouch harmed"


def test_variables_of_the_surroundings_run_nothing(tmp_path):
    """Those that are not make's own: a folder that cannot be made is named, and nothing else happens."""
    clone = small_clone(tmp_path / "clone")
    names = (
        "LSVD_OUTPUTS",
        "LSVD_MEASUREMENTS",
        "LSVD_CACHE_GB",
        "HOME",
        "TMPDIR",
        "USER",
        "MPLBACKEND",
        "TQDM_DISABLE",
    )
    done = make(clone, "reproduce", **dict.fromkeys(names, HARMFUL))
    assert done.returncode == 0 and "3 up to date" in done.stdout, done.stderr
    assert not list(tmp_path.rglob("*harmed*"))


@pytest.mark.parametrize(
    "name", ["__builtins__", "open", "os", "_", "print", "backbone; import os", "backbone.x", "__class__", ""]
)
def test_parameters_are_those_that_notebooks_declare(name):
    with pytest.raises(ValueError, match="no notebook has a parameter") as caught:
        parameters.check({name: "x"}, {"a.ipynb": {"backbone": "mini-sd", "count": 2}})
    assert repr(name) in sentence(caught)


@pytest.mark.parametrize(
    "text", ["\ufeffcount: 3\n", "count: 3\r\n", "# a\ncount: 3\n...\n", "%YAML 1.1\n---\ncount: 3\n"]
)
def test_parameter_files_of_other_editors(tmp_path, text):
    (tmp_path / "p.yml").write_bytes(text.encode())
    assert parameters.read(str(tmp_path / "p.yml")) == {"count": 3}


def test_a_forged_attribute_has_no_power_over_the_terminal(tmp_path, saved, capsys, monkeypatch):
    """In every text that it holds."""
    import dataclasses

    monkeypatch.chdir(tmp_path)
    learned = attribute.learn(text_to_image(), "a person", "an old person", 0, steps=4)
    evil = "\x1b[2J\x9b\u202e\u2028\x07"
    for changes in (
        {"prompts": (evil,)},
        {"backbone": evil},
        {"scheduler": evil},
        {"config": json.dumps({evil: evil})},
    ):
        settings = dataclasses.replace(learned.settings, **changes)
        dataclasses.replace(learned, settings=settings, target=(evil,)).save("evil.safetensors")
        main(["edit", "a person", "--attribute", "evil.safetensors", "--backbone", str(saved), "--steps", "4"])
        said = capsys.readouterr()
        assert all(line.isprintable() for line in (said.err + said.out).split("\n")), said
    save_file({"left": torch.zeros(1)}, "evil.safetensors", {"format": evil})
    assert main(["edit", "a person", "--attribute", "evil.safetensors", "--backbone", str(saved)]) == 1
    assert capsys.readouterr().err[:-1].isprintable()
