"""GF-CF and Turbo-CF: graph filters of the item-item graph, in closed form.

Both read a history as a signal on the items, x_u, and smooth it with a filter of the item-item graph P. An item gets a
high score if it is strongly connected to the items of the history. U and D are diagonal: the degrees of users and of
items, which are their sums in X.

gf-cf     (Shen et al. 2021)  score(u, .) = x_u (P + alpha D^-1/2 V V' D^1/2),  P = R'R,  R = U^-1/2 X D^-1/2
turbo-cf  (Park et al. 2024)  score(u, .) = x_u h(P),  P = (R'R)^power entry by entry,  R = U^-alpha X D^(alpha - 1)
                              h(P) = P  |  2 P - P^2  |  P + 0.01 (-P^3 + 10 P^2 - 29 P)   for order 1, 2, 3

P is the linear low-pass filter. V holds the first `dim` right singular vectors of R; V V' is the ideal low-pass filter:
it keeps the smoothest signals and drops the others. The two asymmetric exponents of turbo-cf weaken popular items and
active users to different degrees.

P is nearly dense for large data. Each history item (row of P) keeps its `k` largest entries, which bounds memory and
the time of an answer; the filters are exact for this P. With `k` equal to the number of items nothing is dropped.

X_ui is the sum of the sample weights of the interactions of user u with item i, 1 each for data without weights. x_u
holds 1 for each distinct item of the query's history: an item that occurs twice counts once. Known users and new ones
are scored by the same formula, so every history is answered, without training.

Settings that are left open (None) are chosen on the validation part (`palate.models.choose`); gf-cf shares P and one
decomposition among all candidates.

Legend: B queries, N items, M users, D dim, T history values.
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
from palate.models.buffers import check_rows, check_sparse
from palate.models.choose import Value, choose
from palate.models.layers import distinct_history, first_occurrences, sum_rows
from palate.models.linear.puresvd import right_singular_vectors
from palate.models.linear.sparse_weights import contributions, matrix, register_sparse, score_history
from palate.models.neighbours.nearest import MAX_HISTORY, nearest_items, sampled_interactions
from palate.training.train_run import Epoch, TrainRun

COEFFICIENTS = {1: (1.0,), 2: (2.0, -1.0), 3: (0.71, 0.1, -0.01)}
"""Coefficients of P, P^2, ... in the filters of turbo-cf, by order."""

GF_RULE: dict[str, Value] = {"alpha": 0.3, "dim": 256}
GF_LADDERS: dict[str, tuple[Value, ...]] = {
    "alpha": (0.0, 0.1, 0.2, 0.3, 0.5, 0.8, 1.3, 2.0),
    "dim": (8, 16, 32, 64, 128, 256),
}
TURBO_RULE: dict[str, Value] = {"alpha": 0.5, "power": 0.7}
TURBO_LADDERS: dict[str, tuple[Value, ...]] = {
    "alpha": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    "power": (0.5, 0.6, 0.7, 0.8, 1.0, 1.2, 1.5),
}
"""Settings of gf-cf and turbo-cf without a validation part, and those that a search tries."""


@dataclass(frozen=True, kw_only=True)
class GFCFConfig:
    """Settings of `gf-cf`."""

    dim: int | None = None
    """Number of singular vectors of the ideal low-pass filter; at most one less than the numbers of users and items.
    Defaults to the best on valid, or 256 without it."""
    alpha: float | None = None
    """Weight of the ideal low-pass filter; 0 leaves the linear filter alone. Defaults to the best on valid, or 0.3
    without it."""
    k: int = 2000
    """Strongest connections kept for each item of the graph. Memory and the time of an answer grow with it."""
    max_history: int = MAX_HISTORY
    """Users with more items than this count with an evenly spaced sample of so many; time grows with its square."""

    def __post_init__(self) -> None:
        check(self, dim=self.dim is None or self.dim >= 1, alpha=self.alpha is None or self.alpha >= 0, k=self.k >= 1,
              max_history=self.max_history >= 1)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TurboCFConfig:
    """Settings of `turbo-cf`."""

    alpha: float | None = None
    """Exponent of the users' degrees; that of the items' is 1 - alpha. 0.5 is the symmetric normalisation of gf-cf.
    Defaults to the best on valid, or 0.5 without it."""
    power: float | None = None
    """Exponent of the entries of the item-item graph; below 1 it brings weak and strong connections closer together.
    Defaults to the best on valid, or 0.7 without it."""
    order: int = 1
    """Degree of the polynomial filter: 1 (linear), 2 or 3. Answers of the latter two take far longer. Order 2 needs a
    larger power (1 or more): it reverses signals for which P has an eigenvalue above 2."""
    k: int = 2000
    """Strongest connections kept for each item of the graph. Memory and the time of an answer grow with it."""
    max_history: int = MAX_HISTORY
    """Users with more items than this count with an evenly spaced sample of so many; time grows with its square."""

    def __post_init__(self) -> None:
        check(self, alpha=self.alpha is None or 0 <= self.alpha <= 1, power=self.power is None or self.power > 0,
              order=self.order in COEFFICIENTS, k=self.k >= 1, max_history=self.max_history >= 1)  # fmt: skip


class GFCF(Model):
    """Linear and ideal low-pass filter of the item-item graph, in closed form."""

    Config = GFCFConfig
    answers = frozenset({"known_user", "history", "similar_items"})
    uses_weights = True
    additive = True
    dynamic_buffers = ("offsets", "item", "weight", "singular")
    config: GFCFConfig
    offsets: Tensor
    item: Tensor
    weight: Tensor
    singular: Tensor
    root: Tensor

    def __init__(self, config: GFCFConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config = self.given = config
        # P as a sparse matrix with one row for each history item.
        register_sparse(self, spec.n_items)
        self.register_buffer("singular", torch.zeros(spec.n_items, 0))  # V alpha^1/2
        self.register_buffer("root", torch.zeros(spec.n_items))  # D^1/2

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        known = sampled_interactions(data, self.config.max_history, "gf-cf")
        rows, vectors = normalised(known, 0.5, 0.5), torch.zeros(data.n_items, 0)
        self.offsets, self.item, self.weight = item_graph(rows, 1.0, self.config.k, "gf-cf")
        self.root = torch.from_numpy(np.sqrt(_degree(known, 0)).astype(np.float32))

        def fit() -> None:
            nonlocal vectors
            assert self.config.dim is not None
            assert self.config.alpha is not None
            if (dim := min(self.config.dim, data.n_items)) > vectors.shape[1]:
                vectors = right_singular_vectors(rows, dim, job.rng)
            self.singular = vectors[:, :dim] * self.config.alpha**0.5

        if not choose(self, job, GF_RULE, GF_LADDERS, fit):
            fit()
        return []

    def check_buffers(self) -> None:
        check_sparse(self.offsets, self.item, self.weight, self.spec.n_items, self.spec.n_items)
        check_rows("singular", self.singular, self.spec.n_items)

    def _score(self, queries: Queries) -> Tensor:
        history = distinct_history(queries.history)
        signal_BD = sum_rows(self.singular, history, inverse(self.root[history.values]))
        ideal_BN = signal_BD @ self.singular.T * self.root
        return score_history(history, self.offsets, self.item, self.weight).add_(ideal_BN)

    def history_contributions(self, queries: Queries, item: int) -> tuple[Tensor, float]:
        history = queries.history
        linear_T = contributions(history, item, self.offsets, self.item, self.weight)
        ideal_T = self.singular[history.values] @ self.singular[item] * self.root[item]
        ideal_T = ideal_T * inverse(self.root[history.values]) * first_occurrences(history)
        return linear_T + ideal_T, 0.0


class TurboCF(Model):
    """Polynomial low-pass filter of an item-item graph with asymmetric normalisation, in closed form."""

    Config = TurboCFConfig
    config: TurboCFConfig
    answers = frozenset({"known_user", "history", "similar_items"})
    uses_weights = True
    additive = True
    dynamic_buffers = ("offsets", "item", "weight")
    offsets: Tensor
    item: Tensor
    weight: Tensor

    def __init__(self, config: TurboCFConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config = self.given = config
        # P as a sparse matrix with one row for each history item.
        register_sparse(self, spec.n_items)

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        known = sampled_interactions(data, self.config.max_history, "turbo-cf")

        def fit() -> None:
            assert self.config.alpha is not None
            assert self.config.power is not None
            rows = normalised(known, self.config.alpha, 1 - self.config.alpha)
            self.offsets, self.item, self.weight = item_graph(rows, self.config.power, self.config.k, "turbo-cf")

        if not choose(self, job, TURBO_RULE, TURBO_LADDERS, fit):
            fit()
        return []

    def check_buffers(self) -> None:
        check_sparse(self.offsets, self.item, self.weight, self.spec.n_items, self.spec.n_items)

    def _score(self, queries: Queries) -> Tensor:
        smooth_BN = score_history(queries.history, self.offsets, self.item, self.weight)
        if self.config.order == 1:
            return smooth_BN
        by_target = self._graph().T.tocsr()
        found = polynomial(by_target, smooth_BN.cpu().numpy().T, COEFFICIENTS[self.config.order])
        return torch.from_numpy(np.ascontiguousarray(found.T)).to(smooth_BN.device)

    def history_contributions(self, queries: Queries, item: int) -> tuple[Tensor, float]:
        history = queries.history
        if self.config.order == 1:
            return contributions(history, item, self.offsets, self.item, self.weight), 0.0
        graph = self._graph()
        column = polynomial(graph, graph[:, [item]].toarray(), COEFFICIENTS[self.config.order])[:, 0]
        column_N = torch.from_numpy(column).to(self.weight.device)
        return column_N[history.values] * first_occurrences(history), 0.0

    def _graph(self) -> scipy.sparse.csr_matrix:
        return matrix(self.offsets, self.item, self.weight, self.spec.n_items)


def normalised(known: scipy.sparse.csr_matrix, user_exponent: float, item_exponent: float) -> scipy.sparse.csr_matrix:
    """R: the interactions divided by powers of the degrees of their user and item, float32 `[M, N]`."""
    user, item = _degree(known, 1), _degree(known, 0)
    return (
        (scipy.sparse.diags(user**-user_exponent) @ known @ scipy.sparse.diags(item**-item_exponent))
        .tocsr()
        .astype(np.float32)
    )


def item_graph(rows: scipy.sparse.csr_matrix, power: float, k: int, who: str) -> tuple[Tensor, Tensor, Tensor]:
    """P, computed and pruned block by block: `offsets`, `item` and `weight` of `palate.models.linear.sparse_weights`.

    Args:
        rows: R.
        power: Exponent of the entries of R'R.
        k: Entries kept in each row.
        who: The model's name, for errors.
    """

    def entries(product: scipy.sparse.csr_matrix, start: int) -> scipy.sparse.csr_matrix:
        if power != 1:
            np.power(product.data, np.float32(power), out=product.data)
        return product

    graph = nearest_items(rows.T.tocsr(), rows, k, entries, who, with_self=True)
    # R'R is symmetric: its rows are those of the scored items and of the history items alike.
    offsets = torch.from_numpy(graph.indptr.astype(np.int64))
    return offsets, torch.from_numpy(graph.indices.astype(np.int32)), torch.from_numpy(graph.data)


def polynomial(graph: scipy.sparse.csr_matrix, first: np.ndarray, coefficients: tuple[float, ...]) -> np.ndarray:
    """`sum_p c_p graph^p x` of signals x in columns, float32, from `first = graph x`."""
    found, current = np.float32(coefficients[0]) * first, first
    for coefficient in coefficients[1:]:
        current = graph @ current
        found += np.float32(coefficient) * current
    return found


def inverse(value: Tensor) -> Tensor:
    """`1 / value`, and 0 for 0."""
    return torch.where(value > 0, 1 / value, 0.0)


def _degree(known: scipy.sparse.csr_matrix, axis: int) -> np.ndarray:
    """Sums along an axis, float64; 1 for an empty row or column, which then divides nothing."""
    degree = np.asarray(known.sum(axis=axis, dtype=np.float64)).reshape(-1)
    return np.where(degree > 0, degree, 1.0)
