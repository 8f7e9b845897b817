"""One list without frames is the list that `Recommender.recommend` gives, of every kind of model and query."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from palate.data.dataset import Dataset
from palate.errors import TrainingError
from palate.evaluation.measure import answered_by
from palate.recommender import one_list
from palate.recommender.recommender import Recommender


def world() -> Dataset:
    rng = np.random.default_rng(3)
    pairs = {(int(u), int(i)) for u, i in zip(rng.integers(0, 40, 500), rng.zipf(1.5, 500) % 30, strict=True)}
    rows = pl.DataFrame(sorted(pairs), schema=["user_id", "item_id"], orient="row").with_columns(
        rating=pl.Series(rng.integers(1, 6, len(pairs)).astype(np.float64)), timestamp=pl.int_range(len(pairs))
    )
    users = pl.DataFrame({"user_id": range(40), "city": [["A", "B", "C"][u % 3] for u in range(40)]})
    items = pl.DataFrame({"item_id": range(30), "genre": [["x", "y"][i % 2] for i in range(30)]})
    return Dataset.from_frame(rows, items, users, rating_scale=(1.0, 5.0))


@pytest.fixture(scope="module")
def parts() -> Any:
    return world().split("random", valid=0.0, test=0.2, seed=0)


@pytest.mark.parametrize("held_out", [False, True], ids=["trained", "with held-out rows"])
@pytest.mark.parametrize("name", ["popularity", "itemknn", "ease", "mf", "multvae", "content-knn", "bias"])
def test_lists_and_routes_are_equal(parts: Any, name: str, held_out: bool) -> None:
    training = {"epochs": 1} if name in ("mf", "multvae") else None
    rec = Recommender.train(parts.train, name, None, training, seed=0)
    rec = Recommender(**{**vars(rec), "parts": {"test": parts.test} if held_out else {}})
    data, model = rec.data, rec.model
    for user in range(0, data.n_users, 3):
        query = one_list.query_of_user(rec, user)
        for extra in ([], [4, 9]):
            asked = one_list.with_chosen(data, query, extra, None)
            history = {"history": data.items.ids[extra].to_list()} if extra else {}
            expected = rec.recommend(users=[data.users.ids[user]], k=8, **history)
            items, scores = one_list.best_items(model, asked, 8)
            assert data.items.ids[items].to_list() == expected["item_id"].to_list()
            assert scores == pytest.approx(expected["score"].to_list(), rel=1e-6)
            assert one_list.route_of(model, asked) == answered_by(model, asked)[0] == expected["route"][0]
    for extra in ([2, 3], [2] * 3 + [7]):
        asked = one_list.with_chosen(data, one_list.query_of_user(rec, -1), extra, None)
        expected = rec.recommend(history=data.items.ids[extra].to_list(), k=8)
        items, _ = one_list.best_items(model, asked, 8)
        assert data.items.ids[items].to_list() == expected["item_id"].to_list()
        assert one_list.route_of(model, asked) == expected["route"][0]


def test_left_out_items_and_candidates(parts: Any) -> None:
    rec = Recommender.train(parts.train, "ease", seed=0)
    query = one_list.query_of_user(rec, 0)
    everything, _ = one_list.best_items(rec.model, query, 30)
    left_out = torch.tensor(everything[:3])
    assert one_list.best_items(rec.model, query, 30, left_out=left_out)[0] == everything[3:]
    candidates = torch.tensor(sorted(everything[5:9]))
    assert one_list.best_items(rec.model, query, 3, candidates=candidates)[0] == everything[5:8]
    nothing = torch.zeros(0, dtype=torch.int64)
    assert one_list.best_items(rec.model, query, 3, candidates=nothing) == ([], [])
    assert len(one_list.best_items(rec.model, query, 99, exclude_seen=False)[0]) == rec.data.n_items


def test_scores_that_are_no_numbers_are_an_error(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rec = Recommender.train(parts.train, "ease", seed=0)
    scores = torch.zeros(1, rec.data.n_items)
    scores[0, 3] = float("nan")
    monkeypatch.setattr(type(rec.model), "_score", lambda *given: scores)
    with pytest.raises(TrainingError, match="NaN or infinite"):
        one_list.best_items(rec.model, one_list.query_of_user(rec, 0), 5)
