"""Popularity, of all and within attributes, by hand and on real people."""

from __future__ import annotations

from collections.abc import Callable
from math import log
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from palate.data.dataset import Dataset, Queries
from palate.data.features import encode
from palate.data.ragged import Ragged
from palate.evaluation.evaluate import evaluate
from palate.models import fallback
from palate.models.fallback import Fallback
from palate.models.knn import ItemKNN
from palate.models.mf import MF
from palate.models.popularity import Popularity

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
    for name, value in ({"SMOOTH": 5.0} | limits).items():
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
    assert known.within is not None
    rows = table.height
    return Queries(torch.full((rows,), -1), Ragged.empty(rows), features=encode(table, known.within.features))


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
    assert known.told(queries).tolist() == [True, True, False, False]
    assert known.names(queries.take(torch.tensor([1]))) == "job smith"


def test_tags_weigh_as_one_attribute_and_attributes_multiply(monkeypatch: pytest.MonkeyPatch) -> None:
    known, _ = learned(monkeypatch, "job", "likes")
    tables = [{"likes": [["tea"]]}, {"likes": [["gin", "tea", "rum"]]}, {"likes": [["gin"]]}, {"job": ["cook"]}]
    tea, both, gin, cook = (known.score(asked(known, pl.DataFrame(table)))[0] for table in tables)
    counts = torch.tensor([1.0, 1, 4, 2, 2])
    assert torch.allclose(both / counts, (tea * gin).sqrt() / counts)
    all_told = known.score(asked(known, pl.DataFrame({"job": ["cook"], "likes": [["tea"]]})))[0]
    assert torch.allclose(all_told / counts, tea * cook / counts**2)
    assert not torch.allclose(tea, counts)


def test_numbers_count_by_the_tenth_they_fall_into(monkeypatch: pytest.MonkeyPatch) -> None:
    known, _ = learned(monkeypatch, "age")
    table = pl.DataFrame({"age": [20.0, 20.5, 30.0, 50.0, 90.0, None]})
    scores = known.score(asked(known, table))
    assert torch.equal(scores[0], scores[1])
    assert torch.equal(scores[3], scores[4])
    assert scores[0].tolist() == pytest.approx(
        [n * share(c, 3, n) for n, c in zip([1, 1, 4, 2, 2], [0, 0, 1, 1, 1], strict=True)], rel=1e-5
    )
    assert scores[5].tolist() == [1, 1, 4, 2, 2]
    assert known.told(asked(known, table)).tolist() == [True] * 5 + [False]
    assert known.names(asked(known, table[:1])) == "age below 22"
    assert known.names(asked(known, table[4:5])) == "age from 46"


def test_how_many_rows_are_counted_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = learned(monkeypatch, "job", "likes", "age")
    parts, _ = learned(monkeypatch, "job", "likes", "age", ROWS=3)
    assert whole.within is not None
    assert parts.within is not None
    assert torch.equal(whole.within.lift, parts.within.lift)


def test_of_a_large_catalogue_the_most_popular_items_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = learned(monkeypatch, "job")
    some, _ = learned(monkeypatch, "job", CELLS=6)
    assert some.within is not None
    assert some.within.lift.shape == (2, 3)
    cook = pl.DataFrame({"job": ["cook"]})
    scores, all_scores = some.score(asked(some, cook))[0], whole.score(asked(whole, cook))[0]
    assert torch.equal(scores[2:], all_scores[2:])
    assert scores[:2].tolist() == [1, 1]
    few, _ = learned(monkeypatch, "job", MOST=1)
    assert few.told(asked(few, pl.DataFrame({"job": ["cook", "smith"]}))).tolist() == [True, False]


def test_what_few_people_have_says_little(monkeypatch: pytest.MonkeyPatch) -> None:
    known, _ = learned(monkeypatch, "job", SMOOTH=fallback.SMOOTH)
    assert known.within is not None
    assert float(known.within.lift.abs().max()) < log(1.01)
    assert float(known.within.lift.abs().max()) > 0


def test_a_hundred_attributes_stay_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    known, _ = learned(monkeypatch, "job", SMOOTH=1e-6)
    assert known.within is not None
    known.within.lift.mul_(100)
    scores = known.score(asked(known, pl.DataFrame({"job": ["cook", "smith"]})))
    assert bool(scores.isfinite().all())


def test_new_items_have_no_popularity_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    known, _ = learned(monkeypatch, "job")
    cook = asked(known, pl.DataFrame({"job": ["cook"]}))
    grown = known.with_items(2).score(cook)[0]
    assert grown[-2:].tolist() == [0, 0]
    assert torch.equal(grown[:5], known.score(cook)[0])


def test_the_model_popularity_tells_nobody_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    known, data = learned(monkeypatch, "job")
    model = Popularity(Popularity.Config(), Popularity.spec_of(data))
    model.fit(data)
    counts = [1, 1, 4, 2, 2]
    assert model.score(data.queries(np.arange(4), model.spec)).tolist() == [counts] * 4
    cook = asked(known, pl.DataFrame({"job": ["cook"]}))
    assert model.score(cook).tolist() == [counts]
    assert not model.fallback.told(cook).any()


def test_real_people_without_history_are_served_better_than_by_everybodys_popularity(
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
