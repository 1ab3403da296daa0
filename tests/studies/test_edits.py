"""Edits in many ways, on a tiny model: each way makes the code of its name, and measurements are kept."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from tiny import text_to_image, unconditional
from torch.testing import assert_close

from lsvd import avi, backbones
from lsvd.avi import baselines, network, placement
from lsvd.avi.edit import codes_between
from lsvd.avi.losses import Lambdas
from lsvd.backbones import clip
from lsvd.sampling import trajectory
from lsvd.storage import cache, results
from lsvd.storage.files import WriteError, write_bytes
from lsvd.studies import edits
from lsvd.studies import rig as rigs
from lsvd.studies.rig import Rig, load_rig, rig_of, stop_without
from lsvd.studies.ways import (
    ATTRIBUTES,
    CENTRES,
    SOURCE,
    Method,
    Way,
    difference,
    integration,
    singly,
    target_prompt,
    tries,
)
from lsvd.testbed import reader as readers

OLD = {"age": "old"}
SEEDS = (100, 101, 102)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("LSVD_MEASUREMENTS", str(tmp_path))
    monkeypatch.setitem(rigs.GENERATORS, "tiny-sd", ("portraits", {}))
    return tmp_path


@pytest.fixture(scope="module")
def instruments():
    return readers.load("portraits"), clip.load()


@pytest.fixture
def rig(instruments):
    return Rig(text_to_image(), *instruments)


@pytest.fixture
def walks(rig):
    return [trajectory.run(rig.backbone, prompt, SEEDS) for prompt in ("a person", "an old person")]


def codes(backbone, source, target, way):
    return codes_between(backbone, source, target, way.placement.on(source.schedule))


def test_ways_make_the_codes_of_their_names():
    x, z = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    solved = avi.solve(x, z, avi.AVIConfig(k_z=3, lambdas=Lambdas(source=0.5))).y
    assert_close(integration(0.5, 3, lambdas=Lambdas(source=0.5)).code(x, z), solved)
    assert_close(replace(integration(0.5, 3, lambdas=Lambdas(source=0.5)), weight=2.0).code(x, z), 2 * solved - x)
    trained = network.fit(x, z, avi.AVIConfig(k_z=3, norm="absolute")).solution.y
    assert_close(integration(0.5, 3, norm="absolute").code(x, z), trained)
    assert (trained - integration(0.5, 3).code(x, z)).abs().max() > 1e-3
    assert_close(Way("lerp", weight=0.25).code(x, z), 0.75 * x + 0.25 * z)
    assert_close(Way("slerp", weight=0.25).code(x, z), baselines.slerp(x, z, 0.25))
    assert_close(Way("swap", k=2).code(x, z), baselines.swap(x, z, 2))
    with pytest.raises(ValueError, match="makes no code"):
        Way("prompt switching").code(x, z)


def test_ways_without_sense_are_refused():
    with pytest.raises(ValueError, match="no method 'magic'"):
        Way("magic")
    for wrong in ({"method": "AVI"}, {"method": "lerp", "config": avi.AVIConfig()}):
        with pytest.raises(ValueError, match="take a config"):
            Way(**wrong)


def test_each_way_is_tried_once_and_fits_the_schedule_of_the_embedded_model():
    ways = tries()
    assert len({repr(way) for way in ways}) == len(ways)
    assert {way.method for way in ways} == set(get_args(Method)) - {"transfer"}
    assert all(0 <= way.tx <= way.branch <= 1 for way in ways)


def test_single_choices_are_named_by_what_they_change():
    for centre in CENTRES.values():
        ways = singly(centre)
        told = [difference(centre, way) for way in ways]
        assert ways[0] == centre and told[0] == "" and len(set(told)) == len(ways) and all(told[1:])
        assert set(ways) <= set(tries())
    assert difference(CENTRES["AVI"], integration(0.3, 8, dtau=-1, same_level=True)) == (
        "z 1 step cleaner, at the noise level of x"
    )


def test_z_is_taken_where_dtau_says(rig, walks):
    x, z = walks
    t = x.nearest(0.5)
    for dtau in (1, 0, -1):
        found = edits.final_codes(rig.backbone, x, z, Way("lerp", 0.5, dtau=dtau, weight=1.0))
        code = z.codes[z.index(t) - dtau]
        assert_close(found, trajectory.resume(rig.backbone, x, t, code).final)
    with pytest.raises(ValueError, match="leaves the schedule"):
        edits.final_codes(rig.backbone, x, z, Way("lerp", 1.0, dtau=1))


def test_z_can_be_brought_to_the_noise_level_of_x(rig, walks):
    x, z = walks
    t, before = x.nearest(0.5), z.timesteps[z.index(x.nearest(0.5)) - 1].item()
    found = edits.final_codes(rig.backbone, x, z, Way("lerp", 0.5, dtau=1, same_level=True))
    code = placement.renoise(rig.backbone.scheduler, z.at(before), z.final, before, t)
    assert_close(found, trajectory.resume(rig.backbone, x, t, code).final)


def test_the_target_prompt_from_the_start_is_the_target_prompt(rig, walks):
    x, z = walks
    switched = edits.final_codes(rig.backbone, x, z, Way("prompt switching", 1.0))
    assert_close(switched, z.final)
    assert torch.equal(edits.final_codes(rig.backbone, x, z, Way("target prompt")), z.final)


def test_a_branch_is_the_source_before_and_prompt_switching_at_its_end(rig, walks):
    x, z = walks
    found = edits.target_walk(rig.backbone, x, "an old person", Way("lerp", 0.3, same_level=True, branch=0.5))
    place = x.index(x.nearest(0.5))
    assert found.codes.shape == x.codes.shape and torch.equal(found.timesteps, x.timesteps)
    assert torch.equal(found.codes[: place + 1], x.codes[: place + 1])
    assert_close(found.final, edits.final_codes(rig.backbone, x, z, Way("prompt switching", 0.5)))
    assert not torch.equal(found.final, x.final)
    way = Way("lerp", 0.3, branch=0.5)
    part = edits.target_walk(rig.backbone, x, "an old person", way)
    assert len(part.codes) < len(found.codes)
    for code, whole in zip(*(codes(rig.backbone, x, walk, way) for walk in (part, found)), strict=True):
        assert torch.equal(code, whole)
    for tx in (0.5, 0.8):  # where the branch begins, and before
        with pytest.raises(ValueError, match="before the branch"):
            edits.target_walk(rig.backbone, x, "an old person", Way("lerp", tx, branch=0.5))


def test_pictures_are_those_of_each_way(rig, walks):
    x, z = walks
    ways = [Way("lerp", 0.5, weight=0.5), Way("target prompt"), replace(integration(0.3, 2, dtau=0), branch=0.5)]
    drawn = edits.pictures(rig.backbone, x, "an old person", ways)
    assert drawn.shape == (3, *rig.backbone.decode(x.final).shape)
    for way, own in zip(ways, drawn, strict=True):
        walk = z if way.branch == 1 else edits.target_walk(rig.backbone, x, "an old person", way)
        assert_close(own, rig.backbone.decode(edits.final_codes(rig.backbone, x, walk, way)))


def test_what_did_nothing_has_no_effects(rig):
    nothing = Way("lerp", 0.5, weight=0.0)
    found = edits.outcomes(rig, OLD, [nothing], SEEDS)[nothing]
    assert torch.equal(found.had, found.has)
    assert_close(found.before, found.after)
    for each in (found.side, found.distance, found.chroma):
        assert_close(each, torch.zeros(3), rtol=0, atol=1e-4)
    assert found.features.shape == (3, 64)
    assert not (found.effects.success and found.effects.success.value)


def test_measurements_are_kept_way_by_way_and_read_again(rig, monkeypatch):
    ways = [Way("lerp", 0.5, weight=0.5), integration(0.5, 2), Way("target prompt")]
    first = edits.outcomes(rig, OLD, ways[:2], SEEDS)
    calls, real = [], edits.final_codes
    monkeypatch.setattr(edits, "final_codes", lambda *args: calls.append(args[3]) or real(*args))
    more = edits.outcomes(rig, OLD, ways, SEEDS)
    assert calls == ways[2:]
    again = edits.outcomes(rig, OLD, ways, SEEDS)
    assert calls == ways[2:] and list(again) == ways
    for way in ways[:2]:
        assert torch.equal(first[way].side, more[way].side) and torch.equal(again[way].features, more[way].features)
    light = edits.outcomes(rig, OLD, ways, SEEDS, features=False)
    assert calls == ways[2:] and all(own.features is None for own in light.values())
    assert all(torch.equal(light[way].side, more[way].side) for way in ways)
    edits.outcomes(rig, {"age": "young"}, ways[:1], SEEDS)
    assert calls == [*ways[2:], ways[0]]


def test_attributes_are_worked_off_together_but_for_those_that_are_there(rig, monkeypatch):
    monkeypatch.setattr(edits, "ATTRIBUTES", {name: ATTRIBUTES[name] for name in ("old", "young")})
    ways = [Way("lerp", 0.5, weight=0.5), integration(0.5, 2)]
    alone = {name: edits.outcomes(rig, ATTRIBUTES[name], ways, SEEDS) for name in ("old", "young")}
    results.place(*_edits(rig, "young", ways).kept).unlink()
    cache.trim(0)
    calls, real = [], edits.final_codes
    monkeypatch.setattr(edits, "final_codes", lambda *args: calls.append(args[3]) or real(*args))
    found = edits.of_attributes(rig, ways, SEEDS)
    assert calls == ways and list(found) == ["old", "young"]
    for name, by_way in found.items():
        for way, outcome in by_way.items():
            assert torch.equal(outcome.side, alone[name][way].side)
            assert torch.equal(outcome.features, alone[name][way].features)


def _edits(rig, name, ways):
    return edits._Edits(edits._Source(rig, SOURCE, SEEDS), ATTRIBUTES[name], tuple(ways), True)


def test_nothing_is_measured_that_could_not_be_kept(rig, elsewhere, monkeypatch):
    monkeypatch.setattr(edits, "final_codes", lambda *args: pytest.fail("measured"))
    write_bytes(elsewhere / "edits", b"")  # a file where the folder should be
    with pytest.raises(WriteError):
        edits.of_attributes(rig, [Way("target prompt")], SEEDS)


def test_a_way_given_twice_is_refused(rig):
    for ways in ([], [Way("target prompt")] * 2):
        with pytest.raises(ValueError, match="given"):
            edits.outcomes(rig, OLD, ways, SEEDS)


def test_a_transfer_adds_what_other_seeds_have_learned(rig, walks, monkeypatch):
    monkeypatch.setattr(edits, "LEARNED", (7, 8))
    way = Way("transfer", 0.5, 1, config=avi.AVIConfig(k_z=2), weight=0.5)
    change = edits.mean_change(rig, "a person", "an old person", way)
    x, z = (trajectory.run(rig.backbone, prompt, (7, 8)) for prompt in ("a person", "an old person"))
    t = x.nearest(0.5)
    own = [avi.solve(x.at(t)[i], z.codes[z.index(t) - 1][i], way.config).y - x.at(t)[i] for i in range(2)]
    assert_close(change, 0.5 * (own[0] + own[1]) / 2, atol=1e-5, rtol=1e-4)
    found = edits.final_codes(rig.backbone, *walks, way, change)
    assert_close(found, trajectory.resume(rig.backbone, walks[0], t, walks[0].at(t) + change).final)
    kept = edits.outcomes(rig, OLD, [way], SEEDS)[way]
    assert kept.has.shape == (3,) and kept.side.max() > 0


def test_only_what_can_be_edited_and_measured_is_taken(instruments, monkeypatch):
    with pytest.raises(ValueError, match="takes no prompts"):
        Rig(unconditional(), *instruments)
    monkeypatch.setattr(rigs.backbones, "load", lambda name, device: text_to_image())
    monkeypatch.delitem(rigs.GENERATORS, "tiny-sd")
    with pytest.raises(ValueError, match="no reader knows"):
        load_rig("tiny-sd")


def test_a_notebook_ends_where_nothing_can_be_measured(rig, capsys):
    stop_without(rig)
    assert rig_of(backbones.load("mini-sd")).judge.scene.name == "portraits"
    nothing = rig_of(backbones.from_pipeline(text_to_image().pipe))
    with pytest.raises(SystemExit) as stopped:
        stop_without(nothing)
    assert nothing is None and stopped.value.code is None  # which papermill takes for a regular end
    assert "No reader knows the pictures" in capsys.readouterr().out


def test_every_attribute_has_a_prompt_of_its_own_and_a_level_that_is_there(instruments):
    prompts = {name: target_prompt(wanted) for name, wanted in ATTRIBUTES.items()}
    assert prompts["red hair"] == "a person with red hair" and prompts["drawing"] == "a drawing of a person"
    assert len({*prompts.values(), SOURCE}) == len(prompts) + 1
    for wanted in ATTRIBUTES.values():
        for factor, level in wanted.items():
            assert instruments[0].scene.index(factor, level) >= 0
