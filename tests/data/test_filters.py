"""Filters against plain Python, and what they say."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.data.reading.interactions import filter_interactions
from palate.errors import ConfigError, DataError


def frame(pairs: list[tuple[int, int]], ratings: list[float] | None = None) -> pl.DataFrame:
    out = pl.DataFrame(pairs, schema={"user_id": pl.Int64, "item_id": pl.Int64}, orient="row")
    return out if ratings is None else out.with_columns(pl.Series("rating", ratings, dtype=pl.Float32))


def core(rows: list[tuple[int, int]], min_user: int, min_item: int) -> list[tuple[int, int]]:
    """Leave one row out at a time, until none has to go."""
    rows = list(rows)
    while True:
        users, items = [u for u, _ in rows], [i for _, i in rows]
        gone = next((r for r in rows if users.count(r[0]) < min_user or items.count(r[1]) < min_item), None)
        if gone is None:
            return rows
        rows.remove(gone)


PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=25, unique=True)


@given(pairs=PAIRS, min_user=st.integers(0, 4), min_item=st.integers(0, 4), text=st.booleans())
def test_the_core_equals_plain_python(pairs: list[tuple[int, int]], min_user: int, min_item: int, text: bool) -> None:
    table = frame(pairs).cast(pl.String) if text else frame(pairs)
    expected = core(pairs, min_user, min_item)
    if not expected:
        with pytest.raises(DataError, match="no interactions remain"):
            filter_interactions(table, min_user=min_user, min_item=min_item)
        return
    checked = filter_interactions(table, min_user=min_user, min_item=min_item)
    assert checked.frame.equals(frame(expected).cast(pl.String) if text else frame(expected))
    assert bool(checked.notes) == (len(expected) < len(pairs))


@given(pairs=PAIRS.filter(bool), data=st.data())
def test_the_least_rating(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    ratings = data.draw(st.lists(st.sampled_from([1.0, 3.5, 4.0]), min_size=len(pairs), max_size=len(pairs)))
    kept = [pair for pair, rating in zip(pairs, ratings, strict=True) if rating >= 3.5]
    if kept:
        found = filter_interactions(frame(pairs, ratings), min_rating=3.5).frame
        assert found.select("user_id", "item_id").rows() == kept


def test_what_is_removed_is_said() -> None:
    # The rating filter takes item 9's row, whose user then has too few rows.
    pairs = [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 9)]
    checked = filter_interactions(frame(pairs, [5, 5, 5, 5, 5, 1]), min_rating=4, min_user=2, min_item=2)
    assert checked.frame.select("user_id", "item_id").rows() == pairs[:4]
    assert checked.notes == (
        "min_rating 4: 1 of 6 rows removed; 0 users and 1 item have no rows left",
        "min_user 2, min_item 2: 1 of 5 rows removed in 1 round; 1 user and 0 items have no rows left",
    )


def test_nothing_is_removed_by_default() -> None:
    table = frame([(1, 1), (2, 1)])
    checked = filter_interactions(table)
    assert checked.frame is table
    assert checked.notes == ()


def test_faults() -> None:
    with pytest.raises(ConfigError, match="min_user = -1 is below 0"):
        filter_interactions(frame([(1, 1)]), min_user=-1)
    with pytest.raises(DataError, match="min_rating = 4 needs ratings; the columns are user_id, item_id"):
        filter_interactions(frame([(1, 1)]), min_rating=4)
    with pytest.raises(DataError, match="no interactions remain of 1: min_rating 4: 1 of 1 row removed"):
        filter_interactions(frame([(1, 1)], [3.0]), min_rating=4)
