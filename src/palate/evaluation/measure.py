"""measure(): the metrics of each user of a part, computed block by block.

Legend: B users of a block, N items, U users in all, P pairs of a user and an item.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from palate.data.dataset import Dataset, Queries, Spec
from palate.data.features.encode import encode
from palate.data.features.schema import FeatureBatch
from palate.data.queries import Questions
from palate.data.ragged import Ragged
from palate.errors import CannotAnswer, DataError, TrainingError
from palate.evaluation.metrics import Metric, Weights, parse, user_sums
from palate.evaluation.protocol import SAMPLED_PER_TARGET, Protocol, sampled_candidates
from palate.models.base import Model
from palate.ranking.ranked import NEVER, Catalogue, join, sketch
from palate.ranking.topk import block_rows, rank

ROUTES = KNOWN_USER, HISTORY, CONTENT, WITHIN, POPULARITY = (
    "known_user",
    "history",
    "content",
    "popularity_within",
    "popularity",
)
"""How lists are made: by the model, from the trained user, the history or the features; or by popularity, among users
with the same attributes or overall."""
FALLBACK = "fallback"
"""How ratings are predicted for queries that the model does not answer: by mean ratings."""
MAX_HISTORY_VALUES = 2**22
"""Most history values at once if each pair is predicted at its own time."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Task:
    """What is measured and under which protocol.

    Attributes:
        model: A fitted model, extended by the part's new items if it can score them.
        part: A part of a split.
        wanted: The metrics that the model and the part allow, with their cut-offs, as `metrics.parse` returns them.
        protocol: Candidates, relevance, seed.
        candidates: Candidate lists if `protocol.candidates` is "given": a row for each user of `part`.
        catalogue: The item catalogue, for list metrics.
    """

    model: Model
    part: Dataset
    wanted: Mapping[str, tuple[Metric, int | None]]
    protocol: Protocol
    candidates: Ragged | None = None
    catalogue: Catalogue | None = None

    @cached_property
    def relevant(self) -> Tensor:
        """The rows of the part that are targets, bool `[rows]`."""
        min_rating, rating = self.protocol.min_rating, self.part.rating
        found = self.part.is_choice.copy() if min_rating is None or rating is None else rating >= min_rating
        if self.protocol.candidates in ("warm", "new"):
            found &= (self.part.item < trained_items(self.model.spec)) == (self.protocol.candidates == "warm")
        return torch.from_numpy(found)

    def targets(self, questions: Questions, which: slice) -> Ragged:
        """The distinct relevant items of some questions, ascending."""
        rows = questions.targets(which)
        rows = rows.keep(self.relevant[rows.values])
        items = Ragged(torch.from_numpy(self.part.item)[rows.values].long(), rows.offsets)
        return _distinct(items, self.part.n_items)

    @property
    def k(self) -> int:
        """Length of the lists; 0 if no metric needs lists."""
        return max((cut or 1 for metric, cut in self.wanted.values() if metric.source != "ratings"), default=0)

    def names(self, *sources: str) -> list[str]:
        """The wanted metrics that are computed from the given sources."""
        return [name for name, (metric, _) in self.wanted.items() if metric.source in sources]


def build_task(
    model: Model, part: Dataset, protocol: Protocol, candidates: Ragged | None, item_vectors: Tensor | None
) -> Task:
    """What can be measured of this model on this part.

    Args:
        model: A fitted model. If it can score new items, those of the part are added to its catalogue.
        part: A part of a split.
        protocol: A complete protocol.
        candidates: Candidate lists if `protocol.candidates` is "given".
        item_vectors: Vectors for diversity, `[N, D]`. Defaults to a sketch of the items' users.

    Raises:
        CannotAnswer: The metrics need ratings, and the model predicts none or the part has none.
        DataError: The part has no targets among the candidates.
    """
    features = new_items(model, part)
    model = model if features is None else model.with_items(features)
    _require_targets(protocol.candidates, part, trained_items(model.spec))
    wanted = parse(protocol.metrics)
    if (reason := why_no_ratings(model, part)) is not None:
        wanted = {name: pair for name, pair in wanted.items() if pair[0].source != "ratings"}
        if not wanted:
            raise CannotAnswer(reason)
    vectors = item_vectors
    if vectors is None and part.history is not None and any(name.startswith("diversity@") for name in wanted):
        vectors = sketch(part.history, model.spec.n_items, protocol.seed)
    vectors = None if vectors is None else normalize(vectors.float(), dim=1)
    catalogue = Catalogue(model.fallback.popularity.cpu().double(), model.spec.n_users, vectors)
    return Task(model=model, part=part, wanted=wanted, protocol=protocol, candidates=candidates, catalogue=catalogue)


