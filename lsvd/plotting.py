"""One style for all figures, sheets and grids of pictures, and the framework figure.

Colours are those of Okabe and Ito, told apart by the colour-blind, and lines differ in dash as well, for print. Numbers
come in as arguments: nothing is computed here but what is drawn.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from lsvd.avi import Edit
from lsvd.backbones import Backbone
from lsvd.files import outputs, write_bytes

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

    The same figure gives the same bytes. Raises lsvd.files.WriteError if the folder cannot be written.
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
    with mpl.rc_context(STYLE):
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
    with mpl.rc_context(STYLE):
        ax.set_title(title, fontsize=10)
    fig.set_size_inches(width, height)
    ax.set_position((0, 0, 1, 1))
    box = ax.get_tightbbox().transformed(fig.dpi_scale_trans.inverted())
    left, bottom, right, top = (0.04 + max(0, x) for x in (-box.x0, -box.y0, box.x1 - width, box.y1 - height))
    # to the twentieth of an inch: stored notebooks tell a figure's size
    whole = np.ceil(20 * np.array([left + width + right, bottom + height + top])) / 20
    fig.set_size_inches(whole)
    ax.set_position((left / whole[0], bottom / whole[1], width / whole[0], height / whole[1]))


def framework(edit: Edit, backbone: Backbone, index: int = 0, channel: int = 0) -> Figure:
    """The paper's Figure 1 from a run: two trajectories, SVD of a channel, integration, edited continuation.

    The same colour frames the same code: x blue, z vermilion, y green. Noisy codes are decoded as they are.
    index: which picture of the batch; channel: the one whose decomposition is drawn (all are integrated). Raises
    ValueError if either does not exist, or the edit's trajectories were not drawn whole.
    """
    edit.source.final, edit.target.final  # noqa: B018 - raise if they are not there
    channels = edit.solution.y.shape[-3]
    for what, number, count in (("picture", index, len(edit.edited.final)), ("channel", channel, channels)):
        if not 0 <= number < count:
            raise ValueError(f"there is no {what} {number}: choose from 0 to {count - 1}")
    cut, last = edit.source.index(edit.t), len(edit.source.timesteps)
    z_cut = edit.target.index(edit.t_target)
    shown = np.unique(np.r_[np.linspace(0, cut, 4), np.linspace(cut, last, 5)].round().astype(int)).tolist()
    cut_column = shown.index(cut)
    z_shown = [z_cut if step == cut else step for step in shown]

    def pictures(walk, steps):
        return to_array(backbone.decode(walk.codes[steps, index]))

    def times(walk, steps):
        # the code after the last step is x_0
        return ["x₀" if i == last else f"t = {walk.timesteps[i]:g}" for i in steps]

    with mpl.rc_context(STYLE):
        fig = plt.figure(figsize=(1.15 * len(shown) + 1.4, 7.4))
        top, middle, bottom = fig.subfigures(3, 1, height_ratios=[2.1, 2.2, 1.25])
        source, target = top.subplots(2, len(shown), squeeze=False)
        edited = bottom.subplots(1, len(shown), squeeze=False)[0]
        lines = ((source, edit.source, shown, "blue", "source"), (target, edit.target, z_shown, "vermilion", "target"))
        for axes, walk, steps, colour, name in lines:
            _filmstrip(axes, pictures(walk, steps), times(walk, steps))
            _frame(axes[cut_column], COLOURS[colour])
            _row_label(axes[0], name, walk.settings.prompts[index])
        rest = [f"y for x, t = {edit.t:g}", *times(edit.source, shown[cut_column + 1 :])]
        _filmstrip(edited[cut_column:], pictures(edit.edited, [i - cut for i in shown[cut_column:]]), rest)
        for ax in edited[:cut_column]:
            ax.set_axis_off()
        _frame(edited[cut_column], COLOURS["green"])
        _row_label(edited[0] if cut_column == 0 else edited[cut_column], "edited", edit.edited.settings.prompts[index])

        _integration(middle, edit, index, channel)
    return fig


def _integration(figure: SubFigure, edit: Edit, index: int, channel: int) -> None:
    """Draw x = U S V^T and z = U' S' V'^T of one channel, the spectrum learned, and y, framed as in the filmstrips."""
    solution = edit.solution
    codes = {
        "x": (solution.x, edit.source.at(edit.t)[index, channel], "blue", "σ", ""),
        "z": (solution.z, edit.target.at(edit.t_target)[index, channel], "vermilion", "σ′", "′"),
    }
    y = solution.y[index, channel].float().cpu()
    bound = float(max(y.abs().max(), *(code.float().abs().max() for _, code, *_ in codes.values())))
    layout = figure.add_gridspec(2, 6, width_ratios=[1, 0.6, 0.8, 1, 1.9, 1.2])
    for row, (name, (svd, code, colour, sigma, prime)) in enumerate(codes.items()):
        whole = figure.add_subplot(layout[row, 0])
        place = f"t = {edit.t if name == 'x' else edit.t_target:g}"
        _matrix(whole, code, bound, f"{name}, {place}\nchannel {channel}")
        _frame(whole, COLOURS[colour])
        _matrix(figure.add_subplot(layout[row, 1]), svd.U[index, channel], None, f"U{prime}")
        bars = figure.add_subplot(layout[row, 2])
        S = svd.S[index, channel].cpu().numpy()
        bars.bar(range(1, len(S) + 1), S, color=COLOURS[colour])
        bars.set_title(f"{sigma}, top {len(S)}")
        bars.set_xticks([])
        bars.grid(False, axis="x")
        _matrix(figure.add_subplot(layout[row, 3]), svd.Vh[index, channel], None, f"V{prime}ᵀ")
    spectrum = figure.add_subplot(layout[:, 4])
    for values, before, colour, name, sigma in (
        (solution.a, solution.x.S, "blue", "a, for x", "σ of x"),
        (solution.b, solution.z.S, "vermilion", "b, for z", "σ′ of z"),
    ):
        values, before = (part[index, channel].cpu().numpy() for part in (values, before))
        places = range(1, len(values) + 1)
        spectrum.plot(places, before, color=COLOURS[colour], marker="o", mfc="white", ls=":", label=sigma)
        spectrum.plot(places, values, color=COLOURS[colour], marker="o", ls="-", label=name)
    spectrum.set_xlabel("triplet")
    spectrum.set_title("the spectrum S = (a, b)")
    spectrum.xaxis.get_major_locator().set_params(integer=True)
    spectrum.legend()
    result = figure.add_subplot(layout[:, 5])
    _matrix(
        result,
        y,
        bound,
        f"y, t = {edit.t:g}, channel {channel}\n= Σ a u vᵀ + Σ b u′ v′ᵀ" + " + rest" * edit.config.keep_rest,
    )
    _frame(result, COLOURS["green"])


