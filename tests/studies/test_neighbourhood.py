"""The small neighbourhood and its nulls on codes whose distances are known."""

import pytest
import torch
from tiny import KINDS

from lsvd.decomposition import geodesic
from lsvd.decomposition.svd import svd
from lsvd.sampling.trajectory import resume, run
from lsvd.statistics.intervals import Interval
from lsvd.studies import neighbourhood


def codes(n=5, B=3, C=2, H=12, W=10, seed=0):
    return torch.randn(n, B, C, H, W, generator=torch.Generator().manual_seed(seed))


def test_codes_that_only_grow_stay_where_they_are():
    x = codes(n=1) * torch.linspace(1, 3, 5).view(-1, 1, 1, 1, 1)
    for side in ("left", "right"):
        D = neighbourhood.distances(x, 4, side)
        assert D.shape == (5, 5, 3) and D.max() < 1e-4
        assert neighbourhood.spread(D).max() < 1e-4


def test_a_decomposition_stands_for_its_codes():
    x = codes()
    for side in ("left", "right"):
        assert torch.equal(neighbourhood.distances(svd(x), 4, side), neighbourhood.distances(x, 4, side))


def test_independent_codes_lie_as_far_as_chance():
    for side in ("left", "right"):
        D = neighbourhood.distances(codes(n=12, B=8), 4, side)
        chance = neighbourhood.by_chance((12, 10), 4, side)
        assert neighbourhood.over_pairs(D).mean().item() == pytest.approx(chance.value, abs=0.02)
        others = neighbourhood.between_pictures(codes(n=12, B=8), 4, side)
        assert others.shape == (12, 8) and others.mean().item() == pytest.approx(chance.value, abs=0.02)
        assert chance.low < chance.value < chance.high < 1


def test_means_leave_the_diagonal_out():
    D = torch.ones(4, 4, 2).masked_fill(torch.eye(4, dtype=torch.bool)[..., None], 0.0)
    assert (neighbourhood.over_pairs(D) == 1).all() and (neighbourhood.by_timestep(D) == 1).all()


def test_one_side_alone_can_turn():
    x = codes(n=2, B=1)
    Q = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(1))).Q
    x[1] = Q @ x[0]
    assert neighbourhood.distances(x, 3, "right")[0, 1] < 1e-4 < 0.3 < neighbourhood.distances(x, 3, "left")[0, 1]


def test_the_whole_space_is_one():
    x = codes()
    assert neighbourhood.distances(x, 10, "right").max() == 0 < neighbourhood.distances(x, 10, "left").max()
    assert neighbourhood.between_pictures(x, 10, "right").max() == 0
    assert neighbourhood.by_chance((12, 10), 10, "right") == Interval(0, 0, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_beside_all_its_nulls(kind):
    model, prompt = KINDS[kind](), "a person" if kind == "text-to-image" else None
    walk, other = (run(model, prompt, range(3), steps=5, eta=eta) for eta in (0.0, 1.0))
    found = neighbourhood.against_nulls(model, walk, other, k=3)
    parts = (found.D, found.stochastic, found.fresh, found.shared, found.mixed)
    assert {part.shape for part in parts} == {(6, 6, 3)}
    assert found.others.shape == (6, 3)
    means, excess = found.means(), found.excess()
    for null, value in excess.items():
        assert value.value == pytest.approx(means["model"].value - means[null].value, abs=1e-6)
    # both start from the same noise, and both kinds of added noise end in the same picture
    added = {fresh: neighbourhood.noised(model, walk, fresh=fresh) for fresh in (True, False)}
    mixed = neighbourhood.noised(model, walk, other=True)
    assert torch.equal(mixed[-1, 0], walk.final[1])
    assert torch.equal(walk.codes[0], other.codes[0])
    assert torch.equal(added[True][-1], walk.final) and torch.equal(added[False][-1], walk.final)
    # at the first timestep hardly anything but the noise is left: its own, or another
    start = [neighbourhood.bases(x, 3) for x in (walk.codes[0], added[False][0], added[True][0])]
    own, fresh = (geodesic.distance(start[0], each).mean() for each in start[1:])
    assert own < 0.5 * fresh


def test_trajectories_that_do_not_fit_are_refused():
    model = KINDS["unconditional"]()
    walk, other, one = (run(model, None, seeds, steps=4, eta=eta) for seeds, eta in (((0, 1), 0), ((0, 2), 1), (0, 0)))
    with pytest.raises(ValueError, match="not of the same seeds"):
        neighbourhood.against_nulls(model, walk, other, k=2)
    with pytest.raises(ValueError, match="give the whole one"):
        neighbourhood.noised(model, resume(model, walk, walk.timesteps[2]))
    with pytest.raises(ValueError, match="two seeds or more"):
        neighbourhood.noised(model, one, other=True)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: neighbourhood.bases(codes(), 4, "top"), "left or right"),
        (lambda: neighbourhood.bases(codes(), 11), "from 0 to 10"),
        (lambda: neighbourhood.bases(codes() * float("nan"), 4), "NaN"),
        (lambda: neighbourhood.between_pictures(codes(B=1), 4), "two seeds or more"),
    ],
)
def test_bad_input_is_explained(call, said):
    with pytest.raises(ValueError, match=said):
        call()
