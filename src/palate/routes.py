"""From ids to queries and from lists back to ids, with the route that answered each query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import normalize

from palate.arrivals import people
from palate.config import from_dict
from palate.data.dataset import Dataset
from palate.data.encoded import nothing_known
from palate.data.ids import IdMap
from palate.data.queries import FEATURES, Queries, Spec
from palate.data.ragged import Ragged
from palate.errors import ConfigError, DataError, UnknownId
from palate.evaluation.measure import WITHIN, taken
from palate.evaluation.ranked import Ranked
from palate.models import MODELS
from palate.models.base import Model

FALLBACK = "fallback"
"""The route of predictions that are mean ratings; those of lists are `palate.evaluation.measure.ROUTES`."""

One = (str, int, np.integer)


def fresh_model(model: str | Model, config: Any, data: Dataset) -> tuple[str, Model]:
    """A model's name, and the model built for the data; a model that is given is checked against the data.

    Raises:
        ConfigError: There is no such model or setting, or the model was built for other data.
    """
    if isinstance(model, Model):
        if config is not None:
            raise ConfigError("config= goes with a model's name; a model that is given has its own")
        _check_spec(model, data)
        return next((name for name, known in MODELS.items() if known is type(model)), type(model).__name__), model
    if model not in MODELS:
        near = get_close_matches(str(model), MODELS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"there is no model {model!r}; choose one of {', '.join(MODELS)}{hint}")
    kind = MODELS[model]
    if not isinstance(config, (kind.Config, Mapping, type(None))):
        raise ConfigError(
            f"config for {model!r} must be a {kind.Config.__name__} or a dict, not {type(config).__name__}"
        )
    settings = config if isinstance(config, kind.Config) else from_dict(kind.Config, dict(config or {}))
    data.require(kind.needs & FEATURES, kind.__name__)
    return model, kind(settings, kind.spec_of(data))


def _check_spec(model: Model, data: Dataset) -> None:
    wanted = model.spec_of(data)
    if model.spec == wanted or (model.spec == data.spec and not model.needs & FEATURES):
        return
    name = type(model).__name__
    if replace(model.spec, item_features=wanted.item_features, user_features=wanted.user_features) == wanted:
        raise ConfigError(f"{name} was built for other features than this data's: {name}(config, {name}.spec_of(data))")
    counts = [
        f"{spec.n_users} users, {spec.n_items} items, rating scale {spec.rating_scale}" for spec in (model.spec, wanted)
    ]
    raise ConfigError(f"{name} was built for {counts[0]} and the data has {counts[1]}; build it on data.spec")


def column(ids: Any, like: IdMap) -> pl.Series:
    """One id or many as a column; no ids at all have the type of the map's."""
    if isinstance(ids, pl.Series):
        return ids
    values = [ids] if isinstance(ids, One) else list(ids)
    if not (all(isinstance(v, str) for v in values) or all(isinstance(v, One[1:]) for v in values)):
        kinds = ", ".join(sorted({type(v).__name__ for v in values}))
        raise DataError(f"ids must be all text or all whole numbers, not {kinds}")
    return pl.Series("id", values, dtype=None if values else like.ids.dtype)


def require_users(data: Dataset, users: pl.Series) -> np.ndarray:
    """Indices of known users, int64; an unknown one is an error that says what to do."""
    try:
        return data.users.require(users, "user")
    except UnknownId as error:
        raise UnknownId(
            f"{error}; for a person who is not in the training data give their items instead (history=[...], --history)"
        ) from None


def require_items(data: Dataset, items: Any) -> Tensor:
    """Indices of items, int64 `[n]`; an unknown one is an error."""
    return torch.from_numpy(data.items.require(column(items, data.items), "item"))


