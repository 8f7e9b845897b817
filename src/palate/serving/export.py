"""The stored feedback as a table of interactions."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from palate.recommender.recommender import Recommender
from palate.serving.app import store_beside
from palate.serving.store import read_all


def interactions(run: Path, store: str | None = None, everything: bool = False) -> pl.DataFrame:
    """Feedback as `user_id`, `item_id`, `rating` if the run has ratings, and `timestamp`; in order of arrival.

    Args:
        run: The run that was served.
        store: As in `Settings.store`. Defaults to the file beside the run.
        everything: Whether to keep rows that only leave items out, with a column `type` and ratings as given.

    Raises:
        ArtifactError: The run cannot be loaded.
        ConfigError: The store cannot be opened.
    """
    data = Recommender.load(run).data
    found = read_all(store or store_beside(run))
    ids = [
        pl.col(name).cast(known.ids.dtype, strict=False)
        for name, known in (("user_id", data.users), ("item_id", data.items))
    ]
    rating = [pl.col("value").cast(pl.Float32).alias("rating")] if data.rating is not None else []
    if everything:
        return found.select(*ids, *rating, "timestamp", "type")
    chosen = found.filter(pl.col("type").is_in(["like", "rating"]))
    return chosen.select(*ids, *(one.fill_null(data.liked_rating) for one in rating), "timestamp")
