"""Neighbourhood models against plain, dense arithmetic on small random data, and their bounds on time and memory."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from scipy.sparse import csr_matrix

from palate.data.dataset import Dataset, Queries
from palate.data.ragged import Ragged
from palate.errors import DataError
from palate.models import layers
from palate.models.graph.filters import GFCF, GFCFConfig, TurboCF, TurboCFConfig
from palate.models.linear.ease import interactions
from palate.models.neighbours import nearest
from palate.models.neighbours.knn import ItemKNN, ItemKNNConfig, UserKNN, UserKNNConfig
from palate.models.neighbours.rp3beta import RP3beta, RP3betaConfig


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


def scores(model, config, trained: Dataset) -> torch.Tensor:
    fitted = model(config, trained.spec)
    fitted.fit(trained)
    return fitted.score(everyone(trained))


MODELS = [
    (ItemKNN, ItemKNNConfig(k=4, shrink=2.0)),
    (ItemKNN, ItemKNNConfig(k=4, weighting="tfidf")),
    (ItemKNN, ItemKNNConfig(k=4, weighting="bm25")),
    (UserKNN, UserKNNConfig(k=4, shrink=2.0)),
    (UserKNN, UserKNNConfig(k=4, weighting="bm25")),
    (RP3beta, RP3betaConfig(k=4, alpha=0.8)),
]


def test_itemknn_is_the_shrunken_cosine_of_the_strongest(data: Dataset, dense: np.ndarray) -> None:
    model = ItemKNN(ItemKNNConfig(k=4, shrink=2.0), data.spec)
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
    model = UserKNN(UserKNNConfig(k=data.n_users, shrink=1.0, weighting=weighting), data.spec)
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


@pytest.mark.parametrize("entries", [1, 60])
@pytest.mark.parametrize(("model", "config"), MODELS)
def test_the_size_of_blocks_changes_nothing(data: Dataset, model, config, entries: int, monkeypatch) -> None:
    whole = scores(model, config, data)
    monkeypatch.setattr(nearest, "MAX_ENTRIES_PER_BLOCK", entries)
    assert torch.equal(scores(model, config, data), whole)


def test_row_blocks_hold_every_row_once_within_their_bound(monkeypatch) -> None:
    monkeypatch.setattr(nearest, "MAX_ENTRIES_PER_BLOCK", 10)
    entries = np.array([3, 4, 3, 1, 25, 0, 0, 10, 2])
    blocks = list(nearest.row_blocks(entries))
    assert blocks == [(0, 3), (3, 4), (4, 5), (5, 8), (8, 9)]
    assert list(nearest.row_blocks(np.zeros(0, dtype=np.int64))) == []


def test_ties_go_to_the_lower_index() -> None:
    frame = pl.DataFrame({"user_id": [0, 0, 0, 0, 0, 1], "item_id": [4, 2, 0, 3, 1, 0]})
    data = Dataset.from_frame(frame)
    model = ItemKNN(ItemKNNConfig(k=2), data.spec)
    model.fit(data)
    speaks_for = [model.item[model.offsets[j] : model.offsets[j + 1]].tolist() for j in range(5)]
    # Item 0 has two users, so that it is less similar to the others, which are equally similar to each other.
    assert speaks_for == [[], [0, 2, 3, 4], [0, 1, 3, 4], [1, 2], []]


def test_the_k_largest_of_a_row_are_those_of_a_stable_sort() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        rows, columns, k, levels = (int(rng.integers(1, most)) for most in (8, 60, 20, 9))
        values = rng.integers(0, levels + 1, (rows, columns)).astype(np.float32) / 7
        own = rng.integers(-1, columns, rows)
        others = values.copy()
        others[np.arange(rows)[own >= 0], own[own >= 0]] = 0
        expected = np.zeros_like(values)
        best = np.argsort(-others, axis=1, kind="stable")[:, :k]
        np.put_along_axis(expected, best, np.take_along_axis(others, best, 1), 1)
        assert (nearest.k_largest(csr_matrix(values), own, k).toarray() == expected).all()


def test_memory_is_that_of_the_neighbours_and_not_of_the_square_of_the_catalogue() -> None:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"user_id": rng.integers(0, 2000, 20_000), "item_id": np.arange(20_000)})
    data = Dataset.from_frame(frame)
    for model in (ItemKNN(ItemKNNConfig(), data.spec), RP3beta(RP3betaConfig(), data.spec)):
        tracemalloc.start()
        model.fit(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 50e6  # A dense block of 1,024 rows alone takes 82 MB.


@pytest.mark.slow
@pytest.mark.parametrize("name", ["itemknn", "rp3beta", "userknn"])
def test_a_million_items_fit_into_4_gb(name: str) -> None:
    code = f"""
