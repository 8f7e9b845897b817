"""The k most similar items of each item, from a sparse product computed block by block: for `itemknn` and `rp3beta`.

A block of the product holds at most MAX_ENTRIES_PER_BLOCK non-zeros, or one row, so that memory depends on what is kept
and not on the square of the catalogue. The exact product takes sum_u n_u^2 multiplications for users with n_u items:
one user with 100,000 items takes 1e10. `sampled_interactions` bounds n_u, so that time is at most in proportion to the
number of interactions.

Legend: N items, M users, K neighbours.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy
import torch

from palate.data.dataset import Dataset
from palate.models.layers import require_memory
from palate.models.linear.ease import interactions

MAX_ENTRIES_PER_BLOCK = 2**21
"""Most non-zeros of a block of the product: 16 to 24 MB, and twice that while the k largest are chosen."""
MAX_HISTORY = 10_000
"""Default of `max_history`: such a user costs 1e8 multiplications, 3 to 5 seconds of one core. Few users have more
items: the longest history of MovieLens-32M has 33,332, that of the Netflix Prize 17,653."""
GOLDEN_RATIO = 0.6180339887498949
"""Its multiples spread evenly over the fractions of one."""


def nearest_items(
    left: scipy.sparse.csr_matrix,
    right: scipy.sparse.csr_matrix,
    k: int,
    similarity: Callable[[scipy.sparse.csr_matrix, int], scipy.sparse.csr_matrix],
    who: str,
    *,
    with_self: bool = False,
) -> scipy.sparse.csr_matrix:
    """The k most similar items of each item; ties go to the lower index.

    Args:
        left: `[N, M]`.
        right: `[M, N]`.
        k: Neighbours kept; an item with fewer similar items has fewer.
        similarity: Called with a block of rows of `left @ right` and the index of its first row; gives their
            similarities, float32, with the same non-zeros.
        who: The model's name, for errors.
        with_self: Whether an item may be its own neighbour. Defaults to no.

    Returns:
        float32 `[N, N]`; row i has the similarities of i's neighbours.

    Raises:
        DataError: The neighbours do not fit into memory.
    """
    most_N = max_entries(left, right)
    require_memory(24 * int(np.minimum(most_N, k).sum()), who, "a smaller k")

    def neighbours(block: tuple[int, int]) -> scipy.sparse.csr_matrix:
        start, stop = block
        product = similarity(left[start:stop] @ right, start)
        own = np.full(stop - start, -1) if with_self else np.arange(start, stop)
        return k_largest(product, own, k)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # SciPy's products release the GIL.
        return scipy.sparse.vstack(list(pool.map(neighbours, row_blocks(most_N))), format="csr")


def max_entries(left: scipy.sparse.csr_matrix, right: scipy.sparse.csr_matrix) -> np.ndarray:
    """A bound of the non-zeros in each row of `left @ right`, int64 `[rows of left]`."""
    work = np.concatenate(([0], np.cumsum(np.diff(right.indptr)[left.indices], dtype=np.int64)))
    bound: np.ndarray = np.minimum(work[left.indptr[1:]] - work[left.indptr[:-1]], right.shape[1])
    return bound


def row_blocks(entries: np.ndarray) -> Iterator[tuple[int, int]]:
    """Start and stop of blocks of rows that together have at most MAX_ENTRIES_PER_BLOCK entries, or are one row."""
    total = np.concatenate(([0], np.cumsum(entries)))
    start = 0
    while start < len(entries):
        stop = int(np.searchsorted(total, total[start] + MAX_ENTRIES_PER_BLOCK, side="right")) - 1
        stop = max(stop, start + 1)
        yield start, stop
        start = stop


def k_largest(rows: scipy.sparse.csr_matrix, own: np.ndarray, k: int) -> scipy.sparse.csr_matrix:
    """The k largest positive entries of each row, by ascending column; ties go to the lower column.

    Args:
        rows: Similarities; overwritten.
        own: A column of each row that is left out, `[rows]`; -1 for none. An item is not its own neighbour.
        k: Entries kept of each row.
    """
    rows.data[rows.indices == np.repeat(own.astype(rows.indices.dtype), np.diff(rows.indptr))] = 0
    keep = rows.data > 0
    for row in np.flatnonzero(np.diff(rows.indptr) > k):
        part = slice(rows.indptr[row], rows.indptr[row + 1])
        value, smallest = rows.data[part], kth_largest(rows.data[part], k)
        if smallest <= 0:
            continue
        keep[part] = value > smallest
        tied = np.flatnonzero(value == smallest)
        room, column = k - int(np.count_nonzero(keep[part])), rows.indices[part][tied]
        if len(tied) > room:
            tied = tied[column <= np.partition(column, room - 1)[room - 1]]
        keep[part][tied] = True
    kept = np.flatnonzero(keep)
    ends = np.searchsorted(kept, rows.indptr)
    found = scipy.sparse.csr_matrix((rows.data[kept], rows.indices[kept], ends), shape=rows.shape)
    found.sort_indices()
    return found


def kth_largest(value: np.ndarray, k: int) -> float:
    """The k-th largest of more than k values."""
    # The maxima of k chunks are k values, so the k-th largest is at least the smallest of them: few values remain.
    bound = value[: len(value) // k * k].reshape(k, -1).max(axis=1).min()
    remaining = value[value >= bound]
    return float(bound if remaining.max() == bound else np.partition(remaining, -k)[-k])


def sampled_interactions(data: Dataset, max_history: int, who: str) -> scipy.sparse.csr_matrix:
    """The interaction matrix, float32 `[M, N]`, with a sample of the items of users who have very many.

    The sample is evenly spaced over the user's items, in order of their indices, and thus does not depend on the order
    of the rows. It begins at another place for each user, so that users with the same items do not all lose the same.

    Args:
        data: The training rows.
        max_history: Users with more distinct items keep this many of them; a warning says how many users these are.
        who: The model's name, for the warning.
    """
    rows = interactions(data)
    long_M = np.diff(rows.indptr) > max_history
    if not long_M.any():
        return rows
    warnings.warn(
        f"{who} counts users with more than {max_history:,} items ({int(long_M.sum()):,} of {data.n_users:,}) by an "
        "evenly spaced sample of so many, because time grows with the square of a user's items; set max_history=... to "
        "change this",
        stacklevel=2,
    )
    rows.sort_indices()
    for user in np.flatnonzero(long_M):
        first, last = rows.indptr[user], rows.indptr[user + 1]
        count = int(last - first)
        start = int(user * GOLDEN_RATIO % 1 * count)
        # Of n sums that grow by m and wrap around n, m are below m: those that have just wrapped, evenly spaced.
        rows.data[first:last][(start + np.arange(count) * max_history) % count >= max_history] = 0
    rows.eliminate_zeros()
    return rows
