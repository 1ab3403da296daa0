"""The Fréchet distance against closed forms, and its floor and interval."""

import numpy as np
import pytest

from lsvd.statistics.fidelity import bootstrap, floor, frechet, frechet_of_moments, measure_from


def gaussian(seed, n, mean, sd):
    return np.random.default_rng(seed).normal(size=(n, len(mean))) * sd + mean


def test_known_gaussians_match_the_closed_form():
    mean, sd = np.array([1.0, -2.0, 0.5]), np.array([1.0, 2.0, 0.5])
    exact = (mean**2).sum() + ((sd - 1) ** 2).sum()
    assert frechet_of_moments(np.zeros(3), np.eye(3), mean, np.diag(sd**2)) == pytest.approx(exact, rel=1e-12)
    sampled = frechet(gaussian(0, 100_000, np.zeros(3), 1.0), gaussian(1, 100_000, mean, sd))
    assert sampled == pytest.approx(exact, rel=0.02)


def test_a_closed_form_with_covariances_that_do_not_commute():
    a, b = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[4.0, -1.0], [-1.0, 1.0]])
    # For 2x2 matrices tr (AB)^½ = sqrt(tr AB + 2 sqrt(det AB)).
    cross = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    expected = np.trace(a) + np.trace(b) - 2 * cross
    assert frechet_of_moments([0, 0], a, [0, 0], b) == pytest.approx(expected, rel=1e-12)


def test_symmetric_zero_on_itself_and_unmoved_by_rotation():
    a, b = gaussian(0, 300, np.zeros(8), 1.0), gaussian(1, 200, np.ones(8), 2.0)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(8, 8)))[0]
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-10)
    assert frechet(a, a) == pytest.approx(0, abs=1e-10)
    away = measure_from(b)
    assert [away(each) for each in (a, a[:50], b)] == [frechet(each, b) for each in (a, a[:50], b)]
    assert frechet(a @ turn, b @ turn) == pytest.approx(frechet(a, b), rel=1e-9)


def test_dead_features_do_not_disturb():
    a, b = gaussian(0, 300, np.zeros(4), 1.0), gaussian(1, 300, np.ones(4), 1.0)
    pad = np.zeros((300, 2))
    assert frechet(np.hstack([a, pad]), np.hstack([b, pad])) == pytest.approx(frechet(a, b), rel=1e-9)


def test_floor_is_what_equal_distributions_score_at_the_same_n():
    pool = gaussian(3, 2000, np.zeros(16), 1.0)
    same = np.mean(
        [frechet(gaussian(s, 1000, np.zeros(16), 1.0), gaussian(s + 50, 1000, np.zeros(16), 1.0)) for s in range(20)]
    )
    assert floor(pool) == pytest.approx(same, rel=0.1)
    assert floor(pool) == floor(pool)
    assert floor(pool[:200]) > 5 * floor(pool)


def test_interval_holds_the_value_is_seeded_and_has_the_spread_of_fresh_samples():
    fresh = [
        frechet(gaussian(s, 400, np.zeros(4), 1.0), gaussian(s + 500, 400, np.full(4, 0.5), 1.0)) for s in range(200)
    ]
    interval = bootstrap(gaussian(900, 400, np.zeros(4), 1.0), gaussian(901, 400, np.full(4, 0.5), 1.0))
    assert interval.low < interval.value < interval.high
    width = np.subtract(*np.quantile(fresh, [0.975, 0.025]))
    assert 0.7 < (interval.high - interval.low) / width < 1.4
    a, b = gaussian(0, 50, np.zeros(4), 1.0), gaussian(1, 50, np.ones(4), 1.0)
    assert bootstrap(a, b, repeats=20) == bootstrap(a, b, repeats=20)
    assert bootstrap(a, b, repeats=20, seed=1) != bootstrap(a, b, repeats=20)


def test_bad_features_are_refused():
    good = gaussian(0, 20, np.zeros(4), 1.0)
    bad = good.copy()
    bad[3, 1] = np.nan
    with pytest.raises(ValueError, match="too few"):
        frechet(good[:5], good)
    with pytest.raises(ValueError, match="not finite"):
        frechet(good, bad)
    with pytest.raises(ValueError, match="one feature network"):
        frechet(good, good[:, :3])
    with pytest.raises(ValueError, match="shape"):
        frechet(good[0], good)
    with pytest.raises(ValueError, match="too few"):
        floor(good[:9])
