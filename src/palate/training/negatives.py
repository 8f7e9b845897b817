"""Negative sampling: items a user does not have, drawn in bulk.

`Negatives.draw` never returns a seen item and never tries twice. All is drawn at once from all items; a table of bits
says which draws fell on a seen item, and these are replaced by draws from what is left: the user's unseen items are
laid side by side, as wide as their weights, a point is chosen, and a binary search among the user's seen items says
whose it is. Among unseen items both draws have chances in proportion to weight, and so has what comes of them together.

Legend: P positives, K negatives of each positive, N items.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from palate.data.dataset import Dataset
from palate.errors import ConfigError

_MOST_BITS = 31
"""The table of bits takes 2 ** 31 bits (256 MB) at most."""
_ODD = (0x9E3779B1, 0x85EBCA6B)
"""Multipliers that spread neighbouring pairs over a folded table; sharing a bit costs a look-up, no wrong answer."""
_CHUNK = 1 << 22


class Negatives:
    """Draws K items for each user that the user has not seen.

    A user who has seen every item has no negatives: for such a user alone `draw` returns any items, so that one
    insatiable user does not stop a training run; `saturated` counts these users.

    Args:
        data: What is seen: its rows and, for a part of a split, its `history`.
        count: K, negatives of each positive.
        power: 0 draws uniformly; otherwise in proportion to (interactions + 1) ** power among unseen items.

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
        keys = _seen(data)
        # User u's seen items are `_item[_offsets[u]:_offsets[u + 1]]`, ascending.
        self._offsets = np.searchsorted(keys, np.arange(data.n_users + 1) * np.int64(data.n_items))
        full = np.diff(self._offsets) == data.n_items
        self.saturated = int(full.sum())
        if self.saturated:
            keys = keys[~full[keys // data.n_items]]
            self._offsets = np.searchsorted(keys, np.arange(data.n_users + 1) * np.int64(data.n_items))
        self._item = np.empty(len(keys), dtype=np.int32)
        np.remainder(keys, data.n_items, out=self._item, casting="unsafe")
        # Uniform weights are 1 each; others are whole numbers too, so that no rounding can move a draw to a seen item.
        self._ends = None if power == 0 else np.cumsum(_weights(data, power))
        self._free_before, self._free = self._gaps()
        # One bit for each pair or, where these are too many, at least 32 bits for each seen pair, folded.
        pairs, self._bits = data.n_users * data.n_items, 1 << min((32 * len(keys)).bit_length(), _MOST_BITS)
        self._direct = pairs <= self._bits
        self._table = self._mark(keys, min(pairs, self._bits))

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
        before = self._count(self._free_before, user, point)
        if self._ends is None:
            point += before
            return point
        last = self._offsets[user] + before - 1
        some = before > 0
        point[some] += self._ends[self._item[last[some]]] - self._free_before[last[some]]
        return np.searchsorted(self._ends, point, side="right")

    def _seen(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Which of the pairs are seen: their positions, int64 `[hits]`."""
        place = self._place(user, item)
        hits: np.ndarray = np.flatnonzero((self._table[place >> 3] >> (place & 7).astype(np.uint8)) & 1)
        if self._direct or not len(hits):
            return hits
        # A bit of a folded table stands for many pairs: look the pair up.
        user, item = user[hits], item[hits]
        last = self._offsets[user] + self._count(self._item, user, item) - 1
        hits = hits[(last >= self._offsets[user]) & (self._item[last] == item)]
        return hits

    def _count(self, values: np.ndarray, user: np.ndarray, limit: np.ndarray) -> np.ndarray:
        """How many of each user's ascending `values` are at most `limit`, int64 `[n]`."""
        start, stop = self._offsets[user], self._offsets[user + 1]
        place: np.ndarray = start.copy()
        longest = int((stop - start).max(initial=0))
        step = (1 << longest.bit_length()) >> 1
        while step:
            ahead = place + step
            fits = ahead <= stop
            fits &= values[np.minimum(ahead, stop) - 1] <= limit
            place[fits] = ahead[fits]
            step >>= 1
        place -= start
        return place

    def _gaps(self) -> tuple[np.ndarray, np.ndarray]:
        """The weight of a user's unseen items before each seen one, and in all (float64 `[users]`)."""
        lengths = np.diff(self._offsets)
        if self._ends is None:
            within = np.arange(len(self._item), dtype=np.int64) - np.repeat(self._offsets[:-1], lengths)
            return (self._item - within).astype(np.int32), (self.n_items - lengths).astype(np.float64)
        weights = np.diff(self._ends, prepend=0)
        seen = np.concatenate(([0], np.cumsum(weights[self._item])))
        of_user = seen[self._offsets[:-1]]
        free_before = self._ends[self._item] - weights[self._item] - seen[:-1] + np.repeat(of_user, lengths)
        return free_before, (self._ends[-1] - np.diff(seen[self._offsets])).astype(np.float64)

    def _mark(self, keys: np.ndarray, bits: int) -> np.ndarray:
        """The table of bits: those of the seen pairs are set."""
        table = np.zeros(bits // 8 + 1, dtype=np.uint8)
        for start in range(0, len(keys), _CHUNK):
            user, item = np.divmod(keys[start : start + _CHUNK], self.n_items)
            place = self._place(user, item)
            for bit in range(8):
                table[place[(place & 7) == bit] >> 3] |= np.uint8(1 << bit)
        return table

    def _place(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        place: np.ndarray = user * (self.n_items if self._direct else _ODD[0])
        place += item if self._direct else item * _ODD[1]
        if not self._direct:
            place &= self._bits - 1
        return place


def in_batch(scores_PP: Tensor, user_P: Tensor, item_P: Tensor, log_q_N: Tensor | None = None) -> Tensor:
    """Logits of a softmax whose negatives are the batch's other positives; the targets are the diagonal.

    `logit(i, j) = score(i, j) - log q(item j)`, and minus infinity where item j is no negative for row i: it is row i's
    own item met again, or another positive of the same user in this batch (accidental hits). The correction takes out
    that popular items come as negatives more often (Yi et al. 2019, "Sampling-bias-corrected neural modeling").

    Args:
        scores_PP: Scores of each row's user for each row's item.
        user_P: Users, int64.
        item_P: Their positives, int64.
        log_q_N: Log of each item's chance to stand in a row, as `log_popularity` gives it; None corrects nothing.

    Returns:
        `[P, P]`, for `losses.softmax(logits, torch.arange(P))`.
    """
    logits = scores_PP if log_q_N is None else scores_PP - log_q_N[item_P]
    hit = (item_P.unsqueeze(1) == item_P) | (user_P.unsqueeze(1) == user_P)
    hit.fill_diagonal_(False)
    return logits.masked_fill(hit, -torch.inf)


def log_popularity(data: Dataset) -> Tensor:
    """Log of each item's share of the interactions, float32 `[N]`; an item without any counts as half of one."""
    counts = np.maximum(data.item_counts, 0.5)
    return torch.from_numpy(np.log(counts / counts.sum())).float()


def _seen(data: Dataset) -> np.ndarray:
    """The distinct pairs that are seen, as ascending keys `user * n_items + item`, int64."""
    parts = [part for part in (data, data.history) if part is not None]
    keys: np.ndarray = np.concatenate([part.user * np.int64(data.n_items) + part.item for part in parts])
    keys.sort()
    again = keys[1:] == keys[:-1]
    if again.any():
        keys = keys[np.concatenate(([True], ~again))]
    return keys


def _weights(data: Dataset, power: float) -> np.ndarray:
    """(interactions + 1) ** power of each item as whole numbers of at least 1, int64 `[N]`.

    Their sum is near 2 ** 40 or less: summed over all users it must fit an int64.
    """
    weight = (data.item_counts + 1.0) ** power
    total = 2.0 ** min(40, 61 - data.n_users.bit_length())
    whole: np.ndarray = np.maximum(np.rint(weight / weight.sum() * total), 1).astype(np.int64)
    return whole
