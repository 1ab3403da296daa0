"""The estimates that two codes give are those that the sampler made."""

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from tiny import KINDS, text_to_image
from torch.testing import assert_close

from lsvd.sampling import predictions
from lsvd.sampling.trajectory import resume, run

# diffusers 0.42 still calls NumPy in ways that NumPy 2 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
PROMPTS = {"text-to-image": "a person", "unconditional": None}


def plain(kind):
    """A tiny model whose sampler does not clip x_0."""
    model = KINDS[kind]()
    return model.with_scheduler(DDIMScheduler.from_config(model.scheduler.config, clip_sample=False))


@pytest.fixture
def seen(monkeypatch):
    """What the sampler takes x_0 for at each of its steps."""
    estimates, step = [], DDIMScheduler.step

    def noting(self, *args, return_dict=True, **kwargs):
        output = step(self, *args, **kwargs)
        estimates.append(output.pred_original_sample)
        return output if return_dict else (output.prev_sample, output.pred_original_sample)

    monkeypatch.setattr(DDIMScheduler, "step", noting)
    return estimates


@pytest.mark.parametrize("kind", KINDS)
def test_estimates_are_the_samplers(kind, seen):
    model = plain(kind)
    run(model, PROMPTS[kind], (0, 1), steps=4)
    seen.clear()
    walk = run(model, PROMPTS[kind], (0, 1), steps=4)
    own = predictions.estimates(model, walk)
    assert own.shape == walk.codes[:-1].shape and own.dtype == torch.float64
    assert_close(own, torch.stack(seen[-4:]).double(), rtol=1e-4, atol=1e-4)


def test_differences_are_those_of_the_samplers_with_another_prompt(seen):
    model = text_to_image()
    walk = run(model, "a person", (0, 1), steps=4)
    own, estimates = (
        f(model, walk, *rest) for f, rest in ((predictions.differences, ["an old person"]), (predictions.estimates, []))
    )
    for i, t in enumerate(walk.timesteps):
        seen.clear()
        resume(model, walk, t, prompts="an old person")
        assert_close(own[i], seen[-(4 - i)].double() - estimates[i], rtol=1e-3, atol=1e-4)
    assert own.abs().amax() > 1e-3 and predictions.differences(model, walk, "a person").abs().max() < 1e-4


def test_a_code_holds_its_estimate_by_alpha():
    model = plain("unconditional")
    walk = run(model, None, (0,), steps=4)
    for t in walk.timesteps:
        expected = model.scheduler.alphas_cumprod[int(t)].sqrt()
        assert predictions.level(model, walk, t) == pytest.approx(float(expected))


def test_clipped_estimates_are_the_samplers(seen):
    model = KINDS["unconditional"]()
    model = model.with_scheduler(DDIMScheduler.from_config(model.scheduler.config, clip_sample=True))
    walk = run(model, None, (0, 1), steps=4)
    used = torch.stack(seen[-4:]).double()
    own = predictions.estimates(model, walk)
    assert_close(own, used, rtol=1e-4, atol=1e-4)
    assert own.abs().max() == 1 and (own.abs() < 1).any()
    with pytest.raises(ValueError, match="clipped estimates"):
        predictions.differences(model, walk, "a person")


def test_other_samplers_are_refused():
    model = plain("unconditional")
    with pytest.raises(ValueError, match="DDIM alone, with eta 0"):
        predictions.estimates(model, run(model, None, (0,), steps=4, eta=1.0))
    config = model.scheduler.config
    for other in (
        model.with_scheduler(EulerDiscreteScheduler),
        model.with_scheduler(DDIMScheduler.from_config(config, thresholding=True)),
    ):
        with pytest.raises(ValueError, match="no thresholding"):
            predictions.estimates(other, run(other, None, (0,), steps=4))
