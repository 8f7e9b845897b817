"""Predefined splits: a part or a fold for each row, as published with a data set; and files of candidates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from palate.data.dataset import Dataset
from palate.data.reading.checks import ROW, Findings, parse_ids
from palate.data.reading.formats import open_table
from palate.data.reading.table import KNOWN_NAMES, Columns, find_columns
from palate.data.splits.build import TEST, TRAIN, VALID, Split, build_split, check_shares
from palate.errors import ConfigError, DataError

_PART_CODES = {"train": TRAIN, "valid": VALID, "val": VALID, "validation": VALID, "test": TEST}


def predefined_split(
    data: Dataset,
    *,
    parts: Any,
    column: str | None = None,
    fold: int | None = None,
    columns: Columns | None = None,
    valid: float = 0.1,
    seed: int = 0,
) -> Split:
    """Split by parts that come with the data: names, fold numbers, or whether a row is test.

    Args:
        data: The data set to split.
        parts: A table (file, query or frame) with users, items and a column of parts, for example the one that `data`
            was read from; or a sequence with one value for each row of `data.frame()`. A value is "train", "valid" or
            "test" ("val" and "validation" too); or true for test; or the number of the fold whose test part the row is
            in.
        column: The column of parts, if the table has several columns other than those of interactions.
        fold: The fold that is test, if the values are fold numbers.
        columns: Names of the other columns of the table, as in `palate.data.reading.read_interactions`.
        valid: Share of the train rows, at random, for valid; 0 for no valid part. No effect if `parts` names valid
            rows.
        seed: Seed of the random choice.

    Raises:
        ConfigError: The table has no such column, or no such fold.
        DataError: A row has no part, a pair has two, or a value is none of the above.
    """
    check_shares(valid)
    notes: tuple[str, ...] = ()
    if isinstance(parts, (str, Path, pl.DataFrame, pl.LazyFrame)) or hasattr(parts, "columns"):
        values, notes = _aligned(data, convert_ids(data, read_parts(parts, column, columns)))
    else:
        values = pl.Series("part", parts)
        if len(values) != len(data):
            raise DataError(
                f"parts holds {len(values)} values for {len(data)} rows; pass one for each row of data.frame()"
            )
    if values.null_count():
        raise DataError(f"{values.null_count()} of {len(values)} rows have no part; each row needs one")
    part = _codes(values, fold)
    if valid and not (part == VALID).any():
        rows = np.flatnonzero(part == TRAIN)
        part[np.random.default_rng(seed).choice(rows, round(valid * len(rows)), replace=False)] = VALID
    advice = "check parts, or use a larger share for valid, or valid=0"
    return build_split(data, part, valid=valid, advice=advice, notes=notes)


def _codes(values: pl.Series, fold: int | None) -> np.ndarray:
    """The code of each row's part, int8 `[rows]`."""
    if values.dtype == pl.Boolean:
        return np.where(values.to_numpy(), TEST, TRAIN).astype(np.int8)
    if values.dtype.is_integer():
        folds = values.unique().sort().to_list()
        if fold not in folds:
            given = "parts holds fold numbers" if fold is None else f"fold = {fold} is not one of the folds in parts"
            raise ConfigError(f"{given}; give fold=..., one of {', '.join(map(str, folds[:20]))}")
        return np.where((values == fold).to_numpy(), TEST, TRAIN).astype(np.int8)
    if values.dtype in (pl.String, pl.Categorical, pl.Enum):
        values = values.cast(pl.String).str.strip_chars().str.to_lowercase()
        named = values.unique()
        unknown = named.filter(~named.is_in(list(_PART_CODES)))
        if len(unknown):
            raise DataError(f"parts are train, valid or test, not {', '.join(map(repr, unknown.sort()[:5]))}")
        return values.replace_strict(_PART_CODES, return_dtype=pl.Int8).to_numpy().copy()
    raise DataError(f"parts are names, fold numbers or true and false, not {values.dtype}")


