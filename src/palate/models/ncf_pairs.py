"""score_pairs: the ranking logits of a training batch, forward and backward by hand.

The numbers are those of `weigh(head, towers.features(...))` (a test compares values and gradients). Training spends
most of its time here. Autograd would allocate each hidden layer and each gradient anew at every step, and on large
batches the operating system then spends longer on handing out memory than the processor on arithmetic; on small ones
its graph of slices and sums costs more than they do. Here buffers, kept from step to step, hold the pairs' layers, what
can be done in place is, and each gradient is written where it belongs.

Legend: P positives, N items of each (the positive and its negatives), R = P * N pairs, G width of GMF, M width of the
MLP's embeddings, D = G + M, H width of a hidden layer, I rows of the item table.
"""

from __future__ import annotations

from itertools import pairwise
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
    """See `score_pairs`; `layers` is weight and bias of each layer."""

    @staticmethod
    def forward(
        ctx: Any,
        buffers: Buffers,
        index_PN: Tensor | None,
        shape: tuple[int, int],
        user_PD: Tensor,
        item_ID: Tensor,
        head_1W: Tensor,
        bias_1: Tensor,
        *layers: Tensor,
    ) -> Tensor:
        n_pairs, weights, biases = shape[0] * shape[1], layers[::2], layers[1::2]
        widths = [len(weight) for weight in weights]
        gmf, mlp = head_1W.shape[1] - sum(widths[-1:]), layers[0].shape[1] // 2 if layers else 0
        lent = buffers.take([n_pairs * width for width in (gmf, gmf, *widths, *widths)])
        product, temporary, *hidden = (
            each[: n_pairs * width].view(n_pairs, width) for each, width in zip(lent, (gmf, gmf, *widths), strict=False)
        )
        scores_PN = bias_1.expand(shape).contiguous()
        if gmf:
            _pick(item_ID[:, :gmf], index_PN, product)
            user_PG = user_PD[:, :gmf] * head_1W[0, :gmf]
            torch.mul(product.view(*shape, -1), user_PG.unsqueeze(1), out=temporary.view(*shape, -1))
            scores_PN += temporary.view(*shape, -1).sum(-1)
        if mlp:
            _pick(item_ID[:, gmf:] @ weights[0][:, mlp:].T, index_PN, hidden[0])
            user_PH = torch.addmm(biases[0], user_PD[:, gmf:], weights[0][:, :mlp].T)
            hidden[0].view(*shape, -1).add_(user_PH.unsqueeze(1)).relu_()
            for depth, (below, here) in enumerate(pairwise(hidden), 1):
                torch.addmm(biases[depth], below, weights[depth].T, out=here).relu_()
            scores_PN.view(-1).addmv_(hidden[-1], head_1W[0, gmf:])
        ctx.buffers, ctx.lent, ctx.shape, ctx.index = buffers, lent, shape, index_PN
        ctx.product, ctx.temporary, ctx.hidden, ctx.gmf, ctx.mlp = product, temporary, hidden, gmf, mlp
        ctx.save_for_backward(user_PD, item_ID, head_1W, *weights)
        return scores_PN

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_PN: Tensor) -> tuple[Any, ...]:
        user_PD, item_ID, head_1W, *weights = ctx.saved_tensors
        gradient_PN = gradient_PN.contiguous()
        to_user, to_item, to_head = (torch.empty_like(each) for each in (user_PD, item_ID, head_1W))
        if ctx.gmf:
            _product_backward(ctx, gradient_PN, user_PD, head_1W, (to_user, to_item, to_head))
        to_layers: list[Tensor] = []
        if ctx.mlp:
            spare = ctx.lent[2 + len(ctx.hidden) :]
            below, to_layers = _hidden_backward(ctx, gradient_PN, head_1W, weights, spare)
            torch.mv(ctx.hidden[-1].T, gradient_PN.view(-1), out=to_head[0, ctx.gmf :])
            user_PH = below.view(*ctx.shape, -1).sum(1)
            item_IH = _gather_up(below, ctx.index, len(item_ID))
            to_first = torch.empty_like(weights[0])
            for half, table, to_table, gradient in (
                (slice(None, ctx.mlp), user_PD, to_user, user_PH),
                (slice(ctx.mlp, None), item_ID, to_item, item_IH),
            ):
                torch.mm(gradient, weights[0][:, half], out=to_table[:, ctx.gmf :])
                torch.mm(gradient.T, table[:, ctx.gmf :], out=to_first[:, half])
            to_layers = [to_first, user_PH.sum(0), *to_layers]
        ctx.buffers.give(ctx.lent)
        return None, None, None, to_user, to_item, to_head, gradient_PN.sum().view(1), *to_layers


