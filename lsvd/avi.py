"""Attribute Vector Integration, solved exactly (Wang et al. 2025, arXiv 2502.02225).

The edited code is y = R + sum_i a_i u_i v_i^T + sum_j b_j u'_j v'_j^T in each channel, with the leading k_x triplets of
the source code x, the leading k_z of the target code z, and R the rest of x, or 0. The paper predicts S = (a, b) by a
small network; with squared norms the loss is a convex quadratic in S, and its optimum is one linear system per channel.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lsvd.backbones import Backbone, check_seeds
from lsvd.losses import Lambdas
from lsvd.svd import ChannelSVD, check_code, svd
from lsvd.trajectory import Trajectory, resume, run


@dataclass(frozen=True)
class AVIConfig:
    """How x and z are integrated. The paper's summary leaves all of it open: the defaults are ours.

    k_x, k_z: leading triplets of x and of z. keep_rest: whether x's other triplets stay in y. lambdas: loss weights.
    """

    k_x: int = 6
    k_z: int = 6
    keep_rest: bool = True
    lambdas: Lambdas = field(default_factory=Lambdas)


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


def solve(x: Tensor, z: Tensor, config: AVIConfig | None = None) -> Solution:
    """The exact optimum of the four losses over S = (a, b), for codes x and z of one shape (..., C, H, W).

    With M_ij = (u_i . u'_j)(v_i . v'_j), the Gram matrix of the k_x + k_z rank-one matrices is G = [[I, M], [M^T, I]],
    and S solves [(l1 + l2) G + diag(l4 I, l3 I)] S = l1 <., z - R> + l2 <., x - R> + (l4 sigma_x, l3 sigma_z). Where
    several S are optimal (possible only with l3 = 0 or l4 = 0), that of least norm is taken. Solved in
    float64, batched, each code on its own; independent of the signs of singular vectors.

    Raises ValueError if the codes differ in shape, are not finite, or k_x or k_z is out of range.
    """
    config = config or AVIConfig()
    check_code(x, "the source code")
    check_code(z, "the target code")
    if x.shape != z.shape:
        raise ValueError(f"the source code has shape {tuple(x.shape)}, the target {tuple(z.shape)}: make them alike")
    rank = min(x.shape[-2:])
    for name, k in (("k_x", config.k_x), ("k_z", config.k_z)):
        if isinstance(k, bool) or not isinstance(k, int) or not 0 <= k <= rank:
            raise ValueError(f"{name} = {k} is out of range: choose from 0 to {rank}")
    if config.k_x + config.k_z == 0:
        raise ValueError("k_x and k_z are both 0, which leaves nothing to solve for: raise one")

    device = x.device if x.device.type != "mps" else torch.device("cpu")  # mps has no float64
    wide_x, wide_z = x.detach().to(device, torch.float64), z.detach().to(device, torch.float64)
    top_x, top_z = svd(wide_x).truncate(config.k_x), svd(wide_z).truncate(config.k_z)
    rest = wide_x - top_x.recompose() if config.keep_rest else torch.zeros_like(wide_x)

    U, V = torch.cat([top_x.U, top_z.U], -1), torch.cat([top_x.Vh, top_z.Vh], -2).mT
    gram = (U.mT @ U) * (V.mT @ V)  # <u_i v_i^T, u_j v_j^T>
    w = config.lambdas
    weight = torch.cat(
        [torch.full_like(top_x.S, w.source_spectrum), torch.full_like(top_z.S, w.target_spectrum)], dim=-1
    )
    system = (w.target + w.source) * gram + torch.diag_embed(weight)
    wanted = w.target * (wide_z - rest) + w.source * (wide_x - rest)
    right = ((U.mT @ wanted) * V.mT).sum(-1) + weight * torch.cat([top_x.S, top_z.S], -1)
    if w.source_spectrum and w.target_spectrum:
        S = torch.linalg.solve(system, right)
    else:
        S = (torch.linalg.pinv(system, rtol=1e-10, hermitian=True) @ right.unsqueeze(-1)).squeeze(-1)
    a, b = (part.contiguous() for part in S.split([config.k_x, config.k_z], dim=-1))
    return Solution(integrate(a, b, top_x, top_z, rest).to(x.device, x.dtype), a, b, top_x, top_z, rest)


@dataclass(frozen=True, eq=False)
class Edit:
    """A prompt edit: the two trajectories it is made of, the codes integrated, and how the source went on.

    x was taken from `source` at timestep `t`, z from `target` at timestep `t_target`; `edited` is the trajectory from
    t on, with the source prompts. Draw `backbone.decode(edit.edited.final)`.
    """

    source: Trajectory
    target: Trajectory
    edited: Trajectory
    t: int | float
    t_target: int | float
    solution: Solution
    config: AVIConfig


def edit_prompt(
    backbone: Backbone,
    source: str | Sequence[str],
    target: str | Sequence[str],
    seeds: int | Sequence[int] = 0,
    *,
    tx: float | None = None,
    dtau: int | None = None,
    config: AVIConfig | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    eta: float = 0.0,
    progress: bool = False,
) -> Edit:
    """Edit the pictures of the source prompt towards the target prompt, from the same noise (the paper's Figure 1).

    tx: where x is taken, as a fraction of T (rounded to the schedule). dtau: where z is taken, in steps from there;
    positive is noisier (larger t), negative cleaner. The paper's summary leaves both open; None takes the backbone's
    entry, as `config` does its k. steps, guidance, eta: as for `lsvd.trajectory.run`.

    Raises ValueError for bad arguments, a z off the schedule, or prompts that are all the same.
    """
    if backbone.kind != "text-to-image":
        raise ValueError(f"{backbone.name} takes no prompts: edit with a text-to-image backbone")
    entry = backbone.entry
    config = config or AVIConfig(k_x=entry.k, k_z=entry.k)
    seeds = check_seeds(seeds)
    if _lines(source, len(seeds)) == _lines(target, len(seeds)):
        raise ValueError("source and target prompt are the same, so there is nothing to edit: change one")
    x_walk = run(backbone, source, seeds, steps, guidance, eta, progress=progress)
    t = x_walk.nearest(entry.tx if tx is None else tx)
    dtau = entry.dtau if dtau is None else dtau
    place = x_walk.index(t) - dtau  # larger t comes first
    if not 0 <= place < len(x_walk.timesteps):
        raise ValueError(f"dtau = {dtau} from timestep {t} leaves the schedule: choose another tx or dtau")
    z_walk = run(backbone, target, seeds, steps, guidance, eta, progress=progress)
    solution = solve(x_walk.at(t), z_walk.codes[place], config)
    edited = resume(backbone, x_walk, t, solution.y, progress=progress)
    return Edit(x_walk, z_walk, edited, t, z_walk.timesteps[place].item(), solution, config)


def _lines(prompts: str | Sequence[str], count: int) -> list[str]:
    return [prompts] * count if isinstance(prompts, str) else list(prompts)
