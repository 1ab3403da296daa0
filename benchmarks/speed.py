"""Time what claims to be fast against its reference: python -m benchmarks.speed [NAME ...].

Both are timed in one run, in turns, on the same input and the same cores, after a check that they agree.
outputs/tables/bench.csv gets one row for each comparison: the median of reference time / our time, the interval of the
median, and the medians of both times in seconds. Rows of what is not timed stay as they are. Time on an idle machine:
what else runs counts in.
"""

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from timeit import Timer
from typing import Any

import numpy as np
import torch
from scipy.linalg import subspace_angles
from torch import Tensor

from lsvd import avi
from lsvd.avi import exact, losses, network
from lsvd.avi.exact import AVIConfig, Solution
from lsvd.decomposition import geodesic
from lsvd.decomposition.svd import svd
from lsvd.paths import outputs
from lsvd.progress import bar
from lsvd.statistics import intervals
from lsvd.statistics.intervals import Interval
from lsvd.storage.files import update_csv

REPEATS = 11
FEWEST = 6  # with fewer, not even smallest and largest hold the median in 95% of runs
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """One piece of work, done in our way and in the reference's.

    ours, reference: do the work and return what came out. agree: whether these two results are the same. share: the
    part of the work that `reference` does, by which its time is divided; 1 if it does all. work: says what it is.
    """

    ours: Callable[[], Any]
    reference: Callable[[], Any]
    agree: Callable[[Any, Any], bool]
    work: str
    share: float = 1.0


@dataclass(frozen=True)
class Timing:
    """What came out. ratio: the reference's time to ours; ours, reference: seconds, the reference's for the whole."""

    ratio: Interval
    ours: float
    reference: float

    def row(self, name: str) -> dict[str, str]:
        """A row of bench.csv."""
        columns = {"ratio": self.ratio.value, "low": self.ratio.low, "high": self.ratio.high}
        seconds = {"seconds": self.ours, "reference_seconds": self.reference}
        return {
            "name": name,
            **{k: f"{v:.2f}" for k, v in columns.items()},
            **{k: f"{v:.3g}" for k, v in seconds.items()},
        }


def compare(name: str, comparison: Comparison, repeats: int = REPEATS, *, progress: bool = False) -> Timing:
    """Medians over paired repeats: reference time / our time, with its interval, and both times.

    Both run once before, untimed, and must agree. Which goes first alternates. progress: a bar over the repeats. Raises
    ValueError if they disagree, or for fewer than six repeats.
    """
    if repeats < FEWEST:
        raise ValueError(f"{repeats} repeats give no interval: take at least {FEWEST}")
    if not comparison.agree(comparison.ours(), comparison.reference()):
        raise ValueError(f"{name}: ours and the reference disagree, so their times mean nothing")
    times = []
    for repeat in bar(range(repeats), desc=f"timing {name}", progress=progress):
        if repeat % 2:
            theirs, ours = _seconds(comparison.reference), _seconds(comparison.ours)
        else:
            ours, theirs = _seconds(comparison.ours), _seconds(comparison.reference)
        times.append((ours, theirs / comparison.share))
        log.debug("%s: ours %.4g s, reference %.4g s for %.3g of it", name, ours, theirs, comparison.share)
    ratio = intervals.median([reference / ours for ours, reference in times])
    return Timing(ratio, *(float(np.median(column)) for column in zip(*times, strict=True)))


def geodesics(
    timesteps: int = 50, samples: int = 32, channels: int = 4, size: int = 32, k: int = 8, loop: int = 2000
) -> Comparison:
    """Geodesic distances of all pairs of timesteps in one call, against a loop over scipy.linalg.subspace_angles.

    The codes are pictures of noise, turned step by step into other noise. scipy takes `loop` of the pairs.
    """
    generator = torch.Generator().manual_seed(0)
    noise, image = torch.randn(2, samples, channels, size, size, generator=generator)
    turn = torch.linspace(0, torch.pi / 2, timesteps).view(-1, 1, 1, 1, 1)
    U = svd(noise * turn.cos() + image * turn.sin()).truncate(k).U
    first, second = torch.triu_indices(timesteps, timesteps, 1)
    count = len(first) * samples * channels
    loop = min(loop, count)
    pair, sample, channel = np.unravel_index(
        torch.randperm(count, generator=generator)[:loop].numpy(), (len(first), samples, channels)
    )
    first, second = first.numpy()[pair], second.numpy()[pair]
    # scipy computes in the input's precision: float64 for the accuracy that ours has
    bases = U.double().numpy()
    pairs = list(zip(bases[first, sample, channel], bases[second, sample, channel], strict=True))

    return Comparison(
        ours=lambda: geodesic.pairwise(U),
        reference=lambda: [np.linalg.norm(subspace_angles(a, b)) for a, b in pairs],
        agree=lambda ours, theirs: np.allclose(ours[first, second, sample, channel], theirs, rtol=1e-4, atol=0),
        work=f"{count} pairs of subspaces of {size}-space, k = {k}",
        share=loop / count,
    )


