"""Sources in blocks: the same tables as `palate.data.reading.formats` opens, with only a block of rows in memory.

A block of text ends where a row ends; its bytes are read and not mapped, so that they take no memory afterwards.
"""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars as pl

from palate.data.reading.checks import MAX_EXAMPLES
from palate.data.reading.delimited import parse_delimited, quote_characters
from palate.data.reading.formats import (
    JSON_ENDINGS,
    SQL,
    bad_json_lines,
    describe_types,
    open_table,
    query_batches,
    refuse_binary,
)
from palate.data.reading.table import GZIP, UNREADABLE, Layout, Table, Types, first_line, read_head
from palate.errors import DataError, quoted

Frames = Iterator[tuple[pl.DataFrame, int]]

_BYTES_PER_VALUE = 24
"""What a value of a Parquet file is assumed to take in memory."""
_JSON_BLOCK = 1 << 24
_QUERY_ROWS = 1 << 17
_MAX_STRETCH = 16
"""A row may be so many times as long as a block."""
_SKIPPED = re.compile(r"^[._]")
_HIVE = re.compile(r"([^=]+)=(.*)")
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


class OtherQuotes(Exception):
    """The quotes of a text do not pair up: it is to be read again from the beginning, with quotes as plain text."""


@dataclass(frozen=True, eq=False, kw_only=True)
class BlockSource:
    """A source that is read in blocks.

    Attributes:
        table: Names and kinds of its columns; `read` is not used.
        frames: (columns, types, position, bytes) -> frames of about so many bytes each, and the position after each.
        resumes: Whether reading can begin at a position; else it begins at 0.
        size: Bytes of the file; 0 for a query.
        signature: Changes with the content: path, size and time of change, or the query.
    """

    table: Table
    frames: Callable[[Sequence[str], Types, int, int], Frames]
    resumes: bool = True
    size: int = 0
    signature: tuple[Any, ...] = ()


def expand_folders(sources: Iterable[Any]) -> list[tuple[Any, dict[str, str | None]]]:
    """The files of folders, in order of their names, each with the columns that its path tells (`date=2024-05-01`).

    Args:
        sources: Paths of files and folders, and queries.

    Raises:
        DataError: A folder holds no file, or its files do not have the same partitions.
    """
    found: list[tuple[Any, dict[str, str | None]]] = []
    for source in sources:
        path = None if isinstance(source, str) and SQL.match(source) else Path(source).expanduser()
        if path is None or not path.is_dir():
            found.append((source, {}))
            continue
        files = sorted(
            file
            for file in path.rglob("*")
            if file.is_file() and not any(map(_SKIPPED.match, file.relative_to(path).parts))
        )
        if not files:
            raise DataError(f"{path} is a folder without files; expected tables in it")
        partitions = [_partitions(file.relative_to(path).parts[:-1]) for file in files]
        if len({tuple(one) for one in partitions}) > 1:
            names = sorted({", ".join(one) or "none" for one in partitions})
            raise DataError(f"{path}: files have different partition columns: {' and '.join(names)}")
        found += zip(files, partitions, strict=True)
    return found


def _partitions(parts: Sequence[str]) -> dict[str, str | None]:
    matches = [match for match in map(_HIVE.fullmatch, parts) if match is not None]
    return {unquote(match[1]): None if match[2] == _HIVE_NULL else unquote(match[2]) for match in matches}


