"""Responses: scale singular values at one timestep, finish the denoising, read how far each factor has moved.

Wang et al. 2025 (arXiv 2502.02225, Figures 2 and 4) scale sigma_i of x_t and look at the pictures. Here a reader says
how far each factor of the scene moves, beside a null of ours: a change of the same size in random directions. A move
lies in [0, 1]: of a categorical factor the total variation distance between the reader's probabilities before and
after, of a number |after - before| / range. A factor that the unchanged picture does not show has moved by NaN, and is
left out of all statistics.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import index

import torch
from torch import Tensor

from lsvd.backbones.models import Backbone
from lsvd.backbones.schedulers import remembers
from lsvd.checks import check_seeds, mix
from lsvd.decomposition.svd import svd
from lsvd.progress import bar
from lsvd.sampling.trajectory import Trajectory, resume
from lsvd.testbed.effects import moves
from lsvd.testbed.reader import Reader, Reading
from lsvd.testbed.scenes.scene import Scale, Scene

Bands = Sequence[int | Sequence[int]]


@dataclass(frozen=True, eq=False)
class Responses:
    """How far each factor moves when sigma of each band is multiplied by `factor` at timestep t.

    moved, and null for random directions of the same size: shape (bands, B, factors), float32, from 0 to 1 or NaN.
    names and scales are those of the scene's factors; a band is a tuple of triplets, 0 the largest.
    """

    moved: Tensor
    null: Tensor
    names: tuple[str, ...]
    scales: tuple[Scale, ...]
    t: float
    bands: tuple[tuple[int, ...], ...]
    factor: float

    @classmethod
    def of(
        cls, tensors: Mapping[str, Tensor], scene: Scene, t: float | Tensor, bands: Bands, factor: float
    ) -> "Responses":
        """Responses from their tensors, as `tensors` names them and lsvd.storage.results.remember returns them."""
        names, scales = tuple(f.name for f in scene.factors), tuple(f.scale for f in scene.factors)
        return cls(tensors["moved"], tensors["null"], names, scales, float(t), _bands(bands), float(factor))

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What is kept on disk; the arguments of `of` give the rest."""
        return {"moved": self.moved, "null": self.null}


