"""dots: products of user vectors with vectors of sampled items; forward and backward passes are written by hand.

score(p, c) = <u_p, v_(place(p, c))>

Autograd would hold a vector for each pair, `[P, C, D]`, and its gradient, and spend nearly all its time on moving them.
Here the forward pass gathers them in blocks that fit the cache. The backward pass never builds them: both gradients are
sums of rows, weighted by the gradients of the scores.

Legend: P positives, C items scored for each, R distinct items, D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

MAX_VALUES_IN_CACHE = 2**19
"""Size of the item vectors gathered at once."""


class _Dots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, user_PD: Tensor, item_RD: Tensor, place_PC: Tensor) -> Tensor:
        ctx.save_for_backward(user_PD, item_RD, place_PC)
        width, count = user_PD.shape[1], place_PC.shape[1]
        scores_PC = user_PD.new_empty(place_PC.shape)
        step = max(1, MAX_VALUES_IN_CACHE // (width * count))
        buffer = user_PD.new_empty(min(step, len(user_PD)) * count, width)
        for start in range(0, len(user_PD), step):
            block = slice(start, min(start + step, len(user_PD)))
            rows = place_PC[block].reshape(-1)
            vectors = torch.index_select(item_RD, 0, rows, out=buffer[: len(rows)]).view(-1, count, width)
            torch.sum(vectors.mul_(user_PD[block].unsqueeze(1)), -1, out=scores_PC[block])
        return scores_PC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_PC: Tensor) -> tuple[Tensor, Tensor, None]:
        user_PD, item_RD, place_PC = ctx.saved_tensors
        place, weight, count = place_PC.reshape(-1), gradient_PC.reshape(-1), place_PC.shape[1]
        by_item, order = place.sort()
        starts_R = torch.searchsorted(by_item, torch.arange(len(item_RD), device=place.device))
        starts_P = torch.arange(0, len(place), count, device=place.device)
        to_user = _weighted_row_sums(item_RD, place, starts_P, weight)
        return to_user, _weighted_row_sums(user_PD, order // count, starts_R, weight[order]), None


def dots(user_PD: Tensor, item_RD: Tensor, place_PC: Tensor) -> Tensor:
    """Dot products of each user vector with the vectors of its items, float32 `[P, C]`.

    Args:
        user_PD: One vector for each positive.
        item_RD: Vectors of items.
        place_PC: The rows of `item_RD` that each positive is scored with, int64.
    """
    scores_PC: Tensor = _Dots.apply(user_PD, item_RD, place_PC)  # type: ignore[no-untyped-call]
    return scores_PC


def _weighted_row_sums(rows: Tensor, index: Tensor, offsets: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums of rows, one sum for each offset."""
    return F.embedding_bag(index, rows, offsets, mode="sum", per_sample_weights=weight)
