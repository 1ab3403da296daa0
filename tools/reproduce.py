"""make reproduce: executes the notebooks whose results are not those of their inputs, and no others.

Beside an executed notebook, in build/notebooks, lies its manifest: digests of everything that it depends on
(tools.inputs), and of the notebook and the figures and tables that it wrote. It is executed again if one of them
differs. An earlier result stays until the new one is whole.
"""

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from lsvd.storage.files import write_bytes
from tools import inputs, parameters, session

RESULTS = ("outputs/figures", "outputs/tables")


@dataclass
class Manifest:
    """What an executed notebook was made from, and what it wrote: names, relative to the root, with digests."""

    inputs: dict[str, str] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """The manifest in a file; an empty one, which fits nothing, if there is none or it is damaged."""
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            return cls(dict(held["inputs"]), dict(held["results"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return cls()

    def write(self, path: Path) -> None:
        """Write the manifest, whole or not at all."""
        write_bytes(path, json.dumps(vars(self), indent=1, sort_keys=True).encode())

    def changes(self, digests: dict[str, str]) -> list[str]:
        """Why the results are not those of the inputs `digests`, in words; empty if they are."""
        if not self.inputs:
            return ["not executed yet"]
        differing = sorted(name for name in {*digests, *self.inputs} if digests.get(name) != self.inputs.get(name))
        altered = sorted(name for name, digest in self.results.items() if inputs.fresh_digest(Path(name)) != digest)
        return [f"{name} changed" for name in differing] + [f"{name} is gone or changed" for name in altered]


def executed(name: Path) -> Path:
    """Where an executed notebook goes."""
    return Path("build", "notebooks", name.name)


def manifest(name: Path) -> Path:
    """Where its manifest lies."""
    return executed(name).with_suffix(".json")


def written() -> dict[str, tuple[int, ...]]:
    """Figures and tables with what changes when they are written: date, size and place on the disk."""
    stats = {str(path): path.stat() for folder in RESULTS for path in inputs.walk(folder)}
    return {path: (stat.st_mtime_ns, stat.st_size, stat.st_ino) for path, stat in stats.items()}


class Reproduction:
    """One run of the command: the notebooks chosen, those up to date so far, and the one that runs."""

    def __init__(self):
        self.chosen: list[Path] = []
        self.done: list[Path] = []
        self.current: Path | None = None

    def __call__(self, work: session.Session) -> str:
        """Execute what is stale. Returns the last line to print; raises ValueError, in one sentence."""
        env = os.environ.get
        self.chosen = parameters.named(env("NOTEBOOKS", ""), work.root)
        books = {name: session.read(name) for name in parameters.named("", work.root)}
        declared = {str(name): parameters.declared(book) for name, book in books.items()}
        asked = parameters.requested(env("PARAMS", ""), env("BACKBONE", ""), env("DEVICE", ""), work.root)
        parameters.check(asked, declared)
        failures = []
        for name in self.chosen:
            given = {key: value for key, value in asked.items() if key in declared[str(name)]}
            digests = inputs.inputs(work.root, str(name), books[name], given)
            if reasons := Manifest.read(manifest(name)).changes(digests):
                more = f" and {len(reasons) - 1} more" if len(reasons) > 1 else ""
                print(f"running {name}: {reasons[0]}{more}", flush=True)
                try:
                    self.renew(work, name, given, digests)
                except ValueError as error:
                    if "--keep-going" not in sys.argv:
                        raise
                    failures.append(str(error))
            self.done.append(name)
        if failures:
            raise ValueError("\n".join(failures))
        return f"build/notebooks: {len(self.chosen)} up to date; figures in outputs/figures, tables in outputs/tables"

    def renew(self, work: session.Session, name: Path, given: dict, digests: dict[str, str]) -> None:
        """Execute a notebook and put it, with its manifest, in the place of the earlier one."""
        self.current = name
        before = written()
        earlier = {path: inputs.fresh_digest(Path(path)) for path in before}
        try:
            target = work.execute(name, given)
        finally:
            after = written()
            changed = [path for path in after if after[path] != before.get(path)]
            results = {path: inputs.fresh_digest(Path(path)) for path in changed}
            self.share(work, name, earlier, results)
        # the place on the disk stays where only the date was renewed: lsvd.storage.files.write_steady
        steady = [path for path in changed if path in before and after[path][2] == before[path][2]]
        if kept := sorted(path for path in steady if earlier[path] == results[path]):
            print(f"left as they are, for they differ by rounding only: {', '.join(kept)}", flush=True)
        os.replace(target, executed(name))
        results[str(executed(name))] = inputs.fresh_digest(executed(name))
        Manifest(digests, results).write(manifest(name))
        self.current = None

    def share(self, work: session.Session, name: Path, before: dict[str, str], after: dict[str, str]) -> None:
        """Note in the manifests of other notebooks what this one changed in tables to which they contribute rows.

        before, after: digests of the figures and tables there were, and of those that this notebook wrote.
        """
        for other in parameters.named("", work.root):
            known = Manifest.read(manifest(other))
            shared = {path for path in after if path in known.results and known.results[path] == before.get(path)}
            if other != name and any(known.results[path] != after[path] for path in shared):
                known.results |= {path: after[path] for path in shared}
                known.write(manifest(other))

    def stopped(self) -> str:
        """What was kept, in one line, for after a signal."""
        kept = (
            f"{len(self.done)} of {len(self.chosen)} notebooks are up to date and kept"
            if self.chosen
            else "all is as it was"
        )
        return f"stopped: {kept}" + (f", {self.current} starts again next time" if self.current else "")


if __name__ == "__main__":
    reproduction = Reproduction()
    sys.exit(session.main(reproduction, reproduction.stopped))
