"""Which past sessions, or users, are behind a score: a sentence for models that score by their neighbours."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from palate.data.dataset import Dataset
from palate.data.queries import Queries
from palate.explanation.explanation import and_list

NAMED = 3
"""Neighbours that are named, and items that are named of each."""


@runtime_checkable
class NamesNeighbours(Protocol):
    """A model that knows whose histories a score comes from; `palate.models.sequence.vmis_knn.VMISKNN` is one."""

    def neighbours(self, query: Queries, item: int) -> tuple[np.ndarray, np.ndarray]:
        """User indices of the training data, and what each adds to the score of an item, the largest first."""
        ...


def neighbour_note(model: object, data: Dataset, query: Queries, item: int) -> tuple[str, ...]:
    """One sentence that names the closest neighbours that hold an item, and what each shares with the query's history.

    Args:
        model: Any model.
        data: What it was fitted to.
        query: One row.
        item: Item index.

    Returns:
        Nothing for models without neighbours, and for items that no neighbour holds.
    """
    if not isinstance(model, NamesNeighbours):
        return ()
    users, share = model.neighbours(query, item)
    users = users[share > 0]
    if not len(users):
        return ()
    asked, told = query.history.values.cpu().numpy(), []
    for user in users[:NAMED].tolist():
        items = data.item[data.offsets[user] : data.offsets[user + 1]]
        common = np.array([one for one in dict.fromkeys(items.tolist()) if one in asked], dtype=np.int64)
        more = f" and {len(common) - NAMED} more" if len(common) > NAMED else ""
        told.append(f"{data.users.ids[user]} (with {', '.join(data.titles(common[:NAMED]))}{more})")
    what = "session" if data.events.sessions else "user"
    many = len(users) > 1
    hold = f"{len(users):,} similar {what}{'s' if many else ''} {'hold' if many else 'holds'}"
    which = ("the closest are" if len(told) > 1 else "the closest is") if many else "it is"
    return (f"{hold} {data.titles(np.array([item]))[0]}; {which} {and_list(told)}.",)