def why_no_ratings(model: Model, part: Dataset) -> str | None:
    """Why RMSE and MAE are not available for this model and part, and what helps; None if they are."""
    if part.rating is None:
        return "RMSE and MAE are not available: the part has no ratings"
    if "rating" in model.answers:
        return None
    reason = f"{type(model).__name__} ranks items and does not predict ratings"
    has_setting = "rating" in type(model).answers and hasattr(model.config, "loss")
    remedy = '. Train it with `loss="mse"` to get them' if has_setting else ""
    return f"RMSE and MAE are not available: {reason}{remedy}"


def _require_targets(candidates: str, part: Dataset, n_trained: int) -> None:
    """Under the candidates "warm" and "new", the part must hold such items."""
    if candidates == "warm" and not (part.item < n_trained).any():
        held, other = "no items with training interactions", "new"
    elif candidates == "new" and not (part.item >= n_trained).any():
        held, other = "no items without training interactions", "warm"
    else:
        return
    raise DataError(
        f"candidates = {candidates!r}: the {len(part):,} rows of this part hold {held}; use 'full' or {other!r}"
    )


@dataclass(eq=False)
class Measured:
    """Metric values of each user, and counts.

    Attributes:
        values: (slice, metric) -> float64 `[U]`, NaN for a user without a value; while questions are measured, `[Q]`.
        ratings: Slice -> number of predicted ratings of each user, int64 `[U]`.
        questions: Slice -> number of lists with a target of each user, int64 `[U]`; empty if each user is one question.
        users: U.
        listed: The lists of users with a target, int32 `[.., k]`, padded with -1.
        routes: Number of users by route, in the order of `ROUTES`.
        targets, unreachable: Number of targets, and of those that no list could hold.
    """

    values: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    ratings: dict[str, np.ndarray] = field(default_factory=dict)
    questions: dict[str, np.ndarray] = field(default_factory=dict)
    users: int = 0
    listed: Tensor = field(default_factory=lambda: torch.empty(0, 1, dtype=torch.int32))
    routes: np.ndarray = field(default_factory=lambda: np.zeros(len(ROUTES), dtype=np.int64))
    targets: int = 0
    unreachable: int = 0

    def weights(self, kind: str) -> Weights:
        """How much each user counts in the means of a slice."""
        ratings = self.ratings.get(kind, np.zeros(self.users, dtype=np.int64))
        return Weights(ratings, self.questions.get(kind, np.ones(self.users, dtype=np.int64)))


def measure(task: Task, users: np.ndarray, block: int | None = None) -> Measured:
    """Metric values of each user.

    Args:
        task: What is measured.
        users: User indices of the part, each with at least one row.
        block: Questions scored at once. Defaults to `palate.ranking.topk.block_rows`.
    """
    questions = task.part.questions.of(users)
    whole = Measured(users=len(users))
    lists = []
    for which in questions.blocks(block or block_rows(task.model.spec.n_items)):
        queries = questions.queries(which, task.model.spec)
        route = answered_by(task.model, queries)
        found = Measured(routes=np.array([int((route == name).sum()) for name in ROUTES]))
        if task.k:
            _measure_lists(task, questions, which, queries, found)
        if task.names("ratings"):
            _measure_ratings(task, questions, which, queries, found)
        for key, column in found.values.items():
            whole.values.setdefault(key, np.full(len(questions), np.nan))[which] = column
        for name, count in found.ratings.items():
            whole.ratings.setdefault(name, np.zeros(len(questions), dtype=np.int64))[which] = count
        lists.append(found.listed)
        whole.routes += found.routes
        whole.targets, whole.unreachable = whole.targets + found.targets, whole.unreachable + found.unreachable
    whole.listed = torch.cat(lists) if lists else whole.listed
    if task.part.events.successive:
        _sum_by_user(task, whole, np.searchsorted(users, questions.user))
    return whole


