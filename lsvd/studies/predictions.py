"""Predictions: the paper's three questions about the model's predictions instead of the noisy code.

x_t = alpha_t x̂_0 + sigma_t ε̂ is mostly noise at most timesteps, and so are its singular vectors (the study
neighbourhood). This study takes x̂_0, the model's estimate of the picture, and d_t, the move of x̂_0 by another prompt
(lsvd.sampling.predictions), with the same nulls and statistics.

Property 1: does the subspace of x̂_0 settle, before that of x_t, and its first triplets before the others? Property 2:
do attributes answer to singular values of x̂_0 beyond random directions? Property 3: do its triplets change places? And
for d_t: does its first triplet hold much of it, and is that triplet the same across timesteps and seeds?
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from lsvd.backbones.models import Backbone
from lsvd.checks import check_seeds
from lsvd.decomposition import geodesic
from lsvd.decomposition.svd import svd
from lsvd.paths import measurements
from lsvd.sampling.kept import trajectories
from lsvd.sampling.predictions import available, differences, estimates, level
from lsvd.sampling.trajectory import Trajectory
from lsvd.statistics.intervals import SIGNED, UNIT, Interval, mean
from lsvd.statistics.verdicts import Part, Verdict, judge
from lsvd.storage import results
from lsvd.storage.tensors import Spec
from lsvd.studies import encoding, neighbourhood, order, survey
from lsvd.studies.neighbourhood import bases, over_pairs
from lsvd.studies.order import TRIPLETS, Mobility
from lsvd.studies.responses import Responses, responses, scale_bands
from lsvd.studies.survey import Plan
from lsvd.studies.ways import ATTRIBUTES, SOURCE, target_prompt
from lsvd.testbed.reader import Reader

K = 8  # triplets of the subspaces
HALF = 0.5  # the share of a final triplet at which it counts as settled
MARGIN = neighbourhood.MARGIN
SEEDS = range(16)
PLAN = Plan(times=(0.8, 0.5, 0.2), bands=((0,), (1, 2, 3)))
"""The singular values of x̂_0 that are scaled, and the timesteps."""

TARGETS = ("old", "glasses", "female")
PARAPHRASES = ("person", "a person a person")
"""Prompts that ask for no more than SOURCE."""
FORMAT = 1  # of what is measured; raise it when the code that measures changes


@dataclass(frozen=True, eq=False)
class Settling:
    """How x̂_0 and x_t approach the triplets of the final code along a trajectory of B pictures.

    timesteps: (n,). estimate, code, other: distance of the subspace of K left vectors from the final one, of x̂_0, of
    x_t, and of x̂_0 of the next picture from this one's final, (n, B). parts, code_parts: the share of
    each of the final code's TRIPLETS first triplets in x̂_0 and in x_t, 1 for all of it, mean over channels, (n, B,
    TRIPLETS). mobility: of the triplets of x̂_0, at every second timestep.
    """

    timesteps: Tensor
    T: int
    estimate: Tensor
    code: Tensor
    other: Tensor
    parts: Tensor
    code_parts: Tensor
    mobility: Mobility

    def nearer(self) -> dict[str, Interval]:
        """The mean distance of x̂_0 from its end over all timesteps minus that of a null, paired by picture."""
        nulls = {"x_t": self.code, "another picture's": self.other}
        return {name: mean((self.estimate - null).mean(0), bounds=SIGNED) for name, null in nulls.items()}

    def settled(self, parts: Tensor) -> Tensor:
        """The fraction of T from which on a triplet has HALF of its final size and more: (B, TRIPLETS)."""
        n, count = len(parts), (parts >= HALF).long().flip(0).cumprod(0).sum(0)  # the number of last timesteps
        first = self.timesteps[(n - count).clamp_max(n - 1)]
        return torch.where(count > 0, first, 0) / self.T

    def in_order(self) -> tuple[Interval, Interval]:
        """Spearman's correlation of a triplet's rank and its time of settling, over pictures: of x̂_0, and minus x_t's.

        Below 0 the first triplets settle first.
        """
        estimate, code = (_correlations(self.settled(parts)) for parts in (self.parts, self.code_parts))
        return mean(estimate, bounds=SIGNED), mean(estimate - code, bounds=(-2.0, 2.0))


@dataclass(frozen=True, eq=False)
class Difference:
    """d_t of a prompt along trajectories of B pictures: shares of energy and distances of the first triplet.

    share: of the energy of d_t in its first triplet, mean over channels, (n, B). across_time: the mean distance of its
    left vector between timesteps, (B,). across_seeds: from that of the next picture, (B,).
    """

    share: Tensor
    across_time: Tensor
    across_seeds: Tensor


@dataclass(frozen=True, eq=False)
class Result:
    """The study of some backbones, by name: answers of those with a reader, differences, by prompt, of those with one.

    noise: the share of energy in the first triplet of a noise matrix of the codes' shape. chance: the distance of two
    random vectors.
    """

    settling: dict[str, Settling]
    answers: dict[str, list[Responses]]
    differences: dict[str, dict[str, Difference]]
    noise: Interval
    chance: Interval


def settling(backbone: Backbone, walk: Trajectory) -> Settling:
    """How x̂_0 and x_t settle along a trajectory. Raises ValueError as lsvd.sampling.predictions.estimates."""
    estimate, codes, final = estimates(backbone, walk), walk.codes[:-1].double(), walk.final.double()
    alphas = torch.tensor([level(backbone, walk, t) for t in walk.timesteps], dtype=torch.float64)
    scaled = codes / alphas.view(-1, 1, 1, 1, 1).to(codes)
    end = bases(final, K)

    def distance(x: Tensor) -> Tensor:
        return neighbourhood.fraction(geodesic.distance(bases(x, K), end).mean(-1), end)

    alternate, middle = slice(None, None, 2), walk.index(walk.nearest(0.4)) // 2
    return Settling(
        walk.timesteps,
        walk.T,
        distance(estimate),
        distance(codes),
        distance(estimate.roll(-1, dims=1)),
        _present(estimate, final),
        _present(scaled, final),
        order.mobility_of(estimate[alternate], walk.timesteps[alternate], middle),
    )


def _present(x: Tensor, final: Tensor) -> Tensor:
    """The share of the final code's first triplets in codes (n, B, C, H, W): (n, B, TRIPLETS), mean over channels."""
    parts = svd(final).truncate(TRIPLETS)
    products = torch.einsum("bchk,nbchw,bckw->nbck", parts.U, x, parts.Vh)
    return (products / parts.S).mean(2).cpu()


