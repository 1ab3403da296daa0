"""Pictures in the forms that people have them in, as tensors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers.utils import load_image
from PIL import Image
from torch import Tensor

from lsvd.checks import check_pictures

Pictures = Tensor | np.ndarray | Image.Image | Sequence["Pictures"]


def as_tensor(pictures: Any, size: tuple[int, int]) -> Tensor:
    """Pictures as a tensor of shape (B, 3, height, width) in [0, 1], floating point, of `size` (height, width).

    Taken are: PIL images, of any size and mode, turned upright, without their alpha channel, and resized as diffusers'
    image processors do; arrays of shape (height, width), (height, width, 3) or (B, height, width, 3), which may have 1
    or 4 channels too; tensors of shape (B, 3, height, width) or (B, 1, height, width); bytes from 0 to 255 or numbers
    from 0 to 1; and lists of these. Raises ValueError for all else, and for arrays and tensors of another size.
    """
    if isinstance(pictures, list | tuple):
        if not pictures:
            raise ValueError("there are no pictures: give at least one")
        return torch.cat([as_tensor(_batched(item), size) for item in pictures])
    if isinstance(pictures, Image.Image):
        upright = load_image(pictures)
        if upright.size != size[::-1]:
            upright = upright.resize(size[::-1], Image.Resampling.LANCZOS)
        pictures = np.array(upright)
    if isinstance(pictures, np.ndarray):
        pictures = _of_array(pictures)
    if not isinstance(pictures, Tensor):
        raise ValueError(f"not a picture: {type(pictures).__name__}; give a PIL image, an array, a tensor, or a list")
    if pictures.dtype == torch.uint8:
        pictures = pictures.float() / 255
    if pictures.ndim == 4 and pictures.shape[1] == 1:
        pictures = pictures.expand(-1, 3, -1, -1)
    if pictures.ndim == 4 and pictures.shape[1] != 3 and pictures.shape[3] in (1, 3, 4):
        raise ValueError(f"tensors of pictures have their channels before height and width, not {_shape(pictures)}")
    if pictures.ndim == 4 and pictures.shape[1] == 4:
        raise ValueError("these pictures have an alpha channel: leave it out with pictures[:, :3]")
    check_pictures(pictures)
    if tuple(pictures.shape[2:]) != tuple(size):
        given, wanted = (f"{height} x {width}" for height, width in (pictures.shape[2:], size))
        raise ValueError(f"pictures of {given} pixels, where {wanted} are drawn: resize them, or give PIL images")
    return pictures


def _batched(picture: Any) -> Any:
    """One tensor of a list, which may be (3, height, width)."""
    return picture[None] if isinstance(picture, Tensor) and picture.ndim == 3 else picture


def _of_array(array: np.ndarray) -> Tensor:
    """An array of pictures, channels last, as a tensor with its channels first."""
    if array.dtype.kind not in "fu" or (array.dtype.kind == "u" and array.dtype != np.uint8):
        raise ValueError(f"arrays of pictures hold bytes, or numbers from 0 to 1, not {array.dtype}: convert them")
    whole = array[..., None] if array.ndim == 2 else array
    whole = whole[None] if whole.ndim == 3 and whole.shape[-1] in (1, 3, 4) else whole
    if whole.ndim != 4 or whole.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"arrays of pictures have shape (B, height, width, 3), not {_shape(array)}: move the channels to the end"
        )
    tensor = torch.from_numpy(np.array(whole, dtype=whole.dtype.newbyteorder("="), order="C"))
    channels = tensor.permute(0, 3, 1, 2)[:, :3]
    return channels if tensor.dtype == torch.uint8 else channels.float()


def _shape(pictures: Tensor | np.ndarray) -> str:
    return str(tuple(pictures.shape))
