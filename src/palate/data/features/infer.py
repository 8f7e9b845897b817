"""Infer the kind of each column of a side table, or the reason why it is not used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from typing import Literal, cast, get_args

import numpy as np
import polars as pl

from palate.data.features.values import (
    as_dates,
    as_lists,
    as_numbers,
    as_tokens,
    as_vectors,
    as_words,
    describe_column,
    stripped,
)
from palate.errors import ConfigError, DataError, quoted

Kind = Literal["number", "category", "tags", "date", "text", "image", "vector"]
KINDS: tuple[Kind, ...] = get_args(Kind)
IGNORE = "ignore"
"""Declared in place of a kind: the column is not used."""
TITLE = "title"
"""Declared in place of a kind: the column holds the titles of items; its kind is inferred."""
SAMPLE_ROWS = 20_000
"""Rows from which the kind of a text column is inferred."""
TAG_SEPARATORS = ("|", ";", ", ", ",")
IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
IMAGE_PATH = rf"(?i)\.(?:{'|'.join(IMAGE_ENDINGS)})$"
_IMAGE_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF", b"II*\x00", b"MM\x00*")
"""First bytes of images."""


@dataclass(frozen=True, kw_only=True)
class ColumnReport:
    """One column of a side table.

    Attributes:
        name: Of the column.
        kind: None if the column is not used.
        why: The reason, if the column is not used.
        declared: Whether the kind was declared by the user.
        missing: Share of the rows without a value.
        examples: Some values, shortened.
    """

    name: str
    kind: Kind | None
    why: str = ""
    declared: bool = False
    missing: float = 0.0
    examples: tuple[str, ...] = ()


def infer_columns(table: pl.DataFrame, key: str, declared: Mapping[str, str]) -> list[ColumnReport]:
    """Infer the kind of every column except the ids.

    Args:
        table: Of items or users.
        key: The column of ids.
        declared: Column -> kind, "ignore" or "title"; takes precedence over inference.

    Raises:
        ConfigError: A declared kind does not exist.
        DataError: A declared column does not exist, or does not hold values of the kind.
    """
    check_declared(table.columns, key, declared)
    found, faults = [], []
    for values in table.get_columns():
        if values.name == key:
            continue
        declaration = declared.get(values.name)
        why = ""
        if declaration is None or declaration == TITLE:
            kind, why = infer_kind(values)
        elif declaration == IGNORE:
            kind, why = None, "declared as ignore"
        else:
            kind = cast(Kind, declaration)
            try:
                check_kind(values, kind)
            except ValueError as error:
                faults.append(f"{values.name} is declared as {kind} and holds {error}")
        known = values.drop_nulls().head(100)
        some = known.head(1) if known.dtype.is_nested() else known.unique(maintain_order=True).head(3)
        found.append(
            ColumnReport(
                name=values.name,
                kind=kind,
                why=why,
                declared=declaration is not None,
                missing=values.null_count() / max(len(values), 1),
                examples=tuple(map(_shorten, some)),
            )
        )
    if faults:
        raise DataError.faults(f"the table of {key.removesuffix('_id')}s", faults)
    return found


def infer(table: pl.DataFrame, key: str, declared: Mapping[str, str]) -> dict[str, Kind]:
    """Column -> kind of the columns that are used, in table order; arguments and errors as in `infer_columns`."""
    return {one.name: one.kind for one in infer_columns(table, key, declared) if one.kind is not None}


def check_declared(columns: list[str], key: str, declared: Mapping[str, str]) -> None:
    """Check declared kinds.

    Args:
        columns: Names of the table's columns.
        key: The column of ids.
        declared: Column -> kind, "ignore" or "title".

    Raises:
        ConfigError: Lists all kinds that do not exist.
        DataError: Lists all columns that do not exist.
    """
    kinds = (*KINDS, IGNORE, TITLE)
    wrong = [
        f"{name} = {kind!r} is not one of {', '.join(kinds)}" for name, kind in declared.items() if kind not in kinds
    ]
    if wrong:
        raise ConfigError.faults("kinds of columns", wrong)
    faults = []
    for name in declared:
        if name not in columns or name == key:
            near = get_close_matches(name, columns, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; columns found: {', '.join(map(repr, columns[:20]))}"
            faults.append(f"no column {name!r}, declared as {declared[name]}{hint}")
    if faults:
        raise DataError.faults(f"the table of {key.removesuffix('_id')}s", faults)


def check_kind(values: pl.Series, kind: Kind) -> None:
    """Raise `ValueError` if a column does not hold values of a kind."""
    if kind == "number":
        as_numbers(values)
    elif kind == "category":
        as_words(values)
    elif kind == "tags":
        as_lists(values, separator_of(values) or "|")
    elif kind == "date":
        as_dates(values)
    elif kind == "text":
        as_tokens(values.head(0))
    elif kind == "vector":
        as_vectors(values)
    elif values.dtype not in (pl.Binary, pl.String, pl.Null):
        raise ValueError(f"{describe_column(values)}, neither bytes nor file paths")


def infer_kind(values: pl.Series) -> tuple[Kind | None, str]:
    """The kind of a column, or None and the reason why it is not used."""
    dtype, known = values.dtype, values.drop_nulls()
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        known = stripped(values).drop_nulls()
    if not len(known):
        return None, "no values"
    if isinstance(dtype, (pl.List, pl.Array)):
        return _infer_list_kind(values)
    if dtype == pl.Binary:
        images = sum(int(known.bin.starts_with(start).sum()) for start in _IMAGE_SIGNATURES)
        return ("image", "") if 2 * images >= len(known) else (None, "bytes that are not images")
    if dtype.is_nested() or dtype in (pl.Object, pl.Time, pl.Duration):
        return None, f"columns of type {str(dtype).lower()} are not supported"
    if len(values) > 1 and known.n_unique() == 1:
        return None, f"all values are equal: {_shorten(known[0])}"
    if dtype == pl.Boolean:
        return "category", ""
    if dtype.is_temporal():
        return "date", ""
    return ("number", "") if dtype.is_numeric() else _infer_text_kind(_sample(known))


def _infer_list_kind(values: pl.Series) -> tuple[Kind | None, str]:
    inner = values.dtype.inner  # type: ignore[attr-defined]
    if inner in (pl.String, pl.Categorical, pl.Enum) or (inner.is_integer() and isinstance(values.dtype, pl.List)):
        empty = int(values.cast(pl.List(pl.String)).list.len().sum()) == 0
        return (None, "no values") if empty else ("tags", "")
    if not inner.is_numeric():
        return None, f"columns of type {str(values.dtype).lower()} are not supported"
    try:
        width = as_vectors(values).shape[1]
    except ValueError as error:
        return None, str(error)
    return ("vector", "") if width else (None, "no values")


def are_image_paths(text: pl.Series) -> bool:
    """Whether at least half of a column's texts are paths of images; the others count as unusable images."""
    return 2 * int(text.str.contains(IMAGE_PATH).sum()) >= len(text) - text.null_count()


