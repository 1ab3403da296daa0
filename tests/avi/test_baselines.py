"""The controls: codes between source and target without any learning."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from lsvd.avi.baselines import slerp, swap
from lsvd.decomposition.svd import svd

quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def codes(seed, shape=(2, 3, 6, 8)):
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@quick
@given(seeds, st.integers(0, 6))
def test_swap_takes_what_each_has(seed, k):
    x, z = codes(seed)
    y = swap(x, z, k)
    of_x, of_z = svd(x), svd(z)
    rest = y - of_z.truncate(k).recompose()
    assert_close(svd(rest).S[..., : 6 - k], of_x.S[..., k:], rtol=0, atol=1e-9)
    assert_close(rest + of_x.truncate(k).recompose(), x)


def test_swap_from_none_to_all():
    x, z = codes(0)
    assert_close(swap(x, z, 0), x)
    assert_close(swap(x, z, 6), z)


@quick
@given(seeds, st.floats(-0.5, 1.5))
def test_slerp_turns_each_code_evenly(seed, weight):
    x, z = codes(seed)
    z = z * (x.flatten(-3).norm(dim=-1) / z.flatten(-3).norm(dim=-1))[:, None, None, None]
    y = slerp(x, z, weight)
    unit = [code.flatten(-3) / x.flatten(-3).norm(dim=-1, keepdim=True) for code in (x, y, z)]
    whole = (unit[0] * unit[2]).sum(-1).acos()
    assert_close(unit[1].norm(dim=-1), torch.ones(2).double())
    assert_close((unit[0] * unit[1]).sum(-1), (weight * whole).cos())
    assert_close((unit[2] * unit[1]).sum(-1), ((1 - weight) * whole).cos())


def test_slerp_at_its_ends_and_where_there_is_no_arc():
    x, z = codes(1)
    assert_close(slerp(x, z, 0), x)
    assert_close(slerp(x, z, 1), z)
    right = torch.zeros(2, 1, 2, 2)
    right[0, 0, 0, 0], right[1, 0, 1, 1] = 3, 1
    assert_close(slerp(right[0], right[1], 0.5), right.sum(0) * math.sqrt(0.5))
    for other in (x, 2 * x, -x, 0 * x):
        assert_close(slerp(x, other, 0.25), torch.lerp(x, other, 0.25))
        assert_close(slerp(other, x, 0.25), torch.lerp(other, x, 0.25))


@pytest.mark.parametrize("make", [lambda x, z: swap(x, z, 2), lambda x, z: slerp(x, z, 0.3)])
def test_half_precision_and_batches(make):
    x, z = (code.half() for code in codes(2))
    y = make(x, z)
    assert y.dtype == torch.float16 and y.shape == x.shape
    assert_close(y.double(), make(x.double(), z.double()), rtol=0, atol=4e-3)
    assert_close(make(x[1], z[1]), y[1])


def test_bad_arguments():
    x, z = codes(3)
    for make in (lambda z: swap(x, z, 2), lambda z: slerp(x, z, 0.5)):
        with pytest.raises(ValueError, match="make them alike"):
            make(z[:1])
        with pytest.raises(ValueError, match="target code holds NaN"):
            make(z * math.nan)
    with pytest.raises(ValueError, match="cannot keep 7 triplets"):
        swap(x, z, 7)
    with pytest.raises(ValueError, match="finite weight"):
        slerp(x, z, math.inf)
