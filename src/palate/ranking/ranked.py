"""Ranked: recommended lists and the ranks of their targets; how they are chosen from a matrix of scores.

Ties. Scores that differ by at most `TIE` of the largest score listed count as equal, and lower item indices come first.
The same score is computed by other roundings when other queries stand in the batch; so items that are equal by
construction keep their order whoever else is asked. What remains: two items whose true scores differ by nearly
`TIE` may be taken for equal in one batch and not in another.

Legend: B queries, N items, K list length, T targets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, pad

from palate.data.dataset import Dataset
from palate.data.ragged import Ragged

INF = float("inf")
TIE = 2.0**-20
"""Scores that differ by less than this share of the largest listed score are ties: 8 units in the last place."""
NEVER = 2**31 - 1
"""`greater` of a target that no list can hold: unknown to the model, seen, or not a candidate."""
HEAD = 0.8
"""Share of all interactions that the most popular items (the short head) hold."""
GROUP = 64
"""Neighbouring items that `top` looks at together."""
SKETCH = 256
"""Width of the random projection of an item's users in `sketch`."""


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The item catalogue as list metrics see it.

    Attributes:
        popularity: Training interactions of each item, float64 `[N]`.
        n_users: Number of users of these interactions.
        vectors: Unit vectors whose inner product is the similarity of two items, float32 `[N, D]`.
    """

    popularity: Tensor
    n_users: int
    vectors: Tensor | None = None

    @cached_property
    def tail(self) -> Tensor:
        """Items of the long tail, bool `[N]`: all but the most popular items that hold `HEAD` of the interactions."""
        ordered = self.popularity.sort(descending=True, stable=True)
        before = ordered.values.cumsum(0) - ordered.values
        return torch.empty(len(before), dtype=torch.bool).scatter(
            0, ordered.indices, before >= HEAD * self.popularity.sum()
        )


@dataclass(frozen=True, eq=False)
class Ranked:
    """Lists and targets of a batch of queries.

    Attributes:
        items: Item indices, best first, int64 `[queries, k]`, padded with -1.
        scores: Their scores, float32 `[queries, k]`, padded with -inf.
        n_candidates: Number of items that could have been listed, int64 `[queries]`; -1 if it was not counted.
        targets: Items that should be found; one row for each query.
        greater: For each value of `targets`, the number of candidates that score higher, int64 `[total]`. Exact below k
            and, if `full`, everywhere; otherwise k means "k or more". `NEVER` for an item no list can hold.
        ties: Number of other candidates with the same score, int64 `[total]`: the rank of the target is any of
            greater + 1 .. greater + ties + 1, all equally likely.
        full: Whether `greater` and `ties` are exact beyond k too.
        catalogue: The catalogue, for list metrics.
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
        """The same lists with only the targets for which `mask` (bool `[total]`) holds."""
        return replace(self, targets=self.targets.keep(mask), greater=self.greater[mask], ties=self.ties[mask])


