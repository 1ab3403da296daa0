"""Learned attributes: exact, thin, linear in their strength, added to each other, the same after a file."""

import functools
import json
import re
from dataclasses import fields, replace

import pytest
import safetensors.torch
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from placing import place
from tiny import text_to_image, tiny_pipeline, unconditional
from torch.testing import assert_close

from lsvd.avi import attribute as attributes
from lsvd.avi.attribute import Attribute, apply, apply_to, factor, learn, load
from lsvd.avi.edit import edit_prompt
from lsvd.avi.exact import AVIConfig, integrate, solve
from lsvd.avi.losses import Lambdas
from lsvd.backbones.loading import from_pipeline
from lsvd.backbones.registry import Entry
from lsvd.sampling.kept import trajectories
from lsvd.sampling.trajectory import Settings, resume, run
from lsvd.storage import tensors as storage
from lsvd.storage.files import ReadError

quick = settings(max_examples=25, deadline=None)
strengths = st.floats(-3, 3)
STEPS = 6
SEEDS = (1, 2)


@functools.cache
def edit(target="an old person", tx=0.6):
    settings = {"tx": tx, "config": AVIConfig(2, 1), "steps": STEPS, "whole": True}
    return edit_prompt(text_to_image(), "a person", target, seeds=SEEDS, **place(**settings))


def learned(*args):
    return Attribute.of(edit(*args), text_to_image())


def codes(seed, shape=(2, 4, 8, 8)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made_up(seed, rank=2, seeds=SEEDS, shape=(4, 8, 8)):
    """An attribute of random factors."""
    noted = Settings("tiny-sd", "DDIMScheduler", ("a",) * len(seeds), seeds, STEPS, 3.0, 0.0)
    left = codes(seed, (len(seeds), *shape[:2], rank)).float()
    right = codes(seed + 1, (len(seeds), shape[0], rank, shape[2])).float()
    return Attribute(left, right, noted, ("an",) * len(seeds), 501, 667, AVIConfig())


def same(a, b):
    """Whether two attributes agree, tensors bit for bit."""
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in fields(Attribute)]
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in pairs)


# Factors


@quick
@given(st.integers(0, 2**32 - 1), st.integers(0, 6), st.integers(4, 9), st.integers(4, 9), st.floats(1e-6, 1e6))
def test_factors_multiply_to_the_difference_and_are_as_thin_as_its_rank(seed, rank, height, width, scale):
    rank = min(rank, height, width)
    delta = scale * codes(seed, (2, 3, height, rank)) @ codes(seed + 1, (2, 3, rank, width))
    left, right = factor(delta)
    assert left.shape == (2, 3, height, rank) and right.shape == (2, 3, rank, width)
    assert left.dtype == right.dtype == torch.float32
    assert_close(left.double() @ right.double(), delta, rtol=0, atol=1e-5 * scale * height)


def test_the_rank_is_that_of_the_channel_that_has_most():
    delta = torch.zeros(1, 3, 8, 8, dtype=torch.float64)
    delta[0, 0] = codes(0, (8, 3)) @ codes(1, (3, 8))
    delta[0, 1] = 1e-9 * codes(2, (8, 8))  # what is left of a subtraction
    left, right = factor(delta)
    assert left.shape[-1] == 3 and not left[0, 1:].any()
    assert_close(left.double() @ right.double(), delta, rtol=0, atol=1e-5)


@quick
@given(st.integers(0, 2**32 - 1), st.integers(0, 8), st.integers(1, 8), st.booleans())
def test_it_is_the_difference_of_edited_and_source_code(seed, k_x, k_z, keep_rest):
    x, z = codes(seed), codes(seed + 1)
    s = solve(x, z, AVIConfig(k_x, k_z, keep_rest))
    left, right = factor(integrate(s.a, s.b, s.x, s.z, s.rest) - x)
    assert_close(left.double() @ right.double(), s.y - x, rtol=0, atol=1e-4)
    if keep_rest:
        assert left.shape[-1] == min(k_x + k_z, 8)


