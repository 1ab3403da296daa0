"""Attributes as a callback of a plain diffusers pipeline do what lsvd.avi.attribute does, bit for bit."""

import functools
from dataclasses import replace

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline
from diffusers.callbacks import MultiPipelineCallbacks, SDCFGCutoffCallback
from placing import place
from tiny import WORDS, text_to_image, tiny_pipeline

from lsvd import backbones
from lsvd.avi import attribute
from lsvd.avi.callback import AddAttributes

SEEDS = [1, 2]


@functools.cache
def mine():
    """A backbone whose pipeline is called directly, which leaves its scheduler changed."""
    return backbones.from_pipeline(tiny_pipeline(), text_to_image().entry, WORDS)


@pytest.fixture(scope="module")
def learned():
    settings = {"steps": 6, "guidance": 3.0, "branch": 1.0}
    return [
        attribute.learn(mine(), "a person", target, SEEDS, **place(tx=tx, **settings))
        for target, tx in (("an old person", 0.6), ("red hair", 0.3))
    ]


def draw(callback, seeds=SEEDS, pipe=None, **settings):
    pipe = pipe or mine().pipe
    noise = mine().noise(seeds)
    return pipe(
        ["a person"] * len(seeds),
        latents=noise,
        num_inference_steps=settings.pop("steps", 6),
        guidance_scale=3.0,
        output_type="latent",
        callback_on_step_end=callback,
        **settings,
    ).images


@pytest.mark.parametrize("which", [[0], [1], [0, 1]])
@pytest.mark.parametrize("seeds", [SEEDS, [7, 1, 9]])
def test_the_same_as_apply(learned, which, seeds):
    attributes, strengths = [learned[i] for i in which], [0.5 + i for i in which]
    _, wanted = attribute.apply(mine(), attributes, "a person", seeds, strengths)
    assert torch.equal(draw(AddAttributes(attributes, strengths, seeds), seeds), wanted.final)


def test_without_seeds_the_mean_is_added(learned):
    _, wanted = attribute.apply(mine(), learned[0], "a person", [8, 9])
    assert torch.equal(draw(AddAttributes(learned[0]), [8, 9]), wanted.final)
    _, own = attribute.apply(mine(), learned[0], "a person", SEEDS)
    assert not torch.equal(draw(AddAttributes(learned[0])), own.final)


def test_strength_0_changes_nothing(learned):
    assert torch.equal(draw(AddAttributes(learned, 0.0, SEEDS)), draw(AddAttributes(learned[0], 0.0)))


def test_together_with_other_callbacks(learned):
    edit, cutoff = AddAttributes(learned[0], seeds=1), SDCFGCutoffCallback(None, 4)  # which takes one picture at a time
    both = draw(MultiPipelineCallbacks([edit, cutoff]), [1])
    assert not torch.equal(both, draw(edit, [1])) and not torch.equal(both, draw(cutoff, [1]))
    edit = AddAttributes(learned[0], seeds=SEEDS)
    last = MultiPipelineCallbacks([edit, AddAttributes(learned[1], seeds=SEEDS)])
    assert torch.equal(draw(last), draw(AddAttributes(learned, seeds=SEEDS)))


def test_bad_input(learned):
    edit = AddAttributes(learned[0], seeds=SEEDS)
    with pytest.raises(ValueError, match="2 seeds for 1 pictures"):
        draw(edit, [1])
    with pytest.raises(ValueError, match="not on the schedule"):
        draw(edit, steps=7)
    with pytest.raises(ValueError, match="for codes of shape"):
        mine().pipe(["a"] * 2, 8, 8, num_inference_steps=6, callback_on_step_end=edit, output_type="latent")
    pipe = tiny_pipeline()
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(
        ValueError, match="learned with DDIMScheduler, not EulerDiscreteScheduler: give the pipeline the same"
    ):
        draw(edit, pipe=pipe)
    first = attribute.learn(mine(), "a person", "old", SEEDS, **place(tx=1.0, dtau=0, branch=1.0, steps=6))
    with pytest.raises(ValueError, match="this call starts there or later, where no callback is called"):
        draw(AddAttributes(first))


def test_other_weights_are_refused(learned, tmp_path):
    kept = attribute.load(learned[0].save(tmp_path / "x.safetensors"))
    for change, refused in (
        (lambda pipe: next(pipe.unet.parameters())[0].mul_(1.01), True),
        (lambda pipe: None, False),
    ):
        pipe = tiny_pipeline()
        with torch.no_grad():
            change(pipe)
        for each in (learned[0], kept):
            if refused:
                with pytest.raises(
                    ValueError, match="was learned with other weights: give the pipeline those of tiny-sd"
                ):
                    draw(AddAttributes(each, seeds=SEEDS), pipe=pipe)
            else:
                assert draw(AddAttributes(each, seeds=SEEDS), pipe=pipe).isfinite().all()
    assert draw(AddAttributes(replace(kept, models={}), seeds=SEEDS)).isfinite().all()  # of an older file


@pytest.mark.parametrize("kind", [StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline])
@pytest.mark.parametrize("strength", [1.0, 0.8, 0.5, 0.2])
def test_pipelines_that_leave_out_the_first_steps(kind, strength):
    """The attribute is added at its own timestep, or refused where the pipeline starts later."""
    settings = {"steps": 10, "guidance": 3.0, "branch": 1.0, "tx": 0.3}
    learned = attribute.learn(mine(), "a person", "an old person", [1], **place(**settings))
    parts = {name: part for name, part in tiny_pipeline().components.items() if name != "image_encoder"}
    pipe = kind(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    edit, times, added = AddAttributes(learned), [], []

    def callback(pipe, step, t, tensors):
        before = tensors["latents"].clone()
        tensors = edit(pipe, step, t, tensors)
        times.append(int(t))
        if not torch.equal(before, tensors["latents"]):
            added.append(step)
        return tensors

    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    mask = {"mask_image": torch.ones(1, 1, 16, 16)} if kind is StableDiffusionInpaintPipeline else {}
    request = {"image": picture, "strength": strength, "num_inference_steps": 10, "output_type": "latent", **mask}
    request |= {"generator": torch.Generator().manual_seed(1), "height": 16, "width": 16} if mask else {}
    try:
        pipe("a person", callback_on_step_end=callback, **request)
    except ValueError as error:
        assert "starts there or later" in str(error) and strength == 0.2
    else:
        assert [times[step + 1] for step in added] == [learned.t]
