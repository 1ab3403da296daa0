"""Carriers that are planted, correlations that are known, and verdicts on both."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tiny import KINDS
from torch.testing import assert_close
from untrained import untrained

from lsvd.decomposition.svd import svd
from lsvd.sampling.trajectory import run
from lsvd.statistics import intervals
from lsvd.statistics.verdicts import HOLDS, IN_PART, NOT, UNDECIDED
from lsvd.studies import encoding, responses, survey
from lsvd.studies import order as study
from lsvd.studies.order import carriers, order
from lsvd.studies.responses import Responses

ROOT = Path(__file__).resolve().parents[2]
# diffusers 0.42 still calls NumPy in ways that NumPy 2 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
TIMES = (800.0, 600.0, 400.0, 200.0, 0.0)
BANDS = tuple((i,) for i in range(5))


def planted(places, null=None, B=30, seed=0):
    """Responses at TIMES of two factors: places[f][i] is the band that moves factor f most at the i-th time."""
    g = torch.Generator().manual_seed(seed)
    found = []
    for i, t in enumerate(TIMES):
        moved, chance = (0.1 * torch.rand(len(BANDS), B, 2, generator=g) for _ in range(2))
        for f, its in enumerate(places):
            moved[its[i], :, f] += 0.5
        for f, its in enumerate(null or ()):
            chance[its[i], :, f] += 0.5
        found.append(Responses(moved, chance, ("a", "b"), ("coarse", "fine"), t, BANDS, 2.0))
    return found


FALLS, RISES = (0, 1, 2, 3, 4), (4, 3, 2, 1, 0)


def test_planted_carriers_are_found():
    found = planted([FALLS, (2, 2, 0, 0, 4)])
    ranks = torch.stack([carriers(each.moved) for each in found])
    assert carriers(torch.stack([each.moved for each in found])).equal(ranks)
    assert ranks.shape == (5, 30, 2)
    assert (ranks[..., 0] == torch.tensor(FALLS)[:, None]).all()
    assert (ranks[..., 1] == torch.tensor((2, 2, 0, 0, 4))[:, None]).all()


def test_the_correlation_has_the_sign_of_the_claim():
    found = order(planted([FALLS, RISES]))
    assert list(found) == ["a", "b", "coarse", "fine"]
    # t falls along the list: the carrier of a goes down the order, to larger ranks, as t falls
    assert found["a"].rho.value == pytest.approx(-1) and found["b"].rho.value == pytest.approx(1)
    assert abs(found["a"].null.value) < 0.3 < found["a"].null.high - found["a"].rho.value
    assert found["a"].beyond.high < 0 < found["b"].beyond.low
    assert found["coarse"] == found["a"] and found["a"].n == 30


def test_what_the_null_does_too_is_taken_off():
    found = order(planted([FALLS, RISES], null=[FALLS, RISES]))
    assert found["a"].rho.value == found["a"].null.value == pytest.approx(-1)
    assert found["a"].beyond.value == pytest.approx(0) and found["b"].beyond.value == pytest.approx(0)


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_values_are_scipys_and_random_ones_show_nothing_much(seed):
    g = torch.Generator().manual_seed(seed)
    found = [
        Responses(*torch.rand(2, 5, 20, 2, generator=g), ("a", "b"), ("coarse", "fine"), t, BANDS, 2.0) for t in TIMES
    ]
    ranks = torch.stack([carriers(each.moved) for each in found])[..., 1].numpy()
    its = order(found)["b"]
    t = np.broadcast_to(np.array(TIMES)[:, None], ranks.shape)
    assert its.rho.value == pytest.approx(stats.spearmanr(t.ravel(), ranks.ravel()).statistic)
    assert its.beyond.value == pytest.approx(its.rho.value - its.null.value)
    assert abs(its.rho.value) < 0.5


def test_the_interval_is_that_of_spearman_over_pictures():
    g = torch.Generator().manual_seed(3)
    found = [Responses(*torch.rand(2, 5, 40, 1, generator=g), ("a",), ("fine",), t, BANDS, 2.0) for t in TIMES]
    ranks = torch.stack([carriers(each.moved) for each in found])[..., 0].numpy()
    t = np.broadcast_to(np.array(TIMES)[:, None], ranks.shape)
    other = intervals.spearman(t, ranks, np.arange(40))
    its = order(found)["a"].rho
    assert (its.value, its.low, its.high) == pytest.approx((other.value, other.low, other.high))


def test_pictures_that_do_not_show_a_factor_are_left_out():
    found = planted([FALLS, RISES], B=12)
    whole = order(found)
    for each in found:
        each.moved[:, 6:, 0] = torch.nan
        each.null[:, 6:, 0] = torch.nan
    some = order(found)
    assert some["a"].n == 6 and some["b"] == whole["b"] and some["a"].rho.value == pytest.approx(-1)
    for each in found:
        each.moved[:, 1:, 0] = torch.nan
        each.null[:, 1:, 0] = torch.nan
    assert list(order(found)) == ["b", "fine"]


def test_a_carrier_that_never_moves_has_no_correlation():
    assert "a" not in order(planted([(0,) * 5, RISES]))


def test_moves_too_small_to_tell_are_left_out():
    found = planted([FALLS, RISES], B=12)
    whole = order(found)
    for each in found[1:4]:
        each.moved[:, :, 0] = 1e-4 * torch.rand(5, 12, generator=torch.Generator().manual_seed(0))
    assert carriers(found[1].moved)[:, 0].isnan().all() and carriers(found[0].moved).isfinite().all()
    some = order(found)
    assert some["a"].rho.value == pytest.approx(-1) and some["a"].n == 12 and some["b"] == whole["b"]
    for each in found[:4]:
        each.moved[:, :, 0] = 0
    assert list(order(found)) == ["b", "fine"]


def test_a_factor_that_is_hardly_ever_there_does_not_count_for_its_scale():
    found = [dataclasses.replace(each, scales=("fine", "fine")) for each in planted([FALLS, RISES], B=20)]
    both = order(found)
    assert both["fine"].rho.value == pytest.approx(0)
    for each in found:
        each.moved[:, 4:, 0] = torch.nan
        each.null[:, 4:, 0] = torch.nan
    some = order(found)
    assert some["a"].n == 4 and some["fine"] == some["b"] and some["fine"].n == 20


def test_bad_responses_are_explained():
    found = planted([FALLS, RISES])
    other = [dataclasses.replace(found[0], factor=3.0), *found[1:]]
    for bad, said in (
        (found[:1], "two or more"),
        (planted([FALLS, RISES], B=1), "more seeds"),
        (other, "differ only in t"),
    ):
        with pytest.raises(ValueError, match=said):
            order(bad)
    with pytest.raises(ValueError, match="no responses"):
        order([])


# the study


def result(found, mobility=None, name="mini-cats"):
    plan = survey.Plan(bands=BANDS)
    evidence = {name: encoding.evidence(found)} if found else {}
    orders = {name: order(found)} if found else {}
    return study.Result(plan, mobility or {name: moving()}, {name: found} if found else {}, evidence, orders)


class Walk:
    """Codes of B pictures whose triplets exchange their places, `places` along the whole way."""

    def __init__(self, places=0, B=6, steps=11):
        frame = svd(torch.randn(1, B, 2, 12, 12, generator=torch.Generator().manual_seed(0)))
        order = torch.arange(12).repeat(steps, 1)
        for step in range(steps):
            if 2 * step > steps:
                order[step] = torch.arange(12).roll(-places)
        sizes = (20.0 - order).view(steps, 1, 1, 1, 12)
        self.codes = (frame.U * sizes) @ frame.Vh
        self.codes = torch.cat([self.codes, self.codes[-1:]])
        self.timesteps = torch.arange(steps - 1, -1, -1) * 100

    def nearest(self, fraction):
        return int(round(10 * fraction)) * 100

    def index(self, t):
        return self.timesteps.tolist().index(t)


def moving(places=0):
    return study.mobility(Walk(places), 0.4)


def said(result):
    return {each.claim: each.verdict for each in study.verdicts(result)}


@pytest.mark.parametrize(("places", "word"), [(0, UNDECIDED), (6, HOLDS)])
def test_ranks_that_move_by_more_than_a_place(places, word):
    each = moving(places)
    own, null, beyond = each.far()
    assert (own.value > 5) == bool(places) and null.value > 2 and own.low <= own.value <= own.high
    assert own.value - null.value == pytest.approx(beyond.value)
    found = study.verdicts(result((), {"mini-cats": each}))
    assert [(one.study, one.claim, one.null, one.verdict) for one in found] == [
        ("order", "ranks move by more than a place", 1.0, word)
    ]
    assert found[0].effect == own


def test_paths_start_where_they_are_named():
    each = moving(6)
    assert each.paths.reference == 6 and each.paths.ranks.shape == (11, study.PICTURES, 2, study.TRIPLETS)
    assert each.lost.value == 0 and each.timesteps.tolist() == list(range(1000, -1, -100))


COARSE, FINE = (study.CLAIMS[scale][0] for scale in ("coarse", "fine"))


@pytest.mark.parametrize(
    ("places", "null", "words"),
    [
        ((FALLS, RISES), None, (HOLDS, HOLDS)),
        ((RISES, FALLS), None, (NOT, NOT)),
        ((FALLS, RISES), (FALLS, RISES), (UNDECIDED, UNDECIDED)),
        # they move against the null, but not by themselves
        (((2, 2, 0, 2, 2), (2, 2, 0, 2, 2)), (RISES, FALLS), (IN_PART, IN_PART)),
    ],
)
def test_coarse_carriers_sink_and_fine_ones_rise(places, null, words):
    found = said(result(planted(places, null)))
    assert (found[COARSE], found[FINE]) == words


def test_a_model_without_a_reader_has_its_ranks_judged_alone():
    assert list(said(result(()))) == ["ranks move by more than a place"]


def test_factors_stand_above_the_mean_of_their_scale():
    found = [dataclasses.replace(each, scales=("fine", "coarse")) for each in planted([FALLS, RISES])]
    own = result(found)
    assert list(own.by_scale("mini-cats")) == ["b", "mean coarse", "a", "mean fine"]
    orders = own.orders["mini-cats"]
    assert own.by_scale("mini-cats")["mean fine"] == (orders["fine"], "fine")


def test_what_a_triplet_carries_is_what_it_moves_most_above_chance():
    test = encoding.evidence(planted([FALLS, (1, 1, 1, 1, 1)]))
    assert study.main_factors(test, 0) == [0, 1, None, None, None]
    assert study.main_factors(test, 3) == [None, 1, None, 0, None]


def test_the_table_has_every_time_and_every_order():
    own = result(planted([FALLS, RISES]), {"mini-cats": moving(6)})
    rows = study.rows(own)
    table = {(row["measure"], row["of"]): row for row in rows}
    assert len(table) == len(rows) == 10 + 1 + 4 and {row["backbone"] for row in rows} == {"mini-cats"}
    change = own.mobility["mini-cats"].same
    for i in (0, 9):
        row = table["rank change", f"dt = {100 * (i + 1)}"]
        assert (row["value"], row["n"]) == (f"{change.by_sample[i].mean():.4f}", 6)
    far = own.mobility["mini-cats"].far()
    assert table["rank change", "half the way and more"]["beyond high"] == f"{far[2].high:.4f}"
    its = own.orders["mini-cats"]["coarse"]
    assert table["Spearman of rank and t", "coarse"]["null low"] == f"{its.null.low:.4f}"


def test_a_gallery_scales_each_triplet_where_it_has_gone():
    model = KINDS["unconditional"]()
    walk = run(model, None, (3,), steps=4)
    times = walk.timesteps.tolist()[::2]
    drawn = study.gallery(model, walk, times, (1.0, 2.0))
    assert drawn.shape == (4, 1 + study.TRIPLETS, *model.decode(walk.final).shape[1:])
    # scaled by one is left as it is
    assert_close(drawn[::2], drawn[:1, :1].expand_as(drawn[::2]), rtol=0, atol=1e-4)
    codes = svd(walk.at(times[0])).scale(2, 2.0).recompose()[None]
    assert_close(drawn[1, 3], responses.pictures(model, walk, times[0], codes)[0, 0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_study_of_a_model(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("LSVD_MEASUREMENTS", str(tmp_path))
    model, plan = KINDS[kind](), survey.Plan(steps=4, times=(0.75, 0.0), bands=((0,), (1, 2)), prompt="an old person")
    own = study.measure({"mine": model, "unread": model}, {"mine": untrained()}, plan, range(3), range(2))
    assert list(own.mobility) == ["mine", "unread"] and list(own.orders) == list(own.responses) == ["mine"]
    walk = run(model, "an old person" if kind == "text-to-image" else None, range(2))
    assert own.mobility["mine"].timesteps.tolist() == walk.timesteps.tolist()
    assert own.orders["mine"].keys() == order(survey.survey(model, untrained(), plan, range(3))).keys()
    assert {row["backbone"] for row in study.rows(own)} == {"mine", "unread"}


def test_the_shipped_measurements_give_the_shipped_correlations_and_verdicts():
    models, readers = survey.subjects("mini-cats")
    found = survey.survey(models["mini-cats"], readers["mini-cats"], survey.Plan(), range(survey.SAMPLES))
    own = result(found)
    with (ROOT / "outputs" / "tables" / "order.csv").open(newline="") as file:
        theirs = {row["of"]: row for row in csv.DictReader(file) if row["backbone"] == "mini-cats"}
    for row in (row for row in study.rows(own) if row["measure"] != "rank change"):
        for head in ("value", "low", "high", "null value", "beyond value", "beyond low", "beyond high", "n"):
            assert float(row[head]) == pytest.approx(float(theirs[row["of"]][head]), abs=2e-4)
    with (ROOT / "outputs" / "tables" / "verdicts.csv").open(newline="") as file:
        verdicts = {row["claim"]: row["verdict"] for row in csv.DictReader(file) if row["backbone"] == "mini-cats"}
    assert {claim: said(own)[claim] for claim in (COARSE, FINE)} == {claim: verdicts[claim] for claim in (COARSE, FINE)}
