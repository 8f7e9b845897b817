"""Blocks that two models or more use."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.data.ragged import Ragged
from palate.errors import DataError

SHRINK = 10.0
"""Weight, in ratings, of the overall mean in a user's or item's mean."""


def kept(shape: Sequence[int], dropout: float) -> Tensor:
    """Which entries dropout keeps, bool of that shape, each with probability `1 - dropout` (to 1 / 65,536).

    One number of torch's own generator decides on four entries, where `F.dropout` draws one for each.
    """
    count = math.prod(shape)
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
    return bits.view(torch.int16)[:count].view(shape) >= int(dropout * 2**16) - 2**15


def sum_rows(table_ND: Tensor, history: Ragged, weight: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """For each history the sum of its items' rows, `[B, D]`: the product of a sparse matrix with a dense one.

    Args:
        table_ND: One row for each item.
        history: Item indices.
        weight: float32 `[total]`, one factor for each value of `history`; default 1.
        dropout: Share of the values left out, at random; the rest is scaled up.
    """
    if dropout:
        there = kept(history.values.shape, dropout)
        weight = torch.ones(len(history.values)) if weight is None else weight
        history, weight = history.keep(there), weight[there] / (1 - dropout)
    if history.whole is None:
        return F.embedding_bag(history.values, table_ND, history.offsets[:-1], mode="sum", per_sample_weights=weight)
    # Parts of one history: a dense product with its few rows, which stay in cache.
    whole_L, keep_BL = history.whole
    factor_BL = keep_BL.to(table_ND.dtype)
    if weight is not None and keep_BL.is_floating_point():
        factor_BL = factor_BL * weight.view_as(factor_BL)
    elif weight is not None:
        factor_BL[keep_BL] = weight
    return factor_BL @ table_ND[whole_L]


def outputs(layer: nn.Linear, hidden_BD: Tensor, item_I: Tensor) -> Tensor:
    """Some of a dense layer's outputs, `[B, I]`."""
    return F.linear(hidden_BD, layer.weight[item_I], layer.bias[item_I])


def standardised(scores_BN: Tensor, like_BM: Tensor | None = None) -> Tensor:
    """`(s - m) / d` with mean and standard deviation of each row; a row of equal scores says nothing and gives zeros.

    Args:
        scores_BN: Scores.
        like_BM: Scores that m and d are taken from; default the same.
    """
    spread_B1, mean_B1 = torch.std_mean(scores_BN if like_BM is None else like_BM, dim=1, correction=0, keepdim=True)
    # Where all scores are equal their spread is rounding.
    told_B1 = spread_B1 > 1e-6 * mean_B1.abs()
    return (scores_BN - mean_B1) * torch.where(told_B1, 1 / spread_B1, 0.0)


def memory() -> int:
    """Bytes of memory the machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def require_memory(needed: int, who: str, instead: str) -> None:
    """Refuse a model that will not fit, before anything is allocated.

    Args:
        needed: Bytes at the peak.
        who: The model's name.
        instead: The model to use in its place.

    Raises:
        DataError: Names the bytes needed, those there are, and the other model.
    """
    there = memory()
    if needed > there:
        raise DataError(
            f"{who} needs {needed / 1e9:.1f} GB of memory for this catalogue and the machine has {there / 1e9:.1f} GB; "
            f"use {instead}"
        )
