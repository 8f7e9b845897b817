"""SparseFC: an autoencoder of items' rating vectors whose weights are held by a kernel (Muller et al. 2018, "Kernelized
Synaptic Weight Matrices").

prediction(u, i) = m_ui + (V h_2 + c)_u,  h_2 = g(W_2 h_1 + b_2),  h_1 = g(W_1 (r_i - m_i) + b_1),  g = sigmoid
W_l = A_l * K_l entry by entry,  K_l[x, y] = max(0, 1 - |s_x - t_y|^2),  the same for V

loss = mean over the observed ratings of (r - prediction)^2 + sum over layers of (reg |A|^2 + kernel_reg |K|^2) / n

s and t are 5 numbers of each input and of each output of a layer, learned with A: units that are far apart lose their
connection, so that the kernel makes a layer sparse and ties units that are near. m_ui and n (about the number of
ratings) are those of `palate.models.autorec`; so is the answer to a person the model has never seen: the column of V by
ridge over the items' h_2.

The paper trains by L-BFGS on all items at once and without dropout; here the steps are Adam's, as for every model, and
input ratings are left out at random, which is worth more on MovieLens-100K than a larger `reg`.

Legend: B items of a batch, U users, D width, X inputs and Y outputs of a layer, E width of s and t.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.config import Recipe, check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.ragged import Ragged
from palate.models.autorec import Ratings, all_items, bias_model, item_batches, people
from palate.models.base import GradientModel
from palate.models.bias import Bias, BiasConfig
from palate.models.layers import sum_rows
from palate.training.loop import Epoch, Job

KERNEL_DIM = 5
KERNEL_INIT = 1e-3
"""Standard deviation of the first s and t: at first every kernel is nearly 1."""
NOISE = 0.125
"""Ridge of a new person's column for each rating, times dropout / (1 - dropout): what the noise of training's input
does to a column. Of 0, 0.01, 0.05, 0.125, 0.25 and 0.75 it did best on a validation part of MovieLens-100K, where
strangers are then answered as well as known users."""


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
    """Share of the input ratings left out, drawn anew each time."""
    center: bool = True
    """Whether user and item biases are taken out first; False takes out the mean alone."""

    def __post_init__(self) -> None:
        check(
            self, dim=self.dim >= 1, reg=self.reg >= 0, kernel_reg=self.kernel_reg >= 0,
            dropout=0 <= self.dropout < 1,
        )  # fmt: skip


class Kernelised(nn.Module):
    """The weights of a dense layer: A times a kernel of its inputs' and outputs' places.

    Args:
        inputs, outputs: X and Y.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.source = nn.Parameter(torch.empty(inputs, KERNEL_DIM))
        self.target = nn.Parameter(torch.empty(outputs, KERNEL_DIM))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier weights, zero biases, kernels near 1."""
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)
        for place in (self.source, self.target):
            nn.init.normal_(place, std=KERNEL_INIT)

    def forward(self) -> tuple[Tensor, Tensor]:
        """`A * K` and `K`, both `[X, Y]`."""
        source_XE, target_YE = self.source, self.target
        square_XY = source_XE.square().sum(1, keepdim=True) + target_YE.square().sum(1)
        kernel_XY = (1 - (square_XY - 2 * source_XE @ target_YE.T)).clamp(min=0)
        return self.weight * kernel_XY, kernel_XY


class SparseFC(GradientModel):
    """Deep autoencoder of each item's ratings with kernelised weights."""

    Config = SparseFCConfig
    recipe = Recipe(epochs=100, batch_size=256, lr=1e-3, patience=10)
    needs = frozenset({"interactions", "rating"})
    answers = frozenset({"known_user", "history", "similar_items", "rating"})
    monitor = "rmse"
    hidden: Tensor
    column: Tensor

    def __init__(self, config: SparseFCConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: SparseFCConfig = config
        self.center = Bias(BiasConfig(), spec)
        self.first = Kernelised(spec.n_users, config.dim)
        self.second = Kernelised(config.dim, config.dim)
        self.output = Kernelised(config.dim, spec.n_users)
        # What the net comes to: items' h_2 and users' columns of V.
        self.register_buffer("hidden", torch.zeros(spec.n_items, config.dim))
        self.register_buffer("column", torch.zeros(spec.n_users, config.dim))
        self._items: Ratings | None = None

    def start(self, data: Dataset) -> None:
        super().start(data)
        bias_model(self.config.center, data, self.center)
        self._items = all_items(self.center, data)

    def _fit(self, data: Dataset, job: Job) -> list[Epoch]:
        records = super()._fit(data, job)
        self.eval()
        self._encode()
        self._items = None
        return records

    def batches(self, data: Dataset, rng: torch.Generator, size: int) -> Iterator[Ratings]:
        return item_batches(self.center, data, rng, size)

    def loss(self, batch: Ratings) -> Tensor:
        layers = [layer() for layer in (self.first, self.second, self.output)]
        hidden_BD = self._hidden(batch.columns, batch.value, layers[0][0], layers[1][0])
        rebuilt_BU = torch.addmm(self.output.bias, hidden_BD, layers[2][0])
        error = F.mse_loss(rebuilt_BU[batch.columns.row_of_value, batch.columns.values], batch.value)
        size: Tensor = sum(
            (
                self.config.reg * layer.weight.square().sum() + self.config.kernel_reg * kernel.square().sum()
                for layer, (_, kernel) in zip((self.first, self.second, self.output), layers, strict=True)
            ),
            torch.zeros(()),
        )
        return error + size / self.spec.n_items / max(1.0, batch.columns.lengths.float().mean().item())

    def _hidden(self, columns: Ragged, value: Tensor, first_UD: Tensor, second_DD: Tensor) -> Tensor:
        """h_2, `[B, D]`."""
        dropout = self.config.dropout if self.training else 0.0
        hidden_BD = torch.sigmoid(sum_rows(first_UD, columns, value, dropout) + self.first.bias)
        return torch.sigmoid(torch.addmm(self.second.bias, hidden_BD, second_DD))

    def train(self, mode: bool = True) -> SparseFC:
        """As in torch; on the way to eval while fitting, the items are encoded anew."""
        super().train(mode)
        if not mode and self._items is not None:
            self._encode()
        return self

    @torch.no_grad()
    def _encode(self) -> None:
        if self._items is not None:
            self.hidden = self._hidden(self._items.columns, self._items.value, self.first()[0], self.second()[0])
            self.column = self.output()[0].T.contiguous()

    def _score(self, queries: Queries) -> Tensor:
        # In training `reg` holds a column against all of its user's ratings together, dropout against each.
        noise = NOISE * self.config.dropout / (1 - self.config.dropout)
        penalty_B = max(self.config.reg, 1e-6) / queries.history.lengths.clamp(min=1) + noise
        column_BD, bias_B = people(self.center, queries, self.hidden, self.column, self.output.bias, penalty_B)
        return self.center.mean + bias_B.unsqueeze(1) + self.center.item_bias + column_BD @ self.hidden.T

    def item_vectors(self) -> Tensor:
        return self.hidden
