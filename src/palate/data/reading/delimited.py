"""Delimited text: where its rows start, how they split, and their columns."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from palate.data.reading.table import (
    TOO_LONG,
    UNREADABLE,
    Layout,
    Table,
    Types,
    first_line,
    folded,
    read_text,
)
from palate.errors import ConfigError, DataError, quoted

SEPARATORS = (",", "\t", ";", "|", "::")
"""The separators that are guessed; any other can be given."""

WHOLE = r"(?:0|-?[1-9]\d*)"
"""A whole number in its usual spelling; "007" is a code, not a number."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_TIME = re.compile(r"\d{4}[-/]\d{2}[-/]\d{2}([T ].*)?")
_SAMPLE_LINES = 200


def open_delimited(
    path: Path,
    head: bytes,
    *,
    separator: str | None,
    has_header: bool | None,
    encoding: str,
    known: frozenset[str],
    max_gb: float,
) -> Table:
    """Open a delimited text file.

    Args:
        path: The file.
        head: Its beginning, from `read_head`.
        separator, has_header: As in `guess_layout`.
        encoding: Of the file.
        known: As in `guess_layout`.
        max_gb: Limit, in GiB, on what a compressed file may unpack to.

    Raises:
        DataError: As in `guess_layout`.
    """
    layout = guess_layout(head, str(path), separator, has_header, encoding, known)

    def read(columns: Sequence[str], types: Types) -> pl.DataFrame:
        is_plain = codecs.lookup(encoding).name == "utf-8" and len(layout.separator) == 1 and path.suffix != ".gz"
        source: Path | bytes = path if is_plain else read_text(path, encoding, max_gb)
        try:
            return parse_delimited(source, layout, columns, types, str(path))
        except UnicodeError:
            read_text(path, encoding, max_gb)  # raises an error that says where
            raise

    return Table(
        label=str(path),
        names=layout.names,
        kinds=layout.kinds,
        read=read,
        is_text=True,
        has_header=layout.has_header,
        layout=layout,
    )


def guess_layout(
    head: bytes, label: str, separator: str | None, has_header: bool | None, encoding: str, known: frozenset[str]
) -> Layout:
    """Guess the layout of a table from its first lines.

    Args:
        head: The beginning of the file, from `read_head`.
        label: What messages call the file.
        separator, has_header: Given by the user, or None to guess.
        encoding: Of the bytes.
        known: Names, as written or `folded`, that make the first line a header if it holds one of them.

    Raises:
        DataError: There is no line, or the given separator leaves one column where another one would split it.
    """
    text = head.decode(encoding, errors="replace").removeprefix("\ufeff")
    lines = [line.rstrip("\r") for line in text.split("\n")]
    if len(lines) > 2:
        lines.pop()  # may be cut in the middle
    start = next((k for k, line in enumerate(lines) if line.strip()), None)
    if start is None:
        raise DataError(f"{label} is empty; expected a table with at least one row")
    sample = [line for line in lines[start : start + _SAMPLE_LINES] if line.strip()]
    chosen = _choose_separator(sample, separator, label)
    rows = [split(line, chosen) for line in sample]
    first, rest = [name.strip() for name in rows[0]], rows[1:]
    header = _is_header(first, rest, known) if has_header is None else has_header
    columns = list(zip(*[row for row in (rest if header else rows) if len(row) == len(first)], strict=True))
    return Layout(
        separator=chosen,
        names=tuple(first) if header else tuple(map(str, range(len(first)))),
        kinds=tuple(describe_values(column) for column in columns) or ("?",) * len(first),
        has_header=header,
        skip=start + header,
    )


def split(line: str, separator: str) -> list[str]:
    """The fields of one line."""
    if len(separator) > 1:
        return line.split(separator)
    try:
        return next(csv.reader([line], delimiter=separator))
    except csv.Error:
        return line.split(separator)


def describe_values(values: Sequence[str]) -> str:
    """What a column holds, in words."""
    filled = [value.strip() for value in values if value.strip()]
    for pattern, name in ((re.compile(WHOLE), "whole numbers"), (_NUMBER, "numbers"), (_TIME, "times")):
        if filled and all(pattern.fullmatch(value) for value in filled):
            return name
    return "text" if filled else "empty"


