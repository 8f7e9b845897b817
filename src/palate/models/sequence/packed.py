"""Packed: histories of unequal length one after another, so that nothing is computed for padding.

Legend: B histories, T events of all histories, L longest history, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from palate.data.ragged import Ragged

ROWS_PER_GROUP = 16
"""Histories that are padded to a common length at once."""


@dataclass(frozen=True, eq=False)
class Packed:
    """Where each event of B histories stands.

    Attributes:
        offsets: Row r has the events `offsets[r]` to `offsets[r + 1] - 1`, int64 `[B + 1]`.
    """

    offsets: Tensor

    @cached_property
    def lengths(self) -> Tensor:
        """Events of each history, int64 `[B]`."""
        return self.offsets[1:] - self.offsets[:-1]

    @cached_property
    def row(self) -> Tensor:
        """The history of each event, int64 `[T]`."""
        return torch.repeat_interleave(torch.arange(len(self.lengths), device=self.offsets.device), self.lengths)

    @cached_property
    def place(self) -> Tensor:
        """The place of each event in its history, from 0, int64 `[T]`."""
        return torch.arange(len(self.row), device=self.offsets.device) - self.offsets[self.row]

    @cached_property
    def longest(self) -> int:
        """L."""
        return int(self.lengths.max()) if len(self.lengths) else 0

    @cached_property
    def cell(self) -> Tensor:
        """The cell of each event in a table of B rows and L columns, int64 `[T]`."""
        return self.row * self.longest + self.place

    @cached_property
    def groups(self) -> list[tuple[slice, Packed]]:
        """The events of every `ROWS_PER_GROUP` histories, and where they stand: histories of like length pad little."""
        bounds = [*range(0, len(self.lengths), ROWS_PER_GROUP), len(self.lengths)]
        ends = self.offsets[torch.tensor(bounds)].tolist()
        return [
            (slice(*ends[place : place + 2]), Packed(self.offsets[first : last + 1] - self.offsets[first]))
            for place, (first, last) in enumerate(pairwise(bounds))
            if ends[place] < ends[place + 1]
        ]

    def pad(self, value_TD: Tensor) -> Tensor:
        """The events left-aligned, `[B, L, D]`; zeros after the last. A causal model never reads them."""
        empty = value_TD.new_zeros(len(self.lengths) * self.longest, value_TD.shape[1])
        return empty.index_copy(0, self.cell, value_TD).view(len(self.lengths), self.longest, -1)

    def unpad(self, value_BLD: Tensor) -> Tensor:
        """The inverse of `pad`, `[T, D]`."""
        return value_BLD.reshape(-1, value_BLD.shape[-1]).index_select(0, self.cell)

    def before(self, steps: int) -> tuple[Tensor, Tensor]:
        """The event that many places before each event.

        Returns:
            Its index, int64 `[T]`, and whether it exists, bool `[T]`; where it does not, the index is any.
        """
        exists = self.place >= steps
        index = torch.arange(len(exists), device=exists.device) - steps
        return index.clamp(min=0), exists


def newest(history: Ragged, length: int) -> tuple[Tensor, Packed]:
    """The newest `length` events of each history: their positions in `history.values`, int64 `[T]`, and their rows."""
    kept = history.lengths.clamp(max=length)
    offsets = torch.zeros(len(kept) + 1, dtype=torch.int64, device=kept.device)
    torch.cumsum(kept, 0, out=offsets[1:])
    rows = Packed(offsets)
    return rows.place + (history.offsets[1:] - kept)[rows.row], rows
