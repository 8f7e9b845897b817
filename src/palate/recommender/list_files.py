"""Large tables written in parts: bounded memory, resumable after a kill, put in place as a whole.

The parts are files in a folder beside the target, `.NAME.parts`, with the plan they belong to. A part takes its name
once it is complete and on disk. A later call with the same plan goes on after the last one, and gives an identical
file, because the parts and how they are joined depend on the plan alone. Parts of another plan are deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock, Timeout

from palate.errors import ArtifactError, ConfigError

SUFFIXES = {".parquet", ".csv", ".jsonl"}
ROW_GROUP = 2**17
"""Rows of a row group of a Parquet file."""


def check_target(path: Path) -> None:
    """Refuse a file whose name does not say its format, or that cannot be written.

    Raises:
        ConfigError: The name ends in none of `SUFFIXES`, or the path is a folder.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"the name of {path} says no format; let it end in .parquet, .csv or .jsonl")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name a file")


def write_in_parts(
    path: Path, plan: Mapping[str, Any], count: int, size: int, make: Callable[[int, int], pl.DataFrame],
    on_progress: Callable[[int, int], None] | None = None,
) -> int:  # fmt: skip
    """Write a table part by part; see the module.

    Args:
        path: The file; one that exists is replaced once the new one is complete.
        plan: All that the table depends on, as plain values.
        count: Number of rows' owners (users or items) in all.
        size: Owners of a part.
        make: Gives the rows of the owners `start` to `stop - 1`, with the same columns each time.
        on_progress: Called with the owners that are done and `count`: at the start, and after each part.

    Returns:
        The owners whose parts were there already.

    Raises:
        ConfigError: Another process is writing this file.
        ArtifactError: The file cannot be written.
    """
    starts = range(0, max(count, 1), size)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _parts_folder(path, {**plan, "count": count, "size": size, "suffix": path.suffix}) as folder:
            parts = [folder / f"{number:08d}{path.suffix}" for number in range(len(starts))]
            before = min(size * sum(part.exists() for part in parts), count)
            for part, start in zip(parts, starts, strict=True):
                if on_progress is not None:
                    on_progress(start, count)
                if not part.exists():
                    _write_part(make(start, min(start + size, count)), part)
            if on_progress is not None:
                on_progress(count, count)
            _join(parts, whole := folder / f"whole{path.suffix}")
            os.replace(whole, path)
            shutil.rmtree(folder, ignore_errors=True)
            return before
    except (OSError, pl.exceptions.PolarsError) as error:
        what = getattr(error, "strerror", None) or error
        raise ArtifactError(f"cannot write {path}: {what}. Free space there and run it again: it goes on") from error


@contextmanager
def _parts_folder(path: Path, plan: Mapping[str, Any]) -> Iterator[Path]:
    """The folder of the parts, locked; parts of another plan are gone."""
    folder = path.with_name(f".{path.name}.parts")
    folder.mkdir(exist_ok=True)
    text = json.dumps(plan, sort_keys=True, default=str)
    try:
        with FileLock(folder / "lock", timeout=0):
            noted = folder / "plan.json"
            if not noted.exists() or noted.read_text(encoding="utf-8") != text:
                for old in folder.glob("[0-9]*"):
                    old.unlink()
                noted.write_text(text, encoding="utf-8")
            yield folder
    except Timeout:
        raise ConfigError(f"another process is writing {path}; wait for it, or name another file") from None


def _write_part(rows: pl.DataFrame, part: Path) -> None:
    new = part.with_name(f"new{part.suffix}")
    if part.suffix == ".parquet":
        rows.write_parquet(new)
    elif part.suffix == ".csv":
        rows.write_csv(new, include_header=part.stem == "0" * len(part.stem))
    else:
        rows.write_ndjson(new)
    _to_disk(new)
    os.replace(new, part)


def _join(parts: list[Path], whole: Path) -> None:
    """All parts as one file, in order, in bounded memory."""
    if whole.suffix == ".parquet":
        pl.scan_parquet(parts).sink_parquet(whole, row_group_size=ROW_GROUP, maintain_order=True)
    else:
        with whole.open("wb") as out:
            for part in parts:
                with part.open("rb") as rows:
                    shutil.copyfileobj(rows, out, 2**20)
    _to_disk(whole)


def _to_disk(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def hash_of(*values: Any) -> str:
    """A hash of bytes, arrays and plain values, 16 hex digits."""
    found = hashlib.sha256()
    for value in values:
        found.update(value if isinstance(value, bytes | memoryview) else json.dumps(value, default=str).encode())
    return found.hexdigest()[:16]
