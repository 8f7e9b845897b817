"""IdMap: outside id <-> inside index 0..n-1. Ids are integers or strings and stay what they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from palate.errors import DataError, UnknownId

Ids = pl.Series | Sequence[str | int]


@dataclass(frozen=True, eq=False)
class IdMap:
    """A fixed, ordered set of ids; an id's position is its index.

    Attributes:
        ids: Unique ids, Int64 or String.
    """

    ids: pl.Series

    @classmethod
    def build(cls, values: pl.Series) -> IdMap:
        """The map of all distinct values, sorted, so that it does not depend on row order.

        Raises:
            DataError: The values are neither whole numbers of 64 bits nor text, or some are null.
        """
        if values.null_count():
            raise DataError(f"{values.null_count()} of {len(values)} ids are null; leave those rows out")
        return cls(_normal(values).unique().sort().rename("id"))

    def extend(self, values: pl.Series) -> IdMap:
        """This map with the values it lacks appended (sorted); old indices stay.

        Raises:
            DataError: The values are of another type than this map's ids, or some are null.
        """
        if values.is_empty():
            return self
        new = IdMap.build(values).ids
        if new.dtype != self.ids.dtype:
            raise DataError(f"{new.dtype} ids cannot join {self.ids.dtype} ids; convert them to the same type first")
        new = new.filter(~new.is_in(self.ids.implode()))
        return self if new.is_empty() else IdMap(pl.concat([self.ids, new.rename("id")]))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def is_text(self) -> bool:
        """Whether the ids are strings."""
        return self.ids.dtype == pl.String

    def index(self, ids: Ids) -> np.ndarray:
        """Indices of ids, int64 `[n]`; -1 for an id this map does not hold.

        Raises:
            DataError: The values are neither whole numbers nor text.
        """
        if len(ids) == 0:
            return np.empty(0, dtype=np.int64)
        try:
            values = ids if isinstance(ids, pl.Series) else pl.Series("id", list(ids))
        except TypeError:  # numbers and text in one list: each is looked up as it is
            return np.array([self._positions.get(v, -1) for v in ids], dtype=np.int64)
        # A number beyond 64 bits becomes null, which no map holds.
        values = values.cast(pl.Int64, strict=False) if values.dtype.is_integer() else _normal(values)
        if values.dtype != self.ids.dtype:
            return np.full(len(values), -1, dtype=np.int64)
        if len(values) < 64:
            return np.array([self._positions.get(v, -1) for v in values], dtype=np.int64)
        found = values.rename("id").to_frame().join(self._frame, on="id", how="left", maintain_order="left")
        return found["index"].fill_null(-1).to_numpy(writable=True)

    def require(self, ids: Ids, what: str) -> np.ndarray:
        """Like `index`, but an unknown id is an error.

        Args:
            ids: Ids as they came with the data.
            what: "user" or "item", for the message.

        Raises:
            UnknownId: An id is not in the map; the message lists the first five.
        """
        index = self.index(ids)
        if (index < 0).any():
            given = list(ids)
            unknown = [given[i] for i in np.flatnonzero(index < 0)[:5]]
            kind = "text" if self.is_text else "whole numbers"
            example = self.ids[0] if len(self) else "none"
            raise UnknownId(
                f"unknown {what} {', '.join(map(repr, unknown))}: not among the {len(self)} {what}s "
                f"(ids here are {kind}, for example {example!r})"
            )
        return index

    def parse(self, text: str) -> str | int:
        """An id typed on a command line or in a URL, in the type of this map's ids."""
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
            raise DataError(f"ids up to {values.max()!r} do not fit 64 bits; read them as text") from None
    if values.dtype in (pl.Categorical, pl.Enum):
        return values.cast(pl.String)
    raise DataError(f"ids must be whole numbers or text, not {values.dtype}")
