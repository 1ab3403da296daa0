#!/usr/bin/env bash
# transformers 5.23.0, tokenizers 0.23.3: get_vocab() lists a tokenizer's tokens in another order at every call.
#
# Guess: the vocabulary is a dict from tokens to numbers, in the order in which it was given or by number. So a digest of
#   it can name what was made with this tokenizer, such as captions turned to numbers and kept on the disk, and fixing
#   PYTHONHASHSEED makes it the same in all processes.
# Behaviour: the dict comes from a hash map of the Rust library, seeded afresh for each copy that is made of it. Two calls
#   in one process differ, two processes differ, with PYTHONHASHSEED too. As dicts they are equal, so no comparison shows
#   it; only what goes by their order does, such as repr, json.dumps without sort_keys, or list(vocab)[i] for number i.
#   What is kept under a digest of it is never found again, without a word. save_pretrained writes the tokens by number.
# Seen: 20 calls on a vocabulary of 200 tokens: 20 orders, none of them by number; all 20 equal as dicts. Two processes
#   with PYTHONHASHSEED=0: two digests. The saved tokenizer.json is the same in both.
#
# PYTHON names an interpreter that has these versions; without it they are installed into a temporary folder.
set -euo pipefail
if [ -z "${PYTHON:-}" ]; then
  home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
  python3 -m venv "$home/env"; PYTHON="$home/env/bin/python"
  "$PYTHON" -m pip install -q torch==2.13.0 numpy==2.4.6 transformers==5.23.0 tokenizers==0.23.3
fi
look() {
  PYTHONHASHSEED=0 "$PYTHON" - <<'PY'
import hashlib, tempfile, pathlib
import tokenizers, transformers
from transformers import CLIPTokenizer

assert (transformers.__version__, tokenizers.__version__) == ("5.23.0", "0.23.3")
words = ["<|startoftext|>", "<|endoftext|>", *(f"w{number}</w>" for number in range(198))]
tokenizer = CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[])
calls = [tokenizer.get_vocab() for _ in range(20)]
orders = {tuple(call) for call in calls}
assert all(call == calls[0] for call in calls) and len(orders) == 20 and tuple(words) not in orders
with tempfile.TemporaryDirectory() as folder:
    tokenizer.save_pretrained(folder)
    saved = (pathlib.Path(folder) / "tokenizer.json").read_bytes()
print(hashlib.sha256(repr(calls[0]).encode()).hexdigest()[:8], hashlib.sha256(saved).hexdigest()[:8])
PY
}
first=$(look 2>/dev/null) second=$(look 2>/dev/null)
echo "digests of get_vocab() and of tokenizer.json: $first in one process, $second in another"
[ "${first% *}" != "${second% *}" ] && [ "${first#* }" = "${second#* }" ]
