"""What a caller does with models, codes and arguments: the same result as ever, or one sentence; never a wrong one."""

import asyncio
import contextlib
import copy
import decimal
import pickle

import diffusers
import numpy as np
import pytest
import torch
from faults import sentence
from tiny import text_to_image, tiny_pipeline, unconditional

from lsvd import avi, backbones
from lsvd.avi import attribute
from lsvd.avi.placement import Placement
from lsvd.sampling import identity, trajectory
from lsvd.sampling.inversion import invert

pytestmark = pytest.mark.filterwarnings("ignore")
PROMPT, TARGET, STEPS = "a person", "an old person", 4


def fresh():
    return backbones.from_pipeline(tiny_pipeline(), size=16)


def draw(backbone, **request):
    return trajectory.run(backbone, PROMPT, [1, 2], **{"steps": STEPS, **request}).final


@contextlib.contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


# The device that tensors are made on


SCHEDULERS = [
    "DDIM",
    "EulerAncestralDiscrete",
    "EulerDiscrete",
    "HeunDiscrete",
    "LMSDiscrete",
    "PNDM",
    "UniPCMultistep",
]


@pytest.mark.parametrize("name", [*SCHEDULERS, "DPMSolverMultistep"])
def test_a_default_device_changes_nothing(name):
    kind = getattr(diffusers, f"{name}Scheduler")
    expected = draw(text_to_image().with_scheduler(kind))
    with default_device("meta"):
        backbone = text_to_image().with_scheduler(kind)
        assert torch.equal(draw(backbone), expected)
        if "Ancestral" not in name:
            assert invert(backbone, expected, PROMPT, STEPS, iterations=2).distance.isfinite().all()


def test_a_default_device_changes_no_edit(tmp_path):
    def everything():
        backbone = text_to_image()
        request = {"seeds": [1], "steps": STEPS}
        edits = [avi.edit_prompt(backbone, PROMPT, TARGET, method=m, **request) for m in ("avi", "low-rank")]
        learned = attribute.learn(backbone, PROMPT, TARGET, [1], steps=STEPS)
        again = attribute.load(learned.save(tmp_path / "a.safetensors"))
        (tmp_path / "a.safetensors").unlink()
        applied = attribute.apply(backbone, again, PROMPT, [3])[1]
        pixels = trajectory.run(unconditional(), None, [1], STEPS)
        pictures = backbone.decode(backbone.encode(backbone.decode(applied.final)))
        return [*(edit.edited.final for edit in edits), applied.final, pixels.final, pictures]

    expected = everything()
    with default_device("meta"):
        found = everything()
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


# Numbers, texts and other arguments


@pytest.mark.parametrize("four", [np.int64(4), np.uint8(4), torch.tensor(4)], ids=repr)
def test_whole_numbers_of_every_library_count_alike(four, tmp_path):
    backbone = text_to_image()
    assert torch.equal(draw(backbone, steps=four), draw(backbone))
    config = avi.AVIConfig(k_x=four, k_z=four)
    assert config == avi.AVIConfig(4, 4)
    learned = attribute.learn(
        backbone, PROMPT, TARGET, [1], steps=four, method=config, placement=Placement(dtau=four - four)
    )
    assert attribute.load(learned.save(tmp_path / "a.safetensors")).settings.steps == 4
    found = invert(backbone, draw(backbone), PROMPT, four, iterations=four)
    assert torch.equal(found.distance, invert(backbone, draw(backbone), PROMPT, 4, iterations=4).distance)


@pytest.mark.parametrize("three", [3, np.float32(3), torch.tensor(3.0), decimal.Decimal(3), np.array(3.0)], ids=repr)
def test_real_numbers_of_every_library_count_alike(three):
    backbone = text_to_image()
    expected = trajectory.run(backbone, PROMPT, [1, 2], 4, 3.0)
    walk = trajectory.run(backbone, PROMPT, [1, 2], 4, three, max_memory=three)
    assert torch.equal(walk.final, expected.final) and walk.settings == expected.settings
    t = walk.timesteps[2]
    assert all(walk.index(kind(t)) == 2 for kind in (int, float, np.int64, torch.tensor))


NOTHING = object()
WRONG = {
    "guidance": [True, "3", [3], 1j, torch.tensor([3.0, 2.0]), torch.tensor(3.0, device="meta"), NOTHING],
    "eta": [True, "x", 1j, [0], torch.zeros(2), np.nan],
    "steps": [True, "4", 4.0, [4], np.float64(4), torch.tensor([4, 5])],
    "until": ["x", [501], torch.tensor([501, 1]), NOTHING, np.inf],
    "max_memory": [True, "3", [3], np.nan, np.inf, 0, NOTHING],
    "prompts": [{"a person"}, {"a person": 1}, frozenset(["a"]), 3, b"a person", [[PROMPT]], NOTHING],
    "codes": [
        "x",
        np.zeros((1, 4, 8, 8), np.float32),
        torch.zeros(1, 4, 8, 8, device="meta"),
        torch.zeros(1, 4, 8, 8).to_sparse(),
        torch.zeros(1, 4, 8, 8).to(torch.float8_e4m3fn),
        torch.zeros(1, 4, 8, 8, dtype=torch.complex64),
        torch.zeros(1, 4, 8, 8, dtype=torch.int64),
        torch.zeros(0, 4, 8, 8),
    ],
    "num_images_per_prompt": [True, 0, "1", 1.0],
}


