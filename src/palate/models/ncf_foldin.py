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

Legend: B queries, T pairs of a query and an item, H of them from histories, D width of a person's row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from palate.data.dataset import Queries
from palate.models.ncf_layers import Net, weigh

STEPS = 30
LR = 0.3
SAMPLED = 256
"""Items that stand for all a person has not chosen."""
USERS = 10_000
"""Known users, evenly spaced, whose rows give the mean and the standard deviation."""
BLOCK = 2**16
"""Pairs worked on at once."""


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
        with torch.enable_grad():
            z_BD.requires_grad_()
            (gradient_BD,) = torch.autograd.grad(pairs.loss(center_D + spread_D * z_BD), z_BD)
        z_BD = z_BD.detach()
        gradient_BD = (gradient_BD + z_BD) / pairs.count_B1
        # Adam's rule, with an epsilon far above rounding: the order of sums must not decide the direction of a step.
        mean_BD = mean_BD.lerp(gradient_BD, 0.1)
        square_BD = square_BD.lerp(gradient_BD.square(), 0.05)
        size_BD = (square_BD / (1 - 0.95**step)).sqrt() + 1e-2
        z_BD = z_BD - LR * (1 - step / (STEPS + 1)) / (1 - 0.9**step) * mean_BD / size_BD
    return z_BD


class _Pairs:
    """All pairs of a block of queries, those of the histories first, with what is wanted of each."""

    def __init__(self, net: Net, queries: Queries, average_D: Tensor, quarter: float) -> None:
        self.net, self.quarter = net, quarter
        history, n_items = queries.history, net.towers.item.num_embeddings
        self.n_chosen = len(history.values)
        self.row_T, self.item_T = history.row_of_value, history.values
        self.count_B1 = history.lengths.clamp(min=1).float().unsqueeze(1)
        if net.rank is not None:
            generator = torch.Generator().manual_seed(0)
            sampled = torch.unique(torch.randint(n_items, (SAMPLED,), generator=generator))
            row_T, item_T = torch.cartesian_prod(torch.arange(len(queries)), sampled).unbind(1)
            fresh = ~torch.isin(row_T * n_items + item_T, self.row_T * n_items + self.item_T)
            row_T, item_T = row_T[fresh], item_T[fresh]
            share_B = net.negatives * history.lengths / torch.bincount(row_T, minlength=len(queries))
            self.weight_T = share_B[row_T]
            self.row_T, self.item_T = torch.cat([self.row_T, row_T]), torch.cat([self.item_T, item_T])
            self.count_B1 = self.count_B1 * (1 + net.negatives)
        self.item = net.towers.item_side(net.towers.item(self.item_T))
        self.rating_H = queries.ratings if net.rating is not None else None
        if net.rank is None and queries.ratings is None:
            average_BD = average_D.expand(len(queries), -1)
            self.rating_H = net.predict(average_BD, history.row_of_value, history.values) + quarter

    def loss(self, people_BD: Tensor) -> Tensor:
        """The sum over the data, a scalar; each row of the gradient is due to that person's pairs alone."""
        net, n_chosen = self.net, self.n_chosen
        features = net.towers.features(net.sides(people_BD).take(self.row_T), self.item)
        total = torch.zeros(())
        if net.rank is not None:
            score_T = weigh(net.rank, features)
            total = F.softplus(-score_T[:n_chosen]).sum() + (F.softplus(score_T[n_chosen:]) * self.weight_T).sum()
        if net.rating is not None and self.rating_H is not None:
            bias_H = people_BD[self.row_T[:n_chosen], -1]
            rating_H = net.rating([each[:n_chosen] for each in features], bias_H, self.item_T[:n_chosen])
            total = total + ((self.rating_H - rating_H) / self.quarter).square().sum() / 2
        return total
