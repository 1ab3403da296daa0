"""Training at toy size: going on exactly, damaged files, the picture cache, and the exported folders."""

import ast
import os
import signal
from dataclasses import replace

import pytest
import torch
from diffusers import DDPMPipeline, StableDiffusionPipeline
from transformers import CLIPModel, CLIPTokenizer

from lsvd.testbed import captions, data, jobs, loop, models, train
from lsvd.testbed.portraits import PORTRAITS
from lsvd.testbed.scene import Factor, Scene, twins

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
    first = data.pictures(DISC, 10, 16, 3, tmp_path, chunk=4)
    assert len(first) == 10 and first.values["colour"].shape == (10,)
    index = torch.tensor([9, 0, 5])
    expected = DISC.render(first.values_at(index), 16)
    assert (first[index] - expected).abs().max() <= 0.5 / 255 + 1e-6
    home = tmp_path / first.key
    kept, lost = home / "00000.npy", home / "00001.npy"
    when, content = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    again = data.pictures(DISC, 10, 16, 3, tmp_path, chunk=4)
    assert kept.stat().st_mtime_ns == when and lost.read_bytes() == content
    assert torch.equal(first[index], again[index])
    longer = data.pictures(DISC, 12, 16, 3, tmp_path, chunk=4)
    assert torch.equal(longer.values["radius"][:10], first.values["radius"])


def test_other_seeds_pins_and_renderers_are_other_pictures(tmp_path):
    a = data.pictures(DISC, 8, 16, 1, tmp_path, chunk=8)
    b = data.pictures(DISC, 8, 16, 2, tmp_path, chunk=8)
    red = data.pictures(DISC, 8, 16, 1, tmp_path, {"colour": "red"}, chunk=8)
    assert not torch.equal(a.values["radius"], b.values["radius"])
    assert (red.values["colour"] == 0).all() and torch.equal(red.values["radius"], a.values["radius"])
    assert len({a.key, b.key, red.key}) == 3
    assert data.fingerprint(DISC) != data.fingerprint(PORTRAITS)


def test_docstrings_do_not_count_as_drawing():
    plain = ast.parse("def f(x):\n    return 'a'")
    documented = ast.parse('"""Module."""\ndef f(x):\n    """Said."""\n    return \'a\'')
    assert ast.dump(data._undocumented(documented)) == ast.dump(plain)
    assert ast.dump(data._undocumented(ast.parse("def f(x):\n    return 'b'"))) != ast.dump(plain)


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
    g = data.generator(0)
    tokens = models.tokenizer(captions.words())
    longest = max(len(ids) for ids in tokens(captions.captions(PORTRAITS.sample(2000, g), g)).input_ids)
    assert longest <= models.TOKENS


