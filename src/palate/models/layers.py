"""Functions that two models or more use.

Legend: B queries, N items, I items asked about, D width, L history length, T history values of all queries, U distinct
items of a history.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.data.ragged import MaskedHistories, Ragged
from palate.errors import DataError

SHRINK = 10.0
"""Weight, in ratings, of the overall mean in a user's or item's mean."""


def dropout_mask(shape: Sequence[int], dropout: float, device: torch.device | None = None) -> Tensor:
    """Which entries dropout keeps, bool of the given shape, each with probability `1 - dropout` (to 1 / 65,536).

    One number of torch's global generator decides on four entries, where `F.dropout` draws one number for each.

    Args:
        shape: Shape of the mask.
        dropout: Probability that an entry is dropped.
        device: Device of the mask. Defaults to the CPU.
    """
    count = math.prod(shape)
    bits = torch.empty(-(-count // 4), dtype=torch.int64, device=device).random_(torch.iinfo(torch.int64).min, None)
    return bits.view(torch.int16)[:count].view(shape) >= int(dropout * 2**16) - 2**15


def sum_rows(table_ND: Tensor, history: Ragged, weight: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Sum of each history's item rows, `[B, D]`: the product of a sparse matrix with a dense one.

    Args:
        table_ND: One row for each item.
        history: Item indices, B rows. An item that occurs twice is added twice; see `distinct_history`.
        weight: float32 `[T]`, a factor for each value of `history`. Defaults to 1.
        dropout: Probability that a value is dropped; the others are scaled up by `1 / (1 - dropout)`.
    """
    if dropout:
        mask = dropout_mask(history.values.shape, dropout, history.values.device)
        weight = torch.ones(len(mask), device=mask.device) if weight is None else weight
        history, weight = history.keep(mask), weight[mask] / (1 - dropout)
    if not isinstance(history, MaskedHistories):
        return F.embedding_bag(history.values, table_ND, history.offsets[:-1], mode="sum", per_sample_weights=weight)
    # All rows are versions of one history: a dense product with its few table rows, which stay in cache.
    factor_BL = history.mask.to(table_ND.dtype) if history.weight is None else history.weight
    if weight is not None:
        factor_BL = torch.zeros_like(factor_BL).masked_scatter(history.mask, weight) * factor_BL
    return factor_BL @ table_ND[history.whole]


def distinct_history(history: Ragged) -> Ragged:
    """The same histories with every item once, where it first occurs: what a model reads that takes a history as a set.

    Of a `MaskedHistories` an item is kept if any of its occurrences is, with the largest of their weights.
    """
    if isinstance(history, MaskedHistories):
        return _distinct_masked(history)
    first_T = first_occurrences(history)
    return history if bool(first_T.all()) else history.keep(first_T)


def first_occurrences(history: Ragged) -> Tensor:
    """Which history values are the first occurrence of their item in their row, bool `[T]`."""
    first_T = torch.ones(len(history.values), dtype=torch.bool, device=history.values.device)
    if len(first_T):
        key = history.row_of_value * (history.values.max() + 1) + history.values
        ordered = key.sort(stable=True)
        first_T[ordered.indices[1:]] = ordered.values[1:] != ordered.values[:-1]
    return first_T


def _distinct_masked(history: MaskedHistories) -> Ragged:
    item_U, place_L = torch.unique(history.whole, return_inverse=True)
    if len(item_U) == len(place_L):
        return history
    place_BL = place_L.expand(len(history), -1)

    def largest(value_BL: Tensor) -> Tensor:
        zero_BU = value_BL.new_zeros(len(history), len(item_U))
        return zero_BU.scatter_reduce(1, place_BL, value_BL, "amax", include_self=False)

    if history.weight is not None:
        return MaskedHistories.weighted(item_U, largest(history.weight))
    return MaskedHistories.masked(item_U, largest(history.mask.to(torch.uint8)).bool())


def outputs(layer: nn.Linear, hidden_BD: Tensor, item_I: Tensor) -> Tensor:
    """Some of a dense layer's outputs, `[B, I]`."""
    return F.linear(hidden_BD, layer.weight[item_I], layer.bias[item_I])


def standardised(scores_BN: Tensor, like_BM: Tensor | None = None) -> Tensor:
    """`(s - m) / d` with mean m and standard deviation d of each row; a row of equal scores gives zeros.

    Args:
        scores_BN: Scores.
        like_BM: Scores that m and d are taken from. Defaults to `scores_BN`.
    """
    spread_B1, mean_B1 = torch.std_mean(scores_BN if like_BM is None else like_BM, dim=1, correction=0, keepdim=True)
    # The spread of equal scores is rounding error.
    varies_B1 = spread_B1 > 1e-6 * mean_B1.abs()
    return (scores_BN - mean_B1) * torch.where(varies_B1, 1 / spread_B1, 0.0)


def machine_memory() -> int:
    """Bytes of memory the machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def require_memory(needed: int, who: str, instead: str) -> None:
    """Refuse a model that does not fit into memory, before anything is allocated.

    Args:
        needed: Bytes at the peak.
        who: The model's name.
        instead: What to use in its place.

    Raises:
        DataError: Names the bytes needed, the bytes available, and what to use instead.
    """
    available = machine_memory()
    if needed > available:
        raise DataError(
            f"{who} needs {needed / 1e9:.1f} GB of memory for this catalogue and the machine has "
            f"{available / 1e9:.1f} GB; use {instead}"
        )
