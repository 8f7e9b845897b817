"""Side tables: what is known of items and users, one row for each id, in index order."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Literal

import numpy as np
import polars as pl

from palate.data.encoded import Encoded, Features, Kind, nothing_known
from palate.data.features import encode, learn
from palate.data.ids import IdMap
from palate.data.kinds import IGNORE, check_declared, look
from palate.errors import DataError

Key = Literal["item_id", "user_id"]


def aligned_table(
    table: pl.DataFrame | None, ids: IdMap, key: Key, declared: Mapping[str, str]
) -> tuple[pl.DataFrame | None, tuple[str, ...]]:
    """A side table in index order, null where nothing is known of an id; and what to say about it.

    Args:
        table: `key` and other columns, or None.
        ids: Those of the interactions.
        key: The column of ids.
        declared: Kinds of columns, to be checked.

    Raises:
        DataError: The ids are of another type than those of the interactions, or come twice; a declared column does not
            exist.
        ConfigError: A declared kind does not exist.
    """
    what = key.removesuffix("_id")
    if table is None:
        if declared:
            raise DataError(
                f"kinds of {what} columns are declared ({', '.join(declared)}), and there is no {what} table"
            )
        return None, ()
    if key not in table.columns or table.schema[key].is_integer() == ids.is_text:
        kind = "text" if ids.is_text else "whole numbers"
        raise DataError(f"the side table needs a column {key} of {kind}; it holds {dict(table.schema)}")
    check_declared(table.columns, key, declared)
    rows = table.height
    table = table.select(pl.col(key).cast(ids.ids.dtype), pl.exclude(key)).filter(pl.col(key).is_in(ids.ids.implode()))
    twice = table[key].filter(table[key].is_duplicated())
    if len(twice):
        raise DataError(f"the side table holds {key} {twice[0]!r} more than once; one row for each {key} is needed")
    notes = []
    if rows > table.height:
        notes.append(
            f"{what} table: {rows - table.height:,} of {rows:,} rows are left out: nobody has met these {what}s"
        )
    if table.height < len(ids):
        missing = f"{len(ids) - table.height:,} of {len(ids):,} {what}s"
        notes.append(f"{what} table: nothing is known of {missing} in the interactions")
    whole = pl.DataFrame({key: ids.ids}).join(table, on=key, how="left", maintain_order="left")
    return whole, tuple(notes)


def titles(table: pl.DataFrame | None, ids: IdMap, items: np.ndarray) -> list[str]:
    """What people call items, given by index: the table's `title` (or `name`), else the id."""
    named = [str(i) for i in ids.ids[items]]
    column = next((c for c in ("title", "name") if table is not None and c in table.columns), None)
    if table is None or column is None:
        return named
    return [i if t is None else str(t) for i, t in zip(named, table[column][items], strict=True)]


class Side:
    """One side of a data set, as features: kinds are inferred, and encodings made, when first asked for.

    Attributes:
        table: In index order, or None.
        key: Its column of ids.
        kinds: Column -> kind of those that are used.
        notes: Which columns are left out, and why.
    """

    def __init__(self, table: pl.DataFrame | None, key: Key, declared: Mapping[str, str], rows: int) -> None:
        self.table, self.key, self.rows = table, key, rows
        seen = [] if table is None else look(table, key, declared)
        what = key.removesuffix("_id")
        self.kinds: dict[str, Kind] = {one.name: one.kind for one in seen if one.kind is not None}
        self.notes = tuple(
            f"{what} table: {one.name} is left out: {one.why}"
            for one in seen
            if one.kind is None and declared.get(one.name) != IGNORE
        )
        self._learned: Features | None = None
        self._encoded: list[tuple[Features, Encoded]] = []

    @property
    def features(self) -> Features | None:
        """How to encode the table's columns, learned from its rows; None where there are none."""
        if self._learned is None and self.table is not None and self.kinds:
            self._learned = learn(self.table, self.kinds)
        return self._learned

    @cached_property
    def attributes(self) -> Features | None:
        """Likewise of the kinds that people are told apart by without a model; see `palate.models.fallback`."""
        kinds = {name: kind for name, kind in self.kinds.items() if kind in ("number", "date", "category", "tags")}
        return None if self.table is None or not kinds else learn(self.table, kinds)

    def encoded(self, features: Features) -> Encoded:
        """All rows; made once for the same features."""
        for known, encoded in self._encoded:
            if known is features or known == features:
                return encoded
        found = nothing_known(features, self.rows) if self.table is None else encode(self.table, features)
        self._encoded.append((features, found))
        return found
