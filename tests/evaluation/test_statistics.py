"""Intervals that cover, tests that keep their level, Holm by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.evaluation.metrics import coverage, gini
from palate.evaluation.statistics import (
    _t_quantile,
    bootstrap_catalogue,
    bootstrap_means,
    holm,
    interval,
    resamples,
    sign_flip_p,
)


def test_resamples_draw_with_replacement():
    drawn = np.concatenate(list(resamples(50, seed=0, count=400)))
    assert drawn.shape == (400, 50)
    assert (drawn.sum(1) == 50).all()
    assert drawn.mean() == 1.0
    assert drawn.var() == pytest.approx(1 - 1 / 50, abs=0.05)  # binomial


def test_resamples_come_from_the_seed():
    one = np.concatenate(list(resamples(9, seed=4, count=20)))
    assert (one == np.concatenate(list(resamples(9, seed=4, count=20)))).all()
    assert (one != np.concatenate(list(resamples(9, seed=5, count=20)))).any()


def test_bootstrap_means_of_ratios():
    # Every resample of two equal users gives the same ratio; users without a value take no part.
    part, weight = np.array([[2.0], [2.0], [0.0]]), np.array([[4.0], [4.0], [0.0]])
    draws = bootstrap_means(part, weight, seed=0, count=200)
    assert np.nanmin(draws) == np.nanmax(draws) == 0.5
    assert np.isnan(draws).any()  # in (1/3)^3 of the resamples only the third user is drawn
    assert interval(draws[:, 0], 2) == (0.5, 0.5)


def test_the_bootstrap_interval_matches_the_standard_error():
    values = np.random.default_rng(0).normal(size=(500, 1))
    low, high = interval(bootstrap_means(values, np.ones_like(values), seed=1)[:, 0], 500)
    error = values.std(ddof=1) / np.sqrt(500)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.08)
    assert low < values.mean() < high


def test_the_bootstrap_interval_covers():
    """95 % intervals of the mean of 60 skewed values hold the true mean about 95 times in 100."""
    rng = np.random.default_rng(7)
    covered = 0
    for trial in range(300):
        values = rng.exponential(size=(60, 1))
        low, high = interval(bootstrap_means(values, np.ones_like(values), seed=trial, count=300)[:, 0], 60)
        covered += low <= 1.0 <= high
    assert 0.88 <= covered / 300 <= 0.98


def test_intervals_of_pooled_errors_cover():
    """The same for a root mean squared error over users with 1 to 30 ratings each."""
    rng = np.random.default_rng(8)
    covered = 0
    for trial in range(200):
        n = rng.integers(1, 31, 80)
        part = np.array([(rng.normal(size=k) ** 2).sum() for k in n])[:, None]
        low, high = interval(np.sqrt(bootstrap_means(part, n[:, None].astype(float), seed=trial, count=300)[:, 0]), 80)
        covered += low <= 1.0 <= high
    assert 0.88 <= covered / 200 <= 0.98


@pytest.mark.parametrize(
    ("draw", "mean", "n", "least"),
    [
        ("normal", 0.0, 10, 0.92),
        ("uniform", 0.5, 10, 0.92),
        ("normal", 0.0, 30, 0.93),
        ("uniform", 0.5, 30, 0.93),
        ("exponential", 1.0, 10, 0.87),
        ("exponential", 1.0, 30, 0.91),
    ],
)
def test_intervals_over_few_users_cover(draw, mean, n, least):
    """The plain percentile interval covers 0.90 of the normal means at n = 10, and 0.85 of the exponential ones."""
    rng = np.random.default_rng(3)
    covered = plain = 0
    for trial in range(800):
        values = getattr(rng, draw)(size=(n, 1))
        draws = bootstrap_means(values, np.ones_like(values), seed=trial, count=500)[:, 0]
        low, high = interval(draws, n)
        narrow, wide = np.quantile(draws, [0.025, 0.975])
        assert low <= narrow
        assert wide <= high
        covered += low <= mean <= high
        plain += narrow <= mean <= wide
    assert least <= covered / 800 <= 0.975
    assert plain < covered


def test_the_expanded_interval_is_the_percentile_interval_for_many_users():
    draws = np.random.default_rng(0).normal(size=1000)
    assert interval(draws, 10**6) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=1e-4)
    assert interval(draws, 1) == (draws.min(), draws.max())


def test_t_quantiles():
    stats = pytest.importorskip("scipy.stats")
    for degrees in (2, 3, 5, 9, 29, 199):
        assert _t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=0.01)


def test_bootstrap_of_catalogue_metrics():
    items = np.array([[0, 1], [0, -1], [2, 0]])
    draws = bootstrap_catalogue(items, 4, [coverage, gini], seed=0, count=300)
    assert draws.shape == (300, 2)
    # All three lists drawn: 3 of 4 items; the second alone, thrice: 1 of 4.
    assert draws[:, 0].max() == 0.75
    assert draws[:, 0].min() == 0.25
    assert ((draws >= 0) & (draws <= 1)).all()


def test_interval_of_nothing():
    assert np.isnan(interval(np.array([np.nan]), 3)).all()


def test_sign_flips_by_enumeration():
    differences = np.array([3.0, 1.0, 2.0, -1.0, 2.5])
    sums = [abs(np.dot(signs, differences)) for signs in product((-1, 1), repeat=5)]
    exact = np.mean([s >= abs(differences.sum()) - 1e-12 for s in sums])
    assert sign_flip_p(differences, seed=0, flips=20_000) == pytest.approx(exact, abs=0.01)


def test_sign_flips_see_a_difference_and_see_none():
    rng = np.random.default_rng(0)
    assert sign_flip_p(rng.normal(0.5, 1, 200), seed=0) < 0.001
    assert sign_flip_p(np.zeros(20), seed=0) == 1.0
    assert sign_flip_p(np.array([]), seed=0) == 1.0
    assert sign_flip_p(np.full(40, 0.1), seed=0, flips=999) == pytest.approx(1 / 1000)  # never zero


def test_sign_flips_agree_with_the_t_test():
    stats = pytest.importorskip("scipy.stats")
    differences = np.random.default_rng(5).normal(0.12, 1, 300)
    assert sign_flip_p(differences, seed=0) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.01)


def test_sign_flips_keep_their_level():
    rng = np.random.default_rng(11)
    p = [sign_flip_p(rng.normal(size=30), seed=i, flips=499) for i in range(400)]
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.09


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04; never falling: 0.02, 0.03, 0.06, 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    assert holm([0.7, 0.9]) == [1.0, 1.0]  # at most 1
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_p_and_bonferroni_and_keeps_the_order(p):
    adjusted = holm(p)
    assert all(raw - 1e-12 <= a <= min(1.0, len(p) * raw) + 1e-12 for a, raw in zip(adjusted, p, strict=True))
    ranked = [a for _, a in sorted(zip(p, adjusted, strict=True))]
    assert ranked == sorted(ranked)
