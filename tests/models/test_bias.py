"""bias: the closed form against a dense solution, sample weights, new users."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from palate.data.dataset import Dataset, Queries
from palate.data.ragged import Ragged
from palate.errors import ConfigError
from palate.models.baselines.bias import Bias, BiasConfig


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


def test_weighted_biases_solve_the_weighted_ridge_regression() -> None:
    data = ratings()
    weight = np.random.default_rng(1).uniform(0.2, 3.0, len(data)).astype(np.float32)
    model = fitted(replace(data, weight=weight), user_shrink=4.0, item_shrink=2.0)
    design = np.zeros((len(data), data.n_users + data.n_items))
    design[np.arange(len(data)), data.user] = 1
    design[np.arange(len(data)), data.n_users + data.item] = 1
    shrink = np.diag([4.0] * data.n_users + [2.0] * data.n_items)
    residual = data.rating - np.average(data.rating, weights=weight)
    wanted = np.linalg.solve(design.T @ (weight[:, None] * design) + shrink, design.T @ (weight * residual))
    np.testing.assert_allclose(model.user_bias.numpy(), wanted[: data.n_users], atol=1e-5)
    np.testing.assert_allclose(model.item_bias.numpy(), wanted[data.n_users :], atol=1e-5)


def test_weights_of_one_change_nothing_and_a_weight_of_two_is_the_row_twice() -> None:
    data = ratings()
    plain = fitted(data)
    for name, tensor in fitted(replace(data, weight=np.ones(len(data), np.float32))).state_dict().items():
        assert torch.equal(tensor, plain.state_dict()[name]), name
    count = np.where(np.arange(len(data)) % 3 == 0, 2, 1)
    weighted = fitted(replace(data, weight=count.astype(np.float32)))
    repeated = fitted(data.take(np.repeat(np.arange(len(data)), count))).state_dict()
    for name, tensor in weighted.state_dict().items():
        torch.testing.assert_close(tensor, repeated[name], msg=name)
    assert not torch.allclose(weighted.item_bias, plain.item_bias, atol=1e-3)


def test_contributions_are_the_whole_score_and_each_rating_counts() -> None:
    model = fitted(ratings())
    queries = Queries(torch.tensor([-1]), Ragged.of([[3, 5, 3]]), torch.tensor([5.0, 1.0, 4.0]))
    share_T, base = model.history_contributions(queries, 2)
    assert float(share_T.sum()) + base == pytest.approx(float(model.score(queries)[0, 2]), abs=1e-5)
    assert bool((share_T != 0).all())


def test_a_known_user_with_a_fresh_history_is_folded_in_from_it() -> None:
    model = fitted(ratings())
    history, rating = Ragged.of([[1, 2], [1, 2]]), torch.tensor([5.0, 5.0, 5.0, 5.0])
    fresh = Queries(torch.tensor([0, 0]), history, rating, fresh=torch.tensor([True, False]))
    new = Queries(torch.tensor([-1, 0]), history, rating)
    torch.testing.assert_close(model.score(fresh), model.score(new))
    assert not torch.allclose(model.score(fresh)[0], model.score(fresh)[1])


def test_a_history_with_ratings_gives_its_user_the_same_bias() -> None:
    data = ratings()
    model = fitted(data)
    known = data.queries(np.arange(data.n_users), data.spec)
    strangers = Queries(torch.full_like(known.user, -1), known.history, known.ratings)
    torch.testing.assert_close(model.score(strangers), model.score(known), atol=1e-5, rtol=0)
    item = torch.arange(data.n_users) % data.n_items
    torch.testing.assert_close(model.predict(strangers, item), model.predict(known, item), atol=1e-5, rtol=0)


def test_a_history_without_ratings_has_no_bias() -> None:
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
