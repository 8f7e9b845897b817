"""Events: repeats are kept where they are asked for, in order, through splits, folders and artifacts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palate.config import Training
from palate.data.dataset import Dataset
from palate.data.events import Events
from palate.data.queries import Queries
from palate.data.ragged import Ragged
from palate.data.store import open_dataset, save_dataset
from palate.errors import ArtifactError
from palate.models import MODELS
from palate.recommender.id_translation import build_queries
from palate.recommender.recommender import Recommender

EVENTS = pl.DataFrame(
    {
        "user_id": ["a", "a", "a", "b", "a", "b", "b"],
        "item_id": ["x", "y", "x", "y", "x", "y", "z"],
        "timestamp": [5, 5, 5, 1, 9, 1, 1],
    }
)


def events(frame: pl.DataFrame = EVENTS) -> Dataset:
    return Dataset.read(frame, duplicates="keep")


def test_all_events_stay_in_order_of_time_then_of_the_input() -> None:
    data = events()
    assert data.frame().rows() == [
        ("a", "x", 5),
        ("a", "y", 5),
        ("a", "x", 5),
        ("a", "x", 9),
        ("b", "y", 1),
        ("b", "y", 1),
        ("b", "z", 1),
    ]
    assert data.events == Events(repeats=True)
    assert data.notes == (
        "5 rows of 2 user-item pairs kept as events of their own: models that read order learn from all of them, the "
        "others from the last one",
    )
    queries = data.queries(np.array([0, 1]), data.spec)
    assert queries.history[0].tolist() == [0, 1, 0, 0]
    assert queries.times is not None
    assert queries.times.tolist() == [5, 5, 5, 9, 1, 1, 1]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=40))
def test_without_repeats_keeps_the_last_row_of_each_pair(rows: list[tuple[int, int, int]]) -> None:
    data = events(pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row"))
    expected = data.frame().unique(["user_id", "item_id"], keep="last", maintain_order=True)
    assert data.without_repeats.frame().equals(expected)
    assert data.without_repeats.without_repeats.frame().equals(expected)
    repeated = len(data) - len(expected)
    said = [note for note in data.without_repeats.notes if note not in data.notes]
    assert said == [
        f"{repeated} of {len(data)} rows are repeated by a later one, and this model learns from the last one only"
    ] * (repeated > 0)


def test_rows_that_are_not_events_are_left_alone() -> None:
    data = Dataset.from_frame(EVENTS)
    assert data.without_repeats is data


def test_a_note_says_nothing_without_repeats() -> None:
    assert events(EVENTS.unique(["user_id", "item_id"])).notes == ()


def test_splits_keep_events() -> None:
    parts = events().split("leave-last-out", valid=1, test=1)
    assert parts.train.events.repeats
    assert parts.test.frame()["item_id"].to_list() == ["x", "z"]
    assert parts.test.history is not None
    assert parts.test.history.frame()["item_id"].to_list() == ["x", "y", "x", "y", "y"]


def test_folders_and_artifacts_keep_events(tmp_path: Path) -> None:
    data = replace(events(), events=Events(repeats=True, sessions=True))
    save_dataset(data, tmp_path / "data")
    assert open_dataset(tmp_path / "data").events == data.events
    Recommender.train(events(), "popularity").save(tmp_path / "run")
    assert Recommender.load(tmp_path / "run").data.events == Events(repeats=True)
    about = tmp_path / "data" / "dataset.json"
    about.write_text(about.read_text().replace('"sessions"', '"nonsense"'))
    with pytest.raises(ArtifactError, match="nonsense"):
        open_dataset(tmp_path / "data")


def rows(n_users: int = 30, n_items: int = 12, length: int = 20) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(n_users), length)
    item = (user % 3) * 4 + rng.integers(0, 4, len(user))
    return pl.DataFrame({"user_id": user, "item_id": item, "timestamp": np.arange(len(user))})


@pytest.mark.parametrize("name", ["itemknn", "userknn", "ease", "ials", "multvae", "mf", "turbo-cf"])
def test_models_of_sets_learn_the_same_from_events_as_from_pairs(name: str) -> None:
    kept = events(rows())
    pairs = Dataset.read(rows(), duplicates="last")
    fitted = []
    for data in (kept, pairs):
        model = MODELS[name](MODELS[name].Config(), MODELS[name].spec_of(data))
        model.fit(data, Training(epochs=2))
        fitted.append(model)
    assert not fitted[0].reads_repeats
    queries = Queries(torch.tensor([0, 1, -1]), Ragged.of([[0, 1], [4, 5], [8]]))
    assert torch.equal(fitted[0]._score(queries), fitted[1]._score(queries))


def test_popularity_counts_events() -> None:
    data = events(rows())
    model = MODELS["popularity"](MODELS["popularity"].Config(), data.spec)
    model.fit(data)
    assert torch.equal(model.fallback.popularity, torch.from_numpy(data.item_counts).float())


def test_newer_history_of_events_keeps_the_older_ones() -> None:
    rec = Recommender.train(events(), "popularity")
    _, queries = build_queries(rec.data, rec.model.spec, ["a"], ["x"], None)
    assert queries.history.values.tolist() == [0, 1, 0, 0, 0]
