"""Side tables as tensors: kinds found and declared, values as tensors, and every kind of bad column."""

from __future__ import annotations

import json
import math
import time
from datetime import date, datetime
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from palate.config import from_dict, to_dict
from palate.data.dataset import Spec
from palate.data.features.encode import MAX_TOKENS, encode, infer, learn
from palate.data.features.infer import infer_columns
from palate.data.features.schema import Column, FeatureSchema
from palate.data.features.values import MAX_CHARACTERS, as_tokens
from palate.errors import ConfigError, DataError

PLOTS = [
    "A cowboy doll is afraid that a spaceman takes his place",
    "Two children find a game that brings the jungle into the house",
    "Old neighbours fight over a woman who moved in across the street",
    "Four women talk about men, work and what they are waiting for",
] * 3
MOVIES = pl.DataFrame(
    {
        "item_id": range(12),
        "title": [f"Film number {n} of the year" for n in range(12)],
        "year": [1990 + n for n in range(11)] + [None],
        "price": [1.5 * n for n in range(12)],
        "genres": ["Action|Comedy", "Drama", "Action", None] * 3,
        "cast": [["Ann", "Bo"], ["Bo"], [], None] * 3,
        "rated": ["PG", "R", "PG", "G"] * 3,
        "shown": [date(2000, 1 + n, 3) for n in range(12)],
        "seen_at": ["2001-12-31T10:00:00", "2002-01-01", None, "2003-05-05 11:12"] * 3,
        "plot": PLOTS,
        "poster": [f"posters/{n}.JPG" for n in range(12)],
        "vector": [[float(n), 1.0] for n in range(12)],
        "colour": [True, False, True, None] * 3,
        "studio": ["Big Pictures"] * 12,
        "nothing": [None] * 12,
        "blank": ["", "  "] * 6,
        "uneven": [[1.0], [1.0, 2.0]] * 6,
        "nested": [{"a": 1}] * 12,
    }
)
KINDS = {
    "title": "text",
    "year": "number",
    "price": "number",
    "genres": "tags",
    "cast": "tags",
    "rated": "category",
    "shown": "date",
    "seen_at": "date",
    "plot": "text",
    "poster": "image",
    "vector": "vector",
    "colour": "category",
}


def encoded(values: Any, kind: str, later: Any = None) -> Any:
    """A column learned from `values` and the encoding of `later`, by default of the same."""
    features = learn(pl.DataFrame({"x": values}), {"x": kind})  # type: ignore[dict-item]
    return encode(pl.DataFrame({"x": values if later is None else later}), features)


def test_kinds_are_found() -> None:
    assert infer(MOVIES, "item_id", {}) == KINDS
    reasons = {one.name: one.why for one in infer_columns(MOVIES, "item_id", {}) if one.kind is None}
    assert set(reasons) == {"studio", "nothing", "blank", "uneven", "nested"}
    assert reasons["studio"] == "all values are equal: Big Pictures"
    assert reasons["nothing"] == reasons["blank"] == "no values"
    assert "several lengths: 2 numbers in row 2, expected 1" in reasons["uneven"]
    assert "are not supported" in reasons["nested"]
    days = infer_columns(pl.DataFrame({"item_id": [1, 2], "day": [date(1995, 1, 2), date(1996, 3, 4)]}), "item_id", {})
    assert days[0].examples == ("1995-01-02", "1996-03-04")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2, 1, 2], "number"),
        (["a, b", "b, c", "c, a", "a, c"], "tags"),
        (["Tom Hanks, Tim Allen", "Tim Allen, Don Rickles", "Tom Hanks, Don Rickles"], "tags"),
        (["American President, The (1995)", "Heat (1995)", "Usual Suspects, The (1995)"], "text"),
        (["31 Dec 1999", "1 Jan 2000", "2 Feb 2001"], "date"),
        (["1999/12/31", "2000/01/01", "bad"] * 1, "text"),
        ([datetime(2001, 1, 1), datetime(2002, 2, 2)], "date"),
        ([[1, 2], [2]], "tags"),
        (["02138", "00501", "02138"], "category"),
        ([f"tt{n:07}" for n in range(60)], None),
        ([b"\xff\xd8\xff\xe0", b"\x89PNG\r\n"], "image"),
        ([b"plain", b"bytes"], None),
        ([b"broken", b"\xff\xd8\xff\xe0", None, b"\x89PNG\r\n"], "image"),
        (["a.jpg", "n/a", "b.png", None], "image"),
        (["see a.jpg", "it is good", "as I said, no"], "text"),
        (pl.Series([[1, 2], [3, 4]], dtype=pl.Array(pl.Int8, 2)), "vector"),
        (pl.Series(["a", "b", "a"], dtype=pl.Categorical), "category"),
    ],
    ids=str,
)
def test_kinds_by_example(values: Any, kind: str | None) -> None:
    table = pl.DataFrame({"x": values})
    assert infer(table, "item_id", {}).get("x") == kind


