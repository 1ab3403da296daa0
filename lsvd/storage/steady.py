"""Whether two tables or two pictures are the same but for rounding, as results from two processors are."""

import csv
import io
import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# Numbers agree if they differ by less than a ten-thousandth of the larger, a millionth, or one unit of the last digit
# that both have, from four decimals on.
RELATIVE, ABSOLUTE = 1e-4, 1e-6
# Grey levels, of 255, by which a pixel, blurred, may leave the range of the other picture's pixels around it: the
# next of a colour map's 256 colours is up to 4 away. Lossy formats make up to 36 of single roundings, and 0.9 on
# average (lsvd.storage.pictures): there, pixels are compared with the same pixel, and the average counts too.
LEVELS, LOSSY_LEVELS, LOSSY_AVERAGE = 4, 48, 1.5
LOSSY = ("JPEG", "WEBP")

Tolerance = Callable[[Mapping[str, str], str], float]
"""The relative difference that is rounding, in a row (a text by column) and a column."""

_NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|[-+]?\.\d+(?:[eE][-+]?\d+)?")


def rounding(row: Mapping[str, str], column: str) -> float:
    """The tolerance of most tables: the same everywhere."""
    return RELATIVE


def same_table(old: bytes, new: bytes, tolerance: Tolerance = rounding) -> bool:
    """Whether two CSV tables agree in all but their decimal fractions, and in these within the tolerances above.

    Whole numbers are counts: they agree if they are equal. `tolerance` takes the place of RELATIVE.
    """
    try:
        before, after = (list(csv.reader(io.StringIO(text.decode(), newline=""))) for text in (old, new))
    except (UnicodeDecodeError, csv.Error):
        return old == new
    if [len(row) for row in before] != [len(row) for row in after] or before[:1] != after[:1]:
        return False
    for one, other in zip(before[1:], after[1:], strict=True):
        row = dict(zip(before[0], one, strict=False))
        columns = before[0] + [""] * (len(one) - len(before[0]))
        for column, a, b in zip(columns, one, other, strict=False):
            if a != b and not _same_text(a, b, tolerance(row, column)):
                return False
    return True


def _same_text(old: str, new: str, relative: float) -> bool:
    if _NUMBER.split(old) != _NUMBER.split(new):
        return False
    return all(_same_number(a, b, relative) for a, b in zip(_NUMBER.findall(old), _NUMBER.findall(new), strict=True))


def _same_number(old: str, new: str, relative: float) -> bool:
    if old == new:
        return True
    if not any(mark in number for number in (old, new) for mark in ".eE"):
        return False
    digits = [len(number.partition(".")[2]) for number in (old, new)]
    unit = 1.01 * 10 ** -min(digits) if min(digits) > 3 and not any(m in n for n in (old, new) for m in "eE") else 0
    return math.isclose(float(old), float(new), rel_tol=relative, abs_tol=max(ABSOLUTE, unit))


def same_picture(old: bytes, new: bytes, reach: int = 1) -> bool:
    """Whether two picture files of one format show the same, in pictures of one size.

    Both are blurred, by means of 3 x 3 pixels. Then each pixel of one lies in the range of the pixels up to `reach`
    away in the other, to `reach` times LEVELS: a line of a chart may move by so many pixels, and may not go, come or
    change its colour. More than 1 is for charts of numbers in which rounding grows, as a tolerance is for tables. In a
    lossy format, the same pixels differ by at most LOSSY_LEVELS, and on average by LOSSY_AVERAGE. False if a file
    cannot be read.
    """
    import numpy as np
    from PIL import Image, UnidentifiedImageError
    from scipy.ndimage import uniform_filter

    try:
        before, after = Image.open(io.BytesIO(old)), Image.open(io.BytesIO(new))
        if before.format != after.format or before.size != after.size or before.mode != after.mode:
            return False
        pixels = [np.asarray(picture.convert("RGBA"), dtype=np.int16) for picture in (before, after)]
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return False
    if before.format in LOSSY:
        distance = np.abs(pixels[0] - pixels[1])
        return bool(distance.max() <= LOSSY_LEVELS and distance.mean() <= LOSSY_AVERAGE)
    blurred = [uniform_filter(part.astype(np.float32), (3, 3, 1), mode="nearest") for part in pixels]
    return all(_covers(a, b, reach) for a, b in (blurred, reversed(blurred)))


def _covers(pixels: "np.ndarray", others: "np.ndarray", reach: int) -> bool:
    """Whether `others`, (h, w, 4), lie in the range of the pixels around each of `pixels`: see `same_picture`."""
    from scipy.ndimage import maximum_filter, minimum_filter

    size, levels = (2 * reach + 1, 2 * reach + 1, 1), reach * LEVELS
    least, most = minimum_filter(pixels, size, mode="nearest"), maximum_filter(pixels, size, mode="nearest")
    return bool((others >= least - levels).all() and (others <= most + levels).all())
