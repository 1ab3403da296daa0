"""The exact solution of Attribute Vector Integration: optimal, blind to signs, code by code; and the edit around it."""

import dataclasses
import inspect

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from placing import place
from tiny import text_to_image, unconditional
from torch.testing import assert_close

from lsvd import avi
from lsvd.avi import edit as editing
from lsvd.avi import exact, losses, placement
from lsvd.avi.baselines import swap
from lsvd.avi.edit import edit_prompt
from lsvd.avi.exact import AVIConfig, integrate, solve
from lsvd.avi.losses import Lambdas
from lsvd.decomposition.svd import ChannelSVD, svd
from lsvd.sampling.trajectory import Settings, resume, run

quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)
weights = st.floats(0.01, 3.0)
bases = st.sampled_from(["both", "complement"])


def codes(seed, shape=(2, 3, 8, 8), count=2):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def loss(solution, x, z, lambdas, a=None, b=None):
    a, b = solution.a if a is None else a, solution.b if b is None else b
    y = integrate(a, b, solution.x, solution.z, solution.rest)
    return losses.total(y, x, z, a, b, solution.x.S, solution.z.S, lambdas)


def in_basis(basis, k_z, k_x=None, **others):
    return AVIConfig(k_x if basis == "both" else None, k_z, basis=basis, **others)


@quick
@given(seeds, bases, st.integers(0, 8), st.integers(1, 8), st.booleans(), st.tuples(weights, weights, weights, weights))
def test_the_gradient_vanishes_at_the_solution(seed, basis, k_x, k_z, keep_rest, w):
    x, z = codes(seed)
    config = in_basis(basis, k_z, k_x, keep_rest=keep_rest, lambdas=Lambdas(*w))
    solution = solve(x, z, config)
    a, b = solution.a.clone().requires_grad_(), solution.b.clone().requires_grad_()
    value = loss(solution, x, z, config.lambdas, a, b).sum()
    for gradient in torch.autograd.grad(value, [a, b]):
        assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-9)


