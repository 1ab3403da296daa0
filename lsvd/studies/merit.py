"""The figure of merit of an edit: success at equal side effect, over several attributes together.

A way of editing is a point: the mean over attributes of its success, and of its side effects. What a method can reach
is the upper concave hull of its points and of no edit at all, since a picture may be given one of two settings by
chance.
Seeds are what is independent: all attributes and all ways share them. Intervals come from leaving each out in turn.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lsvd.statistics import intervals
from lsvd.statistics.intervals import LEVEL, SIGNED, UNIT, Bounds, Interval, clustered_share, jackknife, without_each
from lsvd.studies.edits import Measured
from lsvd.studies.ways import Way

BOUNDS: dict[str, Bounds] = {
    **dict.fromkeys(("before", "has", "after", "side"), UNIT),
    "distance": (0.0, 2.0),
    "chroma": SIGNED,
}
"""What the fields of lsvd.studies.edits.Outcome cannot exceed."""


@dataclass(frozen=True)
class Point:
    """A way's success and side effects, means over attributes, with intervals."""

    way: Way
    success: Interval
    side: Interval


def points(measured: Measured, ways: Iterable[Way] | None = None) -> list[Point]:
    """The points of ways, all if None. Raises ValueError as `seeds_of`, KeyError for a way not measured."""
    ways = _shared(measured) if ways is None else list(ways)
    counts, table = without_each(seeds_of(measured)), []
    for way in ways:
        success, side = _means(measured, way, counts)
        # without its only seed that lacked the attribute, a success is of nothing
        known = np.isfinite(success).all()
        share = clustered_share(success[0], success[1:]) if known else Interval(float(success[0]), *UNIT)
        table.append(Point(way, share, jackknife(side[0], side[1:], bounds=UNIT)))
    return table


def seeds_of(measured: Measured) -> int:
    """How many seeds attributes and ways share.

    Raises ValueError if attributes were measured on different numbers of pictures, on fewer than two, or not at all.
    """
    sizes = {len(outcome.had) for by_way in measured.values() for outcome in by_way.values()}
    if len(sizes) != 1 or min(sizes) < 2:
        raise ValueError(f"ways were measured on {sorted(sizes)} pictures: give the same two or more to all")
    return sizes.pop()


def choose(candidates: Sequence[Point], budgets: Sequence[float]) -> dict[float, Way]:
    """For each budget of side effects the way of most success within it, of least side effects among equals.

    A budget that no way keeps to is left out.
    """
    chosen = {}
    for budget in budgets:
        within = [point for point in candidates if point.side.value <= budget]
        if within:
            chosen[budget] = max(within, key=lambda point: (point.success.value, -point.side.value)).way
    return chosen


def gentlest(candidates: Sequence[Point], success: float = 0.9) -> Way:
    """The way of least side effects among those of `success` or more; if there is none, the most successful.

    Raises ValueError for no points.
    """
    if not candidates:
        raise ValueError("there are no points to choose from: measure one way at least")
    good = [point for point in candidates if point.success.value >= success]
    if good:
        return min(good, key=lambda point: point.side.value).way
    return max(candidates, key=lambda point: point.success.value).way


def front(candidates: Sequence[Point]) -> list[Point]:
    """The points that no other beats in both, in the order of their side effects (the Pareto front)."""
    best, kept = -np.inf, []
    for point in sorted(candidates, key=lambda point: (point.side.value, -point.success.value)):
        if point.success.value > best:
            best = point.success.value
            kept.append(point)
    return kept


def advantage(measured: Measured, way: Way, others: Sequence[Way], level: float = LEVEL) -> Interval:
    """By how much a way's success exceeds what `others` reach together at its side effects, with its interval.

    The way lies beyond their hull by the largest, over prices p of side effects, of its least lead over any of them,
    where the lead is the difference in success minus p times that in side effects, a mean over seeds. The low end is
    right for all prices together (Scheffe 1953), and so for the best of them; the high end is corrected for the number
    of others (Bonferroni). Both are on the safe side.

    Raises ValueError if there are no others, and as `seeds_of`.
    """
    if not others:
        raise ValueError("there is nothing to compare with: name one other way or more")
    n, tail = seeds_of(measured), (1 - level) / 2
    counts = without_each(n)
    point = np.array(_means(measured, way, counts))  # (success and side effects, 1 + n)
    rivals = np.array([*(_means(measured, other, counts) for other in others), np.zeros_like(point)])
    reached = reach(rivals[:-1, 1, 0], rivals[:-1, 0, 0], point[1, 0])
    gain, again = float(point[0, 0] - reached), partial(advantage, measured, way, list(others))
    if n < 3 or not np.isfinite(point).all() or not np.isfinite(rivals).all():
        return Interval(gain, *SIGNED, n, again)
    prices = _prices(rivals[:, :, 0])
    leads = (point - rivals)[:, 0] - prices[:, None, None] * (point - rivals)[:, 1]  # (prices, others, 1 + n)
    lead = leads[..., 0]
    error = np.sqrt((n - 1) * leads[..., 1:].var(-1))
    below = np.sqrt(2 * (n - 1) / (n - 2) * stats.f.ppf(level, 2, n - 2))
    above = stats.t.ppf(1 - tail / len(rivals), n - 1)
    low, high = ((lead + factor * error).min(1).max() for factor in (-below, above))
    return Interval(gain, max(-1.0, min(low, gain)), min(1.0, max(high, gain)), n, again)


