"""The editors of the comparison, on tiny models: each draws what it says, and leaves the backbone as it was."""

import functools
import importlib.util

import pytest
import torch
from tiny import WORDS, text_to_image, tiny_pipeline
from tiny_families import build
from torch.testing import assert_close

from lsvd import backbones
from lsvd.sampling import identity
from lsvd.sampling.trajectory import resume, run
from lsvd.studies.editors import GRIDS, METHODS, Job, tries
from lsvd.studies.editors.attention import PromptToPrompt, shared_words
from lsvd.studies.editors.grids import WHOLE
from lsvd.studies.editors.measuring import counting
from lsvd.studies.editors.ours import Integration, LowRankGuidance, PromptSwitching, TargetPrompt
from lsvd.studies.editors.shipped import SEGA, LEditsPP, SDEdit
from lsvd.studies.editors.sliders import ConceptSlider

SOURCE, TARGET, SEEDS, STEPS = "a person", "an old person", (1, 2), 8
FEW = {"Concept Sliders": ConceptSlider(1.0, 0.8, iterations=3), "SEGA": SEGA(6.0, 0.95, 2)}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))


def backbone(size=16):
    return _backbone(size)


def job(size=16):
    return _job(size)


@functools.cache
def _backbone(size):
    return backbones.from_pipeline(tiny_pipeline(), text_to_image().entry, WORDS, size=size)


@functools.cache
def _job(size):
    walk = run(backbone(size), SOURCE, SEEDS, STEPS)
    return Job(backbone(size), walk, backbone(size).decode(walk.final), TARGET)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_edits_and_leaves_the_backbone_alone(method):
    size = 32 if method == "LEDITS++" else 16
    editor, model = FEW.get(method, GRIDS[method][0]), backbone(size)
    if not editor.fits(model):
        pytest.skip("PEFT is not installed")
    weights, parts = identity.weights(model), dict(model.pipe.components)
    with counting(model.pipe.unet) as seen:
        after = editor.edit(job(size))
    assert after.shape == job(size).pictures.shape and after.min() >= 0 and after.max() <= 1
    assert not torch.allclose(after, job(size).pictures, atol=1e-4) and sum(seen) > 0
    assert identity.weights(model) == weights
    assert all(model.pipe.components[name] is part for name, part in parts.items())
    again = run(model, SOURCE, SEEDS, STEPS)
    assert torch.equal(again.final, job(size).source.final)
    assert_close(editor.edit(job(size)), after, rtol=0, atol=1e-5)


def test_settings_are_told_apart():
    editors = tries()
    assert [editor.method for editor in editors] == [m for m in METHODS for _ in GRIDS[m]]
    assert len(set(editors)) == len({repr(editor.key()) for editor in editors}) == len(editors)
    assert len({(editor.method, editor.setting) for editor in editors}) == len(editors)
    methods = [editor.method for editor in tries(most=3)]
    for method in METHODS:
        assert methods.count(method) == (len(GRIDS[method]) if method in WHOLE else min(3, len(GRIDS[method])))


def test_ours_are_those_of_the_package():
    whole = LowRankGuidance(None, 1.0, 1.0, 0.0).edit(job())
    assert_close(whole, TargetPrompt().edit(job()), rtol=0, atol=1e-5)
    assert_close(PromptSwitching(1.0).edit(job()), TargetPrompt().edit(job()), rtol=0, atol=1e-5)
    switched = resume(backbone(), job().source, job().source.nearest(0.5), prompts=TARGET).final
    assert torch.equal(PromptSwitching(0.5).edit(job()), backbone().decode(switched))
    assert Integration(k=3).config.k_z == 3


def test_sega_with_nothing_to_do_is_the_source():
    assert_close(SEGA(0.0, 0.9, 2).edit(job()), job().pictures, rtol=0, atol=0.02)
    moved = [(SEGA(scale, 0.9, 2).edit(job()) - job().pictures).square().mean() for scale in (2.0, 5.0, 20.0)]
    assert moved == sorted(moved)


def test_sdedit_is_the_plain_pipeline_with_a_generator_for_each_picture():
    few, many = (SDEdit(strength).edit(job()) for strength in (0.3, 1.0))
    assert not torch.allclose(few, many, atol=1e-3)
    alone = Job(backbone(), job().source.rows([1]), job().pictures[1:], TARGET)
    assert_close(SDEdit(1.0).edit(alone), many[1:], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("cross", "own", "same"), [(0.0, 0.0, True), (1.0, 0.0, False), (0.0, 1.0, False)])
def test_prompt_to_prompt_without_maps_is_the_target_prompt(cross, own, same):
    edited = PromptToPrompt(cross, own).edit(job())
    assert torch.allclose(edited, TargetPrompt().edit(job()), atol=1e-4) == same


def test_prompt_to_prompt_with_all_maps_of_the_source_prompt_is_the_source():
    same = Job(backbone(), job().source, job().pictures, SOURCE)
    assert_close(PromptToPrompt(1.0, 1.0).edit(same), job().pictures, rtol=0, atol=1e-4)


def test_words_that_prompts_share():
    tokenizer = tiny_pipeline().tokenizer
    ids = [tokenizer(text, padding="max_length", truncation=True).input_ids for text in (SOURCE, "a young person")]
    words = shared_words(tokenizer, SOURCE, "a young person")
    assert len(words) == len(ids[1]) and int((words < 0).sum()) == 1
    assert all(ids[0][i] == ids[1][j] for j, i in enumerate(words.tolist()) if i >= 0)
    assert torch.equal(shared_words(tokenizer, SOURCE, SOURCE), torch.arange(len(ids[0])))


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="PEFT is not installed")
def test_a_slider_learns_its_direction_and_is_kept():
    losses = []
    for iterations in (0, 60):
        slider = ConceptSlider(1.0, 1.0, iterations)
        edited = slider.edit(job())
        one, other = slider.weights(job()), slider.weights(job())
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        losses.append((edited - job().pictures).square().mean())
    assert losses[0] < 1e-8 < losses[1]  # an adapter that was not trained changes nothing
    towards = TargetPrompt().edit(job()) - job().pictures
    assert torch.cosine_similarity((edited - job().pictures).flatten(), towards.flatten(), dim=0) > 0.2
    assert_close(ConceptSlider(0.0, 1.0, 60).edit(job()), job().pictures, rtol=0, atol=1e-5)


def test_what_diffusers_has_for_stable_diffusion_alone():
    other = backbones.from_pipeline(build("StableDiffusion3Pipeline"), size=32)
    fitting = {editor.method for editor in tries() if editor.fits(other)}
    assert not fitting & {"SDEdit", "LEDITS++", "SEGA", "prompt-to-prompt", "Concept Sliders"}
    assert {"low-rank guidance", "AVI", "prompt switching", "target prompt"} <= fitting
    assert not LEditsPP().fits(backbone(16)) and LEditsPP().fits(backbone(32))


def test_counting_counts_copies_too():
    with counting(backbone(32).pipe.unet) as seen:
        LEditsPP(6.0, 0.9, 0.2).edit(job(32))
    assert sum(seen) > len(SEEDS) * STEPS
    with counting(backbone().pipe.unet) as seen:
        LowRankGuidance().edit(job())
    window = [each for each in seen if each == 3 * len(SEEDS)]
    assert window and sum(seen) == sum(2 * len(SEEDS) for each in seen) + len(SEEDS) * len(window)