def _infer_text_kind(text: pl.Series) -> tuple[Kind | None, str]:
    """Decided by the form of the values, their number of words, and how often they repeat."""
    if are_image_paths(text):
        return "image", ""
    if _are_dates(text):
        return "date", ""
    if separator_of(text):
        return "tags", ""
    words, distinct = as_tokens(text).list.len().to_numpy(), text.n_unique()
    if words.mean() <= 1.5 and distinct > 0.95 * len(text) and len(text) >= 50:
        return None, "every value is a different single word, such as an id"
    if distinct <= 20 and words.max() <= 8 and distinct < len(text):
        return "category", ""
    return ("category" if words.mean() <= (4 if distinct <= 0.75 * len(text) else 1.5) else "text"), ""


def _are_dates(text: pl.Series) -> bool:
    if not text.head(20).str.contains(r"^(?:\d{4}[-/]\d{2}[-/]\d{2}|\d{1,2} [A-Za-z]{3} \d{4}$)").any():
        return False
    return as_dates(text).is_not_null().sum() >= 0.95 * len(text)


def separator_of(values: pl.Series) -> str:
    """The separator of the tags in a text column ("Action|Comedy"); "" if its values are not tags.

    Tags are short and repeat: three words or fewer on average, and fewer than four fifths of them are distinct.
    """
    if values.dtype not in (pl.String, pl.Categorical, pl.Enum):
        return ""
    text = _sample(stripped(values).drop_nulls())
    for separator in TAG_SEPARATORS:
        share = float(text.str.contains(separator, literal=True).mean() or 0)  # type: ignore[arg-type]
        if share < (0.3 if "," in separator else 0.02):
            continue
        tags = text.str.split(separator).explode().str.strip_chars()
        tags = tags.filter(tags != "")
        words = tags.str.split(" ").list.len().to_numpy()
        few = tags.n_unique() < 0.8 * len(tags) or (len(text) < 20 and "," not in separator)
        if len(tags) and words.mean() <= 3 and np.quantile(words, 0.95) <= 5 and few:
            return separator
    return ""


def _sample(values: pl.Series) -> pl.Series:
    return values if len(values) <= SAMPLE_ROWS else values.gather_every(len(values) // SAMPLE_ROWS)


def _shorten(value: object) -> str:
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, pl.Series):
        value = value.head(4).to_list()
    if isinstance(value, date):
        value = str(value)
    return quoted(f"{value:g}" if isinstance(value, float) else value, 30).strip("'\"")
