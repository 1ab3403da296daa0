"""What each kind of model learns: its data, its loss at a step, and the folder it ends in.

A job has a `model`; prepare() gets its data; loss(step, generator) draws all that is random from the generator;
export() writes the model into a folder of its run, in float16, whole or not at all; publish() copies it from there to
the weights that ship.
"""

import copy
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lsvd.paths import WEIGHTS
from lsvd.storage.files import replace_folder
from lsvd.testbed import renderings
from lsvd.testbed.scenes.scene import Scene
from lsvd.testbed.training.precision import HalfCopy, autocast, has_bfloat16
from lsvd.testbed.training.processes import Processes
from lsvd.testbed.training.state import Settings, identity

KINDS = ("cuda",)  # of devices on which a bfloat16 copy learns faster than the model does under autocast
TRAINING_SEED = 1  # of the renderings that models learn from; every other seed is held out
VALIDATION_SEED = 5  # of the renderings by which one of a run's averages is chosen; not those of the evaluation
VALIDATION = 512  # how many these are


@dataclass(frozen=True)
class Recipe:
    """How one model is trained. `model` goes to its constructor; `fixed` pins factors of the scene.

    `start` names the model whose weights training begins with: much of denoising is the same for all scenes. `only` is
    a regular expression: parameters in whose names it is found are trained, the others stay; all are if it is empty.
    `averages` are the widths of the moving averages (see state.Settings), of which the best is kept. `bfloat16` allows
    for taking the loss in bfloat16, on devices that have it. `clip` is where a pixel model's estimates are cut in
    sampling (see models.pixel_schedule); training does not depend on it. `renderings` is the seed of the pictures that
    are learned from, `seed` that of the untrained weights and of all draws.
    """

    job: Callable[..., "Job"]
    scene: str
    pictures: int
    size: int
    steps: int
    batch: int
    lr: float
    averages: tuple[float, ...] = (0.03, 0.08, 0.16)
    fixed: Mapping[str, str] = field(default_factory=dict)
    model: Mapping = field(default_factory=dict)
    start: str | None = None
    only: str = ""
    bfloat16: bool = True
    renderings: int = TRAINING_SEED
    seed: int = 0
    clip: float | None = None


