"""Sparse EASE: EASE or EDLAE with each item regressed on a few others, for large catalogues.

score(u, i) = sum_{j in history, j in S_i} B_ji,  B_{S_i, i} = (G_SS + D_S)^-1 G_{S, i},  G = X'X,  S = S_i
D_j = reg + dropout / (1 - dropout) * G_jj

A column of EASE or EDLAE (Steck 2019, 2020) is the ridge regression of an item on all others. Here it is the
regression on S_i only: the k items that each explain most of i on their own, which are those with the largest
G_ij^2 / (G_jj + reg) (the feature selection of SLIM, Ning and Karypis 2011). B is a sparse approximation made of small
inverses; SANSA (Spisak et al. 2023) reaches one by factorising the whole matrix. With k = all other items it equals
EASE or EDLAE.

Penalty and dropout that are left open (None) are chosen as in `palate.models.linear.ease`; the counts are shared by all
candidates.

X and the history are those of `palate.models.linear.ease`: X sums sample weights, a repeated history item counts once.

Legend: B items of a block, N items, K neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy
import torch
from torch import Tensor

from palate.config import check
from palate.data.dataset import Dataset, Queries, Spec
from palate.errors import TrainingError
from palate.models.base import Model
from palate.models.buffers import check_sparse
from palate.models.choose import choose, noise_level
from palate.models.layers import machine_memory, require_memory
from palate.models.linear.ease import cooccurrence, interactions, ridge_ladders
from palate.models.linear.sparse_weights import by_source, contributions, register_sparse, score_history
from palate.training.train_run import Epoch, TrainRun

MAX_COOCCURRENCES_PER_BLOCK = 2**25
"""Entries of a dense block of G: 128 MB."""
MAX_GRAM_ENTRIES_PER_BLOCK = 2**21
"""Entries of the small matrices G_SS that are solved at once: 8 MB."""
MAX_DENSE_SHARE = 0.125
"""Share of the machine's memory that a dense G may take; it is faster to read and gives the same numbers."""


@dataclass(frozen=True, kw_only=True)
class SparseEASEConfig:
    """Settings of `sparse-ease`."""

    reg: float | None = None
    """Ridge penalty on the item-item weights, in interactions. Defaults to the best on valid, or a rule without it."""
    dropout: float | None = None
    """Probability that an input is dropped, in closed form: shrinks the weights of popular items more; 0 is EASE.
    Defaults to the best on valid, or 0.3 without it."""
    k: int = 100
    """Number of items that each item is regressed on. Time grows with its square to cube, memory linearly."""

    def __post_init__(self) -> None:
        check(self, reg=self.reg is None or self.reg > 0, dropout=self.dropout is None or 0 <= self.dropout < 1,
              k=self.k >= 1)  # fmt: skip


class SparseEASE(Model):
    """EASE or EDLAE on the k most informative neighbours of each item, for large catalogues."""

    Config = SparseEASEConfig
    config: SparseEASEConfig
    answers = frozenset({"known_user", "history", "similar_items"})
    uses_weights = True
    additive = True
    dynamic_buffers = ("offsets", "item", "weight")
    offsets: Tensor
    item: Tensor
    weight: Tensor

    def __init__(self, config: SparseEASEConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config = self.given = config
        require_memory(24 * spec.n_items * min(config.k, spec.n_items), "sparse-ease", "a smaller k")
        # B as a sparse matrix with one row for each history item.
        register_sparse(self, spec.n_items)

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        size, counts = data.n_items, Counts.of(data)
        rule = {"reg": noise_level(data) ** 2 / 3, "dropout": 0.3}

        def fit() -> None:
            near_NK, weight_NK = regressions(counts, self.config)
            ends = np.arange(size + 1) * near_NK.shape[1]
            by_target = scipy.sparse.csr_matrix((weight_NK.ravel(), near_NK.ravel(), ends), shape=(size, size))
            self.offsets, self.item, self.weight = by_source(by_target)

        if not choose(self, job, rule, ridge_ladders(rule), fit):
            fit()
        return []

    def check_buffers(self) -> None:
        check_sparse(self.offsets, self.item, self.weight, self.spec.n_items, self.spec.n_items)

    def _score(self, queries: Queries) -> Tensor:
        return score_history(queries.history, self.offsets, self.item, self.weight)

    def history_contributions(self, queries: Queries, item: int) -> tuple[Tensor, float]:
        return contributions(queries.history, item, self.offsets, self.item, self.weight), 0.0


@dataclass(frozen=True, eq=False)
class Counts:
    """What all regressions of one data set share.

    Attributes:
        rows: X, `[users, N]`.
        columns: X', `[N, users]`.
        diagonal: That of G, float32 `[N]`.
        read: Gives the matrices G_SS of sets S; see `dense` and `sparse`.
    """

    rows: scipy.sparse.csr_matrix
    columns: scipy.sparse.csr_matrix
    diagonal: Tensor
    read: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, data: Dataset) -> Counts:
        """Counted from a data set."""
        size, rows = data.n_items, interactions(data)
        columns = rows.T.tocsr()
        diagonal = np.bincount(rows.indices, weights=np.square(rows.data, dtype=np.float64), minlength=size)
        read = dense(cooccurrence(data)) if 4 * size**2 <= MAX_DENSE_SHARE * machine_memory() else sparse(columns)
        return cls(rows, columns, torch.from_numpy(diagonal).float(), read)


