"""Training at toy size: going on exactly, damaged files, the picture cache, and the exported folders."""

import ast
import csv
import itertools
import logging
import math
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, StableDiffusionPipeline
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from safetensors.torch import save as save_tensors
from transformers import CLIPModel, CLIPProcessor, CLIPTokenizer

from lsvd.backbones import clip
from lsvd.storage import files
from lsvd.storage.files import WriteError
from lsvd.testbed import renderings
from lsvd.testbed.scenes import captions
from lsvd.testbed.scenes.portraits import PORTRAITS
from lsvd.testbed.scenes.scene import Factor, Scene, twins
from lsvd.testbed.training import checkpoints, diffusion, jobs, loop, models, precision, recipes, state, train
from lsvd.testbed.training import clip as training_clip
from lsvd.testbed.training.processes import Processes

SETTINGS = state.Settings(steps=6, lr=1e-2, warmup=2, averages=(0.08, 0.16), log_every=2, progress=False)


def disc(values, size):
    """A grey disc on a coloured ground: shape (n, 3, size, size)."""
    axis = torch.linspace(-1, 1, size)
    inside = (axis[None] ** 2 + axis[:, None] ** 2) < values["radius"].view(-1, 1, 1) ** 2
    ground = torch.eye(3)[values["colour"]][..., None, None]
    return torch.where(inside[:, None], torch.tensor(0.5), ground.expand(-1, -1, size, size))


DISC = Scene(
    "disc",
    (Factor("colour", "fine", levels=("red", "green", "blue")), Factor("radius", "coarse", range=(0.2, 0.8))),
    disc,
)


