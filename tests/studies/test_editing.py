"""The study of edits: on a tiny model and few settings, on made-up outcomes, and on the shipped measurements."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from outcomes import outcome
from tiny import text_to_image

from lsvd.__main__ import main
from lsvd.avi import bound
from lsvd.avi.exact import AVIConfig
from lsvd.backbones import clip
from lsvd.sampling.trajectory import run
from lsvd.statistics.verdicts import HOLDS, NOT
from lsvd.studies import ablation, editing, edits, strength
from lsvd.studies.edits import Measured
from lsvd.studies.rig import Rig, load_rig
from lsvd.studies.ways import ATTRIBUTES as ALL
from lsvd.studies.ways import CENTRES, Way, integration, singly, target_prompt, tries
from lsvd.testbed import reader as readers

ROOT = Path(__file__).resolve().parents[2]
WAYS = [Way("target prompt"), integration(0.5, 2), integration(0.5, 3), Way("lerp", 0.5, weight=0.5)]
ATTRIBUTES = {name: ALL[name] for name in ("old", "red hair")}


@pytest.fixture
def rig(tmp_path, monkeypatch):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("LSVD_MEASUREMENTS", str(tmp_path))
    monkeypatch.setattr(editing, "tries", lambda: WAYS)
    for module in (edits, editing):
        monkeypatch.setattr(module, "ATTRIBUTES", ATTRIBUTES)
    monkeypatch.setattr(editing, "CHOOSING", (1, 2, 3))
    monkeypatch.setattr(editing, "REPORTED", (4, 5, 6))
    for module in (strength, ablation):
        monkeypatch.setattr(module, "FEW", (4, 5))
    monkeypatch.setattr(edits, "LEARNED", (7, 8))
    monkeypatch.setitem(CENTRES, "AVI", WAYS[1])
    return Rig(text_to_image(), readers.load("portraits"), clip.load())


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_pictured_settings_are_among_those_reported(rig):
    tried = editing.search(rig)
    assert list(tried) == list(ATTRIBUTES) and all(list(each) == WAYS for each in tried.values())
    gentle, chosen = editing.gentlest(tried), editing.choose(tried, (0.0, 1.0))
    assert set(gentle) == {"AVI"} and set(chosen) == {"target prompt", "AVI", "lerp"}
    assert gentle["AVI"] in chosen["AVI"] and gentle["AVI"].method == "AVI"
    for family, ways in chosen.items():
        assert len(set(map(repr, ways))) == len(ways) and {way.family for way in ways} <= {family}


def test_the_studies_are_measured_by_name(rig, tmp_path, monkeypatch):
    monkeypatch.setattr("lsvd.studies.rig.load_rig", lambda *args: rig)
    for _ in range(2):  # a second run measures nothing, and replaces the rows of the first
        assert main(["study"]) == 0
        monkeypatch.setattr(edits, "final_codes", None)
    rows = table(tmp_path / "tables" / "sweep.csv")
    assert [row["attribute"] for row in rows] == [name for name in ATTRIBUTES for _ in WAYS]
    for row in rows:
        low, value, high = (float(row[name]) for name in ("side_effects_low", "side_effects", "side_effects_high"))
        assert 0 <= low <= value <= high <= 1
    methods = {way.method for way in strength.measure(rig).measured["old"]}
    assert methods == {"AVI", "lerp", "transfer"}


def test_an_unknown_study_is_refused(capsys):
    assert main(["study", "painting"]) == 1
    assert "there is no study 'painting': choose from editing, strength, ablation" in capsys.readouterr().err


def test_an_edit_moves_the_code_by_no_more_than_the_bound(rig):
    source = run(rig.backbone, "a person", (4, 5))
    shares = editing.shares_of_bound(rig.backbone, source, WAYS[1])
    assert list(shares) == list(ATTRIBUTES)
    target = edits.target_walk(rig.backbone, source, target_prompt(ATTRIBUTES["old"]), WAYS[1])
    t = source.nearest(0.5)
    x, z = source.at(t), target.codes[source.index(t) - 1]  # a step noisier
    y = WAYS[1].code(x, z)
    moved = (y - x).flatten(1).norm(dim=1)
    assert shares["old"][0].value == pytest.approx((moved / bound(x, z, WAYS[1].config)).mean().item(), rel=1e-4)
    assert shares["old"][1].value == pytest.approx((moved / (z - x).flatten(1).norm(dim=1)).mean().item(), rel=1e-4)
    assert all(0 <= share.value <= 1 for share, _ in shares.values())


def test_pictures_are_compared_with_those_measured(rig):
    source = run(rig.backbone, "a person", (4, 5, 6))
    measured = edits.of_attributes(rig, WAYS[1:], (4, 5, 6))
    before = rig.backbone.decode(source.final)
    drawn = {
        name: edits.pictures(rig.backbone, source, target_prompt(wanted), WAYS[1:])
        for name, wanted in ATTRIBUTES.items()
    }
    for i, way in enumerate(WAYS[1:]):
        own = {name: pictures[i, :2] for name, pictures in drawn.items()}
        assert editing.deviation(rig, own, before[:2], measured, way) < 1e-3
    noise = {"old": torch.rand_like(before, generator=None)}
    assert editing.deviation(rig, noise, before, measured, WAYS[1]) > 1e-3
    outcome = measured["old"][WAYS[1]]
    outcome.had[0] = ~outcome.had[0]
    assert editing.deviation(rig, {"old": drawn["old"][0]}, before, measured, WAYS[1]) == float("inf")


# verdicts and rows, of made-up outcomes

AVI, BRANCHED = integration(0.5, 2), integration(0.5, 3)
LERP, SWITCH = Way("lerp", 0.5, weight=0.5), Way("prompt switching", 0.5)
CHOSEN = {"target prompt": [], "AVI": [AVI, BRANCHED], "lerp": [LERP], "prompt switching": [SWITCH]}


def made_up(successes: dict[Way, float], n: int = 40, names=("old", "drawing")) -> Measured:
    """Outcomes with the same side effects for all ways, and each way's share of successes."""
    return {name: {way: outcome(share, n=n) for way, share in successes.items()} for name in names}


