"""The net of neural collaborative filtering; the outputs of pairs are written by hand.

Autograd would allocate the layers of all pairs and their gradients anew at each training step. On large batches,
providing that memory takes longer than the arithmetic. Here a workspace, kept from step to step, holds the layers. The
first layer is relu(U u_u + V v_i + b): U u_u and V v_i + b are computed once per user and item and shared by all pairs.

Legend: B queries, I items, P users or positives, N items of each, R = P * N pairs, K heads; widths: D user row, G GMF,
H hidden, W = G + H what a head reads.
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


class PairOutputs(torch.autograd.Function):
    """`apply(memory, index_PN, a_PG, x_PH, c_IG, y_IH, w_KW, W_2, b_2, ...)`: w [a_u * c_i; h_L], `[P, N, K]`.

    h_1 = relu(x_u + y_i), h_l = relu(W_l h_(l-1) + b_l). The index gives i for each pair. G or H may be 0.
    """

    @staticmethod
    def forward(
        ctx: Any, memory: Workspace, index_PN: Tensor, user_PG: Tensor, user_PH: Tensor, item_IG: Tensor,
        item_IH: Tensor, head_KW: Tensor, *layers: Tensor,
    ) -> Tensor:  # fmt: skip
        weights, biases, gmf = layers[::2], layers[1::2], user_PG.shape[1]
        ctx.save_for_backward(index_PN, user_PG, head_KW, *weights)
        ctx.memory, ctx.n_items = memory, len(item_IG)
        ctx.widths = [user_PH.shape[1], *map(len, weights)]
        ctx.taken = memory.take(index_PN.numel(), [gmf, gmf, *ctx.widths * 2], user_PG)
        item_RG, product_RG, *hidden = ctx.taken[: 2 + len(ctx.widths)]
        pairs = index_PN.view(-1)
        if gmf:
            torch.index_select(item_IG, 0, pairs, out=item_RG)
            torch.mul(_by_user(item_RG, index_PN), user_PG.unsqueeze(1), out=_by_user(product_RG, index_PN))
        if ctx.widths[0]:
            torch.index_select(item_IH, 0, pairs, out=hidden[0])
            _by_user(hidden[0], index_PN).add_(user_PH.unsqueeze(1)).relu_()
            for below, here, weight, bias in zip(hidden, hidden[1:], weights, biases, strict=False):
                torch.addmm(bias, below, weight.T, out=here).relu_()
        output_RK: Tensor = (product_RG @ head_KW[:, :gmf].T).addmm_(hidden[-1], head_KW[:, gmf:].T)
        return output_RK.view(*index_PN.shape, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_PNK: Tensor) -> tuple[Tensor | None, ...]:
        index_PN, user_PG, head_KW, *weights = ctx.saved_tensors
        gradient_RK, gmf, depths = gradient_PNK.flatten(0, 1).contiguous(), user_PG.shape[1], len(ctx.widths)
        item_RG, product_RG, *hidden = ctx.taken[: 2 + depths]
        spare, to_layers, to_inputs = ctx.taken[2 + depths :], list[Tensor](), list[Tensor | None]([None] * 4)
        to_head = torch.cat([gradient_RK.T @ product_RG, gradient_RK.T @ hidden[-1]], 1)
        if gmf:
            _outer(gradient_RK, head_KW[:, :gmf], product_RG)
            to_inputs[0] = _by_user(item_RG.mul_(product_RG), index_PN).sum(1)
            _by_user(product_RG, index_PN).mul_(user_PG.unsqueeze(1))
            to_inputs[2] = _sum_by_item(product_RG, index_PN, ctx.n_items)
        if ctx.widths[0]:
            # `gt_` overwrites a layer with the slope of its relu, 0 or 1; nothing reads the layer after that.
            _outer(gradient_RK, head_KW[:, gmf:], spare[-1]).mul_(hidden[-1].gt_(0))
            for depth in range(len(weights), 0, -1):
                here, below = spare[depth], hidden[depth - 1]
                to_layers = [here.T @ below, here.sum(0), *to_layers]
                torch.mm(here, weights[depth - 1], out=spare[depth - 1]).mul_(below.gt_(0))
            to_inputs[1] = _by_user(spare[0], index_PN).sum(1)
            to_inputs[3] = _sum_by_item(spare[0], index_PN, ctx.n_items)
        ctx.memory.give_back(ctx.taken)
        return None, None, *to_inputs, to_head, *to_layers


def _by_user(matrix_RD: Tensor, index_PN: Tensor) -> Tensor:
    return matrix_RD.view(*index_PN.shape, matrix_RD.shape[1])


def _outer(left_RK: Tensor, right_KD: Tensor, out: Tensor) -> Tensor:
    """`left @ right`; with one head a product of numbers, which is faster."""
    return torch.mul(left_RK, right_KD, out=out) if len(right_KD) == 1 else torch.mm(left_RK, right_KD, out=out)


def _sum_by_item(gradient_RD: Tensor, index_PN: Tensor, n_items: int) -> Tensor:
    """The gradients of the items' rows: each the sum over the pairs that read it."""
    return gradient_RD.new_zeros(n_items, gradient_RD.shape[1]).index_add_(0, index_PN.view(-1), gradient_RD)


