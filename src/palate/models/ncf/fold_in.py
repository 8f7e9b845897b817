"""Fold-in: a row for a user the model has never seen, from that user's history.

The row is e = c + s * z, with c and s the mean and standard deviation of the known users' rows, column by column. z
starts at 0, the average user. A fixed number of gradient steps, with all weights frozen, moves z towards the most
probable value, which minimises

sum_h -log sigma(s_h) + (K n / M) sum_m -log(1 - sigma(s_m)) + sum_h ((r_h - rating_h) / q)^2 / 2 + |z|^2 / 2

over the n history items h and the M sampled items m that are not in the history. All users get the same sampled items,
so that an answer depends neither on chance nor on the other queries. q, a quarter of the rating scale, is the assumed
spread of ratings around their prediction. Without a rating head, or without ratings in the history, the third term is
left out. Without a ranking head the first two are left out, and an event without a rating counts as a rating one q
above the average user's prediction.

A step costs one pass forward and one back through the layers of all pairs of a user and an item. The backward pass is
written by hand and computes only the gradient of the users' rows. The steps are those of Adam, with a shorter memory
and a larger rate. Newton's method takes fewer steps, but through hidden layers its rows rank held-out items worse.

Legend: B queries, N pairs of each (those with the longest history's items, then S sampled ones), K heads; widths: D
user row, G GMF, H hidden.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from palate.data.dataset import Queries
from palate.data.ragged import Ragged
from palate.models.mf.normal_equations import blocks_of_similar_length
from palate.models.ncf.layers import Net

ADAM_STEPS, LEARNING_RATE, MEAN_DECAY, SQUARE_DECAY = 15, 0.7, 0.75, 0.9
SAMPLED_ITEMS = 256
"""Items that stand for all items a user has not chosen."""
PAIRS_PER_BLOCK = 2**13
"""Pairs scored at once: their layers fit into the processor's cache."""


@torch.no_grad()
def fold_in(net: Net, queries: Queries, prior_2D: Tensor, scale: tuple[float, float] | None, negatives: int) -> Tensor:
    """Rows for queries with a history, `[B, D]`, as `Net.user_rows` gives them for known users.

    Args:
        net: A trained net, in eval mode.
        queries: Their users are ignored.
        prior_2D: `Net.user_prior`.
        scale: Lowest and highest rating, if there are ratings.
        negatives: K of the formula.
    """
    quarter = 1.0 if scale is None or scale[0] == scale[1] else (scale[1] - scale[0]) / 4
    center_D, spread_D = prior_2D
    rows_BD: Tensor = center_D.repeat(len(queries), 1)
    sampled = min(SAMPLED_ITEMS, net.item.num_embeddings) if net.ranks else 0
    lengths_B = queries.history.lengths + sampled
    for block in blocks_of_similar_length(lengths_B, PAIRS_PER_BLOCK, PAIRS_PER_BLOCK):
        objective = HistoryLoss(net, queries.take(block), center_D, quarter, negatives)
        rows_BD[block] += spread_D * _most_probable(objective, center_D, spread_D)
    return rows_BD


def _most_probable(objective: HistoryLoss, center_D: Tensor, spread_D: Tensor) -> Tensor:
    """z, `[B, D]`."""
    z_BD = center_D.new_zeros(len(objective.count_B1), len(center_D))
    mean_BD, square_BD = torch.zeros_like(z_BD), torch.zeros_like(z_BD)
    for step in range(1, ADAM_STEPS + 1):
        slope_BD = objective.gradient(torch.addcmul(center_D, spread_D, z_BD))
        gradient_BD = torch.addcmul(z_BD, spread_D, slope_BD).div_(objective.count_B1)
        # Adam's rule, with an epsilon far above rounding: the order of sums must not decide the direction of a step.
        mean_BD.lerp_(gradient_BD, 1 - MEAN_DECAY)
        square_BD.lerp_(gradient_BD.square_(), 1 - SQUARE_DECAY)
        size_BD = (square_BD / (1 - SQUARE_DECAY**step)).sqrt_().add_(1e-2)
        rate = LEARNING_RATE * (1 - step / (ADAM_STEPS + 1)) ** 0.8 / (1 - MEAN_DECAY**step)
        z_BD.addcdiv_(mean_BD, size_BD, value=-rate)
    return z_BD


