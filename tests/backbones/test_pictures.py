"""Pictures in the forms that people have them in are taken, and are the same picture; others are refused in pixels."""

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from tiny import KINDS, text_to_image
from torch.testing import assert_close

from lsvd.backbones.pictures import as_tensor

SIZE = (16, 12)  # height, width
BYTES = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
TENSOR = torch.from_numpy(BYTES).permute(2, 0, 1)[None].float() / 255
ALPHA = np.concatenate([BYTES, np.full((*SIZE, 1), 100, np.uint8)], -1)
SAME = {
    "PIL": Image.fromarray(BYTES),
    "PIL with alpha": Image.fromarray(ALPHA),
    "a list of PIL": [Image.fromarray(BYTES)],
    "bytes": BYTES,
    "a batch of bytes": BYTES[None],
    "bytes with alpha": ALPHA,
    "numbers": BYTES / 255,
    "numbers of the other byte order": (BYTES / 255).astype(">f4"),
    "an array read backwards": BYTES[::-1].copy()[::-1],
    "a tensor": TENSOR,
    "a tensor of bytes": torch.from_numpy(BYTES).permute(2, 0, 1)[None],
    "a list of tensors": [TENSOR[0]],
    "a tuple": (TENSOR,),
}


@pytest.mark.parametrize("given", SAME.values(), ids=SAME)
def test_it_is_the_same_picture(given):
    before = BYTES.copy()
    taken = as_tensor(given, SIZE)
    assert taken.dtype == torch.float32
    assert_close(taken, TENSOR, rtol=0, atol=1e-6)
    assert np.array_equal(BYTES, before)


@pytest.mark.parametrize(
    "given", [Image.fromarray(BYTES).convert("L"), np.array(Image.fromarray(BYTES).convert("L")), TENSOR[:, :1]]
)
def test_grey_is_three_times_the_same(given):
    taken = as_tensor(given, SIZE)
    assert taken.shape == (1, 3, *SIZE)
    assert torch.equal(taken[:, 0], taken[:, 1]) and torch.equal(taken[:, 0], taken[:, 2])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"])
@pytest.mark.parametrize("size", [(12, 16), (5, 40), (100, 3)])
def test_images_are_taken_as_diffusers_takes_them(mode, size):
    image = Image.fromarray(BYTES).resize(size).convert("RGB")
    image = image.convert("L").convert("I;16") if mode == "I;16" else image.convert(mode)
    theirs = VaeImageProcessor(vae_scale_factor=1, do_normalize=False).preprocess(image.convert("RGB"), *SIZE)
    assert_close(as_tensor(image, SIZE), theirs, rtol=0, atol=1e-6)


def test_photographs_are_turned_upright():
    image, turned = Image.fromarray(BYTES), Image.fromarray(BYTES).transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6
    assert torch.equal(as_tensor(turned, SIZE), as_tensor(image, SIZE))


BAD = {
    "another size": (TENSOR[..., :-2], "of 16 x 10 pixels, where 16 x 12 are drawn"),
    "an array of another size": (BYTES[:-2], "of 14 x 12 pixels, where 16 x 12 are drawn"),
    "channels first": (BYTES.transpose(2, 0, 1)[None], "move the channels to the end"),
    "channels last": (TENSOR.permute(0, 2, 3, 1), "channels before height and width"),
    "alpha": (torch.rand(1, 4, *SIZE), r"leave it out with pictures\[:, :3\]"),
    "whole numbers": (BYTES.astype(int), "hold bytes, or numbers from 0 to 1, not int64"),
    "two bytes": (BYTES.astype(np.uint16), "not uint16"),
    "from -1 to 1": (TENSOR * 2 - 1, r"lie in \[0, 1\]"),
    "bytes as numbers": (BYTES.astype(float), r"lie in \[0, 1\]"),
    "NaN": (TENSOR * float("nan"), "holds NaN"),
    "nothing": ([], "there are no pictures"),
    "a path": ("photo.jpg", "not a picture: str"),
    "None": (None, "not a picture: NoneType"),
    "a list of paths": (["photo.jpg"], "not a picture: str"),
    "one without a batch": (TENSOR[0], "have shape"),
}


@pytest.mark.parametrize(("given", "said"), BAD.values(), ids=BAD)
def test_what_cannot_be_taken_is_refused_in_a_sentence(given, said):
    with pytest.raises(ValueError, match=said) as caught:
        as_tensor(given, SIZE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_backbones_encode_them(make):
    backbone = make()
    image = Image.fromarray(BYTES)
    codes = backbone.encode([image, np.array(image.resize(backbone.size[::-1]))])
    assert codes.shape == (2, *backbone.latent_shape)
    assert_close(codes[:1], backbone.encode(as_tensor(image, backbone.size)), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=f"where {backbone.size[0]} x"):
        backbone.encode(torch.zeros(1, 3, 7, 7))
    assert text_to_image().encode(image).isfinite().all()
