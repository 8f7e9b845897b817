"""Closed-form and neighbourhood models against plain, dense arithmetic on small random data."""

from __future__ import annotations

import tracemalloc

import numpy as np
import polars as pl
import pytest
import torch

from palate.data.dataset import Dataset, Queries, Spec
from palate.data.ragged import Ragged
from palate.errors import DataError, TrainingError
from palate.models import conjugate, sparse_ease
from palate.models.conjugate import Regressions
from palate.models.ease import EASE, EDLAE, EASEConfig, EDLAEConfig, interactions, item_weights
from palate.models.ials import IALS, IALSConfig
from palate.models.knn import ItemKNN, KNNConfig, UserKNN
from palate.models.normal_equations import like_lengths, normal_equations
from palate.models.puresvd import PureSVD, PureSVDConfig
from palate.models.rp3beta import RP3beta, RP3betaConfig
from palate.models.sparse_ease import SparseEASE, SparseEASEConfig


@pytest.fixture(scope="module")
def data() -> Dataset:
    rng = np.random.default_rng(3)
    pairs = np.unique(rng.integers(0, (40, 25), (400, 2)), axis=0)
    return Dataset.from_frame(pl.DataFrame({"user_id": pairs[:, 0], "item_id": pairs[:, 1]}))


@pytest.fixture(scope="module")
def dense(data: Dataset) -> np.ndarray:
    return interactions(data).toarray().astype(np.float64)


def everyone(data: Dataset) -> Queries:
    return data.queries(np.arange(data.n_users), data.spec)


@pytest.mark.parametrize(
    ("model", "config", "dropout"),
    [(EASE, EASEConfig(reg=7.0), 0.0), (EDLAE, EDLAEConfig(reg=7.0, dropout=0.25), 0.25)],
)
def test_ease_and_edlae_are_the_closed_form(data: Dataset, dense: np.ndarray, model, config, dropout: float) -> None:
    gram = dense.T @ dense
    inverse = np.linalg.inv(gram + np.diag(7.0 + dropout / (1 - dropout) * np.diag(gram)))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    fitted = model(config, data.spec)
    fitted.fit(data)
    np.testing.assert_allclose(fitted.score(everyone(data)).numpy(), dense @ weights, atol=1e-5)


def test_ease_is_the_ridge_regression_of_each_item_on_the_others(data: Dataset, dense: np.ndarray) -> None:
    fitted = EASE(EASEConfig(reg=3.0), data.spec)
    fitted.fit(data)
    others = np.delete(dense, 4, axis=1)
    by_hand = np.linalg.solve(others.T @ others + 3.0 * np.eye(24), others.T @ dense[:, 4])
    np.testing.assert_allclose(np.delete(fitted.weight[:, 4].numpy(), 4), by_hand, atol=1e-5)


def test_ease_says_what_does_not_fit_and_what_to_use_instead() -> None:
    with pytest.raises(DataError, match=r"GB of memory .* use sparse-ease"):
        EASE(EASEConfig(), Spec(n_users=10, n_items=3_000_000))


def test_a_singular_matrix_is_one_clear_error() -> None:
    with pytest.raises(TrainingError, match="larger reg"):
        item_weights(np.asfortranarray(np.full((3, 3), -1.0, np.float32)), np.zeros(3))


