"""Edits in many ways, measured and kept with the project (lsvd.testbed.experiments asks for them).

Each attribute is brought into pictures of one source prompt by Attribute Vector Integration at many settings, and by
its controls: the target prompt from some timestep on (prompt switching), linear and spherical interpolation of the two
codes, and an exchange of their leading triplets. A reader says of each picture whether the attribute is there, and how
far everything else has moved. Settings are chosen on the seeds CHOOSING; what is reported is of the seeds REPORTED.

What was measured lies in outputs/edits, named by a digest of weights, reader and settings. Each way is kept in
outputs/cache as well: a stopped run goes on.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from tqdm.auto import tqdm

from lsvd import avi, backbones, cache, clip, controls, fit, trajectory
from lsvd.avi import AVIConfig
from lsvd.backbones import Backbone, check_seeds
from lsvd.clip import Clip
from lsvd.files import outputs
from lsvd.measure import columns
from lsvd.testbed import captions
from lsvd.testbed import reader as readers
from lsvd.testbed.effects import Effects, compare, tally
from lsvd.testbed.evaluate import GENERATORS
from lsvd.testbed.reader import Reader, Reading
from lsvd.trajectory import Trajectory, config_text, resume

SOURCE = "a person"
ATTRIBUTES = {
    "female": {"gender": "female"},
    "male": {"gender": "male"},
    "old": {"age": "old"},
    "young": {"age": "young"},
    "drawing": {"style": "drawing"},
    "glasses": {"glasses": "glasses"},
    "smile": {"smile": "smiling"},
    "red hair": {"hair_colour": "red"},
}
CHOOSING, REPORTED, LEARNED = range(100, 116), range(16), range(200, 216)
BRANCHES = (0.76, 0.68, 0.6, 0.52)
"""Fractions of T from which on a branched z has the target prompt."""
FINER = (0.64, 0.6, 0.56, 0.52)
"""The same in the finer search."""
FORMAT = 1  # of what is measured; raise it when the code that measures changes
Method = Literal["target prompt", "prompt switching", "lerp", "slerp", "swap", "AVI", "transfer"]


@dataclass(frozen=True)
class Way:
    """One way of bringing an attribute in.

    tx: the timestep at which it is brought in, as a fraction of T. dtau: where z is taken, in steps from there,
    positive is noisier; same_level: z is then brought to x's noise level. branch: the fraction of T from which on the
    trajectory of z has the target prompt, and before it the source's; 1 for the target prompt from the noise on.
    weight: of z in lerp and slerp, the strength of the edit in AVI. k: triplets exchanged by swap. config: of AVI.
    transfer is the mean change of the code that AVI makes of the seeds LEARNED, added to the code of another seed.
    """

    method: Method
    tx: float = 1.0
    dtau: int = 0
    same_level: bool = False
    branch: float = 1.0
    weight: float = 1.0
    k: int = 0
    config: AVIConfig | None = None

    def __post_init__(self):
        if self.method not in get_args(Method):
            raise ValueError(f"there is no method {self.method!r}: choose from {', '.join(get_args(Method))}")
        if (self.method in ("AVI", "transfer")) != (self.config is not None):
            raise ValueError("AVI and its transfer, and nothing else, take a config: give lsvd.avi.AVIConfig()")

    @property
    def family(self) -> str:
        """The method, told apart by where z comes from."""
        return self.method if self.branch == 1 else f"{self.method}, z branched"

    @property
    def setting(self) -> str:
        """All that was chosen beside the method, in short; of AVI's choices those that differ from AVIConfig()."""
        if self.method == "target prompt":
            return ""
        parts = [f"Tx = {self.tx:g} T"]
        if self.method in ("lerp", "slerp"):
            parts.append(f"weight {self.weight:g}")
        if self.method == "swap":
            parts.append(f"k = {self.k}")
        if self.config is not None:
            plain, lambdas = AVIConfig(), self.config.lambdas
            parts += [f"k = {self.config.k_z}"]
            parts += [f"strength {self.weight:g}"] * (self.weight != 1)
            parts += [self.config.basis] * (self.config.basis != plain.basis)
            parts += ["rest dropped"] * (not self.config.keep_rest)
            parts += [f"{self.config.norm} norms"] * (self.config.norm != plain.norm)
            changed = {name: own for name, own in asdict(lambdas).items() if own != getattr(plain.lambdas, name)}
            parts += [f"{name.replace('_', ' ')} weight {own:g}" for name, own in changed.items()]
        parts += [f"z {abs(self.dtau)} step {'noisier' if self.dtau > 0 else 'cleaner'}"] * (self.dtau != 0)
        parts += ["at x's noise level"] * self.same_level
        return ", ".join([*parts, *[f"z from {self.branch:g} T on"] * (self.branch < 1)])

    def code(self, x: Tensor, z: Tensor) -> Tensor:
        """The code to go on with, for codes x and z, of x's shape. Not of methods that change the prompt."""
        if self.method == "lerp":
            return torch.lerp(x, z, self.weight)
        if self.method == "slerp":
            return controls.slerp(x, z, self.weight)
        if self.method == "swap":
            return controls.swap(x, z, self.k)
        if self.method in ("AVI", "transfer"):
            exact = self.config.norm == "squared"
            solution = avi.solve(x, z, self.config) if exact else fit.fit(x, z, self.config).solution
            return torch.lerp(x, solution.y, self.weight)
        raise ValueError(f"{self.method} makes no code of two: it goes on with the target prompt")


