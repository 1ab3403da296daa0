"""Sheets and grids of pictures, with labels."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lsvd.figures.style import styled, to_array


def sheet(
    pictures: Tensor, titles: Sequence[str] | None = None, columns: int = 8, size: float = 0.9, title: str = ""
) -> Figure:
    """Pictures, shape (N, 3, H, W), in rows of `columns`, each `size` inches wide, with a title above each if given.

    Raises ValueError for no pictures or another number of titles.
    """
    array = to_array(pictures)
    if array.ndim != 4 or not len(array):
        raise ValueError(f"a sheet takes pictures of shape (N, 3, H, W), not {tuple(pictures.shape)}")
    if titles is not None and len(titles) != len(array):
        raise ValueError(f"there are {len(titles)} titles for {len(array)} pictures: give one each")
    columns = min(columns, len(array))
    cells = [divmod(i, columns) for i in range(len(array))]
    fig, ax, corners = _mosaic(array, cells, size, titled=titles is not None)
    for text, (top, left) in zip(titles or (), corners, strict=titles is not None):
        ax.text(left + array.shape[2] / 2, top - 0.02 * array.shape[1], text, ha="center", va="bottom", fontsize=7)
    _fit(fig, ax, size / array.shape[2], title)
    return fig


def grid(
    pictures: Tensor,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    size: float = 0.9,
    title: str = "",
    groups: Sequence[str] = (),
) -> Figure:
    """Pictures, shape (R, C, 3, H, W), as a grid with a label for each row and column, each `size` inches wide.

    groups: names of groups of columns, which all have the labels `columns`; each stands above the middle one of its
    own. Raises ValueError for another shape, another number of labels, or groups of columns without labels.
    """
    array = to_array(pictures)
    if array.ndim != 5 or 0 in array.shape:
        raise ValueError(f"a grid takes pictures of shape (R, C, 3, H, W), not {tuple(pictures.shape)}")
    if groups:
        if not columns:
            raise ValueError("groups of columns without labels cannot be told apart: label the columns of a group")
        middle = len(columns) // 2
        columns = [f"{g}\n{label}" if i == middle else label for g in groups for i, label in enumerate(columns)]
    for what, labels, count in (("rows", rows, array.shape[0]), ("columns", columns, array.shape[1])):
        if labels is not None and len(labels) != count:
            raise ValueError(f"there are {len(labels)} labels for {count} {what}: give one each")
    h, w = array.shape[2:4]
    fig, ax, corners = _mosaic(array.reshape(-1, *array.shape[2:]), list(np.ndindex(array.shape[:2])), size)
    if rows is not None:
        ax.set_yticks([top + h / 2 for top, left in corners if left == 0], rows)
    if columns is not None:
        ax.set_xticks([left + w / 2 for top, left in corners if top == 0], columns)
    _fit(fig, ax, size / w, title)
    return fig


def _mosaic(
    pictures: np.ndarray, cells: list[tuple[int, int]], size: float, titled: bool = False
) -> tuple[Figure, Axes, list[tuple[int, int]]]:
    """Paint pictures into the cells of one white canvas; returns figure, axes, and each picture's top left pixel.

    One image is drawn, not one a cell: a sheet of 64 takes no longer than a picture. `titled` leaves room for a line of
    text above each row.
    """
    h, w = pictures.shape[1:3]
    gap = max(1, round(0.04 * w))
    above = round(0.2 * w / size) if titled else 0  # a line of text is as high on small pictures as on large ones
    corners = [(above + row * (above + h + gap), column * (w + gap)) for row, column in cells]
    height, width = (max(starts) + side for starts, side in zip(zip(*corners, strict=True), (h, w), strict=True))
    canvas = np.ones((height, width, 3), dtype=np.float32)
    for picture, (top, left) in zip(pictures, corners, strict=True):
        canvas[top : top + h, left : left + w] = picture
    with styled():
        fig, ax = plt.subplots(layout="none")
        ax.imshow(canvas, extent=(0, width, height, 0))
        ax.grid(False)
        ax.spines[:].set_visible(False)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    return fig, ax, corners


def _fit(fig: Figure, ax: Axes, scale: float, title: str) -> None:
    """Give the figure a title and the size of its canvas, `scale` inches a pixel, and of the labels about it."""
    height, width = (side * scale for side in ax.images[0].get_size())
    with styled():
        ax.set_title(title, fontsize=10)
    fig.set_size_inches(width, height)
    ax.set_position((0, 0, 1, 1))
    box = ax.get_tightbbox().transformed(fig.dpi_scale_trans.inverted())
    left, bottom, right, top = (0.04 + max(0, x) for x in (-box.x0, -box.y0, box.x1 - width, box.y1 - height))
    # to the twentieth of an inch: stored notebooks tell a figure's size
    whole = np.ceil(20 * np.array([left + width + right, bottom + height + top])) / 20
    fig.set_size_inches(whole)
    ax.set_position((left / whole[0], bottom / whole[1], width / whole[0], height / whole[1]))
