"""A code that is put into a trajectory is the one that goes on: with every scheduler of diffusers, at every whole step.

The model is exact: data are normal, so the best prediction of the noise (or the flow) is a multiple of the code.
"""

import diffusers
import pytest
import torch
from tiny import text_to_image

from benchmarks.schedulers import BASE, NAMES, STEPS, go_on, pair, row, scheduler
from lsvd.backbones.schedulers import Schedule, check_takes_codes, forget, prepare, remembers
from lsvd.sampling.trajectory import Settings, resume, run

FIRST_ORDER_AFTER = 0.1
"""How far from the other picture a solver of higher order may end, as a share of the distance of the two pictures: it
begins again at first order."""
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "SASolver"])
def test_what_goes_on_is_the_code_that_was_put_in(name):
    own, flow = scheduler(name), "Flow" in name
    schedule, noises = pair(own)
    a, b = (go_on(own, noise, flow) for noise in noises)
    apart = (a[-1] - b[-1]).norm()
    whole = schedule.whole.nonzero().flatten().tolist()
    assert len(whole) in (STEPS, STEPS + 1) and whole[0] == 0
    allowed = FIRST_ORDER_AFTER * apart if remembers(prepare(own, STEPS)) else 1e-6 * apart
    for step in whole[1:]:
        rest = go_on(own, b[step], flow, step)
        assert (rest[-1] - b[-1]).norm() <= allowed, f"put in at step {step} of {name}"


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("SASolver", "PNDM", "LMSDiscrete")])
def test_a_scheduler_in_use_forgets(name):
    """What AddAttributes does: the code is changed between two steps of a pipeline's loop."""
    own, flow = scheduler(name), "Flow" in name
    schedule, noises = pair(own)
    a, b = (go_on(own, noise, flow) for noise in noises)
    whole = schedule.whole.nonzero().flatten().tolist()
    for step in whole[1 :: len(whole) // 4]:

        def put_in(later, after, x, step=step):
            if after == step:
                forget(later)
                return b[step].clone()
            return x

        assert torch.equal(go_on(own, noises[0], flow, callback=put_in)[-1], go_on(own, b[step], flow, step)[-1])


def test_pndm_as_stable_diffusion_has_it():
    """Without Runge-Kutta steps its second timestep stands twice, the first time for a derivative only."""
    own = scheduler("PNDM", skip_prk_steps=True)
    schedule, noises = pair(own)
    assert len(schedule) == STEPS + 1 and (~schedule.whole).nonzero().flatten().tolist() == [1]
    a, b = (go_on(own, noise, False) for noise in noises)
    for step in schedule.whole.nonzero().flatten().tolist()[1:]:
        rest = go_on(own, b[step], False, step)
        assert (rest[-1] - b[-1]).norm() <= FIRST_ORDER_AFTER * (a[-1] - b[-1]).norm()


def test_the_table_says_what_each_does():
    assert row("HeunDiscrete") == {
        "scheduler": "HeunDiscreteScheduler",
        "timesteps": str(2 * STEPS - 1),
        "whole steps": str(STEPS),
        "remembers": "yes",
        "takes codes": "at whole steps",
        "off": "0.000",
    }
    assert row("SASolver")["takes codes"] == "refused" and row("DDIM")["remembers"] == "no"


def test_a_scheduler_that_cannot_is_refused():
    backbone = text_to_image().with_scheduler(diffusers.SASolverScheduler)
    walk = run(backbone, "a person", [1], 8)
    t = walk.timesteps[3]
    with pytest.raises(ValueError, match="SASolverScheduler corrects each code after the fact.*: take DPMSolver"):
        resume(backbone, walk, t, walk.at(t) * 1.1)
    with pytest.raises(ValueError, match="corrects each code"):
        resume(backbone, walk, t, prompts="an old person")
    check_takes_codes(BASE)
    assert torch.equal(resume(backbone, walk, t).final, walk.final)


@pytest.mark.parametrize("name", ["Heun", "KDPM2", "KDPM2Ancestral"])
def test_the_middle_of_a_step_takes_no_code(name):
    kind = getattr(diffusers, f"{name}{'' if name.startswith('KDPM2A') else ''}DiscreteScheduler")
    backbone = text_to_image().with_scheduler(kind)
    walk = run(backbone, "a person", [1], 6)
    whole = walk.schedule.whole
    assert whole.sum() == 6 and len(walk.codes) == len(walk.timesteps) + 1
    middles = set(walk.timesteps[~whole].tolist()) - set(walk.timesteps[whole].tolist())
    for t in middles:
        with pytest.raises(ValueError, match="the middle of a step of .*, which takes up no code there"):
            resume(backbone, walk, t)
    for t in walk.timesteps[whole].tolist():
        assert torch.equal(resume(backbone, walk, t).final, walk.final)
    assert all(walk.nearest(f) in walk.timesteps[whole] for f in (0.1, 0.33, 0.5, 0.72, 0.9))


@pytest.mark.parametrize(
    "scheduler", ["DDIM", "UniPCMultistep", "DPMSolverMultistep", "HeunDiscrete", "PNDM", "LMSDiscrete"]
)
def test_a_trajectory_takes_up_the_code_of_another(scheduler):
    """Through the package: the same as going on from the other's settings, whatever was there before."""
    backbone = text_to_image().with_scheduler(getattr(diffusers, f"{scheduler}Scheduler"))
    a, b = (run(backbone, "a person", [seed], 6) for seed in (1, 2))
    for t in a.timesteps[a.schedule.whole][1:].tolist():
        mixed = resume(backbone, a, t, b.at(t))
        assert torch.equal(mixed.codes, resume(backbone, b.settings, t, b.at(t)).codes)
        assert torch.equal(resume(backbone, mixed, t).codes, mixed.codes)


def test_places_go_by_noise_where_timesteps_do_not_count_from_T():
    euler = diffusers.EulerDiscreteScheduler.from_config(
        BASE.config, timestep_type="continuous", prediction_type="v_prediction"
    )
    plain = diffusers.EulerDiscreteScheduler.from_config(BASE.config)
    continuous, counted = (Schedule.of(prepare(each, STEPS)) for each in (euler, plain))
    assert continuous.timesteps.max() < 2 < counted.timesteps.max()
    for fraction in (0.0, 0.2, 0.5, 0.8, 1.0):
        steps = [each.step_of(each.nearest(fraction)) for each in (continuous, counted)]
        assert abs(steps[0] - steps[1]) <= 1
    with pytest.raises(ValueError, match="the timesteps of EDMEulerScheduler are not fractions of T"):
        Schedule.of(prepare(diffusers.EDMEulerScheduler(), STEPS)).nearest(0.5)


def test_a_request_for_some_pictures_and_other_prompts():
    backbone = text_to_image()
    settings = Settings.of(backbone, ["old", "young", "red"], [1, 2, 3], 4)
    assert settings.rows([2, 0]).prompts == ("red", "old") and settings.rows([2, 0]).seeds == (3, 1)
    assert settings.with_prompts(backbone, "a person").prompts == ("a person",) * 3
    with pytest.raises(ValueError, match="2 prompts for 3 seeds"):
        settings.with_prompts(backbone, ["a", "b"])
