"""Markov rules: what followed the newest items of a history in the histories of training; nothing is trained.

    score(s, i) = sum_{p = 1..last} decay^(p-1) P(i | j_p)         j_p the p-th newest item of the history s
    P(i | j)    = sum_g f(g) n_g(j, i) / sum_i sum_g f(g) n_g(j, i)
    f(g)        = 1 / g for g <= gaps

n_g(j, i) counts how often i stands g places after j in a history of training; an item that follows itself is not
counted. With `gaps = 1` and `last = 1` this is the first-order Markov chain; gaps bridge what lies between (the
sequential rules of Ludewig and Jannach 2018, "Evaluation of session-based recommendation algorithms"). Each item keeps
its `k` strongest followers.

Legend: B queries, N items, T history values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy
import torch
from torch import Tensor

from palate.config import check
from palate.data.dataset import Dataset, Queries, Spec
from palate.models.base import Model
from palate.models.buffers import check_sparse
from palate.models.linear.sparse_weights import matrix, register_sparse
from palate.models.neighbours.nearest import k_largest
from palate.training.train_run import Epoch, TrainRun

ROWS_PER_BLOCK = 2**22
"""Pairs of events that are counted at once."""


@dataclass(frozen=True, kw_only=True)
class MarkovConfig:
    """Settings of `markov`."""

    gaps: int = 5
    """Largest distance of two events that count as a transition."""
    last: int = 5
    """Newest items of the history that are read."""
    decay: float = 0.6
    """Weight of each item of the history relative to the one after it."""
    k: int = 500
    """Strongest followers kept of each item."""

    def __post_init__(self) -> None:
        check(self, gaps=self.gaps >= 1, last=self.last >= 1, decay=0 < self.decay <= 1, k=self.k >= 1)


class Markov(Model):
    """Markov rules: the items that followed the newest items of a history, with a decay over gaps."""

    Config = MarkovConfig
    answers = frozenset({"known_user", "history", "similar_items"})
    reads_repeats = True
    reads_order = True
    additive = True
    dynamic_buffers = ("offsets", "item", "weight")
    offsets: Tensor
    item: Tensor
    weight: Tensor

    def __init__(self, config: MarkovConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: MarkovConfig = config
        # P, one row for each item that is followed.
        register_sparse(self, spec.n_items)

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        counts = transitions(data, self.config.gaps)
        total_N = np.asarray(counts.sum(axis=1, dtype=np.float64)).reshape(-1)
        counts.data /= np.repeat(np.maximum(total_N, 1e-12), np.diff(counts.indptr)).astype(np.float32)
        kept = k_largest(counts, np.arange(data.n_items), self.config.k)
        self.offsets = torch.from_numpy(kept.indptr.astype(np.int64))
        self.item, self.weight = torch.from_numpy(kept.indices.astype(np.int32)), torch.from_numpy(kept.data)
        return []

    def check_buffers(self) -> None:
        check_sparse(self.offsets, self.item, self.weight, self.spec.n_items, self.spec.n_items)

    def _score(self, queries: Queries) -> Tensor:
        weight_T = self._weights(queries)
        read = weight_T > 0
        history = queries.history.keep(read)
        asked = matrix(history.offsets, history.values, weight_T[read], self.spec.n_items)
        scores = asked @ matrix(self.offsets, self.item, self.weight, self.spec.n_items)
        return torch.from_numpy(scores.toarray()).to(queries.user.device)

    def history_contributions(self, queries: Queries, item: int) -> tuple[Tensor, float]:
        rules = matrix(self.offsets, self.item, self.weight, self.spec.n_items)
        source = queries.history.values.cpu().numpy().copy()  # SciPy sets flags that a view of a tensor refuses.
        share = np.asarray(rules[source, np.full(len(source), item)], dtype=np.float32).reshape(-1)
        return torch.from_numpy(share).to(self.weight.device) * self._weights(queries), 0.0

    def _weights(self, queries: Queries) -> Tensor:
        """`decay^(p-1)` of each history value, float32 `[T]`; 0 for older ones than the `last` newest."""
        history = queries.history
        end_T = (history.offsets[1:] - 1)[history.row_of_value]
        age_T = end_T - torch.arange(len(history.values), device=end_T.device)
        return torch.where(age_T < self.config.last, self.config.decay ** age_T.float(), 0.0)


def transitions(data: Dataset, gaps: int) -> scipy.sparse.csr_matrix:
    """`sum_g f(g) n_g(j, i)` by row j and column i, float32 `[N, N]`, without transitions of an item to itself.

    Args:
        data: Histories in order.
        gaps: Largest gap.
    """
    shape = (data.n_items, data.n_items)
    found = scipy.sparse.csr_matrix(shape, dtype=np.float32)
    for gap in range(1, min(gaps, len(data) - 1) + 1):
        for start in range(0, len(data) - gap, ROWS_PER_BLOCK):
            stop = min(start + ROWS_PER_BLOCK, len(data) - gap)
            before, after = slice(start, stop), slice(start + gap, stop + gap)
            counts = (data.user[before] == data.user[after]) & (data.item[before] != data.item[after])
            pairs = data.item[before][counts], data.item[after][counts]
            weight = np.full(len(pairs[0]), 1 / gap, dtype=np.float32)
            found = found + scipy.sparse.csr_matrix((weight, pairs), shape=shape)
    return found.tocsr()