def regressions(counts: Counts, config: SparseEASEConfig) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours of each item, int32 `[N, K]`, and their weights, float32 `[N, K]`.

    Args:
        counts: Those of the data.
        config: A complete one.

    Raises:
        TrainingError: A small matrix is not positive definite; a larger `reg` makes it so.
    """
    assert config.reg is not None
    assert config.dropout is not None
    rows, columns, diagonal_N, read = counts.rows, counts.columns, counts.diagonal, counts.read
    (users, size), width = rows.shape, min(config.k, rows.shape[1] - 1)
    ridge_N = config.reg + config.dropout / (1 - config.dropout) * diagonal_N
    near_NK, weight_NK = (np.zeros((size, width), dtype=kind) for kind in (np.int32, np.float32))
    step = max(1, MAX_COOCCURRENCES_PER_BLOCK // size)
    block = min(MAX_GRAM_ENTRIES_PER_BLOCK // max(width, 1) ** 2, MAX_COOCCURRENCES_PER_BLOCK // users)
    for start in range(0, size, step):
        shared_BN = torch.from_numpy((columns[start : start + step] @ rows).toarray())
        gain_BN = shared_BN / (diagonal_N + config.reg).sqrt()
        gain_BN.diagonal(start).fill_(-1)  # An item is not regressed on itself.
        near_BK = gain_BN.topk(width).indices.sort().values
        near_NK[start : start + step] = near_BK.numpy()
        shared_BK = shared_BN.gather(1, near_BK)
        for part in torch.arange(len(near_BK)).split(max(1, block)):  # type: ignore[no-untyped-call]
            solved_BK = _solve(read(near_BK[part]), ridge_N[near_BK[part]], shared_BK[part])
            weight_NK[start + part.numpy()] = solved_BK.numpy()
    return near_NK, weight_NK


def _solve(gram_BKK: Tensor, ridge_BK: Tensor, right_BK: Tensor) -> Tensor:
    """The regression of each item on its neighbours, `[B, K]`; overwrites the matrices."""
    gram_BKK.diagonal(dim1=1, dim2=2).add_(ridge_BK)
    factor_BKK, fault_B = torch.linalg.cholesky_ex(gram_BKK)
    if bool(fault_B.any()):
        raise TrainingError("an item-item matrix is not positive definite in float32; use a larger reg")
    return torch.cholesky_solve(right_BK.unsqueeze(2), factor_BKK).squeeze(2)


def dense(gram: np.ndarray) -> Callable[[Tensor], Tensor]:
    """A function that reads the matrices G_SS, `[B, K, K]`, of ascending sets S, `[B, K]`, from a dense G.

    Only their diagonals and lower triangles are defined.
    """
    gram_NN = torch.from_numpy(gram)
    return lambda near_BK: gram_NN[near_BK.unsqueeze(2), near_BK.unsqueeze(1)]


def sparse(columns: scipy.sparse.csr_matrix) -> Callable[[Tensor], Tensor]:
    """The same function without G: it multiplies the rows of X', `[N, users]`, of all sets of a block at once.

    Each set has columns of its own in that product, so that sets do not mix.
    """
    users = columns.shape[1]

    def read(near_BK: Tensor) -> Tensor:
        blocks, width = near_BK.shape
        chosen = columns[near_BK.flatten().numpy()]
        apart = np.repeat(np.arange(blocks) * users, np.diff(chosen.indptr[::width]))
        chosen = scipy.sparse.csr_matrix(
            (chosen.data, chosen.indices + apart, chosen.indptr), shape=(blocks * width, blocks * users)
        )
        product = chosen @ chosen.T
        row = np.repeat(np.arange(blocks * width), np.diff(product.indptr))
        gram = np.zeros(blocks * width**2, dtype=np.float32)
        gram[row * width + product.indices % width] = product.data
        return torch.from_numpy(gram).view(blocks, width, width)

    return read
