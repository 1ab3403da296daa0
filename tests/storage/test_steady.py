"""Results that differ by rounding only stay as they are, and all others are written."""

import io
import os

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lsvd.storage import pictures
from lsvd.storage.files import write_csv, write_steady
from lsvd.storage.steady import LEVELS, same_picture, same_table


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("a,b\nx,0.51234\n", "a,b\nx,0.51235\n", True),
        ("a,b\nx,0.512\n", "a,b\nx,0.513\n", False),
        ("a\n1.5e-09\n", "a\n-2.5e-08\n", True),
        ("a\n-0.000\n", "a\n0.000\n", True),
        ("a\n0.71 [0.65001, 0.77]\n", "a\n0.71 [0.65002, 0.77]\n", True),
        ("a\n0.71 [0.65, 0.77]\n", "a\n0.71 [0.65, 0.78]\n", False),
        ("a\n20000\n", "a\n20001\n", False),
        ("a\n20000.0\n", "a\n20001.0\n", True),
        ("a\nholds\n", "a\nfails\n", False),
        ("a\n0.5\n", "a\nnan\n", False),
        ("a\nnan\n", "a\nnan\n", True),
        ("a\n0.5\n", "b\n0.5\n", False),
        ("a\n0.5\n", "a\n0.5\n0.5\n", False),
        ("a\n0.5\n", "a\n-0.5\n", False),
        ("a\n1e300\n", "a\n1e999\n", False),
        ("", "", True),
    ],
)
def test_tables(old, new, same):
    assert same_table(old.encode(), new.encode()) == same_table(new.encode(), old.encode()) == same


@given(st.lists(st.floats(1e-3, 1e6), min_size=1), st.data())
def test_any_number_counts(numbers, data):
    moved = data.draw(st.integers(0, len(numbers) - 1))

    def table(values):
        return ("a\n" + "\n".join(f"{value:.17e}" for value in values)).encode()

    for factor, same in ((1 + 5e-5, True), (1 + 5e-4, False)):
        other = [value * factor if i == moved else value for i, value in enumerate(numbers)]
        assert same_table(table(numbers), table(other)) == (same or abs(numbers[moved]) * 5e-4 <= 1e-6)


def test_a_column_may_have_a_tolerance_of_its_own():
    old, new, far = (f"what,mine,other\nnull,{a},0.5\n".encode() for a in ("10.0864", "10.0431", "10.5"))

    def tolerance(row, column):
        return 0.01 if (row["what"], column) == ("null", "mine") else 1e-4

    assert not same_table(old, new)
    assert same_table(old, new, tolerance) and not same_table(old, far, tolerance)
    for text in (old.replace(b"0.5", b"0.501"), old.replace(b"null", b"same")):
        assert not same_table(old, text, tolerance)


def encoded(pixels, kind="PNG", **options):
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format=kind, **options)
    return data.getvalue()


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(10, 240, (24, 32, 3)).astype(np.uint8)


def test_pictures(pixels):
    rounded = pixels + np.random.default_rng(1).integers(0, LEVELS + 1, pixels.shape).astype(np.uint8)
    assert same_picture(encoded(pixels), encoded(rounded))
    assert same_picture(encoded(pixels), encoded(pixels, compress_level=0))
    one = pixels.copy()
    one[3:6, 4:7, 1] = 255
    assert not same_picture(encoded(pixels), encoded(one))
    assert not same_picture(encoded(pixels), encoded(pixels[:-1]))
    assert not same_picture(encoded(pixels), encoded(pixels[..., 0]))
    assert not same_picture(encoded(pixels), encoded(pixels, "BMP"))


def chart(*, height=1.0, colour="C0", label="a line", width=1.0):
    fig, ax = plt.subplots(figsize=(4, 3))
    ax.plot([0, 1, 2], [0, height, 0.5], colour, linewidth=width)
    ax.set_ylim(0, 2)
    ax.set_title(label)
    file = io.BytesIO()
    fig.savefig(file, format="png")
    plt.close(fig)
    return file.getvalue()


def test_a_line_of_a_chart_may_move_by_a_pixel_and_no_more():
    assert chart() != chart(height=1.004) and same_picture(chart(), chart(height=1.004))
    for other in ({"height": 1.05}, {"colour": "C1"}, {"label": "a lime"}, {"label": ""}, {"width": 4}, {"width": 0}):
        assert not same_picture(chart(), chart(**other)), other
        assert not same_picture(chart(**other), chart()), other


def test_a_line_may_move_further_where_that_is_said():
    assert not same_picture(chart(), chart(height=1.015)) and same_picture(chart(), chart(height=1.015), reach=3)
    for other in ({"height": 1.05}, {"colour": "C1"}, {"label": ""}, {"width": 0}):
        assert not same_picture(chart(), chart(**other), reach=3), other


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_pictures_of_lossy_formats(kind):
    def stored(pixels):
        return pictures.encoded(Image.fromarray(pixels), kind)

    down, across = np.mgrid[:64, :64]
    pixels = np.stack([down * 3, across * 3, 255 - down - across], axis=-1).astype(np.uint8)
    rounded = pixels + (np.random.default_rng(1).random(pixels.shape) < 0.02).astype(np.uint8)
    assert stored(pixels) != stored(rounded) and same_picture(stored(pixels), stored(rounded))
    dot, shade = pixels.copy(), pixels // 2 + 64
    dot[10:13, 10:13] = 255
    for other in (dot, shade, pixels[::-1]):
        assert not same_picture(stored(pixels), stored(other))


def test_what_is_no_picture_is_another(pixels):
    whole = encoded(pixels)
    for broken in (b"", b"x", whole[:-40], whole[:20], whole[:60] + b"\0" + whole[61:]):
        assert not same_picture(broken, whole) and not same_picture(whole, broken)


def test_a_table_that_differs_by_rounding_stays_and_has_a_new_date(tmp_path):
    path = write_csv(tmp_path / "a.csv", [{"a": 0.51234}])
    whole, place = path.read_bytes(), path.stat().st_ino
    os.utime(path, (0, 0))
    assert write_csv(path, [{"a": 0.51235}]) == path
    assert path.read_bytes() == whole and path.stat().st_ino == place and path.stat().st_mtime > 0
    write_csv(path, [{"a": 0.6}])
    assert path.read_bytes() == b"a\n0.6\n"


def test_steps_that_are_small_each_add_up_to_a_change(tmp_path):
    """The file keeps its first value, which all later ones are held against."""
    path = tmp_path / "a.csv"
    values = [0.5 * (1 + 4e-5) ** step for step in range(8)]
    for value in values:
        write_csv(path, [{"a": value}])
        assert abs(float(path.read_text().split()[1]) - value) <= 1e-4 * value
    assert float(path.read_text().split()[1]) > 0.5


def test_a_first_file_is_written(tmp_path):
    assert write_steady(tmp_path / "new" / "a", b"x", lambda old, new: True).read_bytes() == b"x"
