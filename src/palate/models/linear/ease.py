"""EASE and EDLAE: linear item-item autoencoders with a closed-form solution.

score(u, .) = x_u B,  B = I - P / diag(P),  P = (X'X + D)^-1,  diag(B) = 0

EASE (Steck 2019): D = reg * I. EDLAE (Steck 2020): D = reg * I + dropout / (1 - dropout) * diag(X'X), which is the
expected loss of training x -> x with dropout on the input.

A penalty that is left open (None) is chosen on the validation part (`palate.models.choose`); the Gram matrix X'X is
computed once for all candidates. Without a validation part it follows from the size of the data: the square of
`noise_level`, the scale of the eigenvalues of X'X that are noise; a third of it for EDLAE, whose dropout adds to it.

X_ui is the sum of the sample weights of the interactions of user u with item i, and the number of interactions for data
without weights. x_u holds 1 for each distinct item of the query's history: an item that occurs twice counts once.

Legend: B queries, N items.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import scipy
import torch
from torch import Tensor

from palate.config import check
from palate.data.dataset import Dataset, Queries, Spec
from palate.errors import DataError, TrainingError
from palate.models.base import Model
from palate.models.choose import around, choose, noise_level
from palate.models.layers import distinct_history, first_occurrences, require_memory, sum_rows
from palate.training.train_run import Epoch, TrainRun

ITEMS_PER_PRODUCT = 512
"""Columns of X'X that one sparse product computes."""
ITEMS_PER_MIRROR = 1024
"""Columns that are mirrored at the diagonal at once."""
WEIGHTS = (1e-15, 1e15)
"""Least and largest value of the largest sample weight: sums of squares stay within float32."""


@dataclass(frozen=True, kw_only=True)
class EASEConfig:
    """Settings of `ease`."""

    reg: float | None = None
    """Ridge penalty on the item-item weights, in interactions. Defaults to the best on valid, or a rule without it."""

    def __post_init__(self) -> None:
        check(self, reg=self.reg is None or self.reg > 0)


@dataclass(frozen=True, kw_only=True)
class EDLAEConfig:
    """Settings of `edlae`."""

    reg: float | None = None
    """Ridge penalty on the item-item weights, in interactions. Defaults to the best on valid, or a rule without it."""
    dropout: float | None = None
    """Probability that an input is dropped, in closed form: shrinks the weights of popular items more. Defaults to the
    best on valid, or 0.3 without it."""

    def __post_init__(self) -> None:
        check(self, reg=self.reg is None or self.reg > 0, dropout=self.dropout is None or 0 <= self.dropout < 1)


