"""IdMap: ids come back as they went in, unknown ones are -1, and extending moves nothing."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.data.ids import IdMap
from palate.errors import DataError, UnknownId

LARGEST = 2**63 - 1
TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.sampled_from(["007", "7", " 7", "7.0", "", "ЖЗИ", "日本", "é", "é", "NaN", "null", "a\x1fb"]),
)
NUMBERS = st.one_of(st.integers(-(2**63), LARGEST), st.sampled_from([0, -1, LARGEST, -(2**63)]))
IDS = st.one_of(st.lists(TEXT, min_size=1, max_size=90), st.lists(NUMBERS, min_size=1, max_size=90))


def series(values: list[str] | list[int]) -> pl.Series:
    return pl.Series("anything", values, dtype=pl.String if isinstance(values[0], str) else pl.Int64)


@given(IDS)
def test_ids_come_back_as_they_went_in(values: list[str] | list[int]) -> None:
    ids = IdMap.build(series(values))
    index = ids.index(values)
    assert ids.ids[index].to_list() == values
    assert sorted(set(index.tolist())) == list(range(len(ids)))
    assert index.dtype == np.int64


@given(IDS, st.randoms(use_true_random=False))
def test_the_map_does_not_depend_on_row_order(values: list[str] | list[int], chance: object) -> None:
    other = list(values)
    chance.shuffle(other)  # type: ignore[attr-defined]
    assert IdMap.build(series(values)).ids.to_list() == IdMap.build(series(other)).ids.to_list()


@given(st.lists(TEXT, min_size=1, max_size=90), st.lists(TEXT, max_size=200))
def test_index_is_a_dict_look_up(values: list[str], asked: list[str]) -> None:
    ids = IdMap.build(series(values))
    table = {value: place for place, value in enumerate(ids.ids)}
    expected = [table.get(value, -1) for value in asked]
    assert ids.index(asked).tolist() == expected
    assert ids.index(pl.Series("x", asked, dtype=pl.String)).tolist() == expected


@given(IDS, st.data())
def test_extending_moves_no_index(values: list[str] | list[int], data: st.DataObject) -> None:
    more = data.draw(st.lists(TEXT if isinstance(values[0], str) else NUMBERS, max_size=30))
    ids = IdMap.build(series(values))
    longer = ids.extend(pl.Series("x", more, dtype=ids.ids.dtype))
    new = longer.ids[len(ids) :].to_list()
    assert longer.ids[: len(ids)].to_list() == ids.ids.to_list()
    assert new == sorted(set(more) - set(values))
    assert len(set(longer.ids.to_list())) == len(longer)


def test_text_that_looks_like_a_number_is_not_one() -> None:
    ids = IdMap.build(pl.Series(["007", "7"]))
    assert len(ids) == 2
    assert ids.is_text
    assert ids.index(["7", "007", "07"]).tolist() == [1, 0, -1]
    assert ids.index([7, 7]).tolist() == [-1, -1]
    assert IdMap.build(pl.Series([7])).index(["7"]).tolist() == [-1]


@pytest.mark.parametrize("dtype", [pl.Int8, pl.UInt8, pl.Int32, pl.UInt32, pl.UInt64, pl.Int64])
def test_every_integer_type_is_a_whole_number(dtype: type[pl.DataType]) -> None:
    ids = IdMap.build(pl.Series([3, 1, 3], dtype=dtype))
    assert ids.ids.dtype == pl.Int64
    assert ids.index(pl.Series([1, 2, 3], dtype=dtype)).tolist() == [0, -1, 1]


def test_categories_are_text() -> None:
    ids = IdMap.build(pl.Series(["b", "a"], dtype=pl.Categorical))
    assert ids.is_text
    assert ids.ids.to_list() == ["a", "b"]


def test_what_no_map_can_hold_is_unknown() -> None:
    numbers, words = IdMap.build(pl.Series([1, LARGEST])), IdMap.build(pl.Series(["1", "x"]))
    assert numbers.index([2**63, LARGEST, 2**70]).tolist() == [-1, 1, -1]
    assert numbers.index([1, "x"]).tolist() == [0, -1]
    assert words.index([1, "x"]).tolist() == [-1, 1]
    assert numbers.index([]).tolist() == []


def test_ids_of_no_use_are_refused() -> None:
    with pytest.raises(DataError, match="whole numbers or text, not Float64"):
        IdMap.build(pl.Series([1.0]))
    with pytest.raises(DataError, match="not Boolean"):
        IdMap.build(pl.Series([True]))
    with pytest.raises(DataError, match="1 of 2 ids are null"):
        IdMap.build(pl.Series(["a", None]))
    with pytest.raises(DataError, match="18446744073709551615 do not fit in 64 bits"):
        IdMap.build(pl.Series([2**64 - 1], dtype=pl.UInt64))
    with pytest.raises(DataError, match="ids of type Int64 cannot be added to ids of type String"):
        IdMap.build(pl.Series(["a"])).extend(pl.Series([1]))


def test_require_names_what_is_unknown() -> None:
    ids = IdMap.build(pl.Series(["a", "b"]))
    assert ids.require(["b", "a"], "user").tolist() == [1, 0]
    with pytest.raises(UnknownId, match=r"2 unknown items: 'x', 7: not among the 2 items .* are text, for example 'a'"):
        ids.require(["a", "x", 7], "item")


def test_parse_gives_the_type_of_the_ids() -> None:
    assert IdMap.build(pl.Series(["a"])).parse("007") == "007"
    numbers = IdMap.build(pl.Series([7]))
    assert numbers.parse("7") == 7
    assert numbers.index([numbers.parse("seven")]).tolist() == [-1]
