"""The contents of the screen, as bytes and plain values: pictures, maps of codes, readings."""

import io
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lsvd.figures.style import COLOURS, to_array

LEAST = 0.02  # a probability that moves by more is shown as changed


class Reader(Protocol):
    """Reads attributes off pictures, as lsvd.testbed.reader.Reader does."""

    scene: Any

    def read(self, pictures: Tensor) -> Any: ...


def image(pictures: Tensor) -> Image.Image:
    """A picture, (3, H, W) or the first of (B, 3, H, W) in [0, 1], as a PIL image: the code cell's picture, rounded."""
    picture = pictures[0] if pictures.ndim == 4 else pictures
    return Image.fromarray((255 * to_array(picture)).round().astype(np.uint8))


def png(picture: Image.Image) -> bytes:
    """The bytes of a PNG file, quickly."""
    picture.save(data := io.BytesIO(), format="png", compress_level=1)
    return data.getvalue()


def strip(pictures: Tensor) -> Image.Image:
    """Pictures, (n, 3, H, W), side by side."""
    return image(torch.cat(list(pictures), dim=-1))


def difference(before: Tensor, after: Tensor) -> Image.Image:
    """How far each pixel has moved, the mean over colours, by its root: white for 0, blue for the whole range.

    The root makes small changes visible. before, after: (1, 3, H, W).
    """
    moved = (after - before).abs().mean(-3)[0].sqrt()
    return Image.fromarray(_between(moved.numpy(force=True), "#ffffff", COLOURS["blue"]))


def signed(matrix: Tensor, scale: float) -> Image.Image:
    """A matrix (H, W) as colours: blue below 0, white at 0, vermilion above, full at `scale`."""
    values = matrix.double().numpy(force=True) / (scale or 1.0)
    above, below = (_between(np.clip(sign * values, 0, 1), "#ffffff", COLOURS[name]) for sign, name in SIDES)
    return Image.fromarray(np.where(values[..., None] >= 0, above, below))


SIDES = ((1, "vermilion"), (-1, "blue"))


def _between(share: np.ndarray, low: str, high: str) -> np.ndarray:
    ends = [np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) for colour in (low, high)]
    return (ends[0] + np.clip(share, 0, 1)[..., None] * (ends[1] - ends[0])).round().astype(np.uint8)


def mosaic(code: Tensor, channel: int | None = None, scale: float | None = None) -> Image.Image:
    """The channels of a code, (C, H, W), in a block of as many rows as columns, or one of them; scale: as `signed`."""
    code = code if channel is None else code[channel : channel + 1]
    scale = float(code.abs().max()) if scale is None else scale
    columns = int(np.ceil(np.sqrt(len(code))))
    tiles = [np.asarray(signed(channel_code, scale)) for channel_code in code]
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // columns)
    gap = 1 if len(tiles) > 1 else 0
    canvas = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = tile
    return Image.fromarray(canvas)


def readings(reader: Reader, before: Tensor, after: Tensor | None) -> list[dict[str, Any]]:
    """The readings of each visible factor, before and after: name, unit, texts, how far it moved.

    before, after: (1, 3, H, W); after None for nothing to compare with. Moves are from 0 to 1.
    """
    first = reader.read(before)
    second = first if after is None else reader.read(after)
    visible = [reader.scene.visible(reading.values) for reading in (first, second)]
    rows = []
    for f in reader.scene.factors:
        if not bool(visible[0][f.name][0] | visible[1][f.name][0]):
            continue
        if f.levels:
            moved = float((second.probabilities[f.name] - first.probabilities[f.name]).abs().sum() / 2)
            texts = [f.levels[int(reading.levels[f.name][0])] for reading in (first, second)]
            probabilities = [float(reading.probabilities[f.name].max()) for reading in (first, second)]
            texts = [text if p > 0.9 else f"{text} ({p:.0%})" for text, p in zip(texts, probabilities, strict=True)]
        else:
            low, high = f.range
            values = [float(reading.numbers[f.name][0]) for reading in (first, second)]
            moved = abs(values[1] - values[0]) / (high - low)
            texts = [f"{value:.2g}" for value in values]
        texts = [t if bool(s[f.name][0]) else "hidden" for t, s in zip(texts, visible, strict=True)]
        row = {"name": f.name.replace("_", " "), "unit": f.unit, "before": texts[0], "after": texts[1], "moved": moved}
        rows.append(row)
    return sorted(rows, key=lambda row: -row["moved"]) if after is not None else rows
