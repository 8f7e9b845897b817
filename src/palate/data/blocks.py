"""Blocks of interactions in any order -> columns on disk ordered by user, time, input order; a few blocks in memory.

Blocks are spooled to disk while users are counted. Then each row goes where its user's rows are (a counting sort), and
each user's rows are put in time order.
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
"""The columns of a dataset, in the order of a block that is a tuple."""

Block = Mapping[str, np.ndarray] | tuple[np.ndarray, ...]

_CHUNK = 1 << 22
"""Rows in memory at a time."""


def sort_blocks(
    blocks: Iterable[Block], folder: Path, n_users: int, n_items: int
) -> tuple[int, list[str], tuple[float, float] | None]:
    """Write one array for each column, `NAME.npy`.

    Args:
        blocks: Read once.
        folder: Where to; also holds the spool meanwhile.
        n_users, n_items: Indices are below these.

    Returns:
        Rows, columns, and the lowest and highest rating.

    Raises:
        DataError: A block does not hold what it should, or there are no rows.
    """
    spool = folder / "spool"
    spool.mkdir()
    counts, columns, scale = _spool(blocks, spool, n_users, n_items)
    offsets = np.concatenate(([0], np.cumsum(counts)))
    rows = int(offsets[-1])
    for name in columns:
        np.lib.format.open_memmap(_file(folder, name), "w+", np.dtype(DTYPES[name]), (rows,)).flush()
    _scatter(spool, folder, columns, offsets)
    shutil.rmtree(spool)
    if "timestamp" in columns:
        _sort_by_time(folder, columns, offsets)
    return rows, columns, scale


def _spool(
    blocks: Iterable[Block], spool: Path, n_users: int, n_items: int
) -> tuple[np.ndarray, list[str], tuple[float, float] | None]:
    """Append all blocks to one raw file for each column; returns rows of each user, columns, rating range."""
    counts = np.zeros(n_users, dtype=np.int64)
    columns: list[str] = []
    low, high = np.inf, -np.inf
    with ExitStack() as stack:
        files: dict[str, Any] = {}
        for number, given in enumerate(blocks, start=1):
            block = dict(given) if isinstance(given, Mapping) else dict(zip(DTYPES, given, strict=False))
            faults = _faults(block, columns, n_users, n_items)
            if faults:
                raise DataError.faults(f"block {number}", faults)
            if not columns:
                columns = [name for name in DTYPES if name in block]
                files = {name: stack.enter_context((spool / name).open("wb")) for name in columns}
            block = {name: np.ascontiguousarray(block[name], dtype=DTYPES[name]) for name in columns}
            for name, file in files.items():
                block[name].tofile(file)
            counts += np.bincount(block["user"], minlength=n_users)
            if "rating" in block:
                low, high = block["rating"].min(initial=low), block["rating"].max(initial=high)
    if not counts.any():
        raise DataError("the blocks hold no interactions; at least one row is needed")
    return counts, columns, (float(low), float(high)) if "rating" in columns else None


def _faults(block: dict[str, np.ndarray], columns: list[str], n_users: int, n_items: int) -> list[str]:
    """Everything that is wrong with a block."""
    unlike = columns and set(columns) != set(block)
    if unlike or not {"user", "item"} <= set(block) <= set(DTYPES):
        wanted = ", ".join(columns) if unlike else "user, item and perhaps rating, timestamp, weight"
        return [f"it holds {', '.join(block)}; wanted are {wanted}"]
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
        strange = ~(np.abs(block.get(name, np.empty(0))) <= np.finfo(np.float32).max)
        if strange.any():
            faults.append(f"{name} holds {np.count_nonzero(strange)} values that are not finite in 32 bits")
    if "timestamp" in block and block["timestamp"].dtype.kind not in "iu":
        faults.append(f"timestamp holds {block['timestamp'].dtype}; seconds are whole numbers")
    return faults


def _scatter(spool: Path, folder: Path, columns: list[str], offsets: np.ndarray) -> None:
    """Counting sort: each spooled row to the next free place among its user's."""
    free = offsets[:-1].copy()
    out = {name: np.load(_file(folder, name), mmap_mode="r+", allow_pickle=False) for name in columns}
    for start in range(0, int(offsets[-1]), _CHUNK):

        def chunk(name: str, start: int = start) -> np.ndarray:
            return np.fromfile(spool / name, DTYPES[name], _CHUNK, offset=start * np.dtype(DTYPES[name]).itemsize)

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
    """Put each user's rows in time order, equal times as they came."""
    out = {name: np.load(_file(folder, name), mmap_mode="r+", allow_pickle=False) for name in columns}
    last = 0
    while last < len(offsets) - 1:
        first, start = last, int(offsets[last])
        # As many whole users as fit a chunk, or one.
        last = max(int(np.searchsorted(offsets, start + _CHUNK, side="right")) - 1, first + 1)
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
