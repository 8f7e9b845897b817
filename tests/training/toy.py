"""A small trainable model with all that a resume must restore: tables, dropout, order and negatives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from palate.config import Training
from palate.training.loop import TrainRun

USERS, ITEMS, ROWS = 30, 20, 600


@dataclass
class Rows:
    user: Tensor
    item: Tensor
    negative: Tensor

    def __len__(self) -> int:
        return len(self.user)


class Toy(nn.Module):
    """Dot products of 4 numbers with dropout, trained on pairs against random negatives."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.user, self.item = nn.Embedding(USERS, 4), nn.Embedding(ITEMS, 4)
            self.out = nn.Sequential(nn.Dropout(0.2), nn.Linear(4, 1))

    def batches(self, context: Data, rng: torch.Generator, size: int) -> Iterator[Rows]:
        user, item = context.data
        for rows in torch.split(torch.randperm(len(user), generator=rng), size):
            yield Rows(user[rows], item[rows], torch.randint(ITEMS, (len(rows),), generator=rng))

    def loss(self, batch: Rows, context: Data) -> Tensor:
        good, bad = self(batch.user, batch.item), self(batch.user, batch.negative)
        return nn.functional.softplus(bad - good).mean()

    def refresh(self, context: Data | None = None) -> None:
        """Nothing is computed from the weights."""

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return self.out(self.user(user) * self.item(item)).squeeze(1)


class Data(tuple[Tensor, Tensor]):
    """Pairs that agree in parity: even users like even items. It is its own fit context, and as long as its rows."""

    def __new__(cls, seed: int = 0) -> Data:
        rng = torch.Generator().manual_seed(seed)
        user = torch.randint(USERS, (ROWS,), generator=rng)
        item = torch.randint(ITEMS // 2, (ROWS,), generator=rng) * 2 + user % 2
        return super().__new__(cls, (user, item))

    def __len__(self) -> int:
        return ROWS

    @property
    def data(self) -> Data:
        return self


class Given:
    """A `Validate` whose values are given, epoch by epoch."""

    metric = "score"

    def __init__(self, *values: float, higher_is_better: bool = True) -> None:
        self.values = iter(values)
        self.higher_is_better = higher_is_better
        self.weights: list[dict[str, Tensor]] = []

    def __call__(self, model: Any) -> dict[str, float]:
        assert not model.training
        self.weights.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"score": next(self.values)}


def job(validate: Any = None, checkpoint: Any = None, every: float = 60.0, seed: int = 0, **training: Any) -> TrainRun:
    options = {"epochs": 4, "batch_size": 50, "lr": 0.05, "weight_decay": 0.0, "embeddings": "rowwise", "patience": 3}
    options |= training
    rng = torch.Generator().manual_seed(seed)
    return TrainRun(training=Training(**options), rng=rng, validate=validate, checkpoint=checkpoint, every=every)


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
