"""One list for one user, without frames: what a service asks a thousand times a second.

The list is the one that `Recommender.recommend` gives (`palate.ranking.topk.rank`), ties included.

Legend: N items.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from palate.data.dataset import Dataset
from palate.data.features.schema import FeatureBatch, nothing_known
from palate.data.queries import Queries
from palate.data.ragged import Ragged
from palate.errors import TrainingError
from palate.evaluation.measure import CONTENT, HISTORY, KNOWN_USER, answered_by
from palate.models.base import Model
from palate.ranking.ranked import INF, TIE, best
from palate.recommender.artifact import Artifact
from palate.recommender.id_translation import with_newer_history


def query_of_user(rec: Artifact, user: int) -> Queries:
    """The query of one known user: one row, the history with all that the artifact knows.

    Args:
        rec: A recommender.
        user: Index in `rec.known.users`; -1 for a user of whom nothing is known.
    """
    known, spec = rec.known, rec.model.spec
    if user < 0:
        features = None if spec.user_features is None else nothing_known(spec.user_features, 1)
        return Queries(torch.tensor([-1]), Ragged.empty(1), features=features)
    start, stop = int(known.offsets[user]), int(known.offsets[user + 1])
    ratings, times = (
        None if column is None else torch.from_numpy(column[start:stop].copy())
        for column in (known.rating, known.timestamp)
    )
    row = torch.tensor([user])
    trained = user < spec.n_users
    # A model that knows the user and does not read attributes is spared looking them up.
    read = not trained or {"new_user", "known_user"} & rec.model.answers != {"known_user"} or rec.model.reads_user
    query = Queries(
        row if trained else torch.tensor([-1]),
        Ragged(known.histories.values[start:stop], torch.tensor([0, stop - start])),
        ratings=ratings,
        times=times,
        features=known.encoded_users(spec.user_features).take(row) if read and spec.user_features is not None else None,
    )
    if known.n_items > spec.n_items:
        query = query.keep(query.history.values < spec.n_items)
    if trained and known is not rec.data:
        before = int(rec.data.offsets[user + 1] - rec.data.offsets[user])
        query = replace(query, fresh=query.history.lengths > before)
    return query


def query_of_features(features: FeatureBatch) -> Queries:
    """The query of one user known only by attributes, a batch of one row."""
    return Queries(torch.tensor([-1]), Ragged.empty(1), features=features)


def with_chosen(data: Dataset, query: Queries, items: Sequence[int], ratings: Sequence[float] | None) -> Queries:
    """A query with items that the user chose since, oldest first.

    Args:
        data: The training data.
        query: One row.
        items: Item indices.
        ratings: A rating for each; None for none.
    """
    if not items:
        return query
    rated = None if ratings is None or data.rating is None else torch.tensor(list(ratings), dtype=torch.float32)
    chosen = Queries(torch.tensor([-1]), Ragged.of([list(items)]), ratings=rated)
    if int(query.user[0]) < 0 and not len(query.history.values):
        return replace(chosen, features=query.features)
    return with_newer_history(data, query, chosen)


def route_of(model: Model, query: Queries) -> str:
    """The route that answers a query of one row, as `palate.evaluation.measure.answered_by` names it."""
    known, folds = int(query.user[0]) >= 0, "history" in model.answers
    fresh = folds and query.fresh is not None and bool(query.fresh[0])
    if known and not fresh and "known_user" in model.answers:
        return KNOWN_USER
    if folds and len(query.history.values):
        return HISTORY
    if known and "known_user" in model.answers:
        return CONTENT
    return str(answered_by(model, query)[0])


def best_items(
    model: Model,
    query: Queries,
    k: int,
    *,
    exclude_seen: bool = True,
    left_out: Tensor | None = None,
    candidates: Tensor | None = None,
) -> tuple[list[int], list[float]]:
    """The k best items of a query of one row, and their scores; fewer if fewer are allowed.

    Args:
        model: A fitted model.
        query: One row.
        k: List length.
        exclude_seen: Whether to leave out the items of the history.
        left_out: Indices of items that may not be listed, int64.
        candidates: Indices of items that may be listed, int64. Defaults to all items.

    Raises:
        TrainingError: A score is NaN or infinite.
    """
    score_N = model.score(query)[0]
    if candidates is None:
        score_N = score_N.clone(memory_format=torch.contiguous_format)  # A model may return a view of its weights.
    else:
        score_N = torch.full_like(score_N, -INF).index_copy_(0, candidates, score_N[candidates])
    if left_out is not None:
        score_N[left_out] = -INF
    if exclude_seen:
        score_N[query.history.values] = -INF
    k = min(k, len(score_N))
    top = score_N.topk(min(k + 1, len(score_N)))
    values, items = top.values.tolist(), top.indices.tolist()
    if values and not math.isfinite(values[0]) and values[0] != -INF:
        raise TrainingError(
            f"{type(model).__name__} gave NaN or infinite scores; train it again, for example with a smaller lr"
        )
    if _has_ties(values):
        item_1K, value_1K, *_ = best(score_N[None], k, Ragged.empty(1), False, False)
        values, items = value_1K[0].tolist(), item_1K[0].tolist()
    size = sum(value > -INF for value in values[:k])
    return items[:size], values[:size]


def _has_ties(values: Sequence[float]) -> bool:
    """Whether scores, best first, hold two that `palate.ranking.ranked` takes for equal."""
    listed = [value for value in values if value > -INF]
    limit = TIE * max(map(abs, listed), default=0.0)
    return any(one - other <= limit for one, other in pairwise(listed))
