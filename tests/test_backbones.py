"""Backbones load from names and folders, code pictures, and explain bad input in one sentence."""

import json
import shutil
import warnings

import pytest
import torch
from tiny import KINDS, WORDS, text_to_image, tiny_ddpm, tiny_pipeline, unconditional
from torch.testing import assert_close

from lsvd import backbones
from lsvd.trajectory import run


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    text_to_image().pipe.save_pretrained(folder / "mini-sd")
    unconditional().pipe.save_pretrained(folder / "mini-cats")
    (folder / "mini-sd" / "vocabulary.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return folder


@pytest.fixture
def folder(saved, tmp_path, monkeypatch):
    """A copy of the saved backbones, to be damaged, where the registry looks for its weights."""
    shutil.copytree(saved, tmp_path / "weights")
    monkeypatch.setattr(backbones, "WEIGHTS", tmp_path / "weights")
    return tmp_path / "weights"


def test_registered_names_load(folder):
    backbone = backbones.load("mini-sd")
    assert (backbone.name, backbone.kind, backbone.latent_shape) == ("mini-sd", "text-to-image", (4, 8, 8))
    assert backbone.entry.steps == 30 and backbone.dtype == torch.float32 and backbone.device.type == "cpu"
    assert backbone.words == set(WORDS)
    mine = text_to_image()
    noise = mine.noise([1, 2])
    assert_close(backbone.decode(noise), mine.decode(noise), rtol=0, atol=1e-5)
    cats = backbones.load("mini-cats")
    assert (cats.kind, cats.latent_shape, cats.T) == ("unconditional", (3, 8, 8), 1000)
    assert type(cats.scheduler).__name__ == "DDIMScheduler" and not cats.words


def test_loading_is_silent(folder, capfd):
    backbones.diffusers_logging.enable_progress_bar()
    backbones.load("mini-sd")
    assert "it/s" not in capfd.readouterr().err
    assert backbones.diffusers_logging.is_progress_bar_enabled()  # as it was found


def test_folders_load(folder):
    a = run(backbones.load(folder / "mini-cats"), None, 3, steps=2).final
    b = run(backbones.load(str(folder / "mini-cats")), None, 3, steps=2).final
    assert torch.equal(a, b)
    # read from a file, weights lie elsewhere in memory, and a convolution may round otherwise
    assert_close(a, run(unconditional(), None, 3, steps=2).final, rtol=0, atol=1e-4)
    assert backbones.load(folder / "mini-sd").entry.guidance == 7.5


def test_dtype(folder):
    backbone = backbones.load("mini-sd", dtype=torch.bfloat16)
    for part in (backbone.pipe.unet, backbone.pipe.vae, backbone.pipe.text_encoder):
        assert {p.dtype for p in part.parameters()} == {torch.bfloat16}
    walk = run(backbone, "an old person", [1, 2], steps=2)
    assert walk.codes.dtype == torch.bfloat16
    picture = backbone.decode(walk.final)
    assert picture.dtype == torch.float32 and picture.shape == (2, 3, 16, 16)
    assert_close(picture, text_to_image().decode(walk.final.float()), rtol=0, atol=0.05)


def test_half_precision_weights_load_in_float32(folder):
    tiny_pipeline().to(torch.float16).save_pretrained(folder / "mini-sd")
    backbone = backbones.load("mini-sd")
    for part in (backbone.pipe.unet, backbone.pipe.vae, backbone.pipe.text_encoder):
        assert {p.dtype for p in part.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["mini-dogs", "nowhere/at/all", "sd21"])
def test_unknown_name(name):
    with pytest.raises(ValueError, match="choose from mini-sd, mini-portraits, mini-cats, mini-churches"):
        backbones.load(name)


def test_no_weights(folder):
    with pytest.raises(FileNotFoundError, match="mini-portraits.*git checkout.*make train"):
        backbones.load("mini-portraits")
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="model_index.json.*again"):
        backbones.load(folder / "empty")


def unet_file(folder, name):
    return folder / name / "unet" / "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("name", ["mini-sd", "mini-cats"])
@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.999])
def test_truncated_weights(folder, name, keep):
    file = unet_file(folder, name)
    data = file.read_bytes()
    file.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    with pytest.raises(ValueError, match=r"unet/diffusion.*safetensors is truncated.*git checkout") as caught:
        backbones.load(name)
    assert "\n" not in str(caught.value)


def test_missing_weights_file(folder):
    unet_file(folder, "mini-cats").unlink()
    with pytest.raises(FileNotFoundError, match="unet holds no .safetensors"):
        backbones.load("mini-cats")
    shutil.rmtree(folder / "mini-sd" / "text_encoder")
    with pytest.raises(FileNotFoundError, match="text_encoder is missing"):
        backbones.load("mini-sd")


def test_pickles_are_not_read(folder):
    file = unet_file(folder, "mini-cats")
    file.unlink()
    torch.save(unconditional().pipe.unet.state_dict(), file.with_name("diffusion_pytorch_model.bin"))
    with pytest.raises(FileNotFoundError, match="other formats are not read"):
        backbones.load("mini-cats")


