"""The estimate of x_0 from two codes in a row is the one that the scheduler itself steps by."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
)
from tiny import text_to_image, unconditional

from lsvd.sampling import estimates
from lsvd.sampling.trajectory import run

SHAPE = (1, 4, 8, 8)


def sampled(scheduler, steps=6):
    """Codes of a sampler whose model predicts noise at random, and its own estimates of x_0 where it gives them."""
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SHAPE, generator=generator) * float(getattr(scheduler, "init_noise_sigma", 1.0))
    codes, own = [x], []
    for t in scheduler.timesteps:
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, t)
        done = scheduler.step(torch.randn(SHAPE, generator=generator), t, x)
        own.append(getattr(done, "pred_original_sample", None))
        x = done.prev_sample
        codes.append(x)
    return codes, own


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_it_is_ddims_own(spacing, prediction):
    scheduler = DDIMScheduler(
        timestep_spacing=spacing, prediction_type=prediction, clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    codes, own = sampled(scheduler, 5)
    levels = estimates.Levels.of(scheduler)
    for step in range(4):
        found = levels.clean(step, codes[step], codes[step + 1])
        torch.testing.assert_close(found, own[step], rtol=1e-3, atol=1e-3 * float(own[step].abs().max()))


def test_it_is_that_of_euler_and_of_flow_matching():
    codes, own = sampled(EulerDiscreteScheduler())
    euler = EulerDiscreteScheduler()
    euler.set_timesteps(6)
    levels = estimates.Levels.of(euler)
    for step in range(5):
        found = levels.clean(step, codes[step], codes[step + 1])
        torch.testing.assert_close(found, own[step], rtol=1e-3, atol=1e-3)
    flow = FlowMatchEulerDiscreteScheduler()
    flow.set_timesteps(4)
    levels, x0, noise = estimates.Levels.of(flow), torch.randn(SHAPE), torch.randn(SHAPE)
    codes = [(1 - s) * x0 + s * noise for s in flow.sigmas]
    for step in range(4):
        torch.testing.assert_close(levels.clean(step, codes[step], codes[step + 1]), x0, rtol=1e-4, atol=1e-4)


def test_the_first_step_of_a_multistep_solver_is_one_of_first_order():
    scheduler = DPMSolverMultistepScheduler()
    scheduler.set_timesteps(5)
    levels = estimates.Levels.of(scheduler)
    noise, x0 = torch.randn(SHAPE), torch.randn(SHAPE)
    x = levels.alpha[0] * x0 + levels.sigma[0] * noise
    after = scheduler.step(noise, scheduler.timesteps[0], x.float()).prev_sample
    torch.testing.assert_close(levels.clean(0, x.float(), after), x0, rtol=1e-2, atol=2e-2)


@pytest.mark.parametrize("model", [text_to_image, unconditional])
def test_estimates_of_a_trajectory(model):
    backbone = model()
    prompts = "a person" if backbone.kind == "text-to-image" else None
    walk = run(backbone, prompts, [0, 1], steps=4)
    found = estimates.clean(backbone, walk)
    assert found.shape == (4, 2, *backbone.latent_shape) and found.isfinite().all()
    part = run(backbone, prompts, [0, 1], steps=4, until=walk.timesteps[2])
    assert torch.equal(estimates.clean(backbone, part), found[:2])
    assert len(estimates.clean(backbone, run(backbone, prompts, 0, steps=4, until=walk.timesteps[0]))) == 0


def test_schedulers_that_do_not_say_are_refused():
    backbone = text_to_image().with_scheduler(HeunDiscreteScheduler)
    with pytest.raises(ValueError, match="does not say how noisy"):
        estimates.clean(backbone, run(backbone, "a person", 0, steps=3))
