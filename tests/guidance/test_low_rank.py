"""Low-rank guidance as an edit: its ends, its cost, its independence of batches and schedulers, and bad input."""

import functools
import json

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from tiny import WORDS, text_to_image, tiny_pipeline, unconditional
from tiny_families import build
from torch.testing import assert_close

import lsvd
from lsvd import backbones
from lsvd.avi.placement import Placement
from lsvd.guidance import LowRank
from lsvd.guidance.edit import guide
from lsvd.sampling import memory
from lsvd.sampling.trajectory import Settings, resume, run

SOURCE, TARGET, SEEDS = "a person", "an old person", (1, 2)
ONE_STEP = {"start": 0.38, "end": 0.25}  # a window of one step, of 8


@functools.cache
def walk():
    return run(text_to_image(), SOURCE, SEEDS)


def edited(target=TARGET, source=None, **settings):
    return lsvd.edit(text_to_image(), source or walk(), target, method=LowRank(**settings))


def switched(backbone, source, edit):
    """Prompt switching within the window: the target prompt from t on, and the source's again from t_end on."""
    later = resume(backbone, source, edit.t, prompts=TARGET, until=edit.t_end)
    if edit.t_end is None:
        return later.final
    return resume(backbone, source, edit.t_end, later.codes[-1]).final


def evaluations(network, draw):
    """How many pictures a network is run on while something is drawn."""
    seen = []
    hook = network.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    try:
        draw()
    finally:
        hook.remove()
    return sum(seen)


@pytest.mark.parametrize("window", [(0.6, 0.3), (1.0, 0.5), (0.5, 0.0), (1.0, 0.0)])
@pytest.mark.parametrize("rank", [8, None])
def test_the_whole_difference_is_prompt_switching_within_the_window(rank, window):
    edit = edited(rank=rank, start=window[0], end=window[1])
    assert torch.equal(edit.edited.final, switched(text_to_image(), walk(), edit))
    assert not torch.equal(edit.edited.final, walk().final)


def test_the_whole_difference_at_another_strength_is_scaled_guidance():
    half, full = (edited(rank=None, strength=c, **ONE_STEP) for c in (0.5, 1.0))
    steps = [each.edited.codes[1] - walk().at(each.t_end) for each in (half, full)]
    assert_close(steps[0], steps[1] / 2, rtol=1e-3, atol=1e-5)  # one step of DDIM is linear in the prediction


