#!/usr/bin/env bash
# diffusers 0.42.1: UniPC takes back most of what a callback puts into the latents.
#
# Guess: the latents that callback_on_step_end returns are the ones that sampling goes on from, with every scheduler.
# Behaviour: UniPCMultistepScheduler begins each step with a corrector, which recomputes the latents from those of the
#   step before, kept in `last_sample`. What was put in between two steps enters only through the model's prediction.
# Seen: of a change between two steps, DDIM and DPM-Solver++ carry all to the end, UniPC a small part. After
#   `last_sample` is set to None it carries all.
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
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

assert diffusers.__version__ == "0.42.1", diffusers.__version__
base = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)

def prediction(x, t):  # the best prediction of the noise for normal data of variance 0.3
    level = base.alphas_cumprod[int(t)]
    return (1 - level) ** 0.5 / (level * 0.3 + 1 - level) * x

def final(kind, change, forget=False):
    scheduler = kind.from_config(base.config)
    scheduler.set_timesteps(20)
    x = torch.ones(1, 1, 2, 2)
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(prediction(x, t), t, x).prev_sample
        if i == 9:
            x = x + change
            if forget:
                scheduler.last_sample, scheduler.lower_order_nums = None, 0
                scheduler.model_outputs = [None] * len(scheduler.model_outputs)
    return x.mean().item()

def share(kind, **options):  # the model is linear: the end moves in proportion to what arrives of the change
    moved = final(kind, 0.5, **options) - final(kind, 0.0, **options)
    return moved / (final(DDIMScheduler, 0.5) - final(DDIMScheduler, 0.0))

found = {"DDIM": share(DDIMScheduler), "DPM-Solver++": share(DPMSolverMultistepScheduler)}
found |= {"UniPC": share(UniPCMultistepScheduler), "UniPC, last_sample forgotten": share(UniPCMultistepScheduler, forget=True)}
for name, value in found.items():
    print(f"{name}: {value:.2f} of the change arrives")
assert found["DPM-Solver++"] > 0.7 and abs(found["UniPC"]) < 0.5 and found["UniPC, last_sample forgotten"] > 0.7, "the behaviour changed"
PY
