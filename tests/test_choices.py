"""Ratings of zero or less are no choices: list models do not learn from them, and list metrics do not count them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from palate.data.dataset import Dataset, Queries
from palate.data.ragged import Ragged
from palate.evaluation.evaluate import evaluate
from palate.models import MODELS
from palate.models.base import Model
from palate.models.linear.ease import EASE, EASEConfig
from palate.models.mf.mf import MF, MFConfig


def rated(low: float) -> Dataset:
    """60 users, 30 items; a third of the ratings is `low`, the others are 1 to 10."""
    rng = np.random.default_rng(0)
    user, item = np.divmod(rng.choice(60 * 30, 900, replace=False), 30)
    rating = np.where(rng.random(900) < 1 / 3, low, rng.integers(1, 11, 900))
    return Dataset.from_frame(pl.DataFrame({"user_id": user, "item_id": item, "rating": rating.astype(np.float32)}))


def liked(data: Dataset) -> Dataset:
    return data.take(data.rating > 0)


@pytest.fixture(params=[-10.0, 0.0], ids=["negative", "zero"])
def data(request: pytest.FixtureRequest) -> Dataset:
    return rated(request.param)


def test_a_note_says_the_rule(data: Dataset) -> None:
    count = int((data.rating <= 0).sum())
    assert f"{count} of 900 rows have a rating of zero or less: in lists they do not count as choices" in data.notes
    assert not any("zero or less" in note for note in rated(1.0).notes)


@pytest.mark.parametrize("name", ["popularity", "ease", "itemknn", "ials"])
def test_list_models_learn_from_choices_alone(data: Dataset, name: str) -> None:
    scores = []
    for part in (data, liked(data)):
        model: Model = MODELS[name](MODELS[name].Config(), data.spec)
        model.fit(part)
        scores.append(model.score(part.queries(np.arange(60), data.spec)))
    torch.testing.assert_close(scores[0], scores[1])


def test_rating_models_learn_from_all_ratings(data: Dataset) -> None:
    model = MF(MFConfig(dim=4, loss="mse"), data.spec)
    assert len(data.training_rows(repeats=False, ratings="rating" in model.needs)) == 900
    assert len(data.training_rows(repeats=False, ratings=False)) == len(liked(data))


def test_a_history_counts_its_choices(data: Dataset) -> None:
    model = EASE(EASEConfig(reg=5.0), data.spec)
    model.fit(data)
    mixed = Queries(torch.tensor([-1]), Ragged.of([[1, 4, 7]]), torch.tensor([3.0, 0.0, 8.0]))
    chosen = Queries(torch.tensor([-1]), Ragged.of([[1, 7]]), torch.tensor([3.0, 8.0]))
    assert torch.equal(model.score(mixed), model.score(chosen))


def test_what_is_not_liked_is_no_target(data: Dataset) -> None:
    parts = data.split("per-user", seed=0)
    model = MODELS["popularity"](MODELS["popularity"].Config(), parts.train.spec)
    model.fit(parts.train)
    found = evaluate(model, parts.test, ["recall@10"])["recall@10"].value
    only = evaluate(model, parts.test.take(parts.test.rating > 0), ["recall@10"])["recall@10"].value
    assert found == pytest.approx(only)


def test_ratings_that_are_all_zero_say_nothing_and_count() -> None:
    frame = pl.DataFrame({"user_id": [1, 1, 2, 2, 3], "item_id": [5, 6, 5, 7, 6], "rating": [0.0] * 5})
    data = Dataset.from_frame(frame)
    assert not data.notes
    assert data.is_choice.all()
    model = EASE(EASEConfig(reg=1.0), data.spec)
    model.fit(data)
    assert bool((model.score(data.queries(np.arange(3), data.spec)) != 0).any())
