"""Made-up people with known tastes, of any size: what a model should find is what was planted.

Each item i has a main topic (share 0.7) and a second one (0.3, or the same), each user u one to three liked topics with
weights that sum to 1. With match(u, i) = sum over topics of weight * share, divided by u's largest weight:

    rating = 2.5 + quality_i + kindness_u + 1.6 * match(u, i) + noise, clipped to 1..5 and rounded to steps

Items are drawn without repeats: with chance 0.25 by popularity alone, else by popularity within a liked topic.
Popularity and activity are long-tailed; nobody meets an item before its release.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import polars as pl

from palate.data.draws import Draw
from palate.data.invented import item_table, user_table
from palate.data.table import Tables
from palate.errors import ConfigError

MAIN_SHARE = 0.7
"""Of an item's main topic; the rest is its second topic's."""

_BLOCK = 1_000_000
_BEGIN, _END = 1_420_070_400, 1_577_836_800  # the years 2015 to 2019
_DAY = 86_400


class Block(NamedTuple):
    """Interactions of some users, ordered by user; indices into the world's users and items.

    Attributes:
        user, item: int32 `[rows]`.
        rating: float32 `[rows]`.
        timestamp: int32 `[rows]`, seconds since 1970 UTC.
    """

    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    timestamp: np.ndarray


@dataclass(frozen=True, eq=False, kw_only=True)
class World:
    """All that was planted; the interactions follow from it and the seed.

    Attributes:
        counts: Interactions of each user, int32 `[users]`.
        liked: Weight of each topic for each user, float32 `[users, topics]`; 0 for all but one to three.
        groups: The crowd a user belongs to, int8 `[users]`; it makes some topics likelier.
        kindness: How far a user's ratings lie above others', float32 `[users]`.
        arrivals: A user's first possible second, int64 `[users]`.
        topics, second_topics: Of each item, int16 `[items]`.
        popularity: Chance of each item under no taste, float64 `[items]`.
        quality: What everybody agrees on, float32 `[items]`.
        releases: An item's first possible second, int64 `[items]`.
        step: Between neighbouring ratings.
        seed: As given.
    """

    counts: np.ndarray
    liked: np.ndarray
    groups: np.ndarray
    kindness: np.ndarray
    arrivals: np.ndarray
    topics: np.ndarray
    second_topics: np.ndarray
    popularity: np.ndarray
    quality: np.ndarray
    releases: np.ndarray
    step: float
    seed: int

    @property
    def n_users(self) -> int:
        return len(self.counts)

    @property
    def n_items(self) -> int:
        return len(self.topics)

    @property
    def n_topics(self) -> int:
        return int(self.liked.shape[1])

    def match(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """How well items fit tastes, float32 `[rows]`, 0 to 1."""
        liked: np.ndarray = MAIN_SHARE * self.liked[user, self.topics[item]]
        liked += (1 - MAIN_SHARE) * self.liked[user, self.second_topics[item]]
        liked /= self.liked.max(axis=1)[user]
        return liked

    def blocks(self) -> Iterator[Block]:
        """The interactions, about a million at a time, users ascending; the same at every call."""
        draw = Draw(self.counts, self.liked, self.topics, self.popularity)
        ends = np.cumsum(self.counts, dtype=np.int64)
        cuts = np.searchsorted(ends, np.arange(_BLOCK, ends[-1], _BLOCK))
        edges = np.unique(np.concatenate(([0], cuts, [self.n_users])))
        for number, (first, last) in enumerate(pairwise(edges.tolist())):
            rng = np.random.default_rng([self.seed, 1, number])
            user, item = draw.pairs(first, last, rng)
            yield self._rated(user, item, rng)

    def tables(self) -> Tables:
        """Everything at once; ids are the indices, Int32 in the interactions to save memory."""
        rows = int(self.counts.sum(dtype=np.int64))
        user, item, timestamp = (np.empty(rows, dtype=np.int32) for _ in range(3))
        rating = np.empty(rows, dtype=np.float32)
        start = 0
        for block in self.blocks():
            for whole, part in zip((user, item, rating, timestamp), block, strict=True):
                whole[start : start + len(part)] = part
            start += len(block.user)
        columns = {"user_id": user, "item_id": item, "rating": rating, "timestamp": timestamp}
        rng = np.random.default_rng([self.seed, 2])
        return Tables(
            interactions=pl.DataFrame(columns),
            items=item_table(self.topics, self.second_topics, self.releases, self.n_topics, rng),
            users=user_table(self.groups, rng),
            rating_scale=(1.0, 5.0),
            notes=(f"made up, with {self.n_topics} planted topics, seed {self.seed}: no real people",),
        )

    def _rated(self, user: np.ndarray, item: np.ndarray, rng: np.random.Generator) -> Block:
        value = self.quality[item] + self.kindness[user] + np.float32(1.6) * self.match(user, item)
        value += np.float32(2.5) + np.float32(0.6) * rng.standard_normal(len(user), dtype=np.float32)
        rating = np.clip(np.round(value / np.float32(self.step)) * np.float32(self.step), 1, 5).astype(np.float32)
        begin = np.maximum(self.arrivals[user], self.releases[item])
        chance = rng.random(len(user))
        stay = 240 * _DAY * chance**2  # most of what a user does comes soon after the first time
        return Block(user, item, rating, (begin + np.minimum(stay, (_END - begin) * chance)).astype(np.int32))


def synthetic(
    n_interactions: int = 100_000,
    n_users: int | None = None,
    n_items: int | None = None,
    *,
    n_topics: int = 12,
    step: float = 1.0,
    seed: int = 0,
) -> Tables:
    """Tables of made-up people; the same as `plant(...).tables()`.

    Args: those of `plant`.
    """
    return plant(n_interactions, n_users, n_items, n_topics=n_topics, step=step, seed=seed).tables()


def plant(
    n_interactions: int = 100_000,
    n_users: int | None = None,
    n_items: int | None = None,
    *,
    n_topics: int = 12,
    step: float = 1.0,
    seed: int = 0,
) -> World:
    """Decide who likes what.

    Args:
        n_interactions: Exactly as many will be made.
        n_users: Default: 20 rows each for 1e3 interactions, 50 for 1e5, 145 for 2e7, 200 for 1e8.
        n_items: Default: 5 times the square root of `n_interactions`.
        n_topics: 2 to 64.
        step: 1.0 for ratings 1, 2, ..., 5; 0.5 for half steps between them.
        seed: Equal arguments give equal worlds.

    Raises:
        ConfigError: A number is out of range, or users would have to meet more than half of all items.
    """
    if n_users is None:
        n_users = min(max(10, round(n_interactions / (20 * max(n_interactions / 1000, 1) ** 0.2))), n_interactions)
    if n_items is None:
        n_items = max(20, round(5 * max(n_interactions, 0) ** 0.5))
    _check(n_interactions, n_users, n_items, n_topics, step, seed)
    rng = np.random.default_rng([seed, 0])
    topics, second_topics = (rng.integers(n_topics, size=n_items, dtype=np.int16) for _ in range(2))
    popularity = rng.lognormal(0, 1.6, n_items)
    fame = np.log(popularity)
    fame = (fame - fame.mean()) / fame.std()
    groups = rng.integers(6, size=n_users, dtype=np.int8)
    counts = _counts(n_interactions, n_users, n_items // 2, rng)
    return World(
        counts=counts,
        liked=_liked(groups, n_topics, rng),
        groups=groups,
        kindness=0.4 * rng.standard_normal(n_users, dtype=np.float32),
        arrivals=(_BEGIN + (_END - _BEGIN - _DAY) * rng.random(n_users) ** 0.7).astype(np.int64),
        topics=topics,
        second_topics=np.where(rng.random(n_items) < 0.5, topics, second_topics),
        popularity=popularity / popularity.sum(),
        quality=(0.4 * rng.standard_normal(n_items) + 0.15 * fame).astype(np.float32),
        # One item in five comes out while people are already there.
        releases=(_BEGIN + np.maximum(0, 5 * rng.random(n_items) - 4) * (_END - _BEGIN - 30 * _DAY)).astype(np.int64),
        step=float(step),
        seed=seed,
    )


def _check(rows: int, n_users: int, n_items: int, n_topics: int, step: float, seed: int) -> None:
    rules = {
        f"n_interactions = {rows:,} is not between 1 and 2,000,000,000": 0 < rows <= 2 * 10**9,
        f"n_users = {n_users:,} is not between 1 and n_interactions": 0 < n_users <= rows,
        f"n_items = {n_items:,} is below 2": n_items >= 2,
        f"n_topics = {n_topics} is not between 2 and 64": 2 <= n_topics <= 64,
        f"step = {step} is neither 0.5 nor 1.0": step in (0.5, 1.0),
        f"seed = {seed} is below 0": seed >= 0,
    }
    faults = [fault for fault, holds in rules.items() if not holds]
    if not faults and rows > n_users * (n_items // 2):
        most = f"{n_users * (n_items // 2):,}: each user meets at most half of the items"
        faults = [f"n_interactions = {rows:,} is too many for {n_users:,} users and {n_items:,} items, at most {most}"]
    if faults:
        raise ConfigError.faults("synthetic", faults)


def _counts(rows: int, n_users: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Long-tailed numbers of interactions that sum to `rows`, each from 1 to `most`."""
    activity = rng.lognormal(0, 1.1, n_users)
    least = min(5, max(1, rows // n_users // 2), most)
    counts = np.minimum(least + ((rows - least * n_users) * (activity / activity.sum())).astype(np.int64), most)
    while (left := rows - int(counts.sum())) > 0:
        room = rng.permutation(np.flatnonzero(counts < most))
        counts[room] += left // len(room)
        counts[room[: left % len(room)]] += 1
        counts = np.minimum(counts, most)
    return np.asarray(counts, dtype=np.int32)


def _liked(groups: np.ndarray, n_topics: int, rng: np.random.Generator) -> np.ndarray:
    """One to three topics with weights for each user; the first is likely one of the group's own."""
    users = np.arange(len(groups))
    own = (2 * groups.astype(np.int64) + rng.integers(2, size=len(groups))) % n_topics
    first = np.where(rng.random(len(groups)) < 0.6, own, rng.integers(n_topics, size=len(groups)))
    others = rng.integers(n_topics, size=(2, len(groups)))
    how_many = rng.integers(1, 4, size=len(groups))
    liked = np.zeros((len(groups), n_topics), dtype=np.float32)
    for place, topic in enumerate((first, *others)):
        weight = rng.uniform(0.5, 1, size=len(groups)) / (place + 1)
        liked[users, topic] += np.where(how_many > place, weight, 0).astype(np.float32)
    liked /= liked.sum(axis=1, keepdims=True)
    return liked
