"""Several rows of one user and item -> one, by a rule the user names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import polars as pl

from palate.data.checks import ROW, SHOWN, Findings, counted
from palate.data.delimited import shown

Duplicates = Literal["error", "last", "first", "mean", "sum"]

_PAIR = ["user_id", "item_id"]


def merge(frame: pl.DataFrame, policy: Duplicates, found: Findings) -> pl.DataFrame:
    """One row for each (user, item), in input order.

    Args:
        frame: From `convert`; holds `ROW`.
        policy: See `palate.data.table.read_interactions`.
        found: Takes the notes, and under "error" the pairs with different values.
    """
    values = [name for name in ("rating", "weight") if name in frame.columns]
    if policy == "sum" and not values:
        frame, values = frame.with_columns(pl.lit(1.0, pl.Float32).alias("weight")), ["weight"]
    twice = _repeated(frame)
    if twice is None:
        return frame
    rest, again = frame.filter(~twice), frame.filter(twice)
    if policy in ("error", "first", "last"):
        columns = [name for name in frame.columns if name != ROW]
        equal = again.unique(columns, keep="first", maintain_order=True)
        if equal.height < again.height:
            found.notes.append(f"{counted(again.height - equal.height)} equal to an earlier one removed")
        again = equal
    if policy == "error" and values:
        _conflicts(again, values, found)
    order = ["timestamp", ROW] if "timestamp" in frame.columns else [ROW]
    groups = again.sort(order).group_by(_PAIR, maintain_order=True)
    merged = groups.agg(_merging(policy, frame.columns, values)).select(frame.columns)
    if merged.height < again.height:
        how = "last" if policy == "error" else policy
        found.notes.append(f"{again.height:,} rows of the same user and item merged into {merged.height:,} ({how})")
    return pl.concat([rest, merged]).sort(ROW)


def _merging(policy: Duplicates, columns: Sequence[str], values: Sequence[str]) -> list[pl.Expr]:
    at = pl.first if policy == "first" else pl.last
    if policy not in ("mean", "sum"):
        return [at(name) for name in columns if name not in _PAIR]
    exact = [pl.col(name).cast(pl.Float64) for name in values]
    merged = [(value.mean() if policy == "mean" else value.sum()).cast(pl.Float32) for value in exact]
    return [*merged, *(at(name) for name in columns if name not in [*_PAIR, *values])]


def _repeated(frame: pl.DataFrame) -> pl.Series | None:
    """Mask of the rows whose (user, item) comes more than once; None when there are none."""
    # Equal pairs have equal hashes, so only rows with a repeated hash need a look at the pairs themselves.
    hashes = frame["user_id"].hash(seed=1).to_numpy() * np.uint64(0x9E3779B97F4A7C15)
    hashes += frame["item_id"].hash(seed=2).to_numpy()
    ordered = np.sort(hashes)
    again = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(again):
        return None
    rows = pl.Series(hashes).is_in(pl.Series(again).implode()).arg_true()
    twice = frame.select(_PAIR)[rows].is_duplicated()
    mask = np.zeros(frame.height, dtype=bool)
    mask[rows.filter(twice).to_numpy()] = True
    return pl.Series(mask) if mask.any() else None


def _conflicts(again: pl.DataFrame, values: Sequence[str], found: Findings) -> None:
    """Under "error", a fault for the pairs that come with more than one rating or weight."""
    groups = again.group_by(_PAIR, maintain_order=True).agg(pl.col(*values, ROW))
    wrong = groups.filter(pl.any_horizontal(pl.col(*values).list.n_unique() > 1))
    if wrong.is_empty():
        return
    what = next(name for name in values if wrong[name].list.n_unique().max() > 1)  # type: ignore[operator]
    parts = []
    for row in wrong.head(SHOWN).iter_rows(named=True):
        pairs = ", ".join(f"{value:g} (row {number})" for value, number in zip(row[what], row[ROW], strict=True))
        parts.append(f"user {shown(row['user_id'])} item {shown(row['item_id'])}: {pairs}")
    more = f"; and {wrong.height - SHOWN} more" if wrong.height > SHOWN else ""
    found.faults.append(
        f"different {what}s in {counted(wrong.height, 'user-item pair')}: {'; '.join(parts)}{more}; "
        "say which counts: duplicates='last', 'first', 'mean' or 'sum'"
    )
