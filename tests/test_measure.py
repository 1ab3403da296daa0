"""Intervals cover what they should, and the fidelity of a picture is what its formula says."""

import numpy as np
import pytest
import torch

from lsvd.measure import mean, psnr, share


def test_mean_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [mean(rng.normal(3.0, 1.0, 40)) for _ in range(60)]
    assert 0.85 <= np.mean([i.low <= 3.0 <= i.high for i in intervals]) < 1
    assert all(i.low < i.value < i.high for i in intervals)


def test_mean_of_equal_values_is_certain():
    interval = mean([2.0, 2.0, 2.0])
    assert (interval.value, interval.low, interval.high) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, np.nan]])
def test_mean_needs_values(values):
    with pytest.raises(ValueError, match="take more pictures"):
        mean(values)


def test_share_agrees_with_the_table():
    interval = share(9, 10)  # Wilson's interval, as in textbooks
    assert (interval.value, round(interval.low, 3), round(interval.high, 3)) == (0.9, 0.596, 0.982)
    assert f"{interval:.2f}" == "0.90 [0.60, 0.98]"
    for hits, n in ((3, 2), (-1, 4), (0, 0)):
        with pytest.raises(ValueError, match="no share"):
            share(hits, n)


def test_psnr():
    a = torch.zeros(2, 3, 4, 4)
    b = a.clone()
    b[0] += 0.1
    assert psnr(a, b).tolist() == pytest.approx([20.0, 120.0], abs=1e-4)
    with pytest.raises(ValueError, match="like with like"):
        psnr(a, b[:, :, :2])
