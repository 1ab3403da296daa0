"""The loss that the diffusion models are trained with, against its formula."""

import pytest
import torch

from lsvd.testbed.scenes import SCENES
from lsvd.testbed.training.diffusion import (
    OFFSET,
    PixelDenoiser,
    denoising_loss,
    offset_noise,
    signal_to_noise,
    size_loss,
)
from lsvd.testbed.training.jobs import Recipe
from lsvd.testbed.training.models import pixel_schedule


def test_an_error_that_cancels_in_every_square_counts_at_the_finest_scale_alone():
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    error = 0.5 * board.expand(2, 3, 8, 8)
    assert denoising_loss(error, torch.tensor([1e-3, 1e-3]), gamma=5).item() == pytest.approx(0.25)
    # min-SNR: one picture beyond the cut, one below it
    assert denoising_loss(error, torch.tensor([50.0, 0.5]), gamma=5).item() == pytest.approx(0.25 * (0.1 + 1) / 2)


def test_an_error_in_the_mean_colour_counts_at_every_scale_until_noise_no_longer_hides_it():
    error = torch.full((1, 3, 8, 8), 0.1)
    hidden = denoising_loss(error, torch.tensor([1e-6]), gamma=5).item()
    assert hidden == pytest.approx(0.01 * (1 + 2 + 4 + 8))
    # at a ratio of 5/16 the scales of 1, 2 and 4 pixels are below the cut or at it, that of 8 pixels is 4 times beyond
    assert denoising_loss(error, torch.tensor([5 / 16]), gamma=5).item() == pytest.approx(0.01 * (1 + 2 + 4 + 8 / 4))


def test_white_noise_is_not_drowned_by_its_own_means():
    error = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    # the mean over k x k pixels has variance 1/k^2, so scale k adds 1/k
    loss = denoising_loss(error, torch.full((64,), 1e-6), gamma=5).item()
    assert loss == pytest.approx(sum(0.5**i for i in range(6)), rel=0.05)


def test_an_error_in_size_is_told_from_any_other():
    noise = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    snr = torch.tensor([1e-3, 1e-3, 50.0])
    small = 0.9 * noise  # the error is -1/9 of the prediction; at the last picture's ratio it counts a tenth
    assert size_loss(small, small - noise, snr, gamma=5).item() == pytest.approx((2 + 0.1) / 3 / 81, rel=1e-4)
    aside = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    aside = aside - (aside * noise).sum((1, 2, 3), keepdim=True) / noise.square().sum((1, 2, 3), keepdim=True) * noise
    assert size_loss(noise, 0.1 * aside, snr, gamma=5).item() == pytest.approx(0, abs=1e-10)


def test_signal_to_noise_falls_with_the_timestep():
    ratio = signal_to_noise(pixel_schedule(), torch.tensor([0, 100, 999]))
    assert ratio[0] == pytest.approx((1 - 1e-4) / 1e-4, rel=1e-3) and (ratio.diff() < 0).all()


def test_offset_noise_hides_the_mean_and_is_white_beside_it():
    noise = offset_noise((512, 4, 16, 16), torch.Generator().manual_seed(0))
    means = noise.mean((2, 3))
    assert means.var().item() == pytest.approx(OFFSET**2 + 1 / 256, rel=0.1)
    assert (noise - means[..., None, None]).var().item() == pytest.approx(1 - 1 / 256, rel=0.02)


def test_calibration_leaves_no_mean_error(tmp_path):
    recipe = Recipe(PixelDenoiser, "cats", 48, 32, steps=1, batch=4, lr=1e-3, model={"channels": (16, 32, 32)})
    work = PixelDenoiser("tiny", recipe, SCENES["cats"], tmp_path, tmp_path)
    work.data = torch.rand(48, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    first = work.calibrate(32)
    # the same pictures, timesteps and noise once more, with a known error
    known, before = torch.tensor([0.5, -0.25, 0.0]), work.model.conv_out.bias.clone()
    work.model.conv_out.bias.data += known
    torch.testing.assert_close(work.calibrate(32), known, rtol=0, atol=1e-5)
    torch.testing.assert_close(work.model.conv_out.bias, before, rtol=0, atol=1e-5)
    assert first.abs().max() > 1e-3 and work.model.conv_out.bias.requires_grad
