"""The study of predictions: planted estimates, and tiny models from end to end."""

import math
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler
from tiny import KINDS
from torch.testing import assert_close
from untrained import untrained

from lsvd.sampling.predictions import estimates
from lsvd.sampling.trajectory import resume, run
from lsvd.statistics.intervals import Interval
from lsvd.statistics.verdicts import HOLDS, IN_PART, NOT, UNDECIDED
from lsvd.studies import parts, predictions, survey
from lsvd.studies.parts import Parts
from lsvd.studies.predictions import TRIPLETS, Difference, Result, Settling

# diffusers 0.42 still calls NumPy in ways that NumPy 2 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
TIMES = torch.arange(900, -1, -100)


def plain(kind):
    """A tiny model whose sampler does not clip x_0."""
    model = KINDS[kind]()
    return model.with_scheduler(DDIMScheduler.from_config(model.scheduler.config, clip_sample=False))


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(estimate=0.2, code=0.5, other=0.6, first=True, ranks=1, B=16):
    """Settling at these distances; triplets settle one after the other, the first first or last."""
    away = (level + 0.02 * noise(len(TIMES), B, seed=i) for i, level in enumerate((estimate, code, other)))
    order_of = torch.arange(TRIPLETS) if first else torch.arange(TRIPLETS).flip(0)
    there = (torch.arange(len(TIMES))[:, None] >= order_of).double()[:, None].repeat(1, B, 1)
    there[5, : B // 2, 2] = 0.2  # half of the pictures lose the third once more
    moving = (places + 0.1 * noise(B, seed=i) for i, places in enumerate((3, 8, ranks)))
    return Settling(TIMES, 1000, 11, *away, there, torch.ones_like(there), *moving)


def result(differences=None, brought=None, **changes):
    parts = {} if brought is None else {"mini-sd": brought}
    spectrum = torch.tensor([0.2, 0.1])
    return Result({"mini-sd": planted(**changes)}, {}, differences or {}, parts, spectrum, Interval(0.9, 0.9, 0.9))


def said(own):
    return {claim.claim: claim.verdict for claim in predictions.verdicts(own)}


def test_a_triplet_has_settled_from_where_it_stays():
    times = planted().settled(planted().parts)
    assert times.shape == (16, TRIPLETS)
    assert times[-1].tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    assert times[0, 2] == pytest.approx(0.3) and (times[:8, 2] == times[0, 2]).all()
    for other in (planted().parts * 0.4, planted().parts * 1.6):  # too little, and too much
        assert not planted().settled(other).any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, (HOLDS, HOLDS, HOLDS)),
        ({"code": 0.1}, (NOT, HOLDS, HOLDS)),
        ({"other": 0.2}, (HOLDS, NOT, HOLDS)),
        ({"other": 0.21}, (HOLDS, UNDECIDED, HOLDS)),
        ({"first": False}, (HOLDS, HOLDS, NOT)),
    ],
)
def test_settling_is_judged(changes, words):
    found = said(result(**changes))
    claims = ("x̂_0 lies nearer to its end than x_t", "x̂_0 lies nearer to its end than another picture's")
    assert tuple(found[claim] for claim in (*claims, "first triplets of x̂_0 settle first")) == words
    assert found["ranks in x̂_0 move by more than a place"] == HOLDS
    assert said(result(ranks=4))["ranks in x̂_0 move by more than a place"] == IN_PART  # x_t's move further


def test_differences_are_judged_beside_noise_paraphrases_and_chance():
    def moved(share, time, seeds):
        spectrum = torch.stack([share + 0.02 * noise(10, 16), 1 - share + 0 * noise(10, 16)], -1)
        return Difference(spectrum, time + 0.02 * noise(9, 16), seeds + 0.02 * noise(10, 16, seed=1))

    alike, plain = moved(0.7, 0.3, 0.9), moved(0.4, 0.5, 0.9)
    by_prompt = dict.fromkeys(predictions.TARGETS, alike) | dict.fromkeys(predictions.PARAPHRASES, plain)
    found = said(result({"mini-sd": by_prompt}))
    for null in ("noise's", "a paraphrase's"):
        assert found[f"d_t's first triplet holds more than {null}"] == HOLDS
    assert found["d_t's first triplet is alike across timesteps"] == HOLDS
    assert found["d_t's first triplet is alike across seeds"] != HOLDS


