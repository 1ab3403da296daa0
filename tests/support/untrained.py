"""A reader that was never trained, and the scene it reads."""

import torch

from lsvd.testbed.reader import Reader
from lsvd.testbed.scenes.scene import Factor, Scene

SCENE = Scene(
    "discs",
    (
        Factor("x", "coarse", range=(-0.5, 0.5)),
        Factor("hue", "fine", ("red", "blue", "green")),
        Factor("ring", "fine", ("none", "ring"), visible_if={"hue": ("blue",)}),
    ),
    lambda values, size: None,
)
BANDS = [0, (1, 3)]


def untrained():
    """A reader with an opinion on anything."""
    torch.manual_seed(0)
    return Reader(SCENE, 32, widths=(8, 16, 16, 32)).eval()
