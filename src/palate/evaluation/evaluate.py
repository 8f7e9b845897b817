"""evaluate(): a fitted model and a held-out part -> Evaluation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from torch import Tensor
from torch.nn.functional import normalize

from palate.data.dataset import Dataset
from palate.data.ragged import Ragged
from palate.errors import CannotAnswer, ConfigError, DataError
from palate.evaluation.measure import ROUTES, Measured, Task, measure, slices
from palate.evaluation.metrics import parse
from palate.evaluation.protocol import Protocol, fingerprint
from palate.evaluation.ranked import Catalogue, sketch
from palate.evaluation.result import Estimate, Evaluation, Slice, estimates
from palate.evaluation.statistics import bootstrap_catalogue, interval
from palate.evaluation.validate import Validator

__all__ = ["Estimate", "Evaluation", "Slice", "Validator", "evaluate"]

CATALOGUE_RESAMPLES = 200


def evaluate(
    model: Any,
    part: Dataset,
    metrics: Sequence[str] | None = None,
    *,
    candidates: Literal["full", "uni99"] | Ragged | None = None,
    protocol: Protocol | None = None,
    item_vectors: Tensor | None = None,
    name: str | None = None,
    fit_seconds: float | None = None,
    block: int | None = None,
) -> Evaluation:
    """Judge a fitted model on a held-out part.

    Lists are judged on the users with at least one target, ratings on all rows. New items count as targets that are
    never found; new users are answered by the model if it can and by popularity if not.

    Args:
        model: A `palate.models.base.Model`.
        part: The valid or test part of a split.
        metrics: Names such as ndcg@10; default: the protocol's.
        candidates: What competes with the targets; a row of items for each user of `part` stands for lists from outside
            (see `protocol.given_candidates`; the targets are always added). Default: the protocol's.
        protocol: The conditions; default `Protocol()`. What depends on data is filled in.
        item_vectors: `[n_items, D]`, what diversity judges by (`ranked.tag_vectors`); default: who had the items.
        name: The model's, for tables; default its class's.
        fit_seconds: How long training took, for tables.
        block: Users asked about at once; the result does not depend on it.

    Raises:
        DataError: The part has no rows, no history, or no relevant rows.
        CannotAnswer: None of the metrics can be had from this model and part.
        ConfigError: A metric is unknown.
        TrainingError: The model gives scores that are not finite.
    """
    how, given = _conditions(protocol or Protocol(), part, metrics, candidates, item_vectors)
    task = _task(model, part, how, given, item_vectors)
    users = part.active_users
    start = time.perf_counter()
    measured = measure(task, users, block)
    seconds = {"predict": time.perf_counter() - start} | ({} if fit_seconds is None else {"fit": fit_seconds})
    if task.k and not len(measured.listed):
        raise DataError(f"no row of the part has a rating of {how.min_rating} or more, so there is nothing to find")
    found = _slices(task, users, measured)
    every = found["all"].estimates | _catalogue_estimates(task, measured)
    found["all"] = replace(found["all"], estimates={n: every[n] for n in task.wanted if n in every})
    longest = max((task.wanted[n][1] or 0 for n in task.names("catalogue")), default=task.k)
    listed = measured.listed[:, :longest].numpy()
    return Evaluation(
        model=name or type(model).__name__,
        protocol=how,
        users=part.users.ids[users].rename("user_id"),
        slices=found,
        routes={route: int(n) / len(users) for route, n in zip(ROUTES, measured.routes, strict=True)},
        exposure=np.bincount(listed[listed >= 0], minlength=model.spec.n_items),
        popularity=model.fallback.popularity.long().numpy(),
        seconds=seconds,
        notes=_notes(measured),
    )


def _conditions(
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


def _task(model: Any, part: Dataset, how: Protocol, given: Ragged | None, item_vectors: Tensor | None) -> Task:
    """What can be measured of this model and part, and what that takes."""
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


def _notes(measured: Measured) -> tuple[str, ...]:
    if not measured.unreachable:
        return ()
    share = f"{measured.unreachable:,} of {measured.targets:,} targets"
    return (f"{share} count as never found: new to the model, or already seen and so kept out of the lists",)


def _slices(task: Task, users: np.ndarray, measured: Measured) -> dict[str, Slice]:
    """Values and intervals of each kind of rows; only "all" where nothing is new."""
    found = {}
    masks = slices(task.part.user, task.part.item, task.model.spec)
    for kind, mask in masks.items():
        if kind == "warm" and mask.all():
            continue
        ratings = measured.ratings.get(kind, np.zeros(len(users), dtype=np.int64))
        values = {name: measured.values[kind, name] for name in task.wanted if (kind, name) in measured.values}
        found[kind] = Slice(
            rows=int(mask.sum()),
            users=len(np.unique(task.part.user[mask])),
            ratings=ratings,
            values=values,
            estimates=estimates(values, ratings, task.how.seed),
        )
    return found


def _catalogue_estimates(task: Task, measured: Measured) -> dict[str, Estimate]:
    """Coverage and Gini with intervals.

    A resample of lists holds fewer distinct ones, so it covers less: the resamples are moved to the value's place and
    tell only the spread.
    """
    found = {}
    for name in task.names("catalogue"):
        metric, k = task.wanted[name]
        listed = measured.listed[:, :k].numpy()
        exposure = np.bincount(listed[listed >= 0], minlength=task.model.spec.n_items)
        assert metric.function is not None  # only rating metrics have none
        value = metric.function(exposure)
        draws = bootstrap_catalogue(
            listed, task.model.spec.n_items, [metric.function], task.how.seed, CATALOGUE_RESAMPLES
        )
        low, high = interval(np.clip(draws[:, 0] - draws.mean() + value, 0.0, 1.0))
        found[name] = Estimate(value=value, low=low, high=high, n=len(listed))
    return found
