"""The geodesic distance: a metric, blind to the choice of basis, and right where float32 arccosines are not."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from torch.testing import assert_close

from lsvd.decomposition import geodesic
from lsvd.decomposition.geodesic import distance, gap, largest, pairwise, principal_angles, random_subspaces
from lsvd.decomposition.svd import svd

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 10).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))
quick = settings(max_examples=40, deadline=None)


def cpu(seed):
    return torch.Generator().manual_seed(seed)


def subspaces(shape, n, k, seed, dtype=torch.float64):
    return random_subspaces(shape, n, k, cpu(seed), dtype)


def at_angles(angles, n, seed, dtype=torch.float64):
    """Two bases, (n, k) each, in general position, whose subspaces enclose the given angles."""
    k = len(angles)
    frame = subspaces((), n, 2 * k, seed)
    A, B = frame[:, :k], frame[:, :k] * angles.cos() + frame[:, k:] * angles.sin()
    return (A @ subspaces((), k, k, seed + 1)).to(dtype), (B @ subspaces((), k, k, seed + 2)).to(dtype)


def scipy_distance(A, B):
    return float(np.linalg.norm(subspace_angles(A.double().numpy(), B.double().numpy())))


def both(A, B):
    """The distance by each of the two ways."""
    return distance(A, B), pairwise(torch.stack([A, B]))[0, 1]


@quick
@given(sizes, seeds, st.sampled_from([torch.float32, torch.float64]))
def test_metric(size, seed, dtype):
    n, k = size
    A, B, C = points = subspaces((3, 4), n, k, seed, dtype)
    D = pairwise(points)
    assert D.dtype == distance(A, B).dtype == torch.float64
    assert D.shape == (3, 3, 4) and torch.equal(D, D.transpose(0, 1)) and not D.diagonal().any()
    assert_close(distance(A, B), distance(B, A), rtol=1e-12, atol=1e-12)
    assert (D >= 0).all() and (D <= largest(k, n) + 1e-9).all()
    assert (distance(A, C) <= distance(A, B) + distance(B, C) + 1e-9).all()
    assert distance(A, A).max() < 1e-13
    if k < n:
        assert D[0, 1].min() > 1e-4


@quick
@given(st.lists(st.floats(0.01, math.pi / 2), min_size=1, max_size=4), st.integers(0, 3), seeds, st.floats(0.1, 0.9))
def test_distances_along_a_geodesic_add_up(angles, spare, seed, s):
    """Here the triangle inequality is tight: whatever is not the geodesic distance breaks it."""
    angles = torch.tensor(angles, dtype=torch.float64)
    n = 2 * len(angles) + spare
    A, B = at_angles(angles, n, seed)
    _, between = at_angles(s * angles, n, seed)
    for there, half, rest in zip(both(A, B), both(A, between), both(between, B), strict=True):
        assert_close(there, angles.norm(), rtol=1e-7, atol=0)
        assert_close(half, s * there, rtol=1e-7, atol=0)
        assert_close(half + rest, there, rtol=1e-7, atol=0)
    aside = subspaces((), n, len(angles), seed + 5)
    assert distance(A, aside) + distance(aside, B) > angles.norm() - 1e-9


@quick
@given(sizes, seeds)
def test_only_the_subspace_counts(size, seed):
    n, k = size
    A, B = subspaces((2, 3), n, k, seed)
    turned = A @ subspaces((3,), k, k, seed + 1)
    sign = torch.randint(0, 2, (3, 1, k), generator=cpu(seed)) * 2.0 - 1
    assert_close(distance(turned, B), distance(A, B), rtol=1e-12, atol=1e-12)
    assert_close(distance(A, B * sign), distance(A, B), rtol=1e-12, atol=1e-12)
    assert distance(A, turned).max() < 1e-13
    assert pairwise(torch.stack([A, turned, A * sign])).max() < 3e-7
    assert distance(A.float(), turned.float()).max() < 3e-6
    # the whole space turned about
    Q = subspaces((), n, n, seed + 2)
    assert_close(distance(Q @ A, Q @ B), distance(A, B), rtol=1e-12, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 1), st.integers(1, 8), st.integers(0, 8), seeds)
def test_agrees_with_scipy_from_near_to_orthogonal_in_float32(way, k, spare, seed):
    """Relative error under 1e-4 for distances from 1e-4 to the largest."""
    n = 2 * k + spare
    direction = torch.rand(k, generator=cpu(seed), dtype=torch.float64) + 0.1
    target = 1e-4 * (largest(k, n) / 1e-4) ** way
    # more than pi/2 is not a principal angle: close to the largest distance all angles are made equal
    angles = direction / direction.norm() * target
    angles = angles if angles.max() <= math.pi / 2 else torch.full_like(angles, target / math.sqrt(k))
    A, B = at_angles(angles, n, seed, torch.float32)
    assert abs(scipy_distance(A, B) - target) < 1e-5
    for d in both(A, B):
        assert_close(d.item(), scipy_distance(A, B), rtol=1e-6, atol=0)


@quick
@given(sizes, seeds)
def test_agrees_with_scipy_where_subspaces_must_meet(size, seed):
    n, k = size
    A, B = subspaces((2,), n, k, seed, torch.float32)
    angles = principal_angles(A, B)
    expected = subspace_angles(A.double().numpy(), B.double().numpy())[::-1].copy()
    # scipy's own angles are right to 1e-8 only where some are large and some are small
    assert_close(angles, torch.from_numpy(expected), rtol=0, atol=1e-7)
    assert (angles.diff() >= 0).all() and (angles[: max(0, 2 * k - n)] < 1e-13).all()
    for d in both(A, B):
        assert_close(d.item(), float(np.linalg.norm(expected)), rtol=1e-6, atol=1e-7)


def test_each_angle_is_exact_beside_the_others():
    angles = torch.tensor([0, 1e-12, 1e-9, 1e-4, 0.3, math.pi / 4, 1.5, math.pi / 2 - 1e-9], dtype=torch.float64)
    for seed in range(5):
        assert_close(principal_angles(*at_angles(angles, 20, seed)), angles, rtol=0, atol=5e-15)


def test_pairs_in_blocks_are_the_pairs_of_distance(monkeypatch):
    A = subspaces((7, 3, 2), 6, 2, 0, torch.float32)
    expected = distance(A[:, None], A)
    assert expected.shape == (7, 7, 3, 2)
    off = ~torch.eye(7, dtype=torch.bool)
    for matrices in (1, 4, 6, 13, 10**6):
        monkeypatch.setattr(geodesic, "_BLOCK", matrices * 8 * 2 * 2)
        D = pairwise(A)
        assert_close(D[off], expected[off], rtol=1e-9, atol=0)
        assert not D[~off].any()


def test_broadcasting():
    A, B = subspaces((4, 1, 3), 6, 2, 0), subspaces((5, 1), 6, 2, 1)
    angles = principal_angles(A, B)
    assert angles.shape == (4, 5, 3, 2)
    assert_close(angles[2, 4, 1], principal_angles(A[2, 0, 1], B[4, 0]), rtol=1e-12, atol=1e-14)
    assert_close(distance(A, B), angles.square().sum(-1).sqrt(), rtol=1e-12, atol=0)


def test_left_and_right_vectors_of_codes():
    x = torch.randn(5, 2, 3, 8, 6, generator=cpu(0))
    f, turned = svd(x).truncate(2), svd(x.mT).truncate(2)
    assert pairwise(f.U).shape == pairwise(f.Vh.mT).shape == (5, 5, 2, 3)
    assert_close(pairwise(f.U), pairwise(turned.Vh.mT), rtol=1e-4, atol=0)
    assert_close(distance(f.Vh.mT[0], f.Vh.mT[1]), distance(turned.U[0], turned.U[1]), rtol=1e-4, atol=0)
    assert not torch.allclose(pairwise(f.U), pairwise(f.Vh.mT), rtol=0.01)
    # all of the six triplets span the whole space of rows
    assert not pairwise(svd(x).Vh.mT).any()


def test_half_precision_and_gradients():
    A, B = subspaces((2, 5), 16, 3, 0)
    for dtype, error in ((torch.float16, 2e-3), (torch.bfloat16, 2e-2)):
        assert_close(distance(A.to(dtype), B.to(dtype)), distance(A, B), rtol=error, atol=0)
    A.requires_grad_()
    assert not distance(A, B).requires_grad and not pairwise(A).requires_grad


def test_largest_is_reached_and_is_less_where_subspaces_must_meet():
    eye = torch.eye(7)
    assert largest(3, 7) == pytest.approx(math.pi / 2 * math.sqrt(3), rel=1e-15)
    assert largest(5, 7) == pytest.approx(math.pi / 2 * math.sqrt(2), rel=1e-15)
    assert largest(7, 7) == 0
    for k in (1, 3, 5, 7):
        for d in both(eye[:, :k], eye[:, -k:]):
            assert d.item() == pytest.approx(largest(k, 7), rel=1e-7, abs=1e-13)


def test_random_subspaces_are_seeded_and_uniform():
    A = random_subspaces((4000,), 5, 2, cpu(0))
    assert A.shape == (4000, 5, 2) and A.dtype == torch.float32
    assert torch.equal(A, random_subspaces((4000,), 5, 2, cpu(0)))
    assert_close(A.mT @ A, torch.eye(2).expand(4000, 2, 2), rtol=0, atol=1e-6)
    # E[A A^T] = k/n I for the uniform distribution, each entry here within 5 standard errors
    assert_close((A @ A.mT).mean(0), 0.4 * torch.eye(5), rtol=0, atol=5 * 0.3 / math.sqrt(4000))
    # a line's squared cosine with any fixed line is Beta(1/2, (n - 1)/2): mean 1/n, variance 2(n - 1)/(n²(n + 2))
    square = random_subspaces((4000,), 5, 1, cpu(1))[:, 0, 0].square()
    assert square.mean().item() == pytest.approx(1 / 5, abs=5 * math.sqrt(8 / 175 / 4000))
    assert square.var().item() == pytest.approx(8 / 175, rel=0.15)


@quick
@given(seeds, st.integers(1, 6), st.floats(-6, -2))
def test_the_gap_bounds_what_a_small_change_can_do(seed, k, exponent):
    x = torch.randn(4, 6, 8, generator=cpu(seed), dtype=torch.float64)
    E = 10**exponent * torch.randn(4, 6, 8, generator=cpu(seed + 1), dtype=torch.float64)
    f, g = svd(x), svd(x + E)
    width = gap(f.S, k) * f.S[:, 0]
    size = torch.linalg.matrix_norm(E, 2)
    # Wedin, for changes that leave half of the gap: |sin| <= |E| / (gap - |E|), each angle under pi/2 of its sine
    bound = math.pi / 2 * math.sqrt(k) * 2 * size / width
    for before, after in ((f.U, g.U), (f.Vh.mT, g.Vh.mT)):
        turned = distance(before[..., :k], after[..., :k])
        assert ((turned <= bound) | (size > width / 2)).all()


def test_the_gap_shows_what_a_channel_does_not_determine():
    assert_close(gap(torch.tensor([[4.0, 3.0, 1.0], [2.0, 2.0, 0.0]]), 2).tolist(), [0.5, 1.0])
    assert_close(gap(torch.tensor([4.0, 3.0, 1.0]), 3).item(), 0.25)
    constant = svd(torch.full((2, 6, 6), 3.0))
    assert_close(gap(constant.S, 1), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-6)
    assert gap(constant.S, 2).max() < 1e-6
    assert not gap(svd(torch.zeros(2, 6, 6)).S, 1).any()
    # the vectors are there all the same, and the one that is determined is right
    assert pairwise(constant.U[..., :1])[0, 1] < 1e-6
    assert torch.isfinite(pairwise(constant.U[..., :3])).all()
    assert gap(torch.zeros(0, 4, 6), 2).shape == (0, 4)


def test_empty_batches_have_empty_distances():
    A = torch.zeros(5, 0, 4, 8, 2)
    assert principal_angles(A, A).shape == (5, 0, 4, 2)
    assert distance(A, A[0]).shape == (5, 0, 4)
    assert pairwise(A).shape == (5, 5, 0, 4)
    assert pairwise(torch.zeros(0, 4, 8, 2)).shape == (0, 0, 4)
    one = pairwise(subspaces((1, 4), 8, 2, 0))
    assert one.shape == (1, 1, 4) and not one.any()
    assert random_subspaces((2, 0), 8, 2, cpu(0)).shape == (2, 0, 8, 2)


EYE = torch.eye(6)[:, :2]


@pytest.mark.parametrize(
    ("A", "message"),
    [
        (EYE.mT, "1 <= k <= n"),
        (EYE[:, :0], "1 <= k <= n"),
        (torch.full((6, 2), math.nan), "NaN or infinity"),
        (EYE / torch.tensor([1.0, 0.0]), "NaN or infinity"),
        (2 * EYE, "not orthonormal"),
        (EYE * torch.tensor([1.0, 0.0]), "not orthonormal"),
        (EYE[:, [0, 0]], "not orthonormal"),
        (EYE.long(), "floating-point"),
        (EYE.to(torch.cfloat), "floating-point"),
        (EYE.tolist(), "floating-point"),
    ],
)
def test_what_is_no_basis(A, message):
    with pytest.raises(ValueError, match=message):
        distance(A, EYE)
    with pytest.raises(ValueError, match=message):
        distance(EYE, A)
    with pytest.raises(ValueError, match=message):
        pairwise(A.expand(3, 1, *A.shape) if isinstance(A, torch.Tensor) else A)


def test_what_does_not_fit():
    A = EYE.expand(3, 6, 2)
    with pytest.raises(ValueError, match="k columns of n rows in both"):
        distance(A, A[..., :1])
    with pytest.raises(ValueError, match="k columns of n rows in both"):
        distance(A, torch.eye(5)[:, :2])
    with pytest.raises(ValueError, match="do not broadcast"):
        distance(A, EYE.expand(2, 6, 2))
    with pytest.raises(ValueError, match="has no pairs"):
        pairwise(EYE)
    with pytest.raises(ValueError, match="1 <= k <= n"):
        pairwise(EYE[:, 0])
    for k in (0, 7, -1, 2.0, True):
        for call in (
            lambda k: largest(k, 6),
            lambda k: random_subspaces((), 6, k, cpu(0)),
            lambda k: gap(A[0, :, 0], k),
        ):
            with pytest.raises(ValueError, match="from 1 to 6"):
                call(k)
    for S in ([1.0, 2.0], [1.0, math.nan], [1.0, -1.0], [math.inf, 1.0]):
        with pytest.raises(ValueError, match="descending"):
            gap(torch.tensor(S), 1)
    with pytest.raises(ValueError, match="floating-point"):
        gap([2.0, 1.0], 1)
