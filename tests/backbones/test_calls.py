"""Arguments of the pipeline's own call draw what the plain pipeline draws; what it does not take is refused."""

import json
from types import SimpleNamespace

import diffusers
import pytest
import torch
from tiny import text_to_image, tiny_pipeline, unconditional
from tiny_families import build
from torch.testing import assert_close

from lsvd.backbones import calls
from lsvd.backbones.loading import from_pipeline
from lsvd.backbones.schedulers import starting_at
from lsvd.sampling.trajectory import run

PROMPTS = ["a person", "an old person"]


def drawn(backbone, call_kwargs, prompts=PROMPTS, guidance=4.0, steps=3):
    """The final codes of seeds 0, 1, ... by the backbone, and by its plain pipeline with the same arguments."""
    seeds = range(len(prompts))
    code, found = backbone.noise(list(seeds)) * backbone.schedule(steps).sigma, []
    checked = backbone.check_call(call_kwargs, len(prompts))

    def callback(pipe, step, t, tensors):
        found.append(tensors["latents"])
        return {}

    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    scheduler = starting_at(backbone.scheduler, 0)
    request = SimpleNamespace(steps=steps, prompts=prompts, guidance=guidance, eta=0.0, call_kwargs=checked)
    backbone._call(scheduler, code, request, generators, callback)
    return found[-1]


def plain(pipe, call_kwargs, prompts=PROMPTS, guidance=4.0, steps=3):
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
    given = {"prompt": prompts, "guidance_scale": guidance, "num_inference_steps": steps} | call_kwargs
    return pipe(**given, generator=generators, output_type="latent").images


CALLS = {
    "negative prompt": {"negative_prompt": ["an old person"] * 2},
    "two negative prompts": {"negative_prompt": ["an old person", "red hair"]},
    "guidance_rescale": {"guidance_rescale": 0.7},
    "all": {"negative_prompt": ["young", "old"], "guidance_rescale": 0.3, "cross_attention_kwargs": {}},
}


@pytest.mark.parametrize("call_kwargs", CALLS.values(), ids=CALLS)
def test_they_draw_what_the_plain_pipeline_draws(call_kwargs):
    pipe = tiny_pipeline()
    backbone = from_pipeline(pipe)
    mine = drawn(backbone, call_kwargs)
    assert_close(mine, plain(pipe, call_kwargs), rtol=0, atol=1e-5)
    assert not torch.allclose(mine, drawn(backbone, {}), atol=1e-3)


def test_layers_of_encoders_are_skipped_where_diffusers_can():
    backbone = from_pipeline(build("StableDiffusionXLPipeline"))
    prompts, given = ["a person"], {"clip_skip": 0}
    assert_close(drawn(backbone, given, prompts), plain(backbone.pipe, given, prompts), rtol=0, atol=1e-4)


def test_one_negative_prompt_is_for_all():
    backbone = text_to_image()
    one, each = ({"negative_prompt": value} for value in ("old", ["old", "old"]))
    assert backbone.check_call(one, 2) == backbone.check_call(each, 2) == (("negative_prompt", ("old", "old")),)


def test_embeddings_stand_for_prompts():
    backbone = text_to_image()
    positive, negative = backbone.pipe.encode_prompt(PROMPTS, "cpu", 1, True, ["old", "young"])
    given = {"prompt_embeds": positive, "negative_prompt_embeds": negative}
    asked = drawn(backbone, {"negative_prompt": ["old", "young"]})
    assert_close(drawn(backbone, given, prompts=["", ""]), asked, rtol=0, atol=1e-6)
    single = {name: value[:1].double() for name, value in given.items()}  # one for all, and cast
    assert_close(drawn(backbone, single, prompts=["", ""])[:1], asked[:1], rtol=0, atol=1e-5)


def test_several_pictures_for_one_prompt():
    """What is given for each prompt is repeated for each of its pictures."""
    backbone = text_to_image()
    embeds = torch.arange(2.0).reshape(2, 1, 1).expand(2, 8, 16)
    given = {"negative_prompt": ["old", "young"], "prompt_embeds": embeds, "num_images_per_prompt": 2}
    found = dict(backbone.check_call(given, 4))
    assert found["negative_prompt"] == ("old", "old", "young", "young")
    assert found["prompt_embeds"][:, 0, 0].tolist() == [0, 0, 1, 1] and "num_images_per_prompt" not in found


def test_rows_are_those_of_the_pictures():
    backbone = text_to_image()
    embeds = torch.arange(3.0).reshape(3, 1, 1).expand(3, 8, 16)
    given = {"negative_prompt": ["old", "young", ""], "prompt_embeds": embeds, "guidance_rescale": 0.5}
    part = dict(calls.rows(backbone.check_call(given, 3), slice(1, 3)))
    assert part["negative_prompt"] == ("young", "") and part["guidance_rescale"] == 0.5
    assert part["prompt_embeds"][:, 0, 0].tolist() == [1, 2]


