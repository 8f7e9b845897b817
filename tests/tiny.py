"""Tiny models with known scores and parts made by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import torch
from torch import Tensor, nn

from palate.data.dataset import Dataset, Queries, Spec
from palate.data.ragged import Ragged
from palate.models.base import GradientModel, Model
from palate.training.batches import Pairs, pairs
from palate.training.train_run import Epoch, FitContext, TrainRun


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """No settings."""


class Table(Model):
    """score(u, i) is a number in a table; a rating if `rates`."""

    Config = TableConfig
    answers = frozenset({"known_user", "rating"})
    table: Tensor

    def __init__(self, table: Any, rates: bool = False, scale: tuple[float, float] | None = None) -> None:
        values = torch.as_tensor(table, dtype=torch.float32)
        super().__init__(TableConfig(), Spec(n_users=values.shape[0], n_items=values.shape[1], rating_scale=scale))
        self.answers = frozenset({"known_user", "rating"} if rates else {"known_user"})
        self.register_buffer("table", values)
        self.eval()

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        return []

    def _score(self, queries: Queries) -> Tensor:
        return self.table[queries.user]


class Popular(Model):
    """Answers nothing itself, so that every list is the fallback's: most interactions first."""

    Config = TableConfig
    answers = frozenset()

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        return []

    def _score(self, queries: Queries) -> Tensor:
        raise AssertionError("never asked")


class Slope(GradientModel):
    """score(u, i) = w_i, learned by squared error on ratings, with dropout so that the mode matters."""

    Config = TableConfig
    needs = frozenset({"interactions", "rating"})
    answers = frozenset({"known_user", "rating"})
    loss_name = "squared error per rating"

    def __init__(self, config: TableConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.weight = nn.Parameter(torch.full((spec.n_items,), 3.0))
        self.dropout = nn.Dropout(0.5)

    def batches(self, context: FitContext, rng: torch.Generator, size: int) -> Iterator[Pairs]:
        return pairs(context.data, rng, size)

    def loss(self, batch: Pairs, context: FitContext) -> Tensor:
        assert batch.rating is not None
        return (self.dropout(self.weight[batch.item]) - batch.rating).square().mean()

    def _score(self, queries: Queries) -> Tensor:
        return self.weight.expand(len(queries), -1)


def queries(n: int, history: list[list[int]] | None = None) -> Queries:
    """Users 0 .. n - 1 with these histories."""
    return Queries(torch.arange(n), Ragged.empty(n) if history is None else Ragged.of(history))


def dataset(rows: list[tuple[Any, ...]]) -> Dataset:
    """From (user_id, item_id) or (user_id, item_id, rating)."""
    names = ["user_id", "item_id", "rating"][: len(rows[0])]
    return Dataset.from_frame(pl.DataFrame(rows, schema=names, orient="row"))


def part(train: Dataset, rows: list[tuple[Any, ...]]) -> Dataset:
    """A held-out part of `train`'s split: what is new to train follows after its ids."""
    raw = dataset(rows)
    frame = raw.frame()
    users, items = train.users.extend(frame["user_id"]), train.items.extend(frame["item_id"])
    user = users.index(frame["user_id"])
    order = user.argsort(kind="stable")
    return replace(
        raw,
        users=users,
        items=items,
        user=user[order].astype("int32"),
        item=items.index(frame["item_id"])[order].astype("int32"),
        rating=None if raw.rating is None else raw.rating[order],
        history=replace(train, users=users, items=items),
        rating_scale=train.rating_scale,
    )