def test_sharded_weights(folder):
    backbone = unconditional()
    backbone.pipe.save_pretrained(folder / "sharded", max_shard_size="20KB")
    index = next((folder / "sharded" / "unet").glob("*.index.json"))
    for mine, theirs in zip(
        backbones.load(folder / "sharded").pipe.unet.parameters(), backbone.pipe.unet.parameters(), strict=True
    ):
        assert torch.equal(mine, theirs)
    shard = sorted(set(json.loads(index.read_text())["weight_map"].values()))[-1]
    (index.parent / shard).unlink()
    with pytest.raises(FileNotFoundError, match=f"{shard} is missing"):
        backbones.load(folder / "sharded")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_damaged_index(folder, text):
    (folder / "mini-sd" / "model_index.json").write_text(text)
    with pytest.raises(ValueError, match="model_index.json is damaged"):
        backbones.load("mini-sd")


def test_other_pipelines(folder):
    (folder / "mini-sd" / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ValueError, match="FluxPipeline, which is not supported"):
        backbones.load("mini-sd")
    with pytest.raises(ValueError, match="a Linear is not supported"):
        backbones.from_pipeline(torch.nn.Linear(1, 1))


def test_damaged_config(folder):
    (folder / "mini-sd" / "vae" / "config.json").write_text("{")
    with pytest.raises(ValueError, match="could not load") as caught:
        backbones.load("mini-sd")
    assert "\n" not in str(caught.value)


def test_noise_is_the_seeds_alone():
    for make in KINDS.values():
        noise = make().noise([7, 0, 7])
        assert noise.shape == (3, *make().latent_shape)
        assert torch.equal(noise[0], noise[2]) and torch.equal(noise[1:2], make().noise([0]))
        assert torch.equal(noise[0], torch.randn(noise[0].shape, generator=torch.Generator().manual_seed(7)))


@pytest.mark.parametrize("seeds", [[-1], [2**32], [1.0], [True], ["1"], []])
def test_bad_seeds(seeds):
    with pytest.raises(ValueError, match="seed"):
        unconditional().noise(seeds)


def test_pixel_codes_are_pictures():
    picture = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    backbone = unconditional()
    assert_close(backbone.encode(picture), picture * 2 - 1)
    assert_close(backbone.decode(backbone.encode(picture)), picture)
    assert backbone.decode(backbone.noise([1]) * 9).aminmax() == (0, 1)


def test_latents_are_scaled_as_the_pipeline_does():
    backbone = text_to_image()
    code = backbone.noise([1, 2])
    pipe = tiny_pipeline()
    decoded = pipe.vae.decode(code / pipe.vae.config.scaling_factor).sample
    assert torch.equal(backbone.decode(code), pipe.image_processor.postprocess(decoded, output_type="pt"))
    picture = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    codes = backbone.encode(picture)
    assert codes.shape == (2, 4, 8, 8) and not codes.requires_grad
    assert_close(codes, pipe.vae.encode(picture * 2 - 1).latent_dist.mode() * 0.7)
    assert_close(torch.cat([backbone.encode(picture[i : i + 1]) for i in range(2)]), codes, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("pictures", "word"),
    [
        (torch.zeros(3, 16, 16), "shape"),
        (torch.zeros(1, 4, 16, 16), "shape"),
        (torch.zeros(1, 3, 32, 32), "takes codes of shape"),
        (torch.full((1, 3, 16, 16), 255.0), r"\[0, 1\]"),
        (torch.full((1, 3, 16, 16), -1.0), r"\[0, 1\]"),
        (torch.full((1, 3, 16, 16), float("nan")), "the picture holds NaN"),
    ],
)
def test_bad_pictures(pictures, word):
    with pytest.raises(ValueError, match=word):
        text_to_image().encode(pictures)


def test_bad_codes():
    with pytest.raises(ValueError, match="NaN"):
        text_to_image().decode(torch.full((1, 4, 8, 8), float("nan")))
    with pytest.raises(ValueError, match=r"takes codes of shape \(B, 4, 8, 8\), not \(4, 8, 8\)"):
        text_to_image().decode(torch.zeros(4, 8, 8))


def test_unknown_words_are_named():
    backbone = text_to_image()
    with pytest.warns(UserWarning, match="never shown the words q, z of 'A person, Q z!'"):
        backbone.check_prompts(["A person, Q z!"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone.check_prompts(["An OLD person.", "", "old-person"])
        backbones.from_pipeline(backbone.pipe).check_prompts(["ears"])  # no list of words, no warning


def test_overlong_prompts_are_named():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text_to_image().check_prompts(["an old person with red hair"])  # 6 tokens, the room there is
    with pytest.warns(UserWarning, match="reads 6 tokens.*will not see 'young hair'"):
        text_to_image().check_prompts(["an old person with red hair young hair"])


def test_own_pipelines():
    backbone = backbones.from_pipeline(tiny_ddpm())
    assert backbone.name == "DDPMPipeline" and backbone.kind == "unconditional"
    assert backbones.from_pipeline(tiny_pipeline()).kind == "text-to-image"
