"""CDAE: a denoising autoencoder of interactions with a vector for each user (Wu et al. 2016).

h = sigmoid(W dropout(x_u / |x_u|) + p_u + b);  score(u, .) = V h + c
loss = weighted mean of the binary cross-entropy of u's items (label 1) and of the items outside the history (label 0)

An item of u has its sample weight w (1 for data without weights). The items outside the history share the weight of K
negatives for each item inside, at most 1 each: the expectation of sampling K negatives, without its noise. Sample
weights multiply the cross-entropy only: the input x_u holds each item once, whatever its weight.

The loss curves show this loss: on a validation part, with its rows as u's items and neither them nor the history among
the negatives.

A user without a trained vector (a history alone, or one newer than training) has p_u = 0.

Legend: B users, N items, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palate.config import CompleteTraining, check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.ragged import Ragged
from palate.models.autoencoders.layers import HistoryLayer
from palate.models.base import GradientModel
from palate.models.layers import outputs
from palate.training.batches import Histories, histories
from palate.training.loop import FitContext, Loss


@dataclass(frozen=True, kw_only=True)
class CDAEConfig:
    """Settings of `cdae`."""

    dim: int = 200
    """Width of the hidden layer and of the user vectors."""
    dropout: float = 0.5
    """Share of a history's items dropped from the input, drawn anew in each step."""
    negatives: int = 5
    """Number of negatives for each item of a history; at most all items outside the history."""

    def __post_init__(self) -> None:
        check(self, dim=self.dim >= 1, dropout=0 <= self.dropout < 1, negatives=self.negatives >= 1)


class CDAE(GradientModel):
    """Denoising autoencoder of interactions with a vector for each user."""

    Config = CDAEConfig
    default_training = CompleteTraining(epochs=100, batch_size=256, lr=5e-3, patience=10)
    answers = frozenset({"known_user", "history", "similar_items"})
    gradients = frozenset({"history"})
    uses_weights = True
    confidence = "sigmoid"
    loss_name = "binary cross-entropy per pair"

    def __init__(self, config: CDAEConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: CDAEConfig = config
        self.encoder = HistoryLayer(spec.n_items, config.dim)
        self.user = nn.Embedding(spec.n_users, config.dim)
        self.decoder = nn.Linear(config.dim, spec.n_items)

    def init_from_data(self, data: Dataset) -> None:
        super().init_from_data(data)
        nn.init.normal_(self.user.weight, std=0.01)

    def batches(self, context: FitContext, rng: torch.Generator, size: int) -> Iterator[Histories]:
        return histories(context.data, rng, size)

    def loss(self, batch: Histories, context: FitContext) -> Loss:
        dropout = self.config.dropout if self.training else 0.0
        scores_BN = self.decoder(self._encode(batch.history, self.user(batch.user), dropout))
        positive_BN, negative_BN = pair_weights(batch, self.spec.n_items, self.config.negatives)
        loss_BN = nn.functional.softplus(torch.where(positive_BN > 0, -scores_BN, scores_BN))
        weight_BN = positive_BN + negative_BN
        total = weight_BN.sum().clamp(min=torch.finfo(weight_BN.dtype).tiny)
        loss = (loss_BN * weight_BN).sum() / total
        return Loss(loss, loss.detach(), total, total)

    def _score(self, queries: Queries) -> Tensor:
        scores_BN: Tensor = self.decoder(self._encode(queries.history, self.represent(queries)))
        return scores_BN

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        return outputs(self.decoder, self._encode(queries.history, self.represent(queries)), item_I)

    def _known_users(self, user_B: Tensor) -> Tensor:
        vector_BD: Tensor = self.user(user_B)
        return vector_BD

    def _fold_in(self, queries: Queries) -> Tensor:
        return self.user.weight.new_zeros(len(queries), self.config.dim)

    def _encode(self, history: Ragged, user_BD: Tensor, dropout: float = 0.0) -> Tensor:
        return torch.sigmoid(self.encoder(history, dropout) + user_BD)

    def item_vectors(self) -> Tensor:
        return self.decoder.weight.detach()


def pair_weights(batch: Histories, n_items: int, negatives: int) -> tuple[Tensor, Tensor]:
    """Weights of all items in the loss of each user, as positives and as negatives.

    Args:
        batch: Its `target` items are the positives; the items in neither target nor history are the negatives.
        n_items: N.
        negatives: K: the negatives of a user weigh K times as much as the positives together, but at most 1 each.

    Returns:
        float32 `[B, N]` twice; 0 where an item does not count.
    """
    target, history, weight_T = batch.target, batch.history, batch.target_weight
    row_T = target.row_of_value
    positive_BN = torch.zeros(len(target), n_items, device=row_T.device)
    one_T = positive_BN.new_ones(len(row_T)) if weight_T is None else weight_T
    positive_BN.view(-1).index_add_(0, row_T * n_items + target.values, one_T)
    negative_BN = torch.ones_like(positive_BN)
    for items in (target, history):
        negative_BN[items.row_of_value, items.values] = 0
    share_B1 = negatives * positive_BN.sum(1, keepdim=True) / negative_BN.sum(1, keepdim=True).clamp(min=1)
    return positive_BN, negative_BN * share_B1.clamp(max=1)
