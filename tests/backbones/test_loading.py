"""Whatever diffusers loads, loads here; what cannot be used ends in one sentence; shipped weights are as published."""

import json
import os
import shutil

import pytest
import torch
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FluxPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DModel,
    UniPCMultistepScheduler,
)
from safetensors.torch import load_file, save_file
from tiny import KINDS, WORDS, text_to_image, tiny_ddpm, tiny_pipeline, unconditional
from tiny_families import build
from torch.testing import assert_close

from lsvd import backbones, paths
from lsvd.backbones import checkpoints, checksums
from lsvd.backbones.configs import settled
from lsvd.sampling.trajectory import run

PROMPT = {"text-to-image": "a person", "unconditional": None}


def draw(backbone, steps=3, **more):
    return run(backbone, PROMPT[backbone.kind], [1], steps, **more).final


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    tiny_pipeline().save_pretrained(folder / "sd")
    tiny_ddpm().save_pretrained(folder / "ddpm")
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "folders")
    return tmp_path / "folders"


@pytest.mark.parametrize("variant", ["fp16", "bf16", "ema"])
@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "40KB"}], ids=["whole", "sharded"])
@pytest.mark.parametrize("make", [tiny_pipeline, tiny_ddpm])
def test_a_folder_of_one_variant_loads(tmp_path, variant, shards, make):
    pipe = make()
    pipe.save_pretrained(tmp_path / "own", variant=variant, **shards)
    loaded = backbones.load(tmp_path / "own")
    assert torch.equal(loaded.pipe.unet.conv_in.weight, pipe.unet.conv_in.weight)
    assert draw(loaded).isfinite().all()


def test_of_several_variants_the_one_asked_for_is_read(tmp_path):
    for variant, factor in ((None, 1), ("fp16", 2), ("bf16", 3)):
        pipe = tiny_ddpm()
        pipe.unet.conv_in.weight.data.mul_(factor)
        pipe.save_pretrained(tmp_path / "own", variant=variant)
    bias = tiny_ddpm().unet.conv_in.weight
    for variant, factor in ((None, 1), ("fp16", 2), ("bf16", 3), ("other", 1)):
        loaded = backbones.load(tmp_path / "own", variant=variant).pipe.unet.conv_in.weight
        assert_close(loaded, bias * factor)
    (tmp_path / "own" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert_close(backbones.load(tmp_path / "own").pipe.unet.conv_in.weight, bias * 3)


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("model.safetensors", None),
        ("model.fp16.safetensors", "fp16"),
        ("model.fp16-00001-of-00002.safetensors", "fp16"),
        ("model-00001-of-00002.fp16.safetensors", "fp16"),
        ("diffusion_pytorch_model-00001-of-00002.safetensors", None),
        ("diffusion_pytorch_model.non_ema.safetensors", "non_ema"),
    ],
)
def test_variants_are_read_from_names(tmp_path, name, variant):
    (tmp_path / name).touch()
    assert checkpoints.find_variant(tmp_path, None, "safetensors") == variant


@pytest.mark.parametrize("part", ["safety_checker", "feature_extractor", "image_encoder"])
@pytest.mark.parametrize("listed", [["transformers", "CLIPModel"], ["stable_diffusion", "X"], [None, None]])
def test_what_is_never_used_may_be_missing(folder, part, listed):
    index = folder / "sd" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {part: listed, "requires_safety_checker": True}))
    assert getattr(backbones.load(folder / "sd").pipe, part) is None


