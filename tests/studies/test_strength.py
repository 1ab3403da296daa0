"""Dose and response, on results made by hand."""

import numpy as np
import pytest
import torch

from lsvd.studies import merit, strength
from lsvd.studies.editing import Found
from lsvd.studies.ways import Way

STRENGTHS = (0.0, 0.5, 1.0)
WAYS = [Way("lerp", 0.5, weight=s) for s in STRENGTHS]


def found(after: list[float], had: list[int]) -> Found:
    n = len(after)
    rest = {name: torch.zeros(n) for name in ("before", "distance", "chroma")}
    had, after = torch.tensor(had, dtype=torch.bool), torch.tensor(after)
    return Found(had, after > 0.5, after=after, side=after / 10, features=torch.zeros(n, 4), **rest)


def measured(*curves: list[list[float]], had=(0, 0, 0)) -> dict:
    """Of each attribute a row of probabilities for each strength."""
    return {str(i): {way: found(row, had) for way, row in zip(WAYS, own, strict=True)} for i, own in enumerate(curves)}


LINE = [[0.0, 0.0, 0.0], [0.4, 0.5, 0.6], [1.0, 1.0, 1.0]]
STEP = [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]


def test_curves_are_means_over_attributes_and_pictures():
    own = strength.curve(measured(LINE, STEP), WAYS, "after")
    assert [point.value for point in own] == pytest.approx([0, 0.25, 1])
    assert own[1].low < 0.25 < own[1].high
    assert [p.value for p in strength.curve(measured(LINE), WAYS, "side")] == pytest.approx([0, 0.05, 0.1])


def test_pictures_that_had_the_attribute_do_not_count():
    own = measured(LINE, had=(0, 1, 0))
    assert np.isnan(merit.values(own, WAYS, "after")[0, :, 1]).all()
    assert strength.curve(measured([[0, 1, 0], [0.2, 1, 0.4], [1, 1, 1]], had=(0, 1, 0)), WAYS, "after")[
        1
    ].value == pytest.approx(0.3)


def test_what_rises_in_every_picture_is_monotone():
    assert strength.monotone(measured(LINE), WAYS, STRENGTHS).value == pytest.approx(1)
    falling = measured(LINE[::-1])
    assert strength.monotone(falling, WAYS, STRENGTHS).value == pytest.approx(-1)
    still = measured([[0.5] * 3] * 3)
    assert strength.monotone(still, WAYS, STRENGTHS).value == 0


def test_a_line_has_no_bend_and_a_step_has_much():
    assert strength.bend(measured(LINE), WAYS, STRENGTHS).value == pytest.approx(0, abs=1e-6)
    step = strength.bend(measured(STEP), WAYS, STRENGTHS)
    assert (step.value, step.low, step.high) == pytest.approx((0.5, 0.5, 0.5))
    assert np.isnan(strength.bend(measured([[0.5] * 3] * 3), WAYS, STRENGTHS).value)
