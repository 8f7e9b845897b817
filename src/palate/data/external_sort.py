"""External sort: blocks of interactions -> columns on disk, ordered by user, time and input order, in little memory.

Blocks are appended to files while the rows of each user are counted. Then each row is written to the range of its user
(a counting sort), and the rows of each user are sorted by time.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
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

_CHUNK_ROWS = 1 << 22
"""Rows in memory at a time."""


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
    unsorted.mkdir()
    counts, columns, scale = _append_blocks(blocks, unsorted, n_users, n_items)
    offsets = np.concatenate(([0], np.cumsum(counts)))
    rows = int(offsets[-1])
    for name in columns:
        np.lib.format.open_memmap(_file(folder, name), "w+", np.dtype(DTYPES[name]), (rows,)).flush()
    _scatter(unsorted, folder, columns, offsets)
    shutil.rmtree(unsorted)
    if "timestamp" in columns:
        _sort_by_time(folder, columns, offsets)
    return rows, columns, scale


def _append_blocks(
    blocks: Iterable[Block], unsorted: Path, n_users: int, n_items: int
) -> tuple[np.ndarray, list[str], tuple[float, float] | None]:
    """Append all blocks to one raw file for each column; returns the rows of each user, columns and rating range."""
    counts = np.zeros(n_users, dtype=np.int64)
    columns: list[str] = []
    low, high = np.inf, -np.inf
    with ExitStack() as stack:
        files: dict[str, Any] = {}
        for number, given in enumerate(blocks, start=1):
            block = dict(given) if isinstance(given, Mapping) else dict(zip(DTYPES, given, strict=False))
            faults = _find_faults(block, columns, n_users, n_items)
            if faults:
                raise DataError.faults(f"block {number}", faults)
            if not columns:
                columns = [name for name in DTYPES if name in block]
                files = {name: stack.enter_context((unsorted / name).open("wb")) for name in columns}
            block = {name: np.ascontiguousarray(block[name], dtype=DTYPES[name]) for name in columns}
            for name, file in files.items():
                block[name].tofile(file)
            counts += np.bincount(block["user"], minlength=n_users)
            if "rating" in block:
                low, high = block["rating"].min(initial=low), block["rating"].max(initial=high)
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


def _scatter(unsorted: Path, folder: Path, columns: list[str], offsets: np.ndarray) -> None:
    """Counting sort: write each row to the next free position of its user."""
    free = offsets[:-1].copy()
    out = {name: np.load(_file(folder, name), mmap_mode="r+", allow_pickle=False) for name in columns}
    for start in range(0, int(offsets[-1]), _CHUNK_ROWS):

        def chunk(name: str, start: int = start) -> np.ndarray:
            return np.fromfile(
                unsorted / name, DTYPES[name], _CHUNK_ROWS, offset=start * np.dtype(DTYPES[name]).itemsize
            )

        user = chunk("user")
        order = np.argsort(user, kind="stable")
        user = user[order]
        first = np.flatnonzero(np.diff(user, prepend=-1))
        sizes = np.diff(first, append=len(user))
        place = free[user] + np.arange(len(user)) - np.repeat(first, sizes)
        free[user[first]] += sizes
        for name in columns:
            out[name][place] = chunk(name)[order]
    for array in out.values():
        array.flush()


def _sort_by_time(folder: Path, columns: list[str], offsets: np.ndarray) -> None:
    """Sort the rows of each user by time; equal times keep their order."""
    out = {name: np.load(_file(folder, name), mmap_mode="r+", allow_pickle=False) for name in columns}
    last = 0
    while last < len(offsets) - 1:
        first, start = last, int(offsets[last])
        # As many users as fit in a chunk, or one.
        last = max(int(np.searchsorted(offsets, start + _CHUNK_ROWS, side="right")) - 1, first + 1)
        rows = slice(start, int(offsets[last]))
        user, time = np.asarray(out["user"][rows]), np.asarray(out["timestamp"][rows])
        if ((time[1:] < time[:-1]) & (user[1:] == user[:-1])).any():
            order = np.lexsort((time, user))
            for name in columns:
                out[name][rows] = out[name][rows][order]
    for array in out.values():
        array.flush()


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"
