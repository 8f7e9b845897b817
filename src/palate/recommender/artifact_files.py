"""The card of an artifact, `recommender.json`: what it must hold, and the files that it lists.

Nothing in a folder is trusted: a card of another shape, a file outside the folder and a changed file are one
`ArtifactError`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import palate
from palate.config import from_dict, to_dict
from palate.data.dataset import Dataset
from palate.data.events import Events
from palate.data.ids import IdMap
from palate.errors import ArtifactError, quoted

FORMAT = 2
"""Raised when an older palate could not read what this one writes. Format 1 held the tensors of older models."""
CARD = "recommender.json"
WEIGHTS = "weights.safetensors"
TABLES = ("users.parquet", "items.parquet", "interactions.parquet")
HISTORY = "history.parquet"
PARTS = ("valid", "test")
RESTORE = "restore the folder or train again"
_CARD_TYPES = {
    "model": str, "config": dict, "spec": dict, "training": dict, "data": dict, "parts": dict, "records": list,
    "files": dict,
}  # fmt: skip
_DATA_TYPES = {"rows": int, "notes": list, "side": dict, "history": bool}
_FILE_TYPES = {"bytes": int, "sha256": str}


def seal(card: Mapping[str, Any]) -> str:
    """A card as text, with a hash of itself."""
    return json.dumps({**card, "sha256": hash_of_card(card)}, indent=1)


def hash_of_card(card: Mapping[str, Any]) -> str:
    """The hash of a card without its own entry `sha256`."""
    return hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()


def hash_of_file(file: Path) -> str:
    """SHA-256 of a file, as hex digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_card(path: Path) -> dict[str, Any]:
    """The card of a folder; its keys and their types are checked.

    Raises:
        ArtifactError: There is none; it is damaged, edited or of a newer format.
    """
    file = path / CARD
    if not file.is_file():
        raise ArtifactError(_missing(path))
    if not _is_inside(file, path):
        raise ArtifactError(f"{file} is a link out of the folder; {RESTORE}")
    try:
        card = json.loads(file.read_text(encoding="utf-8"), parse_int=_whole_number)
        if not isinstance(card, dict):
            raise ValueError(f"it holds a {type(card).__name__} and not an object")
        _check_format(path, card.get("format"))
        edited = card.pop("sha256", None) != hash_of_card(card)
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise ArtifactError(f"{file} is damaged ({quoted(str(error), 200)}); {RESTORE}") from error
    if edited:
        raise ArtifactError(f"{file} was edited after it was saved; {RESTORE}")
    _check_types(path, card)
    return card


def _whole_number(digits: str) -> int:
    """A whole number of a card; larger ones than tensors can hold are in none."""
    number = int(digits)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{quoted(digits)} has more than 64 bits")
    return number


def _missing(path: Path) -> str:
    old = replaced_folder(path)
    if not path.exists() and (old / CARD).is_file():
        return f"{path} is missing because a save was interrupted; rename {old} to {path}"
    what = "there is no such folder" if not path.exists() else f"without {CARD} it is not an artifact"
    return f"cannot load {path}: {what}; name a folder that `Recommender.save` or `palate train` wrote"


def replaced_folder(path: Path) -> Path:
    """Where a folder lies while another one takes its place."""
    return path.with_name(f".{path.name}.old")


def _check_format(path: Path, number: Any) -> None:
    if type(number) is not int or number < 1:
        raise ValueError(f"format is {quoted(number)}, not a number from 1")
    if number > FORMAT:
        raise ArtifactError(
            f"{path} has format {number}, written by a newer palate; palate {palate.__version__} reads format "
            f"{FORMAT}: upgrade palate"
        )
    if number < FORMAT:
        raise ArtifactError(
            f"{path} has format {number}, written by an older palate; palate {palate.__version__} reads format "
            f"{FORMAT}: train again, with the same command or the settings in train.json"
        )


def _check_types(path: Path, card: dict[str, Any]) -> None:
    faults = list(_type_faults("", card, _CARD_TYPES))
    if not faults:
        faults += _type_faults("data.", card["data"], _DATA_TYPES)
        for name, about in card["parts"].items():
            faults += [] if name in PARTS else [f"a part is called {quoted(name)}; parts are {' and '.join(PARTS)}"]
            faults += _type_faults(f"parts.{quoted(name)}.", about, _DATA_TYPES)
        for name, about in card["files"].items():
            faults += _type_faults(f"files.{quoted(name)}.", about, _FILE_TYPES)
    if faults:
        raise ArtifactError.faults(f"{path / CARD} is not a card of this format ({RESTORE})", faults[:20])


