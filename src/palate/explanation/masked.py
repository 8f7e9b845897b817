"""MaskedHistoryScores: confidence and rank of one item for each of many users, with parts of their histories removed.

f, the model's confidence in an item, follows from its training loss (`Model.confidence`): softmax over all items for a
multinomial likelihood, sigmoid for a binary cross-entropy, else the score itself.

Legend: U users, T values of their histories, D distinct (user, history item) pairs, M masked queries, N items, S steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from palate.data.queries import Queries
from palate.errors import CannotAnswer
from palate.explanation.measures import Steps
from palate.ranking.ranked import INF
from palate.ranking.topk import block_rows


class MaskedHistoryScores:
    """Users, the item each is recommended, and its confidence and rank with parts of their histories removed.

    Args:
        model: A fitted model that answers `history`.
        queries: U users, each with at least one history item; they are asked about by their histories alone.
        item_U: One item for each user that is not in the user's history.

    Attributes:
        row_D, item_D: User and item of every distinct history entry, ordered by user, then item.
        lengths: Distinct items of each history, int64 `[U]`.
        whole, nothing: Confidence and expected rank with the whole history and with an empty one, float64 `[2, U]`.

    Raises:
        CannotAnswer: The model does not answer histories.
    """

    def __init__(self, model: Any, queries: Queries, item_U: Tensor) -> None:
        if "history" not in model.answers:
            raise CannotAnswer(
                f"{type(model).__name__} knows users by their index alone, so no part of a history can be removed; "
                "choose a model that answers `history`"
            )
        self.model, self.item_U = model, item_U
        self.queries = queries.anonymous()
        self.link = model.confidence
        n_items = model.spec.n_items
        pair_T = queries.history.row_of_value * n_items + queries.history.values
        pair_D, self._pair_of_T = torch.unique(pair_T, return_inverse=True)
        self.row_D, self.item_D = pair_D // n_items, pair_D % n_items
        self.lengths = torch.bincount(self.row_D, minlength=len(queries)).numpy()
        all_users, keep = torch.arange(len(queries)), torch.ones(len(pair_D), dtype=torch.bool)
        self.whole = self._judge(all_users, keep[self._pair_of_T], ranked=True)
        self.nothing = self._judge(all_users, ~keep[self._pair_of_T], ranked=True)

    def order(self, value_D: np.ndarray, seed: int) -> Tensor:
        """The place of every distinct history entry, from 0 for the largest value; ties are in random order."""
        tie_break = np.random.default_rng(seed).random(len(value_D))
        row = self.row_D.numpy()
        ordered = np.lexsort((tie_break, -value_D, row))
        start = np.concatenate(([0], np.cumsum(self.lengths)))[:-1]
        place = np.empty(len(row), dtype=np.int64)
        place[ordered] = np.arange(len(row)) - start[row]
        return torch.from_numpy(place)

    def steps(self, place_D: Tensor, sizes: np.ndarray, both_ends: bool = False) -> Steps:
        """Confidence and rank of the items along steps.

        Args:
            place_D: An order of the histories, as from `order`.
            sizes: How many of the first items are removed, or kept alone, at each step, int64 `[U, S]`.
            both_ends: Also remove that many of the last items.
        """
        without, rank = self._walk(place_D, sizes, first=False, ranked=True)
        rest = self.lengths[:, None] - sizes
        wanted = np.concatenate([sizes, rest], axis=1) if both_ends else sizes
        alone, alone_rank = self._walk(place_D, wanted, first=True, ranked=both_ends)
        last = alone_rank[:, sizes.shape[1] :] if both_ends else None
        return Steps(without=without, alone=alone[:, : sizes.shape[1]], rank=rank, rank_last=last)

    def _walk(self, place_D: Tensor, sizes: np.ndarray, first: bool, ranked: bool) -> tuple[np.ndarray, np.ndarray]:
        """Confidence and rank, `[U, S]` each, with only the first `sizes` items, or with all but these."""
        width = int(self.lengths.max()) + 1
        code, place = np.unique(np.arange(len(sizes))[:, None] * width + sizes, return_inverse=True)
        row, size = np.divmod(code, width)
        at_zero, at_all = (self.nothing, self.whole) if first else (self.whole, self.nothing)
        found = np.stack([np.where(size == 0, a[row], b[row]) for a, b in zip(at_zero, at_all, strict=True)])
        inner = np.flatnonzero((size > 0) & (size < self.lengths[row]))
        row_M, size_M = torch.from_numpy(row[inner]), torch.from_numpy(size[inner])
        step = block_rows(self.model.spec.n_items)
        for start in range(0, len(inner), step):
            block = slice(start, start + step)
            history = self.queries.history
            place_T = place_D[self._pair_of_T[history.positions(row_M[block])]]
            size_T = torch.repeat_interleave(size_M[block], history.lengths[row_M[block]])
            keep_T = place_T < size_T if first else place_T >= size_T
            found[:, inner[block]] = self._judge(row_M[block], keep_T, ranked)
        found = found[:, place.reshape(-1)].reshape(2, *sizes.shape)
        return found[0], found[1]

    @torch.no_grad()
    def _judge(self, row_M: Tensor, keep_T: Tensor, ranked: bool) -> np.ndarray:
        """Confidence and, if `ranked`, expected rank (else NaN), `[2, M]`, in blocks."""
        seen, item_M = self.queries.take(row_M), self.item_U[row_M]
        asked = seen.keep(keep_T)
        step = block_rows(self.model.spec.n_items)
        found = []
        for start in range(0, len(row_M), step):
            block = torch.arange(start, min(start + step, len(row_M)))
            if ranked or self.link == "softmax":
                scores_MN = self.model._score(asked.take(block))
                found.append(self._confidence_and_rank(scores_MN, seen.take(block), item_M[block], ranked))
            else:
                item, column = torch.unique(item_M[block], return_inverse=True)
                score_MI = self.model._score_items(asked.take(block), item)
                score_M = score_MI.gather(1, column[:, None])[:, 0].double()
                found.append(torch.stack([self._confidence(score_M), torch.full_like(score_M, torch.nan)]))
        result: np.ndarray = torch.cat(found, dim=1).numpy()
        return result

    def _confidence_and_rank(self, scores_MN: Tensor, seen: Queries, item_M: Tensor, ranked: bool) -> Tensor:
        score_M = scores_MN.gather(1, item_M[:, None])
        total_M = torch.logsumexp(scores_MN, 1) if self.link == "softmax" else None
        confidence_M = self._confidence(score_M[:, 0].double(), total_M)
        if not ranked:
            return torch.stack([confidence_M, torch.full_like(confidence_M, torch.nan)])
        # A copy: what a model returns may be a view of its own weights.
        masked_MN = scores_MN.clone(memory_format=torch.contiguous_format)
        masked_MN.view(-1).index_fill_(0, seen.history.row_of_value * scores_MN.shape[1] + seen.history.values, -INF)
        above_M, equal_M = (masked_MN > score_M).sum(1), (masked_MN == score_M).sum(1)
        return torch.stack([confidence_M, above_M.double() + (equal_M.double() + 1) / 2])

    def _confidence(self, score_M: Tensor, total_M: Tensor | None = None) -> Tensor:
        if total_M is not None:
            return torch.exp(score_M - total_M)
        return torch.sigmoid(score_M) if self.link == "sigmoid" else score_M
