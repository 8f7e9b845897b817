"""Closed-form models against plain, dense arithmetic on small random data."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from palate.data.dataset import Dataset, Queries, Spec
from palate.data.ragged import Ragged
from palate.errors import ArtifactError, DataError, TrainingError
from palate.models.buffers import check_tensors
from palate.models.linear import sparse_ease
from palate.models.linear.ease import EASE, EDLAE, EASEConfig, EDLAEConfig, interactions, item_weights
from palate.models.linear.puresvd import PureSVD, PureSVDConfig
from palate.models.linear.sparse_ease import SparseEASE, SparseEASEConfig
from palate.models.mf import conjugate
from palate.models.mf.conjugate import Regressions
from palate.models.mf.ials import IALS, IALSConfig
from palate.models.mf.normal_equations import blocks_of_similar_length, normal_equations


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
    monkeypatch.setattr(sparse_ease, "MAX_DENSE_SHARE", 1.0 if whole else 0.0)
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
    monkeypatch.setattr(sparse_ease, "MAX_DENSE_SHARE", 1.0 if whole else 0.0)
    monkeypatch.setattr(sparse_ease, "MAX_COOCCURRENCES_PER_BLOCK", numbers)
    monkeypatch.setattr(sparse_ease, "MAX_GRAM_ENTRIES_PER_BLOCK", numbers)
    near, weight = sparse_ease.regressions(sparse_ease.Counts.of(data), SparseEASEConfig(reg=3.0, dropout=0.0, k=6))
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
    monkeypatch.setattr(sparse_ease, "MAX_DENSE_SHARE", 0.0)
    monkeypatch.setattr(sparse_ease, "MAX_COOCCURRENCES_PER_BLOCK", 2**20)
    rng = np.random.default_rng(5)
    frame = pl.DataFrame(
        {"user_id": rng.integers(0, 4000, 40_000), "item_id": rng.permutation(np.arange(40_000) % 5000)}
    )
    large = Dataset.from_frame(frame.unique())
    tracemalloc.start()
    sparse_ease.regressions(sparse_ease.Counts.of(large), SparseEASEConfig(reg=3.0, dropout=0.0, k=10))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * large.n_items**2 / 3


def test_a_small_matrix_that_cannot_be_solved_is_one_clear_error() -> None:
    with pytest.raises(TrainingError, match="larger reg"):
        sparse_ease._solve(torch.full((1, 3, 3), -1.0), torch.zeros(1, 3), torch.ones(1, 3))


def ials_strength(matrix: np.ndarray, alpha: float, reg: float, nu: float) -> tuple[float, float, float]:
    """a, and the factors of (row sum + a * width)^nu in the penalties of users and of items."""
    users, items = matrix.shape
    per_user, per_item = matrix.sum() / users, matrix.sum() / items
    a, r = alpha * (per_user / items) ** 0.5, reg * (per_user**0.5 + per_item**0.5)
    balance = (items / users) ** 0.5
    return a, r * balance / (per_user + a * items) ** nu, r / balance / (per_item + a * users) ** nu


def test_ials_solves_each_user_exactly(data: Dataset, dense: np.ndarray) -> None:
    model = IALS(IALSConfig(dim=5, alpha=0.5, reg=0.3, iterations=4), data.spec)
    model.fit(data)
    items, (a, factor, _) = model.item.double().numpy(), ials_strength(dense, 0.5, 0.3, 1.0)
    for user in (0, 7):
        seen = dense[user]
        left = items.T @ (np.diag(seen) + a * np.eye(data.n_items)) @ items
        left += factor * (seen.sum() + a * data.n_items) * np.eye(5)
        np.testing.assert_allclose(model.user[user].numpy(), np.linalg.solve(left, items.T @ seen), atol=1e-4)


@pytest.mark.parametrize("values", [5, 2**22], ids=["a row at a time", "all at once"])
def test_a_round_comes_close_to_the_exact_answers(data: Dataset, dense: np.ndarray, monkeypatch, values: int) -> None:
    monkeypatch.setattr(conjugate, "MAX_VALUES_PER_BLOCK", values)
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


def test_ials_weighs_interactions_as_its_objective_says(data: Dataset, dense: np.ndarray) -> None:
    weight = np.random.default_rng(1).uniform(0.2, 3.0, len(data)).astype(np.float32)
    weighted = dense.copy()
    weighted[data.user, data.item] = weight
    model = IALS(IALSConfig(dim=5, alpha=0.5, reg=0.3, nu=0.7, iterations=200), data.spec)
    model.fit(replace(data, weight=weight))
    users, items = model.user.double().numpy(), model.item.double().numpy()
    a, by_user, by_item = ials_strength(weighted, 0.5, 0.3, 0.7)
    for matrix, found, fixed, factor in ((weighted, users, items, by_user), (weighted.T, items, users, by_item)):
        for row in (0, 7):
            left = fixed.T @ (np.diag(matrix[row]) + a * np.eye(len(fixed))) @ fixed
            left += factor * (matrix[row].sum() + a * len(fixed)) ** 0.7 * np.eye(5)
            np.testing.assert_allclose(found[row], np.linalg.solve(left, fixed.T @ matrix[row]), atol=2e-3)


def test_ials_takes_a_weight_of_two_as_the_row_given_twice(data: Dataset) -> None:
    twice = np.random.default_rng(2).random(len(data)) < 0.3
    rows = np.repeat(np.arange(len(data)), 1 + twice)
    states = []
    for given in (replace(data, weight=(1 + twice).astype(np.float32)), data.take(rows), data):
        model = IALS(IALSConfig(dim=5, iterations=3), given.spec)
        model.fit(given)
        states.append(model.state_dict())
    for name in ("user", "item"):
        torch.testing.assert_close(states[0][name], states[1][name], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(states[0]["user"], states[2]["user"], rtol=1e-2, atol=1e-2)


def test_later_items_count_only_in_the_histories_that_hold_them(data: Dataset) -> None:
    model = IALS(IALSConfig(dim=4), data.spec)
    model.fit(data)
    larger = torch.cat([model.item, torch.randn(2, 4, generator=torch.Generator().manual_seed(0))])
    found = model.fold_in(Ragged.of([[3, 5], [3, data.n_items]]), larger)
    torch.testing.assert_close(found[:1], model.fold_in(Ragged.of([[3, 5]]), model.item))
    parts = model.contributions(Ragged.of([[3, data.n_items]]), larger, 7)
    torch.testing.assert_close(parts.sum(), found[1] @ larger[7])


def test_ials_lowers_its_objective_round_by_round(data: Dataset, dense: np.ndarray) -> None:
    a, by_user, by_item = ials_strength(dense, 0.5, 0.3, 1.0)

    def objective(model: IALS) -> float:
        users, items = model.user.double().numpy(), model.item.double().numpy()
        scores = users @ items.T
        weight_u = by_user * (dense.sum(1) + a * data.n_items)
        weight_i = by_item * (dense.sum(0) + a * data.n_users)
        size = (weight_u * (users**2).sum(1)).sum() + (weight_i * (items**2).sum(1)).sum()
        return float((dense * (1 - scores) ** 2).sum() + a * (scores**2).sum() + size)

    found = []
    for rounds in (1, 2, 4, 8):
        model = IALS(IALSConfig(dim=5, alpha=0.5, reg=0.3, iterations=rounds), data.spec)
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


def test_puresvd_is_the_truncated_projection(data: Dataset, dense: np.ndarray) -> None:
    model = PureSVD(PureSVDConfig(dim=6), data.spec)
    model.fit(data)
    right = np.linalg.svd(dense)[2][:6]
    np.testing.assert_allclose(model.score(everyone(data)).numpy(), dense @ right.T @ right, atol=1e-4)


def weights(data: Dataset) -> np.ndarray:
    return np.random.default_rng(2).uniform(0.2, 3.0, len(data)).astype(np.float32)


LINEAR = [
    (EASE, EASEConfig(reg=7.0)),
    (EDLAE, EDLAEConfig(reg=7.0)),
    (SparseEASE, SparseEASEConfig(reg=7.0, k=6)),
    (PureSVD, PureSVDConfig(dim=4)),
]


@pytest.mark.parametrize(("model", "config"), LINEAR)
def test_weights_of_one_change_nothing_and_a_repeated_row_acts_as_its_weight(data: Dataset, model, config) -> None:
    def scores(trained: Dataset) -> torch.Tensor:
        fitted = model(config, data.spec)
        fitted.fit(trained)
        return fitted.score(everyone(data))

    plain = scores(data)
    assert torch.equal(scores(replace(data, weight=np.ones(len(data), np.float32))), plain)
    twice = np.repeat(np.arange(len(data)), np.where(np.arange(len(data)) % 3 == 0, 2, 1))
    double = np.where(np.arange(len(data)) % 3 == 0, 2, 1).astype(np.float32)
    weighted = scores(replace(data, weight=double))
    torch.testing.assert_close(weighted, scores(data.take(twice)), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(weighted, plain, atol=1e-3)


def test_weighted_ease_and_edlae_are_the_closed_form_of_the_weighted_matrix(data: Dataset, dense: np.ndarray) -> None:
    entry = dense.copy()
    entry[data.user, data.item] = weights(data)
    gram = entry.T @ entry
    for model, dropout in ((EASE(EASEConfig(reg=7.0), data.spec), 0.0), (EDLAE(EDLAEConfig(reg=7.0), data.spec), 0.3)):
        inverse = np.linalg.inv(gram + np.diag(7.0 + dropout / (1 - dropout) * np.diag(gram)))
        expected = -inverse / np.diag(inverse)
        np.fill_diagonal(expected, 0)
        model.fit(replace(data, weight=weights(data)))
        np.testing.assert_allclose(model.score(everyone(data)).numpy(), dense @ expected, atol=1e-5)


def test_an_interaction_of_weight_zero_is_none(data: Dataset) -> None:
    weight = np.where(np.arange(len(data)) % 4 == 0, 0, 1).astype(np.float32)
    found, expected = (interactions(each) for each in (replace(data, weight=weight), data.take(weight > 0)))
    assert (found.toarray() == expected.toarray()).all()
    assert found.nnz == expected.nnz


def test_interactions_leave_the_data_as_it_is() -> None:
    frame = pl.DataFrame({"user_id": [0, 0, 0, 1], "item_id": [2, 1, 2, 0]})
    data = Dataset.from_frame(frame)
    before = data.item.copy()
    rows = interactions(data)
    assert rows.toarray().tolist() == [[0, 1, 2], [1, 0, 0]]
    rows.data[:] = 7
    rows.sort_indices()
    assert (data.item == before).all()


@pytest.mark.parametrize(("model", "config"), LINEAR)
def test_a_repeated_history_item_counts_once(data: Dataset, model, config) -> None:
    fitted = model(config, data.spec)
    fitted.fit(data)
    once, repeated = (Queries(torch.tensor([-1]), Ragged.of([row])) for row in ([3, 7, 5], [7, 3, 7, 5, 3]))
    torch.testing.assert_close(fitted.score(repeated), fitted.score(once))
    for item in range(data.n_items):
        share_T, base = fitted.history_contributions(repeated, item)
        assert share_T.shape == (5,)
        assert float(share_T.sum()) + base == pytest.approx(float(fitted.score(once)[0, item]), abs=1e-5)


@pytest.mark.parametrize("shape", [(30, 2), (2, 30), (30, 1), (1, 30), (30, 20)], ids=str)
def test_puresvd_of_width_one(shape: tuple[int, int]) -> None:
    pairs = np.array([(u, i) for u in range(shape[0]) for i in range(shape[1]) if (u * 7 + i * 3) % 5 or i == u % 2])
    data = Dataset.from_frame(pl.DataFrame({"user_id": pairs[:, 0], "item_id": pairs[:, 1]}))
    model = PureSVD(PureSVDConfig(dim=1), data.spec)
    model.fit(data)
    dense = interactions(data).toarray().astype(np.float64)
    right = np.linalg.svd(dense)[2][:1]
    np.testing.assert_allclose(model.score(everyone(data)).numpy(), dense @ right.T @ right, atol=1e-4)


@pytest.mark.parametrize("fault", ["index", "offsets", "nan"])
def test_a_forged_sparse_matrix_is_one_clear_error(data: Dataset, fault: str) -> None:
    model = SparseEASE(SparseEASEConfig(reg=7.0, k=6), data.spec)
    model.fit(data)
    if fault == "index":
        model.item[0] = data.n_items
    if fault == "offsets":
        model.offsets[1] = -1
    if fault == "nan":
        model.weight[0] = torch.nan
    with pytest.raises(ArtifactError):
        check_tensors(model)


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


def test_normal_equations_weigh_their_members() -> None:
    rows = Ragged.of([[0, 2], [3, 1, 0, 2], [1]])
    vectors = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    targets, weights = torch.arange(7.0), torch.tensor([2.0, 0.5, 1.0, 3.0, 0.1, 1.0, 4.0])
    for target_T in (targets, None):
        for block, gram, right in normal_equations(rows, vectors, target_T, weights):
            for row, left, side in zip(block.tolist(), gram, right, strict=True):
                own, part = vectors[rows[row]], slice(rows.offsets[row], rows.offsets[row + 1])
                weighted = own * weights[part].unsqueeze(1)
                torch.testing.assert_close(left, weighted.T @ own)
                wanted = weighted.sum(0) if target_T is None else weighted.T @ target_T[part]
                torch.testing.assert_close(side, wanted)


def test_blocks_of_like_length_hold_every_row_once_within_their_bounds() -> None:
    lengths = torch.randint(0, 50, (300,), generator=torch.Generator().manual_seed(2))
    blocks = blocks_of_similar_length(lengths, 120, 10)
    assert torch.equal(torch.cat(blocks).sort().values, lengths.nonzero().squeeze(1))
    for block in blocks:
        assert len(block) <= 10
        assert len(block) == 1 or int(lengths[block].max()) * len(block) <= 120
