"""CLIP models load whole or not at all, and their vectors are those of plain transformers."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import tokenizer
from torch.testing import assert_close
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTextConfig, CLIPVisionConfig

from lsvd import paths
from lsvd.backbones import checkpoints, clip


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A CLIP model for 16x16 pictures, with random weights."""
    folder = tmp_path_factory.mktemp("weights")
    words = tokenizer()
    shared = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    marks = {name: getattr(words, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = CLIPTextConfig(vocab_size=len(words), max_position_embeddings=8, projection_dim=12, **shared, **marks)
    vision = CLIPVisionConfig(image_size=16, patch_size=8, projection_dim=12, **shared)
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=12)
    CLIPModel(config).save_pretrained(folder)
    words.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path, monkeypatch):
    """A copy, to be damaged, in the place of mini-clip."""
    monkeypatch.setattr(paths, "WEIGHTS", tmp_path)
    return shutil.copytree(saved, tmp_path / "mini-clip")


TEXTS = ["an old person", "a young person with red hair"]


@torch.no_grad()
def test_vectors_are_those_of_plain_transformers(folder):
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 24, 20, 3), dtype=np.uint8)
    images = [Image.fromarray(each) for each in pixels]
    plain = model(**processor(text=TEXTS, images=images, padding=True, return_tensors="pt"))
    loaded = clip.load()
    pictures = loaded.pictures(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255, batch=2)
    assert pictures.shape == (3, 12) and pictures.dtype == torch.float32
    assert_close(pictures, plain.image_embeds, rtol=0, atol=1e-5)
    assert_close(loaded.texts(TEXTS), plain.text_embeds, rtol=0, atol=1e-5)
    assert_close(loaded.texts(TEXTS[0]), plain.text_embeds[:1], rtol=0, atol=1e-5)
    scale = model.logit_scale.exp()
    assert_close(pictures @ loaded.texts(TEXTS).T * scale, plain.logits_per_image, rtol=0, atol=1e-4)


def test_folders_and_dtypes(folder):
    loaded = clip.load(str(folder), dtype=torch.bfloat16)
    assert loaded.model.dtype == torch.bfloat16 and not loaded.model.training
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert_close(loaded.pictures(picture).float(), clip.load(folder).pictures(picture), rtol=0, atol=0.03)


def test_bad_input_is_explained(folder):
    loaded = clip.load()
    with pytest.raises(ValueError, match="no texts"):
        loaded.texts([])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        loaded.pictures(torch.full((1, 3, 16, 16), -1.0))
    with pytest.raises(ValueError, match="shape"):
        loaded.pictures(torch.zeros(3, 16, 16))


def lack(name):
    return lambda folder: (folder / name).unlink()


def truncate(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-50])


def drop(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def narrow(folder):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["hidden_size"] = 8
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "kind", "said"),
    [
        (shutil.rmtree, FileNotFoundError, "mini-clip is missing"),
        (lack("config.json"), FileNotFoundError, "lacks its config.json"),
        (lack("model.safetensors"), FileNotFoundError, "no .safetensors"),
        (lack("tokenizer.json"), FileNotFoundError, "neither tokenizer.json"),
        (lack("tokenizer_config.json"), FileNotFoundError, "tokenizer_config.json"),
        (lack("preprocessor_config.json"), FileNotFoundError, "preprocessor_config.json"),
        (truncate("config.json"), ValueError, "config.json is damaged"),
        (truncate("model.safetensors"), ValueError, "model.safetensors is truncated"),
        (truncate("tokenizer.json"), ValueError, "tokenizer.json is damaged"),
        (truncate("preprocessor_config.json"), ValueError, "preprocessor_config.json is damaged"),
        (drop, ValueError, "lacks tensors .*visual_projection.weight"),
        (narrow, ValueError, "other shapes than"),
    ],
)
def test_damage_is_one_sentence_that_says_what_to_do(folder, damage, kind, said):
    damage(folder)
    with pytest.raises(kind, match=said) as error:
        clip.load()
    text = str(error.value)
    assert "\n" not in text and text.endswith(checkpoints.restore("mini-clip"))
    with pytest.raises(kind, match=f"{said}.*: copy or download the folder again"):
        clip.load(folder)
