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
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from lsvd.backbones.checkpoints import read_model
from lsvd.paths import WEIGHTS
from lsvd.storage.files import replace_folder
from lsvd.testbed import reader, renderings
from lsvd.testbed.scenes import captions
from lsvd.testbed.scenes.scene import Scene, Twins, Values, twins
from lsvd.testbed.training import loop, models
from lsvd.testbed.training.precision import autocast
from lsvd.testbed.training.processes import Processes

TRAINING_SEED = 1  # of the renderings that models learn from; every other seed is held out
VALIDATION_SEED = 5  # of the renderings by which one of a run's averages is chosen; not those of the evaluation
VALIDATION = 512  # how many these are


@dataclass(frozen=True)
class Recipe:
    """How one model is trained. `model` goes to its constructor; `fixed` pins factors of the scene.

    `start` names the model whose weights training begins with: much of denoising is the same for all scenes. `only` is
    a regular expression: parameters in whose names it is found are trained, the others stay; all are if it is empty.
    `averages` are the widths of the moving averages (see loop.Settings), of which the best is kept. `bfloat16` allows
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

    def settings(self, **changes) -> loop.Settings:
        """The loop's settings: the recipe's, and what may change from one session to the next, such as minutes."""
        r = self.recipe
        return loop.Settings(r.steps, r.lr, seed=r.seed, averages=tuple(r.averages), **changes)

    def describe(self) -> dict[str, Any]:
        """What determines the run beside the loop's settings, in plain types."""
        elsewhere = ("job", "steps", "lr", "seed", "averages", "clip")
        about = {k: v for k, v in asdict(self.recipe).items() if k not in elsewhere}
        return {**about, "name": self.name}

    @property
    def key(self) -> str:
        """Eight hex digits of what determines the run, but for its length."""
        about = json.dumps(loop.identity(self.settings(), self.describe()), sort_keys=True)
        return hashlib.sha256(about.encode()).hexdigest()[:8]

    @property
    def home(self) -> Path:
        """The run's folder, with its checkpoint, its losses and what export writes."""
        return self.runs / f"{self.name}-{self.key}"

    def build(self) -> nn.Module:
        """The untrained model."""
        raise NotImplementedError

    def freeze(self) -> None:
        """Keep the parameters that the recipe does not name as they are. Raises ValueError if it names none."""
        try:
            found = [bool(re.search(self.recipe.only, name)) for name, _ in self.model.named_parameters()]
        except re.error as error:
            raise ValueError(f"--only {self.recipe.only!r} is no regular expression: {error}") from error
        if not any(found):
            raise ValueError(f"no parameter's name has {self.recipe.only!r} in it: give --only part of one")
        for parameter, own in zip(self.model.parameters(), found, strict=True):
            parameter.requires_grad_(parameter.requires_grad and own)

    def forward(self, *inputs):
        """What the loss is taken of; `amp` applies to it."""
        return self.model(*inputs, return_dict=False)[0]

    def amp(self) -> torch.autocast:
        """Bfloat16 where the recipe allows it and the device has it."""
        return autocast(self.device, self.recipe.bfloat16)

    def prepare(self, seed: int | None = None, n: int | None = None) -> None:
        """Render n pictures of a seed, those of the recipe unless given, on the device, unless they are on disk."""
        r, home, seed = self.recipe, self.runs / "data", self.recipe.renderings if seed is None else seed
        self.data = renderings.pictures(
            self.scene, n or r.pictures, r.size, seed, home, r.fixed, device=self.device, progress=True
        )

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


