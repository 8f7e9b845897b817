"""Several rows of one user and item become one, or stay as events of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from palate.data.reading.checks import MAX_EXAMPLES, ROW, plural
from palate.errors import quoted

Duplicates = Literal["error", "last", "first", "mean", "sum", "keep"]

_PAIR = ["user_id", "item_id"]


@dataclass(frozen=True)
class Conflicts:
    """Pairs of user and item with different values, which the rule "error" refuses.

    Attributes:
        count: Number of pairs.
        first: The first ones: user, item, (value, row) of each of its rows.
        column: The column that differs.
    """

    count: int = 0
    first: tuple[tuple[Any, Any, tuple[tuple[float, int], ...]], ...] = ()
    column: str = ""

    def __add__(self, other: Conflicts) -> Conflicts:
        first = sorted(self.first + other.first, key=lambda pair: min(row for _, row in pair[2]))
        return Conflicts(self.count + other.count, tuple(first[:MAX_EXAMPLES]), self.column or other.column)

    def texts(
        self,
        users: pl.Series | None = None,
        items: pl.Series | None = None,
        row_name: Callable[[int], str] = str,
    ) -> list[str]:
        """The fault in words; none without conflicts.

        Args:
            users, items: The ids, if users and items are indices. Default to users and items that are ids themselves.
            row_name: What a row is called. Defaults to its number.
        """
        if not self.count:
            return []
        parts = []
        for user, item, values in self.first:
            pairs = ", ".join(f"{value:g} (row {row_name(number)})" for value, number in values)
            names = user if users is None else users[user], item if items is None else items[item]
            parts.append(f"user {quoted(names[0])} item {quoted(names[1])}: {pairs}")
        more = f"; and {self.count - MAX_EXAMPLES} more" if self.count > MAX_EXAMPLES else ""
        return [
            f"different {self.column}s in {plural(self.count, 'user-item pair')}: {'; '.join(parts)}{more}; "
            "choose a rule: duplicates='last', 'first', 'mean' or 'sum'; or 'keep', if they are events of their own"
        ]


def merge_duplicates(frame: pl.DataFrame, policy: Duplicates, counts: Counter[str]) -> tuple[pl.DataFrame, Conflicts]:
    """One row for each (user, item), in input order; all rows under "keep".

    Args:
        frame: Typed rows with the column `ROW`.
        policy: See `palate.data.reading.interactions.read_interactions`.
        counts: Takes what `duplicate_notes` tells.

    Returns:
        The rows and, under "error", the pairs with different values.
    """
    values = [name for name in ("rating", "weight") if name in frame.columns]
    if policy == "sum" and not values:
        frame, values = frame.with_columns(pl.lit(1.0, pl.Float32).alias("weight")), ["weight"]
    repeated = _repeated_pairs(frame)
    if repeated is None:
        return frame, Conflicts()
    if policy == "keep":
        counts["kept"] += int(repeated.sum())
        counts["kept pairs"] += frame.filter(repeated)[_PAIR].n_unique()
        return frame, Conflicts()
    single, several = frame.filter(~repeated), frame.filter(repeated)
    if policy in ("error", "first", "last"):
        columns = [name for name in frame.columns if name != ROW]
        distinct = several.unique(columns, keep="first", maintain_order=True)
        counts["equal"] += several.height - distinct.height
        several = distinct
    conflicts = _conflicts(several, values) if policy == "error" and values else Conflicts()
    order = ["timestamp", ROW] if "timestamp" in frame.columns else [ROW]
    groups = several.sort(order).group_by(_PAIR, maintain_order=True)
    merged = groups.agg(_merge_expressions(policy, frame.columns, values)).select(frame.columns)
    if merged.height < several.height:
        counts["several"] += several.height
        counts["merged"] += merged.height
    return pl.concat([single, merged]).sort(ROW), conflicts


def duplicate_notes(counts: Mapping[str, int], policy: Duplicates) -> list[str]:
    """What became of repeated rows, in words.

    Args:
        counts: From `merge_duplicates`.
        policy: As there.
    """
    notes = []
    if counts.get("kept"):
        pairs = plural(counts["kept pairs"], "user-item pair")
        notes.append(
            f"{counts['kept']:,} rows of {pairs} kept as events of their own: models that read order learn from all of "
            "them, the others from the last one"
        )
    if counts.get("equal"):
        notes.append(f"{plural(counts['equal'])} equal to an earlier row removed")
    if counts.get("several"):
        rule = "last" if policy == "error" else policy
        notes.append(f"{counts['several']:,} rows of the same user and item merged into {counts['merged']:,} ({rule})")
    return notes


def _merge_expressions(policy: Duplicates, columns: Sequence[str], values: Sequence[str]) -> list[pl.Expr]:
    pick = pl.first if policy == "first" else pl.last
    if policy not in ("mean", "sum"):
        return [pick(name) for name in columns if name not in _PAIR]
    exact = [pl.col(name).cast(pl.Float64) for name in values]
    merged = [(value.mean() if policy == "mean" else value.sum()).cast(pl.Float32) for value in exact]
    return [*merged, *(pick(name) for name in columns if name not in [*_PAIR, *values])]


def _repeated_pairs(frame: pl.DataFrame) -> pl.Series | None:
    """Mask of the rows whose (user, item) occurs more than once; None if there are none."""
    # Equal pairs have equal hashes, so only pairs with a repeated hash are compared themselves.
    hashes = frame["user_id"].hash(seed=1).to_numpy() * np.uint64(0x9E3779B97F4A7C15)
    hashes += frame["item_id"].hash(seed=2).to_numpy()
    ordered = np.sort(hashes)
    again = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(again):
        return None
    rows = pl.Series(hashes).is_in(pl.Series(again).implode()).arg_true()
    repeated = frame.select(_PAIR)[rows].is_duplicated()
    mask = np.zeros(frame.height, dtype=bool)
    mask[rows.filter(repeated).to_numpy()] = True
    return pl.Series(mask) if mask.any() else None


def _conflicts(several: pl.DataFrame, values: Sequence[str]) -> Conflicts:
    """The pairs with more than one rating or weight."""
    groups = several.group_by(_PAIR, maintain_order=True).agg(pl.col(*values, ROW))
    wrong = groups.filter(pl.any_horizontal(pl.col(*values).list.n_unique() > 1))
    if wrong.is_empty():
        return Conflicts()
    column = next(name for name in values if wrong[name].list.n_unique().max() > 1)  # type: ignore[operator]
    first = [
        (row["user_id"], row["item_id"], tuple(zip(row[column], row[ROW], strict=True)))
        for row in wrong.head(MAX_EXAMPLES).iter_rows(named=True)
    ]
    return Conflicts(wrong.height, tuple(first), column)
