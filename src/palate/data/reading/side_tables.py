"""Side tables: attributes of items or users, one row for each id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from palate.data.features.infer import IMAGE_PATH, are_image_paths
from palate.data.reading.checks import Findings, parse_ids
from palate.data.reading.delimited import WHOLE
from palate.data.reading.formats import open_table
from palate.data.reading.table import KNOWN_NAMES, MAX_GB, TOO_LONG, Columns, Table, Types, find_id_column, without_type
from palate.errors import DataError, quoted


def read_side(
    source: Any,
    key: str,
    dtype: pl.DataType | type[pl.DataType] | None = None,
    *,
    id_column: str | None = None,
    mapping: Columns | None = None,
    columns: Sequence[str] | None = None,
    separator: str | None = None,
    has_header: bool | None = None,
    encoding: str = "utf-8",
    connection: Any = None,
    max_gb: float = MAX_GB,
) -> pl.DataFrame:
    """Read a table of items or users.

    Args:
        source: As in `read_interactions`.
        key: "item_id" or "user_id".
        dtype: Type of the ids in the interactions; whole numbers become text or back, if that changes no id.
        id_column: Name of the column of ids. Defaults to the column that `mapping` names for `key`, else to one
            recognised by its usual names, or "id".
        mapping: The `columns` of the interactions, which a side table with the same name for its ids follows.
        columns: Names of the columns in file order, for a text file without a header.
        separator, has_header, encoding, connection, max_gb: As in `read_interactions`.

    Returns:
        The key (Int64 or String) first, then all other columns. A column of a text file becomes numeric if every value
        is a number. Relative paths of images are resolved against the folder of the table.

    Raises:
        DataError: There is no column of ids, ids are empty or repeated, or ids are not of `dtype`.
    """
    named = [id_column] if id_column is not None else []
    table = open_table(
        source,
        separator=separator,
        has_header=has_header if columns is None else False,
        encoding=encoding,
        connection=connection,
        known=[*named, *KNOWN_NAMES, "id"],
        max_gb=max_gb,
    )
    if columns is not None:
        table = _rename(table, columns)
    name = find_id_column(table, key, id_column, mapping)
    if len(set(table.names)) < len(table.names):
        repeated = sorted({n for n in table.names if table.names.count(n) > 1})
        raise DataError(f"{table.label}: several columns are called {', '.join(map(quoted, repeated))}; rename them")
    frame = table.read(table.names, {})
    if table.is_text:
        frame = frame.filter(~pl.all_horizontal(pl.col(*table.names).is_null()))
    found = Findings.of(frame)
    found.columns = {key: name}
    if TOO_LONG in frame.columns:
        found.add_fault("table", "more fields than in the first line", frame[TOO_LONG])
    keys = _convert_keys(parse_ids(frame[name].alias(key), found), dtype, found)
    found.add_fault(key, "repeated", keys.is_duplicated() & keys.is_not_null(), keys)
    if found.faults:
        raise DataError.faults(table.label, found.texts)
    return pl.DataFrame([keys, *_attribute_columns(table, frame, [n for n in table.names if n != name], source)])


def read_columns(source: Any) -> pl.DataFrame:
    """Read a table of users or items that needs no ids; its columns are converted as in `read_side`.

    Args:
        source: As in `read_interactions`.

    Raises:
        DataError: The source cannot be read as a table.
    """
    table = open_table(source, known=[*KNOWN_NAMES, "id"])
    return pl.DataFrame(_attribute_columns(table, table.read(table.names, {}), list(table.names), source))


def _attribute_columns(table: Table, frame: pl.DataFrame, names: Sequence[str], source: Any) -> list[pl.Series]:
    """Columns without RecBole's types: numeric if all text is numbers; image paths resolved against the folder."""
    folder = Path(source).expanduser().absolute().parent if isinstance(source, (str, Path)) else None
    found = []
    for name in names:
        values = _numeric_if_all_numbers(frame[name]) if table.is_text else frame[name]
        found.append((values if folder is None else _resolve_image_paths(values, folder)).alias(without_type(name)))
    return found


def _resolve_image_paths(values: pl.Series, folder: Path) -> pl.Series:
    if values.dtype != pl.String or not values.drop_nulls().len() or not are_image_paths(values):
        return values
    absolute = values.str.contains(r"^(?:[/\\~]|[A-Za-z]:|[a-z]+://)") | ~values.str.contains(IMAGE_PATH)
    return pl.select(pl.when(absolute).then(values).otherwise(pl.lit(f"{folder}/") + values)).to_series()


def _rename(table: Table, columns: Sequence[str]) -> Table:
    """The same table with other names for its columns."""
    if isinstance(columns, str) or len(columns) != len(table.names):
        raise DataError(f"{table.label}: columns names {len(columns)} columns, the file has {len(table.names)}")
    old = dict(zip(columns, table.names, strict=True))

    def read(names: Sequence[str], types: Types) -> pl.DataFrame:
        frame = table.read([old[name] for name in names], {old[name]: dtype for name, dtype in types.items()})
        return frame.rename({old[name]: name for name in names})

    return replace(table, names=tuple(columns), read=read)


def _convert_keys(keys: pl.Series, dtype: pl.DataType | type[pl.DataType] | None, found: Findings) -> pl.Series:
    if dtype is None or keys.null_count() == len(keys):
        return keys
    if dtype == pl.String:
        return keys.cast(pl.String)
    if keys.dtype == pl.String:
        whole = keys.str.contains(f"^{WHOLE}$")
        reason = "not a whole number, while the ids of the interactions are whole numbers,"
        found.add_fault(keys.name, reason, ~whole, keys)
        return keys.cast(pl.Int64, strict=False)
    return keys


def _numeric_if_all_numbers(text: pl.Series) -> pl.Series:
    """A text column as numbers if each value is a number; "007" is not one, so that codes survive."""
    if text.null_count() == len(text):
        return text
    if text.str.contains(f"^{WHOLE}$").all():
        whole = text.cast(pl.Int64, strict=False)
        return whole if whole.null_count() == text.null_count() else text
    if text.str.contains(r"^-?(?:0|[1-9]\d*)(?:\.\d+)?$").all():
        return text.cast(pl.Float64)
    return text
