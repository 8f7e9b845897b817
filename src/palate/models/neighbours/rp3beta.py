"""RP3beta: random walks of three steps over the user-item graph, with a penalty for popular items.

score(u, i) = sum_{j in history, j in top k of i} sum_v p(v | j)^alpha p(i | v)^alpha / degree(i)^beta

with p(v | j) = X_vj / degree(j) for each user v of item j, and p(i | v) = X_vi / degree(v) (Paudel et al. 2017). X_ui
is the sum of the sample weights of the interactions of user u with item i, 1 each for data without weights. The degree
of a user or item is its sum in X. The history of a query counts each distinct item once.

Settings that are left open (None) are chosen on the validation part (`palate.models.choose`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy
from torch import Tensor

from palate.config import check
from palate.data.dataset import Dataset, Queries, Spec
from palate.models.base import Model
from palate.models.buffers import check_sparse
from palate.models.choose import Value, choose
from palate.models.linear.sparse_weights import by_source, contributions, register_sparse, score_history
from palate.models.neighbours.nearest import MAX_HISTORY, nearest_items, sampled_interactions
from palate.training.train_run import Epoch, TrainRun

RULE: dict[str, Value] = {"beta": 0.4, "alpha": 1.0, "k": 100}
"""Settings without a validation part."""
LADDERS: dict[str, tuple[Value, ...]] = {
    "beta": (0.0, 0.2, 0.4, 0.6, 0.8),
    "alpha": (0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0),
    "k": (5, 10, 20, 50, 100, 200, 500),
}
"""Settings that a search tries."""


@dataclass(frozen=True, kw_only=True)
class RP3betaConfig:
    """Settings of `rp3beta`."""

    k: int | None = None
    """Number of neighbours of each item. Defaults to the best on valid, or 100 without it."""
    alpha: float | None = None
    """Exponent of the transition probabilities. Defaults to the best on valid, or 1 without it."""
    beta: float | None = None
    """Exponent of the penalty for popular items. Defaults to the best on valid, or 0.4 without it."""
    max_history: int = MAX_HISTORY
    """Users with more items than this count with an evenly spaced sample of so many; time grows with its square."""

    def __post_init__(self) -> None:
        check(
            self, k=self.k is None or self.k >= 1, alpha=self.alpha is None or self.alpha > 0,
            beta=self.beta is None or self.beta >= 0, max_history=self.max_history >= 1,
        )  # fmt: skip


class RP3beta(Model):
    """Random walks of three steps from the history, with a penalty for popular items."""

    Config = RP3betaConfig
    config: RP3betaConfig
    answers = frozenset({"known_user", "history", "similar_items"})
    uses_weights = True
    additive = True
    dynamic_buffers = ("offsets", "item", "weight")
    offsets: Tensor
    item: Tensor
    weight: Tensor

    def __init__(self, config: RP3betaConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config = self.given = config
        # Walks as a sparse matrix with one row for each history item.
        register_sparse(self, spec.n_items)

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        known = sampled_interactions(data, self.config.max_history, "rp3beta")
        degrees = _degree(known, 1), _degree(known, 0)

        def fit() -> None:
            assert self.config.k is not None
            near = nearest_items(*walks(known, degrees, self.config), self.config.k, _as_float32, "rp3beta")
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


def walks(
    known: scipy.sparse.csr_matrix, degrees: tuple[np.ndarray, np.ndarray], config: RP3betaConfig
) -> tuple[scipy.sparse.csr_matrix, scipy.sparse.csr_matrix]:
    """The last step of a walk into each item, `[N, M]`, and the first step from each item, `[M, N]`.

    Args:
        known: X, `[M, N]`.
        degrees: Sums of its rows, and of its columns.
        config: A complete one.
    """
    alpha, beta, (user_degree, item_degree) = config.alpha, config.beta, degrees
    assert alpha is not None
    assert beta is not None
    known = known.copy()
    known.data **= alpha
    from_user = (scipy.sparse.diags(user_degree**-alpha) @ known).tocsr()
    from_item = (scipy.sparse.diags(item_degree**-alpha) @ known.T).tocsr()
    # Row i holds the last steps into i, from every user; the product with `from_item` starts them at every j.
    return (scipy.sparse.diags(item_degree**-beta) @ from_user.T).tocsr(), from_item.T.tocsr()


def _degree(known: scipy.sparse.csr_matrix, axis: int) -> np.ndarray:
    """Sums of the matrix along an axis, float64; 1 for an empty row or column, which then divides nothing."""
    degree = np.asarray(known.sum(axis=axis, dtype=np.float64)).reshape(-1)
    return np.where(degree > 0, degree, 1.0)


def _as_float32(product: scipy.sparse.csr_matrix, start: int) -> scipy.sparse.csr_matrix:
    return product.astype(np.float32)
