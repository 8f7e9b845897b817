"""Fold-in: a person the model has never seen, known by a history alone, gets a row of their own.

The row is e = c + s * z with c and s the mean and standard deviation of the known users' rows, column by column, and z
starts at 0: the average user. A fixed number of gradient steps, everything else frozen, move z towards the most
probable one, which minimises

sum_h -log sigma(s_h) + (K n / M) sum_m -log(1 - sigma(s_m)) + sum_h ((r_h - rating_h) / q)^2 / 2 + |z|^2 / 2

over the n history items h and M sampled items m that are not among them. The same items are sampled for everybody, so
that an answer depends neither on chance nor on who else is asked about. q, a quarter of the rating scale, stands for
the spread of ratings about their prediction. A model without a rating head, or a history without ratings, leaves the
third term out. A model without a ranking head leaves the first two out, and takes an event without a rating as one q
above what the average user would give.

Gradients are worked out by hand, as in `palate.models.ncf_pairs` (a test compares them with autograd's): an explanation
folds in hundreds of histories for one page.

Legend: B queries, H history items of all of them, S sampled items, T = H + B * S pairs, those of the histories first, D
width of a person's row, G width of GMF, X of a hidden layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from palate.data.dataset import Queries
from palate.models.ncf_layers import Net

STEPS = 30
LR = 0.3
SAMPLED = 256
"""Items that stand for all a person has not chosen."""
USERS = 10_000
"""Known users, evenly spaced, whose rows give the mean and the standard deviation."""
BLOCK = 2**14
"""Pairs worked on at once: their layers stay in the processor's cache."""

_mask = torch.ops.aten.threshold_backward.grad_input