def _choose_separator(sample: list[str], given: str | None, label: str) -> str:
    if given is not None and (not given or not given.isascii() or "\n" in given):
        raise ConfigError(
            f"separator {given!r} is not usable; give one or more ASCII characters, for example ',' or '::'"
        )
    counts = {sep: [len(split(line, sep)) for line in sample] for sep in SEPARATORS}
    # The share of lines that split like the first one decides, then the number of columns.
    scores = {sep: (n.count(n[0]) / len(n), n[0]) for sep, n in counts.items() if n[0] > 1}
    best = max(scores, key=lambda sep: scores[sep], default=None)
    if given is None:
        return best or ","
    if len(split(sample[0], given)) == 1 and best is not None:
        others = ", ".join(f"{sep!r} ({n} columns)" for sep, (_, n) in sorted(scores.items(), key=lambda s: -s[1][0]))
        raise DataError(
            f"{label} has one column with separator {given!r}: {quoted(sample[0])}; these separators would split it: "
            f"{others} (or leave separator out to have it guessed)"
        )
    return given


def _is_header(first: list[str], rest: list[list[str]], known: frozenset[str]) -> bool:
    if known & {*first, *map(folded, first)}:
        return True
    if any(_NUMBER.fullmatch(name) or _TIME.fullmatch(name) for name in first):
        return False
    return bool(rest) or len(first) > 1


def quote_characters(layout: Layout) -> list[str | None]:
    """What may quote the fields of a table, the likeliest first.

    Quotes are a convention of CSV. In other text, quotes that do not pair up are part of the values.
    """
    return ['"'] if layout.separator == "," else ['"', None] if len(layout.separator) == 1 else [None]


def parse_delimited(
    source: Path | bytes,
    layout: Layout,
    columns: Sequence[str],
    types: Types,
    label: str,
    quotes: Sequence[str | None] | None = None,
) -> pl.DataFrame:
    """Split text into columns.

    Args:
        source: A file, or text in UTF-8.
        layout: Of the table.
        columns: The columns to read.
        types: As in `Table.read`.
        label: What messages call the table.
        quotes: The quote characters to try. Default to `quote_characters`.

    Raises:
        DataError: The text cannot be split.
        UnicodeError: It is no UTF-8.
    """
    if not columns:
        return pl.DataFrame()
    separator = layout.separator
    if isinstance(source, bytes) and len(separator) > 1:
        stand_in = next(byte for byte in (b"\x1f", b"\x1e", b"\x1d", b"\x01", b"\x02") if byte not in source)
        source, separator = source.replace(separator.encode(), stand_in), stand_in.decode()
    positions = [layout.names.index(column) for column in columns]
    schema: dict[str, pl.DataType] = {str(k): types.get(name, pl.String()) for k, name in enumerate(layout.names)}
    text: dict[str, pl.DataType] = dict.fromkeys([*schema, "+"], pl.String())
    # First with types; if some values are of another type, or some rows are too long, all as text.
    errors: list[BaseException] = []
    tries = [(schema | {str(len(layout.names)): pl.Boolean()}, quote) for quote in quotes or quote_characters(layout)]
    tries += [(text, quote) for _, quote in tries]
    for schema, quote in tries:
        try:
            frame = pl.read_csv(
                source,
                has_header=False,
                skip_lines=layout.skip,
                separator=separator,
                quote_char=quote,
                schema=schema,
                columns=[*positions, len(layout.names)],
                missing_columns="insert",
                extra_columns="ignore",
                glob=False,
            )
        except UNREADABLE as error:
            errors.append(error)
            if "utf-8" in str(error).lower():
                raise UnicodeError(first_line(error)) from error
            continue
        too_long = frame.to_series(len(positions)).is_not_null()
        frame = frame.select(pl.nth(k).alias(name) for k, name in enumerate(columns))
        return frame.with_columns(too_long.alias(TOO_LONG)) if too_long.any() else frame
    place = re.search("could not parse `(.*)", str(errors[-1]))
    reason = f"a quote is not closed, or has text after it: {quoted(place[1])}" if place else first_line(errors[-1])
    raise DataError(f"{label} cannot be split into columns: {reason}") from errors[-1]
