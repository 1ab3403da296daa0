"""Strength and answer, on made-up outcomes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import text_to_image
from torch.testing import assert_close
from untrained import SCENE, untrained

from lsvd.avi import attribute
from lsvd.sampling.trajectory import run
from lsvd.statistics.verdicts import HOLDS, IN_PART, NOT, UNDECIDED
from lsvd.studies import merit, strength
from lsvd.studies.edits import Outcome
from lsvd.studies.ways import SOURCE, Way, integration

STRENGTHS = (0.0, 0.5, 1.0)
WAYS = [Way("lerp", 0.5, weight=s) for s in STRENGTHS]


def found(after: list[float], had: list[int]) -> Outcome:
    n = len(after)
    rest = {name: torch.zeros(n) for name in ("before", "distance", "chroma")}
    had, after = torch.tensor(had, dtype=torch.bool), torch.tensor(after)
    return Outcome(had, after > 0.5, after=after, side=after / 10, features=torch.zeros(n, 4), **rest)


def measured(*curves: list[list[float]], had=(0, 0, 0)) -> dict:
    """Of each attribute a row of probabilities for each strength."""
    return {str(i): {way: found(row, had) for way, row in zip(WAYS, own, strict=True)} for i, own in enumerate(curves)}


LINE = [[0.0, 0.0, 0.0], [0.4, 0.5, 0.6], [1.0, 1.0, 1.0]]
STEP = [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]


def test_curves_are_means_over_attributes_and_pictures():
    own = strength.curve(measured(LINE, STEP), WAYS, "after")
    assert [point.value for point in own] == pytest.approx([0, 0.25, 1])
    assert own[1].low < 0.25 < own[1].high
    assert [p.value for p in strength.curve(measured(LINE), WAYS, "side")] == pytest.approx([0, 0.05, 0.1])


def test_strength_0_has_no_interval_where_it_is_the_source():
    own = result(1.0)
    own = replace(own, measured={name: dict(by_way) for name, by_way in own.measured.items()})
    zero = strength.STRENGTHS.index(0.0)
    source = own.ways["AVI"][zero]
    for by_way in own.measured.values():
        by_way[source] = replace(by_way[source], side=torch.zeros(4))
    side, after = (own.curves(what)["AVI"] for what in ("side", "after"))
    assert side[:, zero].tolist() == [0, 0, 0] and side[2, zero + 1] > side[0, zero + 1]
    assert after[1, zero] < after[0, zero] < after[2, zero]
    row = strength.rows(own)[zero]
    assert (row["side_effects"], row["side_effects_low"], row["side_effects_high"]) == ("0.0000",) * 3


def test_pictures_that_had_the_attribute_do_not_count():
    own = measured(LINE, had=(0, 1, 0))
    assert np.isnan(merit.values(own, WAYS, "after")[0, :, 1]).all()
    assert strength.curve(measured([[0, 1, 0], [0.2, 1, 0.4], [1, 1, 1]], had=(0, 1, 0)), WAYS, "after")[
        1
    ].value == pytest.approx(0.3)


def test_what_rises_in_every_picture_is_monotone():
    assert strength.monotone(measured(LINE), WAYS, STRENGTHS).value == pytest.approx(1)
    falling = measured(LINE[::-1])
    assert strength.monotone(falling, WAYS, STRENGTHS).value == pytest.approx(-1)
    still = measured([[0.5] * 3] * 3)
    assert strength.monotone(still, WAYS, STRENGTHS).value == 0


def test_a_line_has_no_bend_and_a_step_has_much():
    assert strength.bend(measured(LINE), WAYS, STRENGTHS).value == pytest.approx(0, abs=1e-6)
    step = strength.bend(measured(STEP), WAYS, STRENGTHS)
    assert step.value == pytest.approx(0.5) and 0 <= step.low < 0.5 < step.high
    line, step = (
        strength.bend(measured([row * 8 for row in rows], had=(0,) * 24), WAYS, STRENGTHS) for rows in (LINE, STEP)
    )
    assert line.low == 0 < line.high < 0.2 and step.low > 0.2
    assert np.isnan(strength.bend(measured([[0.5] * 3] * 3), WAYS, STRENGTHS).value)


# the study

SETTING = integration(0.5, 2, dtau=-1)


def result(rising: float, straight: bool = True, had=(0, 0, 0, 0), n: int = 4) -> strength.Result:
    """The edit's probability rises in a share of the pictures and falls in the others; lerp's is a step at 1."""
    steps = strength.STRENGTHS
    rises = torch.linspace(0.1, 0.9, len(steps)) if straight else torch.linspace(0.1, 0.9, len(steps)) ** 4
    up = torch.arange(n) < round(rising * n)
    edit, lerp = strength.at_strengths(SETTING).values()
    ways = {way: found(torch.where(up, p, 1 - p).tolist(), had) for way, p in zip(edit, rises, strict=True)}
    ways |= {way: found([float(s >= 1)] * n, had) for way, s in zip(lerp, steps, strict=True)}
    ways[strength.transfer_of(SETTING)] = found([0.0] * n, had)
    return strength.Result("mini-sd", SETTING, {"old": ways, "smile": ways})


def test_strengths_are_of_one_setting_and_of_lerp_to_the_same_z():
    ways = strength.at_strengths(SETTING)
    assert SETTING in ways["AVI"]
    for method, own in ways.items():
        assert [way.weight for way in own] == list(strength.STRENGTHS)
        assert {(way.method, way.tx, way.dtau) for way in own} == {(method, 0.5, -1)}
    branched = strength.at_strengths(replace(SETTING, dtau=0, branch=0.6))["lerp"]
    assert {(way.branch, way.dtau) for way in branched} == {(0.6, 0)}


@pytest.mark.parametrize(("rising", "word"), [(1.0, HOLDS), (0.9, IN_PART), (0.5, UNDECIDED), (0.0, NOT)])
def test_strength_turns_the_attribute_up_if_it_rises_in_nearly_all_pictures(rising, word):
    (claim,) = strength.verdicts(result(rising, had=[0] * 80, n=80))
    assert (claim.study, claim.claim, claim.verdict) == ("strength", "strength turns the attribute up (AVI)", word)
    assert claim.effect.value == pytest.approx(2 * rising - 1)


def test_the_bend_is_taken_between_the_source_and_what_was_learned():
    assert result(1.0).bend("AVI").value == pytest.approx(0, abs=1e-6)
    assert result(1.0).bend("lerp").value == pytest.approx(0.5)
    assert result(1.0, straight=False).bend("AVI").value > 0.05
    curve = result(1.0).curves("after")["AVI"]
    assert curve.shape == (3, len(strength.STRENGTHS)) and curve[0].tolist() == pytest.approx(np.linspace(0.1, 0.9, 7))


def test_what_transfers_stands_beside_what_each_seed_learned():
    own = result(1.0).transfer()
    assert list(own) == ["its own", "of other seeds"]
    assert [point.success.value for point, _ in own.values()] == [1.0, 0.0]
    assert {name: each.lacking for name, each in own["its own"][1].items()} == {"old": 4, "smile": 4}


def test_rows_are_the_curves_of_each_attribute():
    rows = strength.rows(result(1.0))
    assert len(rows) == 2 * 2 * len(strength.STRENGTHS)
    assert [row["strength"] for row in rows[:3]] == ["-1", "-0.5", "0"]
    assert (rows[6]["attribute"], rows[6]["method"], rows[6]["probability"], rows[6]["n"]) == (
        "old",
        "AVI",
        "0.9000",
        4,
    )
    few = strength.rows(result(1.0, had=(1, 1, 1, 0)))[6]
    assert (few["probability"], few["probability_low"], few["n"]) == ("", "", 1) and few["side_effects"] == "0.0900"


def test_a_pair_of_attributes_is_added_to_the_same_code(tmp_path, monkeypatch):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    model, seeds, doses = text_to_image(), (0, 1), [0.0, 1.0]
    way = replace(SETTING, dtau=0)
    pictures = strength.pair_pictures(model, ["old", "glasses"], way, seeds, doses)
    source = run(model, SOURCE, seeds)
    assert pictures.shape == (2, 2, *model.decode(source.final).shape)
    assert_close(pictures[0, 0], model.decode(source.final))
    learned = attribute.learn(model, SOURCE, "an old person", seeds, placement=way.placement, method=way.config)
    assert_close(pictures[1, 0], model.decode(attribute.apply_to(model, source, learned, 1.0).final))
    assert not torch.equal(pictures[0, 1], pictures[0, 0])


def test_probabilities_are_means_over_pictures(monkeypatch):
    reader = untrained()
    monkeypatch.setattr(strength, "ATTRIBUTES", {"blue": {"hue": "blue"}, "ring": {"ring": "ring"}})
    pictures = torch.rand(2, 3, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    chances = strength.pair_probabilities(reader, pictures, ["blue", "ring"])
    assert chances.shape == (2, 3, 2)
    own = reader.read(pictures[1, 2]).probabilities
    assert_close(chances[1, 2, 0], own["hue"][:, SCENE.index("hue", "blue")].mean())
    assert_close(chances[1, 2, 1], own["ring"][:, SCENE.index("ring", "ring")].mean())
