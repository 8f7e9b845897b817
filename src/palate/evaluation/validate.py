"""Validator: a metric and the loss on the validation part, after each epoch of training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch

from palate.config import CompleteTraining
from palate.data.dataset import Dataset, Spec
from palate.data.ids import IdMap
from palate.device import module_device, to_device
from palate.errors import CannotAnswer, ConfigError, DataError
from palate.evaluation.measure import Task, measure, new_items, trained_items
from palate.evaluation.metrics import parse, user_sums
from palate.evaluation.protocol import Protocol
from palate.models.base import GradientModel, Model
from palate.ranking.ranked import Catalogue
from palate.training.train_run import Loss

LOSS_BATCH_SIZE = 2048
"""Rows in one batch of the validation loss."""
MAX_LOSS_USERS = 1000
"""Users that the validation loss is measured on, if another metric chooses the epoch."""


class Validator:
    """Evaluates a model on the validation part (`palate.training.train_run.Validate`), with the same draws each time.

    A call returns the monitored metric and, for a `GradientModel`, `loss`: the mean loss on the rows of the part whose
    user and item the model knows. The loss is measured on a fixed random sample of `MAX_LOSS_USERS` users, or on all
    users if it is the monitored metric. If the model can score new items, those of the part are added to its catalogue;
    if the part has new items only, only these are candidates.

    A validator can be used again: after `fit`, for another fit of the model, or for another model of the same spec.

    Args:
        part: The validation part of a split.
        model: The model to be trained.
        monitor: The metric that chooses the epoch: any with one value for each user, or "loss". "auto" is the model's
            own choice (`model.monitor`), else rmse if the model predicts ratings and the part has them, else ndcg@10.
        max_users: Evaluate on a fixed random sample of at most this many users. Defaults to all.
        seed: Seed of the samples and of the random draws in the loss.

    Raises:
        ConfigError: The metric is unknown, or cannot choose an epoch.
        CannotAnswer: The metric needs ratings that the model or the part lacks, or a loss that the model lacks.
        DataError: The part has no rows or no history.
    """

    def __init__(
        self, part: Dataset, model: Model, monitor: str = "auto", *, max_users: int | None = None, seed: int = 0
    ) -> None:
        if not len(part) or part.history is None:
            raise DataError("validation needs the valid part of a split, with rows and with the histories before them")
        if no_weight(part):
            raise DataError(
                f"the sample weights of all {len(part):,} rows of the validation part are 0, so no loss can be "
                "measured on it; weight at least one row above 0, choose another split, or "
                "train on `data.without_weights()`"
            )
        rates = "rating" in model.answers and part.rating is not None
        if monitor == "auto":
            monitor = getattr(model, "monitor", None) or ("rmse" if rates else "ndcg@10")
        self.metric, self.seed = monitor, seed
        self._max_users = max_users
        self._whole_part = part
        self._wanted = {} if monitor == "loss" else parse([monitor])
        self._metric = None if monitor == "loss" else self._wanted[monitor][0]
        self._check(model, rates)
        self.higher_is_better = self._metric is not None and self._metric.better == "higher"
        part = sample_users(part, max_users, seed)
        self.part, self.users = part, part.active_users
        known = sample_users(known_only(part, model.spec), None if monitor == "loss" else MAX_LOSS_USERS, seed)
        self._known = known.training_rows(model.reads_repeats, "rating" in model.needs | model.answers)
        self._has_loss = isinstance(model, GradientModel) and len(self._known) > 0 and not no_weight(self._known)
        if monitor == "loss" and not self._has_loss:
            raise DataError(
                "monitor = 'loss' needs rows of the validation part, with weights above 0, whose users and items are "
                "in the training part; use monitor = 'auto'"
            )
        self._loss_context: tuple[Model, torch.device, list[torch.Tensor], Any] | None = None
        self._new = new_items(model, part)
        all_new = bool((part.item >= trained_items(model.spec)).all())
        self._protocol = Protocol(candidates="new" if all_new and self._new is not None else "full")

    def _check(self, model: Model, rates: bool) -> None:
        """Whether the monitored metric can choose an epoch of this model."""
        monitor, metric = self.metric, self._metric
        if metric is None:
            if not isinstance(model, GradientModel):
                raise CannotAnswer(
                    f"monitor = 'loss' needs a model trained by gradient steps, and {type(model).__name__} is not; use "
                    "monitor = 'auto'"
                )
            return
        if metric.better is None or metric.source == "catalogue":
            raise ConfigError(
                f"monitor = {monitor!r} cannot choose an epoch; use an accuracy metric such as ndcg@10 or rmse"
            )
        if metric.source == "ratings" and not rates:
            raise CannotAnswer(
                f"monitor = {monitor!r} needs a model that predicts ratings, and ratings in the validation part; use "
                "monitor = 'ndcg@10'"
            )

    def __call__(self, model: Model) -> dict[str, float]:
        """The monitored metric and, if the model has one, the mean loss; the model's mode is left as it was."""
        was_training = model.training
        model.eval()
        try:
            found = {} if self._metric is None else {self.metric: self._value(model)}
            if isinstance(model, GradientModel) and self._has_loss:
                found["loss"] = self._loss(model)
        finally:
            model.train(was_training)
        return found

    def _value(self, model: Model) -> float:
        assert self._metric is not None
        model = model if self._new is None else model.with_items(self._new)
        catalogue = Catalogue(model.fallback.popularity.cpu().double(), model.spec.n_users)
        task = Task(model=model, part=self.part, wanted=self._wanted, protocol=self._protocol, catalogue=catalogue)
        measured = measure(task, self.users)
        part, weight = user_sums(measured.values["all", self.metric], measured.weights("all"), self._metric)
        return float((part.sum() / weight.sum()) ** (1 / self._metric.power))

    @torch.no_grad()
    def _loss(self, model: GradientModel) -> float:
        context = self._fit_context(model)
        total, count = 0.0, 0
        # The loss may draw noise from torch's global generator, which training uses too: fork it.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            for batch in model.batches(context, torch.Generator().manual_seed(self.seed), LOSS_BATCH_SIZE):
                loss = model.loss(to_device(batch, module_device(model)), context)
                total += float(loss.shown if isinstance(loss, Loss) else loss) * len(batch)
                count += len(batch)
        return total / max(count, 1)

    def _fit_context(self, model: GradientModel) -> Any:
        """The context of the loss, built once a fit: anew for another model, device, or model fitted to other data.

        A context may hold what the model has learned of its training data before the first epoch. The fallback is
        computed from these data alone, and so tells one fit from another.
        """
        learned = [buffer.cpu() for buffer in model.fallback.buffers()]
        if self._loss_context is not None:
            of_model, device, before, context = self._loss_context
            if of_model is model and device == module_device(model) and all(map(torch.equal, before, learned)):
                return context
        context = to_device(model.fit_context(self._known, CompleteTraining()), module_device(model))
        self._loss_context = (model, module_device(model), [buffer.clone() for buffer in learned], context)
        return context

    def for_member(self, model: Model) -> Validator | None:
        """A validator on the same part for `model`, which is trained inside another, with the metric that suits it.

        Returns:
            None if the part has no rows that the model can answer (for example, new items only).
        """
        known = known_only(self._whole_part, model.spec)
        if "new_item" not in model.answers and not len(known):
            return None
        return Validator(self._whole_part, model, max_users=self._max_users, seed=self.seed)

    def sampled(self, model: Model, max_users: int) -> Validator:
        """A validator with the same metric on a fixed random sample of users.

        Args:
            model: The model to validate.
            max_users: The largest number of users.
        """
        if len(self.users) <= max_users:
            return self
        return Validator(self._whole_part, model, self.metric, max_users=max_users, seed=self.seed)


def no_weight(part: Dataset) -> bool:
    """Whether the part has rows, and all of them have the sample weight 0."""
    return part.weight is not None and len(part) > 0 and not part.weight.any()


def sample_users(part: Dataset, most: int | None, seed: int) -> Dataset:
    """The rows of a random sample of users.

    Args:
        part: The data.
        most: The largest number of users; None for all.
        seed: Seed of the sample.
    """
    users = part.active_users
    if most is None or most >= len(users):
        return part
    return part.take(np.isin(part.user, np.random.default_rng(seed).choice(users, most, replace=False)))


def known_only(part: Dataset, spec: Spec) -> Dataset:
    """The part without new users and new items: rows, ids and side tables end where those of the model do."""
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
