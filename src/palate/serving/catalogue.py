"""The catalogue for people: search, cards of items, columns to filter by, and a map."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
import torch

from palate.serving.served import Served

MAX_VALUES = 30
"""Most frequent values of a column that are named."""
EXAMPLES = 20
"""Users named as examples."""
MAX_GROUPS = 12
"""Groups that the map colours; the others are none."""
_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The words of a text without case and accents."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return _WORD.findall("".join(c for c in plain if not unicodedata.combining(c)))


@lru_cache(maxsize=16)
def searchable(served: Served) -> tuple[list[str], np.ndarray]:
    """Each item's words, a space before each; and the items by popularity, most popular first."""
    ids = served.item_ids
    texts = [
        f" {' '.join(words(title))} {str(item).casefold()}" for title, item in zip(served.titles, ids, strict=True)
    ]
    return texts, np.argsort(-served.rec.data.item_counts, kind="stable")


def find(served: Served, text: str, by_title: bool, hidden: bool) -> list[int]:
    """Items that have a word beginning with each word of a text; all items for an empty text.

    Args:
        served: The run.
        text: Words.
        by_title: Whether the items come in the order of their titles instead of their popularity.
        hidden: Whether hidden items are found too.
    """
    texts, order = searchable(served)
    wanted = [f" {word}" for word in dict.fromkeys(words(text))]
    unwanted = set() if hidden else set(served.hidden.tolist())
    found = [i for i in order.tolist() if i not in unwanted and all(word in texts[i] for word in wanted)]
    if text and not wanted:  # signs alone, which no word holds
        return []
    return sorted(found, key=lambda i: texts[i]) if by_title else found


def of_ids(served: Served, ids: Sequence[str]) -> list[int]:
    """Items by their ids as text; ids that are not known are left out."""
    items = served.rec.data.items
    return [item for text in ids if (item := items.position(items.parse(text))) >= 0]


@lru_cache(maxsize=16)
def popularity(served: Served) -> np.ndarray:
    """Ranks by interactions, from 0 for the least popular item to 1."""
    counts = pl.Series(served.rec.data.item_counts)
    ranks = (counts.rank("average") - 1) / max(len(counts) - 1, 1)
    return ranks.to_numpy()


def item_card(served: Served, item: int) -> dict[str, Any]:
    """Everything that is shown of an item."""
    data = served.rec.data
    return {
        "item_id": served.item_ids[item],
        "title": served.titles[item],
        "fields": served.fields(item),
        "poster": served.poster_url(item),
        "interactions": int(data.item_counts[item]),
        "popularity": round(float(popularity(served)[item]), 4),
        "hidden": bool((served.hidden == item).any()),
        "new": item >= served.trained.data.n_items,
    }


def mean_rating(served: Served, item: int) -> float | None:
    """The mean of an item's ratings in the training data; None without any."""
    data = served.rec.data
    if data.rating is None:
        return None
    order, offsets = data.by_item
    rows = order[offsets[item] : offsets[item + 1]]
    return round(float(data.rating[rows].mean()), 3) if len(rows) else None


@lru_cache(maxsize=8)
def schema(served: Served) -> dict[str, Any]:
    """Columns of items and users with their values, and what the run can do: for filters and forms."""
    rec, data = served.rec, served.rec.data
    user_kinds = {}
    if data.user_table is not None:
        user_kinds = {c: data.user_features.kinds.get(c, "ignore") for c in data.user_table.columns if c != "user_id"}
    step = 1.0
    if data.rating is not None:
        steps = np.diff(np.unique(data.rating))
        step = float(steps.min()) if len(steps) and steps.min() >= 0.01 else 0.01
    low, high = data.rating_scale or (0.0, 0.0)
    counts = np.diff(data.offsets)
    enough = np.flatnonzero(counts >= min(5, counts.max()))
    examples = enough[np.linspace(0, len(enough) - 1, min(EXAMPLES, len(enough))).astype(np.int64)]
    return {
        "items": [_column(data.item_table, name, kind) for name, kind in served.kinds.items()],
        "users": [_column(data.user_table, name, kind) for name, kind in user_kinds.items()],
        "rating_scale": None if data.rating is None else {"min": low, "max": high, "step": step},
        "user_examples": data.users.ids.gather(examples).to_list(),
        "user_id_type": "string" if data.users.is_text else "integer",
        "item_id_type": "string" if data.items.is_text else "integer",
        "can": {
            "filter": data.item_table is not None,
            "recency": data.timestamp is not None,
            "ratings": data.rating is not None,
            "features": rec.model.spec.user_features is not None,
            "new_items": "new_item" in rec.model.answers,
        },
    }


