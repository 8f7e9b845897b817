"""Table: an opened source of any kind, and the bytes of the file behind it."""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import polars as pl

from palate.errors import ConfigError, DataError, quoted

Types = Mapping[str, pl.DataType]

TOO_LONG = "\x00too long"
"""Name of the extra bool column of a text table in which some rows have more fields than the first line."""
GZIP = b"\x1f\x8b"
"""The first bytes of a gzip file."""
MAX_GB = 8.0
"""Default limit, in GiB, on what a compressed file may take in memory."""

BYTES_PER_VALUE = 60
"""What a value may take in memory while a table is checked: 25 in ordinary tables, 58 if all rows repeat."""

_HEAD_BYTES = 1 << 16
_MAX_HEAD_BYTES = 1 << 26
_GUNZIP_BYTES = 1 << 24


UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError)
"""What polars raises on files that it cannot read; some broken ones make it panic."""


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


@dataclass(frozen=True, eq=False, kw_only=True)
class Table:
    """An opened source.

    Attributes:
        label: What messages call it.
        names: Names of the columns; those of a file without a header are "0", "1", ...
        kinds: What each column holds, in words; for a text file judged by its first lines.
        read: Reads the given columns. Columns of a text file are String (null where empty), except those that the
            second argument, column -> type, names and whose values are all of that type.
        is_text: Whether it is a delimited text file.
        has_header: Whether the columns have names of their own.
        layout: That of a delimited text file.
    """

    label: str
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    read: Callable[[Sequence[str], Types], pl.DataFrame]
    is_text: bool = False
    has_header: bool = True
    layout: Layout | None = None


def without_type(name: str) -> str:
    """A column's name without the type that RecBole appends ("user_id:token")."""
    return re.sub(r":(token|float)(_seq)?$", "", name)


def folded(name: str) -> str:
    """A column's name in lower case, letters and digits only: "userId" and "User ID" become equal."""
    return re.sub(r"[^a-z0-9]", "", without_type(name).lower())


def read_head(path: Path) -> bytes:
    """The beginning of a file, unpacked: 64 KiB, or as much as the first three lines need (at most 64 MiB).

    Raises:
        DataError: The file does not exist, is empty, is not a regular file or cannot be read.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder; expected a file (name one of the files in the folder)")
    if not path.exists():
        names = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
        near = get_close_matches(path.name, names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise DataError(f"there is no file {path} (looked for {path.absolute()}){hint}")
    if not path.is_file():
        raise DataError(f"{path} is a pipe or a device; expected a regular file (write its content to a file first)")
    try:
        with path.open("rb") as raw:
            is_gzip = raw.read(len(GZIP)) == GZIP
        with gzip.open(path) if is_gzip else path.open("rb") as file:
            head = bytes(file.read(_HEAD_BYTES))
            while head.count(b"\n") < 3 and len(head) < _MAX_HEAD_BYTES and (more := file.read(len(head))):
                head += more
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not head:
        raise DataError(f"{path} is empty; expected a table with at least one row")
    return head


def read_text(path: Path, encoding: str, max_gb: float) -> bytes:
    """The whole file, unpacked, as UTF-8 without a byte order mark.

    Raises:
        DataError: The file is damaged, unpacks to more than `max_gb` GiB or is not text in this encoding.
    """
    try:
        with path.open("rb") as raw:
            is_gzip = raw.read(len(GZIP)) == GZIP
        data = _gunzip(path, max_gb) if is_gzip else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is a truncated or damaged gzip file: {error}") from error
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} is not {encoding}: byte 0x{data[error.start]:02X} at offset {error.start} (line {line}); "
            "pass the encoding of the file, for example encoding='latin-1' or encoding='cp1252'"
        ) from None
    except UnicodeError as error:
        raise DataError(f"{path} is not {encoding}: {first_line(error)}; pass the encoding of the file") from None
    if codecs.lookup(encoding).name == "utf-8":
        return data.removeprefix(codecs.BOM_UTF8)
    try:
        return text.removeprefix("\ufeff").encode()
    except UnicodeEncodeError as error:  # half a character, which some encodings allow
        raise DataError(f"{path} holds a text that is no Unicode: {first_line(error)}") from None


def _gunzip(path: Path, max_gb: float) -> bytes:
    blocks, needed = [], 0
    with gzip.open(path) as file:
        while block := file.read(_GUNZIP_BYTES):
            # Short rows take far more than their text: each has a user and an item.
            needed += len(block) + 2 * BYTES_PER_VALUE * block.count(b"\n")
            if needed > max_gb * 2**30:
                raise DataError(
                    f"{path} unpacks to more than {max_gb:g} GiB of memory, the limit for compressed files; if the "
                    f"file is what it should be, raise the limit, for example max_gb={2 * max_gb:g}"
                )
            blocks.append(block)
    return b"".join(blocks)


def first_line(error: BaseException) -> str:
    """The first line of another library's error, shortened."""
    return str(error).strip().split("\n")[0][:300]


