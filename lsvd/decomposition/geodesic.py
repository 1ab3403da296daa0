"""Geodesic distance on the Grassmannian Gr(k, n): how far apart the k-dimensional subspaces of n-space lie.

Figure 5 of Wang et al. 2025 (arXiv 2502.02225) compares the subspaces spanned by the leading k singular vectors of a
code at different timesteps. With f = svd(x).truncate(k) (lsvd.decomposition.svd) the left ones are f.U, shape
(..., C, H, k), and the right ones f.Vh.mT, shape (..., C, W, k).

Everything is computed and returned in float64, whatever the input's precision: a float32 basis is orthonormal only to
1e-7, and a float32 arccos is wrong by 5e-4 near 0. Each basis is orthonormalised again. That is done on the input's
device, or on the CPU where that has no float64 (mps). No gradients are passed.

Where singular values are equal, as all those of a constant channel but the first are, the vectors are still orthonormal
but point anywhere, and no distance shows it: `gap` tells these subspaces from the rest.
"""

import math
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

import torch
from torch import Tensor

from lsvd.checks import integer
from lsvd.decomposition.svd import double

_BLOCK = 1 << 24  # bytes of k x k matrices that `pairwise` works on at a time; it holds a few times as much
_ORTHONORMAL = 1e-2  # what half precision rounds off is put right, what lies beyond is not a basis


@torch.no_grad()
def principal_angles(A: Tensor, B: Tensor) -> Tensor:
    """Angles between span(A) and span(B) in radians, ascending from 0 to pi/2, shape (..., k), float64.

    A, B: shape (..., n, k), orthonormal columns; leading dimensions broadcast. The cosines are the singular values of
    A^T B, the sines those of B - A A^T B (Björck and Golub 1973). From both, each angle of the subspaces given is right
    to some 1e-15, near 0 as near pi/2. Raises ValueError for columns that are not finite or not orthonormal, and for
    shapes that do not fit.
    """
    _check(A, "the first basis")
    _check(B, "the second basis")
    shapes = f"{tuple(A.shape)} and {tuple(B.shape)}"
    if A.shape[-2:] != B.shape[-2:]:
        raise ValueError(f"bases of shapes {shapes} cannot be compared: take k columns of n rows in both")
    if A.device != B.device:
        raise ValueError(f"the bases are on {A.device} and on {B.device}: move one of them with .to()")
    try:
        torch.broadcast_shapes(A.shape[:-2], B.shape[:-2])
    except RuntimeError as error:
        raise ValueError(f"bases of shapes {shapes} do not broadcast: make leading dimensions equal or 1") from error
    A, B = _orthonormal(A), _orthonormal(B)
    C = A.mT @ B
    sines = torch.linalg.svdvals(B - A @ C).flip(-1)
    return torch.atan2(sines, torch.linalg.svdvals(C))


def distance(A: Tensor, B: Tensor) -> Tensor:
    """Geodesic distance between span(A) and span(B), the norm of their principal angles, shape (...), float64.

    From 0 to `largest(k, n)`; equal subspaces come out some 1e-15 apart. A, B: shape (..., n, k), orthonormal columns;
    leading dimensions broadcast, and every pair takes the memory of a few bases: for all pairs of many subspaces there
    is `pairwise`. Raises ValueError like `principal_angles`.
    """
    return torch.linalg.vector_norm(principal_angles(A, B), dim=-1)


