"""Side tables: the attributes of items and users, one row for each id, in index order."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cached_property
from typing import Literal

import numpy as np
import polars as pl

from palate.data.features.encode import encode, learn
from palate.data.features.infer import IGNORE, TITLE, Kind, check_declared, infer_columns
from palate.data.features.schema import FeatureBatch, FeatureSchema, nothing_known
from palate.data.ids import IdMap
from palate.errors import DataError

Key = Literal["item_id", "user_id"]

UNUSED_ITEMS = " (recommend them with add_items(data.unused_items) after training)"
"""Advice for items without interactions."""
_TITLE_NAMES = ("title", "name")


def aligned_table(
    table: pl.DataFrame | None, ids: IdMap, key: Key, declared: Mapping[str, str]
) -> tuple[pl.DataFrame | None, pl.DataFrame | None, tuple[str, ...]]:
    """Bring a side table into index order.

    Args:
        table: `key` and other columns, or None.
        ids: The ids of the interactions.
        key: The column of ids.
        declared: Kinds of columns, which are checked.

    Returns:
        One row for each of `ids`, null where the table has none; the rows of other ids, None without any; and notes
        that count both.

    Raises:
        DataError: The ids differ in type from those of the interactions, or are repeated; a declared column does not
            exist.
        ConfigError: A declared kind does not exist.
    """
    side = key.removesuffix("_id")
    if table is None:
        if declared:
            raise DataError(
                f"kinds of {side} columns are declared ({', '.join(declared)}), but there is no {side} table; pass "
                f"{side}s="
            )
        return None, None, ()
    if key not in table.columns or table.schema[key].is_integer() == ids.is_text:
        kind = "text" if ids.is_text else "whole numbers"
        raise DataError(f"the {side} table needs a column {key!r} of {kind}; its columns are {dict(table.schema)}")
    check_declared(table.columns, key, declared)
    rows = table.height
    table = table.select(pl.col(key).cast(ids.ids.dtype), pl.exclude(key))
    known = pl.col(key).is_in(ids.ids.implode())
    table, others = table.filter(known), table.filter(~known)
    repeated = table[key].filter(table[key].is_duplicated())
    if len(repeated):
        raise DataError(
            f"the {side} table holds {key} {repeated[0]!r} more than once; expected one row for each {side}"
        )
    notes = []
    if rows > table.height:
        advice = UNUSED_ITEMS if side == "item" else ""
        notes.append(
            f"{side} table: {rows - table.height:,} of {rows:,} {side}s have no interactions and were dropped{advice}"
        )
    if table.height < len(ids):
        missing = f"{len(ids) - table.height:,} of {len(ids):,} {side}s"
        notes.append(f"{side} table: {missing} of the interactions have no row")
    whole = pl.DataFrame({key: ids.ids}).join(table, on=key, how="left", maintain_order="left")
    return whole, others if others.height else None, tuple(notes)


def titles(table: pl.DataFrame | None, ids: IdMap, items: np.ndarray, declared: Mapping[str, str]) -> list[str]:
    """Titles of items, or their ids where there is no title.

    Args:
        table: The item table in index order, or None.
        ids: The ids of the items.
        items: Item indices, int64 `[n]`.
        declared: Kinds of columns. A column declared as "title" holds the titles; defaults to `title` or `name`, in any
            case.
    """
    fallback = [str(i) for i in ids.ids[items]]
    column = None if table is None else title_column(table.columns, declared)
    if table is None or column is None:
        return fallback
    return [i if t is None else str(t) for i, t in zip(fallback, table[column][items], strict=True)]


def title_column(columns: list[str], declared: Mapping[str, str]) -> str | None:
    """The column of titles, or None if there is none.

    Args:
        columns: The columns of an item table.
        declared: Kinds of columns. A column declared as "title" is preferred to `title` or `name`, in any case.
    """
    by_declaration = [name for name in columns if declared.get(name) == TITLE]
    by_name = [name for usual in _TITLE_NAMES for name in columns if name.lower() == usual]
    return next(iter([*by_declaration, *by_name]), None)


class FeatureTable:
    """The features of items or of users. Kinds are inferred and encodings are made on first use.

    Args:
        table: The side table in index order, or None.
        key: Its column of ids.
        declared: Kinds of columns, declared by the user.
        rows: Number of items or users.

    Attributes:
        kinds: Column -> kind of the columns that are used.
        notes: Which columns are not used, and why.

    Raises:
        DataError: A column does not hold values of its declared kind.
    """

    def __init__(self, table: pl.DataFrame | None, key: Key, declared: Mapping[str, str], rows: int) -> None:
        self.table, self.key, self.rows = table, key, rows
        reports = [] if table is None else infer_columns(table, key, declared)
        side = key.removesuffix("_id")
        self.kinds: dict[str, Kind] = {one.name: one.kind for one in reports if one.kind is not None}
        self.notes = tuple(
            f"{side} table: column {one.name!r} is not used: {one.why}"
            for one in reports
            if one.kind is None and declared.get(one.name) != IGNORE
        )
        self._encoded: list[tuple[FeatureSchema, FeatureBatch]] = []

    @cached_property
    def schema(self) -> FeatureSchema | None:
        """How to encode the columns, learned from the table's rows; None if there are no columns."""
        return None if self.table is None or not self.kinds else learn(self.table, self.kinds)

    @cached_property
    def attribute_schema(self) -> FeatureSchema | None:
        """The same for numbers, dates, categories and tags only, which `palate.models.fallback` reads."""
        kinds = {name: kind for name, kind in self.kinds.items() if kind in ("number", "date", "category", "tags")}
        return None if self.table is None or not kinds else learn(self.table, kinds)

    def extended(self, table: pl.DataFrame) -> FeatureTable:
        """The features of a larger table, with the same kinds, notes and schemas.

        Args:
            table: The rows of this table first, then new ones.
        """
        larger = copy.copy(self)
        larger.table, larger.rows, larger._encoded = table, table.height, []
        return larger

    def encode(self, schema: FeatureSchema) -> FeatureBatch:
        """All rows as tensors; computed once for equal schemas."""
        for known, encoded in self._encoded:
            if known is schema or known == schema:
                return encoded
        found = nothing_known(schema, self.rows) if self.table is None else encode(self.table, schema)
        self._encoded.append((schema, found))
        return found
