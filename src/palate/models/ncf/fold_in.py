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

Legend: B queries, H history items of all queries, S sampled items, D width of a user's row, X of the last hidden layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from palate.data.dataset import Queries
from palate.models.ncf.layers import Net, Workspace

ADAM_STEPS, LEARNING_RATE = 30, 0.3
SAMPLED_ITEMS = 256
"""Items that stand for all items a user has not chosen."""
PRIOR_USERS = 10_000
"""Known users, evenly spaced, whose rows give the mean and the standard deviation."""
PAIRS_PER_BLOCK = 2**14
"""Pairs scored at once: their layers fit into the processor's cache."""


@torch.no_grad()
def fold_in(net: Net, queries: Queries, scale: tuple[float, float] | None, negatives: int) -> Tensor:
    """Rows for queries with a history, `[B, D]`, as `Net.user_rows` gives them for known users.

    Args:
        net: A trained net, in eval mode.
        queries: Their users are ignored.
        scale: Lowest and highest rating, if there are ratings.
        negatives: K of the formula.
    """
    n_users, device = net.towers.user.num_embeddings, queries.user.device
    known = net.user_rows(torch.arange(0, n_users, -(-n_users // PRIOR_USERS), device=device))
    center_D, spread_D = known.mean(0), known.std(0, correction=0)
    quarter = 1.0 if scale is None or scale[0] == scale[1] else (scale[1] - scale[0]) / 4
    block = (queries.history.lengths + SAMPLED_ITEMS).cumsum(0) // PAIRS_PER_BLOCK
    sizes = torch.unique_consecutive(block, return_counts=True)[1].tolist()
    found = []
    for rows in torch.split(torch.arange(len(queries), device=device), sizes):
        objective = HistoryLoss(net, queries.take(rows), center_D, quarter, negatives)
        found.append(center_D + spread_D * _most_probable(objective, center_D, spread_D))
    return torch.cat(found)


def _most_probable(objective: HistoryLoss, center_D: Tensor, spread_D: Tensor) -> Tensor:
    """z, `[B, D]`."""
    z_BD = center_D.new_zeros(len(objective.count_B1), len(center_D))
    mean_BD, square_BD = torch.zeros_like(z_BD), torch.zeros_like(z_BD)
    for step in range(1, ADAM_STEPS + 1):
        gradient_BD = (spread_D * objective.gradient(center_D + spread_D * z_BD) + z_BD) / objective.count_B1
        # Adam's rule, with an epsilon far above rounding: the order of sums must not decide the direction of a step.
        mean_BD.lerp_(gradient_BD, 0.1)
        square_BD.lerp_(gradient_BD.square(), 0.05)
        size_BD = (square_BD / (1 - 0.95**step)).sqrt() + 1e-2
        z_BD -= LEARNING_RATE * (1 - step / (ADAM_STEPS + 1)) / (1 - 0.9**step) * mean_BD / size_BD
    return z_BD


class HistoryLoss:
    """The first three terms of the formula for a block of histories; `count_B1` is the number of pairs of each user."""

    def __init__(self, net: Net, queries: Queries, average_D: Tensor, quarter: float, negatives: int) -> None:
        history, towers, device = queries.history, net.towers, queries.history.values.device
        self._net, self._quarter, self._memory = net, quarter, Workspace()
        self._row_H, self._item_H = history.row_of_value, history.values
        self._chosen = towers.inputs("item", towers.item(self._item_H))
        self.count_B1 = history.lengths.clamp(min=1).float().unsqueeze(1)
        if net.rank is not None:
            n_items, chance = towers.item.num_embeddings, torch.Generator().manual_seed(0)
            item_S = torch.unique(torch.randint(n_items, (SAMPLED_ITEMS,), generator=chance)).to(device)
            self._sampled = towers.inputs("item", towers.item(item_S))
            pair_BS = torch.arange(len(queries), device=device).unsqueeze(1) * n_items + item_S
            unseen_BS = torch.isin(pair_BS, self._row_H * n_items + self._item_H, invert=True)
            share_B = negatives * history.lengths / unseen_BS.sum(1).clamp(min=1)
            self._weight_BS = share_B.unsqueeze(1) * unseen_BS
            self.count_B1 = self.count_B1 * (1 + negatives)
        self._rating_H = queries.ratings if net.rating is not None else None
        if net.rank is None and net.rating is not None and queries.ratings is None:
            average_BD = average_D.expand(len(queries), -1)
            features_HW = towers.features_of(towers.inputs("user", average_BD), self._row_H, self._chosen, self._memory)
            self._rating_H = net.rating(features_HW, average_D[-1], self._item_H) + quarter

    def gradient(self, rows_BD: Tensor) -> Tensor:
        """The gradient with respect to the users' rows, `[B, D]`."""
        with torch.enable_grad():
            rows_BD = rows_BD.detach().requires_grad_()
            return torch.autograd.grad(self(rows_BD), rows_BD)[0]

    def __call__(self, rows_BD: Tensor) -> Tensor:
        """The loss of all users, a scalar."""
        net, towers, total = self._net, self._net.towers, rows_BD.new_zeros(())
        user = towers.inputs("user", rows_BD)
        features_HW = towers.features_of(user, self._row_H, self._chosen, self._memory)
        if net.rank is not None:
            score_BS, _ = towers.score_pairs(net.rank, user, self._sampled, None, self._memory)
            total = total + F.softplus(-net.rank(features_HW)).sum() + (self._weight_BS * F.softplus(score_BS)).sum()
        if net.rating is not None and self._rating_H is not None:
            rating_H = net.rating(features_HW, rows_BD[:, -1:].index_select(0, self._row_H), self._item_H)
            total = total + ((rating_H - self._rating_H) / self._quarter).square().sum() / 2
        return total
