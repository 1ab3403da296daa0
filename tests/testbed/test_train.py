"""Training at toy size: going on exactly, damaged files, the picture cache, and the exported folders."""

import ast
import logging
import os
import shutil
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, StableDiffusionPipeline
from PIL import Image
from safetensors import SafetensorError
from transformers import CLIPModel, CLIPProcessor, CLIPTokenizer

from lsvd.backbones import clip
from lsvd.storage.files import WriteError
from lsvd.testbed import renderings
from lsvd.testbed.scenes import captions
from lsvd.testbed.scenes.portraits import PORTRAITS
from lsvd.testbed.scenes.scene import Factor, Scene, twins
from lsvd.testbed.training import jobs, loop, models, train

SETTINGS = loop.Settings(steps=6, lr=1e-2, warmup=2, log_every=2, progress=False)


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
    first, second = (loop.read(tmp_path / name / "checkpoint.pt") for name in ("whole", "halves"))
    assert same(first["model"], second["model"]) and same(first["ema"], second["ema"])
    assert not same(first["model"], first["ema"])
    assert same(whole.model.state_dict(), first["ema"])  # fit leaves the averaged weights behind
    assert len((tmp_path / "whole" / "loss.csv").read_text().splitlines()) == 1 + 3


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
    for recipe, changes, said in (
        (about, {"seed": 1}, "begun with seed 0, not seed 1: give the same options, or delete it"),
        (about | {"batch": 8}, {"lr": 1e-3}, "begun with lr 0.01 and batch 4, not lr 0.001 and batch 8"),
        (about | {"fixed": {}}, {}, "fixed {'colour': 'red'}, not fixed {}"),
        (about | {"model": {"channels": (8, 9)}}, {}, r"model {'channels': \(8, 8\)}, not"),
        (about, {"warmup": 3, "ema": 0.9}, "warmup 2 and ema 0.9995, not warmup 3 and ema 0.9"),
    ):
        with pytest.raises(ValueError, match=said):
            run(recipe, **changes)
    assert loop.read(tmp_path / "checkpoint.pt")["step"] == 1
    assert run(about, minutes=0.0, log_every=1, save_minutes=1.0) == (False, [1])  # these change nothing
    assert run(about | {"new": 1}) == (True, [2, 3, 4, 5])  # an option that there was none of
    assert run(about, steps=8) == (True, [6, 7])  # longer
    assert run(about, steps=4) == (True, [])  # shorter than it is


def test_a_checkpoint_that_does_not_say_whose_it_is_goes_on(tmp_path):
    line, path = Line(), tmp_path / "checkpoint.pt"
    loop.fit(line.model, line.loss, replace(SETTINGS, minutes=0.0), tmp_path)
    state = loop.read(path)
    del state["run"]
    torch.save(state, path)
    assert loop.fit(line.model, line.loss, replace(SETTINGS, lr=1e-3), tmp_path)
    assert line.steps == list(range(6))
    with pytest.raises(ValueError, match="lr 0.001, not lr 0.01"):
        loop.fit(line.model, line.loss, SETTINGS, tmp_path)


def full(path, data):
    raise WriteError(f"cannot write {path}: the disk is full")


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(tmp_path, monkeypatch, caplog):
    whole, line = Line(), Line()
    loop.fit(whole.model, whole.loss, SETTINGS, tmp_path / "whole")
    real = loop.write_bytes
    monkeypatch.setattr(loop, "write_bytes", full)
    with pytest.raises(WriteError, match="full"):  # stopped: what it was asked to keep is not kept
        loop.fit(Line().model, Line().loss, replace(SETTINGS, minutes=0.0), tmp_path / "stopped")

    def loss(step, generator):
        monkeypatch.setattr(loop, "write_bytes", full if step in (1, 5) else real)
        return line.loss(step, generator)

    with caplog.at_level(logging.WARNING):
        assert loop.fit(line.model, loss, replace(SETTINGS, save_minutes=0.0), tmp_path / "run")
    assert [r.message.split(" is not")[0] for r in caplog.records] == ["run: step 2", "run: step 6"]
    assert "disk is full" in caplog.text
    assert same(whole.model.state_dict(), line.model.state_dict())  # to be exported
    monkeypatch.setattr(loop, "write_bytes", real)
    assert loop.read(tmp_path / "run" / "checkpoint.pt")["step"] == 5
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
    assert loop.read(tmp_path / "checkpoint.pt")["step"] == 3
    assert signal.getsignal(number) == before