class Line:
    """A toy problem: a linear map and dropout-like noise, all drawn from the step's generator."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))
        self.steps = []

    def loss(self, step, generator):
        self.steps.append(step)
        x = torch.randn(16, 3, generator=generator)
        return (self.model(x) - x.sum(-1, keepdim=True)).square().mean()


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole = Line()
    assert loop.fit(whole.model, whole.loss, SETTINGS, tmp_path / "whole")
    halves = Line()
    assert not loop.fit(halves.model, halves.loss, replace(SETTINGS, minutes=0.0), tmp_path / "halves")
    assert halves.steps == [0]
    again = Line()
    assert loop.fit(again.model, again.loss, SETTINGS, tmp_path / "halves")
    assert again.steps == [1, 2, 3, 4, 5]
    first, second = (checkpoints.load(tmp_path / name / state.CHECKPOINT) for name in ("whole", "halves"))
    assert same(first[0], second[0]) and first[1] == second[1] and first[1]["step"] == 6
    _, averages = state.read(tmp_path / "whole" / state.CHECKPOINT)
    assert list(averages) == ["0.08", "0.16"] and not same(averages["0.08"], averages["0.16"])
    assert not same(checkpoints.part(first[0], "model"), averages["0.08"])
    assert same(whole.model.state_dict(), averages["0.16"])  # fit leaves averaged weights behind


def test_the_log_keeps_loss_rate_and_throughput(tmp_path, caplog):
    line = Line()
    with caplog.at_level(logging.INFO):
        loop.fit(line.model, line.loss, SETTINGS, tmp_path / "line", pictures=16)
    header, *rows = csv.reader((tmp_path / "line" / state.LOSSES).open())
    assert header == ["step", "loss", "lr", "pictures_per_second"] and [row[0] for row in rows] == ["2", "4", "6"]
    assert all(float(row[3]) > 0 for row in rows) and float(rows[-1][2]) == 0
    said = re.search(r"line: 6 of 6 steps, (\d+) pictures/s", caplog.text)
    assert said and int(said[1]) > 0


def test_the_average_with_the_least_score_is_kept(tmp_path, caplog):
    line, seen = Line(), []

    def score():
        seen.append({name: t.clone() for name, t in line.model.state_dict().items()})
        return float(len(seen))  # the first is the best

    with caplog.at_level(logging.INFO):
        assert loop.fit(line.model, line.loss, SETTINGS, tmp_path, score=score)
    _, averages = state.read(tmp_path / state.CHECKPOINT)
    assert len(seen) == 2 and same(seen[0], averages["0.08"]) and same(seen[1], averages["0.16"])
    assert same(line.model.state_dict(), averages["0.08"])
    assert "1.00000 at 0.08, 2.00000 at 0.16; 0.08 is taken" in caplog.text
    stopped = Line()
    loop.fit(stopped.model, stopped.loss, replace(SETTINGS, minutes=0.0), tmp_path / "b", score=score)
    assert len(seen) == 2  # only what is done is scored


def test_another_seed_is_another_run(tmp_path):
    a, b = Line(), Line()
    loop.fit(a.model, a.loss, SETTINGS, tmp_path / "a")
    loop.fit(b.model, b.loss, replace(SETTINGS, seed=1), tmp_path / "b")
    assert not same(a.model.state_dict(), b.model.state_dict())


def test_a_run_goes_on_with_its_own_options_only(tmp_path):
    def run(recipe=None, **changes):
        line = Line()
        return loop.fit(line.model, line.loss, replace(SETTINGS, **changes), tmp_path, recipe), line.steps

    about = {"scene": "disc", "batch": 4, "fixed": {"colour": "red"}, "model": {"channels": (8, 8)}, "start": None}
    assert run(about, minutes=0.0) == (False, [0])
    checkpoint = tmp_path / state.CHECKPOINT
    for recipe, changes, said in (
        (about, {"seed": 1}, "begun with seed 0, not seed 1: give the same options, or delete it"),
        (about | {"batch": 8}, {"lr": 1e-3}, "begun with batch 4 and lr 0.01, not batch 8 and lr 0.001"),
        (about | {"fixed": {}}, {}, "fixed {'colour': 'red'}, not fixed {}"),
        (about | {"model": {"channels": (8, 9)}}, {}, r"model {'channels': \[8, 8\]}, not"),
        (about, {"warmup": 3, "clip": 2.0}, "clip 1.0 and warmup 2, not clip 2.0 and warmup 3"),
    ):
        with pytest.raises(ValueError, match=said):
            run(recipe, **changes)
    assert state.read(checkpoint)[0] == 1
    assert run(about, minutes=0.0, log_every=1, save_minutes=1.0) == (False, [1])  # these change nothing
    assert run(about | {"new": 1}) == (True, [2, 3, 4, 5])  # an option that there was none of
    assert run(about, steps=8) == (True, [6, 7])  # longer
    assert run(about, steps=4) == (True, [])  # shorter than it is


def full(path, data):
    raise WriteError(f"cannot write {path}: the disk is full")


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(tmp_path, monkeypatch, caplog):
    whole, line = Line(), Line()
    loop.fit(whole.model, whole.loss, SETTINGS, tmp_path / "whole")
    real = checkpoints.write_bytes
    monkeypatch.setattr(checkpoints, "write_bytes", full)
    with pytest.raises(WriteError, match="full"):  # stopped: what it was asked to keep is not kept
        loop.fit(Line().model, Line().loss, replace(SETTINGS, minutes=0.0), tmp_path / "stopped")

    def loss(step, generator):
        monkeypatch.setattr(checkpoints, "write_bytes", full if step in (1, 5) else real)
        return line.loss(step, generator)

    with caplog.at_level(logging.WARNING):
        assert loop.fit(line.model, loss, replace(SETTINGS, save_minutes=0.0), tmp_path / "run")
    assert [r.message.split(" is not")[0] for r in caplog.records] == ["run: step 2", "run: step 6"]
    assert "disk is full" in caplog.text
    assert same(whole.model.state_dict(), line.model.state_dict())  # to be exported
    monkeypatch.setattr(checkpoints, "write_bytes", real)
    assert state.read(tmp_path / "run" / state.CHECKPOINT)[0] == 5
    assert loop.fit(line.model, line.loss, SETTINGS, tmp_path / "run")
    assert same(whole.model.state_dict(), line.model.state_dict())


def test_a_folder_that_cannot_be_written_is_known_before_the_first_step(tmp_path):
    (tmp_path / "runs").write_bytes(b"")
    line = Line()
    with pytest.raises(WriteError, match="a file stands where a folder"):
        loop.fit(line.model, line.loss, SETTINGS, tmp_path / "runs" / "line")
    assert line.steps == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_in_a_checkpoint(tmp_path, number):
    line = Line()

    def loss(step, generator):
        if step == 2:
            os.kill(os.getpid(), number)
        return line.loss(step, generator)

    before = signal.getsignal(number)
    assert not loop.fit(line.model, loss, SETTINGS, tmp_path)
    assert state.read(tmp_path / state.CHECKPOINT)[0] == 3
    assert signal.getsignal(number) == before


def test_damaged_and_missing_checkpoints_are_explained(tmp_path):
    line, path = Line(), tmp_path / state.CHECKPOINT
    with pytest.raises(FileNotFoundError, match="train first"):
        state.read(path)
    loop.fit(line.model, line.loss, SETTINGS, tmp_path)
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")  # where the tensors begin
    flipped = [bytearray(content) for _ in range(3)]
    for copy, place in zip(flipped, (start, (start + len(content)) // 2, len(content) - 1), strict=True):
        copy[place] ^= 4
    zeros = content[:start] + bytes(len(content) - start)
    told = content.replace(b'\\"step\\": 6', b'\\"step\\": 5')
    assert told != content
    for part in (content[: len(content) // 2], content[:10], b"", b"no checkpoint at all", *flipped, zeros, told):
        path.write_bytes(part)
        with pytest.raises(ValueError, match=f"^{path} is .*damaged.*: delete it to train from the start$"):
            loop.fit(line.model, line.loss, SETTINGS, tmp_path)
    path.write_bytes(save_tensors({"weight": torch.zeros(3)}))
    with pytest.raises(ValueError, match=f"^{path} is not a checkpoint of training: delete it"):
        loop.fit(line.model, line.loss, SETTINGS, tmp_path)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{path} belongs to another architecture"):
        loop.fit(torch.nn.Linear(5, 2), line.loss, SETTINGS, tmp_path)
    with pytest.raises(ValueError, match=f"^{path} was begun with name toy, not name other"):
        state.check(path, {"run": {"name": "toy"}}, {"name": "other"})


@pytest.mark.parametrize("text", ["", "step,loss\n1,2\n", "step,loss,lr,pictures_per_second\n1,2\n", "\0\0", "é"])
def test_a_damaged_log_is_named(tmp_path, text):
    line, path = Line(), tmp_path / state.LOSSES
    loop.fit(line.model, line.loss, replace(SETTINGS, minutes=0.0), tmp_path)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=f"^{path} is damaged: move it away"):
        loop.fit(line.model, line.loss, SETTINGS, tmp_path)
    path.unlink()
    assert loop.fit(line.model, line.loss, SETTINGS, tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    line = Line()
    with pytest.raises(FloatingPointError, match="lower --lr"):
        loop.fit(line.model, lambda step, g: line.loss(step, g) * float("nan"), SETTINGS, tmp_path)
    assert not (tmp_path / state.CHECKPOINT).exists()


def test_the_rate_warms_up_and_decays_to_zero():
    settings = state.Settings(steps=100, lr=1.0, warmup=10)
    rates = [state.rate(step, settings) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == max(rates[9:12]) > 0.9
    assert rates[20] > rates[50] > rates[99] > rates[100] == pytest.approx(0)
    assert state.rate(100, replace(settings, final_lr=0.1)) == pytest.approx(0.1)


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def test_a_run_by_the_clock_ends_with_the_minutes_at_rate_zero(tmp_path, clock):
    """Of 12 steps that take 10 s each: stopped after 4, it has 80 s left; `steps` says only where the loss takes it."""
    settings = replace(SETTINGS, steps=1200, warmup=0, log_every=1, minutes=2.0, by_clock=True)
    line, stop = Line(), []

    def loss(step, generator):
        clock.seconds += 10
        if stop and len(line.steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return line.loss(step, generator)

    def rows():
        with (tmp_path / state.LOSSES).open() as file:
            return list(csv.DictReader(file))

    stop.append(True)
    assert not loop.fit(line.model, loss, settings, tmp_path)
    assert line.steps == [0, 100, 200, 300] and float(rows()[-1]["lr"]) > 0
    stop.clear()
    clock.seconds += 1e6  # of no session
    assert loop.fit(line.model, loss, settings, tmp_path)
    assert line.steps == list(range(0, 1200, 100)) and clock.seconds == 1e6 + 120
    rates = [float(row["lr"]) for row in rows()]
    expected = [SETTINGS.lr / 2 * (1 + math.cos(math.pi * n / 12)) for n in range(1, 13)]
    assert rates == pytest.approx(expected, rel=1e-3, abs=1e-12)
    assert loop.fit(line.model, loss, settings, tmp_path) and len(line.steps) == 12  # done before
    assert loop.fit(line.model, loss, replace(settings, minutes=2.5), tmp_path) and len(line.steps) == 15


@pytest.mark.parametrize("width", [0.03, 0.08, 0.16])
def test_an_average_is_as_wide_as_it_says(width):
    steps, weights = 2000, []
    for step in range(steps):
        decay = state.averaging(step, width)
        weights = [*weights, 1 - decay] if step == 0 else [*(decay * np.array(weights)), 1 - decay]
    weights, when = np.array(weights), (np.arange(steps) + 1) / steps
    assert weights.sum() == pytest.approx(1)
    mean = (weights * when).sum()
    assert (weights * (when - mean) ** 2).sum() ** 0.5 == pytest.approx(width, rel=0.02)


def test_pictures_are_drawn_once_and_chunks_stand_alone(tmp_path):
    first = renderings.pictures(DISC, 10, 16, 3, tmp_path, chunk=4)
    assert len(first) == 10 and first.values["colour"].shape == (10,)
    index = torch.tensor([9, 0, 5])
    expected = DISC.render(first.values_at(index), 16)
    assert (first[index] - expected).abs().max() <= 0.5 / 255 + 1e-6
    home = tmp_path / first.key
    kept, lost = home / "00000.npy", home / "00001.npy"
    when, content = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    again = renderings.pictures(DISC, 10, 16, 3, tmp_path, chunk=4)
    assert kept.stat().st_mtime_ns == when and lost.read_bytes() == content
    assert torch.equal(first[index], again[index])
    longer = renderings.pictures(DISC, 12, 16, 3, tmp_path, chunk=4)
    assert torch.equal(longer.values["radius"][:10], first.values["radius"])


def test_other_seeds_pins_and_renderers_are_other_pictures(tmp_path):
    a = renderings.pictures(DISC, 8, 16, 1, tmp_path, chunk=8)
    b = renderings.pictures(DISC, 8, 16, 2, tmp_path, chunk=8)
    red = renderings.pictures(DISC, 8, 16, 1, tmp_path, {"colour": "red"}, chunk=8)
    assert not torch.equal(a.values["radius"], b.values["radius"])
    assert (red.values["colour"] == 0).all() and torch.equal(red.values["radius"], a.values["radius"])
    assert len({a.key, b.key, red.key}) == 3
    assert renderings.fingerprint(DISC) != renderings.fingerprint(PORTRAITS)


def test_docstrings_do_not_count_as_drawing():
    plain = ast.parse("def f(x):\n    return 'a'")
    documented = ast.parse('"""Module."""\ndef f(x):\n    """Said."""\n    return \'a\'')
    assert ast.dump(renderings._undocumented(documented)) == ast.dump(plain)
    assert ast.dump(renderings._undocumented(ast.parse("def f(x):\n    return 'b'"))) != ast.dump(plain)


def test_twins_differ_in_one_thing():
    differ = ("gender", "beard")
    values = twins(PORTRAITS, differ).sample(400, torch.Generator().manual_seed(5), style="photo")
    changed = torch.stack([values[f.name][::2] != values[f.name][1::2] for f in PORTRAITS.factors])
    names = [f.name for f in PORTRAITS.factors]
    assert (changed.sum(0) == 1).all()
    often = changed.float().mean(1)
    assert all(0.35 < often[names.index(name)] < 0.65 for name in differ)
    assert set(values["beard"].tolist()) == {0, 1, 2} and set(values["gender"].tolist()) == {0, 1}


def test_known_words_are_single_tokens(tmp_path):
    words = captions.words()
    tokens = models.tokenizer(words)
    assert tokens.get_vocab() == models.tokenizer(reversed(words)).get_vocab()
    tokens.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    for word in words:
        assert loaded.tokenize(word) == [word + "</w>"]
    ids = loaded("a woman, zebra é").input_ids
    assert ids[0] == loaded.bos_token_id and ids[-1] == loaded.eos_token_id and loaded.eos_token_id not in ids[:-1]
    assert training_clip.token_ids(loaded, [" ".join(words)]).shape == (1, models.TOKENS)


def test_captions_fit_into_the_prompt():
    g = renderings.generator(0)
    tokens = models.tokenizer(captions.words())
    longest = max(len(ids) for ids in tokens(captions.captions(PORTRAITS.sample(2000, g), g)).input_ids)
    assert longest <= models.TOKENS


TINY = {"pictures": 16, "steps": 2, "batch": 4, "bfloat16": False}


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Build a job of a shipped recipe at toy size."""
    monkeypatch.setattr(renderings, "CHUNK", 16)

    def build(name, seed=0, **changes):
        recipe = replace(recipes.RECIPES[name], seed=seed, **{**TINY, **changes})
        return recipes.job(name, recipe, tmp_path / "runs", tmp_path / "weights")

    return build


