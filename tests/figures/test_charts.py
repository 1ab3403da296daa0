"""Charts draw the numbers they are given, each where it belongs, and refuse those that do not fit."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.colors import to_hex, to_rgba
from numpy.testing import assert_allclose

from lsvd.figures import charts
from lsvd.figures.style import COLOURS
from lsvd.statistics.intervals import Interval


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.fixture
def ax():
    return plt.figure(figsize=(4, 3)).subplots()


def test_panels_have_one_column_for_each_title():
    fig, axes = charts.panels(["a", "b", "c"], 4.0, width=3.0, rows=2, sharex="col")
    assert axes.shape == (2, 3)
    assert [ax.get_title() for ax in axes.flat] == ["a", "b", "c", "", "", ""]
    assert tuple(fig.get_size_inches()) == pytest.approx((9.6, 4))
    axes[1, 0].set_xlim(0, 7)
    assert axes[0, 0].get_xlim() == (0, 7)
    # the style is theirs even if no notebook set it
    assert not axes[0, 0].spines["top"].get_visible()


def test_a_single_panel_is_as_wide_as_a_legend():
    fig, axes = charts.panels(["a"], 3.0)
    assert axes.shape == (1, 1) and fig.get_size_inches()[0] == 5
    with pytest.raises(ValueError, match="no panels"):
        charts.panels([], 3.0)


def test_curves_have_their_looks_and_bands(ax):
    x = torch.tensor([800, 400, 0])
    with_band = torch.tensor([[1.0, 2.0, 3.0], [0.5, 1.5, 2.5], [1.5, 2.5, 4.0]])
    charts.curves(ax, x, {"coarse": with_band, "fine": [3.0, 3.0, 3.0]})
    first, second = ax.lines
    assert [line.get_label() for line in ax.lines] == ["coarse", "fine"]
    assert_allclose(first.get_xdata(), [800, 400, 0])
    assert_allclose(first.get_ydata(), [1, 2, 3])
    assert [line.get_color() for line in ax.lines] == [COLOURS["blue"], COLOURS["vermilion"]]
    assert (first.get_linestyle(), second.get_linestyle()) == ("-", "--")
    [band] = [each for each in ax.collections if isinstance(each, FillBetweenPolyCollection)]
    assert_allclose(band.get_facecolor()[0], to_rgba(COLOURS["blue"], 0.15))
    corners = band.get_paths()[0].vertices
    for place, low, high in ((800, 0.5, 1.5), (400, 1.5, 2.5), (0, 2.5, 4.0)):
        ends = corners[corners[:, 0] == place, 1]
        assert (ends.min(), ends.max()) == (low, high)


def test_curves_can_look_otherwise(ax):
    looks = [charts.SCALES["fine"], charts.NULL]
    charts.curves(ax, [0, 1], {"fine": [1, 2], "none": [0, 1]}, looks, linestyle=":", marker="o")
    assert [to_hex(line.get_color()) for line in ax.lines] == [COLOURS["green"].lower(), to_hex("0.6")]
    assert {(line.get_linestyle(), line.get_marker()) for line in ax.lines} == {(":", "o")}


def test_the_spread_is_that_of_samples():
    values = torch.arange(101.0).repeat(2, 1) * torch.tensor([[1.0], [-2.0]])
    assert_allclose(charts.spread(values), [[50, -100], [2.5, -195], [97.5, -5]])
    for shape in ((3,), (3, 0), (3, 2, 1)):
        with pytest.raises(ValueError, match="have no spread"):
            charts.spread(np.zeros(shape))


def test_bad_curves(ax):
    with pytest.raises(ValueError, match=r"'a' has shape \(2,\) for 3 places"):
        charts.curves(ax, [1, 2, 3], {"a": [1, 2]})
    with pytest.raises(ValueError, match=r"'a' has shape \(2, 3\)"):
        charts.curves(ax, [1, 2, 3], {"a": np.zeros((2, 3))})
    with pytest.raises(ValueError, match="1 looks for 2 lines"):
        charts.curves(ax, [1], {"a": [1], "b": [1]}, charts.LOOKS[:1])
    with pytest.raises(ValueError, match="7 looks for 8 lines"):
        charts.curves(ax, [1], {str(i): [1] for i in range(8)})


def test_a_matrix_has_its_labels_colours_and_marks(ax):
    values = torch.tensor([[0.2, -0.1, float("nan")], [0.0, 0.05, -0.3]])
    marked = torch.tensor([[True, False, False], [False, False, True]])
    image = charts.matrix(ax, values, marked, ["1", "2-4"], ["age", "hair", "smile"], 0.2)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["age", "hair", "smile"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["1", "2-4"]
    assert image.get_clim() == (-0.2, 0.2)
    assert_allclose(image.get_array().filled(np.nan), values)
    red, grey, middle = (image.cmap(image.norm(np.ma.masked_invalid([v])))[0] for v in (0.2, np.nan, 0.0))
    assert red[0] > red[2] + 0.2 and to_hex(grey) == to_hex("0.8") and min(middle[:3]) > 0.9
    [dots] = ax.collections
    # across, down: the first row stands on top
    assert dots.get_offsets().tolist() == [[0, 0], [2, 1]]
    assert ax.yaxis_inverted()


def test_a_matrix_without_marks(ax):
    charts.matrix(ax, np.zeros((1, 2)), np.zeros((1, 2), bool), ["1"], ["a", "b"], 1.0)
    assert len(ax.collections[0].get_offsets()) == 0


def test_bad_matrices(ax):
    values, marked = np.zeros((2, 3)), np.zeros((2, 3), bool)
    for rows, columns, marks in ((2, 2, marked), (3, 2, marked), (2, 3, marked[:1])):
        with pytest.raises(ValueError, match=r"do not fit values of shape \(2, 3\)"):
            charts.matrix(ax, values, marks, ["r"] * rows, ["c"] * columns, 1.0)
    for bound in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="a bound above 0"):
            charts.matrix(ax, values, marked, ["r"] * 2, ["c"] * 3, bound)


def test_a_forest_has_a_row_for_each_name(ax):
    own = {"age": Interval(0.5, 0.2, 0.7), "mean middle": Interval(0.1, 0.0, 0.3)}
    null = {"age": Interval(0.4, 0.3, 0.5), "mean middle": Interval(-0.2, -0.4, -0.1)}
    charts.forest(ax, own, null, dict.fromkeys(own, charts.SCALES["middle"]), bold=["mean middle"])
    assert [t.get_text() for t in ax.get_yticklabels()] == list(own)
    assert ax.yaxis_inverted()
    spans = {(tuple(line.get_xdata()), line.get_ydata()[0]): line for line in ax.lines if len(line.get_xdata()) == 2}
    for y, name in enumerate(own):
        mine, chance = spans[(own[name].low, own[name].high), y], spans[(null[name].low, null[name].high), y + 0.25]
        assert mine.get_color() == COLOURS["vermilion"] and chance.get_color() == "0.6"
        assert mine.get_linewidth() == (2.4 if name == "mean middle" else 1.2)
    points = [(line.get_xdata()[0], line.get_marker()) for line in ax.lines if len(line.get_xdata()) == 1]
    assert points == [(0.4, "o"), (0.5, "o"), (-0.2, "D"), (0.1, "D")]
    assert any(list(line.get_xdata()) == [0, 0] for line in ax.lines), "a line at 0"


def test_bad_forests(ax):
    one = {"age": Interval(0, 0, 0)}
    for own, null, looks in (({}, {}, {}), (one, {}, {"age": {}}), (one, one, {}), (one, {"x": one["age"]}, one)):
        with pytest.raises(ValueError, match="one of each for each name"):
            charts.forest(ax, own, null, looks)


def test_paths_are_dotted_where_they_are_lost(ax):
    # two samples, two triplets
    ranks = torch.tensor([[[1, 2], [1, 3]], [[1, 2], [1, 2]], [[2, 1], [1, 2]]])
    kept = torch.ones(3, 2, 2, dtype=torch.bool)
    kept[2, 0, 1] = False
    charts.paths(ax, [900, 500, 0], ranks, kept, ["age", ""], [charts.SCALES["middle"], charts.NULL], at=1)
    drawn = [(line.get_color(), line.get_linestyle(), line.get_ydata().tolist()) for line in ax.lines[:-1]]
    for i, (colour, dashes) in enumerate(((COLOURS["vermilion"], "--"), ("0.6", "-"))):
        for sample in (0, 1):
            whole = ranks[:, sample, i].tolist()
            assert (colour, ":", whole) in drawn
            [solid] = [y for *look, y in drawn[4 * i + 2 : 4 * i + 4][sample : sample + 1] if look == [colour, dashes]]
            assert_allclose(solid, [y if sure else np.nan for y, sure in zip(whole, kept[:, sample, i], strict=True)])
    assert list(ax.lines[-1].get_xdata()) == [500, 500], "a line where the names hold"
    [name] = ax.texts
    # beside the last x, at the rank it has where the line stands, in its colour
    assert name.get_text() == "age" and name.xy == (0, 1) and name.get_color() == COLOURS["vermilion"]
    assert ax.get_yscale() == "log" and ax.yaxis_inverted()


@pytest.mark.parametrize("panels", [1, 2, 3])
def test_the_largest_is_on_top_in_all_panels(panels):
    _, axes = charts.panels(["x"] * panels, 3.0, sharey=True)
    for ax in axes[0]:
        charts.paths(ax, [1, 0], np.ones((2, 1, 1)), np.ones((2, 1, 1)), ["age"], [charts.NULL], at=0)
    assert all(ax.yaxis_inverted() for ax in axes[0])


@pytest.mark.parametrize("ranks", [range(1, 9), [1, 2, 3, 9, 10, 11, 12, 16], [1, 2, 40, 41, 42, 43, 44, 64]])
def test_names_of_paths_do_not_overlap(ax, ranks):
    ranks = np.tile(ranks, (2, 3, 1))
    charts.paths(ax, [1, 0], ranks, ranks > 0, [f"factor {i}" for i in range(8)], [charts.NULL] * 8, at=0)
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    # from the top down in the order of the ranks, at most a pixel into each other
    assert all(above.y0 >= below.y1 - 1 for above, below in zip(boxes, boxes[1:], strict=False))
    assert ax.texts[0].xy == (0, 1) and ax.texts[1].xy[1] == pytest.approx(2)


def test_bad_paths(ax):
    looks, kept = [charts.NULL] * 2, np.ones((3, 1, 2), bool)
    for shape, marks, names in (
        ((3, 1, 2), kept, ["a"]),
        ((3, 1, 1), kept, ["a", "b"]),
        ((2, 1, 2), kept[:2], ["a", "b"]),
        ((3, 2), kept[:, 0], ["a", "b"]),
        ((3, 4, 2), kept, ["a", "b"]),
        ((3, 0, 2), kept[:, :0], ["a", "b"]),
    ):
        with pytest.raises(ValueError, match="one name and look for each path"):
            charts.paths(ax, [2, 1, 0], np.ones(shape), marks, names, looks, at=0)
    for rank in (0.0, float("nan")):
        with pytest.raises(ValueError, match="count ranks from 1"):
            charts.paths(ax, [2, 1, 0], np.full((3, 1, 2), rank), kept, ["a", "b"], looks, at=0)
    for at in (-1, 3):
        with pytest.raises(ValueError, match=f"there is no step {at}: choose from 0 to 2"):
            charts.paths(ax, [2, 1, 0], np.ones((3, 1, 2)), kept, ["a", "b"], looks, at=at)


def test_scales_are_told_apart_by_colour_and_dash():
    assert list(charts.SCALES) == ["coarse", "middle", "fine"]
    for part in ("color", "linestyle"):
        assert len({look[part] for look in charts.SCALES.values()}) == 3


def test_a_trade_off_joins_what_no_point_of_its_own_beats():
    def at(side, success):
        return Interval(side, side - 0.01, side + 0.01), Interval(success, success - 0.1, success + 0.1)

    points = {"AVI": [at(0.3, 1.0), at(0.1, 0.5), at(0.2, 0.4)], "lerp": [at(0.2, 0.6)]}
    for cloud in (True, False):
        _, ax = plt.subplots()
        charts.trade_off(ax, points, cloud=cloud)
        joined = ax.lines[1]
        assert joined.get_xdata().tolist() == [0.1, 0.3] and joined.get_ydata().tolist() == [0.5, 1.0]
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["AVI", "lerp"]
        assert len(ax.lines) == 3 * 2 + (0 if cloud else 2 * 4)
        assert "side effects" in ax.get_xlabel() and "success" in ax.get_ylabel()


def test_a_trade_off_of_nothing_or_too_much_is_refused():
    _, ax = plt.subplots()
    for count in (0, len(charts.MARKS) + 1):
        with pytest.raises(ValueError, match="marks for"):
            charts.trade_off(ax, {str(i): [] for i in range(count)})
        with pytest.raises(ValueError, match="marks for"):
            charts.costs(ax, {str(i): (1.0, Interval(0.5, 0.4, 0.6)) for i in range(count)}, "cost", "gain")


def test_costs_have_the_marks_of_a_trade_off():
    _, ax = plt.subplots()
    points = {name: (cost, Interval(0.8, 0.7, 0.9)) for name, cost in (("AVI", 36.0), ("lerp", 80.0), ("SEGA", 80.0))}
    charts.costs(ax, points, "evaluations", "success")
    bars, marks = ax.lines[::2], ax.lines[1::2]
    assert [line.get_label() for line in marks] == list(points)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("evaluations", "success")
    assert [line.get_marker() for line in marks] == [mark["marker"] for mark in charts.MARKS[:3]]
    assert list(bars[0].get_ydata()) == [0.7, 0.9]
    assert [list(line.get_xdata()) for line in marks] == [[36.0], [79.5], [80.5]]  # side by side