def test_declared_kinds_win() -> None:
    declared = {"year": "category", "plot": "ignore", "studio": "category", "rated": "text"}
    found = infer(MOVIES, "item_id", declared)
    assert found == {k: declared.get(k, v) for k, v in KINDS.items() if k != "plot"} | {"studio": "category"}
    whole = encode(MOVIES, learn(MOVIES, {"year": found["year"]}))
    assert whole.categories[:, 0].tolist() == [*range(1, 12), 0]


def test_declared_kinds_that_cannot_be() -> None:
    declared = {"title": "number", "price": "tags", "uneven": "vector", "rated": "date", "year": "image"}
    with pytest.raises(DataError, match="table of items: 5 faults") as caught:
        infer(MOVIES, "item_id", declared)
    assert (
        "title is declared as number and holds text that is not a number ('Film number 0 of the year' in row 1)"
        in str(caught.value)
    )
    with pytest.raises(ConfigError, match="year = 'int' is not one of number, category, tags"):
        infer(MOVIES, "item_id", {"year": "int"})
    with pytest.raises(DataError, match="no column 'yaer', declared as number; did you mean 'year'"):
        infer(MOVIES, "item_id", {"yaer": "number"})


def test_numbers_are_standardised_and_missing_is_not_zero() -> None:
    x = encoded([1.0, 3.0, None, float("nan"), float("inf")], "number")
    assert x.numbers[:, 0].tolist() == [-1.0, 1.0, 0.0, 0.0, 0.0]
    assert x.known[:, 0].tolist() == [True, True, False, False, False]
    assert x.notes == ("x: 2 values cannot be used as number",)
    assert x.any_known.tolist() == [True, True, False, False, False]
    far = encoded([1.0, 3.0], "number", later=[1e300, -1e300])
    assert far.numbers[:, 0].tolist() == [100.0, -100.0]
    assert encoded([7, 7, 7], "number").numbers.tolist() == [[0.0]] * 3


def test_categories_are_indices_by_frequency_and_new_ones_are_unknown() -> None:
    x = encoded(["b", "a", "b", None, " "], "category", later=["a", "b", "c", None, "a "])
    assert x.categories[:, 0].tolist() == [2, 1, 0, 0, 2]
    assert x.notes == ("x: 1 values do not occur in training and count as unknown",)
    assert encoded([3.0, 4.0, None], "category", later=[3, 4, 5]).categories[:, 0].tolist() == [1, 2, 0]


def test_tags_are_distinct_and_new_ones_are_zero() -> None:
    x = encoded(["a|b", "b", None], "tags", later=["b|a|b", "", "new|a|newer", None])
    assert [row.tolist() for row in x.tags["x"]] == [[1, 2], [], [0, 2], []]
    assert x.notes == ("x: 1 rows hold tags that do not occur in training",)
    features = learn(pl.DataFrame({"x": ["a|b", "b", None]}), {"x": "tags"})
    assert features.columns[0].idf == pytest.approx((math.log(3 / 3) + 1, math.log(3 / 2) + 1))
    lists = encoded([["a", "b"], ["b"]], "tags", later=[["b", "a", "b"], []])
    assert [row.tolist() for row in lists.tags["x"]] == [[1, 2], []]


