"""The small neighbourhood and its nulls on codes whose distances are known."""

import diffusers
import pytest
import torch
from tiny import KINDS, text_to_image
from torch.testing import assert_close

from benchmarks.schedulers import NAMES
from lsvd.backbones.schedulers import prepare
from lsvd.decomposition import geodesic
from lsvd.decomposition.svd import svd
from lsvd.sampling.trajectory import resume, run
from lsvd.statistics.intervals import Interval
from lsvd.statistics.verdicts import HOLDS, IN_PART, NOT
from lsvd.studies import neighbourhood
from lsvd.studies.neighbourhood import Neighbourhood, Result


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
    chance = neighbourhood.by_chance((12, 10), 10, "right")
    assert chance.value == chance.low == 0 < chance.high < 0.01


def test_angles_of_single_vectors_are_those_of_their_scalar_products():
    x = codes()
    leading = svd(x).truncate(1)
    for side, u in (("left", leading.U[..., 0]), ("right", leading.Vh[..., 0, :])):
        cosines = (u.unsqueeze(1) * u).double().sum(-1).abs().clamp_max(1)
        angles = cosines.arccos().mean(-1) / (torch.pi / 2)
        off = ~torch.eye(5, dtype=torch.bool)
        assert_close(neighbourhood.distances(x, 1, side)[off].double(), angles[off], rtol=0, atol=1e-3)


def test_the_spread_is_the_root_of_the_variance_over_pairs():
    D = neighbourhood.distances(codes(), 4)
    assert_close(D, D.transpose(0, 1))
    variance = neighbourhood.over_pairs(D**2) - neighbourhood.over_pairs(D) ** 2
    pairs = len(D) * (len(D) - 1) / 2
    assert_close(neighbourhood.spread(D), (variance * pairs / (pairs - 1)).sqrt(), rtol=1e-3, atol=1e-5)


def test_dimensions_run_from_one_to_the_last_but_the_whole_space():
    x = codes(n=3, H=9, W=12)
    found = neighbourhood.dimensions((x, 2 * x), (9, 12))
    assert list(found) == [(side, k) for side in ("left", "right") for k in (1, 2, 4, 8)]
    for (side, k), (own, twice, chance) in found.items():
        assert own.value == pytest.approx(neighbourhood.over_pairs(neighbourhood.distances(x, k, side)).mean().item())
        assert twice.value == pytest.approx(own.value, abs=1e-4)
        assert chance == neighbourhood.by_chance((9, 12), k, side, pairs=100)


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
    added = {fresh: neighbourhood.add_noise(model, walk, fresh=fresh) for fresh in (True, False)}
    mixed = neighbourhood.add_noise(model, walk, other=True)
    assert torch.equal(mixed[-1, 0], walk.final[1])
    assert torch.equal(walk.codes[0], other.codes[0])
    assert torch.equal(added[True][-1], walk.final) and torch.equal(added[False][-1], walk.final)
    # at the first timestep hardly anything but the noise is left: its own, or another
    start = [neighbourhood.bases(x, 3) for x in (walk.codes[0], added[False][0], added[True][0])]
    own, fresh = (geodesic.distance(start[0], each).mean() for each in start[1:])
    assert own < 0.5 * fresh


def planted(model=0.3, shared=0.5, mixed=0.5, others=0.5, chance=0.7, wide=0.1, shared_wide=0.1, B=8):
    """Distances around these means, with a standard deviation over pairs of about `wide`."""

    def around(mean, wide, seed):
        noise = torch.randn(12, 12, B, generator=torch.Generator().manual_seed(seed))
        return mean + wide * (noise + noise.transpose(0, 1)) / 2**0.5

    D, noise = around(model, wide, 0), around(shared, shared_wide, 1)
    plain = [around(value, 0.1, i) for i, value in enumerate((0.6, 0.6, mixed), 2)]
    sure = Interval(chance, chance, chance)
    return Neighbourhood(D, *plain[:2], noise, plain[2], torch.full((12, B), others), sure, torch.arange(12.0), {})


def said(result):
    return {(each.claim, each.backbone): each.verdict for each in neighbourhood.verdicts(result)}


