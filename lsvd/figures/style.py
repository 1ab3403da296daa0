"""One style for all figures, and how they are written.

Colours are those of Okabe and Ito, told apart by the colour-blind, and lines differ in dash as well, for print.
"""

import io
import sys
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from lsvd.paths import outputs
from lsvd.storage.files import write_steady
from lsvd.storage.pictures import encoded
from lsvd.storage.steady import same_picture

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


DPI = 160  # of written figures
# Of those that notebooks store, which are coarse: every one lies in outputs/figures as well.
INLINE_DPI = {"jpeg": 72, "png": 90}


def styled() -> AbstractContextManager[None]:
    """A context, or decorator, in which matplotlib's defaults and STYLE hold, whatever a matplotlibrc says."""
    return mpl.style.context(STYLE, after_reset=True)


def use_style() -> None:
    """Set matplotlib's defaults and STYLE from here on; a notebook calls it once.

    In a notebook, figures are stored as `save` writes them, but coarser, and sheets as JPEG.
    """
    mpl.rcdefaults()
    mpl.rcParams.update(STYLE)
    # without IPython loaded, this is not a notebook
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None and shell.display_formatter is not None:
        _store_small(shell)


def save(fig: Figure, name: str, reach: int = 1) -> Path:
    """Write a figure to outputs/figures, whole or not at all: NAME.webp if it holds pictures, else NAME.png.

    The same figure gives the same bytes; one that differs from the picture there by rounding only leaves it as it is.
    reach: by how many pixels rounding may move its lines (lsvd.storage.steady.same_picture). Returns the path. Raises
    lsvd.storage.files.WriteError if the folder cannot be written.
    """
    kind = "webp" if holds_pictures(fig) else "png"
    same = partial(same_picture, reach=reach)
    return write_steady(outputs("figures", f"{name}.{kind}"), encoded(_painted(fig, DPI), kind), same)


def holds_pictures(fig: Figure) -> bool:
    """Whether a figure shows pictures, arrays of shape (H, W, 3 or 4), beside lines, text and heat maps."""
    return any(np.ndim(image.get_array()) == 3 for ax in fig.findobj(Axes) for image in ax.images)


def _painted(fig: Figure, dpi: int, **changes: str) -> Image.Image:
    with styled():
        fig.savefig(data := io.BytesIO(), format="png", dpi=dpi, **changes)
    return Image.open(data).convert("RGB")


def _store_small(shell: Any) -> None:
    """Have a notebook store each figure once: pictures as JPEG, charts as PNG, each at its INLINE_DPI."""
    # the inline backend sets formats of its own when it is loaded, and only then
    plt.switch_backend(mpl.get_backend())
    for kind in INLINE_DPI:

        def stored(fig: Figure, kind: str = kind) -> bytes | None:
            if holds_pictures(fig) != (kind == "jpeg"):
                return None
            return encoded(_painted(fig, INLINE_DPI[kind], bbox_inches="tight"), kind)

        shell.display_formatter.formatters[f"image/{kind}"].for_type(Figure, stored)


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
