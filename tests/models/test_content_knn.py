"""content-knn and its vectors: by hand, and where little or nothing is known."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import polars as pl
import pytest
import torch

from palate.data.dataset import Dataset, Queries
from palate.data.features.schema import FeatureBatch
from palate.data.ragged import Ragged
from palate.models.content.content_knn import ContentKNN, ContentKNNConfig
from palate.models.content.content_vectors import (
    CENTRES,
    MAX_SPARSE_WIDTH,
    BlockWeights,
    content_vectors,
    dense_vectors,
    dense_width,
)

ITEMS = pl.DataFrame(
    {
        "item_id": ["a", "b", "c", "d", "e"],
        "tags": [["x", "y"], ["x"], ["z"], ["y", "z"], None],
        "kind": ["film", "film", "book", None, None],
        "year": [1990.0, 1991.0, 2010.0, None, None],
    }
)
KINDS = {"tags": "tags", "kind": "category", "year": "number"}
ONE = ContentKNNConfig(shrink=0.0, tags=1.0, category=0.0, number=0.0)


def data() -> Dataset:
    rows = [("u", "a"), ("u", "c"), ("v", "b"), ("v", "d"), ("w", "e")]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    frame = frame.with_columns(rating=pl.Series([5.0, 1.0, 3.0, 3.0, 3.0]))
    return Dataset.from_frame(frame, ITEMS, item_kinds=KINDS)


def fitted(config: ContentKNNConfig, known: Dataset | None = None) -> ContentKNN:
    known = data() if known is None else known
    model = ContentKNN(config, ContentKNN.spec_of(known))
    model.fit(known)
    return model


def test_scores_by_hand() -> None:
    # Four rows have tags: x, y and z stand in two of them each, so all are equally rare.
    near = 1 / math.sqrt(2)
    model = fitted(ONE)
    queries = data().queries(np.arange(2), model.spec)
    # u has a = {x, y} and c = {z}; v has b = {x} and d = {y, z}.
    expected = torch.tensor([[1.0, near, 1.0, near + 0.5, 0.0], [near + 0.5, 1.0, near, 1.0, 0.0]]) / 2
    torch.testing.assert_close(model.score(queries), expected)
    # The same without the mean, each item's neighbours alone: not itself.
    neighbours = fitted(replace(ONE, profile="neighbours", k=5))
    sums = torch.tensor([[0.0, near, 0.0, near + 0.5, 0.0], [near + 0.5, 0.0, near, 0.0, 0.0]])
    torch.testing.assert_close(neighbours.score(queries), sums)
    nearest = fitted(replace(ONE, profile="neighbours", k=1))
    # The nearest of a is b, of d is c (0.71, before a with 0.5): v's b speaks for a, u's c for d.
    only = torch.tensor([[0.0, near, 0.0, near, 0.0], [near, 0.0, near, 0.0, 0.0]])
    torch.testing.assert_close(nearest.score(queries), only)


def test_what_was_rated_higher_counts_more() -> None:
    model = fitted(replace(ONE, ratings=True))
    queries = data().queries(np.arange(1), model.spec)
    # On a scale from 1 to 5, a weighs 1 and c 0.2.
    assert model.score(queries)[0, 1] == pytest.approx(math.sqrt(0.5) / 1.2)
    assert model.score(queries)[0, 2] == pytest.approx(0.2 / 1.2)
    unrated = Queries(queries.user, queries.history)
    torch.testing.assert_close(model.score(unrated), fitted(ONE).score(unrated))


def test_kinds_are_weighed_and_what_is_unknown_says_nothing() -> None:
    film = fitted(ContentKNNConfig(shrink=0.0, tags=0.0, category=1.0, number=0.0))
    queries = data().queries(np.arange(3), film.spec)
    assert film.score(queries)[0].tolist() == pytest.approx([0.5, 0.5, 0.5, 0.0, 0.0])
    assert film.score(queries)[2].tolist() == [0.0] * 5  # of e nothing is known
    year = fitted(ContentKNNConfig(shrink=0.0, tags=0.0, category=0.0, number=1.0))
    only_a = Queries(torch.tensor([-1]), Ragged.of([[0]]))
    a, b, c, d, e = year.score(only_a)[0].tolist()
    assert a > b > 0.99 > 0.5 > c
    assert d == e == 0.0


def test_shrinkage_lets_little_text_count_less() -> None:
    words = ["dune desert spice worm sand", "dune", "rain", "sand worm", "rain dune spice"] * 20
    ids = [f"i{i:03}" for i in range(100)]
    table = pl.DataFrame({"item_id": ids, "plot": words})
    frame = pl.DataFrame({"user_id": ["u"] * 100, "item_id": ids})
    known = Dataset.from_frame(frame, table, item_kinds={"plot": "text"})
    long = Queries(torch.tensor([-1]), Ragged.of([[0]]))
    plain, shrunk = (fitted(ContentKNNConfig(shrink=s), known).score(long)[0] for s in (0.0, 1.0))
    assert float(shrunk[1] / shrunk[0]) < 0.8 * float(plain[1] / plain[0])
    for weighting in ("tfidf", "bm25"):
        score = fitted(ContentKNNConfig(weighting=weighting, shrink=0.0), known).score(long)[0]
        assert float(score[0]) > float(score[3]) > float(score[2]) == 0.0


def test_vectors_of_content() -> None:
    features = data().feature_spec.item_features
    assert features is not None
    encoded = data().encoded_items(features)
    whole = content_vectors(encoded, features, BlockWeights(shrink=0.0))
    usual = content_vectors(encoded, features, BlockWeights())
    assert whole.sparse.shape == (5, 5)
    assert whole.dense.shape == (5, len(CENTRES))
    assert dense_vectors(whole).shape == (5, dense_width(features))
    # Blocks of weight 1, 1 and 0.2, each of a known column.
    squares = dense_vectors(whole).square().sum(1)
    torch.testing.assert_close(squares, torch.tensor([2.2, 2.2, 2.2, 1.0, 0.0]))
    # New rows are measured by what training learned, not by themselves.
    some = content_vectors(encoded.take(torch.tensor([3, 0])), features, BlockWeights(), usual.statistics)
    torch.testing.assert_close(dense_vectors(some), dense_vectors(usual)[[3, 0]])


def test_wide_vectors_are_projected_and_keep_their_cosines() -> None:
    rng = np.random.default_rng(0)
    tags = [[f"t{t}" for t in rng.choice(1500, 40, replace=False)] for _ in range(200)]
    tags[1] = tags[0][:30] + tags[1][:10]
    table = pl.DataFrame({"item_id": [f"i{i:03}" for i in range(200)], "tags": tags})
    frame = table.select("item_id", user_id=pl.lit("u"))
    known = Dataset.from_frame(frame, table, item_kinds={"tags": "tags"})
    model = fitted(ContentKNNConfig(), known)
    vectors = torch.nn.functional.normalize(model.item_vectors(), dim=1)
    assert vectors.shape == (200, MAX_SPARSE_WIDTH)
    exact = model.score(Queries(torch.tensor([-1]), Ragged.of([[0]])))[0]
    exact = (
        exact
        / torch.tensor(model._sparse_vectors().multiply(model._sparse_vectors()).sum(1)).ravel().sqrt()
        / exact[0].sqrt()
    )
    assert float((vectors @ vectors[0] - exact).abs().max()) < 0.16
    assert float((vectors @ vectors[0])[1]) > 0.5


@pytest.mark.parametrize("profile", ["mean", "neighbours"])
def test_the_size_of_blocks_of_memory_changes_nothing(
    profile: Literal["mean", "neighbours"], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ContentKNNConfig(profile=profile, k=3)
    whole = fitted(config).score(data().queries(np.arange(3), data().spec))
    monkeypatch.setattr("palate.models.content.content_knn.MAX_VALUES_PER_BLOCK", 6)
    torch.testing.assert_close(fitted(config).score(data().queries(np.arange(3), data().spec)), whole)


def test_vectors_that_came_with_the_items_are_read() -> None:
    vectors = [[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], None, [0.0, 3.0]]
    known = Dataset.from_frame(
        data().frame(), pl.DataFrame({"item_id": list("abcde"), "v": vectors}), item_kinds={"v": "vector"}
    )
    model = fitted(ContentKNNConfig(shrink=0.0), known)
    score = model.score(Queries(torch.tensor([-1]), Ragged.of([[2]])))[0]
    assert score.tolist() == pytest.approx([0.0, 0.1 / math.sqrt(4.01), 1.0, 0.0, 1.0], abs=1e-6)


def test_nothing_but_unknown_rows() -> None:
    model = fitted(ContentKNNConfig())
    assert model.spec.item_features is not None
    encoded: FeatureBatch = data().encoded_items(model.spec.item_features).take(torch.tensor([4, 4]))
    grown = model.with_items(encoded)
    assert grown.score(data().queries(np.arange(2), grown.spec))[:, 5:].tolist() == [[0.0, 0.0]] * 2


@pytest.mark.parametrize("profile", ["mean", "neighbours"])
def test_shares_of_the_history_add_up_to_the_score(profile: Literal["mean", "neighbours"]) -> None:
    model = fitted(ContentKNNConfig(profile=profile, k=2, ratings=True))
    assert model.spec.item_features is not None
    grown = model.with_items(data().encoded_items(model.spec.item_features).take(torch.tensor([0])))
    history = Ragged.of([[2, 5, 0]])  # item 5 came later
    queries = Queries(torch.tensor([-1]), history, torch.tensor([4.0, 5.0, 1.0]))
    for item in range(6):
        share, rest = grown.history_contributions(queries, item)  # type: ignore[misc]
        assert share.shape == (3,)
        assert float(share.sum()) + rest == pytest.approx(float(grown.score(queries)[0, item]), abs=1e-6)


@pytest.mark.parametrize("profile", ["mean", "neighbours"])
def test_an_item_that_occurs_twice_counts_twice(profile: Literal["mean", "neighbours"]) -> None:
    model = fitted(ContentKNNConfig(profile=profile, k=5, shrink=0.0))
    once, twice = (model.score(Queries(torch.tensor([-1]), Ragged.of([row])))[0] for row in ([0, 2], [0, 0, 2]))
    alone = model.score(Queries(torch.tensor([-1]), Ragged.of([[0]])))[0]
    expected = (2 * once + alone) / 3 if profile == "mean" else once + alone
    torch.testing.assert_close(twice, expected)