@torch.no_grad()
def pairwise(A: Tensor) -> Tensor:
    """Geodesic distances of all pairs of timesteps, each pair computed once, shape (T, T, ...), float64.

    A: shape (T, ..., n, k), orthonormal columns. The result is symmetric, its diagonal zero. Besides A in float64
    (twice) and the result, memory stays under 200 MB up to k = 1000. The squared sines are taken as eigenvalues of
    k x k matrices, which is several times faster than `distance` but rounds each angle by up to some 1e-8 (less than
    float32 codes leave open): two equal subspaces may come out 1e-7 apart. Raises ValueError like `principal_angles`.
    """
    _check(A, "the basis")
    if A.ndim < 3:
        raise ValueError(f"one basis of shape {tuple(A.shape)} has no pairs: give (T, ..., n, k)")
    times, *batch, n, k = A.shape
    # The orthogonal complements enclose the same angles (but for zeros): take what has fewer dimensions.
    A = _orthonormal(A) if 2 * k <= n else torch.linalg.qr(double(A), mode="complete").Q[..., k:]
    k = A.shape[-1]
    # (batch, T, k, n): with the columns of all timesteps in a row, one product takes a timestep with all later ones.
    A = A.reshape(times, math.prod(batch), n, k).permute(1, 0, 3, 2).contiguous()
    D = A.new_zeros(times, times, len(A))
    pairs = max(1, _BLOCK // (8 * max(1, k * k)))
    wide = min(pairs, max(1, times))
    deep = pairs // wide
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for b in range(0, len(A) if k else 0, deep):
            part = A[b : b + deep]
            for i in range(times - 1):
                for j in range(i + 1, times, wide):
                    later = part[:, j : j + wide]
                    C = (later.flatten(1, 2) @ part[:, i].mT).view(-1, k, k)
                    d = _from_cosines(C, pool).view(later.shape[:2]).mT
                    D[i, j : j + wide, b : b + deep] = d
                    D[j : j + wide, i, b : b + deep] = d
    return D.view(times, times, *batch)


def largest(k: int, n: int) -> float:
    """The largest distance of two k-dimensional subspaces of n-space, pi/2 * sqrt(min(k, n - k)).

    With 2k > n they meet in at least 2k - n dimensions, so only n - k angles can differ from 0. Raises ValueError
    unless 1 <= k <= n.
    """
    _check_size(k, n)
    return math.pi / 2 * math.sqrt(min(k, n - k))


def random_subspaces(shape: Sequence[int], n: int, k: int, generator: torch.Generator, dtype=torch.float32) -> Tensor:
    """Bases of independent subspaces, each uniformly distributed over Gr(k, n), shape (*shape, n, k), on the CPU.

    The null of any distance: what chance alone gives. Q of a Gaussian matrix spans what the matrix spans, which no
    rotation changes in distribution. `generator`: a CPU generator. Raises ValueError unless 1 <= k <= n.
    """
    _check_size(k, n)
    return torch.linalg.qr(torch.randn(*shape, n, k, generator=generator, dtype=torch.float64, device="cpu")).Q.to(
        dtype
    )


def gap(S: Tensor, k: int) -> Tensor:
    """How well a channel determines its leading k-dimensional subspaces: (S_k - S_k+1) / S_1, shape (...), float64.

    S: singular values, descending, shape (..., r); S_r+1 counts as 0, and a zero channel has gap 0. A change E of the
    channel turns the subspaces by some |E| / (S_k - S_k+1) radians, |E| its spectral norm (Wedin 1972). Rounding to
    float32 thus turns them by some 1e-7 / gap: where the gap is no larger than that, distances are arbitrary. Raises
    ValueError unless 1 <= k <= r and S is finite, not negative and descending.
    """
    if not isinstance(S, Tensor) or not S.is_floating_point() or S.ndim < 1:
        raise ValueError(
            "singular values must be a floating-point tensor of shape (..., r): give S of lsvd.decomposition.svd.svd"
        )
    _check_size(k, S.shape[-1])
    S = double(S)
    if not torch.isfinite(S).all() or (S < 0).any() or (S.diff(dim=-1) > 0).any():
        raise ValueError("singular values must be finite and descending from the largest: decompose the code again")
    after = S[..., k] if k < S.shape[-1] else 0.0
    return (S[..., k - 1] - after) / S[..., 0].clamp_min(torch.finfo(torch.float64).tiny)


def _from_cosines(C: Tensor, pool: Executor) -> Tensor:
    """Distances, shape (m,), from products of bases, shape (m, k, k)."""
    G = torch.baddbmm(torch.eye(C.shape[-1], dtype=C.dtype, device=C.device), C, C.mT, alpha=-1)
    if G.device.type == "cpu":
        # Torch hands LAPACK one small matrix after the other, on one core: each thread gets its part of them.
        sines = torch.cat(list(pool.map(torch.linalg.eigvalsh, G.chunk(torch.get_num_threads()))))
    else:
        sines = torch.linalg.eigvalsh(G)
    return torch.linalg.vector_norm(sines.clamp_(0, 1).sqrt_().asin_(), dim=-1)


def _orthonormal(A: Tensor) -> Tensor:
    return torch.linalg.qr(double(A)).Q


def _check_size(k: int, n: int) -> None:
    if integer(k) is None or not 1 <= k <= n:
        raise ValueError(f"there are no {k}-dimensional subspaces to compare: choose a whole number from 1 to {n}")


def _check(A: Tensor, name: str) -> None:
    """Raise ValueError unless A is a batch of bases, shape (..., n, k), with orthonormal columns."""
    if not isinstance(A, Tensor) or not A.is_floating_point():
        kind = A.dtype if isinstance(A, Tensor) else type(A).__name__
        raise ValueError(
            f"{name} must be a floating-point tensor, not {kind}: give U or Vh.mT of lsvd.decomposition.svd.svd"
        )
    if A.ndim < 2 or not 1 <= A.shape[-1] <= A.shape[-2]:
        raise ValueError(f"{name} has shape {tuple(A.shape)}: give (..., n, k) with k columns, 1 <= k <= n")
    if not torch.isfinite(A).all():
        raise ValueError(f"{name} holds NaN or infinity: find the step that made it")
    A = double(A)
    off = (A.mT @ A - torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)).abs()
    if (off > _ORTHONORMAL).any():
        raise ValueError(
            f"{name} has columns that are not orthonormal, by {off.max():.2g}: give singular vectors as columns "
            "(U, or Vh.mT), not scaled and not zero"
        )
