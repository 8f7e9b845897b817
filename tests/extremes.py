"""Extreme tables, and what training and asking a model does with each: finite answers or one clear error."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import polars as pl

from palate.data.dataset import Dataset
from palate.errors import PalateError
from palate.models import MODELS
from palate.recommender.recommender import Recommender
from pictures import picture

SCALES = (1e-30, 1e-20, 1e-10, 1e-5, 1e5, 1e10, 1e20, 1e30)
WIDTHS = {"dim": 1, "features": 1, "hidden": 1, "mlp_dim": 1, "content_dim": 1, "k": 1, "layers": (1,)}
"""Settings that make a model one wide, of those that it has."""
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mf mse": ("mf", {"loss": "mse"}),
    "mf bpr": ("mf", {"loss": "bpr"}),
    "svdpp time": ("svdpp", {"time": True}),
    "ials reg 0": ("ials", {"reg": 0.0, "alpha": 1e-6}),
}
BRIEF: dict[str, dict[str, Any]] = {"bayes-mf": {"warmup": 5, "samples": 5, "thin": 1}, "convmf": {"content_epochs": 1}}


@dataclass(frozen=True, eq=False)
class Extreme:
    """An extreme table: rows, item table, and settings that every model is given."""

    rows: pl.DataFrame
    items: pl.DataFrame
    config: Mapping[str, Any] = field(default_factory=dict)


def ordinary(users: int = 24, items: int = 18) -> pl.DataFrame:
    """Ratings from 1 to 5 with times: six items of each user."""
    pairs = [(u, (u * 7 + k * 5) % items) for u in range(users) for k in range(min(6, items))]
    pairs = list(dict.fromkeys(pairs))
    return pl.DataFrame(
        {
            "user_id": [f"u{u}" for u, _ in pairs],
            "item_id": [f"i{i}" for _, i in pairs],
            "rating": [float((u * 3 + i) % 5 + 1) for u, i in pairs],
            "timestamp": [1_600_000_000 + 86_400 * n for n in range(len(pairs))],
        }
    )


def things(rows: pl.DataFrame) -> pl.DataFrame:
    """A table of the items in some rows, with a column of each kind."""
    ids = rows["item_id"].unique(maintain_order=True)
    count = len(ids)
    return pl.DataFrame(
        {
            "item_id": ids,
            "genre": [("comedy", "drama", "horror")[n % 3] for n in range(count)],
            "price": [float(n % 7) for n in range(count)],
            "plot": [f"a {('ghost', 'heist', 'train')[n % 3]} story number {n % 4}" for n in range(count)],
            "vector": [[n / count, (n % 5) / 5, 1.0] for n in range(count)],
            "poster": [picture(n % 4, n) for n in range(count)],
        }
    )


KINDS = {"genre": "category", "price": "number", "plot": "text", "vector": "vector", "poster": "image"}


@cache
def tables() -> dict[str, Extreme]:
    """The tables by name."""
    rows, rating = ordinary(), pl.col("rating")
    first = pl.int_range(pl.len()) == 3
    made = {f"ratings times {scale:g}": _rated(rating * scale) for scale in SCALES}
    made |= {
        "ratings of both signs, 1e30": _rated((rating - 3) * 1e30),
        "ratings from 1e-30 to 1e30": _rated(10.0 ** ((rating - 3) * 15)),
        "one rating of 1e30": _rated(pl.when(first).then(1e30).otherwise(rating)),
        "one rating of 1e-30": _rated(pl.when(first).then(1e-30).otherwise(rating)),
        "heavy-tailed counts": _rated((1 / (1.0001 - pl.int_range(pl.len()) / pl.len()) ** 3).floor()),
        "all ratings 0": _rated(pl.lit(0.0)),
        "all ratings alike": _rated(pl.lit(4.0)),
    }
    weighted = {f"weights times {scale:g}": rating * scale for scale in (1e-30, 1e-10, 1e10, 1e30)}
    weighted["all weights 0"] = pl.lit(0.0)
    weighted["one weight above 0"] = pl.when(first).then(1.0).otherwise(0.0)
    made |= {name: _of(rows.with_columns(weight=weight)) for name, weight in weighted.items()}
    sizes = {"one user": (1, 18), "one item": (24, 1), "one user and one item": (1, 1), "two items": (12, 2)}
    sizes["two users"] = (2, 18)
    made |= {name: _of(ordinary(*size)) for name, size in sizes.items()}
    pairs = {
        "each user and item once": [(n, n) for n in range(20)],
        "all users have all items": [(u, i) for u in range(9) for i in range(9)],
        "one user has 400 items": [(u, (u * 7 + k) % 30) for u in range(20) for k in range(4)]
        + [(99, n) for n in range(400)],
    }
    made |= {name: _of(_named(some)) for name, some in pairs.items()}
    times = {
        "times of one second": pl.lit(1_600_000_000),
        "times from 0 to the year 9999": pl.int_range(pl.len()) * (253_402_300_799 // 143),
    }
    made |= {name: _of(rows.with_columns(timestamp=time)) for name, time in times.items()}
    made |= {name: Extreme(rows, items) for name, items in _item_tables(things(rows)).items()}
    made["width one"] = Extreme(rows, things(rows), WIDTHS)
    made["width one, two items"] = Extreme(ordinary(12, 2), things(ordinary(12, 2)), WIDTHS)
    return made


def _item_tables(items: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Item tables with extreme features."""
    first = pl.int_range(pl.len()) == 3
    empty = [pl.lit(None, items.schema[name]).alias(name) for name in KINDS]
    made = {f"numbers times {scale:g}": items.with_columns(pl.col("price") * scale) for scale in (1e-30, 1e30)}
    for scale in (1e-30, 1e30):
        scaled = pl.Series([[x * scale for x in vector] for vector in items["vector"]])
        made[f"vectors times {scale:g}"] = items.with_columns(vector=scaled)
    return made | {
        "one number of 3e38": items.with_columns(price=pl.when(first).then(3e38).otherwise("price")),
        "one vector of 3.4e38": items.with_columns(vector=pl.when(first).then([3.4e38, 0.0, 0.0]).otherwise("vector")),
        "nothing known of items": items.with_columns(empty),
        "all items alike": items.with_columns(pl.col(name).first() for name in KINDS),
    }


