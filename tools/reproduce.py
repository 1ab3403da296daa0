"""make reproduce: executes the notebooks whose results are not those of their inputs, and no others.

Each executed notebook in build/notebooks has a manifest: digests of everything that it depends on (tools.inputs), and
of the notebook and the figures and tables that it wrote. It is executed again if one of them differs. An earlier result
stays until the new one is complete.
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
    """Inputs and results of an executed notebook: names, relative to the root, with digests."""

    inputs: dict[str, str] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """The manifest in a file; an empty one, which matches nothing, if the file is missing or damaged."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return cls(dict(data["inputs"]), dict(data["results"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return cls()

    def write(self, path: Path) -> None:
        """Write the manifest, whole or not at all."""
        write_bytes(path, json.dumps(vars(self), indent=1, sort_keys=True).encode())

    def changes(self, digests: dict[str, str]) -> list[str]:
        """Why the results are not those of the inputs `digests`, in words; empty if they match."""
        if not self.inputs:
            return ["not executed yet"]
        stale = sorted(name for name in {*digests, *self.inputs} if digests.get(name) != self.inputs.get(name))
        lost = sorted(name for name, digest in self.results.items() if inputs.fresh_digest(Path(name)) != digest)
        return [f"{name} changed" for name in stale] + [f"{name} is gone or changed" for name in lost]


def executed(name: Path) -> Path:
    """The path of an executed notebook."""
    return Path("build", "notebooks", name.name)


def manifest(name: Path) -> Path:
    """The path of its manifest."""
    return executed(name).with_suffix(".json")


def written() -> dict[str, tuple[int, ...]]:
    """Figures and tables with their date, size and inode, which change when they are written."""
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
        values = parameters.requested(env("PARAMS", ""), env("BACKBONE", ""), env("DEVICE", ""), work.root)
        parameters.check(values, declared)
        failures = []
        for name in self.chosen:
            own_values = {key: value for key, value in values.items() if key in declared[str(name)]}
            digests = inputs.inputs(work.root, str(name), books[name], own_values)
            if reasons := Manifest.read(manifest(name)).changes(digests):
                rest = f" and {len(reasons) - 1} more" if len(reasons) > 1 else ""
                print(f"running {name}: {reasons[0]}{rest}", flush=True)
                try:
                    self.renew(work, name, own_values, digests)
                except ValueError as error:
                    if "--keep-going" not in sys.argv:
                        raise
                    failures.append(str(error))
            self.done.append(name)
        if failures:
            raise ValueError("\n".join(failures))
        return f"build/notebooks: {len(self.chosen)} up to date; figures in outputs/figures, tables in outputs/tables"

    def renew(self, work: session.Session, name: Path, values: dict, digests: dict[str, str]) -> None:
        """Execute a notebook, and replace the earlier one and its manifest."""
        self.current = name
        before = written()
        old_digests = {path: inputs.fresh_digest(Path(path)) for path in before}
        try:
            target = work.execute(name, values)
        finally:
            after = written()
            changed = [path for path in after if after[path] != before.get(path)]
            results = {path: inputs.fresh_digest(Path(path)) for path in changed}
            self.share(work, name, old_digests, results)
        # the inode stays where only the date was renewed: lsvd.storage.files.write_steady
        steady = [path for path in changed if path in before and after[path][2] == before[path][2]]
        if unchanged := sorted(path for path in steady if old_digests[path] == results[path]):
            print(f"left as they are, for they differ by rounding only: {', '.join(unchanged)}", flush=True)
        os.replace(target, executed(name))
        results[str(executed(name))] = inputs.fresh_digest(executed(name))
        Manifest(digests, results).write(manifest(name))
        self.current = None

    def share(self, work: session.Session, name: Path, before: dict[str, str], after: dict[str, str]) -> None:
        """Note this notebook's changes of shared tables in the manifests of the notebooks that contribute to them.

        before, after: digests of the figures and tables before the run, and of those that this notebook wrote.
        """
        for other in parameters.named("", work.root):
            record = Manifest.read(manifest(other))
            shared = {path for path in after if path in record.results and record.results[path] == before.get(path)}
            if other != name and any(record.results[path] != after[path] for path in shared):
                record.results |= {path: after[path] for path in shared}
                record.write(manifest(other))

    def stopped(self) -> str:
        """The line to print after a signal: what was kept."""
        outcome = (
            f"{len(self.done)} of {len(self.chosen)} notebooks are up to date and kept"
            if self.chosen
            else "all is as it was"
        )
        return f"stopped: {outcome}" + (f", {self.current} starts again next time" if self.current else "")


if __name__ == "__main__":
    reproduction = Reproduction()
    sys.exit(session.main(reproduction, reproduction.stopped))
