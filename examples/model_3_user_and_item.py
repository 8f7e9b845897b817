"""Step 3: a model trained by gradient steps. It defines parameters, batches and a loss; the loop does the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from palate.config import check
from palate.data.dataset import Dataset, Queries, Spec
from palate.models.base import GradientModel
from palate.training.batches import Pairs, pairs
from palate.training.loop import FitContext


@dataclass(frozen=True, kw_only=True)
class UserAndItemConfig:
    """Settings of `user-and-item`."""

    init: float = 0.01
    """Standard deviation of the initial weights."""

    def __post_init__(self) -> None:
        check(self, init=self.init > 0)


class UserAndItem(GradientModel):
    """score(u, i) = mean + b_u + b_i, by least squares."""

    Config = UserAndItemConfig
    needs = frozenset({"interactions", "rating"})
    answers = frozenset({"known_user", "rating"})  # it does not read histories
    loss_name = "squared error per rating"
    mean: Tensor

    def __init__(self, config: UserAndItemConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.register_buffer("mean", torch.zeros(()))
        self.user = nn.Embedding(spec.n_users, 1)
        self.item = nn.Embedding(spec.n_items, 1)

    def init_from_data(self, data: Dataset) -> None:
        """Draw initial weights; called once, before the first epoch."""
        self.mean.fill_(float(np.mean(data.rating, dtype=np.float64)))
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=self.config.init)

    def batches(self, context: FitContext, rng: torch.Generator, size: int) -> Iterator[Pairs]:
        """All ratings once, in an order that `rng` decides."""
        return pairs(context.data, rng, size)

    def loss(self, batch: Pairs, context: FitContext) -> Tensor:
        """Mean squared error."""
        score_P = self.mean + (self.user(batch.user) + self.item(batch.item)).squeeze(1)
        return mse_loss(score_P, batch.rating)

    def _score(self, queries: Queries) -> Tensor:
        return self.mean + self.user(queries.user) + self.item.weight.T  # [B, 1] + [1, N]