import resource, numpy as np, polars as pl
from palate import Dataset, Recommender
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
n = 1_000_000
frame = pl.DataFrame({{"user_id": np.random.default_rng(0).integers(0, 50_000, n), "item_id": np.arange(n)}})
assert Recommender.train(Dataset.read(frame), {name!r}).recommend([7], k=3).height == 3
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_does_not_fit_says_so(data: Dataset, monkeypatch) -> None:
    monkeypatch.setattr(layers, "machine_memory", lambda: 100)
    with pytest.raises(DataError, match=r"itemknn needs .* GB of memory .* use a smaller k"):
        ItemKNN(ItemKNNConfig(), data.spec).fit(data)


LONG = [(ItemKNN, ItemKNNConfig), (RP3beta, RP3betaConfig), (GFCF, GFCFConfig), (TurboCF, TurboCFConfig)]


def with_long_histories(seed: int) -> Dataset:
    """Users 0 and 1 have all 30 items, 8 others a few each."""
    rng = np.random.default_rng(seed)
    user = np.concatenate([np.repeat([0, 1], 30), rng.integers(2, 10, 60)])
    item = np.concatenate([rng.permutation(30), rng.permutation(30), rng.integers(0, 30, 60)])
    return Dataset.from_frame(pl.DataFrame({"user_id": user, "item_id": item}).unique(maintain_order=True))


@pytest.mark.parametrize(("model", "config"), LONG)
def test_a_long_history_counts_with_an_evenly_spaced_sample(model, config) -> None:
    whole = with_long_histories(1)
    with pytest.warns(
        UserWarning, match=r"more than 20 items \(2 of 10\) by an evenly spaced sample.*set max_history="
    ):
        known = nearest.sampled_interactions(whole, 20, "itemknn").toarray()
    assert known.sum(1)[:2].tolist() == [20, 20]
    for row in known[:2]:  # Two of three items, so that no two neighbouring items are left out.
        assert not ((row[:-1] == 0) & (row[1:] == 0)).any()
    assert (known[0] != known[1]).any()
    assert (known[2:] == interactions(whole).toarray()[2:]).all()

    fitted = model(config(max_history=20), whole.spec)
    with pytest.warns(UserWarning, match="2 of 10"):
        fitted.fit(whole)
    sampled = whole.take(known[whole.user, whole.item] > 0)
    expected = model(config(), sampled.spec)
    expected.fit(sampled)
    torch.testing.assert_close(fitted.score(everyone(sampled)), expected.score(everyone(sampled)))


@pytest.mark.parametrize(("model", "config"), LONG)
def test_the_sample_does_not_depend_on_the_order_of_rows(model, config) -> None:
    whole, found = with_long_histories(2), []
    for frame in (whole.frame(), whole.frame().reverse()):
        data = Dataset.from_frame(frame)
        fitted = model(config(max_history=7), data.spec)
        with pytest.warns(UserWarning, match="more than 7 items"):
            fitted.fit(data)
        found.append(fitted.score(Queries(torch.tensor([-1]), Ragged.of([[3, 8]]))))
    assert torch.equal(*found)


@pytest.mark.parametrize(("model", "config"), LONG)
def test_users_within_the_bound_count_in_full(data: Dataset, model, config) -> None:
    longest = int(np.bincount(data.user).max())
    bounded, free = (model(config(max_history=bound), data.spec) for bound in (longest, 10**9))
    bounded.fit(data)  # A warning would be an error.
    free.fit(data)
    assert torch.equal(bounded.score(everyone(data)), free.score(everyone(data)))


