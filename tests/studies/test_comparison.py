"""The comparison of editors on a tiny model: pieces that stop and resume, settings chosen apart, and the rows."""

import csv
import time
from dataclasses import fields, replace

import pytest
import torch
from tiny import WORDS, text_to_image, tiny_pipeline, unconditional

from lsvd import backbones, paths
from lsvd.__main__ import main
from lsvd.backbones import clip as clips
from lsvd.sampling.kept import trajectories
from lsvd.studies import comparison, merit
from lsvd.studies.comparison import MINE, Plan, Result, choose, measure, rows, verdicts
from lsvd.studies.editors import grids, measuring
from lsvd.studies.editors.measuring import Bench, Outcome
from lsvd.studies.editors.ours import Integration, LowRankGuidance, PromptSwitching, TargetPrompt
from lsvd.studies.ways import SOURCE
from lsvd.testbed import reader as readers

PLAN = Plan(("old",), (100, 101), (1000, 1001), (MINE, "prompt switching"), 1, references=4)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("LSVD_MEASUREMENTS", str(tmp_path / "kept"))
    few = {MINE: [LowRankGuidance(2)], "prompt switching": [PromptSwitching(0.6)]}
    monkeypatch.setattr(grids, "GRIDS", few)
    return tmp_path


@pytest.fixture(scope="module")
def clip():
    return clips.load()


@pytest.fixture(scope="module")
def model():
    """The tiny backbone with few steps."""
    return backbones.from_pipeline(tiny_pipeline(), replace(text_to_image().entry, steps=4), WORDS)


@pytest.fixture(params=["a reader", "no reader"])
def bench(request, model, clip):
    return Bench(model, clip, readers.load("portraits") if request.param == "a reader" else None)


def made(success, side, n=20, read=True):
    """An outcome of n pictures that lacked the attribute, the first of which have it."""
    has = torch.arange(n) < round(success * n)
    rest = {f.name: torch.full((n,), 1.0, dtype=torch.float64) for f in fields(Outcome)}
    rest |= {"had": torch.zeros(n, dtype=torch.bool), "has": has, "side": torch.full((n,), side)}
    features = torch.randn(n, 4, generator=torch.Generator().manual_seed(0)).half()
    return Outcome(**rest | {"features": features, "gain": has.double(), "lpips_clip": torch.full((n,), side)})


def test_measured_with_and_without_a_reader(bench, elsewhere):
    result = measure(bench, PLAN)
    assert result.read == (bench.judge is not None) and list(result.chosen) == [MINE, "prompt switching"]
    assert set(result.tried["old"]) == {LowRankGuidance(2), PromptSwitching(0.6)}
    for outcome in result.reported["old"].values():
        assert len(outcome.clip) == 2 and (outcome.lpips_clip > 0).all() and (outcome.evaluations > 0).all()
    table = rows(result)
    assert [row["attribute"] for row in table] == ["old", "the paper's four"] * 2
    assert all(bool(row["success"]) <= result.read and row["clip"] and not row["fid"] for row in table)
    assert result.read or verdicts(result) == []
    again = measure(bench, PLAN)
    assert rows(again) == table  # seconds included: nothing was measured again
    pictures = result.drawn(bench, "old", 2)
    assert list(pictures) == ["source", *result.chosen] and all(
        each.shape == (2, 3, 16, 16) for each in pictures.values()
    )
    near = trajectories(bench.backbone, SOURCE, PLAN.reported, batch=2)
    assert (pictures["source"] - bench.backbone.decode(near.final)).abs().mean() < 0.1  # noise, stored as WebP


def test_settings_may_be_chosen_on_fewer_attributes_and_seeds_come_later(model, clip, monkeypatch):
    bench, done, edit = Bench(model, clip, readers.load("portraits")), [], PromptSwitching.edit
    monkeypatch.setattr(
        PromptSwitching, "edit", lambda self, job: done.append(job.target) or edit(self, job), raising=True
    )
    plan = replace(PLAN, attributes=("old", "young"), tuned=("young",), methods=("prompt switching",), chunk=2)
    result = measure(bench, plan)
    assert list(result.tried) == ["young"] and list(result.reported) == ["old", "young"]
    assert done == ["a young person", "an old person", "a young person"]
    measure(bench, replace(plan, reported=(1000, 1001, 1002, 1003)))
    assert len(done) == 5  # two more seeds of two attributes


