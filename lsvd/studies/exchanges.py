"""How often verdicts hold where nothing is true: outputs/tables/exchanges.csv.

The project's own measurements, with labels exchanged: in each picture, at random, what was measured takes the place of
what it is held against. Whatever a claim says is then not so, but skewness, ties and the ways in which pictures and
attributes hang together are those of the real numbers. Each draw goes through the study's own `verdicts`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lsvd.backbones.models import Backbone
from lsvd.paths import outputs
from lsvd.progress import bar
from lsvd.sampling.kept import trajectories
from lsvd.statistics.intervals import SIGNED, mean, share
from lsvd.statistics.verdicts import HOLDS, IN_PART, STUDIES, Verdict
from lsvd.storage.files import update_csv
from lsvd.studies import ablation, editing, encoding, neighbourhood, order, strength, survey
from lsvd.studies.edits import Measured, Outcome
from lsvd.studies.responses import Responses
from lsvd.studies.rig import Rig
from lsvd.studies.ways import SOURCE, Way
from lsvd.testbed.evaluate import reference_features

DRAWS = 1000
REFERENCES = 400  # renderings that Frechet distances are from
MOST = 0.03
"""False verdicts that are allowed."""


@dataclass(frozen=True)
class Rule:
    """A rule of a study on one backbone: exchanged(rng) gives the verdicts of one draw, none of which is true.

    draws: how many of them are made.
    """

    study: str
    rule: str
    backbone: str
    exchanged: Callable[[np.random.Generator], Sequence[Verdict]]
    draws: int = DRAWS

    def false(self, draws: int | None = None, seed: int = 0) -> tuple[int, int]:
        """How many verdicts hold, wholly or in part, and of how many. draws: those of the rule if None."""
        rng = np.random.default_rng([seed, *f"{self.study} {self.rule} {self.backbone}".encode()])
        words = [claim.verdict for _ in range(draws or self.draws) for claim in self.exchanged(rng)]
        return sum(word in (HOLDS, IN_PART) for word in words), len(words)


def of_responses(name: str, responses: Sequence[Responses]) -> Iterator[Rule]:
    """The rules on one backbone's responses, where moves are exchanged with those in random directions."""
    plan = survey.Plan()

    def swapped(rng: np.random.Generator) -> list[Responses]:
        mask = coins(rng, responses[0].moved.shape[1])[:, None]
        return [
            replace(part, moved=part.null.where(mask, part.moved), null=part.moved.where(mask, part.null))
            for part in responses
        ]

    def encoded(rng: np.random.Generator) -> list[Verdict]:
        means = {name: encoding.scale_means(swapped(rng))}
        return encoding.verdicts(encoding.Result(plan, {}, {}, means, {name: {}}))

    def trending(rng: np.random.Generator) -> list[Verdict]:
        trends = {name: encoding.trend(swapped(rng))}
        return encoding.verdicts(encoding.Result(plan, {}, {}, {name: {}}, trends))

    def moving(rng: np.random.Generator) -> list[Verdict]:
        return order.scale_verdicts(name, order.order(swapped(rng)))

    yield Rule("encoding", "encoded at timesteps, by scale", name, encoded, 1334)
    yield Rule("encoding", "coarse at large t, fine at small t", name, trending)
    yield Rule("order", "sink or rise in the order", name, moving, 500)


def of_distances(models: Mapping[str, neighbourhood.Neighbourhood]) -> Iterator[Rule]:
    """The rules on distances: the model is exchanged with a null, and the latent model with another."""
    nulls = ("shared", "mixed")
    for name, model in models.items():

        def nearer(rng: np.random.Generator, name: str = name, model: neighbourhood.Neighbourhood = model):
            mask = coins(rng, model.D.shape[-1])
            changed = {null: model.D.where(mask, getattr(model, null)) for null in nulls}
            claims = []
            for null in nulls:
                swapped = replace(model, D=getattr(model, null).where(mask, model.D), **{null: changed[null]})
                claims.append(neighbourhood.nearer_than(NULL_NAMES[null], name, swapped))
            return claims

        yield Rule("neighbourhood", "nearer than its noise added to a picture", name, nearer, 500)
    latent = models.get(neighbourhood.LATENT)
    for name in sorted(models.keys() - {neighbourhood.LATENT}) if latent else ():

        def varying(rng: np.random.Generator, name: str = name) -> list[Verdict]:
            signs = torch.from_numpy(rng.choice([-1.0, 1.0], latent.D.shape[-1]))
            parts = neighbourhood.differences(latent, models[name])
            known = [mean(signs * part, bounds=SIGNED) for part in parts]
            return [neighbourhood.varies_less(name, known)]

        yield Rule("neighbourhood", f"varies less than {name}", neighbourhood.LATENT, varying)


NULL_NAMES = {"shared": "its noise added to x_0", "mixed": "its noise, another's x_0"}


def of_gains(result: editing.Result) -> Rule:
    """AVI's best setting, exchanged with one of its rivals; the claims are those on this rival's family and on all."""

    def exchanged(rng: np.random.Generator) -> list[Verdict]:
        rival = result.rivals[rng.integers(len(result.rivals))]
        reported = swap(result.reported, {result.best: rival}, rng)
        claims = {claim.claim: claim for claim in editing.verdicts(replace(result, reported=reported))}
        return [claims[editing.CLAIM.format(family)] for family in (rival.family, editing.ALL)]

    return Rule("editing", "beats controls at equal side effects", result.backbone, exchanged, 500)


