"""Matrix factorization with biases.

score(u, i) = b + b_u + b_i + <p_u, q_i>

Losses, one for one purpose, each with reg * n^reg_power * |v|^2 over all vectors v (n: pairs that v is scored in):

- `mse` on ratings; the score is the prediction and b the mean rating (Koren, Bell, Volinsky 2009);
- `bce` with K uniform negatives of each positive, drawn anew each epoch; b = -log K, the log-odds of a positive
  (Rendle, Krichene, Zhang, Anderson 2020, "Neural collaborative filtering vs. matrix factorization revisited");
- `bpr` (Rendle et al. 2009), `softmax` over all items, `sampled-softmax` over K negatives: lists only, b = 0.

A person the model has never seen is answered from a history by `palate.models.mf_foldin`.

Legend: B queries, N items, P positives, C = 1 + K candidates of each positive, R distinct rows, D dim, T history items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.config import check
from palate.data.dataset import Dataset, Queries, Spec
from palate.models.base import GradientModel
from palate.models.fold_in import l2_share
from palate.models.mf_foldin import fold_in, parts
from palate.models.mf_pairs import dots
from palate.training import losses
from palate.training.batches import Pairs, pairs
from palate.training.negatives import Negatives

SAMPLED = {"bce": losses.bce, "bpr": losses.bpr, "sampled-softmax": losses.sampled_softmax}
"""Losses of a positive against its K negatives."""


@dataclass(frozen=True, kw_only=True)
class MFConfig:
    """Settings of `mf`."""

    dim: int = 64
    """Width of user and item vectors."""
    loss: Literal["mse", "bce", "bpr", "softmax", "sampled-softmax"] = "bce"
    """What is minimised: mse predicts ratings, the others make lists and need no ratings."""
    negatives: int = 4
    """Sampled negatives of each positive (bce, bpr, sampled-softmax)."""
    init: float = 0.1
    """Standard deviation of the first vectors' entries."""
    reg: float | None = None
    """L2 of a vector; its weight grows with the number n of pairs it is scored in; default: 0.1 for mse, else 0.005."""
    bias_reg: float = 0.005
    """L2 of a user's or an item's bias, likewise."""
    reg_power: float = 1.0
    """The weight of the L2 is n ** reg_power: 1 is the same for every pair, 0 the same for every vector."""

    def __post_init__(self) -> None:
        check(self, dim=self.dim >= 1, negatives=self.negatives >= 1, init=self.init >= 0, bias_reg=self.bias_reg >= 0,
              reg=self.reg is None or self.reg >= 0, reg_power=0 <= self.reg_power <= 1)  # fmt: skip

    @property
    def vector_reg(self) -> float:
        """`reg`, or what stands for it where it is left open."""
        return (0.1 if self.loss == "mse" else 0.005) if self.reg is None else self.reg


