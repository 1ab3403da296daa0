"""The evaluation: tables, prompts, samples and scores, on stand-ins that take no time."""

import csv
import dataclasses
import re

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from lsvd import paths
from lsvd.__main__ import main
from lsvd.testbed import evaluate, renderings
from lsvd.testbed.reader import Reader
from lsvd.testbed.scenes import SCENES
from lsvd.testbed.scenes.portraits import PORTRAITS
from lsvd.testbed.scenes.scene import Factor, Scene
from lsvd.testbed.training import jobs, models, recipes


def draw(values, size):
    n = len(values["grey"])
    shade = values["grey"].view(n, 1, 1, 1) * 0.5 + 0.4 * (values["top"] == 1).float().view(n, 1, 1, 1)
    return shade.expand(n, 3, size, size).clone()


BLANKS = Scene("blanks", (Factor("grey", "fine", range=(0.0, 1.0)), Factor("top", "middle", ("low", "high"))), draw)


class Oracle(Reader):
    """Reads `grey` with a known error, and `top` wrongly in the first picture of each batch."""

    def forward(self, pictures):
        mean = pictures.mean((1, 2, 3))
        high = (mean > 0.45).float()
        wrong = torch.zeros_like(high)
        wrong[0] = 1
        right = torch.stack([1 - high, high], -1)
        return {
            "grey": 2 * ((mean - 0.4 * high) / 0.5) - 1 + 0.2,
            "top": torch.where(wrong.bool()[:, None], 1 - right, right) * 20,
        }


def test_reader_scores_are_accuracy_and_r_squared(monkeypatch):
    class Few(renderings.Pictures):
        """Pictures in memory, grey only up to 0.8 so that nothing is clipped, never ambiguous."""

        def __init__(self, n):
            self.values = {"grey": torch.linspace(0.2, 0.8, n), "top": torch.arange(n) % 2}
            self.values["grey"] = torch.where(
                self.values["top"] == 1, self.values["grey"], self.values["grey"].clamp(0, 0.6)
            )
            self.n, self.pictures = n, BLANKS.render(self.values, 32)

        def __getitem__(self, index):
            return self.pictures[index]

    pictures = Few(300)
    seeds = []

    def brighter(shown, generator):
        seeds.append(generator.initial_seed())
        return shown + 0.02  # 0.04 more grey

    real = evaluate.readers.degrade
    monkeypatch.setattr(evaluate.readers, "degrade", brighter)
    rows = {r["factor"]: r for r in evaluate.score_reader(Oracle(BLANKS, 32), pictures)}
    variance = pictures.values["grey"].double().var(correction=0).item()
    for column, error in (("score", 0.1), ("degraded", 0.14)):
        assert float(rows["top"][column]) == pytest.approx(1 - 3 / 300, abs=1e-4)
        assert float(rows["grey"][column]) == pytest.approx(1 - error**2 / variance, abs=2e-3)
    assert list(rows["grey"]) == ["scene", "factor", "scale", "kind", "score", "degraded"]
    assert (rows["grey"]["kind"], rows["top"]["kind"]) == ("continuous", "categorical")
    assert len(set(seeds)) == 3  # each batch has its own faults
    monkeypatch.setattr(evaluate.readers, "degrade", real)
    torch.manual_seed(0)
    first = evaluate.score_reader(Oracle(BLANKS, 32), pictures)
    torch.manual_seed(1)
    assert evaluate.score_reader(Oracle(BLANKS, 32), pictures) == first


def test_agreement_counts_only_what_the_prompt_mentions():
    n = 40
    none = torch.full((n,), -1)
    asked = {name: none for name in evaluate.PROMPTED} | {"gender": none.clone()}
    asked["gender"][:20] = 1
    read = {name: torch.zeros(n, dtype=torch.long) for name in evaluate.PROMPTED}
    read["gender"][:15] = 1
    (row,) = evaluate.agreement(read, asked)
    assert row["measure"] == "prompt agreement: gender" and row["n"] == "20"
    assert float(row["value"]) == 0.75
    # Clopper and Pearson 1934: the shares under which 15 of 20 or more, or 15 or fewer, are seen 2.5% of the time
    assert float(row["low"]) == pytest.approx(stats.beta.ppf(0.025, 15, 6), abs=1e-4)
    assert float(row["high"]) == pytest.approx(stats.beta.ppf(0.975, 16, 5), abs=1e-4)


def test_fidelity_is_psnr_in_decibels():
    class Noisy:
        def encode(self, pictures):
            return pictures

        def decode(self, codes):
            return codes + 0.01

    few = renderings.Chunks([], 1, 30)
    few.__class__ = type(
        "Few", (renderings.Chunks,), {"__getitem__": lambda self, index: torch.full((len(index), 3, 8, 8), 0.5)}
    )
    row = evaluate.fidelity(Noisy(), few)
    assert float(row["value"]) == pytest.approx(40, abs=1e-3) and row["n"] == "30"


