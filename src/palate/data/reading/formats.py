"""Open any source: a file, a query or a frame becomes a `Table`, its values untouched (text stays text).

Nothing here knows what a column means; `palate.data.reading.interactions` assigns the roles.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from palate.data.layout import MANIFEST
from palate.data.reading.checks import MAX_EXAMPLES
from palate.data.reading.delimited import open_delimited
from palate.data.reading.table import (
    BYTES_PER_VALUE,
    MAX_GB,
    UNREADABLE,
    Table,
    Types,
    first_line,
    read_head,
    read_text,
)
from palate.errors import ConfigError, DataError, quoted
from palate.extras import missing_extra

MAX_NESTING = 64
"""Levels of lists and objects in a value of JSON lines."""

JSON_ENDINGS = (".jsonl", ".ndjson", ".json")
"""Endings of files of JSON lines."""
SQL = re.compile(r"\s*(select|with)\s", re.IGNORECASE)
"""The beginning of a query."""
_NUMBERS = {"Int": "whole numbers", "UInt": "whole numbers", "Float": "numbers", "Decimal": "numbers"}
_TEXTS = {"String": "text", "Categorical": "text", "Enum": "text", "Boolean": "true or false"}
_KINDS = _NUMBERS | _TEXTS | {"Date": "dates", "Datetime": "times"}


def is_store(path: object) -> bool:
    """Whether a path is the folder of a data set."""
    if not isinstance(path, (str, Path)):
        return False
    try:
        return (Path(path).expanduser() / MANIFEST).is_file()
    except (OSError, ValueError):  # a query, for example, is too long for a path
        return False


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
    if isinstance(source, str) and SQL.match(source):
        return _table_of_frame(read_query(source, connection), "the query")
    if not isinstance(source, (str, Path)):
        return _table_of_frame(read_frame(source), "the frame")
    path = Path(source).expanduser()
    head = read_head(path)
    suffix = (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()
    if head.startswith(b"PAR1") or suffix in (".parquet", ".pq"):
        return _open_parquet(path, head, max_gb)
    refuse_binary(path, head, encoding)
    if suffix in JSON_ENDINGS:
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
    with _connected(connection) as usable, _query_errors():
        return pl.read_database(query, usable, infer_schema_length=None)


def query_batches(query: str, connection: Any, rows: int) -> Iterator[pl.DataFrame]:
    """The rows of a query in frames of at most `rows`; the database is asked to send them as they are read.

    Args:
        query, connection: As in `read_query`.
        rows: Rows of a frame.

    Raises:
        DataError, MissingExtra: As in `read_query`.
    """
    with _connected(connection, stream=True) as usable, _query_errors():
        yield from pl.read_database(query, usable, iter_batches=True, batch_size=rows, infer_schema_length=None)


@contextmanager
def _connected(connection: Any, stream: bool = False) -> Iterator[Any]:
    """What polars takes as a connection; a URL becomes an engine, or a connection that streams its results."""
    if connection is None:
        raise DataError("a query needs connection=: a SQLAlchemy URL or engine, or an ADBC connection")
    if not isinstance(connection, str):
        yield connection
        return
    try:
        import sqlalchemy
    except ModuleNotFoundError as error:
        raise missing_extra("a query over a URL needs SQLAlchemy", "sql") from error
    try:
        engine = sqlalchemy.create_engine(connection)
    except (sqlalchemy.exc.ArgumentError, ModuleNotFoundError) as error:
        raise DataError(f"connection is not a usable SQLAlchemy URL: {first_line(error)}") from error
    try:
        if not stream:
            yield engine
            return
        with _query_errors(), engine.connect().execution_options(stream_results=True) as streaming:
            yield streaming
    finally:
        engine.dispose()


@contextmanager
def _query_errors() -> Iterator[None]:
    try:
        yield
    except (DataError, GeneratorExit):
        raise
    except Exception as error:  # each database driver has its own family of errors
        raise DataError(f"the query failed: {first_line(error)}") from error


def _table_of_frame(frame: pl.DataFrame, label: str) -> Table:
    def read(columns: Sequence[str], _: Types) -> pl.DataFrame:
        return frame.select(columns)

    return Table(label=label, names=tuple(frame.columns), kinds=describe_types(frame.dtypes), read=read)


def describe_types(dtypes: Iterable[Any]) -> tuple[str, ...]:
    """What columns of these types hold, in words."""
    names = [re.match("[A-Za-z]*", str(dtype)) for dtype in dtypes]
    return tuple(_KINDS.get(name.group(), name.group().lower()) if name else "?" for name in names)


def refuse_binary(path: Path, head: bytes, encoding: str) -> None:
    """Refuse files that are no text.

    Args:
        path: The file.
        head: Its beginning, from `read_head`.
        encoding: The encoding that it is said to have.

    Raises:
        DataError: It is none.
        ConfigError: The encoding is unknown.
    """
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
    except UNREADABLE as error:
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
        except UNREADABLE as error:
            raise DataError(f"{path} is a truncated or damaged Parquet file: {first_line(error)}") from error

    return Table(label=str(path), names=tuple(schema), kinds=describe_types(schema.values()), read=read)


def _read_json_lines(path: Path, encoding: str, max_gb: float) -> pl.DataFrame:
    data = read_text(path, encoding, max_gb).strip()
    if not data:
        raise DataError(f"{path} is empty; expected a table with at least one row")
    try:
        frame = pl.read_ndjson(data, infer_schema_length=None)
        nested = [name for name, dtype in frame.schema.items() if _nesting(dtype) > MAX_NESTING]
    except RecursionError:
        nested = [""]
    except UNREADABLE as error:
        if data.startswith(b"["):
            raise DataError(f"{path} holds one JSON list; expected JSON lines (one object a line)") from error
        faults, count = bad_json_lines(data)
        faults += [f"{count - len(faults)} more lines like these"] * (count > len(faults))
        raise DataError.faults(str(path), faults or [first_line(error)]) from error
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


def bad_json_lines(data: bytes, first: int = 1) -> tuple[list[str], int]:
    """The first lines that are no JSON objects, in words, and how many there are; for text that could not be read.

    Args:
        data: Lines.
        first: The number of the first one.
    """
    faults, count = [], 0
    for number, line in enumerate(data.split(b"\n"), first):
        try:
            row = json.loads(line, parse_constant=_refuse_constant) if line.strip() else {}
            reason = "" if isinstance(row, dict) else "not an object"
        except RecursionError:
            reason = f"nested more than {MAX_NESTING} levels deep"
        except ValueError as error:
            reason = first_line(error)
        count += bool(reason)
        if reason and count <= MAX_EXAMPLES:
            faults.append(f"line {number} is not a JSON object ({reason}): {quoted(line.decode(errors='replace'))}")
    return faults, count


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
