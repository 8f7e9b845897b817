"""Towers and heads of neural collaborative filtering; products and hidden layers of pairs written by hand.

Autograd would allocate the layers of all pairs and their gradients anew at each training step. On large batches,
providing that memory takes longer than the arithmetic. Here a workspace, kept from step to step, holds the layers. The
first layer is relu(U u_u + V v_i + b): U u_u and V v_i + b are computed once per user and item and shared by all pairs.

Legend: B queries, I items, P users or positives, N items of each, R = P * N pairs; widths: D user row, G GMF, H hidden.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise, product
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from palate.data.dataset import Dataset, Spec
from palate.models.layers import dropout_mask

EMBEDDING_STD = 0.01
"""Standard deviation of initial embeddings (He et al. 2017)."""
PRIOR_USERS = 10_000
"""Known users, evenly spaced, whose rows give the mean and the standard deviation."""
SCORED_PAIRS_PER_BLOCK = 2**14
"""Pairs whose hidden layers exist at once while all items are scored: they fit into the processor's cache."""


class Workspace:
    """Memory for the layers of all pairs: a forward pass takes matrices, and its backward pass gives them back.

    A forward pass without a backward pass keeps what it took, so that two passes never share memory.
    """

    def __init__(self) -> None:
        self._free: defaultdict[tuple[Any, ...], list[list[Tensor]]] = defaultdict(list)

    def take(self, rows: int, widths: list[int], like: Tensor) -> list[Tensor]:
        """Uninitialised matrices of the given widths, on the device of `like`."""
        free = self._free[like.device, *((rows, width) for width in widths)]
        return free.pop() if free else [like.new_empty(rows, width) for width in widths]

    def give_back(self, matrices: list[Tensor]) -> None:
        """Let the next forward pass with the same shapes use these matrices."""
        self._free[matrices[0].device, *(tuple(matrix.shape) for matrix in matrices)].append(matrices)


class ProductScores(torch.autograd.Function):
    """`apply(memory, a_PG, c_IG, index_PN)`: dot products `a_u . c_i`, `[P, N]`; the index gives i for each pair."""

    @staticmethod
    def forward(ctx: Any, memory: Workspace, user_PG: Tensor, item_IG: Tensor, index_PN: Tensor) -> Tensor:
        ctx.memory, ctx.n_items, shape = memory, len(item_IG), (*index_PN.shape, user_PG.shape[1])
        ctx.taken = memory.take(index_PN.numel(), [shape[2]] * 2, user_PG)
        ctx.save_for_backward(user_PG, index_PN)
        torch.index_select(item_IG, 0, index_PN.view(-1), out=ctx.taken[0])
        item_PNG, product_PNG = (matrix.view(shape) for matrix in ctx.taken)
        return torch.mul(item_PNG, user_PG.unsqueeze(1), out=product_PNG).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_PN: Tensor) -> tuple[Tensor | None, ...]:
        (user_PG, index_PN), gradient_PN1 = ctx.saved_tensors, gradient_PN.unsqueeze(-1)
        item_PNG, product_PNG = (matrix.view(*index_PN.shape, -1) for matrix in ctx.taken)
        to_user = torch.mul(item_PNG, gradient_PN1, out=product_PNG).sum(1)
        torch.mul(gradient_PN1, user_PG.unsqueeze(1), out=item_PNG)
        to_item = _sum_by_item(ctx.taken[0], index_PN, ctx.n_items)
        ctx.memory.give_back(ctx.taken)
        return None, to_user, to_item, None


