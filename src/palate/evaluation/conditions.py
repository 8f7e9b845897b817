"""What evaluate() is asked for: the protocol with everything filled in, and what can be measured under it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn.functional import normalize

from palate.data.dataset import Dataset
from palate.data.encoded import Encoded
from palate.data.features import encode
from palate.data.ragged import Ragged
from palate.errors import CannotAnswer, ConfigError, DataError
from palate.evaluation.measure import Task, trained_items
from palate.evaluation.metrics import parse
from palate.evaluation.protocol import Protocol, fingerprint
from palate.evaluation.ranked import Catalogue, sketch


def conditions(
    how: Protocol, part: Dataset, metrics: Sequence[str] | None, candidates: Any, item_vectors: Tensor | None
) -> tuple[Protocol, Ragged | None]:
    """The protocol with everything filled in, and the candidate lists from outside."""
    if not len(part):
        raise DataError("the part holds no rows, so there is nothing to judge; ask the split for a larger share")
    if part.history is None:
        raise DataError(
            "this data is not a part of a split: what was known before is missing; judge on split(...).test"
        )
    if how.min_rating is not None and part.rating is None:
        raise DataError(f"min_rating = {how.min_rating} needs ratings, which this part lacks")
    given = candidates if isinstance(candidates, Ragged) else None
    if given is not None and len(given) != part.n_users:
        raise DataError(f"{len(given)} candidate lists do not match the part's {part.n_users} users; give one for each")
    kind = how.candidates if candidates is None else "given" if given is not None else candidates
    if kind == "given" and given is None:
        raise ConfigError(
            "candidates = 'given' needs the lists: evaluate(..., candidates=given_candidates(part, frame))"
        )
    how = replace(
        how,
        data=fingerprint(part, part.history),
        metrics=how.metrics if metrics is None else tuple(metrics),
        candidates=kind,
        given="" if given is None else fingerprint(given.values, given.offsets),
        vectors="" if item_vectors is None else fingerprint(item_vectors),
    )
    return how, given


def new_items(model: Any, part: Dataset) -> Encoded | None:
    """What is known of the part's items that follow after the model's; None where it could not answer for them."""
    features, n_items = model.spec.item_features, model.spec.n_items
    if "new_item" not in model.answers or features is None or part.item_table is None or part.n_items <= n_items:
        return None
    return encode(part.item_table[n_items:], features)


def task(model: Any, part: Dataset, how: Protocol, given: Ragged | None, item_vectors: Tensor | None) -> Task:
    """What can be measured of this model and part, and what that takes.

    A model that answers for new items is extended by those of the part, so that they can be listed.
    """
    more = new_items(model, part)
    model = model if more is None else model.with_items(more)
    _require(how.candidates, part, trained_items(model.spec))
    wanted = parse(how.metrics)
    if part.rating is None or "rating" not in model.answers:
        wanted = {name: pair for name, pair in wanted.items() if pair[0].of != "ratings"}
    if not wanted:
        told = f"{', '.join(how.metrics)} cannot be had"
        raise CannotAnswer(f"{told}: {type(model).__name__} predicts no ratings, or the part holds none")
    vectors = item_vectors
    if vectors is None and part.history is not None and any(name.startswith("diversity@") for name in wanted):
        vectors = sketch(part.history, model.spec.n_items, how.seed)
    vectors = None if vectors is None else normalize(vectors.float(), dim=1)
    catalogue = Catalogue(model.fallback.popularity.double(), model.spec.n_users, vectors)
    return Task(model=model, part=part, wanted=wanted, how=how, candidates=given, catalogue=catalogue)


def _require(candidates: str, part: Dataset, trained: int) -> None:
    """Something must be left to find where only known items, or only new ones, are targets."""
    there = {"warm": bool((part.item < trained).any()), "new": bool((part.item >= trained).any())}
    if not there.get(candidates, True):
        kind, other = ("that training saw", "new") if candidates == "warm" else ("that training never saw", "warm")
        raise DataError(
            f"candidates = {candidates!r} judges items {kind}, and all {len(part):,} rows of this part are of others; "
            f"judge all of them (full) or those (candidates = {other!r})"
        )
