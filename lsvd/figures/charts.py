"""Charts of the three properties: curves with bands, matrices of responses, forests of intervals, paths of ranks.

All but `panels` draw into axes that they are given, in the style of lsvd.figures.sheets. Numbers come in as arguments:
nothing is computed here but what is drawn.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike

from lsvd.figures.style import COLOURS, STYLE, styled
from lsvd.statistics.intervals import Interval

Look = Mapping[str, Any]  # of a line, as Axes.plot takes it
LOOKS: tuple[Look, ...] = tuple(STYLE["axes.prop_cycle"])
SCALES: dict[str, Look] = dict(zip(("coarse", "middle", "fine"), LOOKS, strict=False))
MARKS: tuple[Look, ...] = tuple(
    {"color": COLOURS[colour], "marker": marker}
    for colour, marker in (
        ("black", "x"), ("blue", "s"), ("green", "^"), ("purple", "v"), ("orange", "D"), ("vermilion", "o"),
        ("sky", "*"), ("green", "2"), ("orange", "+"), ("blue", "P"), ("purple", "1"), ("vermilion", "<"), ("sky", "h"),
        ("black", "p"),
    )
)  # fmt: skip
NULL: Look = {"color": "0.6", "linestyle": "-"}  # of what chance does as well


def panels(
    titles: Sequence[str], height: float, *, width: float = 3.1, rows: int = 1, **subplots: Any
) -> tuple[Figure, np.ndarray]:
    """A figure of one column for each title, `width` inches each, and its axes, shape (rows, columns).

    subplots: as plt.subplots. Raises ValueError for no titles.
    """
    if not titles:
        raise ValueError("there are no panels to draw: give one title for each")
    # a legend below a single panel needs room
    size = max(5.0, width * len(titles) + 0.6), height
    with styled():
        fig, axes = plt.subplots(rows, len(titles), figsize=size, squeeze=False, **subplots)
        for ax, title in zip(axes[0], titles, strict=True):
            ax.set_title(title)
    return fig, axes


@styled()
def curves(
    ax: Axes, x: ArrayLike, lines: Mapping[str, ArrayLike], looks: Iterable[Look] = LOOKS, **changes: Any
) -> None:
    """One line for each label against x, shape (n,), with a band where its ends are given.

    lines: values, shape (n,), or values, low and high ends, shape (3, n). looks: of each in turn; changes: of all, by
    the names that LOOKS has. Raises ValueError for shapes that do not fit, and fewer looks than lines.
    """
    x, looks = np.asarray(x), list(looks)
    if len(looks) < len(lines):
        raise ValueError(f"there are {len(looks)} looks for {len(lines)} lines: draw fewer, or give more")
    for (label, values), look in zip(lines.items(), looks, strict=False):
        values = np.asarray(values)
        if values.shape not in (x.shape, (3, *x.shape)):
            raise ValueError(f"{label!r} has shape {values.shape} for {len(x)} places: give one or three for each")
        value, *ends = values if values.ndim == 2 else [values]
        [line] = ax.plot(x, value, label=label, **{**look, **changes})
        if ends:
            ax.fill_between(x, *ends, color=line.get_color(), alpha=0.15, lw=0)


def spread(values: ArrayLike) -> np.ndarray:
    """A line with its band for `curves`: mean over samples and the range of 95% of them, (3, n), of values (n, B).

    Raises ValueError for another shape, or no samples.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or not values.shape[1]:
        raise ValueError(f"values of shape {values.shape} have no spread: give (places, samples), one sample at least")
    return np.concatenate([values.mean(1)[None], np.quantile(values, [0.025, 0.975], axis=1)])


