"""Ranked: the lists a model made and where their targets stand; what metrics are computed from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from palate.data.dataset import Dataset
from palate.data.ragged import Ragged

NEVER = 2**31 - 1
"""`greater` of a target that no list can hold: new to the model, seen, or not among the candidates."""
HEAD = 0.8
"""Share of all interactions that the short head holds."""
SKETCH = 256
"""Width of the random sketch that stands for an item's users in `sketch`."""


@dataclass(frozen=True, eq=False)
class Catalogue:
    """What list metrics know of the items.

    Attributes:
        popularity: Training interactions of each item, float64 `[N]`.
        n_users: People behind them.
        vectors: Unit vectors whose inner product says how alike two items are, float32 `[N, D]`.
    """

    popularity: Tensor
    n_users: int
    vectors: Tensor | None = None

    @cached_property
    def tail(self) -> Tensor:
        """Items of the long tail, bool `[N]`: all but the fewest that hold `HEAD` of all interactions."""
        ordered = self.popularity.sort(descending=True, stable=True)
        before = ordered.values.cumsum(0) - ordered.values
        return torch.empty(len(before), dtype=torch.bool).scatter(
            0, ordered.indices, before >= HEAD * self.popularity.sum()
        )


@dataclass(frozen=True, eq=False)
class Ranked:
    """Lists and targets of some queries.

    Attributes:
        items: Item indices, best first, int64 `[queries, k]`, padded with -1.
        scores: Their scores, float32 `[queries, k]`, padded with -inf.
        n_candidates: How many items could have been listed, int64 `[queries]`; -1 where it was not counted.
        targets: Items that should be found; one row for each query.
        greater: For each value of `targets`, how many candidates score higher, int64 `[total]`: exact below k and,
            where `full`, everywhere; otherwise k means "k or more"; `NEVER` for an item no list can hold.
        ties: How many other candidates score the same, int64 `[total]`: the place of the target is any of
            greater + 1 .. greater + ties + 1, all equally likely.
        full: Whether `greater` and `ties` are exact beyond k too.
        catalogue: What list metrics need.
    """

    items: Tensor
    scores: Tensor
    n_candidates: Tensor
    targets: Ragged
    greater: Tensor
    ties: Tensor
    full: bool = False
    catalogue: Catalogue | None = None

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def row(self) -> Tensor:
        """The query each target belongs to, int64 `[total]`."""
        return self.targets.row_of_value

    def only(self, mask: Tensor) -> Ranked:
        """The same lists, judged by the targets where `mask` (bool `[total]`) holds."""
        return replace(self, targets=self.targets.keep(mask), greater=self.greater[mask], ties=self.ties[mask])


def sketch(known: Dataset, n_items: int, seed: int) -> Tensor:
    """Vectors of items from their users alone, float32 `[n_items, 256]`.

    A random projection: the cosine of two vectors estimates the cosine of the items' user sets, without bias, to about
    +-0.06 for one pair; a mean over many pairs is far closer.

    Args:
        known: Past interactions.
        n_items: The first so many items get a vector.
        seed: Decides the projection.
    """
    signs = torch.randint(0, 2, (known.n_users, SKETCH), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1.0
    order, offsets = known.by_item
    users = torch.from_numpy(known.user[order[: offsets[n_items]]].astype(np.int64))
    return embedding_bag(users, signs, torch.from_numpy(offsets[:n_items]), mode="sum")


def tag_vectors(tags: pl.Series, separator: str = "|") -> Tensor:
    """Vectors of items from their genres or tags, float32 `[items, tags]`: 1 for a tag the item has.

    Args:
        tags: One list of tags, or one text of separated tags, for each item in index order (`item_table["genres"]`).
        separator: Between the tags of a text.
    """
    lists = tags.str.split(separator) if tags.dtype == pl.String else tags
    long = pl.DataFrame({"item": np.arange(len(tags)), "tag": lists}).explode("tag").drop_nulls()
    codes = torch.tensor(long["tag"].rank("dense").to_list(), dtype=torch.int64) - 1
    vectors = torch.zeros(len(tags), long["tag"].n_unique())
    vectors[torch.tensor(long["item"].to_list(), dtype=torch.int64), codes] = 1.0
    return vectors


def rows(ragged: Ragged, start: int, stop: int) -> Ragged:
    """Neighbouring rows, without a copy."""
    offsets = ragged.offsets[start : stop + 1]
    return Ragged(ragged.values[offsets[0] : offsets[-1]], offsets - offsets[0])


def join(one: Ragged, other: Ragged) -> Ragged:
    """Rows of both, one behind the other."""
    order = torch.cat([one.row_of_value, other.row_of_value]).argsort(stable=True)
    return Ragged.from_lengths(torch.cat([one.values, other.values])[order], one.lengths + other.lengths)


def places(
    scores_BN: Tensor, values_BK: Tensor, at_edge_B: Tensor, targets: Ragged, full: bool
) -> tuple[Tensor, Tensor]:
    """Where targets stand: `greater` and `ties` of `Ranked`, each int64 `[T]`.

    Args:
        scores_BN: Scores, -inf for what may not be listed.
        values_BK: The best k of each row, descending.
        at_edge_B: How many of the row's scores equal its last listed one.
        targets: A row of items for each row of scores.
        full: Look beyond k too.
    """
    row, item = targets.row_of_value, targets.values
    known = (item >= 0) & (item < scores_BN.shape[1])
    score_T = torch.where(known, scores_BN[row, torch.where(known, item, 0)], -float("inf"))
    if full:
        widest = int(targets.lengths.max()) if len(targets.values) else 0
        ascending_BN = scores_BN.sort(1).values
        padded = Ragged(score_T, targets.offsets).padded(widest, 0)
        filled = torch.arange(widest) < targets.lengths[:, None]
        above = torch.searchsorted(ascending_BN, padded, right=True)[filled]
        greater, ties = scores_BN.shape[1] - above, above - torch.searchsorted(ascending_BN, padded)[filled] - 1
    else:
        greater = (values_BK[row] > score_T[:, None]).sum(1)
        at_edge = score_T == values_BK[row, -1]
        ties = torch.where(at_edge, at_edge_B[row], (values_BK[row] == score_T[:, None]).sum(1)) - 1
    hopeless = score_T == -float("inf")
    return greater.masked_fill(hopeless, NEVER), ties.masked_fill(hopeless, 0).clamp(min=0)
