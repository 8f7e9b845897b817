"""Popularity, of all users and given attributes, by hand and on real users."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from palate.data.dataset import Dataset, Queries
from palate.data.features.encode import encode
from palate.data.ragged import Ragged
from palate.evaluation.evaluate import evaluate
from palate.models import fallback
from palate.models.baselines.popularity import Popularity
from palate.models.fallback import Fallback
from palate.models.mf.mf import MF
from palate.models.neighbours.knn import ItemKNN

ROWS = pl.DataFrame({"user_id": list("aaabbccccd"), "item_id": ["x", "y", "z", "x", "y", "x", "z", "v", "w", "x"]})
PEOPLE = pl.DataFrame(
    {
        "user_id": list("abcd"),
        "job": ["cook", "smith", "cook", None],
        "likes": [["tea"], ["tea", "gin"], ["gin"], None],
        "age": [20.0, 30.0, None, 50.0],
    }
)


def learned(monkeypatch: pytest.MonkeyPatch, *columns: str, **limits: float) -> tuple[Fallback, Dataset]:
    """Fitted to the rows, with S = 5 and other limits."""
    for name, value in ({"PRIOR_INTERACTIONS": 5.0} | limits).items():
        monkeypatch.setattr(fallback, name, value)
    kinds = {"job": "category", "likes": "tags"}
    data = Dataset.from_frame(
        ROWS,
        users=PEOPLE.select("user_id", *columns),
        user_kinds={name: kinds[name] for name in kinds if name in columns},
    )
    known = Fallback(MF.spec_of(data))
    known.learn(data)
    return known, data


def asked(known: Fallback, table: pl.DataFrame) -> Queries:
    assert known.by_attribute is not None
    rows = table.height
    return Queries(torch.full((rows,), -1), Ragged.empty(rows), features=encode(table, known.by_attribute.features))


def share(count: float, of: float, popularity: float) -> float:
    """p(i | v) / p(i) with S = 5, of 10 rows in all."""
    return (count + 5 * popularity / 10) / (of + 5) / (popularity / 10)


def test_a_category_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    known, data = learned(monkeypatch, "job")
    assert data.items.ids.to_list() == ["v", "w", "x", "y", "z"]  # had by 1, 1, 4, 2, 2; by cooks 1, 1, 2, 1, 2
    queries = asked(known, pl.DataFrame({"job": ["cook", "smith", "judge", None]}))
    scores = known.score(queries)
    cooks = [n * share(c, 7, n) for n, c in zip([1, 1, 4, 2, 2], [1, 1, 2, 1, 2], strict=True)]
    smiths = [n * share(c, 2, n) for n, c in zip([1, 1, 4, 2, 2], [0, 0, 1, 1, 0], strict=True)]
    assert scores[0].tolist() == pytest.approx(cooks, rel=1e-5)
    assert scores[1].tolist() == pytest.approx(smiths, rel=1e-5)
    assert scores[2:].tolist() == [[1, 1, 4, 2, 2]] * 2
    assert known.has_attributes(queries).tolist() == [True, True, False, False]
    assert known.names(queries.take(torch.tensor([1]))) == "job smith"


def test_tags_share_the_weight_of_one_attribute_and_attributes_multiply(monkeypatch: pytest.MonkeyPatch) -> None:
    known, _ = learned(monkeypatch, "job", "likes")
    tables = [{"likes": [["tea"]]}, {"likes": [["gin", "tea", "rum"]]}, {"likes": [["gin"]]}, {"job": ["cook"]}]
    tea, both, gin, cook = (known.score(asked(known, pl.DataFrame(table)))[0] for table in tables)
    counts = torch.tensor([1.0, 1, 4, 2, 2])
    assert torch.allclose(both / counts, (tea * gin).sqrt() / counts)
    together = known.score(asked(known, pl.DataFrame({"job": ["cook"], "likes": [["tea"]]})))[0]
    assert torch.allclose(together / counts, tea * cook / counts**2)
    assert not torch.allclose(tea, counts)


def test_numbers_count_by_the_decile_they_fall_into(monkeypatch: pytest.MonkeyPatch) -> None:
    known, _ = learned(monkeypatch, "age")
    table = pl.DataFrame({"age": [20.0, 20.5, 30.0, 50.0, 90.0, None]})
    scores = known.score(asked(known, table))
    assert torch.equal(scores[0], scores[1])
    assert torch.equal(scores[3], scores[4])
    assert scores[0].tolist() == pytest.approx(
        [n * share(c, 3, n) for n, c in zip([1, 1, 4, 2, 2], [0, 0, 1, 1, 1], strict=True)], rel=1e-5
    )
    assert scores[5].tolist() == [1, 1, 4, 2, 2]
    assert known.has_attributes(asked(known, table)).tolist() == [True] * 5 + [False]
    assert known.names(asked(known, table[:1])) == "age below 22"
    assert known.names(asked(known, table[4:5])) == "age from 46"


def test_how_many_rows_are_counted_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = learned(monkeypatch, "job", "likes", "age")
    parts, _ = learned(monkeypatch, "job", "likes", "age", ROWS_PER_BLOCK=3)
    assert whole.by_attribute is not None
    assert parts.by_attribute is not None
    assert torch.equal(whole.by_attribute.lift, parts.by_attribute.lift)


def test_a_weight_of_two_counts_as_the_row_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    _, data = learned(monkeypatch, "job", "likes", "age")
    data = replace(data, rating=np.arange(len(data), dtype=np.float32) % 4 + 1)
    count = np.where(np.arange(len(data)) % 3 == 0, 2, 1)
    found = []
    for trained in (
        data,
        replace(data, weight=np.ones(len(data), np.float32)),
        replace(data, weight=count.astype(np.float32)),
        data.take(np.repeat(np.arange(len(data)), count)),
    ):
        known = Fallback(MF.spec_of(data))
        known.learn(trained)
        found.append(known.state_dict())
    for name, tensor in found[0].items():
        assert torch.equal(found[1][name], tensor), name
        torch.testing.assert_close(found[2][name], found[3][name], msg=name)
    for name in ("popularity", "by_attribute.lift", "item_deviation", "mean"):
        assert not torch.allclose(found[2][name], found[0][name], atol=1e-3), name


def test_of_a_large_catalogue_the_most_popular_items_have_lifts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = learned(monkeypatch, "job")
    some, _ = learned(monkeypatch, "job", MAX_LIFTS=6)
    assert some.by_attribute is not None
    assert some.by_attribute.lift.shape == (2, 3)
    cook = pl.DataFrame({"job": ["cook"]})
    scores, all_scores = some.score(asked(some, cook))[0], whole.score(asked(whole, cook))[0]
    assert torch.equal(scores[2:], all_scores[2:])
    assert scores[:2].tolist() == [1, 1]
    few, _ = learned(monkeypatch, "job", MAX_VALUES_PER_COLUMN=1)
    assert few.has_attributes(asked(few, pl.DataFrame({"job": ["cook", "smith"]}))).tolist() == [True, False]


def test_rare_values_have_little_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    known, _ = learned(monkeypatch, "job", PRIOR_INTERACTIONS=fallback.PRIOR_INTERACTIONS)
    assert known.by_attribute is not None
    assert float(known.by_attribute.lift.abs().max()) < log(1.01)
    assert float(known.by_attribute.lift.abs().max()) > 0


def test_a_hundred_attributes_stay_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    known, _ = learned(monkeypatch, "job", PRIOR_INTERACTIONS=1e-6)
    assert known.by_attribute is not None
    known.by_attribute.lift.mul_(100)
    scores = known.score(asked(known, pl.DataFrame({"job": ["cook", "smith"]})))
    assert bool(scores.isfinite().all())


def test_new_items_have_no_popularity_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    known, _ = learned(monkeypatch, "job")
    cook = asked(known, pl.DataFrame({"job": ["cook"]}))
    grown = known.with_items(2).score(cook)[0]
    assert grown[-2:].tolist() == [0, 0]
    assert torch.equal(grown[:5], known.score(cook)[0])


def test_the_model_popularity_ignores_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    known, data = learned(monkeypatch, "job")
    model = Popularity(Popularity.Config(), Popularity.spec_of(data))
    model.fit(data)
    counts = [1, 1, 4, 2, 2]
    assert model.score(data.queries(np.arange(4), model.spec)).tolist() == [counts] * 4
    cook = asked(known, pl.DataFrame({"job": ["cook"]}))
    assert model.score(cook).tolist() == [counts]
    assert not model.fallback.has_attributes(cook).any()


def test_on_real_users_without_history_attributes_improve_on_popularity(
    real_data: Callable[[str], Path],
) -> None:
    folder = real_data("ml-100k")
    data = Dataset.read(folder / "ratings.parquet", users=folder / "users.parquet")
    gain = []
    for seed in range(3):
        parts = data.split("new-users", valid=0.1, test=0.2, skip=10, seed=seed)
        found = []
        for kind in (Popularity, ItemKNN):
            model = kind(kind.Config(), kind.spec_of(parts.train))
            model.fit(parts.train)
            found.append(evaluate(model, parts.valid, ["ndcg@10"]))
        assert (found[0].routes["popularity"], found[1].routes["popularity_within"]) == (1, 1)
        gain.append(found[1]["ndcg@10"].value - found[0]["ndcg@10"].value)
    assert min(gain) > 0
