"""What each kind of model learns: its data, its loss at a step, and the folder it ends in.

A job has a `model`; prepare() gets its data; loss(step, generator) draws all that is random from the generator;
export() writes the model into a folder, in float16, whole or not at all.
"""

import json
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
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
from lsvd.testbed.scenes.scene import Scene, Values, twins
from lsvd.testbed.training import models

TRAINING_SEED = 1  # of the renderings that models learn from; every other seed is held out


@dataclass(frozen=True)
class Recipe:
    """How one model is trained. `model` goes to its constructor; `fixed` pins factors of the scene.

    `start` names the model whose weights training begins with: much of denoising is the same for all scenes. `only` is
    a regular expression: parameters in whose names it is found are trained, the others stay; all are if it is empty.
    `clip` is where a pixel model's estimates are cut in sampling (see models.pixel_schedule); training does not depend
    on it.
    """

    job: Callable[..., "Job"]
    scene: str
    pictures: int
    size: int
    steps: int
    batch: int
    lr: float
    ema: float = 0.9995
    fixed: Mapping[str, str] = field(default_factory=dict)
    model: Mapping = field(default_factory=dict)
    start: str | None = None
    only: str = ""
    bfloat16: bool = True  # autocast: a third faster on CPUs that have it
    clip: float | None = None


class Job:
    """A recipe at work on one scene; files in `runs`, finished weights in `weights`.

    The untrained model depends on `seed` alone, and torch's global generator stays as it was.
    """

    def __init__(
        self, name: str, recipe: Recipe, scene: Scene, runs: Path, weights: Path = WEIGHTS, device="cpu", seed: int = 0
    ):
        self.name, self.recipe, self.scene = name, recipe, scene
        self.runs, self.weights, self.device = runs, weights, device
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.model = self.build().to(device)

    def describe(self) -> dict[str, Any]:
        """What determines the run beside the loop's settings, in plain types."""
        r = self.recipe
        about = {name: getattr(r, name) for name in ("scene", "pictures", "size", "batch", "start", "only", "bfloat16")}
        return {**about, "fixed": dict(r.fixed), "model": dict(r.model)}

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
        """Bfloat16 where the recipe asks for it."""
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.recipe.bfloat16)

    def prepare(self) -> None:
        """Render the pictures, unless they are on disk."""
        r = self.recipe
        self.data = renderings.pictures(
            self.scene, r.pictures, r.size, TRAINING_SEED, self.runs / "data", r.fixed, progress=True
        )

    def draw(self, g: torch.Generator, n: int | None = None) -> Tensor:
        """Row numbers of a batch, shape (n,)."""
        return torch.randint(len(self.data), (n or self.recipe.batch,), generator=g)

    def loss(self, step: int, g: torch.Generator) -> Tensor:
        """The loss at a step, a scalar."""
        raise NotImplementedError

    @property
    def folder(self) -> Path:
        """Where export writes."""
        return self.weights / self.name

    def export(self) -> None:
        """Write the model as it is now."""
        raise NotImplementedError

    def shipped(self) -> nn.Module:
        """The model in `weights`, in float32."""
        raise NotImplementedError

    def latest(self) -> nn.Module:
        """The model that was exported last, in float32. Raises FileNotFoundError if there is none."""
        if not self.folder.exists():
            raise FileNotFoundError(f"{self.folder} does not exist: {remedy(self.name)}")
        return self.shipped()


class Autoencoder(Job):
    """Reconstruction in L1, of colours and of their differences between neighbours, beside a small KL term.

    Most steps are on crops of half the side, four for a picture: more different pictures at the same cost. The last
    ones are on whole pictures, because group normalisation sees how large a picture is.
    """

    crops = 0.85  # fraction of the steps on crops
    kl = 1e-3  # weight of the mean KL of a latent element

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
            whole, side = self.data[self.draw(g, 4 * r.batch)], side // 2
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
        return error.abs().mean() + 0.5 * edges + self.kl * kl

    @property
    def folder(self) -> Path:
        return self.runs / self.name / "vae"  # waits for mini-sd, and ships as a part of it

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

    def shipped(self) -> AutoencoderKL:
        return read_model(AutoencoderKL, self.weights / "mini-sd" / "vae", remedy(self.name))