def test_prompts_do_not_depend_on_how_many():
    texts, asked = evaluate.prompts(100)
    fewer, asked_fewer = evaluate.prompts(40)
    assert texts[:40] == fewer and len(texts) == 100
    assert all(torch.equal(asked[name][:40], asked_fewer[name]) for name in asked)
    assert len(set(texts)) > 90


class Sampler:
    name, kind = "sampler", "unconditional"

    def __init__(self):
        self.seeds = []


def test_a_stopped_run_of_samples_goes_on(tmp_path, monkeypatch):
    def sample(backbone, texts, seeds, batch):
        if backbone.fail and seeds[0] >= 32:
            raise KeyboardInterrupt
        backbone.seeds += seeds
        return torch.tensor(list(seeds)).view(-1, 1, 1, 1).expand(-1, 3, 4, 4) / 255

    monkeypatch.setattr(evaluate.trajectory, "sample", sample)
    backbone = Sampler()
    backbone.fail = True
    with pytest.raises(KeyboardInterrupt):
        evaluate.samples(backbone, 70, None, tmp_path)
    backbone.fail = False
    drawn = evaluate.samples(backbone, 70, None, tmp_path)
    assert backbone.seeds == list(range(70))
    assert drawn[torch.arange(70)][:, 0, 0, 0].tolist() == list(range(70))
    assert len(drawn) == 70


def test_the_digest_follows_weights_and_settings(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "w").write_bytes(b"1")
    first = evaluate.digest(tmp_path, 30, 3.0)
    assert first == evaluate.digest(tmp_path, 30, 3.0)
    assert first != evaluate.digest(tmp_path, 31, 3.0)
    (tmp_path / "unet" / ".w.0123456789ab.tmp").write_bytes(b"half")
    assert first == evaluate.digest(tmp_path, 30, 3.0)
    (tmp_path / "unet" / "w").write_bytes(b"2")
    assert first != evaluate.digest(tmp_path, 30, 3.0)


