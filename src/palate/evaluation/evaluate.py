"""evaluate(): a fitted model and a held-out part -> Evaluation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from torch import Tensor

from palate.data.dataset import Dataset
from palate.data.ragged import Ragged
from palate.errors import DataError
from palate.evaluation.measure import build_task, measure, routes
from palate.evaluation.metrics import MetricLike
from palate.evaluation.protocol import Protocol, complete_protocol
from palate.evaluation.result import Estimate, Evaluation, Slice, estimate_catalogue, reader_notes, slice_results
from palate.evaluation.validate import Validator
from palate.models.base import Model

__all__ = ["Estimate", "Evaluation", "MetricLike", "Slice", "Validator", "evaluate"]


def evaluate(
    model: Model,
    part: Dataset,
    metrics: Sequence[MetricLike] | None = None,
    *,
    candidates: Literal["full", "warm", "new", "uni99"] | Ragged | None = None,
    protocol: Protocol | None = None,
    item_vectors: Tensor | None = None,
    name: str | None = None,
    fit_seconds: float | None = None,
    block: int | None = None,
) -> Evaluation:
    """Evaluate a fitted model on a held-out part.

    List metrics are computed over the users with at least one target, rating metrics over all rows. New items are
    targets that no list can hold, unless the model can score new items. New users are answered by the model if it can,
    and by popularity otherwise.

    Args:
        model: A fitted model.
        part: The valid or test part of a split.
        metrics: Names such as ndcg@10, and functions (see `metric_names`). Defaults to those of the protocol.
        candidates: The items that compete with the targets, as in `Protocol`; or predefined lists, one row of items for
            each user of `part` (see `protocol.given_candidates`), to which the targets are added. Defaults to those of
            the protocol.
        protocol: The protocol; what depends on the data is set here. Defaults to `Protocol()`.
        item_vectors: Vectors whose cosine is the similarity of two items for diversity, `[n_items, D]`, for example of
            `ranked.tag_vectors`. Defaults to a sketch of the items' users.
        name: Name of the model in tables. Defaults to the name of its class.
        fit_seconds: Training time, for tables.
        block: Users scored at once; does not change the result.

    Raises:
        DataError: The part has no rows, no history or no targets.
        CannotAnswer: None of the metrics is available for this model and part.
        ConfigError: A metric is unknown.
        TrainingError: The model returns scores that are not finite.
    """
    protocol, lists = complete_protocol(protocol or Protocol(), part, metrics, candidates, item_vectors)
    task = build_task(model, part, protocol, lists, item_vectors)
    users, start = part.active_users, time.perf_counter()
    measured = measure(task, users, block)
    seconds = {"predict": time.perf_counter() - start} | ({} if fit_seconds is None else {"fit": fit_seconds})
    if task.k and not len(measured.listed):
        raise DataError(f"min_rating = {protocol.min_rating or 0:g}: no row of the part has such a rating; lower it")
    found = slice_results(task, users, measured)
    estimates = found["all"].estimates | estimate_catalogue(task, measured)
    found["all"] = replace(found["all"], estimates={n: estimates[n] for n in task.wanted if n in estimates})
    longest = max((task.wanted[n][1] or 0 for n in task.names("catalogue")), default=task.k)
    listed = measured.listed[:, :longest].numpy()
    return Evaluation(
        model=name or type(model).__name__,
        protocol=protocol,
        users=part.users.ids[users].rename("user_id"),
        slices=found,
        routes=routes(task, measured),
        exposure=np.bincount(listed[listed >= 0], minlength=task.model.spec.n_items),
        popularity=task.model.fallback.popularity.cpu().long().numpy(),
        seconds=seconds,
        notes=reader_notes(task, measured, found, asked=protocol.metrics if metrics else ()),
    )