def tries() -> list[Way]:
    """The settings that are tried on the seeds CHOOSING.

    Each method over timesteps and the one number it has, with z from the target prompt and with z from trajectories
    that branch off the source's, AVI and its controls alike; and AVI with one choice changed at a time. Then more
    finely where AVI came nearest to the controls: in the complement with x's rest dropped, and beyond the strength of
    1, where lerp goes as well.
    """
    ways = [Way("target prompt")]
    ways += [Way("prompt switching", tx) for tx in (0.84, 0.76, 0.68, 0.6, 0.56, 0.52, 0.44, 0.36)]
    ways += [Way("lerp", 0.3, weight=weight) for weight in (0.3, 0.5, 0.7, 0.9)]
    ways += [Way("lerp", 0.68, weight=weight) for weight in (0.5, 0.9)]
    ways += [Way("slerp", 0.3, weight=weight) for weight in (0.5, 0.7)]
    ways += [Way("swap", tx, k=k) for tx in (0.68, 0.3) for k in (4, 8, 16)]
    ways += [integration(tx, k) for tx in (0.68, 0.5, 0.3) for k in (4, 8, 16)]
    for branch in BRANCHES:
        ways += [replace(integration(tx, k, dtau=0), branch=branch) for tx in (0.32, 0.2) for k in (4, 8, 12)]
        ways += [Way("lerp", 0.2, branch=branch, weight=weight) for weight in (0.5, 0.6, 0.7, 0.8)]
        ways += [Way("swap", 0.2, branch=branch, k=k) for k in (4, 8)]
    ways += [way for centre in CENTRES.values() for way in singly(centre)]
    nearest = integration(0.2, 8, dtau=0, basis="complement", keep_rest=False)
    for branch in FINER:
        both = [replace(nearest, branch=branch, config=replace(nearest.config, k_z=k)) for k in (8, 16)]
        ways += [replace(way, weight=weight) for way in both for weight in (1.0, 1.25)]
        ways += [Way("lerp", 0.2, branch=branch, weight=weight) for weight in (0.7, 0.8, 1.0, 1.25)]
    ways += [Way("prompt switching", tx) for tx in (0.64, 0.48)]
    return list(dict.fromkeys(ways))


