"""The distinct pairs of user and item of some data, a block of users at a time.

The rows of a data set are ordered by user, so that a block of users is a slice of it: nothing as long as the data is
sorted or copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from palate.data.dataset import Dataset

ROWS_PER_BLOCK = 1 << 22


def user_blocks(parts: Sequence[Dataset], rows: int = ROWS_PER_BLOCK) -> Iterator[tuple[int, int]]:
    """Consecutive users with at most so many rows in all parts, or single users with more: first, and last + 1.

    Args:
        parts: Data under the same indices.
        rows: Rows of a block.
    """
    ends = parts[0].offsets if len(parts) == 1 else np.sum([part.offsets for part in parts], axis=0)
    first, users = 0, len(ends) - 1
    while first < users:
        last = int(np.searchsorted(ends, ends[first] + rows, side="right")) - 1
        last = min(max(last, first + 1), users)
        yield first, last
        first = last


def pair_keys(data: Dataset, first: int, last: int) -> np.ndarray:
    """The rows of some users as numbers `(user - first) * n_items + item`, int64, in their order.

    Args:
        data: The data.
        first, last: First user, and last user + 1.
    """
    rows = slice(data.offsets[first], data.offsets[last])
    keys = data.user[rows].astype(np.int64)
    keys -= first
    keys *= data.n_items
    keys += data.item[rows]
    return keys


def distinct_items(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Each user's distinct items, in the data and in its `history`.

    Returns:
        Items, ascending for each user, int32 `[pairs]`, and where each user's begin, int64 `[n_users + 1]`.
    """
    parts = [part for part in (data, data.history) if part is not None]
    items = np.empty(sum(map(len, parts)), dtype=np.int32)
    counts = np.zeros(data.n_users, dtype=np.int64)
    done = 0
    for first, last in user_blocks(parts):
        keys = np.concatenate([pair_keys(part, first, last) for part in parts])
        keys.sort()
        if len(keys):
            keys = keys[np.concatenate(([True], keys[1:] != keys[:-1]))]
        user, items[done : done + len(keys)] = np.divmod(keys, data.n_items)
        counts[first:last] = np.bincount(user, minlength=last - first)
        done += len(keys)
    return items[:done], np.concatenate(([0], np.cumsum(counts)))
