"""Towers, the two halves of neural collaborative filtering, and Net: towers with a ranking and a rating head.

GMF:  g = p_u * q_i, element by element.
MLP:  h_1 = relu(U u_u + V v_i + b), h_l = relu(W_l h_(l-1) + b_l); [U V] is the first layer's weight on [u_u; v_i].
A head is a linear map of [g; h_L] to one number.

U u_u depends on the user alone and V v_i on the item alone. All pairs of a user share the first, all pairs of an item
the second: the first layer, the widest, costs one addition for each pair.

Legend: B queries or people, N items, P pairs or positives, D width of an embedding row, G width of GMF, H width of a
hidden layer, ... any leading axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.data.dataset import Dataset, Spec
from palate.models.layers import kept
from palate.models.ncf_pairs import Buffers, score_pairs
from palate.training import losses
from palate.training.batches import Pairs

INIT = 0.01
"""Standard deviation of first embeddings (He et al. 2017)."""
BLOCK = 16384
"""Pairs whose hidden layers exist at once while every item is scored: they stay in the processor's cache."""
PREDICTED = 2**16
"""Pairs whose hidden layers exist at once while pairs are predicted."""


@dataclass(frozen=True, eq=False)
class Side:
    """What users, or items, bring to their pairs.

    Attributes:
        factors: Their part of GMF's product, `[..., G]`.
        hidden: Their share of the first hidden layer, `[..., H]`; the bias is in the items'.
    """

    factors: Tensor
    hidden: Tensor

    def take(self, index: Tensor) -> Side:
        """The sides at the given places of the only leading axis."""
        return Side(F.embedding(index, self.factors), F.embedding(index, self.hidden))

    def view(self, axes: tuple[int, ...]) -> Side:
        """The sides with other leading axes."""
        return Side(*(each.view(*axes, each.shape[-1]) for each in (self.factors, self.hidden)))


