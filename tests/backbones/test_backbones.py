"""Backbones load from names and folders, code pictures, and explain bad input in one sentence."""

import json
import shutil
import warnings

import pytest
import torch
from diffusers import DDPMPipeline, StableDiffusionPipeline, UNet2DConditionModel, UNet2DModel, hooks
from safetensors.torch import load_file, save_file
from tiny import KINDS, WORDS, text_to_image, tiny_ddpm, tiny_pipeline, unconditional
from tiny_families import build
from torch.testing import assert_close

from lsvd import backbones, checks, paths
from lsvd.backbones import checkpoints
from lsvd.sampling.trajectory import run


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
    monkeypatch.setattr(paths, "WEIGHTS", tmp_path / "weights")
    return tmp_path / "weights"


def test_registered_names_load(folder):
    backbone = backbones.load("mini-sd")
    assert (backbone.name, backbone.kind, backbone.latent_shape) == ("mini-sd", "text-to-image", (4, 8, 8))
    assert backbone.entry.steps == 25 and backbone.dtype == torch.float32 and backbone.device.type == "cpu"
    assert backbone.words == set(WORDS)
    mine = text_to_image()
    noise = mine.noise([1, 2])
    assert_close(backbone.decode(noise), mine.decode(noise), rtol=0, atol=1e-5)
    cats = backbones.load("mini-cats")
    assert (cats.kind, cats.latent_shape, cats.T) == ("unconditional", (3, 8, 8), 1000)
    assert type(cats.scheduler).__name__ == "DDIMScheduler" and not cats.words


def test_loading_is_silent(folder, capfd):
    log = checkpoints.diffusers_logging
    log.enable_progress_bar()
    log.set_verbosity_warning()
    backbones.load("mini-sd")
    edit_tensors(unet_file(folder, "mini-sd"), without("conv_in.weight"))
    with pytest.raises(ValueError):
        backbones.load("mini-sd")
    assert capfd.readouterr().err == ""
    assert log.is_progress_bar_enabled() and log.get_verbosity() == log.WARNING  # as they were found


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


@pytest.mark.parametrize("name", ["mini-dogs", "nowhere/at/all", "sd22"])
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


class Payload:
    """Pickled, it calls a function when it is read."""

    def __reduce__(self):
        return (open, ("opened-by-a-pickle", "w"))


def test_pickled_tensors_of_others_are_read_and_code_is_not(folder, monkeypatch):
    """Parts of google/ddpm-ema-* are there as pickles only."""
    monkeypatch.chdir(folder)
    file = unet_file(folder, "mini-cats")
    file.unlink()
    pickled = file.with_name("diffusion_pytorch_model.bin")
    torch.save(unconditional().pipe.unet.state_dict(), pickled)
    found = backbones.load(folder / "mini-cats").pipe.unet.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in unconditional().pipe.unet.state_dict().items())
    torch.save({"conv_in.weight": Payload()}, pickled)
    with pytest.raises(ValueError, match="could not be loaded"):
        backbones.load(folder / "mini-cats")
    assert not (folder / "opened-by-a-pickle").exists()


def test_safetensors_go_before_pickles(folder):
    unet_file(folder, "mini-cats").with_name("diffusion_pytorch_model.bin").write_bytes(b"not read")
    backbones.load(folder / "mini-cats")


def test_variants(folder):
    tiny_pipeline().to(torch.float16).save_pretrained(folder / "half", variant="fp16")
    backbone = backbones.load(folder / "half", variant="fp16")
    assert backbone.dtype == torch.float32
    # what has no such variant is read without
    assert backbones.load(folder / "mini-sd", variant="fp16").dtype == torch.float32


def test_sizes():
    pipe = tiny_pipeline()
    backbone = backbones.from_pipeline(pipe, size=(8, 24))
    assert backbone.size == (8, 24) and backbone.latent_shape == (4, 4, 12)
    walk = run(backbone, "a person", [1, 2], steps=2)
    assert walk.final.shape == (2, 4, 4, 12) and backbone.decode(walk.final).shape == (2, 3, 8, 24)
    assert backbones.from_pipeline(pipe).size == (16, 16)
    with pytest.raises(ValueError, match="multiples of 2 pixels, not 15x16"):
        backbones.from_pipeline(pipe, size=(15, 16))


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


def test_other_pipelines(folder):
    (folder / "mini-sd" / "model_index.json").write_text('{"_class_name": "WanPipeline"}')
    with pytest.raises(
        ValueError, match="a WanPipeline, as in .*, is not supported: choose from StableDiffusionPipeline"
    ):
        backbones.load("mini-sd")
    with pytest.raises(ValueError, match="a Linear is not supported"):
        backbones.from_pipeline(torch.nn.Linear(1, 1))


def edit_tensors(file, change):
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def without(name):
    return lambda tensors: tensors.pop(name)


def one_sentence(error, name):
    """The message, if it is one line that names what to do about a damaged `name`."""
    text = str(error.value)
    assert "\n" not in text and text.count(": ") == 1
    assert text.endswith(f"restore them with `git checkout -- lsvd/weights/{name}`, or retrain with `make train`")
    return text


