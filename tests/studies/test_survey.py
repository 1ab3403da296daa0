"""Surveys are measured once, and belong to their weights, reader and plan; the shipped ones to the shipped models."""

import dataclasses
import errno
import os
from types import SimpleNamespace

import pytest
import torch
from tiny import text_to_image, unconditional
from torch.testing import assert_close
from untrained import untrained

from lsvd import backbones
from lsvd.__main__ import main
from lsvd.backbones import registry
from lsvd.paths import outputs
from lsvd.storage import results, tensors
from lsvd.storage.files import WriteError
from lsvd.studies import responses, survey
from lsvd.studies.survey import Plan
from lsvd.testbed import reader as readers
from lsvd.testbed.evaluate import GENERATORS

# diffusers 0.42 still calls NumPy in ways that NumPy 2 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
PLAN = Plan(steps=4, times=(0.75, 0.0), bands=((0,), (1, 2)), prompt="an old person")
KINDS = {"text-to-image": text_to_image, "unconditional": unconditional}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("LSVD_MEASUREMENTS", str(tmp_path))
    return tmp_path


@pytest.fixture(params=list(KINDS))
def backbone(request):
    return KINDS[request.param]()


@pytest.fixture(scope="module")
def reader():
    return untrained()


def never(*args):
    raise AssertionError("measured again")


def test_a_survey_is_the_responses_at_each_time(backbone, reader):
    found = survey.survey(backbone, reader, PLAN, range(3))
    walk = survey.walk(backbone, PLAN, range(3))
    assert [each.t for each in found] == [walk.nearest(time) for time in PLAN.times] == [750 + found[1].t, found[1].t]
    for each in found:
        own = responses.responses(backbone, walk, reader, each.t, PLAN.bands, PLAN.factor)
        assert_close(each.tensors, own.tensors, equal_nan=True)
        assert (each.names, each.scales, each.bands, each.factor) == (own.names, own.scales, own.bands, own.factor)
    # nothing but rounding is different when it is measured again
    again = survey.survey(backbone, reader, PLAN, range(2), folder=outputs("again"))
    assert_close(again[0].moved, found[0].moved[:, :2], equal_nan=True, rtol=1e-3, atol=1e-5)


def test_what_was_measured_is_read(backbone, reader, elsewhere, monkeypatch):
    monkeypatch.setattr(survey, "CHUNK", 2)
    first = survey.survey(backbone, reader, PLAN, range(3))
    assert len(list((elsewhere / "responses" / backbone.name).iterdir())) == 2
    measure, seen = survey._measure, []
    monkeypatch.setattr(survey, "_measure", lambda *args: seen.append(args[3]) or measure(*args))
    more = survey.survey(backbone, reader, PLAN, range(6))
    # the chunk that was not full is measured with its neighbour
    assert seen == [(2, 3), (4, 5)]
    assert_close(more[1].moved[:, :2], first[1].moved[:, :2], equal_nan=True)
    monkeypatch.setattr(survey, "_measure", never)
    assert_close(survey.survey(backbone, reader, PLAN, range(6))[0].tensors, more[0].tensors, equal_nan=True)
    # fewer seeds are the beginning of what is there
    part = survey.survey(backbone, reader, PLAN, range(5))
    assert part[0].moved.shape[1] == 5
    assert_close(part[1].null, more[1].null[:, :5], equal_nan=True)


def test_a_survey_agrees_with_itself_measured_again(reader):
    found = survey.survey(unconditional(), reader, PLAN, range(3))
    assert survey.disagreement(unconditional(), reader, PLAN, found, range(2)) < 1e-4
    found[1].null[1, 1, 0] += 0.25
    assert survey.disagreement(unconditional(), reader, PLAN, found, range(2)) == pytest.approx(0.25, abs=1e-3)
    assert survey.disagreement(unconditional(), reader, PLAN, found, range(1)) < 1e-4
    found[0].moved[0, 0, 0] = torch.nan
    assert survey.disagreement(unconditional(), reader, PLAN, found, range(1)) == float("inf")


@pytest.mark.parametrize("change", [{"factor": 2.0}, {"bands": ((0,),)}, {"steps": 5}, {"times": (0.5,)}])
def test_another_plan_is_measured_for_itself(reader, monkeypatch, change):
    survey.survey(unconditional(), reader, PLAN, range(2))
    monkeypatch.setattr(survey, "_measure", never)
    with pytest.raises(AssertionError, match="measured again"):
        survey.survey(unconditional(), reader, dataclasses.replace(PLAN, **change), range(2))


def test_another_model_or_reader_has_its_own(reader):
    mine = survey.settings(unconditional(), reader, PLAN, range(2))
    other = readers.Reader(reader.scene, 32, widths=(8, 16, 16, 32))
    assert survey.settings(unconditional(), other, PLAN, range(2)) != mine
    assert survey.settings(text_to_image(), reader, PLAN, range(2))["weights"] != mine["weights"]
    # a prompt is nothing to an unconditional model
    prompted = dataclasses.replace(PLAN, prompt="an old person with red hair")
    assert survey.settings(unconditional(), reader, prompted, range(2)) == mine
    assert survey.settings(text_to_image(), reader, prompted, range(2)) != survey.settings(
        text_to_image(), reader, PLAN, range(2)
    )


def test_embedded_subjects_have_their_own_scene():
    models, judges = survey.subjects("mini-cats", scene="churches")
    assert list(models) == list(judges) == ["mini-cats"]
    assert models["mini-cats"].kind == "unconditional" and judges["mini-cats"].scene.name == "cats"


