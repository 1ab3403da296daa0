#!/usr/bin/env bash
# diffusers 0.42.1: one pixel a hair below 0 makes VaeImageProcessor read a whole batch in [0, 1] as one in [-1, 1].
#
# Guess: preprocess maps pictures from [0, 1] to [-1, 1]; a pixel of -1e-7, as resizing or a decoder's rounding leaves it,
#   is clipped, refused, or at least changes its own picture alone.
# Behaviour: the range is guessed from the least value of the batch. Where that is negative, all pictures of the batch count
#   as normalised before and are passed on as they are: black becomes middle grey, contrast is halved. Pictures given as a
#   tensor bring a FutureWarning about deprecated ranges; a numpy array brings the same.
# Seen: of two pictures in [0, 1] the first comes out in [-1, 1]; with -1e-7 in one pixel of the second picture the first
#   comes out in [0, 1], unchanged, wrong by up to 1.
#
# PYTHON names an interpreter that has these versions; without it they are installed into a temporary folder.
set -euo pipefail
if [ -z "${PYTHON:-}" ]; then
  home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
  python3 -m venv "$home/env"; PYTHON="$home/env/bin/python"
  "$PYTHON" -m pip install -q torch==2.13.0 numpy==2.4.6 diffusers==0.42.1 pillow
fi
"$PYTHON" - <<'PY'
import warnings

import diffusers, torch
from diffusers.image_processor import VaeImageProcessor

assert diffusers.__version__ == "0.42.1", diffusers.__version__
pictures = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
pictures[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
touched = pictures.clone()
touched[1, 0, 0, 0] = -1e-7

for name, convert in {"tensor": lambda x: x, "numpy": lambda x: x.permute(0, 2, 3, 1).numpy()}.items():
    firsts = []
    for batch in (pictures, touched):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            firsts.append(VaeImageProcessor().preprocess(convert(batch))[0])
        words = [w.category.__name__ for w in seen]
        print(f"{name}: the first picture lies in [{firsts[-1].min():+.2f}, {firsts[-1].max():+.2f}]; warnings: {words}")
    assert torch.allclose(firsts[0], 2 * pictures[0] - 1) and torch.allclose(firsts[1], pictures[0])
    assert (firsts[0] - firsts[1]).abs().max() == 1
PY
