"""VMIS-kNN: recommends the items of past sessions that resemble the current one; nothing is trained.

    r(s, h)     = sum_{i in s and h} w_i                    similarity of the current session s and a past session h
    score(s, i) = log(|H| / |H_i|) sum_{h in N(s), i in h} r(s, h) match(s, h)

    w_i         = (p_i / l)^decay     p_i the last position of item i in s, from 1, and l the length of s
    match(s, h) = max(0, 1 - d / window)     d how many items of s are newer than the newest one that is in h

N(s) are the k most similar of the m newest past sessions that share an item with s; of equally similar ones the newer.
H are all past sessions, H_i those that hold item i (Kersbergen, Sprangers and Schelter, SIGMOD 2022, "Serenade";
Ludewig and Jannach 2018). For data with users, a session is the whole history of a user, and users are never their own
neighbours. A session is as new as its last interaction; without times, the order of the ids decides.

Given the neighbours, a score is a sum over the items of the session, which is how it is explained: item j adds what it
adds to the similarities r(s, h). `neighbours` names the sessions behind an item.

Legend: B queries, N items, S past sessions, T distinct items of the queries' sessions, E entries of the index that they
look up, M candidates of each query, K neighbours, V items of the neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from palate.config import check
from palate.data.dataset import Dataset, Queries, Spec
from palate.models.base import Model
from palate.models.buffers import check_indices, check_sparse
from palate.models.neighbours.nearest import row_blocks
from palate.training.train_run import Epoch, TrainRun


@dataclass(frozen=True, kw_only=True)
class VMISKNNConfig:
    """Settings of `vmis-knn`."""

    m: int = 1000
    """Newest sessions with an item in common that are compared, and kept in the index of each item."""
    k: int = 100
    """Most similar sessions whose items are recommended."""
    decay: float = 1.0
    """How fast the weight of older items of the session falls; 0 weighs all items equally."""
    window: int = 10
    """Newest items of the session that a neighbour must share one of; the neighbour counts less, the older it is."""
    max_history: int = 100
    """Newest items of a session that are read; older ones are ignored."""

    def __post_init__(self) -> None:
        check(self, m=self.m >= 1, k=self.k >= 1, decay=self.decay >= 0, window=self.window >= 1,
              max_history=self.max_history >= 1)  # fmt: skip


class Asked(NamedTuple):
    """The distinct items of the queries' sessions, in order of query and item.

    Attributes:
        row: The query, int64 `[T]`.
        item: The item, int64 `[T]`.
        weight: w_i, float64 `[T]`.
        age: How many items of the session are newer, int64 `[T]`.
        position: Where it last stands in `history.values`, int64 `[T]`.
    """

    row: np.ndarray
    item: np.ndarray
    weight: np.ndarray
    age: np.ndarray
    position: np.ndarray


class Neighbours(NamedTuple):
    """The neighbours of some queries, in order of the queries; all of them match.

    Attributes:
        row: The query, int64 `[K]`.
        session: Number of the past session, int64 `[K]`; the higher, the newer.
        weight: `r(s, h) match(s, h)`, float64 `[K]`.
        match: `match(s, h)`, float64 `[K]`.
    """

    row: np.ndarray
    session: np.ndarray
    weight: np.ndarray
    match: np.ndarray


class VMISKNN(Model):
    """Session-based nearest neighbours (VMIS-kNN): the items of past sessions that resemble the current one."""

    Config = VMISKNNConfig
    answers = frozenset({"known_user", "history", "similar_items"})
    reads_repeats = True
    reads_order = True
    additive = True
    dynamic_buffers = ("session_items", "item_sessions")
    session_of_user: Tensor
    session_offsets: Tensor
    session_items: Tensor
    item_offsets: Tensor
    item_sessions: Tensor
    rarity: Tensor

    def __init__(self, config: VMISKNNConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: VMISKNNConfig = config
        self.register_buffer("session_of_user", torch.arange(spec.n_users))
        # The distinct items of each session, the oldest session first.
        self.register_buffer("session_offsets", torch.zeros(spec.n_users + 1, dtype=torch.int64))
        self.register_buffer("session_items", torch.zeros(0, dtype=torch.int32))
        # The m newest sessions of each item, the newest first.
        self.register_buffer("item_offsets", torch.zeros(spec.n_items + 1, dtype=torch.int64))
        self.register_buffer("item_sessions", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("rarity", torch.zeros(spec.n_items))

    def check_buffers(self) -> None:
        check_indices("session_of_user", self.session_of_user, self.spec.n_users)
        n_users, n_items = self.spec.n_users, self.spec.n_items
        check_sparse(self.session_offsets, self.session_items, self.session_items, n_users, n_items)
        check_sparse(self.item_offsets, self.item_sessions, self.item_sessions, n_items, n_users)

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        n_users, n_items = data.n_users, data.n_items
        number = newest_last(data)
        session, item = distinct_pairs(number[data.user], data.item, n_items)
        self.session_of_user = torch.from_numpy(number)
        self.session_offsets = torch.from_numpy(_offsets(session, n_users))
        self.session_items = torch.from_numpy(item.astype(np.int32))
        by_item = np.lexsort((-session, item))
        offsets = _offsets(item, n_items)
        place = np.arange(len(item)) - np.repeat(offsets[:-1], np.diff(offsets))
        kept = by_item[place < self.config.m]
        self.item_offsets = torch.from_numpy(_offsets(item[kept], n_items))
        self.item_sessions = torch.from_numpy(session[kept].astype(np.int32))
        count, total = np.diff(offsets), int((np.diff(data.offsets) > 0).sum())
        self.rarity = torch.from_numpy(np.log(total / np.maximum(count, 1)).astype(np.float32))
        return []

    def _score(self, queries: Queries) -> Tensor:
        scores_BN = torch.zeros(len(queries), self.spec.n_items)
        rarity_N = self.rarity.cpu().numpy()
        asked = self._asked(queries)
        for start, stop in row_blocks(self._entries(asked, len(queries))):
            first, last = np.searchsorted(asked.row, (start, stop))
            near = self._neighbours(queries, Asked(*(column[first:last] for column in asked)))
            item_V, of_V = self._items_of(near.session)
            weight_V = (near.weight[of_V] * rarity_N[item_V]).astype(np.float32)
            target_V = near.row[of_V] * self.spec.n_items + item_V
            scores_BN.view(-1).index_add_(0, torch.from_numpy(target_V), torch.from_numpy(weight_V))
        return scores_BN.to(queries.user.device)

    def neighbours(self, query: Queries, item: int) -> tuple[np.ndarray, np.ndarray]:
        """The past sessions behind the score of an item, and what each adds to it, the largest first.

        Args:
            query: One row.
            item: Item index.

        Returns:
            User indices of the training data, int64 `[n]`, and shares of the score, float64 `[n]`.
        """
        near = self._neighbours(query, self._asked(query))
        item_V, of_V = self._items_of(near.session)
        holds = of_V[item_V == item]
        share = near.weight[holds] * float(self.rarity[item])
        order = np.argsort(-share, kind="stable")
        user_of_session = np.argsort(self.session_of_user.cpu().numpy())
        return user_of_session[near.session[holds[order]]], share[order]

    def history_contributions(self, queries: Queries, item: int) -> tuple[Tensor, float]:
        asked = self._asked(queries)
        near = self._neighbours(queries, asked)
        item_V, of_V = self._items_of(near.session)
        holds = np.zeros(len(near.session), dtype=bool)
        holds[of_V[item_V == item]] = True
        # Each item that a neighbour shares is weighted by that neighbour's match.
        counted = holds[of_V]
        match_N = np.bincount(item_V[counted], near.match[of_V[counted]], minlength=self.spec.n_items)
        share_T = torch.zeros(len(queries.history.values))
        share = asked.weight * match_N[asked.item] * float(self.rarity[item])
        share_T[torch.from_numpy(asked.position)] = torch.from_numpy(share).float()
        return share_T.to(queries.user.device), 0.0

    def _items_of(self, session: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The items of past sessions, one after the other, and the place of the session of each, int64 `[V]`."""
        offsets = self.session_offsets.cpu().numpy()
        start, length = offsets[session], offsets[session + 1] - offsets[session]
        item = self.session_items.cpu().numpy()[_ranges(start, length)].astype(np.int64)
        return item, np.repeat(np.arange(len(session)), length)

    def _entries(self, asked: Asked, count: int) -> np.ndarray:
        """How many entries of the index each query looks up, int64 `[B]`."""
        offsets = self.item_offsets.cpu().numpy()
        entries = np.bincount(asked.row, offsets[asked.item + 1] - offsets[asked.item], minlength=count)
        return entries.astype(np.int64)

    def _asked(self, queries: Queries) -> Asked:
        """What is read of the queries' sessions."""
        values, offsets = queries.history.values.cpu().numpy(), queries.history.offsets.cpu().numpy()
        length = np.minimum(np.diff(offsets), self.config.max_history)
        row = np.repeat(np.arange(len(length)), length)
        position = _ranges(offsets[1:] - length, length)
        # The newest occurrence of each item: the last one of its run in the order of (query, item, position).
        key = row * self.spec.n_items + values[position]
        order = np.argsort(key, kind="stable")
        last = np.ones(len(order), dtype=bool)
        last[:-1] = key[order[1:]] != key[order[:-1]]
        row, position = row[order[last]], position[order[last]]
        age = offsets[1:][row] - 1 - position
        weight = (1 - age / length[row]) ** self.config.decay
        return Asked(row, values[position], weight, age, position)

    def _neighbours(self, queries: Queries, asked: Asked) -> Neighbours:
        """The neighbours of the queries that `asked` names."""
        config, size = self.config, self.spec.n_users
        offsets = self.item_offsets.cpu().numpy()
        start, length = offsets[asked.item], offsets[asked.item + 1] - offsets[asked.item]
        session_E = self.item_sessions.cpu().numpy()[_ranges(start, length)]
        of_E = np.repeat(np.arange(len(start)), length)
        row_E = asked.row[of_E]
        user_B = queries.user.cpu().numpy()
        if len(user_B) and user_B.max() >= 0:  # A known user's own history is no neighbour.
            own = np.where(user_B >= 0, self.session_of_user.cpu().numpy()[np.maximum(user_B, 0)], -1)
            other = session_E != own[row_E]
            session_E, of_E, row_E = session_E[other], of_E[other], row_E[other]
        # The candidates of each query, the newest first; each once, with all that it shares.
        order = np.argsort(row_E * size + (size - 1 - session_E), kind="stable")
        row_E, session_E, of_E = row_E[order], session_E[order], of_E[order]
        first = np.flatnonzero(np.diff(row_E * size + session_E, prepend=-1))
        if not len(first):
            empty = np.zeros(0)
            return Neighbours(empty.astype(np.int64), empty.astype(np.int64), empty, empty)
        similar, age = np.add.reduceat(asked.weight[of_E], first), np.minimum.reduceat(asked.age[of_E], first)
        row, session = row_E[first], session_E[first].astype(np.int64)
        newer = _place_in_row(row)
        kept = newer < config.m
        row, session, similar, age = row[kept], session[kept], similar[kept], age[kept]
        # The k most similar of each query, of equally similar ones the newer.
        order = np.lexsort((-similar, row))
        near = order[_place_in_row(row[order]) < config.k]
        match = np.maximum(1 - age[near] / config.window, 0)
        near, match = near[match > 0], match[match > 0]
        return Neighbours(row[near], session[near], similar[near] * match, match)


