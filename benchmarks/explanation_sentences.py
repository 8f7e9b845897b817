"""Sentences of explanations, each read back and checked against its table and against the user's list.

    python benchmarks/explanation_sentences.py [--count 510] [--users 300] [--seed 0]

Ten models are trained briefly on three data sets. The sample holds sentences of lists and of single items (in the list,
outside it, already seen), for known users and new ones, by several methods. `tests/explanation/sentences.py` draws and
checks it; `tests/explanation/test_sentences.py` runs a smaller sample.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter

import numpy as np
import polars as pl
import torch
from common import ROOT, real_data, write_result

sys.path += [str(ROOT / "tests" / "explanation")]

from sentences import faults, sample

from palate import Dataset, Recommender

MODELS = ("ease", "itemknn", "ials", "mf", "neumf", "multvae", "content-knn", "text-cnn", "two-tower", "hybrid")
EPOCHS = 3
KINDS = ("listed", "in the list", "outside the list", "already seen")


def ml_100k() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Ratings, and genres and texts of films."""
    folder = real_data("movie-content")
    ids = pl.read_parquet(folder / "ml100k_to_movie_id.parquet").select(
        pl.col("ml100k_item_id").cast(pl.String).alias("item_id"), "movie_id"
    )
    text = pl.read_parquet(folder / "text.parquet").select("movie_id", "overview")
    items = pl.read_parquet(real_data("ml-100k") / "items.parquet").with_columns(pl.col("item_id").cast(pl.String))
    items = items.select("item_id", "title", "genres").join(ids.join(text, on="movie_id"), on="item_id", how="left")
    rows = pl.read_parquet(real_data("ml-100k") / "ratings.parquet").with_columns(pl.col("item_id").cast(pl.String))
    return rows.select("user_id", "item_id", "rating", "timestamp"), items.drop("movie_id")


def ml_latest_small() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Ratings, and genres and texts of films."""
    rows = pl.read_parquet(real_data("ml-latest-small") / "ratings.parquet")
    films = pl.read_parquet(real_data("ml-latest-small") / "movies.parquet")
    rows, films = (frame.rename({c: _NAMES[c] for c in frame.columns if c in _NAMES}) for frame in (rows, films))
    text = pl.read_parquet(real_data("movie-content") / "text.parquet")
    text = text.select(pl.col("movie_id").cast(films["item_id"].dtype).alias("item_id"), "overview")
    return rows.select("user_id", "item_id", "rating", "timestamp"), films.join(text, on="item_id", how="left")


_NAMES = {"userId": "user_id", "movieId": "item_id"}


def gift_cards() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Ratings of gift cards, and their titles, brands and descriptions."""
    folder = real_data("amazon-gift-cards")
    rows = pl.read_parquet(folder / "reviews.parquet").select("user_id", "item_id", "rating", "timestamp")
    items = pl.read_parquet(folder / "items.parquet").select("item_id", "title", "brand", "description")
    return rows.unique(["user_id", "item_id"], keep="last", maintain_order=True), items


SOURCES = {"ml-100k": ml_100k, "ml-latest-small": ml_latest_small, "amazon-gift-cards": gift_cards}


def main() -> None:
    """Draw and check the sample, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=510)
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    each = -(-given.count // (len(MODELS) * len(SOURCES)))
    rows, all_kinds, methods, wrong = [], Counter[str](), Counter[str](), 0
    for source in SOURCES:
        data = some_users(*SOURCES[source](), given.users, given.seed)
        for name in MODELS:
            trained = Recommender.train(data, name, training=brief(name), seed=given.seed)
            told = list(sample(trained, each, given.seed))
            found = [(one, bad) for one in told if (bad := faults(one))]
            for one, bad in found:
                print(f"FAULT {source} {name} {one.kind} {one.method}: {bad}\n  {one.text}", flush=True)
            kinds = Counter(one.kind for one in told)
            all_kinds += kinds
            methods += Counter(one.method for one in told)
            wrong += len(found)
            rows.append([source, name, f"{len(told)}", *(f"{kinds[kind]}" for kind in KINDS), f"{len(found)}"])
            print(rows[-1], flush=True)
    total = sum(all_kinds.values())
    rows.append(["all", "all", f"{total}", *(f"{all_kinds[kind]}" for kind in KINDS), f"{wrong}"])
    write_result(
        "explanation_sentences",
        "Sentences of explanations",
        [
            f"{given.users} users of each data set, drawn with seed {given.seed}; trained for {EPOCHS} epochs.",
            "Checked in each sentence: the item is no reason for itself; every name and number is in the table; no "
            "told effect is below 2 % of the largest; nothing that speaks against the item is its reason; the rank is "
            "said of an item outside the list, and is the one that `recommend` gives; the table adds up to the score; "
            "it begins with a capital and has a verb.",
            "Methods: " + ", ".join(f"{name} {count}" for name, count in methods.most_common()) + ".",
            f"Sentences with a fault: {wrong} of {total}.",
        ],
        ["data", "model", "sentences", *KINDS, "faults"],
        rows,
    )
    sys.exit(wrong > 0)


def some_users(rows: pl.DataFrame, items: pl.DataFrame, count: int, seed: int) -> Dataset:
    """The interactions of some users, and the items that they have."""
    users = rows["user_id"].unique().sort().to_numpy()
    chosen = np.random.default_rng(seed).choice(users, min(count, len(users)), replace=False)
    rows = rows.filter(pl.col("user_id").is_in(chosen.tolist()))
    return Dataset.from_frame(rows, items.join(rows.select("item_id").unique(), on="item_id", how="semi"))


def brief(name: str) -> dict[str, int]:
    """Few epochs for models that have any."""
    return {"epochs": EPOCHS} if name in ("mf", "neumf", "multvae", "text-cnn", "two-tower", "hybrid") else {}


if __name__ == "__main__":
    main()
