"""GrowingHistory: one user's history that grows event by event, and is scored at the cost of one step an event.

    growing = GrowingHistory(model, history=[12, 7])
    growing.append(31)
    growing.scores()                                # as model.score of the history [12, 7, 31]

What the encoder has to remember stays here: the hidden state of `gru4rec`, the last inputs of each convolution of
`nextitnet`, keys and values of `sasrec`. While the history has at most `length` events, one more event is one step.
After that, the window of the newest `length` events slides: its oldest event goes, which everything computed since has
read (and each place of `sasrec` changes), so the window is read anew. `nextitnet` never has to: it forgets by itself
what is farther back than it reads, if that is less than `length`.

Legend: L events, N items, I items asked about, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from palate.errors import CannotAnswer, ConfigError
from palate.models.base import Model
from palate.models.sequence.feed import time_gaps
from palate.models.sequence.shell import SequenceModel


class GrowingHistory:
    """A history of one user of a sequence model, oldest event first.

    Args:
        model: A fitted sequence model; while it is in use here, its weights must not change.
        history: Item indices. Defaults to none.
        times: Times of these events, seconds since 1970 UTC, for models with `time_gaps`. Defaults to unknown.

    Attributes:
        items: The newest events, at most `length`.

    Raises:
        CannotAnswer: The model is no sequence model.
        ConfigError: An index is not one of the model's items, or there are not as many times as items.
    """

    def __init__(self, model: Model, history: Sequence[int] = (), times: Sequence[int] | None = None) -> None:
        if not isinstance(model, SequenceModel):
            raise CannotAnswer(
                f"{type(model).__name__} keeps no state of a history; use sasrec, gru4rec or nextitnet, or ask "
                "`score` with the whole history"
            )
        if times is not None and len(times) != len(history):
            raise ConfigError(f"{len(times)} times for {len(history)} events; give one for each")
        self.model, self._encoder, self._reads_gaps = model, model.encoder, model.gap is not None
        self._table, self._length, self._n_items = model.item_vectors(), model.config.length, model.spec.n_items
        for item in history:
            self._check(item)
        self._timed, self._last = times is not None, times[-1] if times else None
        gaps = [0] * len(history)
        if times is not None and self._reads_gaps:
            gaps = time_gaps(torch.tensor(times), torch.tensor([0, len(times)])).tolist()
        self.items, self._gaps = list(history)[-self._length :], gaps[-self._length :]
        self._state: Any = None
        self._hidden_D = self._table.new_zeros(model.config.dim)
        if self.items:
            self._read()

    def __len__(self) -> int:
        return len(self.items)

    def append(self, item: int, time: int | None = None) -> None:
        """One more event.

        Args:
            item: Its item's index.
            time: Its time, for models with `time_gaps`. Defaults to unknown.

        Raises:
            ConfigError: The index is not one of the model's items, or only some events have a time.
        """
        self._check(item)
        if not self.items:
            self._timed = time is not None
        if (time is not None) != self._timed:
            raise ConfigError("some events have a time and others have none; give a time with all or with none")
        gap = self._gap(time) if self._reads_gaps else 0
        self.items.append(item)
        self._gaps.append(gap)
        place = len(self.items) - 1
        if place >= self._length:
            del self.items[0], self._gaps[0]
        if not place or (place >= self._length and self._encoder.reach > self._length):
            self._read()
            return
        with torch.inference_mode():
            x_D = self._inputs(-1)[0] if self._reads_gaps else self._table[item]
            self._hidden_D, self._state = self._encoder.advance(x_D, self._state, place)

    def _gap(self, time: int | None) -> int:
        """The kind of time before an event at this time."""
        last, self._last = self._last, time
        if last is None or time is None:
            return 0
        return int(time_gaps(torch.tensor([last, time]), torch.tensor([0, 2]))[1])

    def scores(self, items: Tensor | None = None) -> Tensor:
        """Scores as `Model.score` gives them for this history, float32 `[N]`, or `[I]` for the given items.

        Args:
            items: Item indices, int64 `[I]`. Defaults to all.
        """
        if not self.items:
            popularity = self.model.fallback.popularity.clone()
            return popularity if items is None else popularity[items]
        return torch.mv(self._table if items is None else self._table[items], self._hidden_D)

    def _check(self, item: int) -> None:
        if not 0 <= item < self._n_items:
            raise ConfigError(f"there is no item {item}; give an index from 0 to {self._n_items - 1}")

    @torch.inference_mode()
    def _read(self) -> None:
        """Read the window anew."""
        self._hidden_D, self._state = self._encoder.start(self._inputs(0), self._length)

    def _inputs(self, first: int) -> Tensor:
        """x of the events from `first` on, `[L, D]`."""
        vector_LD = self._table[torch.tensor(self.items[first:], device=self._table.device)]
        if not self._reads_gaps:
            return vector_LD
        return self.model.inputs(vector_LD, torch.tensor(self._gaps[first:], device=self._table.device))