def test_distances_count_by_the_pairs_of_timesteps():
    apart = torch.tensor([[0.1, 0.1], [0.4, 0.1]])  # two pairs of neighbours, one pair two steps apart
    own = Difference(torch.ones(3, 2, 1), apart, torch.zeros(3, 2))
    assert_close(own.across_time, torch.tensor([0.2, 0.1]))


@pytest.mark.parametrize(
    ("first", "small", "side", "words"),
    [
        (0.8, 0.4, 0.02, (HOLDS, HOLDS, HOLDS)),
        (0.7, 0.8, 0.1, (HOLDS, NOT, NOT)),
        (0.01, 0.01, 0.1, (NOT, UNDECIDED, NOT)),
    ],
)
def test_parts_are_judged_beside_random_directions_and_the_others(first, small, side, words):
    rises = torch.tensor([0.9, first, 0.3, small, 0.05])[:, None, None] + 0.02 * noise(5, 2, 16)
    sides = torch.tensor([0.08, side, 0.06, 0.03, 0.01])[:, None, None] + 0.002 * noise(5, 2, 16, seed=1)
    had = torch.zeros(2, 16, dtype=torch.bool)
    had[0, 3] = True
    before = 0.02 * noise(2, 16, seed=2)
    found = said(result(brought=Parts(had, before, before + rises, sides.clamp(0, 1))))
    claims = ("brings the attribute in", "brings in more than all of d_t made as small", "moves all else less")
    assert tuple(next(word for claim, word in found.items() if part in claim) for part in claims) == words


def test_the_share_of_a_part_counts_what_lacked_the_attribute():
    had = torch.tensor([[False, False, True, False]])
    after = torch.tensor([0.8, 0.4, 0.2, 0.2, 0.0])[:, None, None].repeat(1, 1, 4)
    after[1, 0, 2] = 1.0
    own = Parts(had, torch.zeros(1, 4), after, torch.zeros(5, 1, 4))
    assert own.share(parts.FIRST).value == pytest.approx(0.5) and own.share(parts.FIRST).n == 3
    assert own.means()[parts.ALL][0].value == pytest.approx(0.8)
    assert math.isnan(replace(own, after=torch.zeros(5, 1, 4)).share(parts.FIRST).value)


def test_parts_add_up_and_have_one_norm():
    model = plain("text-to-image")
    walk = run(model, "a person", (0, 1), steps=4)
    t, d = walk.timesteps[1], noise(*walk.codes.shape[1:])
    taken = {name: take(walk, t, d) for name, take in parts.TAKEN.items()}
    assert tuple(taken) == parts.PARTS and taken[parts.ALL].equal(d)
    assert_close(taken[parts.FIRST] + taken[parts.REST], d)
    norms = {name: torch.linalg.matrix_norm(part) for name, part in taken.items()}
    assert_close(norms[parts.FIRST], torch.linalg.svdvals(d)[..., 0])
    for other in (parts.SMALL, parts.RANDOM):
        assert_close(norms[other], norms[parts.FIRST])
    assert (torch.linalg.matrix_rank(taken[parts.RANDOM], atol=1e-6) == 1).all()


