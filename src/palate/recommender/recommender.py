"""Recommender: train, recommend, explain, predict, similar, evaluate, save, load. Ids in, ids out, routes named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import polars as pl

from palate.config import Training, from_dict
from palate.data.dataset import Dataset
from palate.data.splits.build import align, training_rows_note
from palate.device import on_cpu
from palate.evaluation.evaluate import Evaluation, MetricLike, Validator, evaluate
from palate.evaluation.measure import answered_by
from palate.explanation.explain import explain
from palate.explanation.explanation import Explanation, Kind
from palate.models import MODELS
from palate.models.base import Model
from palate.ranking.index import Index
from palate.ranking.rules import Rules, rank_under
from palate.recommender import artifact, bulk_lists, id_translation, vectors
from palate.recommender.cold_start import with_new_items
from palate.recommender.item_similarity import similar_to
from palate.recommender.list_reasons import list_reasons
from palate.recommender.predictions import predict_pairs
from palate.recommender.update import refitted, updated
from palate.training.train_run import Epoch


class Recommender(artifact.Artifact):
    """A fitted model and the data it was fitted to: the facade that speaks ids.

    Its attributes are those of `palate.recommender.artifact.Artifact`, for example `model`, `data` and `parts`.
    """

    @classmethod
    def train(
        cls, data: Dataset, model: str | Model = "neumf", config: Any = None,
        training: Training | Mapping[str, Any] | None = None, valid: Dataset | None = None, seed: int | None = None,
        checkpoint: str | Path | None = None, on_epoch: Callable[[Epoch], None] | None = None,
        on_step: Callable[[int, int, int, float], None] | None = None,
    ) -> Recommender:  # fmt: skip
        """Fit a model.

        Args:
            data: The training data; the train part of a split, if there is one.
            model: A name in `MODELS`, or a model object built on `data.spec`.
            config: Settings of a model given by name: its `Config` or a dict of its fields. Defaults to its defaults.
            training: A `Training` or a dict of its fields; the model's `default_training` fills what is left open.
                Models without gradient steps use only `seed`.
            valid: The validation part, or later data with the same ids: chooses the epoch and stops training early.
                Defaults to training all epochs.
            seed: Replaces `training.seed`.
            checkpoint, on_epoch, on_step: As in `palate.training.train_run.TrainRun`; a run that was killed resumes.

        Raises:
            ConfigError: There is no such model or setting, or a value is out of range.
            DataError: The data lacks something the model needs, or holds weights that it cannot use.
            TrainingError: The loss is no longer finite, or diverged.
            ArtifactError: The checkpoint belongs to another run, or cannot be written.
        """
        name, fitted = artifact.fresh_model(model, config, data)
        settings = training if isinstance(training, Training) else from_dict(Training, dict(training or {}))
        settings = (settings if seed is None else replace(settings, seed=seed)).filled(fitted.default_training)
        validate = None if valid is None else Validator(align(valid, data), fitted, settings.monitor)
        folder = None if checkpoint is None else Path(checkpoint)
        records = fitted.fit(data, settings, validate, checkpoint=folder, on_epoch=on_epoch, on_step=on_step)
        return cls(name=name, model=fitted, data=data, training=settings, records=records)

    def recommend(
        self, users: Any = None, *, history: Any = None, ratings: Any = None, features: Any = None, k: int = 10,
        exclude_seen: bool = True, candidates: Any = None, rules: Rules | None = None, approximate: bool = False,
        explain: bool = False, unknown: Literal["error", "popularity"] = "error",
    ) -> pl.DataFrame:  # fmt: skip
        """Recommend the k best items to each user.

        Args:
            users: Ids of known users, one or many, in any container. Held-out rows in `parts` count as newer history.
            history: Item ids of a new user, oldest first; or a collection of such collections, one for each user. With
                `users`, items they chose after training: their history is then the training history followed by these.
                Models that read histories fold it in (route `history`); all others only exclude these items.
            ratings: Ratings of the items of `history`, in the same shape. Models that predict no ratings ignore them.
            features: Attributes of new users: a table with a row for each and the columns of the user table.
            k: List length. A list is shorter if fewer items are allowed, and empty if all of them were seen.
            exclude_seen: Whether to exclude the items of a user's history.
            candidates: Item ids allowed in the lists. Defaults to all items.
            rules: Filters and re-ranking: `palate.Rules`.
            approximate: Whether to search only the most likely part of a large catalogue (`palate.ranking.index`).
            explain: Whether to add a column `reasons` with a sentence for each item.
            unknown: What becomes of users who are not in the training data: an error, or a list by their `history` or
                by popularity.

        Returns:
            Columns `user_id` (for new users `query`, their position from 0), `item_id`, `score`, `rank` (from 1) and
            `route`: `known_user`, `history` or `content` (of `features`) if the model answered, else
            `popularity_within` (users with the same attributes) or `popularity`.

        Raises:
            UnknownId: A user or an item is not in the training data.
            ConfigError: An argument is out of range, or excludes another.
        """
        asked, queries = id_translation.build_queries(
            self.data, self.model.spec, users, history, ratings, features, unknown, self.known
        )
        allowed = None if candidates is None else id_translation.require_items(self.data, candidates, "candidates=")
        ranked = rank_under(
            rules, self.model, self.data, queries, min(id_translation.list_length(k), self.data.n_items),
            exclude_seen=exclude_seen, candidates=allowed, index=self.index if approximate else None,
        )  # fmt: skip
        found = id_translation.list_frame(ranked, asked, self.data.items, answered_by(self.model, queries))
        return found if not explain else found.with_columns(list_reasons(self.model, self.data, queries, ranked.items))

    update, refit = updated, refitted
    recommend_all, similar_all = bulk_lists.recommend_all, bulk_lists.similar_all
    item_vectors, user_vectors = vectors.item_vectors, vectors.user_vectors

    @cached_property
    def index(self) -> Index:
        """The index for approximate lists, built at first use."""
        return Index(self.model)

    def explain(
        self, *, item: str | int, user: Any = None, history: Any = None, ratings: Any = None,
        method: str | None = None, samples: int = 1000, seed: int = 0, kinds: Sequence[Kind] | None = None,
    ) -> Explanation:  # fmt: skip
        """Explain why an item gets its score for one user.

        Args:
            item: Item id.
            user, history, ratings: The user, as in `recommend`.
            method, samples, seed, kinds: As in `palate.explanation.explain.explain`, which also lists the errors.
        """
        query = id_translation.one_query(self.data, self.model.spec, user, history, ratings, self.known)
        index = id_translation.require_item(self.data, item)
        return explain(self.model, self.data, query, index, method, samples, seed, kinds)

    def predict(self, users: Any, items: Any) -> pl.DataFrame:
        """Predict the ratings of pairs of a user and an item.

        Args:
            users, items: Ids, equally many; or one id on either side, for all of the other. Unknown ids are allowed.

        Returns:
            Columns `user_id`, `item_id`, `prediction` (on the rating scale) and `route`: `known_user` or `history` if
            the model answered, else `fallback`: the mean rating of the item, else of the user, else of all.

        Raises:
            CannotAnswer: The model ranks items and does not predict ratings.
            ConfigError: The numbers of users and items do not match.
            DataError: The ids are text where the data has whole numbers, or the reverse.
        """
        return predict_pairs(self.model, self.data, users, items)

    def similar(self, item: Any, k: int = 10) -> pl.DataFrame:
        """The `k` items most similar to `item`, an id, or to each item of a collection of ids.

        Returns:
            Columns `item_id`, `score` (a cosine), `rank` (from 1) and `route`: `item_vectors`, or for a model without
            item vectors `co_occurrence`, which lists only items that some user has together with this one. For a
            collection of items, a column `of` names the item asked about.

        Raises:
            UnknownId: An item is not in the training data.
            ConfigError: `k` is out of range.
        """
        return similar_to(self.data, on_cpu(self.model.item_vectors()), item, id_translation.list_length(k))

    def evaluate(self, part: Dataset, metrics: Sequence[MetricLike] | None = None) -> Evaluation:
        """Evaluate on a held-out part, or on other data with the same ids.

        Args:
            part: The valid or test part of the split that gave the training data; or new interactions, whose history
                then is the training data.
            metrics: Names in `METRICS` and functions. Defaults to those that suit the model and the data.
        """
        aligned = align(part, self.data)
        found = evaluate(self.model, aligned, metrics, name=self.name)
        return found if aligned is part else replace(found, notes=found.notes + training_rows_note(aligned, self.data))

    def add_items(self, items: Any) -> Recommender:
        """The same recommender with new items, a file or frame; see `palate.recommender.cold_start.with_new_items`."""
        model, data = with_new_items(self.model, self.data, items)
        return replace(self, model=model, data=data)

    def save(self, path: str | Path, parts: Mapping[str, Dataset] | None = None) -> None:
        """Write the artifact, a folder; see `palate.recommender.artifact`.

        Args:
            path: The folder; an artifact that is there is replaced once the new one is complete.
            parts: Held-out parts to keep beside those in `parts`, for example `{"test": parts.test}`.

        Raises:
            ArtifactError: It cannot be written; the old artifact is unchanged.
        """
        artifact.write(path, replace(self, parts={**self.parts, **(parts or {})}))

    @classmethod
    def load(cls, path: str | Path, models: Mapping[str, type[Model]] = MODELS, verify: bool = True) -> Recommender:
        """Read an artifact.

        Args:
            path: The folder.
            models: Where the model's class is looked up; `{**MODELS, "mine": Mine}` for a model of your own.
            verify: Whether to compare the hashes of all files; everything else is checked in any case.

        Raises:
            ArtifactError: The folder is missing, incomplete, edited, of a newer format, or of a model not in `models`.
        """
        return cls(**vars(artifact.read(path, models, verify)))