def singly(way: Way) -> list[Way]:
    """A setting of AVI, and with one choice changed at a time; with the weights of the losses too if z is branched."""
    config = way.config
    ways = [way, *(replace(way, dtau=dtau) for dtau in (1, 0, -1))]
    ways += [replace(way, dtau=dtau, same_level=True) for dtau in (1, -1)]
    changes = [{"keep_rest": False}, {"basis": "complement"}, {"basis": "complement", "keep_rest": False}]
    changes += [{"norm": "absolute"}]
    if way.branch < 1:
        weights = {"source": (0.2, 0.5, 1.0), "target_spectrum": (0.0, 0.1, 1.0), "source_spectrum": (0.0, 0.1, 1.0)}
        for name, values in weights.items():
            changes += [{"lambdas": replace(config.lambdas, **{name: value})} for value in values]
    ways += [replace(way, config=replace(config, **change)) for change in changes]
    return list(dict.fromkeys(ways))


def integration(tx: float, k: int, dtau: int = 1, same_level: bool = False, **config: Any) -> Way:
    """AVI with k triplets of z; config: further settings of AVIConfig."""
    return Way("AVI", tx, dtau, same_level, config=AVIConfig(k_z=k, **config))


CENTRES = {way.family: way for way in (integration(0.3, 8), replace(integration(0.2, 8, dtau=0), branch=0.6))}
"""The settings of AVI that single choices depart from."""


def difference(centre: Way, way: Way) -> str:
    """What a way changes in another, in short."""
    if (way.dtau, way.same_level) != (centre.dtau, centre.same_level):
        where = f"{abs(way.dtau)} step {'noisier' if way.dtau > 0 else 'cleaner'}" if way.dtau else "at x's timestep"
        return f"z {where}{', at the noise level of x' if way.same_level else ''}"
    was = set(centre.setting.split(", "))
    return ", ".join(part for part in way.setting.split(", ") if part not in was)


@dataclass(frozen=True, eq=False)
class Found:
    """What one way did to n pictures, each a tensor of shape (n,) or (n, d).

    had, has: whether the attribute was read before and after, bool. before, after: the probability that the reader
    gives it. side: the mean move of all other factors that can be seen, 0 to 1. distance: 1 - cosine of mini-clip's
    vectors of the picture before and after. chroma: by how much the mean of (largest - smallest colour) grows.
    features: of the reader, float16, for Frechet distances, if they were kept.
    """

    had: Tensor
    has: Tensor
    before: Tensor
    after: Tensor
    side: Tensor
    distance: Tensor
    chroma: Tensor
    features: Tensor | None = None

    @property
    def effects(self) -> Effects:
        """Success and side effects, with intervals."""
        return tally(self.had, self.has, self.side)


@dataclass(frozen=True, eq=False)
class Bench:
    """What every edit is made and measured with: a text-to-image model, a reader of its pictures, a CLIP model."""

    backbone: Backbone
    judge: Reader
    clip: Clip

    def __post_init__(self):
        if self.backbone.kind != "text-to-image":
            raise ValueError(f"{self.backbone.name} takes no prompts: edit with a text-to-image backbone")

    @property
    def identity(self) -> dict[str, Any]:
        """What determines a measurement, but for rounding, no matter on what machine."""
        backbone = self.backbone
        return {
            "weights": cache.weights(backbone),
            "scheduler": f"{type(backbone.scheduler).__name__} {config_text(backbone.scheduler.config)}",
            "steps": backbone.entry.steps,
            "guidance": backbone.entry.guidance,
            "dtype": str(backbone.dtype),
            "reader": cache.checksum(self.judge.state_dict()),
            "clip": cache.checksum(self.clip.model.state_dict()),
            "format": FORMAT,
        }


def bench(name: str = "mini-sd", device: str = "cpu") -> Bench:
    """The bench of an embedded backbone. Raises ValueError without prompts, or a reader that knows its pictures."""
    backbone = backbones.load(name, device)
    made = bench_of(backbone)
    if made is None:
        raise ValueError(f"no reader knows the pictures of {backbone.name}: its edits can be drawn, not measured")
    return made


def bench_of(backbone: Backbone) -> Bench | None:
    """The bench of a backbone, None where no reader knows its pictures. Raises ValueError as Bench does."""
    if backbone.name not in GENERATORS:
        return None
    device = backbone.device
    return Bench(backbone, readers.load(GENERATORS[backbone.name][0], device), clip.load(device=device))


