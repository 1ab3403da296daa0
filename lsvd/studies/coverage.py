"""How often each interval covers the truth, by simulation: outputs/tables/coverage.csv.

Laws are those that an interval of a mean has trouble with, and the project's own numbers resemble: skewed, rare, and in
clusters that share seeds. Repetitions come in chunks that are kept in build/cache, so a stopped run goes on.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from lsvd.paths import outputs
from lsvd.progress import bar
from lsvd.statistics import fidelity, intervals
from lsvd.statistics.intervals import SIGNED, UNIT, Bounds, Interval
from lsvd.storage import results
from lsvd.storage.files import write_csv
from lsvd.studies import merit, strength
from lsvd.studies.edits import Outcome
from lsvd.studies.ways import Way

SIZES = (8, 16, 64)
REPETITIONS, CHUNK = 2000, 500
FORMAT = 1  # of what is simulated; raise it when that changes
ATTRIBUTES = 8  # that share a seed
Ends = tuple[NDArray, NDArray]


@dataclass(frozen=True)
class Case:
    """An interval under a law: ends(rng, n, m) simulates m samples of n seeds, and gives their low and high ends, (m,).

    truth: what they are to cover, for samples of n. cost: of how many repetitions one is simulated.
    """

    interval: str
    law: str
    ends: Callable[[np.random.Generator, int, int], Ends]
    truth: Callable[[int], float]
    cost: int = 1


def _each(one: Callable[[np.random.Generator, int], Interval]) -> Callable[[np.random.Generator, int, int], Ends]:
    """Ends of m samples from the interval of one."""

    def ends(rng: np.random.Generator, n: int, m: int) -> Ends:
        samples = [one(rng, n) for _ in range(m)]
        return np.array([sample.low for sample in samples]), np.array([sample.high for sample in samples])

    return ends


def _outcome(has: NDArray, side: NDArray | None = None, after: NDArray | None = None) -> Outcome:
    """An outcome of n pictures that all lacked the attribute."""
    zeros = torch.zeros(len(has), dtype=torch.float64)
    numbers = [zeros if sample is None else torch.from_numpy(np.asarray(sample)) for sample in (after, side)]
    return Outcome(zeros.bool(), torch.from_numpy(has), zeros, *numbers, zeros, zeros)


Draw = Callable[[np.random.Generator, int, int], NDArray]
LAWS: dict[str, tuple[Draw, float, Bounds | None]] = {
    "normal": (lambda rng, m, n: rng.standard_normal((m, n)), 0.0, None),
    "exponential": (lambda rng, m, n: rng.exponential(size=(m, n)), 1.0, None),
    "like side effects: beta(0.3, 3)": (lambda rng, m, n: rng.beta(0.3, 3, (m, n)), 0.3 / 3.3, UNIT),
    "success 0.95": (lambda rng, m, n: (rng.random((m, n)) < 0.95) * 1.0, 0.95, UNIT),
    "success of two ways, 5% gain it and 2% lose it": (
        lambda rng, m, n: rng.choice([-1.0, 0.0, 1.0], (m, n), p=[0.02, 0.93, 0.05]),
        0.03,
        SIGNED,
    ),
}
"""Laws of independent values: samples of shape (m, n), their mean, and their bounds."""


def of_means(law: str) -> Case:
    """The mean of independent values."""
    draw, truth, bounds = LAWS[law]

    def ends(rng: np.random.Generator, n: int, m: int) -> Ends:
        return intervals.means(draw(rng, m, n), bounds=bounds)[1:]

    return Case("mean", law, ends, lambda n: truth)


def of_shares(p: float, alike: float) -> Case:
    """Success of ATTRIBUTES that share seeds, near 1; alike: the correlation of two of a seed."""
    seeds = p * (1 / alike - 1), (1 - p) * (1 / alike - 1)

    def one(rng: np.random.Generator, n: int) -> Interval:
        hits = rng.random((ATTRIBUTES, n)) < rng.beta(*seeds, n)
        measured = {str(a): {WAYS[0]: _outcome(row)} for a, row in enumerate(hits)}
        return merit.points(measured)[0].success

    law = f"success {p:g} of {ATTRIBUTES} attributes that share seeds, correlation {alike:g}"
    return Case("point: success", law, _each(one), lambda n: p, cost=4)


WAYS = [Way("lerp", 0.2, weight=weight) for weight in (0.0, 0.25, 0.5, 0.75, 1.0)]


def of_gains(rivals: int) -> Case:
    """The gain of a way over rivals, one of which has its law and the others more side effects, or fewer."""
    sides = (0.04, 0.04, 0.02, 0.08)[: 1 + rivals]

    def one(rng: np.random.Generator, n: int) -> Interval:
        measured = {}
        for name in range(ATTRIBUTES):
            shared, ease = rng.standard_normal(n), 0.02 + 0.01 * (name % 5)
            outcomes = {}
            for way, side in zip(WAYS, sides, strict=False):
                chance = stats.norm.cdf(0.8**0.5 * shared + 0.2**0.5 * rng.standard_normal(n))
                has = chance < 1 - math.exp(-side / ease)  # concave in side effects, so the way lies on the hull
                outcomes[way] = _outcome(has, side * np.exp(0.4 * rng.standard_normal(n) - 0.08))
            measured[str(name)] = outcomes
        return merit.advantage(measured, WAYS[0], WAYS[1 : len(sides)])

    law = f"a way with the law of one of its {rivals} rivals" if rivals > 1 else "a way with the law of its rival"
    return Case("gain at equal side effects", law, _each(one), lambda n: 0.0, cost=4)


def of_bends(step: bool) -> Case:
    """How far a mean curve leaves a line: of noisy lines, or of curves that bend."""
    strengths = np.array([way.weight for way in WAYS])
    shape = strengths**3 if step else strengths

    def one(rng: np.random.Generator, n: int) -> Interval:
        measured = {}
        for name in range(ATTRIBUTES):
            rise, start = 0.5 + 0.3 * rng.random(n), 0.1 + 0.05 * rng.random(n)
            after = start + rise * shape[:, None] + 0.05 * rng.standard_normal((len(WAYS), n))
            rows = zip(WAYS, after, strict=True)
            measured[str(name)] = {way: _outcome(np.zeros(n, bool), after=row) for way, row in rows}
        return strength.bend(measured, WAYS, strengths)

    truth = float(np.abs(shape - strengths).max())
    return Case("bend", "curves that bend" if step else "straight lines", _each(one), lambda n: truth, cost=4)


def of_correlations(rho: float) -> Case:
    """Spearman's correlation over five timesteps of n seeds, whose values hang together."""

    def one(rng: np.random.Generator, n: int) -> Interval:
        x = np.repeat(np.arange(5.0)[:, None], n, 1)
        return intervals.spearman(x, _answers(rng, n, rho), np.arange(n))

    def truth(n: int) -> float:
        m = 4000
        steps, answers = np.repeat(np.arange(5.0), m), _answers(np.random.default_rng(0), m, rho)
        return float(intervals.weighted_spearman(steps, answers.ravel(), np.ones((1, 5 * m)))[0])

    return Case("Spearman, timesteps of a seed together", f"slope {rho:g}", _each(one), truth, cost=4)


