"""Predictions: the paper's three questions, asked of what the model predicts instead of the noisy code.

x_t = alpha_t x̂_0 + sigma_t ε̂ is mostly noise at most timesteps, and so are its singular vectors (the study
neighbourhood). Here stand x̂_0, the model's estimate of the picture, and d_t, by how much another prompt moves it
(lsvd.sampling.predictions), with the same nulls and statistics.

Property 1: does the subspace of x̂_0 settle, before that of x_t, and its first triplets before the others? Property 2:
do attributes answer to singular values of x̂_0 beyond random directions? Property 3: do its triplets change places? And
of d_t: does its first triplet hold much of it, and bring the attribute in (lsvd.studies.parts), and is it the same
across timesteps and seeds?

What takes minutes to measure lies in measurements/predictions, named by a digest of weights and settings.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from lsvd.backbones.configs import scheduler_text
from lsvd.backbones.models import Backbone
from lsvd.checks import check_seeds
from lsvd.decomposition import geodesic
from lsvd.decomposition.svd import svd
from lsvd.paths import measurements
from lsvd.sampling import identity
from lsvd.sampling.kept import trajectories
from lsvd.sampling.predictions import available, clips, differences, estimates, level
from lsvd.sampling.trajectory import Trajectory
from lsvd.statistics.intervals import SIGNED, UNIT, Interval, mean
from lsvd.statistics.verdicts import Part, Verdict, judge
from lsvd.storage import results
from lsvd.storage.sharing import Piece, collect, remembered, work_off
from lsvd.storage.tensors import Spec
from lsvd.studies import encoding, neighbourhood, order, survey
from lsvd.studies import parts as taken
from lsvd.studies.neighbourhood import bases
from lsvd.studies.order import TRIPLETS
from lsvd.studies.parts import TARGETS, Parts
from lsvd.studies.responses import Responses, responses, scale_bands
from lsvd.studies.rig import Rig
from lsvd.studies.survey import Plan
from lsvd.studies.ways import ATTRIBUTES, SOURCE, target_prompt
from lsvd.testbed.reader import Reader

K = 8  # triplets of the subspaces
NEAR = 0.5  # of a final triplet: one that is nearer to its final size from some timestep on has settled there
MARGIN = neighbourhood.MARGIN
SEEDS = range(16)
PLAN = Plan(times=(0.8, 0.5, 0.2), bands=((0,), (1, 2, 3)))
"""What is scaled in x̂_0, and when."""

PARAPHRASES = ("person", "a person a person")
"""Prompts that ask for nothing that SOURCE does not."""
FORMAT = 1  # of what is measured; raise it when the code that measures changes


@dataclass(frozen=True, eq=False)
class Settling:
    """How x̂_0 and x_t come to the triplets of the final code along a trajectory of B pictures.

    timesteps: (n,), of T. estimate, code, other: distance of the subspace of K left vectors from the final one, of
    x̂_0, of x_t, and of x̂_0 of the next picture from this one's final, (n, B). parts, code_parts: how much of each of
    the final code's TRIPLETS first triplets is there, 1 when all of it is, mean over channels, (n, B, TRIPLETS); of x_t
    after division by alpha_t. ranks, null_ranks, code_ranks: by how many places the first TRIPLETS triplets of x̂_0 move
    over half the way and more, those if matched with the next picture's, and those of x_t, (B,), at most `most`.
    """

    timesteps: Tensor
    T: int
    most: int
    estimate: Tensor
    code: Tensor
    other: Tensor
    parts: Tensor
    code_parts: Tensor
    ranks: Tensor
    null_ranks: Tensor
    code_ranks: Tensor

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What is kept on disk, the measured numbers in half precision."""
        numbers = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return {name: value if name == "timesteps" else value.half() for name, value in numbers.items()}

    def nearer(self) -> dict[str, Interval]:
        """The mean distance of x̂_0 from its end over all timesteps minus that of a null, paired by picture."""
        nulls = {"x_t": self.code, "another picture's": self.other}
        return {name: mean((self.estimate - null).mean(0), bounds=SIGNED) for name, null in nulls.items()}

    def settled(self, parts: Tensor) -> Tensor:
        """The fraction of T from which on a triplet stays NEAR its final size: (B, TRIPLETS)."""
        n, last = len(parts), ((parts - 1).abs() <= NEAR).long().flip(0).cumprod(0).sum(0)  # the number of last steps
        first = self.timesteps[(n - last).clamp_max(n - 1)]
        return torch.where(last > 0, first, 0) / self.T

    def in_order(self) -> tuple[Interval, Interval]:
        """Spearman's correlation of a triplet's rank and when it settles, over pictures: of x̂_0, and minus x_t's.

        Below 0 the first triplets settle first.
        """
        estimate, code = (_correlations(self.settled(parts)) for parts in (self.parts, self.code_parts))
        return mean(estimate, bounds=SIGNED), mean(estimate - code, bounds=(-2.0, 2.0))

    def moved(self) -> dict[str, Interval]:
        """The means of `ranks`, `null_ranks` and `code_ranks`."""
        moves = {"x̂_0": self.ranks, "another picture's x̂_0": self.null_ranks, "x_t": self.code_ranks}
        return {of: mean(ranks, bounds=(0, self.most)) for of, ranks in moves.items()}

    def further(self) -> Interval:
        """The mean of `ranks` minus `code_ranks`, paired by picture."""
        return mean(self.ranks - self.code_ranks, bounds=(-self.most, self.most))