def difference(backbone: Backbone, walk: Trajectory, prompt: str) -> Difference:
    """d_t of a prompt along a trajectory. Raises ValueError as lsvd.sampling.predictions.differences."""
    d = differences(backbone, walk, prompt)
    S = svd(d).S
    share = (S[..., 0].square() / S.square().sum(-1)).mean(-1).cpu()
    return Difference(share, over_pairs(neighbourhood.distances(d, 1)), neighbourhood.between_pictures(d, 1).mean(0))


def answers(
    backbone: Backbone,
    reader: Reader,
    seeds: Sequence[int] = SEEDS,
    *,
    folder: str | Path | None = None,
    progress: bool = False,
) -> list[Responses]:
    """Responses when singular values of x̂_0 are scaled by PLAN, with ε̂ unchanged; read if measured before.

    folder: where they are kept, measurements("predictions") if None. Raises ValueError and WriteError as
    lsvd.studies.survey.survey.
    """
    seeds = check_seeds(seeds)

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
    tensors = results.remember(backbone.name, made_by, measure, folder=home, specs=specs, must_keep=True)
    return [
        Responses.of({name: tensors[name][i] for name in ("moved", "null")}, reader.scene, t, PLAN.bands, PLAN.factor)
        for i, t in enumerate(tensors["timesteps"])
    ]