def result(avi: float, lerp: float, switch: float) -> editing.Result:
    measured = made_up({AVI: avi, BRANCHED: avi / 2, LERP: lerp, SWITCH: switch})
    return editing.Result("mini-sd", measured, CHOSEN, measured)


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ((0.9, 0.2, 0.1), (HOLDS, HOLDS, HOLDS)),
        ((0.5, 0.1, 0.9), (HOLDS, NOT, NOT)),
        ((0.1, 0.5, 0.6), (NOT, NOT, NOT)),
        # no more than the control
        ((0.5, 0.5, 0.5), (NOT, NOT, NOT)),
    ],
)
def test_avi_beats_a_control_if_its_gain_lies_above_0(shares, words):
    own = result(*shares)
    claims = editing.verdicts(own)
    assert [claim.claim for claim in claims] == [
        f"AVI beats {name} at equal side effects" for name in ("lerp", "prompt switching", "all controls")
    ]
    assert tuple(claim.verdict for claim in claims) == words
    assert {(claim.study, claim.backbone, claim.null) for claim in claims} == {("editing", "mini-sd", 0.0)}
    for claim in claims:
        assert (claim.verdict == HOLDS) == (claim.effect.low > 0)
    gap = shares[0] - shares[1]
    assert claims[0].effect.value == pytest.approx(gap, abs=1e-6) and own.best == AVI


def test_the_setting_is_picked_on_the_seeds_for_choosing():
    tried = made_up({AVI: 0.2, BRANCHED: 0.7, LERP: 0.5, SWITCH: 0.5})
    reported = made_up({AVI: 0.9, BRANCHED: 0.3, LERP: 0.5, SWITCH: 0.5})
    own = editing.Result("mini-sd", tried, CHOSEN, reported)
    assert own.best == BRANCHED and own.against["all controls"].value == pytest.approx(-0.2, abs=1e-6)
    assert own.candidates == [AVI, BRANCHED] and own.rivals == [LERP, SWITCH]
    assert list(own.gains["eight attributes"]) == list(own.gains["without the style"]) == [AVI, BRANCHED]
    assert own.gains["eight attributes"][AVI].value == pytest.approx(0.4, abs=1e-6)
    assert list(own.by_attribute) == ["old", "drawing"]


