"""make bless: executes the stored notebooks, and stores their new outputs."""

import base64
import binascii
import copy
import os
import sys
from pathlib import Path

from lsvd.storage.files import write_bytes
from lsvd.storage.steady import same_picture
from tools import parameters, session


def pictures(notebook: dict) -> list[bytes]:
    """The pictures in a notebook's outputs, in order, taken out of it: what remains is text."""
    images = []
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            for kind in sorted(kind for kind in data if kind.startswith("image/") and kind != "image/svg+xml"):
                images.append(base64.b64decode(data[kind]))
                data[kind] = ""
    return images


def same(old: dict, new: dict) -> bool:
    """Whether two notebooks differ at most by rounding in their pictures (lsvd.storage.steady.same_picture)."""
    old, new = copy.deepcopy(old), copy.deepcopy(new)
    try:
        before, after = pictures(old), pictures(new)
    except binascii.Error:
        return False
    return old == new and len(before) == len(after) and all(map(same_picture, before, after))


class Blessing:
    """One run of the command; `done` lists the notebooks that were executed so far."""

    def __init__(self):
        self.done: list[Path] = []

    def __call__(self, work: session.Session) -> str:
        """Execute and store the notebooks. Returns the last line to print; raises ValueError, in one sentence."""
        replaced = 0
        for name in parameters.named(os.environ.get("NOTEBOOKS", ""), work.root):
            print(f"running {name}", flush=True)
            data, notebook = name.read_bytes(), session.read(name)
            target = work.execute(name)
            if name.read_bytes() != data:
                raise ValueError(f"{name} was edited while it ran and is left as it is: run make bless again")
            if not same(notebook, session.read(target)):
                write_bytes(name, target.read_bytes())
                replaced += 1
            target.unlink()
            self.done.append(name)
        return f"notebooks: {len(self.done)} executed, {replaced} replaced; look at the diff before you commit it"

    def stopped(self) -> str:
        """The line to print after a signal: what was kept."""
        return f"stopped: {len(self.done)} notebooks are executed and stored, the others are as they were"


if __name__ == "__main__":
    blessing = Blessing()
    sys.exit(session.main(blessing, blessing.stopped))
