"""Save a Dataset as a folder of plain arrays, and open it by memory map, so that only what is read takes memory.

    FOLDER/dataset.json                    the manifest: format, counts, rating scale, notes, size and hash of each file
    FOLDER/user.npy item.npy ...           one array for each column, in the dataset's order
    FOLDER/users.parquet items.parquet     the ids, in index order
    FOLDER/user_table.parquet ...          side tables, if there are any
    FOLDER/history/                        the history, a folder of the same form, if there is one

A folder is written under a temporary name and then renamed, so a failure leaves an existing folder unchanged.
`docs/data-store.md` describes the layout for other writers; `palate.data.reading.ingest` writes it from tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from palate.config import from_dict, to_dict
from palate.data.dataset import Dataset
from palate.data.events import Events
from palate.data.external_sort import DTYPES, Block, sort_blocks
from palate.data.ids import IdMap
from palate.data.layout import TABLES, incomplete, map_column, read_ids, read_manifest, replace_folder, write_manifest
from palate.errors import ConfigError, DataError


def save_dataset(data: Dataset, folder: str | Path) -> None:
    """Write a data set to a folder; an existing data set is replaced.

    Args:
        data: The data set.
        folder: Path of the folder.

    Raises:
        ArtifactError: The folder holds something else, or cannot be written (it is then unchanged).
    """
    with replace_folder(Path(folder)) as new:
        _write(data, new)


def open_dataset(folder: str | Path, mmap: bool = True) -> Dataset:
    """Open the data set of a folder. All files are read once and checked.

    Args:
        folder: Written by `save_dataset`, `write_blocks`, `palate data ingest` or another program.
        mmap: Whether arrays stay on disk until they are read. Mapped arrays are copied on write: changes never reach
            the disk.

    Raises:
        ArtifactError: A file is missing, truncated or edited, or the folder has another format.
    """
    folder = Path(folder).expanduser()
    about = read_manifest(folder)
    try:
        return _read(folder, about, mmap)
    except (
        OSError, EOFError, ValueError, KeyError, TypeError, ConfigError, DataError, pl.exceptions.PolarsError,
    ) as error:  # fmt: skip
        raise incomplete(folder, error) from error


def write_blocks(
    folder: str | Path,
    blocks: Iterable[Block],
    *,
    n_users: int,
    n_items: int,
    item_table: pl.DataFrame | None = None,
    user_table: pl.DataFrame | None = None,
    rating_scale: tuple[float, float] | None = None,
    notes: tuple[str, ...] = (),
) -> Dataset:
    """Build a data set on disk from blocks, with only a few of them in memory. Its ids are 0..n-1.

    Args:
        folder: Path of the folder; an existing data set is replaced.
        blocks: Read once. Each is a mapping of arrays of equal length, or a tuple of them in this order: `user`, `item`
            (indices below `n_users`, `n_items`) and, in every block or in none, `rating`, `timestamp` (seconds),
            `weight`.
        n_users, n_items: Number of users and items.
        item_table, user_table: As in `Dataset`: a row for each index, `item_id` / `user_id` first.
        rating_scale: Lowest and highest possible rating. Defaults to the lowest and highest rating in the blocks.
        notes: Kept in `Dataset.notes`.

    Returns:
        The data set, opened by memory map.

    Raises:
        ArtifactError: The folder holds something else, or cannot be written.
        DataError: A block has faults, or there are no rows.
    """
    for name, table, n in (("user_table", user_table, n_users), ("item_table", item_table, n_items)):
        if table is not None and len(table) != n:
            raise DataError(f"{name} has {len(table)} rows; expected one for each of the {n} indices, in order")
    with replace_folder(Path(folder)) as new:
        rows, columns, found_scale = sort_blocks(blocks, new, n_users, n_items)
        empty = np.empty(0, dtype=np.int32)
        data = Dataset(
            users=IdMap(pl.Series("id", np.arange(n_users))),
            items=IdMap(pl.Series("id", np.arange(n_items))),
            user=empty,
            item=empty,
            item_table=item_table,
            user_table=user_table,
            rating_scale=rating_scale or found_scale,
            notes=notes,
        )
        _write_about(data, new, rows, columns)
    return open_dataset(folder)


def _write(data: Dataset, folder: Path) -> None:
    columns = [name for name in DTYPES if getattr(data, name) is not None]
    for name in columns:
        np.save(folder / f"{name}.npy", np.asarray(getattr(data, name), dtype=DTYPES[name]), allow_pickle=False)
    _write_about(data, folder, len(data), columns)
    if data.history is not None:
        (folder / "history").mkdir()
        _write(data.history, folder / "history")


def _write_about(data: Dataset, folder: Path, rows: int, columns: list[str]) -> None:
    """Write everything except the arrays."""
    data.users.ids.to_frame().write_parquet(folder / "users.parquet")
    data.items.ids.to_frame().write_parquet(folder / "items.parquet")
    tables = {name: getattr(data, name) for name in TABLES}
    for name, table in tables.items():
        if table is not None:
            table.write_parquet(folder / f"{name}.parquet")
    about = {
        "rows": rows,
        "users": data.n_users,
        "items": data.n_items,
        "columns": columns,
        "tables": [name for name, table in tables.items() if table is not None],
        "history": data.history is not None,
        "rating_scale": data.rating_scale,
        "kinds": [dict(data.item_kinds), dict(data.user_kinds)],
        "notes": data.notes,
        "events": to_dict(data.events),
    }
    write_manifest(folder, about)


def _read(folder: Path, about: dict[str, Any], mmap: bool) -> Dataset:
    columns: dict[str, Any] = {
        name: map_column(folder / f"{name}.npy", about["rows"], mmap) for name in about["columns"]
    }
    users, items = (IdMap(read_ids(folder / f"{name}.parquet", about[name])) for name in ("users", "items"))
    tables: dict[str, Any] = {
        name: pl.read_parquet(folder / f"{name}.parquet", glob=False) for name in TABLES if name in about["tables"]
    }
    for name, ids in (("user_table", users), ("item_table", items)):
        if name in tables and len(tables[name]) != len(ids):
            raise ValueError(f"{name}.parquet holds {len(tables[name])} rows, not {len(ids)}")
        if name in tables and not tables[name][f"{name[:4]}_id"].cast(ids.ids.dtype).equals(ids.ids):
            raise ValueError(f"the ids in {name}.parquet are not those of {name[:4]}s.parquet, in their order")
    unused = tables.pop("unused_items", None)
    scale, kinds = about["rating_scale"], about["kinds"]
    data = Dataset(
        users=users,
        items=items,
        **columns,
        **tables,
        history=open_dataset(folder / "history", mmap) if about["history"] else None,
        rating_scale=None if scale is None else (float(scale[0]), float(scale[1])),
        item_kinds=kinds[0],
        user_kinds=kinds[1],
        notes=tuple(about["notes"]),
        events=from_dict(Events, about["events"]),
    )
    data.__dict__["unused_items"] = unused
    return data
