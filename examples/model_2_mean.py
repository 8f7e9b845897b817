"""Step 2: a model that learns from data. Its state is a buffer, so it is saved and loaded without further code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from palate.config import check
from palate.data.dataset import Dataset, Queries, Spec
from palate.models.base import Model
from palate.training.train_run import Epoch, TrainRun


@dataclass(frozen=True, kw_only=True)
class ItemMeanConfig:
    """Settings of `item-mean`."""

    shrink: float = 5.0
    """Number of ratings equal to the overall mean that are added to each item's ratings."""

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
        self.register_buffer("mean_N", torch.zeros(spec.n_items))  # sized by the spec: loading needs no data

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        shrink, mean = self.config.shrink, np.mean(data.rating, dtype=np.float64)
        total = np.bincount(data.item, weights=data.rating, minlength=data.n_items)
        self.mean_N.copy_(torch.from_numpy((total + shrink * mean) / (data.item_counts + shrink)))
        return []

    def _score(self, queries: Queries) -> Tensor:
        return self.mean_N.repeat(len(queries), 1)  # a copy: callers may change what they get