def test_all_subjects_are_the_embedded_ones(monkeypatch):
    loaded = []
    monkeypatch.setattr(survey.backbones, "load", lambda name, _: loaded.append(name) or SimpleNamespace(name=name))
    monkeypatch.setattr(survey.readers, "load", lambda scene, _: scene)
    models, judges = survey.subjects()
    assert loaded == list(models) == list(registry.EMBEDDED)
    assert judges == {name: scene for name, (scene, _) in GENERATORS.items()}


def test_a_model_of_ones_own_is_read_if_its_scene_is_named(tmp_path):
    unconditional().pipe.save_pretrained(tmp_path / "mine")
    models, judges = survey.subjects(str(tmp_path / "mine"))
    # the name is the folder's, without the place it lies in
    assert list(models) == ["mine"] and judges == {}
    assert survey.subjects(str(tmp_path / "mine"), "churches")[1]["mine"].scene.name == "churches"
    with pytest.raises(ValueError, match="no scene 'clouds'"):
        survey.subjects(str(tmp_path / "mine"), "clouds")
    with pytest.raises(ValueError, match="no backbone 'nobody'"):
        survey.subjects("nobody")


def test_bands_are_named_from_one():
    assert Plan().names == [*"12345678", "9-16", "17-32"]
    # every triplet of the leading 32, once
    assert sorted(i for band in Plan().bands for i in band) == list(range(32))


def test_times_that_coincide_are_refused(reader):
    with pytest.raises(ValueError, match="take more steps"):
        survey.survey(unconditional(), reader, dataclasses.replace(PLAN, times=(0.5, 0.51)), range(2))


def test_the_command(monkeypatch, reader, elsewhere, capsys):
    monkeypatch.setitem(survey.GENERATORS, "tiny-ddpm", ("portraits", {}))
    monkeypatch.setattr(survey.backbones, "load", lambda name, device: unconditional())
    monkeypatch.setattr(survey.readers, "load", lambda scene, device: reader)
    monkeypatch.setattr(survey, "Plan", lambda: PLAN)
    assert main(["survey", "tiny-ddpm", "--samples", "2"]) == 0
    assert len(list((elsewhere / "responses" / "tiny-ddpm").glob("*.safetensors"))) == 1
    for bad, said in ((["nobody"], "choose from"), (["tiny-ddpm", "--samples", "1"], "a whole number from 2")):
        assert main(["survey", *bad]) == 1 and said in capsys.readouterr().err


def test_an_error_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(survey.backbones, "load", lambda name, device: (_ for _ in ()).throw(OSError("no weights")))
    assert main(["survey", "mini-cats"]) == 1
    assert capsys.readouterr().err == "lsvd: mini-cats: no weights\n"


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_what_cannot_be_kept_is_not_measured_for_nothing(monkeypatch, reader, elsewhere, when):
    monkeypatch.setattr(survey, "CHUNK", 2)
    survey.survey(unconditional(), reader, PLAN, range(2))
    kept = {path: path.read_bytes() for path in (elsewhere / "responses").rglob("*.safetensors")}

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def measure(*args, real=survey._measure):
        if when == "before":
            never()
        monkeypatch.setattr(os, "fsync", full)
        return real(*args)

    monkeypatch.setattr(survey, "_measure", measure)
    with monkeypatch.context() as patched:
        if when == "before":
            patched.setattr(os, "fsync", full)
        with pytest.raises(WriteError, match="the disk is full"):
            survey.survey(unconditional(), reader, PLAN, range(4))
    assert len(kept) == 1 and kept == {path: path.read_bytes() for path in (elsewhere / "responses").rglob("*.*")}


@pytest.mark.parametrize("name", GENERATORS)
def test_the_surveys_that_are_shipped_are_of_the_shipped_models(name, monkeypatch):
    monkeypatch.delenv("LSVD_MEASUREMENTS")
    backbone, judge = backbones.load(name), readers.load(GENERATORS[name][0])
    chunks = torch.arange(survey.SAMPLES).split(survey.CHUNK)
    missing = [c for c in chunks if not survey.place(backbone, judge, Plan(), c.tolist()).exists()]
    assert not missing, f"remove measurements/responses/{name}, and run python -m lsvd survey {name}"
    monkeypatch.setattr(survey, "_measure", never)
    parts = survey.survey(backbone, judge, Plan(), range(survey.SAMPLES))
    assert len(parts) == len(Plan().times)
    for each in parts:
        assert each.moved.shape == (len(Plan().bands), survey.SAMPLES, len(judge.scene.factors))
        assert each.moved.nan_to_num().min() >= 0 and each.moved.nan_to_num().max() <= 1
        assert torch.equal(each.moved.isnan(), each.null.isnan())


def test_a_forged_survey_is_measured_again(reader, caplog):
    found = survey.survey(unconditional(), reader, PLAN, range(2))
    file = survey.place(unconditional(), reader, PLAN, range(2))
    stored, notes = tensors.load(file)
    for change in (
        {"moved": stored["moved"][:1]},
        {"timesteps": stored["timesteps"].log() * float("inf")},
        {"x": stored["null"].clone()},
    ):
        forged = stored | change
        file.write_bytes(tensors.pack(forged, notes | {"sha256": results.checksum(forged)}))
        caplog.clear()
        again = survey.survey(unconditional(), reader, PLAN, range(2))
        assert_close(again[0].moved, found[0].moved, equal_nan=True, rtol=1e-3, atol=1e-5)
        assert "damaged or forged" in caplog.text
