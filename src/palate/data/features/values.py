"""Convert the values of a column to its kind: numbers, dates, texts, lists, vectors. Null means unknown.

Each function raises `ValueError`, which says what the column holds, if the column cannot be converted.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from palate.errors import quoted

MAX_CHARACTERS = 32_768
"""Characters of a text that are read; the rest is ignored."""
TOKEN_PATTERN = (
    r"[\p{Han}\p{Hiragana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]\p{M}*"
    r"|[\p{L}\p{M}\p{N}--[\p{Han}\p{Hiragana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]]+"
)
"""A token: a run of letters, marks and digits, or a single character of a script without spaces between words."""
_TEXT = (pl.String, pl.Categorical, pl.Enum)


def as_numbers(values: pl.Series) -> pl.Series:
    """Float64; NaN and infinite values are unknown."""
    if values.dtype in _TEXT:
        text = stripped(values)
        numbers = text.cast(pl.Float64, strict=False)
        _refuse(numbers.is_null() & text.is_not_null(), values, "text that is not a number")
    elif values.dtype.is_numeric() or values.dtype in (pl.Boolean, pl.Null):
        numbers = values.cast(pl.Float64, strict=False)
    else:
        raise ValueError(describe_column(values))
    return numbers.to_frame("x").select(pl.when(pl.col("x").is_finite()).then("x")).to_series()


def as_words(values: pl.Series) -> pl.Series:
    """String; whole numbers stored as floats are written without a decimal point, so that 3.0 becomes "3"."""
    if values.dtype in _TEXT:
        return stripped(values)
    if values.dtype.is_float():
        known = values.fill_nan(None)
        whole = known.cast(pl.Int64, strict=False)
        return (whole if bool((whole == known).fill_null(True).all()) else known).cast(pl.String)
    if values.dtype.is_numeric() or values.dtype in (pl.Boolean, pl.Null) or values.dtype.is_temporal():
        return values.cast(pl.String)
    raise ValueError(describe_column(values))


def as_lists(values: pl.Series, separator: str) -> pl.Series:
    """List(String); nulls and empty texts are removed from the lists."""
    if values.dtype == pl.Null:
        return values.cast(pl.List(pl.String))
    if values.dtype in _TEXT:
        if not separator:
            raise ValueError("text, not lists")
        lists = values.cast(pl.String).str.split(separator)
    elif isinstance(values.dtype, (pl.List, pl.Array)) and not values.dtype.inner.is_nested():
        lists = values.cast(pl.List(pl.String))
    else:
        raise ValueError(describe_column(values))
    element = pl.element().str.strip_chars()
    return lists.list.eval(element.filter(element != ""))


def as_dates(values: pl.Series) -> pl.Series:
    """Date; text may be 2001-12-31, 2001/12/31 (optionally with a time) or 31 Dec 2001, other text is unknown."""
    if values.dtype == pl.Null or values.dtype == pl.Date:
        return values.cast(pl.Date)
    if isinstance(values.dtype, pl.Datetime):
        return values.dt.date()
    if values.dtype not in _TEXT:
        raise ValueError(describe_column(values))
    text = stripped(values)
    day = text.str.slice(0, 10).str.replace_all("/", "-").str.to_date("%Y-%m-%d", strict=False)
    found = day.zip_with(day.is_not_null(), text.str.to_date("%d %b %Y", strict=False))
    if text.null_count() < len(text) and found.null_count() == len(found):
        _refuse(text.is_not_null(), values, "text that is not a date")
    return found


def as_vectors(values: pl.Series, width: int | None = None) -> np.ndarray:
    """float32 `[N, width]`; a row of NaN if a vector is missing, empty, or holds an unknown or infinite value.

    Args:
        values: Lists or arrays of numbers.
        width: Length of each vector. Defaults to that of the first one.
    """
    if values.dtype == pl.Null:
        return np.full((len(values), width or 0), np.nan, dtype=np.float32)
    if not isinstance(values.dtype, (pl.List, pl.Array)) or not values.dtype.inner.is_numeric():
        raise ValueError(describe_column(values))
    lists = values.cast(pl.List(pl.Float32))
    lengths = lists.list.len().fill_null(0).to_numpy()
    there = np.flatnonzero(lengths)
    width = width or (int(lengths[there[0]]) if len(there) else 0)
    uneven = there[lengths[there] != width]
    if len(uneven):
        row = int(uneven[0])
        raise ValueError(f"vectors of several lengths: {lengths[row]} numbers in row {row + 1}, expected {width}")
    out = np.full((len(values), width), np.nan, dtype=np.float32)
    if len(there):
        out[there] = lists.filter(pl.Series(lengths > 0)).explode().to_numpy().reshape(len(there), width)
        out[~np.isfinite(out).all(1)] = np.nan
    return out


def as_tokens(values: pl.Series, length: int | None = None) -> pl.Series:
    """List(String): the first `length` words of a text, lower-cased, in any script."""
    if isinstance(values.dtype, pl.List) and values.dtype.inner == pl.String:
        values = values.list.join(" ", ignore_nulls=True)
    text = as_words(values).fill_null("").str.slice(0, MAX_CHARACTERS)
    tokens = text.str.normalize("NFKC").str.to_lowercase().str.extract_all(TOKEN_PATTERN)
    return tokens if length is None else tokens.list.head(length)


def stripped(values: pl.Series) -> pl.Series:
    """String without surrounding blanks; null if nothing remains."""
    text = values.cast(pl.String).str.strip_chars()
    return text.to_frame("x").select(pl.when(pl.col("x") != "").then("x")).to_series()


def describe_column(values: pl.Series) -> str:
    """The type of a column with an example, for messages."""
    known = values.drop_nulls()
    return f"{str(values.dtype).lower()}" + (f" (such as {quoted(str(known[0]))})" if len(known) else "")


def _refuse(bad: pl.Series, values: pl.Series, reason: str) -> None:
    if bad.any():
        row = int(bad.arg_true()[0])
        raise ValueError(f"{reason} ({quoted(str(values[row]))} in row {row + 1})")
