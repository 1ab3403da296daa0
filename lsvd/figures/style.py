"""One style for all figures, and how they are written.

Colours are those of Okabe and Ito, told apart by the colour-blind, and lines differ in dash as well, for print.
"""

import io
from pathlib import Path

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.figure import Figure
from torch import Tensor

from lsvd.paths import outputs
from lsvd.storage.files import write_bytes

COLOURS = {
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "black": "#000000",
}


STYLE = {
    "axes.prop_cycle": cycler(color=list(COLOURS.values()))
    + cycler(linestyle=["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1))]),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "font.size": 9,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "figure.figsize": (5.5, 3.4),
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "image.cmap": "cividis",
}


DPI = 160


def use_style() -> None:
    """Set the style for every figure made from now on; a notebook calls it once."""
    mpl.rcParams.update(STYLE)


def save(fig: Figure, name: str) -> Path:
    """Write a figure to outputs/figures/<name>.png, whole or not at all; returns the path.

    The same figure gives the same bytes. Raises lsvd.storage.files.WriteError if the folder cannot be written.
    """
    data = io.BytesIO()
    fig.savefig(data, format="png", dpi=DPI, metadata={"Software": None})
    return write_bytes(outputs("figures", f"{name.removesuffix('.png')}.png"), data.getvalue())


def to_array(pictures: Tensor) -> np.ndarray:
    """Pictures, shape (..., 3, H, W) in [0, 1], as an array of shape (..., H, W, 3) for matplotlib.

    Raises ValueError for another shape or values that are not finite.
    """
    if pictures.ndim < 3 or pictures.shape[-3] != 3:
        raise ValueError(f"pictures have shape (..., 3, H, W), not {tuple(pictures.shape)}: decode codes first")
    array = pictures.detach().float().cpu().movedim(-3, -1).numpy()
    if not np.isfinite(array).all():
        raise ValueError("a picture holds NaN or infinity: look at the codes it was decoded from")
    return array.clip(0, 1)