@dataclass(frozen=True, eq=False)
class Difference:
    """d_t of a prompt along trajectories of B pictures: shares of energy and distances of the first triplet.

    spectrum: the share of the energy of d_t that each triplet holds, mean over channels, (n, B, r). apart: the mean
    distance of the first left vectors of two timesteps that lie 1 to n - 1 steps apart, (n - 1, B). seeds: that from
    the next picture's at the same timestep, (n, B).
    """

    spectrum: Tensor
    apart: Tensor
    seeds: Tensor

    @property
    def share(self) -> Tensor:
        """The share of energy that the first triplet holds, (n, B)."""
        return self.spectrum[..., 0]

    @property
    def across_time(self) -> Tensor:
        """Mean distance over all pairs of timesteps, (B,)."""
        pairs = torch.arange(len(self.apart), 0, -1, dtype=self.apart.dtype)
        return (pairs[:, None] * self.apart).sum(0) / pairs.sum()

    @property
    def across_seeds(self) -> Tensor:
        """Mean distance from the next picture over all timesteps, (B,)."""
        return self.seeds.mean(0)


@dataclass(frozen=True, eq=False)
class Result:
    """The study of some backbones, by name: answers of those with a reader, differences, by prompt, of those with one.

    parts: of those with a reader and prompts. noise: the shares of energy that the triplets of a noise matrix of the
    codes' shape hold, (r,); chance: the distance of two random vectors.
    """

    settling: dict[str, Settling]
    answers: dict[str, list[Responses]]
    differences: dict[str, dict[str, Difference]]
    parts: dict[str, Parts]
    noise: Tensor
    chance: Interval


def settling(backbone: Backbone, walk: Trajectory) -> Settling:
    """How x̂_0 and x_t settle along a trajectory. Raises ValueError as lsvd.sampling.predictions.estimates."""
    estimate, codes, final = estimates(backbone, walk), walk.codes[:-1].double(), walk.final.double()
    alphas = torch.tensor([level(backbone, walk, t) for t in walk.timesteps], dtype=torch.float64)
    scaled = codes / alphas.view(-1, 1, 1, 1, 1).to(codes)
    end = bases(final, K)

    def distance(x: Tensor) -> Tensor:
        return neighbourhood.fraction(geodesic.distance(bases(x, K), end).mean(-1), end)

    movement, code_movement = (order.mobility_of(x, walk.timesteps, 0) for x in (estimate, codes))
    half = movement.same.dt >= movement.same.dt.max() / 2
    return Settling(
        walk.timesteps.double(),
        walk.T,
        movement.most,
        distance(estimate),
        distance(codes),
        distance(estimate.roll(-1, dims=1)),
        _present(estimate, final),
        _present(scaled, final),
        *(part.by_sample[half].mean(0) for part in (movement.same, movement.null, code_movement.same)),
    )


