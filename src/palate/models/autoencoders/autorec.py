"""AutoRec: autoencoders of rating vectors (Sedhain et al. 2015).

u-autorec:  prediction(u, i) = m_ui + (V g(W (r_u - m_u) + b) + c)_i     encodes and reconstructs a user's ratings
i-autorec:  prediction(u, i) = m_ui + (V g(W (r_i - m_i) + b) + c)_u     encodes and reconstructs an item's ratings
m_ui = mean + b_u + b_i with `center` (the biases of `bias`), or the mean alone;  g = sigmoid

loss = weighted mean over the observed ratings of (r - prediction)^2 + reg / 2 * (|W|^2 + |V|^2) / n

n is the number of rows times the mean number of ratings (sum of their weights) of a row in the batch: about the number
of ratings. Unobserved ratings are 0 in the centred input and have no loss. Sample weights multiply the squared errors;
the input holds each rating once, whatever its weight.

The loss curves show the mean squared error alone: on a validation part, that of its ratings, predicted from the ratings
of the history.

u-autorec answers a history directly. i-autorec has a column of V for each user; the column of a user known only by a
history is the ridge solution over the items' hidden vectors.

Legend: B queries or rows of a batch, C columns, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palate.config import CompleteTraining, check
from palate.data.dataset import Dataset, Queries, Spec
from palate.models.autoencoders.ratings import (
    RatingBatch,
    RatingContext,
    RatingRows,
    center_model,
    centered_history,
    folded_user_columns,
    known_user_columns,
    rating_context,
    score_columns,
)
from palate.models.base import GradientModel
from palate.models.layers import sum_rows
from palate.training.loop import Loss

FOLD_IN_L2 = 0.05
"""L2 of a folded-in column of i-autorec, for each rating of the history."""


@dataclass(frozen=True, kw_only=True)
class AutoRecConfig:
    """Settings of `u-autorec` and `i-autorec`."""

    dim: int = 500
    """Width of the hidden layer."""
    reg: float = 1.0
    """L2 on both weight matrices."""
    dropout: float = 0.0
    """Share of the input ratings dropped, drawn anew in each step."""
    center: bool = True
    """Whether to subtract user and item biases first; False subtracts the mean only."""

    def __post_init__(self) -> None:
        check(self, dim=self.dim >= 1, reg=self.reg >= 0, dropout=0 <= self.dropout < 1)


class RatingAutoencoder(nn.Module):
    """`V g(W x + b) + c` on sparse rows.

    Args:
        rows: Number of rows of the rating matrix, which scales the L2.
        columns: C.
        config: Width, L2 and dropout.
    """

    def __init__(self, rows: int, columns: int, config: AutoRecConfig) -> None:
        super().__init__()
        self.rows = rows
        self.config = config
        self.encoder = nn.Parameter(torch.empty(columns, config.dim))
        self.encoder_bias = nn.Parameter(torch.empty(config.dim))
        self.decoder = nn.Linear(config.dim, columns)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw Xavier weights; set biases to zero."""
        nn.init.xavier_uniform_(self.encoder)
        nn.init.zeros_(self.encoder_bias)
        self.decoder.reset_parameters()

    def encode(self, inputs: RatingRows) -> Tensor:
        """`g(W x + b)`, `[B, D]`."""
        dropout = self.config.dropout if self.training else 0.0
        return torch.sigmoid(sum_rows(self.encoder, inputs.columns, inputs.value, dropout) + self.encoder_bias)

    def loss(self, batch: RatingBatch) -> Loss:
        """Squared error on the targets; with the batch's share of the L2 as the objective."""
        error = batch.targets.squared_error(self.decoder(self.encode(batch.inputs)))
        size = self.encoder.square().sum() + self.decoder.weight.square().sum()
        penalty = 0.5 * self.config.reg * size / max(1, self.rows) / batch.targets.weight_per_row
        weight = batch.targets.total_weight
        return Loss(error + penalty, error.detach(), weight, weight)


class UAutoRec(GradientModel):
    """Autoencoder of each user's ratings."""

    Config = AutoRecConfig
    default_training = CompleteTraining(epochs=100, batch_size=256, lr=1e-3, patience=10)
    needs = frozenset({"interactions", "rating"})
    answers = frozenset({"known_user", "history", "similar_items", "rating"})
    uses_weights = True
    monitor = "rmse"
    loss_name = "squared error per rating"

    def __init__(self, config: AutoRecConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: AutoRecConfig = config
        self.center = center_model(config.center, spec)
        self.net = RatingAutoencoder(spec.n_users, spec.n_items, config)

    def init_from_data(self, data: Dataset) -> None:
        super().init_from_data(data)
        self.center.fit(data)

    def fit_context(self, data: Dataset, settings: CompleteTraining) -> RatingContext:
        return rating_context(data, self.center, by="user")

    def batches(self, context: RatingContext, rng: torch.Generator, size: int) -> Iterator[RatingBatch]:
        return context.batches(rng, size)

    def loss(self, batch: RatingBatch, context: RatingContext) -> Loss:
        return self.net.loss(batch)

    def _score(self, queries: Queries) -> Tensor:
        bias_B1 = self.center.represent(queries)
        inputs = RatingRows(queries.history, centered_history(self.center, queries, bias_B1))
        reconstructed_BN = self.net.decoder(self.net.encode(inputs))
        scores_BN: Tensor = self.center.mean + bias_B1 + self.center.item_bias + reconstructed_BN
        return scores_BN

    def item_vectors(self) -> Tensor:
        return self.net.decoder.weight.detach()


class IAutoRec(GradientModel):
    """Autoencoder of each item's ratings."""

    Config = AutoRecConfig
    default_training = CompleteTraining(epochs=100, batch_size=256, lr=1e-3, patience=10)
    needs = frozenset({"interactions", "rating"})
    answers = frozenset({"known_user", "history", "similar_items", "rating"})
    uses_weights = True
    monitor = "rmse"
    loss_name = "squared error per rating"
    hidden: Tensor

    def __init__(self, config: AutoRecConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: AutoRecConfig = config
        self.center = center_model(config.center, spec)
        self.net = RatingAutoencoder(spec.n_items, spec.n_users, config)
        self.register_buffer("hidden", torch.zeros(spec.n_items, config.dim))

    def init_from_data(self, data: Dataset) -> None:
        super().init_from_data(data)
        self.center.fit(data)

    def fit_context(self, data: Dataset, settings: CompleteTraining) -> RatingContext:
        return rating_context(data, self.center, by="item")

    def batches(self, context: RatingContext, rng: torch.Generator, size: int) -> Iterator[RatingBatch]:
        return context.batches(rng, size)

    def loss(self, batch: RatingBatch, context: RatingContext) -> Loss:
        return self.net.loss(batch)

    def _refresh(self, context: RatingContext | None) -> None:
        if context is not None:
            self.hidden = self.net.encode(context.inputs)

    def _score(self, queries: Queries) -> Tensor:
        return score_columns(self.center, self.represent(queries), self.hidden)

    def _known_users(self, user_B: Tensor) -> Tensor:
        return known_user_columns(self.center, user_B, self.net.decoder.weight, self.net.decoder.bias)

    def _fold_in(self, queries: Queries) -> Tensor:
        penalty_B = self.hidden.new_full((len(queries),), FOLD_IN_L2)
        return folded_user_columns(self.center, queries, self.hidden, penalty_B)

    def item_vectors(self) -> Tensor:
        return self.hidden
