"""content-knn: recommends items whose content is similar to that of the history.

mean:        score(u, i) = sum_{j in history} r_uj sim(i, j) / sum_j r_uj
neighbours:  score(u, i) = sum_{j in history, j in top k of i} r_uj sim(i, j)

sim(i, j) = sum_b w_b cos(x_ib, x_jb)

over the blocks b of `palate.models.content.content_vectors`: words by BM25 or TF-IDF, tags, categories, numbers and
vectors. r_uj is 1 or, with `ratings`, (1 + rating - lowest) / (1 + highest - lowest). An item that occurs twice in a
history counts twice, like two items with the same content: in `mean` the average moves towards it, in `neighbours` its
similarity is added twice. The model reads only the features of items, so that it scores new items like all others. This
simple baseline beats many deep hybrids (Ferrari Dacrema et al. 2021, "A troubling analysis of reproducibility and
progress in recommender systems research").

Legend: B queries, N items, I items asked about, V sparse width, D dense width, K neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy
import torch
from torch import Tensor

from palate.config import check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.features.schema import FeatureBatch, FeatureSchema
from palate.models.base import Model
from palate.models.buffers import check_indices, check_sparse
from palate.models.content.content_vectors import (
    BlockWeights,
    ContentVectors,
    block_sizes,
    content_vectors,
    dense_vectors,
)
from palate.training.loop import Epoch, TrainRun

BLOCK_WEIGHTS = ("shrink", "text", "tags", "category", "number", "vector")
"""Fields of the config that are handed to `BlockWeights`."""
MAX_VALUES_PER_BLOCK = 2**24
"""Similarities, or entries of user profiles, in memory at once: 64 MB."""
MIN_TOTAL = 1e-9
"""Smallest sum of weights that is divided by."""


@dataclass(frozen=True, kw_only=True)
class ContentKNNConfig:
    """Settings of `content-knn`.

    The defaults were chosen on items held out of the training part of MovieLens-1M (texts, genres, cast).
    """

    profile: Literal["mean", "neighbours"] = "mean"
    """Whether an item is compared with the whole history (mean) or only with its nearest neighbours in it."""
    k: int = 100
    """Number of neighbours kept for each item (neighbours)."""
    ratings: bool = False
    """Whether items with higher ratings count more."""
    weighting: Literal["tfidf", "bm25"] = "bm25"
    """How the count of a word in a text becomes its weight."""
    shrink: float = 1.0
    """Reduces items about which little is known: added to the norms, in mean norms."""
    text: float = 3.0
    """Weight of each text column."""
    tags: float = 1.0
    """Weight of each column of tags."""
    category: float = 1.0
    """Weight of each column of categories."""
    number: float = 0.2
    """Weight of each number or part of a date."""
    vector: float = 1.0
    """Weight of each column of vectors."""

    def __post_init__(self) -> None:
        check(self, k=self.k >= 1, **{name: getattr(self, name) >= 0 for name in BLOCK_WEIGHTS})

    def block_weights(self) -> BlockWeights:
        """The settings of the content vectors."""
        return BlockWeights(weighting=self.weighting, **{name: getattr(self, name) for name in BLOCK_WEIGHTS})


class ContentKNN(Model):
    """Content-based nearest neighbours: similarity of words, tags, categories, numbers and vectors to the history."""

    Config = ContentKNNConfig
    needs = frozenset({"interactions", "item_features"})
    answers = frozenset({"known_user", "history", "new_item", "similar_items"})
    dynamic_buffers = ("columns", "values")
    additive = True
    offsets: Tensor
    columns: Tensor
    values: Tensor
    dense: Tensor
    statistics: Tensor
    neighbour: Tensor
    weight: Tensor

    def __init__(self, config: ContentKNNConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: ContentKNNConfig = config
        self.features = spec.item_features or FeatureSchema()
        self.width, dense, blocks = block_sizes(self.features)
        near = min(config.k, spec.n_items - spec.new_items) if config.profile == "neighbours" else 0
        # Content vectors: a sparse matrix (offsets, columns, values) and a dense one.
        self.register_buffer("offsets", torch.zeros(spec.n_items + 1, dtype=torch.int64))
        self.register_buffer("columns", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("values", torch.zeros(0))
        self.register_buffer("dense", torch.zeros(spec.n_items, dense))
        self.register_buffer("statistics", torch.zeros(blocks, 2))
        self.register_buffer("neighbour", torch.zeros(spec.n_items, near, dtype=torch.int64))
        self.register_buffer("weight", torch.zeros(spec.n_items, near))

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        found = content_vectors(data.encoded_items(self.features), self.features, self.config.block_weights())
        self.offsets, self.columns, self.values = _sparse_buffers(found.sparse)
        self.dense, self.statistics = found.dense, found.statistics
        if self.config.profile == "neighbours":
            self.neighbour, self.weight = self._nearest(found, known=True)
        return []

    def check_buffers(self) -> None:
        check_sparse(self.offsets, self.columns, self.values, self.spec.n_items, self.width)
        check_indices("neighbour", self.neighbour, self.spec.n_items - self.spec.new_items)

    def _new_items(self, features: FeatureBatch) -> dict[str, Tensor]:
        found = content_vectors(features, self.features, self.config.block_weights(), self.statistics)
        offsets, columns, values = _sparse_buffers(found.sparse)
        rows = {
            "offsets": self.offsets[-1] + offsets[1:], "columns": columns, "values": values, "dense": found.dense,
        }  # fmt: skip
        if self.config.profile == "neighbours":
            rows["neighbour"], rows["weight"] = self._nearest(found, known=False)
        else:
            rows["neighbour"], rows["weight"] = (t.new_zeros(len(features), 0) for t in (self.neighbour, self.weight))
        return rows

    def _sparse_vectors(self) -> scipy.sparse.csr_matrix:
        arrays = (self.values.numpy(), self.columns.numpy(), self.offsets.numpy())
        return scipy.sparse.csr_matrix(arrays, shape=(self.spec.n_items, self.width))

    def _nearest(self, rows: ContentVectors, known: bool) -> tuple[Tensor, Tensor]:
        """The k training items most similar to each row, and their similarities, `[rows, K]`.

        Args:
            rows: Content vectors.
            known: Whether the rows are the training items; an item is not its own neighbour.
        """
        n_known = self.spec.n_items - self.spec.new_items
        sparse, dense_ND = self._sparse_vectors()[:n_known], self.dense[:n_known]
        near = torch.zeros(len(rows.dense), self.neighbour.shape[1], dtype=torch.int64)
        weight = torch.zeros(near.shape)
        step = max(1, MAX_VALUES_PER_BLOCK // max(n_known, 1))
        for start in range(0, len(near), step):
            block = slice(start, start + step)
            similarity = torch.from_numpy((rows.sparse[block] @ sparse.T).toarray()) + rows.dense[block] @ dense_ND.T
            if known:
                similarity[torch.arange(len(similarity)), torch.arange(len(similarity)) + start] = 0
            best = similarity.sort(dim=1, descending=True, stable=True)
            near[block], weight[block] = best.indices[:, : near.shape[1]], best.values[:, : near.shape[1]]
        return near, weight

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """SciPy computes the similarities: the model stays on the CPU, and is asked from anywhere."""
        return self

    def _score(self, queries: Queries) -> Tensor:
        return self._scores(queries, None)

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        return self._scores(queries, item_I)

    def _scores(self, queries: Queries, item_I: Tensor | None) -> Tensor:
        """Scores of some items, or of all, `[B, I]`."""
        seen = self._weighted_history(queries)
        if self.config.profile == "mean":
            total_B = np.maximum(np.asarray(seen.sum(1)), MIN_TOTAL)
            return self._summed_similarity(seen, item_I) / torch.from_numpy(total_B)
        known, width = self.spec.n_items - self.spec.new_items, self.weight.shape[1]
        weight, neighbour = (t if item_I is None else t[item_I] for t in (self.weight, self.neighbour))
        arrays = weight.numpy().ravel(), neighbour.numpy().ravel(), np.arange(len(weight) + 1) * width
        votes = scipy.sparse.csr_matrix(arrays, shape=(len(weight), self.spec.n_items))
        scores_BI = torch.from_numpy((seen @ votes.T).toarray())
        # New items are in no list of neighbours: those of the history count by their similarity to every item.
        new = seen.multiply(np.arange(self.spec.n_items) >= known).tocsr()
        return scores_BI + self._summed_similarity(new, item_I) if new.nnz else scores_BI

    def history_contributions(self, queries: Queries, item: int) -> tuple[Tensor, float]:
        seen = self._weighted_history(queries)
        whole, items = self._sparse_vectors(), queries.history.values
        similarity_T = torch.from_numpy((whole[items.numpy()] @ whole[item].T).toarray()[:, 0])
        similarity_T = similarity_T + self.dense[items] @ self.dense[item]
        weight_T = torch.from_numpy(seen.data)
        if self.config.profile == "mean":
            return similarity_T * weight_T / weight_T.sum().clamp(min=MIN_TOTAL), 0.0
        new_T = items >= self.spec.n_items - self.spec.new_items
        near_TK = (items.unsqueeze(1) == self.neighbour[item]) * self.weight[item]
        return torch.where(new_T, similarity_T, near_TK.sum(1)) * weight_T, 0.0

    def _weighted_history(self, queries: Queries) -> scipy.sparse.csr_matrix:
        """The weights r of the items of each history, `[B, N]`."""
        history, weight = queries.history, torch.ones(len(queries.history.values))
        if self.config.ratings and queries.ratings is not None and self.spec.rating_scale is not None:
            low, high = self.spec.rating_scale
            weight = (1 + queries.ratings - low) / (1 + high - low)
        arrays = (weight.numpy(), history.values.numpy(), history.offsets.numpy())
        return scipy.sparse.csr_matrix(arrays, shape=(len(queries), self.spec.n_items))

    def _summed_similarity(self, seen: scipy.sparse.csr_matrix, item_I: Tensor | None) -> Tensor:
        """The weighted sum of the history's similarities to each item, `[B, I]`."""
        whole = self._sparse_vectors()
        asked, dense_ID = (whole, self.dense) if item_I is None else (whole[item_I.numpy()], self.dense[item_I])
        scores_BI = torch.from_numpy((seen @ self.dense.numpy()).astype(np.float32)) @ dense_ID.T
        step = max(1, MAX_VALUES_PER_BLOCK // max(self.width, 1))
        for start in range(0, seen.shape[0], step):
            profile_BV = (seen[start : start + step] @ whole).toarray()
            scores_BI[start : start + step] += torch.from_numpy((asked @ profile_BV.T).T)
        return scores_BI

    def item_vectors(self) -> Tensor:
        return dense_vectors(ContentVectors(self._sparse_vectors(), self.dense, self.statistics))


def _sparse_buffers(sparse: scipy.sparse.csr_matrix) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets, columns and values of a sparse matrix."""
    return (
        torch.from_numpy(sparse.indptr.astype(np.int64)),
        torch.from_numpy(sparse.indices.astype(np.int32)),
        torch.from_numpy(sparse.data.astype(np.float32)),
    )
