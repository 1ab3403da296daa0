#!/usr/bin/env bash
# diffusers 0.42.1 with torchsde 0.2.6: DPMSolverSDEScheduler ignores the generator that a pipeline is given.
#
# Guess: a pipeline called twice with a generator of the same seed draws the same picture, with stochastic samplers too;
#   two seeds draw with two noises.
# Behaviour: the pipeline hands its generator to those schedulers whose step() takes one. That of DPMSolverSDEScheduler
#   does not: its noise comes from a Brownian tree, seeded by torch's global generator, or, with noise_sampler_seed, by
#   that number. So without the number the same seed draws other pictures each time, and with it all seeds share the
#   noise of the steps; only their first noise differs. Nothing is said in either case.
# Seen: called twice with generators of seed 0, EulerAncestral and sde-dpmsolver++ repeat themselves, DPMSolverSDE does not.
#   torch.manual_seed before each call, or noise_sampler_seed, makes it do so.
#
# PYTHON names an interpreter that has torch, numpy and diffusers of these versions; torchsde is installed beside it into
# a temporary folder in any case.
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
if [ -z "${PYTHON:-}" ]; then
  python3 -m venv "$home/env"; PYTHON="$home/env/bin/python"
  "$PYTHON" -m pip install -q torch==2.13.0 numpy==2.4.6 diffusers==0.42.1 transformers==5.23.0 scipy
fi
"$PYTHON" -m pip install -q --no-deps --target "$home/more" torchsde==0.2.6 trampoline==0.1.2
PYTHONPATH="$home/more" "$PYTHON" - <<'PY'
import warnings
from importlib.metadata import version

warnings.filterwarnings("ignore")
import diffusers, torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, DPMSolverSDEScheduler, EulerAncestralDiscreteScheduler
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

assert (diffusers.__version__, version("torchsde")) == ("0.42.1", "0.2.6")
torch.manual_seed(0)
unet = UNet2DConditionModel(
    sample_size=8, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=16, norm_num_groups=8,
    attention_head_dim=2, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
)
vae = AutoencoderKL(block_out_channels=(16,), norm_num_groups=8, sample_size=8)
levels = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
words = torch.randn(1, 4, 16)


def twice(scheduler, global_seed=None):
    pipe = StableDiffusionPipeline(vae, None, None, unet, scheduler, None, None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    pictures = []
    for _ in range(2):
        if global_seed is not None:
            torch.manual_seed(global_seed)
        call = {"prompt_embeds": words, "guidance_scale": 1.0, "num_inference_steps": 6, "output_type": "latent"}
        pictures.append(pipe(**call, generator=torch.Generator().manual_seed(0)).images)
    return (pictures[0] - pictures[1]).abs().mean().item()


apart = {
    "EulerAncestral": twice(EulerAncestralDiscreteScheduler(**levels)),
    "sde-dpmsolver++": twice(DPMSolverMultistepScheduler(**levels, algorithm_type="sde-dpmsolver++")),
    "DPMSolverSDE": twice(DPMSolverSDEScheduler(**levels)),
    "DPMSolverSDE, torch.manual_seed": twice(DPMSolverSDEScheduler(**levels), 1),
    "DPMSolverSDE, noise_sampler_seed": twice(DPMSolverSDEScheduler(**levels, noise_sampler_seed=1)),
}
for name, distance in apart.items():
    print(f"{name}: the same generator twice, latents {distance:.3f} apart on average")
assert apart.pop("DPMSolverSDE") > 0.05
assert max(apart.values()) == 0, apart
PY