@pytest.mark.parametrize("name", ["mini-clip", "mini-sd", "mini-cats", "autoencoder", "reader-cats"])
def test_untrained_weights_depend_on_the_seed_alone(make, name):
    small = {} if name == "reader-cats" else {"layers": 1} if name == "mini-clip" else {"channels": (16, 32, 32, 32)}
    found = []
    for before, seed in ((1, 5), (2, 5), (3, 6)):
        torch.manual_seed(before)
        before_it = torch.get_rng_state()
        found.append(make(name, seed=seed, model=small).model.state_dict())
        assert torch.equal(torch.get_rng_state(), before_it)
    assert same(found[0], found[1]) and not same(found[0], found[2])


def settings(work, **changes):
    return work.settings(progress=False, **changes)


def published(work):
    """Train a job to its end and publish it."""
    assert train.train(work, settings(work))
    train.publish(work)
    return work


def test_mini_sd_from_nothing_to_a_pipeline(make, tmp_path):
    with pytest.raises(FileNotFoundError, match="safetensors is missing: train it first, .* autoencoder"):
        make("mini-sd").describe()
    for name, small in (
        ("autoencoder", {"channels": (8, 8, 8)}),
        ("mini-clip-captions", {"layers": 1}),
        ("mini-sd", {"channels": (16, 32, 32)}),
    ):
        work = make(name, model=small)
        assert train.train(work, settings(work))
        assert train.finished(work) and not train.finished(make(name, model=small, steps=3))
    assert not work.weights.exists()  # until it is published
    train.publish(work)
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "weights" / "mini-sd")
    pipe.set_progress_bar_config(disable=True)
    pictures = pipe("a woman", num_inference_steps=2, guidance_scale=3.0, output_type="pt").images
    assert pictures.shape == (1, 3, 128, 128) and torch.isfinite(pictures).all()
    assert pipe.scheduler.config.prediction_type == "v_prediction" and pipe.scheduler.config.steps_offset == 1
    x = renderings.pictures(PORTRAITS, 16, 128, jobs.TRAINING_SEED, tmp_path / "runs" / "data")[torch.arange(16)]
    with torch.no_grad():
        latents = pipe.vae.encode(x * 2 - 1).latent_dist.mean * pipe.vae.config.scaling_factor
    assert latents.shape == (16, 4, 32, 32) and latents.std().item() == pytest.approx(1, abs=0.05)
    configs = [path.read_text() for path in (tmp_path / "weights" / "mini-sd").rglob("*.json")]
    assert configs and not [text for text in configs if str(tmp_path) in text]  # nothing of where it was made
    words = (tmp_path / "weights" / "mini-sd" / "vocabulary.txt").read_text().split()
    assert words == sorted(set(captions.words()))


