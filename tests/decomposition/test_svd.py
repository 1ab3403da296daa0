"""The SVD helper: checked by singular values, orthonormality and reconstruction, never by vectors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from lsvd.decomposition.svd import svd

shapes = st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=40, deadline=None)


def draw(shape, seed, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@quick
@given(shapes, seeds, st.sampled_from([torch.float32, torch.float64]))
def test_decomposition(shape, seed, dtype):
    x = draw(shape, seed, dtype)
    f = svd(x)
    r = min(shape[-2:])
    assert f.U.shape == (*shape[:-1], r) and f.S.shape == (*shape[:-2], r) and f.Vh.shape == (*shape[:-2], r, shape[-1])
    assert f.U.dtype == f.S.dtype == f.Vh.dtype == dtype and f.rank == r
    tight = {"rtol": 0, "atol": 2e-5 if dtype == torch.float32 else 1e-12}
    assert_close(f.recompose(), x, **tight)
    eye = torch.eye(r, dtype=dtype).expand(*shape[:-2], r, r)
    assert_close(f.U.mT @ f.U, eye, **tight)
    assert_close(f.Vh @ f.Vh.mT, eye, **tight)
    assert (f.S >= 0).all() and (f.S.diff(dim=-1) <= 0).all()
    assert_close(f.S.square().sum(-1), x.square().sum((-1, -2)), rtol=1e-4, atol=1e-6)


@quick
@given(shapes, seeds, st.integers(0, 9))
def test_truncation_drops_exactly_the_tail(shape, seed, k):
    x = draw(shape, seed, torch.float64)
    f = svd(x)
    k = min(k, f.rank)
    short = f.truncate(k)
    assert short.rank == k and short.recompose().shape == x.shape
    # Eckart-Young: what is lost is what the dropped singular values hold
    lost = (x - short.recompose()).square().sum((-1, -2))
    assert_close(lost, f.S[..., k:].square().sum(-1), rtol=1e-9, atol=1e-12)


@quick
@given(seeds, st.integers(0, 5), st.floats(-3, 3, width=32))
def test_scaling_one_value_moves_the_code_by_its_rank_one_part(seed, i, factor):
    x = draw((2, 3, 6, 7), seed, torch.float64)
    f = svd(x)
    y = f.scale(i, factor, channels=1).recompose()
    assert_close(y[:, [0, 2]], x[:, [0, 2]])
    moved = (y - x)[:, 1].flatten(1).norm(dim=1)
    assert_close(moved, abs(factor - 1) * f.S[:, 1, i], rtol=1e-9, atol=1e-12)


@quick
@given(seeds)
def test_scaling_by_one_is_nothing_and_undoes(seed):
    f = svd(draw((2, 6, 6), seed))
    assert torch.equal(f.scale(range(6), 1.0).recompose(), f.recompose())
    assert_close(f.scale([0, 3], 2.0).scale([3, 0], 0.5).S, f.S)
    assert_close(f.scale([0, 2], torch.tensor([2.0, 3.0])).S[:, 2], 3 * f.S[:, 2])
    per_channel = f.scale([0, 2], torch.tensor([[2.0, 3.0], [4.0, 5.0]]), channels=[1, 0]).S
    assert_close(per_channel[0, 2], 5 * f.S[0, 2])
    assert_close(per_channel[1, 0], 2 * f.S[1, 0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_taken_in_float32_and_comes_back(dtype):
    x = draw((2, 4, 16, 16), 0, dtype)
    f = svd(x)
    assert f.S.dtype == torch.float32
    assert f.recompose().dtype == dtype
    assert_close(f.recompose().double(), x.double(), rtol=float(torch.finfo(dtype).eps), atol=1e-5)


def test_a_batch_is_its_members():
    x = draw((5, 3, 8, 8), 1)
    whole = svd(x)
    for i in range(5):
        assert torch.equal(svd(x[i]).S, whole.S[i])
        assert torch.equal(svd(x[i]).recompose(), whole.recompose()[i])


def test_signs_do_not_matter():
    f = svd(draw((3, 8, 8), 2))
    sign = torch.tensor([1.0, -1.0] * 4)
    flipped = type(f)(f.U * sign, f.S, f.Vh * sign[:, None], f.dtype)
    assert_close(flipped.scale(1, 2.0).truncate(3).recompose(), f.scale(1, 2.0).truncate(3).recompose())


def test_edges():
    assert svd(torch.zeros(0, 3, 4, 5)).recompose().shape == (0, 3, 4, 5)
    constant = svd(torch.full((2, 4, 4), 3.0))
    assert_close(constant.S[:, 0], torch.full((2,), 12.0))
    assert constant.S[:, 1:].abs().max() < 1e-5
    zero = svd(torch.zeros(2, 4, 4))
    assert not zero.S.any() and not zero.recompose().any()
    assert not svd(torch.ones(1, 4, 4)).truncate(0).recompose().any()
    assert svd(torch.randn(2, 6, 6).mT.contiguous().mT[:, ::2]).rank == 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_not_finite(bad):
    x = torch.zeros(2, 3, 4, 4)
    x[1, 2, 3, 3] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        svd(x)


@pytest.mark.parametrize("x", [torch.zeros(4, 4), torch.zeros(3, 0, 4), torch.zeros(())])
def test_wrong_shape(x):
    with pytest.raises(ValueError, match="shape"):
        svd(x)


@pytest.mark.parametrize("x", [torch.zeros(1, 2, 2).long(), torch.zeros(1, 2, 2, dtype=torch.cfloat), [[[1.0]]]])
def test_wrong_kind(x):
    with pytest.raises(ValueError, match="floating-point"):
        svd(x)


def test_wrong_k_and_wrong_indices():
    f = svd(torch.eye(4).expand(2, 4, 4))
    for k in (-1, 5, 1.0, True, None):
        with pytest.raises(ValueError, match="from 0 to 4"):
            f.truncate(k)
    for indices in (4, -1, [0, 9]):
        with pytest.raises(ValueError, match="no triplet"):
            f.scale(indices, 2.0)
    with pytest.raises(ValueError, match="no channel 2"):
        f.scale(0, 2.0, channels=2)
    with pytest.raises(ValueError, match="twice"):
        f.scale([1, 1], 2.0)
    with pytest.raises(ValueError, match="finite"):
        f.scale(0, float("nan"))
