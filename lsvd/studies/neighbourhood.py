"""Property 1, small neighbourhood: how near the subspaces of a trajectory's codes lie to each other, beside its nulls.

The subspaces are spanned by the leading k singular vectors of each channel of x_t, left or right (Wang et al. 2025,
arXiv 2502.02225, Figure 5). Distances are fractions of the largest possible geodesic distance, means over channels, and
on the CPU. Chance alone, other pictures at the same timestep, and noise added to a picture are what they are to be held
against: a deterministic sampler carries one noise through all timesteps, and that alone could keep subspaces together.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lsvd.backbones.models import Backbone
from lsvd.checks import check_seeds
from lsvd.decomposition import geodesic
from lsvd.decomposition.svd import ChannelSVD, svd
from lsvd.sampling.kept import trajectories
from lsvd.sampling.trajectory import Trajectory
from lsvd.statistics.intervals import SIGNED, UNIT, Interval, mean
from lsvd.statistics.verdicts import Part, Verdict, judge

Side = Literal["left", "right"]
FRESH = 1 << 20  # seeds of fresh noise start here, far from those of pictures
MARGIN = 0.01  # of the largest distance: what is nearer by less is not called nearer
LATENT = "mini-sd"  # the model that stands for Stable Diffusion, which the paper finds to vary less
NULLS = ("chance", "other pictures", "its noise, another's x_0", "its noise added to x_0")
"""What a model's subspaces are to lie nearer than."""


def bases(codes: Tensor | ChannelSVD, k: int, side: Side = "left") -> Tensor:
    """The leading k singular vectors of each channel, shape (..., C, n, k), for codes of shape (..., C, H, W).

    codes: or their decomposition, for several k. n is H on the left, W on the right. Raises ValueError for k above the
    rank, another side, or codes that are not finite.
    """
    if side not in ("left", "right"):
        raise ValueError(f"not a side: {side!r}; choose left or right")
    parts = (codes if isinstance(codes, ChannelSVD) else svd(codes)).truncate(k)
    return parts.U if side == "left" else parts.Vh.mT


def distances(codes: Tensor | ChannelSVD, k: int, side: Side = "left") -> Tensor:
    """Distances of all pairs of timesteps, shape (n, n, B), for codes of shape (n, B, C, H, W), or their decomposition.

    Raises as `bases`.
    """
    A = bases(codes, k, side)
    return fraction(geodesic.pairwise(A).mean(-1), A)


def between_pictures(codes: Tensor, k: int, side: Side = "left") -> Tensor:
    """Distance from each picture to the next one of the batch at the same timestep, shape (n, B), for (n, B, C, H, W).

    Raises ValueError for a batch of one, and as `bases`.
    """
    if codes.shape[1] < 2:
        raise ValueError("one picture has no other to be compared with: take two seeds or more")
    A = bases(codes, k, side)
    return fraction(geodesic.distance(A, A.roll(-1, dims=1)).mean(-1), A)


def by_chance(shape: Sequence[int], k: int, side: Side = "left", pairs: int = 500, seed: int = 0) -> Interval:
    """Mean distance of independent, uniformly distributed subspaces, for channels of shape (H, W)."""
    n = shape[0] if side == "left" else shape[1]
    A, B = geodesic.random_subspaces((2, pairs), n, k, torch.Generator().manual_seed(seed))
    return mean(fraction(geodesic.distance(A, B), A), bounds=UNIT)


def fraction(d: Tensor, A: Tensor) -> Tensor:
    """Distances of bases, shape (..., n, k), by the largest there is; 0 where both are the whole space, k = n."""
    (n, k), d = A.shape[-2:], d.cpu()
    return d / geodesic.largest(k, n) if k < n else torch.zeros_like(d)


def add_noise(backbone: Backbone, walk: Trajectory, *, fresh: bool = False, other: bool = False) -> Tensor:
    """Final codes with noise added by the scheduler's forward process, in the shape of walk.codes, (n + 1, B, C, H, W).

    fresh: another noise for each timestep and picture, instead of the walk's first noise for all timesteps. other: the
    final code of the batch's next picture instead of the same picture's. A picture with its first noise is a blend of
    the walk's two ends, and the model made one of the other; with another picture, timesteps share noise alone.

    Raises ValueError for a walk that begins after the first timestep, for a scheduler that cannot add noise, and with
    `other` for a batch of one.
    """
    seeds, codes = walk.settings.seeds, []
    schedule = backbone.schedule(walk.settings.steps)
    if not hasattr(backbone.scheduler, "add_noise"):
        name = type(backbone.scheduler).__name__
        raise ValueError(f"{name} has no add_noise, so there is no noisy x_0 to compare with: take DDIMScheduler")
    if walk.timesteps[0] != schedule.timesteps[0]:
        raise ValueError("a trajectory that begins after the first timestep lacks its first noise: give the whole one")
    if other and len(seeds) < 2:
        raise ValueError("one picture has no other to put in its place: take two seeds or more")
    final = walk.final.roll(-1, dims=0) if other else walk.final
    start = walk.codes[0] / schedule.sigma
    # set to the schedule, which many look their levels up in; a copy, since some move their tensors to another device
    scheduler = copy.deepcopy(backbone.prepared(walk.settings.steps))
    for i, t in enumerate(walk.timesteps):
        numbers = [FRESH + len(walk.timesteps) * seed + i for seed in seeds]
        noise = backbone.noise(numbers).to(final) if fresh else start
        codes.append(scheduler.add_noise(final, noise, t.expand(len(seeds))))
    return torch.stack([*codes, final])