def scale_bands(
    walk: Trajectory, t: float | Tensor, bands: Bands, factor: float, x: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """x_t with each band's singular values multiplied by `factor` in every channel, and the null: (bands, B, C, H, W).

    The null adds, for each triplet, a random rank-one matrix u v^T of Frobenius norm |factor - 1| sigma_i, u and v
    uniform on the sphere; those of one band are orthogonal to each other, as its triplets are, so that the whole change
    has the norm of the one it stands for. Each is drawn from the picture's seed, the step and the triplet alone.

    x: what is scaled in place of x_t, of its shape, such as the model's estimate of x_0. Raises
    ValueError if t is not on the walk's schedule, for bands that are empty or name a triplet twice or beyond the rank,
    a factor or code that is not finite, or a walk of no pictures.
    """
    seeds, bands = check_seeds(walk.settings.seeds), _bands(bands)
    step, x = walk.index(t), walk.at(t) if x is None else x
    triplets = svd(x)
    scaled, null = [], []
    for band in bands:
        scaled.append(triplets.scale(band, factor).recompose())
        norms = abs(factor - 1) * triplets.S[..., list(band)]
        left, right = (frame.to(norms) for frame in _frames(seeds, step, band, x.shape[1:]))
        null.append((x + (left * norms.unsqueeze(-2)) @ right.mT).to(x.dtype))
    return torch.stack(scaled), torch.stack(null)


def scale_band(walk: Trajectory, t: float | Tensor, band: int | Sequence[int], factors: Sequence[float]) -> Tensor:
    """x_t with one band's singular values multiplied by each of `factors`, in every channel: (factors, B, C, H, W).

    Raises ValueError if t is not on the walk's schedule, and as lsvd.decomposition.svd.ChannelSVD.scale.
    """
    triplets = svd(walk.at(t))
    return torch.stack([triplets.scale(band, factor).recompose() for factor in factors])


def pictures(
    backbone: Backbone, walk: Trajectory, t: float | Tensor, codes: Tensor, *, batch: int = 64, progress: bool = False
) -> Tensor:
    """The pictures that changed codes, shape (m, B, C, H, W), end in: (m, B, 3, height, width) in [0, 1], on the CPU.

    batch: codes denoised together, whichever of the m they belong to. Raises ValueError as
    lsvd.sampling.trajectory.resume.
    """
    parts = [part.cpu() for _, part in _finish(backbone, walk, t, codes, batch, progress)]
    return torch.cat(parts).unflatten(0, codes.shape[:2])


def gallery(
    backbone: Backbone, walk: Trajectory, times: Sequence[float], bands: Bands, factors: Sequence[float]
) -> Tensor:
    """The pictures when each band is scaled by each factor at each timestep: (bands * times, B, factors, 3, h, w).

    Raises ValueError as `scale_band` and `pictures`.
    """
    rows = [pictures(backbone, walk, t, scale_band(walk, t, band, factors)) for band in bands for t in times]
    return torch.stack(rows).transpose(1, 2)


def responses(
    backbone: Backbone,
    walk: Trajectory,
    reader: Reader,
    t: float | Tensor,
    bands: Bands,
    factor: float,
    *,
    codes: Sequence[Tensor] | None = None,
    batch: int = 64,
    progress: bool = False,
) -> Responses:
    """How far each factor of the reader's scene moves when each band of x_t is scaled, beside its null.

    The cost is 2 * bands * B * (steps from t on) evaluations of the model (with guidance, twice that), `batch` codes at
    a time. codes: x_t as it was changed in place of that, and its null, (bands, B, C, H, W) each. Results depend on
    `batch` by rounding only. Pictures of any size will do, since the reader resizes them.
    Raises ValueError as `scale_bands` and lsvd.sampling.trajectory.resume.
    """
    codes = torch.cat(list(codes or scale_bands(walk, t, bands, factor)))
    factors = reader.scene.factors
    # a multistep solver begins again where codes are put in: so does what they are compared with
    memory = remembers(backbone.prepared(walk.settings.steps))
    final = resume(backbone, walk.settings, t, walk.at(t)).final if memory else walk.final
    before = reader.read(backbone.decode(final))
    parts = [
        moves(_rows(before, owners), reader.read(part), factors)
        for owners, part in _finish(backbone, walk, t, codes, batch, progress)
    ]
    visible = reader.scene.visible(before.values)
    seen = torch.stack([visible[f.name] for f in factors], -1)
    moved, null = torch.cat(parts).unflatten(0, codes.shape[:2]).where(seen, torch.nan).cpu().chunk(2)
    return Responses.of({"moved": moved, "null": null}, reader.scene, t, bands, factor)


def stack(responses: Sequence[Responses]) -> tuple[Tensor, Tensor]:
    """moved and null of all timesteps, shape (timesteps, bands, B, factors) each, float64, on the CPU.

    Raises ValueError if there are none, or they are not of the same pictures, bands and factors.
    """
    if not responses:
        raise ValueError("no responses: give those of one timestep or more")
    if len({(r.names, r.bands, r.factor, r.moved.shape, r.null.shape) for r in responses}) > 1:
        raise ValueError("responses differ in pictures, bands or factors: compare those that differ only in t")
    return tuple(torch.stack(part).cpu().double() for part in zip(*((r.moved, r.null) for r in responses), strict=True))


def _bands(bands: Bands) -> tuple[tuple[int, ...], ...]:
    """Bands as tuples of triplets."""
    tuples = tuple(tuple(map(index, band)) if isinstance(band, Sequence) else (index(band),) for band in bands)
    if not tuples or not all(tuples):
        raise ValueError("no bands, or an empty one: name one triplet or more in each, such as [0, (1, 2)]")
    return tuples


def _frames(seeds: Sequence[int], step: int, band: Sequence[int], shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Random directions, one for each triplet of a band, orthonormal columns: (B, C, H, k) and (B, C, W, k)."""
    C, H, W = shape
    draws = torch.empty(len(seeds), len(band), C, H + W, dtype=torch.float64)
    for b, seed in enumerate(seeds):
        for i, triplet in enumerate(band):
            # from 1 on: to numpy a last 0 is none, and (seed, step) seeds the noise of a stochastic sampler
            generator = torch.Generator().manual_seed(mix(seed, step, triplet + 1))
            draws[b, i] = torch.randn(C, H + W, generator=generator, dtype=torch.float32)
    return tuple(_orthonormal(part.permute(0, 2, 3, 1)) for part in draws.split([H, W], -1))


def _orthonormal(A: Tensor) -> Tensor:
    """Q of A = QR with the signs that make it uniform for a Gaussian A: LAPACK's own depend on the first entries."""
    Q, R = torch.linalg.qr(A)
    return Q * R.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)


def _finish(
    backbone: Backbone, walk: Trajectory, t: float | Tensor, codes: Tensor, batch: int, progress: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Which of the B pictures each of up to `batch` codes belongs to, and the pictures that these codes end in."""
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise ValueError(f"cannot take {batch} codes at a time: choose a whole number from 1")
    s = walk.settings
    if codes.ndim != 5 or codes.shape[1] != len(s.seeds):
        raise ValueError(
            f"codes of shape {tuple(codes.shape)} are not (m, {len(s.seeds)}, C, H, W): give those of `scale_bands`"
        )
    owners = torch.arange(len(s.seeds)).repeat(len(codes)).split(batch)
    parts = zip(owners, codes.flatten(0, 1).split(batch), strict=True)
    for rows, part in bar(parts, total=len(owners), desc=s.backbone, progress=progress):
        yield rows, backbone.decode(resume(backbone, s.rows(rows.tolist()), t, part).final)


def _rows(reading: Reading, rows: Tensor) -> Reading:
    """A reading of these pictures, which may come more than once."""
    tables = (reading.levels, reading.probabilities, reading.numbers)
    return Reading(*({name: values[rows] for name, values in table.items()} for table in tables))
