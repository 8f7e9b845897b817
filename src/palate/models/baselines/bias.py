"""User and item biases: how high a user rates, and how high an item is rated, relative to the mean.

prediction(u, i) = m + b_u + b_i, with m the mean rating and the biases minimising

sum_(u,i) w_ui (r_ui - m - b_u - b_i)^2 + user_shrink * sum_u b_u^2 + item_shrink * sum_i b_i^2

in closed form, alternating between users and items until convergence (Koren 2010, "Factor in the neighbors", section
2.1):

b_i = sum_u w_ui (r_ui - m - b_u) / (item_shrink + sum_u w_ui)
b_u = sum_i w_ui (r_ui - m - b_i) / (user_shrink + sum_i w_ui)

w_ui are sample weights, 1 for data without weights, and m is the weighted mean. The last formula also gives the bias of
a new user from a history with ratings, where each rating counts, including two ratings of one item. The lists of all
users are the same: items by descending b_i.

Legend: B queries, T history values, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from palate.config import check
from palate.data.dataset import Dataset, Queries, Spec
from palate.models.base import Model
from palate.training.train_run import Epoch, TrainRun

TOLERANCE = 1e-7
"""Convergence: the largest change of a user bias in one round, in rating units."""
MAX_ROUNDS = 1000
"""Rounds after which fitting stops without convergence."""


@dataclass(frozen=True, kw_only=True)
class BiasConfig:
    """Settings of `bias`."""

    user_shrink: float = 5.0
    """Number of ratings with zero bias that are added to each user's ratings."""
    item_shrink: float = 3.0
    """Number of ratings with zero bias that are added to each item's ratings."""

    def __post_init__(self) -> None:
        check(self, user_shrink=self.user_shrink > 0, item_shrink=self.item_shrink > 0)


class Bias(Model):
    """Rating model without user-item interaction terms: the baseline that every rating model has to beat."""

    Config = BiasConfig
    needs = frozenset({"interactions", "rating"})
    remedy = "without ratings use popularity, or mf with a ranking loss (bce, its default)"
    answers = frozenset({"known_user", "history", "rating"})
    uses_weights = True
    additive = True
    mean: Tensor
    user_bias: Tensor
    item_bias: Tensor

    def __init__(self, config: BiasConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: BiasConfig = config
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("user_bias", torch.zeros(spec.n_users))
        self.register_buffer("item_bias", torch.zeros(spec.n_items))

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        assert data.rating is not None  # `needs` holds rating
        user, item, rating = data.user, data.item, data.rating.astype(np.float64)
        weight = np.ones(len(data)) if data.weight is None else data.weight.astype(np.float64)
        mean = np.average(rating, weights=weight)
        b_u, b_i = np.zeros(data.n_users), np.zeros(data.n_items)
        n_u = np.bincount(user, weights=weight, minlength=data.n_users) + self.config.user_shrink
        n_i = np.bincount(item, weights=weight, minlength=data.n_items) + self.config.item_shrink
        for _ in range(MAX_ROUNDS):
            before = b_u
            b_i = np.bincount(item, weights=weight * (rating - mean - b_u[user]), minlength=data.n_items) / n_i
            b_u = np.bincount(user, weights=weight * (rating - mean - b_i[item]), minlength=data.n_users) / n_u
            if np.abs(b_u - before).max() < TOLERANCE:
                break
        self.mean.fill_(mean)
        self.user_bias.copy_(torch.from_numpy(b_u))
        self.item_bias.copy_(torch.from_numpy(b_i))
        return []

    def _score(self, queries: Queries) -> Tensor:
        return self.mean + self.represent(queries) + self.item_bias

    def _predict(self, queries: Queries, row_P: Tensor, item_P: Tensor) -> Tensor:
        return self.mean + self.represent(queries).squeeze(1)[row_P] + self.item_bias[item_P]

    def _known_users(self, user_B: Tensor) -> Tensor:
        return self.user_bias[user_B].unsqueeze(1)

    def _fold_in(self, queries: Queries) -> Tensor:
        """Bias of each query, `[B, 1]`; 0 for a history without ratings."""
        history, bias_B = queries.history, self.user_bias.new_zeros(len(queries))
        if queries.ratings is not None:
            bias_B.index_add_(0, history.row_of_value, self._residuals(queries))
            bias_B /= history.lengths + self.config.user_shrink
        return bias_B.unsqueeze(1)

    def history_contributions(self, queries: Queries, item: int) -> tuple[Tensor, float]:
        base = float(self.mean + self.item_bias[item])
        if queries.ratings is None:
            return self.item_bias.new_zeros(len(queries.history.values)), base
        residual_T = self._residuals(queries)
        return residual_T / (len(residual_T) + self.config.user_shrink), base

    def _residuals(self, queries: Queries) -> Tensor:
        """`r - m - b_i` of each rating of the histories, `[T]`."""
        assert queries.ratings is not None  # the callers have checked
        return queries.ratings - self.mean - self.item_bias[queries.history.values]