def _prices(ways: NDArray) -> NDArray:
    """Prices of side effects, in success, for ways of (success, side effects), (m, 2): those at which two are level."""
    gaps = ways[:, None] - ways[None]
    level = np.divide(gaps[..., 0], gaps[..., 1], out=np.zeros(gaps.shape[:2]), where=gaps[..., 1] != 0)
    return np.unique(np.concatenate([[0.0], np.geomspace(0.1, 1000, 41), level[level > 0]]))


def lead(measured: Measured, ways: Sequence[Way], others: Sequence[Way], at: float) -> Interval:
    """By how much more `ways` reach together than `others` do, at side effects of `at`, with its interval.

    Without each of the seeds, which all share, either has a hull of its own. Raises ValueError if either has no ways,
    and as `seeds_of`.
    """
    if not ways or not others:
        raise ValueError("there is nothing to compare: name one way or more on either side")
    counts = without_each(seeds_of(measured))
    reached = []
    for group in (ways, others):
        means = np.array([_means(measured, way, counts) for way in group])  # (ways, 2, 1 + n)
        reached.append(np.array([reach(part[:, 1], part[:, 0], at) for part in np.moveaxis(means, 2, 0)]))
    gain = reached[0] - reached[1]
    return jackknife(float(gain[0]), gain[1:], bounds=SIGNED)


def reach(side: NDArray, success: NDArray, at: float) -> float:
    """The most success that points (side, success), shape (m,), reach by mixing, at side effects of `at` or fewer.

    No edit at all, (0, 0), is one of them. `at` must not be negative.
    """
    order = np.argsort(side, kind="stable")
    hull = [(0.0, 0.0)]
    for point in zip(side[order], success[order], strict=True):
        if point[1] <= hull[-1][1]:
            continue  # more side effects for less
        while len(hull) > 1 and _turns_up(hull[-2], hull[-1], point):
            hull.pop()
        if point[0] == hull[-1][0]:
            hull[-1] = point
        else:
            hull.append(point)
    return float(np.interp(at, *zip(*hull, strict=True)))


def values(measured: Measured, ways: Sequence[Way], what: str) -> NDArray:
    """A field of lsvd.studies.edits.Outcome in each picture: (attributes, ways, n), NaN where it had the attribute."""
    outcomes = [[by_way[way] for way in ways] for by_way in measured.values()]
    return np.array([[np.where(f.had, np.nan, getattr(f, what).double()) for f in row] for row in outcomes])


def of_seeds(columns: NDArray) -> NDArray:
    """Mean over attributes of (attributes, n), for the seeds that count in any: (m,)."""
    seen = np.isfinite(columns)
    some = seen.any(0)
    return np.where(seen, columns, 0).sum(0)[some] / seen.sum(0)[some]


def level(measured: Measured, way: Way, what: str) -> Interval:
    """The mean of a field of Outcome over attributes and the pictures that lacked them, with its interval."""
    by_seed = of_seeds(values(measured, [way], what)[:, 0])
    if what == "has":
        return clustered_share(by_seed.mean(), (by_seed.sum() - by_seed) / (len(by_seed) - 1))
    return intervals.mean(by_seed, bounds=BOUNDS[what])


def change(measured: Measured, way: Way, other: Way, what: str) -> Interval:
    """By how much that mean is larger than another way's, paired by seed; of a way and itself 0 for certain."""
    pair = values(measured, [way, other], what)
    by_seed = of_seeds(pair[:, 0] - pair[:, 1])
    if way == other:
        return Interval(0.0, 0.0, 0.0, len(by_seed), lambda level: Interval(0.0, 0.0, 0.0, len(by_seed)))
    return intervals.mean(by_seed, bounds=SIGNED)


def _turns_up(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """Does b lie below the line from a to c?"""
    return (b[1] - a[1]) * (c[0] - a[0]) <= (c[1] - a[1]) * (b[0] - a[0])


def _means(measured: Measured, way: Way, counts: NDArray) -> tuple[NDArray, NDArray]:
    """Success and side effects of a way for each row of weights, means over attributes, shape (rows,) each."""
    hits, tested, sides = 0.0, 0, 0.0  # an attribute that all pictures of a draw had is left out of it
    for by_way in measured.values():
        outcome = by_way[way]
        lacking = ~outcome.had.numpy()
        count = counts[:, lacking].sum(1)
        has = counts[:, lacking] @ outcome.has.numpy()[lacking].astype(float)
        hits, tested = hits + has / np.maximum(count, 1), tested + (count > 0)
        sides = sides + counts @ outcome.side.double().numpy() / counts.sum(1)
    return np.where(tested > 0, hits / np.maximum(tested, 1), np.nan), sides / len(measured)


def _shared(measured: Measured) -> list[Way]:
    """The ways that were measured for every attribute, in the order of the first."""
    tables = list(measured.values())
    return [way for way in tables[0] if all(way in others for others in tables[1:])] if tables else []
