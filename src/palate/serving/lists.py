"""Lists: from what a request says of a person to the items, with what was asked of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from palate.data.queries import Queries
from palate.errors import ConfigError
from palate.evaluation.measure import POPULARITY
from palate.ranking.filters import where
from palate.ranking.rules import Rules, rank_under
from palate.recommender.cold_start import encode_new_users
from palate.recommender.list_reasons import list_reasons
from palate.recommender.one_list import best_items, query_of_features, query_of_user, route_of, with_chosen
from palate.serving.schemas import Person, RecommendRequest
from palate.serving.served import Served, table_of
from palate.serving.store import Row

STRENGTH = 4.0
"""Standard deviations of a user's scores that a slider at its end adds or takes."""


@dataclass(frozen=True)
class Asked:
    """A person as the model sees them.

    Attributes:
        query: One row.
        left_out: Items that no list for them may hold, because of feedback.
        stored: Rows of feedback in the store.
        folded_in: How many of them the scores rest on.
    """

    query: Queries
    left_out: list[int] = field(default_factory=list)
    stored: int = 0
    folded_in: int = 0


@dataclass(frozen=True)
class List:
    """A list.

    Attributes:
        items, scores: Indices and scores, best first.
        route: Who answered.
        reasons: A sentence for each item, if asked for.
        empty_reason: Why it is empty; see `RecommendAnswer`.
        notes: In words, why it is shorter than asked for.
    """

    items: list[int]
    scores: list[float]
    route: str
    reasons: list[str] | None = None
    empty_reason: str | None = None
    notes: list[str] = field(default_factory=list)


def person(served: Served, who: Person, rows: Sequence[Row], unknown: str = "popularity") -> Asked:
    """The query of whom a request names, with the feedback of the store and the history of the request.

    Args:
        served: The run.
        who: The request.
        rows: The stored feedback of `who.user_id`, oldest first.
        unknown: What becomes of a user of whom nothing is known: error or popularity.

    Raises:
        UnknownId: The user or an item is not known.
        ConfigError: Arguments exclude each other, or nobody is named.
        DataError: An id or a feature is of the wrong type.
    """
    _check(served, who)
    rec = served.rec
    if who.user_id is None:
        query = query_of_user(rec, -1)
        if who.features is not None:
            table = table_of([who.features])
            query = query_of_features(encode_new_users(table, rec.model.spec, rec.data.user_table))
        stored = Asked(query)
    else:
        user = served.user_index(who.user_id)
        if user < 0:
            served.require_user_type(who.user_id)
            if not rows and not who.history and unknown == "error":
                raise served.unknown_user(who.user_id)
        stored = with_feedback(served, user, rows)
    if not who.history:
        return stored
    items = served.require_items(who.history).tolist()
    return Asked(
        with_chosen(rec.data, stored.query, items, who.ratings), stored.left_out, stored.stored, stored.folded_in
    )


def _check(served: Served, who: Person) -> None:
    """What a request may say of a person together."""
    if who.user_id is None and who.history is None and who.features is None:
        raise ConfigError("say whom the list is for: user_id, history or features")
    if who.user_id is not None and who.features is not None:
        raise ConfigError("features describes a new user, and user_id names one; give one of them")
    if who.ratings is not None and who.history is None:
        raise ConfigError("ratings are those of the items in history; give both, or leave out ratings")
    if who.ratings is not None and len(who.ratings) != len(who.history or ()):
        raise ConfigError("ratings must have one number for each item of history")
    if who.ratings is not None and served.rec.data.rating is None:
        raise ConfigError("ratings cannot be used, because the training data has no ratings; leave them out")


def with_feedback(served: Served, user: int, rows: Sequence[Row]) -> Asked:
    """The query of a user with the stored feedback.

    Every item of the feedback is left out of lists. What was liked counts as chosen: likes, and ratings from the middle
    of the scale on; models that predict ratings use all ratings. Feedback that the model was trained with is not used
    again: on an item of the history, and older than the run.

    Args:
        served: The run.
        user: Index of the user; -1 for a user that training did not see.
        rows: The feedback, oldest first.
    """
    rec = served.rec
    query = query_of_user(rec, user)
    if not rows:
        return Asked(query)
    index = rec.data.items.index([rec.data.items.parse(row.item_id) for row in rows]).tolist()
    left_out = [item for item in index if item >= 0]
    if not served.folds_in:
        return Asked(query, left_out, len(rows))
    rates = "rating" in rec.model.answers
    before = set(query.history.values.tolist())
    chosen, ratings = [], []
    for item, row in zip(index, rows, strict=True):
        rated = row.type == "rating" and row.value is not None
        liked = row.type == "like" or (rated and (rates or (row.value or 0.0) >= served.middle))
        trained = item in before and row.stored_ms <= 1000 * served.saved_at
        if item >= 0 and liked and not trained:
            chosen.append(item)
            ratings.append(row.value if rated and row.value is not None else rec.data.liked_rating)
    return Asked(with_chosen(rec.data, query, chosen, ratings), left_out, len(rows), len(chosen))