def test_training_counts_neither_as_evaluations_nor_as_seconds(model, clip, monkeypatch):
    trained = []

    def prepare(self, job):
        trained.append(job.target)
        job.backbone.pipe.unet(
            job.source.codes[0], 1, encoder_hidden_states=job.backbone.pipe.encode_prompt("", "cpu", 2, False)[0]
        )
        time.sleep(0.3)

    monkeypatch.setattr(PromptSwitching, "prepare", prepare)
    outcome = measuring.stage(Bench(model, clip), ["old"], [PromptSwitching(0.5)], (1, 2))["old"][PromptSwitching(0.5)]
    assert trained == ["an old person"] and float(outcome.evaluations[0]) == 6
    assert measuring._clock(model) is time.process_time


def test_a_stopped_run_goes_on(model, clip, monkeypatch):
    bench, done, edit = Bench(model, clip), [], PromptSwitching.edit

    def fails_at(limit):
        def run(self, job):
            if len(done) == limit:
                raise KeyboardInterrupt
            done.append(job.source.settings.seeds)
            return edit(self, job)

        return run

    plan = replace(PLAN, methods=("prompt switching",))
    monkeypatch.setattr(PromptSwitching, "edit", fails_at(1))
    with pytest.raises(KeyboardInterrupt):
        measure(bench, plan)
    monkeypatch.setattr(PromptSwitching, "edit", fails_at(None))
    measure(bench, plan)
    assert done == [(100,), (101,), (1000,), (1001,)]  # none twice


def test_evaluations_are_those_beside_the_sources(model, clip):
    bench = Bench(model, clip)
    outcome = measuring.stage(bench, ["old"], [TargetPrompt(), PromptSwitching(0.5)], (1, 2))["old"]
    each = [float(outcome[editor].evaluations[0]) for editor in outcome]
    assert each == [8, 6]  # four steps, and the last three of them


def test_settings_are_chosen_by_success_and_side_effects():
    gentle, strong, weak = (LowRankGuidance(rank) for rank in (1, 2, 3))
    other = PromptSwitching()
    tried = {"old": {gentle: made(0.9, 0.03), strong: made(1.0, 0.08), weak: made(0.2, 0.01), other: made(0.5, 0.2)}}
    chosen = choose(tried, True, (0.02, 0.04, 0.1))
    assert chosen == {MINE: [gentle, weak, strong], "prompt switching": [other]}
    assert choose(tried, False) == {MINE: [gentle], "prompt switching": [other]}


def result_of(mine, theirs, read=True, n=40):
    one, other = LowRankGuidance(), PromptSwitching()
    reported = {name: {one: made(*mine, n), other: made(*theirs, n)} for name in ("old", "glasses")}
    chosen = {MINE: [one], "prompt switching": [other]}
    reference = {name: torch.randn(50, 4) for name in reported}
    plan = Plan(("old", "glasses"), (1, 2), tuple(range(10, 10 + n)))
    return Result("tiny", plan, reported, chosen, reported, reference, read)


def test_a_clear_lead_is_a_verdict_and_none_is_not():
    ahead, level = result_of((1.0, 0.02), (0.5, 0.05)), result_of((0.9, 0.02), (0.9, 0.02))
    assert [v.verdict for v in verdicts(ahead)] == ["holds"] * 2 * len(comparison.BUDGETS)
    assert list(ahead.leads()) == ["prompt switching", comparison.ALL]
    assert not {v.verdict for v in verdicts(level)} & {"holds", "holds in part"}
    assert ahead.leads()["prompt switching"][0.05].value == pytest.approx(0.5)
    assert level.leads()["prompt switching"][0.05].value == pytest.approx(0.0)
    assert verdicts(result_of((1.0, 0.02), (0.5, 0.05), read=False)) == []
    with pytest.raises(ValueError, match="nothing to compare"):
        merit.lead(ahead.reported, [], [LowRankGuidance()], 0.05)