def from_users(data: Dataset, spec: Spec, index: np.ndarray) -> Queries:
    """The queries of users, int64 `[B]`; -1 is an unknown user, whose query is empty."""
    known = data.queries(np.maximum(index, 0), spec)
    unknown = torch.from_numpy(index < 0)
    if not bool(unknown.any()):
        return known
    keep = ~unknown[known.history.row_of_value]
    ratings = None if known.ratings is None else known.ratings[keep]
    features = None if known.features is None else known.features.without(unknown)
    return Queries(torch.where(unknown, -1, known.user), known.history.keep(keep), ratings, features)


def from_history(data: Dataset, history: Any, ratings: Any = None) -> Queries:
    """The queries of people of whom only a history is given.

    Args:
        data: Ids and indices.
        history: Item ids, oldest first; or a list of such lists, one for each person.
        ratings: In the same shape, where there are any.

    Raises:
        UnknownId: An item is not in the data.
        ConfigError: `ratings` has another shape.
    """
    many = not isinstance(history, (*One, pl.Series)) and len(history) > 0 and not isinstance(history[0], One)
    rows = [require_items(data, one) for one in (history if many else [history])]
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    queries = Queries(torch.full((len(rows),), -1), Ragged.from_lengths(torch.cat(rows), lengths))
    if ratings is None:
        return queries
    given = [list(one) for one in (ratings if many else [ratings])]
    if [len(one) for one in given] != lengths.tolist():
        raise ConfigError("ratings must have one number for each item of history, in the same shape")
    return replace(queries, ratings=torch.tensor([float(r) for one in given for r in one]))


def asked(
    data: Dataset, spec: Spec, users: Any, history: Any, ratings: Any, features: Any = None
) -> tuple[pl.Series, Queries]:
    """Who is asked about, as a column `user_id` or `query` (the place among those given), and the queries.

    Raises:
        ConfigError: Both known users and other people are given, or neither; or not as many histories as features.
        UnknownId: A user or an item is not in the data.
        CannotAnswer: Features are given, and the model was built for none.
        DataError: A column of features is of another type than in training.
    """
    if (users is None) == (history is None and features is None):
        raise ConfigError("name users=, or give history= and features= of other people: exactly one of them")
    if users is not None:
        found = column(users, data.users).rename("user_id")
        return found, from_users(data, spec, require_users(data, found))
    known = None if features is None else people(features, spec)
    queries = from_history(data, [[]] * len(known) if known is not None and history is None else history, ratings)
    if known is not None and len(known) != len(queries):
        raise ConfigError(f"{len(queries)} histories do not match {len(known)} rows of features; give one for each row")
    if known is None and spec.user_features is not None:
        known = nothing_known(spec.user_features, len(queries))
    return pl.Series("query", np.arange(len(queries))), replace(queries, features=known)


def length(k: int) -> int:
    """A list's length, checked."""
    if k < 1:
        raise ConfigError(f"k = {k} is out of range; a list has at least one place")
    return k


def lists(ranked: Ranked, asked: pl.Series, items: IdMap, route: np.ndarray) -> pl.DataFrame:
    """Ranked lists as a frame: who asked, `item_id`, `score`, `rank` from 1, `route`; padding is left out."""
    row, place = (ranked.items >= 0).nonzero(as_tuple=True)
    return pl.DataFrame(
        [
            asked[row.numpy()],
            items.ids[ranked.items[row, place].numpy()].rename("item_id"),
            pl.Series("score", ranked.scores[row, place].numpy()),
            pl.Series("rank", (place + 1).numpy()),
            pl.Series("route", route[row.numpy()], pl.String),
        ]
    )


def reworded(texts: list[list[str]], model: Model, queries: Queries) -> list[list[str]]:
    """Reasons, a row for each query, as `palate.explanation.explain.reasons` gives them; those of popularity within
    attributes name these.
    """
    for row in np.flatnonzero(taken(model, queries) == WITHIN):
        told = model.fallback.names(queries.take(torch.tensor([row])))
        texts[row] = [text and f"Recommended because people like this one chose it: {told}" for text in texts[row]]
    return texts


