"""Whether two tables or two pictures are the same but for rounding, as results from two processors are."""

import io
import math
import re

# Numbers agree if they differ by less than a ten-thousandth of the larger, a millionth, or one unit of the last digit
# that both have, from four decimals on.
RELATIVE, ABSOLUTE = 1e-4, 1e-6
# Grey levels, of 255, by which no channel of any pixel may differ: the next of a colour map's 256 colours is up to 4
# away. Lossy formats make up to 36 of single roundings, and 0.9 on average (lsvd.storage.pictures): there, the average
# counts too.
LEVELS, LOSSY_LEVELS, LOSSY_AVERAGE = 4, 48, 1.5
LOSSY = ("JPEG", "WEBP")

_NUMBER = re.compile(rb"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|[-+]?\.\d+(?:[eE][-+]?\d+)?")


def same_table(old: bytes, new: bytes) -> bool:
    """Whether two texts agree in all but their decimal fractions, and in these within the tolerances above.

    Whole numbers are counts: they agree if they are equal.
    """
    if _NUMBER.split(old) != _NUMBER.split(new):
        return False
    return all(map(_same_number, _NUMBER.findall(old), _NUMBER.findall(new)))


def _same_number(old: bytes, new: bytes) -> bool:
    if old == new:
        return True
    if not any(mark in number for number in (old, new) for mark in b".eE"):
        return False
    digits = [len(number.partition(b".")[2]) for number in (old, new)]
    unit = 1.01 * 10 ** -min(digits) if min(digits) > 3 and not any(m in n for n in (old, new) for m in b"eE") else 0
    return math.isclose(float(old), float(new), rel_tol=RELATIVE, abs_tol=max(ABSOLUTE, unit))


def same_picture(old: bytes, new: bytes) -> bool:
    """Whether two picture files of one format show pictures of one size whose channels differ by at most LEVELS.

    In a lossy format, by at most LOSSY_LEVELS and LOSSY_AVERAGE. False if one of them cannot be read.
    """
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        before, after = Image.open(io.BytesIO(old)), Image.open(io.BytesIO(new))
        if before.format != after.format or before.size != after.size or before.mode != after.mode:
            return False
        pixels = [np.asarray(picture.convert("RGBA"), dtype=np.int16) for picture in (before, after)]
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return False
    distance = np.abs(pixels[0] - pixels[1])
    if before.format in LOSSY:
        return bool(distance.max() <= LOSSY_LEVELS and distance.mean() <= LOSSY_AVERAGE)
    return bool(distance.max() <= LEVELS)