def test_whether_avi_has_the_highest_clip_score_does_not_hang_on_the_target_prompt():
    own = result_of((1.0, 0.02), (0.5, 0.05))
    avi, other, alone = Integration(), PromptSwitching(), TargetPrompt()
    for by_editor in own.reported.values():
        for editor, score in ((avi, 30.0), (other, 20.0), (alone, 40.0)):
            noise = torch.rand(40, generator=torch.Generator().manual_seed(int(score)))
            by_editor[editor] = replace(by_editor[other], clip=score + noise)
    chosen = {editor.method: [editor] for editor in (avi, other, alone)}
    first = verdicts(replace(own, chosen=chosen))[0]
    assert (first.claim, first.verdict) == (comparison.BEST, "holds") and first.effect.value == pytest.approx(10, abs=1)
    lower = {**chosen, "SDEdit": [alone]}
    assert verdicts(replace(own, chosen=lower))[0].verdict == "holds in part"


def test_rows_say_what_could_not_be_measured():
    table = rows(result_of((1.0, 0.02), (0.5, 0.05)))
    first = table[0]
    assert (first["method"], first["attribute"], first["pictures"]) == (MINE, "old", "40")
    assert first["success"].startswith("1") and first["side_effects"].startswith("0.02") and first["fid"]
    assert table[2]["attribute"] == "the paper's four" and table[2]["pictures"] == "40"
    assert first["fid"] and first["lacking"] == "40" and table[3]["attribute"] == "all"
    few = result_of((1.0, 0.02), (0.5, 0.05), n=4)
    assert rows(few)[0]["fid"]  # fewer pictures than features, but enough of the prompt's
    few.reference["old"] = few.reference["old"][:5]
    assert rows(few)[0]["fid"] == "" and rows(few)[-1]["fid"]  # of both attributes together there are enough
    unread = rows(result_of((1.0, 0.02), (0.5, 0.05), read=False))[0]
    assert unread["success"] == unread["side_effects"] == ""


def test_bad_plans_and_benches(clip, tmp_path):
    with pytest.raises(ValueError, match="chosen on some of the seeds that are reported"):
        Plan(choosing=(1, 2), reported=(2, 3))
    with pytest.raises(ValueError, match="there is no attribute 'hat'"):
        Plan(attributes=("hat",))
    with pytest.raises(ValueError, match="there is no method 'magic'"):
        Plan(methods=("magic",))
    with pytest.raises(ValueError, match="seeds a piece"):
        Plan(chunk=0)
    with pytest.raises(ValueError, match="there is no attribute 'hat'"):
        Plan(tuned=("hat",))
    with pytest.raises(ValueError, match="settings a method"):
        Plan(settings=0)
    with pytest.raises(ValueError, match="pictures of each target prompt"):
        Plan(references=2)
    unconditional().pipe.save_pretrained(tmp_path / "ddpm")
    with pytest.raises(ValueError, match="takes no prompts: compare edits"):
        measuring.load_bench(str(tmp_path / "ddpm"))
    text_to_image().pipe.save_pretrained(tmp_path / "tiny")
    with pytest.raises(ValueError, match="mini-clip does not know the pictures of tiny: give --clip"):
        measuring.load_bench(str(tmp_path / "tiny"))


def test_the_command(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(backbones, "load", lambda name, device: model)
    few = ["--attribute", "old", "--method", "prompt switching", "--choosing", "2", "--seeds", "2"]
    arguments = ["study", "comparison", "--clip", str(paths.WEIGHTS / "mini-clip"), *few]
    assert main(arguments) == 0
    with (tmp_path / "tables" / "comparison.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert {row["method"] for row in table} == {"prompt switching"} and {row["backbone"] for row in table} == {
        "tiny-sd"
    }
    assert main([*arguments, "--seeds", "1"]) == 1 and "number of reported seeds" in capsys.readouterr().err
    assert main([*arguments, "--method", "magic"]) == 1 and "no method 'magic'" in capsys.readouterr().err
