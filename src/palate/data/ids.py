"""IdMap: ids <-> indices 0..n-1, and tables of interactions as indices. Ids are integers or strings, never altered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from palate.errors import DataError, UnknownId

Ids = pl.Series | Sequence[str | int]


@dataclass(frozen=True, eq=False)
class IdMap:
    """An ordered set of ids; the position of an id is its index. Frozen.

    Attributes:
        ids: Unique ids, Int64 or String.
    """

    ids: pl.Series

    @classmethod
    def build(cls, values: pl.Series) -> IdMap:
        """Build the map of all distinct values, sorted, so that it does not depend on the row order.

        Raises:
            DataError: The values are neither 64-bit integers nor text, or some are null.
        """
        if values.null_count():
            raise DataError(f"{values.null_count()} of {len(values)} ids are null; remove those rows")
        return cls(_normal(values).unique().sort().rename("id"))

    def extend(self, values: pl.Series) -> IdMap:
        """Append the values that the map does not hold, sorted; existing indices stay the same.

        Raises:
            DataError: The type of the values differs from that of the ids, or some are null.
        """
        if values.is_empty():
            return self
        new = IdMap.build(values).ids
        if new.dtype != self.ids.dtype:
            raise DataError(
                f"ids of type {new.dtype} cannot be added to ids of type {self.ids.dtype}; convert them first"
            )
        new = new.filter(~new.is_in(self.ids.implode()))
        return self if new.is_empty() else IdMap(pl.concat([self.ids, new.rename("id")]))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def is_text(self) -> bool:
        """Whether the ids are strings."""
        return self.ids.dtype == pl.String

    def index(self, ids: Ids) -> np.ndarray:
        """Look up ids.

        Args:
            ids: Integers, strings, or both.

        Returns:
            Indices, int64 `[n]`; -1 for an id that the map does not hold.

        Raises:
            DataError: The values are neither whole numbers nor text.
        """
        if len(ids) == 0:
            return np.empty(0, dtype=np.int64)
        try:
            values = ids if isinstance(ids, pl.Series) else pl.Series("id", list(ids))
        except (TypeError, UnicodeEncodeError):  # numbers and text in one list, or text that is no Unicode
            return np.array([self._positions.get(v, -1) for v in ids], dtype=np.int64)
        # An integer of more than 64 bits becomes null, which no map holds.
        values = values.cast(pl.Int64, strict=False) if values.dtype.is_integer() else _normal(values)
        if values.dtype != self.ids.dtype:
            return np.full(len(values), -1, dtype=np.int64)
        if len(values) < 64:
            return np.array([self._positions.get(v, -1) for v in values], dtype=np.int64)
        found = values.rename("id").to_frame().join(self._frame, on="id", how="left", maintain_order="left")
        return found["index"].fill_null(-1).to_numpy(writable=True)

    def position(self, one: str | int) -> int:
        """The index of one id; -1 if the map does not hold it."""
        return self._positions.get(one, -1)

    def require(self, ids: Ids, what: str) -> np.ndarray:
        """Look up ids like `index`; an unknown id is an error.

        Args:
            ids: Integers, strings, or both.
            what: "user" or "item", for the message.

        Raises:
            UnknownId: Ids are not in the map; the message counts them and lists the first five.
        """
        index = self.index(ids)
        if (index < 0).any():
            given = list(ids)
            missing = np.flatnonzero(index < 0)
            unknown = [given[i] for i in missing[:5]]
            several = f"{len(missing):,} unknown {what}s: {', '.join(map(repr, unknown))}{', ...' * (len(missing) > 5)}"
            listed = several if len(missing) > 1 else f"unknown {what} {unknown[0]!r}"
            kind = "text" if self.is_text else "whole numbers"
            example = self.ids[0] if len(self) else "none"
            raise UnknownId(
                f"{listed}: not among the {len(self)} {what}s (ids here are {kind}, for example {example!r})"
            )
        return index

    def parse(self, text: str) -> str | int:
        """Convert text, such as a command line argument, to the type of the ids; text that is no number stays text."""
        if self.is_text:
            return text
        try:
            return int(text)
        except ValueError:
            return text

    @cached_property
    def _frame(self) -> pl.DataFrame:
        return pl.DataFrame({"id": self.ids, "index": np.arange(len(self.ids), dtype=np.int64)})

    @cached_property
    def _positions(self) -> dict[str | int, int]:
        return {value: i for i, value in enumerate(self.ids)}


def _normal(values: pl.Series) -> pl.Series:
    if values.dtype == pl.String or values.dtype == pl.Int64:
        return values
    if values.dtype.is_integer():
        try:
            return values.cast(pl.Int64)
        except pl.exceptions.InvalidOperationError:
            raise DataError(f"ids up to {values.max()!r} do not fit in 64 bits; convert them to text") from None
    if values.dtype in (pl.Categorical, pl.Enum):
        return values.cast(pl.String)
    raise DataError(f"ids must be whole numbers or text, not {values.dtype}")


def index_interactions(interactions: pl.DataFrame, rating_scale: tuple[float, float] | None) -> dict[str, Any]:
    """Index interactions: the fields of a `Dataset` that come from them, ordered by user, time and input order.

    Args:
        interactions: `user_id`, `item_id` and optionally `rating`, `timestamp`, `weight`.
        rating_scale: Lowest and highest possible rating. Defaults to the lowest and highest rating in the data.

    Raises:
        DataError: There are no rows.
    """
    if interactions.is_empty():
        raise DataError("the table holds no interactions; at least one row is needed")
    users, items = IdMap.build(interactions["user_id"]), IdMap.build(interactions["item_id"])
    user = users.index(interactions["user_id"]).astype(np.int32)
    item = items.index(interactions["item_id"]).astype(np.int32)
    types = {"rating": np.float32, "timestamp": np.int64, "weight": np.float32}
    columns = {
        name: interactions[name].to_numpy().astype(dtype) if name in interactions.columns else None
        for name, dtype in types.items()
    }
    rating, timestamp = columns["rating"], columns["timestamp"]
    if rating is not None and rating_scale is None:
        rating_scale = (float(rating.min()), float(rating.max()))
    order = np.lexsort((user,) if timestamp is None else (timestamp, user))
    return {
        "users": users,
        "items": items,
        "user": user[order],
        "item": item[order],
        "rating_scale": rating_scale,
    } | {name: None if column is None else column[order] for name, column in columns.items()}


def unliked_note(count: int, rows: int, highest: float) -> list[str]:
    """A note on ratings of zero or less, if there are any beside higher ones.

    Args:
        count: Number of such ratings.
        rows: Number of all ratings.
        highest: The highest one.
    """
    if not count or highest <= 0:
        return []
    return [f"{count:,} of {rows:,} rows have a rating of zero or less: in lists they do not count as choices"]


_IDS_PER_HASH = 1 << 17
_ROWS_PER_HASH = 1 << 24
_MADV_PAGEOUT = 21
"""Linux: give the pages of a mapping back; those that were changed keep their values."""


def fingerprint_of(maps: Sequence[IdMap], columns: Mapping[str, np.ndarray | Iterable[np.ndarray] | None]) -> str:
    """A hash of ids and rows, 16 hex digits.

    Args:
        maps: The ids.
        columns: Name -> values, whole or in pieces.
    """
    digest = hashlib.sha256()
    for ids in maps:
        digest.update(b"[")
        for start in range(0, len(ids), _IDS_PER_HASH):
            some = json.dumps(ids.ids[start : start + _IDS_PER_HASH].to_list())[1:-1]
            digest.update((", " * bool(start) + some).encode())
        digest.update(b"]")
    for name, column in columns.items():
        digest.update(name.encode())
        for piece in _pieces(column) if isinstance(column, np.ndarray) else column or ():
            digest.update(np.ascontiguousarray(piece).data)
    return digest.hexdigest()[:16]


def _pieces(column: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(column), _ROWS_PER_HASH):
        yield column[start : start + _ROWS_PER_HASH]
        release(column)


def release(column: np.ndarray) -> None:
    """Give memory back that the pages of a column mapped from disk take; they are read again when they are needed."""
    mapped = map_of(column)
    if mapped is not None and mapped._mmap is not None:  # type: ignore[attr-defined]
        with suppress(OSError, ValueError, AttributeError):  # not on this system
            mapped._mmap.madvise(_MADV_PAGEOUT)  # type: ignore[attr-defined]


def map_of(column: np.ndarray) -> np.memmap | None:
    """The mapping behind an array, if there is one."""
    base: Any = column
    found = None
    while isinstance(base, np.ndarray):
        found = base if isinstance(base, np.memmap) else found
        base = base.base
    return found
