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

Legend: B queries, N pairs of each (L items of the longest history, then S sampled items), R = B * N, K heads; widths:
D user row, G GMF, M the MLP's half of a row, H hidden.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from palate.data.dataset import Queries
from palate.data.ragged import Ragged
from palate.models.ncf.layers import Net, Towers

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
    rows_BD: Tensor = center_D.new_empty(len(queries), len(center_D))
    sampled = 0 if net.rank is None else min(SAMPLED_ITEMS, net.towers.item.num_embeddings)
    for block in _blocks(queries.history.lengths, sampled):
        some = queries.take(block) if len(block) < len(queries) else queries
        objective = HistoryLoss(net, some, center_D, quarter, negatives)
        rows_BD[block] = center_D + spread_D * _most_probable(objective, center_D, spread_D)
    return rows_BD


def _blocks(lengths_B: Tensor, sampled: int) -> Iterator[Tensor]:
    """Queries with histories of similar length, so that padding wastes little; all of them in order if one block."""
    pairs = sorted(length + sampled for length in lengths_B.tolist())
    if not pairs or len(pairs) * pairs[-1] <= PAIRS_PER_BLOCK:
        yield torch.arange(len(pairs), device=lengths_B.device)
        return
    order, start = torch.argsort(lengths_B, stable=True), 0
    for stop in range(1, len(pairs) + 1):
        if stop == len(pairs) or pairs[stop] * (stop + 1 - start) > PAIRS_PER_BLOCK:
            yield order[start:stop]
            start = stop


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
        history, towers, lengths_B = queries.history, net.towers, queries.history.lengths
        longest = int(lengths_B.max())
        item_BN = history.padded(longest, 0)
        self._chosen_BN = (torch.arange(longest, device=item_BN.device) < lengths_B.unsqueeze(1)).float()
        self.count_B1 = lengths_B.clamp(min=1).float().unsqueeze(1)
        if net.rank is not None:
            n_items, chance = towers.item.num_embeddings, torch.Generator().manual_seed(0)
            item_S = torch.unique(torch.randint(n_items, (SAMPLED_ITEMS,), generator=chance)).to(item_BN.device)
            pair_BS = torch.arange(len(item_BN), device=item_S.device).unsqueeze(1) * n_items + item_S
            unseen_BS = torch.isin(pair_BS, history.row_of_value * n_items + history.values, invert=True)
            share_B = negatives * lengths_B / unseen_BS.sum(1).clamp(min=1)
            self._weight_BN = torch.cat([self._chosen_BN, share_B.unsqueeze(1) * unseen_BS], 1)
            item_BN = torch.cat([item_BN, item_S.expand(len(item_BN), -1)], 1)
            self._chosen_BN = F.pad(self._chosen_BN, (0, len(item_S)))
            self.count_B1 = self.count_B1 * (1 + negatives)
        self._rank, self._rating = net.rank, net.rating if net.rank is None or queries.ratings is not None else None
        self._take_weights(towers)
        item = towers.inputs("item", towers.item(item_BN.view(-1)))
        self._factors_BNG, self._first_RH = item.factors.view(*item_BN.shape, towers.gmf), item.hidden
        widths = [layer.out_features for layer in towers.linears]
        self._hidden = [item.hidden.new_empty(item_BN.numel(), width) for width in widths]
        self._slope = [torch.empty_like(layer) for layer in self._hidden]
        if self._rating is not None:
            self._precision_BN = self._chosen_BN / quarter**2
            # The prediction with no user at all, less the rating.
            self._offset_BN = self._rating.mean + self._rating.item_bias(item_BN).squeeze(2)
            if queries.ratings is None:
                average_BD = average_D.expand(len(queries), -1)
                self._offset_BN = -self._outputs(average_BD)[..., -1] - average_BD[:, -1:] - quarter
            else:
                self._offset_BN[:, :longest] -= Ragged(queries.ratings, history.offsets).padded(longest, 0)

    def _take_weights(self, towers: Towers) -> None:
        """The weights in the shapes that `gradient` reads; K heads, that of the rating last."""
        heads = [*([self._rank] if self._rank is not None else []), *([self._rating.linear] if self._rating else [])]
        self._head_GK, self._head_HK = torch.split(
            torch.cat([head.weight for head in heads]).T.contiguous(), [towers.gmf, towers.width - towers.gmf]
        )
        self._bias_K = torch.cat([head.bias for head in heads])
        self._gmf, self._both = towers.gmf, towers.gmf + towers.mlp
        self._first_HM = towers.linears[0].weight[:, : towers.mlp] if towers.mlp else None
        self._layers = [(layer.weight, layer.bias) for layer in towers.linears[1:]]

    def gradient(self, rows_BD: Tensor) -> Tensor:
        """The gradient with respect to the users' rows, `[B, D]`."""
        error_BNK, parts = self._outputs(rows_BD), list[Tensor]()
        if self._rank is not None:
            error_BNK[..., 0].sigmoid_().mul_(self._weight_BN).sub_(self._chosen_BN)
        if self._rating is not None:
            error_BNK[..., -1].add_(self._offset_BN).add_(rows_BD[:, -1:]).mul_(self._precision_BN)
        if self._gmf:
            parts.append(((self._factors_BNG.mT @ error_BNK) * self._head_GK).sum(2))
        if self._first_HM is not None:
            parts.append(self._hidden_gradient(error_BNK) @ self._first_HM)
        bias_B1 = rows_BD[:, self._both :]
        parts.append(torch.zeros_like(bias_B1) if self._rating is None else error_BNK[..., -1].sum(1, keepdim=True))
        return torch.cat(parts, 1)

    def _outputs(self, rows_BD: Tensor) -> Tensor:
        """The heads' outputs for all pairs, `[B, N, K]`; the hidden layers are then in `_hidden`."""
        n_users, n_pairs, _ = self._factors_BNG.shape
        shape = n_users, n_pairs, len(self._bias_K)
        if self._first_HM is not None:
            user_B1H = (rows_BD[:, self._gmf : self._both] @ self._first_HM.T).unsqueeze(1)
            first_BNH, item_BNH = (each.view(n_users, n_pairs, -1) for each in (self._hidden[0], self._first_RH))
            torch.add(item_BNH, user_B1H, out=first_BNH).relu_()
            for (weight, bias), below, here in zip(self._layers, self._hidden, self._hidden[1:], strict=False):
                torch.addmm(bias, below, weight.T, out=here).relu_()
            output_BNK = torch.addmm(self._bias_K, self._hidden[-1], self._head_HK).view(shape)
        else:
            output_BNK = self._bias_K.expand(shape).clone()
        if self._gmf:
            output_BNK.baddbmm_(self._factors_BNG, rows_BD[:, : self._gmf].unsqueeze(2) * self._head_GK)
        return output_BNK

    def _hidden_gradient(self, error_BNK: Tensor) -> Tensor:
        """The gradient with respect to the users' summands of the first layer, `[B, H]`; overwrites `_hidden`."""
        n_users, n_pairs, n_heads = error_BNK.shape
        torch.mm(error_BNK.view(-1, n_heads), self._head_HK.T, out=self._slope[-1])
        # A layer's sign is the slope of its relu, 0 or 1.
        for depth in range(len(self._layers), 0, -1):
            here_RH = self._slope[depth].mul_(self._hidden[depth].sign_())
            torch.mm(here_RH, self._layers[depth - 1][0], out=self._slope[depth - 1])
        return self._slope[0].mul_(self._hidden[0].sign_()).view(n_users, n_pairs, -1).sum(1)