def test_dates_are_year_month_and_weekday() -> None:
    days = [date(2000, 1, 3), date(2001, 7, 3), date(2002, 12, 25), None]
    x = encoded(days, "date")
    assert x.numbers.shape == (4, 5)
    assert x.known.tolist() == [[True] * 5] * 3 + [[False] * 5]
    raw = np.array([[d.year, *_turn(d.month, 12), *_turn(d.isoweekday(), 7)] for d in days if d])
    expected = (raw - raw.mean(0)) / raw.std(0)
    np.testing.assert_allclose(x.numbers[:3].numpy(), expected, atol=1e-5)
    assert encoded([str(d) for d in days[:3]] + ["n/a"], "date").numbers[:3].equal(x.numbers[:3])


def _turn(value: int, around: int) -> tuple[float, float]:
    angle = 2 * math.pi * value / around
    return math.sin(angle), math.cos(angle)


def test_words_of_any_script() -> None:
    texts = ["Don't STOP—it's 2nd", "Привет, мир!", "東京タワーへ", "مرحبا بالعالم", "สวัส", "हिन्दी", "ﬁne", "", "🎬"]
    assert as_tokens(pl.Series(texts)).to_list() == [
        ["don", "t", "stop", "it", "s", "2nd"],
        ["привет", "мир"],
        ["東", "京", "タワー", "へ"],
        ["مرحبا", "بالعالم"],
        ["ส", "วั", "ส"],
        ["हिन्दी"],
        ["fine"],
        [],
        [],
    ]


def test_texts_are_tokens_in_order() -> None:
    x = encoded(["b a b", "a", "", None], "text", later=["a c b a", None, "B!"])
    assert [row.tolist() for row in x.text["x"]] == [[1, 0, 2], [], [2]]  # no longer than the longest of training
    assert x.notes == ("x: 1 texts are longer than 3 words; the rest is ignored",)
    features = learn(pl.DataFrame({"x": ["b a b", "a", "", None]}), {"x": "text"})
    assert features.columns[0].values == ("a", "b")
    assert features.columns[0].idf == pytest.approx((math.log(3 / 3) + 1, math.log(3 / 2) + 1))


def test_ten_megabytes_in_a_cell() -> None:
    huge = "word " * 2_000_000
    start = time.perf_counter()
    x = encoded([huge, "two words", None], "text")
    assert time.perf_counter() - start < 5
    assert len(x.text["x"][0]) == MAX_TOKENS < MAX_CHARACTERS
    assert x.notes == (f"x: 1 texts are longer than {MAX_TOKENS} words; the rest is ignored",)
    assert infer(pl.DataFrame({"x": [huge, "two words", "and some more"]}), "item_id", {}) == {"x": "text"}


def test_rare_words_of_a_large_table_are_left_out() -> None:
    texts = [f"all of them and the one word{n}" for n in range(100)]
    words = learn(pl.DataFrame({"x": texts}), {"x": "text"}).columns[0].values
    assert set(words) == {"all", "of", "them", "and", "the", "one"}


def test_vectors_pass_through_and_missing_ones_are_nan() -> None:
    x = encoded([[1.0, 2.0], None, [], [1.0, None], [float("inf"), 1.0]], "vector").vectors["x"]
    assert x[0].tolist() == [1.0, 2.0]
    assert x[1:].isnan().all()
    assert x.shape == (5, 2)
    with pytest.raises(
        DataError, match=r"x is declared as vector and holds vectors of several lengths: 3 numbers in row 2"
    ):
        learn(pl.DataFrame({"x": [[1.0, 2.0], [1.0, 2.0, 3.0]]}), {"x": "vector"})
    with pytest.raises(DataError, match=r"learned as vector and now holds .*3 numbers in row 1, expected 2"):
        encoded([[1.0, 2.0]], "vector", later=[[1.0, 2.0, 3.0]])


