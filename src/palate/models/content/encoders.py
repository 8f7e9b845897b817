"""ContentEncoder: features of items or users -> vectors, trained end to end with the model that contains it.

encode(x) = A h + B dropout(relu(C h)),  h = dropout(norm([h_1; ...; h_K]))     with one part h_k for each column:

number, date   W x
category       a vector for each value
tags           sum_t w_t e_t / |w|, w_t = idf(t)
text           TextCNN (`palate.models.content.encoders_text`); with text="bag" as tags, w_t = (1 + log tf) idf
image          ImageCNN (`palate.models.content.encoders_image`)
vector         W x', x' = x scaled to mean 0 and variance 1

norm is batch normalisation (Ioffe and Szegedy 2015). Without it, what all items have in common would hide what
distinguishes them. The part of an unknown value is a learned vector. During training, values are hidden at random, so
that this vector is learned even if the training rows are complete.

Legend: N rows, X width of all parts, D width of the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.data.features.schema import Column, FeatureBatch, FeatureSchema
from palate.device import module_device
from palate.errors import ConfigError, DataError
from palate.models.content.encoders_image import ImageCNN
from palate.models.content.encoders_text import Bag, TextCNN

NUMBER_WIDTH = 8
"""Width of the part of a number or date."""
HIDDEN_SHARE = 0.05
"""Share of a column's values that are hidden during training, if there are other columns."""
ROWS_PER_BLOCK = 256
"""Rows that `encode_all` encodes at once."""
TextEncoder = Literal["cnn", "bag"]
CONTENT_GRADIENTS = frozenset({"features", "text", "image"})
"""`palate.models.base.Model.gradients` of models that read content by column encoders; 0 for unread columns."""