def test_a_safety_checker_is_not_read(folder):
    index = folder / "sd" / "model_index.json"
    listed = {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    index.write_text(json.dumps(json.loads(index.read_text()) | listed))
    (folder / "sd" / "safety_checker").mkdir()
    (folder / "sd" / "safety_checker" / "model.safetensors").write_bytes(b"large")
    assert backbones.load(folder / "sd").pipe.safety_checker is None


def test_optional_parts_saved_as_null_stay_out(tmp_path):
    """The SDXL refiner has no first text encoder; Stable Diffusion 3 is often saved without its third."""
    parts = dict(build("StableDiffusion3Pipeline").components)
    parts |= {"text_encoder_3": None, "tokenizer_3": None}
    pipe = type(build("StableDiffusion3Pipeline"))(**{k: v for k, v in parts.items()})
    pipe.save_pretrained(tmp_path / "sd3")
    loaded = backbones.load(tmp_path / "sd3")
    assert loaded.pipe.text_encoder_3 is None and draw(loaded).isfinite().all()


@pytest.mark.parametrize("scaling", [1.0, 0.6])
def test_tiny_autoencoders_code_as_their_pipelines_do(scaling):
    torch.manual_seed(0)
    blocks = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    wide = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    vae = AutoencoderTiny(**blocks, **wide, latent_channels=4, scaling_factor=scaling).eval()
    pipe = tiny_pipeline()
    pipe.vae = vae
    backbone = backbones.from_pipeline(pipe)
    picture = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    noise = backbone.noise([1])
    with torch.no_grad():
        assert_close(backbone.encode(picture), vae.encode(picture * 2 - 1).latents * scaling)
        plain = pipe.image_processor.postprocess(vae.decode(noise / scaling).sample, output_type="pt")
    assert_close(backbone.decode(noise), plain)


@pytest.mark.parametrize("kind", ["learned", "learned_range", "fixed_small"])
@pytest.mark.parametrize("scheduler", [None, DDPMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler])
@pytest.mark.parametrize("channels", [1, 3])
def test_models_that_predict_their_variance_are_drawn(kind, scheduler, channels):
    """Their mean is half of what they predict: deterministic samplers draw as if that were all."""
    unet = tiny_ddpm().unet
    torch.manual_seed(0)
    config = settled(unet.config) | {"in_channels": channels, "out_channels": 2 * channels}
    learned = UNet2DModel.from_config(config).eval()
    plain = UNet2DModel.from_config(config | {"out_channels": channels}).eval()
    weights = dict(learned.state_dict())
    weights |= {name: weights[name][:channels] for name in ("conv_out.weight", "conv_out.bias")}
    plain.load_state_dict(weights)
    models = [
        backbones.from_pipeline(DDPMPipeline(unet=net, scheduler=DDPMScheduler(variance_type=variance)))
        for net, variance in ((learned, kind), (plain, "fixed_small"))
    ]
    if scheduler is not None:
        models = [model.with_scheduler(scheduler) for model in models]
    if scheduler is DDPMScheduler and kind == "learned":  # the variance itself, which untrained weights make negative
        with pytest.raises(ValueError, match="makes NaN or infinity of this request: load"):
            draw(models[0])
        return
    mine, simple = (draw(model) for model in models)
    assert mine.isfinite().all()
    if scheduler is not DDPMScheduler or kind == "fixed_small":
        assert torch.allclose(mine, simple, atol=1e-4)


def test_ddpm_itself_uses_the_variance():
    torch.manual_seed(0)
    unet = UNet2DModel.from_config(settled(tiny_ddpm().unet.config) | {"out_channels": 6}).eval()
    model = backbones.from_pipeline(DDPMPipeline(unet=unet, scheduler=DDPMScheduler(variance_type="learned_range")))
    learned, fixed = (
        draw(model.with_scheduler(DDPMScheduler(variance_type=kind))) for kind in ("learned_range", "fixed_small")
    )
    assert not torch.allclose(learned, fixed, atol=1e-4)


@pytest.mark.parametrize(
    ("base", "name"),
    [
        (StableDiffusionPipeline, "StableDiffusionPipeline"),
        (StableDiffusionXLPipeline, "StableDiffusionXLPipeline"),
        (FluxPipeline, "FluxPipeline"),
        (DDPMPipeline, "DDPMPipeline"),
    ],
)
def test_classes_that_inherit_are_taken_for_what_they_inherit_from(base, name):
    pipe = tiny_ddpm() if name == "DDPMPipeline" else tiny_pipeline() if "Diffusion" not in name else None
    pipe = pipe or (tiny_pipeline() if name == "StableDiffusionPipeline" else build(name))
    if name == "FluxPipeline":
        pipe = build(name)
    mine = backbones.from_pipeline(pipe)
    wanted = draw(mine)
    pipe.__class__ = type("MyPipeline", (type("Between", (base,), {}),), {})
    own = backbones.from_pipeline(pipe)
    assert (own.kind, own.entry.guidance, own.latent_shape) == (mine.kind, mine.entry.guidance, mine.latent_shape)
    assert_close(draw(own), wanted, rtol=0, atol=1e-5)


def test_a_folder_of_a_class_of_ones_own_says_how(folder):
    index = folder / "sd" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": "MyPipeline"}))
    with pytest.raises(ValueError, match="a MyPipeline, as in .*load one of your own with its class and use from_pip"):
        backbones.load(folder / "sd")


OTHERS = [EulerDiscreteScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler]


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", [False, True], ids=["at once", "after a run"])
@pytest.mark.parametrize("given_to", ["pipe", "backbone"])
def test_a_scheduler_that_is_given_later_is_used(other, kind, before, given_to):
    pipe = {"text-to-image": tiny_pipeline, "unconditional": tiny_ddpm}[kind]()
    model = backbones.from_pipeline(pipe)
    new = other.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    wanted = draw(model.with_scheduler(new), 6)
    if before:
        draw(model, 6)
    (model.pipe if given_to == "pipe" else model).scheduler = new
    assert model.scheduler is new and torch.equal(draw(model, 6), wanted)
    assert (pipe.scheduler is new) == (given_to == "pipe")  # it is given back what it had


def test_the_last_scheduler_counts_and_those_of_with_scheduler_stay():
    model = backbones.from_pipeline(tiny_pipeline())
    config = model.scheduler.config
    fixed = model.with_scheduler(EulerDiscreteScheduler)
    euler, model.scheduler = fixed.scheduler, DPMSolverMultistepScheduler.from_config(config)
    model.pipe.scheduler = last = UniPCMultistepScheduler.from_config(config)
    assert model.scheduler is last and fixed.scheduler is euler
    seen = []
    hook = model.pipe.unet.register_forward_pre_hook(lambda *_: seen.append((model.scheduler, fixed.scheduler)))
    draw(fixed)
    hook.remove()
    # not even while the pipeline has one on loan
    assert set(map(id, sum(seen, ()))) == {id(last), id(euler)}
    for wrong in (None, "ddim", DDIMScheduler, object()):
        with pytest.raises(ValueError, match="not a scheduler"):
            model.scheduler = wrong


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_changed_on_a_scheduler_is_followed(kind):
    model = backbones.from_pipeline({"text-to-image": tiny_pipeline, "unconditional": tiny_ddpm}[kind]())
    before = draw(model, 4)
    changed = DDIMScheduler.from_config(model.scheduler.config, timestep_spacing="trailing")
    wanted = draw(model.with_scheduler(changed), 4)
    model.scheduler.config.timestep_spacing = "trailing"
    assert torch.equal(draw(model, 4), wanted) and not torch.equal(before, wanted)
    assert model.with_scheduler(EulerDiscreteScheduler).scheduler.config.timestep_spacing == "trailing"


def test_steps_that_cannot_be_taken_are_refused_in_a_sentence():
    model = text_to_image()
    for steps in (1000, 0, -1, 1001, 2.5, True, "3"):
        with pytest.raises(ValueError, match=r"cannot take .* steps") as caught:
            model.check_steps(steps)
        assert "\n" not in str(caught.value)
    assert model.check_steps(999) == 999
    model.with_scheduler(DDIMScheduler(timestep_spacing="trailing")).check_steps(1000)


@pytest.mark.parametrize("kind", [DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler, DDPMScheduler])
def test_steps_that_begin_well_below_T_are_warned_of(kind, recwarn):
    model = text_to_image().with_scheduler(kind(timestep_spacing="leading"))
    for steps in (2, 4, 10, 25, 50, 100):
        model.check_steps(steps)
    assert not [each for each in recwarn if issubclass(each.category, UserWarning)]
    with pytest.warns(UserWarning, match="begin at timestep .* of 1000.*trailing"):
        model.check_steps(350)


def test_words_of_several_tokens_are_counted():
    pipe = tiny_pipeline()
    torch.manual_seed(0)
    pipe.load_textual_inversion({"<cat>": torch.randn(3, 16)}, token="<cat>")
    model = backbones.from_pipeline(pipe)
    model.check_prompts(["<cat> a person"])
    with pytest.warns(UserWarning, match="reads 6 tokens"):
        model.check_prompts(["<cat> <cat> a"])


def poisoned(change):
    pipe = tiny_pipeline()
    change(pipe.vae)
    return backbones.from_pipeline(pipe)


POISON = {
    "NaN in the decoder": lambda vae: vae.decoder.conv_out.weight.data.fill_(float("nan")),
    "one NaN": lambda vae: vae.decoder.conv_in.bias.data[:1].fill_(float("nan")),
    "infinity": lambda vae: vae.decoder.conv_in.weight.data.fill_(float("inf")),
    "a factor of 0": lambda vae: vae.register_to_config(scaling_factor=0.0),
    "a factor of 0 by attribute": lambda vae: setattr(vae.config, "scaling_factor", 0),
    "no factor": lambda vae: vae.register_to_config(scaling_factor=None),
    "a factor of NaN": lambda vae: vae.register_to_config(scaling_factor=float("nan")),
    "a shift that is text": lambda vae: vae.register_to_config(shift_factor="x"),
    "deviations of 0": lambda vae: vae.register_to_config(latents_mean=[0.0] * 4, latents_std=[0.0] * 4),
}


@pytest.mark.parametrize("change", POISON.values(), ids=POISON)
def test_no_black_pictures(change):
    model = poisoned(change)
    with pytest.raises(ValueError, match="NaN|scaling_factor|shift_factor|latents_std") as caught:
        model.decode(model.noise([1]))
    assert "\n" not in str(caught.value)


def test_encoders_that_make_nan_are_named():
    model = poisoned(lambda vae: vae.encoder.conv_in.weight.data.fill_(float("nan")))
    with pytest.raises(ValueError, match="makes NaN or infinity of these pictures"):
        model.encode(torch.rand(1, 3, 16, 16))


@pytest.mark.parametrize("name", [2024, 0, 1e5])
def test_numbers_may_be_names_of_folders(folder, monkeypatch, name):
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match=f"no backbone '{name}'"):
        backbones.load(name)
    shutil.copytree("ddpm", str(name))
    assert backbones.load(name).name == str(name)


