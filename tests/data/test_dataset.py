"""Dataset: row order, ids as given, views, side tables, and what a model is told of a user."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palate.data.dataset import Dataset, Spec
from palate.errors import ConfigError, DataError

FRAME = pl.DataFrame(
    {
        "user_id": ["b", "a", "b", "a", "b"],
        "item_id": [30, 10, 10, 20, 20],
        "rating": [5.0, 1.0, 3.0, 2.0, 4.0],
        "timestamp": [9, 8, 7, 8, 9],
    }
)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=40))
def test_rows_stand_by_user_then_time_then_input_order(rows: list[tuple[int, int, int]]) -> None:
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").with_row_index("rating")
    data = Dataset.from_frame(frame)
    expected = frame.sort("user_id", "timestamp", "rating")
    assert data.frame().select(frame.columns).cast(frame.schema).equals(expected)  # type: ignore[arg-type]
    assert data.offsets.tolist() == [0, *np.cumsum(np.bincount(data.user)).tolist()]


def test_ids_and_rows_come_back() -> None:
    data = Dataset.from_frame(FRAME, notes=("one",))
    assert data.frame()["user_id"].to_list() == ["a", "a", "b", "b", "b"]
    assert data.frame()["item_id"].to_list() == [10, 20, 10, 30, 20]
    assert data.frame()["rating"].to_list() == [1, 2, 3, 5, 4]
    assert (data.user.dtype, data.item.dtype) == (np.int32, np.int32)
    assert data.rating is not None
    assert data.timestamp is not None
    assert (data.rating.dtype, data.timestamp.dtype) == (np.float32, np.int64)
    assert data.rating_scale == (1.0, 5.0)
    assert data.notes == ("one",)
    assert data.provides == {"interactions", "rating", "time"}
    assert data.spec == Spec(n_users=2, n_items=3, rating_scale=(1.0, 5.0))


def test_without_timestamps_the_input_order_stands() -> None:
    data = Dataset.from_frame(FRAME.drop("timestamp", "rating"))
    assert data.frame()["item_id"].to_list() == [10, 20, 30, 10, 20]
    assert data.provides == {"interactions"}
    assert data.spec.rating_scale is None


def test_views() -> None:
    data = Dataset.from_frame(FRAME)
    order, offsets = data.by_item
    assert [data.user[order[offsets[i] : offsets[i + 1]]].tolist() for i in range(3)] == [[0, 1], [0, 1], [1]]
    assert data.item_counts.tolist() == [2, 2, 1]
    assert [data.histories[u].tolist() for u in range(2)] == [[0, 1], [0, 2, 1]]
    some = data.take(np.array([2, 3]))
    assert some.frame()["item_id"].to_list() == [10, 30]
    assert some.active_users.tolist() == [1]
    assert (some.n_users, some.n_items) == (2, 3)


def test_no_rows_is_an_error() -> None:
    with pytest.raises(DataError, match="no interactions"):
        Dataset.from_frame(FRAME.clear())


def test_side_tables_follow_the_index() -> None:
    items = pl.DataFrame({"title": ["C", "A", "X"], "item_id": pl.Series([30, 10, 99], dtype=pl.Int32)})
    data = Dataset.from_frame(FRAME, items=items)
    assert data.item_table is not None
    assert data.item_table.columns == ["item_id", "title"]
    assert data.item_table.rows() == [(10, "A"), (20, None), (30, "C")]
    assert data.titles(np.array([2, 1, 0])) == ["C", "20", "A"]
    assert "item_features" in data.provides
    assert Dataset.from_frame(FRAME).titles(np.array([2])) == ["30"]


def test_side_tables_of_no_use_are_refused() -> None:
    with pytest.raises(DataError, match="item_id 10 more than once"):
        Dataset.from_frame(FRAME, items=pl.DataFrame({"item_id": [10, 10], "x": [1, 2]}))
    with pytest.raises(DataError, match="a column 'item_id' of whole numbers"):
        Dataset.from_frame(FRAME, items=pl.DataFrame({"item_id": ["10"]}))
    with pytest.raises(DataError, match="a column 'user_id' of text"):
        Dataset.from_frame(FRAME, users=pl.DataFrame({"id": ["a"]}))


def test_a_query_tells_what_was_known_before() -> None:
    data = Dataset.from_frame(FRAME)
    known, later = data.take(np.array([0, 2, 3])), data.take(np.array([1, 4]))
    queries = replace(later, history=known).queries(np.array([1, 0]), data.spec)
    assert queries.user.tolist() == [1, 0]
    assert [queries.history[row].tolist() for row in range(2)] == [[0, 2], [0]]
    assert queries.ratings is not None
    assert queries.ratings.tolist() == [3, 5, 1]
    own = later.queries(np.array([1, 0]), data.spec)
    assert [own.history[row].tolist() for row in range(2)] == [[1], [1]]


def test_a_query_keeps_to_what_the_model_knows() -> None:
    queries = Dataset.from_frame(FRAME).queries(np.array([0, 1]), Spec(n_users=1, n_items=2))
    assert queries.user.tolist() == [0, -1]
    assert [queries.history[row].tolist() for row in range(2)] == [[0, 1], [0, 1]]
    assert queries.ratings is not None
    assert queries.ratings.tolist() == [1, 2, 3, 4]
    turned = queries.take(torch.tensor([1, 1, 0]))
    assert turned.user.tolist() == [-1, -1, 0]
    assert turned.ratings is not None
    assert turned.ratings.tolist() == [3, 4, 3, 4, 1, 2]


def test_what_a_model_needs_and_lacks_is_said_at_once() -> None:
    data = Dataset.from_frame(FRAME.drop("timestamp"))
    data.require(frozenset({"interactions", "rating"}), "Some")
    with pytest.raises(DataError, match=r"Some needs item_features, time, .* \(it has interactions, rating\)"):
        data.require(frozenset({"rating", "time", "item_features"}), "Some")


def test_equal_data_equal_fingerprint() -> None:
    first = Dataset.from_frame(FRAME).fingerprint
    assert Dataset.from_frame(FRAME.clone()).fingerprint == first
    other = [
        FRAME.with_columns(pl.col("rating") + 1),
        FRAME.with_columns(pl.col("timestamp") + 1),
        FRAME.with_columns(pl.col("item_id") + 1),
        FRAME.with_columns(pl.col("item_id").cast(pl.String)),
        FRAME.drop("rating"),
        FRAME.rename({"rating": "weight"}),
        FRAME[1:],
    ]
    assert len({first, *(Dataset.from_frame(frame).fingerprint for frame in other)}) == 1 + len(other)
    joined = [pl.DataFrame({"user_id": ids, "item_id": [1, 1]}) for ids in (["a\x1fb", "c"], ["a", "b\x1fc"])]
    assert len({Dataset.from_frame(frame).fingerprint for frame in joined}) == 2


def test_split_by_name() -> None:
    data = Dataset.from_frame(FRAME)
    parts = data.split("leave-last-out", valid=0)
    assert parts.test.frame()["item_id"].to_list() == [20, 20]
    with pytest.raises(ConfigError, match="no split 'tempora'; choose one of temporal, random"):
        data.split("tempora")
    with pytest.raises(ConfigError, match="'k-fold' has no option test; it has fold, k, valid, seed"):
        data.split("k-fold", test=0.1)
