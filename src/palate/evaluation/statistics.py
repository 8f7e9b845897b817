"""Intervals and tests over users: bootstrap, paired sign-flip test, Holm's correction.

Every mean here is a ratio of sums over users, sum(part) / sum(weight): weights are 1 for ranking metrics and numbers of
ratings for rmse and mae. Chance comes from a seed alone.

Legend: U users, M metrics, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

RESAMPLES = 1000
FLIPS = 10_000
LEVEL = 0.95
CHUNK = 2**22
"""Numbers drawn at once."""


def resamples(n_users: int, seed: int, count: int = RESAMPLES) -> Iterator[np.ndarray]:
    """How often each user stands in each resample, float64 `[<= count, U]`, a few resamples at a time."""
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK // max(n_users, 1))
    for start in range(0, count, step):
        rows = min(step, count - start)
        drawn = rng.integers(0, n_users, (rows, n_users))
        drawn += np.arange(rows)[:, None] * n_users
        yield np.bincount(drawn.ravel(), minlength=rows * n_users).reshape(rows, n_users).astype(np.float64)


def bootstrap_means(part: np.ndarray, weight: np.ndarray, seed: int, count: int = RESAMPLES) -> np.ndarray:
    """sum(part) / sum(weight) in every resample of the users.

    Args:
        part, weight: float64 `[U, M]`; a user without a value has 0 in both.
        seed: Decides the resamples, the same for all metrics.
        count: R.

    Returns:
        float64 `[R, M]`; NaN where a resample holds no user with a value.
    """
    both = np.concatenate([part, weight], axis=1)
    sums = np.concatenate([drawn @ both for drawn in resamples(len(part), seed, count)])
    with np.errstate(invalid="ignore"):
        means: np.ndarray = sums[:, : part.shape[1]] / sums[:, part.shape[1] :]
    return means


def bootstrap_catalogue(
    items: np.ndarray, n_items: int, functions: Sequence[Callable[[np.ndarray], float]], seed: int, count: int
) -> np.ndarray:
    """Statistics of how often each item is listed, in every resample of the lists.

    Args:
        items: Listed items, `[U, k]`, padded with -1.
        n_items: Size of the catalogue.
        functions: Each takes the counts, float64 `[n_items]`.
        seed: Decides the resamples.
        count: R.

    Returns:
        float64 `[R, functions]`.
    """
    listed = items >= 0
    flat, per_list = items[listed], listed.sum(1)
    found = []
    for drawn in resamples(len(items), seed, count):
        for times in drawn:
            exposure = np.bincount(flat, weights=np.repeat(times, per_list), minlength=n_items)
            found.append([function(exposure) for function in functions])
    return np.array(found)


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The percentile interval of resampled statistics; NaN where there are none."""
    draws = draws[~np.isnan(draws)]
    if not len(draws):
        return float("nan"), float("nan")
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def sign_flip_p(differences: np.ndarray, seed: int, flips: int = FLIPS) -> float:
    """Two-sided p of "the mean difference is 0": how often random signs give a sum at least as far from 0.

    The paired permutation test; p = (1 + such draws) / (1 + draws), so it is never below 1 / (1 + flips).

    Args:
        differences: One for each user, of two models.
        seed: Decides the signs.
        flips: Draws.
    """
    observed = abs(differences.sum())
    moved = differences[differences != 0]
    if not len(moved):
        return 1.0
    rng = np.random.default_rng(seed)
    width = (len(moved) + 7) // 8
    step = max(1, CHUNK // (8 * width))
    far = 0
    for start in range(0, flips, step):
        bits = np.unpackbits(rng.integers(0, 256, (min(step, flips - start), width), dtype=np.uint8), axis=1)
        sums = 2 * (bits[:, : len(moved)] @ moved) - moved.sum()
        # A hair below the observed sum, so that rounding does not hide draws that equal it.
        far += int((np.abs(sums) >= observed * (1 - 1e-9)).sum())
    return (1 + far) / (1 + flips)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given (Holm 1979): they hold for the whole family at once.

    Sorted ascending, p_(i) becomes max over j <= i of (m - j + 1) p_(j), at most 1.
    """
    order = np.argsort(p, kind="stable")
    steps = np.arange(len(order), 0, -1) * np.asarray(p, dtype=np.float64)[order]
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(value) for value in adjusted]
