"""The Gibbs sampler: its parts against their distributions, its answer against a plain loop over the kept samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from palate.data.dataset import Dataset, Queries
from palate.data.ragged import Ragged
from palate.models.linear.ease import interactions
from palate.models.mf.bayes_mf import BayesMF, BayesMFConfig, _gamma, _wishart, principal_components
from palate.testing import planted

CONFIG = BayesMFConfig(dim=3, features=4, warmup=20, samples=12, thin=2)


@pytest.fixture(scope="module")
def data() -> Dataset:
    rng = np.random.default_rng(7)
    taste, kind = rng.normal(size=(50, 2)), rng.normal(size=(30, 2))
    pairs = np.unique(rng.integers(0, (50, 30), (900, 2)), axis=0)
    rating = 3 + (taste[pairs[:, 0]] * kind[pairs[:, 1]]).sum(1) + 0.2 * rng.normal(size=len(pairs))
    frame = pl.DataFrame({"user_id": pairs[:, 0], "item_id": pairs[:, 1], "rating": np.clip(rating, 1, 5)})
    return Dataset.from_frame(frame)


@pytest.fixture(scope="module")
def fitted(data: Dataset) -> BayesMF:
    model = BayesMF(CONFIG, data.spec)
    model.fit(data)
    return model


def everyone(data: Dataset) -> Queries:
    return data.queries(np.arange(data.n_users), data.spec)


def test_the_score_is_the_mean_over_samples(data: Dataset, fitted: BayesMF) -> None:
    by_hand = torch.stack(
        [u[:, :-1] @ i[:, :-1].T + u[:, -1:] + i[:, -1] for u, i in zip(fitted.user, fitted.item, strict=True)]
    ).mean(0)
    torch.testing.assert_close(fitted.score(everyone(data)), fitted.mean + by_hand, atol=1e-4, rtol=1e-4)


def test_prediction_is_the_score_held_to_the_scale(data: Dataset, fitted: BayesMF) -> None:
    queries = everyone(data)
    row, item = torch.arange(data.n_users), torch.arange(data.n_users) % data.n_items
    expected = fitted.score(queries)[row, item].clamp(*data.spec.rating_scale)
    torch.testing.assert_close(fitted.predict(queries, item, row), expected, atol=1e-4, rtol=1e-4)


def test_it_finds_the_noise_and_beats_the_mean(data: Dataset, fitted: BayesMF) -> None:
    row, item = torch.from_numpy(data.user).long(), torch.from_numpy(data.item).long()
    rating = torch.from_numpy(np.array(data.rating))
    error = float((fitted.predict(everyone(data), item, row) - rating).square().mean().sqrt())
    assert error < 0.35 < float(rating.std())


def test_a_stranger_with_a_known_history_is_answered_like_its_owner(data: Dataset, fitted: BayesMF) -> None:
    known = everyone(data)
    strangers = Queries(torch.full_like(known.user, -1), known.history, known.ratings)
    apart = fitted.score(known) - fitted.score(strangers)
    assert float(apart.square().mean().sqrt()) < 0.15 * float(fitted.score(known).std())


def test_a_weight_of_two_is_the_row_given_twice(data: Dataset) -> None:
    """The random numbers are the same, so the chains stay together."""
    twice = np.random.default_rng(2).random(len(data)) < 0.3
    rows = np.repeat(np.arange(len(data)), 1 + twice)
    scores = []
    for given in (replace(data, weight=(1 + twice).astype(np.float32)), data.take(rows), data):
        model = BayesMF(replace(CONFIG, warmup=3, samples=3, thin=1), data.spec)
        model.fit(given)
        assert float(model.mean) == pytest.approx(float(np.average(given.rating, weights=given.weight)), abs=1e-5)
        scores.append(model.score(everyone(data)))
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-2, atol=1e-2)
    assert float((scores[0] - scores[2]).abs().mean()) > 0.05


def test_an_item_that_stands_twice_in_a_history_counts_twice(fitted: BayesMF) -> None:
    once, twice = (
        fitted.score(Queries(torch.tensor([-1]), Ragged.of([items]), torch.full((len(items),), 5.0)))
        for items in ([3, 4], [3, 3, 4])
    )
    assert not torch.allclose(once, twice, atol=1e-2)


def test_implicit_features_are_the_principal_components(data: Dataset) -> None:
    seen = interactions(data)
    rows = seen.toarray() / np.sqrt(seen.toarray().sum(1, keepdims=True))
    loading, feature = principal_components(seen, 3, torch.Generator().manual_seed(0))
    np.testing.assert_allclose((feature @ feature.T).numpy(), rows @ _top(rows, 3) @ rows.T, atol=1e-4)
    torch.testing.assert_close(loading.T @ loading, torch.eye(3), atol=1e-4, rtol=0)


def _top(rows: np.ndarray, count: int) -> np.ndarray:
    right = np.linalg.svd(rows)[2][:count]
    return right.T @ right


@pytest.mark.parametrize(("shape", "rate"), [(0.5, 2.0), (3.0, 1.0), (400.0, 50.0)])
def test_gamma_draws_have_the_mean_and_spread_of_the_distribution(shape: float, rate: float) -> None:
    rng = torch.Generator().manual_seed(4)
    drawn = np.array([_gamma(shape, rate, rng) for _ in range(6000)])
    assert drawn.mean() == pytest.approx(shape / rate, rel=0.06)
    assert drawn.std() == pytest.approx(shape**0.5 / rate, rel=0.08)


def test_wishart_draws_have_the_mean_of_the_distribution() -> None:
    rng = torch.Generator().manual_seed(5)
    scale = torch.tensor([[0.5, 0.2], [0.2, 0.3]])
    drawn = torch.stack([_wishart(scale, 12, rng) for _ in range(4000)])
    torch.testing.assert_close(drawn.mean(0), 12 * scale, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    "change",
    [
        lambda r, rng: r * 1000,
        lambda r, rng: r * 1e6 - 3e6,
        lambda r, rng: r * 1e-4,
        lambda r, rng: np.where(np.arange(len(r)) == 7, 1e5, r),
        lambda r, rng: np.round(np.exp(rng.normal(0, 3, len(r)))),
    ],
    ids=["thousands", "millions", "small", "one outlier", "counts"],
)
def test_any_scale_of_ratings_is_learned(change: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> None:
    data = planted().train
    assert data.rating is not None
    rating = change(data.rating.astype(np.float64), np.random.default_rng(0)).astype(np.float32)
    scaled = replace(data, rating=rating, rating_scale=(float(rating.min()), float(rating.max())))
    model = BayesMF(BayesMFConfig(dim=4, features=4, warmup=5, samples=5, thin=1), scaled.spec)
    model.fit(scaled)
    queries = scaled.queries(np.arange(scaled.n_users), scaled.spec)
    for asked in (queries, queries.anonymous()):
        assert bool(model.score(asked).isfinite().all())


def test_a_scale_of_thousands_gives_the_same_model_in_thousands() -> None:
    data = planted().train
    assert data.rating is not None
    config = BayesMFConfig(dim=4, features=4, warmup=10, samples=10, thin=1)
    found = []
    for factor in (1.0, 1024.0):
        scaled = replace(data, rating=data.rating * np.float32(factor), rating_scale=(factor, 5 * factor))
        model = BayesMF(config, scaled.spec)
        model.fit(scaled)
        queries = scaled.queries(np.arange(scaled.n_users), scaled.spec)
        found.append(model.score(queries) / factor)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


def test_one_feature_and_two_items() -> None:
    data = planted().train
    for frame, config in (
        (data.frame(), BayesMFConfig(dim=1, features=1, warmup=2, samples=2, thin=1)),
        (data.frame().filter(pl.col("item_id").is_in(["i01", "i02"])), BayesMFConfig(warmup=2, samples=2, thin=1)),
    ):
        some = Dataset.from_frame(frame, rating_scale=(1.0, 5.0))
        model = BayesMF(config, some.spec)
        model.fit(some)
        assert bool(model.score(some.queries(np.arange(some.n_users), some.spec)).isfinite().all())
