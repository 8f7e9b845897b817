"""popularity: counts of interactions, the same for all users."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palate.data.dataset import Dataset, Queries
from palate.data.ragged import Ragged
from palate.errors import ArtifactError, ConfigError, DataError
from palate.models.baselines.popularity import SECONDS_PER_DAY, Popularity, PopularityConfig
from palate.models.buffers import check_tensors
from palate.recommender.recommender import Recommender


def test_scores_are_counts() -> None:
    frame = pl.DataFrame({"user_id": [1, 1, 2, 3, 3], "item_id": ["a", "b", "b", "b", "c"]})
    data = Dataset.from_frame(frame)
    model = Popularity(PopularityConfig(), data.spec)
    model.fit(data)
    queries = Queries(torch.tensor([0, -1, -1]), Ragged.of([[], [2], []]))
    assert model.score(queries).tolist() == [[1.0, 3.0, 1.0]] * 3


def test_a_weight_of_two_counts_as_the_row_twice() -> None:
    frame = pl.DataFrame({"user_id": [1, 1, 2, 3, 3], "item_id": ["a", "b", "b", "b", "c"]})
    data = Dataset.from_frame(frame)
    weight = np.array([2, 1, 0.5, 1, 1], dtype=np.float32)
    double = np.array([2, 1, 1, 1, 1], dtype=np.float32)
    repeated = data.take(np.array([0, 0, 1, 2, 3, 4]))
    found = []
    for trained in (
        replace(data, weight=weight),
        replace(data, weight=double),
        repeated,
        replace(data, weight=weight * 0 + 1),
        data,
    ):
        model = Popularity(PopularityConfig(), data.spec)
        model.fit(trained)
        queries = Queries(torch.tensor([0]), Ragged.of([[1, 1]]))
        found.append(model.score(queries)[0].tolist())
        assert model.history_contributions(queries, 1)[0].tolist() == [0, 0]
    assert found == [[2, 2.5, 1], [2, 3, 1], [2, 3, 1], [1, 3, 1], [1, 3, 1]]


def recent(data: Dataset, days: float) -> Popularity:
    model = Popularity(PopularityConfig(days=days), data.spec)
    model.fit(data)
    return model


EVENTS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 9)), min_size=1, max_size=30)


@given(EVENTS, st.lists(st.integers(-3, 15), min_size=1, max_size=6), st.integers(1, 4))
def test_a_window_counts_the_days_before_the_question(
    rows: list[tuple[int, int, int]], days: list[int], width: int
) -> None:
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    data = Dataset.read(frame.with_columns(pl.col("timestamp") * SECONDS_PER_DAY + 10**9), duplicates="keep")
    model = recent(data, width)
    items, last = data.items.ids.to_list(), max(day for *_, day in rows)
    overall = np.array([sum(item == row[1] for row in rows) for item in items])
    queries = Queries(torch.full((len(days),), -1), Ragged.of([[0]] * len(days)))
    asked = replace(queries, asked_at=torch.tensor([day * SECONDS_PER_DAY + 10**9 for day in days]))
    for day, found in zip(days, model.score(asked), strict=True):
        # A question after training is asked right after its last event.
        inside = [row for row in rows if (last - width < row[2] if day > last else day - width <= row[2] < day)]
        counts = np.array([sum(item == row[1] for row in inside) for item in items])
        np.testing.assert_allclose(found, counts + overall / (1 + overall.max()), rtol=1e-6)
    late = replace(queries, asked_at=torch.full((len(days),), 2 * 10**9))
    assert torch.equal(model.score(queries), model.score(late))


def test_windows_weigh_events_and_explain_their_score() -> None:
    rows = [(1, "a", 0, 5.0), (1, "b", 999_000, 2.0), (2, "b", 1_000_000, 1.5)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "weight"], orient="row")
    data = Dataset.from_frame(frame)
    model = recent(data, 1)
    queries = Queries(torch.tensor([0]), Ragged.of([[0]]))
    assert model.score(queries).tolist() == [pytest.approx([5 / 6, 3.5 + 3.5 / 6])]
    assert model.history_contributions(queries, 1) == (torch.zeros(1), pytest.approx(3.5 + 3.5 / 6))


def test_a_window_needs_times() -> None:
    data = Dataset.from_frame(pl.DataFrame({"user_id": [1, 2], "item_id": ["a", "b"]}))
    with pytest.raises(DataError, match=r"RecentPopularity needs time, which this data lacks .*popularity counts all"):
        Recommender.train(data, "recent-popularity")
    with pytest.raises(ConfigError, match="days"):
        PopularityConfig(days=-1)


def test_equal_times_and_damaged_buffers() -> None:
    frame = pl.DataFrame({"user_id": [1, 2, 3], "item_id": ["a", "b", "b"], "timestamp": [7, 7, 7]})
    data = Dataset.from_frame(frame)
    model = recent(data, 3)
    asked = Queries(torch.tensor([-1, -1]), Ragged.of([[0], [0]]), asked_at=torch.tensor([7, 8]))
    assert model.score(asked).argmax(1).tolist() == [1, 1]
    for name, damage in (("item", [1, 0, 1]), ("item", [0, 1, 2]), ("time", [1, 9, 1]), ("total", [0, 2, 1, 3])):
        whole = getattr(model, name)
        setattr(model, name, torch.tensor(damage).to(whole.dtype))
        with pytest.raises(ArtifactError):
            check_tensors(model)
        setattr(model, name, whole)
    check_tensors(model)
    model.time = model.time[:-1]
    with pytest.raises(ArtifactError, match="3 events have 2 times"):
        check_tensors(model)
