#!/usr/bin/env bash
# diffusers 0.42.1 with peft 0.21.2: one call with a LoRA scale of 0 sets the adapter's weight back to 1 for all later calls.
#
# Guess: cross_attention_kwargs={"scale": s} holds for that call; afterwards the weight is what set_adapters made it.
# Behaviour: the model multiplies each layer's scaling by s before the call and divides by s after it. Where s is 0 that
#   cannot be divided back, so the weight is set to 1, whatever it was. Comparing with and without the adapter in one
#   process, scale 0 first, thus compares with another weight than was asked for. Nothing is said.
# Seen: at weight 0.5 a call with scale 0.3 leaves 0.5; a call with scale 0 leaves 1.0, and the next plain call gives
#   exactly what weight 1 gives.
#
# PYTHON names an interpreter that has these versions; without it they are installed into a temporary folder.
set -euo pipefail
if [ -z "${PYTHON:-}" ]; then
  home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
  python3 -m venv "$home/env"; PYTHON="$home/env/bin/python"
  "$PYTHON" -m pip install -q torch==2.13.0 numpy==2.4.6 diffusers==0.42.1 transformers==5.23.0 peft==0.21.2
fi
"$PYTHON" - <<'PY'
import warnings

warnings.filterwarnings("ignore")
import diffusers, peft, torch
from diffusers import UNet2DConditionModel

assert (diffusers.__version__, peft.__version__) == ("0.42.1", "0.21.2")
torch.manual_seed(0)
unet = UNet2DConditionModel(
    sample_size=8, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=16, norm_num_groups=8,
    attention_head_dim=2, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
)
targets = ["to_k", "to_q", "to_v"]
unet.add_adapter(peft.LoraConfig(r=4, lora_alpha=4, target_modules=targets, init_lora_weights=False), "old")
code, words = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 16)


def predict(**options):
    with torch.no_grad():
        return unet(code, 500, words, **options).sample


def weights():
    return {m.scaling["old"] for m in unet.modules() if "old" in getattr(m, "scaling", {})}


unet.set_adapters("old", 1.0)
whole = predict()
unet.set_adapters("old", 0.5)
half = predict()
predict(cross_attention_kwargs={"scale": 0.3})
after_some, same = weights(), predict()
predict(cross_attention_kwargs={"scale": 0.0})
after_none, other = weights(), predict()
print(f"weight 0.5, after a call with scale 0.3: {after_some}; after a call with scale 0: {after_none}")
print(f"then a plain call lies {(other - half).abs().max():.3f} from weight 0.5, {(other - whole).abs().max():.3f} from weight 1")
assert after_some == {0.5} and torch.allclose(same, half, atol=1e-6)
assert after_none == {1.0} and torch.equal(other, whole) and not torch.allclose(other, half, atol=1e-3)
PY