def test_captions_on_the_disk_are_of_their_pictures(make, tmp_path, monkeypatch):
    def described():
        work = make("mini-sd", pictures=40, size=32, model={"channels": (16, 32, 32)})
        jobs.Job.prepare(work)
        work.tokens = models.tokenizer(captions.words())
        return work, work.describe_pictures()

    work, ids = described()
    n, each = 40, diffusion.CAPTIONS
    texts = work.tokens.batch_decode(ids[torch.arange(n)].flatten(0, 1), skip_special_tokens=True)
    genders, styles = (work.data.values[name].repeat_interleave(each).tolist() for name in ("gender", "style"))
    levels = {f.name: f.levels for f in PORTRAITS.factors}
    named = 0
    for text, gender, style in zip(texts, genders, styles, strict=True):
        words = text.split()
        if noun := {"woman", "man"} & {*words}:
            named += 1
            assert noun == {captions.NOUNS[levels["gender"][gender]]}
        assert text.startswith(captions.STYLES[levels["style"][style]])
    assert named > 100 and len({*texts[:each]}) > each / 2
    folders = sorted((tmp_path / "runs" / "data").glob("captions-*"))
    before = [file.stat().st_mtime_ns for file in sorted(folders[0].iterdir())]
    assert len(folders) == 1 and len(before) == 3
    _, again = described()
    assert torch.equal(again[torch.arange(n)], ids[torch.arange(n)])
    assert [file.stat().st_mtime_ns for file in sorted(folders[0].iterdir())] == before  # not drawn again
    digest = renderings.digest
    monkeypatch.setattr(renderings, "digest", lambda *m: "changed" if m == (captions,) else digest(*m))
    described()
    assert len(list((tmp_path / "runs" / "data").glob("captions-*"))) == 2


def test_the_text_tower_stays_while_the_picture_tower_learns(make, tmp_path):
    small, ships = {"layers": 1}, tmp_path / "weights" / "mini-clip"
    first = make("mini-clip-captions", model=small)
    train.train(first, settings(first))
    with pytest.raises(
        ValueError, match="mini-clip-captions ships as a part of mini-clip: train and publish mini-clip"
    ):
        train.publish(first)  # half of it is untrained
    assert not ships.exists()
    text = CLIPModel.from_pretrained(first.folder).state_dict()
    published(make("mini-clip", model=small))
    then = CLIPModel.from_pretrained(ships).state_dict()
    assert text.keys() == then.keys()
    changed = {name for name, tensor in text.items() if not torch.equal(tensor, then[name])}
    assert changed and not [name for name in changed if name.startswith("text_")]
    # what waits in runs comes before what ships, and where nothing waits, what ships is taken
    assert same(first.latest().state_dict(), text) and same(first.shipped().state_dict(), then)
    shutil.rmtree(first.folder)
    assert same(first.latest().state_dict(), then)
    again = make("mini-clip", model=small)
    train.begin(again)
    assert same(again.model.state_dict(), then)


def test_plain_transformers_prepare_pictures_for_mini_clip(make):
    work = make("mini-clip", model={"layers": 1})
    work.export()
    processor = CLIPProcessor.from_pretrained(work.folder)
    picture = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    batch = processor(text=["a woman"], images=[Image.fromarray(picture)], return_tensors="pt")
    expected = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255 * 2 - 1
    torch.testing.assert_close(batch.pixel_values, expected, rtol=0, atol=1e-6)
    assert clip.load(work.folder).texts("a woman").shape == (1, models.TEXT_WIDTH)


