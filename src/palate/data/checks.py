"""Raw columns -> typed columns, with every fault counted and shown by row.

A row's number is its 1-based place among the data rows (the header does not count).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from palate.data.columns import Role
from palate.data.delimited import shown
from palate.data.formats import TOO_LONG

ROW = "\x00row"
"""Column of the rows' numbers."""
SHOWN = 5
"""How many examples a fault lists."""
_TEXT = (pl.String, pl.Categorical, pl.Enum)
_UNITS = ("seconds", "milliseconds", "microseconds", "nanoseconds")
_ISO = (
    r"^(?<date>\d{4}[-/]\d{2}[-/]\d{2})(?:[T ]+(?<clock>\d{2}:\d{2}(?::\d{2})?)(?:[.,]\d+)?"
    r"\s*(?<zone>Z|UTC|[+-]\d{2}(?::?\d{2})?)?)?$"
)


@dataclass(eq=False)
class Findings:
    """What is wrong with a table's rows so far.

    Attributes:
        rows: The number of each row looked at, Int64 `[rows]`.
        bad: Those that cannot be used, bool `[rows]`.
        faults, notes: In words.
        merged: How many rows `merge` took away.
    """

    rows: pl.Series
    bad: pl.Series
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    merged: int = 0

    @classmethod
    def of(cls, raw: pl.DataFrame) -> Findings:
        """None yet; rows are numbered by `ROW` where there is such a column, else in order."""
        rows = raw[ROW] if ROW in raw.columns else pl.int_range(1, raw.height + 1, dtype=pl.Int64, eager=True)
        return cls(rows, pl.repeat(False, raw.height, dtype=pl.Boolean, eager=True))

    def fault(self, column: str, reason: str, where: pl.Series, values: pl.Series | None = None) -> None:
        """Record the rows of a bool mask as faulty, if there are any."""
        if where.any():
            self.faults.append(f"{column}: {reason} in {counted(int(where.sum()))} {self.examples(where, values)}")
            self.bad = self.bad | where.fill_null(False)

    def examples(self, where: pl.Series, values: pl.Series | None = None, most: int = SHOWN) -> str:
        """The first rows of a bool mask, with their values if given: "('x' in row 3, '' in row 9 and 4 more)"."""
        at = where.arg_true()
        return _examples(self.rows[at], None if values is None else values[at], most)


def convert(
    raw: pl.DataFrame, roles: Mapping[Role, str], scale: tuple[float, float] | None, skip_blank: bool
) -> tuple[pl.DataFrame, Findings]:
    """Give each role its type and find every value that has none.

    Args:
        raw: The columns `roles` names, and perhaps `TOO_LONG`.
        roles: Role -> column.
        scale: Lowest and highest rating allowed.
        skip_blank: Whether rows without any value are empty lines of a text file, left out with a note, not faults.

    Returns:
        The usable rows (`user_id`, `item_id`, ... and `ROW`, their number) and the findings.
    """
    raw = raw.with_columns(pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias(ROW))
    notes: list[str] = []
    faults: list[str] = []
    if TOO_LONG in raw.columns:
        rows = raw.filter(TOO_LONG)[ROW]
        faults.append(f"more fields than in the first line in {counted(len(rows))} {_examples(rows, None)}")
        raw = raw.filter(~pl.col(TOO_LONG))
    if skip_blank and roles and raw[next(iter(roles.values()))].has_nulls():
        blank = pl.all_horizontal(pl.col(*roles.values()).is_null())
        if skipped := raw.select(blank.sum()).item():
            notes.append(f"{counted(skipped, 'empty line')} skipped")
            raw = raw.filter(~blank)
    found = Findings.of(raw)
    found.faults, found.notes = faults, notes
    makers: dict[str, Callable[[pl.Series, Findings], pl.Series]] = {
        "user_id": ids,
        "item_id": ids,
        "rating": lambda values, out: _numbers(values, out, scale),
        "timestamp": _seconds,
        "weight": lambda values, out: _numbers(values, out, (0.0, float("inf"))),
    }
    typed = [makers[role](raw[name].alias(role), found) for role, name in roles.items()]
    frame = pl.DataFrame([*typed, raw[ROW]])
    return (frame.filter(~found.bad) if found.bad.any() else frame), found


def ids(values: pl.Series, found: Findings) -> pl.Series:
    """Ids as Int64 or String, exactly as given."""
    name, dtype = values.name, values.dtype
    if dtype.is_float():
        values = values.fill_nan(None)
        whole = values.cast(pl.Int64, strict=False)
        if whole.null_count() == values.null_count() and (whole.cast(dtype) == values).all():
            found.notes.append(f"{name}: came as floats, all whole; taken as whole numbers")
            values = whole
    if values.dtype.is_integer():
        whole = values.cast(pl.Int64, strict=False)
        found.fault(name, "empty", values.is_null())
        found.fault(name, "beyond 64 bits", whole.is_null() & values.is_not_null(), values)
        return whole
    if dtype in _TEXT or dtype == pl.Null:
        text = values.cast(pl.String)
        found.fault(name, "empty", text.is_null() | (text.str.strip_chars() == ""))
        return text
    found.fault(name, f"neither a whole number nor text (the column is {dtype})", values.is_not_null(), values)
    found.fault(name, "empty", values.is_null())
    return pl.repeat(None, len(values), dtype=pl.String, eager=True).alias(name)


