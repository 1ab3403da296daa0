#!/usr/bin/env bash
# diffusers 0.42.1: a call that was stopped half way changes the next picture, where MagCache or TaylorSeer is enabled.
#
# Guess: a pipeline's call depends on its arguments alone; Ctrl-C in a notebook, or an error in a callback, ends one picture
#   and leaves the next as it would have been.
# Behaviour: enable_cache keeps states in hooks of the transformer: steps counted so far, residuals. The pipeline resets
#   them when a call comes to its end. After a call that did not, the next one begins with the count and the residuals of
#   the picture that was given up; it skips other steps, and adds what belongs to another seed. The call after that is
#   right again. Nothing is said. FirstBlockCache was not touched by it.
# Seen: the picture of seed 0, again after a stopped call with seed 5: with MagCache and TaylorSeer another one, without a
#   cache and with FirstBlockCache the same; in all four the same again at the second call. transformer._reset_stateful_cache()
#   or disable_cache and enable_cache before a call avoid it.
#
# PYTHON names an interpreter that has these versions; without it they are installed into a temporary folder.
set -euo pipefail
if [ -z "${PYTHON:-}" ]; then
  home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
  python3 -m venv "$home/env"; PYTHON="$home/env/bin/python"
  "$PYTHON" -m pip install -q torch==2.13.0 numpy==2.4.6 diffusers==0.42.1 transformers==5.23.0
fi
"$PYTHON" - <<'PY'
import warnings

warnings.filterwarnings("ignore")
import diffusers, torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from diffusers.hooks import FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig

assert diffusers.__version__ == "0.42.1", diffusers.__version__
torch.manual_seed(0)
transformer = FluxTransformer2DModel(
    patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
    joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8),
).eval()
vae = AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=2, latent_channels=4, shift_factor=0.0)
pipe = FluxPipeline(FlowMatchEulerDiscreteScheduler(), vae, None, None, None, None, transformer)
pipe.set_progress_bar_config(disable=True)
words, pooled = torch.randn(1, 6, 16), torch.randn(1, 16)


def call(seed, stop=None):
    def callback(pipe, step, t, tensors):
        if step == stop:
            raise KeyboardInterrupt
        return tensors

    shared = {"prompt_embeds": words, "pooled_prompt_embeds": pooled, "height": 32, "width": 32, "num_inference_steps": 8}
    noise = torch.Generator().manual_seed(seed)
    return pipe(**shared, generator=noise, output_type="latent", callback_on_step_end=callback).images


caches = {
    "no cache": None,
    "FirstBlockCache": FirstBlockCacheConfig(threshold=0.3),
    "MagCache": MagCacheConfig(num_inference_steps=8, calibrate=False, mag_ratios=[1.0] * 8),
    "TaylorSeer": TaylorSeerCacheConfig(cache_interval=3, disable_cache_before_step=2, max_order=1),
}
moves = {}
for name, config in caches.items():
    if config is not None:
        transformer.enable_cache(config)
    before = call(0)
    assert torch.equal(call(0), before)
    try:
        call(5, stop=3)
    except KeyboardInterrupt:
        pass
    after, later = call(0), call(0)
    moves[name] = (after - before).abs().max().item()
    print(f"{name}: after a stopped call the picture of seed 0 moves by {moves[name]:.3f}, at the call after that by {(later - before).abs().max():.3f}")
    assert torch.equal(later, before)
    if config is not None:
        transformer.disable_cache()
assert moves["no cache"] == moves["FirstBlockCache"] == 0 and min(moves["MagCache"], moves["TaylorSeer"]) > 1e-3, moves
PY