def training(channels: int = 4, size: int = 32, k: int = 12) -> Comparison:
    """The exact edit of a code, against the edit by a network trained on that code.

    Two pictures with the same noise, as along two trajectories of one seed; the size is that of mini-sd's codes.
    """
    x, z, config = _pair(channels, size, k)
    return Comparison(
        ours=lambda: avi.solve(x, z, config),
        reference=lambda: network.fit(x, z, config).solution,
        agree=lambda ours, theirs: _within(x, z, config, ours, theirs),
        work=f"a {channels}x{size}x{size} code, k = {k} of both",
    )


def large() -> Comparison:
    """The same for a code of Stable Diffusion's size."""
    return training(size=96)


def spectrum(channels: int = 4, size: int = 32, k: int = 12) -> Comparison:
    """The exact singular values of an edit, against training alone: decompositions, which both need, not counted."""
    x, z, config = _pair(channels, size, k)
    parts = exact.choose(x, z, config)
    return Comparison(
        ours=lambda: exact.optimum(parts, config.lambdas),
        reference=lambda: network.train(parts, config)[0],
        agree=lambda ours, theirs: _within(x, z, config, *(exact.assemble(S, parts, x) for S in (ours, theirs))),
        work=f"{channels} systems of {2 * k} singular values",
    )


def system(channels: int = 4, size: int = 32, k: int = 12) -> Comparison:
    """The linear systems of an edit solved, against the same quadratic loss brought down by training.

    Neither decompositions nor what the quadratic is made of are counted in the exact time; in that of training the
    latter is, some thousandth of it.
    """
    x, z, config = _pair(channels, size, k)
    parts = exact.choose(x, z, config)
    A, c = exact.normal_equations(parts, config.lambdas)
    return Comparison(
        ours=lambda: exact.least(A, c),
        reference=lambda: network.train(parts, config)[0],
        agree=lambda ours, theirs: _within(x, z, config, *(exact.assemble(S, parts, x) for S in (ours, theirs))),
        work=f"{channels} systems of {2 * k} singular values, already set up",
    )


def _pair(channels: int, size: int, k: int) -> tuple[Tensor, Tensor, AVIConfig]:
    generator = torch.Generator().manual_seed(0)
    noise, image, other = torch.randn(3, channels, size, size, generator=generator)
    return 0.8 * noise + 0.6 * image, 0.8 * noise + 0.6 * other, AVIConfig(k_x=k, k_z=k)


def _within(x: Tensor, z: Tensor, config: AVIConfig, best: Solution, trained: Solution) -> bool:
    """Whether the trained edit's loss is within 1% of the best one's, and not below it."""

    def loss(s: Solution) -> float:
        y = exact.integrate(s.a, s.b, s.x, s.z, s.rest)
        return losses.total(y, x.double(), z.double(), s.a, s.b, s.x.S, s.z.S, config.lambdas).item()

    return -1e-9 < loss(trained) / loss(best) - 1 < 0.01


# One line each: the name in the table, and what sets the comparison up.
COMPARISONS: dict[str, Callable[[], Comparison]] = {
    "geodesic": geodesics,
    "solve": training,
    "solve-96": large,
    "spectrum": spectrum,
    "system": system,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0."""
    about = [f"  {name}: {next(iter((make.__doc__ or '').splitlines()), '')}" for name, make in COMPARISONS.items()]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description="\n".join([__doc__, "comparisons:", *about]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(COMPARISONS)}; all if none is given")
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"paired timings of each ({REPEATS})")
    options = parser.parse_args(arguments)
    strange = [name for name in options.names if name not in COMPARISONS]
    if strange:
        parser.error(f"cannot time {', '.join(strange)}: choose from {', '.join(COMPARISONS)}")
    if options.repeats < FEWEST:
        parser.error(f"{options.repeats} repeats give no interval: take at least {FEWEST}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in dict.fromkeys(options.names or COMPARISONS):
        comparison = COMPARISONS[name]()
        log.info("%s: %s, %d threads", name, comparison.work, torch.get_num_threads())
        if comparison.share < 1:
            log.info("%s: the reference is timed on %.2f%%, scaled to the whole", name, 100 * comparison.share)
        try:
            timing = compare(name, comparison, options.repeats, progress=True)
            update_csv(outputs("tables", "bench.csv"), [timing.row(name)], ["name"], COMPARISONS)
        except (ValueError, OSError) as error:
            raise SystemExit(str(error)) from error
        log.info("%s: %s times as fast as the reference, %.3g s", name, f"{timing.ratio:.1f}", timing.reference)
    return 0


def _seconds(work: Callable[[], Any]) -> float:
    """Time of one call: the mean of as many as take 0.2 s, since what is short is otherwise lost in its first call."""
    calls, seconds = Timer(work, timer=perf_counter).autorange()
    return seconds / calls


if __name__ == "__main__":
    raise SystemExit(main())