@pytest.mark.parametrize("lambdas", [Lambdas(), Lambdas(1, 0, 0, 0), Lambdas(0.5, 2, 0, 0.3), Lambdas(1, 1, 1, 1)])
@pytest.mark.parametrize("keep_rest", [True, False])
@pytest.mark.parametrize("basis", ["both", "complement"])
def test_it_agrees_with_lbfgs(basis, lambdas, keep_rest):
    x, z = codes(0)
    solution = solve(x, z, in_basis(basis, 3, 4, keep_rest=keep_rest, lambdas=lambdas))
    a, b = torch.zeros_like(solution.a).requires_grad_(), torch.zeros_like(solution.b).requires_grad_()
    optimiser = torch.optim.LBFGS(
        [a, b], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        value = loss(solution, x, z, lambdas, a, b).sum()
        value.backward()
        return value

    optimiser.step(closure)
    found = loss(solution, x, z, lambdas, a.detach(), b.detach())
    assert_close(loss(solution, x, z, lambdas), found, rtol=1e-6, atol=0)
    assert_close(
        integrate(a.detach(), b.detach(), solution.x, solution.z, solution.rest), solution.y, rtol=0, atol=1e-4
    )


@quick
@given(seeds, bases, st.booleans(), st.tuples(weights, weights, weights, weights))
def test_the_quadratic_form_is_the_loss(seed, basis, keep_rest, w):
    x, z = codes(seed)
    config = in_basis(basis, 3, 4, keep_rest=keep_rest, lambdas=Lambdas(*w))
    parts = exact.choose(x, z, config)
    system, right, offset = exact.quadratic(parts, config.lambdas)
    S = 5 * codes(seed, parts.sigma.shape, 1)[0]
    value = ((system @ S.unsqueeze(-1)).squeeze(-1) * S - 2 * right * S).sum(-1) + offset
    solution = exact.assemble(S, parts, x)
    assert torch.equal(solution.y, integrate(solution.a, solution.b, parts.x, parts.z, parts.rest))
    assert_close(value.sum(-1), loss(solution, x, z, config.lambdas))


@quick
@given(seeds, weights, weights, st.booleans())
def test_at_full_rank_without_spectrum_losses_it_is_linear_interpolation(seed, target, source, keep_rest):
    x, z = codes(seed)
    y = solve(x, z, AVIConfig(8, 8, keep_rest, Lambdas(target, source, 0, 0))).y
    assert_close(y, (target * z + source * x) / (target + source), rtol=0, atol=1e-7)


def test_the_target_alone_is_prompt_switching_and_the_source_alone_nothing():
    x, z = codes(1)
    assert_close(solve(x, z, AVIConfig(0, 8, False, Lambdas(1, 0, 0, 0))).y, z)
    for keep_rest, k in ((True, 3), (False, 8)):
        assert_close(solve(x, z, AVIConfig(k, 3, keep_rest, Lambdas(0, 1, 0, 0))).y, x)


@pytest.mark.parametrize("basis", ["both", "complement"])
def test_own_singular_values_give_the_code_back(basis):
    x, z = codes(2)
    for k_z in (0, 2, 8):
        solution = solve(x, z, in_basis(basis, k_z, 5))
        nothing = torch.zeros_like(solution.b)
        assert_close(integrate(solution.x.S, nothing, solution.x, solution.z, solution.rest), x)


def test_the_bases_are_what_they_say():
    x, z = codes(2)
    S_x, S_z = svd(x).S, svd(z).S
    both = solve(x, z, AVIConfig(2, 3))
    assert_close(both.x.S, S_x[..., :2])
    assert_close(both.z.S, S_z[..., :3])
    assert_close(both.rest, x - svd(x).truncate(2).recompose())
    complement = solve(x, z, AVIConfig(k_z=3, basis="complement"))
    assert_close(complement.x.S, S_x[..., 3:])
    assert_close(complement.z.S, S_z[..., :3])
    assert_close(complement.rest, svd(x).truncate(3).recompose())
    assert complement.a.shape == (2, 3, 5) and complement.b.shape == (2, 3, 3)
    assert solve(x, z, AVIConfig(k_z=3, keep_rest=False, basis="complement")).rest.eq(0).all()
    assert torch.equal(solve(x, z, AVIConfig(5, 3, basis="complement")).y, complement.y)
    assert torch.equal(solve(x, z, AVIConfig(k_z=3)).y, solve(x, z, AVIConfig(3, 3)).y)


def test_the_spectra_alone_swap_the_leading_triplets():
    x, z = codes(2)
    config = AVIConfig(k_z=3, keep_rest=False, lambdas=Lambdas(0, 0, 1, 1), basis="complement")
    assert_close(solve(x, z, config).y, swap(x, z, 3))


def test_equal_codes_stay():
    (x,) = codes(3, count=1)
    for lambdas in (Lambdas(1, 1, 0, 0), Lambdas(1, 0, 0, 0)):
        assert_close(solve(x, x.clone(), AVIConfig(4, 4, True, lambdas)).y, x)


@pytest.mark.parametrize("basis", ["both", "complement"])
def test_signs_do_not_matter(monkeypatch, basis):
    x, z = codes(4)
    config = AVIConfig(k_z=6, basis=basis)
    before = solve(x, z, config)

    def flipped(code):
        f = svd(code)
        sign = torch.where(torch.arange(f.rank) % 3 == 0, -1.0, 1.0).double()
        return ChannelSVD(f.U * sign, f.S, f.Vh * sign[:, None], f.dtype)

    monkeypatch.setattr(exact, "svd", flipped)
    after = solve(x, z, config)
    assert not torch.equal(before.x.U, after.x.U)
    for name in ("y", "a", "b"):
        assert_close(getattr(before, name), getattr(after, name))


@pytest.mark.parametrize("basis", ["both", "complement"])
def test_a_batch_is_its_members(basis):
    x, z = (c.float() for c in codes(5, (6, 4, 16, 16)))
    config = AVIConfig(basis=basis)
    whole = solve(x, z, config)
    for i in (0, 5):
        alone = solve(x[i], z[i], config)
        assert alone.y.shape == (4, 16, 16)
        assert_close(alone.y, whole.y[i])
        assert torch.equal(solve(x[i : i + 1], z[i : i + 1], config).y, alone.y[None])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_is_kept(dtype):
    x, z = codes(6)
    solution = solve(x.to(dtype), z.to(dtype))
    assert solution.y.dtype == dtype and solution.a.dtype == torch.float64
    assert_close(solution.y.double(), solve(x.to(dtype).double(), z.to(dtype).double()).y, rtol=0, atol=0.03)


def test_empty_batch_and_constant_channel():
    assert solve(torch.zeros(0, 4, 8, 8), torch.zeros(0, 4, 8, 8)).y.shape == (0, 4, 8, 8)
    flat = torch.zeros(1, 8, 8)
    assert solve(flat, flat).y.eq(0).all()
    assert solve(flat, torch.ones(1, 8, 8), AVIConfig(lambdas=Lambdas(1, 1, 0, 0))).y.allclose(torch.tensor(0.5))


def test_bad_codes_and_ranks():
    x, z = codes(9)
    with pytest.raises(ValueError, match="make them alike"):
        solve(x, z[:1])
    with pytest.raises(ValueError, match="the target code holds NaN"):
        solve(x, z * float("nan"))
    for k_x, k_z, word in ((9, 1, "k_x = 9"), (1, -1, "k_z = -1"), (0, 0, "both 0"), (1.5, 1, "k_x = 1.5")):
        with pytest.raises(ValueError, match=word):
            solve(x, z, AVIConfig(k_x, k_z))
    for k_x, k_z, word in ((None, 9, "k_z = 9"), (6, 3, "the complement has k_x = 5, not 6: leave k_x out")):
        with pytest.raises(ValueError, match=word):
            solve(x, z, AVIConfig(k_x, k_z, basis="complement"))


def test_bad_names():
    x, z = codes(9)
    with pytest.raises(ValueError, match="no basis 'x': choose from both, complement"):
        AVIConfig(basis="x")
    with pytest.raises(ValueError, match="no norm 'l2': choose from squared, absolute"):
        AVIConfig(norm="l2")
    with pytest.raises(ValueError, match="these are absolute: train with lsvd.avi.network.fit"):
        solve(x, z, AVIConfig(norm="absolute"))


def moved(x, z, config):
    return (solve(x, z, config).y - x).flatten(-3).norm(dim=-1)


@quick
@given(
    seeds,
    st.floats(0, 1),
    bases,
    st.integers(0, 8),
    st.integers(1, 8),
    st.booleans(),
    st.tuples(st.floats(1e-3, 3), *[st.sampled_from([0, 0.01, 1.0, 30.0])] * 3),
)
def test_an_edit_moves_no_further_than_its_bound(seed, near, basis, k_x, k_z, keep_rest, w):
    x, z = codes(seed)
    z = near * x + (1 - near) * z
    config = in_basis(basis, k_z, k_x, keep_rest=keep_rest, lambdas=Lambdas(*w))
    assert (moved(x, z, config) <= avi.bound(x, z, config) * (1 + 1e-9) + 1e-6).all()


def test_the_bound_is_what_it_says_and_attained():
    x, z = codes(10)
    distance = (z - x).flatten(-3).norm(dim=-1)
    # at full rank without spectrum losses, and by the target alone
    for config in (AVIConfig(8, 8, lambdas=Lambdas(3, 1, 0, 0)), AVIConfig(8, 8, False, Lambdas(3, 1, 0, 0))):
        assert_close(avi.bound(x, z, config), 0.75 * distance)
        assert_close(moved(x, z, config), 0.75 * distance)
    # all of x is dropped, and nothing of z is where x was
    config = AVIConfig(0, 1, False, Lambdas(0, 1, 0, 0))
    upper, lower = torch.zeros_like(x), torch.zeros_like(z)
    upper[..., :4, :], lower[..., 4:, :] = x[..., :4, :], z[..., 4:, :]
    assert_close(avi.bound(upper, lower, config), upper.flatten(-3).norm(dim=-1))
    assert_close(moved(upper, lower, config), upper.flatten(-3).norm(dim=-1))
    # with spectrum losses: half of the singular value
    one = svd(z).truncate(1).recompose()
    for spectrum in (0.01, 0.5, 0.99):
        config = AVIConfig(0, 1, lambdas=Lambdas(1, 0, spectrum, 1))
        assert_close(avi.bound((1 + spectrum) / 2 * one, one, config), one.flatten(-3).norm(dim=-1) / 2)
        assert_close(moved((1 + spectrum) / 2 * one, one, config), one.flatten(-3).norm(dim=-1) / 2)
    config = AVIConfig(lambdas=Lambdas(1, 1, 0.5, 2))
    half, spectrum = distance / 2, (svd(z).S[..., :6].square().sum((-2, -1)) / 4).sqrt()
    assert_close(avi.bound(x, z, config), (half + (half**2 + spectrum**2).sqrt()) / 2)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 1e-10, 1e-8, 1e-6, 1e-5, 2e-5, 1e-4, 1e-3]),
    st.sampled_from([1.0, 1e-30, 1e-200, 1e150]),
    st.sampled_from(["both", "complement"]),
    st.integers(1, 5),
    st.sampled_from([Lambdas(0, 1, 0, 0), Lambdas(1, 1, 0, 0), Lambdas(1e-9, 1, 0, 0), Lambdas(1, 0, 0, 1e-14)]),
)
def test_the_bound_holds_for_codes_that_hardly_differ(seed, apart, size, basis, k, lambdas):
    x, d = torch.randn(2, 1, 3, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x, z = size * x, size * (x + apart * d)
    config = AVIConfig(k_z=k, basis=basis, lambdas=lambdas)
    over = (avi.solve(x, z, config).y - x) / size
    rounding = 1e-12 * (x / size).norm()
    assert over.norm() <= (avi.bound(x, z, config) / size * (1 + 1e-9) + rounding).item()
    assert (avi.bound(x, z, config) > 0) == (lambdas.target > 0 and apart > 0)


def test_what_has_no_bound():
    x, z = codes(11)
    with pytest.raises(ValueError, match="give one of them"):
        avi.bound(x, z, AVIConfig(lambdas=Lambdas(0, 0, 1, 1)))
    with pytest.raises(ValueError, match="no bound for absolute"):
        avi.bound(x, z, AVIConfig(norm="absolute"))


def test_renoise_moves_between_the_schedulers_levels():
    scheduler = text_to_image().scheduler
    (image, noise), levels = codes(12), scheduler.alphas_cumprod.double()
    at = {t: levels[t].sqrt() * image + (1 - levels[t]).sqrt() * noise for t in (1, 401, 601, 999)}
    for t in at:
        for to in at:
            assert_close(placement.renoise(scheduler, at[t], image, t, to), at[to])
    assert_close(at[601], scheduler.add_noise(image, noise, torch.tensor([601])), rtol=0, atol=1e-6)
    once = placement.renoise(scheduler, noise, image, 601, 401)
    assert_close(placement.renoise(scheduler, once, image, 401, 601), noise)
    half = placement.renoise(scheduler, noise.half(), image.half(), 601, 401)
    assert half.dtype == torch.float16
    assert_close(half.double(), once, rtol=0, atol=0.02)


def test_bad_renoising():
    (image, noise), scheduler = codes(13), text_to_image().scheduler
    for other in (EulerDiscreteScheduler(), FlowMatchEulerDiscreteScheduler()):
        with pytest.raises(ValueError, match=f"{type(other).__name__} has no codes .* take DDIMScheduler"):
            placement.renoise(other, noise, image, 601, 401)
    for t in (-1, 1000, 0.5):
        with pytest.raises(ValueError, match="has no noise level: choose a whole number from 0 to 999"):
            placement.renoise(scheduler, noise, image, 601, t)
    with pytest.raises(ValueError, match="make them alike"):
        placement.renoise(scheduler, noise, image[:1], 601, 401)


def test_edit_prompt_has_at_most_nine_parameters():
    assert len(inspect.signature(edit_prompt).parameters) <= 9


def test_edit_prompt_is_its_parts():
    backbone = text_to_image()
    edit = edit_prompt(
        backbone, "a person", "an old person", seeds=(1, 2), **place(tx=0.6, dtau=1, steps=6, whole=True)
    )
    assert (
        edit.places.t_branch is None
        and edit.source.settings.prompts == edit.edited.settings.prompts == ("a person",) * 2
    )
    assert edit.target.settings.prompts == ("an old person",) * 2
    assert torch.equal(edit.source.codes[0], edit.target.codes[0])
    assert edit.t == edit.source.nearest(0.6) and edit.source.index(edit.t_target) == edit.source.index(edit.t) - 1
    assert edit.config.k_x == backbone.entry.k
    expected = solve(edit.source.at(edit.t), edit.target.at(edit.t_target), edit.config).y
    assert torch.equal(edit.edited.codes[0], expected) and torch.equal(edit.solution.y, expected)
    assert not torch.equal(edit.edited.final, edit.source.final)
    assert torch.equal(edit.source.final, run(backbone, "a person", (1, 2), 6).final)


class Counted:
    """Counts how often a network is called, and for how many pictures; fails with `error` for more than `most`."""

    def __init__(self, network, most=None, error=None):
        self.calls, self.handle = [], network.register_forward_pre_hook(self.note)
        self.most, self.error = most, error

    def note(self, network, inputs):
        if self.most and len(inputs[0]) > self.most:
            raise self.error
        self.calls.append(len(inputs[0]))


@pytest.mark.parametrize("branch", [1.0, 0.8])
@pytest.mark.parametrize("dtau", [-1, 0, 1])
def test_an_edit_draws_no_more_than_it_takes(dtau, branch):
    backbone, settings = text_to_image(), {"tx": 0.5, "dtau": dtau, "branch": branch, "steps": 8}
    whole = edit_prompt(backbone, "a person", "an old person", seeds=(1, 2), **place(whole=True, **settings))
    counted = Counted(backbone.pipe.unet)
    edit = edit_prompt(backbone, "a person", "an old person", seeds=(1, 2), **place(**settings))
    counted.handle.remove()
    x, z = whole.source.index(edit.t), whole.source.index(edit.t_target)
    before = 0 if branch == 1 else whole.source.index(edit.places.t_branch)
    assert len(counted.calls) == x + (z - before) + (8 - x) <= 2 * 8
    assert torch.equal(edit.edited.codes, whole.edited.codes)
    assert torch.equal(edit.source.codes, whole.source.codes[: x + 1]) and edit.source.timesteps[-1] == edit.t
    assert torch.equal(edit.target.codes, whole.target.codes[: z + 1])
    for walk in (edit.source, edit.target):
        with pytest.raises(ValueError, match="stopped at timestep .*whole=True"):
            _ = walk.final


@pytest.mark.parametrize("scheduler", [DDIMScheduler, DPMSolverMultistepScheduler])
@pytest.mark.parametrize("branch", [1.0, 0.8])
@pytest.mark.parametrize("whole", [True, False])
def test_source_and_target_go_together(monkeypatch, scheduler, branch, whole):
    backbone = text_to_image().with_scheduler(scheduler)
    settings = {"tx": 0.4, "dtau": -1, "branch": branch, "steps": 8, "eta": float(scheduler is DDIMScheduler)}
    apart = edit_prompt(backbone, "a person", ["old", "red hair"], seeds=(1, 2), **place(whole=whole, **settings))
    counted = Counted(backbone.pipe.unet)
    monkeypatch.setattr(editing, "_gains", lambda device: True)  # as on a GPU
    both = edit_prompt(backbone, "a person", ["old", "red hair"], seeds=(1, 2), **place(whole=whole, **settings))
    counted.handle.remove()
    apart_all_the_same = branch < 1 and scheduler is DPMSolverMultistepScheduler  # it begins again at a branch
    # two pictures, with and without prompts, of source and target
    assert max(counted.calls) == (4 if apart_all_the_same else 8)
    for mine, theirs in ((both.source, apart.source), (both.target, apart.target), (both.edited, apart.edited)):
        count = min(len(mine.codes), len(theirs.codes))
        assert_close(mine.codes[:count], theirs.codes[:count], rtol=1e-3, atol=1e-3)
        assert mine.settings == theirs.settings
    assert both.solution.y.shape == apart.solution.y.shape and both.t_target == apart.t_target


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("MPS: out of memory")])
def test_one_after_the_other_where_memory_is_short(monkeypatch, error):
    backbone = text_to_image()
    settings = {"tx": 0.5, "dtau": 0, "steps": 6, "branch": 1.0}
    apart = edit_prompt(backbone, "a person", "an old person", seeds=(1, 2), **place(**settings))
    counted = Counted(backbone.pipe.unet, 4, error)
    with pytest.raises(RuntimeError, match="out of memory"):
        request = Settings.of(backbone, "a person", (1, 2), 6)
        editing.draw_pair(backbone, request, "an old person", apart.places, (None, None), together=True)
    monkeypatch.setattr(editing, "_gains", lambda device: True)  # as on a GPU
    edit = edit_prompt(backbone, "a person", "an old person", seeds=(1, 2), **place(**settings))
    counted.handle.remove()
    assert torch.equal(edit.edited.codes, apart.edited.codes)
    counted = Counted(backbone.pipe.unet, 4, RuntimeError("something else"))
    with pytest.raises(ValueError, match="cannot compute .something else"):
        edit_prompt(backbone, "a person", "an old person", seeds=(1, 2), **place(**settings))
    counted.handle.remove()