def _present(x: Tensor, final: Tensor) -> Tensor:
    """How much of the final code's first triplets is in codes (n, B, C, H, W): (n, B, TRIPLETS), mean over channels."""
    parts = svd(final).truncate(TRIPLETS)
    along = torch.einsum("bchk,nbchw,bckw->nbck", parts.U, x, parts.Vh)
    return (along / parts.S).mean(2).cpu()


def difference(backbone: Backbone, walk: Trajectory, prompt: str) -> Difference:
    """d_t of a prompt along a trajectory. Raises ValueError as lsvd.sampling.predictions.differences."""
    d = differences(backbone, walk, prompt)
    energy = svd(d).S.square()
    D, n = neighbourhood.distances(d, 1), len(d)
    apart = torch.stack([D.diagonal(gap).mean(-1) for gap in range(1, n)])
    share = (energy / energy.sum(-1, keepdim=True)).mean(2).cpu()
    return Difference(share, apart, neighbourhood.between_pictures(d, 1))


def _kept(
    backbone: Backbone,
    of: str,
    prompt: str,
    seeds: Sequence[int],
    specs: Mapping[str, Spec],
    make: Callable[[], results.Tensors],
) -> Piece[results.Tensors]:
    """Numbers of a backbone's trajectories, kept in measurements/predictions."""
    made_by = {
        "of": of,
        "weights": identity.weights(backbone),
        "scheduler": f"{type(backbone.scheduler).__name__} {scheduler_text(backbone.scheduler)}",
        "steps": backbone.entry.steps,
        "guidance": backbone.entry.guidance,
        "dtype": str(backbone.dtype),
        "prompt": prompt if backbone.kind == "text-to-image" else None,
        "source": SOURCE,
        "seeds": list(seeds),
        "k": K,
        "format": FORMAT,
    }
    return remembered(backbone.name, made_by, make, folder=measurements("predictions"), specs=specs, must_keep=True)


def _read(piece: Piece[results.Tensors]) -> results.Tensors:
    """The numbers of a piece of `_kept` in double precision."""
    (tensors,) = collect([piece], title="predictions")
    return {name: value.double() for name, value in tensors.items()}


def answers(
    backbone: Backbone,
    reader: Reader,
    seeds: Sequence[int] = SEEDS,
    *,
    folder: str | Path | None = None,
    progress: bool = False,
) -> list[Responses]:
    """Responses when singular values of x̂_0 are scaled by PLAN, ε̂ left as it is; read if measured before.

    folder: where they are kept, measurements("predictions") if None. Raises ValueError and WriteError as
    lsvd.studies.survey.survey.
    """
    (tensors,) = collect([_answers(backbone, reader, check_seeds(seeds), folder, progress)], title=backbone.name)
    return [
        Responses.of({name: tensors[name][i] for name in ("moved", "null")}, reader.scene, t, PLAN.bands, PLAN.factor)
        for i, t in enumerate(tensors["timesteps"])
    ]


def _answers(
    backbone: Backbone,
    reader: Reader,
    seeds: Sequence[int],
    folder: str | Path | None = None,
    progress: bool = False,
) -> Piece[results.Tensors]:
    """The tensors of `answers`."""

    def measure() -> results.Tensors:
        walk = survey.walk(backbone, PLAN, seeds)
        times, parts = [walk.nearest(time) for time in PLAN.times], []
        for t, x in zip(times, (estimates(backbone, walk)[walk.index(t)] for t in times), strict=True):
            x, alpha = x.to(walk.codes.dtype), level(backbone, walk, t)
            codes = [walk.at(t) + alpha * (part - x) for part in scale_bands(walk, t, PLAN.bands, PLAN.factor, x)]
            parts.append(responses(backbone, walk, reader, t, PLAN.bands, PLAN.factor, codes=codes, progress=progress))
        stacked = {name: torch.stack([part.tensors[name] for part in parts]) for name in ("moved", "null")}
        return stacked | {"timesteps": torch.tensor(times, dtype=torch.float64)}

    shape = (len(PLAN.times), len(PLAN.bands), len(seeds), len(reader.scene.factors))
    specs = {"moved": Spec(shape, finite=False), "null": Spec(shape, finite=False), "timesteps": Spec(shape[:1])}
    made_by: dict[str, Any] = survey.settings(backbone, reader, PLAN, seeds) | {"of": "x̂_0", "format": FORMAT}
    home = folder or measurements("predictions")
    return remembered(backbone.name, made_by, measure, folder=home, specs=specs, must_keep=True)