@styled()
def matrix(
    ax: Axes, values: ArrayLike, marked: ArrayLike, rows: Sequence[str], columns: Sequence[str], bound: float
) -> AxesImage:
    """Values, shape (rows, columns), in colours from -bound (blue) to bound (red), grey where NaN; dots where `marked`.

    marked: bool, of the same shape. Returns the image, for a colour bar. Raises ValueError for shapes that do not fit,
    or a bound that is not above 0.
    """
    values, marked = np.asarray(values), np.asarray(marked)
    if not values.shape == marked.shape == (len(rows), len(columns)):
        raise ValueError(
            f"{len(rows)} rows and {len(columns)} columns do not fit values of shape {values.shape} and marks of shape "
            f"{marked.shape}: give one of each for each label"
        )
    if not bound > 0:
        raise ValueError(f"colours cannot end at {bound}: give a bound above 0")
    colours = plt.get_cmap("RdBu_r").with_extremes(bad="0.8")
    image = ax.imshow(values, cmap=colours, vmin=-bound, vmax=bound, aspect="auto", interpolation="nearest")
    down, across = marked.nonzero()
    ax.scatter(across, down, s=7, c="black")
    ax.set_xticks(range(len(columns)), columns, rotation=90, fontsize=6)
    ax.set_yticks(range(len(rows)), rows)
    ax.grid(False)
    return image


@styled()
def forest(
    ax: Axes,
    measured: Mapping[str, Interval],
    null: Mapping[str, Interval],
    looks: Mapping[str, Look],
    bold: Collection[str] = (),
) -> None:
    """Intervals by name, from the top down, each with its null below it in grey.

    looks: by name; bold: names of rows that sum others up, drawn thicker. Raises ValueError if own, null and looks do
    not have the same names, or have none.
    """
    if not measured or not measured.keys() == null.keys() == looks.keys():
        raise ValueError(
            f"{len(measured)} intervals, {len(null)} nulls and {len(looks)} looks: give one of each for each name"
        )
    for y, name in enumerate(measured):
        mark, width = ("D", 2.4) if name in bold else ("o", 1.2)
        pairs = ((null[name], y + 0.25, NULL["color"], "white"), (measured[name], y, looks[name]["color"], None))
        for bar, place, colour, face in pairs:
            ax.plot([bar.low, bar.high], [place] * 2, ls="-", color=colour, lw=width)
            ax.plot(bar.value, place, mark, color=colour, mfc=face or colour)
    ax.axvline(0, color="0.5", lw=1)
    ax.set_yticks(range(len(measured)), list(measured), fontsize=7)
    ax.yaxis.set_inverted(True)


@styled()
def paths(
    ax: Axes, x: ArrayLike, ranks: ArrayLike, kept: ArrayLike, names: Sequence[str], looks: Sequence[Look], at: int
) -> None:
    """Ranks of k triplets in B samples against x, the largest singular value on top, dotted where a path is lost.

    x: (n,); ranks, counted from 1, and kept, bool: (n, B, k); looks: k of them. names: k, "" for none; they stand
    beside the last x, clear of each other, at the mean rank that a triplet has at step `at`, where a line is drawn.
    Raises ValueError for shapes that do not fit, ranks below 1, or a step that does not exist.
    """
    x, ranks, kept = np.asarray(x), np.asarray(ranks, np.float64), np.asarray(kept, bool)
    shape = (len(x), *ranks.shape[1:2], len(names))
    if ranks.shape != shape or kept.shape != shape or len(looks) != len(names) or not ranks.size:
        raise ValueError(
            f"ranks of shape {ranks.shape} and marks of shape {kept.shape} do not fit {len(x)} places, {len(names)} "
            f"names and {len(looks)} looks: give (places, samples, paths), and one name and look for each path"
        )
    if not (ranks >= 1).all():
        raise ValueError("a rank is below 1 or NaN: count ranks from 1, the largest singular value")
    if not 0 <= at < len(x):
        raise ValueError(f"there is no step {at}: choose from 0 to {len(x) - 1}")
    for i, look in enumerate(looks):
        ax.plot(x, ranks[..., i], lw=1, alpha=0.35, **{**look, "linestyle": ":"})
        ax.plot(x, np.where(kept[..., i], ranks[..., i], np.nan), lw=1, **look)
    ax.axvline(x[at], color="0.8", lw=1)
    ax.set_yscale("log", base=2)
    ax.yaxis.set_major_formatter("{x:g}")
    # not invert_yaxis: on an axis that panels share, every other panel would turn it back
    ax.yaxis.set_inverted(True)
    labelled = [i for i, name in enumerate(names) if name]
    # a line of text is about a twentieth of the axis high
    places = _apart(np.log2(ranks[at].mean(0))[labelled], 0.05 * max(1.0, np.log2(ranks.max())))
    for i, place in zip(labelled, places, strict=True):
        style = {"fontsize": 6.5, "va": "center", "color": looks[i]["color"], "annotation_clip": False}
        ax.annotate(names[i], (x[-1], 2.0**place), xytext=(5, 0), textcoords="offset points", **style)


