"""On a device, training goes the way that it goes on the CPU.

The device is emulated (see accelerator.py), without float64 and SVD as mps is, and rounds as the CPU does.
"""

import csv
from dataclasses import replace

import pytest
import torch
from accelerator import DEVICE, NAME, without_float64

from lsvd.testbed import renderings
from lsvd.testbed.scenes import SCENES
from lsvd.testbed.training import precision, recipes, state, train

SMALL = {
    "autoencoder": {"model": {"channels": (8, 8, 8)}},
    "mini-clip-captions": {"model": {"layers": 1}},
    "mini-sd": {"model": {"channels": (16, 16)}},
    "reader-cats": {"size": 32, "model": {"size": 32}},
}


def losses(name, runs, device):
    """Train at toy size; returns the loss of each step, from the log."""
    small = {"pictures": 8, "steps": 2, "batch": 4, "bfloat16": False, **SMALL[name]}
    work = recipes.job(name, replace(recipes.RECIPES[name], **small), runs, runs / "shipped", device)
    assert train.train(work, work.settings(progress=False, warmup=50, log_every=1))
    assert next(work.model.parameters()).device == torch.device(device)
    assert state.read(work.home / state.CHECKPOINT)[0] == 2
    with (work.home / state.LOSSES).open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_a_device_learns_as_the_cpu_does(tmp_path, monkeypatch):
    monkeypatch.setattr(renderings, "CHUNK", 8)
    found = {}
    for device in ("cpu", str(DEVICE)):
        runs = tmp_path / device.replace(":", "")
        with without_float64():
            found[device] = {name: losses(name, runs, device) for name in SMALL}
    for name, expected in found["cpu"].items():
        # the second step's loss is of weights that the first one changed
        assert len(expected) == 2 and found[str(DEVICE)][name] == pytest.approx(expected, rel=0.02), name


def test_pictures_drawn_on_a_device_are_the_same(tmp_path):
    near, far = (
        renderings.pictures(SCENES["portraits"], 4, 32, 7, tmp_path / device.replace(":", ""), chunk=4, device=device)
        for device in ("cpu", str(DEVICE))
    )
    index = torch.arange(4)
    assert torch.equal(near[index], far[index]) and torch.equal(near.values["yaw"], far.values["yaw"])


def test_a_device_that_refuses_bfloat16_gets_float32(monkeypatch):
    assert precision.has_bfloat16(NAME)

    def refuse(*shape, device, dtype):
        raise TypeError("BFloat16 is not supported on MPS")

    monkeypatch.setattr(torch, "ones", refuse)
    assert not precision.has_bfloat16(NAME)
