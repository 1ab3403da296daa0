#!/usr/bin/env bash
# torch 2.13.0 with diffusers 0.42.1: the noise of a batch's first picture depends on how many pictures follow.
#
# Guess: torch.randn takes numbers from the generator in order, so that the first picture of a seed stays the same when
#   more are drawn after it; people who raise num_images_per_prompt look for the picture that they know.
# Behaviour: on the CPU torch fills normal numbers in groups of 16. If their count is no multiple of 16, the last 16 are
#   drawn again from new random numbers; below 16 another method is used altogether. A picture whose latent has, say,
#   4 x 65 x 65 numbers (520 x 520 pixels) therefore has other noise at 16 places when it is drawn alone. 512 x 512 has not.
# Seen: with latents of 4 x 64 x 64 the first picture's noise is the same alone and in a batch of two; with 4 x 65 x 65
#   it differs in 16 numbers, by about 1 each; of 15 numbers all differ. randn_tensor of diffusers inherits it.
#
# PYTHON names an interpreter that has these versions; without it they are installed into a temporary folder.
set -euo pipefail
if [ -z "${PYTHON:-}" ]; then
  home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
  python3 -m venv "$home/env"; PYTHON="$home/env/bin/python"
  "$PYTHON" -m pip install -q torch==2.13.0 numpy==2.4.6 diffusers==0.42.1
fi
"$PYTHON" - <<'PY'
import diffusers, torch
from diffusers.utils.torch_utils import randn_tensor

assert torch.__version__.split("+")[0] == "2.13.0" and diffusers.__version__ == "0.42.1"


def changes(*shape):
    one, two = (randn_tensor((n, *shape), generator=torch.Generator().manual_seed(0))[0] for n in (1, 2))
    moved = (one - two).abs()
    count = int((moved > 0).sum())
    size = moved.sum().item() / max(1, count)
    print(f"{shape}: {count} of {moved.numel()} numbers differ, by {size:.2f} on average")
    return count, size


assert changes(4, 64, 64)[0] == 0
count, size = changes(4, 65, 65)
assert count == 16 and size > 0.5
assert changes(15)[0] == 15
PY