class HiddenLayers(torch.autograd.Function):
    """`apply(memory, a_PH, c_IH, index_PN, w, W_2, b_2, ...)`: scores `w . h_L`, `[P, N]`, and h_L for n = 0, `[P, H]`.

    h_1 = relu(a_u + c_i), h_l = relu(W_l h_(l-1) + b_l). The index gives i for each pair. Without w (None) the scores
    are empty.
    """

    @staticmethod
    def forward(
        ctx: Any, memory: Workspace, user_PH: Tensor, item_IH: Tensor, index_PN: Tensor, head_1H: Tensor | None,
        *layers: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        weights, biases = layers[::2], layers[1::2]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(index_PN, head_1H, *weights)
        ctx.shape, ctx.memory, ctx.n_items = index_PN.shape, memory, len(item_IH)
        widths = [user_PH.shape[1], *map(len, weights)]
        ctx.taken = memory.take(index_PN.numel(), widths * 2, user_PH)
        hidden = ctx.taken[: len(widths)]
        first_PNH, last_PNH = (h.view(*ctx.shape, h.shape[-1]) for h in (hidden[0], hidden[-1]))
        torch.index_select(item_IH, 0, index_PN.view(-1), out=hidden[0])
        first_PNH.add_(user_PH.unsqueeze(1)).relu_()
        for below, here, weight, bias in zip(hidden, hidden[1:], weights, biases, strict=False):
            torch.addmm(bias, below, weight.T, out=here).relu_()
        scores_PN = user_PH.new_empty(0) if head_1H is None else torch.mv(hidden[-1], head_1H[0]).view(ctx.shape)
        return scores_PN, last_PNH[:, 0].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scores_PN: Tensor | None, last_PH: Tensor | None) -> tuple[Tensor | None, ...]:
        index_PN, head_1H, *weights = ctx.saved_tensors
        hidden, spare = ctx.taken[: 1 + len(weights)], ctx.taken[1 + len(weights) :]
        to_head, to_layers = None, list[Tensor]()
        if scores_PN is None or head_1H is None:
            spare[-1].zero_()
        else:
            scores_R = scores_PN.reshape(-1)
            to_head = torch.mv(hidden[-1].T, scores_R).unsqueeze(0)
            torch.mul(scores_R.unsqueeze(1), head_1H, out=spare[-1])
        if last_PH is not None:
            spare[-1].view(*ctx.shape, spare[-1].shape[-1])[:, 0] += last_PH
        # `gt_` overwrites a layer with the slope of its relu, 0 or 1; nothing reads the layer after that.
        spare[-1].mul_(hidden[-1].gt_(0))
        for depth in range(len(weights), 0, -1):
            here, below = spare[depth], hidden[depth - 1]
            to_layers = [here.T @ below, here.sum(0), *to_layers]
            torch.mm(here, weights[depth - 1], out=spare[depth - 1]).mul_(below.gt_(0))
        first_PNH = spare[0].view(*ctx.shape, spare[0].shape[-1])
        to_user, to_item = first_PNH.sum(1), _sum_by_item(spare[0], index_PN, ctx.n_items)
        ctx.memory.give_back(ctx.taken)
        return None, to_user, to_item, None, to_head, *to_layers


def _sum_by_item(gradient_RD: Tensor, index_PN: Tensor, n_items: int) -> Tensor:
    """The gradients of the items' rows: each the sum over the pairs that read it."""
    return gradient_RD.new_zeros(n_items, gradient_RD.shape[1]).index_add_(0, index_PN.view(-1), gradient_RD)


class TowerInputs(NamedTuple):
    """What users, or items, contribute to their pairs."""

    factors: Tensor
    """Their factor of GMF's product, `[P, G]`."""
    hidden: Tensor
    """Their summand of the first hidden layer, `[P, H]`; the items' summand includes the bias."""


