"""Rows of columns. Those of a column that is mapped from disk are written to disk too, and mapped.

In memory they would be as long as the column. The file has no name, and ends with the array.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from palate.errors import ArtifactError

_BLOCK_ROWS = 1 << 22
_PIECE_ROWS = 1 << 24
_MADV_PAGEOUT = 21
"""Linux: give the pages of a mapping back; those that were changed keep their values."""


def select_rows(column: np.ndarray, masks: Sequence[np.ndarray], number: np.ndarray | None = None) -> np.ndarray:
    """The rows of several masks, one mask after another; mapped from disk if the column is.

    Args:
        column: `[rows]`.
        masks: Bool, `[rows]` each.
        number: The values of the result are `number[value]`. Defaults to the values themselves.

    Raises:
        ArtifactError: The file cannot be written.
    """
    mapped = _map_of(column)
    if mapped is None or os.name == "nt":
        parts = [column[mask] for mask in masks]
        found = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return found if number is None else number[found]
    rows = sum(int(np.count_nonzero(mask)) for mask in masks)
    dtype = column.dtype if number is None else number.dtype
    folder = None if mapped.filename is None else _writable(Path(mapped.filename).parent)
    if not rows:
        return np.empty(0, dtype=dtype)
    try:
        with TemporaryFile(dir=folder) as file:
            for mask in masks:
                for start in range(0, len(column), _BLOCK_ROWS):
                    block = slice(start, start + _BLOCK_ROWS)
                    values = column[block][mask[block]]
                    file.write(np.ascontiguousarray(values if number is None else number[values]).data)
            file.flush()
            found = np.memmap(file, dtype, mode="c", shape=(rows,))
        found.filename = None if folder is None else str(folder / "part")  # tells parts of this part where to lie
    except OSError as error:
        raise ArtifactError(
            f"the parts of the split cannot be written beside the data set ({error}); they take up to twice its space: "
            "free some, or move the data set to a larger disk"
        ) from error
    release(column)
    return np.asarray(found)


def read_through(column: np.ndarray | None) -> Iterator[np.ndarray] | None:
    """The values of a column in pieces, each of which gives its memory back; None if there is no column."""
    return None if column is None else _pieces(column)


def _pieces(column: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(column), _PIECE_ROWS):
        yield column[start : start + _PIECE_ROWS]
        release(column)


def release(column: np.ndarray) -> None:
    """Give memory back that the pages of a mapped column take; they are read again when they are needed."""
    mapped = _map_of(column)
    if mapped is not None and mapped._mmap is not None:  # type: ignore[attr-defined]
        with suppress(OSError, ValueError, AttributeError):  # not on this system
            mapped._mmap.madvise(_MADV_PAGEOUT)  # type: ignore[attr-defined]


def _map_of(column: np.ndarray) -> np.memmap | None:
    """The mapping behind an array, if there is one."""
    base: Any = column
    found = None
    while isinstance(base, np.ndarray):
        found = base if isinstance(base, np.memmap) else found
        base = base.base
    return found


def _writable(folder: Path) -> Path | None:
    return folder if os.access(folder, os.W_OK) else None
