"""Every family of pipelines, for real: a tiny one of each class draws, is taken up again, and is edited.

What was found is outputs/tables/families.csv, which `make matrix` rewrites.
"""

import csv
import functools
import inspect
import os
import re
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
from placing import place
from tiny_families import BUILDERS, SIZES, build
from torch.testing import assert_close

from lsvd import avi, backbones
from lsvd.avi import attribute, exact
from lsvd.avi.callback import AddAttributes
from lsvd.backbones import families
from lsvd.backbones.families import FAMILIES, pack, unpack
from lsvd.backbones.schedulers import remembers
from lsvd.decomposition.svd import svd
from lsvd.guidance import LowRank, LowRankPipeline
from lsvd.paths import outputs
from lsvd.sampling import trajectory
from lsvd.sampling.inversion import FAR, invert
from lsvd.sampling.kept import trajectories
from lsvd.storage.files import write_csv

TABLE = Path(__file__).resolve().parents[2] / "outputs" / "tables" / "families.csv"
PROMPTS, SEEDS, STEPS, GUIDANCE = ("a person", "an old person"), (1, 2), 4, 2.0
NOISY = ("LatentConsistencyModelPipeline", "HunyuanDiTPipeline")
"""Whose samplers draw noise in each step, here by seed and step."""
CONFIG = avi.AVIConfig(2, 2)
FOUND: dict[tuple[str, str], str] = {}


@functools.cache
def made(name):
    return backbones.from_pipeline(build(name), size=SIZES.get(name, 16))


@functools.cache
def drawn(name):
    return trajectory.run(made(name), PROMPTS, SEEDS, STEPS, GUIDANCE)


def plain(backbone, callback=None, output="latent", pipe=None, prompts=PROMPTS, **more):
    """The pipeline alone, called as anybody would; `pipe` in its place."""
    family, (height, width) = backbone.family, backbone.size
    noise = backbone.noise(SEEDS)
    call_kwargs = {name: [value] * 2 if isinstance(value, str) else value for name, value in family.call_kwargs.items()}
    options = {"height": height, "width": width, **call_kwargs}
    if family.guidance:
        options[family.guidance] = GUIDANCE
    return (pipe or backbone.pipe)(
        prompt=list(prompts),
        num_inference_steps=STEPS,
        latents=pack(noise, family.given or family.layout),
        output_type=output,
        callback_on_step_end=callback,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        **options | more,
    ).images


def draws(name):
    """The pipeline's own latents, bit for bit, wherever its sampler adds no noise of its own."""
    backbone, seen = made(name), []

    def callback(pipe, step, t, tensors):
        seen.append(unpack(tensors["latents"], backbone.family.layout, backbone.latent_shape))
        return tensors

    plain(backbone, callback)
    walk = drawn(name)
    assert walk.codes.isfinite().all() and len(seen) == len(walk.timesteps) == STEPS
    other = trajectory.run(backbone, ("red hair", PROMPTS[1]), SEEDS, STEPS, GUIDANCE).final
    assert (other[0] - walk.final[0]).abs().max() > 1e-4  # the prompt matters
    if name in NOISY:
        assert torch.equal(trajectory.run(backbone, PROMPTS, SEEDS, STEPS, GUIDANCE).codes, walk.codes)
        return "yes, with noise of its own"
    assert all(torch.equal(mine, own) for mine, own in zip(walk.codes[1:], seen, strict=True))


def keeps(name, folder):
    """A trajectory kept on disk comes back, and one of another size is another."""
    backbone, keep = made(name), {"steps": STEPS, "guidance": GUIDANCE, "batch": 2, "folder": folder}
    for _ in range(2):
        walk = trajectories(backbone, PROMPTS, SEEDS, **keep)
        assert torch.equal(walk.codes, drawn(name).codes)
    height, width = backbone.size
    height = height // 2 if name == "HiDreamImagePipeline" else height  # whose pictures have one area
    wide = backbones.from_pipeline(backbone.pipe, backbone.entry, size=(height, 2 * width))
    assert trajectories(wide, PROMPTS, SEEDS, **keep).codes.shape[-2:] == wide.latent_shape[1:]


def decodes(name):
    """The pipeline's own picture, and the autoencoder's mean there and back."""
    backbone = made(name)
    latents, pictures = plain(backbone), plain(backbone, output="pt")
    if name == "Flux2KleinPipeline":  # which gives latents denormalised, as its autoencoder takes them
        codes = drawn(name).final
    elif latents.shape[1:] == backbone.latent_shape:  # some unpack what they give
        codes = latents
    else:
        codes = unpack(latents, backbone.family.layout, backbone.latent_shape)
    near = 1e-4 if name == "ErnieImagePipeline" else 1e-5  # which does not ask its autoencoder for the epsilon
    assert_close(backbone.decode(codes), pictures.float(), rtol=0, atol=near)
    code = drawn(name).final
    back = families.from_autoencoder(backbone.pipe, families.to_autoencoder(backbone.pipe, code))
    assert_close(back, code, rtol=1e-4, atol=1e-4)
    return "yes" if near == 1e-5 else f"yes, to {near:g}"