def stop_without(bench: Bench | None) -> None:
    """End a notebook here, with a sentence and no error, where there is nothing to measure its edits with."""
    if bench is None:
        sys.stdout.write("No reader knows the pictures of this model: its edits are drawn above, and not measured.\n")
        raise SystemExit


def target_prompt(wanted: Mapping[str, str]) -> str:
    """The prompt that asks for levels of factors, such as {"age": "old"}."""
    return captions.describe(dict(wanted))


def target_walk(backbone: Backbone, source: Trajectory, target: str, way: Way) -> Trajectory:
    """The trajectory that a way takes z from: with the target prompt from x_T on, or from the way's branch on.

    A branch is drawn no further than z. Raises ValueError if z is off the schedule.
    """
    if way.branch == 1:
        return cache.trajectories(backbone, target, source.settings.seeds, steps=source.settings.steps)
    t, until = source.nearest(way.branch), None
    if not way.same_level:
        place = max(_place(source, way), source.index(t) + 1)
        until = source.timesteps[place].item()
    return trajectory.branch(backbone, source, t, target, until=until)


def _place(source: Trajectory, way: Way) -> int:
    """The step whose code z is. Raises ValueError if it is off the schedule."""
    t = source.nearest(way.tx)
    place = source.index(t) - way.dtau  # larger t comes first
    if not 0 <= place < len(source.timesteps):
        raise ValueError(f"dtau = {way.dtau} from timestep {t} leaves the schedule: choose another tx or dtau")
    return place


def pair(backbone: Backbone, source: Trajectory, target: Trajectory, way: Way) -> tuple[Tensor, Tensor]:
    """The codes x and z that a way takes from the two trajectories, (n, C, H, W) each.

    Raises ValueError if z is off the schedule, and as lsvd.avi.renoise.
    """
    t, place = source.nearest(way.tx), _place(source, way)
    z = target.codes[place]
    if way.same_level:
        z = avi.renoise(backbone.scheduler, z, target.final, target.timesteps[place].item(), t)
    return source.at(t), z


def edited(
    backbone: Backbone, source: Trajectory, target: Trajectory, way: Way, change: Tensor | None = None
) -> Tensor:
    """The final codes of the source's pictures, edited: shape (n, C, H, W).

    target: the trajectory that z is taken from, with the target prompts. change: (C, H, W), what `transfer` adds to x
    (see `learned`). Raises ValueError as `pair`, lsvd.avi.solve and lsvd.trajectory.resume.
    """
    if way.method == "target prompt":
        return target.final
    t = source.nearest(way.tx)
    if way.method == "prompt switching":
        return resume(backbone, source, t, prompts=target.settings.prompts).final
    code = way.code(*pair(backbone, source, target, way)) if change is None else source.at(t) + change
    return resume(backbone, source, t, code).final


def learned(bench: Bench, source: str, target: str, way: Way) -> Tensor:
    """The mean change of the code that a way makes of the seeds LEARNED, (C, H, W), as lsvd.attribute has it.

    source, target: prompts.
    """
    backbone = bench.backbone
    x_walk = cache.trajectories(backbone, source, check_seeds(LEARNED))
    x, z = pair(backbone, x_walk, target_walk(backbone, x_walk, target, way), way)
    return (way.code(x, z) - x).mean(0)


