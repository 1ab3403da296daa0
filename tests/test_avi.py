"""The exact solution of Attribute Vector Integration: optimal, blind to signs, code by code; and the edit around it."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import text_to_image, unconditional
from torch.testing import assert_close

from lsvd import avi, losses
from lsvd.avi import AVIConfig, edit_prompt, integrate, solve
from lsvd.losses import Lambdas
from lsvd.svd import ChannelSVD, svd
from lsvd.trajectory import run

quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)
weights = st.floats(0.01, 3.0)


def codes(seed, shape=(2, 3, 8, 8), count=2):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def loss(solution, x, z, lambdas, a=None, b=None):
    a, b = solution.a if a is None else a, solution.b if b is None else b
    y = integrate(a, b, solution.x, solution.z, solution.rest)
    return losses.total(y, x, z, a, b, solution.x.S, solution.z.S, lambdas)


@quick
@given(seeds, st.integers(0, 8), st.integers(1, 8), st.booleans(), st.tuples(weights, weights, weights, weights))
def test_the_gradient_vanishes_at_the_solution(seed, k_x, k_z, keep_rest, w):
    x, z = codes(seed)
    config = AVIConfig(k_x, k_z, keep_rest, Lambdas(*w))
    solution = solve(x, z, config)
    a, b = solution.a.clone().requires_grad_(), solution.b.clone().requires_grad_()
    value = loss(solution, x, z, config.lambdas, a, b).sum()
    for gradient in torch.autograd.grad(value, [a, b]):
        assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-9)


@pytest.mark.parametrize("lambdas", [Lambdas(), Lambdas(1, 0, 0, 0), Lambdas(0.5, 2, 0, 0.3), Lambdas(1, 1, 1, 1)])
@pytest.mark.parametrize("keep_rest", [True, False])
def test_it_agrees_with_lbfgs(lambdas, keep_rest):
    x, z = codes(0)
    config = AVIConfig(4, 3, keep_rest, lambdas)
    solution = solve(x, z, config)
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


def test_own_singular_values_give_the_code_back():
    x, z = codes(2)
    solution = solve(x, z, AVIConfig(5, 2))
    nothing = torch.zeros_like(solution.b)
    assert_close(integrate(solution.x.S, nothing, solution.x, solution.z, solution.rest), x)


def test_equal_codes_stay():
    (x,) = codes(3, count=1)
    for lambdas in (Lambdas(1, 1, 0, 0), Lambdas(1, 0, 0, 0)):
        assert_close(solve(x, x.clone(), AVIConfig(4, 4, True, lambdas)).y, x)


def test_signs_do_not_matter(monkeypatch):
    x, z = codes(4)
    before = solve(x, z)

    def flipped(code):
        f = svd(code)
        sign = torch.where(torch.arange(f.rank) % 3 == 0, -1.0, 1.0).double()
        return ChannelSVD(f.U * sign, f.S, f.Vh * sign[:, None], f.dtype)

    monkeypatch.setattr(avi, "svd", flipped)
    after = solve(x, z)
    assert not torch.equal(before.x.U, after.x.U)
    for name in ("y", "a", "b"):
        assert_close(getattr(before, name), getattr(after, name))


def test_a_batch_is_its_members():
    x, z = (c.float() for c in codes(5, (6, 4, 16, 16)))
    whole = solve(x, z)
    for i in (0, 5):
        alone = solve(x[i], z[i])
        assert alone.y.shape == (4, 16, 16)
        assert_close(alone.y, whole.y[i])
        assert torch.equal(solve(x[i : i + 1], z[i : i + 1]).y, alone.y[None])


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


def test_each_loss_is_what_it_says():
    x, z = codes(7)
    a, b, sigma_x, sigma_z = codes(7, (2, 3, 4), 4)
    y = x + 1
    assert_close(losses.l2_source(y, x), torch.full((2,), 192.0).double())
    assert_close(losses.l1_target(y, z), (y - z).flatten(1).norm(dim=1) ** 2)
    assert_close(losses.l3_target_spectrum(b, sigma_z), (b - sigma_z).flatten(1).norm(dim=1) ** 2)
    assert_close(losses.l4_source_spectrum(a, a + 2), torch.full((2,), 48.0).double())
    parts = [losses.l1_target(y, z), losses.l2_source(y, x)]
    parts += [losses.l3_target_spectrum(b, sigma_z), losses.l4_source_spectrum(a, sigma_x)]
    whole = losses.total(y, x, z, a, b, sigma_x, sigma_z, Lambdas(1, 2, 3, 4))
    assert_close(whole, sum(i * part for i, part in enumerate(parts, 1)))


def test_gradients_of_the_losses():
    y, x, z = (c.requires_grad_() for c in codes(8, (2, 2, 3, 3), 3))
    a, b, s, t = (c.requires_grad_() for c in codes(8, (2, 2, 3), 4))
    assert torch.autograd.gradcheck(lambda *args: losses.total(*args, Lambdas(1, 2, 3, 4)), (y, x, z, a, b, s, t))


@pytest.mark.parametrize("bad", [(-1, 1, 1, 1), (0, 0, 0, 0), (float("nan"), 1, 1, 1), (float("inf"), 1, 1, 1)])
def test_bad_weights(bad):
    with pytest.raises(ValueError, match="cannot have the weights"):
        Lambdas(*bad)


def test_bad_codes_and_ranks():
    x, z = codes(9)
    with pytest.raises(ValueError, match="make them alike"):
        solve(x, z[:1])
    with pytest.raises(ValueError, match="the target code holds NaN"):
        solve(x, z * float("nan"))
    for k_x, k_z, word in ((9, 1, "k_x = 9"), (1, -1, "k_z = -1"), (0, 0, "both 0"), (1.5, 1, "k_x = 1.5")):
        with pytest.raises(ValueError, match=word):
            solve(x, z, AVIConfig(k_x, k_z))


def test_edit_prompt_is_its_parts():
    backbone = text_to_image()
    edit = edit_prompt(backbone, "a person", "an old person", (1, 2), tx=0.6, dtau=1, steps=6)
    assert edit.source.settings.prompts == edit.edited.settings.prompts == ("a person",) * 2
    assert edit.target.settings.prompts == ("an old person",) * 2
    assert torch.equal(edit.source.codes[0], edit.target.codes[0])
    assert edit.t == edit.source.nearest(0.6) and edit.source.index(edit.t_target) == edit.source.index(edit.t) - 1
    assert edit.config.k_x == backbone.entry.k
    expected = solve(edit.source.at(edit.t), edit.target.at(edit.t_target), edit.config).y
    assert torch.equal(edit.edited.codes[0], expected) and torch.equal(edit.solution.y, expected)
    assert not torch.equal(edit.edited.final, edit.source.final)
    assert torch.equal(edit.source.final, run(backbone, "a person", (1, 2), 6).final)


def test_dtau_has_a_sign():
    for dtau in (-1, 0, 2):
        edit = edit_prompt(text_to_image(), "a person", "an old person", 1, tx=0.5, dtau=dtau, steps=6)
        assert edit.source.index(edit.t_target) == edit.source.index(edit.t) - dtau


def test_an_edit_that_only_keeps_the_source_keeps_the_picture():
    config = AVIConfig(3, 3, True, Lambdas(0, 1, 0, 0))
    edit = edit_prompt(text_to_image(), ["a person"] * 2, ["an old person", "young"], (1, 2), config=config, steps=6)
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
            edit_prompt(backbone, "a", "an", tx=tx, dtau=dtau, steps=4)
    with pytest.raises(ValueError, match="fraction"):
        edit_prompt(backbone, "a", "an", tx=601, steps=4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        AVIConfig().k_x = 3
