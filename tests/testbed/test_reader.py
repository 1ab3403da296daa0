"""The reader: learning, robustness of its input, and its files."""

import json

import pytest
import torch

from lsvd.testbed.reader import Reader, degrade, load
from lsvd.testbed.scenes import sdf
from lsvd.testbed.scenes.scene import Factor, Scene

WIDTHS = (8, 16, 16, 32)
HUES = {"red": (0.9, 0.2, 0.1), "blue": (0.1, 0.3, 0.9)}


def draw(values, size):
    n = len(values["x"])
    canvas = sdf.Canvas(n, size)
    canvas.rgb += 0.8
    hue = torch.tensor(list(HUES.values()))[values["hue"]]
    disc = sdf.circle(canvas.x - values["x"].view(-1, 1, 1), canvas.y, 0.5)
    canvas.paint(disc, hue)
    canvas.paint(disc + 0.2, torch.ones(1, 3), (values["ring"] == 1).float().view(-1, 1, 1))
    return canvas.rgb


DISCS = Scene(
    "discs",
    (
        Factor("x", "coarse", range=(-0.5, 0.5)),
        Factor("hue", "fine", tuple(HUES)),
        Factor("ring", "fine", ("none", "ring"), visible_if={"hue": ("blue",)}),
    ),
    draw,
)


def batch(n, seed, size=32):
    g = torch.Generator().manual_seed(seed)
    values = DISCS.sample(n, g)
    return DISCS.render(values, size), values, DISCS.visible(values), g


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    reader = Reader(DISCS, 32, widths=WIDTHS)
    optimiser = torch.optim.AdamW(reader.parameters(), 2e-3)
    for step in range(48):
        pictures, values, seen, g = batch(24, step)
        reader.loss(degrade(pictures, g), values, seen).backward()
        optimiser.step()
        optimiser.zero_grad()
    return reader.eval()


def test_it_learns_levels_and_numbers(trained):
    pictures, values, seen, _ = batch(256, 10_000)
    reading = trained.read(pictures)
    assert (reading.levels["hue"] == values["hue"]).float().mean() > 0.95
    shown = seen["ring"]
    assert (reading.levels["ring"] == values["ring"])[shown].float().mean() > 0.8
    assert (reading.numbers["x"] - values["x"]).square().mean() < 0.15 * values["x"].var()
    assert set(reading.values) == set(values)
    assert torch.allclose(reading.probabilities["hue"].sum(-1), torch.ones(256))
    assert torch.equal(reading.probabilities["hue"].argmax(-1), reading.levels["hue"])


def test_numbers_come_in_their_own_unit_within_their_range(trained):
    far = Scene("far", (Factor("x", "coarse", range=(100.0, 300.0)), *DISCS.factors[1:]), draw)
    reader = Reader(far, 32, widths=WIDTHS)
    reader.load_state_dict(trained.state_dict())
    pictures, values, _, _ = batch(64, 20_000)
    expected = 200 + 200 * trained.read(pictures).numbers["x"]
    assert torch.allclose(reader.read(pictures).numbers["x"], expected, atol=0.01)
    bright = trained.read(pictures * 100).numbers["x"]
    assert bright.abs().max() <= 0.5


def test_hidden_factors_do_not_count(trained):
    pictures, values, seen, _ = batch(32, 3)
    other = {**values, "ring": torch.where(seen["ring"], values["ring"], 1 - values["ring"])}
    assert torch.equal(trained.loss(pictures, values, seen), trained.loss(pictures, other, seen))
    flipped = {**values, "ring": 1 - values["ring"]}
    assert not torch.equal(trained.loss(pictures, values, seen), trained.loss(pictures, flipped, seen))
    nothing = {name: torch.zeros_like(mask) for name, mask in seen.items()}
    assert trained.loss(pictures, values, nothing) == 0


def test_pictures_of_other_sizes_and_alone_are_read_alike(trained):
    pictures, values, _, _ = batch(64, 4, size=64)
    assert (trained.read(pictures).levels["hue"] == values["hue"]).float().mean() > 0.95
    small = torch.nn.functional.avg_pool2d(pictures, 4)
    assert (trained.read(small).levels["hue"] == values["hue"]).float().mean() > 0.95
    together, alone = trained.features(pictures[:8]), trained.features(pictures[5:6])
    assert together.shape == (8, trained.n_features)
    assert torch.allclose(together[5:6], alone, atol=1e-4)


def test_bad_pictures_are_refused(trained):
    with pytest.raises(ValueError, match="shape"):
        trained.read(torch.zeros(2, 1, 32, 32))
    with pytest.raises(ValueError, match="not finite"):
        trained.read(torch.full((2, 3, 32, 32), torch.nan))
    with pytest.raises(ValueError, match="multiple of 32"):
        Reader(DISCS, 48 + 1)


def test_a_reader_of_portraits_fits_its_weight_budget():
    from lsvd.testbed.scenes import SCENES

    for scene in SCENES.values():
        reader = Reader(scene)
        assert 2 * sum(p.numel() for p in reader.parameters()) <= 3e6


def test_degrading_is_seeded_mild_and_leaves_some_pictures_alone():
    pictures, *_ = batch(64, 5)
    once = degrade(pictures, torch.Generator().manual_seed(1))
    assert torch.equal(once, degrade(pictures, torch.Generator().manual_seed(1)))
    assert not torch.equal(once, degrade(pictures, torch.Generator().manual_seed(2)))
    error = (once - pictures).square().mean((1, 2, 3)).sqrt()
    assert 0.1 < (error == 0).float().mean() < 0.45
    assert 0.01 < error[error > 0].median() < 0.08
    assert once.min() >= 0 and once.max() <= 1


def test_save_and_load_keep_what_is_read(trained, tmp_path):
    folder = tmp_path / "readers" / "discs"
    trained.save(folder)
    state = torch.get_rng_state()
    again = load(DISCS, folder=folder)
    assert torch.equal(state, torch.get_rng_state())
    assert not again.training and all(p.dtype == torch.float32 for p in again.parameters())
    pictures, *_ = batch(64, 6)
    before, after = trained.read(pictures), again.read(pictures)
    assert torch.allclose(before.numbers["x"], after.numbers["x"], atol=5e-3)
    assert torch.equal(before.levels["hue"], after.levels["hue"])


def test_missing_damaged_and_foreign_files_are_named(trained, tmp_path):
    with pytest.raises(FileNotFoundError, match="train"):
        load(DISCS, folder=tmp_path)
    trained.save(tmp_path / "r")
    weights, config = tmp_path / "r" / "model.safetensors", tmp_path / "r" / "config.json"
    whole = weights.read_bytes()
    for cut in (0, 5, 1000, len(whole) - 10):
        weights.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="truncated or damaged") as caught:
            load(DISCS, folder=tmp_path / "r")
        assert "\n" not in str(caught.value)
    weights.write_bytes(whole)
    other = Scene("discs", (*DISCS.factors[:2], Factor("ring", "fine", ("none", "one", "two"))), draw)
    with pytest.raises(ValueError, match="other factors"):
        load(other, folder=tmp_path / "r")
    text = config.read_text()
    for broken in (text[:50], "[]", json.dumps({"scene": "discs"})):
        config.write_text(broken)
        with pytest.raises(ValueError, match="config.json is damaged"):
            load(DISCS, folder=tmp_path / "r")
    with pytest.raises(ValueError, match="no scene 'dogs'"):
        load("dogs")