class ContentEncoder(nn.Module):
    """Encodes rows of features as vectors.

    Args:
        features: How the columns are encoded.
        dim: Width of the vectors.
        columns: Names of the columns to read. Defaults to all.
        text: How texts are read: "cnn", or "bag" (bag of words: fast, ignores the order of words).
        words: Width of TextCNN's word vectors.
        dropout: Share of the entries dropped during training.

    Attributes:
        columns: One `ColumnEncoder` for each column, in table order.
        has_cnn: Whether a CNN reads a column, so that a training step should encode few rows.

    Raises:
        ConfigError: `columns` names a column that does not exist.
        DataError: There are no columns.
    """

    def __init__(
        self,
        features: FeatureSchema,
        dim: int,
        *,
        columns: Sequence[str] = (),
        text: TextEncoder = "cnn",
        words: int = 64,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        chosen = [(column, place) for column, place in column_slices(features) if not columns or column.name in columns]
        unknown = set(columns) - {column.name for column in features.columns}
        if unknown:
            there = ", ".join(column.name for column in features.columns) or "none"
            raise ConfigError(f"columns = {', '.join(sorted(unknown))}: there is no such column; there are: {there}")
        if not chosen:
            raise DataError("there is no column to read content from; give a table with features")
        hidden = HIDDEN_SHARE if len(chosen) > 1 else 0.0
        encoders = [ColumnEncoder(column, place, dim, text, words, dropout, hidden) for column, place in chosen]
        self.columns = nn.ModuleList(encoders)
        self.has_cnn = any(isinstance(each.encoder, TextCNN | ImageCNN) for each in encoders)
        self.dropout = nn.Dropout(dropout)
        width = sum(each.width for each in encoders)
        self.norm = nn.BatchNorm1d(width)
        self.linear = nn.Linear(width, dim)
        self.hidden, self.output = nn.Linear(width, 2 * dim), nn.Linear(2 * dim, dim)

    def forward(self, encoded: FeatureBatch) -> Tensor:
        """`[N, D]`."""
        h_NX = torch.cat([each(encoded) for each in self.columns], dim=1)
        # A single row has no variance.
        h_NX = self.dropout(self.norm(h_NX) if len(h_NX) > 1 or not self.training else h_NX)
        vector_ND: Tensor = self.linear(h_NX) + self.output(self.dropout(F.relu(self.hidden(h_NX))))
        return vector_ND

    def load_words(self, path: str | Path) -> None:
        """Start the words of all text columns from pre-trained vectors; see `TextCNN.load_words`."""
        for each in self.columns:
            if isinstance(each.encoder, TextCNN):
                each.encoder.load_words(path)


class ColumnEncoder(nn.Module):
    """Encodes one column, `[N, width]`; an unknown value has a learned vector.

    Args:
        column: How the column is encoded.
        place: Its position among the numbers or the categories; see `column_slices`.
        dim, text, words, dropout: As in `ContentEncoder`.
        hidden: Share of its values hidden during training.
    """

    def __init__(
        self, column: Column, place: slice, dim: int, text: TextEncoder, words: int, dropout: float, hidden: float
    ) -> None:
        super().__init__()
        self.column, self.place, self.hidden = column, place, hidden
        self.width = NUMBER_WIDTH if column.kind in ("number", "date") else dim
        self.encoder: Any = _value_encoder(column, self.width, text, words, dropout)
        self.unknown = nn.Parameter(torch.zeros(self.width))

    def reset_parameters(self) -> None:
        """Set the vector of unknown values to zero."""
        nn.init.zeros_(self.unknown)

    def known(self, encoded: FeatureBatch) -> Tensor:
        """Which rows have a value, bool `[N]`."""
        kind, name = self.column.kind, self.column.name
        if kind in ("number", "date"):
            return encoded.known[:, self.place].any(1)
        if kind == "category":
            return encoded.categories[:, self.place.start] > 0
        if kind == "image":
            return encoded.images[name].row >= 0
        if kind == "vector":
            return ~encoded.vectors[name].isnan().any(1)
        return (encoded.tags if kind == "tags" else encoded.text)[name].lengths > 0

    def values(self, encoded: FeatureBatch, rows: Tensor) -> Any:
        """The encoder's input for some rows."""
        kind, name = self.column.kind, self.column.name
        if kind in ("number", "date"):
            return encoded.numbers[rows, self.place]
        if kind == "category":
            return encoded.categories[rows, self.place.start]
        if kind == "image":
            images = encoded.images[name]
            return torch.from_numpy(images.pixels[images.row[rows].cpu().numpy()]).to(rows.device)
        if kind == "vector":
            vector = encoded.vectors[name][rows]
            return F.layer_norm(vector, vector.shape[1:])
        return (encoded.tags if kind == "tags" else encoded.text)[name].take(rows)

    def forward(self, encoded: FeatureBatch) -> Tensor:
        """`[N, width]`."""
        known = self.known(encoded)
        if self.training and self.hidden:
            known = known & (torch.rand(len(known), device=known.device) >= self.hidden)
        rows = known.nonzero().squeeze(1)
        unknown_ND = self.unknown.expand(len(known), -1)
        if not len(rows):
            return unknown_ND
        return unknown_ND.index_copy(0, rows, self.encoder(self.values(encoded, rows)))


def column_slices(features: FeatureSchema) -> list[tuple[Column, slice]]:
    """The columns with each one's position among the numbers or the categories of a `FeatureBatch`."""
    numbers = features.of("number", "date")
    starts = [0, *accumulate(len(column.mean) for column in numbers)]
    place = {
        column.name: slice(start, start + len(column.mean)) for column, start in zip(numbers, starts, strict=False)
    }
    place |= {column.name: slice(at, at + 1) for at, column in enumerate(features.of("category"))}
    return [(column, place.get(column.name, slice(0, 0))) for column in features.columns]


def _value_encoder(column: Column, width: int, text: TextEncoder, words: int, dropout: float) -> nn.Module:
    if column.kind in ("number", "date"):
        return nn.Linear(len(column.mean), width)
    if column.kind == "category":
        return nn.Embedding(len(column.values) + 1, width)
    if column.kind == "image":
        return ImageCNN(column.size, width)
    if column.kind == "vector":
        return nn.Linear(column.size[0], width)
    if column.kind == "text" and text == "cnn":
        return TextCNN(column.values, width, words=words, dropout=dropout)
    return Bag(column, width)


def encode_all(encoder: nn.Module, encoded: FeatureBatch, block: int = ROWS_PER_BLOCK) -> Tensor:
    """Vectors of all rows, `[N, D]`: in eval mode, without gradients and in blocks of bounded memory.

    Args:
        encoder: Encodes rows as vectors; its mode is restored.
        encoded: The rows.
        block: Rows encoded at once.
    """
    training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            rows = torch.arange(len(encoded), device=module_device(encoder)).split(block)  # type: ignore[no-untyped-call]
            return torch.cat([encoder(encoded.take(some)) for some in rows])
    finally:
        encoder.train(training)
