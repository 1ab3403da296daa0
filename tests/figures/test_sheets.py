"""Figures are drawn from what they are given, and land in outputs/figures whole or not at all."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from placing import place
from tiny import text_to_image

from lsvd.avi.edit import edit_prompt
from lsvd.figures import framework, sheets, style
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


def test_save_writes_a_picture_and_the_same_bytes_again(outputs):
    path = style.save(sheets.sheet(ramp(3, 3, 8, 8)), "sheet")
    assert path == outputs / "figures" / "sheet.png"
    first = path.read_bytes()
    with Image.open(path) as image:
        assert image.size[0] > 300 and np.ptp(np.asarray(image)) > 200
    # as small as it gets without a loss
    fig = sheets.sheet(ramp(3, 3, 8, 8))
    fig.savefig(plain := io.BytesIO(), format="png", dpi=style.DPI)
    with Image.open(plain) as image, Image.open(path) as written:
        assert np.array_equal(np.asarray(image), np.asarray(written))
    assert len(first) < len(plain.getvalue())
    assert style.save(sheets.sheet(ramp(3, 3, 8, 8)), "sheet.png").read_bytes() == first


def test_an_outputs_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "outputs").write_bytes(b"")
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path / "outputs"))
    with pytest.raises(WriteError, match="cannot write .*sheet.png: a file stands"):
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
    edit = edit_prompt(backbone, "a person", "an old person with red hair", (1, 2), **place(**settings))
    fig = framework.framework(edit, backbone, index=1, channel=2)
    fig.canvas.draw()
    shown = [image.get_array() for ax in fig.findobj(plt.Axes) for image in ax.images]
    for walk in (edit.source, edit.target, edit.edited):
        picture = style.to_array(backbone.decode(walk.final[1:]))[0]
        assert min(abs(image - picture).max() for image in shown if image.shape == picture.shape) < 1e-3
    y = edit.solution.y[1, 2].numpy()
    assert min(abs(image - y).max() for image in shown if image.shape == y.shape) < 1e-6
    style.save(fig, "framework")


def test_framework_bad_arguments():
    edit = edit_prompt(text_to_image(), "a person", "an old person", 1, **place(steps=4, tx=0.5, whole=True))
    for kwargs in ({"index": 1}, {"channel": 4}, {"index": -1}):
        with pytest.raises(ValueError, match="there is no"):
            framework.framework(edit, text_to_image(), **kwargs)
    with pytest.raises(ValueError, match="draw it whole"):
        framework.framework(edit_prompt(text_to_image(), "a", "an", 1, **place(steps=4, tx=0.5)), text_to_image())


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
