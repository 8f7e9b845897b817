"""Shared candidate batches: the distinct items that one training step scores for all of its users.

loss_u = sum_t w_t (log sum_i exp(s_ui) / q_i - s_ut) / sum_t w_t,   w_t = weight of row (u, t) / q_t
q_i    = 1 - (1 - a_i)^m (1 - 1 / N)^k,   a_i = mean over users u of [u has i] min(1, S / n_u)

over candidates i and the target items t of user u, with s_ui the score; the loss of a step is the mean over its users.
Models that compute an item's vector from its content encode each candidate once per step, however many users are scored
against it. Of a user's items among the candidates, a random part is the history and the others are the targets; items
of the history are left out of the sum.

If the catalogue has no more than `max_items` items, all of them are candidates, q is 1 and the softmax is exact. In a
larger catalogue up to half of the candidates are seeds: up to S = `SEEDS_PER_USER` random items of each of m users,
where user u has n_u items. The other k candidates are drawn uniformly from all N items. q_i is the probability that
item i is a candidate. Dividing by it makes the sum over candidates an estimate of the sum over all items, so that the
loss estimates that of the exact softmax (Yi et al. 2019, "Sampling-bias-corrected neural modeling for large corpus item
recommendations").

Legend: P candidates, U users of the step, N items, D width, T values of all histories or targets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from palate.data.dataset import Dataset
from palate.data.features.schema import FeatureBatch
from palate.data.ragged import Ragged
from palate.models.layers import distinct_history, sum_rows
from palate.training.batches import pair_keys, user_blocks
from palate.training.loop import FitContext

SEEDS_PER_USER = 8
"""Most items of one user among the seeds of a batch."""
MAX_VALIDATION_SCORES = 2**24
"""Scores of a validation batch, in which all items are candidates: 64 MB."""


@dataclass(frozen=True, eq=False, kw_only=True)
class CandidateBatch:
    """One step.

    Attributes:
        item: The candidates, int64 `[P]`, ascending.
        log_q: Log of the probability that each is a candidate, float32 `[P]`; 0 if all items are candidates.
        user: int64 `[U]`.
        history: What the model reads of each user, as positions in `item`; may be empty.
        target: The items each user is to be recommended, likewise; never empty, distinct, none of them in `history`.
        weight: Sample weight of each target, float32 `[T]`. Defaults to 1.
        content: Features of the candidates. None on validation data: the model's item vectors are up to date there.
    """

    item: Tensor
    log_q: Tensor
    user: Tensor
    history: Ragged
    target: Ragged
    weight: Tensor | None = None
    content: FeatureBatch | None = None

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: Tensor) -> CandidateBatch:
        """Some of the users, with the same candidates."""
        weight = None if self.weight is None else self.weight[self.target.positions(rows)]
        history, target = self.history.take(rows), self.target.take(rows)
        return replace(self, user=self.user[rows], history=history, target=target, weight=weight)


class CandidateSampler:
    """Draws shared candidate batches from a data set; built once a fit.

    A repeated row counts as one row with the sum of the weights.

    Args:
        data: Training data; or a validation part, whose `history` the model reads and whose new rows are the targets.
            All items are then candidates.
        max_items: Most candidates of a step.
        min_history: Fewest items of a user's history; users who cannot have as many are left out.
    """

    def __init__(self, data: Dataset, max_items: int, min_history: int = 0) -> None:
        self.n_items, self.max_items, self.min_history = data.n_items, max_items, min_history
        self.items, self.weight = _distinct_items(data)
        self.history = None if data.history is None else data.history.histories
        enough = self.items.lengths > (min_history if self.history is None else 0)
        if self.history is not None:
            enough &= self.history.lengths >= min_history
        self.users = enough.nonzero().squeeze(1)
        # The probability a_i that a random user contributes an item to the seeds, and the seeds of a user on average.
        length_U = self.items.lengths[self.items.lengths > 0]
        share_U = (SEEDS_PER_USER / self.items.lengths).clamp(max=1).double()
        share_T = torch.repeat_interleave(share_U, self.items.lengths)
        seeded_N = torch.zeros(data.n_items, dtype=torch.float64).index_add(0, self.items.values, share_T)
        self.seed_chance = (seeded_N / max(len(length_U), 1)).clamp(max=1)
        self.seeds_per_user = float(length_U.clamp(max=SEEDS_PER_USER).double().mean()) if len(length_U) else 1.0

    def batches(self, rng: torch.Generator, size: int) -> Iterator[CandidateBatch]:
        """Each user once: in random order with sampled candidates, or on a validation part in order with all items.

        Args:
            rng: Decides order, candidates and which items are history.
            size: Users in a step. Users without enough items among the candidates are left out of their step.
        """
        if not len(self.users):
            return
        if self.history is not None:
            yield from self._validation_batches(self.history, size)
            return
        for user in torch.split(self.users[torch.randperm(len(self.users), generator=rng)], size):
            if self.n_items <= self.max_items:
                item, log_q = torch.arange(self.n_items), torch.zeros(self.n_items)
            else:
                item, log_q = self._draw(user, rng)
            batch = self._divide(user, item, log_q, rng)
            if len(batch):
                yield batch

    def log_inclusion(self, item: Tensor, seeds: int, uniform: int) -> Tensor:
        """Log of the probability that items are among the candidates, float32 `[P]`.

        Args:
            item: int64 `[P]`.
            seeds: Number of seeds in the batch.
            uniform: Number of uniform draws, k.
        """
        users = seeds / self.seeds_per_user
        log_absent_P = users * torch.log1p(-self.seed_chance[item]) + uniform * np.log1p(-1 / self.n_items)
        return torch.log(-torch.expm1(log_absent_P)).float()

    def _draw(self, user: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Candidates, and the log of the probability that each is one."""
        items = self.items.take(user).shuffled(rng)
        seeds = items.values[items.place_of_value < SEEDS_PER_USER][: self.max_items // 2]
        uniform = torch.randint(self.n_items, (self.max_items - len(seeds),), generator=rng)
        item = torch.unique(torch.cat([seeds, uniform]))
        return item, self.log_inclusion(item, len(seeds), len(uniform))

    def _divide(self, user: Tensor, item: Tensor, log_q: Tensor, rng: torch.Generator) -> CandidateBatch:
        """A batch in which each user's items among the candidates are divided into history and targets at random."""
        owned = Ragged(self.items.positions(user), self.items.take(user).offsets)
        value = self.items.values[owned.values]
        place = torch.searchsorted(item, value).clamp(max=len(item) - 1)
        owned = owned.keep(item[place] == value)
        enough = (owned.lengths > self.min_history).nonzero().squeeze(1)
        owned = owned.take(enough).shuffled(rng)
        # The share that is history differs from user to user, so that short and long histories are both practised.
        spare = owned.lengths - self.min_history
        length_U = self.min_history + (torch.rand(len(enough), generator=rng) * spare).long()
        read = owned.place_of_value < length_U[owned.row_of_value]
        place = torch.searchsorted(item, self.items.values[owned.values])
        return CandidateBatch(
            item=item,
            log_q=log_q,
            user=user[enough],
            history=Ragged.from_lengths(place[read], length_U),
            target=Ragged.from_lengths(place[~read], owned.lengths - length_U),
            weight=None if self.weight is None else self.weight[owned.values[~read]],
        )

    def _validation_batches(self, history: Ragged, size: int) -> Iterator[CandidateBatch]:
        for user in torch.split(self.users, max(1, min(size, MAX_VALIDATION_SCORES // self.n_items))):
            yield CandidateBatch(
                item=torch.arange(self.n_items),
                log_q=torch.zeros(self.n_items),
                user=user,
                history=history.take(user),
                target=self.items.take(user),
                weight=None if self.weight is None else self.weight[self.items.positions(user)],
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class CandidateContext(FitContext):
    """The fit context of models trained on shared candidate batches."""

    candidates: CandidateSampler


def _distinct_items(data: Dataset) -> tuple[Ragged, Tensor | None]:
    """Each user's distinct items that are not in the data's `history`, and their summed weights if any differs from 1.

    Rows of weight 0 count as absent.
    """
    pieces, weights, lengths = [np.empty(0, np.int32)], [np.empty(0, np.float32)], np.zeros(data.n_users, np.int64)
    for first, last in user_blocks([data]):
        key, place, count = np.unique(pair_keys(data, first, last), return_inverse=True, return_counts=True)
        rows = slice(data.offsets[first], data.offsets[last])
        weight = count if data.weight is None else np.bincount(place, weights=data.weight[rows], minlength=len(key))
        kept = weight > 0
        if data.history is not None:
            kept &= ~np.isin(key, pair_keys(data.history, first, last))
        user, item = np.divmod(key[kept], data.n_items)
        lengths[first:last] = np.bincount(user, minlength=last - first)
        pieces.append(item.astype(np.int32))
        weights.append(weight[kept].astype(np.float32))
    items = Ragged.from_lengths(torch.from_numpy(np.concatenate(pieces)).long(), torch.from_numpy(lengths))
    return items, None if all(bool((w == 1).all()) for w in weights) else torch.from_numpy(np.concatenate(weights))


def candidate_loss(score_UP: Tensor, batch: CandidateBatch) -> Tensor:
    """Negative log-likelihood of the targets, weighted within each user as in the module's formula, mean over users.

    The items of a user's history do not compete: they are never recommended.

    Args:
        score_UP: Scores of the candidates for each user.
        batch: The step.
    """
    known = batch.history.row_of_value, batch.history.values
    rival_UP = (score_UP - batch.log_q).index_put(known, score_UP.new_full((), -torch.inf))
    log_likelihood_UP = score_UP - torch.logsumexp(rival_UP, 1, keepdim=True)
    row_T = batch.target.row_of_value
    weight_T = torch.exp(-batch.log_q[batch.target.values])
    weight_T = weight_T if batch.weight is None else weight_T * batch.weight
    total_U = weight_T.new_zeros(len(batch)).index_add(0, row_T, weight_T)
    return -(log_likelihood_UP[row_T, batch.target.values] * weight_T / total_U[row_T]).sum() / len(batch)


def mean_rows(vector_PD: Tensor, history: Ragged, weight_P: Tensor | None = None) -> Tensor:
    """The weighted mean of each history's item vectors, `[U, D]`; zeros for an empty history.

    Args:
        vector_PD: A vector for each item.
        history: Items, as rows of `vector_PD`; an item that occurs twice counts once.
        weight_P: A positive weight for each item. Defaults to 1.
    """
    history = distinct_history(history)
    row_T = history.row_of_value
    weight_T = vector_PD.new_ones(len(row_T)) if weight_P is None else weight_P[history.values]
    total_U = weight_T.new_zeros(len(history)).index_add(0, row_T, weight_T)
    return sum_rows(vector_PD, history, weight_T / total_U[row_T])