Role = Literal["user_id", "item_id", "rating", "timestamp", "weight"]
Columns = Mapping[str, str | int | None] | Sequence[str | None]

ROLES: tuple[Role, ...] = ("user_id", "item_id", "rating", "timestamp", "weight")

USUAL_NAMES: dict[str, tuple[str, ...]] = {
    role: tuple(names.split())
    for role, names in {
        "user_id": "userid user uid reviewerid customerid customer visitorid memberid accountid",
        "item_id": "itemid item iid movieid movie filmid asin parentasin productid product isbn bookid articleid "
        "trackid songid artistid businessid",
        "rating": "rating ratings score stars overall rate bookrating",
        "timestamp": "timestamp time ts date datetime unixreviewtime createdat eventtime",
        "weight": "weight playcount listeningcount",
    }.items()
}
"""Usual names of each role, as `folded` writes them."""
COUNT_NAMES = frozenset(["count", "counts", "qty", "quantity", "plays", "clicks", "views", "purchases"])
"""Names of columns that may be meant as `weight`, as `folded` writes them; they are suggested, not taken."""
KNOWN_NAMES = [name for names in USUAL_NAMES.values() for name in names]
"""All of `USUAL_NAMES`."""


def check_columns(columns: Columns | None) -> None:
    """Check that a mapping or list names known roles only.

    Raises:
        ConfigError: Lists all unknown roles, each with the nearest known one.
    """
    if columns is None:
        return
    if isinstance(columns, str):
        raise ConfigError(f"columns = {columns!r}: expected a mapping from role to column name or a list of roles")
    given = list(columns) if isinstance(columns, Mapping) else [c for c in columns if c not in (None, "", "-", "_")]
    faults = []
    for name in given:
        if name not in ROLES:
            near = get_close_matches(str(name), ROLES, n=1)
            faults.append(
                f"{name!r} is not one of {', '.join(ROLES)}" + (f"; did you mean {quoted(near[0])}?" if near else "")
            )
        elif given.count(name) > 1 and f"{name!r} is named twice" not in faults:
            faults.append(f"{name!r} is named twice")
    if faults:
        raise ConfigError.faults("columns", faults)


def find_columns(table: Table, columns: Columns | None) -> tuple[dict[Role, str], list[str]]:
    """Find the column of each role.

    Args:
        table: The opened source.
        columns: Role -> name or position (None: there is none), or the roles in file order. Roles that a mapping
            does not mention are recognised by their usual names.

    Returns:
        Role -> column name, and the faults found.
    """
    faults: list[str] = []
    given: dict[str, str | int | None] = {}
    if isinstance(columns, Mapping):
        given.update(columns)
    elif columns is not None:
        if len(columns) != len(table.names):
            faults.append(f"columns names {len(columns)} columns, the file has {len(table.names)}")
        given.update(dict.fromkeys(ROLES))
        given.update({c: k for k, c in enumerate(columns) if c in ROLES})
    named = {name for name in map(str, given.values()) if name in table.names}
    roles: dict[Role, str] = {}
    for role in ROLES:
        if role in given:
            name, fault = _find_given(role, given[role], table)
        else:
            name, fault = _find_usual(role, [n for n in table.names if n not in named])
        faults += [fault] if fault else []
        if name is not None:
            roles[role] = name
    missing = [role for role in ROLES[:2] if role not in roles and not _has_fault(role, faults)]
    faults += _missing_faults(missing, table, bool(given))
    shared = {name for name in roles.values() if list(roles.values()).count(name) > 1}
    used = {name: " and as ".join(role for role in roles if roles[role] == name) for name in sorted(shared)}
    faults += [f"column {quoted(name)} is used as {uses}" for name, uses in used.items()]
    return roles, faults


def suggest_weight(table: Table, roles: Mapping[Role, str], columns: Columns | None) -> list[str]:
    """A note if a column looks like a number of repetitions and no column is used as weight."""
    if "weight" in roles or (columns is not None and ("weight" in columns or not isinstance(columns, Mapping))):
        return []
    numeric = [
        name for name, kind in zip(table.names, table.kinds, strict=True) if kind in ("whole numbers", "numbers")
    ]
    found = [name for name in numeric if folded(name) in COUNT_NAMES and name not in roles.values()]
    return [
        f"column {quoted(name)} is not used; if it counts repetitions, use it as weight: "
        f"columns={{'weight': {quoted(name)}}}"
        for name in found
    ]


