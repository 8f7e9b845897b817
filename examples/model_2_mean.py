"""Step 2: a model that learns. What it has learned is a buffer, so it is saved and loaded without further code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from palate.config import check
from palate.data.dataset import Dataset, Queries, Spec
from palate.models.base import Model
from palate.training.job import Epoch, Job


@dataclass(frozen=True, kw_only=True)
class ItemMeanConfig:
    """Settings of `item-mean`."""

    shrink: float = 5.0
    """How many ratings at the overall mean each item is given on top of its own."""

    def __post_init__(self) -> None:
        check(self, shrink=self.shrink > 0)


class ItemMean(Model):
    """score(u, i) = (sum of i's ratings + shrink * mean) / (number of i's ratings + shrink)"""

    Config = ItemMeanConfig
    needs = frozenset({"interactions", "rating"})  # checked before _fit is called
    answers = frozenset({"known_user", "history", "rating"})

    mean_N: Tensor

    def __init__(self, config: ItemMeanConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.register_buffer("mean_N", torch.zeros(spec.n_items))  # sized by counts, not by data

    def _fit(self, data: Dataset, job: Job) -> list[Epoch]:
        shrink, mean = self.config.shrink, np.mean(data.rating, dtype=np.float64)
        total = np.bincount(data.item, weights=data.rating, minlength=data.n_items)
        self.mean_N.copy_(torch.from_numpy((total + shrink * mean) / (data.item_counts + shrink)))
        return []

    def _score(self, queries: Queries) -> Tensor:
        return self.mean_N.expand(len(queries), -1)