def test_all_of_the_difference_is_the_other_prompt_within_the_window(monkeypatch):
    model = plain("text-to-image")
    monkeypatch.setattr(parts, "WINDOW", (0.75, 0.25))
    walk = run(model, "a person", (0, 1), steps=4)
    first, last = (walk.nearest(fraction) for fraction in parts.WINDOW)
    switched = resume(model, walk, first, prompts="an old person", until=last)
    expected = resume(model, walk.settings, last, switched.codes[-1]).final
    assert_close(parts.edited(model, walk, "an old person", parts.ALL), expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(parts.edited(model, walk, "an old person", parts.FIRST), expected, atol=1e-3)


def test_what_is_there_of_the_final_triplets():
    final = noise(2, 3, 12, 10)
    assert_close(predictions._present(final[None], final), torch.ones(1, 2, TRIPLETS, dtype=torch.float64))
    assert_close(predictions._present(0.25 * final[None], final), torch.full((1, 2, TRIPLETS), 0.25).double())
    assert predictions._present(final.flip(0)[None], final).abs().max() < 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_the_study_of_a_model(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("LSVD_MEASUREMENTS", str(tmp_path))
    plan = survey.Plan(steps=4, times=(0.75, 0.25), bands=((0,), (1, 2)))
    monkeypatch.setattr(predictions, "PLAN", plan)
    monkeypatch.setattr(predictions, "K", 3)
    monkeypatch.setattr(predictions, "SEEDS", range(3))
    monkeypatch.setattr(parts, "SEEDS", range(3))
    monkeypatch.setattr(parts, "TARGETS", ("blue",))
    monkeypatch.setattr(parts, "ATTRIBUTES", {"blue": {"hue": "blue"}})
    monkeypatch.setattr(parts, "target_prompt", lambda wanted: "an old person")
    model, prompted = plain(kind), kind == "text-to-image"
    own = predictions.measure({"mine": model}, {"mine": untrained()}, seeds=range(4))
    steps = model.entry.steps
    settled = own.settling["mine"]
    assert settled.estimate.shape == (steps, 4) and settled.parts.shape == (steps, 4, TRIPLETS)
    assert (list(own.differences) == ["mine"]) == (list(own.parts) == ["mine"]) == prompted
    answered = own.answers["mine"]
    assert [part.moved.shape[:2] for part in answered] == [(2, 3)] * 2
    rows = predictions.rows(own)
    assert {row["backbone"] for row in rows} == {"mine"} and all(math.isfinite(float(row["value"])) for row in rows)
    for module, name in ((predictions, "responses"), (predictions, "settling"), (predictions, "difference")):
        monkeypatch.setattr(module, name, None)  # what was measured is read
    monkeypatch.setattr(parts, "_measure", None)
    again = predictions.measure({"mine": model}, {"mine": untrained()}, seeds=range(4))
    assert predictions.rows(again) == rows


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_is_measured_again_and_shown(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("LSVD_MEASUREMENTS", str(tmp_path))
    monkeypatch.setattr(predictions, "K", 3)
    model = plain(kind)
    kept = predictions.settling_of(model, "a person", range(4))
    assert predictions.disagreement(model, "a person", kept, range(2)) < 0.05
    assert predictions.disagreement(model, "a person", replace(kept, estimate=kept.estimate + 0.1), range(2)) > 0.05
    prompt = "an old person" if kind == "text-to-image" else None
    walk = run(model, prompt and "a person", (0, 1))
    shown = predictions.pictures(model, walk, (0.75, 0.25), prompt)
    assert shown.shape[:3] == (4 if prompt else 2, 2, 3) and shown.min() >= 0 and shown.max() <= 1


def test_the_noise_of_a_scaled_estimate_stays():
    """Scaling x̂_0 as a whole by a factor moves the code along x̂_0 alone."""
    model = plain("unconditional")
    walk = run(model, None, (0, 1), steps=4)
    t = walk.timesteps[1]
    x, alpha = estimates(model, walk)[1], predictions.level(model, walk, t)
    bands = (tuple(range(min(x.shape[-2:]))),)
    scaled, _ = predictions.scale_bands(walk, t, bands, 1.5, x)
    assert_close(walk.at(t) + alpha * (scaled[0] - x), walk.at(t) + 0.5 * alpha * x)
