"""measure(): ask a model about the users of a part, block by block, and keep each user's values.

Legend: B users of a block, N items, U users in all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palate.data.dataset import Dataset, Queries, Spec
from palate.data.ragged import Ragged
from palate.errors import TrainingError
from palate.evaluation.metrics import Metric
from palate.evaluation.protocol import NEGATIVES, Protocol, sampled_candidates
from palate.evaluation.rank import block_rows, rank
from palate.evaluation.ranked import NEVER, Catalogue, join

ROUTES = KNOWN_USER, HISTORY, CONTENT, WITHIN, POPULARITY = (
    "known_user",
    "history",
    "content",
    "popularity_within",
    "popularity",
)
"""Who answered: the model knowing the user, from the history, from what else is known; or popularity in its place,
within the attributes of the person or of all."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Task:
    """What is measured, and how.

    Attributes:
        model: A fitted `palate.models.base.Model`.
        part: A part of a split.
        wanted: What `metrics.parse` gives, without what the model or the part cannot answer.
        how: Candidates, relevance, seed.
        candidates: The lists, where `how.candidates` is given; a row for each user of `part`.
        catalogue: For list metrics.
    """

    model: Any
    part: Dataset
    wanted: Mapping[str, tuple[Metric, int | None]]
    how: Protocol
    candidates: Ragged | None = None
    catalogue: Catalogue | None = None

    @cached_property
    def targets(self) -> Ragged:
        """The relevant items of each user of the part; an item may come twice."""
        least, rating = self.how.min_rating, self.part.rating
        part = self.part if least is None or rating is None else self.part.take(rating >= least)
        if self.how.candidates in ("warm", "new"):
            part = part.take((part.item < trained_items(self.model.spec)) == (self.how.candidates == "warm"))
        return part.histories

    @property
    def k(self) -> int:
        """Length of the lists; 0 where nothing needs any."""
        return max((cut or 1 for metric, cut in self.wanted.values() if metric.of != "ratings"), default=0)

    def names(self, *of: str) -> list[str]:
        """The wanted metrics that are computed from these."""
        return [name for name, (metric, _) in self.wanted.items() if metric.of in of]


@dataclass(eq=False)
class Measured:
    """Values of each user and what was counted on the way.

    Attributes:
        values: (slice, metric) -> float64 `[U]`, NaN for a user without a value.
        ratings: Slice -> predicted rows of each user, int64 `[U]`.
        listed: The lists of users with a target, int32 `[.., k]`, padded with -1.
        routes: Users by who answered, in the order of `ROUTES`.
        targets, unreachable: Targets, and those no list could hold.
    """

    values: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    ratings: dict[str, np.ndarray] = field(default_factory=dict)
    listed: Tensor = field(default_factory=lambda: torch.empty(0, 1, dtype=torch.int32))
    routes: np.ndarray = field(default_factory=lambda: np.zeros(len(ROUTES), dtype=np.int64))
    targets: int = 0
    unreachable: int = 0


def measure(task: Task, users: np.ndarray, block: int | None = None) -> Measured:
    """Each user's values.

    Args:
        task: What to do.
        users: Who is judged: indices of the part, each with at least one row.
        block: Users asked about at once; default: as `rank`.
    """
    step = block or block_rows(task.model.spec.n_items)
    whole = Measured()
    lists = []
    for start in range(0, len(users), step):
        some = users[start : start + step]
        queries = task.part.queries(some, task.model.spec)
        route = taken(task.model, queries)
        found = Measured(routes=np.array([int((route == name).sum()) for name in ROUTES]))
        if task.k:
            _judge_lists(task, some, queries, found)
        if task.names("ratings"):
            _judge_predictions(task, some, queries, found)
        at = slice(start, start + len(some))
        for key, column in found.values.items():
            whole.values.setdefault(key, np.full(len(users), np.nan))[at] = column
        for name, count in found.ratings.items():
            whole.ratings.setdefault(name, np.zeros(len(users), dtype=np.int64))[at] = count
        lists.append(found.listed)
        whole.routes += found.routes
        whole.targets, whole.unreachable = whole.targets + found.targets, whole.unreachable + found.unreachable
    whole.listed = torch.cat(lists) if lists else whole.listed
    return whole


def slices(user: np.ndarray, item: np.ndarray, spec: Spec) -> dict[str, np.ndarray]:
    """Which (user, item) rows are of which kind, bool `[rows]`; kinds without rows are left out."""
    new_user, new_item = user >= spec.n_users, item >= trained_items(spec)
    kinds = {"all": np.ones(len(user), dtype=bool), "warm": ~(new_user | new_item)}
    kinds |= {"new_user": new_user, "new_item": new_item}
    return {name: mask for name, mask in kinds.items() if mask.any()}


