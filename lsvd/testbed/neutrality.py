"""Does a prompt stay neutral in what it leaves out? python -m lsvd.testbed.neutrality [BACKBONE].

"A person" says nothing of age, so that its pictures should be old as often as the renderings are that mini-sd learned
from. outputs/tables/neutrality.csv gets, for each level of each factor of FACTORS, the share of pictures of the prompt
that a reader sees it in, its interval, and the share in training.
"""

import argparse
import logging
from collections.abc import Sequence

import torch

from lsvd import backbones
from lsvd.paths import outputs
from lsvd.sampling import trajectory
from lsvd.statistics.intervals import share
from lsvd.storage.files import update_csv
from lsvd.testbed import reader as readers
from lsvd.testbed.scenes.scene import Scene, Values

FACTORS = ("gender", "age", "style", "glasses", "smile", "hair_colour")
PROMPT, SCENE, FIXED = "a person", "portraits", {"style": "photo"}  # a prompt that names no style means a photo
SAMPLES, FIRST_SEED = 1000, 500_000  # seeds that nothing else draws
log = logging.getLogger(__name__)
Row = dict[str, str]


def shares(read: Values, scene: Scene) -> list[Row]:
    """How often each level of FACTORS is read, with exact intervals of 95%, beside its share in training.

    `read` holds level indices of n pictures, shape (n,).
    """
    rows = []
    for name in FACTORS:
        factor, n = scene.factor(name), len(read[name])
        weights = torch.tensor(factor.p or (1.0,) * len(factor.levels))
        expected = (
            [float(level == FIXED[name]) for level in factor.levels] if name in FIXED else weights / weights.sum()
        )
        counts = read[name].bincount(minlength=len(factor.levels)).tolist()
        for level, count, training in zip(factor.levels, counts, expected, strict=True):
            seen = share(count, n)
            numbers = {"share": seen.value, "low": seen.low, "high": seen.high, "training": float(training)}
            rows.append({"factor": name, "level": level, **{k: f"{x:.4f}" for k, x in numbers.items()}, "n": str(n)})
    return rows


def bias(rows: Sequence[Row]) -> float:
    """The largest difference between a share and that in training."""
    return max(abs(float(row["share"]) - float(row["training"])) for row in rows)


def agreement(one: Values, other: Values) -> dict[str, float]:
    """For each factor of FACTORS, in how many of the same pictures two readers see the same level."""
    return {name: (one[name] == other[name]).double().mean().item() for name in FACTORS}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m lsvd.testbed.neutrality", description=__doc__)
    parser.add_argument("backbone", nargs="?", default="mini-sd", help="a name or folder")
    parser.add_argument("--samples", type=int, default=SAMPLES, help=f"pictures of {PROMPT!r} ({SAMPLES})")
    parser.add_argument("--guidance", type=float, help="strength of the prompt (the backbone's)")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        backbone, reader = backbones.load(options.backbone, options.device), readers.load(SCENE, options.device)
        guidance = backbone.entry.guidance if options.guidance is None else options.guidance
        seeds = range(FIRST_SEED, FIRST_SEED + options.samples)
        pictures = trajectory.sample(backbone, PROMPT, seeds, guidance=guidance, progress=True)
        rows = shares(reader.read(pictures.to(options.device)).values, reader.scene)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{options.backbone}: {error}") from error
    about = {"backbone": backbone.name, "guidance": f"{guidance:g}"}
    update_csv(outputs("tables", "neutrality.csv"), [{**about, **row} for row in rows], ["backbone", "guidance"])
    for row in rows:
        log.info("%(factor)s %(level)s: %(share)s [%(low)s, %(high)s], in training %(training)s", row)
    log.info("largest difference: %.3f", bias(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
