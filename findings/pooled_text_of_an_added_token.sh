#!/usr/bin/env bash
# transformers 5.23.0: with eos_token_id 2, CLIP's pooled text is read at an added token instead of at the end of the text.
#
# Guess: a token added for textual inversion changes the pooled embedding through attention; the embedding itself is still
#   taken at the end-of-text token, whose number the tokenizer knows.
# Behaviour: Stable Diffusion's and SDXL's text encoders are published with eos_token_id 2 in their configuration, while the
#   token has the number 49407. For that case CLIPTextModel takes the position of the largest token number in the text.
#   Added tokens have larger ones, so pooled output and text_embeds, which SDXL is conditioned on and CLIP scores rest on,
#   come from the middle of the text, where the words that follow have not been read. Nothing is said.
# Seen: for the text "start, word, added, word, end, padding" text_embeds is the projection of position 2 (the added token)
#   with eos_token_id 2, of position 4 (the end) with 49407; a later word does not move the first, and moves the second.
#
# PYTHON names an interpreter that has these versions; without it they are installed into a temporary folder.
set -euo pipefail
if [ -z "${PYTHON:-}" ]; then
  home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
  python3 -m venv "$home/env"; PYTHON="$home/env/bin/python"
  "$PYTHON" -m pip install -q torch==2.13.0 numpy==2.4.6 transformers==5.23.0
fi
"$PYTHON" - <<'PY'
import torch, transformers
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

assert transformers.__version__ == "5.23.0", transformers.__version__
START, END, ADDED = 49406, 49407, 49408  # of CLIP's tokenizer, and the first number behind it
text = torch.tensor([[START, 320, ADDED, 2368, END, END], [START, 320, ADDED, 1929, END, END]])
places, moves = {}, {}
for eos in (2, END):
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=49409, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=16, bos_token_id=START, eos_token_id=eos, pad_token_id=END,
    )
    model = CLIPTextModelWithProjection(config).eval()
    with torch.no_grad():
        out = model(text)
        positions = model.text_projection(out.last_hidden_state)[0]
    places[eos] = (positions - out.text_embeds[0]).abs().amax(-1).argmin().item()
    moves[eos] = (out.text_embeds[0] - out.text_embeds[1]).abs().max().item()
    print(f"eos_token_id {eos}: text_embeds is position {places[eos]}; another word behind it moves it by {moves[eos]:.3f}")
assert places == {2: 2, END: 4} and moves[2] == 0 < moves[END]
PY