def _matrix(ax: Axes, values: Tensor, bound: float | None, title: str) -> None:
    """A matrix as a heat map, 0 in the middle of the scale."""
    values = values.detach().float().cpu().numpy()
    bound = bound or float(abs(values).max(initial=0)) or 1.0
    ax.imshow(values, cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="nearest")
    ax.set_title(title)
    _bare(ax)


def _filmstrip(axes: Sequence[Axes], pictures: np.ndarray, titles: Sequence[str]) -> None:
    for ax, picture, title in zip(axes, pictures, titles, strict=True):
        ax.imshow(picture)
        ax.set_title(title, fontsize=8)
        _bare(ax)


def _bare(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    ax.spines[:].set_visible(False)


def _frame(ax: Axes, colour: str) -> None:
    ax.spines[:].set(visible=True, color=colour, linewidth=2.5)


def _row_label(ax: Axes, name: str, prompt: str) -> None:
    """The row's name and prompt beside its first picture, the prompt broken into short lines."""
    words, lines = f"“{prompt}”".split(), [""]
    for word in words:
        lines[-1:] = [f"{lines[-1]} {word}".strip()] if len(lines[-1]) + len(word) < 16 else [lines[-1], word]
    ax.set_ylabel("\n".join([name, *lines]), rotation=0, ha="right", va="center", fontsize=8)
