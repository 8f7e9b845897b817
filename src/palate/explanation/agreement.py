"""Rank correlation of two explanations within each user: agreement between methods, stability under resampling.

Legend: U users, D distinct (user, history item) pairs, ordered by user.
"""

from __future__ import annotations

import numpy as np


def correlation(one_D: np.ndarray, other_D: np.ndarray, row_D: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of two sets of values within each user, float64 `[U]`.

    Equal values share their mean rank. The correlation is NaN for a user whose values are all equal in one set.

    Args:
        one_D, other_D: A value for each pair.
        row_D: The user each pair belongs to, ascending from 0 without gaps.
    """
    one_D, other_D = (_centred(_ranks(each, row_D), row_D) for each in (one_D, other_D))
    products, first, second = (
        np.bincount(row_D, weights=product) for product in (one_D * other_D, one_D**2, other_D**2)
    )  # fmt: skip
    spread = np.sqrt(first * second)
    found: np.ndarray = np.divide(products, spread, out=np.full(len(products), np.nan), where=spread > 0)
    found.clip(-1.0, 1.0, out=found)
    return found


def _ranks(value_D: np.ndarray, row_D: np.ndarray) -> np.ndarray:
    """Ranks within each user, up to a constant for each user."""
    ordered = np.lexsort((value_D, row_D))
    value, row = value_D[ordered], row_D[ordered]
    new = np.concatenate(([True], (np.diff(value) != 0) | (np.diff(row) != 0)))
    start = np.flatnonzero(new)
    stop = np.concatenate((start[1:], [len(value)]))
    ranks = np.empty(len(value_D))
    ranks[ordered] = ((start + stop - 1) / 2)[np.cumsum(new) - 1]
    return ranks


def _centred(value_D: np.ndarray, row_D: np.ndarray) -> np.ndarray:
    mean = np.bincount(row_D, weights=value_D) / np.bincount(row_D)
    centred: np.ndarray = value_D - mean[row_D]
    return centred