def test_mini_sd_takes_what_was_trained_last_before_what_ships(make, tmp_path):
    def pairs(seed, towers, coder):
        """A text tower and an autoencoder, written where `towers` and `coder` say, and their first weights."""
        work = make("mini-clip", seed=seed, model={"layers": 1})
        work.export()
        shutil.copytree(work.folder, towers)
        vae = make("autoencoder", seed=seed, model={"channels": (8, 8, 8)}).model
        vae.save_pretrained(coder)
        return work.model.text_model.embeddings.token_embedding.weight.half().float(), vae.encoder.conv_in.weight

    works, runs, weights = [], tmp_path / "runs", tmp_path / "weights"
    for seed, towers, vae in (
        (0, weights / "mini-clip", weights / "mini-sd" / "vae"),
        (1, runs / "mini-clip-captions-0123abcd" / "weights", runs / "autoencoder-0123abcd" / "weights"),
        (2, runs / "mini-clip-captions-00000000" / "weights", runs / "autoencoder-00000000" / "weights"),
    ):
        words, pixels = pairs(seed, towers, vae)
        works.append(make("mini-sd", model={"channels": (16, 32, 32)}))
        coder, text, tokens = works[-1].parts()
        assert torch.equal(coder.encoder.conv_in.weight, pixels)
        assert torch.equal(text.embeddings.token_embedding.weight, words)
        assert tokens.tokenize("a woman") == ["a</w>", "woman</w>"]
    # with other parts it is another run; one that has begun keeps its own
    assert len({work.key for work in works}) == 3
    file = towers / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="model.safetensors is truncated .*: train it first, .* mini-clip-captions"):
        works[-1].parts()
    works[0].parts()


def test_factors_as_vectors_are_centred_of_equal_weight_and_hidden_ones_are_zero():
    names, widths = [f.name for f in PORTRAITS.factors], [len(f.levels) or 1 for f in PORTRAITS.factors]

    def blocks(n, **fixed):
        values = PORTRAITS.sample(n, torch.Generator().manual_seed(0), **fixed)
        return dict(zip(names, training_clip.factor_vectors(PORTRAITS, values).split(widths, 1), strict=True))

    old, young = blocks(20000, style="photo", age="old"), blocks(10, style="photo", age="young")
    for name in ("gender", "beard", "hair_colour", "glasses", "yaw", "skin", "wrinkles"):
        assert old[name].mean(0).abs().max() < 0.03
        assert old[name].square().sum(1).mean().item() == pytest.approx(1, abs=0.05)
    assert (young["yaw"] != 0).all() and (young["wrinkles"] == 0).all()
    assert sum(widths) <= models.TEXT_WIDTH


def test_a_pixel_model_from_nothing_to_a_pipeline(make, tmp_path):
    small = {"channels": (16, 16, 32, 32)}
    with pytest.raises(ValueError, match="cannot begin with .* mini-cats .*unet is missing: train"):
        train.begin(make("mini-portraits", model=small))
    cats = published(make("mini-cats", model=small))
    work = make("mini-portraits", model=small, lr=1e-9)
    train.train(work, settings(work))
    began = dict(cats.model.named_parameters())
    for name, then in work.model.named_parameters():
        if name != "conv_out.bias":  # calibrated on its own pictures
            # it began with the other's float16 weights
            torch.testing.assert_close(then, began[name], rtol=0, atol=1e-3)
    assert (work.data.values["style"] == PORTRAITS.index("style", "photo")).all()
    train.publish(work)
    pipe = DDPMPipeline.from_pretrained(tmp_path / "weights" / "mini-portraits")
    pipe.set_progress_bar_config(disable=True)
    assert pipe(num_inference_steps=2, output_type="np").images.shape == (1, 64, 64, 3)
    for mine, stored in zip(work.model.parameters(), pipe.unet.parameters(), strict=True):
        torch.testing.assert_close(stored, mine.detach().half().float(), rtol=0, atol=0)
    again = make("mini-portraits", model=small, steps=3, lr=1e-9)
    assert again.home == work.home and not train.finished(again)
    shutil.rmtree(again.folder)
    train.export(again)  # what the checkpoint holds
    for mine, stored in zip(again.model.parameters(), again.shipped().parameters(), strict=True):
        torch.testing.assert_close(stored, mine.detach().half().float(), rtol=0, atol=0)


def test_a_reader_from_nothing_to_its_folder(make, tmp_path):
    work = published(make("reader-cats", size=32, model={"size": 32}))
    assert train.finished(work) and (tmp_path / "weights" / "readers" / "cats" / "model.safetensors").is_file()
    stored = make("reader-cats", size=32, model={"size": 32}).shipped().state_dict()
    for name, mine in work.model.state_dict().items():
        torch.testing.assert_close(stored[name], mine.half().float(), rtol=0, atol=0)


def test_the_second_reader_shares_nothing_with_the_first(make):
    first, second = (
        make("reader-portraits"),
        make("reader-portraits-2", seed=recipes.RECIPES["reader-portraits-2"].seed),
    )
    assert second.ships.name == "portraits-2" and first.ships.name == "portraits"
    for other in ("seed", "renderings", "model"):
        assert getattr(first.recipe, other) != getattr(second.recipe, other)
    shapes = [[p.shape for p in work.model.trunk.parameters()] for work in (first, second)]
    assert shapes[0] != shapes[1]
    assert second.model.features(torch.rand(2, 3, 128, 128)).shape == (2, 96)


def test_everybody_may_read_weights_whom_the_umask_lets(make):
    work = make("mini-cats", model={"channels": (16, 16, 32, 32)})
    before = os.umask(0o027)
    try:
        published(work)
    finally:
        os.umask(before)
    files = [file for folder in (work.home, work.ships) for file in folder.rglob("*") if file.is_file()]
    assert any(file.suffix == ".safetensors" for file in files)
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o640}