def test_learned_from_an_edit():
    attribute, made = learned(), edit()
    assert attribute.rank == 3  # k_x + k_z
    assert attribute.latent_shape == (4, 8, 8) and attribute.left.dtype == torch.float32
    assert_close(attribute.delta(SEEDS).float(), made.solution.y - made.source.at(made.t), rtol=0, atol=1e-5)
    assert attribute.settings == made.source.settings and attribute.target == ("an old person",) * 2
    assert (attribute.t, attribute.t_target, attribute.config) == (made.t, made.t_target, AVIConfig(2, 1))
    again = learn(
        text_to_image(), "a person", "an old person", SEEDS, **place(tx=0.6, config=AVIConfig(2, 1), steps=STEPS)
    )
    assert same(attribute, again)


def test_it_says_how_z_was_made(tmp_path):
    where = {"tx": 0.3, "dtau": 1, "branch": 0.7, "same_level": True}
    attribute = learn(
        text_to_image(), "a person", "an old person", SEEDS, **place(config=AVIConfig(2, 1), steps=STEPS, **where)
    )
    assert attribute.same_level and attribute.t_branch == edit().source.nearest(0.7)
    assert same(load(attribute.save(tmp_path / "x.safetensors")), attribute)


def test_half_precision_does_not_raise_the_rank():
    made, source = edit(), edit().source
    x, z = (walk.at(t).bfloat16() for walk, t in ((source, made.t), (made.target, made.t_target)))
    rounded = replace(made, solution=solve(x, z, made.config), source=replace(source, codes=source.codes.bfloat16()))
    assert rounded.solution.y.dtype == torch.bfloat16
    attribute = Attribute.of(rounded)
    assert attribute.rank == 3
    assert attribute.code(x, seeds=SEEDS).equal(rounded.solution.y)


# Codes


@quick
@given(st.integers(0, 2**32 - 1), strengths, strengths)
def test_strength_is_linear(seed, s, r):
    attribute, x = made_up(seed), codes(seed + 2)
    shift = [attribute.code(x, strength, SEEDS) - x for strength in (s, r, s + r)]
    assert_close(shift[0] + shift[1], shift[2], rtol=0, atol=1e-9)
    assert_close(shift[0], s * attribute.delta(SEEDS), rtol=0, atol=1e-9)
    assert torch.equal(attribute.code(x, 0), x)


@quick
@given(st.integers(0, 2**32 - 1), strengths, strengths)
def test_two_attributes_add_in_any_order(seed, s, r):
    a, b, x = made_up(seed), made_up(seed + 2), codes(seed + 4)
    one = b.code(a.code(x, s, SEEDS), r, SEEDS)
    assert_close(one, a.code(b.code(x, r, SEEDS), s, SEEDS), rtol=0, atol=1e-9)
    assert_close(one, x + s * a.delta(SEEDS) + r * b.delta(SEEDS), rtol=0, atol=1e-9)