def sketch(known: Dataset, n_items: int, seed: int) -> Tensor:
    """Item vectors made of the items' users alone, float32 `[n_items, 256]`.

    A random projection: the cosine of two vectors is an unbiased estimate of the cosine of the items' user sets, with a
    standard error of about 0.06 for one pair; the mean over many pairs is much more precise.

    Args:
        known: Past interactions.
        n_items: Number of items that get a vector, the first ones.
        seed: Seed of the projection.
    """
    signs = torch.randint(0, 2, (known.n_users, SKETCH), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1.0
    order, offsets = known.by_item
    users = torch.from_numpy(known.user[order[: offsets[n_items]]].astype(np.int64))
    return embedding_bag(users, signs, torch.from_numpy(offsets[:n_items]), mode="sum")


def tag_vectors(tags: pl.Series, separator: str = "|") -> Tensor:
    """Vectors of items from their genres or tags, float32 `[items, tags]`: 1 for a tag the item has.

    Args:
        tags: One list of tags, or one text of separated tags, for each item in index order (`item_table["genres"]`).
        separator: Separator of the tags in a text.
    """
    lists = tags.str.split(separator) if tags.dtype == pl.String else tags
    long = pl.DataFrame({"item": np.arange(len(tags)), "tag": lists}).explode("tag").drop_nulls()
    codes = torch.tensor(long["tag"].rank("dense").to_list(), dtype=torch.int64) - 1
    vectors = torch.zeros(len(tags), long["tag"].n_unique())
    vectors[torch.tensor(long["item"].to_list(), dtype=torch.int64), codes] = 1.0
    return vectors


def join(one: Ragged, other: Ragged) -> Ragged:
    """Each row of `one` followed by the same row of `other`."""
    order = torch.cat([one.row_of_value, other.row_of_value]).argsort(stable=True)
    return Ragged.from_lengths(torch.cat([one.values, other.values])[order], one.lengths + other.lengths)


def best(scores_BN: Tensor, k: int, targets: Ragged, full: bool, count: bool) -> tuple[Tensor, ...]:
    """The k best of each row: items, scores, number of candidates; `greater` and `ties` of the targets.

    Args:
        scores_BN: Scores, -inf for items that may not be listed; near ties are made equal in place.
        k: List length.
        targets, full, count: As in `rank`.
    """
    size = min(k, scores_BN.shape[1])
    # One more than asked for shows whether a tie crosses the end of the list.
    values, items = _equal_ties(scores_BN, size)
    tied_BK = (values[:, 1:] == values[:, :-1]) & (values[:, 1:] > -INF)
    values_BK, items_BK = values[:, :size], items[:, :size]
    at_edge_B = (values_BK == values_BK[:, -1:]).sum(1)
    crossing = tied_BK[:, size - 1 : size].any(1).nonzero().squeeze(1)
    if len(crossing):
        items_BK[crossing], at_edge_B[crossing] = _first_of_tied(scores_BN[crossing], values_BK[crossing])
    tied = tied_BK.any(1).nonzero().squeeze(1)
    if len(tied):
        by_item = items_BK[tied].sort(1).values
        order = scores_BN[tied].gather(1, by_item).sort(stable=True, dim=1, descending=True)
        values_BK[tied], items_BK[tied] = order.values, by_item.gather(1, order.indices)
    items_BK = items_BK.masked_fill(values_BK == -INF, -1)
    greater_T, ties_T = target_ranks(scores_BN, values_BK, at_edge_B, targets, full)
    counted_B = (scores_BN > -INF).sum(1) if count else torch.full_like(at_edge_B, -1)
    items_BK, values_BK = pad(items_BK, (0, k - size), value=-1), pad(values_BK, (0, k - size), value=-INF)
    return items_BK, values_BK, counted_B, greater_T, ties_T


def _equal_ties(scores_BN: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The `size + 1` best of each row, values and items, after scores that differ by rounding alone were made equal."""
    width = min(size + 1, scores_BN.shape[1])
    values, items = top(scores_BN, width)
    listed_BK = values.masked_fill(values == -INF, 0)
    limit_B1 = TIE * listed_BK.abs().amax(1, keepdim=True) if width else listed_BK
    near_BK = (values[:, :-1] - values[:, 1:] <= limit_B1) & (values[:, 1:] > -INF)
    # Rows with unequal near ties, and rows whose list ends within a tie: more of it may lie beyond.
    unequal_BK = near_BK & (values[:, 1:] != values[:, :-1])
    row = (unequal_BK.any(1) | near_BK[:, -1:].any(1)).nonzero().squeeze(1)
    if not len(row):
        return values, items
    # Each run of near ties takes the value of its first member.
    place_K = torch.arange(width, device=scores_BN.device)
    starts_RK = pad(~near_BK[row], (1, 0), value=True) * place_K
    equal_RK = values[row].gather(1, starts_RK.cummax(1).values)
    scores_RN = scores_BN[row].scatter(1, items[row], equal_RK)
    last_R1 = equal_RK[:, -1:]
    beyond_RN = (scores_RN < last_R1) & (scores_RN >= values[row][:, -1:] - limit_B1[row])
    scores_BN[row] = torch.where(beyond_RN & (last_R1 > -INF), last_R1, scores_RN)
    return values.index_copy(0, row, equal_RK), items


def top(scores_BN: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As `torch.topk` along the rows, faster for short lists: values, descending, and items, `[B, k]` each.

    The k best items lie in the k groups of neighbouring items whose own best are the best: each of these groups has an
    item at least as good as the best of every other group.
    """
    n_groups = scores_BN.shape[1] // GROUP
    if n_groups < 8 * k:  # too many of the groups would be looked into
        return tuple(scores_BN.topk(k))  # type: ignore[return-value]
    scores_BGW = scores_BN[:, : n_groups * GROUP].view(len(scores_BN), n_groups, GROUP)
    group_BK1 = scores_BGW.amax(2).topk(k).indices.unsqueeze(2)
    inside_BC = scores_BGW.gather(1, group_BK1.expand(-1, -1, GROUP)).flatten(1)
    best_BK, place_BK = torch.cat([inside_BC, scores_BN[:, n_groups * GROUP :]], dim=1).topk(k)
    within_BK = group_BK1.squeeze(2).gather(1, (place_BK // GROUP).clamp(max=k - 1)) * GROUP + place_BK % GROUP
    return best_BK, torch.where(place_BK < k * GROUP, within_BK, place_BK + (n_groups - k) * GROUP)


def _first_of_tied(scores_BN: Tensor, values_BK: Tensor) -> tuple[Tensor, Tensor]:
    """The listed items if a tie crosses the end of the list, lower items first; and how many items are tied there."""
    edge_B1 = values_BK[:, -1:]
    tied_BN = scores_BN == edge_B1
    room_B1 = (values_BK == edge_B1).sum(1, keepdim=True)
    listed_BN = (scores_BN > edge_B1) | (tied_BN & (tied_BN.cumsum(1, dtype=torch.int32) <= room_B1))
    return listed_BN.nonzero()[:, 1].view(values_BK.shape), tied_BN.sum(1)


def target_ranks(
    scores_BN: Tensor, values_BK: Tensor, at_edge_B: Tensor, targets: Ragged, full: bool
) -> tuple[Tensor, Tensor]:
    """Ranks of the targets: `greater` and `ties` of `Ranked`, int64 `[T]` each.

    Args:
        scores_BN: Scores, -inf for items that may not be listed.
        values_BK: The best k of each row, descending.
        at_edge_B: Number of scores in the row that equal its last listed one.
        targets: A row of items for each row of scores.
        full: Whether to look beyond k too.
    """
    row, item = targets.row_of_value, targets.values
    known = (item >= 0) & (item < scores_BN.shape[1])
    score_T = torch.where(known, scores_BN[row, torch.where(known, item, 0)], -float("inf"))
    if full:
        widest = int(targets.lengths.max()) if len(targets.values) else 0
        ascending_BN = scores_BN.sort(1).values
        padded = Ragged(score_T, targets.offsets).padded(widest, 0)
        filled = torch.arange(widest, device=item.device) < targets.lengths[:, None]
        above = torch.searchsorted(ascending_BN, padded, right=True)[filled]
        greater, ties = scores_BN.shape[1] - above, above - torch.searchsorted(ascending_BN, padded)[filled] - 1
    else:
        greater = (values_BK[row] > score_T[:, None]).sum(1)
        at_edge = score_T == values_BK[row, -1]
        ties = torch.where(at_edge, at_edge_B[row], (values_BK[row] == score_T[:, None]).sum(1)) - 1
    impossible = score_T == -float("inf")
    return greater.masked_fill(impossible, NEVER), ties.masked_fill(impossible, 0).clamp(min=0)


def keeps(model: object, scores_BN: Tensor) -> bool:
    """Whether these scores may be the scorer's own memory, such as its weights, which nobody else may change.

    The scores of a `Model` are fresh by contract (`palate.testing` checks it), but for views of what it keeps.
    """
    if not isinstance(model, nn.Module) or scores_BN._is_view() or not scores_BN.is_contiguous():
        return True
    return any(scores_BN is kept for kept in (*model._buffers.values(), *model._parameters.values()))
