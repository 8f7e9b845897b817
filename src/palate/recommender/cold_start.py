"""Cold start: features of new users, and new items after training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import polars as pl

from palate.data.dataset import Dataset
from palate.data.features.encode import encode
from palate.data.features.schema import FeatureBatch, FeatureSchema
from palate.data.queries import Spec
from palate.data.reading import read_columns, read_side
from palate.data.reading.table import USUAL_NAMES, folded
from palate.errors import CannotAnswer, DataError
from palate.models.base import Model

_KNOWN = "items are known already and stay as they are; update(items=...) changes their features"
"""End of the note on known items."""


def encode_new_users(features: Any, spec: Spec, user_table: pl.DataFrame | None) -> FeatureBatch:
    """The features of new users, a row for each row of a table; its `notes` say what could not be used.

    Args:
        features: A file or frame with columns of the user table; a column of ids is ignored. A `FeatureBatch` is
            returned as it is.
        spec: What the model was built from.
        user_table: The user table of the training data.

    Raises:
        CannotAnswer: The model was built without user features.
        DataError: The table has no rows, holds columns that the user table lacks or none that the model uses, or a
            column is of another type than in training.
    """
    if spec.user_features is None:
        raise CannotAnswer(
            "this model cannot use features of users: its training data has no user table with numbers, dates, "
            "categories or tags (users=), or the model was built on `data.spec` instead of by its name; give the items "
            "these users chose (history=)"
        )
    if isinstance(features, FeatureBatch):
        return features
    table = read_columns(features)
    if table.is_empty():
        raise DataError("features: the table has no rows; give a row for each user")
    _check_columns(table, "user_id", spec.user_features, user_table)
    return encode(table, spec.user_features)


def with_new_items(model: Model, data: Dataset, items: Any) -> tuple[Model, Dataset]:
    """A model and its data, extended by items without interactions; `notes` of the data say what could not be used.

    Args:
        model: A fitted model that can score new items.
        data: Its training data.
        items: A file or frame with columns of the item table and a column of ids: `item_id` or another usual name, or
            the only column that the item table of training lacks. Items that are known already stay as they are, also
            if all are: a table may hold the whole catalogue.

    Raises:
        CannotAnswer: The model knows items by their interactions alone.
        DataError: An id is repeated; the table holds columns that the item table lacks or none that
            the model uses; a column is of another type than in training.
    """
    features = model.spec.item_features
    if "new_item" not in model.answers or features is None:
        raise CannotAnswer(f"{type(model).__name__} knows items by their interactions alone; it cannot score new ones")
    table = _read_new_items(items, data)
    ours = pl.DataFrame({"item_id": data.items.ids}) if data.item_table is None else data.item_table
    _check_columns(table, "item_id", features, ours)
    table, notes = _without_known(table, data)
    if table.is_empty():
        return model, replace(data, notes=(*earlier_notes(data), *notes))
    encoded = encode(table, features)
    larger = model.with_items(encoded)
    try:
        both = pl.concat([ours, table.select(c for c in table.columns if c in ours.columns)], how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        raise DataError(f"the new items do not fit the item table: {error}") from error
    notes = (*notes, *(f"new items: {note}" for note in encoded.notes))
    return larger, data.with_items(both, (*earlier_notes(data), *notes))


def _without_known(table: pl.DataFrame, data: Dataset) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """The rows of items that the data does not know, and a note on the others."""
    new = table.filter(~pl.col("item_id").is_in(data.items.ids.implode()))
    if new.height == table.height:
        return table, ()
    return new, (f"{table.height - new.height:,} of {table.height:,} {_KNOWN}",)


def earlier_notes(data: Dataset) -> tuple[str, ...]:
    """The notes of data that stay when items are added: all but how many items an earlier table held again."""
    return tuple(note for note in data.notes if not note.endswith(_KNOWN))


def _read_new_items(items: Any, data: Dataset) -> pl.DataFrame:
    """The table, its ids in `item_id`."""
    dtype = data.items.ids.dtype
    try:
        return read_side(items, "item_id", dtype)
    except DataError:
        trained = [] if data.item_table is None else data.item_table.columns
        own = [name for name in read_columns(items).columns if name not in trained]
        if len(own) != 1:
            raise
        return read_side(items, "item_id", dtype, id_column=own[0])


def _check_columns(table: pl.DataFrame, key: str, features: FeatureSchema, trained: pl.DataFrame | None) -> None:
    """Refuse columns that training did not have, and a table without any that the model uses."""
    used = [column.name for column in features.columns]
    known = list(dict.fromkeys([*used, *([] if trained is None else trained.columns)]))
    ids = ("id", *USUAL_NAMES[key])
    what = key.removesuffix("_id")
    faults = [_unknown(name, known, what) for name in table.columns if name not in known and folded(name) not in ids]
    if not faults and not set(used) & set(table.columns):
        faults = [f"the table has none of the columns that the model uses: {', '.join(used[:20])}"]
    if faults:
        raise DataError.faults(f"the features of new {what}s", faults)


def _unknown(name: str, known: Sequence[str], what: str) -> str:
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "leave it out"
    return f"column {name!r} is not in the {what} table of training, which has {', '.join(known[:20])}; {hint}"
