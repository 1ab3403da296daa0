"""Checkpoints of the hub: what is in its cache is found without a network, and what is not ends in one sentence."""

import errno
import shutil

import pytest
import torch
from huggingface_hub import constants
from tiny import tiny_ddpm, tiny_pipeline

from lsvd import backbones
from lsvd.backbones import hub
from lsvd.backbones.registry import EMBEDDED, REGISTRY

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "hub"


def put(cache, name, pipe, **options):
    """A repository as the hub's cache keeps it."""
    home = cache / f"models--{name.replace('/', '--')}"
    pipe.save_pretrained(home / "snapshots" / COMMIT, **options)
    (home / "refs").mkdir(parents=True, exist_ok=True)
    (home / "refs" / "main").write_text(COMMIT)
    return home / "snapshots" / COMMIT


@pytest.mark.parametrize("name", sorted(set(REGISTRY) - set(EMBEDDED)))
def test_a_missing_checkpoint_is_one_sentence(cache, name):
    with pytest.raises(FileNotFoundError, match="no checkpoint was found") as caught:
        backbones.load(name)
    said = str(caught.value)
    assert all(each in said for each in REGISTRY[name].hub) and str(cache) in said and "HF_HUB_OFFLINE" in said
    assert f"hf download {REGISTRY[name].hub[0]}" in said and "\n" not in said


def test_an_id_of_ones_own(cache):
    with pytest.raises(FileNotFoundError, match=r"tried someone/their-model \(HF_HUB_OFFLINE is set"):
        backbones.load("someone/their-model")
    folder = put(cache, "someone/their-model", tiny_ddpm())
    backbone = backbones.load("someone/their-model")
    assert backbone.name == "someone/their-model" and backbone.kind == "unconditional"
    assert backbones.load(folder).name == COMMIT


def test_the_next_id_is_tried(cache):
    first, second = REGISTRY["sd21"].hub
    put(cache, second, tiny_pipeline())
    backbone = backbones.load("sd21")
    assert backbone.name == "sd21" and backbone.entry.guidance == 7.5 and backbone.latent_shape == (4, 8, 8)
    put(cache, first, tiny_pipeline())
    assert "sd2-community" in str(backbones.load("sd21").pipe.config["_name_or_path"])


def test_a_partial_download(cache):
    folder = put(cache, "google/ddpm-ema-cat-256", tiny_ddpm())
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="unet holds no .safetensors|no checkpoint was found"):
        backbones.load("ddpm-cat")
    shutil.rmtree(folder / "unet")
    with pytest.raises(FileNotFoundError, match="unet is missing|no checkpoint was found"):
        backbones.load("ddpm-cat")
    (folder / "model_index.json").unlink()
    with pytest.raises(FileNotFoundError, match="no checkpoint was found"):
        backbones.load("ddpm-cat")


def test_a_wrong_revision(cache):
    put(cache, "google/ddpm-ema-cat-256", tiny_ddpm())
    backbones.load("ddpm-cat", revision=COMMIT)
    with pytest.raises(FileNotFoundError, match="no checkpoint was found"):
        backbones.load("ddpm-cat", revision="another")


def test_ids():
    assert hub.is_id("owner/name-2.1") and not any(map(hub.is_id, ("name", "a/b/c", "./folder", "../folder", "/any/x")))


def test_dtypes():
    sd21, flux, mini = (REGISTRY[name] for name in ("sd21", "flux", "mini-sd"))
    assert {entry.dtype("cpu") for entry in (sd21, flux, mini)} == {torch.float32}
    assert [entry.dtype("cuda") for entry in (sd21, flux, mini)] == [torch.float16, torch.bfloat16, torch.float32]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "no space"), "the disk is full: make room"),
        (ConnectionError("gone"), "the hub cannot be reached"),
        (ValueError("one. two\nthree"), "one. two"),
    ],
)
def test_what_goes_wrong_is_said(monkeypatch, error, reason):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(hub.DiffusionPipeline, "download", fail)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(FileNotFoundError) as caught:
        hub.fetch(["owner/name"])
    assert f"owner/name ({reason}" in str(caught.value) and "\n" not in str(caught.value)
