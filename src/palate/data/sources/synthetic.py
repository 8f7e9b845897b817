"""Synthetic interactions of any size with known tastes: what a model should find is known.

Each item i has a main topic (share 0.7) and a second one (0.3, or the same), each user u one to three liked topics with
weights that sum to 1. With match(u, i) = sum over topics of weight * share, divided by the largest weight of u:

    rating = 2.5 + quality_i + kindness_u + 1.6 * match(u, i) + noise, clipped to 1..5 and rounded to steps

Items are drawn without repetition: with probability 0.25 by popularity alone, else by popularity within a liked topic.
Popularity and activity are long-tailed; no user has an item before its release.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import polars as pl

from palate.data.reading.interactions import Tables
from palate.errors import ConfigError

MAIN_SHARE = 0.7
"""Share of an item's main topic; the rest belongs to its second topic."""
EXPLORE = 0.25
"""Probability that an item is drawn by popularity alone, regardless of the user's topics."""
GENRES: tuple[str, ...] = ("action", "animation", "comedy", "crime", "documentary", "drama", "fantasy", "horror")
GENRES += ("musical", "romance", "thriller", "western")
"""Names of the first topics; the others are called "topic 13", ..."""
GROUPS = ("student", "parent", "engineer", "artist", "teacher", "retired")

MAX_TABLE_ROWS = 200_000_000
"""Interactions that `synthetic` puts in memory; larger worlds are read in blocks."""

_BLOCK_ROWS = 1_000_000
_MAX_ROWS = 2_000_000_000
_MAX_ITEMS = 100_000_000
_BEGIN, _END = 1_420_070_400, 1_577_836_800  # the years 2015 to 2019
_DAY = 86_400
_DRAW_ROUNDS = 30
_MAX_DENSE_WEIGHTS = 4_000_000
_GROUP_AGES = (22, 38, 33, 29, 46, 68)
_SYLLABLES = [first + second for first in "bdfgklmnprstvz" for second in "aeiou"]
_WORDS_PER_TOPIC = 24


class Block(NamedTuple):
    """Interactions of some users, ordered by user; ids are indices of the world's users and items.

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
class SyntheticWorld:
    """The known truth of a synthetic data set; the interactions follow from it and the seed.

    Attributes:
        counts: Number of interactions of each user, int32 `[users]`.
        liked: Weight of each topic for each user, float32 `[users, topics]`; one to three are not 0.
        groups: The group of each user, int8 `[users]`, which makes some topics more probable.
        kindness: Rating bias of each user, float32 `[users]`.
        arrivals: First possible time of each user, seconds since 1970 UTC, int64 `[users]`.
        topics, second_topics: Topics of each item, int16 `[items]`.
        popularity: Probability of each item without any taste, float64 `[items]`.
        quality: Rating bias of each item, float32 `[items]`.
        releases: First possible time of each item, seconds since 1970 UTC, int64 `[items]`.
        step: Difference of neighbouring ratings.
        seed: Seed of the world.
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
        """How well items fit the tastes of users, float32 `[rows]`, 0 to 1.

        Args:
            user, item: Indices, `[rows]`.
        """
        liked: np.ndarray = MAIN_SHARE * self.liked[user, self.topics[item]]
        liked += (1 - MAIN_SHARE) * self.liked[user, self.second_topics[item]]
        liked /= self.liked.max(axis=1)[user]
        return liked

    def blocks(self) -> Iterator[Block]:
        """The interactions in blocks of about a million, users ascending; the same at every call."""
        draw = ItemSampler(self.counts, self.liked, self.topics, self.popularity)
        ends = np.cumsum(self.counts, dtype=np.int64)
        cuts = np.searchsorted(ends, np.arange(_BLOCK_ROWS, ends[-1], _BLOCK_ROWS))
        edges = np.unique(np.concatenate(([0], cuts, [self.n_users])))
        for number, (first, last) in enumerate(pairwise(edges.tolist())):
            rng = np.random.default_rng([self.seed, 1, number])
            user, item = draw.pairs(first, last, rng)
            yield self._rated(user, item, rng)

    def tables(self) -> Tables:
        """All interactions and side tables in memory; ids are the indices, Int32 in the interactions to save memory."""
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
            notes=(f"synthetic data with {self.n_topics} topics, seed {self.seed}",),
        )

    def _rated(self, user: np.ndarray, item: np.ndarray, rng: np.random.Generator) -> Block:
        value = self.quality[item] + self.kindness[user] + np.float32(1.6) * self.match(user, item)
        value += np.float32(2.5) + np.float32(0.6) * rng.standard_normal(len(user), dtype=np.float32)
        rating = np.clip(np.round(value / np.float32(self.step)) * np.float32(self.step), 1, 5).astype(np.float32)
        begin = np.maximum(self.arrivals[user], self.releases[item])
        chance = rng.random(len(user))
        stay = 240 * _DAY * chance**2  # most interactions of a user come soon after the first one
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
    """Tables of a synthetic data set; the same as `make_world(...).tables()`.

    Args:
        n_interactions: Number of interactions, at most 200,000,000.
        n_users, n_items, n_topics, step, seed: As in `make_world`.

    Raises:
        ConfigError: A number is out of range.
    """
    if n_interactions > MAX_TABLE_ROWS:
        raise ConfigError(
            f"n_interactions = {n_interactions:,} is more than the {MAX_TABLE_ROWS:,} that are put in memory; write a "
            "larger data set to disk with palate.data.store.write_blocks(folder, make_world(...).blocks(), ...)"
        )
    return make_world(n_interactions, n_users, n_items, n_topics=n_topics, step=step, seed=seed).tables()


