"""Figures are drawn from what they are given, and land in outputs/figures whole or not at all."""

import ast
import dataclasses
import io
import os
import subprocess
import sys
import tempfile

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from placing import place
from tiny import text_to_image

from lsvd.avi.edit import edit_prompt
from lsvd.figures import charts, framework, sheets, style
from lsvd.statistics.intervals import Interval
from lsvd.storage.files import WriteError


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"


def ramp(*shape):
    return torch.linspace(0, 1, int(np.prod(shape))).view(shape)


def drawn(fig):
    return fig.axes[0].images[0].get_array()


def test_pictures_and_charts_are_saved_as_what_suits_them(outputs):
    chart, ax = plt.subplots()
    ax.plot([0, 1, 0])
    matrix, ax = plt.subplots()
    ax.imshow(np.eye(3))
    both = plt.figure()
    left, right = both.subfigures(1, 2)
    left.subplots().plot([0, 1])
    right.subplots().imshow(np.zeros((4, 4, 3)))
    figures = {"chart": (chart, "png"), "matrix": (matrix, "png"), "both": (both, "webp")}
    figures["sheet"] = (sheets.sheet(ramp(3, 3, 8, 8)), "webp")
    for name, (fig, kind) in figures.items():
        path = style.save(fig, name)
        assert path == outputs / "figures" / f"{name}.{kind}"
        with Image.open(path) as image:
            assert image.format.lower() == kind and np.ptp(np.asarray(image.convert("L"))) > 200


def test_a_saved_figure_looks_as_it_was_drawn_and_has_the_same_bytes_every_time(outputs):
    def pictures():
        coarse = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        return sheets.sheet(torch.nn.functional.interpolate(coarse, size=64, mode="bilinear"), size=1.5)

    def curves():
        fig, ax = charts.panels(["one"], 3)
        charts.curves(ax[0, 0], range(9), {"a": np.stack([np.arange(9)] * 3) + [[0], [-1], [1]]})
        return fig

    def heat():
        fig, ax = charts.panels(["one"], 3)
        charts.matrix(ax[0, 0], np.linspace(-1, 1, 25).reshape(5, 5), np.eye(5), "01234", "xxxxx", 1.0)
        return fig

    for draw, mean, most in ((pictures, 2, 100), (curves, 1, 30), (heat, 1, 30)):
        path = style.save(draw(), "x")
        first = path.read_bytes()
        draw().savefig(plain := io.BytesIO(), format="png", dpi=style.DPI)
        with Image.open(plain) as image, Image.open(path) as written:
            differences = np.abs(np.asarray(image.convert("RGB"), int) - np.asarray(written.convert("RGB"), int))
        assert differences.mean() < mean and differences.max() < most, "more is lost than the eye misses"
        assert len(first) < 0.6 * len(plain.getvalue())
        assert style.save(draw(), "x").read_bytes() == first


SETTINGS = {
    "pictures": {"image.origin": "lower", "image.interpolation": "nearest", "image.cmap": "jet"},
    "sizes": {"figure.dpi": 150, "savefig.dpi": 40, "savefig.bbox": "tight", "savefig.transparent": True},
    "text": {"font.size": 20, "font.family": "monospace", "axes.titlesize": 30, "text.color": "red"},
    "lines": {"lines.linewidth": 9, "axes.grid": False, "path.sketch": (1, 100, 2), "legend.loc": "upper left"},
    "colours": {"axes.prop_cycle": mpl.cycler(color=["red"]), "axes.facecolor": "black", "savefig.facecolor": "red"},
}


@pytest.fixture(scope="module")
def every_figure():
    """A function that draws one figure of each kind, and their bytes under matplotlib's defaults."""
    edit = edit_prompt(text_to_image(), "a", "an", seeds=1, **place(steps=3, tx=0.5, whole=True))
    decoded = {name: text_to_image().decode(codes) for name, codes in framework.shown(edit).items()}

    def draw():
        yield sheets.grid(ramp(2, 2, 3, 8, 8), ["a", "b"], ["c", "d"], title="title")
        yield framework.framework(edit, decoded)
        fig, (axes,) = charts.panels(["a", "b", "c"], 3)
        charts.curves(axes[0], [0, 1, 2], {"a": [1, 2, 3], "b": [3, 1, 2]})
        charts.matrix(axes[1], np.eye(2), np.eye(2, dtype=bool), ["x", "y"], ["z", "w"], 1.0)
        charts.trade_off(axes[2], {"a": [(Interval(0.1, 0.0, 0.2), Interval(0.5, 0.4, 0.6))]})
        yield fig

    def written():
        return [style.save(fig, "x").read_bytes() for fig in draw()]

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder, mpl.rc_context():
        patch.setenv("LSVD_OUTPUTS", folder)
        mpl.rcdefaults()
        return written, written()


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_settings_of_a_matplotlibrc_do_not_get_in(outputs, settings, every_figure):
    written, expected = every_figure
    with mpl.rc_context(settings):
        own = {key: mpl.rcParams[key] for key in settings}
        assert written() == expected
        assert own == {key: mpl.rcParams[key] for key in settings}, "a person's settings stay"
        style.use_style()
        assert {key: mpl.rcParams[key] for key in style.STYLE} == {**style.STYLE, "figure.figsize": [5.5, 3.4]}
        assert mpl.rcParams["image.origin"] == "upper" and mpl.rcParams["figure.dpi"] == 100