def test_an_autoencoder_is_paid_for_decibels(make, monkeypatch):
    """Halving the error of every picture takes psnr * log 4 off the loss, and half of what is linear in the error."""
    work = make("autoencoder", model={"channels": (8, 8, 8)})
    monkeypatch.setattr(work, "kl", 0.0)
    losses = []
    for size in (0.5, 0.25):
        constant = (torch.full((16, 3, 64, 64), size), torch.zeros(1), torch.zeros(1))
        monkeypatch.setattr(work, "forward", lambda x, noise, out=constant: out)
        work.data = torch.full((16, 3, 128, 128), 0.5)  # 0 inside of the model
        losses.append(work.loss(0, renderings.generator(0)).item())
    assert losses[0] - losses[1] == pytest.approx(0.25 + work.psnr * math.log(4), rel=1e-3)


def test_a_shallow_autoencoder_begins_a_deeper_one(make):
    narrow = {"channels": (8, 8, 16)}
    shallow = make("autoencoder", model={**narrow, "layers": 1})
    x = torch.rand(2, 3, 64, 64, generator=renderings.generator(0)) * 2 - 1
    noise = torch.randn(2, 4, 16, 16, generator=renderings.generator(1))
    for layers in (1, 2, 3):
        deep = make("autoencoder", model={**narrow, "layers": layers}, seed=1)
        deep.begin_with(shallow.model.state_dict())
        with torch.no_grad():
            for found, expected in zip(deep.forward(x, noise), shallow.forward(x, noise), strict=True):
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        shallow.begin_with(deep.model.state_dict())
    with pytest.raises(RuntimeError, match="size mismatch"):
        make("autoencoder", model={"channels": (8, 16, 16)}).begin_with(shallow.model.state_dict())
    deep.prepare()
    deep.loss(0, renderings.generator(2)).backward()
    added = deep.model.encoder.down_blocks[0].resnets[2].conv2.weight
    assert not added.any() and added.grad.any()  # it learns from there


@pytest.fixture
def halved(monkeypatch):
    """The CPU counts as a device on which a copy in bfloat16 learns."""
    monkeypatch.setattr(jobs, "KINDS", ("cpu",))
    monkeypatch.setattr(jobs, "has_bfloat16", lambda device: True)


HALVED = {
    "mini-cats": ({"size": 32, "model": {"channels": (16, 16, 32, 32)}}, 0.01),
    # as much by autocast: where ground is flat, rounding decides the signs of edges
    "autoencoder": ({"size": 64, "model": {"layers": 1}}, 0.2),
}


@pytest.mark.parametrize("name", HALVED)
def test_a_copy_in_bfloat16_learns_what_the_model_learns(make, halved, name):
    """The gradients of a loss agree within its 8 bits, and weights stay float32."""
    small, bound = HALVED[name]
    works = [make(name, bfloat16=bfloat16, **small) for bfloat16 in (False, True)]
    seen = []
    for work in works:
        work.prepare()
        run = state.Run(work.model, settings(work, warmup=0), work.home, {}, work.after_backward)
        before = torch.cat([p.detach().flatten() for p in work.model.parameters()])
        run.learn(work.loss, Processes(), lambda: 0.0, lambda: ())
        moments = run.optimiser.state_dict()["state"].values()  # after one step, a tenth of the gradients
        after = torch.cat([p.detach().flatten() for p in work.model.parameters()])
        seen.append((torch.cat([m["exp_avg"].flatten() for m in moments]), after - before))
    (whole, step), (half, halved_step) = seen
    assert works[0].half is None and next(works[1].half.copy.parameters()).dtype == torch.bfloat16
    assert {p.dtype for p in works[1].model.parameters()} == {torch.float32} == {half.dtype}
    assert 0 < (half - whole).norm() < bound * whole.norm()
    assert torch.nn.functional.cosine_similarity(step, halved_step, dim=0) > 0.9  # Adam's first step is of signs
    # what is scored is the model, not its copy
    assert works[1].learner is works[1].half.copy
    with torch.no_grad():
        assert works[1].learner is works[1].model


def test_the_copy_trains_only_the_parameters_that_are_named(make, halved):
    work = make("mini-cats", bfloat16=True, only="^conv_out", **HALVED["mini-cats"][0])
    before = {name: p.clone() for name, p in work.model.named_parameters()}
    assert train.train(work, settings(work))
    _, averages = state.read(work.home / state.CHECKPOINT)
    changed = {name for name, p in before.items() if not torch.equal(averages["0.16"][name], p)}
    assert changed == {"conv_out.weight", "conv_out.bias"}
    assert work.half.copy.conv_in.weight.grad is None and work.model.conv_in.weight.grad is None


def test_held_out_renderings_choose_the_average(make, monkeypatch):
    work = make("mini-cats", model={"channels": (16, 16, 32, 32)})
    work.prepare()
    assert work.score(2) == work.score(2) != work.score(3)
    held = work.held_out()
    assert held.model is work.model and not torch.equal(held.data[torch.arange(4)], work.data[torch.arange(4)])
    seen = []
    monkeypatch.setattr(work, "score", lambda: seen.append(1) or float(-len(seen)))
    train.train(work, settings(work))
    _, averages = state.read(work.home / state.CHECKPOINT)
    assert len(seen) == len(averages) == 3
    assert torch.equal(work.model.conv_in.weight, averages["0.16"]["conv_in.weight"])  # scored last


