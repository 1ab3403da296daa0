"""make train: `python -m lsvd train NAME` for each name in MODELS, in one process, which signals to make reach."""

import os
import sys

from lsvd.__main__ import main

if __name__ == "__main__":
    for name in os.environ["MODELS"].split():
        if status := main(["train", name]):
            sys.exit(status)
