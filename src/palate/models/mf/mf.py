"""Matrix factorization with biases.

score(u, i) = b + b_u + b_i + <p_u, q_i>

Losses, each with reg * n^reg_power * |v|^2 over all vectors v (n: number of pairs that v is scored in):

- `mse` on ratings; the score is the prediction and b the mean rating (Koren, Bell, Volinsky 2009);
- `bce` with K uniform negatives of each positive, drawn anew each epoch; b = -log K, the log-odds of a positive
  (Rendle, Krichene, Zhang, Anderson 2020, "Neural collaborative filtering vs. matrix factorization revisited");
- `bpr` (Rendle et al. 2009), `softmax` over all items, `sampled-softmax` over K negatives: ranking only, b = 0.

A sample weight of w multiplies loss and L2 of its interaction, and n counts it w times. Users whom the model has
never seen are folded in from a history: `palate.models.mf.mf_fold_in`.

Legend: B queries, N items, P positives, C = 1 + K candidates of each positive, R distinct rows, D dim, E = D + 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.config import CompleteTraining, check
from palate.data.dataset import Dataset, Queries, Spec
from palate.models.base import GradientModel
from palate.models.mf.dots import dots
from palate.models.mf.fold_in import l2_shares, mean_rating
from palate.models.mf.mf_fold_in import FoldIn
from palate.training import losses
from palate.training.batches import Negatives, Pairs, pairs
from palate.training.loop import FitContext, Loss


@dataclass(frozen=True, kw_only=True)
class MFConfig:
    """Settings of `mf`."""

    dim: int = 64
    """Width of user and item vectors."""
    loss: Literal["mse", "bce", "bpr", "softmax", "sampled-softmax"] = "bce"
    """The training objective: mse predicts ratings, the others rank items and need no ratings."""
    negatives: int = 4
    """Sampled negatives of each positive (bce, bpr, sampled-softmax)."""
    init: float = 0.1
    """Standard deviation of the initial vectors' entries."""
    reg: float | None = None
    """L2 of vectors; its weight grows with the number n of pairs. Defaults to 0.1 for mse and 0.005 for the others."""
    bias_reg: float = 0.005
    """L2 of user and item biases; its weight grows with n, too."""
    reg_power: float = 1.0
    """The weight of the L2 is n ** reg_power: 1 is the same for every pair, 0 the same for every vector."""

    def __post_init__(self) -> None:
        check(self, dim=self.dim >= 1, negatives=self.negatives >= 1, init=self.init >= 0, bias_reg=self.bias_reg >= 0,
              reg=self.reg is None or self.reg >= 0, reg_power=0 <= self.reg_power <= 1)  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class MFContext(FitContext):
    """What training needs of the data: also the weight of each user's and each item's L2 in one pair."""

    user_share: Tensor
    item_share: Tensor