def _type_faults(place: str, values: Any, types: Mapping[str, type]) -> Iterator[str]:
    if not isinstance(values, dict):
        yield f"{place.rstrip('.')} is {quoted(values)}, not an object"
        return
    for name, kind in types.items():
        if name not in values:
            yield f"{place}{name} is missing"
        elif type(values[name]) is not kind:
            yield f"{place}{name} is {quoted(values[name])}, not of type {kind.__name__}"


def check_files(path: Path, card: Mapping[str, Any], verify: bool) -> None:
    """Check that the card lists exactly the files that are read, and that each lies in the folder as it was written.

    Args:
        path: The folder.
        card: From `read_card`.
        verify: Whether to compare SHA-256 hashes; sizes are always compared.

    Raises:
        ArtifactError: Lists all files at fault.
    """
    files, expected = card["files"], set(_files_of(card))
    faults = [f"{name} is not listed in {CARD}" for name in sorted(expected - set(files))]
    faults += [f"{CARD} lists {quoted(name)}, which no artifact holds" for name in sorted(set(files) - expected)]
    for name in sorted(expected & set(files)):
        file, about = path / name, files[name]
        if not file.is_file():
            faults.append(f"{name} is missing")
        elif not _is_inside(file, path):
            faults.append(f"{name} is a link out of the folder")
        elif file.stat().st_size < about["bytes"]:
            faults.append(f"{name} is truncated: {file.stat().st_size} of {about['bytes']} bytes")
        elif file.stat().st_size > about["bytes"] or (verify and hash_of_file(file) != about["sha256"]):
            faults.append(f"{name} was edited after it was saved: its {'sha256' if verify else 'size'} differs")
    if faults:
        raise ArtifactError.faults(f"cannot load {path} ({RESTORE})", faults[:20])


def _files_of(card: Mapping[str, Any]) -> Iterator[str]:
    """The files that the folder of a card holds besides the card."""
    yield WEIGHTS
    for prefix, about in (("", card["data"]), *((f"{name}/", about) for name, about in card["parts"].items())):
        yield from (f"{prefix}{table}" for table in (*TABLES, *([HISTORY] if about["history"] else [])))


def _is_inside(file: Path, folder: Path) -> bool:
    return file.resolve().is_relative_to(folder.resolve())


INTERACTIONS = "interactions.parquet"
COLUMNS = {"user": pl.Int32, "item": pl.Int32, "rating": pl.Float32, "timestamp": pl.Int64, "weight": pl.Float32}
"""Columns of the interactions and their types; the first two are always there."""


def write_tables(folder: Path, data: Dataset) -> dict[str, Any]:
    """Write a data set as three tables and its history as a fourth; returns what the card says about them.

    Raises:
        ArtifactError: The data is not what `read_tables` accepts.
    """
    folder.mkdir(exist_ok=True)
    for ids, table, key in ((data.users, data.user_table, "user_id"), (data.items, data.item_table, "item_id")):
        whole = pl.DataFrame({key: ids.ids}) if table is None else table
        whole.write_parquet(folder / f"{key.removesuffix('_id')}s.parquet", compression="zstd")
    for name, part in ((INTERACTIONS, data), (HISTORY, data.history)):
        if part is not None:
            rows = _rows(part)
            _check_rows(name, rows, data.n_users, data.n_items)
            rows.write_parquet(folder / name, compression="zstd")
    return {
        "fingerprint": data.fingerprint,
        "rows": len(data),
        "rating_scale": data.rating_scale,
        "notes": list(data.notes),
        "side": {"items": data.item_table is not None, "users": data.user_table is not None},
        "kinds": {"items": dict(data.item_kinds), "users": dict(data.user_kinds)},
        "history": data.history is not None,
        "events": to_dict(data.events),
    }