TEXT = ("mini-sd", "text_encoder/model.safetensors", "embeddings.token_embedding.weight")
UNET = ("mini-sd", "unet/diffusion_pytorch_model.safetensors", "conv_in.weight")
PIXEL = ("mini-cats", "unet/diffusion_pytorch_model.safetensors", "conv_in.weight")
VAE = ("mini-sd", "vae/diffusion_pytorch_model.safetensors", "decoder.conv_in.weight")


@pytest.mark.parametrize(("name", "file", "tensor"), [TEXT, UNET, PIXEL, VAE])
def test_tensors_that_the_config_does_not_ask_for(folder, name, file, tensor):
    """One is missing, one too many, one of another shape: nothing is filled in or left out in silence."""
    file = folder / name / file
    whole = file.read_bytes()
    for change, said in (
        (without(tensor), f"lacks tensors of the model in its config.json .{tensor}."),
        (lambda tensors: tensors.update(more=torch.zeros(2)), "does not have .more."),
        (lambda tensors: tensors.update({tensor: torch.zeros(2)}), f"shapes than.*{tensor}|{tensor} expected shape"),
    ):
        file.write_bytes(whole)
        edit_tensors(file, change)
        with pytest.raises(ValueError, match=said) as error:
            backbones.load(name)
        assert str(file.parent) in one_sentence(error, name)


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
def test_a_config_of_another_model(folder, part):
    file = folder / "mini-sd" / part / "config.json"
    config = json.loads(file.read_text())
    wider = {"unet": "block_out_channels", "text_encoder": "hidden_size", "vae": "block_out_channels"}[part]
    for change in (
        {wider: [16, 32] if part != "text_encoder" else 32},
        {"num_hidden_layers" if part == "text_encoder" else "layers_per_block": 2},  # one is there
        {"hidden_act" if part == "text_encoder" else "act_fn": "no such function"},
        {wider: "wide"},
    ):
        file.write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=f"mini-sd/{part}") as error:
            backbones.load("mini-sd")
        one_sentence(error, "mini-sd")


@pytest.mark.parametrize(
    "file", ["vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json", "model_index.json"]
)
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b"null"])
def test_damaged_configs(folder, file, content):
    (folder / "mini-sd" / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"{file} is damaged") as error:
        backbones.load("mini-sd")
    one_sentence(error, "mini-sd")


@pytest.mark.parametrize(
    "components", [{"unet": ["diffusers", "NoSuchModel"]}, {"unet": []}, {"unet": None}, {"text_encoder": 1}]
)
def test_an_index_of_other_parts(folder, components):
    index = folder / "mini-sd" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | components))
    with pytest.raises(ValueError, match="mini-sd could not be loaded") as error:
        backbones.load("mini-sd")
    assert "\n" not in str(error.value) and str(error.value).endswith("`make train`")


def test_a_missing_tokenizer(folder):
    tokens = folder / "mini-sd" / "tokenizer"
    whole = (tokens / "tokenizer.json").read_text()
    (tokens / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither tokenizer.json nor vocab.json and merges.txt") as error:
        backbones.load("mini-sd")
    one_sentence(error, "mini-sd")
    pieces = json.loads(whole)["model"]
    (tokens / "vocab.json").write_text(json.dumps(pieces["vocab"]))
    with pytest.raises(FileNotFoundError, match=r"neither"):
        backbones.load("mini-sd")
    merges = [" ".join(pair) for pair in pieces["merges"]]
    (tokens / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    tokenizer = backbones.load("mini-sd").pipe.tokenizer
    assert tokenizer("an old person").input_ids == text_to_image().pipe.tokenizer("an old person").input_ids
    (tokens / "merges.txt").write_text("\n".join(["#version: 0.2", *merges[:-3]]))
    with pytest.raises(ValueError, match="no merges for 3 of its tokens") as error:
        backbones.load("mini-sd")
    one_sentence(error, "mini-sd")
    (tokens / "tokenizer.json").write_text(whole)
    (tokens / "tokenizer_config.json").unlink()
    with pytest.raises(FileNotFoundError, match="lacks its tokenizer_config.json"):
        backbones.load("mini-sd")


@pytest.mark.parametrize("content", [b"", b'{"model":', b"[]", b"\xff", b'{"a": 1}', b'{"added_tokens": []}'])
def test_a_damaged_tokenizer(folder, content):
    (folder / "mini-sd" / "tokenizer" / "tokenizer.json").write_bytes(content)
    with pytest.raises(ValueError, match="mini-sd/tokenizer") as error:
        backbones.load("mini-sd")
    one_sentence(error, "mini-sd")


def test_a_tokenizer_for_another_text_tower(folder):
    file = folder / "mini-sd" / "tokenizer" / "tokenizer_config.json"
    config = json.loads(file.read_text())
    for change in ({"model_max_length": 77}, {"model_max_length": None}):
        file.write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match="places, its text tower takes 8") as error:
            backbones.load("mini-sd")
        one_sentence(error, "mini-sd")
    file.write_text(json.dumps(config))
    whole = file.with_name("tokenizer.json")
    tokenizer = json.loads(whole.read_text())
    tokenizer["added_tokens"].append(tokenizer["added_tokens"][-1] | {"id": 74, "content": "<new>"})
    whole.write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match="has 75 tokens, its text tower takes 74"):
        backbones.load("mini-sd")


