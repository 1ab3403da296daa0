"""What mini-clip learns: its text tower first, then its picture tower."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from lsvd.backbones.checkpoints import read_model
from lsvd.storage.files import replace_folder
from lsvd.testbed.scenes import captions
from lsvd.testbed.scenes.scene import Scene, Twins, Values, twins
from lsvd.testbed.training import models
from lsvd.testbed.training.jobs import Job, remedy, save_transformer


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
        captioned = [i for i, text in enumerate(texts) if text]
        return index[captioned], token_ids(self.tokens, [texts[i] for i in captioned]).to(self.device)

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


def token_ids(tokens: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token numbers, shape (n, TOKENS), padded as Stable Diffusion's pipeline pads them."""
    return tokens(texts, padding="max_length", max_length=models.TOKENS, truncation=True, return_tensors="pt").input_ids