def pairs(users: pl.Series, items: pl.Series) -> pl.DataFrame:
    """`user_id` and `item_id` side by side; a single one is repeated for all of the other."""
    if len(users) != len(items) and 1 not in (len(users), len(items)):
        raise ConfigError(f"pairs are asked for: {len(users)} users do not match {len(items)} items")
    length = 0 if 0 in (len(users), len(items)) else max(len(users), len(items))
    rows = np.arange(length)
    return pl.DataFrame(
        [
            users[rows if len(users) == length else rows * 0].rename("user_id"),
            items[rows if len(items) == length else rows * 0].rename("item_id"),
        ]
    )


def likeness(data: Dataset, vectors: Tensor | None, item: int) -> tuple[np.ndarray, str]:
    """How alike every item is to one, float `[n_items]`, and the route.

    Cosine of the model's item vectors; for a model without any, cosine of the items' sets of users:
    co(i, j) / sqrt(n_i n_j).
    """
    if vectors is not None:
        unit_ND = normalize(vectors.detach(), dim=1)
        return (unit_ND @ unit_ND[item]).numpy(), "item_vectors"
    order, offsets = data.by_item
    users = np.unique(data.user[order[offsets[item] : offsets[item + 1]]]).astype(np.int64)
    together = data.histories.take(torch.from_numpy(users))
    pair = torch.unique(together.row_of_value * data.n_items + together.values).numpy()
    both = np.bincount(pair % data.n_items, minlength=data.n_items)
    return both / np.sqrt(np.maximum(data.item_counts * data.item_counts[item], 1)), "co_occurrence"


def alike(data: Dataset, vectors: Tensor | None, item: int, k: int) -> pl.DataFrame:
    """The k items most like one: `item_id`, `score`, `rank` from 1, `route`; see `likeness`."""
    score, route = likeness(data, vectors, item)
    best = np.argsort(-score, kind="stable")
    best = best[(best != item) & ((score[best] > 0) | (route == "item_vectors"))][:k]
    found = {"item_id": data.items.ids[best], "score": score[best], "rank": np.arange(1, len(best) + 1)}
    return pl.DataFrame(found).with_columns(route=pl.lit(route))


def aligned(part: Dataset, train: Dataset) -> Dataset:
    """A part under the train data's indices, with `history`; new users and items follow after train's.

    Parts of the split that gave `train` come back as they are. Other data is mapped by its ids; unless it has a history
    of its own, its history is `train`.

    Raises:
        DataError: The ids are of another type than those of `train`.
    """
    sides = ((train.users, part.users), (train.items, part.items))
    if part.history is not None and all(theirs.ids[: len(ours)].equals(ours.ids) for ours, theirs in sides):
        return part
    users, items = train.users.extend(part.users.ids), train.items.extend(part.items.ids)
    tables: dict[str, Any] = {
        "user_table": _joined(train.user_table, part.user_table, users, "user_id"),
        "item_table": _joined(train.item_table, part.item_table, items, "item_id"),
    }
    past = _renumbered(part.history or train, users, items)
    return replace(_renumbered(part, users, items), history=replace(past, **tables), **tables)


def _renumbered(data: Dataset, users: IdMap, items: IdMap) -> Dataset:
    user, item = users.index(data.users.ids)[data.user], items.index(data.items.ids)[data.item]
    order = np.argsort(user, kind="stable")
    names = ("rating", "timestamp", "weight")
    rest: dict[str, Any] = {name: None if getattr(data, name) is None else getattr(data, name)[order] for name in names}
    rows = {"user": user[order].astype(np.int32), "item": item[order].astype(np.int32)}
    return replace(data, users=users, items=items, user_table=None, item_table=None, history=None, **rows, **rest)


def _joined(ours: pl.DataFrame | None, theirs: pl.DataFrame | None, ids: IdMap, key: str) -> pl.DataFrame | None:
    known = [table for table in (ours, theirs) if table is not None]
    if not known:
        return None
    table = pl.concat(known, how="diagonal_relaxed").unique(key, keep="first", maintain_order=True)
    return pl.DataFrame({key: ids.ids}).join(table, on=key, how="left", maintain_order="left")