TINY = {"pictures": 16, "steps": 2, "batch": 4}


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Build a job of a shipped recipe at toy size."""
    monkeypatch.setattr(data, "CHUNK", 16)

    def build(name, **changes):
        recipe = replace(train.RECIPES[name], bfloat16=False, **{**TINY, **changes})
        return train.job(name, recipe, tmp_path / "runs", tmp_path / "weights")

    return build


def settings(work):
    return loop.Settings(work.recipe.steps, work.recipe.lr, progress=False)


def test_mini_sd_from_nothing_to_a_pipeline(make, tmp_path):
    with pytest.raises(FileNotFoundError, match="train autoencoder|testbed.train autoencoder"):
        make("mini-sd").prepare()
    for name, small in (
        ("autoencoder", {"channels": (8, 8, 8)}),
        ("mini-clip-captions", {"layers": 1}),
        ("mini-sd", {"channels": (16, 32, 32)}),
    ):
        work = make(name, model=small)
        assert train.train(work, settings(work))
        assert train.finished(work, 2) and not train.finished(work, 3)
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "weights" / "mini-sd")
    pipe.set_progress_bar_config(disable=True)
    pictures = pipe("a woman", num_inference_steps=2, guidance_scale=3.0, output_type="pt").images
    assert pictures.shape == (1, 3, 128, 128) and torch.isfinite(pictures).all()
    assert pipe.scheduler.config.prediction_type == "v_prediction" and pipe.scheduler.config.steps_offset == 1
    x = data.pictures(PORTRAITS, 16, 128, jobs.TRAINING_SEED, tmp_path / "runs" / "data")[torch.arange(16)]
    with torch.no_grad():
        latents = pipe.vae.encode(x * 2 - 1).latent_dist.mean * pipe.vae.config.scaling_factor
    assert latents.shape == (16, 4, 32, 32) and latents.std().item() == pytest.approx(1, abs=0.05)
    words = (tmp_path / "weights" / "mini-sd" / "vocabulary.txt").read_text().split()
    assert words == sorted(set(captions.words()))


def test_the_text_tower_stays_while_the_picture_tower_learns(make, tmp_path):
    first = make("mini-clip-captions", model={"layers": 1})
    train.train(first, settings(first))
    text = CLIPModel.from_pretrained(first.folder).state_dict()
    work = make("mini-clip", model={"layers": 1})
    train.train(work, settings(work))
    then = CLIPModel.from_pretrained(work.folder).state_dict()
    assert work.folder == first.folder and text.keys() == then.keys()
    changed = {name for name, tensor in text.items() if not torch.equal(tensor, then[name])}
    assert changed and not [name for name in changed if name.startswith("text_")]


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
    with pytest.raises(FileNotFoundError, match="no weights of mini-cats to begin with"):
        train.train(work, settings(work))
    cats = make("mini-cats", model=small)
    train.train(cats, settings(cats))
    train.train(work, replace(settings(work), lr=1e-9, weight_decay=0.0))
    for first, then in zip(cats.model.parameters(), work.model.parameters(), strict=True):
        torch.testing.assert_close(then, first, rtol=0, atol=1e-3)  # it began with the other's float16 weights
    assert (work.data.values["style"] == PORTRAITS.index("style", "photo")).all()
    pipe = DDPMPipeline.from_pretrained(tmp_path / "weights" / "mini-portraits")
    pipe.set_progress_bar_config(disable=True)
    assert pipe(num_inference_steps=2, output_type="np").images.shape == (1, 64, 64, 3)
    for mine, stored in zip(work.model.parameters(), pipe.unet.parameters(), strict=True):
        torch.testing.assert_close(stored, mine.detach().half().float(), rtol=0, atol=0)
    again = make("mini-portraits", model=small, steps=3)
    assert not train.finished(again, 3)
    train.export(again)  # what the checkpoint holds
    for mine, stored in zip(again.model.parameters(), pipe.unet.parameters(), strict=True):
        torch.testing.assert_close(stored, mine.detach().half().float(), rtol=0, atol=0)
    fresh = make("mini-portraits", model=small)
    fresh.runs = tmp_path / "elsewhere"
    fresh.model.load_state_dict(fresh.shipped().state_dict())


def test_a_reader_from_nothing_to_its_folder(make, tmp_path):
    work = make("reader-cats", size=32, model={"size": 32})
    assert train.train(work, settings(work))
    assert train.finished(work, 2)
    stored = make("reader-cats", size=32, model={"size": 32}).shipped().state_dict()
    for name, mine in work.model.state_dict().items():
        torch.testing.assert_close(stored[name], mine.half().float(), rtol=0, atol=0)


def test_the_command_line_explains_what_is_missing(tmp_path):
    with pytest.raises(SystemExit, match="mini-cats: .*checkpoint.pt does not exist: train first"):
        train.main(["mini-cats", "--export", "--runs", str(tmp_path), "--weights", str(tmp_path / "w")])
    with pytest.raises(SystemExit) as exit_code:
        train.main(["no-such-model"])
    assert exit_code.value.code == 2
