"""Losses of the next event, computed in blocks of events that stay in the processor's cache.

softmax          -log softmax(s)_t, over all N items
sampled-softmax  -log (e^{s_t} / (e^{s_t} + (N - 1) / K sum_k e^{s_k})), over the target t and K shared negatives k
gbce             -beta log sigma(s_t) - sum_k log(1 - sigma(s_k)),  beta = a (c (1 - 1 / a) + 1 / a),  a = K / (N - 1)

s = H V^T are the scores, H the hidden states `[T, D]`, V the items' vectors. The K negatives are drawn without
replacement, uniformly, and are the same for all events of a step; one that is an event's own target does not count for
it. The factor (N - 1) / K makes the sampled sum an estimate of the sum over all other items (Bengio and Senecal 2008),
so that the loss estimates the full softmax. gbce with calibration c: Petrov and Macdonald 2023, "gSASRec"; c = 0 is
binary cross-entropy, c = 1 removes all of its overconfidence.

Loss and gradients are closed forms of a block of scores, so each block is made once, in forward, and thrown away: no
matrix of T times N scores is ever kept, and backward costs nothing more.

Legend: T events, C candidates (all items, or K negatives), D width, b events of a block.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

LossName = Literal["softmax", "sampled-softmax", "gbce"]
SCORES_PER_BLOCK, LEAST_EVENTS = 2**18, 64
"""Scores made at once, 1 MB; but at least those of so many events, as every block reads all candidates' vectors."""


def next_event_loss(
    kind: LossName,
    hidden_TD: Tensor,
    candidate_CD: Tensor,
    target_T: Tensor,
    weight_T: Tensor | None = None,
    *,
    positive_TD: Tensor | None = None,
    negative_C: Tensor | None = None,
    n_items: int = 0,
    calibration: float = 0.0,
) -> Tensor:
    """The mean loss of T events, a scalar.

    Args:
        kind: A loss of the module's table.
        hidden_TD: H at the events before the targets.
        candidate_CD: Vectors of all items (softmax) or of the negatives.
        target_T: The target of each event, int64: its row in `candidate_CD` (softmax), else its item.
        weight_T: A factor for each event's loss. Defaults to 1.
        positive_TD: Vectors of the targets (sampled losses).
        negative_C: The negatives' items, ascending (sampled losses).
        n_items: N (sampled losses).
        calibration: c (gbce).
    """
    if weight_T is None:
        weight_T = torch.ones(len(target_T), device=target_T.device)
    weight_T = weight_T.to(hidden_TD.dtype) / max(len(target_T), 1)
    constant, hit_T = 0.0, None
    if positive_TD is None or negative_C is None:
        positive_TD = hidden_TD.new_zeros(0, hidden_TD.shape[1])
    else:
        place_T = torch.searchsorted(negative_C, target_T).clamp(max=len(negative_C) - 1)
        hit_T = torch.where(negative_C[place_T] == target_T, place_T, -1)
        share = min(len(negative_C) / max(n_items - 1, 1), 1.0)
        constant = -math.log(share) if kind == "sampled-softmax" else beta(share, calibration)
    loss: Tensor = _InBlocks.apply(  # type: ignore[no-untyped-call]
        kind, hidden_TD, candidate_CD, positive_TD, target_T if hit_T is None else hit_T, weight_T, constant
    )
    return loss


def beta(share: float, calibration: float) -> float:
    """The exponent of the positive's probability under gbce.

    Args:
        share: K / (N - 1), the sampling rate.
        calibration: c.
    """
    return share * (calibration * (1 - 1 / share) + 1 / share)


