"""score_pairs: the ranking logits of a training batch, forward and backward by hand.

The numbers are those of `weigh(head, towers.features(...))` (a test compares values and gradients). Training spends
most of its time here. Autograd would allocate each hidden layer and each gradient anew at every step, and on large
batches the operating system then spends longer on handing out memory than the processor on arithmetic. Here buffers,
kept from step to step, hold them, and what can be done in place is.

Legend: P positives, N items of each (the positive and its negatives), R = P * N pairs, G width of GMF, H width of a
hidden layer, I rows of the items' sides.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_mask = torch.ops.aten.threshold_backward.grad_input


class Buffers:
    """Flat buffers that are lent for one step and come back when its gradients are worked out.

    A forward pass without a backward keeps what it was lent, and the next one gets new ones: nobody ever shares.
    """

    def __init__(self) -> None:
        self._free: list[list[Tensor]] = []

    def take(self, sizes: list[int]) -> list[Tensor]:
        """One buffer of at least each size."""
        found = self._free.pop() if self._free else [torch.empty(0)] * len(sizes)
        return [each if len(each) >= size else torch.empty(size) for each, size in zip(found, sizes, strict=True)]

    def give(self, buffers: list[Tensor]) -> None:
        """Take buffers back."""
        self._free.append(buffers)

    def clear(self) -> None:
        """Let all memory go."""
        self._free.clear()


class _ScorePairs(torch.autograd.Function):
    """See `score_pairs`; `rest` is the head's weights on h_L and then weight and bias of each layer but the first."""

    @staticmethod
    def forward(
        ctx: Any,
        buffers: Buffers,
        index_PN: Tensor | None,
        shape: tuple[int, int],
        user_PG: Tensor,
        item_IG: Tensor,
        user_PH: Tensor,
        item_IH: Tensor,
        *rest: Tensor,
    ) -> Tensor:
        n_pairs = shape[0] * shape[1]
        head_H, layers = rest[0], list(zip(rest[1::2], rest[2::2], strict=True))
        widths = [user_PH.shape[1], *(weight.shape[0] for weight, _ in layers)]
        lent = buffers.take([n_pairs * width for width in (user_PG.shape[1], *widths, *widths, user_PG.shape[1])])
        product, *hidden = (
            each[: n_pairs * width].view(n_pairs, width)
            for each, width in zip(lent, (user_PG.shape[1], *widths), strict=False)
        )
        scores_PN = torch.zeros(shape)
        if user_PG.shape[1]:
            _pick(item_IG, index_PN, product)
            temporary = _like(lent[-1], product)
            torch.mul(product.view(*shape, -1), user_PG.unsqueeze(1), out=temporary.view(*shape, -1))
            torch.sum(temporary.view(*shape, -1), -1, out=scores_PN)
        if head_H.numel():
            _pick(item_IH, index_PN, hidden[0])
            hidden[0].view(*shape, -1).add_(user_PH.unsqueeze(1)).relu_()
            for (weight, bias), below, here in zip(layers, hidden[:-1], hidden[1:], strict=True):
                torch.addmm(bias, below, weight.T, out=here).relu_()
            scores_PN.view(-1).addmv_(hidden[-1], head_H)
        ctx.buffers, ctx.lent, ctx.shape, ctx.index = buffers, lent, shape, index_PN
        ctx.product, ctx.hidden, ctx.n_items = product, hidden, len(item_IG)
        ctx.save_for_backward(user_PG, *rest)
        return scores_PN

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_PN: Tensor) -> tuple[Any, ...]:
        user_PG, head_H, *weights = ctx.saved_tensors
        shape, hidden, lent = ctx.shape, ctx.hidden, ctx.lent
        gradient_PN = gradient_PN.contiguous()
        user_factors = item_factors = user_hidden = item_hidden = None
        if user_PG.shape[1]:
            product_PNG, gradient_PN1 = ctx.product.view(*shape, -1), gradient_PN.unsqueeze(-1)
            temporary = _like(lent[-1], ctx.product)
            torch.mul(product_PNG, gradient_PN1, out=temporary.view(*shape, -1))
            user_factors = temporary.view(*shape, -1).sum(1)
            torch.mul(gradient_PN1, user_PG.unsqueeze(1), out=product_PNG)
            item_factors = _gather_up(ctx.product, ctx.index, ctx.n_items)
        rest: list[Tensor | None] = [None] * (1 + len(weights))
        if head_H.numel():
            rest[0] = hidden[-1].T @ gradient_PN.view(-1)
            spare = [_like(each, h) for each, h in zip(lent[1 + len(hidden) :], hidden, strict=False)]
            torch.mul(gradient_PN.view(-1, 1), head_H, out=spare[-1])
            for depth in range(len(hidden) - 1, -1, -1):
                here = _mask(spare[depth], hidden[depth], 0.0, grad_input=spare[depth])
                if depth:
                    rest[2 * depth - 1] = here.T @ hidden[depth - 1]
                    rest[2 * depth] = here.sum(0)
                    torch.mm(here, weights[2 * depth - 2], out=spare[depth - 1])
            user_hidden = spare[0].view(*shape, -1).sum(1)
            item_hidden = _gather_up(spare[0], ctx.index, ctx.n_items)
        ctx.buffers.give(lent)
        return None, None, None, user_factors, item_factors, user_hidden, item_hidden, *rest


def score_pairs(
    buffers: Buffers,
    user: tuple[Tensor, Tensor],
    item: tuple[Tensor, Tensor],
    index_PN: Tensor | None,
    shape: tuple[int, int],
    rest: list[Tensor],
) -> Tensor:
    """Logits `[P, N]`, the head's bias apart.

    Args:
        buffers: Kept from step to step.
        user: For each positive, the product of its user's factors with the head's weights on them, `[P, G]`, and the
            user's share of the first layer, `[P, H]`.
        item: Items' factors `[I, G]` and share of the first layer `[I, H]`.
        index_PN: Which of the I rows each pair has; None: a row for each pair, in order.
        shape: P and N.
        rest: The head's weights on the last layer (empty for none), and weight and bias of each layer but the first.
    """
    scores_PN: Tensor = _ScorePairs.apply(buffers, index_PN, shape, user[0], item[0], user[1], item[1], *rest)  # type: ignore[no-untyped-call]
    return scores_PN


def _like(flat: Tensor, other: Tensor) -> Tensor:
    return flat[: other.numel()].view(other.shape)


def _pick(table: Tensor, index_PN: Tensor | None, out: Tensor) -> None:
    if index_PN is None:
        out.copy_(table.view_as(out))
    else:
        torch.index_select(table, 0, index_PN.view(-1), out=out)


def _gather_up(gradient_RD: Tensor, index_PN: Tensor | None, rows: int) -> Tensor:
    """The sum of the gradients of each row of the items' sides."""
    if index_PN is None:
        return gradient_RD.clone()  # the buffer is lent again before autograd is done with it
    return torch.zeros(rows, gradient_RD.shape[1]).index_add_(0, index_PN.view(-1), gradient_RD)
