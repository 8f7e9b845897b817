"""Neighbourhood models: item-based and user-based collaborative filtering, both strong baselines.

itemknn:  score(u, i) = sum_{j in history, j in top k of i} sim(i, j)
userknn:  score(u, i) = sum_{v in top k of u} sim(u, v) X_vi
sim(a, b) = <a, b> / (|a| |b| + shrink)

with a, b the columns (itemknn) or rows (userknn) of the interaction matrix X after weighting: `cosine` leaves X as it
is, `tfidf` multiplies by the inverse document frequency, `bm25` is that of Robertson and Zaragoza 2009 with k1 = 1.2
and b = 0.75. Documents are items for itemknn and users for userknn (Sarwar et al. 2001; Ferrari Dacrema et al. 2021).

X_ui is the sum of the sample weights of the interactions of user u with item i, 1 each for data without weights; bm25
reads it as term frequency. A history holds 1 for each distinct item: an item that occurs twice counts once.

Settings that are left open (None) are chosen on the validation part (`palate.models.choose`).

Legend: B queries, N items, M users, K neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy
import torch
from torch import Tensor

from palate.config import check
from palate.data.dataset import Dataset, Queries, Spec
from palate.errors import ArtifactError
from palate.models.base import Model
from palate.models.buffers import check_sparse
from palate.models.choose import Value, choose
from palate.models.layers import distinct_history
from palate.models.linear.ease import interactions
from palate.models.linear.sparse_weights import by_source, contributions, matrix, register_sparse, score_history
from palate.models.neighbours.nearest import (
    MAX_HISTORY,
    k_largest,
    max_entries,
    nearest_items,
    row_blocks,
    sampled_interactions,
)
from palate.training.train_run import Epoch, TrainRun

BM25_K1 = 1.2
BM25_B = 0.75

Weighting = Literal["cosine", "tfidf", "bm25"]
WEIGHTINGS: tuple[Weighting, ...] = ("cosine", "tfidf", "bm25")
RULE: dict[str, Value] = {"weighting": "cosine", "shrink": 10.0, "k": 100}
"""Settings without a validation part."""
LADDERS: dict[str, tuple[Value, ...]] = {
    "weighting": WEIGHTINGS,
    "shrink": (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0),
    "k": (5, 10, 20, 50, 100, 200, 500),
}
"""Settings that a search tries."""


@dataclass(frozen=True, kw_only=True)
class ItemKNNConfig:
    """Settings of `itemknn`."""

    k: int | None = None
    """Number of neighbours of each item. Defaults to the best on valid, or 100 without it."""
    shrink: float | None = None
    """Added to the product of the norms: lowers the similarity of pairs with few users in common. Defaults to the best
    on valid, or 10 without it."""
    weighting: Weighting | None = None
    """How interactions are weighted before the cosine. Defaults to the best on valid, or cosine without it."""
    max_history: int = MAX_HISTORY
    """Users with more items than this count with an evenly spaced sample of so many; time grows with its square."""

    def __post_init__(self) -> None:
        check(self, k=self.k is None or self.k >= 1, shrink=self.shrink is None or self.shrink >= 0,
              max_history=self.max_history >= 1)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class UserKNNConfig:
    """Settings of `userknn`."""

    k: int | None = None
    """Number of neighbours of each user. Defaults to the best on valid, or 100 without it."""
    shrink: float | None = None
    """Added to the product of the norms: lowers the similarity of pairs with few items in common. Defaults to the best
    on valid, or 10 without it."""
    weighting: Weighting | None = None
    """How interactions are weighted before the cosine. Defaults to the best on valid, or cosine without it."""

    def __post_init__(self) -> None:
        check(self, k=self.k is None or self.k >= 1, shrink=self.shrink is None or self.shrink >= 0)


class ItemKNN(Model):
    """Item-based nearest neighbours by shrunken cosine, TF-IDF or BM25."""

    Config = ItemKNNConfig
    config: ItemKNNConfig
    answers = frozenset({"known_user", "history", "similar_items"})
    uses_weights = True
    additive = True
    dynamic_buffers = ("offsets", "item", "weight")
    offsets: Tensor
    item: Tensor
    weight: Tensor

    def __init__(self, config: ItemKNNConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config = self.given = config
        # Similarities as a sparse matrix with one row for each history item.
        register_sparse(self, spec.n_items)

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        known = sampled_interactions(data, self.config.max_history, "itemknn").T.tocsr()

        def fit() -> None:
            k, shrink, weighting = complete(self.config)
            items = weighted(known, weighting)
            length_N = scipy.sparse.linalg.norm(items, axis=1)

            def similarity(product: scipy.sparse.csr_matrix, start: int) -> scipy.sparse.csr_matrix:
                return cosine(product, length_N[start : start + product.shape[0]], length_N, shrink)

            near = nearest_items(items, items.T.tocsr(), k, similarity, "itemknn")
            self.offsets, self.item, self.weight = by_source(near)

        if not choose(self, job, RULE, LADDERS, fit):
            fit()
        return []

    def check_buffers(self) -> None:
        check_sparse(self.offsets, self.item, self.weight, self.spec.n_items, self.spec.n_items)

    def _score(self, queries: Queries) -> Tensor:
        return score_history(queries.history, self.offsets, self.item, self.weight)

    def history_contributions(self, queries: Queries, item: int) -> tuple[Tensor, float]:
        return contributions(queries.history, item, self.offsets, self.item, self.weight), 0.0


class UserKNN(Model):
    """User-based nearest neighbours: recommends what the users with the most similar histories interacted with.

    A known user is never a neighbour of their own, also if their history is newer than training.
    """

    Config = UserKNNConfig
    config: UserKNNConfig
    answers = frozenset({"known_user", "history"})
    uses_weights = True
    dynamic_buffers = ("offsets", "items", "weight")
    offsets: Tensor
    items: Tensor
    weight: Tensor

    def __init__(self, config: UserKNNConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config = self.given = config
        # X, one row for each user.
        self.register_buffer("offsets", torch.zeros(spec.n_users + 1, dtype=torch.int64))
        self.register_buffer("items", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("weight", torch.zeros(0))
        # k, shrink and the place of the weighting in `WEIGHTINGS`: answers need them, also where the config is open.
        self.register_buffer("settings", torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        known = interactions(data)
        self.offsets = torch.from_numpy(known.indptr.astype(np.int64))
        self.items, self.weight = torch.from_numpy(known.indices.astype(np.int32)), torch.from_numpy(known.data)

        def fit() -> None:
            k, shrink, weighting = complete(self.config)
            self.settings = torch.tensor([k, shrink, WEIGHTINGS.index(weighting)], dtype=torch.float64)
            self._refresh(None)

        if not choose(self, job, RULE, LADDERS, fit):
            fit()
        return []

    def check_buffers(self) -> None:
        check_sparse(self.offsets, self.items, self.weight, self.spec.n_users, self.spec.n_items)
        k, shrink, weighting = self.settings.tolist()
        if not (k >= 1 and k == int(k) and shrink >= 0 and weighting in range(len(WEIGHTINGS))):
            raise ArtifactError(f"settings holds k {k}, shrink {shrink} and weighting {weighting}, which do not exist")

    def _refresh(self, context: object) -> None:
        """Compute what all queries share: the weighted rows of the training users, and their lengths."""
        k, self._shrink, weighting = self.settings.tolist()
        self._k, self._weighting = int(k), WEIGHTINGS[int(weighting)]
        self._known = matrix(self.offsets, self.items, self.weight, self.spec.n_items)
        self._scale_N = inverse_frequency(self._known, self._weighting)
        self._mean_length = mean_length(self._known)
        rows = apply_weighting(self._known, self._scale_N, self._weighting, self._mean_length)
        self._length_M = scipy.sparse.linalg.norm(rows, axis=1)
        self._by_item = rows.T.tocsr()

    def _score(self, queries: Queries) -> Tensor:
        history = distinct_history(queries.history)
        asked = matrix(history.offsets, history.values, torch.ones(len(history.values)), self.spec.n_items)
        rows = apply_weighting(asked, self._scale_N, self._weighting, self._mean_length)
        length_B, user_B = scipy.sparse.linalg.norm(rows, axis=1), queries.user.cpu().numpy()
        scores = np.zeros(asked.shape, dtype=np.float32)
        for start, stop in row_blocks(max_entries(rows, self._by_item)):
            product = rows[start:stop] @ self._by_item
            similarity = cosine(product, length_B[start:stop], self._length_M, self._shrink)
            near = k_largest(similarity, user_B[start:stop], self._k)
            scores[start:stop] = (near @ self._known).toarray()
        return torch.from_numpy(scores).to(queries.user.device)


def complete(config: ItemKNNConfig | UserKNNConfig) -> tuple[int, float, Weighting]:
    """`k`, `shrink` and `weighting` of a config that leaves nothing open."""
    assert config.k is not None
    assert config.shrink is not None
    assert config.weighting is not None
    return config.k, config.shrink, config.weighting


def cosine(
    product: scipy.sparse.csr_matrix, left_length: np.ndarray, right_length: np.ndarray, shrink: float
) -> scipy.sparse.csr_matrix:
    """`<a, b> / (|a| |b| + shrink)`, float32, for each non-zero of `<a, b>`.

    Args:
        product: `<a, b>` for each row a and column b, float32; overwritten.
        left_length: |a|, one for each row.
        right_length: |b|, one for each column.
        shrink: See the formula.
    """
    size = np.repeat(left_length, np.diff(product.indptr))
    size *= right_length[product.indices]
    size += shrink
    product.data /= np.maximum(size, 1e-12, out=size)
    return product


def weighted(rows: scipy.sparse.csr_matrix, weighting: Weighting) -> scipy.sparse.csr_matrix:
    """Rows (documents) under a weighting whose statistics come from the same rows."""
    return apply_weighting(rows, inverse_frequency(rows, weighting), weighting, mean_length(rows))


def inverse_frequency(rows: scipy.sparse.csr_matrix, weighting: Weighting) -> np.ndarray:
    """Inverse document frequency of each column, float32 `[columns]`; 1 for `cosine`."""
    count = np.maximum(np.bincount(rows.indices, minlength=rows.shape[1]), 1)
    if weighting == "cosine":
        return np.ones(rows.shape[1], dtype=np.float32)
    if weighting == "tfidf":
        rarity: np.ndarray = np.log(rows.shape[0] / count) + 1e-6
    else:
        rarity = np.log1p((rows.shape[0] - count + 0.5) / (count + 0.5))
    return rarity.astype(np.float32)


def mean_length(rows: scipy.sparse.csr_matrix) -> float:
    """Mean of the rows' sums, the document length of `bm25`."""
    return float(rows.data.sum(dtype=np.float64) / max(rows.shape[0], 1))


def apply_weighting(
    rows: scipy.sparse.csr_matrix, scale: np.ndarray, weighting: Weighting, mean_length: float
) -> scipy.sparse.csr_matrix:
    """Rows times the columns' scale; `bm25` also saturates term frequencies by row length."""
    out = (rows @ scipy.sparse.diags(scale)).tocsr().astype(np.float32)
    if weighting == "bm25":
        length = np.asarray(rows.sum(axis=1, dtype=np.float64)).reshape(-1)
        saturation = BM25_K1 * (1 - BM25_B + BM25_B * length / max(mean_length, 1e-9))
        frequency = (out.data / scale[out.indices]).astype(np.float64)
        # `out` already holds the frequency as a factor.
        factor = (BM25_K1 + 1) / (frequency + np.repeat(saturation, np.diff(out.indptr)))
        out.data *= factor.astype(np.float32)
    return out