def test_dtau_has_a_sign():
    for dtau in (-1, 0, 2):
        edit = edit_prompt(
            text_to_image(), "a person", "an old person", seeds=1, **place(tx=0.5, dtau=dtau, steps=6, whole=True)
        )
        assert edit.source.index(edit.t_target) == edit.source.index(edit.t) - dtau


def test_z_comes_to_the_level_of_x_if_asked():
    backbone = text_to_image()
    for dtau in (-1, 0, 2):
        edit = edit_prompt(
            backbone, "a person", "an old person", seeds=1, **place(tx=0.5, dtau=dtau, steps=6, same_level=True)
        )
        z = placement.renoise(
            backbone.scheduler, edit.target.at(edit.t_target), edit.target.final, edit.t_target, edit.t
        )
        assert edit.places.same_level and torch.equal(z, edit.target.at(edit.t)) == (dtau == 0)
        assert torch.equal(edit.solution.y, solve(edit.source.at(edit.t), z, edit.config).y)


def test_a_branched_z_is_the_source_before_and_the_target_after():
    backbone = text_to_image()
    edit = edit_prompt(
        backbone, "a person", "an old person", seeds=(1, 2), **place(tx=0.3, dtau=1, branch=0.7, steps=8, whole=True)
    )
    branched = edit.source.index(edit.source.nearest(0.7))
    assert edit.places.t_branch == edit.source.nearest(0.7) and edit.target.settings.prompts == ("an old person",) * 2
    assert torch.equal(edit.target.codes[: branched + 1], edit.source.codes[: branched + 1])
    switched = resume(backbone, edit.source, edit.places.t_branch, prompts="an old person")
    assert torch.equal(edit.target.final, switched.final) and not torch.equal(switched.final, edit.source.final)
    z = edit.target.codes[edit.source.index(edit.t) - 1]
    assert torch.equal(edit.solution.y, solve(edit.source.at(edit.t), z, edit.config).y)
    early = edit_prompt(backbone, "a person", "an old person", seeds=(1, 2), **place(tx=0.3, dtau=1, branch=1, steps=8))
    assert early.places.t_branch is None and torch.equal(early.target.codes[0], edit.source.codes[0])


