"""Step 1: the smallest possible model. It predicts the same rating for every user and item."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from palate.data.dataset import Dataset, Queries
from palate.models.base import Model
from palate.training.train_run import Epoch, TrainRun


@dataclass(frozen=True, kw_only=True)
class ConstantConfig:
    """Settings of `constant`."""

    value: float = 3.0
    """The predicted rating."""


class Constant(Model):
    """score(u, i) = value"""

    Config = ConstantConfig
    answers = frozenset({"known_user", "history", "rating"})  # "rating": scores are in rating units

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        return []  # one record for each epoch; nothing is trained here

    def _score(self, queries: Queries) -> Tensor:
        return torch.full((len(queries), self.spec.n_items), self.config.value)
