"""Typed columns from raw ones: every fault is counted and shown by row.

A row's number is its 1-based position among the data rows (the header does not count).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from palate.errors import quoted

_UNITS = ("seconds", "milliseconds", "microseconds", "nanoseconds")
_YEAR_9999 = (253_370_764_800, 253_402_300_799)
"""First and last second of the year 9999, the usual "never"; in milliseconds these are a few hours of 1978."""
_COMPACT_DATES = {
    "%Y%m%d": (19_000_101, 21_001_231),
    "%Y%m%d%H%M%S": (19_000_101_000_000, 21_001_231_235_959),
}
"""Dates written as one number: format -> smallest and largest number."""
_ISO = (
    r"^(?<date>\d{4}[-/]\d{2}[-/]\d{2})(?:[T ]+(?<clock>\d{2}:\d{2}(?::\d{2})?)(?:[.,]\d+)?"
    r"\s*(?<zone>Z|UTC|[+-]\d{2}(?::?\d{2})?)?)?$"
)
_LOCAL = re.compile(r"(\d{1,2})([./-])(\d{1,2})\2(\d{4}|\d{2})( \d{1,2}:\d{2}(:\d{2})?)?")
_ACCEPTED = (
    "; accepted are ISO 8601 (2020-09-22, 2020-09-22T10:30:00Z) and whole numbers since 1970 in seconds, milliseconds, "
    "microseconds or nanoseconds; for any other form pass timestamp_format="
)


def parse_times(values: pl.Series, found: Findings, timestamp_format: str | None = None) -> pl.Series:
    """Seconds since 1970 UTC, Int64.

    Args:
        values: Whole numbers of one unit, dates, times, or text that holds numbers or ISO 8601.
        found: Takes the faults, and a note if the values are converted from another unit.
        timestamp_format: Format of the values, as in `strptime` ("%m/%d/%Y"). Times without a zone are UTC.
    """
    name, dtype = values.name, values.dtype
    if dtype in TEXT_TYPES:
        values = values.cast(pl.String).str.strip_chars().replace("", None)
    found.add_fault(name, "empty", values.is_null())
    if dtype in (pl.Date, pl.Datetime):
        return values.cast(pl.Datetime("us")).dt.epoch("s")
    nothing = pl.repeat(None, len(values), dtype=pl.Int64, eager=True).alias(name)
    if not (dtype in TEXT_TYPES or dtype.is_numeric() or dtype == pl.Null):
        found.add_fault(name, f"not a time (the column is {dtype})", values.is_not_null(), values)
        return nothing
    if timestamp_format is not None:
        return _parse_format(values, timestamp_format, found)
    numbers = nothing if dtype.is_float() else values.cast(pl.Int64, strict=False)
    if numbers.null_count() > values.null_count():
        numbers = numbers.fill_null(values.cast(pl.Float64, strict=False).floor().cast(pl.Int64, strict=False))
    dates = nothing
    if dtype in TEXT_TYPES and numbers.null_count() > values.null_count():
        dates = _parse_iso(values)
    unknown = numbers.is_null() & dates.is_null() & values.is_not_null()
    advice = _ACCEPTED + _suggest_format(values.filter(unknown)) if dtype in TEXT_TYPES else ""
    found.add_fault(name, "not a time", unknown, values, advice)
    if dates.count() and numbers.count():
        rare = min(dates, numbers, key=pl.Series.count).is_not_null()
        found.add_fault(name, "whole numbers and dates are mixed, unlike the rest", rare, values)
    if dates.count() > numbers.count():
        return dates
    compact = _parse_compact_dates(numbers, found)
    return _convert_unit(numbers, values, found) if compact is None else compact


def _parse_format(values: pl.Series, timestamp_format: str, found: Findings) -> pl.Series:
    text = values.cast(pl.Int64, strict=False) if values.dtype.is_float() else values
    times = text.cast(pl.String).str.to_datetime(timestamp_format, strict=False)
    unknown = times.is_null() & values.is_not_null()
    found.add_fault(values.name, f"not of the form timestamp_format={timestamp_format!r}", unknown, values)
    return times.dt.epoch("s")


def _suggest_format(values: pl.Series) -> str:
    """The `timestamp_format` of dates such as 09/22/2020 or 22.9.2020, if that is what the values are."""
    matches = [_LOCAL.fullmatch(value) for value in values.head(1000)]
    found = [match for match in matches if match is not None]
    if not found or len(found) < len(matches):
        return ""
    between, year = found[0][2], "%Y" if len(found[0][4]) == 4 else "%y"
    clock = "" if found[0][5] is None else " %H:%M" if found[0][6] is None else " %H:%M:%S"
    day_first, month_first = (f"{between.join((*order, year))}{clock}" for order in (("%d", "%m"), ("%m", "%d")))
    if between == "." or any(int(match[1]) > 12 for match in found):
        return repr(day_first)
    if any(int(match[3]) > 12 for match in found):
        return repr(month_first)
    return f"{month_first!r} (month first) or {day_first!r} (day first)"


def _parse_compact_dates(numbers: pl.Series, found: Findings) -> pl.Series | None:
    """Seconds of numbers such as 20200131 or 20200131235959; None unless nearly all of them are such dates."""
    if not numbers.count():
        return None
    for form, (first, last) in _COMPACT_DATES.items():
        times = numbers.cast(pl.String).str.to_datetime(form, strict=False)
        within = numbers.is_between(first, last)
        if within.sum() > numbers.count() / 2 and times.filter(within).count() > within.sum() / 2:
            unknown = numbers.is_not_null() & ~(within & times.is_not_null())
            found.add_fault(numbers.name, f"not a date of the form {form}, unlike the rest", unknown, numbers)
            found.notes.append(f"{numbers.name}: read as dates of the form {form}")
            return times.dt.epoch("s")
    return None


def _convert_unit(numbers: pl.Series, values: pl.Series, found: Findings) -> pl.Series:
    """Whole numbers to seconds. The size of a number tells its unit; zero and the year 9999 fit any."""
    size = numbers.abs()
    unit = (size >= 10**11).cast(pl.Int8) + (size >= 10**14).cast(pl.Int8) + (size >= 10**17).cast(pl.Int8)
    clear = (numbers != 0) & ~size.is_between(*_YEAR_9999)
    counts = (
        unit.filter(clear).drop_nulls().alias("unit").value_counts().sort("count", "unit", descending=[True, False])
    )
    if counts.is_empty():
        return numbers
    if counts.height > 1:
        parts = []
        for kind, count in counts.rows():
            where = (unit == kind) & clear
            parts.append(f"{count:,} in {_UNITS[kind]} {found.examples(where, values, limit=2)}")
        found.faults.append(f"{values.name}: units are mixed, {', '.join(parts)}; a column has one unit")
        return numbers // 1000 ** unit.cast(pl.Int64)
    kind = int(counts.item(0, 0))
    if kind:
        found.notes.append(f"{values.name}: converted from {_UNITS[kind]} to seconds")
    return numbers // 1000**kind if kind else numbers


def _parse_iso(text: pl.Series) -> pl.Series:
    """ISO dates and times to seconds, null for other text; without a zone they are UTC."""
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
    in_range = (hour < 24) & (minute < 60) & (second < 61)
    digits = pl.col("zone").str.replace_all(r"[^0-9]", "").str.pad_end(4, "0").cast(pl.Int64, strict=False)
    offset = (digits // 100 * 3600 + digits % 100 * 60) * pl.when(pl.col("zone").str.starts_with("-")).then(
        -1
    ).otherwise(1)
    time = pl.when(pl.col("clock").is_null()).then(0).when(in_range).then(hour * 3600 + minute * 60 + second)
    return parts.select((date + time - offset.fill_null(0)).alias(text.name)).to_series()


ROW = "\x00row"
"""Column of the row numbers."""
MAX_EXAMPLES = 5
"""Examples that a fault lists."""
TEXT_TYPES = (pl.String, pl.Categorical, pl.Enum)

_EXACT_FLOATS: dict[pl.DataType, int] = {pl.Float64(): 2**53, pl.Float32(): 2**24}
"""From here on, a float type no longer holds every whole number."""
_LARGEST_ID = 2**63 - 1


@dataclass(eq=False)
class Findings:
    """What the checks of a table have found so far.

    Attributes:
        rows: The number of each row, Int64 `[rows]`.
        bad: The rows that cannot be used, bool `[rows]`.
        columns: Role -> name of its column in the source, for messages.
        faults, notes: In words.
        merged: Number of rows merged into others.
    """

    rows: pl.Series
    bad: pl.Series
    columns: Mapping[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    merged: int = 0

    @classmethod
    def of(cls, raw: pl.DataFrame) -> Findings:
        """No findings yet; rows are numbered by the column `ROW`, or in order if there is none."""
        rows = raw[ROW] if ROW in raw.columns else pl.int_range(1, raw.height + 1, dtype=pl.Int64, eager=True)
        return cls(rows, pl.repeat(False, raw.height, dtype=pl.Boolean, eager=True))

    def add_fault(
        self, column: str, reason: str, where: pl.Series, values: pl.Series | None = None, advice: str = ""
    ) -> None:
        """Record the rows of a bool mask as faulty, if there are any.

        Args:
            column: The role, or what else the message begins with.
            reason: What is wrong.
            where: Bool `[rows]`.
            values: Raw values, shown as examples.
            advice: What to do, appended to the message.
        """
        if where.any():
            count = plural(int(where.sum()))
            self.faults.append(f"{column}: {reason} in {count} {self.examples(where, values)}{advice}")
            self.bad = self.bad | where.fill_null(False)

    def examples(self, where: pl.Series, values: pl.Series | None = None, limit: int = MAX_EXAMPLES) -> str:
        """The first rows of a bool mask, with their values if given: "('x' in row 3, '' in row 9 and 4 more)"."""
        at = where.arg_true()
        return row_examples(self.rows[at], None if values is None else values[at], limit)


def parse_ids(values: pl.Series, found: Findings) -> pl.Series:
    """Ids as Int64 or String, exactly as given.

    Floats and decimals are accepted if every value is a whole number that the type holds exactly.
    """
    name, dtype = values.name, values.dtype
    if dtype.is_float() or dtype.is_decimal():
        return _ids_of_fractional_type(values, found)
    if dtype.is_integer():
        whole = values.cast(pl.Int64, strict=False)
        found.add_fault(name, "empty", values.is_null())
        reason = f"larger than {_LARGEST_ID:,}, the largest whole number that can be an id,"
        too_large = whole.is_null() & values.is_not_null()
        found.add_fault(name, reason, too_large, values, "; convert the column to text")
        return whole
    if dtype in TEXT_TYPES or dtype == pl.Null:
        text = values.cast(pl.String)
        stripped = text.str.strip_chars()
        found.add_fault(name, "empty", text.is_null() | (stripped == ""))
        _note_blanks(text, stripped, found)
        return text
    reason = f"neither a whole number nor text (the column is {dtype})"
    found.add_fault(name, reason, values.is_not_null(), values)
    found.add_fault(name, "empty", values.is_null())
    return pl.repeat(None, len(values), dtype=pl.String, eager=True).alias(name)


def _ids_of_fractional_type(values: pl.Series, found: Findings) -> pl.Series:
    name, dtype = values.name, values.dtype
    known = values.fill_nan(None) if dtype.is_float() else values
    whole = known.cast(pl.Int64, strict=False)
    merged = pl.repeat(False, len(values), dtype=pl.Boolean, eager=True)
    if dtype in _EXACT_FLOATS:
        limit, column = _EXACT_FLOATS[dtype], found.columns.get(name, name)
        merged = (known.abs() >= limit) & known.is_finite()
        reason = f"{dtype} of {limit:,} or more, where different ids become the same float,"
        cure = (
            f"read column {quoted(column)} as text or as 64-bit integers, for example "
            f"dtype={{{quoted(column)}: 'Int64'}} in pandas"
        )
        found.add_fault(name, reason, merged, values, f"; {cure}")
    found.add_fault(name, "empty", known.is_null())
    fractional = known.is_not_null() & (whole.is_null() | (whole.cast(dtype, strict=False) != known))
    found.add_fault(name, "not a whole number", fractional & ~merged.fill_null(False), values)
    if dtype.is_float() and not found.bad.any():
        found.notes.append(f"{name}: the column holds floats, all of them whole numbers; read as whole numbers")
    return whole


def _note_blanks(text: pl.Series, stripped: pl.Series, found: Findings) -> None:
    """Count ids with surrounding blanks, and those that differ from another id in nothing else."""
    padded = (text != stripped).fill_null(False)
    if not padded.any():
        return
    ids, distinct = text.n_unique(), stripped.n_unique()
    note = f"{text.name}: {text.filter(padded).n_unique():,} of {plural(ids, 'id')} begin or end with a blank "
    note += f"{found.examples(padded, text, limit=2)} and are kept as written"
    if ids > distinct:
        count = f"{ids - distinct:,} of them would equal another id"
        note += f"; without blanks, {count} (strip the column if they are the same)"
    found.notes.append(note)


def parse_numbers(values: pl.Series, found: Findings, scale: tuple[float, float] | None) -> pl.Series:
    """Ratings or weights as Float32.

    Args:
        values: Numbers, or text that holds numbers.
        found: Takes the faults: empty, not a number, not finite, outside `scale`.
        scale: Lowest and highest value allowed.
    """
    name, dtype = values.name, values.dtype
    if dtype in TEXT_TYPES:
        values = values.cast(pl.String).str.strip_chars().replace("", None)
    found.add_fault(name, "empty", values.is_null())
    if not (dtype in TEXT_TYPES or dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)):
        found.add_fault(name, f"not a number (the column is {dtype})", values.is_not_null(), values)
        return pl.repeat(None, len(values), dtype=pl.Float32, eager=True).alias(name)
    numbers = values.cast(pl.Float64, strict=False).cast(pl.Float32, strict=False)
    found.add_fault(name, "not a number", numbers.is_null() & values.is_not_null(), values)
    found.add_fault(name, "NaN or infinite", ~numbers.is_finite(), values)
    if scale is not None:
        low, high = (float(np.float32(bound)) for bound in scale)
        outside = ((numbers < low) | (numbers > high)) & numbers.is_finite()
        allowed = f"outside the scale {low:g} to {high:g}" if np.isfinite(high) else f"below {low:g}"
        found.add_fault(name, allowed, outside, values)
    return numbers


def plural(number: int, noun: str = "row") -> str:
    """ "1 row", "1,234 rows"."""
    return f"{number:,} {noun}" + ("s" if number != 1 else "")


def row_examples(rows: pl.Series, values: pl.Series | None, limit: int = MAX_EXAMPLES) -> str:
    """The first of some row numbers, with their values if given."""
    more = f" and {len(rows) - limit:,} more" if len(rows) > limit else ""
    if values is None:
        return f"(row{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows.head(limit)))}{more})"
    parts = [f"{quoted(value)} in row {row}" for value, row in zip(values.head(limit), rows.head(limit), strict=True)]
    return f"({', '.join(parts)}{more})"
