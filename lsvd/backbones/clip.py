"""mini-clip, or any other CLIP model on disk: pictures and texts as vectors that can be compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from lsvd import paths
from lsvd.backbones import checkpoints, checksums
from lsvd.checks import check_pictures

NAME = "mini-clip"


@dataclass(frozen=True)
class Clip:
    """A CLIP model (Radford et al. 2021, arXiv 2103.00020), with what prepares texts and pictures for it.

    The cosine of a picture and a text is the product of their vectors: `pictures(p) @ texts(t).T`.
    """

    model: CLIPModel
    tokenizer: CLIPTokenizer
    processor: CLIPImageProcessorPil

    @torch.no_grad()
    def texts(self, texts: str | Sequence[str]) -> Tensor:
        """Unit vectors of n texts, shape (n, d); a text that is too long is cut. Raises ValueError for none."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            raise ValueError("there are no texts: give at least one")
        ids = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        embedded = self.model.get_text_features(input_ids=ids.to(self.model.device)).pooler_output
        return F.normalize(embedded, dim=-1)

    @torch.no_grad()
    def pictures(self, pictures: Tensor, batch: int = 64) -> Tensor:
        """Unit vectors of n pictures, shape (n, 3, H, W) in [0, 1], rounded to bytes and resized: shape (n, d).

        Raises ValueError for another shape or range.
        """
        parts = []
        for part in check_pictures(pictures).split(batch):
            images = list((part.float() * 255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy())
            pixels = self.processor(images=images, return_tensors="pt").pixel_values
            parts.append(self.model.get_image_features(pixels.to(self.model.device, self.model.dtype)).pooler_output)
        return F.normalize(torch.cat(parts), dim=-1)


def load(
    folder: str | Path | None = None, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Clip:
    """mini-clip, or the CLIP model of a folder as CLIPModel and CLIPProcessor save it, in float32 unless `dtype` says.

    Raises FileNotFoundError for missing files; ValueError for damaged ones, or files that do not fit together.
    """
    shipped = folder is None
    folder = paths.WEIGHTS / NAME if shipped else Path(folder).expanduser()
    remedy = checkpoints.restore(NAME) if shipped else checkpoints.COPY
    model = checkpoints.read_model(CLIPModel, folder, remedy, dtype)
    tokenizer = checkpoints.read_tokenizer(folder, remedy, model.config.text_config)
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        raise FileNotFoundError(f"{folder} lacks its preprocessor_config.json: {remedy}")
    with checkpoints.explained(folder, remedy), checkpoints.silently():
        processor = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
    if shipped:
        checksums.verify(folder, remedy)
    return Clip(model.to(device), tokenizer, processor)
