"""Low-rank guidance in a plain diffusers pipeline does what the library's edit does, and leaves the pipeline alone.

Every family is tried in tests/backbones/test_families.py.
"""

import functools

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler
from diffusers.callbacks import SDCFGCutoffCallback
from placing import place
from tiny import WORDS, text_to_image, tiny_ddpm, tiny_pipeline

import lsvd
from lsvd import backbones
from lsvd.avi import attribute
from lsvd.avi.callback import AddAttributes
from lsvd.guidance import LowRank, LowRankPipeline
from lsvd.sampling.trajectory import resume

SOURCE, TARGET, SEEDS = "a person", "an old person", (1, 2)


@functools.cache
def mine():
    """A backbone whose pipeline is called directly."""
    return backbones.from_pipeline(tiny_pipeline(), text_to_image().entry, WORDS)


def draw(pipe, prompts=(SOURCE,) * 2, seeds=SEEDS, **more):
    options = {"num_inference_steps": 8, "guidance_scale": 3.0, "output_type": "latent"} | more
    return pipe(list(prompts), latents=mine().noise(seeds), **options).images


@pytest.mark.parametrize("scheduler", [None, EulerDiscreteScheduler, DPMSolverMultistepScheduler])
@pytest.mark.parametrize("target", [TARGET, {TARGET: 1.0, "red hair": -0.5}])
def test_the_same_as_the_librarys_edit(scheduler, target):
    pipe = tiny_pipeline()
    if scheduler:
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    backbone = backbones.from_pipeline(pipe, text_to_image().entry, WORDS)
    wanted = lsvd.edit(backbone, SOURCE, target, seeds=SEEDS, method=LowRank(2)).edited.final
    assert torch.equal(draw(LowRankPipeline(pipe, target, LowRank(2))), wanted)


def test_the_pipeline_stays_as_it_is():
    pipe = tiny_pipeline()
    before = dict(pipe.components)
    plain, edit = draw(pipe), LowRankPipeline(pipe, TARGET)
    assert not torch.equal(draw(edit), plain) and torch.equal(draw(pipe), plain)
    assert all(pipe.components[name] is each for name, each in before.items())


def test_random_numbers_are_those_of_the_plain_call():
    pipe = tiny_pipeline()
    options = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "latent"}
    for generator in (None, torch.Generator()):
        torch.manual_seed(5)
        drawn = pipe(SOURCE, generator=generator and generator.manual_seed(3), **options).images
        torch.manual_seed(5)
        nothing = LowRankPipeline(pipe, TARGET, LowRank(strength=0.0))
        again = nothing(SOURCE, generator=generator and generator.manual_seed(3), **options).images
        assert torch.equal(drawn, again)


def test_several_pictures_of_a_prompt_and_decoded_pictures():
    pipe = tiny_pipeline()
    edit = LowRankPipeline(pipe, TARGET)
    four = edit(SOURCE, num_images_per_prompt=4, num_inference_steps=4, guidance_scale=3.0, output_type="np").images
    assert four.shape == (4, 16, 16, 3)
    assert len(edit([SOURCE, "red hair"], num_inference_steps=4, guidance_scale=3.0).images) == 2
    wide = edit(SOURCE, num_inference_steps=4, guidance_scale=3.0, height=16, width=24, output_type="np").images
    assert wide.shape == (1, 16, 24, 3)


def test_together_with_callbacks():
    seen = []

    def looks(pipe, step, t, tensors):
        seen.append((step, tuple(tensors)))
        return tensors

    edit = LowRankPipeline(mine().pipe, TARGET)
    plain = draw(edit)
    assert torch.equal(draw(edit, callback_on_step_end=looks), plain) and len(seen) == 8
    one = draw(edit, prompts=[SOURCE], seeds=[1])
    cut = draw(edit, prompts=[SOURCE], seeds=[1], callback_on_step_end=SDCFGCutoffCallback(None, 6))
    assert not torch.equal(cut, one)  # which takes one picture at a time, and ends guidance


def test_an_attribute_is_added_as_well():
    pipe = tiny_pipeline()
    backbone = backbones.from_pipeline(pipe, text_to_image().entry, WORDS)
    learned = attribute.learn(backbone, SOURCE, "red hair", SEEDS, **place(tx=0.2, dtau=0, branch=1.0))
    both = draw(LowRankPipeline(pipe, TARGET), callback_on_step_end=AddAttributes(learned, seeds=SEEDS))
    guided = lsvd.edit(backbone, SOURCE, TARGET, seeds=SEEDS, method="low-rank")
    code = learned.code(guided.edited.at(learned.t), seeds=SEEDS)
    assert torch.equal(both, resume(backbone, guided.source, learned.t, code).final)


def test_bad_input():
    with pytest.raises(ValueError, match="does not know a DDPMPipeline"):
        LowRankPipeline(tiny_ddpm(), TARGET)
    edit = LowRankPipeline(tiny_pipeline(), TARGET)
    with pytest.raises(ValueError, match="has no guidance"):
        draw(edit, guidance_scale=1.0)
    with pytest.raises(ValueError, match="tells its network the same about source and target"):
        draw(edit, prompts=[TARGET] * 2)
    with pytest.raises(ValueError, match="holds no step"):
        draw(LowRankPipeline(tiny_pipeline(), TARGET, LowRank(start=0.56, end=0.55)))
    with pytest.raises(ValueError, match="choose a rank from 1 to 8"):
        draw(LowRankPipeline(tiny_pipeline(), TARGET, LowRank(12)))