def test_own_seeds_take_their_own_and_others_the_mean():
    attribute = made_up(0, seeds=(7, 3, 5))
    each = attribute.left.double() @ attribute.right.double()
    found = attribute.delta((5, 4, 7))
    assert torch.equal(found[0], each[2]) and torch.equal(found[2], each[0])
    assert_close(found[1], each.mean(0), rtol=0, atol=1e-12)
    x = codes(9, (3, 4, 8, 8))
    assert_close(attribute.code(x), x + each.mean(0), rtol=0, atol=1e-9)
    assert_close(attribute.code(x, 2.0, (5, 4, 7)), x + 2 * found, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_codes_keep_their_dtype(dtype):
    x = codes(0).to(dtype)
    assert made_up(1).code(x).dtype == dtype
    assert torch.equal(made_up(1).code(x, 0.0), x)


# Pictures


def test_strength_0_is_the_source_and_1_the_learned_edit():
    source, nothing = apply(text_to_image(), learned(), "a person", SEEDS, 0.0)
    assert torch.equal(source.codes, edit().source.codes) and torch.equal(nothing.codes, source.codes)
    _, whole = apply(text_to_image(), learned(), "a person", SEEDS)
    first = source.index(edit().t)
    assert torch.equal(whole.codes[:first], source.codes[:first])
    assert_close(whole.codes[first:], edit().edited.codes, rtol=0, atol=1e-4)
    assert not torch.allclose(whole.final, source.final, rtol=0, atol=1e-2)


def test_taken_up_with_nothing_added_the_source_ends_the_same():
    backbone, source = text_to_image(), edit().source
    attribute = replace(learned(), left=torch.zeros_like(learned().left))
    assert torch.equal(apply_to(backbone, source, attribute).codes, source.codes)


def test_other_seeds_other_prompt_other_number_of_steps():
    backbone, attribute = text_to_image(), learned()
    source, edited = apply(backbone, attribute, ["young", "a person"], (8, 2), 1.5, steps=2 * STEPS, guidance=2.0)
    assert source.settings == Settings.of(backbone, ["young", "a person"], (8, 2), 2 * STEPS, 2.0, 0.0)
    assert edited.settings == source.settings and len(edited.codes) == 2 * STEPS + 1
    shift = edited.at(attribute.t) - source.at(attribute.t)
    assert_close(shift.double(), 1.5 * attribute.delta((8, 2)), rtol=0, atol=1e-5)
    assert torch.equal(source.final, run(backbone, ["young", "a person"], (8, 2), 2 * STEPS, 2.0).final)


def test_steps_and_guidance_are_those_it_was_learned_with():
    attribute = replace(learned(), settings=replace(learned().settings, guidance=1.5))
    source, _ = apply(text_to_image(), attribute, "a person", 3)
    assert (source.settings.steps, source.settings.guidance) == (STEPS, 1.5)
    assert text_to_image().entry.steps != STEPS
    with pytest.raises(ValueError, match=r"learned with guidance of 1.5 and 3: say which"):
        apply(text_to_image(), [attribute, learned()], "a person", 3)
    assert apply(text_to_image(), [attribute, learned()], "a person", 3, 0, guidance=2.0)[0].settings.guidance == 2.0


def test_attributes_of_one_timestep_are_added_at_once():
    backbone, source, both = text_to_image(), edit().source, [learned(), learned("a person with red hair")]
    edited = apply_to(backbone, source, both, [0.5, -1.0])
    t = both[0].t
    expected = source.at(t) + 0.5 * both[0].delta(SEEDS) - both[1].delta(SEEDS)
    assert_close(edited.at(t), expected.float(), rtol=0, atol=1e-5)
    assert torch.equal(edited.final, resume(backbone, source, t, edited.at(t)).final)
    assert_close(apply_to(backbone, source, both[::-1], [-1.0, 0.5]).final, edited.final, rtol=0, atol=1e-4)
    assert torch.equal(apply_to(backbone, source, both, [0.7, 0]).final, apply_to(backbone, source, both[0], 0.7).final)


def by_hand(backbone, source, early, late):
    """Two attributes in a row, early in the denoising and late, from the parts; the timesteps and codes they enter."""
    first = early.code(source.at(early.t), 1.0, SEEDS)
    middle = resume(backbone, source, early.t, first)
    second = late.code(middle.at(late.t), 0.5, SEEDS)
    return middle, resume(backbone, middle, late.t, second)


@pytest.mark.parametrize("swapped", [False, True])
def test_attributes_of_two_timesteps_each_come_at_their_own(swapped):
    backbone, source, early, late = text_to_image(), edit().source, learned(), learned("a person with red hair", 0.2)
    assert early.t > late.t
    middle, end = by_hand(backbone, source, early, late)
    pair, how = ([late, early], [0.5, 1.0]) if swapped else ([early, late], [1.0, 0.5])
    edited = apply_to(backbone, source, pair, how)
    i, j = source.index(early.t), source.index(late.t)
    assert torch.equal(edited.codes[:i], source.codes[:i])
    assert torch.equal(edited.codes[i:j], middle.codes[: j - i])
    assert torch.equal(edited.codes[j:], end.codes)


def test_two_timesteps_with_a_scheduler_that_remembers():
    backbone = text_to_image().with_scheduler(DPMSolverMultistepScheduler)
    early, late = (
        learn(backbone, "a person", target, SEEDS, **place(tx=tx, config=AVIConfig(2, 1), steps=STEPS))
        for target, tx in (("an old person", 0.7), ("a person with red hair", 0.3))
    )
    source, edited = apply(backbone, [late, early], "a person", SEEDS, [0.5, 1.0])
    i, j = source.index(early.t), source.index(late.t)
    assert 0 < i < j - 1
    alone = resume(backbone, source, early.t, early.code(source.at(early.t), 1.0, SEEDS))
    assert torch.equal(edited.codes[i:j], alone.codes[: j - i])
    assert_close(edited.codes[j], late.code(alone.codes[j - i], 0.5, SEEDS))
    # each edit lets the solver begin again
    assert edited.restarts == (0, i, j)
    assert torch.equal(edited.codes[j:], resume(backbone, source.settings, late.t, edited.codes[j]).codes)
    for t in source.timesteps[[j, j + 1]]:
        assert torch.equal(resume(backbone, edited, t).final, edited.final)
    assert torch.equal(apply_to(backbone, source, [late, early], 0.0).codes, source.codes)


def test_from_cached_trajectories(tmp_path):
    backbone = text_to_image()
    for _ in range(2):
        walk = trajectories(backbone, "a person", (2, 1), steps=STEPS, folder=tmp_path)
        edited = apply_to(backbone, walk, learned(), 1.0)
        assert_close(edited.final, edit().edited.final.flip(0), rtol=0, atol=1e-3)


# Files


def test_saved_and_loaded_it_is_the_same(tmp_path):
    attribute = replace(learned(), config=AVIConfig(2, 1, False, Lambdas(1 / 3, 0.1, 0, 1e-300)))
    file = attribute.save(tmp_path / "folder" / "old.safetensors")
    again = load(str(file))
    assert same(attribute, again)
    assert type(again.t) is type(attribute.t) and again.name == "'a person' to 'an old person'"
    a, b = (apply(text_to_image(), one, "a person", (1, 9), 0.8)[1].codes for one in (attribute, again))
    assert torch.equal(a, b)
    assert file.stat().st_size < 20_000
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("rank", [0, 3])
def test_every_rank_can_be_kept(tmp_path, rank):
    attribute = made_up(4, rank)
    assert same(attribute, load(attribute.save(tmp_path / "x.safetensors")))
    assert attribute.delta((1, 9)).any() == (rank > 0)


def test_the_file_says_what_it_is(tmp_path):
    noted = json.loads(storage.load(learned().save(tmp_path / "old"))[1]["attribute"])
    assert noted["settings"]["backbone"] == "tiny-sd" and noted["settings"]["scheduler"] == "DDIMScheduler"
    assert noted["settings"]["seeds"] == [1, 2] and noted["settings"]["steps"] == STEPS
    assert noted["target"] == ["an old person"] * 2 and noted["t"] == edit().t
    assert noted["config"]["k_x"] == 2 and noted["config"]["lambdas"]["target"] == 1.0


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_damaged_file_is_refused(tmp_path_factory, data):
    file = made_up(0).save(tmp_path_factory.mktemp("files") / "x.safetensors")
    whole = file.read_bytes()
    if data.draw(st.booleans()):
        spoilt = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        place, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
        spoilt = whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :]
    file.write_bytes(spoilt)
    with pytest.raises(ValueError, match=f"^{re.escape(str(file))} .*: (learn the attribute again|choose another)$"):
        load(file)