def encodes(name):
    """Pictures of its size to finite codes of its shape."""
    backbone = made(name)
    pictures = torch.rand(2, 3, *backbone.size, generator=torch.Generator().manual_seed(0))
    assert backbone.encode(pictures).isfinite().all()


def resumes(name):
    """The same picture bit for bit from every step on, and the same codes where it is stopped."""
    backbone, walk = made(name), drawn(name)
    for i, t in enumerate(walk.timesteps):
        assert torch.equal(trajectory.resume(backbone, walk, t).codes, walk.codes[i:])
    part = trajectory.run(backbone, PROMPTS, SEEDS, STEPS, GUIDANCE, until=walk.timesteps[2])
    assert torch.equal(part.codes, walk.codes[:3])


def decomposes(name):
    codes = drawn(name).codes
    assert_close(svd(codes).recompose(), codes, rtol=1e-5, atol=1e-4)


def edits(name):
    """Prompts are edited, and what was learned is added again."""
    backbone = made(name)
    settings = {
        "steps": STEPS,
        "guidance": GUIDANCE,
        "tx": 0.6,
        "dtau": 1,
        "branch": 1.0,
        "config": CONFIG,
        "whole": True,
    }
    edit = avi.edit_prompt(backbone, PROMPTS, ("old", "red hair"), seeds=SEEDS, **place(**settings))
    assert torch.equal(edit.source.codes, drawn(name).codes)
    assert edit.edited.final.isfinite().all() and not torch.equal(edit.edited.final, edit.source.final)
    still = avi.AVIConfig(2, 2, lambdas=exact.Lambdas(0.0, 1.0, 0.0, 1.0))  # only what keeps the source
    same = avi.edit_prompt(
        backbone, PROMPTS, ("old", "red hair"), seeds=SEEDS, **place(**{**settings, "config": still})
    )
    assert_close(same.edited.final, edit.source.final, rtol=1e-3, atol=1e-3)
    return edit


def inverts(name):
    """Given pictures are drawn again from the x_T that is found for them; samplers that add noise are refused."""
    backbone = made(name)
    pictures = torch.rand(2, 3, *backbone.size, generator=torch.Generator().manual_seed(0))
    codes = backbone.encode(pictures)
    if name in NOISY:
        with pytest.raises(ValueError, match="adds noise on the way"):
            invert(backbone, codes, PROMPTS, STEPS)
        return "refused"
    unguided = {"pag_scale": 0.0} if "PAG" in name else {}
    found = invert(backbone, codes, PROMPTS, STEPS, iterations=40, **unguided)
    walk = found.trajectory
    again = trajectory.resume(backbone, walk, walk.timesteps[0]).final
    off = ((again - codes).flatten(1).norm(dim=1) / codes.flatten(1).norm(dim=1)).max().item()
    assert torch.equal(walk.final, codes) and off == pytest.approx(found.distance.max().item(), rel=1e-2, abs=1e-6)
    assert off < FAR, f"off by {off:.2g} of its norm"


def calls_back(name):
    """The same as a callback of the pipeline alone."""
    backbone = made(name)
    learned = attribute.Attribute.of(edits(name))
    place, edit, seen = drawn(name).index(learned.t), AddAttributes(learned, seeds=SEEDS), []

    def codes(tensors):
        return unpack(tensors["latents"], backbone.family.layout, backbone.latent_shape).clone()

    def callback(pipe, step, t, tensors):
        before = codes(tensors)
        tensors = edit(pipe, step, t, tensors)
        seen.append((before, codes(tensors)))
        return tensors

    plain(backbone, callback)
    changed = [step + 1 for step, (before, after) in enumerate(seen) if not torch.equal(before, after)]
    before, after = seen[place - 1]
    assert changed == [place] and torch.equal(after, learned.code(before, seeds=SEEDS))
    if name in NOISY:
        return "yes, with noise of its own"
    assert torch.equal(seen[-1][1], attribute.apply_to(backbone, drawn(name), learned).final)


def loads(name, folder):
    """Saved as anybody would and loaded by the folder's name, it draws the same."""
    made(name).pipe.save_pretrained(folder)
    backbone = backbones.load(folder, size=SIZES.get(name, 16))
    assert type(backbone.pipe).__name__ == name and backbone.latent_shape == made(name).latent_shape
    assert_close(
        trajectory.run(backbone, PROMPTS, SEEDS, STEPS, GUIDANCE).final, drawn(name).final, rtol=1e-3, atol=1e-3
    )


