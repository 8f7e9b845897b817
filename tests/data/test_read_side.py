"""Side tables: types, keys, files without a header, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from palate.data.reading import read_side
from palate.errors import DataError

Write = Callable[..., Path]


def test_a_side_table(write: Write) -> None:
    path = write("title,movieId,year,price,code\nHeat,1,1995,2.5,007\nAlien,2,,3,12\n")
    frame = read_side(path, "item_id", pl.String)
    assert frame.columns == ["item_id", "title", "year", "price", "code"]
    assert frame.rows() == [("1", "Heat", 1995, 2.5, "007"), ("2", "Alien", None, 3.0, "12")]


def test_the_key_of_a_side_table_takes_the_type_of_the_interactions(write: Write) -> None:
    numbers = pl.DataFrame({"id": [1, 2], "name": ["a", "b"]}, schema_overrides={"id": pl.Int16})
    assert read_side(numbers, "user_id", pl.String)["user_id"].to_list() == ["1", "2"]
    assert read_side(numbers, "user_id").schema["user_id"] == pl.Int64
    text = write("id,name\n1,a\n20,b\n")
    assert read_side(text, "user_id", pl.Int64)["user_id"].to_list() == [1, 20]
    with pytest.raises(DataError, match=r"not a whole number.*'007' in row 2"):
        read_side(write("id,name\n1,a\n007,b\n"), "user_id", pl.Int64)


def test_long_numbers_in_a_side_table_stay_exact(write: Write) -> None:
    long = "12345678901234567890123"
    assert read_side(write(f"id,isbn\n1,{long}\n"), "item_id")["isbn"].to_list() == [long]


def test_a_side_table_without_a_header(write: Write) -> None:
    path = write("1|Heat|x\n2|Alien|y\n")
    frame = read_side(path, "item_id", pl.String, columns=["item_id", "title", "other"])
    assert frame.rows() == [("1", "Heat", "x"), ("2", "Alien", "y")]
    with pytest.raises(DataError, match="names 2 columns, the file has 3"):
        read_side(path, "item_id", columns=["item_id", "title"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,x\n1,a\n1,b\n2,c\n", r"item_id: repeated in 2 rows \('1' in row 1, '1' in row 2\)"),
        ("id,x\n1,a\n,b\n", r"item_id: empty in 1 row \(row 2\)"),
        ("name,x\n1,a\n", "no column for item_id; columns found: 'name', 'x'"),
        ("id,x\n1,a\n2,b,c\n", r"more fields than in the first line in 1 row \(row 2\)"),
    ],
)
def test_faults_of_a_side_table(write: Write, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_side(write(text), "item_id")