def test_a_file_that_is_no_attribute_is_refused(tmp_path):
    file = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError, match="there is no file .*x.safetensors"):
        load(file)
    with pytest.raises(ReadError, match="it is a folder"):
        load(tmp_path)
    file.write_text("a picture")
    with pytest.raises(ValueError, match="is not a safetensors file, or truncated or damaged"):
        load(file)
    safetensors.torch.save_file({"left": torch.ones(1)}, file)
    with pytest.raises(ValueError, match="holds no attribute"):
        load(file)
    safetensors.torch.save_file({"left": torch.ones(1)}, file, {"format": "lsvd attribute 99"})
    with pytest.raises(ValueError, match="'lsvd attribute 99', not 'lsvd attribute 2'"):
        load(file)
    tensors = {"left": torch.ones(1)}
    for text in (
        "{}",
        "[",
        json.dumps({"settings": {"prompts": [], "seeds": []}, "config": {"lambdas": {"fifth": 1}}}),
    ):
        noted = {"format": attributes.FORMAT, "attribute": text, "sha256": attributes._digest(tensors, text)}
        safetensors.torch.save_file(tensors, file, noted)
        with pytest.raises(ValueError, match="saved by another version"):
            load(file)


def forge(file, tensors=None, text=None, **changes):
    """An attribute file whose checksum is right, with some of its notes, tensors or their whole text changed."""
    whole = made_up(0).save(file)
    own, metadata = storage.load(whole)
    notes = json.loads(metadata["attribute"])
    for where, value in changes.items():
        *parts, last = where.split("__")
        functools.reduce(dict.__getitem__, parts, notes)[last] = value
    text, tensors = json.dumps(notes) if text is None else text, own | (tensors or {})
    notes = {"format": attributes.FORMAT, "attribute": text, "sha256": attributes._digest(tensors, text)}
    file.write_bytes(storage.pack(tensors, notes))
    return file


