#!/usr/bin/env bash
# diffusers 0.42.1: DPM-Solver and UniPC tell the model one timestep for several noise levels, with the usual sigma schedules.
#
# Guess: each step has a timestep of its own; the model is told the noise level that it is given, as Euler tells it.
# Behaviour: with Karras, exponential or log-SNR ("lu") sigmas, DPMSolverMultistep and UniPC round the timesteps that belong
#   to the sigmas. At the end of a run, where levels lie close, neighbours fall on one number. The sigmas stay different,
#   so the model is told a level that its input does not have, and whatever looks a step up by its timestep, as callbacks
#   do, finds two or three. Euler with the same sigmas passes fractions.
# Seen: with 50 exponential steps DPM-Solver ends with timesteps 2, 1, 1, 0, 0, 0, three of them doubled; with Karras one is
#   doubled from 50 steps on; Euler has 50 different ones.
#
# PYTHON names an interpreter that has these versions; without it they are installed into a temporary folder.
set -euo pipefail
if [ -z "${PYTHON:-}" ]; then
  home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
  python3 -m venv "$home/env"; PYTHON="$home/env/bin/python"
  "$PYTHON" -m pip install -q torch==2.13.0 numpy==2.4.6 diffusers==0.42.1 scipy
fi
"$PYTHON" - <<'PY'
import warnings

warnings.filterwarnings("ignore")
import diffusers
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler

assert diffusers.__version__ == "0.42.1", diffusers.__version__
levels = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
doubled = {}
for kind in (DPMSolverMultistepScheduler, UniPCMultistepScheduler, EulerDiscreteScheduler):
    for sigmas in ("use_karras_sigmas", "use_exponential_sigmas"):
        scheduler = kind(**levels, **{sigmas: True})
        scheduler.set_timesteps(50)
        times, used = scheduler.timesteps.tolist(), scheduler.sigmas[:50].tolist()
        assert len(set(used)) == 50
        doubled[kind.__name__, sigmas] = 50 - len(set(times))
        print(f"{kind.__name__}, {sigmas}: the last timesteps {[round(t, 2) for t in times[-6:]]}, sigmas {[round(s, 3) for s in used[-6:]]}")
assert doubled == {
    ("DPMSolverMultistepScheduler", "use_karras_sigmas"): 1,
    ("DPMSolverMultistepScheduler", "use_exponential_sigmas"): 3,
    ("UniPCMultistepScheduler", "use_karras_sigmas"): 1,
    ("UniPCMultistepScheduler", "use_exponential_sigmas"): 3,
    ("EulerDiscreteScheduler", "use_karras_sigmas"): 0,
    ("EulerDiscreteScheduler", "use_exponential_sigmas"): 0,
}, doubled
PY
