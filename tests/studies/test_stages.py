"""The stages of the experiments on edits, on a tiny model and few settings."""

import csv

import pytest
from tiny import text_to_image

from lsvd.__main__ import main
from lsvd.avi.exact import AVIConfig
from lsvd.backbones import clip
from lsvd.studies import editing, stages
from lsvd.studies.rig import Rig
from lsvd.studies.ways import ATTRIBUTES as ALL
from lsvd.studies.ways import CENTRES, Way, integration
from lsvd.testbed import reader as readers

WAYS = [Way("target prompt"), integration(0.5, 2), integration(0.5, 3), Way("lerp", 0.5, weight=0.5)]
ATTRIBUTES = {name: ALL[name] for name in ("old", "red hair")}


@pytest.fixture
def rig(tmp_path, monkeypatch):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("LSVD_MEASUREMENTS", str(tmp_path))
    monkeypatch.setattr(stages, "tries", lambda: WAYS)
    monkeypatch.setattr(stages, "ATTRIBUTES", ATTRIBUTES)
    for name, seeds in (("CHOOSING", (1, 2, 3)), ("REPORTED", (4, 5, 6)), ("FEW", (4, 5))):
        monkeypatch.setattr(stages, name, seeds)
    monkeypatch.setattr(editing, "LEARNED", (7, 8))
    monkeypatch.setitem(CENTRES, "AVI", WAYS[1])
    return Rig(text_to_image(), readers.load("portraits"), clip.load())


def test_what_is_drawn_is_among_what_is_reported(rig):
    tried = stages.choosing(rig)
    assert list(tried) == list(ATTRIBUTES) and all(list(found) == WAYS for found in tried.values())
    drawn, chosen = stages.settings(tried), stages.chosen(tried, (0.0, 1.0))
    assert set(drawn) == {"AVI"} and set(chosen) == {"target prompt", "AVI", "lerp"}
    assert drawn["AVI"] in chosen["AVI"] and drawn["AVI"].method == "AVI"
    for family, ways in chosen.items():
        assert len(set(map(repr, ways))) == len(ways) and {way.family for way in ways} <= {family}


def test_strengths_are_of_one_setting_and_of_lerp_to_the_same_z():
    way = integration(0.5, 2, dtau=-1)
    found = stages.strengths(way)
    assert way in found["AVI"] and [each.weight for each in found["AVI"]] == list(stages.STRENGTHS)
    assert {(each.method, each.tx, each.dtau) for each in found["lerp"]} == {("lerp", 0.5, -1)}
    assert [each.weight for each in found["lerp"]] == list(stages.STRENGTHS)


def test_each_loss_is_left_out_once_in_each_basis():
    way = integration(0.5, 2)
    found = stages.without(way)
    assert len(found) == 20 and found["both, rest kept", "none"] == way
    assert len({repr(each) for each in found.values()}) == 20
    for (basis, loss), each in found.items():
        weights = each.config.lambdas
        assert each.config.basis == basis.split(",")[0] and each.config.keep_rest == basis.endswith("kept")
        for name in stages.LOSSES:
            assert getattr(weights, name) == (0 if name == loss else getattr(AVIConfig().lambdas, name))


def test_all_stages_run_from_the_command_line(rig, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "load_rig", lambda name, device: rig)
    for _ in range(2):  # a second run measures nothing, and replaces the rows of the first
        assert main(["study"]) == 0
        monkeypatch.setattr(editing, "edited", None)
    rows = list(csv.DictReader((tmp_path / "tables" / "sweep.csv").open()))
    assert [row["attribute"] for row in rows] == [name for name in ATTRIBUTES for _ in WAYS]
    for row in rows:
        low, value, high = (float(row[name]) for name in ("side_effects_low", "side_effects", "side_effects_high"))
        assert 0 <= low <= value <= high <= 1
    way = stages.turned(stages.choosing(rig))
    found = stages.interpolation(rig, way)
    assert {each.method for each in found["old"]} == {"AVI", "lerp", "transfer"}
    assert len(stages.ablation(rig, stages.ablated())["old"]) == 20


def test_a_stage_that_is_not_there_is_told(capsys):
    assert main(["study", "painting"]) == 1
    assert "there is no stage 'painting': choose from choosing, editing" in capsys.readouterr().err
