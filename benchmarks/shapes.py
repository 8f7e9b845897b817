"""Data sets of different shape: dense and tiny, sparse and wide, half stars, -10 to 10, counts, events, sessions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from common import real_data

from palate.data.dataset import Dataset
from palate.data.sources.synthetic import make_world


@dataclass(frozen=True)
class Shape:
    """One data set.

    Attributes:
        what: In words.
        read: Makes it.
        rated: Whether models that predict ratings are measured on it too.
    """

    what: str
    read: Callable[[], Dataset]
    rated: bool = False


def _table(folder: str, file: str, *columns: str) -> pl.DataFrame:
    """Columns of a real table under palate's names: user, item, and optionally rating, timestamp."""
    names = dict(zip(columns, ("user_id", "item_id", "rating", "timestamp"), strict=False))
    return pl.read_parquet(real_data(folder) / file).select(columns).rename(names)


def _sample(frame: pl.DataFrame, users: int) -> pl.DataFrame:
    """The rows of some users, drawn at random."""
    ids = frame["user_id"].unique().sort()
    return frame.filter(pl.col("user_id").is_in(ids.sample(users, seed=0).implode()))


def _sessions() -> pl.DataFrame:
    """The clicks of 25,000 sessions in order; a session is a user, and clicks of one item are one row."""
    sessions = pl.read_parquet(real_data("sessions-diginetica") / "train_sessions.parquet").tail(25_000)
    clicks = sessions.explode("items").rename({"session_id": "user_id", "items": "item_id"})
    return clicks.unique(maintain_order=True)


def _gift_cards() -> pl.DataFrame:
    table = _table("amazon-gift-cards", "reviews.parquet", "user_id", "item_id", "rating", "timestamp")
    return table.unique(["user_id", "item_id"], keep="last", maintain_order=True)


def _signed(world: pl.DataFrame) -> pl.DataFrame:
    """Ratings of 1 to 5 in half steps as -10 to 10."""
    return world.with_columns(rating=(pl.col("rating") - 3) * 5)


def _world(rows: int, users: int, items: int, step: float = 1.0) -> pl.DataFrame:
    return make_world(rows, users, items, step=step).tables().interactions


def _dense() -> pl.DataFrame:
    """1,000 users x 100 items with 30 of 100 cells: two groups of tastes, and popularity."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 4, (1000, 2)), rng.integers(0, 4, 100)
    score = 2.0 * (user[:, :1] == item) + 1.0 * (user[:, 1:] == item) + rng.gumbel(size=(1000, 100))
    score += rng.normal(0, 0.7, 100)
    best = np.argsort(-score, axis=1)[:, :30]
    return pl.DataFrame({"user_id": np.repeat(np.arange(1000), 30), "item_id": best.ravel()})


def _frame(make: Callable[[], pl.DataFrame]) -> Callable[[], Dataset]:
    return lambda: Dataset.from_frame(make())


SHAPES: dict[str, Shape] = {
    "ml-100k": Shape(
        "MovieLens-100K, 1 to 5", lambda: Dataset.read(real_data("ml-100k") / "ratings.parquet"), rated=True
    ),
    "ml-latest-small": Shape(
        "MovieLens latest small, half stars",
        _frame(lambda: _table("ml-latest-small", "ratings.parquet", "userId", "movieId", "rating", "timestamp")),
        rated=True,
    ),
    "gift-cards": Shape("Amazon Gift Cards, tiny, nearly all ratings 5", _frame(_gift_cards), rated=True),
    "epinions": Shape(
        "Epinions, 2,000 users: sparse and very wide ratings",
        _frame(
            lambda: _sample(
                _table("epinions", "ratings.parquet", "user_id", "item_id", "rating").unique(
                    ["user_id", "item_id"], keep="last", maintain_order=True
                ),
                2000,
            )
        ),
        rated=True,
    ),
    "signed": Shape(
        "generated, ratings -10 to 10, most of them positive",
        _frame(lambda: _signed(_world(40_000, 1_000, 500, 0.5))),
        rated=True,
    ),
    "synthetic": Shape("generated, 60,000 ratings", _frame(lambda: _world(60_000, 1_200, 1_100)), rated=True),
    "dense-100": Shape("generated, 100 items, 30 % of all pairs", _frame(_dense)),
    "lastfm-2k": Shape(
        "LastFM-2k, plays as events", _frame(lambda: _table("lastfm-2k", "user_artists.parquet", "user_id", "item_id"))
    ),
    "frappe": Shape(
        "Frappe, app use",
        _frame(lambda: _table("frappe", "interactions.parquet", "user", "item").unique(maintain_order=True)),
    ),
    "citeulike": Shape(
        "CiteULike, 2,000 users",
        _frame(lambda: _sample(_table("citeulike-a", "interactions.parquet", "user_id", "item_id"), 2000)),
    ),
    "beauty": Shape(
        "Amazon Beauty, 5,000 users: sparse and wide events",
        _frame(lambda: _sample(_table("amazon-beauty-seq", "interactions.parquet", "user_id", "item_id"), 5000)),
    ),
    "sessions": Shape("Diginetica, 25,000 short sessions", _frame(_sessions)),
}
