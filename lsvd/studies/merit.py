"""The figure of merit of an edit: success at equal side effect, over several attributes together.

A way of editing is a point: the mean over attributes of its success, and of its side effects. What a method can reach
is the upper concave hull of its points and of no edit at all, since a picture may be given one of two settings by
chance.
Intervals come from bootstrap draws of seeds, which all attributes and all ways share.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lsvd.statistics.intervals import Interval, percentiles
from lsvd.studies.edits import Measured
from lsvd.studies.ways import Way

DRAWS = 2000


@dataclass(frozen=True)
class Point:
    """A way's success and side effects, means over attributes, with intervals."""

    way: Way
    success: Interval
    side: Interval


def points(measured: Measured, ways: Iterable[Way] | None = None, draws: int = DRAWS) -> list[Point]:
    """The points of ways, all if None. Raises ValueError as `weights`, KeyError for a way not measured."""
    ways = _shared(measured) if ways is None else list(ways)
    counts = weights(measured, draws)
    table = []
    for way in ways:
        success, side = _means(measured, way, counts)
        table.append(
            Point(way, *(Interval(float(estimates[0]), *percentiles(estimates[1:])) for estimates in (success, side)))
        )
    return table


def weights(measured: Measured, draws: int = DRAWS, seed: int = 0) -> NDArray:
    """How often each seed counts: once in the first row, as drawn with replacement in the others: (1 + draws, n).

    Raises ValueError if attributes were measured on different numbers of pictures, on fewer than two, or not at all.
    """
    sizes = {len(outcome.had) for by_way in measured.values() for outcome in by_way.values()}
    if len(sizes) != 1 or min(sizes) < 2:
        raise ValueError(f"ways were measured on {sorted(sizes)} pictures: give the same two or more to all")
    (n,) = sizes
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), draws)
    return np.concatenate([np.ones((1, n), np.int64), counts])


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


def advantage(measured: Measured, way: Way, others: Sequence[Way], draws: int = DRAWS) -> Interval:
    """By how much a way's success exceeds what `others` reach together at its side effects, with its interval.

    Each draw of seeds has its own hull of the others, which gives them the best of their luck: the interval
    leans against the way. Raises ValueError if there are no others, and as `weights`.
    """
    if not others:
        raise ValueError("there is nothing to compare with: name one other way or more")
    counts = weights(measured, draws)
    success, side = _means(measured, way, counts)
    rivals = np.array([_means(measured, other, counts) for other in others])  # (others, 2, draws)
    reached = [reach(rivals[:, 1, i], rivals[:, 0, i], at) for i, at in enumerate(side)]
    gain = success - np.array(reached)
    return Interval(float(gain[0]), *percentiles(gain[1:]))


def lead(measured: Measured, ways: Sequence[Way], others: Sequence[Way], at: float, draws: int = DRAWS) -> Interval:
    """By how much more `ways` reach together than `others` do, at side effects of `at`, with its interval.

    Each draw of seeds, which all share, has its own hull of either. Raises ValueError if either has no ways, and as
    `weights`.
    """
    if not ways or not others:
        raise ValueError("there is nothing to compare: name one way or more on either side")
    counts = weights(measured, draws)
    reached = []
    for group in (ways, others):
        each = np.array([_means(measured, way, counts) for way in group])  # (ways, 2, draws)
        reached.append(np.array([reach(each[:, 1, i], each[:, 0, i], at) for i in range(len(counts))]))
    gain = reached[0] - reached[1]
    return Interval(float(gain[0]), *percentiles(gain[1:]))


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
