"""Items for many users at once, each user's without repeats, by taste and popularity."""

from __future__ import annotations

import numpy as np

EXPLORE = 0.25
"""Chance that an item is drawn by popularity alone, whatever the user likes."""

_ROUNDS = 30
_DENSE = 4_000_000


class Draw:
    """Draws the items of users; what it holds grows with users and items, not with interactions.

    A draw is one number: its whole part says in which segment of a line (a topic's items, or behind the last topic all
    items), its fraction where in the segment, each item's length being its popularity.

    Args:
        counts: Items of each user, int32 `[users]`; at most half of all.
        liked: Weight of each topic for each user, float32 `[users, topics]`; at most three are not 0, rows sum to 1.
        topics: Of each item, `[items]`.
        popularity: Chance of each item under no taste, `[items]`, sums to 1.
    """

    def __init__(self, counts: np.ndarray, liked: np.ndarray, topics: np.ndarray, popularity: np.ndarray) -> None:
        self.counts, self.liked, self.topics, self.popularity = counts, liked, topics, popularity
        n_topics = liked.shape[1]
        top = np.argpartition(liked, -min(3, n_topics), axis=1)[:, -min(3, n_topics) :]
        # A topic without items is drawn as "all items", the segment behind the last topic.
        sizes = np.bincount(topics, weights=popularity, minlength=n_topics)
        self.favourites = np.where(sizes[top] > 0, top, n_topics).astype(np.int16)
        self.shares = np.cumsum(np.take_along_axis(liked, top, axis=1), axis=1, dtype=np.float32)[:, :-1]
        by_topic = np.argsort(topics, kind="stable")
        self.line = np.concatenate([by_topic, np.arange(len(topics))]).astype(np.int32)
        share = popularity / sizes[topics]
        self.in_topic = share
        segments = [topics[by_topic] + _cumulated(share[by_topic], topics[by_topic], n_topics)]
        self.ends = np.concatenate([*segments, n_topics + np.cumsum(popularity) / popularity.sum()])
        self.last = np.concatenate([np.searchsorted(topics[by_topic], np.arange(n_topics), "right"), [len(self.line)]])

    def pairs(self, first: int, last: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """User and item of every interaction of users `first` to `last - 1`, int32, ordered by user, then item."""
        n_items = len(self.topics)
        need = self.counts[first:last].astype(np.int64)
        done, have = [], np.empty(0, dtype=np.int64)  # pairs as user * n_items + item, sorted
        # Drawing what is missing again and again is drawing with replacement until each user has enough different ones.
        for _ in range(_ROUNDS):
            if not need.any():
                break
            new = self._draw(np.repeat(np.arange(len(need)), need), first, rng)
            if len(have):
                place = np.minimum(np.searchsorted(have, new), len(have) - 1)
                new = new[have[place] != new]
            have = np.sort(np.concatenate([have, new]), kind="stable")
            owner = have // n_items
            need = np.where(need > 0, self.counts[first:last] - np.bincount(owner, minlength=len(need)), 0)
            unfinished = need[owner] > 0
            done.append(have[~unfinished])
            have = have[unfinished]
        if need.any():
            done.append(self._fill(have, need, first, rng))
        pairs = np.sort(np.concatenate(done), kind="stable")
        return (pairs // n_items + first).astype(np.int32), (pairs % n_items).astype(np.int32)

    def _draw(self, user: np.ndarray, first: int, rng: np.random.Generator) -> np.ndarray:
        """One item for each of these users, as sorted pairs without repeats."""
        chance = rng.random(len(user), dtype=np.float32)
        which = (chance[:, None] >= self.shares[first + user]).sum(axis=1)
        segment = self.favourites[first + user, which]
        segment[rng.random(len(user), dtype=np.float32) < EXPLORE] = self.liked.shape[1]
        place = np.searchsorted(self.ends, segment + rng.random(len(user)), side="right")
        item = self.line[np.minimum(place, self.last[segment] - 1)]
        pairs = np.sort(user * len(self.topics) + item)
        different: np.ndarray = pairs[np.concatenate([[True], pairs[1:] != pairs[:-1]])]
        return different

    def _fill(self, have: np.ndarray, need: np.ndarray, first: int, rng: np.random.Generator) -> np.ndarray:
        """Complete the few users who want so much that repeats are most of what is drawn.

        The same chances in one go: the smallest of exponential variates, each divided by its item's weight (Efraimidis
        and Spirakis 2006).
        """
        n_items = len(self.topics)
        users, owner = np.flatnonzero(need), have // n_items
        out = [have]
        step = max(1, _DENSE // n_items)
        for start in range(0, len(users), step):
            some = users[start : start + step]
            weight = (1 - EXPLORE) * self.liked[first + some][
                :, self.topics
            ] * self.in_topic + EXPLORE * self.popularity
            late = rng.exponential(size=weight.shape) / weight
            mine = (owner >= some[0]) & (owner <= some[-1])
            late[np.searchsorted(some, owner[mine]), have[mine] % n_items] = np.inf
            order = np.argsort(late, axis=1, kind="stable")
            chosen = np.arange(n_items) < need[some][:, None]
            row = np.broadcast_to(some[:, None], order.shape)
            out.append(row[chosen] * n_items + order[chosen])
        return np.concatenate(out)


def _cumulated(share: np.ndarray, topic: np.ndarray, n_topics: int) -> np.ndarray:
    """Running sums that begin anew with each topic; `topic` is ascending."""
    whole = np.cumsum(share)
    before = np.concatenate([[0.0], whole])[np.searchsorted(topic, np.arange(n_topics))]
    parts: np.ndarray = whole - before[topic]
    return parts
