"""ORDERS: orders of a history that ignore the model. An explainer that does not beat them explains nothing.

Legend: U users, D distinct (user, history item) pairs, T distinct recommended items, N items.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from palate.data.dataset import Dataset
from palate.explanation.masked import MaskedHistoryScores
from palate.models.linear.ease import interactions

MAX_COOCCURRENCES_PER_BLOCK = 2**24
"""Co-occurrence counts in a block: 128 MB."""

Order = Callable[[Dataset, MaskedHistoryScores, int], np.ndarray]


def random_order(known: Dataset, users: MaskedHistoryScores, seed: int) -> np.ndarray:
    """A random order."""
    return np.random.default_rng(seed).random(len(users.item_D))


def popularity_order(known: Dataset, users: MaskedHistoryScores, seed: int) -> np.ndarray:
    """The item with most users first."""
    counts: np.ndarray = known.item_counts[users.item_D.numpy()].astype(np.float64)
    return counts


def cosine_order(known: Dataset, users: MaskedHistoryScores, seed: int) -> np.ndarray:
    """The item with the highest cosine of its users to those of the recommended one first: co(i, j) / sqrt(n_i n_j)."""
    item_D, target = users.item_D.numpy(), users.item_U.numpy()
    target_T, place_U = np.unique(target, return_inverse=True)
    of_D = place_U[users.row_D.numpy()]
    rows = interactions(known)
    rows.sum_duplicates()
    rows.data[:] = 1.0
    columns = rows.tocsc()
    count_D = np.empty(len(item_D))
    step = max(1, MAX_COOCCURRENCES_PER_BLOCK // known.n_items)
    for start in range(0, len(target_T), step):
        count_TN = (columns[:, target_T[start : start + step]].T @ rows).toarray()
        in_block = np.flatnonzero((of_D >= start) & (of_D < start + step))
        count_D[in_block] = count_TN[of_D[in_block] - start, item_D[in_block]]
    counts = np.maximum(rows.getnnz(axis=0), 1).astype(np.float64)
    cosine: np.ndarray = count_D / np.sqrt(counts[item_D] * counts[target][users.row_D.numpy()])
    return cosine


ORDERS: dict[str, Order] = {"random": random_order, "popularity": popularity_order, "cosine": cosine_order}
"""Name -> values of the D pairs, float64 `[D]`; larger means more important."""