def recommend(served: Served, asked: Asked, request: RecommendRequest) -> List:
    """The list that a request asks for.

    Args:
        served: The run.
        asked: The person.
        request: What is asked.

    Raises:
        ConfigError: A filter or option is not valid.
        UnknownId: An item is not known.
    """
    rec, n_items = served.rec, served.rec.data.n_items
    # What the user is done with is left out even if seen items are asked for.
    unwanted = (served.require_items(request.exclude).tolist() if request.exclude else []) + asked.left_out
    left_out = torch.tensor(unwanted, dtype=torch.int64) if unwanted else served.hidden
    if unwanted and len(served.hidden):
        left_out = torch.cat([left_out, served.hidden])
    candidates = None
    if request.candidates is not None:
        candidates = torch.from_numpy(np.unique(served.require_items(request.candidates)))
    k = min(request.k, n_items)
    rules = rules_of(request)
    if rules is None and served.index is None:
        items, scores = best_items(
            rec.model, asked.query, k, exclude_seen=not request.include_seen,
            left_out=left_out if len(left_out) else None, candidates=candidates,
        )  # fmt: skip
    else:
        allowed = _allowed(n_items, left_out, candidates)
        ranked = rank_under(
            rules, rec.model, rec.data, asked.query, k, exclude_seen=not request.include_seen, candidates=allowed,
            index=None if request.familiarity or request.recency else served.index,
        )  # fmt: skip
        listed = ranked.items[0] >= 0
        items, scores = ranked.items[0][listed].tolist(), ranked.scores[0][listed].tolist()
    route = route_of(rec.model, asked.query)
    reasons = None
    if request.explain:
        reasons = list_reasons(rec.model, rec.data, asked.query, torch.tensor([items], dtype=torch.int64)).to_list()
    why, notes = (None, []) if len(items) == request.k else _why_short(served, asked, request, len(items))
    if route == POPULARITY and asked.stored and served.folds_in and not asked.folded_in:
        notes = [*notes, "The feedback of this user holds nothing liked yet; the list is by popularity."]
    return List(items, scores, route, reasons, why, notes)


def rules_of(request: RecommendRequest) -> Rules | None:
    """The rules of a request; None for none."""
    if not (request.filter or request.diversity or request.familiarity or request.recency):
        return None
    return Rules(
        where=request.filter, diversity=request.diversity, popularity=STRENGTH * request.familiarity,
        recency=STRENGTH * request.recency,
    )  # fmt: skip


def _allowed(n_items: int, left_out: Tensor, candidates: Tensor | None) -> Tensor | None:
    """Items that may be listed; None for all."""
    if not len(left_out):
        return candidates
    keep = torch.zeros(n_items, dtype=torch.bool) if candidates is not None else torch.ones(n_items, dtype=torch.bool)
    if candidates is not None:
        keep[candidates] = True
    keep[left_out] = False
    return keep.nonzero().squeeze(1)


def _why_short(served: Served, asked: Asked, request: RecommendRequest, found: int) -> tuple[str | None, list[str]]:
    """Why a list is shorter than asked for: a reason if it is empty, and a note."""
    n_items = served.rec.data.n_items
    if request.filter:
        matching = int(where(served.rec.data.item_table, request.filter).sum())
        if not matching:
            return "filter", [f"0 of {request.k} items are listed: none of {n_items:,} items matches the filter."]
        kind, what = "filter", f"{matching:,} of {n_items:,} items match the filter"
    elif request.candidates is not None:
        kind, what = "candidates", f"{len(set(request.candidates)):,} items are candidates"
    elif request.exclude:
        kind, what = "excluded", f"{n_items:,} items are known"
    else:
        kind, what = "all_seen", f"{n_items:,} items are known"
    others = ["hidden"] if len(served.hidden) else []
    others += [] if request.include_seen else ["in the history"]
    others += ["left out because of feedback"] if asked.left_out else []
    others += ["excluded"] if request.exclude else []
    rest = f"; the others are {', '.join(others[:-1]) + ' or ' if others[1:] else ''}{others[-1]}" if others else ""
    return (None if found else kind), [f"{found} of {request.k} items are listed: {what}{rest}."]