def _column(table: pl.DataFrame | None, name: str, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "kind": kind, "min": None, "max": None, "values": None}
    if table is None:
        return found
    column = table[name]
    if column.dtype.is_numeric() and kind in ("number", "date", "ignore"):
        finite = column.drop_nulls().drop_nans() if column.dtype.is_float() else column.drop_nulls()
        if len(finite):
            found |= {"min": finite.min(), "max": finite.max()}
    elif kind == "date":
        found |= {"min": Served.plain(column.min()), "max": Served.plain(column.max())}
    elif kind in ("category", "tags"):
        tags = _tags(column) if kind == "tags" else column.cast(pl.String)
        counted = tags.drop_nulls().value_counts(sort=True).head(MAX_VALUES)
        found["values"] = [{"value": value, "count": count} for value, count in counted.rows()]
    return found


def _tags(column: pl.Series) -> pl.Series:
    """All tags of a column: lists, or texts with a separator."""
    if column.dtype == pl.String:
        separator = next((s for s in ("|", ";", ",") if column.str.contains(s, literal=True).any()), "|")
        column = column.str.split(separator)
    return column.explode().cast(pl.String).str.strip_chars()


@lru_cache(maxsize=4)
def item_map(served: Served) -> dict[str, Any]:
    """A 2-D projection of all items: the first two principal components of their vectors, scaled to -1..1.

    Vectors of length 0 say nothing and lie in the middle. The sign of a component is set so that its largest entry is
    positive: the map is the same after each start.
    """
    data = served.rec.data
    unit = torch.nn.functional.normalize(served.vectors().float(), dim=1)
    centred = unit - unit.mean(0)
    covariance = (centred.T @ centred).double() / max(len(centred), 1)
    values, vectors = torch.linalg.eigh(covariance)
    axes = vectors[:, [-1, -2]] if vectors.shape[1] > 1 else vectors[:, [-1, -1]]
    axes = axes * torch.sign(axes.gather(0, axes.abs().argmax(0, keepdim=True)))
    place = (centred.double() @ axes).numpy()
    # The far ends are drawn at the edge: a few items must not press all others into the middle.
    reach = np.quantile(np.abs(place), 0.995, axis=0)
    place = np.clip(place / np.maximum(reach, 1e-12), -1, 1)
    total = float(values.clamp(min=0).sum())
    shares = [float(values[-1]) / total, float(values[-2]) / total if len(values) > 1 else 0.0] if total else [0.0, 0.0]
    name, groups = _groups(served)
    order = np.argsort(-data.item_counts, kind="stable")
    return {
        "method": "principal components of the item vectors",
        "explained": [round(share, 4) for share in shares],
        "order": order,
        "x": np.round(place[:, 0], 4),
        "y": np.round(place[:, 1], 4),
        "group_name": name,
        "groups": groups,
    }


def _groups(served: Served) -> tuple[str | None, list[str | None] | None]:
    """The first category or tag of each item, the most frequent ones only."""
    table = served.rec.data.item_table
    name = next((n for n, kind in served.kinds.items() if kind in ("tags", "category")), None)
    if table is None or name is None:
        return None, None
    column = table[name]
    if column.dtype == pl.String and served.kinds[name] == "tags":
        separator = next((s for s in ("|", ";", ",") if column.str.contains(s, literal=True).any()), "|")
        column = column.str.split(separator)
    first = column.list.first().cast(pl.String) if column.dtype == pl.List else column.cast(pl.String)
    frequent = set(first.drop_nulls().value_counts(sort=True).head(MAX_GROUPS)[first.name].to_list())
    return name, [value if value in frequent else None for value in first.to_list()]
