"""Translation of ids: from ids to queries, and from lists of indices back to ids.

Legend: B queries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from palate.data.dataset import Dataset
from palate.data.features.schema import nothing_known
from palate.data.ids import IdMap
from palate.data.queries import Queries, Spec
from palate.data.ragged import Ragged
from palate.errors import ConfigError, DataError, UnknownId
from palate.ranking.ranked import Ranked
from palate.recommender.cold_start import encode_new_users


def id_column(ids: Any, known: IdMap, argument: str) -> pl.Series:
    """One id or many as a column; without any ids, its type is that of the known ids.

    Args:
        ids: An id; or a list, tuple, set, generator, array or Series of ids. A set is sorted.
        known: The map that the ids are looked up in.
        argument: What the caller named, for messages.

    Raises:
        DataError: The ids are a table or a mapping, or are neither all text nor all whole numbers.
    """
    if isinstance(ids, pl.Series) and (ids.dtype.is_integer() or ids.dtype in (pl.String, pl.Categorical)):
        return ids
    if isinstance(ids, Mapping) or hasattr(ids, "columns"):
        raise DataError(f"{argument} takes ids, not a {type(ids).__name__}; pass its column of ids, as in table['id']")
    values = [ids] if is_one(ids) else _in_order(ids)
    if not (all(isinstance(v, str) for v in values) or all(_is_whole(v) for v in values)):
        kinds = ", ".join(sorted({type(v).__name__ for v in values}))
        raise DataError(f"{argument} takes ids that are all text or all whole numbers, not {kinds}")
    try:
        return pl.Series("id", values, dtype=None if values else known.ids.dtype)
    except (OverflowError, UnicodeEncodeError):  # beyond 64 bits, or no Unicode: in no map
        return pl.Series("id", [str(value).encode("utf-8", "backslashreplace").decode() for value in values])


def check_id_type(ids: pl.Series, known: IdMap, what: str) -> None:
    """Refuse text where the known ids are whole numbers, and the reverse: no such id can ever be known.

    Raises:
        DataError: The types differ.
    """
    if len(ids) and ids.dtype.is_integer() == known.is_text:
        kinds = ("text", "whole numbers") if known.is_text else ("whole numbers", "text")
        raise DataError(
            f"{what} ids here are {kinds[0]}, for example {known.ids[0]!r}, and {kinds[1]} was given, {ids[0]!r}"
        )


def require_users(data: Dataset, users: pl.Series, unknown: str | None = None) -> np.ndarray:
    """Indices of users, int64 `[B]`; -1 for an unknown user if `unknown` allows any.

    Args:
        data: The training data.
        users: A column of ids.
        unknown: "error", "popularity", or None for callers that do not offer the choice.

    Raises:
        UnknownId: A user is not in the training data; the message says what to do.
        ConfigError: `unknown` is neither "error" nor "popularity".
    """
    if unknown == "popularity":
        check_id_type(users, data.users, "user")
        return data.users.index(users)
    if unknown not in ("error", None):
        raise ConfigError(f"unknown = {unknown!r} is not one of 'error', 'popularity'")
    try:
        return data.users.require(users, "user")
    except UnknownId as error:
        other = "" if unknown is None else "; or pass unknown='popularity' for a list by popularity"
        raise UnknownId(f"{error}; for new users give their items instead, history=[...]{other}") from None


def require_items(data: Dataset, items: Any, argument: str) -> Tensor:
    """Indices of items, int64 `[n]`.

    Raises:
        UnknownId: An item is not in the data.
    """
    return torch.from_numpy(data.items.require(id_column(items, data.items, argument), "item"))


def require_item(data: Dataset, item: Any) -> int:
    """The index of one item.

    Raises:
        UnknownId: The item is not in the data.
        ConfigError: Several items are given, or none.
    """
    index = require_items(data, item, "item=")
    if len(index) != 1:
        raise ConfigError(f"item= takes one item, and {len(index)} are given; ask about one after the other")
    return int(index[0])


def list_length(k: Any) -> int:
    """The length of a list, checked.

    Raises:
        ConfigError: It is not a whole number of at least 1.
    """
    if not _is_whole(k) or k < 1:
        raise ConfigError(f"k = {k!r} is out of range; give a whole number of at least 1")
    return int(k)


def from_users(data: Dataset, spec: Spec, index: np.ndarray, trained: Dataset | None = None) -> Queries:
    """The queries of users, int64 `[B]`; -1 is an unknown user, whose query is empty.

    Args:
        data: Whose rows are the histories.
        spec: What the model was built from.
        index: Users of `data`.
        trained: The training data, if `data` holds newer rows too: `fresh` marks the known users who have any.
    """
    known = data.queries(np.maximum(index, 0), spec)
    if trained is not None and trained is not data:
        before = torch.from_numpy(np.diff(trained.offsets))[known.user.clamp(min=0)]
        known = replace(known, fresh=(known.user >= 0) & (known.history.lengths > before))
    unknown = torch.from_numpy(index < 0)
    if not bool(unknown.any()):
        return known
    features = None if known.features is None else known.features.without(unknown)
    queries = known.keep(~unknown[known.history.row_of_value])
    return replace(queries, user=torch.where(unknown, -1, known.user), features=features)


def from_history(data: Dataset, history: Any, ratings: Any = None) -> Queries:
    """The queries of users known only by a history.

    Args:
        data: Ids and indices.
        history: Item ids of one user, oldest first; or a collection of such collections, one for each user.
        ratings: Ratings of these items, in the same shape. Defaults to none.

    Raises:
        UnknownId: An item is not in the data.
        ConfigError: `ratings` has another shape, goes with a set, which has no order, or the data has no ratings.
        DataError: A rating is not a finite number.
    """
    if isinstance(history, Iterator):
        history = list(history)
    rows = _rows(history)
    index = [require_items(data, one, "history=") for one in ([history] if rows is None else rows)]
    lengths = torch.tensor([len(one) for one in index], dtype=torch.int64)
    values = torch.cat(index) if index else torch.zeros(0, dtype=torch.int64)
    queries = Queries(torch.full((len(index),), -1), Ragged.from_lengths(values, lengths))
    if ratings is None:
        return queries
    if data.rating is None:
        raise ConfigError("ratings= cannot be used, because the training data has no ratings; leave it out")
    if any(isinstance(one, Set) for one in [history, *(rows or [])]):
        raise ConfigError("ratings= goes with a history= in order, and a set has none; give a list")
    given = [[ratings] if isinstance(ratings, (int, float)) else _in_order(ratings)] if rows is None else ratings
    given = [list(one) for one in given]
    if [len(one) for one in given] != lengths.tolist():
        raise ConfigError("ratings must have one number for each item of history, in the same shape")
    numbers = [_rating(rating) for one in given for rating in one]
    return replace(queries, ratings=torch.tensor(numbers, dtype=torch.float32))


def with_newer_history(data: Dataset, queries: Queries, newer: Queries) -> Queries:
    """Users' queries, with the training history followed by newer items; `fresh` marks the known users who have any.

    An item that is in both counts once, at its newer place, unless the data holds repeats. Newer items are as old as
    the last training row. Without ratings of their own they count as liked: halfway from the mean rating to the top of
    the scale.

    Args:
        data: The training data.
        queries: The users, with their training histories.
        newer: The newer items, one row for each user.
    """
    row, added = queries.history.row_of_value, newer.history.row_of_value
    kept = ~torch.isin(row * data.n_items + queries.history.values, added * data.n_items + newer.history.values)
    kept |= data.events.repeats
    old = queries.keep(kept)
    order = torch.cat([row[kept], added]).argsort(stable=True)

    def joined(before: Tensor | None, after: Tensor | None, fill: float) -> Tensor | None:
        if before is None:
            return None
        after = before.new_full((len(added),), fill) if after is None else after
        return torch.cat([before, after])[order]

    values = torch.cat([old.history.values, newer.history.values])[order]
    any_newer = (newer.history.lengths > 0) & (old.user >= 0)
    return replace(
        old,
        history=Ragged.from_lengths(values, old.history.lengths + newer.history.lengths),
        ratings=joined(old.ratings, newer.ratings, data.liked_rating),
        times=joined(old.times, None, data.last_time),
        fresh=any_newer if old.fresh is None else any_newer | old.fresh,
    )


def build_queries(
    data: Dataset, spec: Spec, users: Any, history: Any, ratings: Any, features: Any = None, unknown: str | None = None,
    known: Dataset | None = None,
) -> tuple[pl.Series, Queries]:  # fmt: skip
    """Who is asked about, as a column `user_id` or `query` (the position among those given), and the queries.

    Args:
        data: The training data.
        spec: What the model was built from.
        users, history, ratings, features: As in `Recommender.recommend`.
        unknown: As in `Recommender.recommend`; None for callers that do not offer the choice.
        known: All known interactions of users, `Artifact.known`. Defaults to the training data.

    Raises:
        ConfigError: No users are named, the arguments exclude each other, or their lengths differ.
        UnknownId: A user or an item is not in the data.
        CannotAnswer: Features are given, and the model was built for none.
        DataError: Ids or features are not of the right type.
    """
    if users is None and history is None and features is None:
        raise ConfigError("say whom the lists are for: users=, history= or features=")
    if ratings is not None and history is None:
        raise ConfigError("ratings= are those of the items in history=; give both, or leave out ratings=")
    if users is not None and features is not None:
        raise ConfigError("features= describes new users, and users= names known ones; give one of them")
    if users is not None:
        known = data if known is None else known
        column = id_column(users, known.users, "users=").rename("user_id")
        queries = from_users(known, spec, require_users(known, column, unknown), data)
        if history is None:
            return column, queries
        newer = from_history(data, history, ratings)
        if len(newer) != len(queries):
            raise ConfigError(f"{len(newer)} histories do not match {len(queries)} users; give one for each user")
        return column, with_newer_history(data, queries, newer)
    batch = None if features is None else encode_new_users(features, spec, data.user_table)
    queries = from_history(data, [[]] * len(batch) if batch is not None and history is None else history, ratings)
    if batch is not None and len(batch) != len(queries):
        raise ConfigError(f"{len(queries)} histories do not match {len(batch)} rows of features; give one for each row")
    if batch is None and spec.user_features is not None:
        batch = nothing_known(spec.user_features, len(queries))
    return pl.Series("query", np.arange(len(queries))), replace(queries, features=batch)


def one_query(
    data: Dataset, spec: Spec, user: Any, history: Any, ratings: Any = None, known: Dataset | None = None
) -> Queries:
    """The query of one user, as in `build_queries`.

    Raises:
        ConfigError: Several users are given, or none.
    """
    _, queries = build_queries(data, spec, user, history, ratings, known=known)
    if len(queries) != 1:
        raise ConfigError(f"one user can be explained at a time, and {len(queries)} are given")
    return queries


def list_frame(ranked: Ranked, asked: pl.Series, items: IdMap, route: np.ndarray) -> pl.DataFrame:
    """Ranked lists as a frame: who asked, `item_id`, `score`, `rank` from 1, `route`; padding is dropped."""
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


def pair_frame(data: Dataset, users: Any, items: Any) -> pl.DataFrame:
    """`user_id` and `item_id` side by side; one id on either side is repeated for all of the other.

    Raises:
        ConfigError: The numbers of users and items do not match.
        DataError: The ids are not of the type that the data has.
    """
    user, item = id_column(users, data.users, "users="), id_column(items, data.items, "items=")
    check_id_type(user, data.users, "user")
    check_id_type(item, data.items, "item")
    if len(user) != len(item) and 1 not in (len(user), len(item)):
        raise ConfigError(f"predictions are for pairs: {len(user)} users do not match {len(item)} items")
    length = 0 if 0 in (len(user), len(item)) else max(len(user), len(item))
    rows = np.arange(length)
    columns = [user[rows if len(user) == length else rows * 0], item[rows if len(item) == length else rows * 0]]
    return pl.DataFrame([columns[0].rename("user_id"), columns[1].rename("item_id")])


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_one(value: Any) -> bool:
    """Whether a value is a single id and not a collection."""
    return isinstance(value, (str, bytes)) or not hasattr(value, "__iter__")


def _in_order(values: Any) -> list[Any]:
    """A collection as a list; a set, which has no order, is sorted."""
    if isinstance(values, Set):
        return sorted(values, key=lambda v: (str(type(v)), v))
    whole = getattr(values, "to_pylist", None) or getattr(values, "tolist", None)  # Arrow; NumPy, pandas, PyTorch
    return list(values) if whole is None else list(whole())


def _rows(history: Any) -> list[Any] | None:
    """The histories of several users; None for the history of one."""
    if is_one(history) or isinstance(history, Mapping) or hasattr(history, "columns"):
        return None
    if isinstance(history, pl.Series) and not history.dtype.is_nested():
        return None
    values = _in_order(history)
    return values if values and not any(is_one(value) for value in values) else None


def _rating(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"ratings takes finite numbers, not {value!r}")
    return number