class MF(GradientModel):
    """Matrix factorization with biases, for ratings or for lists by the loss chosen."""

    Config = MFConfig
    answers = frozenset({"known_user", "history", "similar_items", "rating"})
    bias: Tensor
    user_weight: Tensor
    item_weight: Tensor

    def __init__(self, config: MFConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: MFConfig = config
        self.confidence = losses.LINKS[config.loss]
        self.sampled = config.negatives if config.loss in SAMPLED else 0
        if config.loss == "mse":
            self.needs = self.needs | {"rating"}
            self.remedy = "without ratings use a ranking loss: bce (the default), bpr, softmax or sampled-softmax"
        else:
            self.answers = self.answers - {"rating"}
        self.user = nn.Embedding(spec.n_users, config.dim)
        self.item = nn.Embedding(spec.n_items, config.dim)
        self.user_bias = nn.Embedding(spec.n_users, 1)
        self.item_bias = nn.Embedding(spec.n_items, 1)
        self.register_buffer("bias", torch.zeros(()))
        # Weight of the L2 in one pair; only training reads it, so it is not saved.
        self.register_buffer("user_weight", torch.ones(spec.n_users), persistent=False)
        self.register_buffer("item_weight", torch.ones(spec.n_items), persistent=False)

    def start(self, data: Dataset) -> None:
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=self.config.init)
        for table in (self.user_bias, self.item_bias):
            nn.init.zeros_(table.weight)
        self.bias.zero_()
        if self.config.loss == "mse" and data.rating is not None:
            self.bias.fill_(float(np.mean(data.rating, dtype=np.float64)))
        if self.config.loss == "bce":
            self.bias.fill_(-log(self.config.negatives))
        drawn = self.sampled * len(data) / data.n_items
        power = self.config.reg_power
        self.user_weight.copy_(l2_share(torch.from_numpy(np.diff(data.offsets)) * (1 + self.sampled), power))
        self.item_weight.copy_(l2_share(torch.from_numpy(data.item_counts) + drawn, power))

    def batches(self, data: Dataset, rng: torch.Generator, size: int) -> Iterator[Pairs]:
        return pairs(data, rng, size, Negatives(data, self.sampled) if self.sampled else None)

    def loss(self, batch: Pairs) -> Tensor:
        positive_P1 = batch.item.unsqueeze(1)
        item_PC = positive_P1 if batch.negative is None else torch.cat([positive_P1, batch.negative], dim=1)
        p_RD, b_R1, user, user_penalty = self._look_up("user", batch.user)
        q_RD, c_R1, item, item_penalty = self._look_up("item", item_PC)
        # `F.embedding` for single numbers too: its gradient is quicker than that of an index.
        p_PD, b_P1, c_PC = F.embedding(user, p_RD), F.embedding(user, b_R1), F.embedding(item, c_R1).squeeze(-1)
        penalty = user_penalty + item_penalty
        if self.config.loss == "softmax":
            score_PN = p_PD @ self.item.weight.T + self.item_bias.weight.T
            return losses.softmax(score_PN, batch.item) + penalty
        score_PC = self.bias + b_P1 + c_PC + dots(p_PD, q_RD, item)
        if self.config.loss in SAMPLED:
            return SAMPLED[self.config.loss](score_PC) + penalty
        assert batch.rating is not None  # `needs` holds rating
        return losses.mse(score_PC[:, 0], batch.rating) + penalty

    def _look_up(self, side: Literal["user", "item"], index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Vectors and biases of an index's distinct rows, each entry's place among them, and the L2."""
        row_R, place, count_R = torch.unique(index, return_inverse=True, return_counts=True)
        vectors, biases, weight_X = (getattr(self, side + kind) for kind in ("", "_bias", "_weight"))
        v_RD, b_R1 = vectors(row_R), biases(row_R)
        squares_R = self.config.vector_reg * v_RD.square().sum(1) + self.config.bias_reg * b_R1.square().sum(1)
        penalty = (squares_R * weight_X[row_R] * count_R).sum() / index.numel()
        return v_RD, b_R1, place, penalty

    def _score(self, queries: Queries) -> Tensor:
        p_BD, b_B1 = self._people(queries)
        return self.bias + b_B1 + self.item_bias.weight.T + p_BD @ self.item.weight.T

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        p_BD, b_B1 = self._people(queries)
        return self.bias + b_B1 + self.item_bias.weight[item_I].T + p_BD @ self.item.weight[item_I].T

    def _parts(self, queries: Queries, item: int) -> tuple[Tensor, float] | None:
        return None if self.config.loss != "mse" else parts(self, queries, item)

    def _predict(self, queries: Queries, row_P: Tensor, item_P: Tensor) -> Tensor:
        p_BD, b_B1 = self._people(queries)
        b_P = b_B1[row_P, 0] + self.item_bias.weight[item_P, 0]
        return self.bias + b_P + (p_BD[row_P] * self.item.weight[item_P]).sum(1)

    def _people(self, queries: Queries) -> tuple[Tensor, Tensor]:
        """Vector and bias of each query: trained for a known user, else folded in."""
        known_B = queries.user.clamp(min=0)
        p_BD, b_B1 = self.user.weight[known_B], self.user_bias.weight[known_B]
        new = (queries.user < 0).nonzero().squeeze(1)
        if len(new):
            folded = fold_in(self, queries.take(new))
            p_BD[new], b_B1[new] = folded[:, :-1], folded[:, -1:]
        return p_BD, b_B1

    def item_vectors(self) -> Tensor:
        return self.item.weight.detach()

    def item_factors(self) -> Tensor:
        return torch.cat([self.item.weight, self.item_bias.weight], dim=1)

    def query_factors(self, queries: Queries) -> Tensor:
        return F.pad(self._people(queries)[0], (0, 1), value=1.0)