def make_world(
    n_interactions: int = 100_000,
    n_users: int | None = None,
    n_items: int | None = None,
    *,
    n_topics: int = 12,
    step: float = 1.0,
    seed: int = 0,
) -> SyntheticWorld:
    """Draw the tastes of users and the topics of items.

    Args:
        n_interactions: Exact number of interactions, 1 to 2,000,000,000.
        n_users: Defaults to 20 interactions per user for 1e3 interactions, 50 for 1e5, 145 for 2e7, 200 for 1e8.
        n_items: Defaults to 5 times the square root of `n_interactions`; at most 100,000,000.
        n_topics: 2 to 64.
        step: 1.0 for ratings 1, 2, ..., 5; 0.5 for half steps between them.
        seed: Equal arguments give equal worlds.

    Raises:
        ConfigError: A number is out of range, or users would need more than half of all items.
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
    return SyntheticWorld(
        counts=counts,
        liked=_liked(groups, n_topics, rng),
        groups=groups,
        kindness=0.4 * rng.standard_normal(n_users, dtype=np.float32),
        arrivals=(_BEGIN + (_END - _BEGIN - _DAY) * rng.random(n_users) ** 0.7).astype(np.int64),
        topics=topics,
        second_topics=np.where(rng.random(n_items) < 0.5, topics, second_topics),
        popularity=popularity / popularity.sum(),
        quality=(0.4 * rng.standard_normal(n_items) + 0.15 * fame).astype(np.float32),
        # One item in five is released while users are already active.
        releases=(_BEGIN + np.maximum(0, 5 * rng.random(n_items) - 4) * (_END - _BEGIN - 30 * _DAY)).astype(np.int64),
        step=float(step),
        seed=seed,
    )


def _check(rows: int, n_users: int, n_items: int, n_topics: int, step: float, seed: int) -> None:
    rules = {
        f"n_interactions = {rows:,} is not between 1 and {_MAX_ROWS:,}": 0 < rows <= _MAX_ROWS,
        f"n_users = {n_users:,} is not between 1 and n_interactions": 0 < n_users <= rows,
        f"n_items = {n_items:,} is not between 2 and {_MAX_ITEMS:,}": 2 <= n_items <= _MAX_ITEMS,
        f"n_topics = {n_topics} is not between 2 and 64": 2 <= n_topics <= 64,
        f"step = {step} is neither 0.5 nor 1.0": step in (0.5, 1.0),
        f"seed = {seed} is below 0": seed >= 0,
    }
    faults = [fault for fault, holds in rules.items() if not holds]
    if not faults and rows > n_users * (n_items // 2):
        most = f"{n_users * (n_items // 2):,}: each user has at most half of the items"
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
    """One to three topics with weights for each user; the first one is often a topic of the user's group."""
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


