#!/usr/bin/env bash
# diffusers 0.42.1 with transformers 5.23.0: clip_skip of Stable Diffusion's pipeline fails.
#
# Guess: clip_skip, an argument of StableDiffusionPipeline, works with the transformers that diffusers installs beside it.
# Behaviour: for clip_skip the pipeline calls text_encoder.text_model.final_layer_norm. CLIPTextModel of transformers 5.23
#   has no text_model any more: its layers lie in the model itself. Without clip_skip nothing asks for it.
# Seen: the pipeline draws without clip_skip, and ends in an AttributeError with clip_skip=1.
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
import diffusers, torch, transformers
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

assert (diffusers.__version__, transformers.__version__) == ("0.42.1", "5.23.0")
torch.manual_seed(0)
letters = sorted(ByteLevel.alphabet())
tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
config = CLIPTextConfig(
    vocab_size=len(tokens), hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
    max_position_embeddings=16, bos_token_id=0, eos_token_id=1, pad_token_id=1,
)
unet = UNet2DConditionModel(
    sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, attention_head_dim=2,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    cross_attention_dim=32,
)
pipe = StableDiffusionPipeline(
    vae=AutoencoderKL(norm_num_groups=4, block_out_channels=(8,)), text_encoder=CLIPTextModel(config).eval(),
    tokenizer=CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=16),
    unet=unet, scheduler=DDIMScheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
)
pipe.set_progress_bar_config(disable=True)
options = {"num_inference_steps": 2, "output_type": "latent", "height": 8, "width": 8}
print("without clip_skip, latents of shape", tuple(pipe("a cat", **options).images.shape))
try:
    pipe("a cat", clip_skip=1, **options)
except AttributeError as error:
    print("with clip_skip=1:", error)
else:
    raise SystemExit("the behaviour changed: clip_skip works")
PY
