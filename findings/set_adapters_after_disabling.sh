#!/usr/bin/env bash
# diffusers 0.42.1 with peft 0.21.2: after disable_adapters, set_adapters names the active adapters, and none acts.
#
# Guess: set_adapters("old", 1.0) makes the adapter act with that weight, whatever came before; or it says that adapters
#   are disabled.
# Behaviour: disable_adapters sets a switch in every layer. set_adapters sets weights and names, and leaves the switch.
#   active_adapters() goes on naming the adapter, so nothing that can be asked shows that it has no effect; only
#   enable_adapters turns the switch.
# Seen: after disable_adapters and set_adapters("old", 1.0) the prediction is that without an adapter, to the bit, while
#   active_adapters() says ["old"]; after enable_adapters it is that with the adapter.
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
code, words = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 16)


def predict():
    with torch.no_grad():
        return unet(code, 500, words).sample


plain = predict()
targets = ["to_k", "to_q", "to_v"]
unet.add_adapter(peft.LoraConfig(r=4, lora_alpha=4, target_modules=targets, init_lora_weights=False), "old")
adapted = predict()
unet.disable_adapters()
unet.set_adapters("old", 1.0)
names, silent = unet.active_adapters(), predict()
unet.enable_adapters()
back = predict()
print(f"disabled, then set: active adapters {names}; effect {(silent - plain).abs().max():.3f}, of {(adapted - plain).abs().max():.3f}")
print(f"after enable_adapters: {(back - plain).abs().max():.3f}")
assert names == ["old"] and torch.equal(silent, plain) and torch.equal(back, adapted) and not torch.equal(adapted, plain)
PY