def test_damaged_renderings_are_named(tmp_path):
    pictures = renderings.pictures(DISC, 8, 16, 3, tmp_path, chunk=4)
    home = tmp_path / pictures.key
    for name in ("00001.npy", "00001.npz"):
        file = home / name
        content = file.read_bytes()
        for part in (content[: len(content) // 2], b"", bytes(len(content)), b"no array"):
            file.write_bytes(part)
            with pytest.raises(ValueError, match=f"^{file} .*delete"):
                renderings.pictures(DISC, 8, 16, 3, tmp_path, chunk=4)
        file.write_bytes(content)
    np.save(home / "00000.npy", np.zeros((4, 3, 8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"00000.npy holds an array of shape \(4, 3, 8, 8\).*: delete it, and it is"):
        renderings.pictures(DISC, 8, 16, 3, tmp_path, chunk=4)


def test_the_command_line_explains_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="mini-cats: .*checkpoint.safetensors does not exist: train first"):
        train.main(["mini-cats", "--export", "--runs", str(tmp_path), "--weights", str(tmp_path / "w")])
    with pytest.raises(ValueError, match="mini-cats: cannot begin with the weights of mini-cats"):
        train.main(["mini-cats", "--from-shipped", "--runs", str(tmp_path), "--weights", str(tmp_path / "w")])
    with pytest.raises(SystemExit) as exit_code:
        train.main(["no-such-model"])
    assert exit_code.value.code == 2


class Toy(jobs.Job):
    """A job that trains in no time, and fails to export with `refusal`, if there is one."""

    refusal = None

    def build(self):
        return torch.nn.Linear(3, 1)

    def prepare(self, seed=0, n=None):
        pass

    def loss(self, step, g):
        return self.model(torch.randn(self.batch, 3, generator=g)).square().mean()

    def export(self):
        if self.refusal:
            raise self.refusal
        self.folder.mkdir(parents=True, exist_ok=True)
        save_file(self.model.state_dict(), self.folder / "w")

    def stored(self, folder):
        model = torch.nn.Linear(3, 1)
        model.load_state_dict(load_file(folder / "w"))
        return model


class Part(Toy):
    """A toy that ships within another."""

    part_of = "toy"


RECIPE = jobs.Recipe(Toy, "cats", 4, 32, steps=3, batch=4, lr=1e-2)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The command line, with two recipes, in folders of its own; `homes` are those of the runs, oldest first."""
    monkeypatch.setattr(train, "RECIPES", {"part": replace(RECIPE, job=Part), "toy": RECIPE})
    runs, weights = tmp_path / "runs", tmp_path / "weights"

    def run(*options, name="toy"):
        return train.main([name, "--runs", str(runs), "--weights", str(weights), *options])

    def homes():
        return sorted((file.parent for file in runs.glob(f"toy-*/{state.CHECKPOINT}")), key=os.path.getctime)

    return SimpleNamespace(run=run, homes=homes, folder=tmp_path, runs=runs, weights=weights)


def test_each_choice_of_options_has_a_run_of_its_own_and_goes_on_with_it(toy):
    choices = [(), ("--seed", "1"), ("--lr", "0.1"), ("--batch", "8"), ("--pictures", "8"), ("--only", "bias")]
    for number, options in enumerate(choices):
        assert toy.run("--minutes", "0", *options) == 3
        assert len(toy.homes()) == number + 1
    for options in choices:
        assert toy.run(*options) == 0 and toy.run(*options) == 0
    assert len(toy.homes()) == len(choices)
    states = [load_file(home / "weights" / "w") for home in toy.homes()]
    # the toy draws its own numbers, however many pictures there are
    assert sum(same(a, b) for a, b in itertools.combinations(states, 2)) == 1
    assert not toy.weights.exists()


def test_steps_and_minutes_do_not_begin_another_run(toy, caplog):
    with caplog.at_level(logging.INFO):
        assert toy.run("--minutes", "0") == 3
        assert toy.run("--steps", "5") == 0 and toy.run("--steps", "5") == 0
    (home,) = toy.homes()
    assert state.read(home / state.CHECKPOINT)[0] == 5
    for said in (f"begins in {home}", f"goes on in {home}", f"done before, in {home}"):
        assert f"toy: {said}" in caplog.text


def test_a_run_by_the_clock_is_done_and_exports(toy, caplog):
    for minutes in ((), ("--minutes", "0"), ("--minutes", "nan"), ("--minutes", "-1")):
        with pytest.raises(ValueError, match="--by-clock fills the time that --minutes gives: give a number of"):
            toy.run("--by-clock", *minutes)
    with caplog.at_level(logging.INFO):
        assert toy.run("--by-clock", "--minutes", "0.01") == 0
    (home,) = toy.homes()
    step, averages = state.read(home / state.CHECKPOINT)
    assert step > RECIPE.steps and f"{home.name}: {step} steps, " in caplog.text
    exported = load_file(home / "weights" / "w")
    assert any(same(exported, average) for average in averages.values())
    assert toy.run("--by-clock", "--minutes", "0.01", "--publish") == 0  # done before
    assert state.read(home / state.CHECKPOINT)[0] == step and same(load_file(toy.weights / "toy" / "w"), exported)


def test_two_trainings_do_not_share_a_run(toy):
    """The second is told so, and takes nothing from the first, which goes on as if it had been alone."""
    assert toy.run("--minutes", "0") == 3
    (home,) = toy.homes()
    before = (home / state.CHECKPOINT).read_bytes()
    with (
        files.alone(home, "wait"),
        pytest.raises(ValueError, match=f"{home.name} is in use by another process: wait for it, or .* --runs"),
    ):
        toy.run()
    assert (home / state.CHECKPOINT).read_bytes() == before
    assert toy.run() == 0 and not list(toy.runs.glob(".*lock"))


def test_weights_that_ship_are_replaced_only_on_purpose(toy):
    ships = toy.weights / "toy" / "w"
    assert toy.run("--steps", "1") == 0 and not ships.exists()
    assert toy.run("--publish", "--minutes", "0") == 3 and not ships.exists()  # not done yet
    assert toy.run("--publish") == 0 and ships.exists()
    kept = ships.read_bytes()
    assert toy.run("--seed", "1") == 0 and ships.read_bytes() == kept
    assert toy.run("--seed", "1", "--publish") == 0 and ships.read_bytes() != kept  # done before
    assert toy.run("--export", "--publish") == 0 and ships.read_bytes() == kept


def test_a_part_is_published_with_the_whole(toy):
    with pytest.raises(ValueError, match="part: part ships as a part of toy: train and publish toy"):
        toy.run("--publish", name="part")
    assert not list(toy.folder.iterdir())
    assert toy.run("--publish", name="all") == 0
    assert [folder.name for folder in toy.weights.iterdir()] == ["toy"]


def test_training_can_begin_with_what_ships(toy):
    with pytest.raises(ValueError, match="toy: cannot begin with the weights of toy"):
        toy.run("--from-shipped")
    toy.run("--publish")
    began = load_file(toy.weights / "toy" / "w")
    assert toy.run("--from-shipped", "--lr", "1e-30") == 0
    assert same(load_file(toy.homes()[-1] / "weights" / "w"), began) and len(toy.homes()) == 2


@pytest.mark.parametrize("option", ["--steps", "--batch", "--pictures", "--lr"])
def test_numbers_are_positive(toy, option, capsys):
    for value in ("0", "-1", "many", "inf"):
        with pytest.raises(SystemExit) as exit_code:
            toy.run(option, value)
        assert exit_code.value.code == 2
        assert f"argument {option}: invalid positive number value: '{value}'" in capsys.readouterr().err


def test_only_the_parameters_named_are_trained(toy):
    for bad, said in (("(", "is not a regular expression"), ("kernel", "no parameter's name has 'kernel' in it")):
        with pytest.raises(ValueError, match=f"toy: .*{said}"):
            toy.run("--only", bad)
    began = recipes.job("toy", RECIPE, toy.folder, toy.folder).model.state_dict()
    assert toy.run("--only", "bias$") == 0
    ended = load_file(toy.homes()[-1] / "weights" / "w")
    assert torch.equal(ended["weight"], began["weight"]) and not torch.equal(ended["bias"], began["bias"])


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (PermissionError(13, "Permission denied", "w"), r"cannot write .*toy.* \(.*Permission denied: 'w'\)"),
        (WriteError("cannot write runs/toy: the disk is full"), "cannot write runs/toy: the disk is full"),
        (SafetensorError("No space left on device\nand more"), r"cannot write .*toy.* \(No space left on device\)"),
    ],
)
def test_weights_that_cannot_be_written_are_explained_and_kept(toy, monkeypatch, refusal, said):
    monkeypatch.setattr(Toy, "refusal", refusal)
    with pytest.raises(ValueError, match=f"^toy: {said}; --export writes what the checkpoint holds$"):
        toy.run()
    monkeypatch.setattr(Toy, "refusal", None)
    assert toy.run("--export") == 0
    (home,) = toy.homes()
    step, averages = state.read(home / state.CHECKPOINT)
    exported = load_file(home / "weights" / "w")
    assert step == 3 and any(same(exported, average) for average in averages.values())


def test_folders_in_the_way_are_explained_before_anything_is_computed(toy, monkeypatch):
    toy.runs.write_bytes(b"")
    monkeypatch.setattr(Toy, "loss", None)
    with pytest.raises(ValueError, match="toy: cannot write .*runs.*: a file stands where a folder is needed"):
        toy.run()


def test_a_device_that_is_not_there_is_explained(toy):
    with pytest.raises(ValueError, match="there is no device 'abacus' here"):
        toy.run("--device", "abacus")


@pytest.mark.parametrize(
    ("capabilities", "found"),
    [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"bf16": True}, True), ({"avx512_f": True}, False)],
)
def test_bfloat16_is_used_where_the_processor_multiplies_it(monkeypatch, capabilities, found):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert precision.has_bfloat16("cpu") == found
    for wanted in (True, False):
        with precision.autocast("cpu", wanted):
            product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype == (torch.bfloat16 if found and wanted else torch.float32)


def test_a_batch_is_shared_equally():
    alone = Processes()
    assert (alone.rank, alone.count, alone.first, alone.share(6)) == (0, 1, True, 6)
    pair = SimpleNamespace(count=2)
    assert Processes.share(pair, 6) == 3
    with pytest.raises(ValueError, match="a batch of 7 does not divide among 2 processes"):
        Processes.share(pair, 7)


def test_two_processes_train_one_model(tmp_path):
    """By torchrun, on CPUs: both end with the weights that the first writes."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(script), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    assert same(first, second)
    clocked = [load_file(tmp_path / f"clock-{rank}.safetensors") for rank in (0, 1)]
    assert same(*clocked) and not same(clocked[0], first)
    step, averages = state.read(tmp_path / "line" / state.CHECKPOINT)
    assert step == 6 and same(first, averages["0.16"])
    # the gradient of both halves of a batch is that of the batch
    line = torch.nn.Linear(3, 1)
    with torch.no_grad():
        line.weight.zero_(), line.bias.zero_()
    (line(torch.arange(12.0).view(4, 3)) - 1).square().mean().backward()
    found = load_file(tmp_path / "gradient.safetensors")
    torch.testing.assert_close(found["weight"], line.weight.grad)
    assert found["numbers"].tolist() == [0.5, 3.0]


SCRIPT = """
import dataclasses
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from lsvd.testbed.training import loop, state
from lsvd.testbed.training.processes import Processes

processes, folder = Processes("cpu"), Path(sys.argv[1])
assert processes.count == 2 and processes.share(4) == 2
line = torch.nn.Linear(3, 1)
torch.nn.init.zeros_(line.weight), torch.nn.init.zeros_(line.bias)
part = torch.arange(12.0).view(4, 3)[2 * processes.rank :][:2]
(line(part) - 1).square().mean().backward()
numbers = processes.average(list(line.parameters()), float(processes.rank), 3.0)
if processes.first:
    save_file({"weight": line.weight.grad, "numbers": torch.tensor(numbers)}, folder / "gradient.safetensors")

torch.manual_seed(0)
model = torch.nn.Linear(3, 1)

def loss(step, g):
    x = torch.randn(8, 3, generator=g)
    return (model(x) - x.sum(-1, keepdim=True)).square().mean()

settings = state.Settings(6, 1e-2, warmup=2, averages=(0.08, 0.16), progress=False)
assert not loop.fit(model, loss, dataclasses.replace(settings, minutes=0.0), folder / "line", processes=processes)
assert loop.fit(model, loss, settings, folder / "line", processes=processes)
save_file(model.state_dict(), folder / f"{processes.rank}.safetensors")
clocked = dataclasses.replace(settings, minutes=0.01, by_clock=True)  # no two processes read the same time
assert loop.fit(model, loss, clocked, folder / "clock", processes=processes)
save_file(model.state_dict(), folder / f"clock-{processes.rank}.safetensors")
"""