def _sum_by_user(task: Task, found: Measured, place: np.ndarray) -> None:
    """From values of questions to those of users: means over the user's questions, and how many there are.

    Args:
        task: What is measured.
        found: Values of questions, replaced by those of users.
        place: The user of each question, a position among the users.
    """
    asked = np.ones(len(place), dtype=np.int64)
    values: dict[tuple[str, str], np.ndarray] = {}
    for (kind, name), column in found.values.items():
        metric = task.wanted[name][0]
        part, weight = user_sums(column, Weights(found.ratings.get(kind, asked), asked), metric)
        of_user, total = (np.bincount(place, sums, minlength=found.users) for sums in (part, weight))
        with np.errstate(invalid="ignore"):
            values[kind, name] = np.where(total > 0, (of_user / total) ** (1 / metric.power), np.nan)
        if not metric.per_rating:
            found.questions[kind] = total.astype(np.int64)
    found.values = values
    found.ratings = {
        kind: np.bincount(place, count, minlength=found.users).astype(np.int64) for kind, count in found.ratings.items()
    }


def slices(part: Dataset, user: np.ndarray, item: np.ndarray, spec: Spec) -> dict[str, np.ndarray]:
    """Slices of (user, item) rows as masks, bool `[rows]`: all, warm, new_user, new_item; empty slices are omitted.

    Sessions are never new users: there is no user to know.

    Args:
        part: What the rows are of.
        user, item: Indices `[rows]`.
        spec: Spec of the model.
    """
    new_user, new_item = (user >= spec.n_users) & (not part.events.sessions), item >= trained_items(spec)
    kinds = {"all": np.ones(len(user), dtype=bool), "warm": ~(new_user | new_item)}
    kinds |= {"new_user": new_user, "new_item": new_item}
    return {name: mask for name, mask in kinds.items() if mask.any()}


def trained_items(spec: Spec) -> int:
    """Number of items seen in training; items added to the model later are new."""
    return spec.n_items - spec.new_items


def new_items(model: Model, part: Dataset) -> FeatureBatch | None:
    """Features of the part's items that the model does not know; None if there are none or it cannot score them."""
    features, n_items = model.spec.item_features, model.spec.n_items
    if "new_item" not in model.answers or features is None or part.item_table is None or part.n_items <= n_items:
        return None
    return encode(part.item_table[n_items:], features)


def _measure_lists(task: Task, questions: Questions, which: slice, queries: Queries, found: Measured) -> None:
    """List metrics of a block of questions, by slice of their targets."""
    users, targets = questions.user[which], task.targets(questions, which)
    ranked = rank(
        task.model,
        queries,
        task.k,
        exclude_seen=task.protocol.exclude_seen,
        candidates=_candidates(task, users, queries, targets),
        targets=targets,
        full=any(task.wanted[name][1] is None for name in task.names("targets")),
        count=any(name.startswith("auc") for name in task.names("targets")),
        block=max(len(queries), 1),
    )
    ranked = replace(ranked, catalogue=task.catalogue)
    for kind, mask in slices(task.part, users[ranked.row.numpy()], targets.values.numpy(), task.model.spec).items():
        of_kind = ranked.only(torch.from_numpy(mask))
        has_target = of_kind.targets.lengths > 0
        for name in task.names("targets", "lists"):
            metric, k = task.wanted[name]
            found.values[kind, name] = torch.where(has_target, metric(of_kind, k), torch.nan).numpy()
    found.listed = ranked.items[targets.lengths > 0].int()
    found.targets, found.unreachable = len(targets.values), int((ranked.greater == NEVER).sum())


