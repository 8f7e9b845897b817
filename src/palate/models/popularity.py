"""Popularity: the same list for everybody.

score(i) = number of training interactions of i

The yardstick that a personal list must beat, and what every other model gives to a query it has no answer to.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from palate.data.dataset import Dataset, Queries, Spec
from palate.models.base import Model
from palate.training.loop import Epoch, Job


@dataclass(frozen=True, kw_only=True)
class PopularityConfig:
    """Settings of `popularity`: there are none."""


class Popularity(Model):
    """Items by how often they were chosen; every query gets the same scores."""

    Config = PopularityConfig
    answers = frozenset({"known_user", "history"})

    def __init__(self, config: PopularityConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.fallback.within = None  # everybody's popularity, also for people of whom attributes are known

    def _fit(self, data: Dataset, job: Job) -> list[Epoch]:
        return []  # `fit` has counted already: every model carries these counts.

    def _score(self, queries: Queries) -> Tensor:
        return self.fallback.popularity.repeat(len(queries), 1)

    def _parts(self, queries: Queries, item: int) -> tuple[Tensor, float]:
        return torch.zeros(len(queries.history.values)), float(self.fallback.popularity[item])
