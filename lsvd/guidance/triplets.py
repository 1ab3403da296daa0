"""The leading singular triplets of a difference of predictions, by power iteration for one or two."""

import torch
from torch import Tensor

from lsvd.checks import integer
from lsvd.decomposition.svd import LIMITED, svd

SPARE = 2  # columns iterated beyond k, so that equal singular values there do no harm
COLD, WARM = 16, 6  # iterations from an arbitrary start, and from the triplets of the step before


def leading(d: Tensor, k: int, start: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """The rank-k part sum_{i <= k} sigma_i u_i v_i^T of each channel of d, and a start for the next step's.

    d: shape (..., C, H, W); the part has its shape and dtype. start: as returned for the step before. It saves
    iterations and changes the part by rounding only. k = 1 and 2 take subspace iteration with a Rayleigh-Ritz step
    (Halko et al. 2011, arXiv 0909.4061, Algorithm 4.4), larger k the SVD, whose start is None. Signs of singular
    vectors cancel. Each matrix is treated alone, whatever is in the batch. Computed in float32 at least.

    Raises ValueError for k outside of 1 to min(H, W).
    """
    rank = min(d.shape[-2:])
    check_rank(k, rank)
    if k > 2 or k + SPARE >= rank:
        return svd(d).truncate(k).recompose(), None
    a = d.to(torch.promote_types(d.dtype, torch.float32))
    a = a.cpu() if a.device.type in LIMITED else a
    rounds = COLD if start is None else WARM
    v = a.mT @ _arbitrary(a, k + SPARE) if start is None else start.to(a)
    for _ in range(rounds):
        v = a.mT @ torch.linalg.qr(a @ v).Q
    basis = torch.linalg.qr(a @ v).Q  # of the leading left singular vectors, (..., C, H, k + SPARE)
    rows = basis.mT @ a
    ritz = torch.linalg.eigh(rows @ rows.mT).eigenvectors[..., -k:]
    part = (basis @ ritz) @ (ritz.mT @ rows)
    return part.to(d.device, d.dtype), torch.linalg.qr(rows.mT).Q


def check_rank(k: int, rank: int) -> int:
    """k. Raises ValueError unless it is a whole number from 1 to the rank."""
    if integer(k) is None or not 1 <= k <= rank:
        raise ValueError(f"cannot add {k} triplets: choose a rank from 1 to {rank}, or None for the whole difference")
    return integer(k)


def largest(part: Tensor, fraction: float) -> Tensor:
    """part with only the largest `fraction` of each picture's entries, the others 0; shape (B, ...)."""
    flat = part.abs().flatten(1).float()
    keep = max(1, round(fraction * flat.shape[1]))
    least = flat.kthvalue(flat.shape[1] - keep + 1, dim=1).values
    return part * (flat >= least[:, None]).reshape(part.shape)


def _arbitrary(a: Tensor, columns: int) -> Tensor:
    """A start that is the same for every matrix, (H, columns)."""
    draw = torch.randn(
        a.shape[-2], columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64, device="cpu"
    )
    return draw.to(a)
