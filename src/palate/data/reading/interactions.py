"""A file, a query or a frame -> checked interactions.

Text ids stay exactly as written ("007" is not 7). All faults of a table are reported together, with row numbers
(1-based among the data rows, the header not counted). Nothing is dropped without a note.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
import polars as pl

from palate.data.events import Events
from palate.data.reading.checks import (
    ROW,
    Duplicates,
    Fault,
    Findings,
    duplicate_notes,
    merge_duplicates,
    parse_ids,
    parse_numbers,
    plural,
    row_examples,
)
from palate.data.reading.formats import is_store, open_table
from palate.data.reading.sessions import cut_sessions, parse_gap, session_columns
from palate.data.reading.table import (
    KNOWN_NAMES,
    MAX_GB,
    TOO_LONG,
    Columns,
    Role,
    Table,
    check_columns,
    find_columns,
    suggest_weight,
)
from palate.data.reading.times import parse_times
from palate.errors import ConfigError, DataError

Scale = tuple[float, float]


@dataclass(frozen=True, eq=False)
class CheckedInteractions:
    """Interactions that passed every check.

    Attributes:
        frame: `user_id`, `item_id` (Int64 or String) and, if the table has them, `rating` (Float32), `timestamp`
            (Int64, seconds since 1970 UTC), `weight` (Float32); one row for each (user, item) unless repeats were kept,
            in input order. `user_id` holds sessions if they were asked for.
        notes: What was removed, merged or converted, in words.
        events: Whether repeats were kept, and whether the users are sessions.
    """

    frame: pl.DataFrame
    notes: tuple[str, ...] = ()
    events: Events = field(default=Events())


@dataclass(frozen=True, eq=False, kw_only=True)
class Tables:
    """The tables of a data set.

    Attributes:
        interactions: As `CheckedInteractions.frame`.
        items, users: Side tables, `item_id` / `user_id` first, or None.
        rating_scale: Lowest and highest possible rating, or None.
        notes: Source, terms of use and changes, in words.
        events: As `CheckedInteractions.events`.
    """

    interactions: pl.DataFrame
    items: pl.DataFrame | None = None
    users: pl.DataFrame | None = None
    rating_scale: Scale | None = None
    notes: tuple[str, ...] = ()
    events: Events = field(default=Events())


def read_interactions(
    source: Any,
    *,
    columns: Columns | None = None,
    separator: str | None = None,
    has_header: bool | None = None,
    encoding: str = "utf-8",
    duplicates: Duplicates | None = None,
    session: str | int | None = None,
    session_gap: str | float | None = None,
    rating_scale: Scale | None = None,
    timestamp_format: str | None = None,
    connection: Any = None,
    max_gb: float = MAX_GB,
) -> CheckedInteractions:
    """Read and check a table of interactions.

    Args:
        source: Path of a CSV, TSV or otherwise delimited file (also `::`), of Parquet or JSON lines, text also as .gz;
            a query that starts with SELECT or WITH; a polars, pandas or Arrow frame; or the folder of a data set on
            disk, which takes no options.
        columns: Role -> column name or 0-based position, for example `{"user_id": "CustomerNo"}` (None: there is no
            such column); or the roles in file order, `["user_id", "item_id", "rating", None]`, None for a column to
            skip. Roles that a mapping does not mention are recognised by their usual names.
        separator: Defaults to a guess among `,` tab `;` `|` `::`.
        has_header: Whether the first line holds names. Defaults to a guess.
        encoding: Of text files.
        duplicates: Rule for several rows of one user and item. Under "error", "first" and "last", rows that are equal
            in every column count once. "error": different ratings or weights are an error; rows that differ in time
            only are repeated events, of which the last stays. "first", "last": by time, then input order. "mean",
            "sum": of rating and weight over all rows, with the last time; "sum" without either counts the rows into
            `weight`. "keep": all rows stay, as events of their own. Defaults to "keep" for sessions, else to "error".
        session: Column of session ids, for histories without users; takes the place of the column of users.
        session_gap: Cuts each user's events into sessions where more time than this lies between two of them: seconds,
            or text such as "30m". The sessions are called "USER/1", "USER/2" and so on.
        rating_scale: Lowest and highest rating allowed. Defaults to any.
        timestamp_format: Format of the times, as in `strptime`, for example "%m/%d/%Y". Defaults to recognising ISO
            8601 and whole numbers since 1970. Times without a zone are UTC.
        connection: For a query: SQLAlchemy URL or engine, DB-API or ADBC connection.
        max_gb: Limit, in GiB, on what a compressed file (.gz, Parquet) may take in memory.

    Raises:
        DataError: Lists all faults of the table.
        ConfigError: An option is out of range.
        MissingExtra: The source needs a package that is not installed.
    """
    if is_store(source):
        given: dict[str, Any] = {"columns": columns, "separator": separator, "has_header": has_header}
        given |= {"duplicates": duplicates, "session": session, "session_gap": session_gap}
        given |= {"timestamp_format": timestamp_format, "connection": connection}
        return _stored(source, [name for name, value in given.items() if value is not None])
    table, frame, _, findings = check_source(
        source,
        columns=columns,
        separator=separator,
        has_header=has_header,
        encoding=encoding,
        duplicates=duplicates,
        session=session,
        session_gap=session_gap,
        rating_scale=rating_scale,
        timestamp_format=timestamp_format,
        connection=connection,
        max_gb=max_gb,
    )
    if findings.faults:
        raise DataError.faults(table.label, findings.texts)
    sessions = session is not None or session_gap is not None
    events = Events(repeats=(duplicates or ("keep" if sessions else "error")) == "keep", sessions=sessions)
    return CheckedInteractions(frame.drop(ROW), tuple(findings.notes), events)


def _stored(folder: Any, given: Sequence[str]) -> CheckedInteractions:
    """The interactions of a data set on disk."""
    from palate.data.store import open_dataset  # loads torch

    if given:
        options = ", ".join(f"{name}=" for name in given)
        raise ConfigError(f"{folder} is a data set on disk, which was read already; leave out {options}")
    data = open_dataset(folder)
    return CheckedInteractions(data.frame(), data.notes, data.events)


def check_source(
    source: Any,
    *,
    columns: Columns | None = None,
    duplicates: Duplicates | None = None,
    session: str | int | None = None,
    session_gap: str | float | None = None,
    rating_scale: Scale | None = None,
    timestamp_format: str | None = None,
    **options: Any,
) -> tuple[Table, pl.DataFrame, dict[Role, str], Findings]:
    """Open and check a table of interactions without raising its faults.

    Args:
        source, columns, duplicates, session, session_gap, rating_scale, timestamp_format: As in `read_interactions`.
        options: The other options of `read_interactions`.

    Returns:
        The table, its usable rows with the column `ROW`, role -> column, and the findings.

    Raises:
        DataError: The source cannot be read as a table.
        ConfigError: An option is out of range.
    """
    gap = None if session_gap is None else parse_gap(session_gap)
    columns = columns if session is None else session_columns(columns, session, gap)
    duplicates = duplicates or ("error" if session is None and gap is None else "keep")
    check_options(columns, duplicates, rating_scale, timestamp_format)
    table = open_interactions(source, columns, **options)
    roles, faults = find_columns(table, columns)
    raw = table.read(list(dict.fromkeys(roles.values())), column_types(roles, timestamp_format))
    if raw.is_empty() and roles:
        faults.append(no_rows(table))
    frame, found = convert(raw, roles, rating_scale, timestamp_format, skip_blank=table.is_text)
    found.faults[:0] = faults
    found.notes[:0] = empty_lines_note(found.empty_lines)
    found.notes += suggest_weight(table, roles, columns)
    if {"user_id", "item_id"} <= set(roles):
        frame = frame if gap is None else cut_sessions(frame, gap, found)
        before = frame.height
        frame, conflicts = merge_duplicates(frame, duplicates, found.counts)
        found.merged = before - frame.height
        found.notes += duplicate_notes(found.counts, duplicates)
        found.faults += conflicts.texts()
        _check_ratings(frame, duplicates, rating_scale, found)
    return table, frame, roles, found


def column_types(roles: Mapping[Role, str], timestamp_format: str | None) -> dict[str, pl.DataType]:
    """Column -> the type that a text table is first read with; ids are text.

    Args:
        roles: Role -> column.
        timestamp_format: Format of the times, if given; they are then text.
    """
    types: dict[str, pl.DataType] = {
        name: pl.Int64() if role == "timestamp" else pl.Float64()
        for role, name in roles.items()
        if role != "timestamp" or timestamp_format is None
    }
    return {name: types[name] for name in set(types) - {roles.get("user_id"), roles.get("item_id")}}


def no_rows(table: Table) -> str:
    """The fault of a table without rows."""
    return "the table has a header but no rows" if table.is_text else "the table has no rows"


def empty_lines_note(count: int) -> list[str]:
    """A note on skipped lines, if there are any."""
    return [f"{plural(count, 'empty line')} skipped"] if count else []


def check_options(
    columns: Columns | None, duplicates: str, scale: Scale | None, timestamp_format: str | None = None
) -> None:
    """Check options of `read_interactions`.

    Raises:
        ConfigError: One is out of range.
    """
    check_columns(columns)
    if duplicates not in get_args(Duplicates):
        raise ConfigError(f"duplicates = {duplicates!r} is not one of {', '.join(get_args(Duplicates))}")
    if scale is not None and not scale[0] < scale[1]:
        raise ConfigError(f"rating_scale = {scale!r} must be (lowest, highest)")
    if timestamp_format is not None and "%" not in timestamp_format:
        raise ConfigError(
            f"timestamp_format = {timestamp_format!r} has no directive; expected a format such as '%m/%d/%Y'"
        )


def open_interactions(source: Any, columns: Columns | None, *, has_header: bool | None = None, **options: Any) -> Table:
    """Open a table of interactions, with the column names that `columns` gives in mind.

    Args:
        source, columns, has_header: As in `read_interactions`.
        options: Other options of `open_table`.

    Raises:
        DataError: The source cannot be read as a table.
    """
    named = [n for n in columns.values() if isinstance(n, str)] if isinstance(columns, Mapping) else []
    known = [*named, *KNOWN_NAMES]
    table = open_table(source, has_header=has_header, known=known, **options)
    is_list = columns is not None and not isinstance(columns, Mapping)
    if not is_list or has_header is not None or not table.is_text or not table.has_header:
        return table
    # A list of roles replaces names. A first line of words above columns of words is then a row, not a header.
    all_words = not set(table.kinds) & {"whole numbers", "numbers", "times"}
    if all_words and not find_columns(table, None)[0]:
        return open_table(source, has_header=False, known=known, **options)
    return table


def convert(
    raw: pl.DataFrame,
    roles: Mapping[Role, str],
    scale: Scale | None,
    timestamp_format: str | None,
    skip_blank: bool,
    prepare: Callable[[Findings], None] = lambda found: None,
) -> tuple[pl.DataFrame, Findings]:
    """Give each role its type and find every value that has none.

    Args:
        raw: The columns that `roles` names, and perhaps `TOO_LONG` and `ROW`.
        roles: Role -> column.
        scale: Lowest and highest rating allowed.
        timestamp_format: Format of the times, if given.
        skip_blank: Whether rows without any value are empty lines of a text file, which are skipped and counted.
        prepare: Called with the findings before anything is found. Does nothing by default.

    Returns:
        The usable rows (`user_id`, `item_id`, ... and `ROW`, their number) and the findings.
    """
    if ROW not in raw.columns:
        raw = raw.with_columns(pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias(ROW))
    whole, empty_lines = raw, 0
    if TOO_LONG in raw.columns:
        raw = raw.filter(~pl.col(TOO_LONG))
    if skip_blank and roles and raw[next(iter(roles.values()))].has_nulls():
        blank = pl.all_horizontal(pl.col(*roles.values()).is_null())
        if empty_lines := raw.select(blank.sum()).item():
            raw = raw.filter(~blank)
    found = Findings.of(raw)
    found.empty_lines, found.columns = empty_lines, {str(role): name for role, name in roles.items()}
    prepare(found)
    if TOO_LONG in whole.columns:
        rows = row_examples(whole[ROW], whole[TOO_LONG], suffix=found.suffix)
        found.faults.append(Fault("", "more fields than in the first line", rows))
    parsers: dict[Role, Callable[[pl.Series, Findings], pl.Series]] = {
        "user_id": parse_ids,
        "item_id": parse_ids,
        "rating": lambda values, out: parse_numbers(values, out, scale),
        "timestamp": lambda values, out: parse_times(values, out, timestamp_format),
        "weight": lambda values, out: parse_numbers(values, out, (0.0, float("inf"))),
    }
    typed = [parsers[role](raw[name].alias(role), found) for role, name in roles.items()]
    frame = pl.DataFrame([*typed, raw[ROW]])
    return (frame.filter(~found.bad) if found.bad.any() else frame), found


def _check_ratings(frame: pl.DataFrame, duplicates: Duplicates, scale: Scale | None, found: Findings) -> None:
    """Note equal ratings, and find sums of repeated rows outside the scale."""
    if "rating" not in frame.columns:
        return
    ratings = frame["rating"]
    if frame.height > 1 and ratings.n_unique() == 1:
        found.notes.append(equal_ratings_note(ratings[0]))
    if duplicates == "sum" and scale is not None:
        outside = frame.filter((pl.col("rating") < scale[0]) | (pl.col("rating") > scale[1]))
        if outside.height:
            found.faults.append(sums_fault(outside.height, scale, outside[ROW][0]))


def equal_ratings_note(rating: float) -> str:
    """A note on ratings that are all the same."""
    return f"all ratings are {rating:g}: they show who chose what, not who liked what more"


def sums_fault(count: int, scale: Scale, row: Any) -> str:
    """The fault of summed ratings outside the scale.

    Args:
        count: Number of sums.
        scale: Lowest and highest rating allowed.
        row: The last row of the first sum.
    """
    outside = f"{plural(count, 'sum')} of repeated rows outside the scale {scale[0]:g} to {scale[1]:g}"
    return f"rating: {outside} (the first one ends in row {row})"


def filter_interactions(
    frame: pl.DataFrame, *, min_rating: float | None = None, min_user: int = 0, min_item: int = 0
) -> CheckedInteractions:
    """Keep interactions with a high enough rating, of users and items with enough interactions.

    `min_user` and `min_item` together give the k-core: users and items are removed in turn until all that remain have
    enough interactions. The result does not depend on the order of the rows.

    Args:
        frame: Interactions as `palate.data.reading.interactions.read_interactions` gives them.
        min_rating: Lowest rating to keep; applied first. Defaults to any.
        min_user, min_item: Minimum number of interactions of each remaining user and item; 0 and 1 remove nothing.

    Returns:
        The remaining rows in their order, and a note for each filter that removed any.

    Raises:
        ConfigError: A filter is out of range.
        DataError: The data has no ratings to filter by, or no rows remain.
    """
    check_filters(frame.columns, min_rating, min_user, min_item)
    notes = []
    kept = frame
    if min_rating is not None:
        kept = frame.filter(pl.col("rating") >= min_rating)
        if kept.height < frame.height:
            notes.append(f"min_rating {min_rating:g}: {_removed(frame, kept)}")
    if min_user > 1 or min_item > 1:
        before = kept
        mask, rounds = _core(kept, min_user, min_item)
        kept = kept.filter(mask)
        if kept.height < before.height:
            sizes = f"min_user {min_user}, min_item {min_item}"
            notes.append(f"{sizes}: {_removed(before, kept, rounds)}")
    if kept.is_empty():
        raise DataError(f"no interactions remain of {frame.height:,}: {'; '.join(notes) or 'there were none'}")
    return CheckedInteractions(kept, tuple(notes))


def check_filters(columns: Sequence[str], min_rating: float | None, min_user: int, min_item: int) -> None:
    """Check the options of `filter_interactions`.

    Args:
        columns: Those of the interactions.
        min_rating, min_user, min_item: The options.

    Raises:
        ConfigError: A filter is out of range.
        DataError: There are no ratings to filter by.
    """
    faults = [f"{name} = {n} is below 0" for name, n in (("min_user", min_user), ("min_item", min_item)) if n < 0]
    if faults:
        raise ConfigError.faults("filter", faults)
    if min_rating is not None and "rating" not in columns:
        raise DataError(f"min_rating = {min_rating:g} needs ratings; the columns are {', '.join(columns)}")


def _core(frame: pl.DataFrame, min_user: int, min_item: int) -> tuple[pl.Series, int]:
    """Mask of the rows in the k-core, and the number of rounds it took."""
    user, item = (_codes(frame[key]) for key in ("user_id", "item_id"))
    n_users, n_items = (int(codes.max(initial=-1)) + 1 for codes in (user, item))
    rows, rounds = np.arange(frame.height), 0
    while True:
        enough = (np.bincount(user, minlength=n_users) >= min_user)[user]
        enough &= (np.bincount(item, minlength=n_items) >= min_item)[item]
        if enough.all():
            break
        user, item, rows = user[enough], item[enough], rows[enough]
        rounds += 1
    mask = np.zeros(frame.height, dtype=bool)
    mask[rows] = True
    return pl.Series(mask), rounds


def _codes(ids: pl.Series) -> np.ndarray:
    return ids.rank("dense").to_numpy().astype(np.int64) - 1


def _removed(before: pl.DataFrame, after: pl.DataFrame, rounds: int = 0) -> str:
    gone = {key: before[f"{key}_id"].n_unique() - after[f"{key}_id"].n_unique() for key in ("user", "item")}
    return removed_rows(before.height, after.height, gone, rounds)


def removed_rows(before: int, after: int, gone: Mapping[str, int], rounds: int = 0) -> str:
    """What a filter removed, in words.

    Args:
        before, after: Number of rows.
        gone: How many users ("user") and items ("item") have no rows left.
        rounds: Rounds that it took; 0 does not tell.
    """
    lost = " and ".join(plural(n, key) for key, n in gone.items())
    how_long = f" in {plural(rounds, 'round')}" if rounds else ""
    return f"{before - after:,} of {plural(before)} removed{how_long}; {lost} have no rows left"
