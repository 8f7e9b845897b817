"""Sparse item-item weights: how `sparse-ease`, `itemknn` and `rp3beta` keep them and score with them.

score(u, i) = sum_{j in history} W_ji

W is kept by source, one row for each history item j: `offsets` int64 `[N + 1]`, `item` int32 and `weight` float32, one
value for each non-zero. A history counts each distinct item once.

Legend: B queries, N items, T history values.
"""

from __future__ import annotations

import numpy as np
import scipy
import torch
from torch import Tensor, nn

from palate.data.ragged import Ragged
from palate.models.layers import distinct_history, first_occurrences


def register_sparse(model: nn.Module, rows: int) -> None:
    """Give a model the buffers `offsets`, `item` and `weight` of an empty sparse matrix, sized by the fit."""
    model.register_buffer("offsets", torch.zeros(rows + 1, dtype=torch.int64))
    model.register_buffer("item", torch.zeros(0, dtype=torch.int32))
    model.register_buffer("weight", torch.zeros(0))


def by_source(by_target: scipy.sparse.csr_matrix) -> tuple[Tensor, Tensor, Tensor]:
    """`offsets`, `item` and `weight` of W, from a matrix with one row for each item that is scored; drops zeros."""
    rows = by_target.T.tocsr()
    rows.eliminate_zeros()
    offsets = torch.from_numpy(rows.indptr.astype(np.int64))
    return offsets, torch.from_numpy(rows.indices.astype(np.int32)), torch.from_numpy(rows.data)


def score_history(history: Ragged, offsets: Tensor, item: Tensor, weight: Tensor) -> Tensor:
    """Scores of all items for each history, float32 `[B, N]`."""
    weights = matrix(offsets, item, weight, len(offsets) - 1)
    known = distinct_history(history)
    ones = torch.ones(len(known.values))
    scores = matrix(known.offsets, known.values, ones, len(offsets) - 1) @ weights
    return torch.from_numpy(scores.toarray()).to(weight.device)


def contributions(history: Ragged, target: int, offsets: Tensor, item: Tensor, weight: Tensor) -> Tensor:
    """What each history value adds to the score of one item, `[T]`; the second of two equal items adds nothing."""
    weights = matrix(offsets, item, weight, len(offsets) - 1)
    source = history.values.cpu().numpy().copy()  # SciPy sets flags that a view of a tensor refuses.
    share = np.asarray(weights[source, np.full(len(source), target)], dtype=np.float32).reshape(-1)
    return torch.from_numpy(share).to(weight.device) * first_occurrences(history)


def matrix(offsets: Tensor, item: Tensor, weight: Tensor, columns: int) -> scipy.sparse.csr_matrix:
    """A SciPy view of a sparse matrix that is kept in three tensors."""
    parts = (weight.cpu().numpy(), item.cpu().numpy(), offsets.cpu().numpy())
    return scipy.sparse.csr_matrix(parts, shape=(len(offsets) - 1, columns))
