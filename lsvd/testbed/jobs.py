"""What each kind of model learns: its data, its loss at a step, and the folder it ends in.

A job has a `model`; prepare() gets its data; loss(step, generator) draws all that is random from the generator;
export(model) writes float16 weights into a folder, whole or not at all.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer

from lsvd.files import replace_folder
from lsvd.testbed import captions, data, models, reader
from lsvd.testbed.scene import Scene, twins

WEIGHTS = Path(__file__).parents[1] / "weights"
TRAINING_SEED = 1  # of the renderings that models learn from; every other seed is held out


@dataclass(frozen=True)
class Recipe:
    """How one model is trained. `model` goes to its constructor; `fixed` pins factors of the scene.

    `start` names the model whose weights training begins with: much of denoising is the same for all scenes.
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
    bfloat16: bool = True  # autocast: a third faster on CPUs that have it


class Job:
    """A recipe at work on one scene; files in `runs`, finished weights in `weights`."""

    def __init__(self, name: str, recipe: Recipe, scene: Scene, runs: Path, weights: Path = WEIGHTS, device="cpu"):
        self.name, self.recipe, self.scene = name, recipe, scene
        self.runs, self.weights, self.device = runs, weights, device
        self.model = self.build().to(device)

    def build(self) -> nn.Module:
        """The untrained model."""
        raise NotImplementedError

    def forward(self, *inputs):
        """What the loss is taken of; `amp` applies to it."""
        return self.model(*inputs, return_dict=False)[0]

    def amp(self) -> torch.autocast:
        """Bfloat16 where the recipe asks for it."""
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.recipe.bfloat16)

    def prepare(self) -> None:
        """Render the pictures, unless they are on disk."""
        r = self.recipe
        self.data = data.pictures(self.scene, r.pictures, r.size, TRAINING_SEED, self.runs / "data", r.fixed)

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
        """The model of that folder, in float32."""
        raise NotImplementedError


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
        return self.runs / self.name / "vae"  # ships as part of mini-sd

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
        return AutoencoderKL.from_pretrained(self.weights / "mini-sd" / "vae", dtype=torch.float32)


class Clip(Job):
    """Contrast within the batch (Radford et al. 2021, arXiv 2103.00020); equal captions count as equally right.

    The pictures are twins that differ in one thing each, or what is small, such as glasses, would hardly ever be
    needed to tell a batch apart.
    """

    twins = ("gender", "age", "glasses", "smile", "beard", "hair_length")

    def prepare(self) -> None:
        self.scene = twins(self.scene, self.twins)
        super().prepare()

    def draw(self, g: torch.Generator, n: int | None = None) -> Tensor:
        """Row numbers of both of each pair of twins, shape (n,), n even."""
        first = 2 * torch.randint(len(self.data) // 2, ((n or self.recipe.batch) // 2,), generator=g)
        return torch.stack((first, first + 1), 1).flatten()

    def build(self) -> CLIPModel:
        self.tokens = models.tokenizer(captions.words())
        return models.clip(self.tokens, **self.recipe.model)

    def forward(self, ids: Tensor, pictures: Tensor) -> Tensor:
        return self.model(input_ids=ids, pixel_values=pictures).logits_per_text

    def loss(self, step: int, g: torch.Generator) -> Tensor:
        index = self.draw(g)
        texts = captions.captions(self.data.values_at(index), g)
        told = [i for i, text in enumerate(texts) if text]
        ids = token_ids(self.tokens, [texts[i] for i in told]).to(self.device)
        with self.amp():
            logits = self.forward(ids, (self.data[index[told]] * 2 - 1).to(self.device)).float()
        same = (ids[:, None] == ids[None]).all(-1).float()
        same = same / same.sum(-1, keepdim=True)
        return (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2

    def export(self) -> None:
        with replace_folder(self.folder) as new:
            save_transformer(self.model, new)
            models.tokenizer(captions.words()).save_pretrained(new)  # a used one would keep its last padding

    def shipped(self) -> CLIPModel:
        return CLIPModel.from_pretrained(self.folder, dtype=torch.float32)


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
