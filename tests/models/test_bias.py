"""bias: the closed form against a dense solution, new people, new items."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from palate.data.dataset import Dataset, Queries
from palate.data.ragged import Ragged
from palate.errors import ConfigError
from palate.models.bias import Bias, BiasConfig


def ratings(n_users: int = 12, n_items: int = 9, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    rows = [(u, i, float(rng.integers(1, 6))) for u in range(n_users) for i in range(n_items) if rng.random() < 0.5]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "rating"], orient="row")
    return Dataset.from_frame(frame, rating_scale=(1.0, 5.0))


def fitted(data: Dataset, **settings: float) -> Bias:
    model = Bias(BiasConfig(**settings), data.spec)
    model.fit(data)
    return model


def test_biases_solve_the_ridge_regression() -> None:
    data = ratings()
    model = fitted(data, user_shrink=4.0, item_shrink=2.0)
    assert data.rating is not None
    design = np.zeros((len(data), data.n_users + data.n_items))
    design[np.arange(len(data)), data.user] = 1
    design[np.arange(len(data)), data.n_users + data.item] = 1
    shrink = np.diag([4.0] * data.n_users + [2.0] * data.n_items)
    wanted = np.linalg.solve(design.T @ design + shrink, design.T @ (data.rating - data.rating.mean(dtype=np.float64)))
    np.testing.assert_allclose(model.user_bias.numpy(), wanted[: data.n_users], atol=1e-5)
    np.testing.assert_allclose(model.item_bias.numpy(), wanted[data.n_users :], atol=1e-5)


def test_a_history_with_ratings_gives_its_writer_their_bias() -> None:
    data = ratings()
    model = fitted(data)
    known = data.queries(np.arange(data.n_users), data.spec)
    strangers = Queries(torch.full_like(known.user, -1), known.history, known.ratings)
    torch.testing.assert_close(model.score(strangers), model.score(known), atol=1e-5, rtol=0)
    item = torch.arange(data.n_users) % data.n_items
    torch.testing.assert_close(model.predict(strangers, item), model.predict(known, item), atol=1e-5, rtol=0)


def test_a_history_without_ratings_says_nothing() -> None:
    model = fitted(ratings())
    queries = Queries(torch.tensor([-1]), Ragged.of([[1, 2]]))
    torch.testing.assert_close(model.score(queries)[0], model.mean + model.item_bias)


def test_predictions_stay_in_the_scale() -> None:
    frame = pl.DataFrame({"user_id": [0, 0, 1, 1, 2], "item_id": [0, 1, 0, 1, 0], "rating": [5.0, 5.0, 5.0, 1.0, 5.0]})
    model = fitted(Dataset.from_frame(frame, rating_scale=(1.0, 5.0)), user_shrink=0.01, item_shrink=0.01)
    queries = Queries(torch.tensor([0]), Ragged.empty(1))
    assert float(model.score(queries)[0, 0]) > 5
    assert float(model.predict(queries, torch.tensor([0]))) == 5.0


def test_shrinkage_is_above_zero() -> None:
    with pytest.raises(ConfigError, match=r"user_shrink = 0.0 is out of range\n.*item_shrink = -1.0"):
        BiasConfig(user_shrink=0.0, item_shrink=-1.0)