def measure(
    bench: Bench,
    wanted: Mapping[str, str],
    ways: Sequence[Way],
    seeds: Sequence[int],
    *,
    source: str = SOURCE,
    features: bool = True,
    folder: str | Path | None = None,
    progress: bool = False,
) -> dict[Way, Found]:
    """What each way does to the pictures of the source prompt, with the attribute `wanted`; read if measured before.

    features: whether the reader's are kept, which are most of what there is to keep.
    folder: where it is kept, outputs("edits") if None. Raises ValueError for bad arguments, and KeyError for a factor
    or level that the scene does not have.
    """
    seeds, ways = check_seeds(seeds), list(ways)
    if len(set(map(repr, ways))) < len(ways) or not ways:
        raise ValueError("no way is given, or one is given twice: give each once")
    about = {**bench.identity, "source": source, "wanted": dict(wanted), "seeds": list(seeds)}
    made_by = {**about, "ways": [asdict(way) for way in ways], **({} if features else {"features": False})}
    tensors = cache.remember(
        bench.backbone.name,
        made_by,
        lambda: _measure(bench, wanted, ways, seeds, source, about, features, progress),
        folder=folder or outputs("edits"),
    )
    return {way: Found(**{name: each[i] for name, each in tensors.items()}) for i, way in enumerate(ways)}


def _measure(
    bench: Bench,
    wanted: Mapping[str, str],
    ways: Sequence[Way],
    seeds: Sequence[int],
    source: str,
    about: Mapping[str, Any],
    features: bool,
    progress: bool,
) -> cache.Tensors:
    """The fields of Found of all ways, stacked; each way is kept in outputs/cache on the way."""
    backbone, prompt = bench.backbone, target_prompt(wanted)
    x_walk = cache.trajectories(backbone, source, seeds)
    before = backbone.decode(x_walk.final)
    reading, parts = bench.judge.read(before), []
    for way in tqdm(ways, desc=prompt, disable=not progress, leave=False):

        def one(way: Way = way) -> cache.Tensors:
            z_walk = target_walk(backbone, x_walk, prompt, way)
            change = learned(bench, source, prompt, way) if way.method == "transfer" else None
            after = backbone.decode(edited(backbone, x_walk, z_walk, way, change))
            return _compare(bench, before, reading, after, wanted)

        parts.append(cache.remember(f"{backbone.name}-edits", {**about, "way": asdict(way)}, one))
    kept = [name for name in parts[0] if features or name != "features"]
    return {name: torch.stack([part[name] for part in parts]) for name in kept}


def _compare(bench: Bench, before: Tensor, reading: Reading, after: Tensor, wanted: Mapping[str, str]) -> cache.Tensors:
    """The fields of Found, of pictures before and after and the reading of those before."""
    scene, now = bench.judge.scene, bench.judge.read(after)
    had, has, side = compare(reading, now, scene, wanted)
    found = {"had": had, "has": has, "side": side}
    for name, each in (("before", reading), ("after", now)):
        chances = [each.probabilities[factor][:, scene.index(factor, level)] for factor, level in wanted.items()]
        found[name] = torch.stack(chances).prod(0)
    vectors = [bench.clip.pictures(pictures) for pictures in (before, after)]
    found["distance"] = 1 - (vectors[0] * vectors[1]).sum(-1)
    spans = [(p.amax(1) - p.amin(1)).mean((1, 2)) for p in (before, after)]
    found["chroma"] = spans[1] - spans[0]
    with torch.no_grad():
        found["features"] = bench.judge.features(after).half()
    return found


def row(bench: Bench, attribute: str, way: Way, found: Found) -> dict[str, str]:
    """A line of sweep.csv. Success is empty where all pictures had the attribute before."""
    config = way.config or AVIConfig()
    weights = asdict(config.lambdas).values()
    told = way.method == "AVI"
    line = {"attribute": attribute, "backbone": bench.backbone.name, "method": way.method, "tx": f"{way.tx:g}"}
    line |= {"dtau": str(way.dtau), "same level": str(way.same_level), "branch": f"{way.branch:g}"}
    line |= {"weight": f"{way.weight:g}", "k": str(config.k_z if told else way.k)}
    line |= {"basis": config.basis if told else "", "rest": str(config.keep_rest) if told else ""}
    line |= {"lambdas": " ".join(f"{weight:g}" for weight in weights) if told else ""}
    line |= {"norm": config.norm if told else ""}
    its = found.effects
    line |= columns("success", its.success) | columns("side_effects", its.side)
    return line | {"perceptual": f"{found.distance.double().mean():.4f}", "n": str(its.lacking)}
