"""Attribute Vector Integration, solved exactly (Wang et al. 2025, arXiv 2502.02225).

The edited code is y = R + sum_i a_i u_i v_i^T + sum_j b_j u'_j v'_j^T in each channel, with some triplets of the source
code x, the leading ones of the target code z, and R the rest of x, or 0. The paper predicts S = (a, b) by a small
network (`lsvd.avi.network`). With squared norms the loss is a convex quadratic in S, and its optimum is one linear
system per channel.
"""

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from lsvd.avi.losses import Lambdas, Norm, check_norm
from lsvd.checks import check_code, check_kind, integer, shown
from lsvd.decomposition.svd import ChannelSVD, double, svd

Basis = Literal["both", "complement"]
FLAT = 1e-10
"""The share of a loss's largest curvature up to which it counts as flat."""


@dataclass(frozen=True)
class AVIConfig:
    """How x and z are integrated. The paper's summary leaves all of it open: the defaults are ours.

    k_z: leading triplets of z. basis: which of x's r = min(H, W) triplets go with them, `both` the leading k_x,
    `complement` those from k_z on, r - k_z of them, so that S has length r. k_x: None for as many as the basis takes,
    which is k_z in `both`. keep_rest: whether x's other triplets stay in y. lambdas, norm: of the losses.

    Raises ValueError for a basis or a norm of another name, and for numbers that are not whole.
    """

    k_x: int | None = None
    k_z: int = 6
    keep_rest: bool = True
    lambdas: Lambdas = field(default_factory=Lambdas)
    basis: Basis = "both"
    norm: Norm = "squared"

    def __post_init__(self):
        if self.basis not in get_args(Basis):
            raise ValueError(f"there is no basis {self.basis!r}: choose from {', '.join(get_args(Basis))}")
        check_norm(self.norm)
        check_kind(self.lambdas, Lambdas, "lambdas=Lambdas(...)")
        for name in ("k_x", "k_z"):  # of numpy's, as well
            value = getattr(self, name)
            number = integer(value)
            if number is None and (value is not None or name == "k_z"):
                raise ValueError(f"{name} = {shown(value)} is not a rank: give a whole number")
            object.__setattr__(self, name, number)


@dataclass(frozen=True, eq=False)
class Parts:
    """What an edited code is made of, before S is known, in float64.

    source, target: the codes x and z, (..., C, H, W). triplets: those chosen, k_x of x before k_z of z, with the
    singular values they have there. rest: (..., C, H, W), what y has besides. start: (..., C, H, W), the y of
    S = (sigma_x, 0), which is x if its rest is kept.
    """

    source: Tensor
    target: Tensor
    triplets: ChannelSVD
    k_x: int
    rest: Tensor
    start: Tensor

    @property
    def sigma(self) -> Tensor:
        """(sigma_x, sigma_z), shape (..., C, k_x + k_z)."""
        return self.triplets.S

    @property
    def x(self) -> ChannelSVD:
        """The triplets of x."""
        return self.triplets.truncate(self.k_x)

    @property
    def z(self) -> ChannelSVD:
        """The triplets of z."""
        t, k = self.triplets, self.k_x
        return replace(t, U=t.U[..., k:], S=t.S[..., k:], Vh=t.Vh[..., k:, :])


@dataclass(frozen=True, eq=False)
class Solution:
    """The edited code y, (..., C, H, W) in x's dtype, and what it is made of.

    a: (..., C, k_x) and b: (..., C, k_z), the singular values learned. x, z: the triplets they belong to. rest:
    (..., C, H, W), what y has besides. All but y in float64.
    """

    y: Tensor
    a: Tensor
    b: Tensor
    x: ChannelSVD
    z: ChannelSVD
    rest: Tensor


def integrate(a: Tensor, b: Tensor, x: ChannelSVD, z: ChannelSVD, rest: Tensor) -> Tensor:
    """y = rest + sum_i a_i u_i v_i^T + sum_j b_j u'_j v'_j^T, shape (..., C, H, W)."""
    return rest + (x.U * a.unsqueeze(-2)) @ x.Vh + (z.U * b.unsqueeze(-2)) @ z.Vh


def check_pair(x: Tensor, z: Tensor) -> None:
    """Raise ValueError unless x and z are finite codes of one shape (..., C, H, W)."""
    check_code(x, "the source code")
    check_code(z, "the target code")
    if x.shape != z.shape:
        raise ValueError(f"the source code has shape {tuple(x.shape)}, the target {tuple(z.shape)}: make them alike")


