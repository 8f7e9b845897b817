"""Made-up data: exact sizes, the same for the same seed, long tails, and tastes that can be found again."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.data.dataset import Dataset
from palate.data.sources.synthetic import SyntheticWorld, make_world, synthetic, topic_name
from palate.errors import ConfigError


@pytest.fixture(scope="module")
def world() -> SyntheticWorld:
    return make_world(40_000, 800, 600, seed=3)


@pytest.fixture(scope="module")
def rows(world: SyntheticWorld) -> pl.DataFrame:
    return world.tables().interactions


@given(
    n_users=st.integers(1, 30),
    n_items=st.integers(2, 40),
    share=st.floats(0, 1),
    n_topics=st.integers(2, 8),
    seed=st.integers(0, 99),
)
@settings(max_examples=40)
def test_exactly_what_was_asked_for(n_users: int, n_items: int, share: float, n_topics: int, seed: int) -> None:
    most = n_users * (n_items // 2)
    n = max(n_users, round(share * most))
    frame = synthetic(n, n_users, n_items, n_topics=n_topics, seed=seed).interactions
    assert frame.height == n
    assert frame.select("user_id", "item_id").is_unique().all()
    assert frame["user_id"].n_unique() == n_users
    assert frame["item_id"].is_between(0, n_items - 1).all()
    assert frame["user_id"].is_sorted()


def test_equal_seeds_give_equal_tables(rows: pl.DataFrame) -> None:
    again = synthetic(40_000, 800, 600, seed=3)
    assert again.interactions.equals(rows)
    other = synthetic(40_000, 800, 600, seed=4)
    assert not other.interactions.equals(rows)
    assert again.items is not None
    assert again.items.equals(make_world(40_000, 800, 600, seed=3).tables().items)


def test_blocks_are_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palate.data.sources.synthetic._BLOCK_ROWS", 1_000)
    world = make_world(12_345, 300, 500)
    blocks = list(world.blocks())
    assert len(blocks) > 8
    for first, second in zip(blocks, world.blocks(), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert [column.dtype for column in blocks[0]] == [np.int32, np.int32, np.float32, np.int32]
    table = world.tables().interactions
    for name, column in zip(table.columns, zip(*blocks, strict=True), strict=True):
        assert np.array_equal(table[name].to_numpy(), np.concatenate(column))


@pytest.mark.parametrize("step", [0.5, 1.0])
def test_ratings_are_on_the_scale(step: float) -> None:
    ratings = synthetic(20_000, step=step).interactions["rating"]
    assert sorted(ratings.unique()) == [1 + step * k for k in range(round(4 / step) + 1)]


def test_popularity_and_activity_are_long_tailed(rows: pl.DataFrame) -> None:
    for key in ("user_id", "item_id"):
        counts = np.sort(rows[key].value_counts()["count"].to_numpy())[::-1]
        assert counts[: len(counts) // 10].sum() > 0.25 * rows.height
        assert np.median(counts) < 0.7 * counts.mean()


def test_nobody_meets_an_item_before_its_release(world: SyntheticWorld, rows: pl.DataFrame) -> None:
    seconds, user, item = (rows[c].to_numpy() for c in ("timestamp", "user_id", "item_id"))
    assert (seconds >= np.maximum(world.releases[item], world.arrivals[user])).all()
    late = world.releases > world.releases.min()
    assert 0.1 < late.mean() < 0.3
    assert seconds.max() < 1_577_836_800


def test_users_meet_what_they_like(world: SyntheticWorld, rows: pl.DataFrame) -> None:
    user, item = rows["user_id"].to_numpy(), rows["item_id"].to_numpy()
    liked = world.liked[user, world.topics[item]] > 0
    by_chance = ((world.liked > 0) @ np.bincount(world.topics, world.popularity, world.n_topics))[user]
    assert liked.mean() > 2 * by_chance.mean()


def test_ratings_follow_the_planted_match(world: SyntheticWorld, rows: pl.DataFrame) -> None:
    user, item = rows["user_id"].to_numpy(), rows["item_id"].to_numpy()
    rating, match = rows["rating"].to_numpy(), world.match(user, item)
    assert np.corrcoef(rating, match)[0, 1] > 0.4
    # What is left once quality, kindness and match are known is the noise, and rounding.
    left = rating - (2.5 + world.quality[item] + world.kindness[user] + 1.6 * match)
    assert 0.5 < left.std() < 0.75


def test_planted_tastes_are_found_from_the_ratings(world: SyntheticWorld, rows: pl.DataFrame) -> None:
    frame = rows.with_columns(topic=pl.Series(world.topics[rows["item_id"].to_numpy()]))
    seen = frame.group_by("user_id", "topic").agg(pl.len().alias("n")).sort("n")
    favourite = seen.group_by("user_id", maintain_order=True).last().sort("user_id")
    many = world.counts[favourite["user_id"].to_numpy()] >= 30
    found = world.liked[favourite["user_id"].to_numpy(), favourite["topic"].to_numpy()] > 0
    assert found[many].mean() > 0.9


def test_tables_tell_topics_and_groups(world: SyntheticWorld) -> None:
    tables = world.tables()
    items, users = tables.items, tables.users
    assert items is not None
    assert users is not None
    assert items["item_id"].to_list() == list(range(600))
    main = items["genres"].str.split("|").list.first().to_list()
    assert main == [topic_name(topic) for topic in world.topics.tolist()]
    # A title's first word is one of its topic's few.
    words = items.with_columns(word=pl.col("title").str.split(" ").list.first(), main=pl.Series(main))
    assert words.group_by("word").agg(pl.col("main").n_unique())["main"].max() == 1
    # Groups differ in age and in what they like most.
    favourite = pl.Series("favourite", world.liked.argmax(axis=1))
    share = (
        users.with_columns(favourite).group_by("group").agg(pl.col("favourite").mode().first(), pl.col("age").mean())
    )
    assert share["favourite"].n_unique() >= 5
    assert share["age"].max() - share["age"].min() > 30  # type: ignore[operator]


def test_default_sizes_grow_with_the_interactions() -> None:
    for n, users, items in ((1_000, 50, 158), (100_000, 1_991, 1_581), (20_000_000, 137_973, 22_361)):
        world = make_world(n)
        assert (int(world.counts.sum()), world.n_users, world.n_items) == (n, users, items)


def test_a_dataset_of_made_up_people() -> None:
    data = Dataset.load("synthetic-2000")
    assert len(data) == 2_000
    assert data.rating_scale == (1.0, 5.0)
    assert data.provides >= {"rating", "time", "item_features", "user_features"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_interactions": 0}, "n_interactions = 0 is not between"),
        ({"n_interactions": 10, "n_users": 11}, "n_users = 11 is not between 1 and n_interactions"),
        ({"n_interactions": 10, "n_items": 1}, "n_items = 1 is not between 2"),
        ({"n_interactions": 101, "n_users": 10, "n_items": 20}, "too many for 10 users and 20 items, at most 100"),
        ({"n_topics": 1, "step": 0.3, "seed": -1}, "3 faults"),
    ],
)
def test_sizes_that_cannot_be(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_world(**options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_interactions() -> None:
    code = """
import resource
from palate.data.sources.synthetic import make_world
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
print(sum(len(block.user) for block in make_world(5_000_000, 50_000, 10_000).blocks()), peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rows, megabytes = map(int, done.stdout.split())
    assert rows == 5_000_000
    assert megabytes < 250