def test_the_sheet_shows_every_picture_in_reading_order():
    pictures = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 3, 16, 16) * 20
    image = np.asarray(evaluate.sheet(pictures, columns=4))
    assert image.shape == (3 * 34 - 2, 4 * 34 - 2, 3)
    assert [image[34 * (i // 4) + 5, 34 * (i % 4) + 5, 0] for i in range(10)] == [20 * i for i in range(10)]


def test_held_out_means_held_out_and_models_are_compared_with_what_they_learned():
    assert evaluate.HELD_OUT != jobs.TRAINING_SEED
    for name, (scene, fixed) in evaluate.GENERATORS.items():
        recipe = recipes.RECIPES[name]
        assert recipe.scene == scene in SCENES
        if name != "mini-sd":  # whose prompts ask for photos
            assert dict(recipe.fixed) == fixed
    assert set(evaluate.READERS) <= set(recipes.RECIPES)


def test_the_command_line_refuses_in_one_sentence(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(paths, "WEIGHTS", tmp_path)
    monkeypatch.setattr(evaluate.readers, "FOLDER", tmp_path)
    for arguments, said in {
        ("mini-dogs",): "no reader or generator 'mini-dogs': choose from reader-portraits",
        ("mini-sd", "--samples", "5"): "number of samples cannot be 5: give a whole number from 130",
        ("mini-cats",): "lsvd: mini-cats: there are no weights",
        ("reader-cats",): "lsvd: reader-cats: .*train it",
        ("mini-clip",): "lsvd: mini-clip: the folder .*mini-clip is missing: restore",
    }.items():
        assert main(["evaluate", *arguments]) == 1
        told = capsys.readouterr().err
        assert re.search(said, told) and told.count("\n") == 1
    assert main(["evaluate"]) == 1
    assert capsys.readouterr().err.count("is left out") == len(evaluate.KNOWN)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Untrained miniatures of all kinds of model: 32 pixels (128 for mini-clip), two steps."""
    from diffusers import DDPMPipeline, StableDiffusionPipeline

    from lsvd.backbones.registry import REGISTRY, Entry

    torch.manual_seed(0)
    tokens = models.tokenizer(evaluate.captions.words())
    vae = models.autoencoder((8, 8, 8), size=32)
    sd = StableDiffusionPipeline(
        vae=vae,
        text_encoder=models.text_tower(models.clip(tokens, layers=1)),
        tokenizer=tokens,
        unet=models.denoiser((16, 16), size=8),
        scheduler=models.text_schedule(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    sd.save_pretrained(tmp_path / "weights" / "mini-sd")
    pixels = DDPMPipeline(unet=models.pixel_denoiser((16, 32, 32), size=32), scheduler=models.pixel_schedule())
    pixels.save_pretrained(tmp_path / "weights" / "mini-cats")
    recipe = dataclasses.replace(recipes.RECIPES["mini-clip"], model={"layers": 1})
    work = recipes.job("mini-clip", recipe, tmp_path / "runs", tmp_path / "weights")
    work.export()
    work.publish()
    for name in ("portraits", "cats"):
        Reader(SCENES[name], 32, (8, 8, 8, 8), features=4).save(tmp_path / "readers" / name)
    monkeypatch.setattr(evaluate.readers, "FOLDER", tmp_path / "readers")
    monkeypatch.setattr(paths, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setitem(REGISTRY, "mini-sd", Entry("mini-sd", "text-to-image", "mini-sd", "", 32, 2, 3.0))
    monkeypatch.setitem(REGISTRY, "mini-cats", Entry("mini-cats", "unconditional", "mini-cats", "", 32, 2))
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setattr(evaluate, "RENDERINGS", 100)
    monkeypatch.setattr(evaluate, "RECONSTRUCTIONS", 20)
    monkeypatch.setattr(evaluate, "ZERO_SHOT", 20)
    small = evaluate.renderings.pictures
    monkeypatch.setattr(
        evaluate.renderings, "pictures", lambda *arguments, **options: small(*arguments, **options, chunk=50)
    )
    return tmp_path / "outputs"


def test_the_whole_command_on_miniatures(tiny):
    assert main(["evaluate", "reader-cats", "mini-cats", "mini-sd", "--samples", "130"]) == 0
    with (tiny / "tables" / "backbones.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["backbone", "measure", "value", "low", "high", "floor", "n"]
    distances = ["frechet distance", "frechet distance, mini-clip"]
    measures = [f"prompt agreement: {name}" for name in evaluate.PROMPTED] + [
        "autoencoder PSNR (dB)",
        *distances,
    ]
    assert [r["measure"] for r in rows if r["backbone"] == "mini-sd"] == measures
    assert [r["measure"] for r in rows if r["backbone"] == "mini-cats"] == distances
    for r in rows:
        assert float(r["low"]) <= float(r["value"]) <= float(r["high"])
        assert bool(r["floor"]) == (r["measure"] in distances)
    with (tiny / "tables" / "reader.csv").open(newline="") as file:
        scores = list(csv.DictReader(file))
    assert [r["factor"] for r in scores] == [f.name for f in SCENES["cats"].factors]
    assert all(r["score"] and r["degraded"] for r in scores)
    assert Image.open(tiny / "figures" / "samples_mini-sd.webp").size == (8 * 66 - 2, 8 * 66 - 2)
    cached = {file: file.stat().st_ino for file in (tiny / "build" / "cache").rglob("*.np?")}
    assert main(["evaluate", "mini-cats", "--samples", "130"]) == 0
    assert cached and cached == {file: file.stat().st_ino for file in (tiny / "build" / "cache").rglob("*.np?")}


def test_distances_in_the_features_of_mini_clip(tiny):
    clip, pictures = (
        evaluate.clips.load(),
        evaluate.renderings.pictures(SCENES["cats"], 262, 32, 1, tiny / "renderings", {}),
    )
    first = pictures[torch.arange(131)]
    seen = evaluate._features(clip, first)
    np.testing.assert_allclose(np.linalg.norm(seen, axis=1), 100, rtol=1e-5)
    found = {name: evaluate.distance(clip, each, pictures) for name, each in (("same", first), ("turned", 1 - first))}
    assert {row["measure"] for row in found.values()} == {"frechet distance, mini-clip"}
    assert float(found["same"]["value"]) < 1e-3 < float(found["same"]["floor"]) < float(found["turned"]["value"])


def test_mini_clip_is_measured_whole_or_not_at_all(tiny, capsys):
    assert main(["evaluate", "mini-clip"]) == 0
    with (tiny / "tables" / "backbones.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["measure"] for r in rows] == [f"zero-shot: {name}" for name in evaluate.PROMPTED]
    weights = tiny.parent / "weights" / "mini-clip" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    capsys.readouterr()
    assert main(["evaluate", "mini-clip"]) == 1
    said = capsys.readouterr().err
    assert re.match(r"lsvd: mini-clip: .*model\.safetensors is truncated or damaged: restore", said)


def test_zero_shot_picks_the_nearest_caption():
    class Stub:
        """Knows gender, from the first pixel, but for one picture; takes captions in the order of the levels."""

        def pictures(self, pictures):
            return torch.nn.functional.one_hot(pictures[:, 0, 0, 0].round().long(), 8).float()

        def texts(self, texts):
            return torch.eye(8)[: len(texts)]

    class Known(renderings.Pictures):
        """Pictures of one colour, their gender."""

        def __init__(self, n):
            self.values = PORTRAITS.sample(n, torch.Generator().manual_seed(0))
            self.n, self.shown = n, self.values["gender"].clone()
            self.shown[0] = 1 - self.shown[0]

        def __getitem__(self, index):
            return self.shown[index].float().view(-1, 1, 1, 1).expand(-1, 3, 4, 4)

    pictures = Known(300)
    rows = evaluate.zero_shot(Stub(), pictures, PORTRAITS)
    scores = {r["measure"].removeprefix("zero-shot: "): r for r in rows}
    assert list(scores) == list(evaluate.PROMPTED)
    assert float(scores["gender"]["value"]) == pytest.approx(299 / 300, abs=1e-4)
    common = max((pictures.values["gender"] == level).float().mean().item() for level in (0, 1))
    assert float(scores["gender"]["floor"]) == pytest.approx(common, abs=1e-4)
    assert 0.35 < float(scores["age"]["value"]) < 0.65  # it takes the gender for the age