def choose(x: Tensor, z: Tensor, config: AVIConfig) -> Parts:
    """The triplets and the rest that `config` makes edited codes of, for codes x and z of one shape (..., C, H, W).

    Raises ValueError if the codes differ in shape, are not finite, or k_x or k_z is out of range.
    """
    check_pair(x, z)
    first, k_x, k_z = _ranks(config, min(x.shape[-2:]))
    source = double(x.detach())
    target = double(z.detach()).to(source.device)
    whole, last, other = svd(source), first + k_x, svd(target).truncate(k_z)
    chosen = replace(whole, U=whole.U[..., first:last], S=whole.S[..., first:last], Vh=whole.Vh[..., first:last, :])
    part = chosen.recompose()
    rest, start = (source - part, source) if config.keep_rest else (torch.zeros_like(source), part)
    U, S = torch.cat([chosen.U, other.U], -1), torch.cat([chosen.S, other.S], -1)
    triplets = ChannelSVD(U, S, torch.cat([chosen.Vh, other.Vh], -2), whole.dtype)
    return Parts(source, target, triplets, k_x, rest, start)


def _ranks(config: AVIConfig, rank: int) -> tuple[int, int, int]:
    """The first of x's triplets that is chosen, k_x and k_z. Raises ValueError if they are out of range."""
    k_x, k_z = config.k_z if config.k_x is None else config.k_x, config.k_z
    for name, k in (("k_z", k_z), ("k_x", k_x)):
        if not 0 <= k <= rank:
            raise ValueError(f"{name} = {k} is out of range: choose from 0 to {rank}")
    if config.basis == "complement":
        if config.k_x not in (None, rank - k_z):
            raise ValueError(f"beside k_z = {k_z}, the complement has k_x = {rank - k_z}, not {k_x}: leave k_x out")
        return k_z, rank - k_z, k_z
    if k_x + k_z == 0:
        raise ValueError("k_x and k_z are both 0, which leaves nothing to solve for: raise one")
    return 0, k_x, k_z


def normal_equations(parts: Parts, lambdas: Lambdas) -> tuple[Tensor, Tensor]:
    """(A, c) of the loss with squared norms, which is S^T A S - 2 c^T S and a constant in each channel.

    With M_ij = (u_i . u'_j)(v_i . v'_j), the Gram matrix of the k = k_x + k_z rank-one matrices is
    G = [[I, M], [M^T, I]], and A = (l1 + l2) G + diag(l4 I, l3 I), shape (..., C, k, k);
    c = l1 <., z - R> + l2 <., x - R> + (l4 sigma_x, l3 sigma_z), shape (..., C, k).
    """
    t, w = parts.triplets, lambdas
    both = w.target + w.source
    system = both * ((t.U.mT @ t.U) * (t.Vh @ t.Vh.mT))  # <u_i v_i^T, u_j v_j^T>
    system.diagonal(dim1=-2, dim2=-1).add_(_spectrum_weights(parts, w))
    return system, _pull(parts, w, parts.rest, t.S)


def _pull(parts: Parts, lambdas: Lambdas, code: Tensor, away: Tensor) -> Tensor:
    """Minus half of the loss's gradient by S, (..., C, k), where y is `code` and S lies `away` below the spectra."""
    t, w = parts.triplets, lambdas
    wanted = torch.add(w.target * (parts.target - code), parts.source - code, alpha=w.source)
    return torch.addcmul(((t.U.mT @ wanted) * t.Vh).sum(-1), _spectrum_weights(parts, w), away)


def quadratic(parts: Parts, lambdas: Lambdas) -> tuple[Tensor, Tensor, Tensor]:
    """(A, c, f0): with f0, the loss of S = 0, shape (..., C), the loss is S^T A S - 2 c^T S + f0 in each channel."""
    w = lambdas
    to_target, to_source = ((code - parts.rest).square().sum((-2, -1)) for code in (parts.target, parts.source))
    spectra = (_spectrum_weights(parts, w) * parts.sigma.square()).sum(-1)
    return *normal_equations(parts, w), w.target * to_target + w.source * to_source + spectra


def _spectrum_weights(parts: Parts, lambdas: Lambdas) -> Tensor:
    """l4 for each of x's triplets, l3 for each of z's: shape (k_x + k_z,)."""
    k_z = parts.triplets.rank - parts.k_x
    return parts.sigma.new_tensor([lambdas.source_spectrum] * parts.k_x + [lambdas.target_spectrum] * k_z)


def assemble(S: Tensor, parts: Parts, like: Tensor) -> Solution:
    """The edited code for S = (a, b), shape (..., C, k_x + k_z), in the dtype and on the device of `like`."""
    x, z = parts.x, parts.z
    a, b = (part.contiguous() for part in S.split([x.rank, z.rank], dim=-1))
    y = integrate(a, b, x, z, parts.rest)
    return Solution(y.to(like.device, like.dtype), a, b, x, z, parts.rest)