class Towers(nn.Module):
    """Embedding tables and hidden layers.

    Args:
        spec: Counts of users and items.
        gmf: Width of GMF's embeddings; 0 for none.
        mlp: Width of the MLP's embeddings; 0 for none.
        layers: Widths of the MLP's hidden layers.
        dropout: Share of product entries and of hidden units dropped while training.

    Attributes:
        user, item: One row for each, `[p; u]` and `[q; v]`, GMF's columns first.
        width: Number of features a head reads.
    """

    def __init__(self, spec: Spec, gmf: int, mlp: int, layers: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.gmf, self.mlp, self.dropout = gmf, mlp, dropout
        self.user = nn.Embedding(spec.n_users, gmf + mlp)
        self.item = nn.Embedding(spec.n_items, gmf + mlp)
        self._layers = [nn.Linear(a, b) for a, b in pairwise((2 * mlp, *layers))]
        self.layers = nn.ModuleList(self._layers)
        self.width = gmf + (layers[-1] if layers else 0)
        self._lent = Buffers()

    def draw(self) -> None:
        """Fresh weights: embeddings N(0, 0.01^2), layers uniform as He et al. 2015 have it for relu."""
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=INIT)
        for layer in self._layers:
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, head: nn.Linear, user_P: Tensor, item_PN: Tensor) -> Tensor:
        """A head's output for each user with each of its N items, `[P, N]`, for training."""
        user = self.user(user_P)
        # More pairs than items: work out the items' share once for each item of the catalogue.
        catalogue = not self.item.sparse and self.item.num_embeddings <= item_PN.numel()
        item = self.item.weight if catalogue else self.item(item_PN.flatten())
        shape = (item_PN.shape[0], item_PN.shape[1])
        if self.dropout and self.training:
            items = self.item_side(item)
            items = items.take(item_PN) if catalogue else items.view(shape)
            return weigh(head, self.features(self.user_side(user).view((len(user_P), 1)), items))
        layers = [each for layer in self._layers for each in (layer.weight, layer.bias)]
        index = item_PN if catalogue else None
        return score_pairs(self._lent, user, item, index, shape, (head.weight, head.bias), layers)

    def train(self, mode: bool = True) -> Self:
        """As in torch; outside training the buffers' memory is let go."""
        self._lent.clear()
        return super().train(mode)

    def user_side(self, rows: Tensor) -> Side:
        """The users' share, from rows of the user table `[..., D]`."""
        factors, vector = torch.split(rows, [self.gmf, self.mlp], -1)
        return Side(factors, F.linear(vector, self._layers[0].weight[:, : self.mlp]) if self.mlp else vector)

    def item_side(self, rows: Tensor) -> Side:
        """The items' share, from rows of the item table `[..., D]`."""
        factors, vector = torch.split(rows, [self.gmf, self.mlp], -1)
        if not self.mlp:
            return Side(factors, vector)
        return Side(factors, F.linear(vector, self._layers[0].weight[:, self.mlp :], self._layers[0].bias))

    def features(self, user: Side, item: Side) -> list[Tensor]:
        """What heads read of pairs, `[g; h_L]` unjoined: the two sides' leading axes are broadcast."""
        found = []
        if self.gmf:
            found.append(self._drop(user.factors * item.factors))
        if self.mlp:
            hidden = self._drop((user.hidden + item.hidden).relu_())
            for layer in self._layers[1:]:
                hidden = self._drop(layer(hidden).relu_())
            found.append(hidden)
        return found

    def _drop(self, x: Tensor) -> Tensor:
        return x * (kept(x.shape, self.dropout) / (1 - self.dropout)) if self.dropout and self.training else x

    @torch.no_grad()
    def score_all(self, head: nn.Linear, user: Side, item: Side) -> Tensor:
        """A head's output for every pair, `[B, N]`; hidden layers exist for `BLOCK` pairs at a time.

        The same as `weigh(head, features(...))` without dropout, in fewer passes over memory: relu(x + c) is
        c + max(x, -c). The part c, which all pairs of a user share, goes round the block: c_1 is the user's share of
        the first layer, c_l = W_l c_(l-1) + b_l; in the block z_1 = max(V v + b, -c_1), z_l = max(W_l z_(l-1), -c_l).
        """
        factor_weight_G, hidden_weight_H = torch.split(head.weight[0], [self.gmf, self.width - self.gmf])
        scores_BN = torch.addmm(head.bias, user.factors * factor_weight_G, item.factors.T)
        if not self.mlp:
            return scores_BN
        shared = [user.hidden]
        for layer in self._layers[1:]:
            shared.append(layer(shared[-1]))
        scores_BN += (shared[-1] @ hidden_weight_H).unsqueeze(1)
        lows = [-each.unsqueeze(1) for each in shared]
        n_users, n_items = scores_BN.shape
        rows, columns = max(1, BLOCK // n_items), -(-n_items // -(-n_items // BLOCK))
        buffers = [torch.empty(rows * columns, each.shape[1]) for each in shared]
        for row in range(0, n_users, rows):
            for column in range(0, n_items, columns):
                block_BN = scores_BN[row : row + rows, column : column + columns]
                z = item.hidden[column : column + columns]
                for depth, (low, buffer) in enumerate(zip(lows, buffers, strict=True)):
                    out = buffer[: block_BN.numel()]
                    out_BNH = out.view(*block_BN.shape, -1)
                    if depth:
                        z = torch.mm(z, self._layers[depth].weight.T, out=out).view_as(out_BNH)
                    torch.maximum(z, low[row : row + rows], out=out_BNH)
                    z = out
                block_BN.view(-1).addmv_(z, hidden_weight_H)
        return scores_BN


class RatingHead(nn.Module):
    """rating(u, i) = mean + b_u + b_i + a head over the towers' features."""

    mean: Tensor

    def __init__(self, spec: Spec, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)
        self.user_bias = nn.Embedding(spec.n_users, 1)
        self.item_bias = nn.Embedding(spec.n_items, 1)
        self.register_buffer("mean", torch.zeros(()))

    def draw(self, data: Dataset) -> None:
        """Fresh weights; the mean is that of the ratings."""
        draw_head(self.linear)
        nn.init.zeros_(self.user_bias.weight)
        nn.init.zeros_(self.item_bias.weight)
        if data.rating is not None:
            self.mean.fill_(float(np.mean(data.rating, dtype=np.float64)))

    def forward(self, features: list[Tensor], user_bias_P: Tensor, item_P: Tensor) -> Tensor:
        """Predictions in rating units, `[P]`, not held to the scale."""
        bias_P: Tensor = self.mean + user_bias_P + self.item_bias(item_P).squeeze(-1)
        return bias_P + weigh(self.linear, features)


class Net(nn.Module):
    """Towers with the heads that the loss asks for.

    A person is a row of the user table with, where there is a rating head, the rating bias behind it.

    Args:
        spec: Counts, and the rating scale.
        towers: What the heads read.
        loss: bce has a ranking head, mse a rating head, joint both where there are ratings.
        negatives: Sampled negatives of each positive.
        rating_weight: Of the mean squared error in a joint loss.
    """

    def __init__(self, spec: Spec, towers: Towers, loss: str, negatives: int, rating_weight: float) -> None:
        super().__init__()
        rated = loss == "mse" or (loss == "joint" and spec.rating_scale is not None)
        self.towers = towers
        self.rank = nn.Linear(towers.width, 1) if loss != "mse" else None
        self.rating = RatingHead(spec, towers.width) if rated else None
        self.negatives = negatives
        self.rating_weight = rating_weight

    def draw(self, data: Dataset) -> None:
        """Fresh weights, and the mean rating of the data."""
        self.towers.draw()
        if self.rank is not None:
            draw_head(self.rank)
        if self.rating is not None:
            self.rating.draw(data)

    def loss(self, batch: Pairs) -> Tensor:
        """bce over positives and negatives (He et al. 2017, equation 7) and mse over the ratings of the positives."""
        total = torch.zeros(())
        if self.rank is not None:
            assert batch.negative is not None
            score_PN = self.towers(self.rank, batch.user, torch.cat([batch.item.unsqueeze(1), batch.negative], 1))
            total = losses.bce(score_PN)
        if self.rating is not None and batch.rating is not None:
            user, item = (
                self.towers.user_side(self.towers.user(batch.user)),
                self.towers.item_side(self.towers.item(batch.item)),
            )
            bias_P = self.rating.user_bias(batch.user).squeeze(-1)
            prediction_P = self.rating(self.towers.features(user, item), bias_P, batch.item)
            squared = losses.mse(prediction_P, batch.rating)
            total = squared if self.rank is None else total + self.rating_weight * squared
        return total

    def people(self, user_B: Tensor) -> Tensor:
        """Known users as people, `[B, D]` or, with a rating head, `[B, D + 1]`."""
        rows: Tensor = self.towers.user(user_B)
        return rows if self.rating is None else torch.cat([rows, self.rating.user_bias(user_B)], 1)

    def sides(self, people_BD: Tensor) -> Side:
        """People's share of their pairs."""
        return self.towers.user_side(people_BD[:, : self.towers.user.embedding_dim])

    def score(self, people_BD: Tensor, items: Tensor | slice = slice(None)) -> Tensor:
        """Ranking logits of all or some items, or predicted ratings where there is no ranking head, `[B, N]`."""
        user, item = self.sides(people_BD), self.towers.item_side(self.towers.item.weight[items])
        if self.rank is not None:
            return self.towers.score_all(self.rank, user, item)
        assert self.rating is not None
        scores_BN = self.towers.score_all(self.rating.linear, user, item)
        return scores_BN.add_(self.rating.mean + people_BD[:, -1:]).add_(self.rating.item_bias.weight[items].T)

    def predict(self, people_BD: Tensor, row_P: Tensor, item_P: Tensor) -> Tensor:
        """Predicted ratings of pairs of a person and an item, `[P]`."""
        assert self.rating is not None
        user, found = self.sides(people_BD), []
        for row, item in zip(torch.split(row_P, PREDICTED), torch.split(item_P, PREDICTED), strict=True):
            features = self.towers.features(user.take(row), self.towers.item_side(self.towers.item(item)))
            found.append(self.rating(features, people_BD[row, -1], item))
        return torch.cat(found)


def weigh(head: nn.Linear, features: list[Tensor]) -> Tensor:
    """A head's output, `[...]`: `head([g; h])` without building [g; h]."""
    weights = torch.split(head.weight[0], [each.shape[-1] for each in features])
    total: Tensor = head.bias
    for each, weight in zip(features, weights, strict=True):
        total = total + each @ weight
    return total


def draw_head(head: nn.Linear) -> None:
    """Fresh weights of a head: uniform with variance 1 / width (LeCun), no bias."""
    nn.init.kaiming_uniform_(head.weight, nonlinearity="linear")
    nn.init.zeros_(head.bias)