FORGED = {
    "deep": {"text": "[" * 100_000 + "]" * 100_000},
    "deep mapping": {"text": '{"settings":' * 20_000 + "1" + "}" * 20_000},
    "no mapping": {"text": "[1, 2]"},
    "number": {"text": "7"},
    "digits": {"text": '{"settings": ' + "9" * 10_000 + "}"},
    "settings": {"settings": None},
    "prompts": {"settings__prompts": [1, 2]},
    "half a prompt": {"settings__prompts": ["\ud800", "a"]},
    "seeds": {"settings__seeds": [1, -1]},
    "seed": {"settings__seeds": [1, 1.5]},
    "steps": {"settings__steps": "many"},
    "backbone": {"settings__backbone": ["tiny"]},
    "guidance": {"settings__guidance": "strong"},
    "eta": {"settings__eta": float("nan")},
    "scheduler": {"settings__scheduler": None},
    "configuration": {"settings__config": "[" * 100_000},
    "configuration of numbers": {"settings__config": "[1]"},
    "more settings": {"settings__more": 1},
    "model": {"settings__model": 7},
    "calls": {"settings__call_kwargs": 7},
    "names of calls": {"settings__call_kwargs": [[1, 2]]},
    "pairs of calls": {"settings__call_kwargs": [["clip_skip"]]},
    "target": {"target": [None, None]},
    "timestep": {"t": "501"},
    "no timestep": {"t": float("inf")},
    "other timestep": {"t_target": [1]},
    "branch": {"t_branch": True},
    "level": {"same_level": "yes"},
    "k": {"config__k_z": 1.5},
    "k of x": {"config__k_x": [2]},
    "rest": {"config__keep_rest": 2},
    "basis": {"config__basis": ["both"]},
    "lambdas": {"config__lambdas": {"target": "heavy"}},
    "kind": {"tensors": {"left": torch.ones(2, 4, 8, 1, dtype=torch.int64)}},
    "NaN": {"tensors": {"left": torch.full((2, 4, 8, 1), float("nan"))}},
    "shape": {"tensors": {"right": torch.ones(3)}},
    "tensors": {"tensors": {"middle": torch.ones(3)}},
}


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED)
def test_a_forged_file_is_refused_in_one_sentence(tmp_path, change):
    file = forge(tmp_path / "x.safetensors", **change)
    with pytest.raises(ValueError, match=r"saved by another version of lsvd, or forged \(") as caught:
        load(file)
    assert len(str(caught.value)) < 400 + len(str(file)) and str(caught.value).isprintable()
    # what is forged is what is refused
    assert load(forge(file)).settings.seeds == made_up(0).settings.seeds