@torch.no_grad()
def fold_in(net: Net, queries: Queries, scale: tuple[float, float] | None) -> Tensor:
    """People for queries with a history, `[B, D]`, as `Net.people` gives them for known users.

    Args:
        net: A trained net, in eval mode.
        queries: Their users are ignored.
        scale: Lowest and highest rating, where there is a rating head.
    """
    n_users = net.towers.user.num_embeddings
    known = net.people(torch.arange(0, n_users, -(-n_users // USERS)))
    center_D, spread_D = known.mean(0), known.std(0, correction=0)
    quarter = 1.0 if scale is None or scale[0] == scale[1] else (scale[1] - scale[0]) / 4
    group = (queries.history.lengths + SAMPLED).cumsum(0) // BLOCK
    sizes = torch.unique_consecutive(group, return_counts=True)[1]
    found = []
    for place in torch.split(torch.arange(len(queries)), sizes.tolist()):
        pairs = _Pairs(net, queries.take(place), center_D, quarter)
        found.append(center_D + spread_D * _descend(pairs, center_D, spread_D))
    return torch.cat(found)


def _descend(pairs: _Pairs, center_D: Tensor, spread_D: Tensor) -> Tensor:
    """The most probable z, `[B, D]`."""
    z_BD = torch.zeros(len(pairs.count_B1), len(center_D))
    mean_BD, square_BD = torch.zeros_like(z_BD), torch.zeros_like(z_BD)
    for step in range(1, STEPS + 1):
        gradient_BD = (spread_D * pairs.slope(center_D + spread_D * z_BD) + z_BD) / pairs.count_B1
        # Adam's rule, with an epsilon far above rounding: the order of sums must not decide the direction of a step.
        mean_BD.lerp_(gradient_BD, 0.1)
        square_BD.lerp_(gradient_BD.square(), 0.05)
        size_BD = (square_BD / (1 - 0.95**step)).sqrt() + 1e-2
        z_BD -= LR * (1 - step / (STEPS + 1)) / (1 - 0.9**step) * mean_BD / size_BD
    return z_BD


class _Pairs:
    """All pairs of a block of queries with what is wanted of each: a list of the histories', a grid of the sampled."""

    def __init__(self, net: Net, queries: Queries, average_D: Tensor, quarter: float) -> None:
        history, n_items = queries.history, net.towers.item.num_embeddings
        self.net, self.quarter = net, quarter
        self.row_H, self.item_H = history.row_of_value, history.values
        self.count_B1 = history.lengths.clamp(min=1).float().unsqueeze(1)
        sampled_S, self.weight_BS = torch.zeros(0, dtype=torch.int64), torch.zeros(len(queries), 0)
        if net.rank is not None:
            generator = torch.Generator().manual_seed(0)
            sampled_S = torch.unique(torch.randint(n_items, (SAMPLED,), generator=generator))
            pair_BS = torch.arange(len(queries)).unsqueeze(1) * n_items + sampled_S
            fresh_BS = torch.isin(pair_BS, self.row_H * n_items + self.item_H, invert=True)
            share_B = net.negatives * history.lengths / fresh_BS.sum(1).clamp(min=1)
            self.weight_BS = share_B.unsqueeze(1) * fresh_BS
            self.count_B1 = self.count_B1 * (1 + net.negatives)
        self.chosen, self.sampled = (net.towers.item_side(net.towers.item(some)) for some in (self.item_H, sampled_S))
        pairs = len(self.item_H) + self.weight_BS.numel()
        self.layers: list[Any] = list(net.towers.layers)
        widths = [self.chosen.hidden.shape[1], *(layer.out_features for layer in self.layers[1:])]
        self.hidden, self.spare = ([torch.empty(pairs, width) for width in widths] for _ in range(2))
        self.rating_H = queries.ratings if net.rating is not None else None
        if net.rank is None and queries.ratings is None:
            average_BD = average_D.expand(len(queries), -1)
            self.rating_H = net.predict(average_BD, self.row_H, self.item_H) + quarter

    def slope(self, people_BD: Tensor) -> Tensor:
        """The gradient of the sum over the data by each person's row, `[B, D]`; a row is due to its own pairs alone."""
        net, user, n_chosen = self.net, self.net.sides(people_BD), len(self.item_H)
        self._climb(user.hidden)
        product_HG, last_TX = user.factors[self.row_H] * self.chosen.factors, self.hidden[-1]
        gmf, last = product_HG.shape[1], last_TX.shape[1]
        to_product_HG, to_factors_BG = torch.zeros_like(product_HG), torch.zeros_like(user.factors)
        to_last_TX, to_bias_B1 = self.spare[-1].zero_(), people_BD.new_zeros(len(people_BD), net.rating is not None)
        if net.rank is not None:
            head_G, head_X = torch.split(net.rank.weight[0], [gmf, last])
            score_T = last_TX @ head_X + net.rank.bias
            score_T[:n_chosen] += product_HG @ head_G
            score_T[n_chosen:] += ((user.factors * head_G) @ self.sampled.factors.T).view(-1)
            slope_T = score_T.sigmoid_()
            slope_T[:n_chosen] -= 1
            slope_BS = slope_T[n_chosen:].view_as(self.weight_BS).mul_(self.weight_BS)
            to_factors_BG += (slope_BS @ self.sampled.factors) * head_G
            to_product_HG += slope_T[:n_chosen].unsqueeze(1) * head_G
            torch.mul(slope_T.unsqueeze(1), head_X, out=to_last_TX)
        if net.rating is not None and self.rating_H is not None:
            head_G, head_X = torch.split(net.rating.linear.weight[0], [gmf, last])
            told_H = net.rating([product_HG, last_TX[:n_chosen]], people_BD[self.row_H, -1], self.item_H)
            slope_H1 = ((told_H - self.rating_H) / self.quarter**2).unsqueeze(1)
            to_product_HG += slope_H1 * head_G
            to_last_TX[:n_chosen] += slope_H1 * head_X
            to_bias_B1.index_add_(0, self.row_H, slope_H1)
        to_factors_BG.index_add_(0, self.row_H, to_product_HG.mul_(self.chosen.factors))
        return torch.cat([to_factors_BG, self._descent(), to_bias_B1], 1)

    def _climb(self, user_BX: Tensor) -> None:
        """Work out the hidden layers of all pairs, from the people's share of the first."""
        first_TX, n_chosen = self.hidden[0], len(self.item_H)
        torch.index_select(user_BX, 0, self.row_H, out=first_TX[:n_chosen]).add_(self.chosen.hidden)
        torch.add(user_BX.unsqueeze(1), self.sampled.hidden, out=self._grid(first_TX))
        first_TX.relu_()
        for layer, below, here in zip(self.layers[1:], self.hidden, self.hidden[1:], strict=False):
            torch.addmm(layer.bias, below, layer.weight.T, out=here).relu_()

    def _descent(self) -> Tensor:
        """The gradient by the people's vectors `[B, M]`, from that by the last hidden layer in `spare`."""
        if not self.layers:
            return torch.zeros(len(self.weight_BS), 0)
        for depth in range(len(self.hidden) - 1, -1, -1):
            _mask(self.spare[depth], self.hidden[depth], 0.0, grad_input=self.spare[depth])
            if depth:
                torch.mm(self.spare[depth], self.layers[depth].weight, out=self.spare[depth - 1])
        to_user_BX = self._grid(self.spare[0]).sum(1).index_add_(0, self.row_H, self.spare[0][: len(self.item_H)])
        weight_XM: Tensor = self.layers[0].weight[:, : self.net.towers.mlp]
        return to_user_BX @ weight_XM

    def _grid(self, pairs_TX: Tensor) -> Tensor:
        """Those with sampled items, `[B, S, X]`."""
        return pairs_TX[len(self.item_H) :].view(*self.weight_BS.shape, pairs_TX.shape[1])
