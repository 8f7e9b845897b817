"""Ragged: rows of unequal length as values and offsets (histories, candidate lists)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of unequal length.

    Attributes:
        values: All rows one after another, `[total]`.
        offsets: int64 `[rows + 1]`; row r is `values[offsets[r]:offsets[r + 1]]`.
    """

    values: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Ragged:
        """From plain lists."""
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        values = torch.tensor([v for row in rows for v in row], dtype=torch.int64)
        return cls.from_lengths(values, lengths)

    @classmethod
    def from_lengths(cls, values: Tensor, lengths: Tensor) -> Ragged:
        """From values and the length of each row, int64 `[rows]`."""
        offsets = torch.zeros(len(lengths) + 1, dtype=torch.int64, device=lengths.device)
        torch.cumsum(lengths, 0, out=offsets[1:])
        return cls(values, offsets)

    @classmethod
    def empty(cls, rows: int) -> Ragged:
        """Empty rows."""
        return cls(torch.empty(0, dtype=torch.int64), torch.zeros(rows + 1, dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Tensor:
        row = range(len(self))[row]
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> Tensor:
        """Length of each row, int64 `[rows]`."""
        return self.offsets[1:] - self.offsets[:-1]

    @property
    def row_of_value(self) -> Tensor:
        """The row of each value, int64 `[total]`."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.offsets.device), self.lengths)

    @property
    def place_of_value(self) -> Tensor:
        """The position of each value in its row, from 0, int64 `[total]`."""
        return torch.arange(len(self.values), device=self.offsets.device) - self.offsets[self.row_of_value]

    def shuffled(self, rng: torch.Generator) -> Ragged:
        """The same rows, the values of each in random order."""
        order = torch.randperm(len(self.values), generator=rng)
        order = order[torch.argsort(self.row_of_value[order], stable=True)]
        return Ragged(self.values[order], self.offsets)

    def take(self, rows: Tensor) -> Ragged:
        """The given rows, in the given order; a row may be repeated."""
        lengths = self.lengths[rows]
        return Ragged.from_lengths(self.values[self.positions(rows)], lengths)

    def positions(self, rows: Tensor) -> Tensor:
        """Positions in `values` of the values of the given rows, one row after another, int64."""
        return ranges(self.offsets[:-1][rows], self.lengths[rows])

    def keep(self, mask: Tensor) -> Ragged:
        """The same rows with only the values for which `mask` (bool `[total]`) is true."""
        counts = torch.zeros(len(self.values) + 1, dtype=torch.int64, device=self.values.device)
        torch.cumsum(mask, 0, out=counts[1:])
        return Ragged(self.values[mask], counts[self.offsets])

    def padded(self, length: int, fill: int) -> Tensor:
        """The last `length` values of each row, left-aligned, `[rows, length]`, padded with `fill`."""
        out = torch.full((len(self), length), fill, dtype=self.values.dtype, device=self.values.device)
        row, place = self.row_of_value, self.place_of_value
        skip = (self.lengths - length).clamp(min=0)[row]
        keep = place >= skip
        out[row[keep], (place - skip)[keep]] = self.values[keep]
        return out

    def rows(self, start: int, stop: int) -> Ragged:
        """The rows `start` to `stop - 1`, without copying the values."""
        offsets = self.offsets[start : stop + 1]
        return Ragged(self.values[offsets[0] : offsets[-1]], offsets - offsets[0])


def ranges(start: Tensor, length: Tensor) -> Tensor:
    """The numbers `start[r]` to `start[r] + length[r] - 1` of each row r, one row after another, int64.

    Args:
        start, length: int64 `[rows]`.
    """
    ends = torch.cumsum(length, 0)
    total = int(ends[-1]) if len(ends) else 0
    shift = torch.repeat_interleave(start - ends + length, length, output_size=total)
    return torch.arange(total, device=ends.device) + shift


@dataclass(frozen=True, eq=False)
class MaskedHistories(Ragged):
    """Many versions of one history: each row keeps some of its values, or weights them.

    Models read it as any other `Ragged`; `palate.models.layers.sum_rows` knows that only L rows of a table are needed.

    Attributes:
        whole: The history, `[L]`.
        mask: Which of its values each row holds, bool `[rows, L]`.
        weight: A factor for each value, float32 `[rows, L]`, which gradients flow through; the rows then hold all
            values. Defaults to none.
    """

    whole: Tensor
    mask: Tensor
    weight: Tensor | None = None

    @classmethod
    def masked(cls, whole: Tensor, mask: Tensor) -> MaskedHistories:
        """One row for each mask, bool `[rows, L]`, with the values where it holds."""
        rows = Ragged.from_lengths(whole.expand(len(mask), -1)[mask], mask.sum(1))
        return cls(rows.values, rows.offsets, whole, mask)

    @classmethod
    def weighted(cls, whole: Tensor, weight: Tensor) -> MaskedHistories:
        """One row for each row of weights, float32 `[rows, L]`, with all values."""
        count = len(weight)
        rows = Ragged.from_lengths(whole.repeat(count), torch.full((count,), len(whole), device=whole.device))
        return cls(rows.values, rows.offsets, whole, torch.ones_like(weight, dtype=torch.bool), weight)
