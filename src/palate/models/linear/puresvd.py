"""PureSVD: truncated singular value decomposition of the interaction matrix, with zeros for missing interactions.

score(u, .) = x_u V V',  V = the first `dim` right singular vectors of X  (Cremonesi, Koren, Turrin 2010)

X_ui is the sum of the sample weights of the interactions of user u with item i, 1 each for data without weights. x_u
holds 1 for each distinct item of the query's history: an item that occurs twice counts once.

Legend: B queries, N items, D dim.
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
from palate.models.buffers import check_rows
from palate.models.choose import choose
from palate.models.layers import distinct_history, first_occurrences, sum_rows
from palate.models.linear.ease import interactions
from palate.training.train_run import Epoch, TrainRun

DIM = 48
"""Width without a validation part."""
DIMS = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Widths that a search tries; narrower models are the first columns of the widest."""


@dataclass(frozen=True, kw_only=True)
class PureSVDConfig:
    """Settings of `puresvd`."""

    dim: int | None = None
    """Number of singular vectors; at most one less than the smaller of the numbers of users and items. Defaults to the
    best on valid, or 48 without it."""

    def __post_init__(self) -> None:
        check(self, dim=self.dim is None or self.dim >= 1)


class PureSVD(Model):
    """Truncated singular value decomposition of the interaction matrix."""

    Config = PureSVDConfig
    answers = frozenset({"known_user", "history", "similar_items"})
    uses_weights = True
    additive = True
    gradients = frozenset({"history"})
    dynamic_buffers = ("item",)
    config: PureSVDConfig
    item: Tensor

    def __init__(self, config: PureSVDConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config = self.given = config
        self.register_buffer("item", torch.zeros(spec.n_items, 0))

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        rows, vectors = interactions(data), torch.zeros(data.n_items, 0)

        def fit() -> None:
            nonlocal vectors
            assert self.config.dim is not None
            if (dim := min(self.config.dim, data.n_items)) > vectors.shape[1]:
                vectors = right_singular_vectors(rows, dim, job.rng)
            self.item = vectors[:, :dim].contiguous()

        if not choose(self, job, {"dim": DIM}, {"dim": DIMS}, fit):
            fit()
        return []

    def check_buffers(self) -> None:
        check_rows("item", self.item, self.spec.n_items)

    def _score(self, queries: Queries) -> Tensor:
        return self.query_factors(queries) @ self.item.T

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        return self.query_factors(queries) @ self.item[item_I].T

    def history_contributions(self, queries: Queries, item: int) -> tuple[Tensor, float]:
        share_T = self.item[queries.history.values] @ self.item[item]
        return share_T * first_occurrences(queries.history), 0.0

    def item_vectors(self) -> Tensor:
        return self.item

    def item_factors(self) -> Tensor:
        return self.item

    def query_factors(self, queries: Queries) -> Tensor:
        return sum_rows(self.item, distinct_history(queries.history))


def right_singular_vectors(rows: scipy.sparse.csr_matrix, dim: int, rng: torch.Generator) -> Tensor:
    """The first right singular vectors of a sparse matrix, float32 `[N, D]`, the largest singular value first.

    Args:
        rows: float32 `[users, N]`.
        dim: Number of vectors; those beyond what the matrix has are zero.
        rng: Draws the start of the iteration.
    """
    item_ND = torch.zeros(rows.shape[1], dim)
    width = min(dim, min(rows.shape) - 1)
    if width < 1:  # One user or one item: the matrix has a single singular vector.
        total_N = np.asarray(rows.sum(axis=0)).reshape(-1)
        norm = max(np.linalg.norm(total_N), np.finfo(np.float32).tiny)
        item_ND[:, 0] = torch.from_numpy(total_N / norm)
        return item_ND
    start = torch.randn(min(rows.shape), generator=rng).numpy()
    _, _, right = scipy.sparse.linalg.svds(rows, k=width, v0=start)
    item_ND[:, :width] = torch.from_numpy(right[::-1].T.copy())
    return item_ND
