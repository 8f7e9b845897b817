"""The one scale of `hybrid`: where new items stand among known ones, chosen on a part of train.

Legend: B queries, N items (W known ones first), X new items, K list length, C items that may be listed, T targets.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from torch import Tensor

from palate.data.dataset import Dataset
from palate.data.parts import TEST, Split, assemble
from palate.models.base import Model
from palate.models.layers import standardised

ROWS = 0.1
"""Share of the known items' rows that is held out."""
LEAST_ITEMS, LEAST_ROWS = 20, 200
"""Below, nothing can be told from a part of train."""
WARM, COLD = 10, 20
"""Lengths of the lists on which known and new items are judged."""
SLOPES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
OFFSETS = tuple(float(offset) for offset in np.arange(-3.0, 3.01, 0.25))
USERS, VALUES = 2000, 2**22
"""Most people asked; numbers in memory at once."""


def held_out(data: Dataset, share: float, seed: int) -> Split | None:
    """Train without a share of its items and without some rows of the others, which are the test part.

    Args:
        data: What is split.
        share: Of the items.
        seed: Decides which.

    Returns:
        None where the data is too small, or the share 0.
    """
    rng = np.random.default_rng(seed)
    there = np.flatnonzero(data.item_counts)
    count = round(share * len(there))
    if not count or len(there) < LEAST_ITEMS or len(data) < LEAST_ROWS or data.history is not None:
        return None
    out = np.zeros(data.n_items, dtype=bool)
    out[rng.permutation(there)[:count]] = True
    part = np.where(out[data.item] | (rng.random(len(data)) < ROWS), TEST, 0).astype(np.int8)
    return assemble(data, part, valid=0, advice="hold out a smaller share")


def joined(warm_BW: Tensor, content_BN: Tensor, slope: float, offset: float, told_B1: Tensor) -> Tensor:
    """Scores of new items on the warm model's scale, `[B, N - W]`.

    Args:
        warm_BW: The warm model's scores of the known items.
        content_BN: The content model's of all items, the known ones first.
        slope, offset: Of the line between the two, in standard deviations.
        told_B1: Whether the content model knows anything of the person; where not, a new item is as good as another.
    """
    known = warm_BW.shape[1]
    spread_B1, mean_B1 = torch.std_mean(warm_BW, dim=1, correction=0, keepdim=True)
    z_BX = standardised(content_BN[:, known:], content_BN[:, :known])
    return mean_B1 + spread_B1 * (slope * torch.where(told_B1, z_BX, 0.0) + offset)


def scale(warm: Model, content: Model, parts: Split, keep: float, seed: int) -> tuple[float, float]:
    """Slope and offset of new items' scores; see `palate.models.hybrid`.

    Args:
        warm, content: Fitted to `parts.train`.
        parts: From `held_out`.
        keep: Share of the ndcg that known items keep.
        seed: Decides which people are asked.
    """
    test, known = parts.test, parts.train.n_items
    features = content.spec.item_features
    assert features is not None  # content models need them
    every = test.encoded_items(features).take(torch.arange(known, test.n_items))
    grown = content.with_items(every)
    users = test.active_users[test.active_users < parts.train.n_users]
    users = np.random.default_rng(seed).permutation(users)[:USERS]
    size = max(1, VALUES // test.n_items)
    blocks = [_lists(warm, grown, test, np.sort(users[at : at + size]), known) for at in range(0, len(users), size)]
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
"""Standardised scores of the best known and of the best new items, which of either are targets, and how many known
targets there are."""


def _lists(warm: Model, grown: Model, test: Dataset, users: np.ndarray, known: int) -> Lists:
    """The best COLD known items and the best COLD new ones of some users."""
    queries = test.queries(users, grown.spec)
    warm_BW, content_BN = warm.score(queries)[:, :known], grown.score(queries)
    told_B1 = grown.answerable(queries).unsqueeze(1)
    cold_BX = joined(warm_BW, content_BN, 1.0, 0.0, told_B1)
    warm_BW, cold_BX = standardised(warm_BW), standardised(cold_BX, warm_BW)
    warm_BW[queries.history.row_of_value, queries.history.values] = -torch.inf
    targets = test.histories.take(torch.from_numpy(users))
    target_BN = torch.zeros(content_BN.shape, dtype=torch.bool)
    target_BN[targets.row_of_value, targets.values] = True
    target_BN[queries.history.row_of_value, queries.history.values] = False
    warm_best, cold_best = (s_BC.topk(min(COLD, s_BC.shape[1])) for s_BC in (warm_BW, cold_BX))
    hit_BK, found_BK = target_BN.gather(1, warm_best.indices), target_BN.gather(1, cold_best.indices + known)
    return warm_best.values, cold_best.values, hit_BK, found_BK, target_BN[:, :known].sum(1)


def _ndcg(warm_BK: Tensor, cold_BK: Tensor, hit_BK: Tensor, want_B: Tensor) -> float:
    """The sum over people of ndcg@WARM, known items being the targets."""
    place_BK = torch.arange(warm_BK.shape[1]) + (cold_BK.unsqueeze(1) > warm_BK.unsqueeze(2)).sum(2)
    discount = 1 / torch.log2(torch.arange(2.0, WARM + 2))
    gain_BK = (hit_BK & (place_BK < WARM)) / torch.log2(place_BK + 2.0)
    ideal_B = discount.cumsum(0)[want_B.clamp(1, WARM) - 1]
    return float((gain_BK.sum(1) / ideal_B)[want_B > 0].sum())


def _recall(warm_BK: Tensor, cold_BK: Tensor, found_BK: Tensor) -> float:
    """How many new targets stand among the first COLD."""
    place_BK = torch.arange(cold_BK.shape[1]) + (warm_BK.unsqueeze(1) >= cold_BK.unsqueeze(2)).sum(2)
    return float((found_BK & (place_BK < COLD)).sum())
