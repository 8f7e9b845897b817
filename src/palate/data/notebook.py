"""What a data set shows of itself: its summary, as text and as an HTML table for notebooks."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from palate.data.dataset import Dataset


def table_of(lines: Iterable[tuple[str, str]]) -> str:
    """Names and values as an HTML table."""
    cells = [(html.escape(name), html.escape(value)) for name, value in lines]
    rows = [f"<tr><th style='text-align:left'>{n}</th><td style='text-align:left'>{v}</td></tr>" for n, v in cells]
    return f"<table>{''.join(rows)}</table>"


def summary_of(data: Dataset) -> list[tuple[str, str]]:
    """Names and values of the lines that describe a data set."""
    counts = f"{data.n_users:,} users, {data.n_items:,} items, {len(data):,} interactions"
    ratings = span = "none"
    if data.rating is not None and data.rating_scale is not None and len(data):
        mean = float(np.mean(data.rating, dtype=np.float64))
        ratings = f"{data.rating_scale[0]:g} to {data.rating_scale[1]:g}, mean {mean:.2f}"
    if data.timestamp is not None and len(data):
        ends = (int(data.timestamp.min()), int(data.timestamp.max()))
        span = " to ".join(str(np.datetime64(end, "s").astype("datetime64[D]")) for end in ends)
    tables = {"item features": data.item_table, "user features": data.user_table}
    features = [(name, _list_columns(table)) for name, table in tables.items()]
    return [("data", counts), ("time", span), ("ratings", ratings), *features]


def _list_columns(table: pl.DataFrame | None, limit: int = 8) -> str:
    names = [] if table is None else table.columns[1:]
    more = f", and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more if names else "none"