class _InBlocks(torch.autograd.Function):
    """The weighted sum of the losses; the gradients are made in forward."""

    @staticmethod
    def forward(
        ctx: Any, kind: LossName, hidden_TD: Tensor, candidate_CD: Tensor, positive_TD: Tensor, place_T: Tensor,
        weight_T: Tensor, constant: float,
    ) -> Tensor:  # fmt: skip
        wanted = any(ctx.needs_input_grad)
        grads = [torch.empty_like(hidden_TD), torch.zeros_like(candidate_CD), torch.empty_like(positive_TD)]
        total = hidden_TD.new_zeros(())
        size = max(LEAST_EVENTS, SCORES_PER_BLOCK // max(len(candidate_CD), 1))
        for start in range(0, len(hidden_TD), size):
            block = slice(start, start + size)
            hidden_bD, place_b, weight_b1 = hidden_TD[block], place_T[block], weight_T[block].unsqueeze(1)
            score_bC = hidden_bD @ candidate_CD.T
            if kind == "softmax":
                total += _softmax_(score_bC, place_b, weight_b1)
            else:
                positive_bD = positive_TD[block]
                score_b1 = (hidden_bD * positive_bD).sum(1, keepdim=True)
                hit_b = (place_b >= 0).nonzero().squeeze(1)
                score_bC[hit_b, place_b[hit_b]] = -torch.inf
                closed = _sampled_softmax_ if kind == "sampled-softmax" else _gbce_
                loss, slope_b1 = closed(score_bC, score_b1, weight_b1, constant)
                total += loss
            if wanted:
                torch.mm(score_bC, candidate_CD, out=grads[0][block])
                grads[1].addmm_(score_bC.T, hidden_bD)
                if kind != "softmax":
                    grads[0][block] += slope_b1 * positive_bD
                    torch.mul(slope_b1, hidden_bD, out=grads[2][block])
        ctx.grads = grads if wanted else None
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        (hidden_TD, candidate_CD, positive_TD), ctx.grads = ctx.grads, None
        of_positive = positive_TD.mul_(gradient) if len(positive_TD) else None
        return None, hidden_TD.mul_(gradient), candidate_CD.mul_(gradient), of_positive, None, None, None


def _softmax_(score_bC: Tensor, target_b: Tensor, weight_b1: Tensor) -> Tensor:
    """The block's loss; the scores become their gradients, `w (softmax(s) - onehot)`."""
    row_b = torch.arange(len(target_b), device=target_b.device)
    score_bC.sub_(score_bC.amax(1, keepdim=True))
    own_b = score_bC[row_b, target_b]
    total_b1 = score_bC.exp_().sum(1, keepdim=True)
    loss = (weight_b1.squeeze(1) * (total_b1.squeeze(1).log() - own_b)).sum()
    score_bC.mul_(weight_b1 / total_b1)
    score_bC[row_b, target_b] -= weight_b1.squeeze(1)
    return loss


def _sampled_softmax_(
    score_bC: Tensor, positive_b1: Tensor, weight_b1: Tensor, log_factor: float
) -> tuple[Tensor, Tensor]:
    """The block's loss, and its gradients by the positives; the negatives' scores become theirs."""
    most_b1 = torch.maximum(score_bC.amax(1, keepdim=True) + log_factor, positive_b1)
    score_bC.sub_(most_b1 - log_factor).exp_()
    own_b1 = positive_b1 - most_b1
    total_b1 = score_bC.sum(1, keepdim=True) + own_b1.exp()
    loss = (weight_b1 * (total_b1.log() - own_b1)).sum()
    score_bC.mul_(weight_b1 / total_b1)
    return loss, weight_b1 * (own_b1.exp() / total_b1 - 1)


def _gbce_(score_bC: Tensor, positive_b1: Tensor, weight_b1: Tensor, power: float) -> tuple[Tensor, Tensor]:
    """As `_sampled_softmax_`."""
    loss_b1 = F.softplus(score_bC).sum(1, keepdim=True) + power * F.softplus(-positive_b1)
    score_bC.sigmoid_().mul_(weight_b1)
    return (weight_b1 * loss_b1).sum(), -power * weight_b1 * torch.sigmoid(-positive_b1)
