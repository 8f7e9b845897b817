"""What the rating autoencoders share: sparse rows of centred ratings, their squared error, and user columns by ridge.

A centred rating is r - m_ui, with m_ui = mean + b_u + b_i (`palate.models.baselines.bias`), or the mean alone.

Legend: B queries or rows of a batch, N items, U users, C columns, T ratings of all rows, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from palate.data.dataset import Dataset, Queries, Spec
from palate.data.ragged import Ragged
from palate.models.baselines.bias import Bias, BiasConfig
from palate.models.mf.fold_in import ridge


@dataclass(frozen=True, eq=False)
class RatingRows:
    """Sparse rows of a rating matrix.

    Attributes:
        columns: Column indices, one row each.
        value: Centred ratings, float32 `[T]`, aligned with `columns.values`.
        weight: Sample weights, float32 `[T]`, aligned with `columns.values`, if the data has them.
    """

    columns: Ragged
    value: Tensor
    weight: Tensor | None = None

    def __len__(self) -> int:
        return len(self.columns)

    def take(self, rows: Tensor) -> RatingRows:
        """The given rows, in the given order."""
        places = self.columns.positions(rows)
        weight = None if self.weight is None else self.weight[places]
        return RatingRows(self.columns.take(rows), self.value[places], weight)

    def squared_error(self, predicted_BC: Tensor) -> Tensor:
        """Mean of `(value - predicted)^2` over the ratings, weighted by `weight` if there is one, a scalar.

        Args:
            predicted_BC: Predictions for all columns.
        """
        place_T = self.columns.row_of_value * predicted_BC.shape[1] + self.columns.values
        error_T = (predicted_BC.flatten().index_select(0, place_T) - self.value).square()
        if self.weight is None:
            return error_T.mean()
        return (error_T * self.weight).sum() / self.weight.sum().clamp(min=torch.finfo(error_T.dtype).tiny)

    @property
    def total_weight(self) -> float:
        """Number of ratings, or sum of their weights."""
        return len(self.value) if self.weight is None else float(self.weight.sum())

    @property
    def weight_per_row(self) -> float:
        """Mean number of ratings of a row, or mean sum of their weights; at least 1."""
        return max(1.0, self.total_weight / max(1, len(self)))


@dataclass(frozen=True, eq=False)
class RatingBatch:
    """A batch of rows.

    Attributes:
        inputs: What the encoder reads, B rows.
        targets: What the loss is measured on, B rows, none empty; `inputs` itself for training data.
    """

    inputs: RatingRows
    targets: RatingRows

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: Tensor) -> RatingBatch:
        """Some of the rows."""
        inputs = self.inputs.take(rows)
        return RatingBatch(inputs, inputs if self.targets is self.inputs else self.targets.take(rows))


@dataclass(frozen=True, eq=False)
class RatingContext:
    """Fit context of the rating autoencoders.

    Attributes:
        data: The rows to learn from or, for the loss on a validation part, those of the part.
        inputs: A row for each user (or each item): the training data or, for a validation part, its `history`.
        targets: Rows of `data`, for the same users (or items).
    """

    data: Dataset
    inputs: RatingRows
    targets: RatingRows

    def batches(self, rng: torch.Generator, size: int) -> Iterator[RatingBatch]:
        """All rows with targets once, in random order.

        Args:
            rng: Decides the order.
            size: Rows in a batch; the last one may be shorter.
        """
        rows = self.targets.columns.lengths.nonzero().squeeze(1)
        for batch in torch.split(rows[torch.randperm(len(rows), generator=rng)], size):
            inputs = self.inputs.take(batch)
            yield RatingBatch(inputs, inputs if self.targets is self.inputs else self.targets.take(batch))


def rating_context(data: Dataset, center: Bias, by: Literal["user", "item"]) -> RatingContext:
    """The fit context of a data set.

    Args:
        data: Training data, or a validation part.
        center: Gives m_ui; already fitted.
        by: Whether rows are users (their columns are items) or items (their columns are users).
    """
    targets = centered_rows(data, center, by)
    return RatingContext(data, targets if data.history is None else centered_rows(data.history, center, by), targets)


def centered_rows(data: Dataset, center: Bias, by: Literal["user", "item"]) -> RatingRows:
    """All ratings of a data set, centred, as a row for each user or for each item."""
    assert data.rating is not None  # `needs` holds rating
    user, item = (torch.from_numpy(column.astype(np.int64)) for column in (data.user, data.item))
    mean, user_bias, item_bias = (each.cpu() for each in (center.mean, center.user_bias, center.item_bias))
    value = torch.from_numpy(np.array(data.rating)) - mean - user_bias[user] - item_bias[item]
    weight = None if data.weight is None else torch.from_numpy(np.array(data.weight))
    if by == "user":
        return RatingRows(data.histories, value, weight)
    order, offsets = (torch.from_numpy(column) for column in data.by_item)
    return RatingRows(Ragged(user[order], offsets), value[order], None if weight is None else weight[order])


def center_model(center: bool, spec: Spec) -> Bias:
    """The model of m_ui: mean, user and item biases, or the mean alone, which is a `Bias` with infinite shrinkage."""
    return Bias(BiasConfig() if center else BiasConfig(user_shrink=math.inf, item_shrink=math.inf), spec)


def centered_history(center: Bias, queries: Queries, bias_B1: Tensor) -> Tensor:
    """The history's ratings, centred, float32 `[T]`; 1 for each item if the history has no ratings.

    Args:
        center: Gives mean and b_i.
        queries: The B questions.
        bias_B1: b_u of each, as `center.represent` gives it.
    """
    item = queries.history.values
    if queries.ratings is None:
        return center.mean.new_ones(len(item))
    return queries.ratings - center.mean - bias_B1[queries.history.row_of_value, 0] - center.item_bias[item]


def known_user_columns(center: Bias, user_B: Tensor, column_UD: Tensor, bias_U: Tensor) -> Tensor:
    """Trained users as models that encode items represent them: column of V and, last, b_u + c_u, `[B, D + 1]`.

    Args:
        center: Gives b_u.
        user_B: User indices.
        column_UD, bias_U: V and c of the decoder.
    """
    return torch.cat([column_UD[user_B], (center.user_bias[user_B] + bias_U[user_B]).unsqueeze(1)], dim=1)


def folded_user_columns(center: Bias, queries: Queries, hidden_ND: Tensor, penalty_B: Tensor) -> Tensor:
    """As `known_user_columns`, for users known only by a history: the column by ridge regression, c_u = 0.

    Args:
        center: m.
        queries: The B questions.
        hidden_ND: Encoded items.
        penalty_B: L2 of the column for each rating of the history.
    """
    bias_B1 = center.represent(queries.anonymous())
    target_T = centered_history(center, queries, bias_B1)
    penalty_BD = penalty_B.unsqueeze(1).expand(-1, hidden_ND.shape[1])
    return torch.cat([ridge(queries.history, hidden_ND, target_T, penalty_BD), bias_B1], dim=1)


def score_columns(center: Bias, row_BD: Tensor, hidden_ND: Tensor) -> Tensor:
    """Ratings of all items, `[B, N]`, from the rows of `known_user_columns` and `folded_user_columns`."""
    return center.mean + row_BD[:, -1:] + center.item_bias + row_BD[:, :-1] @ hidden_ND.T
