"""Matrix factorization with biases.

score(u, i) = b + b_u + b_i + <p_u, q_i>

Losses, one for one purpose, each with reg * n^reg_power * |v|^2 over all vectors v (n: pairs that v is scored in):

- `mse` on ratings; the score is the prediction and b the mean rating (Koren, Bell, Volinsky 2009);
- `bce` with K uniform negatives of each positive, drawn anew each epoch; b = -log K, the log-odds of a positive
  (Rendle, Krichene, Zhang, Anderson 2020, "Neural collaborative filtering vs. matrix factorization revisited");
- `bpr` (Rendle et al. 2009), `softmax` over all items, `sampled-softmax` over K negatives: lists only, b = 0.

A person the model has never seen is answered from a history by `palate.models.fold_in`: the items stay, and the
person's vector and bias minimise the loss (mse: ridge; all others: logistic).

Legend: B queries, N items, P positives, C = 1 + K candidates of each positive, D dim, T history items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from palate.config import check
from palate.data.dataset import Dataset, Queries, Spec
from palate.models.base import GradientModel
from palate.models.fold_in import logistic, ridge
from palate.training import losses
from palate.training.batches import Pairs, pairs
from palate.training.negatives import Negatives


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
    reg: float = 0.01
    """L2 of a user's or an item's vector; its weight grows with the number n of pairs it is scored in."""
    bias_reg: float = 0.01
    """L2 of a user's or an item's bias, likewise."""
    reg_power: float = 1.0
    """The weight of the L2 is n ** reg_power: 1 is the same for every pair, 0 the same for every vector."""

    def __post_init__(self) -> None:
        check(
            self,
            dim=self.dim >= 1,
            negatives=self.negatives >= 1,
            init=self.init > 0,
            reg=self.reg >= 0,
            bias_reg=self.bias_reg >= 0,
            reg_power=0 <= self.reg_power <= 1,
        )


class MF(GradientModel):
    """Users and items as vectors; formula, losses and sources stand at the top of the module."""

    Config = MFConfig
    answers = frozenset({"known_user", "history", "similar_items", "rating"})
    bias: Tensor
    user_weight: Tensor
    item_weight: Tensor

    def __init__(self, config: MFConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: MFConfig = config
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
        for side, size in (
            ("user", spec.n_users),
            ("item", spec.n_items),
        ):  # Of the L2, for one pair; training alone reads it.
            self.register_buffer(f"{side}_weight", torch.ones(size), persistent=False)

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
        drawn = self._sampled * len(data) / data.n_items
        self.user_weight.copy_(self._weight(torch.from_numpy(np.diff(data.offsets)) * (1 + self._sampled)))
        self.item_weight.copy_(self._weight(torch.from_numpy(data.item_counts) + drawn))

    @property
    def _sampled(self) -> int:
        return self.config.negatives if self.config.loss in ("bce", "bpr", "sampled-softmax") else 0

    def _weight(self, pairs_X: Tensor) -> Tensor:
        """Weight of the L2 in each of n pairs: n ** reg_power in all."""
        return pairs_X.clamp(min=1).double().pow(self.config.reg_power - 1).float()

    def batches(self, data: Dataset, rng: torch.Generator, size: int) -> Iterator[Pairs]:
        return pairs(data, rng, size, Negatives(data, self._sampled) if self._sampled else None)

    def loss(self, batch: Pairs) -> Tensor:
        positive_P1 = batch.item.unsqueeze(1)
        item_PC = positive_P1 if batch.negative is None else torch.cat([positive_P1, batch.negative], dim=1)
        p_PD, q_PCD = self.user(batch.user), self.item(item_PC)
        b_P1, b_PC = self.user_bias(batch.user), self.item_bias(item_PC).squeeze(2)
        w_P, w_PC = self.user_weight[batch.user], self.item_weight[item_PC]
        vectors = (w_P * p_PD.square().sum(1)).mean() + (w_PC * q_PCD.square().sum(2)).mean()
        biases = (w_P * b_P1.squeeze(1).square()).mean() + (w_PC * b_PC.square()).mean()
        penalty: Tensor = self.config.reg * vectors + self.config.bias_reg * biases
        if self.config.loss == "softmax":
            score_PN = p_PD @ self.item.weight.T + self.item_bias.weight.T
            return losses.softmax(score_PN, batch.item) + penalty
        score_PC = self.bias + b_P1 + b_PC + (q_PCD @ p_PD.unsqueeze(2)).squeeze(2)
        return self._misfit(score_PC[:, 0], score_PC[:, 1:], batch.rating) + penalty

    def _misfit(self, positive_P: Tensor, negative_PK: Tensor, rating_P: Tensor | None) -> Tensor:
        if self.config.loss == "bce":
            return losses.bce(positive_P, negative_PK)
        if self.config.loss == "bpr":
            return losses.bpr(positive_P, negative_PK)
        if self.config.loss == "sampled-softmax":
            return losses.sampled_softmax(positive_P, negative_PK)
        assert rating_P is not None  # `needs` holds rating where the loss is mse
        return losses.mse(positive_P, rating_P)

    def _score(self, queries: Queries) -> Tensor:
        p_BD, b_B1 = self._people(queries)
        return self.bias + b_B1 + self.item_bias.weight.T + p_BD @ self.item.weight.T

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
            folded = self._fold_in(queries.take(new))
            p_BD[new], b_B1[new] = folded[:, :-1], folded[:, -1:]
        return p_BD, b_B1

    def _fold_in(self, queries: Queries) -> Tensor:
        """Vectors with the bias as last entry, `[B, D + 1]`: an item's is (q, 1), so both come from one solution."""
        history, bias_N = queries.history, self.item_bias.weight.squeeze(1)
        vector_ND = torch.cat([self.item.weight, torch.ones_like(self.item_bias.weight)], dim=1)
        scored_B1 = (history.lengths * (1 + self._sampled)).unsqueeze(1)
        reg_D = torch.tensor([self.config.reg] * self.config.dim + [self.config.bias_reg]).clamp(min=1e-6)
        penalty_BD = (1 + self._sampled) * self._weight(scored_B1) * reg_D
        if self.config.loss != "mse":
            return logistic(history, vector_ND, self.bias + bias_N, penalty_BD, self.config.negatives)
        rating_T = queries.ratings
        if (
            rating_T is None
        ):  # An item somebody chose without rating it counts as liked: halfway from the mean to the top.
            top = self.spec.rating_scale[1] if self.spec.rating_scale else float(self.bias)
            rating_T = torch.full((len(history.values),), (float(self.bias) + top) / 2)
        return ridge(history, vector_ND[history.values], rating_T - self.bias - bias_N[history.values], penalty_BD)

    def item_vectors(self) -> Tensor:
        """The vectors q, `[N, D]`."""
        return self.item.weight.detach()