def test_the_same_attribute_is_the_same_bytes(tmp_path):
    assert len({made_up(0).save(tmp_path / f"{i}").read_bytes() for i in range(20)}) == 1


def test_terminal_escapes_of_a_file_are_written_out(tmp_path):
    file = tmp_path / "x.safetensors"
    file.write_bytes(storage.pack({}, {"format": "\x1b]0;owned\x07"}))
    with pytest.raises(ValueError, match="x1b.0;owned") as caught:
        load(file)
    assert str(caught.value).isprintable()


# Bad input


def test_bad_strengths():
    attribute = made_up(0)
    for bad in (float("nan"), float("inf"), [float("-inf")]):
        with pytest.raises(ValueError, match="not finite"):
            apply(text_to_image(), attribute, "a person", 1, bad)
    for bad in ([1, 2], [], [[1]]):
        with pytest.raises(ValueError, match="for 1 attributes"):
            apply(text_to_image(), attribute, "a person", 1, bad)
    with pytest.raises(ValueError, match="is not a strength"):
        apply(text_to_image(), attribute, "a person", 1, "strong")
    with pytest.raises(ValueError, match="no attributes"):
        apply(text_to_image(), [], "a person", 1)
    with pytest.raises(ValueError, match="not finite"):
        attribute.code(codes(0), float("nan"))
    with pytest.raises(ValueError, match="nearer to 0"):
        attribute.code(codes(0).half(), 1e9)


def test_bad_codes():
    attribute = made_up(0)
    with pytest.raises(ValueError, match="holds NaN"):
        attribute.code(codes(0) * float("nan"))
    for shape in ((2, 4, 8, 9), (2, 3, 8, 8), (4, 8, 8)):
        with pytest.raises(ValueError, match=r"for codes of shape \(B, 4, 8, 8\)"):
            attribute.code(codes(0, shape))
    with pytest.raises(ValueError, match="3 seeds for 2 codes"):
        attribute.code(codes(0), seeds=(1, 2, 3))
    source = replace(edit().source, codes=edit().source.codes * float("nan"))
    with pytest.raises(ValueError, match="holds NaN"):
        apply_to(text_to_image(), source, learned())


def test_an_attribute_of_another_model():
    backbone = text_to_image()
    with pytest.raises(ValueError, match=r"learned with codes of shape \(4, 8, 6\), not \(4, 8, 8\)"):
        apply(backbone, made_up(0, shape=(4, 8, 6)), "a person", 1)
    other = type(backbone)(backbone.pipe, Entry("other", "text-to-image", "", guidance=3.0), backbone.scheduler)
    assert apply(other, learned(), "a person", 1, 0)  # the same weights under another name
    with torch.no_grad():
        changed = tiny_pipeline()
        next(changed.unet.parameters()).add_(0.1)
    with pytest.raises(ValueError, match="learned with other weights of tiny-sd: use the same"):
        apply(type(backbone)(changed, backbone.entry, backbone.scheduler), learned(), "a person", 1)
    unknown = replace(learned(), settings=replace(learned().settings, model=""), models={})
    with pytest.raises(ValueError, match="learned with tiny-sd, not other: use the same"):
        apply(other, unknown, "a person", 1)
    with pytest.raises(ValueError, match="learned with tiny-sd, not tiny-ddpm"):
        apply(unconditional(), learned(), "a person", 1)
    with pytest.raises(ValueError, match="learned with DDIMScheduler, not EulerDiscreteScheduler"):
        apply(backbone.with_scheduler(EulerDiscreteScheduler), learned(), "a person", 1)
    sooner = DDIMScheduler.from_config(backbone.scheduler.config, beta_end=0.02)
    with pytest.raises(ValueError, match="learned with DDIMScheduler.beta_end=.*, not DDIMScheduler.beta_end=0.02"):
        apply(backbone.with_scheduler(sooner), learned(), "a person", 1)
    # what only one of them knows, from another version of the library, does not count
    older = json.dumps(json.loads(learned().settings.config) | {"forgotten": 1})
    attribute = replace(learned(), settings=replace(learned().settings, config=older))
    assert apply(backbone, attribute, "a person", 1, 0)