def test_a_z_from_before_its_branch_is_refused():
    for tx, dtau in ((0.7, 0), (0.5, 2), (0.9, 0)):
        with pytest.raises(ValueError, match="raise branch or lower tx"):
            edit_prompt(text_to_image(), "a", "an", **place(tx=tx, dtau=dtau, branch=0.7, steps=8))


def test_another_solver():
    config, seen = AVIConfig(3, 3, lambdas=Lambdas(0, 1, 0, 0)), []

    def own(x, z):
        seen.append((x, z))
        return solve(x, x, config)

    edit = edit_prompt(text_to_image(), "a person", "an old person", seeds=1, method=own, steps=6, whole=True)
    assert torch.equal(seen[0][0], edit.source.at(edit.t)) and torch.equal(seen[0][1], edit.target.at(edit.t_target))
    assert edit.config is None
    assert_close(edit.edited.final, edit.source.final, rtol=0, atol=1e-4)


def test_an_edit_that_only_keeps_the_source_keeps_the_picture():
    config = AVIConfig(3, 3, True, Lambdas(0, 1, 0, 0))
    settings = {"config": config, "steps": 6, "whole": True}
    edit = edit_prompt(text_to_image(), ["a person"] * 2, ["an old person", "young"], seeds=(1, 2), **place(**settings))
    assert_close(edit.edited.final, edit.source.final, rtol=0, atol=1e-4)


def test_bad_edits():
    backbone = text_to_image()
    with pytest.raises(ValueError, match="takes no prompts"):
        edit_prompt(unconditional(), "a", "an")
    for same in ("a", ["a"]):
        with pytest.raises(ValueError, match="the same"):
            edit_prompt(backbone, "a", same)
    for tx, dtau in ((1.0, 1), (0.0, -1)):
        with pytest.raises(ValueError, match="leaves the schedule"):
            edit_prompt(backbone, "a", "an", **place(tx=tx, dtau=dtau, steps=4))
    with pytest.raises(ValueError, match="fraction"):
        edit_prompt(backbone, "a", "an", **place(tx=601, steps=4))
    with pytest.raises(dataclasses.FrozenInstanceError):
        AVIConfig().k_x = 3