SCHEDULERS = (
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
    PNDMScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_strength_0_is_the_source_with_every_scheduler(scheduler):
    backbone = text_to_image().with_scheduler(scheduler)
    source = run(backbone, SOURCE, SEEDS, 10)
    edit = lsvd.edit(backbone, source, TARGET, method=LowRank(strength=0.0))
    assert torch.equal(edit.edited.final, source.final)
    assert not torch.equal(lsvd.edit(backbone, source, TARGET, method="low-rank").edited.final, source.final)


def test_noise_in_each_step_is_the_sources():
    backbone = text_to_image()
    source = run(backbone, SOURCE, SEEDS, eta=1.0)
    assert torch.equal(edited(source=source, strength=0.0).edited.final, source.final)


def test_rank_and_strength_lead_from_the_source_to_switching():
    whole = edited(rank=8).edited.final
    away = [(edited(rank=k).edited.final - whole).square().mean() for k in (1, 2, 4, 7)]
    assert away == sorted(away, reverse=True)
    moved = [(edited(strength=c).edited.final - walk().final).square().mean() for c in (0.0, 0.5, 1.0, 1.5)]
    assert moved == sorted(moved) and moved[0] == 0
    back = edited(strength=-1.0).edited.final - walk().final
    assert torch.cosine_similarity(back.flatten(), (edited().edited.final - walk().final).flatten(), dim=0) < -0.5


def test_a_request_and_a_trajectory_give_the_same():
    request = Settings.of(text_to_image(), SOURCE, SEEDS)
    for source in (request, walk()):
        assert torch.equal(guide(text_to_image(), source, TARGET).edited.final, edited().edited.final)
    by_name = lsvd.edit(text_to_image(), SOURCE, TARGET, seeds=SEEDS, method="low-rank", whole=True)
    assert torch.equal(by_name.edited.final, edited().edited.final) and torch.equal(by_name.source.final, walk().final)
    assert by_name.edited.settings == walk().settings


def test_the_window_is_where_the_edit_says():
    edit = edited(start=0.6, end=0.3)
    assert edit.edited.timesteps[0] == edit.t and torch.equal(edit.edited.codes[0], walk().at(edit.t))
    later = resume(text_to_image(), walk(), edit.t_end, edit.edited.at(edit.t_end))
    assert torch.equal(later.final, edit.edited.final)
    assert edited(end=0.0).t_end is None


def test_an_inverted_picture_is_edited():
    backbone = text_to_image()
    inverted = lsvd.invert(backbone, walk().final, SOURCE, guidance=3.0, steps=8)
    edit = lsvd.edit(backbone, inverted.trajectory, TARGET, method="low-rank")
    assert torch.equal(edit.edited.codes[0], inverted.trajectory.at(edit.t))
    assert not torch.equal(edit.edited.final, inverted.trajectory.final)


def test_pictures_do_not_depend_on_the_batch():
    together = edited(rank=2).edited.final
    for i, seed in enumerate(SEEDS):
        alone = lsvd.edit(text_to_image(), SOURCE, TARGET, seeds=seed, method=LowRank(2)).edited.final
        assert_close(alone[0], together[i], rtol=1e-4, atol=1e-5)


def test_each_picture_may_have_a_target():
    both = edited(target=(TARGET, "red hair")).edited.final
    assert_close(both[0], edited().edited.final[0], rtol=0, atol=1e-5)
    assert_close(both[1], edited(target="red hair").edited.final[1], rtol=0, atol=1e-5)


def test_several_targets_at_once():
    pair = {TARGET: 1.0, "red hair": 0.5}
    both = edited(target=pair)
    assert [strength for _, strength in both.targets] == [1.0, 0.5]
    assert torch.equal(edited(target={TARGET: 0.5, "red hair": 0.25}, strength=2.0).edited.final, both.edited.final)
    alone = edited().edited.final
    assert_close(edited(target={TARGET: 1.0, "red hair": 0.0}).edited.final, alone, rtol=0, atol=1e-6)
    assert not torch.allclose(both.edited.final, alone, atol=1e-3)
    edits = [edited(target=each, **ONE_STEP) for each in (TARGET, "red hair", pair)]
    shifts = [each.edited.codes[1] - walk().at(each.t_end) for each in edits]
    assert_close(shifts[2], shifts[0] + 0.5 * shifts[1], rtol=1e-3, atol=1e-5)


def test_channels_together_and_the_largest_entries():
    plain = edited().edited.final
    for other in ({"channels": "together"}, {"entries": 0.1}, {"rank": None, "entries": 0.1}):
        assert not torch.allclose(edited(**other).edited.final, plain, atol=1e-4)
    assert_close(edited(entries=1.0).edited.final, plain, rtol=0, atol=1e-6)
    assert torch.equal(edited(rank=8, channels="together").edited.final, edited(rank=None).edited.final)


def test_it_costs_at_most_a_quarter_more():
    backbone = text_to_image()
    network, count = backbone.pipe.unet, len(SEEDS)
    plain = evaluations(network, lambda: run(backbone, SOURCE, SEEDS, 25)) / count
    edit = (
        evaluations(network, lambda: lsvd.edit(backbone, SOURCE, TARGET, seeds=SEEDS, method="low-rank", steps=25))
        / count
    )
    window = len(LowRank().window(backbone.schedule(25)))
    assert plain == 50 and edit == plain + window and edit <= 1.25 * plain
    switch = LowRank(rank=None)  # the target takes the source's place
    assert (
        evaluations(network, lambda: lsvd.edit(backbone, SOURCE, TARGET, seeds=SEEDS, method=switch, steps=25)) == 100
    )


def test_it_is_one_batch_in_the_window_and_the_network_stays_as_it_was():
    pipe = tiny_pipeline()
    backbone, calls = backbones.from_pipeline(pipe, text_to_image().entry, WORDS), []
    network, scheduler = pipe.unet, pipe.scheduler
    network.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    edit = lsvd.edit(backbone, SOURCE, TARGET, seeds=SEEDS, method="low-rank")
    window = LowRank().window(backbone.schedule(8))
    assert calls == [6 if step in window else 4 for step in range(8)]
    assert pipe.unet is network and pipe.scheduler is scheduler and edit.edited.final.isfinite().all()


def test_negative_prompts_and_rescaled_guidance_go_along():
    backbone = text_to_image()
    source = run(backbone, SOURCE, SEEDS, negative_prompt="red hair", guidance_rescale=0.7)
    edit = lsvd.edit(backbone, source, TARGET, method=LowRank(rank=None))
    assert torch.equal(edit.edited.final, switched(backbone, source, edit))
    empty = run(backbone, "", SEEDS)  # the prompt that guidance goes away from
    edit = lsvd.edit(backbone, empty, TARGET, method=LowRank(rank=None))
    assert torch.equal(edit.edited.final, switched(backbone, empty, edit))


BAD = [
    ({"rank": 0}, "the rank cannot be 0"),
    ({"rank": 9}, "cannot add 9 triplets: choose a rank from 1 to 8"),
    ({"rank": 1.5}, "the rank cannot be 1.5"),
    ({"strength": float("nan")}, "not a strength"),
    ({"start": 0.3, "end": 0.6}, "the start above the end"),
    ({"start": 1.2}, "give fractions from 0 to 1"),
    ({"start": 0.56, "end": 0.55}, "holds no step of the schedule"),
    ({"channels": "mixed"}, "no arrangement of channels 'mixed'"),
    ({"entries": 0.0}, "cannot keep 0.0 of the entries"),
]


@pytest.mark.parametrize(("settings", "said"), BAD, ids=[json.dumps(each) for each, _ in BAD])
def test_bad_settings(settings, said):
    with pytest.raises(ValueError, match=said) as error:
        edited(**settings)
    assert "\n" not in str(error.value)


def test_bad_requests():
    backbone = text_to_image()
    for guidance in (1.0, 0.5):
        with pytest.raises(ValueError, match="has no guidance to edit"):
            lsvd.edit(backbone, SOURCE, TARGET, seeds=SEEDS, method="low-rank", guidance=guidance)
    for target in (SOURCE, {TARGET: 1.0, SOURCE: 1.0}):
        with pytest.raises(ValueError, match="nothing to edit"):
            lsvd.edit(backbone, SOURCE, target, seeds=SEEDS, method="low-rank")
    with pytest.raises(ValueError, match="give at least one, with its strength"):
        lsvd.edit(backbone, SOURCE, {}, seeds=SEEDS, method="low-rank")
    with pytest.raises(ValueError, match="a window instead of a placement"):
        lsvd.edit(backbone, SOURCE, TARGET, seeds=SEEDS, method="low-rank", placement=Placement(0.3))
    with pytest.raises(ValueError, match="are for method='low-rank'"):
        lsvd.edit(backbone, SOURCE, {TARGET: 1.0}, seeds=SEEDS)
    with pytest.raises(ValueError, match="there is no method 'lowrank'"):
        lsvd.edit(backbone, SOURCE, TARGET, seeds=SEEDS, method="lowrank")
    with pytest.raises(ValueError, match="takes no prompts"):
        lsvd.edit(unconditional(), SOURCE, TARGET, seeds=SEEDS, method="low-rank")
    with pytest.raises(ValueError, match="only a part of the source"):
        lsvd.edit(backbone, resume(backbone, walk(), walk().timesteps[2]), TARGET, method="low-rank")


def test_a_model_without_guidance_is_refused():
    backbone = backbones.from_pipeline(build("LatentConsistencyModelPipeline"))
    with pytest.raises(ValueError, match="a LatentConsistencyModelPipeline has no guidance"):
        lsvd.edit(backbone, SOURCE, TARGET, seeds=SEEDS, method="low-rank", steps=4)


def test_epsilon_and_v_predictions_alike():
    for kind in ("epsilon", "v_prediction"):
        backbone = text_to_image().with_scheduler(
            DDIMScheduler.from_config(text_to_image().scheduler.config, prediction_type=kind)
        )
        source = run(backbone, SOURCE, SEEDS)
        edit = lsvd.edit(backbone, source, TARGET, method=LowRank(rank=None))
        assert torch.equal(edit.edited.final, switched(backbone, source, edit))


def test_many_pictures_are_edited_in_chunks_that_fit_into_memory():
    limit = 2.01 * 3 * memory._work(text_to_image()) / memory.GB  # chunks of 2, and of 3 outside of the window
    edit = lsvd.edit(text_to_image(), SOURCE, TARGET, seeds=range(5), method=LowRank(), max_memory=limit)
    whole = lsvd.edit(text_to_image(), SOURCE, TARGET, seeds=range(5), method=LowRank())
    assert edit.edited.settings == whole.edited.settings and edit.edited.codes.shape == whole.edited.codes.shape
    assert_close(edit.edited.codes, whole.edited.codes, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="draw .* at a time"):
        lsvd.edit(text_to_image(), SOURCE, TARGET, seeds=range(5), method=LowRank(), max_memory=5e-5)