def test_a_timestep_that_is_not_on_the_schedule():
    with pytest.raises(ValueError, match=r"timestep 501 of 6 steps, which the trajectory of 7 steps does not stop at"):
        apply(text_to_image(), made_up(0), "a person", 1, steps=7)


def test_bad_lessons():
    backbone = text_to_image()
    with pytest.raises(ValueError, match="seed 1 is named twice"):
        learn(backbone, "a person", ["old", "young", "red"], (1, 2, 1))
    with pytest.raises(ValueError, match="the same"):
        learn(backbone, "a person", "a person", 1)
    with pytest.raises(ValueError, match="takes no prompts"):
        learn(unconditional(), "a person", "old", 1)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"left": torch.zeros(2, 4, 8, 3)}, "do not make an attribute"),
        ({"left": torch.zeros(4, 8, 2)}, "do not make an attribute"),
        ({"target": ("an",)}, "1 target prompts"),
        ({"left": torch.zeros(2, 4, 8, 2).double()}, "finite and float32"),
        ({"right": torch.full((2, 4, 2, 8), torch.nan)}, "finite and float32"),
    ],
)
def test_parts_that_do_not_fit(change, problem):
    with pytest.raises(ValueError, match=problem):
        replace(made_up(0), **change)


def in_precision(dtype, change=None):
    """The tiny model in another precision, as a user would load it, and `change` made to it before."""
    pipe = tiny_pipeline()
    if change is not None:
        with torch.no_grad():
            change(pipe)
    return from_pipeline(pipe.to(dtype), text_to_image().entry)


def nudge(pipe):
    next(pipe.unet.parameters())[0] *= 1.01


def nudge_text(pipe):
    next(pipe.text_encoder.parameters()).mul_(1.01)


@pytest.mark.parametrize("learned_in", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("used_in", [torch.float32, torch.float16, torch.bfloat16])
def test_an_attribute_is_of_the_same_model_in_another_precision(learned_in, used_in, tmp_path):
    learned = learn(in_precision(learned_in), "a person", "an old person", SEEDS, steps=STEPS)
    kept = load(learned.save(tmp_path / "x.safetensors"))
    assert same(kept, learned)
    request = {"prompt": "a person", "seeds": [1], "steps": STEPS}
    # one half precision rounded to the other is not the weights rounded once
    if learned_in == used_in or torch.float32 in (learned_in, used_in):
        source, edited = apply(in_precision(used_in), kept, **request)
        assert edited.codes.dtype == used_in and not torch.equal(edited.final, source.final)
    else:
        with pytest.raises(ValueError, match="learned with other weights"):
            apply(in_precision(used_in), kept, **request)
    for change in (nudge, nudge_text):
        with pytest.raises(ValueError, match="learned with other weights"):
            apply(in_precision(used_in, change), kept, **request)


def test_learned_with_embeddings_it_is_kept(tmp_path):
    embeds = torch.randn(1, 8, 16, generator=torch.Generator().manual_seed(0))
    learned = learn(text_to_image(), "a person", "an old person", SEEDS, steps=STEPS, negative_prompt_embeds=embeds)
    kept = load(learned.save(tmp_path / "x.safetensors"))
    assert torch.equal(kept.mean, learned.mean) and "tensor of shape (2, 8, 16)" in str(kept.settings.call_kwargs)
    assert kept.save(tmp_path / "y.safetensors").read_bytes() == (tmp_path / "x.safetensors").read_bytes()
    assert apply(text_to_image(), kept, "a person", 1)