def _numbers(values: pl.Series, found: Findings, scale: tuple[float, float] | None) -> pl.Series:
    name, dtype = values.name, values.dtype
    if dtype in _TEXT:
        values = values.cast(pl.String).str.strip_chars().replace("", None)
    found.fault(name, "empty", values.is_null())
    if not (dtype in _TEXT or dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)):
        found.fault(name, f"not a number (the column is {dtype})", values.is_not_null(), values)
        return pl.repeat(None, len(values), dtype=pl.Float32, eager=True).alias(name)
    numbers = values.cast(pl.Float64, strict=False).cast(pl.Float32, strict=False)
    found.fault(name, "not a number", numbers.is_null() & values.is_not_null(), values)
    found.fault(name, "NaN or infinite", ~numbers.is_finite(), values)
    if scale is not None:
        low, high = (float(np.float32(bound)) for bound in scale)
        outside = ((numbers < low) | (numbers > high)) & numbers.is_finite()
        allowed = f"outside the scale {low:g} to {high:g}" if np.isfinite(high) else f"below {low:g}"
        found.fault(name, allowed, outside, values)
    return numbers


def _seconds(values: pl.Series, found: Findings) -> pl.Series:
    """Seconds since 1970 UTC, Int64, from whole numbers of one unit, dates, times or ISO text."""
    name, dtype = values.name, values.dtype
    if dtype in _TEXT:
        values = values.cast(pl.String).str.strip_chars().replace("", None)
    found.fault(name, "empty", values.is_null())
    if dtype in (pl.Date, pl.Datetime):
        return values.cast(pl.Datetime("us")).dt.epoch("s")
    nothing = pl.repeat(None, len(values), dtype=pl.Int64, eager=True).alias(name)
    if not (dtype in _TEXT or dtype.is_numeric() or dtype == pl.Null):
        found.fault(name, f"not a time (the column is {dtype})", values.is_not_null(), values)
        return nothing
    numbers = nothing if dtype.is_float() else values.cast(pl.Int64, strict=False)
    if numbers.null_count() > values.null_count():
        numbers = numbers.fill_null(values.cast(pl.Float64, strict=False).floor().cast(pl.Int64, strict=False))
    dates = nothing
    if dtype in _TEXT and numbers.null_count() > values.null_count():
        dates = _iso(values)
    found.fault(name, "not a time", numbers.is_null() & dates.is_null() & values.is_not_null(), values)
    if dates.count() and numbers.count():
        rare = min(dates, numbers, key=pl.Series.count).is_not_null()
        found.fault(name, "whole numbers and dates are mixed, unlike the rest", rare, values)
    return dates if dates.count() > numbers.count() else _one_unit(numbers, values, found)


def _one_unit(numbers: pl.Series, values: pl.Series, found: Findings) -> pl.Series:
    """Whole numbers to seconds; the unit shows in the size, zero fits all of them."""
    size = numbers.abs()
    unit = (size >= 10**11).cast(pl.Int8) + (size >= 10**14).cast(pl.Int8) + (size >= 10**17).cast(pl.Int8)
    judged = unit.filter(numbers != 0).drop_nulls()
    if judged.is_empty():
        return numbers
    kinds = judged.alias("unit").value_counts().sort("count", "unit", descending=[True, False])
    if kinds.height > 1:
        parts = []
        for kind, count in kinds.rows():
            where = (unit == kind) & (numbers != 0)
            parts.append(f"{count:,} in {_UNITS[kind]} {found.examples(where, values, most=2)}")
        found.faults.append(f"{values.name}: units are mixed, {', '.join(parts)}; a column has one unit")
        return numbers // 1000 ** unit.cast(pl.Int64)
    kind = int(kinds.item(0, 0))
    if kind:
        found.notes.append(f"{values.name}: {_UNITS[kind]}, turned into seconds")
    return numbers // 1000**kind if kind else numbers


def _iso(text: pl.Series) -> pl.Series:
    """ISO dates and times to seconds; without a zone they are UTC; null where it is neither."""
    parts = text.alias("text").to_frame().select(pl.col("text").str.extract_groups(_ISO)).unnest("text")
    date = (
        pl.col("date")
        .str.replace_all("/", "-")
        .str.to_date("%Y-%m-%d", strict=False)
        .cast(pl.Datetime("us"))
        .dt.epoch("s")
    )
    clock = pl.col("clock").str.split(":").list.eval(pl.element().cast(pl.Int64))
    hour, minute = clock.list.get(0, null_on_oob=True), clock.list.get(1, null_on_oob=True)
    second = clock.list.get(2, null_on_oob=True).fill_null(0)
    inside = (hour < 24) & (minute < 60) & (second < 61)
    digits = pl.col("zone").str.replace_all(r"[^0-9]", "").str.pad_end(4, "0").cast(pl.Int64, strict=False)
    offset = (digits // 100 * 3600 + digits % 100 * 60) * pl.when(pl.col("zone").str.starts_with("-")).then(
        -1
    ).otherwise(1)
    time = pl.when(pl.col("clock").is_null()).then(0).when(inside).then(hour * 3600 + minute * 60 + second)
    return parts.select((date + time - offset.fill_null(0)).alias(text.name)).to_series()


def counted(number: int, what: str = "row") -> str:
    """ "1 row", "1,234 rows"."""
    return f"{number:,} {what}" + ("s" if number != 1 else "")


def _examples(rows: pl.Series, values: pl.Series | None, most: int = SHOWN) -> str:
    more = f" and {len(rows) - most:,} more" if len(rows) > most else ""
    if values is None:
        return f"(row{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows.head(most)))}{more})"
    parts = [f"{shown(value)} in row {row}" for value, row in zip(values.head(most), rows.head(most), strict=True)]
    return f"({', '.join(parts)}{more})"
