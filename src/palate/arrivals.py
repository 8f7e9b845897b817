"""Those who come after training: people of whom attributes are known, and new items."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import polars as pl

from palate.data.dataset import Dataset
from palate.data.encoded import Encoded
from palate.data.features import encode
from palate.data.ids import IdMap
from palate.data.queries import Spec
from palate.data.read_side import read_columns, read_side
from palate.errors import CannotAnswer, DataError
from palate.models.base import Model


def people(features: Any, spec: Spec) -> Encoded:
    """What is known of people, a row for each of a table's; its `notes` say what could not be used.

    Args:
        features: A file or frame with some columns of the users' table; ids are not looked at.
        spec: Of the model.

    Raises:
        CannotAnswer: The model was built without users' features.
        DataError: The table has no rows, or a column is of another type than in training.
    """
    if spec.user_features is None:
        raise CannotAnswer(
            "this model knows nothing of people's attributes: its data has no table of users with numbers, dates, "
            "categories or tags (users=, --users), or the model was built on `data.spec` and not by its name; or give "
            "the items they liked (history=, --history)"
        )
    table = read_columns(features)
    if table.is_empty():
        raise DataError("the table of people has no rows")
    return encode(table, spec.user_features)


def with_new_items(model: Model, data: Dataset, items: Any) -> tuple[Model, Dataset]:
    """A model and its data, extended by items that nobody has met yet; `notes` of the data say what could not be used.

    Args:
        model: Answers for new items.
        data: Its training data.
        items: A file or frame: `item_id`, and what is known in the columns of the items' table.

    Raises:
        CannotAnswer: The model knows items by their interactions alone.
        DataError: An id is known already or comes twice; a column is of another type than in training.
    """
    features = model.spec.item_features
    if "new_item" not in model.answers or features is None:
        raise CannotAnswer(f"{type(model).__name__} knows items by their interactions alone; it takes no new ones")
    table = read_side(items, "item_id", data.items.ids.dtype)
    known = table["item_id"].filter(table["item_id"].is_in(data.items.ids.implode()))
    if len(known):
        listed = ", ".join(map(repr, known[:5]))
        raise DataError(f"{len(known)} of {table.height} items are known already ({listed}); leave those rows out")
    encoded = encode(table, features)
    grown = model.with_items(encoded)
    ours = pl.DataFrame({"item_id": data.items.ids}) if data.item_table is None else data.item_table
    try:
        both = pl.concat([ours, table.select(c for c in table.columns if c in ours.columns)], how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        raise DataError(f"the new items do not fit the table of items: {error}") from error
    notes = (*data.notes, *(f"new items: {note}" for note in encoded.notes))
    return grown, replace(data, items=IdMap(both["item_id"].rename("id")), item_table=both, notes=notes)