def test_damaged_and_missing_checkpoints_are_explained(tmp_path):
    line, path = Line(), tmp_path / "checkpoint.pt"
    with pytest.raises(FileNotFoundError, match="train first"):
        loop.read(path)
    loop.fit(line.model, line.loss, SETTINGS, tmp_path)
    content = path.read_bytes()
    for part in (content[: len(content) // 2], content[:10], b"", b"no checkpoint at all"):
        path.write_bytes(part)
        with pytest.raises(ValueError, match="truncated or damaged: delete it"):
            loop.fit(line.model, line.loss, SETTINGS, tmp_path)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="another architecture"):
        loop.fit(torch.nn.Linear(5, 2), line.loss, SETTINGS, tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    line = Line()
    with pytest.raises(FloatingPointError, match="lower --lr"):
        loop.fit(line.model, lambda step, g: line.loss(step, g) * float("nan"), SETTINGS, tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_the_rate_warms_up_and_decays():
    settings = loop.Settings(steps=100, lr=1.0, warmup=10, final_lr=0.1)
    rates = [loop.rate(step, settings) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == max(rates[9:12]) > 0.9
    assert rates[100] == pytest.approx(0.1) and rates[20] > rates[50] > rates[99]


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
    assert jobs.token_ids(loaded, [" ".join(words)]).shape == (1, models.TOKENS)


def test_captions_fit_into_the_prompt():
    g = renderings.generator(0)
    tokens = models.tokenizer(captions.words())
    longest = max(len(ids) for ids in tokens(captions.captions(PORTRAITS.sample(2000, g), g)).input_ids)
    assert longest <= models.TOKENS


TINY = {"pictures": 16, "steps": 2, "batch": 4}


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Build a job of a shipped recipe at toy size."""
    monkeypatch.setattr(renderings, "CHUNK", 16)

    def build(name, seed=0, **changes):
        recipe = replace(train.RECIPES[name], bfloat16=False, **{**TINY, **changes})
        return train.job(name, recipe, tmp_path / "runs", tmp_path / "weights", seed=seed)

    return build


@pytest.mark.parametrize("name", ["mini-clip", "mini-sd", "mini-cats", "autoencoder", "reader-cats"])
def test_untrained_weights_depend_on_the_seed_alone(make, name):
    small = {} if name == "reader-cats" else {"layers": 1} if name == "mini-clip" else {"channels": (16, 32, 32, 32)}
    found = []
    for before, seed in ((1, 5), (2, 5), (3, 6)):
        torch.manual_seed(before)
        state = torch.get_rng_state()
        found.append(make(name, seed=seed, model=small).model.state_dict())
        assert torch.equal(torch.get_rng_state(), state)
    assert same(found[0], found[1]) and not same(found[0], found[2])


def settings(work):
    return loop.Settings(work.recipe.steps, work.recipe.lr, progress=False)


def test_mini_sd_from_nothing_to_a_pipeline(make, tmp_path):
    with pytest.raises(FileNotFoundError, match="vae is missing: train it first, .* autoencoder"):
        make("mini-sd").prepare()
    for name, small in (
        ("autoencoder", {"channels": (8, 8, 8)}),
        ("mini-clip-captions", {"layers": 1}),
        ("mini-sd", {"channels": (16, 32, 32)}),
    ):
        work = make(name, model=small)
        assert train.train(work, settings(work))
        assert train.finished(work, settings(work)) and not train.finished(work, replace(settings(work), steps=3))
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


def test_the_text_tower_stays_while_the_picture_tower_learns(make, tmp_path):
    small, ships = {"layers": 1}, tmp_path / "weights" / "mini-clip"
    first = make("mini-clip-captions", model=small)
    train.train(first, settings(first))
    assert not ships.exists()  # half of it is untrained
    text = CLIPModel.from_pretrained(first.folder).state_dict()
    work = make("mini-clip", model=small)
    train.train(work, settings(work))
    then = CLIPModel.from_pretrained(ships).state_dict()
    assert text.keys() == then.keys()
    changed = {name for name, tensor in text.items() if not torch.equal(tensor, then[name])}
    assert changed and not [name for name in changed if name.startswith("text_")]
    # what waits in runs comes before what ships, and where nothing waits, what ships is taken
    assert same(first.latest().state_dict(), text) and same(first.shipped().state_dict(), then)
    shutil.rmtree(first.folder)
    assert same(first.latest().state_dict(), then)
    again = make("mini-clip", model=small)
    train.begin(again, from_shipped=False)
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


def test_mini_sd_takes_what_waits_in_runs_before_what_ships(make, tmp_path):
    def pairs(name, seed, vae):
        """A text tower and an autoencoder, written where `name` and `vae` say, and their first weights."""
        towers = make(name, seed=seed, model={"layers": 1})
        towers.export()
        coder = make("autoencoder", seed=seed, model={"channels": (8, 8, 8)}).model
        coder.save_pretrained(vae)
        return towers.model.text_model.embeddings.token_embedding.weight.half().float(), coder.encoder.conv_in.weight

    work = make("mini-sd", model={"channels": (16, 32, 32)})
    for name, seed, vae in (
        ("mini-clip", 0, work.weights / "mini-sd" / "vae"),
        ("mini-clip-captions", 1, work.runs / "autoencoder" / "vae"),
    ):
        words, pixels = pairs(name, seed, vae)
        coder, text, tokens = work.parts()
        assert torch.equal(coder.encoder.conv_in.weight, pixels)
        assert torch.equal(text.embeddings.token_embedding.weight, words)
        assert tokens.tokenize("a woman") == ["a</w>", "woman</w>"]
    weights = work.runs / "mini-clip-captions" / "clip" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match="model.safetensors is truncated .*: train it first, .* mini-clip-captions"):
        work.parts()


def test_factors_as_vectors_are_centred_of_equal_weight_and_hidden_ones_are_zero():
    names, widths = [f.name for f in PORTRAITS.factors], [len(f.levels) or 1 for f in PORTRAITS.factors]

    def blocks(n, **fixed):
        values = PORTRAITS.sample(n, torch.Generator().manual_seed(0), **fixed)
        return dict(zip(names, jobs.factor_vectors(PORTRAITS, values).split(widths, 1), strict=True))

    old, young = blocks(20000, style="photo", age="old"), blocks(10, style="photo", age="young")
    for name in ("gender", "beard", "hair_colour", "glasses", "yaw", "skin", "wrinkles"):
        assert old[name].mean(0).abs().max() < 0.03
        assert old[name].square().sum(1).mean().item() == pytest.approx(1, abs=0.05)
    assert (young["yaw"] != 0).all() and (young["wrinkles"] == 0).all()
    assert sum(widths) <= models.TEXT_WIDTH


def test_a_pixel_model_from_nothing_to_a_pipeline(make, tmp_path):
    small = {"channels": (16, 16, 32, 32)}
    work = make("mini-portraits", model=small)
    with pytest.raises(ValueError, match="cannot begin with .* mini-cats .*mini-cats does not exist: train"):
        train.train(work, settings(work))
    cats = make("mini-cats", model=small)
    train.train(cats, settings(cats))
    train.train(work, replace(settings(work), lr=1e-9, weight_decay=0.0))
    began = dict(cats.model.named_parameters())
    for name, then in work.model.named_parameters():
        if name != "conv_out.bias":  # calibrated on its own pictures
            # it began with the other's float16 weights
            torch.testing.assert_close(then, began[name], rtol=0, atol=1e-3)
    assert (work.data.values["style"] == PORTRAITS.index("style", "photo")).all()
    pipe = DDPMPipeline.from_pretrained(tmp_path / "weights" / "mini-portraits")
    pipe.set_progress_bar_config(disable=True)
    assert pipe(num_inference_steps=2, output_type="np").images.shape == (1, 64, 64, 3)
    for mine, stored in zip(work.model.parameters(), pipe.unet.parameters(), strict=True):
        torch.testing.assert_close(stored, mine.detach().half().float(), rtol=0, atol=0)
    again = make("mini-portraits", model=small, steps=3)
    assert not train.finished(again, replace(settings(again), lr=1e-9, weight_decay=0.0))
    train.export(again)  # what the checkpoint holds
    for mine, stored in zip(again.model.parameters(), pipe.unet.parameters(), strict=True):
        torch.testing.assert_close(stored, mine.detach().half().float(), rtol=0, atol=0)
    fresh = make("mini-portraits", model=small)
    fresh.runs = tmp_path / "elsewhere"
    fresh.model.load_state_dict(fresh.shipped().state_dict())


def test_a_reader_from_nothing_to_its_folder(make, tmp_path):
    work = make("reader-cats", size=32, model={"size": 32})
    assert train.train(work, settings(work))
    assert train.finished(work, settings(work))
    stored = make("reader-cats", size=32, model={"size": 32}).shipped().state_dict()
    for name, mine in work.model.state_dict().items():
        torch.testing.assert_close(stored[name], mine.half().float(), rtol=0, atol=0)


def test_the_command_line_explains_what_is_missing(tmp_path):
    with pytest.raises(SystemExit, match="mini-cats: .*checkpoint.pt does not exist: train first"):
        train.main(["mini-cats", "--export", "--runs", str(tmp_path), "--weights", str(tmp_path / "w")])
    with pytest.raises(SystemExit, match="mini-cats: cannot begin with the weights of mini-cats"):
        train.main(["mini-cats", "--from-shipped", "--runs", str(tmp_path), "--weights", str(tmp_path / "w")])
    with pytest.raises(SystemExit) as exit_code:
        train.main(["no-such-model"])
    assert exit_code.value.code == 2


class Toy(jobs.Job):
    """A job that trains in no time, and fails to export with `refusal`, if there is one."""

    refusal = None

    def build(self):
        return torch.nn.Linear(3, 1)

    def prepare(self):
        pass

    def loss(self, step, g):
        return self.model(torch.randn(4, 3, generator=g)).square().mean()

    def export(self):
        if self.refusal:
            raise self.refusal
        self.folder.mkdir(parents=True)
        torch.save(self.model.state_dict(), self.folder / "w")


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The command line, with one recipe, in folders of its own."""
    monkeypatch.setattr(train, "RECIPES", {"toy": jobs.Recipe(Toy, "cats", 4, 32, steps=3, batch=4, lr=1e-2)})
    folders = ["--runs", str(tmp_path / "runs"), "--weights", str(tmp_path / "weights")]
    return SimpleNamespace(run=lambda *options: train.main(["toy", *folders, *options]), folder=tmp_path)


def test_the_command_line_goes_on_with_the_same_options(toy):
    assert toy.run("--minutes", "0") == 3
    with pytest.raises(SystemExit, match="toy: .*begun with lr 0.01 and batch 4, not lr 0.1 and batch 8"):
        toy.run("--lr", "0.1", "--batch", "8")
    with pytest.raises(SystemExit, match="begun with seed 0, not seed 1"):
        toy.run("--seed", "1")
    assert toy.run() == 0 and toy.run() == 0
    with pytest.raises(SystemExit, match="begun with from_shipped False, not from_shipped True"):
        toy.run("--from-shipped")  # finished, but not the run that is asked for


def test_only_the_parameters_named_are_trained(toy):
    for bad, said in (("(", "is no regular expression"), ("kernel", "no parameter's name has 'kernel' in it")):
        with pytest.raises(SystemExit, match=f"toy: .*{said}"):
            toy.run("--only", bad)
    began = train.job("toy", train.RECIPES["toy"], toy.folder, toy.folder).model.state_dict()
    assert toy.run("--only", "bias$") == 0
    ended = torch.load(toy.folder / "weights" / "toy" / "w")
    assert torch.equal(ended["weight"], began["weight"]) and not torch.equal(ended["bias"], began["bias"])
    with pytest.raises(SystemExit, match="toy: .*begun with only bias\\$, not only"):
        toy.run()


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (PermissionError(13, "Permission denied", "w"), r"cannot write .*toy \(.*Permission denied: 'w'\)"),
        (WriteError("cannot write weights/toy: the disk is full"), "cannot write weights/toy: the disk is full"),
        (SafetensorError("No space left on device\nand more"), r"cannot write .*toy \(No space left on device\)"),
    ],
)
def test_weights_that_cannot_be_written_are_explained_and_kept(toy, monkeypatch, refusal, said):
    monkeypatch.setattr(Toy, "refusal", refusal)
    with pytest.raises(SystemExit, match=f"^toy: {said}; --export writes what the checkpoint holds$"):
        toy.run()
    monkeypatch.setattr(Toy, "refusal", None)
    assert toy.run("--export") == 0
    kept = loop.read(toy.folder / "runs" / "toy" / "checkpoint.pt")
    assert kept["step"] == 3 and same(torch.load(toy.folder / "weights" / "toy" / "w"), kept["ema"])


@pytest.mark.parametrize("place", ["runs", "weights"])
def test_folders_in_the_way_are_explained_before_anything_is_computed(toy, monkeypatch, place):
    (toy.folder / place).write_bytes(b"")
    monkeypatch.setattr(Toy, "loss", None)
    with pytest.raises(SystemExit, match=f"toy: cannot write .*{place}.*: a file stands where a folder is needed"):
        toy.run()
