"""Try settings of an edit on seeds kept for choosing: python -m lsvd.testbed.sweep [NAME].

For each target prompt asked for, each timestep Tx and each way of bringing it in, outputs/tables/sweep.csv gets success
and side effects, as a reader counts them on seeds 100 to 123. The defaults of lsvd.backbones are chosen from it;
what is reported elsewhere is measured on other seeds. Attribute Vector Integration at several k stands beside its
controls: the target prompt from Tx on (prompt switching), and linear interpolation of the two codes (lerp).
"""

import argparse
import logging
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

from lsvd import avi, backbones, cache, trajectory
from lsvd.avi import AVIConfig
from lsvd.files import outputs, update_csv
from lsvd.testbed import reader as readers
from lsvd.testbed.effects import Effects, effects
from lsvd.testbed.evaluate import GENERATORS

SEEDS = range(100, 124)
SOURCE = "a person"
TARGETS = {
    "an old person": {"age": "old"},
    "a young person": {"age": "young"},
    "a person with glasses": {"glasses": "glasses"},
    "a person, smiling": {"smile": "smiling"},
}
TX = (0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
K = (4, 8, 12)
LERP = (0.7, 0.9)
Code = Callable[[Tensor, Tensor], Tensor]
log = logging.getLogger(__name__)


def methods(ks: Sequence[int] = K, weights: Sequence[float] = LERP) -> dict[str, Code]:
    """Ways of making a code, of x's shape, from the codes x and z of source and target, by name."""

    def integrated(k: int) -> Code:
        return lambda x, z: avi.solve(x, z, AVIConfig(k_x=k, k_z=k)).y

    def between(weight: float) -> Code:
        return lambda x, z: torch.lerp(x, z, weight)

    return {f"AVI, k = {k}": integrated(k) for k in ks} | {f"lerp, {w:g} of z": between(w) for w in weights}


def sweep(
    backbone: backbones.Backbone,
    target: str,
    wanted: dict[str, str],
    seeds: Sequence[int],
    txs: Sequence[float],
    *,
    source: str = SOURCE,
    dtau: int | None = None,
    progress: bool = False,
) -> Iterator[tuple[str, float, Effects]]:
    """Every method at every tx: its name, tx as a fraction of T, and its effects on the pictures of `seeds`.

    wanted: the target's attribute as levels of factors. dtau: as for lsvd.avi.edit_prompt. The first one is the target
    prompt from the start, with tx 1. Raises ValueError for bad arguments.
    """
    scene = GENERATORS[backbone.name][0]
    judge = readers.load(scene, backbone.device)
    dtau = backbone.entry.dtau if dtau is None else dtau
    x_walk, z_walk = (cache.trajectories(backbone, text, seeds, progress=progress) for text in (source, target))
    before = judge.read(backbone.decode(x_walk.final))

    def count(final: Tensor) -> Effects:
        return effects(before, judge.read(backbone.decode(final)), judge.scene, wanted)

    yield "target prompt", 1.0, count(z_walk.final)
    makers = methods()
    with tqdm(total=len(txs) * (len(makers) + 1), desc=target, disable=not progress, leave=False) as bar:
        for tx in txs:
            t = x_walk.nearest(tx)
            place = x_walk.index(t) - dtau  # larger t comes first
            if not 0 <= place < len(x_walk.timesteps):
                raise ValueError(f"dtau = {dtau} from timestep {t} leaves the schedule: choose another tx or dtau")
            x, z = x_walk.at(t), z_walk.codes[place]
            for name, make in makers.items():
                yield name, tx, count(trajectory.resume(backbone, x_walk, t, make(x, z)).final)
                bar.update()
            switched = trajectory.resume(backbone, x_walk, t, prompts=target)
            yield "prompt switching", tx, count(switched.final)
            bar.update()


def row(entry: backbones.Entry, target: str, method: str, tx: float, found: Effects) -> dict[str, str]:
    """A line of sweep.csv. Success is empty where all pictures had the attribute before."""
    success, side = found.success, found.side
    none = ("", "", "")
    columns = ("success", "low", "high")
    line = {"backbone": entry.name, "steps": str(entry.steps), "guidance": f"{entry.guidance:g}"}
    line |= {"target": target, "method": method, "tx": f"{tx:g}", "dtau": str(entry.dtau), "n": str(found.lacking)}
    line |= dict(zip(columns, _texts(success) if success else none, strict=True))
    return line | dict(zip(("side", "side low", "side high"), _texts(side), strict=True))


def _texts(interval) -> tuple[str, ...]:
    return tuple(f"{x:.4f}" for x in (interval.value, interval.low, interval.high))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m lsvd.testbed.sweep", description=__doc__)
    parser.add_argument("name", nargs="?", default="mini-sd", help="a text-to-image backbone (mini-sd)")
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="only this one; may be given again")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        backbone = backbones.load(options.name, options.device)
        if backbone.kind != "text-to-image" or backbone.name not in GENERATORS:
            raise ValueError("only a text-to-image model whose pictures the reader knows has edits to sweep")
        for target in options.target or TARGETS:
            found = [
                row(backbone.entry, target, *rest)
                for rest in sweep(backbone, target, TARGETS[target], SEEDS, TX, progress=True)
            ]
            update_csv(outputs("tables", "sweep.csv"), found, ["target", "backbone"], TARGETS)
            for line in found:
                log.info("%s", ", ".join(line.values()))
    except (ValueError, OSError) as error:
        raise SystemExit(f"{options.name}: {error}") from error
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