class Autoencoder(Job):
    """Reconstruction in L1, of colours and of their differences between neighbours, and in PSNR, and a small KL term.

    PSNR is the logarithm of a picture's squared error: a plain picture, already near its original, counts as much as a
    busy one. Most steps are on crops of half the side, four for a picture: more different pictures at the same cost.
    The last ones are on whole pictures, because group normalisation sees how large a picture is.
    """

    part_of = "mini-sd"
    crops = 0.85  # fraction of the steps on crops
    kl = 1e-3  # weight of the mean KL of a latent element
    psnr = 0.04  # weight of the mean logarithm of a picture's squared error

    def build(self) -> AutoencoderKL:
        model = models.autoencoder(size=self.recipe.size, **self.recipe.model)
        # A posterior that begins narrow: at unit width the decoder would see noise only, and learn to ignore it.
        nn.init.constant_(model.quant_conv.bias[model.config.latent_channels :], -6.0)
        return model

    def forward(self, pictures: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        posterior = self.model.encode(pictures).latent_dist
        return self.model.decode(posterior.mean + posterior.std * noise).sample, posterior.mean, posterior.logvar

    def loss(self, step: int, g: torch.Generator) -> Tensor:
        r, side = self.recipe, self.recipe.size
        if step < self.crops * r.steps:
            whole, side = self.data[self.draw(g, 4 * self.batch)], side // 2
            corners = torch.randint(side + 1, (len(whole), 2), generator=g).tolist()
            x = torch.stack([p[:, i : i + side, j : j + side] for p, (i, j) in zip(whole, corners, strict=True)])
        else:
            x = self.data[self.draw(g)]
        shrink = 2 ** (len(self.model.config.block_out_channels) - 1)
        noise = torch.randn(len(x), 4, side // shrink, side // shrink, generator=g)
        x, noise = (x * 2 - 1).to(self.device), noise.to(self.device)
        with self.amp():
            y, mean, logvar = (o.float() for o in self.forward(x, noise))
        error = y - x
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        squared = error.square().mean((1, 2, 3)) + 1e-5  # beyond 56 dB nothing more is to be had
        return error.abs().mean() + 0.5 * edges + self.psnr * squared.log().mean() + self.kl * kl

    @property
    def ships(self) -> Path:
        return self.weights / "mini-sd" / "vae"

    def export(self) -> None:
        """Measure the latents' standard deviation over 1,000 pictures, and write the model with its scaling factor."""
        self.prepare()
        index = torch.arange(min(1000, len(self.data)))
        with torch.no_grad():
            batches = ((self.data[i] * 2 - 1).to(self.device) for i in index.split(20))
            means = [self.model.encode(x).latent_dist.mean for x in batches]
        self.model.register_to_config(scaling_factor=round(1 / torch.cat(means).std().item(), 5))
        with replace_folder(self.folder) as new:
            half(self.model).save_pretrained(new)

    def stored(self, folder: Path) -> AutoencoderKL:
        return read_model(AutoencoderKL, folder, remedy(self.name))


class ClipCaptions(Job):
    """The text tower of mini-clip: captions against what the renderer drew, by contrast within the batch.

    The other side of each pair is a fixed vector of the picture's factors (see `targets`), so that every word that
    says something comes to count, small things too, before a picture tower can see them. Captions are of twins, which
    differ in one thing each. A locked side was shown to work by Zhai et al. 2022 (LiT, arXiv 2111.07991).
    """

    part_of = "mini-clip"
    twins = ("gender", "age", "glasses", "smile", "beard", "hair_length", "earrings", "freckles")

    def build(self) -> CLIPModel:
        self.tokens = models.tokenizer(captions.words())
        return models.clip(self.tokens, **self.recipe.model)

    def prepare(self, seed: int | None = None, n: int | None = None) -> None:
        if not isinstance(self.scene, Twins):
            self.scene = twins(self.scene, self.twins)
        super().prepare(seed, n)

    def draw(self, g: torch.Generator, n: int | None = None) -> Tensor:
        """Row numbers of both of each pair of twins, shape (n,), n even."""
        first = 2 * torch.randint(len(self.data) // 2, ((n or self.batch) // 2,), generator=g)
        return torch.stack((first, first + 1), 1).flatten()

    def forward(self, ids: Tensor) -> Tensor:
        """Embedded captions, shape (b, 128)."""
        return self.model.get_text_features(input_ids=ids).pooler_output

    def targets(self, index: Tensor) -> Tensor:
        """A direction for each picture, shape (b, 128): every visible factor with the same variance, then zeros."""
        values = self.data.values_at(index)
        vectors = factor_vectors(self.scene, values)
        return F.pad(vectors, (0, self.model.config.projection_dim - vectors.shape[1])).to(self.device)

    def pairs(self, g: torch.Generator) -> tuple[Tensor, Tensor]:
        """Numbers of pictures, shape (b,), and their captions' token numbers, (b, TOKENS); none of them empty."""
        index = self.draw(g)
        texts = captions.captions(self.data.values_at(index), g)
        told = [i for i, text in enumerate(texts) if text]
        return index[told], token_ids(self.tokens, [texts[i] for i in told]).to(self.device)

    def contrast(self, ids: Tensor, texts: Tensor, pictures: Tensor) -> Tensor:
        """The loss of Radford et al. 2021 (arXiv 2103.00020); equal captions count as equally right."""
        texts, pictures = F.normalize(texts.float(), dim=-1), F.normalize(pictures.float(), dim=-1)
        logits = texts @ pictures.T * self.model.logit_scale.exp().clamp_max(100)
        same = (ids[:, None] == ids[None]).all(-1).float()
        same = same / same.sum(-1, keepdim=True)
        return (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2

    def loss(self, step: int, g: torch.Generator) -> Tensor:
        index, ids = self.pairs(g)
        with self.amp():
            texts = self.forward(ids)
        return self.contrast(ids, texts, self.targets(index))

    @property
    def ships(self) -> Path:
        return self.weights / "mini-clip"

    def export(self) -> None:
        with replace_folder(self.folder) as new:
            save_transformer(self.model, new)
            models.tokenizer(captions.words()).save_pretrained(new)  # a used one would keep its last padding
            side = self.model.config.vision_config.image_size
            square, middle = {"height": side, "width": side}, [0.5] * 3  # bytes go to [-1, 1]
            CLIPImageProcessorPil(
                size={"shortest_edge": side}, crop_size=square, image_mean=middle, image_std=middle
            ).save_pretrained(new)

    def stored(self, folder: Path) -> CLIPModel:
        return read_model(CLIPModel, folder, remedy(self.name))


class ClipPictures(ClipCaptions):
    """The picture tower of mini-clip, against captions and against the factors; the text tower is locked.

    mini-sd can be trained beside it, therefore: its text encoder is final.
    """

    part_of = None

    def forward(self, pictures: Tensor) -> Tensor:
        """Embedded pictures, shape (b, 128)."""
        return self.model.get_image_features(pixel_values=pictures).pooler_output

    def loss(self, step: int, g: torch.Generator) -> Tensor:
        index, ids = self.pairs(g)
        with self.amp():
            with torch.no_grad():
                texts = super().forward(ids)
            pictures = self.forward((self.data[index] * 2 - 1).to(self.device))
        alone = torch.arange(len(index), device=self.device)[:, None]  # no two pictures are the same
        return self.contrast(ids, texts, pictures) + self.contrast(alone, self.targets(index), pictures)


def factor_vectors(scene: Scene, values: Values) -> Tensor:
    """What is drawn as vectors, shape (n, d): a block for each factor, centred, of variance 1, zero if not visible.

    A level is its one-hot vector, a number itself.
    """
    blocks = []
    for f in scene.factors:
        if f.levels:
            p = torch.tensor(f.p or (1.0,) * len(f.levels))
            p = p / p.sum()
            block = (F.one_hot(values[f.name], len(f.levels)) - p) / (1 - p.square().sum()).sqrt()
        else:
            low, high = f.range
            block = (values[f.name][:, None] - (low + high) / 2) / ((high - low) / 12**0.5)
        blocks.append(block * scene.visible(values)[f.name][:, None])
    return torch.cat(blocks, dim=1)


class ReaderJob(Job):
    """Every factor that is visible, from renderings made as imperfect as generated pictures are."""

    def build(self) -> nn.Module:
        return reader.Reader(self.scene, **self.recipe.model)

    def forward(self, *inputs) -> Tensor:
        return self.model.loss(*inputs)

    def loss(self, step: int, g: torch.Generator) -> Tensor:
        index = self.draw(g)
        values = self.data.values_at(index)
        seen = self.scene.visible(values)
        values, seen = ({k: v.to(self.device) for k, v in each.items()} for each in (values, seen))
        with self.amp():
            return self.forward(reader.degrade(self.data[index], g).to(self.device), values, seen)

    @property
    def ships(self) -> Path:
        return self.weights / "readers" / self.name.removeprefix("reader-")

    def export(self) -> None:
        self.model.save(self.folder)

    def stored(self, folder: Path) -> nn.Module:
        return reader.load(self.scene, folder=folder)


def newest(runs: Path, name: str, shipped: Path) -> Path:
    """The folder of a model's weights that was written last by a run in `runs`, or else that of those that ship."""
    exported = list(runs.glob(f"{name}-{'[0-9a-f]' * 8}/weights"))
    return max(exported, key=lambda folder: folder.stat().st_mtime_ns, default=shipped)


def remedy(name: str) -> str:
    """What to do about weights that are missing or damaged."""
    return f"train it first, python -m lsvd.testbed.training.train {name}"


def token_ids(tokens: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token numbers, shape (n, TOKENS), padded as Stable Diffusion's pipeline pads them."""
    return tokens(texts, padding="max_length", max_length=models.TOKENS, truncation=True, return_tensors="pt").input_ids


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