def _mean(fractions: Tensor) -> Interval:
    """The mean over pictures of distances, (B,), which are fractions of the largest."""
    return mean(fractions, bounds=UNIT)


def over_pairs(D: Tensor) -> Tensor:
    """Mean over all pairs of different timesteps, shape (B,), of distances of shape (n, n, B)."""
    first, second = torch.triu_indices(len(D), len(D), 1)
    return D[first, second].mean(0)


def by_timestep(D: Tensor) -> Tensor:
    """Mean distance from each timestep to all others, shape (n, B), of distances of shape (n, n, B)."""
    return D.sum(1) / (len(D) - 1)


def spread(D: Tensor) -> Tensor:
    """Standard deviation over all pairs of different timesteps, shape (B,), of distances of shape (n, n, B)."""
    first, second = torch.triu_indices(len(D), len(D), 1)
    return D[first, second].std(0)


def dimensions(codes: Sequence[Tensor], shape: Sequence[int]) -> dict[tuple[Side, int], tuple[Interval, ...]]:
    """Mean distance over pairs by side and k, for k from 1 to r - 1: of each of `codes`, (n, B, C, H, W), then chance.

    shape: (H, W) of a channel. At k = r both subspaces are the whole space.
    """
    rank, parts = min(shape), [svd(x) for x in codes]
    ks = [k for k in (1, 2, 4, 8, 12, 16, 24, 32, 48) if k < rank - 1] + [rank - 1]
    return {
        (side, k): (*(_mean(over_pairs(distances(p, k, side))) for p in parts), by_chance(shape, k, side, pairs=100))
        for side in ("left", "right")
        for k in ks
    }


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """Distances within trajectories of B pictures and within their nulls; D: shape (n, n, B), others: (n, B).

    timesteps: those of the n codes, the last one 0, of x_0. dimensions: see `dimensions`, of the model and of its noise
    added to x_0, at every third step.
    """

    D: Tensor
    stochastic: Tensor
    fresh: Tensor
    shared: Tensor
    mixed: Tensor
    others: Tensor
    chance: Interval
    timesteps: Tensor
    dimensions: dict[tuple[Side, int], tuple[Interval, ...]]

    def means(self) -> dict[str, Interval]:
        """Mean distance under each condition, with its interval over pictures."""
        return {
            "model": _mean(over_pairs(self.D)),
            "model, eta = 1": _mean(over_pairs(self.stochastic)),
            "its noise added to x_0": _mean(over_pairs(self.shared)),
            "its noise, another's x_0": _mean(over_pairs(self.mixed)),
            "fresh noise added to x_0": _mean(over_pairs(self.fresh)),
            "other pictures": _mean(self.others.mean(0)),
            "chance": self.chance,
        }

    def excess(self) -> dict[str, Interval]:
        """Model minus each null, paired by picture: negative where the model's subspaces lie nearer."""
        nulls = {
            "its noise added to x_0": over_pairs(self.shared),
            "its noise, another's x_0": over_pairs(self.mixed),
            "fresh noise added to x_0": over_pairs(self.fresh),
            "other pictures": self.others.mean(0),
            "chance": self.chance.value,
        }
        return {name: mean(over_pairs(self.D) - null, bounds=SIGNED) for name, null in nulls.items()}

    def noise_share(self) -> Interval:
        """The part of the way from chance to the model that carried noise alone covers, with another's picture."""
        model, noise = (over_pairs(D) for D in (self.D, self.mixed))
        return mean((self.chance.value - noise) / (self.chance.value - model))


