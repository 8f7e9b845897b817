"""onboard(): the items to ask a new user about, so that the answers say most about the user's taste.

    information(i) = H_i log2(1 + n_i)

with n_i the number of users who have item i, because a user who does not know an item cannot answer, and H_i the
entropy of its ratings in bits or, without ratings, of whether a user has the item. The source is Rashid et al. 2002,
"Getting to know you": popularity x entropy, with a logarithm so that popularity does not decide alone. Among the most
informative items the list prefers those that differ from each other (`palate.ranking.rules.mmr`), because two films
with the same audience ask the same question twice.

Legend: N items, P items considered.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import torch
from torch.nn.functional import normalize

from palate.data.dataset import Dataset
from palate.device import on_cpu
from palate.errors import ConfigError
from palate.ranking.ranked import sketch
from palate.ranking.rules import mmr

CANDIDATES_PER_ITEM, MIN_CANDIDATES = 20, 200
"""Number of candidates for each item of the list, and the smallest number of candidates."""
MAX_RATING_BINS = 10
"""Maximum number of bins of a rating scale."""


def onboard(known: Any, k: int = 10, diversity: float = 0.5) -> pl.DataFrame:
    """The k most informative items to ask a new user about.

    Args:
        known: A `Dataset`; or a `Recommender`, whose item vectors then measure item similarity.
        k: Number of items.
        diversity: From 0, the most informative items, to 1, the most different ones.

    Returns:
        Columns `rank` (from 1), `item_id`, `title` if items have titles, `interactions`, `entropy` (bits) and
        `information`.

    Raises:
        ConfigError: `k` or `diversity` is out of range.
    """
    if k < 1 or not 0 <= diversity <= 1:
        raise ConfigError(f"k = {k}, diversity = {diversity}: k must be at least 1, and diversity from 0 to 1")
    data = known if isinstance(known, Dataset) else known.data
    vectors = None if isinstance(known, Dataset) else on_cpu(known.model.item_vectors())
    vectors = sketch(data, data.n_items, seed=0) if vectors is None else vectors.detach()
    entropy_N = entropy(data)
    information_N = entropy_N * np.log2(1 + data.item_counts)
    pool = np.argsort(-information_N, kind="stable")[: max(MIN_CANDIDATES, CANDIDATES_PER_ITEM * k)]
    places = mmr(
        torch.from_numpy(pool)[None],
        torch.from_numpy(information_N[pool])[None],
        min(k, len(pool)),
        normalize(vectors.float(), dim=1),
        diversity,
    )
    chosen = pool[places[0].numpy()]
    columns: dict[str, Any] = {"rank": np.arange(1, len(chosen) + 1), "item_id": data.items.ids[chosen]}
    if data.has_titles:
        columns["title"] = data.titles(chosen)
    numbers = {"interactions": data.item_counts, "entropy": entropy_N, "information": information_N}
    return pl.DataFrame(columns | {name: values[chosen] for name, values in numbers.items()})


def entropy(data: Dataset) -> np.ndarray:
    """Entropy of each item's ratings or, without ratings, of whether a user has the item; in bits, float64 `[N]`."""
    if data.rating is None:
        share = np.stack([data.item_counts, data.n_users - data.item_counts]).clip(0) / data.n_users
        return _bits(share.T)
    values, step = np.unique(data.rating, return_inverse=True)
    if len(values) > MAX_RATING_BINS:
        low, high = float(values[0]), float(values[-1])
        step = np.minimum(((data.rating - low) / (high - low) * MAX_RATING_BINS).astype(np.int64), MAX_RATING_BINS - 1)
    counts = np.zeros((data.n_items, min(len(values), MAX_RATING_BINS)))
    np.add.at(counts, (data.item, step), 1)
    return _bits(counts / np.maximum(counts.sum(1, keepdims=True), 1))


def _bits(share: np.ndarray) -> np.ndarray:
    """`-sum p log2 p` of each row."""
    found: np.ndarray = -(share * np.log2(np.where(share > 0, share, 1))).sum(1)
    return found
