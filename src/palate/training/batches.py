"""Feeds: a data set as a stream of batches, each a slice of tensors (no per-row Python, no DataLoader).

Every feed draws a fresh order from the generator it is given and from nothing else, so the same generator state gives
the same epoch: exact resume rests on that.

Legend: P positives, K negatives of each positive.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palate.data.dataset import Dataset
from palate.data.ragged import Ragged
from palate.training.negatives import Negatives

GATHERED = 2**14
"""Interactions looked up at once."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """A batch of interactions, with K sampled negatives of each where the model learns from contrast.

    Attributes:
        user, item: int64 `[P]`.
        rating: float32 `[P]`, where the data has ratings.
        negative: int64 `[P, K]`; never an item the user has.
    """

    user: Tensor
    item: Tensor
    rating: Tensor | None = None
    negative: Tensor | None = None

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: slice) -> Pairs:
        """Some of the interactions."""
        rating, negative = (None if column is None else column[rows] for column in (self.rating, self.negative))
        return Pairs(self.user[rows], self.item[rows], rating, negative)


def pairs(data: Dataset, rng: torch.Generator, size: int, negatives: Negatives | None = None) -> Iterator[Pairs]:
    """All interactions once, in random order.

    Args:
        data: Its rows are the positives.
        rng: Decides the order and the negatives.
        size: Positives in a batch; the last one may be shorter.
        negatives: Draws fresh negatives for each batch; None for none.
    """
    if not len(data):
        return  # `split` would make one empty batch of nothing
    user, item, rating = _tensor(data.user), _tensor(data.item), _tensor(data.rating)
    order = torch.randperm(len(data), generator=rng)
    # Small batches are gathered several at once: a look-up and a draw cost little more for ten thousand rows than for
    # one.
    for block in torch.split(order, size * max(1, GATHERED // size)):
        block_user = user[block].long()
        whole = Pairs(
            block_user,
            item[block].long(),
            None if rating is None else rating[block],
            None if negatives is None else negatives.draw(block_user, rng),
        )
        for start in range(0, len(block), size):
            yield whole.take(slice(start, start + size))


def _tensor(column: np.ndarray | None) -> Any:
    return None if column is None else torch.from_numpy(np.ascontiguousarray(column))


@dataclass(frozen=True, eq=False)
class Histories:
    """A batch of users with all their items, for models that read and rebuild whole histories.

    Attributes:
        user: int64 `[B]`.
        history: Item indices, B rows, none empty.
        ratings: float32 `[total]`, aligned with `history.values`, where the data has ratings.
        stage: Which part of the model this batch trains, for models trained in turns.
    """

    user: Tensor
    history: Ragged
    ratings: Tensor | None = None
    stage: str = ""

    def __len__(self) -> int:
        return len(self.user)


def histories(data: Dataset, rng: torch.Generator, size: int, stage: str = "") -> Iterator[Histories]:
    """All users with interactions once, in random order.

    Args:
        data: Each user's rows are that user's history.
        rng: Decides the order.
        size: Users in a batch; the last one may be shorter.
        stage: Passed on.
    """
    if not len(data):
        return
    users = torch.from_numpy(data.active_users)
    rating = _tensor(data.rating)
    for batch in torch.split(users[torch.randperm(len(users), generator=rng)], size):
        places = data.histories.positions(batch)
        yield Histories(batch, data.histories.take(batch), None if rating is None else rating[places], stage)