def optimum(parts: Parts, lambdas: Lambdas) -> Tensor:
    """The S of least loss with squared norms, shape (..., C, k_x + k_z): it solves A S = c (see `normal_equations`).

    Where several S are optimal (possible only with l3 = 0 or l4 = 0), that nearest to (sigma_x, 0) is taken. It is
    solved for as a change of (sigma_x, 0), so that what counts as flat leaves the source as it is.
    """
    w, before = lambdas, parts.sigma.clone()
    before[..., parts.k_x :] = 0
    system, _ = normal_equations(parts, w)
    floor = min(w.source_spectrum, w.target_spectrum)  # no eigenvalue of A is smaller
    change = _pull(parts, w, parts.start, parts.sigma - before)
    return before + least(system, change, definite=floor > FLAT * (w.target + w.source))


def least(A: Tensor, c: Tensor, *, definite: bool = True) -> Tensor:
    """The S of least S^T A S - 2 c^T S, of c's shape (..., k), for A of shape (..., k, k), positive semidefinite.

    definite: whether A is known to be positive definite; if not, the S of least norm among the best is taken.
    """
    c = c.unsqueeze(-1)
    if definite:
        return torch.cholesky_solve(c, torch.linalg.cholesky(A)).squeeze(-1)
    return (torch.linalg.pinv(A, rtol=FLAT, hermitian=True) @ c).squeeze(-1)


def solve(x: Tensor, z: Tensor, config: AVIConfig | None = None) -> Solution:
    """The exact optimum of the four losses over S = (a, b), for codes x and z of one shape (..., C, H, W).

    Solved in float64, batched, each code on its own; independent of the signs of singular vectors. Raises ValueError if
    the codes differ in shape, are not finite, k_x or k_z is out of range, or norms are absolute.
    """
    config = config or AVIConfig()
    _check_squared(config, "train with lsvd.avi.network.fit instead")
    parts = choose(x, z, config)
    return assemble(optimum(parts, config.lambdas), parts, x)


def bound(x: Tensor, z: Tensor, config: AVIConfig | None = None) -> Tensor:
    """How far the exact edit can move the code: ||y - x|| is at most this but for rounding, shape (...), in float64.

    With l = l1 + l2, w = (l1 / l)(z - x) and q = sqrt(l3 / l) ||sigma_z||, it is (||w|| + sqrt(||w||^2 + q^2)) / 2
    where the rest of x is kept: the share l1 / l of the way to z if l3 = 0, and what the spectrum term adds otherwise.
    Where t, x's other triplets, is dropped, it is (||w - t|| + sqrt(||w + t||^2 + q^2)) / 2.

    Proof. Let B take S to sum S_i u_i v_i^T, and d = S - (sigma_x, 0), so that y - x = B d - t. Up to a constant the
    loss is ||K d - e||^2 with K = (sqrt(l) B, sqrt(l4) on a, sqrt(l3) on b) and e = (sqrt(l) (w + t), 0,
    sqrt(l3) sigma_z). The optimal K d is P e, P the orthogonal projection onto K's range. So sqrt(l) (y - x) is the
    first part of P e - f, with f = (sqrt(l) t, 0, 0). This is ((e - 2f) + (2P - 1) e) / 2, where 2P - 1 is a
    reflection: the first part of e - 2f is sqrt(l) (w - t), and ||e||^2 = l ||w + t||^2 + l q^2.

    It is attained, with the rest kept, where w is in the span of B and l3 = l4 = 0; and, for 0 < l3 < l1 and l2 = 0,
    where z is one triplet, x is (1 + l3 / l1) / 2 times z, and k_x = 0. For l3 above l1 + l2 it is loose.

    Raises ValueError as `solve` does, and if target and source both have no weight.
    """
    config = config or AVIConfig()
    _check_squared(config, "there is no bound for absolute ones")
    w, parts = config.lambdas, choose(x, z, config)
    if w.target + w.source == 0:
        raise ValueError("without a weight on target or source nothing bounds the edit: give one of them")
    most = torch.maximum(*(code.abs().amax((-3, -2, -1)) for code in (parts.source, parts.target)))
    unit = torch.where(most > 0, most, 1.0)[..., None, None, None]  # squares of tiny numbers are 0
    source, target, start = (code / unit for code in (parts.source, parts.target, parts.start))
    pull, dropped = w.target / (w.target + w.source) * (target - source), source - start
    spectrum = w.target_spectrum / (w.target + w.source) * (parts.z.S / unit[..., 0]).square().sum((-2, -1))
    near, far = ((pull + sign * dropped).square().sum((-3, -2, -1)) for sign in (-1, 1))
    return unit[..., 0, 0, 0] * (near.sqrt() + (far + spectrum).sqrt()) / 2


def _check_squared(config: AVIConfig, instead: str) -> None:
    if config.norm != "squared":
        raise ValueError(f"the exact solution is one of squared norms, and these are {config.norm}: {instead}")
