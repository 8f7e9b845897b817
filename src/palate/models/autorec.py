"""AutoRec: autoencoders of rating vectors (Sedhain et al. 2015).

u-autorec:  prediction(u, i) = m_ui + (V g(W (r_u - m_u) + b) + c)_i     reads a user's ratings, rebuilds them
i-autorec:  prediction(u, i) = m_ui + (V g(W (r_i - m_i) + b) + c)_u     reads an item's ratings, rebuilds them
m_ui = mean + b_u + b_i with `center` (the biases of `bias`), the mean alone without;  g = sigmoid

loss = mean over the observed ratings of (r - prediction)^2 + reg / 2 * (|W|^2 + |V|^2) / n
n is the number of rows in all times the mean number of ratings of a row in the batch: about the number of ratings.
An unobserved rating enters as 0 after centring, and no loss falls on it.

A history is answered by u-autorec directly. i-autorec gives every user a column of V; a new person's column is the
ridge solution over the items' hidden vectors.

Legend: B rows of a batch, R rows in all (users or items), C columns (the other side), D width, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.config import Recipe, check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.ragged import Ragged
from palate.models.base import GradientModel
from palate.models.bias import Bias, BiasConfig
from palate.models.fold_in import ridge
from palate.models.layers import sum_rows
from palate.training.loop import Epoch, Job

RIDGE = 0.05
"""L2 of a folded-in column of i-autorec, for each rating of the history."""


@dataclass(frozen=True, kw_only=True)
class AutoRecConfig:
    """Settings of `u-autorec` and `i-autorec`."""

    dim: int = 500
    """Width of the hidden layer."""
    reg: float = 1.0
    """L2 on both matrices."""
    dropout: float = 0.0
    """Share of the input ratings left out, drawn anew each time."""
    center: bool = True
    """Whether user and item biases are taken out first; False takes out the mean alone."""

    def __post_init__(self) -> None:
        check(self, dim=self.dim >= 1, reg=self.reg >= 0, dropout=0 <= self.dropout < 1)


@dataclass(frozen=True, eq=False)
class Ratings:
    """A batch of rows: whose they are, which columns they have a rating in, and the centred ratings.

    Attributes:
        row: int64 `[B]`.
        columns: Column indices, B rows.
        value: float32 `[total]`, ratings less m, aligned with `columns.values`.
    """

    row: Tensor
    columns: Ragged
    value: Tensor

    def __len__(self) -> int:
        return len(self.row)


class Net(nn.Module):
    """`V g(W x + b) + c` on sparse rows.

    Args:
        rows: R, whose number scales the L2.
        columns: C.
        config: Width, L2, dropout.
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
        """Xavier weights, zero biases."""
        nn.init.xavier_uniform_(self.encoder)
        nn.init.zeros_(self.encoder_bias)
        self.decoder.reset_parameters()

    def hidden(self, columns: Ragged, value: Tensor) -> Tensor:
        """`g(W x + b)`, `[B, D]`."""
        dropout = self.config.dropout if self.training else 0.0
        return torch.sigmoid(sum_rows(self.encoder, columns, value, dropout) + self.encoder_bias)

    def loss(self, batch: Ratings) -> Tensor:
        """Squared error over the observed ratings, and the L2 share of this batch's rows."""
        rebuilt_BC = self.decoder(self.hidden(batch.columns, batch.value))
        observed = rebuilt_BC[batch.columns.row_of_value, batch.columns.values]
        error = F.mse_loss(observed, batch.value)
        size = self.encoder.square().sum() + self.decoder.weight.square().sum()
        return error + 0.5 * self.config.reg * size / max(1, self.rows) / max(
            1.0, batch.columns.lengths.float().mean().item()
        )


