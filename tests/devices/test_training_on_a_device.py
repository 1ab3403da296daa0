"""Each kind of job trains on a real device, in bfloat16 where it has that, and says how fast."""

import csv
import math
from dataclasses import replace
from statistics import median

import pytest
import torch

from lsvd.testbed import renderings
from lsvd.testbed.training import autoencoder, diffusion, loop, recipes, state, train

NAMES = ["autoencoder", "reader-cats", "mini-clip-captions", "mini-clip", "mini-sd", "mini-cats"]  # every kind of job
PICTURES = 16
CLOSE = 1e-2  # float32's loss against the CPU's, relative, in each of three steps: weights are float32 in both
CLOSE_BFLOAT16 = 5e-2  # and bfloat16's, whose 8 bits are off by 4e-3 in each product


def learn(name, runs, device, bfloat16, steps, batch):
    """Train a model of full size on a few pictures, without choosing among averages: the rows of its log."""
    few = replace(recipes.RECIPES[name], pictures=PICTURES, steps=steps, batch=batch, bfloat16=bfloat16)
    work = recipes.job(name, few, runs, device=str(device))
    train.begin(work)
    work.prepare()
    settings = work.settings(progress=False, warmup=50, log_every=1)
    learning = {"pictures": work.pictures, "after_backward": work.after_backward}
    assert loop.fit(work.model, work.loss, settings, work.home, work.describe(), **learning)
    assert next(work.model.parameters()).device.type == torch.device(device).type
    with (work.home / state.LOSSES).open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(renderings, "CHUNK", PICTURES)


@pytest.mark.parametrize("name", NAMES)
def test_training(name, tmp_path, device, monkeypatch):
    for module in (autoencoder, diffusion):  # the CPU's noise on each device, which else draws its own
        monkeypatch.setattr(module, "normal", lambda shape, g, device: torch.randn(*shape, generator=g).to(device))

    def losses(*where):
        rows = learn(name, tmp_path / "-".join(map(str, where)), *where, steps=3, batch=4)
        return [float(row["loss"]) for row in rows]

    expected = losses("cpu", False)
    assert len(expected) == 3 and all(map(math.isfinite, expected))
    assert losses(device, False) == pytest.approx(expected, rel=CLOSE)
    assert losses(device, True) == pytest.approx(expected, rel=CLOSE_BFLOAT16)


@pytest.mark.parametrize("name", NAMES)
def test_throughput(name, tmp_path, device):
    """Printed, not judged: pictures a second at the recipe's batch, the median of the steps after the first five."""
    if device.type == "cpu":
        pytest.skip("of an accelerator")
    recipe = recipes.RECIPES[name]
    rows = learn(name, tmp_path, device, recipe.bfloat16, steps=15, batch=recipe.batch)
    assert all(math.isfinite(float(row["loss"])) for row in rows)
    print(f"\n{name}: {median(float(row['pictures_per_second']) for row in rows[5:]):.0f} pictures/s")