class Inputs(NamedTuple):
    """What users, or items, contribute to their pairs."""

    factors: Tensor
    """Their factor of GMF's product, `[P, G]`."""
    hidden: Tensor
    """Their summand of the first hidden layer, `[P, H]`; the items' summand includes the bias."""


class Net(nn.Module):
    """Embedding tables, hidden layers and heads: that of the ranking first, that of the rating last.

    The tables' rows are `[p; u]` and `[q; v]`, GMF's columns first. A rating is mean + b_u + b_i + the last output.

    Args:
        spec: Counts of users and items.
        gmf, mlp: Widths of the embeddings of each half; 0 for none.
        layers: Widths of the hidden layers.
        dropout: Share of product entries and of hidden units dropped during training.
        ranks, rates: Which heads there are.
    """

    mean: Tensor

    def __init__(
        self, spec: Spec, gmf: int, mlp: int, layers: tuple[int, ...], dropout: float, *, ranks: bool, rates: bool
    ) -> None:
        super().__init__()
        self.gmf, self.mlp, self.dropout, self.ranks, self.rates = gmf, mlp, dropout, ranks, rates
        self.user = nn.Embedding(spec.n_users, gmf + mlp)
        self.item = nn.Embedding(spec.n_items, gmf + mlp)
        self.linears = [nn.Linear(a, b) for a, b in pairwise((2 * mlp, *layers))]
        self.layers = nn.ModuleList(self.linears)
        self.head = nn.Linear(gmf + (layers[-1] if layers else 0), ranks + rates)
        self.user_bias = nn.Embedding(spec.n_users, 1) if rates else None
        self.item_bias = nn.Embedding(spec.n_items, 1) if rates else None
        self.register_buffer("mean", torch.zeros(()))

    def init_from_data(self, data: Dataset) -> None:
        """Draw initial weights; the mean is that of the data's ratings, weighted by its sample weights."""
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=EMBEDDING_STD)
        for layer in (*self.linears, self.head):
            # He et al. 2015 before a relu; variance 1 / width (LeCun) for a head.
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="linear" if layer is self.head else "relu")
            nn.init.zeros_(layer.bias)
        for bias in (self.user_bias, self.item_bias):
            if bias is not None:
                nn.init.zeros_(bias.weight)
        if self.rates and data.rating is not None:
            self.mean.fill_(float(np.average(data.rating.astype(np.float64), weights=data.weight)))

    def user_rows(self, user_B: Tensor) -> Tensor:
        """What represents known users, `[B, D]`: rows of the user table, followed by the rating biases, if any."""
        rows: Tensor = self.user(user_B)
        return rows if self.user_bias is None else torch.cat([rows, self.user_bias(user_B)], 1)

    @torch.no_grad()
    def user_prior(self) -> Tensor:
        """Mean and standard deviation of the known users' rows, `[2, D]`: c and s of the fold-in's formula."""
        table = self.user
        sample = torch.arange(
            0, table.num_embeddings, -(-table.num_embeddings // PRIOR_USERS), device=table.weight.device
        )
        known_UD = self.user_rows(sample)
        return torch.stack([known_UD.mean(0), known_UD.std(0, correction=0)])

    def ratings(self, output_P: Tensor, user_bias_P1: Tensor, item_P: Tensor) -> Tensor:
        """Predicted ratings from the last head's outputs, `[P]`, not clipped to the rating scale."""
        assert self.item_bias is not None
        rating_P: Tensor = output_P + (self.mean + user_bias_P1 + self.item_bias(item_P)).squeeze(1)
        return rating_P

    def inputs(self, side: Literal["user", "item"], rows_PD: Tensor) -> Inputs:
        """From rows of the user or the item table; columns after the first D are ignored."""
        rest = rows_PD.shape[-1] - self.gmf - self.mlp
        factors, vector = (rows_PD, rows_PD[..., :0]) if self.gmf else (rows_PD[..., :0], rows_PD)
        if rest or (self.gmf and self.mlp):
            factors, vector, _ = torch.split(rows_PD, [self.gmf, self.mlp, rest], -1)
        if self.mlp:
            first, half = self.linears[0], slice(None, self.mlp) if side == "user" else slice(self.mlp, None)
            vector = F.linear(vector, first.weight[:, half], first.bias if side == "item" else None)
        return Inputs(factors, vector)

    def score_pairs(self, user: Inputs, item: Inputs, index_PN: Tensor, memory: Workspace) -> Tensor:
        """The heads' outputs for pairs, `[P, N, K]`.

        Args:
            user: P rows. Users and items may change places.
            item: Rows of items.
            index_PN: Which row of `item` each pair reads.
            memory: Holds the layers; reused after the backward pass.
        """
        if not (self.training and self.dropout):
            weights = [each for layer in self.linears[1:] for each in (layer.weight, layer.bias)]
            inputs = (memory, index_PN, *user, *item, self.head.weight)
            output_PNK: Tensor = PairOutputs.apply(*inputs, *weights)  # type: ignore[no-untyped-call]
            return output_PNK + self.head.bias
        features_PNW = self._drop(user.factors.unsqueeze(1) * F.embedding(index_PN, item.factors))
        if self.mlp:
            hidden_PNH = self._drop((user.hidden.unsqueeze(1) + F.embedding(index_PN, item.hidden)).relu_())
            for layer in self.linears[1:]:
                hidden_PNH = self._drop(layer(hidden_PNH).relu_())
            features_PNW = torch.cat([features_PNW, hidden_PNH], 2)
        return self.head(features_PNW)  # type: ignore[no-any-return]

    def _drop(self, x: Tensor) -> Tensor:
        return x * (dropout_mask(x.shape, self.dropout).to(x.device) / (1 - self.dropout))

    @torch.no_grad()
    def score_all(self, user: Inputs, item: Inputs) -> Tensor:
        """The first head's output for every pair, `[B, N]`; hidden layers exist for a block of pairs at a time.

        Equals `score_pairs` for all pairs, in fewer passes over memory: relu(x + c) is c + max(x, -c). The part c,
        which all pairs of a user share, bypasses the block: c_1 is the user's summand of the first layer and
        c_l = W_l c_(l-1) + b_l; in the block z_1 = max(V v + b, -c_1), z_l = max(W_l z_(l-1), -c_l).
        """
        head_G, head_H = self.head.weight[0, : self.gmf], self.head.weight[0, self.gmf :]
        scores_BN = torch.addmm(self.head.bias[0], user.factors * head_G, item.factors.T)
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