def find_id_column(table: Table, key: str, id_column: str | None = None, mapping: Columns | None = None) -> str:
    """Find the column that holds the ids of a side table.

    Args:
        table: The opened side table.
        key: "item_id" or "user_id".
        id_column: Name of the column. Defaults to the column that `mapping` names, if the table has it, else to one
            recognised by its usual names, or "id".
        mapping: `columns` of the interactions.

    Raises:
        DataError: There is no such column, or there are several.
    """
    if id_column is not None:
        name, fault = _find_given(key, id_column, table)
    else:
        mapped = mapping.get(key) if isinstance(mapping, Mapping) else None
        if isinstance(mapped, str) and table.names.count(mapped) == 1:
            return mapped
        bare = [folded(name) for name in table.names]
        # "movieId" first, then "id", then other words: an "isbn" next to an "id" only describes the item.
        name, fault = _find_usual(key, [n for n, b in zip(table.names, bare, strict=True) if b.endswith("id")])
        if name is None and not fault and bare.count("id") == 1:
            name = table.names[bare.index("id")]
        if name is None and not fault:
            name, fault = _find_usual(key, table.names)
    if name is None:
        argument = f"{key.removesuffix('_id')}s_id"
        example = quoted(table.names[0] if table.names else "id")
        missing = f"no column for {key}; columns found: {_listed(table.names)}"
        advice = f"rename the column of ids to {key!r}, or name it, for example {argument}={example}"
        raise DataError(f"{table.label}: {fault or f'{missing}; {advice}'}")
    return name


def _find_given(role: str, asked: str | int | None, table: Table) -> tuple[str | None, str]:
    if asked is None:
        return None, ""
    if isinstance(asked, int):
        if 0 <= asked < len(table.names):
            name = table.names[asked]
            if table.names.count(name) == 1:
                return name, ""
            return None, f"column {asked} for {role}: {_duplicate_name(name)}"
        return None, f"no column {asked} for {role}: positions count from 0 to {len(table.names) - 1}"
    if table.names.count(asked) == 1:
        return asked, ""
    if asked in table.names:
        return None, f"column {asked!r} for {role}: {_duplicate_name(asked)}"
    near = get_close_matches(asked, table.names, n=1, cutoff=0.5)
    hint = f"; did you mean {quoted(near[0])}?" if near else ""
    return None, f"no column {asked!r} for {role}; columns found: {_listed(table.names)}{hint}"


def _find_usual(role: str, names: Sequence[str]) -> tuple[str | None, str]:
    bare = [folded(name) for name in names]
    usual = [k for k, name in enumerate(bare) if name in USUAL_NAMES[role]]
    exact = [k for k in usual if bare[k] == role.replace("_", "")]
    ids = [k for k in usual if bare[k].endswith("id")]  # "movieId" is meant where there is "movie" too
    found = exact or ids or usual
    if len(found) > 1:
        listed = ", ".join(quoted(names[k]) for k in found)
        return None, f"{role} could be any of {listed}; choose one with columns={{{role!r}: {quoted(names[found[0]])}}}"
    return (names[found[0]] if found else None), ""


def _missing_faults(missing: Sequence[str], table: Table, given: bool) -> list[str]:
    if missing and not table.has_header and not given:
        order = ["user_id", "item_id", "rating", "timestamp"][: max(2, len(table.names))]
        return [
            f"no column for {' and '.join(missing)}: the first line looks like data, not names ({len(table.names)} "
            f"columns); give their order, for example columns={order}, or has_header=True"
        ]
    if missing and table.is_text and len(table.names) == 1:
        return [
            f"no column for {' and '.join(missing)}: the file has one column, {quoted(table.names[0])}; if its fields "
            "are separated by something other than comma, tab, ';', '|' or '::', pass separator=, for example "
            "separator=' '"
        ]
    faults = []
    for role in missing:
        near = [n for n in table.names if get_close_matches(folded(n), [*USUAL_NAMES[role], role], n=1, cutoff=0.7)]
        hint = f"; near: {_listed(near)}" if near else ""
        found = f"no column for {role}; columns found: {_listed(table.names)}{hint}"
        example = (near or list(table.names) or [""])[0]
        faults.append(f"{found}; name it, for example columns={{{role!r}: {quoted(example)}}}")
    return faults


def _has_fault(role: str, faults: Sequence[str]) -> bool:
    return any(f"for {role}" in fault or fault.startswith(role) for fault in faults)


def _duplicate_name(name: str) -> str:
    return f"several columns are called {quoted(name)}; rename them"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(quoted, names[:20])) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
