"""Open any source: a file, a query or a frame becomes a `Table`, its values untouched (text stays text).

Nothing here knows what a column means; `palate.data.reading.interactions` assigns the roles.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from palate.data.reading.table import (
    BYTES_PER_VALUE,
    MAX_GB,
    TOO_LONG,
    Table,
    Types,
    first_line,
    folded,
    read_head,
    read_text,
)
from palate.errors import ConfigError, DataError, quoted
from palate.extras import missing_extra

SEPARATORS = (",", "\t", ";", "|", "::")
"""The separators that are guessed; any other can be given."""

WHOLE = r"(?:0|-?[1-9]\d*)"
"""A whole number in its usual spelling; "007" is a code, not a number."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_TIME = re.compile(r"\d{4}[-/]\d{2}[-/]\d{2}([T ].*)?")
_SAMPLE_LINES = 200


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the rows of a text table start and how they split.

    Attributes:
        separator: Between two fields.
        names, kinds: As in `Table`.
        has_header: Whether the first line holds names.
        skip: Number of lines before the first row.
    """

    separator: str
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    has_header: bool
    skip: int


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
        if not columns:
            return pl.DataFrame()
        positions = [layout.names.index(column) for column in columns]
        schema: dict[str, pl.DataType] = {str(k): types.get(name, pl.String()) for k, name in enumerate(layout.names)}
        typed = schema | {str(len(layout.names)): pl.Boolean()}
        frame = _read_columns(path, layout, positions, typed, encoding, max_gb)
        if frame is None:  # some values are of another type, or some rows are too long: read all as text
            text: dict[str, pl.DataType] = dict.fromkeys([*schema, "+"], pl.String())
            frame = _read_columns(path, layout, positions, text, encoding, max_gb)
        assert frame is not None
        too_long = frame.to_series(len(positions)).is_not_null()
        frame = frame.select(pl.nth(k).alias(name) for k, name in enumerate(columns))
        return frame.with_columns(too_long.alias(TOO_LONG)) if too_long.any() else frame

    return Table(
        label=str(path),
        names=layout.names,
        kinds=layout.kinds,
        read=read,
        is_text=True,
        has_header=layout.has_header,
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


def _read_columns(
    path: Path, layout: Layout, positions: list[int], schema: dict[str, pl.DataType], encoding: str, max_gb: float
) -> pl.DataFrame | None:
    """The columns at these positions and, last, the field after the last column: null unless a row is too long.

    None if a value is not of its column's type.
    """
    separator = layout.separator
    is_plain = codecs.lookup(encoding).name == "utf-8" and len(separator) == 1 and path.suffix != ".gz"
    source: Path | bytes = path if is_plain else read_text(path, encoding, max_gb)
    if isinstance(source, bytes) and len(separator) > 1:
        stand_in = next(byte for byte in (b"\x1f", b"\x1e", b"\x1d", b"\x01", b"\x02") if byte not in source)
        source, separator = source.replace(separator.encode(), stand_in), stand_in.decode()
    # Quotes are a convention of CSV. In other text, quotes that do not pair up are part of the values.
    quotes = ['"'] if separator == "," else ['"', None] if len(layout.separator) == 1 else [None]
    error: BaseException
    for quote in quotes:
        try:
            return pl.read_csv(
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
        except _UNREADABLE as caught:
            error = caught
    if "utf-8" in str(error).lower():
        read_text(path, encoding, max_gb)  # raises an error that says where
    if set(schema.values()) != {pl.String()}:
        return None
    place = re.search("could not parse `(.*)", str(error))
    reason = f"a quote is not closed, or has text after it: {quoted(place[1])}" if place else first_line(error)
    raise DataError(f"{path} cannot be split into columns: {reason}") from error


MAX_NESTING = 64
"""Levels of lists and objects in a value of JSON lines."""

_JSON_ENDINGS = (".jsonl", ".ndjson", ".json")
_SQL = re.compile(r"\s*(select|with)\s", re.IGNORECASE)
_NUMBERS = {"Int": "whole numbers", "UInt": "whole numbers", "Float": "numbers", "Decimal": "numbers"}
_TEXTS = {"String": "text", "Categorical": "text", "Enum": "text", "Boolean": "true or false"}
_KINDS = _NUMBERS | _TEXTS | {"Date": "dates", "Datetime": "times"}
_UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError)
"""What polars raises on files that it cannot read; some broken ones make it panic."""


def open_table(
    source: Any,
    *,
    separator: str | None = None,
    has_header: bool | None = None,
    encoding: str = "utf-8",
    connection: Any = None,
    known: Iterable[str] = (),
    max_gb: float = MAX_GB,
) -> Table:
    """Open a path, a query or a frame.

    Args:
        source: Path of a delimited text file (also .gz), Parquet or JSON lines; a query that starts with SELECT or
            WITH; a polars, pandas or Arrow frame.
        separator: Between the fields of a text file. Defaults to a guess.
        has_header: Whether the first line of a text file holds names. Defaults to a guess.
        encoding: Of a text file or JSON lines.
        connection: For a query: SQLAlchemy URL or engine, DB-API or ADBC connection.
        known: Names that make the first line of a text file a header.
        max_gb: Limit, in GiB, on what a compressed file (.gz, Parquet) may take in memory.

    Raises:
        DataError: The source does not exist, cannot be read as a table, or exceeds `max_gb`.
        ConfigError: The encoding or the separator is unknown.
        MissingExtra: A query or a pandas frame needs a package that is not installed.
    """
    if isinstance(source, str) and _SQL.match(source):
        return _table_of_frame(read_query(source, connection), "the query")
    if not isinstance(source, (str, Path)):
        return _table_of_frame(read_frame(source), "the frame")
    path = Path(source).expanduser()
    head = read_head(path)
    suffix = (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()
    if head.startswith(b"PAR1") or suffix in (".parquet", ".pq"):
        return _open_parquet(path, head, max_gb)
    _refuse_binary(path, head, encoding)
    if suffix in _JSON_ENDINGS:
        return _table_of_frame(_read_json_lines(path, encoding, max_gb), str(path))
    return open_delimited(
        path,
        head,
        separator=separator,
        has_header=has_header,
        encoding=encoding,
        known=frozenset(known),
        max_gb=max_gb,
    )


def read_frame(source: Any) -> pl.DataFrame:
    """A polars, pandas or Arrow frame (any object with `__arrow_c_stream__`) as a polars frame.

    Raises:
        DataError: The source is none of these, or a column mixes types.
        MissingExtra: A pandas frame needs pyarrow.
    """
    if isinstance(source, pl.LazyFrame):
        return source.collect()
    if isinstance(source, pl.DataFrame):
        return source
    try:
        if type(source).__module__.startswith("pandas"):
            return pl.from_pandas(source)
        if hasattr(source, "__arrow_c_stream__"):
            return pl.DataFrame(source)
    except ModuleNotFoundError as error:
        raise missing_extra(f"a pandas frame needs the package {error.name}", "pandas") from error
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
        raise DataError(_mixed_column(source) or f"the frame cannot be read: {first_line(error)}") from error
    raise DataError(
        f"cannot read a table from {type(source).__name__}; give a path, a query (SELECT ...) or a polars, pandas or "
        "Arrow frame"
    )


def _mixed_column(frame: Any) -> str:
    """Names the first column of a pandas frame that holds values of several types; "" if there is none."""
    for name in frame.columns if hasattr(frame, "dtypes") else ():
        if frame[name].dtype != object:
            continue
        examples: dict[str, str] = {}
        for row, value in enumerate(frame[name], 1):
            if value is not None and value == value:  # NaN differs from itself
                examples.setdefault(type(value).__name__, f"{quoted(value)} in row {row}")
        if len(examples) > 1:
            mixed = " and ".join(f"{kind} ({example})" for kind, example in examples.items())
            return (
                f"column {name!r} mixes {mixed}; give it one type, for example frame[{name!r}] = "
                f"frame[{name!r}].astype(str)"
            )
    return ""


def read_query(query: str, connection: Any) -> pl.DataFrame:
    """The rows of a query.

    Args:
        query: SQL.
        connection: SQLAlchemy URL or engine, DB-API or ADBC connection.

    Raises:
        DataError: There is no connection, or the database reports an error.
        MissingExtra: A URL needs SQLAlchemy.
    """
    if connection is None:
        raise DataError("a query needs connection=: a SQLAlchemy URL or engine, or an ADBC connection")
    if not isinstance(connection, str):
        return _run_query(query, connection)
    try:
        import sqlalchemy
    except ModuleNotFoundError as error:
        raise missing_extra("a query over a URL needs SQLAlchemy", "sql") from error
    try:
        engine = sqlalchemy.create_engine(connection)
    except (sqlalchemy.exc.ArgumentError, ModuleNotFoundError) as error:
        raise DataError(f"connection is not a usable SQLAlchemy URL: {first_line(error)}") from error
    try:
        return _run_query(query, engine)
    finally:
        engine.dispose()


def _run_query(query: str, connection: Any) -> pl.DataFrame:
    try:
        return pl.read_database(query, connection, infer_schema_length=None)
    except Exception as error:  # each database driver has its own family of errors
        raise DataError(f"the query failed: {first_line(error)}") from error


def _table_of_frame(frame: pl.DataFrame, label: str) -> Table:
    def read(columns: Sequence[str], _: Types) -> pl.DataFrame:
        return frame.select(columns)

    return Table(label=label, names=tuple(frame.columns), kinds=_describe_types(frame.dtypes), read=read)


def _describe_types(dtypes: Iterable[Any]) -> tuple[str, ...]:
    names = [re.match("[A-Za-z]*", str(dtype)) for dtype in dtypes]
    return tuple(_KINDS.get(name.group(), name.group().lower()) if name else "?" for name in names)


def _refuse_binary(path: Path, head: bytes, encoding: str) -> None:
    try:
        # Refuses codecs that are not of text, or that cannot replace a wrong byte (punycode, idna).
        b"a\xff".decode(encoding, errors="replace")
    except (LookupError, ValueError):
        raise ConfigError(
            f"encoding {encoding!r} is unknown or cannot be used for tables; usual ones are utf-8, latin-1, cp1252 and "
            "utf-16"
        ) from None
    if head.startswith(b"PK\x03\x04"):
        raise DataError(
            f"{path} is a zip archive or a workbook, not a table; unpack it or save it as CSV "
            "(the zip file of a MovieLens data set is loaded with Dataset.load(name, path=...))"
        )
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") and "16" not in encoding:
        raise DataError(f"{path} is UTF-16 text; pass encoding='utf-16'")
    if b"\x00" in head and not re.search("16|32", encoding):
        raise DataError(
            f"{path} is not a text table: it holds a zero byte at offset {head.index(0)} "
            "(expected CSV, TSV, JSON lines or Parquet; for UTF-16 text pass encoding='utf-16')"
        )


def _open_parquet(path: Path, head: bytes, max_gb: float) -> Table:
    if not head.startswith(b"PAR1"):
        raise DataError(f"{path} is not a Parquet file: it does not start with PAR1")
    try:
        schema = pl.read_parquet_schema(path)
        rows = pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()
    except _UNREADABLE as error:
        raise DataError(f"{path} is a truncated or damaged Parquet file: {first_line(error)}") from error

    def read(columns: Sequence[str], _: Types) -> pl.DataFrame:
        needed = rows * len(set(columns)) * BYTES_PER_VALUE / 2**30
        if needed > max_gb:
            raise DataError(
                f"{path} claims {rows:,} rows, which take about {needed:,.0f} GiB in memory; the limit is {max_gb:g} "
                f"GiB. If the file is what it should be, raise the limit: max_gb={needed * 1.1:.0f}"
            )
        try:
            return pl.read_parquet(path, columns=list(dict.fromkeys(columns)), glob=False).select(columns)
        except _UNREADABLE as error:
            raise DataError(f"{path} is a truncated or damaged Parquet file: {first_line(error)}") from error

    return Table(label=str(path), names=tuple(schema), kinds=_describe_types(schema.values()), read=read)


def _read_json_lines(path: Path, encoding: str, max_gb: float) -> pl.DataFrame:
    data = read_text(path, encoding, max_gb).strip()
    if not data:
        raise DataError(f"{path} is empty; expected a table with at least one row")
    try:
        frame = pl.read_ndjson(data, infer_schema_length=None)
        nested = [name for name, dtype in frame.schema.items() if _nesting(dtype) > MAX_NESTING]
    except RecursionError:
        nested = [""]
    except _UNREADABLE as error:
        if data.startswith(b"["):
            raise DataError(f"{path} holds one JSON list; expected JSON lines (one object a line)") from error
        raise DataError.faults(str(path), _bad_json_lines(data) or [first_line(error)]) from error
    if nested:
        where = f"column {nested[0]!r}" if nested[0] else "a line"
        raise DataError(f"{path}: {where} is nested more than {MAX_NESTING} levels deep; flatten or remove it")
    return frame


def _nesting(dtype: Any) -> int:
    """Levels of lists and structs of a type; counting stops above `MAX_NESTING`."""
    level, types = 0, [dtype]
    while types and level <= MAX_NESTING:
        inner = [t.inner for t in types if isinstance(t, (pl.List, pl.Array))]
        types = inner + [field.dtype for t in types if isinstance(t, pl.Struct) for field in t.fields]
        level += bool(types)
    return level


def _bad_json_lines(data: bytes) -> list[str]:
    """The lines that are no JSON objects; called only when the file could not be read."""
    faults, count = [], 0
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            row = json.loads(line, parse_constant=_refuse_constant) if line.strip() else {}
            reason = "" if isinstance(row, dict) else "not an object"
        except RecursionError:
            reason = f"nested more than {MAX_NESTING} levels deep"
        except ValueError as error:
            reason = first_line(error)
        count += bool(reason)
        if reason and count <= 5:
            faults.append(f"line {number} is not a JSON object ({reason}): {quoted(line.decode(errors='replace'))}")
    return faults + ([f"{count - 5} more lines like these"] if count > 5 else [])


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
