"""The Gibbs sampler: its parts against their distributions, its answer against a plain loop over the kept samples."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from palate.data.dataset import Dataset, Queries
from palate.models.bayes_mf import BayesMF, BayesMFConfig, _gamma, _wishart, components
from palate.models.ease import interactions

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


def test_implicit_features_are_the_principal_components(data: Dataset) -> None:
    seen = interactions(data)
    rows = seen.toarray() / np.sqrt(seen.toarray().sum(1, keepdims=True))
    loading, feature = components(seen, 3, torch.Generator().manual_seed(0))
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