@pytest.mark.parametrize(
    "name", [None, True, [], {}, b"mini-sd", object(), "a\0b", "x" * 5000, "~nobody-of-that-name/x"]
)
def test_what_names_nothing_is_refused_in_a_sentence(name):
    with pytest.raises(ValueError, match="not a backbone's name|no backbone") as caught:
        backbones.load(name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("size", ["big", 0, -8, 16.0, (16,), (16, 16, 16), (16, None), True])
def test_sizes_that_are_none(size):
    with pytest.raises(ValueError, match="not a size|multiples of"):
        backbones.from_pipeline(tiny_pipeline(), size=size)


@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", "tokenizer/tokenizer.json"])
@pytest.mark.parametrize("depth", [500, 100_000])
def test_deeply_nested_json_is_damage(folder, file, depth):
    (folder / "sd" / file).write_text('{"a": ' * depth + "1" + "}" * depth)
    with pytest.raises(ValueError) as caught:
        backbones.load(folder / "sd")
    assert "\n" not in str(caught.value) and str(caught.value).endswith(checkpoints.COPY)


@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json"])
def test_permission_denied_is_said(folder, file, monkeypatch):
    read = type(folder).read_text

    def denied(self, *args, **kwargs):
        if str(self).endswith(file):
            raise PermissionError(13, "Permission denied", str(self))
        return read(self, *args, **kwargs)

    monkeypatch.setattr(type(folder), "read_text", denied)
    with pytest.raises(PermissionError, match=f"{file} cannot be read, permission is denied: make it readable"):
        backbones.load(folder / "ddpm")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_permission_denied_is_said_of_weights(folder):
    next((folder / "ddpm" / "unet").glob("*.safetensors")).chmod(0)
    with pytest.raises(PermissionError, match="permission is denied"):
        backbones.load(folder / "ddpm")


ODD = {
    "ddpm/unet": {"sample_size": ["x", -1, 0, [], [None]], "norm_eps": [None, "x"], "downsample_padding": [None, -1]},
    "ddpm/scheduler": {"num_train_timesteps": [None, 0, -1, "x"], "clip_sample_range": ["x", []], "beta_end": ["x"]},
    "sd/vae": {"norm_num_groups": [-1], "latents_mean": ["x", [None]], "scaling_factor": [None, [], "x"]},
    "sd/text_encoder": {"layer_norm_eps": [None], "num_attention_heads": [-1]},
}
CASES = [(place, name, value) for place, odd in ODD.items() for name, values in odd.items() for value in values]


@pytest.mark.parametrize(("place", "name", "value"), CASES, ids=str)
def test_odd_configurations_end_in_a_sentence(folder, place, name, value):
    file = folder / place / ("scheduler_config.json" if "scheduler" in place else "config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    with pytest.raises(ValueError) as caught:
        model = backbones.load(folder / place.split("/")[0])
        model.decode(draw(model))
    assert "\n" not in str(caught.value)


def test_a_single_file_says_how_to_convert_it(tmp_path):
    file = tmp_path / "dreamshaper.safetensors"
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match=r"single file.*from_single_file\('dreamshaper.*save_pretrained") as caught:
        backbones.load(file)
    assert "\n" not in str(caught.value)
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="is an adapter"):
        backbones.load(file)
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(ValueError, match="truncated or damaged"):
        backbones.load(file)
    (tmp_path / "x.ckpt").write_bytes(b"1")
    with pytest.raises(ValueError, match="is a file: give a folder"):
        backbones.load(tmp_path / "x.ckpt")