def _named(pairs: list[tuple[int, int]]) -> pl.DataFrame:
    return pl.DataFrame([(f"u{u}", f"i{i}") for u, i in pairs], schema=["user_id", "item_id"], orient="row")


def _of(rows: pl.DataFrame) -> Extreme:
    return Extreme(rows, things(rows))


def _rated(rating: pl.Expr) -> Extreme:
    return _of(ordinary().with_columns(rating.cast(pl.Float64).alias("rating")))


@dataclass(frozen=True)
class Outcome:
    """What became of a model on a table: "finite", "refused" by a clear error, or a fault."""

    kind: str
    says: str
    seconds: float


def attempt(name: str, extreme: Extreme) -> Outcome:
    """Train a model briefly on a table and ask it; warnings count as faults."""
    start = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            kind, says = _asked(name, extreme)
    except PalateError as error:
        says = f"{type(error).__name__}: {error}"
        kind = "refused" if len(says) < 600 else "fault"
    except Exception as error:
        kind, says = "fault", f"{type(error).__name__}: {error}"[:300]
    return Outcome(kind, says, time.process_time() - start)


def _fits(annotation: str, value: object) -> bool:
    """Whether a setting that is one wide goes with a field: some `layers` are a number of layers, not widths."""
    return annotation.startswith("tuple") == isinstance(value, tuple)


def _asked(name: str, extreme: Extreme) -> tuple[str, str]:
    kind, config = VARIANTS.get(name, (name, {}))
    model = MODELS[kind]
    fields = model.Config.__dataclass_fields__
    fitting = {key: value for key, value in extreme.config.items() if key in fields and _fits(fields[key].type, value)}
    config = config | BRIEF.get(name, {}) | fitting
    data, valid = Dataset.read(extreme.rows, items=extreme.items, item_kinds=KINDS), None
    if name == "blend":
        parts = data.split("random", valid=0.2, test=0.1)
        data, valid = parts.train, parts.valid
    brief = replace(model.default_training, epochs=2) if hasattr(model, "batches") else model.default_training
    trained = Recommender.train(data, kind, config, brief if kind != "hybrid" else None, valid=valid)
    users, items = data.users.ids, data.items.ids
    found = trained.recommend(users.to_list(), k=5, exclude_seen=False)
    numbers: list[float] = found["score"].to_list()
    if "history" in trained.model.answers:
        numbers += trained.recommend(history=[items[:1].to_list(), items[:3].to_list()], k=5)["score"].to_list()
    if "rating" in trained.model.answers:
        numbers += trained.predict(users[:5], items[:1])["prediction"].to_list()
    if "similar_items" in trained.model.answers:
        numbers += trained.similar(items[0], k=3)["score"].to_list()
    if not len(found) or not all(map(math.isfinite, numbers)):
        return "fault", f"{len(found)} rows, {sum(not math.isfinite(n) for n in numbers)} numbers that are not finite"
    return "finite", f"{min(numbers):.3g} to {max(numbers):.3g}"