class ItemSampler:
    """Draws the items of many users by taste and popularity, each user's without repetition.

    Its memory grows with users and items, not with interactions. A draw is one number: its integer part selects a
    segment of a line (the items of a topic or, after the last topic, all items), its fraction the position in the
    segment, in which each item is as long as it is popular.

    Args:
        counts: Number of items of each user, int32 `[users]`; at most half of all items.
        liked: Weight of each topic for each user, float32 `[users, topics]`; at most three are not 0, rows sum to 1.
        topics: Topic of each item, `[items]`.
        popularity: Probability of each item without any taste, `[items]`, sums to 1.
    """

    def __init__(self, counts: np.ndarray, liked: np.ndarray, topics: np.ndarray, popularity: np.ndarray) -> None:
        self.counts, self.liked, self.topics, self.popularity = counts, liked, topics, popularity
        n_topics = liked.shape[1]
        top = np.argpartition(liked, -min(3, n_topics), axis=1)[:, -min(3, n_topics) :]
        # A topic without items is replaced by "all items", the segment after the last topic.
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
        # Repeated drawing of what is missing equals drawing with replacement until each user has enough distinct items.
        for _ in range(_DRAW_ROUNDS):
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
        """One item for each of these users, as sorted pairs without repetition."""
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
        """Complete the few users who need so many items that most draws are repetitions.

        The same distribution in one step: the smallest of exponential variates, each divided by the weight of its item
        (Efraimidis and Spirakis 2006).
        """
        n_items = len(self.topics)
        users, owner = np.flatnonzero(need), have // n_items
        out = [have]
        step = max(1, _MAX_DENSE_WEIGHTS // n_items)
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
    """Cumulative sums that restart with each topic; `topic` is ascending."""
    whole = np.cumsum(share)
    before = np.concatenate([[0.0], whole])[np.searchsorted(topic, np.arange(n_topics))]
    parts: np.ndarray = whole - before[topic]
    return parts


def item_table(
    topics: np.ndarray, second_topics: np.ndarray, releases: np.ndarray, n_topics: int, rng: np.random.Generator
) -> pl.DataFrame:
    """The item table: `item_id` (the index), `title`, `genres` (main topic first, separated by `|`), `year`.

    A title consists of a word of the main topic, a word of no topic and a word of the second topic.
    """
    n_items = len(topics)
    vocabulary = _vocabulary((n_topics + 1) * _WORDS_PER_TOPIC, rng).reshape(n_topics + 1, _WORDS_PER_TOPIC)
    places = rng.integers(_WORDS_PER_TOPIC, size=(3, n_items))
    of = (topics, np.full(n_items, n_topics), second_topics)
    words = [vocabulary[topic, place] for topic, place in zip(of, places, strict=True)]
    names = np.array([topic_name(topic) for topic in range(n_topics)])
    # Items that exist from the beginning have earlier years.
    year = releases.astype("datetime64[s]").astype("datetime64[Y]").astype(np.int64) + 1970
    age = np.minimum(rng.geometric(0.08, n_items), 60)
    year = np.where(releases > releases.min(), year, year - age)
    frame = pl.DataFrame(
        {
            "item_id": np.arange(n_items, dtype=np.int64),
            **{f"word{k}": pl.Series(word.tolist(), dtype=pl.String) for k, word in enumerate(words)},
            "main": pl.Series(names[topics].tolist(), dtype=pl.String),
            "second": pl.Series(names[second_topics].tolist(), dtype=pl.String),
            "year": year.astype(np.int32),
        }
    )
    both = pl.when(pl.col("main") == pl.col("second")).then("main").otherwise(pl.format("{}|{}", "main", "second"))
    return frame.select(
        "item_id",
        pl.format("{} {} {} ({})", "word0", "word1", "word2", "year").str.to_titlecase().alias("title"),
        both.alias("genres"),
        "year",
    )


def user_table(groups: np.ndarray, rng: np.random.Generator) -> pl.DataFrame:
    """The user table: `user_id` (the index), `age` in years, `group`."""
    age = np.clip(np.array(_GROUP_AGES)[groups] + np.round(6 * rng.standard_normal(len(groups))), 12, 95)
    names = pl.Series(GROUPS)[groups.tolist()]
    return pl.DataFrame({"user_id": np.arange(len(groups)), "age": age.astype(np.int32), "group": names})


def topic_name(topic: int) -> str:
    """The name of a topic in `genres`."""
    return GENRES[topic] if topic < len(GENRES) else f"topic {topic + 1}"


def _vocabulary(size: int, rng: np.random.Generator) -> np.ndarray:
    """Distinct words of three syllables."""
    count = len(_SYLLABLES)
    numbers = rng.choice(count**3, size, replace=False)
    return np.array(["".join(_SYLLABLES[n // count**k % count] for k in range(3)) for n in numbers.tolist()])
