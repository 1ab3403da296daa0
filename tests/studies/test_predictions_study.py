"""The study of predictions: planted estimates, and tiny models from end to end."""

import math

import pytest
import torch
from diffusers import DDIMScheduler
from tiny import KINDS
from torch.testing import assert_close
from untrained import untrained

from lsvd.sampling.predictions import estimates
from lsvd.sampling.trajectory import run
from lsvd.statistics.intervals import Interval
from lsvd.statistics.verdicts import HOLDS, NOT, UNDECIDED
from lsvd.studies import order, predictions, survey
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


def planted(estimate=0.2, code=0.5, other=0.6, first=True, B=16):
    """Settling at these distances; triplets settle one after the other, the first first or last."""
    away = (level + 0.02 * noise(len(TIMES), B, seed=i) for i, level in enumerate((estimate, code, other)))
    order_of = torch.arange(TRIPLETS) if first else torch.arange(TRIPLETS).flip(0)
    parts = (torch.arange(len(TIMES))[:, None] >= order_of).double()[:, None].repeat(1, B, 1)
    parts[5, : B // 2, 2] = 0.2  # half of the pictures lose the third once more
    moving = order.mobility_of(noise(10, B, 1, 12, 12), TIMES, 5)
    return Settling(TIMES, 1000, *away, parts, torch.ones_like(parts), moving)


def result(**changes):
    return Result({"mini-sd": planted(**changes)}, {}, {}, Interval(0.2, 0.2, 0.2), Interval(0.9, 0.9, 0.9))


def said(own):
    return {claim.claim: claim.verdict for claim in predictions.verdicts(own)}


def test_a_triplet_has_settled_from_where_it_stays():
    times = planted().settled(planted().parts)
    assert times.shape == (16, TRIPLETS)
    assert times[-1].tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    assert times[0, 2] == pytest.approx(0.3) and (times[:8, 2] == times[0, 2]).all()
    never = planted().parts * 0.4
    assert not planted().settled(never).any()


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
    assert found["ranks in x̂_0 move by more than a place"] == HOLDS  # of noise


def test_differences_are_judged_beside_paraphrases_and_chance():
    def moved(share, time, seeds):
        return Difference(share + 0.02 * noise(10, 16), time + 0.02 * noise(16), seeds + 0.02 * noise(16, seed=1))

    alike, plain = moved(0.7, 0.3, 0.9), moved(0.4, 0.5, 0.9)
    parts = dict.fromkeys(predictions.TARGETS, alike) | dict.fromkeys(predictions.PARAPHRASES, plain)
    own = result()
    found = said(Result(own.settling, {}, {"mini-sd": parts}, own.noise, own.chance))
    assert found["d_t's first triplet holds more than a paraphrase's"] == HOLDS
    assert found["d_t's first triplet is alike across timesteps"] == HOLDS
    assert found["d_t's first triplet is alike across seeds"] != HOLDS


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
    monkeypatch.setattr(predictions.answers, "__defaults__", (range(3),))
    model = plain(kind)
    own = predictions.measure({"mine": model}, {"mine": untrained()}, seeds=range(4))
    steps = model.entry.steps
    settled = own.settling["mine"]
    assert settled.estimate.shape == (steps, 4) and settled.parts.shape == (steps, 4, TRIPLETS)
    assert (list(own.differences) == ["mine"]) == (kind == "text-to-image")
    answered = own.answers["mine"]
    assert [part.moved.shape[:2] for part in answered] == [(2, 3)] * 2
    rows = predictions.rows(own)
    assert {row["backbone"] for row in rows} == {"mine"} and all(math.isfinite(float(row["value"])) for row in rows)
    monkeypatch.setattr(predictions, "responses", None)  # what was measured is read
    again = predictions.answers(model, untrained())
    assert all(torch.equal(a.null.nan_to_num(), b.null.nan_to_num()) for a, b in zip(answered, again, strict=True))


def test_the_noise_of_a_scaled_estimate_stays():
    """Scaling x̂_0 as a whole by a factor moves the code along x̂_0 alone."""
    model = plain("unconditional")
    walk = run(model, None, (0, 1), steps=4)
    t = walk.timesteps[1]
    x, alpha = estimates(model, walk)[1], predictions.level(model, walk, t)
    bands = (tuple(range(min(x.shape[-2:]))),)
    scaled, _ = predictions.scale_bands(walk, t, bands, 1.5, x)
    assert_close(walk.at(t) + alpha * (scaled[0] - x), walk.at(t) + 0.5 * alpha * x)