def _measure_ratings(task: Task, questions: Questions, which: slice, queries: Queries, found: Measured) -> None:
    """Prediction errors over all rows of a block of questions; new users are -1 in the queries, new items -1 here."""
    users, rows = questions.user[which], questions.targets(which)
    which_rows, row = rows.values.numpy(), rows.row_of_value
    item = torch.from_numpy(task.part.item[which_rows].astype(np.int64))
    known = torch.where(item < task.model.spec.n_items, item, -1)
    assert task.part.rating is not None  # rating metrics are wanted only where there are ratings
    time = None if task.part.timestamp is None else torch.from_numpy(task.part.timestamp[which_rows])
    error = predicted_ratings(task.model, queries, known, row, time).double().numpy() - task.part.rating[which_rows]
    if not np.isfinite(error).all():
        raise TrainingError(
            f"{type(task.model).__name__} predicted NaN or infinite ratings; train it again with a lower lr"
        )
    row_P = row.numpy()
    for kind, mask in slices(task.part, users[row_P], item.numpy(), task.model.spec).items():
        count = np.bincount(row_P[mask], minlength=len(users))
        of_user = {
            "rmse": np.sqrt(np.bincount(row_P[mask], error[mask] ** 2, len(users)) / np.maximum(count, 1)),
            "mae": np.bincount(row_P[mask], np.abs(error[mask]), len(users)) / np.maximum(count, 1),
        }
        found.ratings[kind] = count
        for name in task.names("ratings"):
            found.values[kind, name] = np.where(count > 0, of_user[name.removeprefix("user_")], np.nan)


def predicted_ratings(model: Model, queries: Queries, item_P: Tensor, row_P: Tensor, time_P: Tensor | None) -> Tensor:
    """Predicted ratings of pairs, `[P]`; models that use time predict each pair at its own time.

    Args:
        model: A model that predicts ratings.
        queries: The B users.
        item_P: Item indices; -1 for an item the model has never seen.
        row_P: The query of each pair.
        time_P: The time of each pair; None if the part has no times.
    """
    if "time" not in model.needs or time_P is None:
        return model.predict(queries, item_P, row_P)
    longest = int(queries.history.lengths.max()) if len(queries) else 0
    found = [
        model.predict(replace(queries.take(row_P[rows]), asked_at=time_P[rows]), item_P[rows])
        for rows in torch.arange(len(item_P), device=item_P.device).split(max(1, MAX_HISTORY_VALUES // max(longest, 1)))  # type: ignore[no-untyped-call]
    ]
    return torch.cat(found) if found else torch.zeros(0)


def _distinct(items: Ragged, n_items: int) -> Ragged:
    """The distinct items of each row, ascending."""
    keys = torch.unique(items.row_of_value * n_items + items.values)
    return Ragged.from_lengths(keys % n_items, torch.bincount(keys // n_items, minlength=len(items)))


def _candidates(task: Task, users: np.ndarray, queries: Queries, targets: Ragged) -> Tensor | Ragged | None:
    """Candidate items, targets included; None for all items."""
    user_B, n_trained = torch.from_numpy(users), trained_items(task.model.spec)
    if task.protocol.candidates == "warm":
        return torch.arange(n_trained)
    if task.protocol.candidates == "new":
        return torch.arange(n_trained, task.part.n_items)
    if task.protocol.candidates == "uni99":
        n_items = task.model.spec.n_items
        known = join(queries.history, targets.keep(targets.values < n_items))
        count = SAMPLED_PER_TARGET * targets.lengths
        others = sampled_candidates(user_B, known, count, n_items, task.protocol.seed)
        return join(others, targets)
    return None if task.candidates is None else join(task.candidates.take(user_B), targets)


def routes(task: Task, measured: Measured) -> dict[str, float]:
    """Share of the users by route; ratings of queries that the model does not answer come from `FALLBACK`."""
    total = measured.routes.sum()
    shares = {route: int(n) / int(total) for route, n in zip(ROUTES, measured.routes, strict=True)}
    if task.k:
        return shares
    return {KNOWN_USER: shares[KNOWN_USER], HISTORY: shares[HISTORY], CONTENT: shares[CONTENT]} | {
        FALLBACK: shares[WITHIN] + shares[POPULARITY]
    }


def answered_by(model: Model, queries: Queries) -> np.ndarray:
    """The route (one of `ROUTES`) that answers each query, text `[B]`."""
    trained = queries.trained if "history" in model.answers else queries.user >= 0
    by_user = trained.cpu().numpy() & ("known_user" in model.answers)
    by_history = (queries.history.lengths > 0).cpu().numpy() & ("history" in model.answers)
    within = model.fallback.has_attributes(queries).cpu().numpy()
    unanswered = ~model.answerable(queries).cpu().numpy()
    found = [WITHIN, POPULARITY, KNOWN_USER, HISTORY]
    return np.select([unanswered & within, unanswered, by_user, by_history], found, CONTENT)
