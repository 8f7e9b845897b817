"""The feed of sequence models: each user's newest events once an epoch, and for each event the one that follows it.

Legend: B users of a step, T events of the step that something follows, N items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from palate.data.dataset import Dataset
from palate.data.features.schema import FeatureBatch
from palate.data.ragged import ranges
from palate.models.sequence.packed import Packed
from palate.training.loop import FitContext

GAPS = 32
"""Kinds of time between two events: 0 for the first event of a history or an unknown time, then by powers of two."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Steps:
    """A batch: B histories and what follows each of their events.

    Attributes:
        rows: Where the histories begin and end.
        item: The events' items, int64 `[T]`.
        gap: The kind of time before each event (`time_gaps`), int64 `[T]`; None if the data has no times.
        asked: Which events are followed by a target, int64, ascending; all T in training.
        target: The item that follows each of these, int64.
        weight: Factor of each target's loss; None for 1.
        negative: Shared negatives, ascending, int64 `[K]`; None for losses over all items.
        own: The items whose vectors this step needs, ascending; None for all.
        content: Features of these items, for models that read them in training.
    """

    rows: Packed
    item: Tensor
    gap: Tensor | None
    asked: Tensor
    target: Tensor
    weight: Tensor | None
    negative: Tensor | None = None
    own: Tensor | None = None
    content: FeatureBatch | None = None

    def __len__(self) -> int:
        return len(self.target)

    @property
    def n_rows(self) -> int:
        """B."""
        return len(self.rows.lengths)

    def take(self, rows: Tensor) -> Steps:
        """Some of the histories, with the same negatives."""
        lengths = self.rows.lengths[rows]
        event = ranges(self.rows.offsets[rows], lengths)
        place = torch.full((len(self.item),), -1, device=event.device)
        place[self.asked] = torch.arange(len(self.asked), device=event.device)
        kept = place[event] >= 0
        target = place[event[kept]]
        return replace(
            self,
            rows=Packed(torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])),
            item=self.item[event],
            gap=None if self.gap is None else self.gap[event],
            asked=kept.nonzero().squeeze(1),
            target=self.target[target],
            weight=None if self.weight is None else self.weight[target],
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class SequenceContext(FitContext):
    """The events of a data set in the order of each user's time, those before a validation part included.

    Attributes:
        item, gap, weight: Of each event; see `Steps`.
        is_target: Which events may be targets: all of training data, of a validation part its own rows; bool.
        offsets: User u has the events `offsets[u]` to `offsets[u + 1] - 1`, int64.
        users: Users with a target that an event comes before, int64.
        length: Most events of a history.
    """

    item: Tensor
    gap: Tensor | None
    weight: Tensor | None
    is_target: Tensor
    offsets: Tensor
    users: Tensor
    length: int

    def batches(self, rng: torch.Generator, size: int) -> Iterator[Steps]:
        """Every user once, in random order.

        Args:
            rng: Decides the order.
            size: Users in a batch; the last one may be shorter.
        """
        if not len(self.users):
            return
        for user in torch.split(self.users[torch.randperm(len(self.users), generator=rng)], size):
            yield self._steps(user)

    def _steps(self, user: Tensor) -> Steps:
        # By length: what is padded to a common length then pads little.
        user = user[torch.argsort(self.offsets[user + 1] - self.offsets[user], stable=True)]
        end = self.offsets[user + 1]
        known = (end - self.offsets[user]).clamp(max=self.length + 1) - 1
        rows = Packed(torch.cat([known.new_zeros(1), known.cumsum(0)]))
        event = rows.place + (end - 1 - known)[rows.row]
        asked = self.is_target[event + 1].nonzero().squeeze(1)
        follows = event[asked] + 1
        return Steps(
            rows=rows,
            item=self.item[event],
            gap=None if self.gap is None else self.gap[event],
            asked=asked,
            target=self.item[follows],
            weight=None if self.weight is None else self.weight[follows],
        )


def sequence_context(data: Dataset, length: int, timed: bool) -> SequenceContext:
    """The events of training data, or of a validation part and its `history`.

    Args:
        data: Its rows are the targets; of training data the first event of each user is not.
        length: Most events of a history.
        timed: Whether the times are read.
    """
    parts = [data] if data.history is None else [data.history, data]
    user = np.concatenate([part.user for part in parts])
    order = np.argsort(user, kind="stable")
    is_target = np.concatenate([np.full(len(part), part is data) for part in parts])[order]
    offsets = np.concatenate(([0], np.cumsum(np.bincount(user, minlength=data.n_users))))
    # A user whose only target is the first event, or older than the window, has nothing to learn from.
    last = np.zeros(data.n_users, dtype=np.int64)
    np.maximum.at(last, user[order][is_target], np.flatnonzero(is_target) + 1)
    users = np.flatnonzero((last > offsets[:-1] + 1) & (last > offsets[1:] - length))
    weight = gap = None
    if data.weight is not None:
        mean = max(float(data.weight.mean(dtype=np.float64)), np.finfo(np.float32).tiny)
        weights = [np.ones(len(part), np.float32) if part.weight is None else part.weight / mean for part in parts]
        weight = torch.from_numpy(np.concatenate(weights)[order].astype(np.float32))
    if timed:
        times = np.concatenate([np.asarray(part.timestamp) for part in parts])[order]
        gap = time_gaps(torch.from_numpy(times), torch.from_numpy(offsets))
    item = torch.from_numpy(np.concatenate([part.item for part in parts])[order].astype(np.int64))
    return SequenceContext(
        data=data, item=item, gap=gap, weight=weight, is_target=torch.from_numpy(is_target),
        offsets=torch.from_numpy(offsets), users=torch.from_numpy(users), length=length,
    )  # fmt: skip


def time_gaps(times: Tensor, offsets: Tensor) -> Tensor:
    """The kind of time between each event and the one before it, int64: 1 + floor(log2(1 + seconds)), at most 31.

    Args:
        times: Seconds, int64 `[T]`. A time before that of the event before it counts as equal.
        offsets: Where the histories begin and end; the first event of each gets 0.
    """
    gap = torch.zeros_like(times)
    if len(times) > 1:
        seconds = (times[1:] - times[:-1]).clamp(min=0).double()
        gap[1:] = (1 + torch.log2(1 + seconds).floor()).long().clamp(max=GAPS - 1)
    first = offsets[:-1][offsets[1:] > offsets[:-1]]
    gap[first] = 0
    return gap


def with_negatives(steps: Steps, count: int, n_items: int, rng: torch.Generator) -> Steps:
    """The batch with shared negatives: `count` uniform draws, each item once.

    Args:
        steps: The batch.
        count: Draws; as many items as there are, or more, give all items.
        n_items: N.
        rng: Decides the draw.
    """
    if count >= n_items:
        return replace(steps, negative=torch.arange(n_items))
    return replace(steps, negative=torch.unique(torch.randint(n_items, (count,), generator=rng)))
