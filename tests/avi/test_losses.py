"""The four losses: what they are, and their gradients."""

import pytest
import torch
from torch.testing import assert_close

from lsvd.avi import losses
from lsvd.avi.losses import Lambdas


def draw(seed, shape, count):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


@pytest.mark.parametrize("norm", ["squared", "absolute"])
def test_each_loss_is_what_it_says(norm):
    x, z = draw(7, (2, 3, 8, 8), 2)
    a, b, sigma_x, sigma_z = draw(7, (2, 3, 4), 4)
    y = x + 2
    power = 2 if norm == "squared" else 1
    assert_close(losses.l2_source(y, x, norm), torch.full((2,), 192.0 * 2**power).double())
    assert_close(losses.l1_target(y, z, norm), (y - z).flatten(1).norm(power, dim=1) ** power)
    assert_close(losses.l3_target_spectrum(b, sigma_z, norm), (b - sigma_z).flatten(1).norm(power, dim=1) ** power)
    assert_close(losses.l4_source_spectrum(a, a - 3, norm), torch.full((2,), 12.0 * 3**power).double())
    parts = [losses.l1_target(y, z, norm), losses.l2_source(y, x, norm)]
    parts += [losses.l3_target_spectrum(b, sigma_z, norm), losses.l4_source_spectrum(a, sigma_x, norm)]
    whole = losses.total(y, x, z, a, b, sigma_x, sigma_z, Lambdas(1, 2, 3, 4), norm)
    assert_close(whole, sum(i * part for i, part in enumerate(parts, 1)))


def test_norms_are_squared_by_default():
    codes, spectra = draw(6, (2, 2, 3, 3), 3), draw(6, (2, 2, 3), 4)
    squared = losses.total(*codes, *spectra, Lambdas(), "squared")
    assert torch.equal(losses.total(*codes, *spectra, Lambdas()), squared)


@pytest.mark.parametrize("norm", ["squared", "absolute"])
def test_gradients_agree_with_finite_differences(norm):
    codes, spectra = draw(8, (2, 2, 3, 3), 3), draw(8, (2, 2, 3), 4)
    inputs = tuple(part.requires_grad_() for part in (*codes, *spectra))
    assert torch.autograd.gradcheck(lambda *parts: losses.total(*parts, Lambdas(1, 2, 3, 4), norm), inputs)


@pytest.mark.parametrize("bad", [(-1, 1, 1, 1), (0, 0, 0, 0), (float("nan"), 1, 1, 1), (float("inf"), 1, 1, 1)])
def test_bad_weights(bad):
    with pytest.raises(ValueError, match="cannot have the weights"):
        Lambdas(*bad)


def test_bad_norm():
    with pytest.raises(ValueError, match="no norm 'l1': choose from squared, absolute"):
        losses.l1_target(*draw(0, (1, 2, 2), 2), "l1")
