"""rank(): the k best items of each query by score, masked, ties by item index, in blocks of bounded memory.

Legend: B queries of a block, N items, K list length, T targets of a block.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from palate.data.dataset import Queries
from palate.data.ragged import Ragged
from palate.device import asked_from_anywhere, to_device
from palate.errors import TrainingError
from palate.models.scorer import Scorer
from palate.ranking.ranked import INF, Ranked, best, keeps


def block_rows(n_items: int) -> int:
    """Queries to score at once: 8 MB of scores stay in cache; never above 128 MB."""
    return max(1, min(max(256, 2**21 // n_items), 2**25 // n_items))


@asked_from_anywhere
def rank(
    model: Scorer,
    queries: Queries,
    k: int,
    *,
    exclude_seen: bool = True,
    candidates: Tensor | Ragged | None = None,
    targets: Ragged | None = None,
    full: bool = False,
    count: bool = False,
    block: int | None = None,
) -> Ranked:
    """The k best items of each query; the result does not depend on `block`.

    Args:
        model: Scores the items.
        queries: The questions.
        k: List length; a list is padded if fewer items are allowed.
        exclude_seen: Whether to leave out the items of the query's history.
        candidates: Items allowed in all lists, int64 `[n]`, or a row of them for each query. Defaults to all items.
            Items the model does not know are ignored.
        targets: A row of distinct items for each query, whose ranks are wanted.
        full: Whether to find the ranks of targets beyond k too (slower: sorts all scores).
        count: Whether to fill in `n_candidates` (slower: one more pass over all scores).
        block: Queries scored at once. Defaults to `block_rows`.

    Raises:
        TrainingError: A score is NaN or infinite.
    """
    targets = to_device(Ragged.empty(len(queries)), queries.user.device) if targets is None else targets
    step, pieces = block or block_rows(model.spec.n_items), []
    for start in range(0, len(queries), step):
        stop = min(start + step, len(queries))
        allowed = candidates.rows(start, stop) if isinstance(candidates, Ragged) else candidates
        scores_BN = _masked_scores(model, queries.block(start, stop), exclude_seen, allowed)
        pieces.append(best(scores_BN, k, targets.rows(start, stop), full, count))
    pieces = pieces or [best(torch.empty(0, model.spec.n_items, device=queries.user.device), k, targets, full, count)]
    items, scores, n_candidates, greater, ties = (torch.cat(part) for part in zip(*pieces, strict=True))
    return Ranked(items, scores, n_candidates, targets, greater, ties, full)


def _masked_scores(model: Scorer, queries: Queries, exclude_seen: bool, candidates: Tensor | Ragged | None) -> Tensor:
    """The model's scores, `[B, N]`, with -inf for items that may not be listed."""
    raw_BN, n_items = model.score(queries), model.spec.n_items
    if not math.isfinite(raw_BN.sum()) and not bool(torch.isfinite(raw_BN).all()):
        bad = int((~torch.isfinite(raw_BN)).any(1).sum())
        raise TrainingError(
            f"{type(model).__name__} gave NaN or infinite scores for {bad} of {len(queries)} queries; "
            "train it again, for example with a smaller lr"
        )
    if isinstance(candidates, Ragged):
        inside = candidates.keep((candidates.values >= 0) & (candidates.values < n_items))
        places = inside.row_of_value * n_items + inside.values
        scores_BN = torch.full_like(raw_BN, -INF, memory_format=torch.contiguous_format)
        scores_BN.view(-1)[places] = raw_BN.reshape(-1)[places]
    else:
        scores_BN = raw_BN.clone(memory_format=torch.contiguous_format) if keeps(model, raw_BN) else raw_BN
        if candidates is not None:
            outside = torch.ones(n_items, dtype=torch.bool, device=raw_BN.device)
            outside[candidates[(candidates >= 0) & (candidates < n_items)]] = False
            scores_BN.masked_fill_(outside, -INF)
    if exclude_seen:
        scores_BN.view(-1).index_fill_(0, queries.history.row_of_value * n_items + queries.history.values, -INF)
    return scores_BN