def score_pairs(
    buffers: Buffers,
    user_PD: Tensor,
    item_ID: Tensor,
    index_PN: Tensor | None,
    shape: tuple[int, int],
    head: tuple[Tensor, Tensor],
    layers: list[Tensor],
) -> Tensor:
    """Logits `[P, N]`.

    Args:
        buffers: Kept from step to step.
        user_PD: The users' rows `[p; u]`, one for each positive.
        item_ID: Items' rows `[q; v]`.
        index_PN: Which of the I rows each pair has; None: a row for each pair, in order.
        shape: P and N.
        head: The head's weight `[1, G + H]` and bias `[1]`.
        layers: Weight and bias of each hidden layer; empty for none.
    """
    scores_PN: Tensor = _ScorePairs.apply(buffers, index_PN, shape, user_PD, item_ID, *head, *layers)  # type: ignore[no-untyped-call]
    return scores_PN


def _product_backward(
    ctx: Any, gradient_PN: Tensor, user_PD: Tensor, head_1W: Tensor, into: tuple[Tensor, Tensor, Tensor]
) -> None:
    """GMF's columns of the gradients of users, items and head."""
    to_user, to_item, to_head = into
    head_G, user_PG = head_1W[0, : ctx.gmf], user_PD[:, : ctx.gmf]
    product_PNG, temporary_PNG = (each.view(*ctx.shape, -1) for each in (ctx.product, ctx.temporary))
    gradient_PN1 = gradient_PN.unsqueeze(-1)
    weighed_PG = torch.mul(product_PNG, gradient_PN1, out=temporary_PNG).sum(1)
    torch.mul(weighed_PG, head_G, out=to_user[:, : ctx.gmf])
    torch.sum(weighed_PG.mul_(user_PG), 0, out=to_head[0, : ctx.gmf])
    torch.mul(gradient_PN1, (user_PG * head_G).unsqueeze(1), out=product_PNG)
    to_item[:, : ctx.gmf] = _gather_up(ctx.product, ctx.index, len(to_item))


def _hidden_backward(
    ctx: Any, gradient_PN: Tensor, head_1W: Tensor, weights: list[Tensor], lent: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """The gradient of the first layer before its relu `[R, H]`, and those of the other layers' weights and biases."""
    hidden = ctx.hidden
    found: list[Tensor] = []
    spare = [each[: h.numel()].view(h.shape) for each, h in zip(lent, hidden, strict=True)]
    torch.mul(gradient_PN.view(-1, 1), head_1W[0, ctx.gmf :], out=spare[-1])
    for depth in range(len(hidden) - 1, -1, -1):
        here = _mask(spare[depth], hidden[depth], 0.0, grad_input=spare[depth])
        if depth:
            found = [here.T @ hidden[depth - 1], here.sum(0), *found]
            torch.mm(here, weights[depth], out=spare[depth - 1])
    return spare[0], found


def _pick(table: Tensor, index_PN: Tensor | None, out: Tensor) -> None:
    if index_PN is None:
        out.copy_(table)
    else:
        torch.index_select(table, 0, index_PN.view(-1), out=out)


def _gather_up(gradient_RD: Tensor, index_PN: Tensor | None, rows: int) -> Tensor:
    """The sum of the gradients of each row of the item table."""
    if index_PN is None:
        return gradient_RD
    return torch.zeros(rows, gradient_RD.shape[1]).index_add_(0, index_PN.view(-1), gradient_RD)
