"""How much memory a request may take: pictures drawn in chunks that fit, and results that would not fit refused.

A limit `max_memory` is in GB of 10^9 bytes. Half of it is for the codes that are kept, whose size is known, and half
for what the denoiser computes in, which is estimated. A chunk depends on the model and the limit alone, so the same
request is cut up, and rounded, in the same way on every machine.
"""

import math
from dataclasses import dataclass

from torch import nn

from lsvd.backbones.families import denoiser
from lsvd.backbones.models import Backbone
from lsvd.checks import number, shown

GB = 10**9
MAX_MEMORY = 8.0
MAPS = 24
"""Feature maps of full resolution that one evaluation of a denoiser takes: UNets of this repository took 17 to 22."""


@dataclass(frozen=True)
class Limit:
    """max_memory for one model, in bytes: of all codes that are kept, of one code, and of one picture's evaluation."""

    codes: int
    code: int
    work: int

    @classmethod
    def of(cls, backbone: Backbone, max_memory: float = MAX_MEMORY) -> "Limit":
        """The limit of `max_memory` GB. Raises ValueError unless it is a finite number above 0."""
        size = number(max_memory)
        if size is None or not 0 < size < math.inf:
            raise ValueError(
                f"max_memory cannot be {shown(max_memory)}: give a number of GB above 0, such as {MAX_MEMORY:g}"
            )
        code = math.prod(backbone.latent_shape) * backbone.dtype.itemsize
        return cls(round(size * GB / 2), code, _work(backbone))

    @property
    def chunk(self) -> int:
        """How many pictures are drawn together, at least 1."""
        return max(1, self.codes // self.work)

    def chunks(self, count: int) -> list[slice]:
        """The pictures, of so many, that are drawn together."""
        return [slice(start, start + self.chunk) for start in range(0, count, self.chunk)]

    def check(self, pictures: int, codes: int) -> None:
        """Raise ValueError, with the number that fits, where so many codes of each are more than may be kept."""
        needed = pictures * codes * self.code
        if needed <= self.codes:
            return
        fit = self.codes // (codes * self.code)
        remedy = f"draw {fit} at a time" if fit else "take fewer steps"
        raise ValueError(
            f"{pictures} pictures of {codes} codes each take {_gb(needed)}, and {_gb(self.codes)} are for codes: "
            f"{remedy}, or raise max_memory, which is {_gb(2 * self.codes)}"
        )


def _work(backbone: Backbone) -> int:
    """An estimate of the bytes that the denoiser needs for one picture, both its prompts if there is guidance."""
    network, (_, height, width) = denoiser(backbone.pipe), backbone.latent_shape
    prompts = 2 if backbone.kind == "text-to-image" else 1
    return MAPS * _features(backbone) * height * width * network.dtype.itemsize * prompts


def _features(backbone: Backbone) -> int:
    """How many features a denoiser has for each place of a code: a UNet's first width, or a token's share of it."""
    network = denoiser(backbone.pipe)
    config = network.config
    if channels := config.get("block_out_channels"):
        return channels[0]
    heads = [config.get(name) for name in ("num_attention_heads", "attention_head_dim")]
    if all(isinstance(number, int) for number in heads):
        features = math.prod(heads)
    else:
        features = max((part.in_features for part in network.modules() if isinstance(part, nn.Linear)), default=1)
    patch = config.get("patch_size") or 1
    side = max(patch if isinstance(patch, int) else max(patch), 2 if backbone.family.layout == "patches" else 1)
    return -(-features // side**2)


def _gb(size: float) -> str:
    return f"{size / GB:.3g} GB"