def of_strengths(result: strength.Result) -> Rule:
    """Strengths in another order, one for each picture."""
    ways = result.ways["AVI"]

    def exchanged(rng: np.random.Generator) -> list[Verdict]:
        n = len(next(iter(result.measured.values()))[ways[0]].had)
        places = torch.from_numpy(rng.permuted(np.tile(np.arange(len(ways))[:, None], n), axis=0))
        measured = {}
        for name, outcomes in result.measured.items():
            after = torch.stack([outcomes[way].after for way in ways]).gather(0, places)
            measured[name] = outcomes | {
                way: replace(outcomes[way], after=row) for way, row in zip(ways, after, strict=True)
            }
        return strength.verdicts(replace(result, measured=measured))

    return Rule("strength", "strength turns the attribute up", result.backbone, exchanged, 4000)


def of_losses(backbone: str, measured: Measured, ways: Mapping[tuple[str, str], Way], reference: NDArray) -> Rule:
    """The full loss exchanged with one without a loss, in all bases alike; the claim is the one on this loss."""
    bases = list(dict.fromkeys(basis for basis, _ in ways))

    def exchanged(rng: np.random.Generator) -> list[Verdict]:
        number = rng.integers(len(ablation.LOSSES))
        loss = ablation.LOSSES[number]
        pairs = {ways[basis, ablation.FULL]: ways[basis, loss] for basis in bases}
        some = {key: way for key, way in ways.items() if key[1] in (ablation.FULL, loss)}
        first = ablation.from_outcomes(backbone, swap(measured, pairs, rng), some, reference)
        return [ablation.verdict(first, loss)]

    return Rule("ablation", "the failure shows without a loss", backbone, exchanged)


def swap(measured: Measured, pairs: Mapping[Way, Way], rng: np.random.Generator) -> Measured:
    """Measurements with the outcomes of two ways exchanged in a random half of the seeds, the same for all."""
    n = len(next(iter(next(iter(measured.values())).values())).had)
    mask, changed = coins(rng, n), {}
    for name, outcomes in measured.items():
        changed[name] = dict(outcomes)
        for one, other in pairs.items():
            a, b = outcomes[one], outcomes[other]
            changed[name] |= {one: _mixed(a, b, mask), other: _mixed(b, a, mask)}
    return changed


def coins(rng: np.random.Generator, n: int) -> Tensor:
    """Heads or tails for each of n pictures, bool."""
    return torch.from_numpy(rng.random(n) < 0.5)


def _mixed(a: Outcome, b: Outcome, mask: Tensor) -> Outcome:
    """Outcome a, and b where mask says so."""
    parts = {}
    for field in fields(Outcome):
        first, other = getattr(a, field.name), getattr(b, field.name)
        if first is None or other is None:
            parts[field.name] = None
        else:
            parts[field.name] = other.where(mask if first.ndim == 1 else mask[:, None], first)
    return Outcome(**parts)


def rules(rig: Rig, progress: bool = False) -> Iterator[Rule]:
    """All rules, on the measurements that are kept with the project; trajectories are drawn if they are not there."""
    models, readers = survey.subjects("all", device=str(rig.backbone.device))
    for name, reader in readers.items():
        yield from of_responses(name, survey.survey(models[name], reader, survey.Plan(), range(survey.SAMPLES)))
    yield of_gains(editing.measure(rig, progress=progress))
    yield of_strengths(strength.measure(rig, progress=progress))
    ways = ablation.without(ablation.setting())
    reference = reference_features(rig.judge, REFERENCES, rig.backbone.entry.size, {"style": "photo"})
    yield of_losses(rig.backbone.name, ablation.measured(rig, ways, progress=progress), ways, reference)
    yield from of_distances({name: near(model) for name, model in models.items()})


def near(model: Backbone, k: int = 8) -> neighbourhood.Neighbourhood:
    """A model's distances and those of the nulls that are exchanged with them, as the study has them."""
    walk = trajectories(model, SOURCE if model.kind == "text-to-image" else None, range(16), batch=16)
    codes = (walk.codes, *(neighbourhood.add_noise(model, walk, other=other) for other in (False, True)))
    D, shared, mixed = (neighbourhood.distances(x, k) for x in codes)
    chance = neighbourhood.by_chance(walk.codes.shape[-2:], k)
    others = neighbourhood.between_pictures(walk.codes, k)
    return neighbourhood.Neighbourhood(D, D, D, shared, mixed, others, chance, walk.timesteps, {})


def rows(every: Iterable[Rule], *, progress: bool = False) -> Iterator[dict[str, str | int]]:
    """The rows of outputs/tables/exchanges.csv: how many verdicts of each rule hold by mistake."""
    for rule in bar(every, desc="exchanges", progress=progress):
        false, of = rule.false()
        rate = share(false, of)
        row = {"study": rule.study, "rule": rule.rule, "backbone": rule.backbone, "verdicts": of}
        yield row | {"false": f"{rate.value:.4f}", "false_low": f"{rate.low:.4f}", "false_high": f"{rate.high:.4f}"}


def run(rig: Rig, progress: bool = True) -> None:
    """Exchange all of it, and write the table; rules that were tried stay in it if the run is stopped."""
    path = outputs("tables", "exchanges.csv")
    for row in rows(rules(rig, progress), progress=progress):
        update_csv(path, [row], ["study", "rule", "backbone"], STUDIES)
