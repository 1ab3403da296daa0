#!/usr/bin/env bash
# diffusers 0.42.1: VaeImageProcessor resizes PIL pictures with a filter, tensors and arrays by leaving pixels out.
#
# Guess: preprocess resizes a picture in one way, by the `resample` it was made with (lanczos), whatever kind the picture is.
# Behaviour: only PIL pictures are resampled so. Tensors, and numpy arrays, go through interpolate with its plain nearest
#   neighbour, without a filter against aliasing and without a warning; `resample` does not count for them. That happens
#   unasked too: sides that are no multiple of 8, as 100 pixels, are resized to 96.
# Seen: stripes one pixel wide, 100 x 100, come out at 48 x 48 nearly uniform grey from a PIL picture (standard deviation
#   0.03), and in full black and white from the tensor and the array (1.00). At 96 x 96, the size that is chosen unasked,
#   the two kinds lie 1.0 apart on average, of a range of 2.
#
# PYTHON names an interpreter that has these versions; without it they are installed into a temporary folder.
set -euo pipefail
if [ -z "${PYTHON:-}" ]; then
  home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
  python3 -m venv "$home/env"; PYTHON="$home/env/bin/python"
  "$PYTHON" -m pip install -q torch==2.13.0 numpy==2.4.6 diffusers==0.42.1 pillow==13.0.0
fi
"$PYTHON" - <<'PY'
import diffusers, numpy as np, torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

assert diffusers.__version__ == "0.42.1", diffusers.__version__
stripes = np.zeros((100, 100, 3), np.uint8)
stripes[::2] = 255
kinds = {
    "PIL": Image.fromarray(stripes),
    "tensor": torch.from_numpy(stripes / 255).float().permute(2, 0, 1)[None],
    "numpy": (stripes / 255).astype(np.float32)[None],
}
spread, unasked = {}, {}
for kind, picture in kinds.items():
    small = VaeImageProcessor().preprocess(picture, 48, 48)
    spread[kind], unasked[kind] = small.std().item(), VaeImageProcessor().preprocess(picture)
    print(f"{kind}: 100 -> 48 pixels, standard deviation {spread[kind]:.2f}; unasked {tuple(unasked[kind].shape[2:])}")
far = (unasked["PIL"] - unasked["tensor"]).abs().mean().item()
print(f"PIL and tensor, 100 -> 96 pixels: {far:.2f} apart on average")
assert spread["PIL"] < 0.2 and spread["tensor"] > 0.3 and spread["numpy"] > 0.3, spread
assert set(unasked["tensor"].unique().tolist()) == {-1.0, 1.0} and far > 0.3
PY
