"""Validator: one metric on the valid part, and the loss there, after each epoch of training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch

from palate.data.dataset import Dataset, Spec
from palate.data.ids import IdMap
from palate.errors import CannotAnswer, ConfigError, DataError
from palate.evaluation.conditions import new_items
from palate.evaluation.measure import Task, measure, trained_items
from palate.evaluation.metrics import parse
from palate.evaluation.protocol import Protocol
from palate.evaluation.ranked import Catalogue
from palate.evaluation.result import sums
from palate.models.base import GradientModel

BATCH = 2048
"""Rows in one batch of the loss on the valid part."""
LOSS_USERS = 1000
"""Users whose rows the loss is taken on where another metric chooses: a curve to look at may be cheap."""


class Validator:
    """Judges a model on the valid part (`palate.training.loop.Validate`); chance is the same after each epoch.

    Calling it gives the monitored metric and, for a `GradientModel`, `loss`: the mean loss on the rows of the part
    whose user and item the model knows; of a fixed random sample of `LOSS_USERS` users, but of all where the loss is
    what is monitored. A model that answers for new items is extended by those of the part; where the part holds no
    others, they compete with each other alone.

    Args:
        part: The valid part of a split.
        model: The model to be trained.
        monitor: The metric that chooses the epoch; any with one value per user, or loss. auto: what the model wishes
            (`model.monitor`), else rmse where it predicts ratings and the part holds them, else ndcg@10.
        max_users: Judge a fixed random sample of so many users; default all. The loss takes their rows only, too.
        seed: Decides the sample and the chance in the loss.

    Raises:
        ConfigError: The metric is unknown, or one that cannot choose an epoch.
        CannotAnswer: The model, or the part, lacks ratings for rmse or mae; or the model has no loss.
        DataError: The part holds no rows or no history.
    """

    def __init__(
        self, part: Dataset, model: Any, monitor: str = "auto", *, max_users: int | None = None, seed: int = 0
    ) -> None:
        if not len(part) or part.history is None:
            raise DataError("validation needs the valid part of a split, with rows and with what was known before them")
        rates = "rating" in model.answers and part.rating is not None
        if monitor == "auto":
            monitor = getattr(model, "monitor", None) or ("rmse" if rates else "ndcg@10")
        self.metric, self.seed = monitor, seed
        self._wanted = {} if monitor == "loss" else parse([monitor])
        self._metric = None if monitor == "loss" else self._wanted[monitor][0]
        if self._metric is not None and (
            self._metric.better is None or self._metric.of == "catalogue" or "diversity" in monitor
        ):
            raise ConfigError(
                f"monitor = {monitor!r} cannot choose an epoch; choose ndcg@10, recall@10, rmse or the like"
            )
        if self._metric is not None and self._metric.of == "ratings" and not rates:
            raise CannotAnswer(
                f"monitor = {monitor!r} needs a model that predicts ratings, and ratings in the valid part"
            )
        if monitor == "loss" and not isinstance(model, GradientModel):
            raise CannotAnswer(
                f"monitor = 'loss' needs a model trained by gradient steps; {type(model).__name__} is not"
            )
        self.higher_is_better = self._metric is not None and self._metric.better == "higher"
        part = _sample(part, max_users, seed)
        self.part, self.users = part, part.active_users
        self._known = _sample(known_only(part, model.spec), None if monitor == "loss" else LOSS_USERS, seed)
        self._new = new_items(model, part)
        all_new = bool((part.item >= trained_items(model.spec)).all())
        self._how = Protocol(candidates="new" if all_new and self._new is not None else "full")

    def __call__(self, model: Any) -> dict[str, float]:
        """The monitored metric and, where the model has one, the mean loss; the model's mode is left as it was."""
        was_training = model.training
        model.eval()
        try:
            found = {} if self._metric is None else {self.metric: self._value(model)}
            if isinstance(model, GradientModel) and len(self._known):
                found["loss"] = self._loss(model)
        finally:
            model.train(was_training)
        return found

    def _value(self, model: Any) -> float:
        assert self._metric is not None
        model = model if self._new is None else model.with_items(self._new)
        catalogue = Catalogue(model.fallback.popularity.double(), model.spec.n_users)
        task = Task(model=model, part=self.part, wanted=self._wanted, how=self._how, catalogue=catalogue)
        measured = measure(task, self.users)
        ratings = measured.ratings.get("all", np.zeros(len(self.users), dtype=np.int64))
        part, weight = sums(measured.values["all", self.metric], ratings, self._metric)
        return float((part.sum() / weight.sum()) ** (1 / self._metric.power))

    @torch.no_grad()
    def _loss(self, model: GradientModel) -> float:
        total, count = 0.0, 0
        # The loss may draw noise from torch's own generator, which training goes on with.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            for batch in model.batches(self._known, torch.Generator().manual_seed(self.seed), BATCH):
                total, count = total + float(model.loss(batch)) * len(batch), count + len(batch)
        return total / max(count, 1)


def _sample(part: Dataset, most: int | None, seed: int) -> Dataset:
    """The rows of at most so many users, drawn at random; None for all."""
    users = part.active_users
    if most is None or most >= len(users):
        return part
    return part.take(np.isin(part.user, np.random.default_rng(seed).choice(users, most, replace=False)))


def known_only(part: Dataset, spec: Spec) -> Dataset:
    """The part without what is new to a model: rows, ids and side tables end where the model's counts do."""
    inside = (part.user < spec.n_users) & (part.item < spec.n_items)
    history = None if part.history is None else known_only(part.history, spec)
    if inside.all() and part.n_users <= spec.n_users and part.n_items <= spec.n_items:
        return replace(part, history=history)

    def head(table: pl.DataFrame | None, n: int) -> pl.DataFrame | None:
        return None if table is None else table[:n]

    return replace(
        part if inside.all() else part.take(inside),
        users=IdMap(part.users.ids[: spec.n_users]),
        items=IdMap(part.items.ids[: spec.n_items]),
        user_table=head(part.user_table, spec.n_users),
        item_table=head(part.item_table, spec.n_items),
        history=history,
    )
