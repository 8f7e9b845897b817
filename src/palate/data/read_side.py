"""Tables of items and users: read, checked, and looked at."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from palate.data.checks import Findings, ids
from palate.data.columns import NAMES, find_columns, find_key
from palate.data.delimited import WHOLE, plain
from palate.data.formats import TOO_LONG, Table, Types, open_table
from palate.data.kinds import IMAGE_PATH, Look, are_paths, look
from palate.errors import DataError


def read_side(
    source: Any,
    key: str,
    dtype: pl.DataType | type[pl.DataType] | None = None,
    *,
    columns: Sequence[str] | None = None,
    separator: str | None = None,
    has_header: bool | None = None,
    encoding: str = "utf-8",
    connection: Any = None,
) -> pl.DataFrame:
    """Read a table of items or users.

    Args:
        source: As for `read_interactions`.
        key: "item_id" or "user_id"; its column is recognised by its usual names, or "id".
        dtype: Type of the ids in the interactions; whole numbers become text or back, where that changes no id.
        columns: What the columns are called, in their order, for a text file without a header.
        separator, has_header, encoding, connection: As for `read_interactions`.

    Returns:
        The key (Int64 or String) and all other columns; columns of a text file become numbers where every value is one.
        Paths of images that are relative are taken from the table's own folder.

    Raises:
        DataError: No key column, empty or repeated ids, ids that are not of `dtype`.
    """
    table = open_table(
        source,
        separator=separator,
        has_header=has_header if columns is None else False,
        encoding=encoding,
        connection=connection,
        known=[*NAMES, "id"],
    )
    if columns is not None:
        table = _named(table, columns)
    name = find_key(table, key)
    if len(set(table.names)) < len(table.names):
        twice = sorted({n for n in table.names if table.names.count(n) > 1})
        raise DataError(f"{table.label}: several columns are called {', '.join(map(repr, twice))}")
    frame = table.read(table.names, {})
    if table.is_text:
        frame = frame.filter(~pl.all_horizontal(pl.col(*table.names).is_null()))
    found = Findings.of(frame)
    if TOO_LONG in frame.columns:
        found.fault("table", "more fields than in the first line", frame[TOO_LONG])
    keys = _as_dtype(ids(frame[name].alias(key), found), dtype, found)
    found.fault(key, "repeated", keys.is_duplicated() & keys.is_not_null(), keys)
    if found.faults:
        raise DataError.faults(table.label, found.faults)
    return pl.DataFrame([keys, *_others(table, frame, [n for n in table.names if n != name], source)])


def read_columns(source: Any) -> pl.DataFrame:
    """A table of people or items that need not have an id; its columns as in `read_side`."""
    table = open_table(source, known=[*NAMES, "id"])
    return pl.DataFrame(_others(table, table.read(table.names, {}), list(table.names), source))


@dataclass(frozen=True, kw_only=True)
class SideInspection:
    """What a table of items or users holds.

    Attributes:
        label: The file, query or frame.
        key: `item_id` or `user_id`.
        rows: One for each item or user.
        columns: All but the key.
        faults: None; a table with faults is an error.
    """

    label: str
    key: str
    rows: int
    columns: tuple[Look, ...]
    faults: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The inspection as aligned text."""
        cells = [("column", "kind", "missing", "examples")]
        for one in self.columns:
            kind = f"{one.kind or '-'}{' (declared)' if one.declared else ''}"
            cells.append((one.name, kind, f"{one.missing:.1%}", one.why or ", ".join(one.examples)))
        widths = [max(len(row[k]) for row in cells) for k in range(3)]
        out = [f"{self.label}: {self.rows:,} {self.key.removesuffix('_id')}s", ""]
        for name, kind, missing, examples in cells:
            start = f"  {name:{widths[0]}}  {kind:{widths[1]}}  {missing:>{widths[2]}}  "
            out.append((start + textwrap.shorten(examples, 120 - len(start), placeholder=" ...")).rstrip())
        return out

    def __str__(self) -> str:
        return "\n".join(self.lines())


def inspect_side(source: Any, kinds: dict[str, str] | None = None, **options: Any) -> SideInspection | None:
    """What a table of items or users holds; None where the source is not one, for it has users and items, or neither.

    Args:
        source: As for `read_side`.
        kinds: Declared kinds of its columns.
        options: Those of `read_side`.

    Raises:
        DataError: The ids are empty or repeated, or a column is not of its declared kind.
    """
    table = open_table(source, known=[*NAMES, "id"], **options)
    roles, _ = find_columns(table, None)
    if {"user_id", "item_id"} <= set(roles):
        return None
    key = next((key for key in ("item_id", "user_id") if key in roles), "item_id")
    try:
        find_key(table, key)
    except DataError:
        return None
    try:
        frame = read_side(source, key, **options)
    except DataError:
        if "rating" in roles:  # interactions whose column of users has an unusual name
            return None
        raise
    columns = tuple(look(frame, key, kinds or {}))
    return SideInspection(label=table.label, key=key, rows=frame.height, columns=columns)


def _others(table: Table, frame: pl.DataFrame, names: Sequence[str], source: Any) -> list[pl.Series]:
    """Columns under plain names: numbers where text is nothing else, images' paths seen from the table's folder."""
    folder = Path(source).expanduser().absolute().parent if isinstance(source, (str, Path)) else None
    found = []
    for name in names:
        values = _numbers_if_all(frame[name]) if table.is_text else frame[name]
        found.append((values if folder is None else _placed(values, folder)).alias(plain(name)))
    return found


def _placed(values: pl.Series, folder: Path) -> pl.Series:
    if values.dtype != pl.String or not values.drop_nulls().len() or not are_paths(values):
        return values
    elsewhere = values.str.contains(r"^(?:[/\\~]|[A-Za-z]:|[a-z]+://)") | ~values.str.contains(IMAGE_PATH)
    return pl.select(pl.when(elsewhere).then(values).otherwise(pl.lit(f"{folder}/") + values)).to_series()


def _named(table: Table, columns: Sequence[str]) -> Table:
    """The same table, its columns called otherwise."""
    if isinstance(columns, str) or len(columns) != len(table.names):
        raise DataError(f"{table.label}: columns names {len(columns)} columns, the file has {len(table.names)}")
    old = dict(zip(columns, table.names, strict=True))

    def read(names: Sequence[str], types: Types) -> pl.DataFrame:
        frame = table.read([old[name] for name in names], {old[name]: dtype for name, dtype in types.items()})
        return frame.rename({old[name]: name for name in names})

    return replace(table, names=tuple(columns), read=read)


def _as_dtype(keys: pl.Series, dtype: pl.DataType | type[pl.DataType] | None, found: Findings) -> pl.Series:
    if dtype is None or keys.null_count() == len(keys):
        return keys
    if dtype == pl.String:
        return keys.cast(pl.String)
    if keys.dtype == pl.String:
        whole = keys.str.contains(f"^{WHOLE}$")
        found.fault(keys.name, "not a whole number, as the ids in the interactions are,", ~whole, keys)
        return keys.cast(pl.Int64, strict=False)
    return keys


def _numbers_if_all(text: pl.Series) -> pl.Series:
    """A text column as numbers, where each value is one; "007" is none, so that codes survive."""
    if text.null_count() == len(text):
        return text
    if text.str.contains(f"^{WHOLE}$").all():
        whole = text.cast(pl.Int64, strict=False)
        return whole if whole.null_count() == text.null_count() else text
    if text.str.contains(r"^-?(?:0|[1-9]\d*)(?:\.\d+)?$").all():
        return text.cast(pl.Float64)
    return text
