"""Attribute Vector Integration, solved exactly (Wang et al. 2025, arXiv 2502.02225).

The edited code is y = R + sum_i a_i u_i v_i^T + sum_j b_j u'_j v'_j^T in each channel, with some triplets of the source
code x, the leading ones of the target code z, and R the rest of x, or 0. The paper predicts S = (a, b) by a small
network (`lsvd.fit`); with squared norms the loss is a convex quadratic in S, and its optimum is one linear system per
channel.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from lsvd import trajectory
from lsvd.backbones import Backbone, check_seeds
from lsvd.losses import Lambdas, Norm, check_norm
from lsvd.svd import ChannelSVD, check_code, double, svd
from lsvd.trajectory import Settings, Trajectory, draw, nearest, resume, step_of

Basis = Literal["both", "complement"]
FLAT = 1e-10
"""The share of a loss's largest curvature up to which it counts as flat."""


@dataclass(frozen=True)
class AVIConfig:
    """How x and z are integrated. The paper's summary leaves all of it open: the defaults are ours.

    k_z: leading triplets of z. basis: which of x's r = min(H, W) triplets go with them, `both` the leading k_x,
    `complement` those from k_z on, r - k_z of them, so that S has length r. k_x: None for as many as the basis takes,
    which is k_z in `both`. keep_rest: whether x's other triplets stay in y. lambdas, norm: of the losses.

    Raises ValueError for a basis or a norm of another name.
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


@dataclass(frozen=True, eq=False)
class Parts:
    """What an edited code is made of, before S is known, in float64.

    source, target: the codes x and z, (..., C, H, W). triplets: those chosen, k_x of x before k_z of z, with the
    singular values they have there. rest: (..., C, H, W), what y has besides.
    """

    source: Tensor
    target: Tensor
    triplets: ChannelSVD
    k_x: int
    rest: Tensor

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
    rest = source - chosen.recompose() if config.keep_rest else torch.zeros_like(source)
    U, S = torch.cat([chosen.U, other.U], -1), torch.cat([chosen.S, other.S], -1)
    triplets = ChannelSVD(U, S, torch.cat([chosen.Vh, other.Vh], -2), whole.dtype)
    return Parts(source, target, triplets, k_x, rest)


def _ranks(config: AVIConfig, rank: int) -> tuple[int, int, int]:
    """The first of x's triplets that is chosen, k_x and k_z. Raises ValueError if they are out of range."""
    k_x, k_z = config.k_z if config.k_x is None else config.k_x, config.k_z
    for name, k in (("k_z", k_z), ("k_x", k_x)):
        if isinstance(k, bool) or not isinstance(k, int) or not 0 <= k <= rank:
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
    both, weight = w.target + w.source, _spectrum_weights(parts, w)
    system = both * ((t.U.mT @ t.U) * (t.Vh @ t.Vh.mT))  # <u_i v_i^T, u_j v_j^T>
    system.diagonal(dim1=-2, dim2=-1).add_(weight)
    wanted = torch.add(w.target * parts.target, parts.source, alpha=w.source).sub_(parts.rest, alpha=both)
    return system, torch.addcmul(((t.U.mT @ wanted) * t.Vh).sum(-1), weight, t.S)


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

    Where several S are optimal (possible only with l3 = 0 or l4 = 0), that of least norm is taken.
    """
    w = lambdas
    floor = min(w.source_spectrum, w.target_spectrum)  # no eigenvalue of A is smaller
    return least(*normal_equations(parts, w), definite=floor > FLAT * (w.target + w.source))


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
    _check_squared(config, "train with lsvd.fit.fit instead")
    parts = choose(x, z, config)
    return assemble(optimum(parts, config.lambdas), parts, x)


def bound(x: Tensor, z: Tensor, config: AVIConfig | None = None) -> Tensor:
    """How far the exact edit can move the code: ||y - x|| is at most this, shape (...), in float64.

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
    pull = w.target / (w.target + w.source) * (parts.target - parts.source)
    dropped = parts.source - parts.rest - parts.x.recompose()
    spectrum = w.target_spectrum / (w.target + w.source) * parts.z.S.square().sum((-2, -1))
    near, far = ((pull + sign * dropped).square().sum((-3, -2, -1)) for sign in (-1, 1))
    return (near.sqrt() + (far + spectrum).sqrt()) / 2


def _check_squared(config: AVIConfig, instead: str) -> None:
    if config.norm != "squared":
        raise ValueError(f"the exact solution is one of squared norms, and these are {config.norm}: {instead}")