class Job:
    """A recipe at work on one scene: what it writes goes into `home`, a folder of its own in `runs`.

    Weights that it needs of other models are those that were trained last in `runs`, or else those in `weights`. The
    untrained model depends on the recipe's seed alone, and torch's global generator stays as it was.
    """

    part_of: str | None = None  # the model in which this one ships, if not by itself
    learns_in_half = False  # whether a bfloat16 copy may learn in the model's place
    learns_from_pictures = True  # rather than from what is computed of them beforehand

    def __init__(
        self,
        name: str,
        recipe: Recipe,
        scene: Scene,
        runs: Path,
        weights: Path = WEIGHTS,
        device: str = "cpu",
        processes: Processes | None = None,
    ):
        self.name, self.recipe, self.scene = name, recipe, scene
        self.runs, self.weights = runs, weights
        self.processes = processes or Processes(device)
        self.device = self.processes.device
        self.batch = self.processes.share(recipe.batch)  # of this process
        self.validation: Job | None = None
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(recipe.seed)
            self.model = self.build().to(self.device)

    def settings(self, **changes) -> Settings:
        """The loop's settings: the recipe's, and what may change from one session to the next, such as minutes."""
        r = self.recipe
        return Settings(r.steps, r.lr, seed=r.seed, averages=tuple(r.averages), **changes)

    def describe(self) -> dict[str, Any]:
        """What determines the run beside the loop's settings, in plain types."""
        elsewhere = ("job", "steps", "lr", "seed", "averages", "clip")
        about = {k: v for k, v in asdict(self.recipe).items() if k not in elsewhere}
        return {**about, "name": self.name}

    @property
    def key(self) -> str:
        """Eight hex digits of what determines the run, but for its length."""
        about = json.dumps(identity(self.settings(), self.describe()), sort_keys=True)
        return hashlib.sha256(about.encode()).hexdigest()[:8]

    @cached_property
    def home(self) -> Path:
        """The run's folder, with its checkpoint, its losses and what export writes."""
        return self.runs / f"{self.name}-{self.key}"

    def build(self) -> nn.Module:
        """The untrained model."""
        raise NotImplementedError

    def begin_with(self, weights: Mapping[str, Tensor]) -> None:
        """Give the untrained model weights to begin with. Raises RuntimeError if they are another architecture's."""
        self.model.load_state_dict(weights)

    def freeze(self) -> None:
        """Keep the parameters that the recipe does not name as they are. Raises ValueError if it names none."""
        try:
            chosen = [bool(re.search(self.recipe.only, name)) for name, _ in self.model.named_parameters()]
        except re.error as error:
            raise ValueError(f"--only {self.recipe.only!r} is not a regular expression: {error}") from error
        if not any(chosen):
            raise ValueError(f"no parameter's name has {self.recipe.only!r} in it: give --only part of one")
        for parameter, trained in zip(self.model.parameters(), chosen, strict=True):
            parameter.requires_grad_(parameter.requires_grad and trained)

    @cached_property
    def half(self) -> HalfCopy | None:
        """The copy that learns, if recipe, kind of job and device allow it. It is made after `freeze`."""
        wanted = self.recipe.bfloat16 and self.learns_in_half and torch.device(self.device).type in KINDS
        return HalfCopy(self.model) if wanted and has_bfloat16(self.device) else None

    @property
    def halved(self) -> bool:
        """Whether the copy computes the loss: in a step of training, not when the model is scored."""
        return torch.is_grad_enabled() and self.half is not None

    @property
    def learner(self) -> nn.Module:
        """What computes the loss: the model, or its copy with the model's weights as they are now."""
        return self.half.fetch() if self.halved else self.model

    def forward(self, *inputs):
        """What the loss is taken of; `amp` applies to it."""
        learner = self.learner
        kind = next(learner.parameters()).dtype
        return learner(*(x.to(kind) if x.is_floating_point() else x for x in inputs), return_dict=False)[0]

    def after_backward(self) -> None:
        """What is to be done before the optimiser looks at the model's gradients."""
        if self.half is not None:
            self.half.give()

    def amp(self) -> torch.autocast:
        """Bfloat16 where the recipe allows it and the device has it."""
        return autocast(self.device, self.recipe.bfloat16 and not self.halved)

    def prepare(self, seed: int | None = None, n: int | None = None) -> None:
        """Render n pictures of a seed, those of the recipe unless given, on the device, unless they are on disk."""
        r, home, seed = self.recipe, self.runs / "data", self.recipe.renderings if seed is None else seed
        data = renderings.pictures(
            self.scene, n or r.pictures, r.size, seed, home, r.fixed, device=self.device, progress=True
        )
        self.data = data.to(self.device) if self.learns_from_pictures else data

    def draw(self, g: torch.Generator, n: int | None = None) -> Tensor:
        """Row numbers of a batch, shape (n,)."""
        return torch.randint(len(self.data), (n or self.batch,), generator=g)

    def held_out(self) -> "Job":
        """The same job with the same model on renderings that it does not learn from."""
        other = copy.copy(self)
        other.prepare(VALIDATION_SEED, min(VALIDATION, self.recipe.pictures))
        return other

    @torch.no_grad()
    def score(self, batches: int = 16) -> float:
        """Mean loss of the model as it is now on held-out renderings, with the same draws each time."""
        if self.validation is None:
            self.validation = self.held_out()
        training, last = self.model.training, self.recipe.steps - 1
        self.model.eval()
        losses = [self.validation.loss(last, renderings.generator(VALIDATION_SEED, i)).item() for i in range(batches)]
        self.model.train(training)
        return sum(losses) / len(losses)

    @property
    def pictures(self) -> int:
        """How many pictures a step learns from, in all processes."""
        return self.recipe.batch

    def loss(self, step: int, g: torch.Generator) -> Tensor:
        """The loss at a step, a scalar."""
        raise NotImplementedError

    @property
    def folder(self) -> Path:
        """Where export writes."""
        return self.home / "weights"

    @property
    def ships(self) -> Path:
        """Where this model lies among the weights that ship."""
        return self.weights / self.name

    def check_ships(self) -> None:
        """Raise ValueError if this model ships within another one."""
        if self.part_of is not None:
            raise ValueError(f"{self.name} ships as a part of {self.part_of}: train and publish {self.part_of}")

    def publish(self) -> None:
        """Copy what was exported to the weights that ship. Raises ValueError if it ships within another model."""
        self.check_ships()
        if not self.folder.exists():
            raise FileNotFoundError(f"{self.folder} does not exist: train to the end first, or give --export too")
        with replace_folder(self.ships) as new:
            shutil.copytree(self.folder, new, dirs_exist_ok=True)

    def export(self) -> None:
        """Write the model as it is now."""
        raise NotImplementedError

    def stored(self, folder: Path) -> nn.Module:
        """The model in a folder that export or publish wrote, in float32. Raises FileNotFoundError or ValueError."""
        raise NotImplementedError

    def shipped(self) -> nn.Module:
        """The model in `weights`, in float32."""
        return self.stored(self.ships)

    def latest(self) -> nn.Module:
        """The model that was trained last in `runs`, else that in `weights`, in float32."""
        return self.stored(newest(self.runs, self.name, self.ships))


def normal(shape: Sequence[int], g: torch.Generator, device: str | torch.device) -> Tensor:
    """Standard normal numbers on a device, float32. They depend on the CPU's generator `g`, and on the kind of device.

    A GPU draws them itself: the CPU would take longer for a batch of them than the GPU takes to learn from it.
    """
    local = None
    if torch.device(device).type != "cpu":
        with suppress(RuntimeError):  # a device without generators
            local = torch.Generator(device)
    if local is None:
        return torch.randn(*shape, generator=g).to(device)
    local.manual_seed(int(torch.randint(2**62, (), generator=g)))
    return torch.randn(*shape, generator=local, device=device)


def newest(runs: Path, name: str, shipped: Path) -> Path:
    """The folder of a model's weights that was written last by a run in `runs`, or else that of those that ship."""
    exported = list(runs.glob(f"{name}-{'[0-9a-f]' * 8}/weights"))
    return max(exported, key=lambda folder: folder.stat().st_mtime_ns, default=shipped)


def remedy(name: str) -> str:
    """What to do about weights that are missing or damaged."""
    return f"train it first, python -m lsvd train {name}"


def half(model: nn.Module) -> nn.Module:
    """A float16 copy on the CPU."""
    return copy.deepcopy(model).to("cpu", torch.float16)


def save_transformer(model: nn.Module, folder: Path) -> None:
    """Save in float16, but with float32 in the configuration: the type that the others load in unless asked."""
    half(model).save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"float16"', '"float32"'))


def forget_origin(folder: Path) -> None:
    """Take out of a saved model's configuration the folder that it was read from, which diffusers notes there."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
