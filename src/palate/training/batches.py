"""Batches: a data set as a stream of batches, each a slice of tensors (no per-row Python, no DataLoader).

Each function draws a fresh order from the generator it is given and from nothing else. The same generator state gives
the same epoch, and exact resume relies on that.

Legend: P positives, K negatives of each positive, B users.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from palate.data.dataset import Dataset
from palate.data.ragged import Ragged
from palate.errors import ConfigError

MAX_TABLE_BITS = 31
"""The table of bits takes at most 2 ** 31 bits (256 MB)."""
HASH_MULTIPLIERS = (0x9E3779B1, 0x85EBCA6B)
"""Spread neighbouring pairs over a folded table; two pairs that share a bit cost a look-up and no wrong answer."""
PAIRS_PER_BLOCK = 1 << 22
"""Rows that are sorted or marked at once."""


class Negatives:
    """Samples K items for each user that the user has not seen, without rejection.

    All items are first drawn at once from the whole catalogue. A table of bits tells which draws fell on a seen item;
    these are replaced by draws from the user's unseen items: they are laid side by side, as wide as their weights, a
    point is drawn, and a binary search among the user's seen items finds the item at that point. Both draws have
    probabilities in proportion to weight among unseen items, and so has their combination.

    A user who has seen every item has no negatives. For such a user alone `draw` returns any items, so that one user
    does not stop training; `saturated` counts these users.

    Args:
        data: The seen pairs: its rows and, for a part of a split, those of its `history`.
        count: K, number of negatives of each positive.
        power: Items are drawn in proportion to (interactions + 1) ** power among unseen items; 0 is uniform.

    Attributes:
        saturated: Number of users who have seen every item.

    Raises:
        ConfigError: `count` is below 1, or `power` is not a finite number.
    """

    def __init__(self, data: Dataset, count: int, power: float = 0.0) -> None:
        if count < 1 or not np.isfinite(power):
            raise ConfigError(f"negatives: count = {count}, power = {power}; give 1 or more, and a finite power")
        self.count = count
        self.n_items = data.n_items
        # User u's seen items are `_item[_offsets[u]:_offsets[u + 1]]`, ascending.
        self._item, self._offsets = distinct_items(data)
        full = np.diff(self._offsets) == data.n_items
        self.saturated = int(full.sum())
        if self.saturated:
            lengths = np.diff(self._offsets)
            self._item = self._item[~np.repeat(full, lengths)]
            self._offsets = np.concatenate(([0], np.cumsum(np.where(full, 0, lengths))))
        # Uniform weights are 1 each; others are whole numbers too, so that no rounding can move a draw to a seen item.
        self._ends = None if power == 0 else np.cumsum(_weights(data, power))
        self._free_before, self._free = self._gaps()
        # One bit for each pair or, where these are too many, at least 32 bits for each seen pair, folded.
        pairs, self._bits = data.n_users * data.n_items, 1 << min((32 * len(self._item)).bit_length(), MAX_TABLE_BITS)
        self._direct = pairs <= self._bits
        self._table = self._mark(min(pairs, self._bits))

    def draw(self, user_P: Tensor, rng: torch.Generator) -> Tensor:
        """Negatives for each user, int64 `[P, K]`; all chance comes from `rng`."""
        user = np.repeat(user_P.numpy(), self.count)
        if self._ends is None:
            item = torch.randint(self.n_items, (len(user),), generator=rng).numpy()
        else:
            point = torch.randint(int(self._ends[-1]), (len(user),), generator=rng).numpy()
            item = np.searchsorted(self._ends, point, side="right")
        seen = self._seen(user, item)
        item[seen] = self._unseen(user[seen], rng)
        return torch.from_numpy(item).view(-1, self.count)

    def _unseen(self, user: np.ndarray, rng: torch.Generator) -> np.ndarray:
        """One unseen item for each user, int64 `[n]`."""
        chance = torch.rand(len(user), dtype=torch.float64, generator=rng).numpy()
        point: np.ndarray = (chance * self._free[user]).astype(np.int64)
        before = self._count(self._weight_before, user, point)
        if self._ends is None:
            point += before
            return point
        last = self._offsets[user] + before - 1
        some = before > 0
        point[some] += self._ends[self._item[last[some]]] - self._weight_before(last[some], user[some])
        return np.searchsorted(self._ends, point, side="right")

    def _seen(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Which of the pairs are seen: their positions, int64 `[hits]`."""
        place = self._place(user, item)
        hits: np.ndarray = np.flatnonzero((self._table[place >> 3] >> (place & 7).astype(np.uint8)) & 1)
        if self._direct or not len(hits):
            return hits
        # A bit of a folded table stands for many pairs: look the pair up.
        user, item = user[hits], item[hits]
        last = self._offsets[user] + self._count(lambda place, _: self._item[place], user, item) - 1
        hits = hits[(last >= self._offsets[user]) & (self._item[last] == item)]
        return hits

    def _count(
        self, value: Callable[[np.ndarray, np.ndarray], np.ndarray], user: np.ndarray, limit: np.ndarray
    ) -> np.ndarray:
        """How many of each user's ascending values are at most `limit`, int64 `[n]`; (place, user) -> value."""
        start, stop = self._offsets[user], self._offsets[user + 1]
        place: np.ndarray = start.copy()
        longest = int((stop - start).max(initial=0))
        step = (1 << longest.bit_length()) >> 1
        while step:
            ahead = place + step
            fits = ahead <= stop
            fits &= value(np.minimum(ahead, stop) - 1, user) <= limit
            place[fits] = ahead[fits]
            step >>= 1
        place -= start
        return place

    def _weight_before(self, place: np.ndarray, user: np.ndarray) -> np.ndarray:
        """The weight of a user's unseen items before the seen one at each place, int64 `[n]`."""
        if self._free_before is not None:
            weight: np.ndarray = self._free_before[place]
        else:
            weight = self._item[place] - (place - self._offsets[user])
        return weight

    def _gaps(self) -> tuple[np.ndarray | None, np.ndarray]:
        """The weight of a user's unseen items before each seen one, and in all (float64 `[users]`).

        Uniform weights need no table: the items before a seen one, less the seen ones among them, are unseen.
        """
        lengths = np.diff(self._offsets)
        if self._ends is None:
            return None, (self.n_items - lengths).astype(np.float64)
        weights = np.diff(self._ends, prepend=0)
        seen = np.concatenate(([0], np.cumsum(weights[self._item])))
        of_user = seen[self._offsets[:-1]]
        free_before = self._ends[self._item] - weights[self._item] - seen[:-1] + np.repeat(of_user, lengths)
        return free_before, (self._ends[-1] - np.diff(seen[self._offsets])).astype(np.float64)

    def _mark(self, bits: int) -> np.ndarray:
        """The table of bits: those of the seen pairs are set."""
        table = np.zeros(bits // 8 + 1, dtype=np.uint8)
        for start in range(0, len(self._item), PAIRS_PER_BLOCK):
            item = self._item[start : start + PAIRS_PER_BLOCK].astype(np.int64)
            user = np.searchsorted(self._offsets, np.arange(start, start + len(item)), side="right") - 1
            place = self._place(user, item)
            for bit in range(8):
                table[place[(place & 7) == bit] >> 3] |= np.uint8(1 << bit)
        return table

    def _place(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        place: np.ndarray = user * (self.n_items if self._direct else HASH_MULTIPLIERS[0])
        place += item if self._direct else item * HASH_MULTIPLIERS[1]
        if not self._direct:
            place &= self._bits - 1
        return place


def user_blocks(parts: Sequence[Dataset], rows: int = PAIRS_PER_BLOCK) -> Iterator[tuple[int, int]]:
    """Consecutive users with at most so many rows in all parts, or single users with more: first, and last + 1.

    Args:
        parts: Data under the same indices.
        rows: Rows of a block.
    """
    ends = parts[0].offsets if len(parts) == 1 else np.sum([part.offsets for part in parts], axis=0)
    first, users = 0, len(ends) - 1
    while first < users:
        last = int(np.searchsorted(ends, ends[first] + rows, side="right")) - 1
        last = min(max(last, first + 1), users)
        yield first, last
        first = last


def pair_keys(data: Dataset, first: int, last: int) -> np.ndarray:
    """The rows of some users as numbers `(user - first) * n_items + item`, int64, in their order.

    Args:
        data: The data.
        first, last: First user, and last user + 1.
    """
    rows = slice(data.offsets[first], data.offsets[last])
    keys = data.user[rows].astype(np.int64)
    keys -= first
    keys *= data.n_items
    keys += data.item[rows]
    return keys


def distinct_items(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Each user's distinct items, in the data and in its `history`.

    Returns:
        Items, ascending for each user, int32 `[pairs]`, and where each user's begin, int64 `[n_users + 1]`.
    """
    parts = [part for part in (data, data.history) if part is not None]
    items = np.empty(sum(map(len, parts)), dtype=np.int32)
    counts = np.zeros(data.n_users, dtype=np.int64)
    done = 0
    for first, last in user_blocks(parts):
        keys = np.concatenate([pair_keys(part, first, last) for part in parts])
        keys.sort()
        if len(keys):
            keys = keys[np.concatenate(([True], keys[1:] != keys[:-1]))]
        user, items[done : done + len(keys)] = np.divmod(keys, data.n_items)
        counts[first:last] = np.bincount(user, minlength=last - first)
        done += len(keys)
    return items[:done], np.concatenate(([0], np.cumsum(counts)))


def _weights(data: Dataset, power: float) -> np.ndarray:
    """(interactions + 1) ** power of each item as whole numbers of at least 1, int64 `[N]`.

    Their sum is near 2 ** 40 or less: summed over all users it must fit an int64.
    """
    weight = (data.item_counts + 1.0) ** power
    total = 2.0 ** min(40, 61 - data.n_users.bit_length())
    whole: np.ndarray = np.maximum(np.rint(weight / weight.sum() * total), 1).astype(np.int64)
    return whole


ROWS_PER_LOOKUP = 2**14
"""Interactions gathered at once; small batches are cut from them."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """A batch of interactions, with K sampled negatives of each if the model learns from contrast.

    Attributes:
        user, item: int64 `[P]`.
        rating: float32 `[P]`, if the data has ratings.
        negative: int64 `[P, K]`; never an item the user has.
        weight: float32 `[P]`, if the data has sample weights: these divided by their mean over the data. The mean of
            the losses times these weights is then an unbiased estimate of the weighted mean loss of the data.
    """

    user: Tensor
    item: Tensor
    rating: Tensor | None = None
    negative: Tensor | None = None
    weight: Tensor | None = None

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: slice | Tensor) -> Pairs:
        """Some of the interactions."""
        columns = (_rows(column, rows) for column in (self.rating, self.negative, self.weight))
        return Pairs(self.user[rows], self.item[rows], *columns)


def pairs(data: Dataset, rng: torch.Generator, size: int, negatives: Negatives | None = None) -> Iterator[Pairs]:
    """All interactions once, in random order.

    Args:
        data: Its rows are the positives.
        rng: Decides the order and the negatives.
        size: Positives in a batch; the last one may be shorter.
        negatives: Draws fresh negatives for each batch. Defaults to no negatives.
    """
    if not len(data):
        return  # `split` would yield one empty batch
    user, item = torch.from_numpy(data.user), torch.from_numpy(data.item)
    rating, weight = _column(data.rating), _column(data.weight)
    if weight is not None:
        weight = (weight / weight.double().mean()).float()
    order = torch.randperm(len(data), generator=rng)
    # Small batches are gathered several at once: a look-up and a draw cost little more for ten thousand rows than for
    # one.
    for block in torch.split(order, size * max(1, ROWS_PER_LOOKUP // size)):
        block_user = user[block].long()
        whole = Pairs(
            block_user,
            item[block].long(),
            _rows(rating, block),
            None if negatives is None else negatives.draw(block_user, rng),
            _rows(weight, block),
        )
        for start in range(0, len(block), size):
            yield whole.take(slice(start, start + size))


@dataclass(frozen=True, eq=False, kw_only=True)
class Histories:
    """A batch of users with all their items, for models that read a history and reconstruct or predict items.

    Attributes:
        user: int64 `[B]`.
        history: What the model reads: item indices, B rows, none empty.
        ratings: float32 `[total]`, aligned with `history.values`, if the data has ratings.
        weight: Sample weights, float32 `[total]`, aligned with `history.values`, if the data has them.
        target: What the loss is measured on: item indices, B rows, none empty. `history` itself for training data; for
            a validation part the part's rows, which `history` does not hold.
        target_ratings, target_weight: As `ratings` and `weight`, aligned with `target.values`.
        stage: Which part of the model this batch trains, for models that train their parts in turns.
    """

    user: Tensor
    history: Ragged
    ratings: Tensor | None = None
    weight: Tensor | None = None
    target: Ragged
    target_ratings: Tensor | None = None
    target_weight: Tensor | None = None
    stage: str = ""

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: Tensor) -> Histories:
        """Some of the users."""
        read, asked = self.history.positions(rows), self.target.positions(rows)
        history = self.history.take(rows)
        return Histories(
            user=self.user[rows],
            history=history,
            ratings=_rows(self.ratings, read),
            weight=_rows(self.weight, read),
            target=history if self.target is self.history else self.target.take(rows),
            target_ratings=_rows(self.target_ratings, asked),
            target_weight=_rows(self.target_weight, asked),
            stage=self.stage,
        )


def histories(data: Dataset, rng: torch.Generator, size: int, stage: str = "") -> Iterator[Histories]:
    """All users with interactions once, in random order.

    Args:
        data: Training data, whose rows are both history and target, or a validation part: its rows are the targets and
            the rows of its `history` the histories. Users of a part without any history are skipped.
        rng: Decides the order.
        size: Users in a batch; the last one may be shorter.
        stage: Copied to each batch.
    """
    known = data if data.history is None else data.history
    users = np.intersect1d(data.active_users, known.active_users, assume_unique=True)
    if not len(users):
        return
    sources = {source: (_column(source.rating), _column(source.weight)) for source in (known, data)}

    def read(source: Dataset, batch: Tensor) -> tuple[Ragged, Tensor | None, Tensor | None]:
        places = source.histories.positions(batch)
        rating, weight = (_rows(column, places) for column in sources[source])
        return source.histories.take(batch), rating, weight

    for batch in torch.split(torch.from_numpy(users)[torch.randperm(len(users), generator=rng)], size):
        history, ratings, weight = read(known, batch)
        target, target_ratings, target_weight = (history, ratings, weight) if known is data else read(data, batch)
        yield Histories(
            user=batch, history=history, ratings=ratings, weight=weight, target=target,
            target_ratings=target_ratings, target_weight=target_weight, stage=stage,
        )  # fmt: skip


def _column(column: np.ndarray | None) -> Tensor | None:
    return None if column is None else torch.from_numpy(np.ascontiguousarray(column))


def _rows(column: Tensor | None, rows: Tensor | slice) -> Tensor | None:
    return None if column is None else column[rows]