@pytest.mark.parametrize("name", WRONG)
def test_arguments_that_will_not_do_are_one_sentence(name):
    for value in WRONG[name]:
        with pytest.raises(ValueError) as caught:
            trajectory.run(text_to_image(), **{"prompts": PROMPT, "seeds": [1], "steps": STEPS, name: value})
        sentence(caught)


@pytest.mark.parametrize(
    "request_",
    [
        {"method": 3},
        {"method": "AVI"},
        {"method": lambda x, z: None},
        {"method": lambda x, z: x.numpy()},
        {"method": lambda x, z: x[0]},
        {"method": lambda x, z: x * torch.nan},
        {"placement": "0.5"},
        {"placement": 0.5},
        {"placement": Placement(tx="0.5")},
        {"placement": Placement(tx=np.nan)},
        {"placement": Placement(branch=[1])},
        {"target": None},
        {"target": {"an old person"}},
        {"target": {TARGET: "1"}, "method": "low-rank"},
        {"target": {}, "method": "low-rank"},
    ],
)
def test_edits_that_will_not_do_are_one_sentence(request_):
    with pytest.raises(ValueError) as caught:
        avi.edit_prompt(text_to_image(), PROMPT, **{"target": TARGET, "seeds": [1], "steps": STEPS, **request_})
    sentence(caught)


@pytest.mark.parametrize(
    "make",
    [
        lambda: avi.AVIConfig("3"),
        lambda: avi.AVIConfig(3.0),
        lambda: avi.AVIConfig(True),
        lambda: avi.AVIConfig(k_z=None),
        lambda: avi.AVIConfig(lambdas=(1, 0, 0, 0)),
        lambda: avi.Lambdas("1"),
        lambda: avi.Lambdas(torch.ones(2)),
        lambda: avi.Lambdas(target=None),
        lambda: Placement(dtau=0.5),
        lambda: Placement(dtau="1"),
    ],
)
def test_settings_that_will_not_do_are_one_sentence(make):
    with pytest.raises(ValueError) as caught:
        make()
    sentence(caught)


@pytest.mark.parametrize("given", [None, "a.safetensors", 3, {}, [None], ["a"]], ids=repr)
def test_what_is_not_an_attribute_or_a_trajectory_is_one_sentence(given):
    backbone = text_to_image()
    for call in (
        lambda: attribute.apply(backbone, given, PROMPT, [1]),
        lambda: trajectory.resume(backbone, given, 501),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        sentence(caught)


# Codes that a caller holds


def test_a_method_that_changes_its_codes_changes_no_trajectory():
    backbone = text_to_image()
    walk = trajectory.run(backbone, PROMPT, [1], STEPS)
    before = walk.codes.clone()
    edit = avi.edit_prompt(backbone, walk, TARGET, method=lambda x, z: x.add_(z))
    assert torch.equal(walk.codes, before) and torch.equal(edit.source.codes, before)
    assert not torch.equal(edit.edited.codes[0], edit.source.at(edit.t))


@pytest.mark.parametrize(
    "kind",
    [
        torch.Tensor.double,
        torch.nn.Parameter,
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.flip(0).flip(0),
        lambda x: x.repeat_interleave(2, 0)[::2],
        lambda x: x.clone().requires_grad_(),
    ],
)
def test_codes_of_any_layout_are_drawn_alike(kind):
    backbone = text_to_image()
    walk = trajectory.run(backbone, PROMPT, [1, 2], STEPS, codes=kind(backbone.noise([1, 2])))
    assert torch.equal(walk.final, draw(backbone)) and not walk.codes.requires_grad


def test_trajectories_and_models_are_copied():
    backbone = text_to_image()
    walk = trajectory.run(backbone, PROMPT, [1, 2], STEPS)
    for same in (copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))):
        assert torch.equal(draw(same(backbone)), walk.final)
        assert torch.equal(trajectory.resume(backbone, same(walk), walk.timesteps[2]).final, walk.final)


