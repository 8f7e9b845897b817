"""External sort: any number of interactions -> columns on disk, ordered by user, time, input order, in little memory.

Rows are appended to one file as records. They are then dealt to shards, each the rows of consecutive users and small
enough for memory, and each shard is sorted by itself. The sorted shards, one after another, are the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from palate.errors import DataError

DTYPES: dict[str, type[np.generic]] = {
    "user": np.int32,
    "item": np.int32,
    "rating": np.float32,
    "timestamp": np.int64,
    "weight": np.float32,
}
"""The columns of a data set, in the order of a block that is a tuple."""

Block = Mapping[str, np.ndarray] | tuple[np.ndarray, ...]

_CHUNK_ROWS = 1 << 21
"""Rows in memory at a time."""


def record_type(columns: Iterable[str], **others: type[np.generic]) -> np.dtype[Any]:
    """The type of a row in a file of records.

    Args:
        columns: Names of columns in `DTYPES`.
        others: Name -> type of more columns.
    """
    return np.dtype([(name, DTYPES[name]) for name in columns] + list(others.items()))


def as_records(columns: Mapping[str, np.ndarray], dtype: np.dtype[Any]) -> np.ndarray:
    """Columns of equal length as records of a type, `[rows]`."""
    found = np.empty(len(next(iter(columns.values()))), dtype=dtype)
    for name in dtype.names or ():
        found[name] = columns[name]
    return found


def write_array(file: Any, values: np.ndarray) -> None:
    """Append the bytes of an array to a file. Unlike `ndarray.tofile`, a full disk is always an error."""
    file.write(np.ascontiguousarray(values).view(np.uint8).data)


def read_records(path: Path, dtype: np.dtype[Any], rows: int = _CHUNK_ROWS) -> Iterator[np.ndarray]:
    """The records of a file in chunks."""
    with path.open("rb") as file:
        while len(chunk := np.fromfile(file, dtype, rows)):
            yield chunk


def shard_bounds(counts: np.ndarray, rows: int) -> np.ndarray:
    """The users at which shards begin, and the number of users, int64 `[shards + 1]`.

    Args:
        counts: Number of rows of each user.
        rows: Rows of a shard; a shard has more only if its single user has.
    """
    ends, bounds = np.cumsum(counts, dtype=np.int64), [0]
    while bounds[-1] < len(counts):
        begin = bounds[-1]
        before = int(ends[begin - 1]) if begin else 0
        bounds.append(max(int(np.searchsorted(ends, before + rows, side="right")), begin + 1))
    return np.array(bounds, dtype=np.int64)


def deal(chunks: Iterable[np.ndarray], bounds: np.ndarray, folder: Path) -> None:
    """Append each record to the file of its shard, in order.

    Args:
        chunks: Records with the field `user`.
        bounds: From `shard_bounds`.
        folder: Folder of the shards (see `shard_path`).
    """
    for number in range(len(bounds) - 1):
        shard_path(folder, number).touch()
    for chunk in chunks:
        shard = np.searchsorted(bounds, chunk["user"], side="right") - 1
        order = np.argsort(shard, kind="stable")
        cuts = np.searchsorted(shard[order], np.arange(len(bounds)))
        for number in np.flatnonzero(np.diff(cuts)).tolist():
            with shard_path(folder, number).open("ab") as file:
                write_array(file, chunk[order[cuts[number] : cuts[number + 1]]])


def shard_path(folder: Path, number: int) -> Path:
    """The file of a shard."""
    return folder / f"shard-{number:05}"


def by_user_and_time(records: np.ndarray) -> np.ndarray:
    """Records ordered by user and, if they have times, by time; equal ones keep their order."""
    names = records.dtype.names or ()
    keys = (records["user"],) if "timestamp" not in names else (records["timestamp"], records["user"])
    return records[np.lexsort(keys)]


class ColumnFiles:
    """Writes columns as `NAME.npy`, chunk after chunk.

    Args:
        folder: Folder of the files.
        columns: Names in `DTYPES`.
        rows: Their length, which is to be known beforehand.
    """

    def __init__(self, folder: Path, columns: Sequence[str], rows: int) -> None:
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}
        for name in columns:
            file = self._stack.enter_context((folder / f"{name}.npy").open("wb"))
            descr = np.lib.format.dtype_to_descr(np.dtype(DTYPES[name]))
            np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": (rows,)})
            self._files[name] = file

    def __enter__(self) -> ColumnFiles:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def append(self, columns: Any) -> None:
        """Append the next rows.

        Args:
            columns: Records, or a mapping of arrays.
        """
        for name, file in self._files.items():
            write_array(file, np.asarray(columns[name], dtype=DTYPES[name]))


def sort_blocks(
    blocks: Iterable[Block], folder: Path, n_users: int, n_items: int
) -> tuple[int, list[str], tuple[float, float] | None]:
    """Sort blocks into one array for each column, `NAME.npy`.

    Args:
        blocks: Read once.
        folder: Folder of the arrays and of temporary files.
        n_users, n_items: Indices are below these.

    Returns:
        Number of rows, names of columns, and the lowest and highest rating (None without ratings).

    Raises:
        DataError: A block has faults, or there are no rows.
    """
    unsorted = folder / "unsorted"
    counts, columns, scale = _append_blocks(blocks, unsorted, n_users, n_items)
    rows, dtype = int(counts.sum()), record_type(columns)
    bounds = shard_bounds(counts, _CHUNK_ROWS)
    deal(read_records(unsorted, dtype, _CHUNK_ROWS), bounds, folder)
    unsorted.unlink()
    with ColumnFiles(folder, columns, rows) as out:
        for number in range(len(bounds) - 1):
            shard = shard_path(folder, number)
            out.append(by_user_and_time(np.fromfile(shard, dtype)))
            shard.unlink()
    return rows, columns, scale


def _append_blocks(
    blocks: Iterable[Block], unsorted: Path, n_users: int, n_items: int
) -> tuple[np.ndarray, list[str], tuple[float, float] | None]:
    """Append all blocks to one file of records; returns the rows of each user, columns and rating range."""
    counts = np.zeros(n_users, dtype=np.int64)
    columns: list[str] = []
    low, high = np.inf, -np.inf
    with unsorted.open("wb") as file:
        for number, given in enumerate(blocks, start=1):
            block = dict(given) if isinstance(given, Mapping) else dict(zip(DTYPES, given, strict=False))
            faults = _find_faults(block, columns, n_users, n_items)
            if faults:
                raise DataError.faults(f"block {number}", faults)
            columns = columns or [name for name in DTYPES if name in block]
            write_array(file, as_records(block, record_type(columns)))
            counts += np.bincount(block["user"], minlength=n_users)
            if "rating" in block:
                rating = np.asarray(block["rating"], dtype=np.float32)
                low, high = rating.min(initial=low), rating.max(initial=high)
    if not counts.any():
        raise DataError("the blocks hold no interactions; at least one row is needed")
    return counts, columns, (float(low), float(high)) if "rating" in columns else None


def _find_faults(block: dict[str, np.ndarray], columns: list[str], n_users: int, n_items: int) -> list[str]:
    """All faults of a block."""
    differs = columns and set(columns) != set(block)
    if differs or not {"user", "item"} <= set(block) <= set(DTYPES):
        wanted = ", ".join(columns) if differs else "user, item and optionally rating, timestamp, weight"
        return [f"it holds {', '.join(block)}; expected {wanted}"]
    if len({column.shape for column in block.values()}) > 1 or block["user"].ndim != 1:
        return ["its columns differ in length: " + ", ".join(f"{n} {c.shape}" for n, c in block.items())]
    faults = []
    for name, n in (("user", n_users), ("item", n_items)):
        column = block[name]
        if column.dtype.kind not in "iu":
            faults.append(f"{name} holds {column.dtype}; indices are whole numbers")
        elif len(column) and not 0 <= column.min() <= column.max() < n:
            faults.append(f"{name} runs from {column.min()} to {column.max()}; indices are 0 to {n - 1}")
    for name in ("rating", "weight"):
        not_finite = ~(np.abs(block.get(name, np.empty(0))) <= np.finfo(np.float32).max)
        if not_finite.any():
            faults.append(f"{name} holds {np.count_nonzero(not_finite)} values that are not finite in 32 bits")
    if "timestamp" in block and block["timestamp"].dtype.kind not in "iu":
        faults.append(f"timestamp holds {block['timestamp'].dtype}; seconds are whole numbers")
    return faults
