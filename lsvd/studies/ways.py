"""Ways of bringing an attribute into pictures: AVI at many settings, and its controls."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lsvd import avi
from lsvd.avi import baselines, network
from lsvd.avi.exact import AVIConfig
from lsvd.avi.placement import Placement
from lsvd.testbed.scenes import captions

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
FEW = REPORTED[:10]
"""Seeds: settings are chosen on CHOOSING, results are of REPORTED or FEW of them, a transfer learns on LEARNED."""

BRANCHES = (0.76, 0.68, 0.6, 0.52)
"""Fractions of T from which on a branched z has the target prompt."""

FINER = (0.64, 0.6, 0.56, 0.52)
"""The same in the finer search."""

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
            raise ValueError("AVI and its transfer, and nothing else, take a config: give lsvd.avi.exact.AVIConfig()")

    @property
    def placement(self) -> Placement:
        """Where it takes x and z."""
        return Placement(self.tx, self.dtau, self.branch, self.same_level)

    def key(self) -> dict[str, Any]:
        """What measurements of it are named by on disk; another key loses them."""
        return asdict(self)

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
            changed = {
                name: weight for name, weight in asdict(lambdas).items() if weight != getattr(plain.lambdas, name)
            }
            parts += [f"{name.replace('_', ' ')} weight {weight:g}" for name, weight in changed.items()]
        parts += [f"z {abs(self.dtau)} step {'noisier' if self.dtau > 0 else 'cleaner'}"] * (self.dtau != 0)
        parts += ["at x's noise level"] * self.same_level
        return ", ".join([*parts, *[f"z from {self.branch:g} T on"] * (self.branch < 1)])

    def code(self, x: Tensor, z: Tensor) -> Tensor:
        """The code to go on with, for codes x and z, of x's shape. Not of methods that change the prompt."""
        if self.method == "lerp":
            return torch.lerp(x, z, self.weight)
        if self.method == "slerp":
            return baselines.slerp(x, z, self.weight)
        if self.method == "swap":
            return baselines.swap(x, z, self.k)
        if self.method in ("AVI", "transfer"):
            exact = self.config.norm == "squared"
            solution = avi.solve(x, z, self.config) if exact else network.fit(x, z, self.config).solution
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


def target_prompt(wanted: Mapping[str, str]) -> str:
    """The prompt that asks for levels of factors, such as {"age": "old"}."""
    return captions.describe(dict(wanted))