def test_one_user_with_very_many_items_does_not_cost_the_square() -> None:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"user_id": np.zeros(60_000, dtype=np.int64), "item_id": np.arange(60_000)})
    others = pl.DataFrame({"user_id": rng.integers(1, 500, 2000), "item_id": rng.integers(0, 60_000, 2000)})
    data = Dataset.from_frame(pl.concat([frame, others]).unique(maintain_order=True))
    with pytest.warns(UserWarning, match="more than 10,000 items"):
        known = nearest.sampled_interactions(data, nearest.MAX_HISTORY, "itemknn")
    assert int((np.diff(known.indptr).astype(np.int64) ** 2).sum()) < 1.01e8


def test_repeats_of_few_items_are_no_long_history(data: Dataset) -> None:
    repeated = Dataset.from_frame(pl.concat([data.frame()] * 3))
    longest = int(np.bincount(data.user).max())
    ItemKNN(ItemKNNConfig(max_history=longest), data.spec).fit(repeated)  # A warning would be an error.


@pytest.mark.parametrize(("model", "config"), MODELS)
def test_weights_of_one_change_nothing_and_a_repeated_row_acts_as_its_weight(data: Dataset, model, config) -> None:
    third = np.arange(len(data)) % 3 == 0
    plain = scores(model, config, data)
    assert torch.equal(scores(model, config, replace(data, weight=np.ones(len(data), np.float32))), plain)
    weighted = scores(model, config, replace(data, weight=np.where(third, 2, 1).astype(np.float32)))
    repeated = data.take(np.repeat(np.arange(len(data)), np.where(third, 2, 1)))
    torch.testing.assert_close(weighted, scores(model, config, repeated), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(weighted, plain, atol=1e-3)


@pytest.mark.parametrize(("model", "config"), MODELS)
def test_a_heavier_interaction_draws_its_items_together(data: Dataset, model, config) -> None:
    """Of users who have items a and b, raising their weights raises what a history of a says of b."""
    first, second = 0, 1
    both = np.intersect1d(data.user[data.item == first], data.user[data.item == second])
    assert len(both) > 0
    heavy = np.isin(data.user, both) & np.isin(data.item, (first, second))
    config = replace(config, k=data.n_users)
    found = []
    for trained in (data, replace(data, weight=np.where(heavy, 3, 1).astype(np.float32))):
        fitted = model(config, data.spec)
        fitted.fit(trained)
        row = fitted.score(Queries(torch.tensor([-1]), Ragged.of([[first]])))[0]
        found.append(float(row[second] / row.sum()))
    assert found[1] > found[0]


@pytest.mark.parametrize(("model", "config"), MODELS)
def test_a_repeated_history_item_counts_once(data: Dataset, model, config) -> None:
    fitted = model(config, data.spec)
    fitted.fit(data)
    once, repeated = (Queries(torch.tensor([-1]), Ragged.of([row])) for row in ([3, 7, 5], [7, 3, 7, 5, 3]))
    torch.testing.assert_close(fitted.score(repeated), fitted.score(once))
    for item in range(data.n_items) if fitted.additive else ():
        share_T, base = fitted.history_contributions(repeated, item)
        assert float(share_T.sum()) + base == pytest.approx(float(fitted.score(once)[0, item]), abs=1e-5)


def test_a_known_user_is_no_neighbour_of_their_own(data: Dataset) -> None:
    model = UserKNN(UserKNNConfig(k=1, shrink=0.0), data.spec)
    model.fit(data)
    queries = everyone(data)
    own = model.score(queries.anonymous())
    dense = torch.from_numpy(interactions(data).toarray())
    assert torch.equal(own > 0, dense > 0)  # For a new user, the training user with the same history is the nearest.
    assert not torch.equal(model.score(queries) > 0, dense > 0)
    fresh = replace(queries, fresh=torch.ones(len(queries), dtype=torch.bool))
    assert torch.equal(model.score(fresh), model.score(queries))
