"""Statistics of responses that are known, and verdicts on planted ones."""

import csv
import dataclasses
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from lsvd.statistics.intervals import mean
from lsvd.statistics.verdicts import HOLDS, IN_PART, NOT
from lsvd.studies import encoding, survey
from lsvd.studies.responses import Responses
from lsvd.studies.survey import Plan

ROOT = Path(__file__).resolve().parents[2]


def noise(shape, seed, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def synthetic(excess, t=0.0, scales=("coarse", "middle", "fine")):
    """Responses whose moved - null is `excess`, shape (bands, B, factors)."""
    bands = tuple((i,) for i in range(len(excess)))
    return Responses(excess + 0.5, torch.full_like(excess, 0.5), ("a", "b", "c"), scales, t, bands, 2.0)


def test_one_encoded_attribute_is_found_among_many():
    found = [synthetic(0.1 * noise((5, 20, 3), t), float(t)) for t in range(3)]
    found[2].moved[4, :, 1] += 0.2
    seen = encoding.evidence(found)
    assert seen.above.shape == seen.p.shape == (3, 5, 3)
    assert seen.above.nonzero().tolist() == [[2, 4, 1]]
    # without the correction others would have passed
    assert (seen.p < 0.05).sum() > 1 and (seen.q >= seen.p).all() and seen.q.max() <= 1
    joint = stats.false_discovery_control(seen.p.flatten().numpy(), method="by")
    assert_close(seen.q.flatten().numpy(), joint)
    assert (seen.low <= seen.excess).all() and (seen.excess <= seen.high).all() and (seen.n == 20).all()
    assert seen.low[2, 4, 1] > 0.1 and seen.high[2, 4, 1] < 0.3
    assert_close(seen.excess[0], (found[0].moved - found[0].null).mean(1))
    # it is one-sided: moving less than chance is not evidence
    found[2].moved[4, :, 1] -= 0.4
    assert not encoding.evidence(found[2:]).above.any()


def test_invisible_factors_are_left_out():
    excess = 0.1 * noise((2, 20, 3), 1) + 0.2
    whole = encoding.evidence([synthetic(excess[:, :10])])
    excess[:, 10:, 0] = torch.nan
    excess[:, :, 1] = torch.nan
    excess[:, 1:, 2] = torch.nan
    seen = encoding.evidence([synthetic(excess)])
    assert seen.n.tolist() == [[[10, 0, 1]] * 2]
    for name in ("excess", "low", "high", "p"):
        part = getattr(seen, name)
        assert_close(part[..., 0], getattr(whole, name)[..., 0])
        assert part[..., 1:].isnan().all()
    assert seen.above.tolist() == [[[True, False, False]] * 2]


def test_no_response_is_no_evidence():
    seen = encoding.evidence([synthetic(torch.zeros(2, 8, 3))])
    assert (seen.p == 1).all() and not seen.above.any() and not seen.excess.any()
    assert (seen.low < 0).all() and (seen.high > 0).all()


def trending(B=40):
    """Coarse factors answer more at large t, fine ones more at small t, middle ones anyhow."""
    found = []
    for i, t in enumerate((800.0, 600.0, 400.0, 200.0, 0.0)):
        excess = 0.01 * noise((2, B, 3), i)
        excess[..., 0] += t / 1000
        excess[..., 1] = noise((2, B), 10 + i)
        excess[..., 2] -= t / 1000 - 0.2
        found.append(synthetic(excess, t))
    return found


def test_known_trends_are_found():
    found = encoding.trend(trending())
    assert list(found) == ["coarse", "middle", "fine", "coarse - fine"]
    assert found["coarse"].value > 0.99 and found["fine"].value < -0.99 and found["coarse - fine"].value > 1.98
    assert found["coarse"].low > 0.8 and found["fine"].high < -0.8
    assert found["middle"].low < 0 < found["middle"].high
    # neither the order of timesteps nor the size of responses matters
    turned = [dataclasses.replace(own, moved=own.null + 9 * (own.moved - own.null)) for own in trending()[::-1]]
    again = encoding.trend(turned)
    assert all(again[name].value == pytest.approx(found[name].value) for name in found)
    assert encoding.by_scale(trending())["fine"].shape == (5, 40)


def test_a_trend_leaves_out_what_cannot_have_one():
    found = trending()
    for own in found:
        own.moved[:, :10, 2] = torch.nan
        own.moved[:, 10:20, 2] = 0.5
        own.moved[0, 20:, 2] = torch.nan
    assert encoding.by_scale(found)["fine"].isnan().sum() == 50
    some = encoding.trend(found)
    assert some["fine"].value < -0.99 and some["coarse - fine"].value > 1.9
    one = encoding.trend([dataclasses.replace(own, scales=("middle",) * 3) for own in trending()])
    assert list(one) == ["middle"]


# the study


def planted(coarse, fine, B=30):
    """Responses at five timesteps whose coarse and fine factor exceed the null by these, at large t first."""
    found = []
    for i, t in enumerate((800.0, 600.0, 400.0, 200.0, 0.0)):
        excess = 0.01 * noise((2, B, 3), i)
        for factor, values in ((0, coarse), (2, fine)):
            excess[..., factor] += values[i]
        found.append(synthetic(excess, t))
    return found


def result(found, name="mini-cats"):
    parts = ({name: function(found)} for function in (encoding.evidence, encoding.scale_means, encoding.trend))
    return encoding.Result(Plan(bands=tuple((i,) for i in range(2))), {name: found}, *parts)


NO, SOME, ALL = (-0.1,) * 5, (-0.1, 0.1, -0.1, 0.1, -0.1), (0.1,) * 5
FALLING, RISING = (0.5, 0.4, 0.3, 0.2, 0.1), (0.1, 0.2, 0.3, 0.4, 0.5)


@pytest.mark.parametrize(("coarse", "said"), [(NO, NOT), (SOME, IN_PART), (ALL, HOLDS)])
def test_a_scale_is_encoded_where_its_factors_move_further_than_chance(coarse, said):
    study = result(planted(coarse, ALL))
    found = {each.claim: each for each in encoding.verdicts(study)}
    own = found["encoded: coarse attributes"]
    assert (own.study, own.backbone, own.verdict, own.null) == ("encoding", "mini-cats", said, 0)
    assert found["encoded: fine attributes"].verdict == HOLDS
    effect, by_time = study.means["mini-cats"]["coarse"]
    assert own.effect == effect and effect.value == pytest.approx(sum(each.value for each in by_time) / 5)
    assert [each.low > 0 for each in by_time] == [x > 0 for x in coarse]


def test_timesteps_are_judged_together():
    edge = next(e for shift in torch.linspace(0, 1, 200) if (e := mean(torch.linspace(-1, 1, 16) + shift)).low > 0.001)
    none, sure = mean(torch.linspace(-1, 1, 16)), mean(torch.linspace(1, 2, 16))
    assert encoding.encoded_at([edge]) == [True] and encoding.encoded_at([edge, none, none, none, none]) == [False] * 5
    assert encoding.encoded_at([edge, sure, sure]) == [True] * 3


@pytest.mark.parametrize(
    ("coarse", "fine", "said"),
    [(FALLING, RISING, HOLDS), (FALLING, SOME, IN_PART), (SOME, RISING, IN_PART), (RISING, FALLING, NOT)],
)
def test_coarse_at_large_t_and_fine_at_small_t(coarse, fine, said):
    [found] = [each for each in encoding.verdicts(result(planted(coarse, fine))) if "encoded" not in each.claim]
    assert (found.claim, found.verdict) == ("coarse at large t, fine at small t", said)


def test_there_is_no_trend_to_judge_without_both_scales():
    found = [dataclasses.replace(each, scales=("fine",) * 3) for each in planted(ALL, ALL)]
    assert [each.claim for each in encoding.verdicts(result(found))] == ["encoded: fine attributes"]


def test_the_strongest_cell_is_the_largest_of_those_above_chance():
    found = planted(NO, (0, 0.1, 0.3, 0.2, 0))
    found[3].moved[1, :, 2] += 0.5
    # a few pictures that change altogether outweigh the rest in the mean, but not in ranks
    found[0].moved[0, :3, 2] += 20
    test = encoding.evidence(found)
    assert test.excess[0, 0, 2] > test.excess[3, 1, 2] and not test.above[0, 0, 2]
    assert test.strongest == [None, None, (3, 1)]


def test_curves_and_moves_are_the_means_of_their_scale():
    found = planted(SOME, RISING)
    curves, (moved, null) = encoding.curves(found), encoding.moves(found)
    assert list(curves) == list(moved) == list(null) == ["coarse", "middle", "fine"]
    assert_close(curves["coarse"][0], torch.tensor(SOME), rtol=0, atol=0.01)
    assert (curves["coarse"][1] < curves["coarse"][0]).all() and (curves["coarse"][0] < curves["coarse"][2]).all()
    assert_close((moved["fine"] - null["fine"]).float(), curves["fine"][0].float())


def test_every_tested_cell_is_a_row_of_the_table():
    found = [dataclasses.replace(each, scales=("coarse", "coarse", "fine")) for each in planted(ALL, SOME)]
    for each in found:
        each.moved[..., 1] = torch.nan
    rows = encoding.rows(result(found))
    cells = [(row["t"], row["triplets"], row["factor"]) for row in rows]
    assert len(set(cells)) == len(rows) == 5 * 2 * 2 and {row["factor"] for row in rows} == {"a", "c"}
    row = rows[cells.index(("600", "2", "a"))]
    moved, null = (part[1, :, 0].mean().item() for part in (found[1].moved, found[1].null))
    expected = {"moved": f"{moved:.4f}", "null": f"{null:.4f}", "scale": "coarse", "backbone": "mini-cats", "n": 30}
    assert expected.items() <= row.items()


@pytest.fixture(scope="module")
def shipped():
    """The study of one embedded model, from the measurements that come with the project."""
    models, readers = survey.subjects("mini-cats")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(survey, "_measure", lambda *_: pytest.fail("measured again"))
        return encoding.measure(models, readers)


def committed(name):
    with (ROOT / "outputs" / "tables" / f"{name}.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["backbone"] == "mini-cats"]


def test_the_shipped_measurements_give_the_shipped_table_and_verdicts(shipped):
    theirs = committed("encoding")
    for own, other in zip(encoding.rows(shipped), theirs, strict=True):
        for head, value in own.items():
            number = head in ("moved", "null", "excess", "low", "high", "q")
            assert (
                float(other[head]) == pytest.approx(float(value), rel=0.02, abs=2e-4)
                if number
                else (other[head] == str(value))
            )
    verdicts = {row["claim"]: row["verdict"] for row in committed("verdicts") if row["study"] == "encoding"}
    assert {each.claim: each.verdict for each in encoding.verdicts(shipped)} == verdicts


def test_correlations_of_the_shipped_measurements_are_those_of_the_textbook(shipped):
    """Without ties, Spearman's correlation is 1 - 6 sum d^2 / (n (n^2 - 1)), d the differences of ranks."""
    found = shipped.responses["mini-cats"]
    t = torch.tensor([each.t for each in found]).argsort().argsort().unsqueeze(1)
    for scale, y in encoding.by_scale(found).items():
        rho = 1 - 6 * ((y.argsort(0).argsort(0) - t) ** 2).sum(0) / (len(t) * (len(t) ** 2 - 1))
        own = rho[y.isfinite().all(0)].mean().item()
        assert shipped.trends["mini-cats"][scale].value == pytest.approx(own, abs=0.02)


def test_cells_called_are_those_of_benjamini_and_yekutieli(shipped):
    """The largest i with p_(i) <= level * i / (m (1 + 1/2 + ... + 1/m))."""
    test = shipped.evidence["mini-cats"]
    p = test.p[test.p.isfinite()].sort().values
    i = torch.arange(1, len(p) + 1, dtype=torch.float64)
    passed = (p <= encoding.LEVEL * i / (len(p) * (1 / i).sum())).nonzero()
    assert len(passed) and torch.equal(test.above, (test.p <= p[passed.max()]) & (test.excess > 0))


def test_bad_statistics_are_explained():
    one = synthetic(torch.zeros(2, 8, 3))
    for call, said in (
        (lambda: encoding.evidence([]), "no responses"),
        (lambda: encoding.evidence([one, synthetic(torch.zeros(2, 7, 3))]), "differ only in t"),
        (lambda: encoding.evidence([synthetic(torch.full((2, 8, 3), torch.nan))]), "visible"),
        (lambda: encoding.trend([one, one]), "two or more"),
        (lambda: encoding.trend([own for own in trending(1)]), "take more pictures"),
    ):
        with pytest.raises(ValueError, match=said):
            call()
