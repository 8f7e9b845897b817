"""Who liked what and what is known of the items, of the data sets that benchmarks on new items read."""

from __future__ import annotations

import polars as pl
from common import real_data

WORDS = ("genres", "year", "plot", "director", "actors")
"""Columns of ml-1m that are quick to read."""


def ml_1m() -> tuple[pl.DataFrame, pl.DataFrame, dict[str, str]]:
    """Films rated 4 or 5, and what is known of them."""
    ratings = pl.read_parquet(real_data("ml-1m") / "ratings.parquet").filter(pl.col("rating") >= 4)
    films = pl.read_parquet(real_data("ml-1m") / "movies.parquet").with_columns(pl.col("item_id").cast(pl.Int64))
    content = real_data("movie-content")
    text = pl.read_parquet(content / "text.parquet").select(
        pl.col("movie_id").cast(pl.Int64).alias("item_id"),
        pl.coalesce("plot", "overview", "abstract").alias("plot"), "director", "actors",
    )  # fmt: skip
    posters = pl.read_parquet(content / "posters.parquet").filter(~pl.col("placeholder"))
    posters = posters.select(pl.col("movie_id").cast(pl.Int64).alias("item_id"), pl.col("jpeg").alias("poster"))
    items = films.join(text, on="item_id", how="left").join(posters, on="item_id", how="left")
    kinds = {
        "title": "ignore", "genres": "tags", "plot": "text", "director": "tags", "actors": "tags", "poster": "image",
    }  # fmt: skip
    return ratings.select("user_id", "item_id"), items, kinds


def citeulike() -> tuple[pl.DataFrame, pl.DataFrame, dict[str, str]]:
    """Articles in people's libraries, and their tags."""
    folder = real_data("citeulike-a")
    rows = pl.read_parquet(folder / "interactions.parquet").select("user_id", "item_id")
    return rows, pl.read_parquet(folder / "item_tags.parquet"), {"tags": "tags"}