def open_blocks(
    source: Any,
    partitions: dict[str, str | None],
    *,
    known: Iterable[str],
    plain_quotes: bool = False,
    separator: str | None = None,
    has_header: bool | None = None,
    encoding: str = "utf-8",
    connection: Any = None,
) -> BlockSource:
    """Open a source to be read in blocks.

    Args:
        source: Path of a file, or a query.
        partitions: Columns that its path tells, from `expand_folders`.
        known: As in `open_table`.
        plain_quotes: Whether quotes are part of the values of a text table (see `OtherQuotes`).
        separator, has_header, encoding, connection: As in `open_table`.

    Raises:
        DataError: It does not exist, or cannot be read as a table.
    """
    if isinstance(source, str) and SQL.match(source):
        return _open_query(source, connection)
    path = Path(source).expanduser()
    head = read_head(path)
    suffix = (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()
    if suffix in JSON_ENDINGS and not head.startswith(b"PAR1"):
        refuse_binary(path, head, encoding)
        found = _open_json(path, encoding)
    else:
        table = open_table(path, separator=separator, has_header=has_header, encoding=encoding, known=known)
        if table.layout is None:
            frames = _parquet_frames(path)
        else:
            quotes = [None] if plain_quotes else quote_characters(table.layout)
            frames = _text_frames(path, table.layout, encoding, quotes)
        found = BlockSource(table=table, frames=frames)
    about = path.stat()
    found = replace(found, size=about.st_size, signature=(str(path.absolute()), about.st_size, about.st_mtime_ns))
    return _with_partitions(found, partitions) if partitions else found


def _with_partitions(source: BlockSource, partitions: dict[str, str | None]) -> BlockSource:
    """The source with a constant column for each partition."""
    both = set(partitions) & set(source.table.names)
    constant = {name: value for name, value in partitions.items() if name not in both}
    names, kinds = source.table.names, source.table.kinds
    table = replace(source.table, names=(*names, *constant), kinds=(*kinds, *("text" for _ in constant)))

    def frames(columns: Sequence[str], types: Types, start: int, size: int) -> Frames:
        inside = [name for name in columns if name not in constant] or list(names[:1])
        extra = [pl.lit(constant[name], pl.String).alias(name) for name in columns if name in constant]
        for frame, position in source.frames(inside, types, start, size):
            yield frame.with_columns(extra), position

    return replace(source, table=table, frames=frames)


# Text.


class _Recoded(io.RawIOBase):
    """Text of any encoding as UTF-8 bytes; `read` gives about as many as asked for."""

    def __init__(self, file: Any, encoding: str) -> None:
        self._text = io.TextIOWrapper(file, encoding, newline="")

    def read(self, size: int = -1) -> bytes:
        return self._text.read(size).encode()

    def close(self) -> None:
        self._text.close()
        super().close()


def _open_text(path: Path, encoding: str) -> Any:
    with path.open("rb") as raw:
        is_gzip = raw.read(len(GZIP)) == GZIP
    file: Any = gzip.open(path) if is_gzip else path.open("rb", buffering=0)  # noqa: SIM115
    return file if codecs.lookup(encoding).name == "utf-8" else _Recoded(file, encoding)


def text_blocks(path: Path, encoding: str, quote: bytes, start: int, size: int) -> Iterator[tuple[bytes, int]]:
    """Text in UTF-8, cut at ends of lines, and the position after each block.

    Args:
        path: A file, perhaps gzipped.
        encoding: Of the file.
        quote: A line that ends between two of these goes on; b"" for none.
        start: A position that was given before, or 0.
        size: Bytes of a block.

    Raises:
        DataError: The file is damaged, is not text in this encoding, or a row does not end.
        OtherQuotes: The quotes do not pair up.
    """
    try:
        with closing(_open_text(path, encoding)) as file:
            if file.seekable() and not isinstance(file, _Recoded):
                file.seek(start)
            else:
                done = 0
                while done < start and (skipped := file.read(min(size, start - done))):
                    done += len(skipped)
            rest, position = b"", start
            while more := file.read(size):
                rest += more
                cut = _last_row_end(rest, quote)
                if not cut and len(rest) > _MAX_STRETCH * size:
                    raise OtherQuotes
                if cut:
                    position += cut
                    yield _without_mark(rest[:cut], position == cut), position
                    rest = rest[cut:]
            if rest:
                if quote and rest.count(quote) % 2:
                    raise OtherQuotes
                yield _without_mark(rest, position == 0), position + len(rest)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a truncated or damaged gzip file: {error}") from error
    except UnicodeError as error:
        raise DataError(f"{path} is not {encoding}: {first_line(error)}; pass the encoding of the file") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _without_mark(block: bytes, first: bool) -> bytes:
    return block.removeprefix(codecs.BOM_UTF8) if first else block


def _last_row_end(text: bytes, quote: bytes) -> int:
    """The position after the last line break that is not within quotes; 0 if there is none."""
    end = text.rfind(b"\n") + 1
    if not quote or not end:
        return end
    open_quotes = text.count(quote, 0, end) % 2
    while end and open_quotes:
        before = text.rfind(b"\n", 0, end - 1) + 1
        open_quotes = (open_quotes - text.count(quote, before, end)) % 2
        end = before
    return end


def _text_frames(path: Path, layout: Layout, encoding: str, quotes: Sequence[str | None]) -> Callable[..., Frames]:
    def frames(columns: Sequence[str], types: Types, start: int, size: int) -> Frames:
        quote, begin = quotes[0], start
        try:
            for block, end in text_blocks(path, encoding, (quote or "").encode(), start, size):
                here = replace(layout, skip=0) if begin else layout
                yield parse_delimited(block, here, columns, types, str(path), [quote]), end
                begin = end
        except UnicodeError as error:
            raise DataError(
                f"{path} is not {encoding}, after byte {begin:,}: {first_line(error)}; pass the encoding of the "
                "file, for example encoding='latin-1' or encoding='cp1252'"
            ) from error
        except (OtherQuotes, DataError) as error:
            if quote and len(quotes) > 1:
                raise OtherQuotes from error
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path} cannot be split into rows: a quote is not closed after byte {begin:,}") from None

    return frames


