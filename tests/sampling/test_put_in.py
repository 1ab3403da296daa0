"""A code that is put into a trajectory is the one that goes on: with every scheduler of diffusers, at every whole step.

The model is exact: data are normal, so the best prediction of the noise (or the flow) is a multiple of the code.
"""

import diffusers
import pytest
import torch
from tiny import text_to_image

from lsvd.backbones.schedulers import Schedule, accepts, check_takes_codes, forget, prepare, remembers, starting_at
from lsvd.sampling.trajectory import Settings, resume, run

VARIANCE, STEPS = 0.3, 20
BASE = diffusers.DDIMScheduler(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
)
LEVELS = BASE.alphas_cumprod
# of other data than codes, of other loops than a pipeline's, or in need of packages that are not required
OTHERS = """Amused BlockRefinement CogVideoXDPM CosineDPMSolverMultistep DDPMWuerstchen DPMSolverSDE DiscreteDDIM
EntropyBound HeliosDMD Helios KarrasVe MiniMaxH3 Piflow RFD4Proteina RePaint SCM ScoreSdeVe UnCLIP VQDiffusion
CMStochasticIterative DPMSolverMultistepInverse DDIMInverse EDMDPMSolverMultistep EDMEuler""".split()
NAMES = sorted(
    name.removesuffix("Scheduler")
    for name in dir(diffusers)
    if name.endswith("Scheduler") and isinstance(getattr(diffusers, name), type) and not name.startswith("Flax")
)
NAMES = [name for name in NAMES if name not in OTHERS]
FIRST_ORDER_AFTER = 0.1
"""How far from the other picture a solver of higher order may end, as a share of the distance of the two pictures: it
begins again at first order."""
pytestmark = pytest.mark.filterwarnings("ignore")


def scheduler(name, **config):
    kind = getattr(diffusers, f"{name}Scheduler")
    return kind(**config) if "Flow" in name else kind.from_config(BASE.config, **config)


def predicted(x, t, flow):
    """The best prediction for data of VARIANCE: of the noise, or of the flow."""
    if flow:
        s = float(t) / 1000
        return (s - (1 - s) * VARIANCE) / ((1 - s) ** 2 * VARIANCE + s**2) * x
    low = int(min(max(float(t), 0), 999))
    high = min(low + 1, 999)
    level = LEVELS[low] + (LEVELS[high] - LEVELS[low]) * (float(t) - low)
    return (1 - level) ** 0.5 / (level * VARIANCE + 1 - level) * x


def go_on(own, x, flow, first=0, callback=None, steps=STEPS):
    """The codes from x at step `first` to the end, as a pipeline's loop makes them."""
    later = starting_at(own, first)
    later.set_timesteps(steps)
    codes = [x]
    for i, t in enumerate(later.timesteps):
        noise = {"generator": torch.Generator().manual_seed(first + i)} if accepts(later.step, "generator") else {}
        x = later.step(predicted(later.scale_model_input(x, t), t, flow), t, x, **noise).prev_sample
        x = callback(later, first + i + 1, x) if callback else x
        codes.append(x)
    return codes


def pair(own):
    schedule = Schedule.of(prepare(own, STEPS))
    g = torch.Generator().manual_seed(0)
    return schedule, [torch.randn(1, 4, 8, 8, generator=g) * schedule.sigma for _ in range(2)]


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