def measure(
    models: Mapping[str, Backbone],
    readers: Mapping[str, Reader],
    prompt: str = SOURCE,
    seeds: int | Sequence[int] = SEEDS,
    *,
    progress: bool = False,
) -> Result:
    """The study of the models, from what is kept on disk.

    Models whose sampler gives no estimates are left out. Raises ValueError as `settling`, `answers`, `difference` and
    lsvd.studies.parts.measure, and if no model is left.
    """
    models = {name: model for name, model in models.items() if available(model)}
    if not models:
        raise ValueError("none of these models has estimates to look at: take one with DDIM and without thresholding")
    seeds, shape = check_seeds(seeds), next(iter(models.values())).latent_shape[-2:]
    texts = {target: target_prompt(ATTRIBUTES[target]) for target in TARGETS} | {p: p for p in PARAPHRASES}
    prompted = [name for name, model in models.items() if model.kind == "text-to-image" and not clips(model)]
    read = [name for name in readers if name in models]
    pieces = [_settling(model, prompt, seeds) for model in models.values()]
    pieces += [_difference(models[name], prompt, text, seeds) for name in prompted for text in texts.values()]
    for name in (name for name in prompted if name in readers):
        pieces += taken.pieces(models[name], readers[name], taken.SEEDS)
    pieces += [_answers(models[name], readers[name], SEEDS, progress=progress) for name in read]
    work_off(pieces, title="predictions", progress=progress)
    settlings = {name: settling_of(model, prompt, seeds) for name, model in models.items()}
    by_prompt = {
        name: {label: difference_of(models[name], prompt, text, seeds) for label, text in texts.items()}
        for name in prompted
    }
    parts_of = {name: taken.measure(models[name], readers[name], taken.SEEDS) for name in prompted if name in readers}
    shape = models[prompted[-1]].latent_shape[-2:] if prompted else shape
    responses_of = {name: answers(models[name], readers[name], SEEDS, progress=progress) for name in read}
    noise = torch.randn(256, 1, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    energy = svd(noise).S.square()
    shares = (energy / energy.sum(-1, keepdim=True)).mean((0, 1))
    return Result(settlings, responses_of, by_prompt, parts_of, shares, neighbourhood.by_chance(shape, 1))


def run(rig: Rig, progress: bool = True) -> None:
    """Measure the study of all embedded models."""
    models, readers = survey.subjects("all", device=str(rig.backbone.device))
    measure(models, readers, progress=progress)


def settling_of(backbone: Backbone, prompt: str, seeds: Sequence[int]) -> Settling:
    """The settling of a backbone's pictures; read if it was measured before. prompt: of those that take one."""
    T, most = backbone.schedule(backbone.entry.steps).T, min(backbone.latent_shape[-2:]) - 1
    return Settling(T=T, most=most, **_read(_settling(backbone, prompt, seeds)))


def _settling(backbone: Backbone, prompt: str, seeds: Sequence[int]) -> Piece[results.Tensors]:
    timesteps = backbone.schedule(backbone.entry.steps).timesteps
    lines, pictures = (len(timesteps), len(seeds)), (len(seeds),)
    triplets = Spec((*lines, TRIPLETS), torch.float16)
    specs = dict.fromkeys(("estimate", "code", "other"), Spec(lines, torch.float16))
    specs |= {"parts": triplets, "code_parts": triplets, "timesteps": Spec(lines[:1], torch.float64)}
    specs |= dict.fromkeys(("ranks", "null_ranks", "code_ranks"), Spec(pictures, torch.float16))

    def make() -> results.Tensors:
        return settling(backbone, _walk(backbone, prompt, seeds)).tensors

    return _kept(backbone, "settling", prompt, seeds, specs, make)


def difference_of(backbone: Backbone, prompt: str, target: str, seeds: Sequence[int]) -> Difference:
    """d_t of a prompt for a backbone's pictures of another; read if it was measured before."""
    return Difference(**_read(_difference(backbone, prompt, target, seeds)))


def _difference(backbone: Backbone, prompt: str, target: str, seeds: Sequence[int]) -> Piece[results.Tensors]:
    n, rank = backbone.entry.steps, min(backbone.latent_shape[-2:])
    shapes = {"spectrum": (n, len(seeds), rank), "apart": (n - 1, len(seeds)), "seeds": (n, len(seeds))}
    specs = {name: Spec(shape, torch.float16) for name, shape in shapes.items()}

    def make() -> results.Tensors:
        numbers = vars(difference(backbone, _walk(backbone, prompt, seeds), target))
        return {name: value.half() for name, value in numbers.items()}

    return _kept(backbone, f"d_t: {target}", prompt, seeds, specs, make)


def _walk(backbone: Backbone, prompt: str, seeds: Sequence[int]) -> Trajectory:
    """The trajectories that are looked at."""
    prompted = backbone.kind == "text-to-image"
    return trajectories(backbone, prompt if prompted else None, seeds, batch=len(seeds))


def disagreement(backbone: Backbone, prompt: str, kept: Settling, seeds: Sequence[int]) -> float:
    """The largest difference between what is kept of the first pictures and the same measured again.

    seeds: those of the first pictures, two or more. Raises ValueError as `settling`.
    """
    again, n = settling(backbone, _walk(backbone, prompt, seeds)), len(seeds)
    pairs = ((getattr(kept, name)[:, :n], getattr(again, name)) for name in ("estimate", "code", "parts"))
    return max((one - other).abs().max().item() for one, other in pairs)


def pictures(backbone: Backbone, walk: Trajectory, times: Sequence[float], prompt: str | None = None) -> Tensor:
    """x_t and x̂_0 of a walk's first picture, decoded at some fractions of T: (2, times, 3, H, W).

    prompt: then also x̂_0 + d_t, and x̂_0 with the first triplet of d_t alone, (4, times, 3, H, W). Raises ValueError as
    lsvd.sampling.predictions.estimates and `differences`.
    """
    walk = walk.rows(slice(0, 1))
    at, x = [walk.index(walk.nearest(time)) for time in times], estimates(backbone, walk)
    rows = [walk.codes[at], x[at]]
    if prompt is not None:
        d = differences(backbone, walk, prompt)[at]
        rows += [x[at] + d, x[at] + svd(d).truncate(1).recompose()]
    return torch.stack([backbone.decode(row[:, 0].to(walk.codes.dtype)) for row in rows]).cpu()


def verdicts(result: Result) -> list[Verdict]:
    """Whether x̂_0 settles, before x_t and coarse before fine; answers; moves in order; and what d_t is.

    Settles: it lies nearer to its end than x_t, and than another picture's x̂_0, by more than MARGIN. Coarse before
    fine: the first triplets settle first; wholly if more so than in x_t. Answers: the mean excess lies above 0 at every
    timestep, in part at some. Ranks: those of the first TRIPLETS triplets over half the way and more; wholly if they
    move further than those of x_t.

    Of d_t, mean over TARGETS: its first triplet holds more of its energy than that of noise, and than that of
    paraphrases; it lies nearer across timesteps than chance, and across seeds; it brings the attribute in further than
    random directions, and than all of d_t at the norm of the first; and it moves all else less than the others.
    """
    claims = []

    def add(claim: str, name: str, parts: Sequence[Part], **options: Any) -> None:
        claims.append(judge("predictions", claim, name, parts, **options))

    for name, model in result.settling.items():
        for null, effect in model.nearer().items():
            add(f"x̂_0 lies nearer to its end than {null}", name, [Part(effect, margin=MARGIN, sign=-1)])
        itself, beyond = model.in_order()
        parts = [Part(itself, margin=order.MARGIN, sign=-1), Part(beyond, sign=-1)]
        add("first triplets of x̂_0 settle first", name, parts, gate=True)
        parts = [Part(model.moved()["x̂_0"], null=1.0), Part(model.further())]
        add("ranks in x̂_0 move by more than a place", name, parts, gate=True)
    for name, replies in result.answers.items():
        for scale, (effect, by_time) in encoding.scale_means(replies).items():
            add(f"x̂_0 encodes: {scale} attributes", name, [Part(value) for value in by_time], effect=effect)
    for name, by_prompt in result.differences.items():
        targets, plain = ([by_prompt[label] for label in labels] for labels in (TARGETS, PARAPHRASES))
        share, null = (torch.stack([d.share.mean(0) for d in group]).mean(0) for group in (targets, plain))
        energy = mean(share, bounds=UNIT)
        add("d_t's first triplet holds more than noise's", name, [Part(energy, null=float(result.noise[0]))])
        add("d_t's first triplet holds more than a paraphrase's", name, [Part(mean(share - null, bounds=SIGNED))])
        for what in ("timesteps", "seeds"):
            far = torch.stack([d.across_time if what == "timesteps" else d.across_seeds for d in targets]).mean(0)
            part = Part(mean(far - result.chance.value, bounds=SIGNED), margin=MARGIN, sign=-1)
            add(f"d_t's first triplet is alike across {what}", name, [part])
    for name, parts in result.parts.items():
        rises, sides = parts.rises(), parts.sides()
        more = {null: mean(rises[taken.FIRST] - rises[null], bounds=SIGNED) for null in (taken.RANDOM, taken.SMALL)}
        add("d_t's first triplet brings the attribute in", name, [Part(more[taken.RANDOM])])
        add("d_t's first triplet brings in more than all of d_t made as small", name, [Part(more[taken.SMALL])])
        less = mean(sides[taken.FIRST] - sides[taken.REST], bounds=SIGNED)
        add("d_t's first triplet moves all else less than the others", name, [Part(less, sign=-1)])
    return claims


def rows(result: Result) -> list[dict[str, str | int]]:
    """The rows of outputs/tables/predictions.csv."""
    table = []

    def add(backbone: str, of: str, measure: str, value: Interval) -> None:
        if np.isnan(value.value):
            return
        row = {"backbone": backbone, "of": of, "measure": measure}
        numbers = {"value": value.value, "low": value.low, "high": value.high}
        table.append(row | {head: f"{x:.4f}" for head, x in numbers.items()} | {"n": value.n})

    for name, model in result.settling.items():
        for of, distances in (("x̂_0", model.estimate), ("x_t", model.code), ("another picture's x̂_0", model.other)):
            add(name, of, "distance from the end", mean(distances.mean(0), bounds=UNIT))
        for of, parts in (("x̂_0", model.parts), ("x_t", model.code_parts)):
            times = model.settled(parts)
            for i in range(TRIPLETS):
                add(name, of, f"settles at, of T: triplet {i + 1}", mean(times[:, i], bounds=UNIT))
        for of, moved in model.moved().items():
            add(name, of, "rank change, half the way and more", moved)
        add(name, "x̂_0 - x_t", "rank change, half the way and more", model.further())
        replies = result.answers.get(name)
        for scale, (effect, by_time) in (encoding.scale_means(replies) if replies else {}).items():
            times = ["all timesteps", *(f"t = {part.t:g}" for part in replies)]
            for of, value in zip(times, (effect, *by_time), strict=True):
                add(name, f"x̂_0 scaled, {of}", f"excess: {scale} attributes", value)
        for label, d in result.differences.get(name, {}).items():
            add(name, f"d_t: {label}", "share of the first triplet", mean(d.share.mean(0), bounds=UNIT))
            add(name, f"d_t: {label}", "distance across timesteps", mean(d.across_time, bounds=UNIT))
            add(name, f"d_t: {label}", "distance across seeds", mean(d.across_seeds, bounds=UNIT))
        if name in result.differences:
            first = float(result.noise[0])
            add(name, "noise", "share of the first triplet", Interval(first, first, first))
            add(name, "chance", "distance", result.chance)
        if name in result.parts:
            for part, (rise, side) in result.parts[name].means().items():
                add(name, f"d_t added: {part}", "rise of the attribute's probability", rise)
                add(name, f"d_t added: {part}", "side effects", side)
            for part in (taken.FIRST, taken.REST):
                add(name, f"d_t added: {part}", "share of the rise of all of it", result.parts[name].share(part))
    return table


def _correlations(settled: Tensor) -> Tensor:
    """Spearman's correlation of rank and time of settling in each picture, (B,); 0 where all settle at once."""
    ranks = np.arange(settled.shape[1])
    rho = [stats.spearmanr(ranks, row).statistic if np.ptp(row) > 0 else 0.0 for row in settled.numpy()]
    return torch.tensor(rho, dtype=torch.float64)
