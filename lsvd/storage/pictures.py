"""Pictures as files: small ones, for a repository that holds many."""

import io

from PIL import Image


def encoded(image: Image.Image, kind: str) -> bytes:
    """An RGB image as the bytes of a file: "webp" and "jpeg" lose what the eye does not miss, "png" has 256 colours."""
    if kind == "png":
        # of all methods the one whose worst colour is nearest: others turn a heat map's dark blue into grey
        image = image.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    settings = {"webp": {"quality": 84, "method": 6, "use_sharp_yuv": True}, "jpeg": {"quality": 76}, "png": {}}[kind]
    image.save(data := io.BytesIO(), format=kind, optimize=True, **settings)
    return data.getvalue()
