"""Inversion finds trajectories that lead back: exactly with fixed points, nearly without."""

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler
from placing import place
from tiny import KINDS, text_to_image
from tiny_families import build
from torch.testing import assert_close

from lsvd import avi, backbones
from lsvd.sampling import inversion, trajectory
from lsvd.sampling.inversion import invert

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


def test_multistep_solvers_are_inverted_and_not_iterated():
    backbone = text_to_image().with_scheduler(DPMSolverMultistepScheduler)
    final = trajectory.run(backbone, "a person", [5], STEPS, 1.0).final
    found = invert(backbone, final, "a person", STEPS)
    assert found.residual.isnan().all() and found.trajectory.codes.isfinite().all()
    assert distance(back(backbone, found), final) < 0.5
    other = text_to_image().with_scheduler(UniPCMultistepScheduler)
    with pytest.raises(ValueError, match="UniPCMultistepScheduler has no inverse in diffusers: invert with DDIM"):
        invert(other, final, "a person", STEPS)


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
    whole = avi.edit_prompt(backbone, "a person", "an old person", [3, 4], **place(steps=6, whole=True, **settings))
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
