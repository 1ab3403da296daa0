"""The failures without a loss, on results made by hand."""

import numpy as np
import pytest
import torch

from lsvd.statistics import fidelity
from lsvd.statistics.intervals import Interval
from lsvd.studies import ablation
from lsvd.studies.editing import Found
from lsvd.studies.stages import LOSSES
from lsvd.studies.ways import integration

FULL, LESS = integration(0.5, 4), integration(0.5, 5)
N, D = 40, 4


def found(has: float, side: float, chroma: float, features: float) -> Found:
    g = torch.Generator().manual_seed(0)
    have = torch.arange(N) < has * N
    rest = dict.fromkeys(("before", "after", "distance"), torch.zeros(N))
    drawn = torch.randn(N, D, generator=g) + features
    return Found(
        torch.zeros(N, dtype=torch.bool), have, side=torch.full((N,), side), chroma=torch.full((N,), chroma),
        features=drawn.half(), **rest
    )  # fmt: skip


MEASURED = {name: {FULL: found(0.75, 0.1, 0.0, 0.0), LESS: found(0.25, 0.3, 0.05, 1.0)} for name in ("old", "young")}
REFERENCE = np.random.default_rng(1).normal(size=(200, D))


def test_changes_are_against_the_full_loss():
    assert ablation.level(MEASURED, FULL, "success").value == pytest.approx(0.75)
    assert ablation.change(MEASURED, LESS, FULL, "success").value == pytest.approx(-0.5)
    assert ablation.change(MEASURED, LESS, FULL, "side effects").value == pytest.approx(0.2)
    assert ablation.change(MEASURED, LESS, FULL, "chroma").value == pytest.approx(0.05)
    assert ablation.change(MEASURED, FULL, FULL, "side effects") == Interval(0, 0, 0)


def test_distances_grow_with_the_shift_of_features():
    full, less = (ablation.drawn(MEASURED, way, REFERENCE) for way in (FULL, LESS))
    pictures = np.concatenate([each[LESS].features.double().numpy() for each in MEASURED.values()])
    assert less[0] == pytest.approx(fidelity.frechet(pictures, REFERENCE))
    near, far = ablation.distance(full), ablation.distance(less)
    assert near.value < 1 < far.low < far.value < far.high and near.low >= 0
    gap = ablation.farther(less, full)
    assert gap.value == pytest.approx(far.value - near.value) and 0 < gap.low < gap.value < gap.high
    assert ablation.farther(full, full) == Interval(0, 0, 0)


def test_each_loss_has_its_own_failure_and_direction():
    up, down, none = Interval(1, 0.5, 2), Interval(-1, -2, -0.5), Interval(0.1, -1, 1)
    assert list(ablation.EXPECTED) == list(LOSSES)
    for loss, (name, sign) in ablation.EXPECTED.items():
        others = dict.fromkeys((*ablation.MEASURES, "frechet"), none)
        assert ablation.shown({**others, name: up}, loss) == (sign > 0)
        assert ablation.shown({**others, name: down}, loss) == (sign < 0)
        assert not ablation.shown(others, loss)
