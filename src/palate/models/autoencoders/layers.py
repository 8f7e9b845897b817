"""What the autoencoders of interactions share: the input layer, the latent sample and the multinomial likelihood.

Legend: B users, N items, T target items of all users, D width, Z latent width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from palate.data.ragged import Ragged
from palate.models.layers import distinct_history, sum_rows
from palate.training.batches import Histories
from palate.training.loop import Loss


class HistoryLayer(nn.Module):
    """A dense layer on L2-normalised multi-hot histories, computed on their items only: `W dropout(x / |x|) + b`.

    Args:
        n_items: N.
        dim: Width of the output.
    """

    def __init__(self, n_items: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_items, dim))
        self.bias = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights."""
        xavier(self)

    def forward(self, history: Ragged, dropout: float = 0.0) -> Tensor:
        """The layer's output.

        Args:
            history: Item indices, B rows. A repeated item counts once.
            dropout: Share of the items dropped at random; the others are scaled up.

        Returns:
            float32 `[B, D]`.
        """
        history = distinct_history(history)
        value = history.lengths.clamp(min=1).rsqrt()[history.row_of_value]
        return sum_rows(self.weight, history, value, dropout) + self.bias


def xavier(layer: HistoryLayer | nn.Linear) -> None:
    """Draw Xavier weights (Glorot and Bengio 2010) and near-zero biases, as the authors of Mult-VAE do."""
    nn.init.xavier_uniform_(layer.weight)
    nn.init.normal_(layer.bias, std=0.001)


def sample_latent(mean_BZ: Tensor, log_var_BZ: Tensor) -> Tensor:
    """A sample of N(mean, var) that gradients flow through, `[B, Z]`; the noise is torch's."""
    return mean_BZ + torch.randn_like(mean_BZ) * torch.exp(0.5 * log_var_BZ)


def total_weight(target: Ragged, weight_T: Tensor | None) -> Tensor:
    """Sum of each row's sample weights, float32 `[B]`; the number of its items if there are no weights."""
    if weight_T is None:
        return target.lengths.float()
    return weight_T.new_zeros(len(target)).index_add(0, target.row_of_value, weight_T)


def multinomial_loss(scores_BN: Tensor, batch: Histories, penalty_B: Tensor | None = None) -> Loss:
    """The loss of a multinomial likelihood.

    Args:
        scores_BN: Scores of all items for each user of the batch.
        batch: Its `target` items are scored; `target_weight` multiplies their log-likelihoods. On a validation part the
            items of the history take no probability, as they would not be recommended.
        penalty_B: What is minimised beside the likelihood (a KL term), for each user. Defaults to nothing.

    Returns:
        Minimised: the sum over a user's target items, plus the penalty; mean over users. Shown: the negative
        log-likelihood per target item.
    """
    if batch.target is not batch.history:
        scores_BN = _without_history(scores_BN, batch)
    nll_B = multinomial_nll(scores_BN, batch.target, batch.target_weight)
    items = total_weight(batch.target, batch.target_weight).sum().clamp(min=torch.finfo(nll_B.dtype).tiny)
    objective_B = nll_B if penalty_B is None else nll_B + penalty_B
    return Loss(objective_B.mean(), nll_B.detach().sum() / items, shown_over=items)


def _without_history(scores_BN: Tensor, batch: Histories) -> Tensor:
    """The scores with -inf for items of the history that are not targets."""
    history, target = batch.history, batch.target
    seen_BN = torch.zeros_like(scores_BN, dtype=torch.bool)
    seen_BN[history.row_of_value, history.values] = True
    seen_BN[target.row_of_value, target.values] = False
    return scores_BN.masked_fill(seen_BN, -torch.inf)


def multinomial_nll(scores_BN: Tensor, target: Ragged, weight_T: Tensor | None = None) -> Tensor:
    """`-sum_{i in target} w_i log softmax(score)_i` for each row.

    Args:
        scores_BN: Scores of all items.
        target: Item indices, B rows.
        weight_T: w, aligned with `target.values`. Defaults to 1.

    Returns:
        float32 `[B]`.
    """
    row_T = target.row_of_value
    place_T = row_T * scores_BN.shape[1] + target.values
    weight_T = scores_BN.new_ones(len(place_T)) if weight_T is None else weight_T
    nll_B: Tensor = _MultinomialNLL.apply(scores_BN, place_T, row_T, weight_T)  # type: ignore[no-untyped-call]
    return nll_B


class _MultinomialNLL(torch.autograd.Function):
    """`multinomial_nll` with a gradient that takes no memory of its own.

    The gradient with respect to the scores is `(sum_i w_i) softmax(score) - sum_i w_i onehot_i`. It overwrites the
    matrix of log probabilities that the forward pass keeps; autograd alone would fill two more `[B, N]` matrices.
    """

    @staticmethod
    def forward(ctx: Any, scores_BN: Tensor, place_T: Tensor, row_T: Tensor, weight_T: Tensor) -> Tensor:
        log_softmax_BN = torch.log_softmax(scores_BN, dim=1)
        ctx.for_backward = log_softmax_BN, place_T, row_T, weight_T
        zero_B = scores_BN.new_zeros(len(scores_BN))
        return zero_B.index_add(0, row_T, log_softmax_BN.view(-1)[place_T] * -weight_T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_B: Tensor) -> tuple[Tensor, None, None, None]:
        (log_softmax_BN, place_T, row_T, weight_T), ctx.for_backward = ctx.for_backward, None
        total_B = torch.zeros_like(gradient_B).index_add_(0, row_T, weight_T)
        gradient_BN = log_softmax_BN.exp_().mul_((gradient_B * total_B).unsqueeze(1))
        gradient_BN.view(-1).index_add_(0, place_T, -gradient_B[row_T] * weight_T)
        return gradient_BN, None, None, None