def renoise(scheduler: SchedulerMixin, code: Tensor, final: Tensor, t: int, to: int) -> Tensor:
    """The code z at timestep t brought to the noise level of timestep `to`, of code's shape and dtype.

    With the scheduler's alpha and sigma, alpha^2 = alphas_cumprod = 1 - sigma^2, a code is z = alpha_t z_0 + sigma_t e.
    Taking for z_0 the code that the trajectory ends in, `final`, e = (z - alpha_t z_0) / sigma_t, and the result is
    alpha_to z_0 + sigma_to e: no model is called.

    Raises ValueError for codes that do not fit, a timestep that is not one of training, or a scheduler without
    alphas_cumprod, or whose codes are not of that form.
    """
    check_pair(final, code)
    levels = getattr(scheduler, "alphas_cumprod", None)
    if levels is None or float(scheduler.init_noise_sigma) != 1:
        name = type(scheduler).__name__
        raise ValueError(f"{name} has no codes alpha x_0 + sigma noise with alphas_cumprod alpha^2: take DDIMScheduler")
    for time in (t, to):
        if not 0 <= time < len(levels) or time != int(time):
            raise ValueError(f"timestep {time} has no noise level: choose a whole number from 0 to {len(levels) - 1}")
    if t == to:
        return code
    level, wanted = (float(levels[int(time)]) for time in (t, to))
    # e's factor sigma_to / sigma_t times the code, and what is then missing of z_0
    ratio = ((1 - wanted) / (1 - level)) ** 0.5
    return ratio * code + (wanted**0.5 - ratio * level**0.5) * final


@dataclass(frozen=True, eq=False)
class Edit:
    """A prompt edit: the two trajectories it is made of, the codes integrated, and how the source went on.

    x was taken from `source` at timestep `t`, z from `target` at timestep `t_target`, brought to x's noise level if
    `same_level`; both trajectories end there, unless they were drawn whole. `edited` is the trajectory from t on, with
    the source prompts. `target` has the target prompts from timestep `t_branch` on, and is the source before; None if
    it has them throughout. Draw `backbone.decode(edit.edited.final)`.
    """

    source: Trajectory
    target: Trajectory
    edited: Trajectory
    t: int | float
    t_target: int | float
    solution: Solution
    config: AVIConfig
    same_level: bool = False
    t_branch: int | float | None = None


def edit_prompt(
    backbone: Backbone,
    source: str | Sequence[str] | Trajectory,
    target: str | Sequence[str],
    seeds: int | Sequence[int] = 0,
    *,
    tx: float | None = None,
    dtau: int | None = None,
    branch: float | None = None,
    config: AVIConfig | None = None,
    same_level: bool = False,
    solver: Callable[[Tensor, Tensor, AVIConfig], Solution] = solve,
    steps: int | None = None,
    guidance: float | None = None,
    eta: float = 0.0,
    whole: bool = False,
    together: bool | None = None,
    progress: bool = False,
) -> Edit:
    """Edit the pictures of the source prompt towards the target prompt, from the same noise (the paper's Figure 1).

    Drawn is what the edit takes: the source down to x, the target down to z, and the source's rest from y on.

    source: prompts, to be drawn with `seeds`, `steps`, `guidance` and `eta`; or a whole trajectory, drawn before or
    found by lsvd.inversion.invert, whose own settings hold then, for the target as well.
    tx: where x is taken, as a fraction of T (rounded to the schedule). dtau: where z is taken, in steps from there;
    positive is noisier (larger t), negative cleaner. branch: the fraction of T from which on z's trajectory has the
    target prompt; before, it has the source's, so that both pictures share what is settled by then, such as pose and
    layout. This is ours: in the paper z has the target prompt from the noise on, which is branch = 1. The paper's
    summary leaves tx and dtau open; None takes the backbone's entry, for branch and config as well.
    same_level: bring z to x's noise level first (see `renoise`). solver: makes the solution of x, z and the config,
    such as `lambda x, z, config: lsvd.fit.fit(x, z, config).solution`. steps, guidance, eta: as for
    `lsvd.trajectory.run`. whole: draw source and target to their ends as well, to see their pictures. together: source
    and target as one batch, which takes more memory and rounds otherwise; None for one batch wherever memory allows it
    but on the CPU, which is no faster for it.

    Raises ValueError for bad arguments, a z off the schedule or from before the branch, or prompts that are all the
    same.
    """
    if backbone.kind != "text-to-image":
        raise ValueError(f"{backbone.name} takes no prompts: edit with a text-to-image backbone")
    entry = backbone.entry
    k_x = entry.k if entry.basis == "both" else None
    config = config or AVIConfig(k_x, entry.k, entry.keep_rest, basis=entry.basis)
    walk = source if isinstance(source, Trajectory) else None
    if walk is not None:
        made = walk.settings
        source, seeds, steps, guidance, eta = made.prompts, made.seeds, made.steps, made.guidance, made.eta
    seeds = check_seeds(seeds)
    if _lines(source, len(seeds)) == _lines(target, len(seeds)):
        raise ValueError("source and target prompt are the same, so there is nothing to edit: change one")
    settings = Settings.of(backbone, source, seeds, steps, guidance, eta)
    timesteps, _ = backbone.schedule(settings.steps)
    if walk is not None and walk.timesteps[0] != timesteps[0]:
        raise ValueError("only a part of the source trajectory is there: edit the whole one")
    t = nearest(timesteps, backbone.T, entry.tx if tx is None else tx)
    dtau = entry.dtau if dtau is None else dtau
    place = step_of(timesteps, t) - dtau  # larger t comes first
    if not 0 <= place < len(timesteps):
        raise ValueError(f"dtau = {dtau} from timestep {t} leaves the schedule: choose another tx or dtau")
    t_target = timesteps[place].item()
    part = entry.branch if branch is None else branch
    t_branch = nearest(timesteps, backbone.T, part) if part != 1 else None
    if t_branch is not None and step_of(timesteps, t_branch) >= place:
        raise ValueError(
            f"at timestep {t_target} z has not left x yet, it does at {t_branch}: raise branch, or lower tx"
        )
    ends = (None, None) if whole else (t, None if same_level else t_target)
    x_walk, z_walk = _pair(backbone, settings, walk, target, t_branch, ends, together, progress)
    z = z_walk.at(t_target)
    if same_level:
        z = renoise(backbone.scheduler, z, z_walk.final, t_target, t)
    solution = solver(x_walk.at(t), z, config)
    edited = resume(backbone, x_walk, t, solution.y, progress=progress)
    return Edit(x_walk, z_walk, edited, t, t_target, solution, config, same_level, t_branch)