def read_parts(source: Any, column: str | None, columns: Columns | None = None, **options: Any) -> pl.DataFrame:
    """Read the column of parts of a table of interactions.

    Args:
        source: As in `palate.data.reading.read_interactions`.
        column: The column of parts. Defaults to the only one that is none of interactions.
        columns, options: `columns`, `separator`, `has_header`, `encoding`, `connection` and `max_gb` of
            `read_interactions`.

    Returns:
        `user_id`, `item_id` and `part`; a text column of whole numbers or of true and false has that type.

    Raises:
        DataError: The source cannot be read, or has no users or items.
        ConfigError: There is no such column.
    """
    given = [name for name in columns.values() if isinstance(name, str)] if isinstance(columns, Mapping) else []
    table = open_table(source, known=[*KNOWN_NAMES, *given, *([column] if column else [])], **options)
    roles, faults = find_columns(table, columns)
    if faults:
        raise DataError.faults(table.label, faults)
    others = [name for name in table.names if name not in roles.values()]
    if column is None and len(others) != 1:
        raise ConfigError(f"name the column of parts with column=...; {table.label} has {', '.join(table.names)}")
    if column is not None and column not in table.names:
        raise ConfigError(f"{table.label} has no column {column!r}; its columns are {', '.join(table.names)}")
    names = {"user_id": roles["user_id"], "item_id": roles["item_id"], "part": column or others[0]}
    raw = table.read(list(names.values()), {}).with_columns(pl.int_range(1, pl.len() + 1).alias(ROW))
    found = Findings.of(raw)  # Its faults are those of the interactions, which were read before.
    ids = [parse_ids(raw[names[key]].alias(key), found) for key in ("user_id", "item_id")]
    values = _typed(raw[names["part"]]) if table.is_text else raw[names["part"]]
    return pl.DataFrame([*ids, values.alias("part")]).filter(~found.bad).unique(maintain_order=True)


def _typed(text: pl.Series) -> pl.Series:
    """Text as whole numbers, or as true and false, if every value is one."""
    known = text.drop_nulls().str.strip_chars().str.to_lowercase()
    if len(known) and known.str.contains(r"^\d+$").all():
        return text.str.strip_chars().cast(pl.Int64)
    if len(known) and known.is_in(["true", "false"]).all():
        return text.str.strip_chars().str.to_lowercase() == "true"
    return text


def _aligned(data: Dataset, frame: pl.DataFrame) -> tuple[pl.Series, tuple[str, ...]]:
    """Look up the part of each row of the data by its pair of ids; returns a note that counts unused pairs."""
    user, item = data.users.index(frame["user_id"]), data.items.index(frame["item_id"])
    usable = np.flatnonzero((user >= 0) & (item >= 0))
    pair = user[usable] * data.n_items + item[usable]
    order = np.argsort(pair, kind="stable")
    usable, pair = usable[order], pair[order]
    if (pair[1:] == pair[:-1]).any():
        row = frame.row(int(usable[1:][pair[1:] == pair[:-1]][0]), named=True)
        pair_ids = f"user {row['user_id']!r} and item {row['item_id']!r}"
        raise DataError(f"parts holds {pair_ids} more than once, in different parts; each pair needs one part")
    wanted = data.user.astype(np.int64) * data.n_items + data.item
    place = np.minimum(np.searchsorted(pair, wanted), max(len(pair) - 1, 0))
    missing = np.flatnonzero(pair[place] != wanted) if len(pair) else np.arange(len(wanted))
    if len(missing):
        user_id, item_id = data.users.ids[int(data.user[missing[0]])], data.items.ids[int(data.item[missing[0]])]
        raise DataError(
            f"{len(missing)} of {len(data)} rows have no part, for example user {user_id!r} and item {item_id!r}; "
            "each row needs one"
        )
    unused = len(frame) - np.count_nonzero(np.bincount(place, minlength=1))
    notes = (f"predefined: {unused} pairs in parts are not in this data",) if unused else ()
    return frame["part"][usable[place]], notes


