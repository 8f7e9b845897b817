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
from palate.data.parts import Split
from palate.models.base import Model

BRIEF = 2
"""Epochs where it does not matter how good the weights are."""


@cache
def planted() -> Split:
    """160 people of four tastes and 80 items of four topics; a fifth of the 2,400 interactions is test.

    A person of taste g takes 11 items of topic g and 4 others, some items rather than others, and rates the former two
    points higher, about; some people are kinder and some items better. An item's `genre` is its topic, a user's `club`
    is their taste.
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


@dataclass(frozen=True, eq=True)
class Case:
    """A model under test.

    Attributes:
        model: Its class.
        config: Default: the defaults of its `Config`.
        training: Enough to learn the planted tastes in well under a second.
        parts: Its train and test parts are used; default `planted()`.
        popular: The model is one score for each item, the same for everybody; it need not beat popularity.
    """

    model: type[Model]
    config: Any = None
    training: Training = field(default=Training(epochs=10, batch_size=256, lr=0.02))
    parts: Split = field(default_factory=planted)
    popular: bool = False

    @property
    def train(self) -> Dataset:
        """What the model learns from."""
        return self.parts.train

    def new(self, data: Dataset | None = None) -> Model:
        """A model as it comes, sized for `data`."""
        config = self.model.Config() if self.config is None else self.config
        return self.model(config, self.model.spec_of(data or self.train))

    def fit(self, data: Dataset | None = None, seed: int = 0, epochs: int | None = BRIEF) -> Model:
        """A fitted model."""
        model = self.new(data)
        model.fit(data or self.train, replace(self.training, seed=seed, epochs=epochs))
        return model

    def known(self, model: Model) -> Queries:
        """Every user of train, with their history."""
        return self.train.queries(np.arange(self.train.n_users), model.spec)

    def mixed(self, model: Model) -> Queries:
        """Six known users, the histories of five strangers, and a stranger without any."""
        some = self.known(model).take(torch.arange(12))
        user = torch.where(torch.arange(12) < 6, some.user, -1)
        keep = some.history.row_of_value < 11
        return Queries(user, some.history.keep(keep), None if some.ratings is None else some.ratings[keep])


def unknown(queries: Queries) -> Queries:
    """The same histories of people the model has never seen."""
    return Queries(torch.full_like(queries.user, -1), queries.history, queries.ratings)