def trained_items(spec: Spec) -> int:
    """How many items training held; those that a model was extended by are new."""
    return spec.n_items - spec.new_items


def _judge_lists(task: Task, users: np.ndarray, queries: Queries, found: Measured) -> None:
    targets = _distinct(task.targets.take(torch.from_numpy(users)), task.part.n_items)
    ranked = rank(
        task.model,
        queries,
        task.k,
        exclude_seen=task.how.exclude_seen,
        candidates=_candidates(task, users, queries, targets),
        targets=targets,
        full=any(task.wanted[name][1] is None for name in task.names("targets")),
        count=any(name.startswith("auc") for name in task.names("targets")),
        block=max(len(queries), 1),
    )
    ranked = replace(ranked, catalogue=task.catalogue)
    for kind, mask in slices(users[ranked.row.numpy()], targets.values.numpy(), task.model.spec).items():
        judged = ranked.only(torch.from_numpy(mask))
        there = judged.targets.lengths > 0
        for name in task.names("targets", "lists"):
            metric, k = task.wanted[name]
            found.values[kind, name] = torch.where(there, metric(judged, k), torch.nan).numpy()
    found.listed = ranked.items[targets.lengths > 0].int()
    found.targets, found.unreachable = len(targets.values), int((ranked.greater == NEVER).sum())


def _judge_predictions(task: Task, users: np.ndarray, queries: Queries, found: Measured) -> None:
    """Errors over all rows of the users; a new user is -1 in the query, a new item -1 here."""
    chosen = torch.from_numpy(users)
    place = task.part.histories.positions(chosen).numpy()
    row = task.part.histories.take(chosen).row_of_value
    item = torch.from_numpy(task.part.item[place].astype(np.int64))
    known = torch.where(item < task.model.spec.n_items, item, -1)
    assert task.part.rating is not None  # rating metrics are wanted only where there are ratings
    time = None if task.part.timestamp is None else torch.from_numpy(task.part.timestamp[place])
    error = task.model.predict(queries, known, row, time).double().numpy() - task.part.rating[place]
    if not np.isfinite(error).all():
        raise TrainingError(
            f"{type(task.model).__name__} predicted NaN or infinite ratings; train it again with a smaller lr"
        )
    whose = row.numpy()
    for kind, mask in slices(users[whose], item.numpy(), task.model.spec).items():
        count = np.bincount(whose[mask], minlength=len(users))
        own = {
            "rmse": np.sqrt(np.bincount(whose[mask], error[mask] ** 2, len(users)) / np.maximum(count, 1)),
            "mae": np.bincount(whose[mask], np.abs(error[mask]), len(users)) / np.maximum(count, 1),
        }
        found.ratings[kind] = count
        for name in task.names("ratings"):
            found.values[kind, name] = np.where(count > 0, own[name.removeprefix("user_")], np.nan)


def _distinct(items: Ragged, n_items: int) -> Ragged:
    """Each row's items once, ascending."""
    keys = torch.unique(items.row_of_value * n_items + items.values)
    return Ragged.from_lengths(keys % n_items, torch.bincount(keys // n_items, minlength=len(items)))


def _candidates(task: Task, users: np.ndarray, queries: Queries, targets: Ragged) -> Tensor | Ragged | None:
    """The items that compete, targets included; None for all."""
    chosen, trained = torch.from_numpy(users), trained_items(task.model.spec)
    if task.how.candidates in ("warm", "new"):
        return torch.arange(trained) if task.how.candidates == "warm" else torch.arange(trained, task.part.n_items)
    if task.how.candidates == "uni99":
        n_items = task.model.spec.n_items
        taken = join(queries.history, targets.keep(targets.values < n_items))
        others = sampled_candidates(chosen, taken, NEGATIVES * targets.lengths, n_items, task.how.seed)
        return join(others, targets)
    return None if task.candidates is None else join(task.candidates.take(chosen), targets)


def taken(model: Any, queries: Queries) -> np.ndarray:
    """Which of `ROUTES` answers each query, text `[B]`."""
    by_user = (queries.user >= 0).numpy() & ("known_user" in model.answers)
    by_history = (queries.history.lengths > 0).numpy() & ("history" in model.answers)
    unanswered, within = ~model.answerable(queries).numpy(), model.fallback.told(queries).numpy()
    found = [WITHIN, POPULARITY, KNOWN_USER, HISTORY]
    return np.select([unanswered & within, unanswered, by_user, by_history], found, CONTENT)
