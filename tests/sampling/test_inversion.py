"""Inversion finds trajectories that lead back: exactly with fixed points, nearly without."""

import diffusers
import pytest
import torch
from diffusers import (
    DDIMParallelScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    TCDScheduler,
    UniPCMultistepScheduler,
)
from placing import place
from tiny import KINDS, text_to_image, tiny_pipeline
from tiny_families import build
from torch.testing import assert_close

from benchmarks.schedulers import NAMES
from lsvd import avi, backbones
from lsvd.sampling import inversion, memory, trajectory
from lsvd.sampling.inversion import invert

pytestmark = pytest.mark.filterwarnings("ignore:.*inverted pictures do not lead back")

PROMPTS = {"text-to-image": "a person", "unconditional": None}
STEPS = 12


@pytest.fixture(params=KINDS)
def backbone(request):
    own = KINDS[request.param]()
    # a sampler that clips what it takes for the picture has no inverse
    return own.with_scheduler(DDIMScheduler.from_config(own.scheduler.config, clip_sample=False))


@pytest.fixture
def codes(backbone):
    """Codes that a sampler ends in, so that there is a trajectory to be found."""
    return trajectory.run(backbone, PROMPTS[backbone.kind], [5, 6, 7], STEPS, *guidance(backbone)).final


def guidance(backbone):
    return [1.0] if backbone.kind == "text-to-image" else []


def back(backbone, inversion):
    walk = inversion.trajectory
    return trajectory.resume(backbone, walk, walk.timesteps[0], walk.codes[0]).final


