"""SparseFC: an autoencoder of items' rating vectors with kernelised weights (Muller et al. 2018).

prediction(u, i) = m_ui + (V h_2 + c)_u,  h_2 = g(W_2 h_1 + b_2),  h_1 = g(W_1 (r_i - m_i) + b_1),  g = sigmoid
W_l = A_l * K_l entry by entry,  K_l[x, y] = max(0, 1 - |s_x - t_y|^2),  V likewise

loss = weighted mean over the observed ratings of (r - prediction)^2
       + sum over layers of (reg |A|^2 + kernel_reg |K|^2) / n

Source: "Kernelized Synaptic Weight Matrices". Each input x and each output y of a layer has a learned position of 5
numbers, s_x and t_y. Units far apart lose their connection, so the kernel makes a layer sparse and ties units that are
near each other. m_ui, n, sample weights, loss curves and the ridge solution for users known only by a history (here
over the items' h_2) are those of `palate.models.autoencoders.autorec`.

The paper trains with L-BFGS on all items at once and without dropout. palate trains with Adam, as it does every model,
and drops input ratings at random, which improves RMSE on MovieLens-100K more than a larger `reg` does.

Legend: B queries or items of a batch, U users, D width, X inputs and Y outputs of a layer, E length of s and t.
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
    folded_user_columns,
    known_user_columns,
    rating_context,
    score_columns,
)
from palate.models.base import GradientModel
from palate.models.layers import sum_rows
from palate.training.loop import Loss

POSITION_DIM = 5
POSITION_STD = 1e-3
"""Standard deviation of the initial positions s and t: every kernel starts near 1."""
FOLD_IN_NOISE = 0.125
"""L2 of a folded-in column for each rating, times dropout / (1 - dropout): the effect of input dropout on a column.
Best of 0, 0.01, 0.05, 0.125, 0.25 and 0.75 on a validation part of MovieLens-100K, where it makes users known only by a
history as well predicted as trained users."""
MIN_FOLD_IN_L2 = 1e-6
"""Least L2 of a folded-in column, which keeps its solution unique with reg = 0."""


@dataclass(frozen=True, kw_only=True)
class SparseFCConfig:
    """Settings of `sparsefc`."""

    dim: int = 500
    """Width of the two hidden layers."""
    reg: float = 5.0
    """L2 on the weights."""
    kernel_reg: float = 0.006
    """L2 on the kernels."""
    dropout: float = 0.8
    """Share of the input ratings dropped, drawn anew in each step."""
    center: bool = True
    """Whether to subtract user and item biases first; False subtracts the mean only."""

    def __post_init__(self) -> None:
        check(
            self, dim=self.dim >= 1, reg=self.reg >= 0, kernel_reg=self.kernel_reg >= 0,
            dropout=0 <= self.dropout < 1,
        )  # fmt: skip


class KernelLayer(nn.Module):
    """The weights of a dense layer: A times a kernel of the positions of inputs and outputs.

    Args:
        inputs, outputs: X and Y.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.source = nn.Parameter(torch.empty(inputs, POSITION_DIM))
        self.target = nn.Parameter(torch.empty(outputs, POSITION_DIM))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw Xavier weights and positions near 0; set biases to zero."""
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)
        for position in (self.source, self.target):
            nn.init.normal_(position, std=POSITION_STD)

    def forward(self) -> tuple[Tensor, Tensor]:
        """`A * K` and `K`, both `[X, Y]`."""
        source_XE, target_YE = self.source, self.target
        square_XY = source_XE.square().sum(1, keepdim=True) + target_YE.square().sum(1)
        kernel_XY = (1 - (square_XY - 2 * source_XE @ target_YE.T)).clamp(min=0)
        return self.weight * kernel_XY, kernel_XY


class SparseFC(GradientModel):
    """Deep autoencoder of each item's ratings with kernelised weights."""

    Config = SparseFCConfig
    default_training = CompleteTraining(epochs=100, batch_size=256, lr=1e-3, patience=10)
    needs = frozenset({"interactions", "rating"})
    answers = frozenset({"known_user", "history", "similar_items", "rating"})
    uses_weights = True
    monitor = "rmse"
    loss_name = "squared error per rating"
    hidden: Tensor
    column: Tensor

    def __init__(self, config: SparseFCConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: SparseFCConfig = config
        self.center = center_model(config.center, spec)
        self.first = KernelLayer(spec.n_users, config.dim)
        self.second = KernelLayer(config.dim, config.dim)
        self.output = KernelLayer(config.dim, spec.n_users)
        # Computed from the weights: the items' h_2 and the users' columns of V.
        self.register_buffer("hidden", torch.zeros(spec.n_items, config.dim))
        self.register_buffer("column", torch.zeros(spec.n_users, config.dim))

    def init_from_data(self, data: Dataset) -> None:
        super().init_from_data(data)
        self.center.fit(data)

    def fit_context(self, data: Dataset, settings: CompleteTraining) -> RatingContext:
        return rating_context(data, self.center, by="item")

    def batches(self, context: RatingContext, rng: torch.Generator, size: int) -> Iterator[RatingBatch]:
        return context.batches(rng, size)

    def loss(self, batch: RatingBatch, context: RatingContext) -> Loss:
        layers = (self.first, self.second, self.output)
        (first_UD, _), (second_DD, _), (output_DU, _) = products = [layer() for layer in layers]
        hidden_BD = self._encode(batch.inputs, first_UD, second_DD)
        error = batch.targets.squared_error(torch.addmm(self.output.bias, hidden_BD, output_DU))
        size = sum(
            self.config.reg * layer.weight.square().sum() + self.config.kernel_reg * kernel.square().sum()
            for layer, (_, kernel) in zip(layers, products, strict=True)
        )
        weight = batch.targets.total_weight
        penalty = size / self.spec.n_items / batch.targets.weight_per_row
        return Loss(error + penalty, error.detach(), weight, weight)

    def _encode(self, inputs: RatingRows, first_UD: Tensor, second_DD: Tensor) -> Tensor:
        """h_2, `[B, D]`."""
        dropout = self.config.dropout if self.training else 0.0
        hidden_BD = torch.sigmoid(sum_rows(first_UD, inputs.columns, inputs.value, dropout) + self.first.bias)
        return torch.sigmoid(torch.addmm(self.second.bias, hidden_BD, second_DD))

    def _refresh(self, context: RatingContext | None) -> None:
        if context is not None:
            self.hidden = self._encode(context.inputs, self.first()[0], self.second()[0])
            self.column = self.output()[0].T.contiguous()

    def _score(self, queries: Queries) -> Tensor:
        return score_columns(self.center, self.represent(queries), self.hidden)

    def _known_users(self, user_B: Tensor) -> Tensor:
        return known_user_columns(self.center, user_B, self.column, self.output.bias)

    def _fold_in(self, queries: Queries) -> Tensor:
        # In training, `reg` acts once on a column for all ratings of its user, dropout acts for each rating.
        noise = FOLD_IN_NOISE * self.config.dropout / (1 - self.config.dropout)
        penalty_B = max(self.config.reg, MIN_FOLD_IN_L2) / queries.history.lengths.clamp(min=1) + noise
        return folded_user_columns(self.center, queries, self.hidden, penalty_B)

    def item_vectors(self) -> Tensor:
        return self.hidden
