"""What `inspect` says of a table."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from palate.data.reading import inspect
from palate.errors import DataError

TEXT = """userId,movieId,rating,timestamp,title
1,10,4,100,x
1,11,5,100,y
2,10,4,200,x
2,10,4,200,x
3,12,oops,300,z
3,13,2,86500,z
"""

EXPECTED = """
columns
  userId     whole numbers  user_id
  movieId    whole numbers  item_id
  rating     text           rating
  timestamp  whole numbers  timestamp
  title      text           -

rows                      6
interactions              4
users                     3
items                     3
duplicates                1
sparsity           55.5556%
time          1970-01-01 00:01 to 1970-01-02 00:01 UTC
tied in time         50.00%

rows for each     least     25 %   median     75 %     90 %     most
  user                1        1        1        2        2        2
  item                1        1        1        2        2        2

ratings
  2  ███████████████                           1
  4  ██████████████████████████████            2
  5  ███████████████                           1

notes
  - 1 row equal to an earlier row removed

faults
  - rating: not a number in 1 row ('oops' in row 5)"""


def test_the_whole_text(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(TEXT)
    lines = inspect(path).lines()
    assert lines[0] == str(path)
    assert "\n".join(lines[1:]) == EXPECTED
    assert str(inspect(path)) == "\n".join(lines)


def test_the_numbers(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(TEXT)
    found = inspect(path)
    assert (found.rows, found.interactions, found.users, found.items, found.duplicates) == (6, 4, 3, 3, 1)
    assert found.density == pytest.approx(4 / 9)
    assert found.ratings == ((2.0, 2.0, 1), (4.0, 4.0, 2), (5.0, 5.0, 1))
    assert found.time_span == (100, 86_500)
    assert found.tied == 0.5


def test_many_different_ratings_share_ten_bars() -> None:
    values = [k / 10 for k in range(101)]
    found = inspect(pl.DataFrame({"user": range(101), "item": range(101), "rating": values}))
    assert len(found.ratings) == 10
    assert sum(count for _, _, count in found.ratings) == 101
    assert found.ratings[0][:2] == (0.0, 1.0)
    assert found.ratings[-1][1] == pytest.approx(10.0)


def test_faults_are_listed_not_raised() -> None:
    found = inspect(pl.DataFrame({"user": [1, 1], "thing": [1, 2], "rating": [3.0, 9.0]}), rating_scale=(1.0, 5.0))
    assert len(found.faults) == 2
    assert found.faults[0].startswith("no column for item_id")
    assert found.interactions == 1
    assert found.items == 0
    assert any("faults" in line for line in found.lines())
    twice = inspect(pl.DataFrame({"user": [1, 1], "item": [1, 1], "rating": [3.0, 4.0]}))
    assert twice.faults[0].startswith("different ratings in 1 user-item pair")
    assert twice.interactions == 1


def test_nothing_usable_is_still_inspected(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n")
    found = inspect(path)
    assert [name for name, _, _ in found.columns] == ["a", "b"]
    assert len(found.faults) == 2
    assert "sparsity" in str(found)
    path.write_text("user,item,rating,time\n")
    assert inspect(path).faults == ("the table has a header but no rows",)


def test_what_is_no_table_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        inspect(tmp_path)
