"""The common scale of `hybrid`: where new items rank among known ones, chosen on a part of the training data.

Legend: B queries, N items (W known ones first), X new items, K list length, C items that may be listed, T targets.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from torch import Tensor

from palate.data.dataset import Dataset
from palate.data.splits.build import TEST, Split, build_split
from palate.models.base import Model
from palate.models.layers import standardised

HELD_OUT_ROWS = 0.1
"""Share of the rows of known items that is held out."""
MIN_ITEMS, MIN_ROWS = 20, 200
"""With less data a part of the training data is too small to choose on."""
KNOWN_CUTOFF, NEW_CUTOFF = 10, 20
"""Cutoffs of the ndcg of known items and of the recall of new ones."""
SLOPES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
OFFSETS = tuple(float(offset) for offset in np.arange(-3.0, 3.01, 0.25))
MAX_USERS, MAX_SCORES = 2000, 2**22
"""Most users asked; most scores in memory at once."""


def held_out(data: Dataset, share: float, seed: int) -> Split | None:
    """The training data split again: a share of its items, and some rows of the others, become the test part.

    Args:
        data: What is split.
        share: Share of the items that is held out.
        seed: Seed of the random choice.

    Returns:
        None if the data is too small, or the share is 0.
    """
    rng = np.random.default_rng(seed)
    there = np.flatnonzero(data.item_counts)
    count = round(share * len(there))
    if not count or len(there) < MIN_ITEMS or len(data) < MIN_ROWS or data.history is not None:
        return None
    out = np.zeros(data.n_items, dtype=bool)
    out[rng.permutation(there)[:count]] = True
    part = np.where(out[data.item] | (rng.random(len(data)) < HELD_OUT_ROWS), TEST, 0).astype(np.int8)
    return build_split(data, part, valid=0, advice="hold out a smaller share")


def joined(warm_BW: Tensor, content_BN: Tensor, slope: float, offset: float, answered_B1: Tensor) -> Tensor:
    """Scores of new items on the warm model's scale, `[B, X]`.

    Args:
        warm_BW: Scores of the known items by the warm model.
        content_BN: Scores of all items by the content model, the known ones first.
        slope, offset: Of the line between the two scales, in standard deviations.
        answered_B1: Whether the content model answers the query; if not, all new items score the same.
    """
    known = warm_BW.shape[1]
    spread_B1, mean_B1 = torch.std_mean(warm_BW, dim=1, correction=0, keepdim=True)
    z_BX = standardised(content_BN[:, known:], content_BN[:, :known])
    return mean_B1 + spread_B1 * (slope * torch.where(answered_B1, z_BX, 0.0) + offset)


def scale(warm: Model, content: Model, parts: Split, keep: float, seed: int) -> tuple[float, float]:
    """Slope and offset of the scores of new items; see `palate.models.hybrid.hybrid`.

    Args:
        warm, content: Fitted to `parts.train`.
        parts: From `held_out`.
        keep: Share of the ndcg of known items that must remain.
        seed: Seed of the choice of users.
    """
    test, known = parts.test, parts.train.n_items
    features = content.spec.item_features
    assert features is not None  # content models cannot be built without
    every = test.encoded_items(features).take(torch.arange(known, test.n_items))
    larger = content.with_items(every)
    users = test.active_users[test.active_users < parts.train.n_users]
    users = np.random.default_rng(seed).permutation(users)[:MAX_USERS]
    size = max(1, MAX_SCORES // test.n_items)
    blocks = [_lists(warm, larger, test, np.sort(users[at : at + size]), known) for at in range(0, len(users), size)]
    if not blocks:
        return 1.0, 0.0
    alone = sum(_ndcg(warm_BK, warm_BK[:, :0], hit_BK, want_B) for warm_BK, _, hit_BK, _, want_B in blocks)
    best, chosen = -1.0, (SLOPES[0], OFFSETS[0])
    for slope, offset in product(SLOPES, OFFSETS):
        warm_ndcg = cold_hits = 0.0
        for warm_BK, cold_BK, hit_BK, found_BK, want_B in blocks:
            mapped_BK = slope * cold_BK + offset
            warm_ndcg += _ndcg(warm_BK, mapped_BK, hit_BK, want_B)
            cold_hits += _recall(warm_BK, mapped_BK, found_BK)
        if warm_ndcg >= keep * alone and cold_hits > best:
            best, chosen = cold_hits, (slope, offset)
    return chosen


Lists = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Standardised scores of the best known and the best new items, which of them are targets, and the number of known
targets of each user."""


def _lists(warm: Model, larger: Model, test: Dataset, users: np.ndarray, known: int) -> Lists:
    """The best known and the best new items of some users, `NEW_CUTOFF` of each."""
    queries = test.queries(users, larger.spec)
    warm_BW, content_BN = warm.score(queries)[:, :known], larger.score(queries)
    answered_B1 = larger.answerable(queries).unsqueeze(1)
    cold_BX = joined(warm_BW, content_BN, 1.0, 0.0, answered_B1)
    warm_BW, cold_BX = standardised(warm_BW), standardised(cold_BX, warm_BW)
    warm_BW[queries.history.row_of_value, queries.history.values] = -torch.inf
    targets = test.histories.take(torch.from_numpy(users))
    target_BN = torch.zeros(content_BN.shape, dtype=torch.bool)
    target_BN[targets.row_of_value, targets.values] = True
    target_BN[queries.history.row_of_value, queries.history.values] = False
    warm_best, cold_best = (s_BC.topk(min(NEW_CUTOFF, s_BC.shape[1])) for s_BC in (warm_BW, cold_BX))
    hit_BK, found_BK = target_BN.gather(1, warm_best.indices), target_BN.gather(1, cold_best.indices + known)
    return warm_best.values, cold_best.values, hit_BK, found_BK, target_BN[:, :known].sum(1)


def _ndcg(warm_BK: Tensor, cold_BK: Tensor, hit_BK: Tensor, want_B: Tensor) -> float:
    """Sum over users of ndcg@10, with known items as targets."""
    place_BK = torch.arange(warm_BK.shape[1]) + (cold_BK.unsqueeze(1) > warm_BK.unsqueeze(2)).sum(2)
    discount = 1 / torch.log2(torch.arange(2.0, KNOWN_CUTOFF + 2))
    gain_BK = (hit_BK & (place_BK < KNOWN_CUTOFF)) / torch.log2(place_BK + 2.0)
    ideal_B = discount.cumsum(0)[want_B.clamp(1, KNOWN_CUTOFF) - 1]
    return float((gain_BK.sum(1) / ideal_B)[want_B > 0].sum())


def _recall(warm_BK: Tensor, cold_BK: Tensor, found_BK: Tensor) -> float:
    """Number of new targets in the top 20."""
    place_BK = torch.arange(cold_BK.shape[1]) + (warm_BK.unsqueeze(1) >= cold_BK.unsqueeze(2)).sum(2)
    return float((found_BK & (place_BK < NEW_CUTOFF)).sum())
