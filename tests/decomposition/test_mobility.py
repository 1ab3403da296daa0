"""Triplets followed through codes whose paths are known because they were built that way."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from lsvd.decomposition import mobility
from lsvd.decomposition.svd import ChannelSVD, svd

seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=25, deadline=None)


def draw(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def build(weights, seed=0, size=(8, 7)):
    """Codes (steps, B, C, H, W) of fixed orthonormal rank-one parts in each channel, by weights (steps, B, C, r)."""
    frame = svd(draw((*weights.shape[1:3], *size), seed))
    rank = weights.shape[-1]
    return (frame.U[..., :rank] * weights.unsqueeze(-2)) @ frame.Vh[..., :rank, :]


def order(weights):
    """The rank of each part, from its weight."""
    return weights.argsort(-1, descending=True).argsort(-1)


def spread(rank, seed, shape=()):
    """Weights well apart, in an order of their own for each entry of `shape`."""
    return (draw((*shape, rank), seed).argsort(-1) + 1).float()


# similarity


@quick
@given(seeds, st.integers(1, 4), st.integers(1, 6))
def test_similarity_is_the_inner_product_of_rank_one_matrices(seed, k, other):
    a, b = svd(draw((2, 3, 6, 7), seed)).truncate(k), svd(draw((2, 3, 6, 7), seed + 1)).truncate(other)
    found = mobility.similarity(a, b)
    assert found.shape == (2, 3, k, other) and (found >= 0).all() and (found <= 1).all()
    one = torch.einsum("bchi,bciw->bcihw", a.U, a.Vh)
    two = torch.einsum("bchi,bciw->bcihw", b.U, b.Vh)
    assert_close(found, torch.einsum("bcihw,bcjhw->bcij", one, two).abs(), rtol=0, atol=1e-5)
    assert_close(found, mobility.similarity(b, a).mT)


@quick
@given(seeds)
def test_signs_do_not_matter(seed):
    x, y = svd(draw((2, 3, 6, 6), seed)), svd(draw((2, 3, 6, 6), seed + 1))
    left, right = (draw((2, 3, 1, 6), seed + i).sign() for i in (2, 3))
    flipped = ChannelSVD(x.U * left, x.S, x.Vh * right.mT, x.dtype)
    assert torch.equal(mobility.similarity(flipped, y), mobility.similarity(x, y))
    path = mobility.follow(ChannelSVD(*(torch.stack(p) for p in zip(parts(x), parts(y), strict=True)), x.dtype))
    turned = mobility.follow(ChannelSVD(*(torch.stack(p) for p in zip(parts(flipped), parts(y), strict=True)), x.dtype))
    assert torch.equal(path.ranks, turned.ranks) and torch.equal(path.similarity, turned.similarity)


def parts(d):
    return d.U, d.S, d.Vh


def test_a_triplet_of_no_size_is_like_no_other():
    constant = svd(torch.full((1, 2, 5, 6), 3.0))
    assert_close(mobility.similarity(constant, constant)[0, 0].diag(), torch.tensor([1.0, 0, 0, 0, 0]))
    zero = svd(torch.zeros(1, 2, 5, 6))
    assert not mobility.similarity(zero, constant).any() and not mobility.similarity(zero, zero).any()
    ranks, alike = mobility.match(mobility.similarity(zero, zero))
    assert ranks[0, 0].tolist() == [0, 1, 2, 3, 4] and not alike.any()


def test_similarity_broadcasts_and_refuses_other_shapes():
    steps, one = svd(draw((4, 2, 3, 6, 5), 0)), svd(draw((2, 3, 6, 5), 1))
    assert mobility.similarity(one, steps).shape == (4, 2, 3, 5, 5)
    assert mobility.similarity(one.truncate(0), one).shape == (2, 3, 0, 5)
    for shape in [(2, 3, 5, 6), (2, 1, 6, 5), (3, 3, 6, 5)]:
        with pytest.raises(ValueError, match="make the codes alike"):
            mobility.similarity(one, svd(draw(shape, 0)))


@pytest.mark.parametrize("part", ["U", "S", "Vh"])
def test_similarity_of_nan(part):
    d = svd(draw((1, 4, 4), 0))
    getattr(d, part)[0, 1] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        mobility.similarity(d, svd(draw((1, 4, 4), 0)))


# match


@quick
@given(seeds, st.integers(1, 7))
def test_a_permutation_is_found(seed, k):
    permutation = draw((2, 3, k), seed).argsort(-1)
    exact = torch.nn.functional.one_hot(permutation, k).float()
    found, alike = mobility.match(0.6 * exact + 0.2 * draw(exact.shape, seed + 1).sigmoid())
    assert torch.equal(found, permutation) and found.dtype == torch.int64
    assert (alike >= 0.6).all()


@quick
@given(seeds, st.integers(1, 5), st.integers(1, 5))
def test_no_other_assignment_is_better(seed, rows, columns):
    from itertools import permutations

    matrix = draw((rows, columns), seed).sigmoid()
    found, alike = mobility.match(matrix)
    used = found[found >= 0].tolist()
    assert len(used) == len(set(used)) == min(rows, columns)
    assert_close(alike, torch.stack([matrix[i, j] if j >= 0 else torch.tensor(0.0) for i, j in enumerate(found)]))
    wide = matrix if rows <= columns else matrix.T
    best = max(sum(wide[i, j] for i, j in enumerate(p)) for p in permutations(range(wide.shape[1]), wide.shape[0]))
    assert_close(alike.sum(), best, rtol=0, atol=1e-5)


def test_ties_go_to_the_nearest_rank():
    for shape in [(6, 6), (3, 6), (6, 3)]:
        found, _ = mobility.match(torch.full(shape, 0.5))
        short = min(shape)
        assert found[:short].tolist() == list(range(short)) and (found[short:] == -1).all()
    # three pairs are certain; the other rows share the columns that are left, each near its own rank
    some = torch.zeros(6, 6)
    some[[3, 4, 5], [3, 4, 0]] = 1
    assert mobility.match(some)[0].tolist() == [1, 2, 5, 3, 4, 0]
    # only ties: the least similarity more, of those that float32 can tell, decides
    swap = torch.tensor([[0.5, 0.5 + 2e-7], [0.5 + 2e-7, 0.5]])
    assert mobility.match(swap)[0].tolist() == [1, 0]


def test_match_edges():
    for shape in [(0, 3, 4, 4), (2, 0, 4), (2, 4, 0)]:
        found, alike = mobility.match(torch.zeros(shape))
        assert found.shape == alike.shape == shape[:-1] and (found == -1).all() and not alike.any()
    with pytest.raises(ValueError, match="NaN"):
        mobility.match(torch.tensor([[0.5, float("nan")]]))
    for bad in (torch.zeros(3), torch.zeros(2, 2).long(), [[0.5]]):
        with pytest.raises(ValueError, match="floating-point tensor of shape"):
            mobility.match(bad)


# follow


@quick
@given(seeds, st.integers(0, 4), st.booleans())
def test_a_code_matched_with_itself_stays(seed, reference, direct):
    codes = draw((2, 3, 6, 7), seed).expand(5, 2, 3, 6, 7)
    paths = mobility.follow(codes, reference=reference, direct=direct)
    assert torch.equal(paths.ranks, torch.arange(6).expand(5, 2, 3, 6))
    assert_close(paths.similarity, torch.ones(5, 2, 3, 6), rtol=0, atol=1e-5)


@quick
@given(seeds, st.integers(0, 3), st.booleans())
def test_known_permutations_of_singular_values(seed, reference, direct):
    weights = spread(6, seed, (4, 2, 3))
    paths = mobility.follow(build(weights, seed, (8, 6)), reference=reference, direct=direct)
    assert paths.ranks.shape == (4, 2, 3, 6) and paths.ranks.dtype == torch.int64
    # the part that is first at the reference, then the second, ...
    part = weights[reference].argsort(-1, descending=True)
    assert torch.equal(paths.ranks, order(weights).gather(-1, part.expand(4, 2, 3, 6)))
    assert (paths.similarity > 0.999).all()


@pytest.mark.parametrize("direct", [False, True])
def test_a_crossing_shows(direct):
    t = torch.linspace(0, 1, 6)
    weights = torch.stack([3 - 2 * t, 1 + 2 * t, torch.full_like(t, 0.5)], -1)[:, None, None]
    codes = build(weights) + 1e-3 * draw((6, 1, 1, 8, 7), 5)
    paths = mobility.follow(codes, 3, direct=direct)
    assert paths.ranks[:, 0, 0].T.tolist() == [[0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0], [2] * 6]
    assert paths.ranks.shape == (6, 1, 1, 3) and (paths.similarity > 0.95).all()
    backwards = mobility.follow(codes, 3, direct=direct, reference=5)
    assert backwards.ranks[:, 0, 0].T.tolist() == [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1], [2] * 6]


def test_k_returns_fewer_paths_of_the_same_matching():
    codes = draw((4, 2, 3, 6, 7), 0)
    whole, few = mobility.follow(codes), mobility.follow(codes, 2)
    assert torch.equal(few.ranks, whole.ranks[..., :2]) and few.ranks.max() > 1
    assert torch.equal(mobility.follow(svd(codes), 2).ranks, few.ranks)
    assert mobility.follow(svd(codes).truncate(2)).ranks.max() == 1
    assert mobility.follow(codes, 0).ranks.shape == (4, 2, 3, 0)
    assert torch.equal(mobility.follow(codes.double()).ranks, whole.ranks)


def test_a_slow_turn_is_followed_by_the_chain_only():
    """Two triplets that turn into two others by small angles: each link is strong, the direct match is lost."""
    angle = torch.linspace(0, torch.pi / 2, 10)
    frame = svd(draw((8, 8), 1)[None])
    turn = torch.stack([angle.cos(), angle.sin()])
    u = [torch.einsum("st,hs->th", turn, frame.U[0][:, [i, i + 2]]) for i in (0, 1)]
    v = [torch.einsum("st,sw->tw", turn, frame.Vh[0][[i, i + 2]]) for i in (0, 1)]
    codes = sum(w * torch.einsum("th,tw->thw", *pair) for w, *pair in zip((2, 1), u, v, strict=True))
    chain, direct = (mobility.follow(codes[:, None, None], 2, direct=d) for d in (False, True))
    level = mobility.chance(8, 8)
    assert torch.equal(chain.ranks[:, 0, 0], torch.tensor([0, 1]).expand(10, 2)) and chain.kept(level).all()
    assert not direct.kept(level)[-1].any() and direct.kept(level)[:3].all()


def test_kept_ends_with_the_first_weak_match():
    alike = torch.tensor([0.9, 0.1, 0.9, 1.0, 0.9, 0.2, 0.9]).view(7, 1, 1, 1)
    paths = mobility.Paths(torch.zeros(7, 1, 1, 1).long(), alike, 3, False)
    assert paths.kept(0.5).flatten().tolist() == [False, False, True, True, True, False, False]
    assert mobility.Paths(paths.ranks, alike, 3, True).kept(0.5).flatten().tolist() == (alike.flatten() > 0.5).tolist()
    assert mobility.Paths(paths.ranks, alike, 3, False).kept(1.0).sum() == 1


def test_the_null_matches_other_samples():
    codes = draw((4, 3, 2, 6, 7), 3)
    null = mobility.follow(codes, shift=1)
    one = mobility.match(mobility.similarity(svd(codes[0, 2]), svd(codes[1, 0])))
    assert torch.equal(null.ranks[1, 2], one[0]) and torch.equal(null.similarity[1, 2], one[1])
    two = mobility.match(mobility.similarity(svd(codes[1, 2]), svd(codes[2, 0])))
    assert torch.equal(null.ranks[2, 2], two[0].gather(-1, one[0]))
    assert torch.equal(null.similarity[2, 2], two[1].gather(-1, one[0]))
    direct = mobility.follow(codes, shift=2, direct=True, reference=1)
    assert torch.equal(direct.ranks[3, 0], mobility.match(mobility.similarity(svd(codes[1, 0]), svd(codes[3, 2])))[0])
    assert torch.equal(direct.ranks[1, 0, 0], torch.arange(6)) and (direct.similarity[1] == 1).all()
    for samples, shift in [(1, 1), (0, 1), (3, 3), (3, -6)]:
        with pytest.raises(ValueError, match="two or more"):
            mobility.follow(codes[:, :samples], shift=shift)


def test_chance():
    level = mobility.chance(16, 16)
    assert 0.05 < level < 0.6 and level == mobility.chance(16, 16)
    assert mobility.chance(16, 16, quantile=0.5) < level and mobility.chance(64, 64, draws=10) < level
    fresh = mobility.follow(draw((2, 60, 1, 16, 16), 9))
    assert 0.001 < (fresh.similarity[1] > level).float().mean() < 0.03
    for bad in ({"draws": 0}, {"quantile": 1.1}, {"quantile": float("nan")}):
        with pytest.raises(ValueError, match="at least 1|quantile"):
            mobility.chance(4, 4, **bad)


def test_follow_edges():
    assert mobility.follow(torch.zeros(3, 0, 4, 5, 6)).ranks.shape == (3, 0, 4, 5)
    alone = mobility.follow(draw((1, 2, 3, 4, 4), 0))
    assert torch.equal(alone.ranks, torch.arange(4).expand(1, 2, 3, 4))
    constant = mobility.follow(torch.ones(3, 1, 1, 4, 4) * torch.tensor([1.0, 2, 3]).view(3, 1, 1, 1, 1))
    assert constant.kept(0.5)[..., 0].all() and not constant.kept(0.5)[1:, ..., 1:].any()
    equal = mobility.follow(torch.eye(4).expand(3, 1, 1, 4, 4))
    assert equal.ranks.sort(-1).values.flatten(0, 2).tolist() == [[0, 1, 2, 3]] * 3


@pytest.mark.parametrize(
    ("codes", "kwargs", "message"),
    [
        (torch.zeros(2, 3, 4, 4), {}, r"steps, B, C, H, W"),
        (torch.zeros(0, 2, 3, 4, 4), {}, "one step at least"),
        (svd(torch.zeros(3, 4, 4)), {}, "singular values of shape"),
        ([torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 5, 5)], {}, "torch.stack"),
        (torch.full((2, 1, 1, 4, 4), float("nan")), {}, "NaN"),
        (torch.zeros(2, 1, 1, 4, 4), {"k": 5}, "from 0 to 4"),
        (torch.zeros(2, 1, 1, 4, 4), {"k": True}, "from 0 to 4"),
        (torch.zeros(2, 1, 1, 4, 4), {"reference": 2}, "from 0 to 1"),
        (torch.zeros(2, 1, 1, 4, 4), {"reference": -1}, "from 0 to 1"),
    ],
)
def test_follow_refuses(codes, kwargs, message):
    with pytest.raises(ValueError, match=message):
        mobility.follow(codes, **kwargs)


# movement


def walk(ranks, reference=0, direct=False, similarity=None):
    ranks = torch.tensor(ranks).view(-1, 1, 1, 1)
    return mobility.Paths(
        ranks, torch.ones(ranks.shape) if similarity is None else similarity.view(ranks.shape), reference, direct
    )


def test_movement_by_hand():
    moved = mobility.movement(walk([0, 1, 3, 3]), torch.tensor([900, 600, 300, 0]))
    assert moved.dt.tolist() == [300, 600, 900] and moved.pairs.tolist() == [3, 2, 1]
    assert_close(moved.change.flatten(), torch.tensor([1, 2.5, 3]).double())
    direct = mobility.movement(walk([0, 1, 3, 3], reference=2, direct=True), torch.tensor([900, 600, 300, 0]))
    assert direct.dt.tolist() == [300, 600] and direct.pairs.tolist() == [2, 1]
    assert_close(direct.change.flatten(), torch.tensor([1, 3]).double())
    uneven = mobility.movement(walk([0, 1, 5]), torch.tensor([10.0, 10.0, 0.3333]))
    assert uneven.dt.tolist() == [0, 9.667] and uneven.change.flatten().tolist() == [1, 4.5]


@pytest.mark.parametrize("reference", [0, 1, 2, 3])
def test_movement_leaves_lost_paths_out(reference):
    """The match between the second and the third step is weak: of the six pairs, the two that do not span it count."""
    alike = torch.ones(4)
    alike[2 if reference < 2 else 1] = 0.1
    paths = walk([0, 1, 3, 7], reference, similarity=alike)
    moved = mobility.movement(paths, torch.arange(4), level=0.5)
    assert moved.pairs.tolist() == [3, 2, 1]
    assert moved.change[0].item() == 2.5 and moved.change[1:].isnan().all()
    assert_close(mobility.movement(paths, torch.arange(4)).change[0].item(), 7 / 3)


def test_movement_of_direct_paths_leaves_out_weak_matches():
    paths = walk([0, 1, 3, 7], 1, True, torch.tensor([1, 1, 0.1, 1]))
    moved = mobility.movement(paths, torch.arange(4), level=0.5)
    assert moved.dt.tolist() == [1, 2] and moved.change.flatten().tolist() == [1, 6]


def test_the_null_moves_and_the_signal_does_not():
    """Samples of their own fixed triplets under a little noise: ranks stay; matched with other samples, they do not."""
    weights = torch.linspace(6, 1, 6).expand(8, 5, 2, 6)
    codes = build(weights, 4, (6, 6)) + 0.01 * draw((8, 5, 2, 6, 6), 1)
    times = torch.arange(8).flip(0) * 100
    signal = mobility.movement(mobility.follow(codes), times)
    null = mobility.movement(mobility.follow(codes, shift=1), times)
    assert signal.change.shape == (7, 5, 2, 6) and signal.by_sample.shape == (7, 5)
    assert signal.by_sample.max() < 0.1 and null.by_sample.mean(1).min() > 0.5
    assert mobility.follow(codes).similarity.min() > 0.8 > mobility.follow(codes, shift=1).similarity[1:].mean()


def test_movement_grows_with_time():
    """Weights that drift: ranks move further over longer times."""
    weights = spread(6, 0, (1, 40, 1)) + torch.arange(6).view(6, 1, 1, 1) * 0.8 * draw((1, 40, 1, 6), 1)
    moved = mobility.movement(mobility.follow(build(weights.abs() + 0.05)), torch.arange(6)).by_sample.mean(1)
    assert (moved.diff() > 0).all()


def test_movement_edges():
    empty = mobility.movement(mobility.follow(torch.zeros(3, 0, 2, 4, 4)), torch.arange(3))
    assert empty.change.shape == (2, 0, 2, 4)
    single = mobility.movement(walk([0]), torch.arange(1))
    assert single.dt.shape == (0,) and single.change.shape == (0, 1, 1, 1)
    with pytest.raises(ValueError, match=r"codes\[:-1\]"):
        mobility.movement(walk([0, 1, 2]), torch.arange(2))
    with pytest.raises(ValueError, match="NaN"):
        mobility.movement(walk([0, 1]), torch.tensor([1.0, float("nan")]))