def _apart(places: np.ndarray, gap: float) -> np.ndarray:
    """Places, shape (n,), in the same order, each `gap` or more beyond the one before it."""
    moved, free = places.copy(), -np.inf
    for i in np.argsort(places, kind="stable"):
        moved[i] = max(places[i], free)
        free = moved[i] + gap
    return moved


@styled()
def trade_off(ax: Axes, points: Mapping[str, Sequence[tuple[Interval, Interval]]], *, cloud: bool = False) -> None:
    """Success against side effects: the points of each method, and a line through those that none of its own beats.

    points: (side effects, success) by method. cloud: many points, drawn small and without their intervals. Raises
    ValueError for no methods, or more than there are marks for.
    """
    _check_marks(points)
    for (name, curve), mark in zip(points.items(), MARKS, strict=False):
        x, y = (np.array([interval.value for interval in coordinates]) for coordinates in zip(*curve, strict=True))
        order = [i for i in np.lexsort((-y, x)) if not ((x <= x[i]) & (y > y[i])).any()]
        colour = mark["color"]
        ax.plot(x, y, ls="none", alpha=0.4 if cloud else 1, **mark)
        ax.plot(x[order], y[order], color=colour, ls="-", lw=1)
        ax.plot([], [], ls="-", lw=1, label=name, **mark)
        for side, success in () if cloud else curve:
            _cross(ax, side, success, colour)
    ax.set(xlabel="side effects (mean move of all other factors, 0 to 1)", ylabel="success (share of pictures)")
    ax.set(xlim=(0, None), ylim=(-0.03, 1.03))
    ax.legend(loc="lower right")


@styled()
def costs(ax: Axes, points: Mapping[str, tuple[float, Interval]], cost: str, gain: str) -> None:
    """What methods gain against what they cost, a number; those of one cost stand side by side. cost, gain: in words.

    Marks are those that `trade_off` gives the same methods in the same order. Raises ValueError as `trade_off`.
    """
    _check_marks(points)
    same = [x for x, _ in points.values()]
    step = max(same) / 80
    for i, ((name, (x, y)), mark) in enumerate(zip(points.items(), MARKS, strict=False)):
        place = x + step * (same[:i].count(x) - (same.count(x) - 1) / 2)
        ax.plot([place] * 2, [y.low, y.high], color=mark["color"], ls="-", lw=0.6)
        ax.plot([place], [y.value], ls="none", label=name, **mark)
    ax.set(xlabel=cost, ylabel=gain, xlim=(0, None))


def _cross(ax: Axes, x: Interval, y: Interval, colour: str) -> None:
    ax.plot([x.low, x.high], [y.value] * 2, color=colour, ls="-", lw=0.6)
    ax.plot([x.value] * 2, [y.low, y.high], color=colour, ls="-", lw=0.6)


def _check_marks(points: Mapping[str, Any]) -> None:
    if not 0 < len(points) <= len(MARKS):
        raise ValueError(f"there are {len(points)} methods, and marks for 1 to {len(MARKS)}: draw fewer, or some")
