"""The layout of a data set on disk: its files, its manifest, and the checks of both. Nothing here loads torch.

`docs/data-store.md` describes the layout for other writers.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import polars as pl

from palate.data.external_sort import DTYPES
from palate.errors import ArtifactError, ConfigError, DataError

FORMAT = 2
MANIFEST = "dataset.json"
"""Name of the manifest, by which a folder is recognised."""
TABLES = ("item_table", "user_table", "unused_items")
"""Side tables that a folder may hold."""

_CHUNK = 1 << 20
"""Values of a column in memory at a time."""


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to write to, which replaces `folder` if nothing fails.

    Raises:
        ArtifactError: `folder` holds something else, or cannot be written (it is then unchanged).
    """
    check_target(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be written ({error}); choose another folder") from error
    try:
        new = work / "new"
        new.mkdir()
        yield new
        if folder.exists():
            folder.rename(work / "old")
        new.rename(folder)
    except OSError as error:
        if (work / "old").exists():
            (work / "old").rename(folder)
        raise ArtifactError(f"{folder} cannot be written ({error}); an existing data set is unchanged") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check_target(folder: Path) -> None:
    """Refuse a folder that holds something else than a data set.

    Raises:
        ArtifactError: It does.
    """
    if folder.exists() and not (folder / MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArtifactError(f"{folder} exists and is not a data set folder; choose another folder, or remove it")


def write_manifest(folder: Path, about: Mapping[str, Any]) -> None:
    """Write the manifest of a folder whose other files are complete: `about`, and the size and hash of each file."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    hashes = {path.name: {"bytes": path.stat().st_size, "sha256": _hash(path)} for path in files}
    text = json.dumps({"format": FORMAT, **about, "files": hashes}, indent=1)
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder, after it and every array of the folder were checked.

    Returns:
        Its entries; those that may be left out have their defaults.

    Raises:
        ArtifactError: A file is missing, truncated or edited, or the folder has another format; lists all faults.
    """
    try:
        about = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(about, dict):
            raise ValueError(f"{MANIFEST} holds {type(about).__name__}, not an object")
        if about["format"] != FORMAT:
            raise ArtifactError(
                f"{folder} has format {about['format']}, this version of palate reads {FORMAT}; "
                "use the version that wrote it, or write it again"
            )
        about = _with_defaults(about)
        faults = _file_faults(folder, about) or _value_faults(folder, about)
    except (OSError, ValueError, KeyError, TypeError, ConfigError, DataError) as error:
        raise incomplete(folder, error) from error
    if faults:
        raise ArtifactError.faults(f"{folder} is not a complete data set folder; write it again", faults)
    return about


def describe_store(folder: Path) -> list[str]:
    """Counts, columns and notes of a folder, as lines of text, after all its files were checked.

    Raises:
        ArtifactError: As in `read_manifest`.
    """
    about = read_manifest(folder)
    lines = [f"{folder}: a data set on disk; all its files are complete", ""]
    lines += [
        f"{name:14}{about[key]:>13,}"
        for name, key in (("interactions", "rows"), ("users", "users"), ("items", "items"))
    ]
    lines += [f"{'columns':14}{', '.join(about['columns'])}", *(f"{'table':14}{name}" for name in about["tables"])]
    if about["rating_scale"] is not None:
        lines.append(f"{'ratings':14}{about['rating_scale'][0]:g} to {about['rating_scale'][1]:g}")
    return [*lines, *(["", "notes"] if about["notes"] else []), *(f"  - {note}" for note in about["notes"])]


def incomplete(folder: Path, error: Exception) -> ArtifactError:
    """The error of a folder that cannot be read."""
    reason = f"no entry {error}" if isinstance(error, KeyError) else error
    return ArtifactError(f"{folder} is not a complete data set folder ({reason}); write it again")


def _with_defaults(about: dict[str, Any]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"tables": [], "history": False, "rating_scale": None, "kinds": [{}, {}]}
    found = {**defaults, "notes": [], "events": {}, "files": {}, **about}
    counts = [found[name] for name in ("rows", "users", "items")]
    if not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError(f"rows, users and items are {counts}, not whole numbers")
    columns, tables = found["columns"], found["tables"]
    if not {"user", "item"} <= set(columns) <= set(DTYPES) or not set(tables) <= set(TABLES):
        raise ValueError(f"it holds columns {columns} and tables {tables}")
    return found


def _file_faults(folder: Path, about: Mapping[str, Any]) -> list[str]:
    """Files that are missing, or differ from what the manifest says of them."""
    names = [f"{name}.npy" for name in about["columns"]] + ["users.parquet", "items.parquet"]
    names += [f"{name}.parquet" for name in about["tables"]]
    faults = [f"{name} is missing" for name in names if not (folder / name).is_file()]
    for name, said in about["files"].items():
        path = folder / name
        if name not in names or not path.is_file():
            continue
        size = path.stat().st_size
        if size != said["bytes"]:
            faults.append(f"{name} holds {size:,} bytes, not {said['bytes']:,}: it was truncated or edited")
        elif _hash(path) != said["sha256"]:
            faults.append(f"{name} was edited: its hash is not the one in {MANIFEST}")
    return faults


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _value_faults(folder: Path, about: dict[str, Any]) -> list[str]:
    """Columns whose type, length or values are wrong. Sets the rating scale if the manifest has none."""
    faults = [fault for name in about["columns"] for fault in _header_faults(folder, name, about["rows"])]
    if faults:
        return faults
    limits = {"user": about["users"], "item": about["items"]}
    low, high = np.inf, -np.inf
    wrong: dict[str, int] = {}

    def count(name: str, mask: np.ndarray) -> None:
        wrong[name] = wrong.get(name, 0) + int(np.count_nonzero(mask))

    last: dict[str, Any] = {}
    for block in read_columns(folder, about["columns"]):
        for name, limit in limits.items():
            count(f"{name}.npy: values outside 0 to {limit - 1}", (block[name] < 0) | (block[name] >= limit))
        for name in ("rating", "weight"):
            if name in block:
                count(f"{name}.npy: values that are not finite", ~np.isfinite(block[name]))
                low, high = (
                    (block[name].min(initial=low), block[name].max(initial=high)) if name == "rating" else (low, high)
                )
        joined = {name: np.concatenate([last.get(name, block[name][:0]), block[name]]) for name in block}
        user = joined["user"]
        count("user.npy: users that are not in ascending order", user[1:] < user[:-1])
        if "timestamp" in block:
            time = joined["timestamp"]
            count("timestamp.npy: times before the user's row above", (time[1:] < time[:-1]) & (user[1:] == user[:-1]))
        last = {name: column[-1:] for name, column in block.items()}
    if "rating" in about["columns"] and about["rating_scale"] is None and about["rows"]:
        about["rating_scale"] = [float(low), float(high)]
    return [f"{what} ({number:,})" for what, number in wrong.items() if number]


def _header_faults(folder: Path, name: str, rows: int) -> list[str]:
    with (folder / f"{name}.npy").open("rb") as file:
        shape, in_columns, dtype = _read_header(file)
        size = (folder / f"{name}.npy").stat().st_size - file.tell()
    if shape != (rows,) or dtype != np.dtype(DTYPES[name]) or in_columns:
        return [f"{name}.npy holds {dtype} {shape}, not {rows} rows of {np.dtype(DTYPES[name])}"]
    if size != rows * dtype.itemsize:
        return [f"{name}.npy holds {size:,} bytes of values, not {rows * dtype.itemsize:,}"]
    return []


def _read_header(file: Any) -> Any:
    version = np.lib.format.read_magic(file)
    readers: dict[Any, Callable[[Any], Any]] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"{file.name} has version {version} of the format of NumPy arrays; expected 1.0 or 2.0")
    return readers[version](file)


def read_columns(folder: Path, columns: list[str], rows: int = _CHUNK) -> Iterator[dict[str, np.ndarray]]:
    """Columns of equal length in chunks, read and not mapped, so that they take no memory after their chunk."""
    files = {name: (folder / f"{name}.npy").open("rb") for name in columns}
    try:
        for file in files.values():
            _read_header(file)
        while True:
            block = {name: np.fromfile(file, DTYPES[name], rows) for name, file in files.items()}
            if not len(block[columns[0]]):
                return
            yield block
    finally:
        for file in files.values():
            file.close()


def map_column(path: Path, rows: int, mmap: bool) -> np.ndarray:
    """A column of a folder that was checked.

    Args:
        path: Path of the file.
        rows: Its length; an empty file cannot be mapped.
        mmap: Whether the values stay on disk until they are read. Changes never reach the disk.
    """
    # "c" is copy on write; torch does not accept read-only arrays.
    return np.asarray(np.load(path, mmap_mode="c" if mmap and rows else None, allow_pickle=False))


def read_ids(path: Path, count: int) -> pl.Series:
    """The ids of a folder, in index order.

    Raises:
        ValueError: They are not `count` distinct whole numbers or texts.
    """
    ids = pl.read_parquet(path, glob=False)["id"]
    if len(ids) != count:
        raise ValueError(f"{path.name} holds {len(ids)} rows, not {count}")
    if ids.dtype not in (pl.Int64, pl.String):
        raise ValueError(f"{path.name} holds {ids.dtype}, not Int64 or String")
    if ids.null_count() or ids.n_unique() < count:
        raise ValueError(f"{path.name} holds empty or repeated ids")
    return ids