def test_they_can_be_noted_as_json():
    given = {"negative_prompt": "old", "guidance_rescale": 0.5, "cross_attention_kwargs": {"scale": 1}}
    checked = text_to_image().check_call(given, 2)
    assert dict(json.loads(json.dumps(checked)))["cross_attention_kwargs"] == {"scale": 1}
    assert text_to_image().check_call({"negative_prompt": None, "clip_skip": None}, 2) == ()


def test_families_have_their_own():
    """Qwen-Image is always told a negative prompt: one of the caller's takes its place."""
    backbone = from_pipeline(build("QwenImagePipeline"))
    prompts = ["a person"]
    usual = drawn(backbone, {}, prompts, 3.0, 2)
    assert torch.equal(drawn(backbone, {"negative_prompt": " "}, prompts, 3.0, 2), usual)
    assert not torch.allclose(drawn(backbone, {"negative_prompt": "an old person"}, prompts, 3.0, 2), usual, atol=1e-4)


BAD = {
    "unknown": ({"negativ_prompt": "old"}, "takes no argument 'negativ_prompt': did you mean negative_prompt"),
    "nothing like it": ({"zzz": 1}, "takes no argument 'zzz': leave it out"),
    "prompts": ({"prompt": "a person"}, "prompt is set by prompts"),
    "steps": ({"num_inference_steps": 3}, "set by steps"),
    "timesteps": ({"timesteps": [1, 2]}, "set by steps and the scheduler"),
    "latents": ({"latents": torch.zeros(1)}, "set by seeds, or codes"),
    "guidance": ({"guidance_scale": 3}, "set by guidance"),
    "callback": ({"callback_on_step_end": print}, "set by the trajectory"),
    "too many": ({"negative_prompt": ["old"] * 3}, "3 of negative_prompt for 2 pictures"),
    "no text": ({"negative_prompt": [1, 2]}, "negative_prompt is text"),
    "no list": ({"negative_prompt": 7}, "negative_prompt is text"),
    "rows": ({"prompt_embeds": torch.zeros(3, 8, 16)}, "3 of prompt_embeds for 2 pictures"),
    "a vector": ({"prompt_embeds": torch.zeros(16)}, "give one row per picture"),
    "NaN": ({"prompt_embeds": torch.full((2, 8, 16), float("nan"))}, "prompt_embeds holds NaN"),
    "NaN number": ({"guidance_rescale": float("nan")}, "a trajectory cannot note"),
    "an object": ({"cross_attention_kwargs": {"of": object()}}, "a trajectory cannot note"),
    "per prompt": ({"num_images_per_prompt": 3}, "num_images_per_prompt 3 does not divide 2 seeds"),
    "no pictures": ({"num_images_per_prompt": 0}, "does not divide"),
    "what diffusers cannot do": ({"clip_skip": 1}, "cannot skip layers"),
    "twice": (
        {"negative_prompt": "old", "negative_prompt_embeds": torch.zeros(2, 8, 16)},
        "say the same twice",
    ),
}


@pytest.mark.parametrize(("given", "said"), BAD.values(), ids=BAD)
def test_what_cannot_be_passed_on_is_refused_in_a_sentence(given, said):
    with pytest.raises(ValueError, match=said) as caught:
        text_to_image().check_call(given, 2)
    assert "\n" not in str(caught.value)


def test_unconditional_models_take_none():
    assert unconditional().check_call({}, 2) == ()
    with pytest.raises(ValueError, match="tiny-ddpm is unconditional and takes no negative_prompt"):
        unconditional().check_call({"negative_prompt": "old"}, 2)


def test_overlong_negative_prompts_are_named():
    with pytest.warns(UserWarning, match="will not see 'young hair'"):
        text_to_image().check_call({"negative_prompt": "an old person with red hair young hair"}, 1)


@pytest.mark.skipif(not diffusers.__version__.startswith("0.42."), reason="others may be able to")
def test_clip_skip_fails_in_diffusers_and_embeddings_do_as_well():
    pipe = tiny_pipeline()
    with pytest.raises(AttributeError, match="text_model"):
        pipe("a person", num_inference_steps=2, clip_skip=1, output_type="latent")
    with pytest.raises(ValueError, match="cannot skip layers .*: give prompt_embeds instead"):
        run(text_to_image(), "a person", [1], 2, clip_skip=1)
    encoder = pipe.text_encoder
    ids = pipe.tokenizer("a person", padding="max_length", max_length=8, return_tensors="pt").input_ids
    with torch.no_grad():
        layers = encoder(ids, output_hidden_states=True).hidden_states
        first, last = (encoder.final_layer_norm(layers[i]) for i in (-2, -1))
    usual, skipped, same = (
        run(text_to_image(), "a person", [1], 2, **given).final
        for given in ({}, {"prompt_embeds": first}, {"prompt_embeds": last})
    )
    assert torch.allclose(same, usual, atol=1e-5) and not torch.allclose(skipped, usual, atol=1e-4)