def _ranges(start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """As `palate.data.ragged.ranges`."""
    ends = np.cumsum(length)
    found: np.ndarray = np.arange(ends[-1] if len(ends) else 0) + np.repeat(start - ends + length, length)
    return found


def _place_in_row(row: np.ndarray) -> np.ndarray:
    """The position of each entry among those of its row, from 0; the rows ascend."""
    begin = np.flatnonzero(np.diff(row, prepend=-1))
    place: np.ndarray = np.arange(len(row)) - np.repeat(begin, np.diff(begin, append=len(row)))
    return place


def newest_last(data: Dataset) -> np.ndarray:
    """The number of each history in the order of its last interaction, int64 `[n_users]`; without times, the index."""
    if data.timestamp is None:
        return np.arange(data.n_users)
    end = np.full(data.n_users, np.iinfo(np.int64).min)
    users = data.active_users
    end[users] = data.timestamp[data.offsets[1:][users] - 1]
    number = np.empty(data.n_users, dtype=np.int64)
    number[np.argsort(end, kind="stable")] = np.arange(data.n_users)
    return number


def distinct_pairs(session: np.ndarray, item: np.ndarray, n_items: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct pairs of a session and an item, in ascending order, int64 each."""
    key = np.unique(session.astype(np.int64) * n_items + item)
    return key // n_items, key % n_items


def _offsets(row: np.ndarray, rows: int) -> np.ndarray:
    """Where each row begins and ends, int64 `[rows + 1]`, for entries in order of their rows."""
    return np.concatenate(([0], np.cumsum(np.bincount(row, minlength=rows)))).astype(np.int64)