class UAutoRec(GradientModel):
    """Autoencoder of each user's ratings."""

    Config = AutoRecConfig
    recipe = Recipe(epochs=100, batch_size=256, lr=1e-3, patience=10)
    needs = frozenset({"interactions", "rating"})
    answers = frozenset({"known_user", "history", "similar_items", "rating"})
    monitor = "rmse"

    def __init__(self, config: AutoRecConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: AutoRecConfig = config
        self.center = Bias(BiasConfig(), spec)
        self.net = Net(spec.n_users, spec.n_items, config)

    def start(self, data: Dataset) -> None:
        super().start(data)
        bias_model(self.config.center, data, self.center)

    def batches(self, data: Dataset, rng: torch.Generator, size: int) -> Iterator[Ratings]:
        value = of_rows(self.center, data)
        yield from _shuffled(data.histories, value, torch.from_numpy(data.active_users), rng, size)

    def loss(self, batch: Ratings) -> Tensor:
        return self.net.loss(batch)

    def _score(self, queries: Queries) -> Tensor:
        bias_B = self.center.person(queries)
        rebuilt_BN = self.net.decoder(self.net.hidden(queries.history, of_history(self.center, queries, bias_B)))
        scores_BN: Tensor = self.center.mean + bias_B.unsqueeze(1) + self.center.item_bias + rebuilt_BN
        return scores_BN

    def item_vectors(self) -> Tensor:
        return self.net.decoder.weight.detach()


class IAutoRec(GradientModel):
    """Autoencoder of each item's ratings."""

    Config = AutoRecConfig
    recipe = Recipe(epochs=100, batch_size=256, lr=1e-3, patience=10)
    needs = frozenset({"interactions", "rating"})
    answers = frozenset({"known_user", "history", "similar_items", "rating"})
    monitor = "rmse"
    hidden: Tensor

    def __init__(self, config: AutoRecConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: AutoRecConfig = config
        self.center = Bias(BiasConfig(), spec)
        self.net = Net(spec.n_items, spec.n_users, config)
        self.register_buffer("hidden", torch.zeros(spec.n_items, config.dim))
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
        return self.net.loss(batch)

    def train(self, mode: bool = True) -> IAutoRec:
        """As in torch; on the way to eval while fitting, the items are encoded anew."""
        super().train(mode)
        if not mode and self._items is not None:
            self._encode()
        return self

    @torch.no_grad()
    def _encode(self) -> None:
        if self._items is not None:
            self.hidden = self.net.hidden(self._items.columns, self._items.value)

    def _score(self, queries: Queries) -> Tensor:
        decoder = self.net.decoder
        column_BD, bias_B = people(
            self.center, queries, self.hidden, decoder.weight, decoder.bias, torch.full((len(queries),), RIDGE)
        )
        return self.center.mean + bias_B.unsqueeze(1) + self.center.item_bias + column_BD @ self.hidden.T

    def item_vectors(self) -> Tensor:
        return self.hidden


def bias_model(center: bool, data: Dataset, into: Bias) -> None:
    """Learn m of the formula; without `center` the mean alone."""
    into.fit(data)
    if not center:
        into.user_bias.zero_()
        into.item_bias.zero_()


def of_rows(center: Bias, data: Dataset) -> Tensor:
    """Ratings less m of every row of a data set, float32 `[rows]`."""
    assert data.rating is not None  # `needs` was checked
    user, item = torch.from_numpy(data.user.astype(np.int64)), torch.from_numpy(data.item.astype(np.int64))
    rating = torch.from_numpy(np.ascontiguousarray(data.rating))
    return rating - center.mean - center.user_bias[user] - center.item_bias[item]


def of_history(center: Bias, queries: Queries, bias_B: Tensor) -> Tensor:
    """The history's ratings less m, float32 `[total]`; 1 for an item chosen without a rating."""
    if queries.ratings is None:
        return torch.ones(len(queries.history.values))
    item = queries.history.values
    return queries.ratings - center.mean - bias_B[queries.history.row_of_value] - center.item_bias[item]


def all_items(center: Bias, data: Dataset) -> Ratings:
    """Every item's row, in order, those without ratings included."""
    return next(_of_items(center, data, torch.arange(data.n_items), None, data.n_items))


def item_batches(center: Bias, data: Dataset, rng: torch.Generator, size: int) -> Iterator[Ratings]:
    """The rows of all items with ratings once, in random order."""
    return _of_items(center, data, torch.from_numpy(np.flatnonzero(data.item_counts)), rng, size)


def people(
    center: Bias, queries: Queries, hidden_ND: Tensor, column_UD: Tensor, bias_U: Tensor, penalty_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Each query's column of V, by ridge for a new person, and whole bias (c included), `[B, D]` and `[B]`.

    Args:
        center: m.
        queries: Who is asked about.
        hidden_ND: What the items are encoded to.
        column_UD, bias_U: V and c.
        penalty_B: L2 of a new person's column, for each rating of the history.
    """
    known_B = queries.user.clamp(min=0)
    column_BD, bias_B = column_UD[known_B], center.person(queries)
    new = (queries.user < 0).nonzero().squeeze(1)
    if len(new):
        asked = queries.take(new)
        target = of_history(center, asked, bias_B[new])
        column_BD[new] = ridge(
            asked.history, hidden_ND, target, penalty_B[new].unsqueeze(1).expand(-1, hidden_ND.shape[1])
        )
    return column_BD, bias_B + torch.where(queries.user >= 0, bias_U[known_B], torch.zeros(()))


def _of_items(center: Bias, data: Dataset, items: Tensor, rng: torch.Generator | None, size: int) -> Iterator[Ratings]:
    order, offsets = data.by_item
    value = of_rows(center, data)[torch.from_numpy(order)]
    audiences = Ragged(torch.from_numpy(data.user[order].astype(np.int64)), torch.from_numpy(offsets))
    return _shuffled(audiences, value, items, rng, size)


def _shuffled(rows: Ragged, value: Tensor, some: Tensor, rng: torch.Generator | None, size: int) -> Iterator[Ratings]:
    if rng is not None:
        some = some[torch.randperm(len(some), generator=rng)]
    for batch in torch.split(some, size):
        yield Ratings(batch, rows.take(batch), value[rows.positions(batch)])