# Parquet, JSON lines and queries.


def _parquet_frames(path: Path) -> Callable[..., Frames]:
    def frames(columns: Sequence[str], types: Types, start: int, size: int) -> Frames:
        rows = max(size // (_BYTES_PER_VALUE * len(columns)), 1)
        wanted = pl.scan_parquet(path, glob=False).select(columns).slice(start)
        try:
            for frame in wanted.collect_batches(chunk_size=rows, maintain_order=True):
                start += frame.height
                yield frame.select(columns), start
        except UNREADABLE as error:
            raise DataError(f"{path} is a truncated or damaged Parquet file: {first_line(error)}") from error

    return frames


def _open_json(path: Path, encoding: str) -> BlockSource:
    schema = _json_schema(path, encoding)

    def frames(columns: Sequence[str], types: Types, start: int, size: int) -> Frames:
        wanted = {name: schema[name] for name in columns}
        for block, position in text_blocks(path, encoding, b"", start, size):
            if text := block.strip():
                yield pl.read_ndjson(text, schema=wanted).select(columns), position

    names = tuple(schema)
    return BlockSource(
        table=Table(label=str(path), names=names, kinds=describe_types(schema.values()), read=_read_whole),
        frames=frames,
    )


def _json_schema(path: Path, encoding: str) -> dict[str, pl.DataType]:
    """The columns of JSON lines and the type that holds all values of each; reads the whole file.

    Raises:
        DataError: The file holds no rows, or lines that are no objects.
    """
    known, count, line = pl.DataFrame(), 0, 1
    faults: list[str] = []
    for block, _ in text_blocks(path, encoding, b"", 0, _JSON_BLOCK):
        try:
            if text := block.strip():
                found = pl.read_ndjson(text, infer_schema_length=None).clear()
                known = pl.concat([known, found], how="diagonal_relaxed")
        except RecursionError:
            raise DataError(f"{path}: a line is nested too deeply; flatten or remove it") from None
        except UNREADABLE as error:
            if line == 1 and text.startswith(b"["):
                raise DataError(f"{path} holds one JSON list; expected JSON lines (one object a line)") from error
            more, number = bad_json_lines(block, line)
            faults, count = (faults + more)[:MAX_EXAMPLES], count + number
            if not number:
                raise DataError(f"{path} cannot be read as JSON lines: {first_line(error)}") from error
        line += block.count(b"\n")
    if count > len(faults):
        faults.append(f"{count - len(faults):,} more lines like these")
    if faults:
        raise DataError.faults(str(path), faults)
    if not known.width:
        raise DataError(f"{path} is empty; expected a table with at least one row")
    return dict(known.schema)


def _open_query(query: str, connection: Any) -> BlockSource:
    batches = query_batches(query, connection, _QUERY_ROWS)
    first = next(batches, None)
    if first is None:
        raise DataError(f"the query gives no rows: {quoted(query)}")

    def frames(columns: Sequence[str], types: Types, start: int, size: int) -> Frames:
        position = 0
        for frame in chain([first], batches):
            position += frame.height
            yield frame.select(columns), position

    kinds = describe_types(first.dtypes)
    table = Table(label="the query", names=tuple(first.columns), kinds=kinds, read=_read_whole)
    return BlockSource(table=table, frames=frames, resumes=False, signature=(query,))


def _read_whole(columns: Sequence[str], types: Types) -> pl.DataFrame:
    raise NotImplementedError("a source of blocks is read by `frames`")