def halves(name, dtype):
    """Codes of half precision go through the SVD within their own precision, and are taken up exactly."""
    backbone = backbones.from_pipeline(build(name).to(dtype), size=SIZES.get(name, 16))
    walk = trajectory.run(backbone, PROMPTS, SEEDS, STEPS, GUIDANCE)
    assert walk.codes.dtype == (torch.float32 if backbone.family.whole else dtype) and walk.codes.isfinite().all()
    assert torch.equal(trajectory.resume(backbone, walk, walk.timesteps[2]).codes, walk.codes[2:])
    back = svd(walk.codes).recompose().to(walk.codes.dtype)
    assert_close(back, walk.codes, rtol=torch.finfo(dtype).eps, atol=1e-4)
    assert backbone.decode(walk.final).dtype == torch.float32


def saves_memory(name):
    """The same with the models moved about, attention in slices, and the autoencoder in slices and tiles."""
    pipe = build(name)
    pipe.enable_attention_slicing()
    if hasattr(pipe.vae, "enable_slicing"):
        pipe.vae.enable_slicing()
    tiled = hasattr(pipe.vae, "tile_latent_min_size")
    if tiled:
        pipe.vae.enable_tiling()
        zoom = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
        pipe.vae.tile_sample_min_size, pipe.vae.tile_latent_min_size = 4 * zoom, 4
    pipe.enable_model_cpu_offload(device="cpu")
    backbone = backbones.from_pipeline(pipe, size=SIZES.get(name, 16))
    walk = trajectory.run(backbone, PROMPTS, SEEDS, STEPS, GUIDANCE)
    assert_close(walk.codes, drawn(name).codes, rtol=1e-3, atol=1e-3)
    pictures = backbone.decode(walk.final)
    assert backbone.encode(pictures).shape == walk.final.shape
    if name not in NOISY:
        assert_close(pictures, plain(backbone, output="pt"), rtol=0, atol=1e-4)
    if tiled:
        assert not torch.equal(pictures, made(name).decode(walk.final))


GUIDED = {"FluxPipeline": ({"true_cfg_scale": 2.0, "negative_prompt": ["", ""]}, "true_cfg_scale")}
"""What else a call is given so that it has guidance, and what to say of it."""


def guides(name):
    """Low-rank guidance in the pipeline is the library's edit; whole, it is prompt switching; at strength 0, nothing.

    A pipeline without guidance is refused in one sentence.
    """
    backbone, (more, how) = made(name), GUIDED.get(name, ({}, ""))
    source, target = trajectory.run(backbone, "a person", SEEDS, STEPS, GUIDANCE, **more), "an old person"
    settings = LowRank(start=0.8, end=0.3)
    try:
        edit = avi.edit_prompt(backbone, source, target, method=settings)
    except ValueError as error:
        assert f"a {name} has no guidance" in str(error)
        return "no, it has no guidance"
    assert not torch.equal(edit.edited.final, source.final)
    nothing = avi.edit_prompt(backbone, source, target, method=replace(settings, strength=0.0))
    assert torch.equal(nothing.edited.final, source.final)
    if not remembers(backbone.prepared(STEPS)):
        whole = avi.edit_prompt(backbone, source, target, method=replace(settings, rank=None))
        switched = trajectory.resume(backbone, source, edit.t, prompts=target, until=edit.t_end)
        switched = trajectory.resume(backbone, source, edit.t_end, switched.codes[-1])
        assert_close(whole.edited.final, switched.final, rtol=0, atol=1e-5)
    if name in NOISY:
        return "yes, with noise of its own"
    seen = []
    callback = lambda pipe, step, t, tensors: seen.append(tensors["latents"]) or tensors  # noqa: E731
    plain(backbone, callback, pipe=LowRankPipeline(backbone.pipe, target, settings), prompts=["a person"] * 2, **more)
    assert torch.equal(unpack(seen[-1], backbone.family.layout, backbone.latent_shape), edit.edited.final)
    return f"yes, with {how}" if how else None


CAPABILITIES = {
    "draws": draws,
    "decodes": decodes,
    "encodes": encodes,
    "resumes": resumes,
    "svd": decomposes,
    "edits": lambda name: edits(name) and None,
    "inverts": inverts,
    "callback": calls_back,
    "low-rank": guides,
    "offloads": saves_memory,
}


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("name", FAMILIES)
def test_capability(name, capability):
    FOUND[name, capability] = CAPABILITIES[capability](name) or "yes"