class HistoryLoss:
    """The first three terms of the formula for a block of histories; `count_B1` is the number of pairs of each user.

    A user's N pairs are those with the items of the history, padded to the longest one, and then those with the
    sampled items. Weights are 0 for padding and for sampled items that are in the history.
    """

    def __init__(self, net: Net, queries: Queries, average_D: Tensor, quarter: float, negatives: int) -> None:
        history, lengths_B = queries.history, queries.history.lengths
        longest = int(lengths_B.max())
        item_BN = history.padded(longest, 0)
        self._chosen_BN = (torch.arange(longest, device=item_BN.device) < lengths_B.unsqueeze(1)).float()
        self.count_B1 = lengths_B.clamp(min=1).float().unsqueeze(1)
        if net.ranks:
            n_items, chance = net.item.num_embeddings, torch.Generator().manual_seed(0)
            item_S = torch.unique(torch.randint(n_items, (SAMPLED_ITEMS,), generator=chance)).to(item_BN.device)
            pair_BS = torch.arange(len(item_BN), device=item_S.device).unsqueeze(1) * n_items + item_S
            unseen_BS = torch.isin(pair_BS, history.row_of_value * n_items + history.values, invert=True)
            share_B = negatives * lengths_B / unseen_BS.sum(1).clamp(min=1)
            self._weight_BN = torch.cat([self._chosen_BN, share_B.unsqueeze(1) * unseen_BS], 1)
            item_BN = torch.cat([item_BN, item_S.expand(len(item_BN), -1)], 1)
            self._chosen_BN = F.pad(self._chosen_BN, (0, len(item_S)))
            self.count_B1 = self.count_B1 * (1 + negatives)
        self._net = net
        head_WK = net.head.weight.T.contiguous()
        self._head_GK, self._head_HK = head_WK[: net.gmf], head_WK[net.gmf :]
        self._first_HM = net.linears[0].weight[:, : net.mlp] if net.mlp else None
        item = net.inputs("item", net.item(item_BN))
        self._factors_BNG, self._first_BNH = item
        self._rates = net.rates and (not net.ranks or queries.ratings is not None)
        if self._rates and net.item_bias is not None:
            self._precision_BN = self._chosen_BN / quarter**2
            # The prediction with no user at all, less the rating.
            self._offset_BN = net.mean + net.item_bias(item_BN).squeeze(2)
            if queries.ratings is None:
                output_BNK, _ = self._outputs(average_D.expand(len(queries), -1))
                self._offset_BN = -output_BNK[..., -1] - average_D[-1] - quarter
            else:
                self._offset_BN[:, :longest] -= Ragged(queries.ratings, history.offsets).padded(longest, 0)

    def gradient(self, rows_BD: Tensor) -> Tensor:
        """The gradient with respect to the users' rows, `[B, D]`."""
        net, (error_BNK, hidden) = self._net, self._outputs(rows_BD)
        if net.ranks:
            error_BNK[..., 0].sigmoid_().mul_(self._weight_BN).sub_(self._chosen_BN)
        if self._rates:
            error_BNK[..., -1].add_(self._offset_BN).add_(rows_BD[:, -1:]).mul_(self._precision_BN)
        elif net.rates:
            error_BNK[..., -1] = 0
        parts = [((self._factors_BNG.mT @ error_BNK) * self._head_GK).sum(2)]
        if self._first_HM is not None:
            slope_BNH = error_BNK @ self._head_HK.T
            for layer, here_BNH in zip(net.linears[:0:-1], hidden[:0:-1], strict=True):
                slope_BNH = slope_BNH.mul_(here_BNH.sign_()) @ layer.weight
            parts.append(slope_BNH.mul_(hidden[0].sign_()).sum(1) @ self._first_HM)
        if net.rates:
            parts.append(error_BNK[..., -1].sum(1, keepdim=True))
        return torch.cat(parts, 1)

    def _outputs(self, rows_BD: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The heads' outputs for all pairs, `[B, N, K]`, and the hidden layers."""
        net, factors_BG1 = self._net, rows_BD[:, : self._net.gmf].unsqueeze(2)
        output_BNK = torch.baddbmm(net.head.bias, self._factors_BNG, factors_BG1 * self._head_GK)
        if self._first_HM is None:
            return output_BNK, []
        user_BH = rows_BD[:, net.gmf : net.gmf + net.mlp] @ self._first_HM.T
        hidden = [(self._first_BNH + user_BH.unsqueeze(1)).relu_()]
        for layer in net.linears[1:]:
            hidden.append(layer(hidden[-1]).relu_())
        return output_BNK.add_(hidden[-1] @ self._head_HK), hidden