def read_tables(folder: Path, about: Mapping[str, Any], counts: tuple[int, int] | None = None) -> Dataset:
    """Read a data set.

    Args:
        folder: Where its tables are.
        about: What the card says about them.
        counts: Numbers of users and items. Defaults to the lengths of the id tables.

    Raises:
        ArtifactError: Ids are null, repeated or of another type; counts differ; a column is missing, has another type
            or holds values out of range; rows are missing or out of order.
    """
    users, items = (
        _id_table(folder / f"{what}s.parquet", f"{what}_id", None if counts is None else counts[place])
        for place, what in enumerate(("user", "item"))
    )
    kinds = about.get("kinds", {})
    shared: dict[str, Any] = {
        "users": IdMap(users["user_id"].rename("id")),
        "items": IdMap(items["item_id"].rename("id")),
        "user_table": users if about["side"]["users"] else None,
        "item_table": items if about["side"]["items"] else None,
        "rating_scale": checked_scale(about.get("rating_scale")),
        "user_kinds": _checked_kinds(kinds.get("users", {})),
        "item_kinds": _checked_kinds(kinds.get("items", {})),
        "notes": tuple(str(note) for note in about["notes"]),
        "events": from_dict(Events, about.get("events", {})),
    }
    history = None
    if about["history"]:
        history = Dataset(**shared, **_arrays(folder / HISTORY, len(users), len(items)))
    return Dataset(**shared, **_arrays(folder / INTERACTIONS, len(users), len(items), about["rows"]), history=history)


def checked_scale(scale: Any) -> tuple[float, float] | None:
    """The lowest and highest rating, two finite numbers in order; or None."""
    if scale is None:
        return None
    low, high = (float(bound) for bound in scale)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ArtifactError(f"the rating scale is {low} to {high}")
    return low, high


def _checked_kinds(kinds: Any) -> dict[str, str]:
    if not isinstance(kinds, dict) or not all(isinstance(kind, str) for kind in kinds.values()):
        raise ArtifactError("the declared kinds of columns are not names")
    return kinds


def _id_table(file: Path, key: str, count: int | None) -> pl.DataFrame:
    """A table with one row for each index, whose first column holds the ids."""
    found = _row_count(file)
    if count is not None and found != count:
        raise ArtifactError(f"{file.name} has {found} rows, and the model was built for {count}")
    table = pl.read_parquet(file)
    if not table.width or table.columns[0] != key or table[key].dtype not in (pl.String, pl.Int64):
        raise ArtifactError(f"the first column of {file.name} must be {key}, whole numbers of 64 bits or text")
    if table[key].null_count() or table[key].n_unique() != len(table) or not len(table):
        raise ArtifactError(f"{file.name} has null or repeated ids, or none")
    return table


def _arrays(file: Path, n_users: int, n_items: int, count: int | None = None) -> dict[str, Any]:
    """The columns of interactions by name."""
    found = _row_count(file)
    if count is not None and found != count:
        raise ArtifactError(f"{file.name} has {found} rows, and {count} were saved")
    rows = pl.read_parquet(file)
    _check_rows(file.name, rows, n_users, n_items)
    return {name: rows[name].to_numpy(writable=True) for name in rows.columns}


def _check_rows(name: str, rows: pl.DataFrame, n_users: int, n_items: int) -> None:
    """Check types, ranges and order of interactions."""
    if not {"user", "item"} <= set(rows.columns) or any(COLUMNS.get(c) != t for c, t in rows.schema.items()):
        raise ArtifactError(f"{name} has the columns {dict(rows.schema)}; expected are {COLUMNS}")
    if any(rows.null_count().row(0)):
        raise ArtifactError(f"{name} has null values")
    user, item = rows["user"].to_numpy(), rows["item"].to_numpy()
    for what, index, count in (("user", user, n_users), ("item", item, n_items)):
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < count:
            raise ArtifactError(f"{name} has indices of {what}s outside 0 to {count - 1}")
    for column in set(rows.columns) & {"rating", "weight"}:
        values = rows[column].to_numpy()
        if not np.isfinite(values).all() or (column == "weight" and (values < 0).any()):
            raise ArtifactError(f"{name} has a {column} that is not finite, or a negative weight")
    step = np.diff(user)
    ordered = bool((step >= 0).all())
    if "timestamp" in rows.columns:
        time = rows["timestamp"].to_numpy()
        ordered = ordered and bool((time[1:] >= time[:-1])[step == 0].all())
    if not ordered:
        raise ArtifactError(f"the rows of {name} are not ordered by user, then time")


def _row_count(file: Path) -> int:
    """Rows of a Parquet file by its metadata, before any of them is read."""
    return int(pl.scan_parquet(file).select(pl.len()).collect().item())


def _rows(data: Dataset) -> pl.DataFrame:
    given = {name: getattr(data, name) for name in COLUMNS}
    columns = {name: np.asarray(column) for name, column in given.items() if column is not None}
    return pl.DataFrame(columns, schema_overrides={name: COLUMNS[name] for name in columns}, strict=True)