class Towers(nn.Module):
    """Embedding tables and hidden layers.

    The tables' rows are `[p; u]` and `[q; v]`, GMF's columns first.

    Args:
        spec: Counts of users and items.
        gmf, mlp: Widths of the embeddings of each half; 0 for none.
        layers: Widths of the hidden layers.
        dropout: Share of product entries and of hidden units dropped during training.
    """

    def __init__(self, spec: Spec, gmf: int, mlp: int, layers: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.gmf, self.mlp, self.dropout = gmf, mlp, dropout
        self.user = nn.Embedding(spec.n_users, gmf + mlp)
        self.item = nn.Embedding(spec.n_items, gmf + mlp)
        self.linears = [nn.Linear(a, b) for a, b in pairwise((2 * mlp, *layers))]
        self.layers = nn.ModuleList(self.linears)
        self.width = gmf + (layers[-1] if layers else 0)

    def inputs(self, side: Literal["user", "item"], rows_PD: Tensor) -> TowerInputs:
        """From rows of the user or the item table; columns after the first D are ignored."""
        rest = rows_PD.shape[1] - self.gmf - self.mlp
        factors, vector = (rows_PD, rows_PD[:, :0]) if self.gmf else (rows_PD[:, :0], rows_PD)
        if rest or (self.gmf and self.mlp):
            factors, vector, _ = torch.split(rows_PD, [self.gmf, self.mlp, rest], 1)
        if self.mlp:
            first, half = self.linears[0], slice(None, self.mlp) if side == "user" else slice(self.mlp, None)
            vector = F.linear(vector, first.weight[:, half], first.bias if side == "item" else None)
        return TowerInputs(factors, vector)

    def score_pairs(
        self, head: nn.Linear | None, user: TowerInputs, item: TowerInputs, index_PN: Tensor, memory: Workspace
    ) -> tuple[Tensor, Tensor]:
        """A head's output for pairs, `[P, N]`, and h_L of each user's first item, `[P, H]`.

        Args:
            head: The head; without it (None) the scores are empty.
            user: P rows. Users and items may change places.
            item: Rows of items.
            index_PN: Which row of `item` each pair reads.
            memory: Holds the layers; reused after the backward pass.
        """
        head_1G, head_1H = torch.split(head.weight, [self.gmf, self.width - self.gmf], 1) if head else (None, None)
        scores_PN, hidden_PH = user.hidden.new_zeros(()) if head is None else head.bias, user.hidden
        drops = self.training and self.dropout > 0
        if self.mlp and drops:
            hidden_PNH = self._drop((user.hidden.unsqueeze(1) + F.embedding(index_PN, item.hidden)).relu_())
            for layer in self.linears[1:]:
                hidden_PNH = self._drop(layer(hidden_PNH).relu_())
            hidden_PH = hidden_PNH[:, 0]
            scores_PN = scores_PN if head_1H is None else scores_PN + hidden_PNH @ head_1H[0]
        elif self.mlp:
            weights = [each for layer in self.linears[1:] for each in (layer.weight, layer.bias)]
            inputs = (memory, user.hidden, item.hidden, index_PN, head_1H)
            last_PN, hidden_PH = HiddenLayers.apply(*inputs, *weights)  # type: ignore[no-untyped-call]
            scores_PN = scores_PN + last_PN
        if not self.gmf or head_1G is None:
            return scores_PN, hidden_PH
        factors_PG = user.factors * head_1G
        if drops:
            product_PN = self._drop(factors_PG.unsqueeze(1) * F.embedding(index_PN, item.factors)).sum(-1)
        else:
            product_PN = ProductScores.apply(memory, factors_PG, item.factors, index_PN)  # type: ignore[no-untyped-call]
        return scores_PN + product_PN, hidden_PH

    def features(self, user_PG: Tensor, item_PG: Tensor, hidden_PH: Tensor) -> Tensor:
        """What a head reads of pairs, `[g; h_L]`, `[P, W]`, from their factors and their last hidden layer."""
        return torch.cat([self._drop(user_PG * item_PG), hidden_PH], 1)

    def features_of(self, user: TowerInputs, row_P: Tensor, item: TowerInputs, memory: Workspace) -> Tensor:
        """As `features`, for pairs of a row of `user` and the item in the same place."""
        _, hidden_PH = self.score_pairs(None, item, user, row_P.unsqueeze(1), memory)
        return self.features(user.factors.index_select(0, row_P), item.factors, hidden_PH)

    def _drop(self, x: Tensor) -> Tensor:
        if not (self.training and self.dropout):
            return x
        return x * (dropout_mask(x.shape, self.dropout).to(x.device) / (1 - self.dropout))

    @torch.no_grad()
    def score_all(self, head: nn.Linear, user: TowerInputs, item: TowerInputs) -> Tensor:
        """A head's output for every pair, `[B, N]`; hidden layers exist for `SCORED_PAIRS_PER_BLOCK` pairs at a time.

        Equals `score_pairs` for all pairs, in fewer passes over memory: relu(x + c) is c + max(x, -c). The part c,
        which all pairs of a user share, bypasses the block: c_1 is the user's summand of the first layer and
        c_l = W_l c_(l-1) + b_l; in the block z_1 = max(V v + b, -c_1), z_l = max(W_l z_(l-1), -c_l).
        """
        head_G, head_H = torch.split(head.weight[0], [self.gmf, self.width - self.gmf])
        scores_BN = torch.addmm(head.bias, user.factors * head_G, item.factors.T)
        if not self.mlp:
            return scores_BN
        shared = [user.hidden]
        for layer in self.linears[1:]:
            shared.append(layer(shared[-1]))
        scores_BN += (shared[-1] @ head_H).unsqueeze(1)
        lows = [-each.unsqueeze(1) for each in shared]
        (n_users, n_items), block = scores_BN.shape, SCORED_PAIRS_PER_BLOCK
        rows, columns = max(1, block // n_items), -(-n_items // -(-n_items // block))
        buffers = [each.new_empty(rows * columns, each.shape[1]) for each in shared]
        for row, column in product(range(0, n_users, rows), range(0, n_items, columns)):
            block_BN = scores_BN[row : row + rows, column : column + columns]
            z = item.hidden[column : column + columns]
            for depth, (low, buffer) in enumerate(zip(lows, buffers, strict=True)):
                out = buffer[: block_BN.numel()]
                out_BNH = out.view(*block_BN.shape, -1)
                if depth:
                    z = torch.mm(z, self.linears[depth].weight.T, out=out).view_as(out_BNH)
                torch.maximum(z, low[row : row + rows], out=out_BNH)
                z = out
            block_BN.view(-1).addmv_(z, head_H)
        return scores_BN


class RatingHead(nn.Module):
    """rating(u, i) = mean + b_u + b_i + `linear` on the towers' features."""

    mean: Tensor

    def __init__(self, spec: Spec, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)
        self.user_bias = nn.Embedding(spec.n_users, 1)
        self.item_bias = nn.Embedding(spec.n_items, 1)
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, features_PW: Tensor, user_bias_P1: Tensor, item_P: Tensor) -> Tensor:
        """Predicted ratings `[P]`, not clipped to the rating scale."""
        rating_P1: Tensor = self.mean + user_bias_P1 + self.item_bias(item_P) + self.linear(features_PW)
        return rating_P1.squeeze(1)


class Net(nn.Module):
    """Towers with a ranking head, a rating head, or both."""

    def __init__(self, spec: Spec, towers: Towers, ranks: bool, rates: bool) -> None:
        super().__init__()
        self.towers = towers
        self.rank = nn.Linear(towers.width, 1) if ranks else None
        self.rating = RatingHead(spec, towers.width) if rates else None

    def init_from_data(self, data: Dataset) -> None:
        """Draw initial weights; the mean is that of the data's ratings, weighted by its sample weights."""
        for table in (self.towers.user, self.towers.item):
            nn.init.normal_(table.weight, std=EMBEDDING_STD)
        heads = (self.rank, None if self.rating is None else self.rating.linear)
        for layer in (*self.towers.linears, *(head for head in heads if head is not None)):
            # He et al. 2015 before a relu; variance 1 / width (LeCun) for a head.
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="linear" if layer in heads else "relu")
            nn.init.zeros_(layer.bias)
        if self.rating is not None and data.rating is not None:
            nn.init.zeros_(self.rating.user_bias.weight)
            nn.init.zeros_(self.rating.item_bias.weight)
            self.rating.mean.fill_(float(np.average(data.rating.astype(np.float64), weights=data.weight)))

    def user_rows(self, user_B: Tensor) -> Tensor:
        """What represents known users, `[B, D]`: rows of the user table, followed by the rating biases, if any."""
        rows: Tensor = self.towers.user(user_B)
        return rows if self.rating is None else torch.cat([rows, self.rating.user_bias(user_B)], 1)

    @torch.no_grad()
    def user_prior(self) -> Tensor:
        """Mean and standard deviation of the known users' rows, `[2, D]`: c and s of the fold-in's formula."""
        table = self.towers.user
        sample = torch.arange(
            0, table.num_embeddings, -(-table.num_embeddings // PRIOR_USERS), device=table.weight.device
        )
        known_UD = self.user_rows(sample)
        return torch.stack([known_UD.mean(0), known_UD.std(0, correction=0)])