@pytest.mark.parametrize("name", FAMILIES)
def test_kept_on_disk(name, tmp_path):
    keeps(name, tmp_path)


@pytest.mark.parametrize("name", FAMILIES)
def test_folder(name, tmp_path):
    loads(name, tmp_path / "saved")
    FOUND[name, "folder"] = "yes"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FAMILIES)
def test_half_precision(name, dtype):
    halves(name, dtype)
    FOUND[name, str(dtype).removeprefix("torch.")] = "yes"


def test_the_matrix_is_the_one_that_is_stored():
    assert list(BUILDERS) == list(FAMILIES)
    columns = [*CAPABILITIES, "folder", "bfloat16", "float16"]
    if len(FOUND) < len(columns) * len(FAMILIES):
        pytest.skip("only some of the matrix was tested")
    rows = [{"pipeline": name} | {each: FOUND[name, each] for each in columns} for name in FAMILIES]
    if os.environ.get("LSVD_MATRIX"):
        write_csv(TABLE, rows)
    write_csv(outputs() / "tables" / "families.csv", rows)
    with TABLE.open(newline="") as file:
        assert list(csv.DictReader(file)) == rows, "run `make matrix` and look at the difference"


def test_families_take_what_they_are_given():
    for name, family in FAMILIES.items():
        accepted = inspect.signature(getattr(diffusers, name).__call__).parameters
        assert {"latents", "callback_on_step_end", *family.call_kwargs} <= accepted.keys()
        assert family.guidance is None or family.guidance in accepted


@pytest.mark.parametrize(
    ("name", "size"),
    [("StableDiffusionPipeline", 16), ("AuraFlowPipeline", 1024), ("ZImagePipeline", 1024), ("CogView4Pipeline", 16)],
)
def test_native_size_is_what_is_drawn_untold(name, size):
    assert families.native_size(build(name)) == (size, size)


@pytest.mark.parametrize("layout", ["grid", "tokens", "patches"])
def test_packing_is_undone(layout):
    codes = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    packed = pack(codes, layout)
    assert torch.equal(unpack(packed, layout, (4, 6, 8)), codes)
    shapes = {"grid": (2, 4, 6, 8), "tokens": (2, 48, 4), "patches": (2, 12, 16)}
    assert packed.shape == shapes[layout]


def test_patches_are_those_of_flux():
    codes = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    theirs = diffusers.FluxPipeline._pack_latents(codes, 2, 4, 6, 8)
    assert torch.equal(pack(codes, "patches"), theirs)


@pytest.mark.skipif(not diffusers.__version__.startswith("0.42."), reason="the docs are about diffusers 0.42")
def test_the_docs_name_what_is_left_out():
    text = (TABLE.parents[2] / "docs" / "real-models.md").read_text(encoding="utf-8")
    listed = re.search(r"are not in the matrix.*?(?=\n\n[^-]|\Z)", text, re.DOTALL).group()
    named = tuple(re.findall(r"`(\w+)`", listed))
    other = re.compile(r"(?<!num_)(?<!ip_adapter_)image|video|frames|audio|lyrics")  # than text and latents
    missing = []
    for name in (each for each in dir(diffusers) if each.endswith("Pipeline") and each not in FAMILIES):
        taken = inspect.signature(getattr(diffusers, name).__call__).parameters.keys()
        draws_from_text = {"prompt", "latents", "callback_on_step_end"} <= taken
        if draws_from_text and not name.startswith(named) and not any(map(other.search, (name.lower(), *taken))):
            missing.append(name)
    assert not missing


OTHERS = ("FlowMapEuler", "FlowMatchHeun", "FlowMatchLCM", "DDIM", "EulerAncestral", "Heun", "DPMSolverMultistep")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scheduler", OTHERS)
@pytest.mark.parametrize(
    "name", ["StableDiffusion3Pipeline", "FluxPipeline", "ZImagePipeline", "StableDiffusionPipeline"]
)
def test_a_scheduler_of_another_kind_is_used_or_refused_in_a_sentence(name, scheduler):
    kind = next(
        getattr(diffusers, f"{scheduler}{end}Scheduler", None)
        for end in ("", "Discrete")
        if hasattr(diffusers, f"{scheduler}{end}Scheduler")
    )
    backbone = made(name)
    try:
        walk = trajectory.run(backbone.with_scheduler(kind), PROMPTS, SEEDS, STEPS, GUIDANCE)
    except ValueError as error:
        said = str(error)
        assert "\n" not in said and "Please" not in said and "<class" not in said
        assert f"{kind.__name__} does not take: take " in said
    else:
        assert walk.codes.isfinite().all() and backbone.decode(walk.final).isfinite().all()
