"""Times of any form -> seconds since 1970 UTC.

What the form is, units of whole numbers for example, is a matter of the whole column. Of a table that is read in
blocks, `parse_times` keeps what decides it, and `time_rule` decides at the end.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import polars as pl

from palate.data.reading.checks import TEXT_TYPES, Examples, Fault, Findings

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
_MIXED = "whole numbers and dates are mixed, unlike the rest"
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
        return _known(values.cast(pl.Datetime("us")).dt.epoch("s"), values, found)
    nothing = pl.repeat(None, len(values), dtype=pl.Int64, eager=True).alias(name)
    if not (dtype in TEXT_TYPES or dtype.is_numeric() or dtype == pl.Null):
        found.add_fault(name, f"not a time (the column is {dtype})", values.is_not_null(), values)
        return nothing
    if timestamp_format is not None:
        return _known(_parse_format(values, timestamp_format, found), values, found)
    numbers = nothing if dtype.is_float() else values.cast(pl.Int64, strict=False)
    if numbers.null_count() > values.null_count():
        numbers = numbers.fill_null(values.cast(pl.Float64, strict=False).floor().cast(pl.Int64, strict=False))
    dates = nothing
    if dtype in TEXT_TYPES and numbers.null_count() > values.null_count():
        dates = _parse_iso(values)
    unknown = numbers.is_null() & dates.is_null() & values.is_not_null()
    advice = _ACCEPTED + _suggest_format(values.filter(unknown)) if dtype in TEXT_TYPES else ""
    found.add_fault(name, "not a time", unknown, values, advice)
    if found.later is not None:
        _record(numbers, dates, values, found)
        return dates if dates.count() > numbers.count() else numbers
    if dates.count() and numbers.count():
        rare = min(dates, numbers, key=pl.Series.count).is_not_null()
        found.add_fault(name, _MIXED, rare, values)
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
    for form in _COMPACT_DATES:
        times, within = compact_dates(numbers, form)
        if _is_compact(numbers.count(), int(within.sum()), times.filter(within).count()):
            unknown = numbers.is_not_null() & ~(within & times.is_not_null())
            found.add_fault(numbers.name, _not_compact(form), unknown, numbers)
            found.notes.append(f"{numbers.name}: read as dates of the form {form}")
            return times
    return None


def compact_dates(numbers: pl.Series, form: str) -> tuple[pl.Series, pl.Series]:
    """Seconds of numbers that are dates of a form, else null; and which numbers are as large as such dates."""
    within = numbers.is_between(*_COMPACT_DATES[form]).fill_null(False)
    if not within.any():
        return pl.repeat(None, len(numbers), dtype=pl.Int64, eager=True), within
    return numbers.cast(pl.String).str.to_datetime(form, strict=False).dt.epoch("s"), within


def _is_compact(numbers: int, within: int, dates: int) -> bool:
    return within > numbers / 2 and dates > within / 2


def _not_compact(form: str) -> str:
    return f"not a date of the form {form}, unlike the rest"


def _units(numbers: pl.Series) -> tuple[pl.Series, pl.Series]:
    """The unit of each number (see `_UNITS`) by its size, and whether it is clear: 0 and the year 9999 fit any."""
    size = numbers.abs()
    unit = (size >= 10**11).cast(pl.Int8) + (size >= 10**14).cast(pl.Int8) + (size >= 10**17).cast(pl.Int8)
    return unit, ((numbers != 0) & ~size.is_between(*_YEAR_9999)).fill_null(False)


def _convert_unit(numbers: pl.Series, values: pl.Series, found: Findings) -> pl.Series:
    """Whole numbers to seconds."""
    unit, clear = _units(numbers)
    counts = [found.examples((unit == kind) & clear, values) for kind in range(len(_UNITS))]
    kind = _common_unit(values.name, counts, found)
    if kind is None:
        return numbers // 1000 ** unit.cast(pl.Int64)
    return numbers // 1000**kind if kind else numbers


def _common_unit(name: str, counts: Sequence[Examples], found: Findings) -> int | None:
    """The unit of a column (see `_UNITS`); None, and a fault, if it has several.

    Args:
        name: Of the column.
        counts: The rows of each unit.
        found: Takes the fault, and a note if the unit is not seconds.
    """
    used = sorted((kind for kind, rows in enumerate(counts) if rows.count), key=lambda kind: -counts[kind].count)
    if len(used) > 1:
        parts = [f"{counts[kind].count:,} in {_UNITS[kind]} {counts[kind].listed(2)}" for kind in used]
        found.faults.append(f"{name}: units are mixed, {', '.join(parts)}; a column has one unit")
        return None
    if used and used[0]:
        found.notes.append(f"{name}: converted from {_UNITS[used[0]]} to seconds")
    return used[0] if used else 0


def _known(seconds: pl.Series, values: pl.Series, found: Findings) -> pl.Series:
    """Seconds that need no other row to be understood."""
    if found.later is not None:
        found.add_later("dates", seconds.is_not_null(), values)
    return seconds


def _record(numbers: pl.Series, dates: pl.Series, values: pl.Series, found: Findings) -> None:
    """Keep what decides, once all blocks were read, how whole numbers are to be understood."""
    found.add_later("dates", dates.is_not_null(), values)
    found.add_later("numbers", numbers.is_not_null(), values)
    if not numbers.count():
        return
    unit, clear = _units(numbers)
    for kind in range(len(_UNITS)):
        found.add_later(f"unit {kind}", (unit == kind) & clear, values)
    for form in _COMPACT_DATES:
        times, within = compact_dates(numbers, form)
        found.add_later(f"within {form}", within, values)
        found.add_later(f"dates {form}", within & times.is_not_null(), values)
        found.add_later(f"not {form}", numbers.is_not_null() & ~(within & times.is_not_null()), numbers)


def time_rule(name: str, found: Findings) -> str:
    """How the whole numbers of a column that was read in blocks become seconds; `apply_rule` takes it.

    Args:
        name: Of the column.
        found: What `parse_times` kept in `later`; takes the faults and notes.

    Returns:
        A key of `_COMPACT_DATES`, or the number by which they are divided.
    """
    assert found.later is not None
    rows = defaultdict(Examples, found.later)
    numbers, dates = rows["numbers"], rows["dates"]
    if dates.count and numbers.count:
        found.faults.append(Fault(name, _MIXED, min(dates, numbers, key=lambda one: one.count)))
    if dates.count > numbers.count or not numbers.count:
        return "1"
    for form in _COMPACT_DATES:
        if _is_compact(numbers.count, rows[f"within {form}"].count, rows[f"dates {form}"].count):
            if rows[f"not {form}"].count:
                found.faults.append(Fault(name, _not_compact(form), rows[f"not {form}"]))
            found.notes.append(f"{name}: read as dates of the form {form}")
            return form
    return str(1000 ** (_common_unit(name, [rows[f"unit {kind}"] for kind in range(len(_UNITS))], found) or 0))


def apply_rule(numbers: np.ndarray, rule: str) -> np.ndarray:
    """Seconds, int64 `[rows]`.

    Args:
        numbers: What `parse_times` gave for a block, int64 `[rows]`.
        rule: From `time_rule`.
    """
    if rule in _COMPACT_DATES:
        return compact_dates(pl.Series(numbers), rule)[0].to_numpy()
    return numbers if rule == "1" else numbers // int(rule)


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
