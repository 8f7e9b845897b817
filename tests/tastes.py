"""Tastes: a content model small enough to be read at a glance, for tests of the way that features go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from palate.data.dataset import Dataset, Queries, Spec
from palate.data.features.schema import FeatureBatch
from palate.data.splits import Split
from palate.models.base import Model
from palate.training.loop import Epoch, TrainRun

GENRES = ("comedy", "drama", "horror", "western")


@dataclass(frozen=True, kw_only=True)
class TastesConfig:
    """Nothing to set."""


class Tastes(Model):
    """Items are their genre; people are the genres of their history or, without one, those of their club."""

    Config = TastesConfig
    needs = frozenset({"interactions", "item_features"})
    answers = frozenset({"history", "new_item", "new_user", "similar_items"})
    rows: Tensor
    clubs: Tensor

    def __init__(self, config: TastesConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        assert spec.item_features is not None
        self.genres = len(spec.item_features.of("category")[0].values) + 1
        clubs = 1 if spec.user_features is None else len(spec.user_features.of("category")[0].values) + 1
        self.register_buffer("rows", torch.zeros(spec.n_items, self.genres))
        self.register_buffer("clubs", torch.zeros(clubs, self.genres))

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        assert self.spec.item_features is not None
        self.rows.copy_(self._new_items(data.encoded_items(self.spec.item_features))["rows"])
        if self.spec.user_features is not None:
            club = data.encoded_users(self.spec.user_features).categories[:, 0]
            self.clubs.index_add_(
                0, club[torch.from_numpy(data.user).long()], self.rows[torch.from_numpy(data.item).long()]
            )
            self.clubs.copy_(normalize(self.clubs, p=1))
        return []

    def _new_items(self, features: FeatureBatch) -> dict[str, Tensor]:
        known = one_hot(features.categories[:, 0], self.genres).float()
        known[:, 0] = 0
        return {"rows": known}

    def _score(self, queries: Queries) -> Tensor:
        past = queries.history
        taste = torch.zeros(len(queries), self.genres).index_add_(0, past.row_of_value, self.rows[past.values])
        if queries.features is not None:
            lost = past.lengths == 0
            taste[lost] = self.clubs[queries.features.categories[lost, 0]]
        return normalize(taste, p=1) @ self.rows.T

    def item_vectors(self) -> Tensor:
        return self.rows


MODELS: dict[str, Any] = {"tastes": Tastes}


def world() -> Split:
    """80 people of four clubs, each of whom likes the 30 items of one genre; a fifth of the items is new in test."""
    rng = torch.Generator().manual_seed(0)
    rows = []
    for user in range(80):
        for item in torch.randperm(30, generator=rng)[:10].tolist():
            rows.append((f"u{user:02}", f"i{4 * item + user % 4:03}"))
    items = [f"i{n:03}" for n in range(124)]  # four of which nobody has met
    genres = [GENRES[n % 4] for n in range(124)]
    data = Dataset.from_frame(
        pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row"),
        pl.DataFrame({"item_id": items, "genre": genres, "studio": ["same"] * 124}),
        pl.DataFrame({"user_id": [f"u{n:02}" for n in range(80)], "club": [f"club {n % 4}" for n in range(80)]}),
        item_kinds={"genre": "category"},
    )
    return data.split("new-items", valid=0.1, test=0.2)
