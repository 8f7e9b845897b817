"""Case, a model under test, and `planted`, the data it is tested on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import torch

from palate.config import Training
from palate.data.dataset import Dataset, Queries
from palate.data.splits.build import Split
from palate.models.base import Model

BRIEF = 2
"""Epochs of fits whose quality does not matter."""


@cache
def planted() -> Split:
    """160 users of four tastes and 80 items of four topics; a fifth of the 2,400 interactions is the test part.

    A user of taste g chooses 11 items of topic g and 4 others; some items are chosen more often than others. Ratings of
    the former are about two points higher; users and items also have rating biases. An item's `genre` is its topic, and
    a user's `club` is the user's taste.
    """
    rng = np.random.default_rng(0)
    topic, fame = np.arange(80) % 4, rng.lognormal(0, 0.5, 80)
    kind, good = 0.5 * rng.standard_normal(160), 0.5 * rng.standard_normal(80)
    rows = []
    for user in range(160):
        for count, mine in ((11, True), (4, False)):
            items = np.flatnonzero((topic == user % 4) == mine)
            for item in rng.choice(items, count, replace=False, p=fame[items] / fame[items].sum()):
                rating = (4.0 if mine else 2.0) + kind[user] + good[item] + 0.5 * rng.standard_normal()
                rating = float(np.clip(np.round(rating), 1, 5))
                rows.append((f"u{user:03}", f"i{item:02}", rating, int(rng.integers(10**9))))
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")
    genre = [("comedy", "drama", "horror", "western")[t] for t in topic]
    titles = [f"{g} {i}" for i, g in enumerate(genre)]
    things = pl.DataFrame({"item_id": [f"i{i:02}" for i in range(80)], "title": titles, "genre": genre})
    users = pl.DataFrame({"user_id": [f"u{u:03}" for u in range(160)], "club": [f"club {u % 4}" for u in range(160)]})
    return Dataset.from_frame(frame, things, users, rating_scale=(1.0, 5.0)).split("random", valid=0, test=0.2)


@cache
def planted_with_new() -> Split:
    """Planted data whose validation part holds users and items that the training part lacks, beside known ones."""
    data = planted().train
    new = (data.user >= data.n_users - 20) | (data.item >= data.n_items - 10)
    later = new | (np.arange(len(data)) % 7 == 0)
    parts = data.frame().select("user_id", "item_id").with_columns(part=pl.Series(np.where(later, "valid", "train")))
    test = planted().test.frame().select("user_id", "item_id").with_columns(part=pl.lit("test"))
    whole = Dataset.from_frame(
        pl.concat([data.frame(), planted().test.frame()]), data.item_table, data.user_table, rating_scale=(1.0, 5.0)
    )
    return whole.split("predefined", parts=pl.concat([parts, test]))


@dataclass(frozen=True, eq=True)
class Case:
    """A model under test.

    Attributes:
        model: The model's class.
        config: The model's settings. Defaults to `Config()`.
        training: Training settings that learn the planted tastes in well under a second.
        parts: The train and test parts of the data. Defaults to `planted()`.
        popular: Whether the model scores items the same for all users, and so need not beat popularity.
    """

    model: type[Model]
    config: Any = None
    training: Training = field(default=Training(epochs=10, batch_size=256, lr=0.02))
    parts: Split = field(default_factory=planted)
    popular: bool = False

    @property
    def train(self) -> Dataset:
        """The training data."""
        return self.parts.train

    def new(self, data: Dataset | None = None) -> Model:
        """A new model, built for `data`."""
        config = self.model.Config() if self.config is None else self.config
        return self.model(config, self.model.spec_of(data or self.train))

    def fit(self, data: Dataset | None = None, seed: int = 0, epochs: int | None = BRIEF) -> Model:
        """A fitted model.

        Args:
            data: The training data. Defaults to that of the case.
            seed: Seed of training.
            epochs: Number of epochs; None for the model's own.
        """
        model = self.new(data)
        model.fit(data or self.train, replace(self.training, seed=seed, epochs=epochs))
        return model

    def known(self, model: Model) -> Queries:
        """Queries to `model` of all users of the training data, with their histories."""
        return self.train.queries(np.arange(self.train.n_users), model.spec)

    def mixed(self, model: Model) -> Queries:
        """Queries to `model` of six known users, of five unknown users with a history, and of one without."""
        some = self.known(model).take(torch.arange(12))
        user = torch.where(torch.arange(12) < 6, some.user, -1)
        return replace(some, user=user).keep(some.history.row_of_value < 11)


def unknown(queries: Queries) -> Queries:
    """The same histories of users the model does not know, without features."""
    return replace(queries.anonymous(), features=None)