def _answers(rng: np.random.Generator, n: int, rho: float) -> NDArray:
    """Five values of each of n seeds, shape (5, n), that rise by rho a step."""
    return rho * np.arange(5.0)[:, None] + rng.standard_normal(n) + rng.standard_normal((5, n))


def of_distances(features: int) -> Case:
    """The Frechet distance of two samples of n, against the expected distance of samples of n."""

    def pair(rng: np.random.Generator, n: int) -> tuple[NDArray, NDArray]:
        scale = np.linspace(0.5, 2, features)
        a, b = rng.standard_normal((2, n, features)) * scale
        return a + 0.5, b

    def one(rng: np.random.Generator, n: int) -> Interval:
        return fidelity.bootstrap(*pair(rng, n))

    def truth(n: int) -> float:
        rng = np.random.default_rng(0)
        return float(np.mean([fidelity.frechet(*pair(rng, n)) for _ in range(2000)]))

    return Case("Frechet distance: expected at n", f"{features} features", _each(one), truth, cost=20)


CASES = (
    *map(of_means, LAWS),
    of_shares(0.95, 0.3),
    of_shares(0.99, 0.3),
    of_gains(1),
    of_gains(3),
    of_bends(False),
    of_bends(True),
    of_correlations(0.3),
    of_correlations(0.0),
    of_distances(4),
)


def coverage(case: Case, n: int, repetitions: int, chunk: int = CHUNK, *, keep: bool = False) -> tuple[float, float]:
    """The share of samples whose interval covers the truth, and the median width of the intervals.

    keep: whether chunks are kept in build/cache, and read from there.
    """
    parts = []
    for start in range(0, repetitions, chunk):
        size = min(chunk, repetitions - start)

        def simulate(start: int = start, size: int = size) -> dict[str, torch.Tensor]:
            seed = [FORMAT, n, start, *f"{case.interval} {case.law}".encode()]
            low, high = case.ends(np.random.default_rng(seed), n, size)
            return {"low": torch.from_numpy(np.asarray(low)), "high": torch.from_numpy(np.asarray(high))}

        about = {"interval": case.interval, "law": case.law, "n": n, "start": start, "size": size, "format": FORMAT}
        parts.append(results.remember("coverage", about, simulate) if keep else simulate())
    low, high = (torch.cat([part[end] for part in parts]).numpy() for end in ("low", "high"))
    truth = case.truth(n)
    return float(np.mean((low <= truth + 1e-12) & (truth - 1e-12 <= high))), float(np.median(high - low))


def rows(
    sizes: Sequence[int] = SIZES, repetitions: int = REPETITIONS, *, keep: bool = True, progress: bool = False
) -> Iterator[dict[str, str | int]]:
    """The rows of outputs/tables/coverage.csv: each case and size."""
    pairs = [(case, n) for case in CASES for n in sizes]
    for case, n in bar(pairs, desc="coverage", progress=progress):
        times = -(-repetitions // case.cost)
        covers, width = coverage(case, n, times, -(-CHUNK // case.cost), keep=keep)
        row = {"interval": case.interval, "law": case.law, "n": n, "repetitions": times}
        yield row | {"covers": f"{covers:.3f}", "width": f"{width:.3f}"}


def run(progress: bool = True) -> None:
    """Simulate all of it, and write the table."""
    write_csv(outputs("tables", "coverage.csv"), list(rows(progress=progress)))
