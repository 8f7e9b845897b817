"""Any source -> its column names and a way to read some of them, untouched: text stays text.

Nothing here knows what a column means; `palate.data.table` gives the columns their roles.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import polars as pl

from palate.data.delimited import Layout, layout, shown
from palate.data.frames import read_frame, read_query, short
from palate.errors import ConfigError, DataError

TOO_LONG = "\x00too long"
"""Name of the extra bool column of a text table some of whose rows have more fields than the first line."""

_HEAD = 1 << 16
_JSON = (".jsonl", ".ndjson", ".json")
_SQL = re.compile(r"\s*(select|with)\s", re.IGNORECASE)
_NUMBERS = {"Int": "whole numbers", "UInt": "whole numbers", "Float": "numbers", "Decimal": "numbers"}
_TEXTS = {"String": "text", "Categorical": "text", "Enum": "text", "Boolean": "true or false"}
_KINDS = _NUMBERS | _TEXTS | {"Date": "dates", "Datetime": "times"}


Types = Mapping[str, pl.DataType]


@dataclass(frozen=True, eq=False, kw_only=True)
class Table:
    """An opened source.

    Attributes:
        label: What messages call it.
        names: Its columns; those of a file without a header are called "0", "1", ...
        kinds: What each column holds, in words; for a text file judged by its first lines.
        read: Gives the columns asked for; of a text file all as String (null where empty), but for those of the second
            argument, column -> type, if every value of theirs is of their type.
        is_text: Whether it is a delimited text file.
        has_header: Whether the columns have names of their own.
    """

    label: str
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    read: Callable[[Sequence[str], Types], pl.DataFrame]
    is_text: bool = False
    has_header: bool = True


def open_table(
    source: Any,
    *,
    separator: str | None = None,
    has_header: bool | None = None,
    encoding: str = "utf-8",
    connection: Any = None,
    known: Iterable[str] = (),
) -> Table:
    """Open a path, a query or a frame.

    Args:
        source: Path of a delimited text file (also .gz), Parquet or JSON lines; a query starting with SELECT or WITH;
            a polars, pandas or Arrow frame.
        separator: Between the fields of a text file; default: guessed.
        has_header: Whether a text file's first line holds names; default: guessed.
        encoding: Of a text file or JSON lines.
        connection: For a query: SQLAlchemy URL or engine, DB-API or ADBC connection.
        known: Names that, where the first line holds one, make it a header.

    Raises:
        DataError: The source is not there or cannot be read as a table.
        MissingExtra: A query or a pandas frame needs a package that is not installed.
    """
    if isinstance(source, str) and _SQL.match(source):
        return _of_frame(read_query(source, connection), "the query")
    if not isinstance(source, (str, Path)):
        return _of_frame(read_frame(source), "the frame")
    path = Path(source).expanduser()
    head = _head(path)
    suffix = (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()
    if head.startswith(b"PAR1") or suffix in (".parquet", ".pq"):
        return _parquet(path, head)
    _refuse_binary(path, head, encoding)
    if suffix in _JSON:
        return _of_frame(_json_lines(path, encoding), str(path))
    return _text(path, head, separator, has_header, encoding, frozenset(known))


def _head(path: Path) -> bytes:
    if path.is_dir():
        raise DataError(f"{path} is a folder; a file was expected (name one of the files in it)")
    if not path.exists():
        near = get_close_matches(
            path.name, [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else [], n=1
        )
        hint = f"; did you mean {near[0]}?" if near else ""
        raise DataError(f"there is no file {path} (looked for {path.absolute()}){hint}")
    try:
        with path.open("rb") as raw:
            head = raw.read(_HEAD)
        if head.startswith(b"\x1f\x8b"):
            with gzip.open(path) as unpacked:
                head = unpacked.read(_HEAD)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not head:
        raise DataError(f"{path} is empty; a table with at least one row was expected")
    return head


def _refuse_binary(path: Path, head: bytes, encoding: str) -> None:
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise ConfigError(f"encoding {encoding!r} is unknown; usual ones are utf-8, latin-1, cp1252, utf-16") from None
    if head.startswith(b"PK\x03\x04"):
        raise DataError(
            f"{path} is a zip archive or a workbook, not a table: unpack it or save it as CSV "
            "(a MovieLens zip is loaded by its name: Dataset.load(name, path=...))"
        )
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") and "16" not in encoding:
        raise DataError(f"{path} is UTF-16 text: pass encoding='utf-16'")
    if b"\x00" in head and not re.search("16|32", encoding):
        raise DataError(
            f"{path} is not a text table: it holds a zero byte at offset {head.index(0)} "
            "(CSV, TSV, JSON lines or Parquet was expected; UTF-16 text needs encoding='utf-16')"
        )


def _parquet(path: Path, head: bytes) -> Table:
    if not head.startswith(b"PAR1"):
        raise DataError(f"{path} is not a Parquet file: it does not start with PAR1")
    try:
        schema = pl.read_parquet_schema(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} is a truncated or damaged Parquet file: {short(error)}") from error

    def read(columns: Sequence[str], _: Types) -> pl.DataFrame:
        try:
            return pl.read_parquet(path, columns=list(dict.fromkeys(columns))).select(columns)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(f"{path} is a truncated or damaged Parquet file: {short(error)}") from error

    return Table(label=str(path), names=tuple(schema), kinds=_kinds(schema.values()), read=read)


def _of_frame(frame: pl.DataFrame, label: str) -> Table:
    def read(columns: Sequence[str], _: Types) -> pl.DataFrame:
        return frame.select(columns)

    return Table(label=label, names=tuple(frame.columns), kinds=_kinds(frame.dtypes), read=read)


def _kinds(dtypes: Iterable[Any]) -> tuple[str, ...]:
    names = [re.match("[A-Za-z]*", str(dtype)) for dtype in dtypes]
    return tuple(_KINDS.get(name.group(), name.group().lower()) if name else "?" for name in names)


def _json_lines(path: Path, encoding: str) -> pl.DataFrame:
    data = _unpacked(path, encoding).strip()
    if not data:
        raise DataError(f"{path} is empty; a table with at least one row was expected")
    try:
        return pl.read_ndjson(data, infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        if data.startswith(b"["):
            raise DataError(f"{path} holds one JSON list; JSON lines (one object a line) was expected") from error
        raise DataError.faults(str(path), _bad_json(data) or [short(error)]) from error


def _bad_json(data: bytes) -> list[str]:
    """The lines that are no JSON objects; runs only when the file could not be read."""
    faults, count = [], 0
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            row = json.loads(line, parse_constant=_refuse) if line.strip() else {}
            reason = "" if isinstance(row, dict) else "not an object"
        except ValueError as error:
            reason = short(error)
        count += bool(reason)
        if reason and count <= 5:
            faults.append(f"line {number} is not a JSON object ({reason}): {shown(line.decode(errors='replace'))}")
    return faults + ([f"{count - 5} more lines like these"] if count > 5 else [])


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _unpacked(path: Path, encoding: str) -> bytes:
    """The whole file, unpacked, as UTF-8 without byte order mark."""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is a truncated or damaged gzip file: {error}") from error
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} is not {encoding}: byte 0x{data[error.start]:02X} at offset {error.start} (line {line}); "
            "pass the encoding it was written in, for example encoding='latin-1' or 'cp1252'"
        ) from None
    if codecs.lookup(encoding).name == "utf-8":
        return data.removeprefix(codecs.BOM_UTF8)
    return text.removeprefix("\ufeff").encode()


def _text(
    path: Path, head: bytes, separator: str | None, has_header: bool | None, encoding: str, known: frozenset[str]
) -> Table:
    found = layout(head, str(path), separator, has_header, encoding, known)

    def read(columns: Sequence[str], types: Types) -> pl.DataFrame:
        if not columns:
            return pl.DataFrame()
        wanted = [found.names.index(column) for column in columns]
        schema: dict[str, pl.DataType] = {str(k): types.get(name, pl.String()) for k, name in enumerate(found.names)}
        frame = _read_delimited(path, found, wanted, schema | {str(len(found.names)): pl.Boolean()}, encoding)
        if frame is None:  # a few bad values, or rows that are too long: read as text, so that they can be shown
            frame = _read_delimited(path, found, wanted, dict.fromkeys([*schema, "+"], pl.String()), encoding)
        assert frame is not None
        too_long = frame.to_series(len(wanted)).is_not_null()
        frame = frame.select(pl.nth(k).alias(name) for k, name in enumerate(columns))
        return frame.with_columns(too_long.alias(TOO_LONG)) if too_long.any() else frame

    return Table(
        label=str(path), names=found.names, kinds=found.kinds, read=read, is_text=True, has_header=found.has_header
    )


def _read_delimited(
    path: Path, found: Layout, wanted: list[int], schema: dict[str, pl.DataType], encoding: str
) -> pl.DataFrame | None:
    """The wanted columns and, last, the field behind the last column: null unless a row is too long.

    None where a value is not of its column's type.
    """
    plain = codecs.lookup(encoding).name == "utf-8" and len(found.separator) == 1 and path.suffix != ".gz"
    source: Path | bytes = path if plain else _unpacked(path, encoding)
    separator = found.separator
    if isinstance(source, bytes) and len(separator) > 1:
        stand_in = next(byte for byte in (b"\x1f", b"\x1e", b"\x1d", b"\x01", b"\x02") if byte not in source)
        source, separator = source.replace(separator.encode(), stand_in), stand_in.decode()
    # Quotes are a convention of CSV; in other text, where they do not work out, they are part of the values.
    quotes = ['"'] if separator == "," else ['"', None] if len(found.separator) == 1 else [None]
    error: Exception
    for quote in quotes:
        try:
            return pl.read_csv(
                source,
                has_header=False,
                skip_lines=found.skip,
                separator=separator,
                quote_char=quote,
                schema=schema,
                columns=[*wanted, len(found.names)],
                missing_columns="insert",
                extra_columns="ignore",
                glob=False,
            )
        except (pl.exceptions.PolarsError, OSError) as caught:
            error = caught
    if "utf-8" in str(error).lower():
        _unpacked(path, encoding)  # says where
    if set(schema.values()) != {pl.String()}:
        return None
    place = re.search("could not parse `(.*)", str(error))
    reason = f"a quote does not close, or has text behind it: {shown(place[1])}" if place else short(error)
    raise DataError(f"{path} cannot be split into columns: {reason}") from error
