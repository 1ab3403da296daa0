#!/usr/bin/env bash
# diffusers 0.42.1: DPMSolverMultistepInverseScheduler runs on other noise levels than the sampler it inverts.
#
# Guess: the inverse made by from_config of a DPMSolverMultistepScheduler visits the same noise levels in reverse.
# Behaviour: it does so for timestep_spacing="linspace". With "leading", which Stable Diffusion is published with,
#   its last level is that of timestep 999, while the sampler starts at a lower one.
# Seen: with 25 leading steps the sampler starts at a sigma of about 11, and the inverse ends at about 14.6.
#
# PYTHON names an interpreter that has these versions; without it they are installed into a temporary folder.
set -euo pipefail
if [ -z "${PYTHON:-}" ]; then
  home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
  python3 -m venv "$home/env"; PYTHON="$home/env/bin/python"
  "$PYTHON" -m pip install -q torch==2.13.0 numpy==2.4.6 diffusers==0.42.1
fi
"$PYTHON" - <<'PY'
import diffusers
from diffusers import DPMSolverMultistepInverseScheduler, DPMSolverMultistepScheduler

assert diffusers.__version__ == "0.42.1", diffusers.__version__
off = {}
for spacing in ("linspace", "leading", "trailing"):
    options = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    sampler = DPMSolverMultistepScheduler(timestep_spacing=spacing, **options)
    inverse = DPMSolverMultistepInverseScheduler.from_config(sampler.config)
    sampler.set_timesteps(25)
    inverse.set_timesteps(25)
    start, end = float(sampler.sigmas[0]), float(inverse.sigmas.max())
    off[spacing] = abs(end - start) / start
    print(f"{spacing}: the sampler starts at sigma {start:.2f}, the inverse ends at {end:.2f}")
assert off["linspace"] < 0.05 and off["leading"] > 0.2, "the behaviour changed"
PY