def against_nulls(
    backbone: Backbone, walk: Trajectory, stochastic: Trajectory, k: int, side: Side = "left"
) -> Neighbourhood:
    """All of it for one backbone: a deterministic and a stochastic (eta = 1) trajectory of the same seeds.

    Raises ValueError if the two are not that, and as `bases`, `between_pictures` and `add_noise`.
    """
    s, other = walk.settings, stochastic.settings
    if s.seeds != other.seeds or s.prompts != other.prompts or (s.eta, other.eta) != (0, 1):
        raise ValueError("the two trajectories are not of the same seeds and prompts, one at eta 0 and one at eta 1")
    shared = add_noise(backbone, walk)
    return Neighbourhood(
        D=distances(walk.codes, k, side),
        stochastic=distances(stochastic.codes, k, side),
        fresh=distances(add_noise(backbone, walk, fresh=True), k, side),
        shared=distances(shared, k, side),
        mixed=distances(add_noise(backbone, walk, other=True), k, side),
        others=between_pictures(walk.codes, k, side),
        chance=by_chance(walk.codes.shape[-2:], k, side),
        timesteps=torch.cat([walk.timesteps, torch.zeros(1)]),
        dimensions=dimensions((walk.codes[::3], shared[::3]), walk.codes.shape[-2:]),
    )


@dataclass(frozen=True, eq=False)
class Result:
    """The study of some backbones, by name, with subspaces of dimension k, those of the left singular vectors."""

    k: int
    models: dict[str, Neighbourhood]

    def variation(self) -> dict[str, tuple[Interval, Interval, Interval]]:
        """The latent model's standard deviation over pairs minus another's, its null, and their difference, by name.

        The null is the same with noise added to x_0 in place of the models. Empty without the model LATENT.
        """
        latent, found = self.models.get(LATENT), {}
        for name in sorted(self.models.keys() - {LATENT}) if latent else ():
            found[name] = tuple(mean(each, bounds=SIGNED) for each in differences(latent, self.models[name]))
        return found


def differences(latent: Neighbourhood, other: Neighbourhood) -> tuple[Tensor, Tensor, Tensor]:
    """Spread of the latent model minus another's in each picture, its null, and their difference: shape (B,) each."""
    models, noise = spread(latent.D) - spread(other.D), spread(latent.shared) - spread(other.shared)
    return models, noise, models - noise


def measure(
    models: Mapping[str, Backbone],
    prompt: str = "a person",
    seeds: int | Sequence[int] = range(16),
    k: int = 8,
    *,
    progress: bool = False,
) -> Result:
    """The study of the models, with trajectories that are kept on disk; prompt: of those that take one.

    Raises ValueError as `against_nulls` and lsvd.sampling.kept.trajectories.
    """
    seeds, parts = check_seeds(seeds), {}
    for name, model in models.items():
        text = prompt if model.kind == "text-to-image" else None
        walks = [trajectories(model, text, seeds, eta=eta, batch=len(seeds), progress=progress) for eta in (0.0, 1.0)]
        parts[name] = against_nulls(model, *walks, k)
    return Result(k, parts)


def verdicts(result: Result) -> list[Verdict]:
    """Whether each model lies nearer than each of NULLS, and whether the latent model varies less than the others.

    Nearer: model - null lies below 0 by more than MARGIN. Varies less: the latent model's standard deviation is below
    the other's; wholly if it is so by more than with both models taken out.
    """
    claims = []
    for name, model in result.models.items():
        claims += [nearer_than(null, name, model) for null in NULLS]
    return claims + [varies_less(name, parts) for name, parts in result.variation().items()]


def nearer_than(null: str, name: str, model: Neighbourhood) -> Verdict:
    """The verdict on whether a model's subspaces lie nearer than one of NULLS."""
    part = Part(model.excess()[null], margin=MARGIN, sign=-1)
    return judge("neighbourhood", f"nearer than: {null}", name, [part])


def varies_less(name: str, parts: Sequence[Interval]) -> Verdict:
    """The verdict on whether the latent model varies less than another, from the parts of `Result.variation`."""
    difference, null, beyond = parts
    tested = [Part(difference, sign=-1), Part(beyond, sign=-1)]
    claim = judge("neighbourhood", f"varies less than {name}", LATENT, tested, gate=True)
    return replace(claim, null=null.value)


def rows(result: Result) -> list[dict[str, str | int]]:
    """The rows of outputs/tables/neighbourhood.csv."""
    table = []
    for name, model in result.models.items():
        lines = [("left", result.k, condition, value) for condition, value in model.means().items()]
        lines.append(("left", result.k, "standard deviation over pairs", _mean(spread(model.D))))
        for (side, k), values in model.dimensions.items():
            labels = (f"every third step: {label}" for label in ("model", "its noise added to x_0", "chance"))
            lines += [(side, k, label, value) for label, value in zip(labels, values, strict=True)]
        for side, k, condition, value in lines:
            numbers = {"value": value.value, "low": value.low, "high": value.high}
            row = {"backbone": name, "side": side, "k": k, "condition": condition}
            table.append(row | {head: f"{x:.4f}" for head, x in numbers.items()})
    return table