class MF(GradientModel):
    """Matrix factorization with biases, for ratings or for ranking, depending on the loss."""

    Config = MFConfig
    answers = frozenset({"known_user", "history", "similar_items", "rating"})
    uses_weights = True
    bias: Tensor

    def __init__(self, config: MFConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: MFConfig = config
        self.confidence, self.loss_name = losses.LINKS[config.loss], losses.UNITS[config.loss]
        self.reg = (0.1 if config.loss == "mse" else 0.005) if config.reg is None else config.reg
        self.sampled = config.negatives if config.loss in losses.SAMPLED else 0
        if config.loss == "mse":
            self.additive, self.needs = True, self.needs | {"rating"}
            self.remedy = "without ratings use a ranking loss: bce (the default), bpr, softmax or sampled-softmax"
        else:
            self.answers = self.answers - {"rating"}
        self.user, self.item = (nn.Embedding(rows, config.dim) for rows in (spec.n_users, spec.n_items))
        self.user_bias, self.item_bias = (nn.Embedding(rows, 1) for rows in (spec.n_users, spec.n_items))
        self.register_buffer("bias", torch.zeros(()))

    def init_from_data(self, data: Dataset) -> None:
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=self.config.init)
        for table in (self.user_bias, self.item_bias):
            nn.init.zeros_(table.weight)
        self.bias.fill_(-log(self.config.negatives) if self.config.loss == "bce" else 0.0)
        if self.config.loss == "mse":
            self.bias.fill_(mean_rating(data))

    def fit_context(self, data: Dataset, settings: CompleteTraining) -> MFContext:
        negatives = Negatives(data, self.sampled) if self.sampled else None
        users, items = l2_shares(data, self.config.reg_power, self.sampled)
        return MFContext(data, negatives, user_share=users, item_share=items)

    def batches(self, context: MFContext, rng: torch.Generator, size: int) -> Iterator[Pairs]:
        return pairs(context.data, rng, size, context.negatives)

    def loss(self, batch: Pairs, context: MFContext) -> Loss:
        positive_P1 = batch.item.unsqueeze(1)
        item_PC = positive_P1 if batch.negative is None else torch.cat([positive_P1, batch.negative], dim=1)
        p_RD, b_R1, user, user_L2 = self._look_up("user", batch.user, batch.weight, context.user_share)
        q_RD, c_R1, item, item_L2 = self._look_up("item", item_PC, batch.weight, context.item_share)
        # `F.embedding` for single numbers too: the gradient of an index is slower, and changes between runs.
        p_PD, b_P1 = F.embedding(user, p_RD), F.embedding(user, b_R1)
        if self.config.loss == "softmax":
            score_PN = p_PD @ self.item.weight.T + self.item_bias.weight.T
            shown = losses.softmax(score_PN, batch.item, batch.weight)
        else:
            score_PC = self.bias + b_P1 + F.embedding(item, c_R1).squeeze(-1) + dots(p_PD, q_RD, item)
            if batch.negative is not None:
                shown = losses.SAMPLED[self.config.loss](score_PC, weight_P=batch.weight)
            else:
                assert batch.rating is not None  # `needs` holds rating
                shown = losses.mse(score_PC[:, 0], batch.rating, batch.weight)
        return Loss(shown + user_L2 + item_L2, shown)

    def _look_up(self, side: str, index: Tensor, weight_P: Tensor | None, share_X: Tensor) -> tuple[Tensor, ...]:
        """Vectors and biases of the distinct rows of `[P]` or `[P, C]`, each entry's place among them, mean L2."""
        row_R, place, count_R = torch.unique(index, return_inverse=True, return_counts=True)
        if weight_P is not None:
            weight = weight_P.repeat_interleave(index.numel() // len(index))
            count_R = weight.new_zeros(len(row_R)).index_add_(0, place.flatten(), weight)
        v_RD, b_R1 = getattr(self, side)(row_R), getattr(self, f"{side}_bias")(row_R)
        squares_R = self.reg * v_RD.square().sum(1) + self.config.bias_reg * b_R1.square().sum(1)
        return v_RD, b_R1, place, (squares_R * share_X[row_R] * count_R).sum() / index.numel()

    def _known_users(self, user_B: Tensor) -> Tensor:
        return torch.cat([self.user.weight[user_B], self.user_bias.weight[user_B]], dim=1)

    def _fold_in(self, queries: Queries) -> Tensor:
        return self.fold_in(self.item.weight, self.item_bias.weight[:, 0]).rows(queries)

    def fold_in(self, item_ND: Tensor, item_bias_N: Tensor) -> FoldIn:
        """How histories are answered, given the vectors and biases of items: the model's own, then any later ones."""
        config = self.config
        return FoldIn(
            item_ND=item_ND, item_bias_N=item_bias_N, mean=float(self.bias), spec=self.spec, ratings=self.additive,
            negatives=config.negatives, pairs=1 + self.sampled, reg=self.reg, bias_reg=config.bias_reg,
            reg_power=config.reg_power,
        )  # fmt: skip

    def history_contributions(self, queries: Queries, item: int) -> tuple[Tensor, float]:
        return self.fold_in(self.item.weight, self.item_bias.weight[:, 0]).contributions(queries, item)

    def _score(self, queries: Queries) -> Tensor:
        return self._score_items(queries, None)

    def _score_items(self, queries: Queries, item_I: Tensor | None) -> Tensor:
        row_BE, q_ID, b_I1 = self.represent(queries), self.item.weight, self.item_bias.weight
        q_ID, b_I1 = (q_ID, b_I1) if item_I is None else (q_ID[item_I], b_I1[item_I])
        return (self.bias + row_BE[:, -1:] + b_I1.T).addmm_(row_BE[:, :-1], q_ID.T)  # in place: one pass less

    def _predict(self, queries: Queries, row_P: Tensor, item_P: Tensor) -> Tensor:
        row_PE, q_PD = self.represent(queries)[row_P], self.item.weight[item_P]
        return self.bias + row_PE[:, -1] + self.item_bias.weight[item_P, 0] + (row_PE[:, :-1] * q_PD).sum(1)

    def item_vectors(self) -> Tensor:
        return self.item.weight.detach()

    def item_factors(self) -> Tensor:
        return torch.cat([self.item.weight, self.item_bias.weight], dim=1)

    def query_factors(self, queries: Queries) -> Tensor:
        return F.pad(self.represent(queries)[:, :-1], (0, 1), value=1.0)
