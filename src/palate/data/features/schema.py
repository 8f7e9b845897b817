"""Features of items or users: `FeatureSchema` says how columns are encoded, `FeatureBatch` holds the tensors.

`palate.data.features.encode` makes both from tables. Missing is never zero: every kind has its own code for "unknown".

Legend: N rows, X numbers, C categories, V width of a vector, M images.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from palate.data.features.infer import Kind
from palate.data.ragged import Ragged
from palate.device import to_device


@dataclass(frozen=True, kw_only=True)
class Column:
    """How one column is encoded, learned from the training rows; JSON-able.

    Attributes:
        name: Of the column in the table.
        kind: What it holds.
        values: category, tags: the known values, index 1 onwards; text: the vocabulary, likewise. 0 is unknown.
        mean, std: number: of the known values; date: of each of its parts. vector: `std` is the median length of the
            known vectors.
        idf: text, tags: the inverse document frequency of each of `values`.
        size: image: channels, height, width; vector: its width.
        length: text: number of tokens that are kept.
        separator: tags within one text: the separator; "" for lists.
    """

    name: str
    kind: Kind
    values: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    idf: tuple[float, ...] = ()
    size: tuple[int, ...] = ()
    length: int = 0
    separator: str = ""


@dataclass(frozen=True, kw_only=True)
class FeatureSchema:
    """The columns of one table, in table order."""

    columns: tuple[Column, ...] = ()

    def of(self, *kinds: Kind) -> tuple[Column, ...]:
        """The columns of these kinds, in order."""
        return tuple(column for column in self.columns if column.kind in kinds)


@dataclass(frozen=True, eq=False)
class Images:
    """Images of N rows; the pixels may stay on disk.

    Attributes:
        pixels: uint8 `[M, channels, height, width]`, an array or a read-only memory map (`pixels[rows]` is a copy).
        row: Position of each row's image in `pixels`, int64 `[N]`; -1 for no image.
    """

    pixels: np.ndarray
    row: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class FeatureBatch:
    """N rows of features.

    Attributes:
        numbers: Standardised, float32 `[N, X]`; 0 where unknown. A number is one column of X, a date several.
        known: Which numbers are known, bool `[N, X]`.
        categories: int64 `[N, C]`; 0 where unknown.
        tags: Column -> distinct values of each row; 0 stands for values that do not occur in training.
        text: Column -> tokens of each row, in order; 0 stands for words that do not occur in training.
        images: Column -> images.
        vectors: Column -> vectors, float32 `[N, V]`; a row of NaN where unknown.
        notes: Counts of what could not be used of the table, in words.
    """

    numbers: Tensor
    known: Tensor
    categories: Tensor
    tags: dict[str, Ragged] = field(default_factory=dict)
    text: dict[str, Ragged] = field(default_factory=dict)
    images: dict[str, Images] = field(default_factory=dict)
    vectors: dict[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: Tensor) -> FeatureBatch:
        """The given rows, in the given order, on the device of `rows`."""
        device, rows = rows.device, rows.to(self.numbers.device)
        taken = FeatureBatch(
            numbers=self.numbers[rows],
            known=self.known[rows],
            categories=self.categories[rows],
            tags={name: ragged.take(rows) for name, ragged in self.tags.items()},
            text={name: ragged.take(rows) for name, ragged in self.text.items()},
            images={name: Images(images.pixels, images.row[rows]) for name, images in self.images.items()},
            vectors={name: vector[rows] for name, vector in self.vectors.items()},
        )
        return to_device(taken, device)

    def without(self, rows: Tensor) -> FeatureBatch:
        """The same rows, with all features of the rows in a mask (bool `[N]`) unknown."""
        keep = ~rows
        return replace(
            self,
            numbers=self.numbers * keep[:, None],
            known=self.known & keep[:, None],
            categories=self.categories * keep[:, None],
            tags={name: ragged.keep(keep[ragged.row_of_value]) for name, ragged in self.tags.items()},
            text={name: ragged.keep(keep[ragged.row_of_value]) for name, ragged in self.text.items()},
            images={name: Images(i.pixels, torch.where(rows, -1, i.row)) for name, i in self.images.items()},
            vectors={name: vector.masked_fill(rows[:, None], torch.nan) for name, vector in self.vectors.items()},
        )

    @property
    def any_known(self) -> Tensor:
        """The rows with at least one known feature, bool `[N]`."""
        found = self.known.any(1) | (self.categories > 0).any(1)
        for ragged in (*self.tags.values(), *self.text.values()):
            found = found | (ragged.lengths > 0)
        for images in self.images.values():
            found = found | (images.row >= 0)
        for vector in self.vectors.values():
            found = found | ~vector.isnan().any(1)
        return found


def nothing_known(features: FeatureSchema, rows: int) -> FeatureBatch:
    """A batch of rows whose features are all unknown.

    Args:
        features: The schema.
        rows: Number of rows.
    """
    numbers = sum(len(column.mean) for column in features.of("number", "date"))
    return FeatureBatch(
        numbers=torch.zeros(rows, numbers),
        known=torch.zeros(rows, numbers, dtype=torch.bool),
        categories=torch.zeros(rows, len(features.of("category")), dtype=torch.int64),
        tags={column.name: Ragged.empty(rows) for column in features.of("tags")},
        text={column.name: Ragged.empty(rows) for column in features.of("text")},
        images={
            column.name: Images(np.empty((0, *column.size), dtype=np.uint8), torch.full((rows,), -1))
            for column in features.of("image")
        },
        vectors={column.name: torch.full((rows, column.size[0]), torch.nan) for column in features.of("vector")},
    )
