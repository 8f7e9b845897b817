"""Typed columns from raw ones, and one row of several: every fault is counted and shown by row.

A row's number is its 1-based position among the data rows (the header does not count). Times are in
`palate.data.reading.times`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import polars as pl

from palate.errors import quoted

Duplicates = Literal["error", "last", "first", "mean", "sum", "keep"]
"""What becomes of several rows of one user and item: one row, or events of their own."""
ROW = "\x00row"
"""Column of the row numbers."""
MAX_EXAMPLES = 5
"""Examples that a fault lists."""
TEXT_TYPES = (pl.String, pl.Categorical, pl.Enum)

_EXACT_FLOATS: dict[pl.DataType, int] = {pl.Float64(): 2**53, pl.Float32(): 2**24}
"""From here on, a float type no longer holds every whole number."""
_LARGEST_ID = 2**63 - 1
_PAIR = ["user_id", "item_id"]


@dataclass(frozen=True)
class Examples:
    """Some rows of a table: how many there are, and the first of them in words.

    Attributes:
        count: Number of rows.
        shown: The first ones: row numbers, or "'x' in row 3".
        values: Whether `shown` tells values.
    """

    count: int = 0
    shown: tuple[str, ...] = ()
    values: bool = False

    def __add__(self, later: Examples) -> Examples:
        shown = (self.shown + later.shown)[:MAX_EXAMPLES]
        return Examples(self.count + later.count, shown, self.values or later.values)

    def listed(self, limit: int = MAX_EXAMPLES) -> str:
        """The first rows: "('x' in row 3, '' in row 9 and 4 more)"."""
        more = f" and {self.count - limit:,} more" if self.count > limit else ""
        kind = "" if self.values else "rows " if self.count > 1 else "row "
        return f"({kind}{', '.join(self.shown[:limit])}{more})"


@dataclass(frozen=True)
class Fault:
    """One kind of fault of a table, and the rows that have it.

    Attributes:
        column: The role, or what else the message begins with; "" for nothing.
        reason: What is wrong.
        rows: The rows.
        advice: What to do; ends the message.
    """

    column: str
    reason: str
    rows: Examples
    advice: str = ""

    def __str__(self) -> str:
        begin = f"{self.column}: " if self.column else ""
        return f"{begin}{self.reason} in {plural(self.rows.count)} {self.rows.listed()}{self.advice}"


@dataclass(eq=False)
class Findings:
    """What the checks of a table have found so far.

    Attributes:
        rows: The number of each row, Int64 `[rows]`.
        bad: The rows that cannot be used, bool `[rows]`.
        columns: Role -> name of its column in the source, for messages.
        faults, notes: In words.
        merged: Number of rows merged into others.
        empty_lines: Number of empty lines that were skipped.
        counts: What became of repeated rows (see `palate.data.reading.checks`).
        later: What can be judged only when all blocks of a table were read, by name; None if the table is no block.
        suffix: Follows each row number, for example " of a.csv".
    """

    rows: pl.Series
    bad: pl.Series
    columns: Mapping[str, str] = field(default_factory=dict)
    faults: list[str | Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    merged: int = 0
    empty_lines: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    later: dict[str, Examples] | None = None
    suffix: str = ""

    @classmethod
    def of(cls, raw: pl.DataFrame) -> Findings:
        """No findings yet; rows are numbered by the column `ROW`, or in order if there is none."""
        rows = raw[ROW] if ROW in raw.columns else pl.int_range(1, raw.height + 1, dtype=pl.Int64, eager=True)
        return cls(rows, pl.repeat(False, raw.height, dtype=pl.Boolean, eager=True))

    @property
    def texts(self) -> list[str]:
        """The faults in words."""
        return list(map(str, self.faults))

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
            self.faults.append(Fault(column, reason, self.examples(where, values), advice))
            self.bad = self.bad | where.fill_null(False)

    def examples(self, where: pl.Series, values: pl.Series | None = None) -> Examples:
        """The rows of a bool mask, with their values if given."""
        return row_examples(self.rows, where, values, self.suffix)

    def add_later(self, name: str, where: pl.Series, values: pl.Series) -> None:
        """Record the rows of a bool mask in `later`."""
        assert self.later is not None
        self.later[name] = self.later.get(name, Examples()) + self.examples(where, values)


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
    if found.later is not None:
        found.add_later(f"{text.name} blanks", padded, text)
    else:
        found.notes.append(blanks_note(text, stripped, found.examples(padded, text)))


def blanks_note(ids: pl.Series, stripped: pl.Series, rows: Examples) -> str:
    """A note on ids with surrounding blanks.

    Args:
        ids: All ids, perhaps repeated.
        stripped: The same without surrounding blanks.
        rows: The rows of ids with blanks.
    """
    count, distinct = ids.n_unique(), stripped.n_unique()
    padded = ids.filter((ids != stripped).fill_null(False)).n_unique()
    note = f"{ids.name}: {padded:,} of {plural(count, 'id')} begin or end with a blank {rows.listed(2)} and are kept "
    note += "as written"
    if count > distinct:
        equal = f"{count - distinct:,} of them would equal another id"
        note += f"; without blanks, {equal} (strip the column if they are the same)"
    return note


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


def row_examples(rows: pl.Series, where: pl.Series, values: pl.Series | None = None, suffix: str = "") -> Examples:
    """The rows of a bool mask, with their values if given.

    Args:
        rows: The number of each row, Int64 `[rows]`.
        where: Bool `[rows]`.
        values: `[rows]`.
        suffix: Follows each row number.
    """
    count = int(where.sum())
    if not count:
        return Examples(values=values is not None)
    first = where.arg_true().head(MAX_EXAMPLES)
    names = [f"{number}{suffix}" for number in rows[first]]
    if values is not None:
        names = [f"{quoted(value)} in row {name}" for value, name in zip(values[first], names, strict=True)]
    return Examples(count, tuple(names), values is not None)


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