def test_a_notebook_stores_each_figure_once_and_small(outputs):
    source = """
from IPython.core.interactiveshell import InteractiveShell
import sys
shell = InteractiveShell.instance()
import torch
import matplotlib.pyplot as plt
from lsvd.figures import sheets, style
plt.rcParams["figure.dpi"] = 150
style.use_style()
noise = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
for fig in (sheets.sheet(noise), plt.figure()):
    data, _ = shell.display_formatter.format(fig)
    assert data.pop("text/plain").startswith("<Figure size ")
    print({kind: len(content) for kind, content in data.items()})
    saved = style.save(fig, "x").stat().st_size
    assert max(map(len, data.values())) < saved, (saved, "the stored picture is the larger one")
"""
    environment = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    stored = [ast.literal_eval(line) for line in done.stdout.splitlines()]
    assert [list(kinds) for kinds in stored] == [["image/jpeg"], ["image/png"]]


def test_an_outputs_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "outputs").write_bytes(b"")
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path / "outputs"))
    with pytest.raises(WriteError, match="cannot write .*sheet.webp: a file stands"):
        style.save(sheets.sheet(ramp(1, 3, 4, 4)), "sheet")


def test_sheet_puts_each_picture_in_its_place():
    pictures = torch.stack([torch.full((3, 10, 10), i / 10) for i in range(5)])
    canvas = drawn(sheets.sheet(pictures, columns=3))
    assert canvas.shape == (21, 32, 3), "rows and columns of 10 pixels, 1 between them, none around"
    for i in range(5):
        row, column = divmod(i, 3)
        assert np.allclose(canvas[row * 11 : row * 11 + 10, column * 11 : column * 11 + 10], i / 10)
    assert np.all(canvas[11:, 22:] == 1) and np.all(canvas[10] == 1) and np.all(canvas[:, 10] == 1)
    titled = sheets.sheet(pictures, [f"seed {i}" for i in range(5)], columns=3, title="seeds")
    assert [t.get_text() for t in titled.axes[0].texts] == [f"seed {i}" for i in range(5)]
    assert titled.axes[0].get_title() == "seeds"
    for i, text in enumerate(titled.axes[0].texts):
        x, y = text.get_position()
        # right below the title, its own picture
        assert np.allclose(drawn(titled)[int(y) + 1, int(x)], i / 10)


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("pixels", [8, 128])
@pytest.mark.parametrize("size", [0.5, 0.9, 2.0])
def test_figures_are_as_large_as_what_is_in_them(count, pixels, size):
    """No blank bands about the pictures, nothing cut off, and pictures as wide as asked for."""
    black, names = torch.zeros(count, 3, pixels, pixels), [f"a long name {i}" for i in range(count)]
    figures = [
        sheets.sheet(black, size=size),
        sheets.sheet(black, [str(i) for i in range(count)], columns=2, size=size, title="Title"),
        sheets.grid(black[:, None], size=size),
        sheets.grid(black[:, None], names, ["x"], size=size, title="Title that is wider than the picture"),
        sheets.grid(black[None], ["row"], size=size),
    ]
    for fig in figures:
        fig.canvas.draw()
        dark = np.asarray(fig.canvas.buffer_rgba())[..., :3].min(-1) < 128
        for axis in (0, 1):
            inked = np.flatnonzero(dark.any(axis)) / fig.dpi
            blank = [inked[0], dark.shape[1 - axis] / fig.dpi - inked[-1]]
            assert 0 < min(blank) and max(blank) < 0.15, "a band at the edge"
            assert np.diff(inked, prepend=inked[0]).max() < max(0.3, 0.2 * size), "a band between"
        [ax] = fig.axes
        left, right = ax.transData.transform([(0, 0), (pixels, 0)])[:, 0] / fig.dpi
        assert right - left == pytest.approx(size, rel=1e-3)


