"""CDAE: a denoising autoencoder of histories with a vector of its own for each user (Wu et al. 2016).

h = sigmoid(W dropout(x_u / |x_u|) + p_u + b);  score(u, .) = V h + c
loss = bce of the history's items (label 1) and K sampled others of each (label 0)

A person without a vector of their own (a history) is answered with p_u = 0.

Legend: B users, N items, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palate.config import Recipe, check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.ragged import Ragged
from palate.models.base import GradientModel
from palate.models.layers import outputs
from palate.models.multvae import HistoryLayer
from palate.training.batches import Histories, histories


@dataclass(frozen=True, kw_only=True)
class CDAEConfig:
    """Settings of `cdae`."""

    dim: int = 200
    """Width of the hidden layer and of the users' vectors."""
    dropout: float = 0.5
    """Share of a history's items that the encoder does not see, drawn anew each time."""
    negatives: int = 5
    """Items outside the history that count in the loss, for each one inside; all outside where that is more."""

    def __post_init__(self) -> None:
        check(self, dim=self.dim >= 1, dropout=0 <= self.dropout < 1, negatives=self.negatives >= 1)


class CDAE(GradientModel):
    """Denoising autoencoder of histories with a vector of its own for each user."""

    Config = CDAEConfig
    recipe = Recipe(epochs=100, batch_size=256, lr=5e-3, patience=10)
    answers = frozenset({"known_user", "history", "similar_items"})
    confidence = "sigmoid"

    def __init__(self, config: CDAEConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: CDAEConfig = config
        self.encoder = HistoryLayer(spec.n_items, config.dim)
        self.user = nn.Embedding(spec.n_users, config.dim)
        self.decoder = nn.Linear(config.dim, spec.n_items)

    def start(self, data: Dataset) -> None:
        super().start(data)
        nn.init.normal_(self.user.weight, std=0.01)

    def batches(self, data: Dataset, rng: torch.Generator, size: int) -> Iterator[Histories]:
        return histories(data, rng, size)

    def loss(self, batch: Histories) -> Tensor:
        scores_BN = self._decode(batch.user, batch.history, self.config.dropout if self.training else 0.0)
        liked_BN = torch.zeros_like(scores_BN, dtype=torch.bool)
        liked_BN[batch.history.row_of_value, batch.history.values] = True
        # Each outside item counts with the chance that K draws for each inside one would take it: no noise of sampling.
        inside_B1 = batch.history.lengths.unsqueeze(1)
        share_B1 = (self.config.negatives * inside_B1 / (self.spec.n_items - inside_B1).clamp(min=1)).clamp(max=1)
        loss_BN = nn.functional.softplus(torch.where(liked_BN, -scores_BN, scores_BN))
        weight_BN = torch.where(liked_BN, torch.ones(()), share_B1)
        return (loss_BN * weight_BN).sum() / weight_BN.sum()

    def _score(self, queries: Queries) -> Tensor:
        return self._decode(queries.user, queries.history)

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        return outputs(self.decoder, self._encode(queries.user, queries.history), item_I)

    def _encode(self, user_B: Tensor, history: Ragged, dropout: float = 0.0) -> Tensor:
        own_BD = self.user(user_B.clamp(min=0)) * (user_B >= 0).unsqueeze(1)
        return torch.sigmoid(self.encoder(history, dropout) + own_BD)

    def _decode(self, user_B: Tensor, history: Ragged, dropout: float = 0.0) -> Tensor:
        scores_BN: Tensor = self.decoder(self._encode(user_B, history, dropout))
        return scores_BN

    def item_vectors(self) -> Tensor:
        return self.decoder.weight.detach()
