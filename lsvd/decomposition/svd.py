"""Channel-wise singular value decomposition of latent codes: the one SVD of the project.

A code x has shape (..., C, H, W). Each channel is an H x W matrix, x^c = U^c diag(S^c) Vh^c, as in Wang et al. 2025
(arXiv 2502.02225). The signs of singular vectors are arbitrary: nothing may depend on them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lsvd.checks import check_code, integer

LIMITED = ("mps",)
"""Types of devices without float64, whose SVD is missing or wrong as well: for both the CPU takes over."""


@dataclass(frozen=True)
class ChannelSVD:
    """The singular triplets of every channel of a batch of codes.

    U: (..., C, H, k), S: (..., C, k), Vh: (..., C, k, W), all float32 or float64; `dtype` is that of the code they
    came from, which `recompose` returns.
    """

    U: Tensor
    S: Tensor
    Vh: Tensor
    dtype: torch.dtype

    @property
    def rank(self) -> int:
        """The number of triplets held, k."""
        return self.S.shape[-1]

    def recompose(self) -> Tensor:
        """The code sum_i S_i u_i v_i^T of each channel, shape (..., C, H, W), in the original dtype."""
        return ((self.U * self.S.unsqueeze(-2)) @ self.Vh).to(self.dtype)

    def truncate(self, k: int) -> "ChannelSVD":
        """The leading k triplets of each channel (the best rank-k approximation of a fresh decomposition).

        Raises ValueError unless k is a whole number from 0 to the rank.
        """
        if integer(k) is None or not 0 <= k <= self.rank:
            raise ValueError(f"cannot keep {k} triplets: choose a whole number from 0 to {self.rank}")
        return replace(self, U=self.U[..., :k], S=self.S[..., :k], Vh=self.Vh[..., :k, :])

    def scale(
        self, indices: int | Sequence[int], factor: float | Tensor, channels: int | Sequence[int] | None = None
    ) -> "ChannelSVD":
        """Multiply the singular values at `indices` (0 is the largest) by `factor`, in all channels or in `channels`.

        factor: a number, or a tensor that broadcasts to (..., len(channels), len(indices)). The result's S need no
        longer be sorted. Raises ValueError if an index or a channel does not exist or a factor is not finite.
        """
        rows = _places("triplet", indices, self.rank, self.S.device)
        count = self.S.shape[-2]
        columns = _places("channel", range(count) if channels is None else channels, count, self.S.device)
        factor = torch.as_tensor(factor, dtype=self.S.dtype, device=self.S.device)
        if not torch.isfinite(factor).all():
            raise ValueError("cannot scale singular values by NaN or infinity: give a finite factor")
        S = self.S.clone()
        S[..., columns[:, None], rows] *= factor
        return replace(self, S=S)


def _places(what: str, places: int | Sequence[int], count: int, device: torch.device) -> Tensor:
    """Indices as a tensor, checked to lie in 0..count-1 and to differ (an index given twice would count once)."""
    places = [places] if isinstance(places, int) else [int(p) for p in places]
    bad = [p for p in places if not 0 <= p < count]
    if bad:
        raise ValueError(f"there is no {what} {bad[0]}: choose from 0 to {count - 1}")
    if len(set(places)) < len(places):
        raise ValueError(f"a {what} is named twice in {places}: name each once")
    return torch.tensor(places, dtype=torch.long, device=device)


def double(x: Tensor) -> Tensor:
    """x in float64: on its device, or on the CPU where that has none (mps, not even to copy from)."""
    return (x.cpu() if x.device.type in LIMITED else x).double()


def svd(x: Tensor) -> ChannelSVD:
    """Decompose every channel of x, shape (..., C, H, W), in one batched call on x's device (of mps, on the CPU).

    Half precision is computed in float32, float64 stays. All min(H, W) triplets are kept, S descending. Raises
    ValueError if x is not a finite floating-point tensor of at least three dimensions.
    """
    check_code(x)
    whole = x.to(torch.promote_types(x.dtype, torch.float32))
    whole = whole.cpu() if x.device.type in LIMITED else whole
    U, S, Vh = (part.to(x.device) for part in torch.linalg.svd(whole, full_matrices=False))
    return ChannelSVD(U, S, Vh, x.dtype)