def measure(
    models: Mapping[str, Backbone],
    readers: Mapping[str, Reader],
    prompt: str = SOURCE,
    seeds: int | Sequence[int] = SEEDS,
    *,
    progress: bool = False,
) -> Result:
    """The study of the models, from trajectories and responses that are kept on disk.

    Models whose samplers clip are left out. Raises ValueError as `settling`, `answers` and `difference`, and if none is
    left.
    """
    models = {name: model for name, model in models.items() if available(model)}
    if not models:
        raise ValueError("none of these models has estimates: take one with DDIM and without clipping")
    seeds, settlings, differences_of = check_seeds(seeds), {}, {}
    shape = next(iter(models.values())).latent_shape[-2:]
    for name, model in models.items():
        has_prompts = model.kind == "text-to-image"
        walk = trajectories(model, prompt if has_prompts else None, seeds, batch=len(seeds), progress=progress)
        settlings[name] = settling(model, walk)
        if has_prompts:
            shape = walk.codes.shape[-2:]
            texts = {target: target_prompt(ATTRIBUTES[target]) for target in TARGETS} | {p: p for p in PARAPHRASES}
            differences_of[name] = {label: difference(model, walk, text) for label, text in texts.items()}
    responses_of = {
        name: answers(models[name], reader, progress=progress) for name, reader in readers.items() if name in models
    }
    S = svd(torch.randn(256, 1, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).S
    noise = mean(S[..., 0].square() / S.square().sum(-1), bounds=UNIT)
    return Result(settlings, responses_of, differences_of, noise, neighbourhood.by_chance(shape, 1))


def verdicts(result: Result) -> list[Verdict]:
    """Whether x̂_0 settles before x_t, coarse before fine, whether it answers and moves in order, and what d_t is.

    Settles: it lies nearer to its end than x_t, and than another picture's x̂_0, by more than MARGIN. Coarse before
    fine: the first triplets settle first; wholly if more so than in x_t. Answers: the mean excess lies above 0 at every
    timestep, or in part at some. Of d_t, mean over TARGETS: its first triplet holds more of its energy than that of
    paraphrases; it lies nearer across timesteps than chance, and across seeds.
    """
    claims = []

    def add(claim: str, name: str, parts: Sequence[Part], **options: Any) -> None:
        claims.append(judge("predictions", claim, name, parts, **options))

    for name, model in result.settling.items():
        for null, effect in model.nearer().items():
            add(f"x̂_0 lies nearer to its end than {null}", name, [Part(effect, margin=MARGIN, sign=-1)])
        correlation, excess = model.in_order()
        parts = [Part(correlation, margin=order.MARGIN, sign=-1), Part(excess, sign=-1)]
        add("first triplets of x̂_0 settle first", name, parts, gate=True)
        add("ranks in x̂_0 move by more than a place", name, [Part(model.mobility.far()[0], null=1.0)])
    for name, model_responses in result.answers.items():
        for scale, (effect, by_time) in encoding.scale_means(model_responses).items():
            add(f"x̂_0 encodes: {scale} attributes", name, [Part(value) for value in by_time], effect=effect)
    for name, by_prompt in result.differences.items():
        targets, plain = ([by_prompt[label] for label in labels] for labels in (TARGETS, PARAPHRASES))
        share, null = (torch.stack([d.share.mean(0) for d in group]).mean(0) for group in (targets, plain))
        time, seeds = (
            torch.stack([getattr(d, what) for d in targets]).mean(0) for what in ("across_time", "across_seeds")
        )
        add("d_t's first triplet holds more than a paraphrase's", name, [Part(mean(share - null, bounds=SIGNED))])
        for what, distances in (("timesteps", time), ("seeds", seeds)):
            part = Part(mean(distances - result.chance.value, bounds=SIGNED), margin=MARGIN, sign=-1)
            add(f"d_t's first triplet is alike across {what}", name, [part])
    return claims


def rows(result: Result) -> list[dict[str, str | int]]:
    """The rows of outputs/tables/predictions.csv."""
    table = []

    def add(backbone: str, of: str, measure: str, value: Interval) -> None:
        row = {"backbone": backbone, "of": of, "measure": measure}
        numbers = {"value": value.value, "low": value.low, "high": value.high}
        table.append(row | {head: f"{x:.4f}" for head, x in numbers.items()} | {"n": value.n})

    for name, model in result.settling.items():
        for of, distances in (("x̂_0", model.estimate), ("x_t", model.code), ("another picture's x̂_0", model.other)):
            add(name, of, "distance from the end", mean(distances.mean(0), bounds=UNIT))
        times = model.settled(model.parts)
        for i in range(TRIPLETS):
            add(name, "x̂_0", f"settles at, of T: triplet {i + 1}", mean(times[:, i], bounds=UNIT))
        add(name, "x̂_0", "rank change, half the way and more", model.mobility.far()[0])
    for name, by_prompt in result.differences.items():
        for label, d in by_prompt.items():
            add(name, f"d_t: {label}", "share of the first triplet", mean(d.share.mean(0), bounds=UNIT))
            add(name, f"d_t: {label}", "distance across timesteps", mean(d.across_time, bounds=UNIT))
            add(name, f"d_t: {label}", "distance across seeds", mean(d.across_seeds, bounds=UNIT))
        add(name, "noise", "share of the first triplet", result.noise)
        add(name, "chance", "distance", result.chance)
    for name, model_responses in result.answers.items():
        for scale, (effect, by_time) in encoding.scale_means(model_responses).items():
            for of, value in [
                ("all timesteps", effect),
                *((f"t = {r.t:g}", v) for r, v in zip(model_responses, by_time, strict=True)),
            ]:
                add(name, f"x̂_0 scaled, {of}", f"excess: {scale} attributes", value)
    return table


def _correlations(times: Tensor) -> Tensor:
    """Spearman's correlation of rank and time of settling in each picture, (B,); 0 where all settle at once."""
    ranks = np.arange(times.shape[1])
    rho = [stats.spearmanr(ranks, row).statistic if np.ptp(row) > 0 else 0.0 for row in times.numpy()]
    return torch.tensor(rho, dtype=torch.float64)
