"""The leading triplets of a difference: power iteration against the SVD, signs, batches and odd matrices."""

import pytest
import torch
from torch.testing import assert_close

from lsvd.decomposition.svd import svd
from lsvd.guidance.triplets import largest, leading

SHAPES = [(2, 4, 16, 16), (1, 4, 24, 40), (3, 1, 64, 32)]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def decaying(*shape, seed=0):
    """Matrices whose singular values fall by a third each, with signs and vectors at random."""
    triplets = svd(noise(*shape, seed=seed))
    return triplets.scale(range(triplets.rank), (2 / 3) ** torch.arange(triplets.rank) / triplets.S).recompose()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("k", [1, 2])
def test_power_iteration_agrees_with_the_svd(shape, k):
    d = decaying(*shape)
    part, start = leading(d, k)
    assert part.shape == d.shape and start is not None
    assert_close(part, svd(d).truncate(k).recompose(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("k", [1, 2])
def test_of_noise_it_keeps_as_much_as_the_best_part(k):
    d = noise(8, 4, 32, 32)  # whose leading singular values lie close together
    best = svd(d).truncate(k).recompose()
    part, _ = leading(d, k)
    kept, most = part.square().sum((-1, -2)), best.square().sum((-1, -2))
    assert (kept <= most * (1 + 1e-5)).all() and (kept > 0.97 * most).all()
    assert (torch.linalg.matrix_rank(part, rtol=1e-4) == k).all()


@pytest.mark.parametrize("k", [1, 2])
def test_a_warm_start_follows_a_slow_change(k):
    d, change, start = decaying(2, 4, 16, 16), decaying(2, 4, 16, 16, seed=1), None
    for step in range(6):
        now = d + 0.05 * step * change
        part, start = leading(now, k, start)
        assert_close(part, svd(now).truncate(k).recompose(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("k", [3, 5, 14, 16])
def test_more_triplets_are_those_of_the_svd(k):
    d = noise(2, 4, 16, 16)
    part, start = leading(d, k)
    assert start is None and torch.equal(part, svd(d).truncate(k).recompose())


@pytest.mark.parametrize("k", [1, 2, 4])
def test_signs_do_not_count(k):
    d = decaying(2, 4, 16, 16)
    part, start = leading(d, k)
    assert torch.equal(leading(-d, k)[0], -part)
    if start is not None:
        signs = torch.tensor([1.0, -1.0, -1.0, 1.0])[: start.shape[-1]]
        assert_close(leading(d, k, start * signs)[0], part, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_each_picture_is_treated_alone(k):
    d = decaying(3, 4, 16, 16)
    part, start = leading(d, k)
    for i in range(3):
        alone, its = leading(d[i : i + 1], k)
        assert_close(alone[0], part[i], rtol=1e-5, atol=1e-6)
        assert start is None or its.shape == start[i : i + 1].shape


@pytest.mark.parametrize("k", [1, 2, 3])
def test_no_difference_has_no_part(k):
    part, start = leading(torch.zeros(1, 2, 16, 16), k)
    assert torch.equal(part, torch.zeros(1, 2, 16, 16)) and (start is None or start.isfinite().all())
    one = noise(1, 2, 16, 1) @ noise(1, 2, 1, 16, seed=1)
    assert_close(leading(one, k)[0], one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    d = decaying(1, 4, 16, 16).to(dtype)
    part, _ = leading(d, 1)
    assert part.dtype == dtype
    assert_close(part.float(), leading(d.float(), 1)[0], rtol=torch.finfo(dtype).eps, atol=1e-3)


@pytest.mark.parametrize("k", [0, 17, -1, 1.0, True])
def test_bad_ranks(k):
    with pytest.raises(ValueError, match="choose a rank from 1 to 16"):
        leading(torch.zeros(1, 2, 16, 20), k)


def test_largest_entries_are_kept_of_each_picture():
    part = torch.tensor([[[[1.0, -5.0], [2.0, 0.5]]], [[[10.0, 20.0], [-30.0, 40.0]]]])
    kept = largest(part, 0.5)
    assert torch.equal(kept, torch.tensor([[[[0.0, -5.0], [2.0, 0.0]]], [[[0.0, 0.0], [-30.0, 40.0]]]]))
    assert torch.equal(largest(part, 1.0), part) and int((largest(part, 0.01) != 0).sum()) == 2
