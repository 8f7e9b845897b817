"""Recommender: train, recommend, explain, predict, similar, evaluate, save, load. Ids in, ids out, routes named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from palate import artifact, routes
from palate.ann import Index
from palate.arrivals import with_new_items
from palate.config import Training, from_dict
from palate.data.dataset import Dataset
from palate.evaluation.evaluate import Evaluation, Validator, evaluate
from palate.evaluation.measure import POPULARITY, WITHIN, taken
from palate.explanation.explain import explain, reasons
from palate.explanation.explanation import Explanation, Kind
from palate.models import MODELS
from palate.models.base import Model
from palate.rules import Rules, rank_under
from palate.training.job import Epoch


@dataclass(frozen=True, eq=False, kw_only=True)
class Recommender:
    """A fitted model and the data it was fitted to; the facade that speaks ids.

    Attributes:
        name: The model's name in `MODELS`; the class's name for a model of your own.
        model: The fitted model, which speaks indices.
        data: The training data: ids, titles, histories.
        training: How it was trained.
        records: What each epoch gave; empty for models without epochs.
    """

    name: str
    model: Model
    data: Dataset
    training: Training
    records: list[Epoch]

    @classmethod
    def train(
        cls,
        data: Dataset,
        model: str | Model = "neumf",
        config: Any = None,
        training: Training | Mapping[str, Any] | None = None,
        valid: Dataset | None = None,
        seed: int | None = None,
        checkpoint: str | Path | None = None,
        on_epoch: Callable[[Epoch], None] | None = None,
        on_step: Callable[[int, int, int, float], None] | None = None,
    ) -> Recommender:
        """Fit a model.

        Args:
            data: What to learn from; the train part of a split, if there is one.
            model: A name in `MODELS`, or a model built on `data.spec`.
            config: Settings of a model given by name: its `Config` or a dict of its fields; default: its defaults.
            training: A `Training` or a dict of its fields; what it leaves open is the model's `recipe`.
            valid: The valid part, or later data with the same ids: chooses the epoch, and stops training early. Without
                it all epochs are run.
            seed: Takes the place of `training.seed`.
            checkpoint: Folder that keeps the state of the run; a run that was killed goes on from there.
            on_epoch, on_step: Called after each epoch and step; see `palate.training.job.Job`.

        Raises:
            ConfigError: There is no such model or setting, or a value is out of range.
            DataError: The data lacks something the model needs.
            TrainingError: The loss is no longer a number.
            ArtifactError: The checkpoint belongs to another run, or cannot be written.
        """
        name, fitted = routes.fresh_model(model, config, data)
        how = training if isinstance(training, Training) else from_dict(Training, dict(training or {}))
        how = (how if seed is None else replace(how, seed=seed)).filled(fitted.recipe)
        validate = None if valid is None else Validator(routes.aligned(valid, data), fitted, how.monitor)
        folder = None if checkpoint is None else Path(checkpoint)
        records = fitted.fit(data, how, validate, checkpoint=folder, on_epoch=on_epoch, on_step=on_step)
        return cls(name=name, model=fitted, data=data, training=how, records=records)

    def recommend(
        self,
        users: Any = None,
        *,
        history: Any = None,
        ratings: Any = None,
        features: Any = None,
        k: int = 10,
        exclude_seen: bool = True,
        candidates: Any = None,
        rules: Rules | None = None,
        approximate: bool = False,
        explain: bool = False,
    ) -> pl.DataFrame:
        """The k best items for each person.

        Args:
            users: Ids of users in the training data, one or many.
            history: In place of `users`: item ids, oldest first, of a person who need not be known; or such lists.
            ratings: Of the items of `history`, in the same shape, where there are any.
            features: What else is known of them, or this alone: a table with a row for each, as that of the users.
            k: List length. A list is shorter where fewer items are allowed, and empty where all were seen.
            exclude_seen: Leave out the items of the person's history.
            candidates: Item ids allowed in the lists; default all.
            rules: What else a list may hold, and how it is re-ranked: `palate.Rules`.
            approximate: Look at the likeliest part of a large catalogue only (`palate.ann`; builds `index` once).
            explain: Add a column `reasons`, a sentence for each item (`palate.explanation.explain.reasons`).

        Returns:
            Columns `user_id` (of other people `query`, their place among those given, from 0), `item_id`, `score`,
            `rank` (from 1), `route`: `known_user`, `history` or `content` (of `features`) where the model answered from
            that, else `popularity_within` (their attributes) or `popularity`.

        Raises:
            UnknownId: A user or an item is not in the training data.
        """
        asked, queries = routes.asked(self.data, self.model.spec, users, history, ratings, features)
        allowed = None if candidates is None else routes.require_items(self.data, candidates)
        k = min(routes.length(k), self.data.n_items)
        how: dict[str, Any] = {"exclude_seen": exclude_seen, "candidates": allowed}
        index = self.index if approximate else None
        ranked = rank_under(rules, self.model, self.data, queries, k, index=index, **how)
        found = routes.lists(ranked, asked, self.data.items, taken(self.model, queries))
        if explain:
            texts = routes.reworded(reasons(self.model, self.data, queries, ranked.items), self.model, queries)
            found = found.with_columns(reasons=pl.Series([t for row in texts for t in row if t], dtype=pl.String))
        return found

    @cached_property
    def index(self) -> Index:
        """The items in cells, for approximate lists; built when first asked for."""
        return Index(self.model)

    def explain(
        self,
        *,
        item: str | int,
        user: Any = None,
        history: Any = None,
        ratings: Any = None,
        method: str | None = None,
        samples: int = 1000,
        seed: int = 0,
        kinds: Sequence[Kind] | None = None,
    ) -> Explanation:
        """Why an item gets its score for one person.

        Args:
            item: Its id.
            user, history, ratings: Who is asked about, as in `recommend`.
            method, samples, seed, kinds: As in `palate.explanation.explain.explain`, which also says what is raised.
        """
        _, queries = routes.asked(self.data, self.model.spec, user, history, ratings)
        index = int(routes.require_items(self.data, item)[0])
        return explain(self.model, self.data, queries, index, method, samples, seed, kinds)

    def predict(self, users: Any, items: Any) -> pl.DataFrame:
        """Ratings that users would give to items, pair by pair.

        Args:
            users, items: Ids, equally many; or one id on either side, for all of the other. Unknown ids are allowed.

        Returns:
            Columns `user_id`, `item_id`, `prediction` (in rating units, within the data's scale), `route`: `known_user`
            or `history` where the model answered, else `fallback`: the mean rating of the item, else of the user, else
            of all.

        Raises:
            CannotAnswer: The model ranks and does not predict ratings.
            ConfigError: The numbers of users and items do not match.
        """
        pairs = routes.pairs(routes.column(users, self.data.users), routes.column(items, self.data.items))
        item = self.data.items.index(pairs["item_id"])
        distinct, row = np.unique(self.data.users.index(pairs["user_id"]), return_inverse=True)
        queries = routes.from_users(self.data, self.model.spec, distinct)
        prediction = self.model.predict(queries, torch.from_numpy(item), torch.from_numpy(row))
        route = taken(self.model, queries)[row]
        route = np.where(np.isin(route, (WITHIN, POPULARITY)) | (item < 0), routes.FALLBACK, route)
        return pairs.with_columns(pl.Series("prediction", prediction.numpy()), pl.Series("route", route, pl.String))

    def similar(self, item: str | int, k: int = 10) -> pl.DataFrame:
        """The k items most like one item.

        Returns:
            Columns `item_id`, `score` (a cosine), `rank` (from 1), `route`: `item_vectors`, or for a model without any
            `co_occurrence`: by how many users had both; items that nobody had together with it are left out.

        Raises:
            UnknownId: The item is not in the training data.
        """
        index = int(routes.require_items(self.data, item)[0])
        return routes.alike(self.data, self.model.item_vectors(), index, routes.length(k))

    def evaluate(self, part: Dataset, metrics: Sequence[str] | None = None) -> Evaluation:
        """Judge the recommender on a held-out part, or on other data with the same ids.

        Args:
            part: The valid or test part of the split that gave the training data; or new interactions, which then are
                judged with the training data as history.
            metrics: Names in `METRICS`; default: those that suit the model and the data.
        """
        return evaluate(self.model, routes.aligned(part, self.data), metrics, name=self.name)

    def add_items(self, items: Any) -> Recommender:
        """The same recommender, which also lists new items: a file or frame of them; see `palate.arrivals`."""
        model, data = with_new_items(self.model, self.data, items)
        return replace(self, model=model, data=data)

    def save(self, path: str | Path, parts: Mapping[str, Dataset] | None = None) -> None:
        """Write the artifact, a folder; see `palate.artifact`.

        Args:
            path: The folder; an artifact that is there is replaced once the new one is whole.
            parts: Held-out parts of the split to keep with it, for example `{"test": parts.test}`.

        Raises:
            ArtifactError: It cannot be written; what was there is unchanged.
        """
        whole = {field.name: getattr(self, field.name) for field in fields(self)}
        artifact.write(path, artifact.Artifact(parts=parts or {}, **whole))

    @classmethod
    def load(cls, path: str | Path, models: Mapping[str, type[Model]] = MODELS) -> Recommender:
        """Read an artifact.

        Args:
            path: The folder.
            models: Where the model's class is looked up; `{**MODELS, "mine": Mine}` for a model of your own.

        Raises:
            ArtifactError: The folder is missing, incomplete, edited, of a newer format, or of a model not in `models`.
        """
        whole = vars(artifact.read(path, models))
        return cls(**{name: whole[name] for name in whole if name != "parts"})