def held_out_split(data: Dataset, frame: pl.DataFrame) -> Split:
    """Split with the given rows as test; the last other row of each user is valid, if that leaves one for train.

    Args:
        data: The data set to split.
        frame: `user_id` and `item_id` of the held-out rows.

    Raises:
        DataError: A held-out row is not in the data.
    """
    user, item = data.users.index(frame["user_id"]), data.items.index(frame["item_id"])
    held = np.where((user < 0) | (item < 0), -1, user * data.n_items + item)
    rows = data.user.astype(np.int64) * data.n_items + data.item
    missing = np.flatnonzero(~np.isin(held, rows))
    if len(missing):
        user_id, item_id = frame["user_id"][int(missing[0])], frame["item_id"][int(missing[0])]
        raise DataError(
            f"{len(missing):,} of {len(frame):,} held-out rows are not in this data, for example user {user_id!r} "
            f"and item {item_id!r}; the data must contain them, with the ids of the file"
        )
    part = np.where(np.isin(rows, held), TEST, TRAIN).astype(np.int8)
    rest = np.flatnonzero(part == TRAIN)
    last = rest[np.diff(data.user[rest], append=-1) != 0]
    several = np.bincount(data.user[rest], minlength=data.n_users) > 1
    part[last[several[data.user[last]]]] = VALID
    return build_split(data, part, valid=0.0, advice="the data must also contain the rows that are not held out")


def convert_ids(data: Dataset, frame: pl.DataFrame) -> pl.DataFrame:
    """`user_id`, `item_id`, `negatives` converted to the types of the data's ids, if every id can be converted."""
    user, item = data.users.ids.dtype, data.items.ids.dtype
    types = {"user_id": user, "item_id": item, "negatives": pl.List(item)}
    cast = [frame[name].cast(types[name], strict=False) for name in types if name in frame.columns]
    return frame.with_columns(ids for ids in cast if ids.null_count() == frame[ids.name].null_count())


def read_candidates(source: Any, data: Dataset) -> pl.DataFrame:
    """Read held-out rows and the candidates that each is ranked against.

    Args:
        source: A frame, Parquet or JSON lines with `user_id`, `item_id` and a list of item ids `negatives`; or a file
            `*.negative` of He et al. 2017: lines of (user,item) and item ids, separated by tabs.
        data: The data set; the ids are converted to its types.

    Returns:
        Columns `user_id`, `item_id`, `negatives` (a list); one row for each user.

    Raises:
        DataError: The file has none of these forms, or a user has two rows or no candidates.
    """
    if isinstance(source, (str, Path)) and Path(source).suffix == ".negative":
        frame, label = _read_negative_file(Path(source)), str(source)
    else:
        table, names = open_table(source), ("user_id", "item_id", "negatives")
        label, missing = table.label, [name for name in names if name not in table.names]
        if missing:
            raise DataError(f"{label} has no column {', '.join(missing)}; candidates need {', '.join(names)}")
        frame = table.read(names, {})
    if not isinstance(frame.schema["negatives"], pl.List):
        raise DataError(f"column negatives of {label} must hold lists of item ids, not {frame.schema['negatives']}")
    repeated = frame.filter(pl.col("user_id").is_duplicated())
    empty = frame.filter(pl.col("negatives").list.len().fill_null(0) == 0)
    faults = [f"user {repeated['user_id'][0]!r} has more than one held-out row"] if len(repeated) else []
    faults += [f"user {empty['user_id'][0]!r} has no candidates"] if len(empty) else []
    if faults:
        raise DataError.faults(label, faults)
    return convert_ids(data, frame)


def _read_negative_file(path: Path) -> pl.DataFrame:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        found = re.fullmatch(r"\((\d+), ?(\d+)\)((?:\t\d+)*)\s*", line)
        if found is None:
            raise DataError(f"line {number} of {path} is not (user,item) and item ids separated by tabs: {line[:60]!r}")
        rows.append((int(found[1]), int(found[2]), [int(item) for item in found[3].split()]))
    schema: dict[str, Any] = {"user_id": pl.Int64, "item_id": pl.Int64, "negatives": pl.List(pl.Int64)}
    return pl.DataFrame(rows, schema=schema, orient="row")