@pytest.fixture
def published(saved, tmp_path, monkeypatch):
    """The tiny models as shipped weights, with their checksums."""
    home = tmp_path / "weights"
    shutil.copytree(saved / "sd", home / "mini-sd")
    shutil.copytree(saved / "ddpm", home / "mini-cats")
    (home / "mini-sd" / "vocabulary.txt").write_text("\n".join(WORDS))
    monkeypatch.setattr(paths, "WEIGHTS", home)
    for name in ("mini-sd", "mini-cats"):
        checksums.record(home / name)
    return home


def flip(file):
    data = bytearray(file.read_bytes())
    data[-9] ^= 1
    file.write_bytes(data)


def zeros(file):
    save_file({name: torch.zeros_like(value) for name, value in load_file(file).items()}, file, {"format": "pt"})


def another(file):
    torch.manual_seed(9)
    shape = {name: torch.randn_like(value) for name, value in load_file(file).items()}
    save_file(shape, file, {"format": "pt"})


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("change", [flip, zeros, another], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("name", "file"), [("mini-cats", WEIGHTS), ("mini-sd", WEIGHTS), ("mini-sd", "vae/" + WEIGHTS[5:])]
)
def test_shipped_weights_are_those_published(published, change, name, file):
    backbones.load(name)
    change(published / name / file)
    with pytest.raises(ValueError, match=f"{file} is not the file that was published.*git checkout") as caught:
        backbones.load(name)
    assert "\n" not in str(caught.value)
    checksums.record(published / name)  # as training does
    backbones.load(name)