def test_a_vocabulary_that_is_no_text(folder):
    (folder / "mini-sd" / "vocabulary.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(ValueError, match="vocabulary.txt cannot be read as UTF-8") as error:
        backbones.load("mini-sd")
    one_sentence(error, "mini-sd")


def test_damaged_list_of_shards(folder):
    unconditional().pipe.save_pretrained(folder / "sharded", max_shard_size="20KB")
    index = next((folder / "sharded" / "unet").glob("*.index.json"))
    for content in ("{", "{}", '{"a": 1}', '{"weight_map": []}'):
        index.write_text(content)
        with pytest.raises(ValueError, match="index.json is damaged: copy or download the folder again"):
            backbones.load(folder / "sharded")


@pytest.mark.parametrize("trouble", [RuntimeError("one\ntwo"), NotImplementedError(), Exception("one. Two")])
@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("mini-sd", UNet2DConditionModel),
        ("mini-cats", UNet2DModel),
        ("mini-sd", StableDiffusionPipeline),
        ("mini-cats", DDPMPipeline),
    ],
)
def test_whatever_the_libraries_raise_is_one_sentence(folder, monkeypatch, name, place, trouble):
    def fail(*arguments, **options):
        raise trouble

    monkeypatch.setattr(place, "from_pretrained", fail)
    with pytest.raises(ValueError, match=r"could not be loaded \((one|NotImplementedError)\): restore") as error:
        backbones.load(name)
    one_sentence(error, name)


def test_old_names_of_tensors_are_understood(folder):
    """Stable Diffusion is still published with the names of diffusers 0.14 and transformers 4."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors):
        for name in [name for name in tensors if ".attentions.0." in name]:
            short = name
            for new, before in old.items():
                short = short.replace(f".{new}.", f".{before}.")
            tensors[short] = tensors.pop(name)

    def prefix(tensors):
        for name in list(tensors):
            tensors[f"text_model.{name}"] = tensors.pop(name)
        tensors["text_model.embeddings.position_ids"] = torch.arange(8)[None]

    file = folder / VAE[0] / VAE[1]
    before = set(load_file(file))
    edit_tensors(file, rename)
    edit_tensors(folder / TEXT[0] / TEXT[1], prefix)
    assert len(set(load_file(file)) - before) == 16
    noise = text_to_image().noise([1])
    loaded = backbones.load("mini-sd")
    assert_close(loaded.decode(noise), text_to_image().decode(noise), rtol=0, atol=1e-5)
    ids = torch.tensor([[1, 2, 3]])
    assert_close(loaded.pipe.text_encoder(ids)[0], text_to_image().pipe.text_encoder(ids)[0], rtol=0, atol=1e-5)


def test_clip_models_are_loaded_elsewhere(folder, tmp_path):
    (tmp_path / "some-clip").mkdir()
    (tmp_path / "some-clip" / "config.json").write_text('{"model_type": "clip"}')
    for name in ("mini-clip", tmp_path / "some-clip"):
        with pytest.raises(ValueError, match="is a CLIP model.*lsvd.backbones.clip.load"):
            backbones.load(name)


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


def test_mixed_seeds_are_fixed_and_unrelated():
    # the values that kept pictures and trajectories were made with
    assert (checks.mix(1, 2), checks.mix(5)) == (1596810411, 16823399)
    assert len({checks.mix(a, b) for a in range(20) for b in range(20)}) == 400


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
        (torch.zeros(1, 4, 16, 16), "an alpha channel"),
        (torch.zeros(1, 3, 32, 32), "of 32 x 32 pixels, where 16 x 16 are drawn"),
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


@pytest.mark.parametrize(
    "cache",
    [
        hooks.MagCacheConfig(num_inference_steps=4, calibrate=False, mag_ratios=[1.0] * 4),
        hooks.TaylorSeerCacheConfig(cache_interval=3, disable_cache_before_step=2, max_order=1),
        hooks.FirstBlockCacheConfig(threshold=0.3),
    ],
    ids=lambda cache: type(cache).__name__,
)
def test_caches_between_steps_are_refused(cache):
    """A trajectory that is taken up has no earlier steps, and a stopped call leaves its own in them."""
    backbone = backbones.from_pipeline(build("FluxPipeline"), size=16)
    walk = run(backbone, "a person", [1], 4)
    backbone.pipe.transformer.enable_cache(cache)
    with pytest.raises(ValueError, match="earlier steps left.*: call disable_cache"):
        run(backbone, "a person", [1], 4)
    backbone.pipe.transformer.disable_cache()
    assert torch.equal(run(backbone, "a person", [1], 4).codes, walk.codes)