def test_a_column_that_is_missing_is_unknown_and_others_are_passed_over() -> None:
    kinds = {name: kind for name, kind in KINDS.items() if kind != "image"}
    features = learn(MOVIES, kinds)  # type: ignore[arg-type]
    x = encode(pl.DataFrame({"item_id": [1, 2], "year": [1995, 1996], "other": [1, 2]}), features)
    assert len(x) == 2
    assert x.known[:, 0].tolist() == [True, True]
    assert x.known[:, 1:].sum() == 0
    assert x.any_known.all()
    assert len(x.notes) == len(kinds) - 1
    assert x.notes[0] == "title: there is no such column; it is unknown in all 2 rows"
    nobody = encode(pl.DataFrame({"item_id": [1, 2]}), features)
    assert not nobody.any_known.any()
    assert len(encode(MOVIES.head(0), features)) == 0


@pytest.mark.parametrize(
    ("kind", "learned", "later", "told"),
    [
        ("number", [1, 2], ["many", "few"], r"text that is not a number \('many' in row 1\)"),
        ("number", [1, 2], [[1], [2]], r"list\(int64\)"),
        ("category", ["a", "b"], [["a"], ["b"]], r"list\(string\)"),
        ("tags", [["a"], ["b"]], ["a", "b"], "text, not lists"),
        ("tags", ["a|b", "b"], [1, 2], r"int64 \(such as '1'\)"),
        ("date", [date(2000, 1, 1)], [1, 2], "int64"),
        ("date", [date(2000, 1, 1)], ["soon"], r"text that is not a date \('soon' in row 1\)"),
        ("text", ["a b", "c d"], [{"a": 1}], "struct"),
        ("vector", [[1.0], [2.0]], [1.0, 2.0], "float64"),
        ("image", ["a.png"], [1, 2], "int64, neither bytes nor file paths"),
    ],
)
def test_a_column_of_another_type_is_one_error(kind: str, learned: Any, later: Any, told: str) -> None:
    with pytest.raises(DataError, match=f"table of features: x was learned as {kind} and now holds {told}"):
        encoded(learned, kind, later)


def test_all_columns_of_another_type_are_told_at_once() -> None:
    features = learn(MOVIES, {"year": "number", "shown": "date"})
    with pytest.raises(DataError, match="2 faults"):
        encode(pl.DataFrame({"year": ["x"], "shown": [1]}), features)
    with pytest.raises(DataError, match="2 faults"):
        learn(MOVIES, {"title": "number", "gone": "text"})


def test_a_column_that_holds_nothing_is_of_any_type() -> None:
    for kind in ("number", "category", "tags", "date", "text", "image"):
        values = {"number": [1, 2], "tags": [["a"], ["b"]], "date": [date(2000, 1, 1)] * 2}.get(
            kind, ["a.png", "b.png"]
        )
        features = learn(pl.DataFrame({"x": values}), {"x": kind})  # type: ignore[dict-item]
        empty = pl.DataFrame({"x": pl.Series([None, None], dtype=pl.String)})
        assert not encode(empty, features).any_known.any()


def test_rows_do_not_depend_on_each_other() -> None:
    kinds = {name: kind for name, kind in KINDS.items() if kind != "image"}
    features = learn(MOVIES, kinds)  # type: ignore[arg-type]
    whole, order = encode(MOVIES, features), torch.tensor([5, 0, 11])
    some, taken = encode(MOVIES[order.tolist()], features), whole.take(order)
    assert torch.equal(some.numbers, taken.numbers)
    assert torch.equal(some.categories, taken.categories)
    for name in ("tags", "text"):
        for column, ragged in getattr(some, name).items():
            assert ragged.values.equal(getattr(taken, name)[column].values)
            assert ragged.offsets.equal(getattr(taken, name)[column].offsets)
    mask = torch.arange(12) == 5
    forgotten = whole.without(mask)
    assert forgotten.any_known.tolist() == [n != 5 for n in range(12)]
    assert torch.equal(forgotten.numbers[~mask], whole.numbers[~mask])


def test_features_are_json_and_large_ones_are_quick() -> None:
    column = Column(name="x", kind="text", values=tuple(f"w{n}" for n in range(50_000)), idf=(1.5,) * 50_000, length=9)
    spec = Spec(n_users=1, n_items=2, item_features=FeatureSchema(columns=(column,)))
    start = time.perf_counter()
    back = from_dict(Spec, json.loads(json.dumps(to_dict(spec))))
    assert time.perf_counter() - start < 2
    assert back == spec