def _lines(prompts: str | Sequence[str], count: int) -> list[str]:
    return [prompts] * count if isinstance(prompts, str) else list(prompts)


def _pair(
    backbone: Backbone,
    source: Settings,
    walk: Trajectory | None,
    prompts: str | Sequence[str],
    t_branch: float | None,
    ends: tuple[float | None, float | None],
    together: bool | None,
    progress: bool,
) -> tuple[Trajectory, Trajectory]:
    """Source and target trajectory, each down to its end of `ends`, None for x_0; `walk` is the source if it is there
    already. As one batch where that is wanted and memory allows, else one after the other."""
    if walk is None and (together or (together is None and _gains(backbone.device))):
        try:
            return _together(backbone, source, prompts, t_branch, ends, progress)
        except RuntimeError as error:
            if together or not out_of_memory(error):
                raise
    until, until_target = ends
    walk = walk or draw(backbone, source, until=until, progress=progress)
    if t_branch is not None:
        return walk, trajectory.branch(backbone, walk, t_branch, prompts, until=until_target, progress=progress)
    target = _prompted(backbone, source, prompts)
    return walk, draw(backbone, target, codes=walk.codes[0], until=until_target, progress=progress)


def _gains(device: torch.device) -> bool:
    """Whether one large batch is faster there than two small ones: not where one already takes all cores."""
    return device.type != "cpu"


def _together(
    backbone: Backbone,
    source: Settings,
    prompts: str | Sequence[str],
    t_branch: float | None,
    ends: tuple[float | None, float | None],
    progress: bool,
) -> tuple[Trajectory, Trajectory]:
    """As `_pair`, in one batch of twice as many pictures, both down to the later of their ends."""
    n, until = len(source.seeds), None if None in ends else min(ends)
    target = _prompted(backbone, source, prompts)
    both = replace(source, prompts=source.prompts + target.prompts, seeds=source.seeds * 2)
    if t_branch is None:
        walk = draw(backbone, both, until=until, progress=progress)
    else:
        head = draw(backbone, source, until=t_branch, progress=progress)
        twice = replace(both, prompts=source.prompts * 2)
        head = replace(head, settings=twice, codes=head.codes.repeat(1, 2, 1, 1, 1))
        walk = trajectory.branch(backbone, head, t_branch, both.prompts, until=until, progress=progress)
    return walk.rows(slice(n)), walk.rows(slice(n, None))


def _prompted(backbone: Backbone, made: Settings, prompts: str | Sequence[str]) -> Settings:
    return Settings.of(backbone, prompts, made.seeds, made.steps, made.guidance, made.eta)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is that a device has no memory left, which is said in many ways."""
    said = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        each in said for each in ("out of memory", "not enough memory")
    )
