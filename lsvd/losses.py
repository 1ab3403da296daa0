"""The four losses of Attribute Vector Integration, side by side (Wang et al. 2025, arXiv 2502.02225).

x is the source code, z the target code and y the edited one, each (..., C, H, W); a and b, (..., C, k), are the
singular values given to x's and to z's triplets in y, and sigma_x, sigma_z those they had. The paper's summary does not
give the norms: here they are squared and summed over channels and places, so that each loss has shape (...), one per
code.
"""

from dataclasses import astuple, dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Lambdas:
    """The weights of the four losses, not negative, not all 0. Defaults are our choice: the paper's are not known.

    Raises ValueError for any other weights.
    """

    target: float = 1.0
    source: float = 0.02
    target_spectrum: float = 0.01
    source_spectrum: float = 0.01

    def __post_init__(self):
        if any(not 0 <= weight < float("inf") for weight in astuple(self)) or not any(astuple(self)):
            raise ValueError(f"the losses cannot have the weights {astuple(self)}: give numbers from 0 on, not all 0")


def l1_target(y: Tensor, z: Tensor) -> Tensor:
    """L1 = ||y - z||^2: brings the attribute in."""
    return (y - z).square().sum((-3, -2, -1))


def l2_source(y: Tensor, x: Tensor) -> Tensor:
    """L2 = ||y - x||^2: keeps who it is."""
    return (y - x).square().sum((-3, -2, -1))


def l3_target_spectrum(b: Tensor, sigma_z: Tensor) -> Tensor:
    """L3 = ||b - sigma_z||^2: keeps colours from saturating."""
    return (b - sigma_z).square().sum((-2, -1))


def l4_source_spectrum(a: Tensor, sigma_x: Tensor) -> Tensor:
    """L4 = ||a - sigma_x||^2: keeps quality."""
    return (a - sigma_x).square().sum((-2, -1))


def total(
    y: Tensor, x: Tensor, z: Tensor, a: Tensor, b: Tensor, sigma_x: Tensor, sigma_z: Tensor, lambdas: Lambdas
) -> Tensor:
    """lambda_1 L1 + lambda_2 L2 + lambda_3 L3 + lambda_4 L4, shape (...)."""
    losses = (l1_target(y, z), l2_source(y, x), l3_target_spectrum(b, sigma_z), l4_source_spectrum(a, sigma_x))
    return torch.stack([weight * loss for weight, loss in zip(astuple(lambdas), losses, strict=True)]).sum(0)
