"""The encoder's turn in `convmf`: to predict the ratings of its items by itself, with the users as they are.

loss = mean of (t - <a_u, encoder(content_i)>)^2,  t = r - b - b_u,  a_u = [p_u, 1]

Legend: T ratings of a batch, E width of an encoded item and of a.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from palate.data.dataset import Dataset
from palate.data.encoded import Encoded
from palate.data.ragged import Ragged
from palate.models.encoders import ContentEncoder, encode_all
from palate.models.layers import SHRINK
from palate.training import losses
from palate.training.loop import Job, run

RATINGS = 256
"""Most ratings of an item in a batch."""
BLOCK = 2**18
"""Ratings at once where nothing is trained."""
KEPT_BACK, LEAST = 0.1, 20
"""Share of the items by whose ratings the encoder's epoch is chosen, and fewest items for that."""


@dataclass(frozen=True, eq=False)
class Rated:
    """Some items with ratings of theirs.

    Attributes:
        item: int64 `[R]`.
        rating: Of each, row numbers of the data.
    """

    item: Tensor
    rating: Ragged

    def __len__(self) -> int:
        return len(self.item)


class Reader(nn.Module):
    """An encoder that learns to predict ratings.

    Args:
        encoder: Items to `[R, E]`.
        items: What is known of all items.
        people: a_u, `[U, E]`.
        user: The user of each row of the data, int64.
        target: t of each row.
    """

    BATCH: ClassVar[int] = 64
    """Items in a step."""
    PATIENCE: ClassVar[int] = 8

    def __init__(self, encoder: ContentEncoder, items: Encoded, people: Tensor, user: Tensor, target: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.items, self.people, self.user, self.target = items, people, user, target

    def batches(self, ratings: Ratings, rng: torch.Generator, size: int) -> Iterator[Rated]:
        """All items once, in random order, each with at most `RATINGS` ratings."""
        order = ratings.items[torch.randperm(len(ratings.items), generator=rng)]
        for item in torch.split(order, size):
            rows = ratings.of(item)
            if bool((rows.lengths > RATINGS).any()):
                rows = rows.shuffled(rng).keep(rows.place_of_value < RATINGS)
            yield Rated(item, rows)

    def loss(self, batch: Rated) -> Tensor:
        """Mean squared error."""
        vector_RE = self.encoder(self.items.take(batch.item))
        row_T, rating_T = batch.rating.row_of_value, batch.rating.values
        prediction_T = (self.people[self.user[rating_T]] * vector_RE[row_T]).sum(1)
        return losses.mse(prediction_T, self.target[rating_T])


@dataclass(frozen=True, eq=False)
class Ratings:
    """Row numbers of the data, by item.

    Attributes:
        items: The items of interest, int64.
        rows: Of all items.
        fingerprint: Of the data.
    """

    items: Tensor
    rows: Ragged
    fingerprint: str

    def __len__(self) -> int:
        return len(self.items)

    def of(self, item: Tensor) -> Ragged:
        """Of some items."""
        return self.rows.take(item)


@dataclass(frozen=True, eq=False)
class Judge:
    """The rmse of the encoder alone on items that it was not trained on."""

    reader: Reader
    ratings: Ratings
    metric: str = "rmse"
    higher_is_better: bool = False

    def __call__(self, model: Any) -> dict[str, float]:
        """The metric by its name."""
        vector_RE = encode_all(self.reader.encoder, self.reader.items.take(self.ratings.items))
        rows = self.ratings.of(self.ratings.items)
        people_TE = self.reader.people[self.reader.user[rows.values]]
        error_T = (people_TE * vector_RE[rows.row_of_value]).sum(1) - self.reader.target[rows.values]
        return {self.metric: float(error_T.square().mean().sqrt())}


def reading(encoder: ContentEncoder, items: Encoded, data: Dataset, people: Tensor, target: Tensor, job: Job) -> None:
    """Train an encoder; it ends as it was in the epoch that did best on items it had not read.

    Args:
        encoder: Items to `[R, E]`.
        items: What is known of all items.
        data: Who rated what.
        people: a_u, `[U, E]`.
        target: t of each row of `data`.
        job: How.
    """
    order, offsets = data.by_item
    rows = Ragged(torch.from_numpy(order), torch.from_numpy(offsets))
    rated = torch.from_numpy(np.flatnonzero(data.item_counts))
    shuffled = rated[torch.randperm(len(rated), generator=torch.Generator().manual_seed(job.training.seed))]
    back = int(KEPT_BACK * len(rated)) if len(rated) >= LEAST else 0
    reader = Reader(encoder, items, people, torch.from_numpy(data.user.astype(np.int64)), target)
    chosen, kept = (Ratings(part, rows, data.fingerprint) for part in (shuffled[back:], shuffled[:back]))
    run(reader, chosen, Job(**vars(job) | {"validate": Judge(reader, kept) if back else None}))


def left_over(people: Tensor, vector: Tensor, user: Tensor, item: Tensor, target: Tensor) -> Tensor:
    """What the encoder leaves of each person's ratings, in the mean, as if `SHRINK` more were without error, `[U, 1]`.

    Args:
        people: a_u, `[U, E]`.
        vector: Items as they were read, `[N, E]`.
        user, item, target: Whose rating it is, of what, and t.
    """
    total_U, count_U = torch.zeros(len(people)), torch.bincount(user, minlength=len(people))
    for start in range(0, len(user), BLOCK):
        rows = slice(start, start + BLOCK)
        error_T = target[rows] - (people[user[rows]] * vector[item[rows]]).sum(1)
        total_U.index_add_(0, user[rows], error_T)
    mean_U: Tensor = total_U / (count_U + SHRINK)
    return mean_U.unsqueeze(1)