def distance(a, b):
    return ((a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).max().item()


def test_fixed_points_lead_back(backbone, codes):
    nearly = invert(backbone, codes, PROMPTS[backbone.kind], STEPS, iterations=0)
    exactly = invert(backbone, codes, PROMPTS[backbone.kind], STEPS, iterations=50, tolerance=1e-6)
    assert torch.equal(exactly.trajectory.final, codes) and exactly.residual.max() < 1e-5
    assert nearly.residual.isnan().all()
    assert distance(back(backbone, exactly), codes) < 1e-3
    assert distance(back(backbone, exactly), codes) < distance(back(backbone, nearly), codes)


def test_the_residual_is_that_of_each_step(backbone, codes):
    found = invert(backbone, codes, PROMPTS[backbone.kind], STEPS, iterations=3, tolerance=0)
    walk = found.trajectory
    for i in (0, 5, STEPS - 1):
        after = trajectory.resume(backbone, walk, walk.timesteps[i]).codes[1]
        assert distance(after, walk.codes[i + 1]) == pytest.approx(found.residual[i].max().item(), rel=1e-3, abs=1e-6)


def test_pictures_that_are_found_cost_no_more(backbone, codes, monkeypatch):
    asked, step = [], inversion._step

    def count(model, settings, i, x):
        asked.append(len(x))
        return step(model, settings, i, x)

    monkeypatch.setattr(inversion, "_step", count)
    settings = {"prompts": PROMPTS[backbone.kind], "steps": STEPS, "iterations": 50, "tolerance": 1e-6}
    codes[1] *= 100  # so large a code hardly depends on what the model says, and is found sooner
    together = invert(backbone, codes, **settings).trajectory
    evaluations = sum(asked)
    assert min(asked) < max(asked) == len(codes)
    asked.clear()
    for b in range(len(codes)):
        alone = invert(backbone, codes[b : b + 1], **settings).trajectory
        assert_close(alone.codes[:, 0], together.codes[:, b], rtol=1e-3, atol=1e-3 * codes[b].abs().max().item())
    assert sum(asked) == pytest.approx(evaluations, rel=0.05)


def test_the_trajectory_that_drew_them_is_found(backbone, codes):
    drawn = trajectory.run(backbone, PROMPTS[backbone.kind], [5, 6, 7], STEPS, *guidance(backbone))
    found = invert(backbone, codes, PROMPTS[backbone.kind], STEPS, iterations=50, tolerance=1e-6).trajectory
    assert distance(found.codes[-3], drawn.codes[-3]) < 1e-3


def test_mixing_solves_what_plain_iteration_flies_from():
    """b - A x = 0 with eigenvalues beyond 2: x + (b - A x) goes away from the solution, the mixed codes go to it."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(16, 16, generator=generator, dtype=torch.float64)).Q
    sizes = torch.tensor([0.4, 0.9, 2.5, 3.0], dtype=torch.float64).repeat(4)
    matrix, b = (turn * sizes) @ turn.T, torch.randn(2, 16, generator=generator, dtype=torch.float64)

    def missing(x):
        return (b - x.flatten(1) @ matrix.T).reshape(x.shape)

    plain = x = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    tried, moves = [], []
    for _ in range(8):
        tried, moves = [*tried, x], [*moves, missing(x)]
        plain = plain + missing(plain)
        x = inversion._mixed(torch.stack(tried), torch.stack(moves))
        alone = inversion._mixed(torch.stack(tried)[:, 1:], torch.stack(moves)[:, 1:])
        assert_close(alone[0], x[1])
    assert missing(x).norm() < 1e-6 * b.norm() and missing(plain).norm() > b.norm()
    assert_close(x.flatten(1), torch.linalg.solve(matrix, b.T).T, rtol=1e-5, atol=1e-5)


NOISY = "DDPM DDPMParallel EulerAncestralDiscrete KDPM2AncestralDiscrete LCM LTXEulerAncestralRF SASolver".split()


@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
@pytest.mark.parametrize("name", [name for name in NAMES if "Flow" not in name and "LTX" not in name])
def test_every_sampler_leads_back_or_is_refused(name):
    backbone = text_to_image().with_scheduler(getattr(diffusers, f"{name}Scheduler"))
    final = trajectory.run(backbone, "a person", [5, 6], 4, 1.0).final
    state = torch.get_rng_state()
    if name in NOISY:
        with pytest.raises(ValueError, match=f"{name}Scheduler adds noise on the way.*: invert by .*DDIMScheduler"):
            invert(backbone, final, "a person", 4)
    else:
        found = invert(backbone, final, "a person", 4)
        assert found.distance.max() < 1e-3 and torch.equal(found.trajectory.final, final)
        assert 0.5 < found.trajectory.codes[0].std() / found.trajectory.schedule.sigma < 2
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    "kind, config, eta",
    [
        (DDIMScheduler, {}, 1.0),
        (DDIMScheduler, {}, 0.1),
        (TCDScheduler, {}, 0.3),
        (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}, 0.0),
    ],
)
def test_noise_that_is_asked_for_is_refused(kind, config, eta):
    backbone = text_to_image()
    backbone = backbone.with_scheduler(kind.from_config(backbone.scheduler.config, **config))
    with pytest.raises(ValueError, match="adds noise on the way"):
        invert(backbone, backbone.noise([1]), "a person", 4, eta=eta)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("kind", [DDIMScheduler, DPMSolverMultistepScheduler])
def test_every_spacing(kind, spacing):
    config = text_to_image().scheduler.config
    backbone = text_to_image().with_scheduler(kind.from_config(config, timestep_spacing=spacing))
    final = trajectory.run(backbone, "a person", [5], STEPS, 1.0).final
    plain = invert(backbone, final, "a person", STEPS, iterations=0)
    assert invert(backbone, final, "a person", STEPS).distance < 1e-3 < plain.distance
    assert plain.distance < 0.3


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("sigmas", [{}, {"use_karras_sigmas": True}, {"final_sigmas_type": "sigma_min"}])
def test_the_inverse_of_dpm_solver_is_on_the_levels_of_the_sampler(spacing, sigmas):
    config = text_to_image().scheduler.config
    scheduler = DPMSolverMultistepScheduler.from_config(config, timestep_spacing=spacing, **sigmas)
    backbone = text_to_image().with_scheduler(scheduler)
    sampler = backbone.prepared(STEPS)
    settings = trajectory.Settings.of(backbone, "a person", [0], STEPS)
    inverse = inversion._inverse(backbone, settings)
    inverse.set_timesteps(STEPS)
    assert torch.equal(inverse.sigmas[1:], sampler.sigmas[:-1].flip(0)) and (inverse.sigmas.diff() > 0).all()
    assert torch.equal(inverse.timesteps[1:], sampler.timesteps[1:].flip(0)) and len(inverse.timesteps) == STEPS


@pytest.mark.parametrize(
    "kind", [DPMSolverMultistepScheduler, UniPCMultistepScheduler, FlowMatchEulerDiscreteScheduler]
)
def test_flow_matching_leads_back_by_every_solver(kind):
    flow = {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0) if "Flow" in kind.__name__ else kind(**flow)
    backbone = backbones.from_pipeline(build("SanaPipeline"), size=32).with_scheduler(scheduler)
    drawn = trajectory.run(backbone, "a person", [1, 2], 6, 1.0)
    found = invert(backbone, drawn.final, "a person", 6)
    assert found.distance.max() < 1e-3
    assert_close(back(backbone, found), drawn.final, rtol=1e-2, atol=1e-2)


def predicting(kind):
    """The tiny model of velocities, as one of the noise or of the clean code."""
    pipe = tiny_pipeline()
    levels, base = pipe.scheduler.alphas_cumprod, type(pipe.unet)

    def forward(self, sample, t, *args, **kwargs):
        velocity = base.forward(self, sample, t, *args, **kwargs)[0]
        a, s = levels[int(t)].sqrt(), (1 - levels[int(t)]).sqrt()
        return (a * velocity + s * sample if kind == "epsilon" else a * sample - s * velocity,)

    pipe.unet.__class__ = type(base.__name__, (base,), {"forward": forward})
    return backbones.from_pipeline(pipe, size=16)


@pytest.mark.parametrize("name", ["DDIM", "DPMSolverMultistep", "UniPCMultistep", "DEISMultistep"])
@pytest.mark.parametrize("kind", ["epsilon", "sample"])
def test_whatever_a_model_predicts_it_leads_back(kind, name):
    backbone = predicting(kind)
    scheduler = getattr(diffusers, f"{name}Scheduler").from_config(backbone.scheduler.config, prediction_type=kind)
    backbone = backbone.with_scheduler(scheduler)
    final = trajectory.run(text_to_image(), "a person", [5, 6], STEPS, 1.0).final
    assert invert(backbone, final, "a person", STEPS).distance.max() < 5e-3


def test_sweeps_go_on_while_they_help():
    assert inversion._goes_on([], 0.0, 1e-5) and not inversion._goes_on([1e-6], 0.1, 1e-5)
    falling, stuck = [0.9**i for i in range(10)], [0.5] * 10
    assert inversion._goes_on(stuck, 0.9, 1e-5) and inversion._goes_on(falling, 1.5, 1e-5)
    assert not inversion._goes_on(stuck, 1.5, 1e-5) and not inversion._goes_on(falling, inversion.EXTRA, 1e-5)
    assert not inversion._goes_on([0.1, 1e-3], 1.0, 1e-5)  # near enough


def test_inverting_keeps_to_the_memory_given(monkeypatch):
    backbone = text_to_image().with_scheduler(DPMSolverMultistepScheduler)
    final = trajectory.run(backbone, "a person", [5, 6, 7, 8], 4, 1.0).final
    whole = invert(backbone, final, "a person", 4)
    seen, denoise = [], type(backbone).denoise

    def counted(self, code, *args):
        seen.append(len(code))
        return denoise(self, code, *args)

    monkeypatch.setattr(type(backbone), "denoise", counted)
    little = 2.1 * memory.Limit.of(backbone).work * 2 / memory.GB
    parts = invert(backbone, final, "a person", 4, max_memory=little)
    assert max(seen) == 2 and parts.distance.shape == (4,)
    assert_close(parts.trajectory.codes, whole.trajectory.codes, rtol=1e-2, atol=1e-2)
    with pytest.raises(ValueError, match="4 pictures of .* codes each .*raise max_memory"):
        invert(backbone, final, "a person", 4, max_memory=1e-9)


def test_the_distance_is_that_of_drawing_again(backbone, codes):
    for iterations in (0, 1, 3):
        found = invert(backbone, codes, PROMPTS[backbone.kind], STEPS, iterations=iterations)
        off = (back(backbone, found) - codes).double().flatten(1).norm(dim=1) / codes.double().flatten(1).norm(dim=1)
        assert_close(found.distance, off)


def test_what_does_not_lead_back_says_so():
    backbone = text_to_image()
    clips = backbone.with_scheduler(DDIMScheduler.from_config(backbone.scheduler.config, clip_sample=True))
    final = 3 * backbone.noise([5, 6])
    with pytest.warns(UserWarning, match="2 of 2 .* do not lead back: DDIMScheduler.*: give the .* clip_sample=False"):
        invert(clips, final, "a person", 4)
    with pytest.warns(UserWarning, match="2 of 2 .* do not lead back: DDIMScheduler.*: raise iterations or steps"):
        invert(backbone, final, "a person", 4, iterations=0)
    damaged = backbones.from_pipeline(tiny_pipeline())
    with torch.no_grad():
        next(damaged.pipe.unet.parameters()).fill_(torch.nan)
    for kind in (DDIMScheduler, DPMSolverMultistepScheduler, HeunDiscreteScheduler):
        for iterations in (0, 3):
            with pytest.raises(ValueError, match="NaN"):
                invert(damaged.with_scheduler(kind), final, "a person", 4, iterations=iterations)


def test_advice_is_followed_without_clipping():
    backbone = text_to_image()
    keys = ("beta_start", "beta_end", "beta_schedule", "prediction_type")
    fresh = UniPCMultistepScheduler(**{key: backbone.scheduler.config[key] for key in keys})
    for kind in (DDIMScheduler, DDIMParallelScheduler, DDPMScheduler, LCMScheduler, TCDScheduler):
        advised = backbone.with_scheduler(fresh).with_scheduler(kind)
        assert not advised.scheduler.config.clip_sample
        assert all(advised.scheduler.config[key] == fresh.config[key] for key in keys)
    assert backbone.with_scheduler(DDIMScheduler(clip_sample=True)).scheduler.config.clip_sample


@pytest.mark.parametrize("name", ["StableDiffusionXLPipeline", "FluxPipeline", "ZImagePipeline"])
def test_samplers_without_an_inverse_scheduler(name):
    backbone = backbones.from_pipeline(build(name), size=16)
    final = trajectory.run(backbone, "a person", [5, 6], 6, 1.0).final
    found = invert(backbone, final, "a person", 6, iterations=60, tolerance=1e-6)
    assert found.residual.max() < 1e-4
    assert_close(back(backbone, found), final, rtol=1e-2, atol=1e-2)


def test_an_inverted_picture_is_edited():
    backbone = text_to_image()
    pictures = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    walk = invert(backbone, backbone.encode(pictures), "a person", STEPS).trajectory
    edit = avi.edit_prompt(backbone, walk, "an old person", **place(tx=0.5, dtau=0, branch=1.0))
    assert edit.source is walk and torch.equal(edit.target.codes[0], walk.codes[0])
    assert edit.target.settings.prompts == ("an old person",) * 2 and edit.edited.final.isfinite().all()
    assert not torch.equal(edit.edited.final, walk.final)
    with pytest.raises(ValueError, match="only a part of the source"):
        avi.edit_prompt(backbone, trajectory.resume(backbone, walk, walk.timesteps[2]), "an old person")
    with pytest.raises(ValueError, match="nothing to edit"):
        avi.edit_prompt(backbone, walk, "a person")


def test_a_drawn_trajectory_is_edited_as_its_prompt_is():
    backbone = text_to_image()
    settings = {"tx": 0.5, "dtau": 0, "branch": 1.0}
    whole = avi.edit_prompt(
        backbone, "a person", "an old person", seeds=[3, 4], **place(steps=6, whole=True, **settings)
    )
    again = avi.edit_prompt(backbone, whole.source, "an old person", **place(**settings))
    assert torch.equal(again.edited.codes, whole.edited.codes)


def test_bad_input(backbone, codes):
    with pytest.raises(ValueError, match="cannot iterate -1 times"):
        invert(backbone, codes, PROMPTS[backbone.kind], STEPS, iterations=-1)
    with pytest.raises(ValueError, match="NaN|not finite|infin"):
        invert(backbone, codes * torch.nan, PROMPTS[backbone.kind], STEPS)
    with pytest.raises(ValueError, match="takes codes of shape"):
        invert(backbone, codes[:, :1], PROMPTS[backbone.kind], STEPS)


def test_no_guidance_unless_asked():
    for name, off in (("StableDiffusionPipeline", 1.0), ("ZImagePipeline", 0.0)):
        backbone = backbones.from_pipeline(build(name), size=16)
        found = invert(backbone, backbone.noise([1]), "a person", 2, iterations=0)
        assert found.trajectory.settings.guidance == off


def test_a_scheduler_of_another_noise_scale():
    backbone = text_to_image().with_scheduler(EulerDiscreteScheduler)
    final = trajectory.run(backbone, "a person", [5], 6, 1.0).final
    found = invert(backbone, final, "a person", 6, iterations=60, tolerance=1e-6)
    assert found.residual.max() < 1e-4 and found.trajectory.codes[0].std() > 3