def test_a_request_that_ends_in_nan_is_refused():
    backbone = text_to_image()
    walk = trajectory.run(backbone, PROMPT, [1], STEPS)
    for call in (
        lambda: draw(backbone, guidance=1e38),
        lambda: trajectory.resume(backbone, walk, walk.timesteps[1], walk.codes[1] * 1e38),
        lambda: avi.edit_prompt(backbone, PROMPT, TARGET, seeds=[1], steps=STEPS, guidance=1e38),
    ):
        with pytest.raises(ValueError, match="NaN or infinity") as caught:
            call()
        sentence(caught)


# Pipelines that a caller changes


def quantised(pipe):
    pipe.unet = torch.ao.quantization.quantize_dynamic(pipe.unet, {torch.nn.Linear})


CHANGES = {
    "sliced attention": lambda pipe: pipe.enable_attention_slicing(),
    "tiles": lambda pipe: pipe.vae.enable_tiling(),
    "channels last": lambda pipe: pipe.unet.to(memory_format=torch.channels_last),
    "compiled": lambda pipe: setattr(pipe, "unet", torch.compile(pipe.unet, backend="eager")),
    "offloaded model by model": lambda pipe: pipe.enable_model_cpu_offload(device="cpu"),
    "fused projections": lambda pipe: pipe.fuse_qkv_projections(),
    "training mode": lambda pipe: pipe.unet.train(),
    "gradients": lambda pipe: pipe.unet.requires_grad_(True),
    "an autoencoder in float16": lambda pipe: pipe.vae.to(torch.float16),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_pipeline_that_is_set_up_otherwise_draws_the_same(change):
    backbone = fresh()
    expected = draw(backbone, guidance=3.0)
    CHANGES[change](backbone.pipe)
    found = draw(backbone, guidance=3.0)
    assert torch.allclose(found, expected, atol=1e-4) and not found.requires_grad
    assert backbone.decode(found).shape == (2, 3, 16, 16)


def test_a_pipeline_that_is_offloaded_layer_by_layer_is_the_same_model():
    """It draws on accelerators only."""
    backbone = fresh()
    before = identity.weights(backbone)
    backbone.pipe.enable_sequential_cpu_offload(device="cpu")
    assert identity.weights(backbone) == before


def test_quantised_networks_draw_and_are_another_model():
    backbone = fresh()
    walk = trajectory.run(backbone, PROMPT, [1], STEPS)
    quantised(backbone.pipe)
    assert draw(backbone).isfinite().all()
    with pytest.raises(ValueError, match="made with other weights"):
        trajectory.resume(backbone, walk, walk.timesteps[2])


@pytest.mark.parametrize("part", ["vae", "tokenizer", "text_encoder", "unet"])
def test_a_part_that_is_taken_away_is_one_sentence(part):
    backbone = fresh()
    setattr(backbone.pipe, part, None)
    with pytest.raises(ValueError) as caught:
        backbone.decode(draw(backbone))
    sentence(caught)


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_parts_of_several_precisions_are_one_sentence(part):
    backbone = fresh()
    getattr(backbone.pipe, part).to(torch.float64)
    with pytest.raises(ValueError) as caught:
        draw(backbone)
    sentence(caught)


def test_weights_changed_in_place_are_another_model():
    backbone = fresh()
    walk = trajectory.run(backbone, PROMPT, [1], STEPS)
    with torch.no_grad():
        next(backbone.pipe.unet.parameters()).add_(0.1)
    with pytest.raises(ValueError, match="made with other weights"):
        trajectory.resume(backbone, walk, walk.timesteps[2])


def test_a_picture_drawn_while_another_is_drawn():
    """By a hook, with another guidance: the outer request goes on as it was."""
    backbone, seen = fresh(), []
    expected = draw(backbone, guidance=3.0)

    def hook(*_):
        if not seen:
            seen.append(True)
            seen.append(trajectory.run(backbone, TARGET, [5], 2, 1.0).final)

    handle = backbone.pipe.unet.register_forward_hook(hook)
    found = draw(backbone, guidance=3.0)
    handle.remove()
    assert torch.equal(found, expected)
    assert torch.equal(seen[1], trajectory.run(backbone, TARGET, [5], 2, 1.0).final)
    assert type(backbone.pipe.scheduler) is type(fresh().pipe.scheduler)


def test_a_hook_that_fails_leaves_the_pipeline_as_it_was():
    backbone = fresh()
    before, expected = backbone.pipe.scheduler, draw(backbone)

    def hook(*_):
        raise RuntimeError("of my own")

    handle = backbone.pipe.unet.register_forward_hook(hook)
    with pytest.raises(ValueError, match="of my own"):
        draw(backbone)
    handle.remove()
    assert backbone.pipe.scheduler is before and torch.equal(draw(backbone), expected)


def test_drawing_in_an_event_loop():
    backbone = text_to_image()

    async def both():
        return await asyncio.gather(*(asyncio.to_thread(draw, backbone) for _ in range(2)))

    assert all(torch.equal(found, draw(backbone)) for found in asyncio.run(both()))
