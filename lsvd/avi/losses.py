"""The four losses of Attribute Vector Integration, side by side (Wang et al. 2025, arXiv 2502.02225).

x is the source code, z the target code and y the edited one, each (..., C, H, W); a and b, (..., C, k), are the
singular values given to x's and to z's triplets in y, and sigma_x, sigma_z those they had. The paper's summary does not
give the norms: here they are sums over channels and places of squares, or of absolute values, so that each loss has
shape (...), one per code.
"""

from dataclasses import astuple, dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lsvd.checks import number, shown

Norm = Literal["squared", "absolute"]


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
        numbers = [number(weight) for weight in astuple(self)]
        if any(weight is None or not 0 <= weight < float("inf") for weight in numbers) or not any(numbers):
            raise ValueError(
                f"the losses cannot have the weights {shown(astuple(self))}: give numbers from 0 on, not all 0"
            )


def l1_target(y: Tensor, z: Tensor, norm: Norm = "squared") -> Tensor:
    """L1 = ||y - z||^2, or sum |y - z|: brings the attribute in."""
    return _size(y - z, (-3, -2, -1), norm)


def l2_source(y: Tensor, x: Tensor, norm: Norm = "squared") -> Tensor:
    """L2 = ||y - x||^2, or sum |y - x|: keeps who it is."""
    return _size(y - x, (-3, -2, -1), norm)


def l3_target_spectrum(b: Tensor, sigma_z: Tensor, norm: Norm = "squared") -> Tensor:
    """L3 = ||b - sigma_z||^2, or sum |b - sigma_z|: keeps colours from saturating."""
    return _size(b - sigma_z, (-2, -1), norm)


def l4_source_spectrum(a: Tensor, sigma_x: Tensor, norm: Norm = "squared") -> Tensor:
    """L4 = ||a - sigma_x||^2, or sum |a - sigma_x|: keeps quality."""
    return _size(a - sigma_x, (-2, -1), norm)


def total(
    y: Tensor,
    x: Tensor,
    z: Tensor,
    a: Tensor,
    b: Tensor,
    sigma_x: Tensor,
    sigma_z: Tensor,
    lambdas: Lambdas,
    norm: Norm = "squared",
) -> Tensor:
    """lambda_1 L1 + lambda_2 L2 + lambda_3 L3 + lambda_4 L4, shape (...)."""
    losses = (
        l1_target(y, z, norm),
        l2_source(y, x, norm),
        l3_target_spectrum(b, sigma_z, norm),
        l4_source_spectrum(a, sigma_x, norm),
    )
    return torch.stack([weight * loss for weight, loss in zip(astuple(lambdas), losses, strict=True)]).sum(0)


def check_norm(norm: str) -> None:
    """Raise ValueError unless it is the name of a norm."""
    if norm not in get_args(Norm):
        raise ValueError(f"there is no norm {norm!r}: choose from {', '.join(get_args(Norm))}")


def _size(difference: Tensor, dims: tuple[int, ...], norm: Norm) -> Tensor:
    check_norm(norm)
    return (difference.square() if norm == "squared" else difference.abs()).sum(dims)