@pytest.mark.parametrize(
    ("changes", "nearer"),
    [
        ({}, {"chance", "other pictures", "its noise, another's x_0", "its noise added to x_0"}),
        ({"shared": 0.1}, {"chance", "other pictures", "its noise, another's x_0"}),
        ({"mixed": 0.1, "shared": 0.1}, {"chance", "other pictures"}),
        ({"model": 0.6}, {"chance"}),
        ({"model": 0.9}, set()),
    ],
)
def test_a_model_lies_nearer_than_what_lies_farther(changes, nearer):
    result = Result(8, {"mini-cats": planted(**changes)})
    expected = {null: HOLDS if null in nearer else NOT for null in neighbourhood.NULLS}
    assert said(result) == {(f"nearer than: {null}", "mini-cats"): word for null, word in expected.items()}
    for each in neighbourhood.verdicts(result):
        assert each.study == "neighbourhood" and each.null == 0
        assert each.effect == result.models["mini-cats"].excess()[each.claim.removeprefix("nearer than: ")]


@pytest.mark.parametrize(
    ("latent", "word"),
    [
        ({"wide": 0.05}, HOLDS),
        ({"wide": 0.05, "shared_wide": 0.01}, IN_PART),
        ({"wide": 0.2, "shared_wide": 0.2}, NOT),
        ({"wide": 0.2, "shared_wide": 0.5}, NOT),
    ],
)
def test_the_latent_model_varies_less_by_more_than_its_noise_does(latent, word):
    result = Result(8, {"mini-cats": planted(), "mini-sd": planted(**latent), "another": planted()})
    assert said(result)["varies less than mini-cats", "mini-sd"] == word
    assert list(result.variation()) == ["another", "mini-cats"]
    own, null, beyond = result.variation()["another"]
    assert own.value - null.value == pytest.approx(beyond.value)
    assert Result(8, {"mini-cats": planted()}).variation() == {}


def test_what_carried_noise_covers():
    assert planted(model=0.3, mixed=0.3, chance=0.7).noise_share().value == pytest.approx(1, abs=0.05)
    assert planted(model=0.3, mixed=0.6, chance=0.7).noise_share().value == pytest.approx(0.25, abs=0.05)


def test_the_study_of_models_and_its_table(tmp_path, monkeypatch):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    models = {kind: make() for kind, make in KINDS.items()}
    result = neighbourhood.measure(models, "a person", range(3), k=2)
    rows = neighbourhood.rows(result)
    for name, model in models.items():
        each = result.models[name]
        prompt = "a person" if name == "text-to-image" else None
        walk = run(model, prompt, range(3))
        assert_close(each.D, neighbourhood.distances(walk.codes, 2), rtol=1e-3, atol=1e-4)
        assert each.timesteps.tolist() == [*walk.timesteps.tolist(), 0]
        own = [row for row in rows if row["backbone"] == name]
        table = {(row["side"], row["k"], row["condition"]): row["value"] for row in own}
        assert len(table) == len(own) == len(each.means()) + 1 + 3 * len(each.dimensions)
        for condition, value in each.means().items():
            assert table["left", 2, condition] == f"{value.value:.4f}"
        assert table["right", 4, "every third step: chance"] == f"{each.dimensions['right', 4][2].value:.4f}"
    assert len(neighbourhood.verdicts(result)) == 4 * len(models)


def test_trajectories_that_do_not_fit_are_refused():
    model = KINDS["unconditional"]()
    walk, other, one = (run(model, None, seeds, steps=4, eta=eta) for seeds, eta in (((0, 1), 0), ((0, 2), 1), (0, 0)))
    with pytest.raises(ValueError, match="not of the same seeds"):
        neighbourhood.against_nulls(model, walk, other, k=2)
    with pytest.raises(ValueError, match="give the whole one"):
        neighbourhood.add_noise(model, resume(model, walk, walk.timesteps[2]))
    with pytest.raises(ValueError, match="two seeds or more"):
        neighbourhood.add_noise(model, one, other=True)


@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
@pytest.mark.parametrize("name", [name for name in NAMES if "Flow" not in name and "LTX" not in name])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_noise_is_added_at_the_levels_of_the_schedule(name, spacing):
    kind = getattr(diffusers, f"{name}Scheduler")
    model = text_to_image()
    model = model.with_scheduler(kind.from_config(model.scheduler.config, timestep_spacing=spacing))
    walk = run(model, "a person", [1, 2], 4)
    if not hasattr(kind, "add_noise"):
        with pytest.raises(ValueError, match=f"{name}Scheduler has no add_noise.*: take DDIMScheduler"):
            neighbourhood.add_noise(model, walk)
        return
    for used in (False, True):  # as after a call of another pipeline
        if used:
            model.scheduler.set_timesteps(9)
        added = neighbourhood.add_noise(model, walk)
        fresh = prepare(kind.from_config(model.scheduler.config), 4)
        for i, t in enumerate(walk.timesteps):
            expected = fresh.add_noise(walk.final, walk.codes[0] / walk.schedule.sigma, t.expand(2))
            assert torch.equal(added[i], expected)


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