@pytest.mark.parametrize("whole", [True, False], ids=["whole gram", "by product"])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_sparse_ease_on_all_items_is_ease(data: Dataset, monkeypatch, whole: bool, dropout: float) -> None:
    monkeypatch.setattr(sparse_ease, "DENSE", 1.0 if whole else 0.0)
    ease = EDLAE(EDLAEConfig(reg=7.0, dropout=dropout), data.spec)
    model = SparseEASE(SparseEASEConfig(reg=7.0, dropout=dropout, k=data.n_items), data.spec)
    for each in (ease, model):
        each.fit(data)
    torch.testing.assert_close(model.score(everyone(data)), ease.score(everyone(data)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("whole", [True, False], ids=["whole gram", "by product"])
@pytest.mark.parametrize("numbers", [1, 100, 2**25])
def test_sparse_ease_is_the_ridge_regression_on_the_neighbours(
    data: Dataset, dense: np.ndarray, monkeypatch, whole: bool, numbers: int
) -> None:
    monkeypatch.setattr(sparse_ease, "DENSE", 1.0 if whole else 0.0)
    monkeypatch.setattr(sparse_ease, "VALUES", numbers)
    monkeypatch.setattr(sparse_ease, "SQUARES", numbers)
    near, weight = sparse_ease.regressions(data, SparseEASEConfig(reg=3.0, dropout=0.0, k=6))
    gram = dense.T @ dense
    for item in range(data.n_items):
        gain = gram[item] ** 2 / (np.diag(gram) + 3.0)
        gain[item] = -1
        mine = near[item]
        assert item not in mine
        np.testing.assert_allclose(np.sort(gain[mine]), np.sort(gain)[-6:])
        by_hand = np.linalg.solve(gram[np.ix_(mine, mine)] + 3.0 * np.eye(6), gram[mine, item])
        np.testing.assert_allclose(weight[item], by_hand, atol=1e-5)


def test_sparse_ease_never_holds_the_item_item_matrix(monkeypatch) -> None:
    monkeypatch.setattr(sparse_ease, "DENSE", 0.0)
    monkeypatch.setattr(sparse_ease, "VALUES", 2**20)
    rng = np.random.default_rng(5)
    frame = pl.DataFrame(
        {"user_id": rng.integers(0, 4000, 40_000), "item_id": rng.permutation(np.arange(40_000) % 5000)}
    )
    large = Dataset.from_frame(frame.unique())
    tracemalloc.start()
    sparse_ease.regressions(large, SparseEASEConfig(k=10))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * large.n_items**2 / 3


def test_a_small_matrix_that_cannot_be_solved_is_one_clear_error() -> None:
    with pytest.raises(TrainingError, match="larger reg"):
        sparse_ease._solve(torch.full((1, 3, 3), -1.0), torch.zeros(1, 3), torch.ones(1, 3))


def test_ials_solves_each_user_exactly(data: Dataset, dense: np.ndarray) -> None:
    model = IALS(IALSConfig(dim=5, alpha=0.3, reg=0.02, iterations=4), data.spec)
    model.fit(data)
    items = model.item.double().numpy()
    for user in (0, 7):
        seen = dense[user]
        left = items.T @ (np.diag(seen) + 0.3 * np.eye(data.n_items)) @ items
        left += 0.02 * (seen.sum() + 0.3 * data.n_items) * np.eye(5)
        np.testing.assert_allclose(model.user[user].numpy(), np.linalg.solve(left, items.T @ seen), atol=1e-4)


@pytest.mark.parametrize("values", [5, 2**22], ids=["a row at a time", "all at once"])
def test_a_round_comes_close_to_the_exact_answers(data: Dataset, dense: np.ndarray, monkeypatch, values: int) -> None:
    monkeypatch.setattr(conjugate, "VALUES", values)
    generator = torch.Generator().manual_seed(4)
    vectors, start = (
        torch.randn(data.n_items, 5, generator=generator),
        torch.randn(data.n_users, 5, generator=generator),
    )
    shared, strength = 0.3 * vectors.T @ vectors, torch.rand(data.n_users, generator=generator) + 1
    q = vectors.double().numpy()
    exact = np.stack(
        [
            np.linalg.solve(q.T @ (np.diag(seen) + 0.3 * np.eye(len(q))) @ q + float(s) * np.eye(5), q.T @ seen)
            for seen, s in zip(dense, strength, strict=True)
        ]
    )
    regressions = Regressions(data.histories, data.n_items, 5)
    found, far = start, np.linalg.norm(start.numpy() - exact)
    for _ in range(4):
        found = regressions.improve(found, vectors, shared, strength)
        near = np.linalg.norm(found.numpy() - exact)
        assert near < 0.2 * far
        far = near
    np.testing.assert_allclose(found.numpy(), exact, atol=1e-4)


def test_a_row_without_members_gets_zeros() -> None:
    rows = Ragged.of([[0, 1], [], [2]])
    vectors = torch.randn(3, 2, generator=torch.Generator().manual_seed(1))
    found = Regressions(rows, 3, 2).improve(torch.ones(3, 2), vectors, vectors.T @ vectors, torch.ones(3))
    assert bool((found[1] == 0).all())
    assert bool((found[[0, 2]] != 0).any(1).all())


def test_ials_lowers_its_objective_round_by_round(data: Dataset, dense: np.ndarray) -> None:
    def objective(model: IALS) -> float:
        users, items = model.user.double().numpy(), model.item.double().numpy()
        scores = users @ items.T
        weight_u = dense.sum(1) + 0.3 * data.n_items
        weight_i = dense.sum(0) + 0.3 * data.n_users
        size = (weight_u * (users**2).sum(1)).sum() + (weight_i * (items**2).sum(1)).sum()
        return float((dense * (1 - scores) ** 2).sum() + 0.3 * (scores**2).sum() + 0.02 * size)

    found = []
    for rounds in (1, 2, 4, 8):
        model = IALS(IALSConfig(dim=5, alpha=0.3, reg=0.02, iterations=rounds), data.spec)
        model.fit(data)
        found.append(objective(model))
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1]


def test_ials_and_ease_answer_a_known_history_as_they_answer_its_owner(data: Dataset) -> None:
    queries = everyone(data)
    strangers = Queries(torch.full_like(queries.user, -1), queries.history)
    for model in (
        IALS(IALSConfig(dim=6), data.spec),
        EASE(EASEConfig(), data.spec),
        SparseEASE(SparseEASEConfig(reg=2.0, k=5), data.spec),
        PureSVD(PureSVDConfig(dim=4), data.spec),
    ):
        model.fit(data)
        torch.testing.assert_close(model.score(queries), model.score(strangers), atol=1e-5, rtol=1e-4)


def test_itemknn_is_the_shrunken_cosine_of_the_strongest(data: Dataset, dense: np.ndarray) -> None:
    model = ItemKNN(KNNConfig(k=4, shrink=2.0), data.spec)
    model.fit(data)
    length = np.linalg.norm(dense, axis=0)
    similarity = dense.T @ dense / (np.outer(length, length) + 2.0)
    np.fill_diagonal(similarity, 0)
    kept = np.zeros_like(similarity)
    for item in range(data.n_items):
        best = np.argsort(-similarity[item], kind="stable")[:4]
        kept[item, best] = similarity[item, best]
    np.testing.assert_allclose(model.score(everyone(data)).numpy(), dense @ kept.T, atol=1e-5)


@pytest.mark.parametrize("weighting", ["cosine", "tfidf", "bm25"])
def test_userknn_with_all_neighbours_is_the_whole_similarity_matrix(
    data: Dataset, dense: np.ndarray, weighting
) -> None:
    model = UserKNN(KNNConfig(k=data.n_users, shrink=1.0, weighting=weighting), data.spec)
    model.fit(data)
    count = dense.sum(0)
    rows = dense.copy()
    if weighting == "tfidf":
        rows = dense * (np.log(data.n_users / count) + 1e-6)
    if weighting == "bm25":
        rows = dense * np.log1p((data.n_users - count + 0.5) / (count + 0.5))
        size = dense.sum(1, keepdims=True)
        rows = rows * 2.2 / (1 + 1.2 * (0.25 + 0.75 * size / (dense.sum() / data.n_users)))
    length = np.linalg.norm(rows, axis=1)
    similarity = rows @ rows.T / (np.outer(length, length) + 1.0)
    np.fill_diagonal(similarity, 0)
    np.testing.assert_allclose(model.score(everyone(data)).numpy(), similarity @ dense, rtol=1e-4, atol=1e-4)


def test_rp3beta_walks_item_user_item(data: Dataset, dense: np.ndarray) -> None:
    model = RP3beta(RP3betaConfig(k=data.n_items, alpha=0.8, beta=0.3), data.spec)
    model.fit(data)
    degree_u, degree_i = dense.sum(1), dense.sum(0)
    walks = (dense.T / degree_i[:, None] ** 0.8) @ (dense / degree_u[:, None] ** 0.8) / degree_i**0.3
    np.fill_diagonal(walks, 0)
    np.testing.assert_allclose(model.score(everyone(data)).numpy(), dense @ walks, rtol=1e-4, atol=1e-5)


def test_puresvd_is_the_truncated_projection(data: Dataset, dense: np.ndarray) -> None:
    model = PureSVD(PureSVDConfig(dim=6), data.spec)
    model.fit(data)
    right = np.linalg.svd(dense)[2][:6]
    np.testing.assert_allclose(model.score(everyone(data)).numpy(), dense @ right.T @ right, atol=1e-4)


def test_normal_equations_are_the_sums_of_each_row() -> None:
    rows = Ragged.of([[0, 2], [], [1], [3, 1, 0, 2], [2, 2]])
    vectors = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    targets = torch.arange(9.0)
    met = []
    for block, gram, right in normal_equations(rows, vectors, targets):
        for row, left, side in zip(block.tolist(), gram, right, strict=True):
            own = vectors[rows[row]]
            torch.testing.assert_close(left, own.T @ own)
            torch.testing.assert_close(side, own.T @ targets[rows.offsets[row] : rows.offsets[row + 1]])
            met.append(row)
    assert sorted(met) == [0, 2, 3, 4]


def test_blocks_of_like_length_hold_every_row_once_within_their_bounds() -> None:
    lengths = torch.randint(0, 50, (300,), generator=torch.Generator().manual_seed(2))
    blocks = like_lengths(lengths, 120, 10)
    assert torch.equal(torch.cat(blocks).sort().values, lengths.nonzero().squeeze(1))
    for block in blocks:
        assert len(block) <= 10
        assert len(block) == 1 or int(lengths[block].max()) * len(block) <= 120