class EASE(Model):
    """Linear item-item autoencoder in closed form: a strong baseline with one hyper-parameter."""

    Config = EASEConfig
    config: EASEConfig
    answers = frozenset({"known_user", "history", "similar_items"})
    uses_weights = True
    additive = True
    gradients = frozenset({"history"})
    weight: Tensor

    def __init__(self, config: EASEConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config = self.given = config
        require_memory((4 if config.reg else 8) * spec.n_items**2, "ease", "sparse-ease")
        self.register_buffer("weight", torch.zeros(spec.n_items, spec.n_items))

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        fit_ridge(self, data, job, {"reg": noise_level(data) ** 2})
        return []

    def _score(self, queries: Queries) -> Tensor:
        return sum_rows(self.weight, distinct_history(queries.history))

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        return sum_rows(self.weight[:, item_I], distinct_history(queries.history))

    def history_contributions(self, queries: Queries, item: int) -> tuple[Tensor, float]:
        return self.weight[queries.history.values, item] * first_occurrences(queries.history), 0.0

    def item_vectors(self) -> Tensor:
        return self.weight


class EDLAE(Model):
    """EASE with dropout on its input, in closed form: shrinks the weights of popular items more."""

    Config = EDLAEConfig
    config: EDLAEConfig
    answers = frozenset({"known_user", "history", "similar_items"})
    uses_weights = True
    additive = True
    gradients = frozenset({"history"})
    weight: Tensor

    def __init__(self, config: EDLAEConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config = self.given = config
        complete = config.reg is not None and config.dropout is not None
        require_memory((4 if complete else 8) * spec.n_items**2, "edlae", "sparse-ease")
        self.register_buffer("weight", torch.zeros(spec.n_items, spec.n_items))

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        fit_ridge(self, data, job, {"reg": noise_level(data) ** 2 / 3, "dropout": 0.3})
        return []

    def _score(self, queries: Queries) -> Tensor:
        return sum_rows(self.weight, distinct_history(queries.history))

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        return sum_rows(self.weight[:, item_I], distinct_history(queries.history))

    def history_contributions(self, queries: Queries, item: int) -> tuple[Tensor, float]:
        return self.weight[queries.history.values, item] * first_occurrences(queries.history), 0.0

    def item_vectors(self) -> Tensor:
        return self.weight


DROPOUTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Dropouts that a search tries."""


def ridge_ladders(rule: dict[str, float]) -> dict[str, tuple[float, ...]]:
    """Penalties around that of the rule, and dropouts."""
    return {"reg": around(rule["reg"], 2, 8), "dropout": DROPOUTS}


def ridge(config: EASEConfig | EDLAEConfig, diagonal: np.ndarray) -> np.ndarray:
    """The diagonal of D, `[N]`.

    Args:
        config: A complete one.
        diagonal: That of X'X.
    """
    dropout = config.dropout if isinstance(config, EDLAEConfig) else 0.0
    assert config.reg is not None
    assert dropout is not None
    found: np.ndarray = config.reg + dropout / (1 - dropout) * diagonal
    return found


def fit_ridge(model: EASE | EDLAE, data: Dataset, job: TrainRun, rule: dict[str, float]) -> None:
    """Compute a model's weights, under a penalty that is chosen if it is open; one X'X serves all candidates."""
    gram = cooccurrence(data)

    def fit(last: bool = False) -> None:
        model.weight = item_weights(gram if last else gram.copy(order="F"), ridge(model.config, np.diagonal(gram)))

    if not choose(model, job, rule, ridge_ladders(rule), fit):
        fit(last=True)


def interactions(data: Dataset) -> scipy.sparse.csr_matrix:
    """X: the sum of the sample weights of each user's interactions with each item, float32 `[users, items]`.

    Without sample weights every interaction has weight 1.

    Raises:
        DataError: The largest weight is so large or small that sums of squares leave float32.
    """
    weight = np.ones(len(data), np.float32) if data.weight is None else np.array(data.weight, np.float32)
    largest = float(weight.max(initial=0.0))
    if largest and not WEIGHTS[0] <= largest <= WEIGHTS[1]:
        raise DataError(
            f"the largest sample weight is {largest:g}; this model needs one from {WEIGHTS[0]:g} to {WEIGHTS[1]:g}: "
            "multiply all weights by a constant"
        )
    # Copies: SciPy sorts and sums in place.
    rows = scipy.sparse.csr_matrix(
        (weight, np.array(data.item), np.array(data.offsets)), shape=(data.n_users, data.n_items)
    )
    if not rows.sorted_indices().has_canonical_format:
        rows.sum_duplicates()
    rows.eliminate_zeros()  # An interaction of weight 0 is none.
    return rows


def cooccurrence(data: Dataset) -> np.ndarray:
    """X'X, float32 `[N, N]`, column-major as LAPACK expects it: without weights, the users that two items share.

    Only the diagonal and the lower triangle are filled in; the rest is undefined.
    """
    rows = interactions(data)
    by_item, columns = rows.tocsc(), rows.T.tocsr()
    gram = np.zeros((data.n_items, data.n_items), dtype=np.float32, order="F")

    def fill(start: int) -> None:
        stop = start + ITEMS_PER_PRODUCT
        gram[start:, start:stop] = (columns[start:stop] @ by_item[:, start:].tocsr()).toarray().T

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # SciPy's products release the GIL.
        list(pool.map(fill, range(0, data.n_items, ITEMS_PER_PRODUCT)))
    return gram


def item_weights(gram: np.ndarray, ridge: np.ndarray) -> Tensor:
    """B of the module's formula, float32 `[N, N]`, computed in the memory of `gram`.

    Args:
        gram: X'X, float32 `[N, N]`, column-major; overwritten by B.
        ridge: Diagonal of D, `[N]`.

    Raises:
        TrainingError: The matrix is not positive definite; a larger `reg` makes it so.
    """
    gram[np.diag_indices_from(gram)] += ridge
    factor, fault = scipy.linalg.lapack.spotrf(gram, lower=1, overwrite_a=1)
    if fault:
        raise TrainingError("the item-item matrix is not positive definite in float32; use a larger reg")
    inverse, _ = scipy.linalg.lapack.spotri(factor, lower=1, overwrite_c=1)
    for start in range(0, len(inverse), ITEMS_PER_MIRROR):  # LAPACK fills the lower triangle only.
        stop = start + ITEMS_PER_MIRROR
        inverse[start:stop, stop:] = inverse[stop:, start:stop].T
        square = inverse[start:stop, start:stop]
        square[:] = np.tril(square) + np.tril(square, -1).T
    weight = torch.from_numpy(inverse.T)  # The matrix is symmetric: its transposed view is row-major.
    weight /= -weight.diagonal().clone()
    return weight.fill_diagonal_(0)
