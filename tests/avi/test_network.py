"""Training S: as good as the exact optimum, each pair on its own, the same each time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from tiny import text_to_image
from torch.testing import assert_close

from lsvd.avi import exact, losses
from lsvd.avi.edit import edit_prompt
from lsvd.avi.exact import AVIConfig, solve
from lsvd.avi.losses import Lambdas
from lsvd.avi.network import FitConfig, Trained, fit


def codes(seed, shape, near=0.0):
    x, z = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x, near * x + (1 - near) * z


def loss(solution, x, z, config):
    s = solution
    y = exact.integrate(s.a, s.b, s.x, s.z, s.rest)
    return losses.total(y, x, z, s.a, s.b, s.x.S, s.z.S, config.lambdas, config.norm)


def close(x, z, config, training=None, share=0.01):
    found = fit(x, z, config, training)
    exact, trained = loss(solve(x, z, config), x, z, config), loss(found.solution, x, z, config)
    assert found.converged.all()
    assert (trained >= exact * (1 - 1e-9)).all() and (trained <= exact * (1 + share)).all()
    return found


@settings(max_examples=10, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["both", "complement"]),
    st.sampled_from(["per channel", "joint"]),
    st.booleans(),
    st.sampled_from([0.0, 0.7]),
    st.sampled_from([Lambdas(), Lambdas(1, 1, 0, 0), Lambdas(1, 0.3, 0.1, 0)]),
)
def test_it_comes_within_a_percent_of_the_optimum(seed, basis, layout, keep_rest, near, lambdas):
    config = AVIConfig(k_z=6, keep_rest=keep_rest, lambdas=lambdas, basis=basis)
    close(*codes(seed, (4, 32, 32), near), config, FitConfig(layout))


@pytest.mark.parametrize("layout", ["per channel", "joint"])
def test_it_does_so_for_a_large_code(layout):
    close(*codes(0, (4, 96, 96)), AVIConfig(k_z=12), FitConfig(layout))


def test_it_does_so_for_codes_that_hardly_differ():
    """As at large t: triplets of x and z nearly coincide, and the optimum is a small remainder of the first loss."""
    close(*codes(3, (4, 32, 32), near=0.97), AVIConfig(k_z=12, lambdas=Lambdas(1, 1, 0, 0)))


@pytest.mark.parametrize("training", [FitConfig(layers=0), FitConfig(hidden=8, layers=3), FitConfig(lr=0.003, seed=5)])
def test_it_does_so_with_other_networks(training):
    close(*codes(0, (2, 3, 16, 12)), AVIConfig(k_z=4), training)


def least_absolute(parts, lambdas):
    """The least loss of absolute norms of each channel, by linear programming."""
    least = []
    k, k_x = parts.sigma.shape[-1], parts.x.rank
    for c in range(len(parts.sigma)):
        U, V = torch.cat([parts.x.U[c], parts.z.U[c]], -1), torch.cat([parts.x.Vh[c], parts.z.Vh[c]], -2)
        matrices = torch.einsum("hk,kw->hwk", U, V).flatten(0, 1).numpy()
        own, sigma = np.eye(k), parts.sigma[c].numpy()
        differences = [  # weight, what S is multiplied with, what it is compared to
            (lambdas.target, matrices, (parts.target - parts.rest)[c].flatten().numpy()),
            (lambdas.source, matrices, (parts.source - parts.rest)[c].flatten().numpy()),
            (lambdas.target_spectrum, own[k_x:], sigma[k_x:]),
            (lambdas.source_spectrum, own[:k_x], sigma[:k_x]),
        ]
        A, b = (np.concatenate([part[i] for part in differences]) for i in (1, 2))
        weight = np.concatenate([np.full(len(part[2]), part[0]) for part in differences])
        size = np.eye(len(b))
        limits = [(None, None)] * k + [(0, None)] * len(b)
        upper = np.block([[A, -size], [-A, -size]])
        least.append(linprog(np.r_[np.zeros(k), weight], upper, np.r_[b, -b], bounds=limits).fun)
    return least


@pytest.mark.parametrize("basis", ["both", "complement"])
@pytest.mark.parametrize("keep_rest", [True, False])
def test_absolute_norms_agree_with_linear_programming(basis, keep_rest):
    x, z = codes(1, (2, 8, 8), near=0.3)
    config = AVIConfig(None, 3, keep_rest, Lambdas(1, 0.4, 0.1, 0.2), basis, "absolute")
    least = sum(least_absolute(exact.choose(x, z, config), config.lambdas))
    for layout in ("per channel", "joint"):
        found = fit(x, z, config, FitConfig(layout))
        trained = loss(found.solution, x, z, config).item()
        assert found.converged and least * (1 - 1e-9) <= trained <= least * 1.01


@pytest.mark.parametrize("norm", ["squared", "absolute"])
@pytest.mark.parametrize("layout", ["per channel", "joint"])
def test_the_curve_is_the_loss(norm, layout):
    x, z = codes(2, (2, 3, 8, 8))
    config = AVIConfig(k_z=3, norm=norm)
    found = fit(x, z, config, FitConfig(layout))
    assert found.curve.shape == (len(found.curve), 2) and found.converged.shape == (2,)
    final = loss(found.solution, x, z, config)
    assert_close(found.curve[-1], final)
    assert (found.curve[0] > 1.5 * final).all() and (found.curve >= final - 1e-9).all()


def test_it_stops_when_told():
    x, z = codes(3, (3, 8, 8))
    short = fit(x, z, training=FitConfig(steps=7))
    assert short.curve.shape == (8,) and not short.converged
    whole, eager = fit(x, z), fit(x, z, training=FitConfig(tolerance=0.1, window=5))
    assert_close(whole.curve[:8], short.curve)
    assert whole.converged and eager.converged and len(eager.curve) < len(whole.curve) < 2001
    assert_close(eager.curve[0], whole.curve[0])


@pytest.mark.parametrize("layout", ["per channel", "joint"])
@pytest.mark.parametrize("norm", ["squared", "absolute"])
def test_a_batch_is_its_members(layout, norm):
    x, z = codes(4, (3, 2, 8, 8))
    z[1] = 0.98 * x[1] + 0.02 * z[1]  # takes another number of steps
    config, training = AVIConfig(k_z=3, norm=norm), FitConfig(layout)
    whole = fit(x, z, config, training)
    lengths = set()
    for i in range(3):
        alone = fit(x[i], z[i], config, training)
        lengths.add(len(alone.curve))
        assert alone.solution.y.shape == (2, 8, 8) and alone.curve.ndim == 1
        assert_close(whole.solution.y[i], alone.solution.y)
        assert_close(whole.curve[: len(alone.curve), i], alone.curve)
        assert_close(whole.curve[-1, i], alone.curve[-1])
    assert len(lengths) > 1 and max(lengths) == len(whole.curve)


def test_a_seed_is_one_result_and_leaves_the_global_one_alone():
    x, z = codes(5, (2, 8, 8))
    state = torch.get_rng_state()
    first, again, other = (fit(x, z, training=FitConfig(seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.solution.y, again.solution.y) and torch.equal(first.curve, again.curve)
    assert not torch.equal(first.curve[0], other.curve[0])


def test_it_trains_where_gradients_are_off_and_keeps_the_dtype():
    x, z = codes(6, (2, 8, 8))
    with torch.no_grad():
        found = fit(x.half(), z.half())
    assert found.converged and found.solution.y.dtype == torch.float16
    assert found.curve.dtype == found.solution.a.dtype == torch.float64
    assert not found.solution.a.requires_grad and not found.curve.requires_grad


def test_codes_with_nothing_to_learn():
    x, _ = codes(7, (2, 8, 8))
    same = fit(x, x.clone())
    assert same.converged
    assert_close(same.solution.y, solve(x, x).y, rtol=0, atol=1e-2)
    assert fit(0 * x, 0 * x).solution.y.abs().max() < 1e-3
    assert fit(x[None][:0], x[None][:0]).solution.y.shape == (0, 2, 8, 8)


@pytest.mark.parametrize("layout", ["per channel", "joint"])
@pytest.mark.parametrize("norm", ["squared", "absolute"])
@pytest.mark.parametrize(
    "size, weight", [(1e-8, 1.0), (1e-12, 1.0), (1e150, 1.0), (1.0, 1e-16), (1.0, 1e200), (1e-4, 1e-9)]
)
def test_neither_the_size_of_codes_nor_of_weights_matters(layout, norm, size, weight):
    x, z = codes(10, (2, 8, 8))
    plain, scaled = Lambdas(1, 0.02, 0.01, 0.01), Lambdas(*(weight * w for w in (1, 0.02, 0.01, 0.01)))
    expected, found = (
        fit(scale * x, scale * z, AVIConfig(k_z=3, lambdas=lambdas, norm=norm), FitConfig(layout))
        for scale, lambdas in ((1, plain), (size, scaled))
    )
    assert expected.converged and found.converged
    assert_close(found.solution.y / size, expected.solution.y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("quiet", [1e-3, 1e-6])
def test_a_quiet_channel_is_learned_beside_loud_ones(quiet):
    x, z = codes(11, (3, 8, 8))
    size = torch.tensor([1.0, 1.0, quiet], dtype=torch.float64)[:, None, None]
    for layout in ("per channel", "joint"):
        found, best = fit(size * x, size * z, training=FitConfig(layout)), solve(size * x, size * z)
        edit = (best.y - size * x)[2].norm()
        assert found.converged and (found.solution.y - best.y)[2].norm() < 0.1 * edit


@pytest.mark.parametrize("norm", ["squared", "absolute"])
def test_it_trains_in_inference_mode(norm):
    x, z = codes(12, (2, 8, 8))
    config = AVIConfig(k_z=3, norm=norm)
    expected = fit(x, z, config)
    with torch.inference_mode():
        inside, made_inside = fit(x, z, config), fit(x.clone(), z.clone(), config)
    for found in (inside, made_inside):
        assert torch.equal(found.solution.y, expected.solution.y) and torch.equal(found.curve, expected.curve)
        assert not found.solution.a.requires_grad


def test_a_bar_only_if_asked(capsys, bars):
    x, z = codes(8, (1, 8, 8))
    fit(x, z)
    assert capsys.readouterr() == ("", "")
    fit(x, z, progress=True)
    assert "training" in capsys.readouterr().err


def test_an_edit_by_training():
    config = AVIConfig(k_z=3, norm="absolute")
    edit = edit_prompt(text_to_image(), "a person", "an old person", seeds=1, method=Trained(config), steps=6)
    z = edit.target.at(edit.t_target)
    assert torch.equal(edit.solution.y, fit(edit.source.at(edit.t), z, config).solution.y)
    assert torch.equal(edit.edited.codes[0], edit.solution.y)


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"layout": "wide"}, "no layout 'wide': choose from per channel, joint"),
        ({"hidden": 0}, "hidden = 0: give a whole number from 1 on"),
        ({"layers": 1.5}, "layers = 1.5: give a whole number from 0 on"),
        ({"steps": True}, "steps = True: give a whole number from 1 on"),
        ({"seed": -1}, "seed = -1: give a whole number from 0 on"),
        ({"lr": 0}, "lr = 0 and tolerance = 0.0001: give an lr above 0"),
        ({"tolerance": float("nan")}, "tolerance = nan: give an lr above 0"),
    ],
)
def test_bad_training(bad, message):
    with pytest.raises(ValueError, match=message):
        replace(FitConfig(), **bad)


def test_bad_codes():
    x, z = codes(9, (2, 3, 8, 8))
    with pytest.raises(ValueError, match="make them alike"):
        fit(x, z[:1])
    with pytest.raises(ValueError, match="k_z = 9"):
        fit(x, z, AVIConfig(k_z=9))