class ClipCaptions(Job):
    """The text tower of mini-clip: captions against what the renderer drew, by contrast within the batch.

    The other side of each pair is a fixed vector of the picture's factors (see `targets`), so that every word that
    says something comes to count, small things too, before a picture tower can see them. Captions are of twins, which
    differ in one thing each. A locked side was shown to work by Zhai et al. 2022 (LiT, arXiv 2111.07991).
    """

    twins = ("gender", "age", "glasses", "smile", "beard", "hair_length", "earrings", "freckles")

    def build(self) -> CLIPModel:
        self.tokens = models.tokenizer(captions.words())
        return models.clip(self.tokens, **self.recipe.model)

    def prepare(self) -> None:
        self.scene = twins(self.scene, self.twins)
        super().prepare()

    def draw(self, g: torch.Generator, n: int | None = None) -> Tensor:
        """Row numbers of both of each pair of twins, shape (n,), n even."""
        first = 2 * torch.randint(len(self.data) // 2, ((n or self.recipe.batch) // 2,), generator=g)
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
    def folder(self) -> Path:
        return self.runs / self.name / "clip"  # waits for its picture tower, and ships as mini-clip

    def export(self) -> None:
        with replace_folder(self.folder) as new:
            save_transformer(self.model, new)
            models.tokenizer(captions.words()).save_pretrained(new)  # a used one would keep its last padding
            side = self.model.config.vision_config.image_size
            square, middle = {"height": side, "width": side}, [0.5] * 3  # bytes go to [-1, 1]
            CLIPImageProcessorPil(
                size={"shortest_edge": side}, crop_size=square, image_mean=middle, image_std=middle
            ).save_pretrained(new)

    def shipped(self) -> CLIPModel:
        return read_model(CLIPModel, self.weights / "mini-clip", remedy(self.name))

    def latest(self) -> CLIPModel:
        return read_model(CLIPModel, newer(self.folder, self.weights / "mini-clip"), remedy(self.name))


class ClipPictures(ClipCaptions):
    """The picture tower of mini-clip, against captions and against the factors; the text tower is locked.

    mini-sd can be trained beside it, therefore: its text encoder is final.
    """

    @property
    def folder(self) -> Path:
        return self.weights / "mini-clip"

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
    def folder(self) -> Path:
        return self.weights / "readers" / self.scene.name

    def export(self) -> None:
        self.model.save(self.folder)

    def shipped(self) -> nn.Module:
        return reader.load(self.scene, folder=self.folder)


def newer(waiting: Path, shipped: Path) -> Path:
    """The folder of a part that was trained and waits in `runs` for others, if it is there, else that of weights."""
    return waiting if waiting.exists() else shipped


def remedy(name: str) -> str:
    """What to do about weights that are missing or damaged."""
    return f"train it first, python -m lsvd.testbed.training.train {name}"


def token_ids(tokens: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token numbers, shape (n, TOKENS), padded as Stable Diffusion's pipeline pads them."""
    return tokens(texts, padding="max_length", max_length=models.TOKENS, truncation=True, return_tensors="pt").input_ids


def half(model: nn.Module) -> nn.Module:
    """A float16 copy on the CPU."""
    return deepcopy(model).to("cpu", torch.float16)


def save_transformer(model: nn.Module, folder: Path) -> None:
    """Save in float16, but with float32 in the configuration: the type that the others load in unless asked."""
    copy = half(model)
    copy.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"float16"', '"float32"'))


def forget_origin(folder: Path) -> None:
    """Take out of a saved model's configuration the folder that it was read from, which diffusers notes there."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
