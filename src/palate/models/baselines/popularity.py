"""Popularity: recommends the same list to every user, over all time or over a window before the question.

score(i)    = n_i                                            over all time (`days` is 0)
score(i, t) = n_i(t - days, t) + n_i / (1 + max_j n_j)       over a window

n_i is the sum of the sample weights of the training interactions of i (their number, for data without weights), and
n_i(a, b) that of those at times from a to before b. Repeated training rows each count. t is the time of the question,
or the end of training for questions without a time or after it; the last term, below 1, orders items that the window
does not hold.

It is the baseline that personalised lists have to beat: under a split by time, the popularity of the last days beats
many models. Over all time, it is the fallback of every other model for queries that the model cannot answer. Histories
are not read, so repeated items in them do not matter.

Legend: B queries, N items, E events, W windows, T history values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from palate.config import check
from palate.data.dataset import Dataset, Queries, Spec
from palate.errors import ArtifactError
from palate.models.base import Model
from palate.models.buffers import check_ascending, check_indices, check_range
from palate.training.train_run import Epoch, TrainRun

SECONDS_PER_DAY = 86400
MAX_TIME = 2**40
"""Largest second since 1970, or before it: 30,000 years."""
MAX_COUNTS = 2**22
"""Counts of windows and items that are looked up at once: 100 MB."""


@dataclass(frozen=True, kw_only=True)
class PopularityConfig:
    """Settings of `popularity`."""

    days: float = 0.0
    """Days before the question whose interactions count; 0 counts all of training."""

    def __post_init__(self) -> None:
        check(self, days=0 <= self.days < 10**6)


@dataclass(frozen=True, kw_only=True)
class RecentPopularityConfig:
    """Settings of `recent-popularity`."""

    days: float = 7.0
    """Days before the question whose interactions count."""

    def __post_init__(self) -> None:
        check(self, days=0 < self.days < 10**6)


class Popularity(Model):
    """Scores items by their number of interactions; all queries of one time get the same scores."""

    Config: ClassVar[type[Any]] = PopularityConfig
    answers = frozenset({"known_user", "history"})
    uses_weights = True
    reads_repeats = True
    additive = True
    dynamic_buffers = ("item", "time", "total")
    item: Tensor
    time: Tensor
    total: Tensor

    def __init__(self, config: PopularityConfig | RecentPopularityConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: PopularityConfig | RecentPopularityConfig = config
        self.fallback.by_attribute = None  # The same list for all users, whatever their attributes.
        if config.days:
            self.needs = self.needs | {"time"}
            self.remedy = "the model popularity counts all interactions"
        # For a window: all events in order of item and time, and the weight of all events before each of them.
        self.register_buffer("item", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("time", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("total", torch.zeros(1, dtype=torch.float64))

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        # `fit` has fitted the fallback, which holds the counts over all time.
        if self.config.days:
            assert data.timestamp is not None  # `needs` holds time
            order = np.lexsort((data.timestamp, data.item))
            weight = np.ones(len(data)) if data.weight is None else data.weight[order].astype(np.float64)
            self.item = torch.from_numpy(data.item[order])
            self.time = torch.from_numpy(data.timestamp[order].astype(np.int64))
            self.total = torch.from_numpy(np.concatenate(([0.0], np.cumsum(weight))))
        return []

    def check_buffers(self) -> None:
        check_indices("item", self.item, self.spec.n_items)
        check_ascending("item", self.item)
        check_ascending("total", self.total)
        if self.time.shape != self.item.shape or self.total.shape != (len(self.item) + 1,) or bool(self.total[0] != 0):
            raise ArtifactError(f"{len(self.item)} events have {len(self.time)} times and {len(self.total)} totals")
        check_range("time", self.time, -MAX_TIME, MAX_TIME)
        if len(self.time):
            key, (_, span) = self._keys(self.time)
            if self.spec.n_items * span >= 2**62:
                raise ArtifactError(f"times over {span:,} seconds are too far apart for {self.spec.n_items:,} items")
            check_ascending("time", key)

    def _score(self, queries: Queries) -> Tensor:
        if not self.config.days or not len(self.time):
            return self.fallback.popularity.repeat(len(queries), 1)
        end_W, window_B = torch.unique(self._ends(queries), return_inverse=True)
        step = max(1, MAX_COUNTS // self.spec.n_items)
        counts = [self._counts(block) for block in end_W.split(step)]
        overall_N = self.fallback.popularity / (1 + self.fallback.popularity.max())
        return (torch.cat(counts) + overall_N)[window_B]

    def _ends(self, queries: Queries) -> Tensor:
        """The end of each query's window, int64 `[B]`; the window does not hold it."""
        after = self.time.max() + 1
        if queries.asked_at is None:
            return after.expand(len(queries))
        return queries.asked_at.clamp(max=int(after))

    def _counts(self, end_W: Tensor) -> Tensor:
        """The weight of each item's events in each window, float32 `[W, N]`."""
        key_E, (first, span) = self._keys(self.time)
        item_N = torch.arange(self.spec.n_items, device=self.time.device) * span
        bounds = (end_W - round(self.config.days * SECONDS_PER_DAY), end_W)
        places = [torch.searchsorted(key_E, (b_W - first).clamp(0, span - 1)[:, None] + item_N) for b_W in bounds]
        return (self.total[places[1]] - self.total[places[0]]).float()

    def _keys(self, time_E: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """One ascending number for each event, by item and time; the first time, and how many numbers an item has."""
        first = int(time_E.min())
        span = int(time_E.max()) - first + 2
        return self.item.long() * span + (time_E - first), (first, span)

    def history_contributions(self, queries: Queries, item: int) -> tuple[Tensor, float]:
        score = float(self._score(queries)[0, item])
        return self.fallback.popularity.new_zeros(len(queries.history.values)), score


class RecentPopularity(Popularity):
    """Scores items by their interactions in the days before the question, by default the last week."""

    Config = RecentPopularityConfig
    needs = frozenset({"interactions", "time"})