def test_grid_labels_rows_and_columns():
    fig = sheets.grid(ramp(2, 3, 3, 8, 8), ["t = 1", "t = 2"], ["x0", "x1", "x2"])
    ax = fig.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["t = 1", "t = 2"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["x0", "x1", "x2"]
    assert (np.diff(ax.get_yticks()) > 8).all()
    assert not sheets.grid(ramp(1, 1, 3, 8, 8)).axes[0].get_xticks().size


def test_groups_of_columns_have_the_same_labels():
    fig = sheets.grid(ramp(1, 6, 3, 8, 8), ["t = 1"], ["a", "b", "c"], groups=["left", "right"])
    labels = [t.get_text() for t in fig.axes[0].get_xticklabels()]
    assert labels == ["a", "left\nb", "c", "a", "right\nb", "c"]
    with pytest.raises(ValueError, match="9 labels for 6 columns"):
        sheets.grid(ramp(1, 6, 3, 8, 8), None, ["a", "b", "c"], groups=["x", "y", "z"])
    with pytest.raises(ValueError, match="label the columns"):
        sheets.grid(ramp(1, 6, 3, 8, 8), groups=["x", "y"])


@pytest.mark.parametrize(("steps", "tx", "dtau"), [(2, 1.0, -1), (6, 0.0, 1), (9, 0.5, 1)])
def test_framework_draws_the_run(outputs, steps, tx, dtau):
    backbone = text_to_image()
    settings = {"tx": tx, "dtau": dtau, "steps": steps, "whole": True}
    edit = edit_prompt(backbone, "a person", "an old person with red hair", seeds=(1, 2), **place(**settings))
    decoded = {name: backbone.decode(codes) for name, codes in framework.shown(edit, 1).items()}
    fig = framework.framework(edit, decoded, index=1, channel=2)
    fig.canvas.draw()
    shown = [image.get_array() for ax in fig.findobj(plt.Axes) for image in ax.images]
    for walk in (edit.source, edit.target, edit.edited):
        picture = style.to_array(backbone.decode(walk.final[1:]))[0]
        assert min(abs(image - picture).max() for image in shown if image.shape == picture.shape) < 1e-3
    y = edit.solution.y[1, 2].numpy()
    assert min(abs(image - y).max() for image in shown if image.shape == y.shape) < 1e-6
    style.save(fig, "framework")


def test_framework_bad_arguments():
    edit = edit_prompt(text_to_image(), "a person", "an old person", seeds=1, **place(steps=4, tx=0.5, whole=True))
    decoded = {name: torch.zeros(len(codes), 3, 8, 8) for name, codes in framework.shown(edit).items()}
    assert framework.framework(edit, decoded)
    for kwargs in ({"index": 1}, {"channel": 4}, {"index": -1}):
        with pytest.raises(ValueError, match="there is no"):
            framework.framework(edit, decoded, **kwargs)
    for name in decoded:
        for pictures in (decoded | {name: decoded[name][1:]}, {k: v for k, v in decoded.items() if k != name}):
            with pytest.raises(ValueError, match="not those of this edit"):
                framework.framework(edit, pictures)
    for missing in ("solution", "config"):
        with pytest.raises(ValueError, match="no decomposition"):
            framework.framework(dataclasses.replace(edit, **{missing: None}), decoded)
    with pytest.raises(ValueError, match="draw it whole"):
        framework.shown(edit_prompt(text_to_image(), "a", "an", seeds=1, **place(steps=4, tx=0.5)))


def test_bad_pictures():
    for bad in (torch.zeros(8, 8), torch.zeros(2, 4, 8, 8)):
        with pytest.raises(ValueError, match="shape"):
            sheets.sheet(bad)
    for bad in (torch.zeros(0, 3, 8, 8), torch.zeros(3, 8, 8)):
        with pytest.raises(ValueError, match="a sheet takes"):
            sheets.sheet(bad)
    with pytest.raises(ValueError, match="a grid takes"):
        sheets.grid(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match="NaN"):
        sheets.sheet(torch.full((1, 3, 8, 8), float("nan")))
    with pytest.raises(ValueError, match="2 titles for 1"):
        sheets.sheet(torch.zeros(1, 3, 8, 8), ["a", "b"])
    with pytest.raises(ValueError, match="1 labels for 2 rows"):
        sheets.grid(torch.zeros(2, 1, 3, 8, 8), ["a"])


def test_style_has_no_two_lines_alike():
    with plt.rc_context():
        style.use_style()
        looks = [tuple(map(str, look.values())) for look in plt.rcParams["axes.prop_cycle"]]
    assert len({c for c, _ in looks}) == len({d for _, d in looks}) == len(looks) == len(style.COLOURS)