def test_changed_configurations_and_added_files_are_noticed(published):
    config = published / "mini-cats" / "unet" / "config.json"
    whole = config.read_text()
    config.write_text(whole.replace('"norm_eps": 1e-05', '"norm_eps": 1e-04'))
    assert config.read_text() != whole
    with pytest.raises(ValueError, match="unet/config.json is not the file"):
        backbones.load("mini-cats")
    config.write_text(whole)
    backbones.load("mini-cats")
    (published / "mini-cats" / "extra.txt").write_text("x")
    with pytest.raises(ValueError, match="extra.txt is not the file"):
        backbones.load("mini-cats")
    (published / checksums.NAME).write_text("rubbish")
    with pytest.raises(ValueError, match="SHA256SUMS is damaged.*git checkout"):
        backbones.load("mini-cats")


def test_each_file_is_read_once(published, monkeypatch):
    seen = []
    digest = checksums.hashlib.file_digest
    monkeypatch.setattr(checksums.hashlib, "file_digest", lambda *args: seen.append(1) or digest(*args))
    backbones.load("mini-cats")
    first = len(seen)
    backbones.load("mini-cats")
    assert first == len(checksums.files(published / "mini-cats")) == len(seen)


def test_the_checksums_of_the_repository_are_those_of_its_files():
    sums = checksums.read(paths.WEIGHTS)
    listed = [file for file in checksums.files(paths.WEIGHTS) if file.name != checksums.NAME]
    assert sorted(sums) == sorted(file.relative_to(paths.WEIGHTS).as_posix() for file in listed)
    for folder in sorted({file.parent for file in listed}):
        checksums.verify(folder, "make train")
    assert unconditional() is not None