def test_the_style_is_left_out_of_the_second_comparison():
    measured = made_up({AVI: 0.6, BRANCHED: 0.1, LERP: 0.2, SWITCH: 0.2})
    measured["drawing"] = made_up({AVI: 0.0, BRANCHED: 0.0, LERP: 0.2, SWITCH: 0.2})["drawing"]
    gains = editing.Result("mini-sd", measured, CHOSEN, measured).gains
    assert gains["eight attributes"][AVI].value == pytest.approx(0.1, abs=1e-6)
    assert gains["without the style"][AVI].value == pytest.approx(0.4, abs=1e-6)


def test_rows_have_each_attribute_and_setting():
    own = result(0.9, 0.2, 0.1)
    rows = editing.rows(own)
    assert [(row["attribute"], row["method"]) for row in rows[:4]] == [
        ("old", "AVI"), ("old", "AVI"), ("old", "lerp"), ("old", "prompt switching")
    ]  # fmt: skip
    assert len(rows) == 8 and (rows[0]["success"], rows[0]["n"]) == ("0.9000", 40)
    own.reported["old"][AVI].had[:] = True
    first = editing.rows(own)[0]
    assert (first["success"], first["success_low"], first["n"]) == ("", "", 0) and first["side_effects"] == "0.1000"


def test_single_choices_and_truncations_cover_what_was_tried(monkeypatch):
    own = editing.Result("mini-sd", made_up(dict.fromkeys(tries(), 0.5), n=4), {}, {})
    choices = list(editing.single_choices(own))
    assert [family for family, _, _ in choices] == list(CENTRES)
    for family, centre, changes in choices:
        assert centre.way == CENTRES[family]
        assert [point.way for _, point, _ in changes] == singly(CENTRES[family])[1:]
    lines = list(editing.truncations(own))
    branches = [branch for branch, _, _ in lines]
    assert branches == sorted(branches, reverse=True) == [0.76, 0.68, 0.64, 0.6, 0.56, 0.52]
    for branch, switched, points in lines:
        assert switched.way == Way("prompt switching", branch)
        assert {point.way.branch for _, point in points} == {branch}
        configs = [point.way.config for _, point in points]
        assert all(config is None or config == AVIConfig(k_z=config.k_z) for config in configs)


@pytest.fixture(scope="module")
def shipped():
    return load_rig()


@pytest.mark.parametrize("study", [editing, strength, ablation])
def test_the_shipped_measurements_give_the_shipped_table_and_verdicts(study, shipped, monkeypatch):
    monkeypatch.setattr(edits, "_measure", None)
    # Frechet distances are left out: rendering the pictures they are from takes minutes
    features = np.random.default_rng(0).normal(size=(200, 64))
    monkeypatch.setattr(ablation, "reference_features", lambda *args: features)
    own, name = study.measure(shipped), study.__name__.rpartition(".")[2]
    rows, theirs = study.rows(own), table(ROOT / "outputs" / "tables" / f"{name}.csv")
    rows, theirs = ([row for row in part if row.get("measure") != "frechet"] for part in (rows, theirs))
    assert len(rows) == len(theirs)
    for row, other in zip(rows, theirs, strict=True):
        assert row.keys() == other.keys()
        for head, cell in row.items():
            try:
                assert float(cell) == pytest.approx(float(other[head]), abs=2e-4, rel=1e-4)
            except ValueError:
                assert str(cell) == other[head]
    verdicts = table(ROOT / "outputs" / "tables" / "verdicts.csv")
    theirs = {row["claim"]: (row["verdict"], float(row["effect"])) for row in verdicts if row["study"] == name}
    theirs.pop("without L4: quality drops", None)
    claims = {claim.claim: claim for claim in study.verdicts(own)}
    claims.pop("without L4: quality drops", None)
    assert {claim: each.verdict for claim, each in claims.items()} == {
        claim: word for claim, (word, _) in theirs.items()
    }
    for claim, (_, effect) in theirs.items():
        assert claims[claim].effect.value == pytest.approx(effect, abs=1e-4)
