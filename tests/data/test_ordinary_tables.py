"""Tables as shops and spreadsheets export them: odd ids, local dates, counts, limits; each message says what to do."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from palate import Dataset, read_dataset
from palate.data.reading import inspect, inspect_side, read_interactions, read_side
from palate.errors import ConfigError, DataError

Write = Callable[..., Path]


def fault(source: Any, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_interactions(source, **options)
    return str(caught.value)


# ------------------------------------------------------------------------------------------ ids


@pytest.mark.parametrize(("dtype", "first"), [(pl.Float64, 2**53), (pl.Float32, 2**24)])
def test_floats_that_merge_ids_are_an_error(dtype: Any, first: int) -> None:
    ids = pl.Series([first + k for k in range(6)], dtype=pl.Int64)
    frame = pl.DataFrame({"CustomerNo": ids.cast(dtype), "item": list("ababab")})
    message = fault(frame, columns={"user_id": "CustomerNo"})
    assert (
        f"user_id: {dtype.__name__} of {first:,} or more, where different ids become the same float, in 6 rows"
        in message
    )
    assert "read column 'CustomerNo' as text or as 64-bit integers" in message
    exact = pl.DataFrame({"user": (ids - 10).cast(dtype), "item": list("ababab")})
    assert read_interactions(exact.head(6)).frame["user_id"].to_list() == (ids - 10).to_list()


def test_large_float_ids_of_side_tables_too() -> None:
    with pytest.raises(DataError, match="different ids become the same float"):
        read_side(pl.DataFrame({"id": [2.0**53, 1.0], "x": [1, 2]}), "item_id")


def test_a_column_of_numbers_and_words_is_named() -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    message = fault(pd.DataFrame({"user_id": [1, None, "a"], "item_id": [1, 2, 3]}))
    assert "column 'user_id' mixes int (1 in row 1) and str ('a' in row 3)" in message
    assert "frame['user_id'] = frame['user_id'].astype(str)" in message


def test_decimal_ids() -> None:
    frame = pl.DataFrame({"user": [Decimal(1), Decimal(2)], "item": [1, 2]})
    assert read_interactions(frame).frame["user_id"].to_list() == [1, 2]
    wide = frame.with_columns(pl.col("user").cast(pl.Decimal(38, 10)))
    assert read_interactions(wide).frame.schema["user_id"] == pl.Int64
    broken = pl.DataFrame({"user": [Decimal("1.5"), Decimal("2.0")], "item": [1, 2]})
    assert "user_id: not a whole number in 1 row" in fault(broken)


def test_ids_that_differ_by_blanks_are_kept_and_counted(write: Write) -> None:
    checked = read_interactions(write("user_id,item_id\nu1,a\nu1 ,b\nu2,b\n"))
    assert checked.frame["user_id"].to_list() == ["u1", "u1 ", "u2"]
    [note] = checked.notes
    assert note.startswith("user_id: 1 of 3 ids begin or end with a blank ('u1 ' in row 2) and are kept as written")
    assert "without blanks, 1 of them would equal another id" in note
    assert read_interactions(write("user_id,item_id\nu1,a\n")).notes == ()


# ------------------------------------------------------------------------------------------ times


@pytest.mark.parametrize(
    ("values", "form", "seconds"),
    [
        (["09/22/2020", "10/03/2020"], "%m/%d/%Y", [1_600_732_800, 1_601_683_200]),
        (["22.09.2020", "03.10.2020"], "%d.%m.%Y", [1_600_732_800, 1_601_683_200]),
        (["22/9/2020 10:30", "3/10/2020 11:00"], "%d/%m/%Y %H:%M", [1_600_770_600, 1_601_722_800]),
        (["01022020", "02022020"], "%d%m%Y", [1_580_515_200, 1_580_601_600]),
        (["2020-09-22 02:00 +0200", "2020-09-22 00:00 +0000"], "%Y-%m-%d %H:%M %z", [1_600_732_800] * 2),
    ],
)
def test_other_forms_of_times_are_named(write: Write, values: list[str], form: str, seconds: list[int]) -> None:
    path = write("user,item,ts\n" + "".join(f"{k},x,{v}\n" for k, v in enumerate(values)))
    assert read_interactions(path, timestamp_format=form).frame["timestamp"].to_list() == seconds
    if "/" in form or "." in form:
        message = fault(path)
        assert "not a time in 2 rows" in message
        assert "ISO 8601 (2020-09-22" in message
        assert message.endswith(f"pass timestamp_format={form!r}")


def test_a_day_that_may_be_a_month(write: Write) -> None:
    path = write("user,item,ts\na,x,03/04/2020\n")
    assert fault(path).endswith("timestamp_format='%m/%d/%Y' (month first) or '%d/%m/%Y' (day first)")
    assert fault(path, timestamp_format="%Y").endswith(
        "not of the form timestamp_format='%Y' in 1 row ('03/04/2020' in row 1)"
    )
    with pytest.raises(ConfigError, match="timestamp_format = 'iso' has no directive"):
        read_interactions(path, timestamp_format="iso")


@pytest.mark.parametrize("as_text", [True, False])
def test_dates_written_as_numbers(as_text: bool) -> None:
    days = pl.Series("ts", [20200131, 20210131])
    frame = pl.DataFrame({"user": [1, 2], "item": [1, 2], "ts": days.cast(pl.String) if as_text else days})
    checked = read_interactions(frame)
    assert checked.frame["timestamp"].to_list() == [1_580_428_800, 1_612_051_200]
    assert checked.notes == ("timestamp: read as dates of the form %Y%m%d",)
    clock = frame.with_columns(ts=pl.Series([20200131000001, 20210131000001]))
    assert read_interactions(clock).frame["timestamp"].to_list() == [1_580_428_801, 1_612_051_201]
    wrong = frame.head(1).select("user", "item").join(pl.DataFrame({"ts": [20200131, 20210131, 20200230]}), how="cross")
    with pytest.raises(DataError, match=r"not a date of the form %Y%m%d, .* in 1 row \(20200230 in row 3\)"):
        read_interactions(wrong)
    # Where half of the numbers are no dates, all are seconds.
    seconds = frame.with_columns(ts=pl.Series([20200131, 20209999]))
    assert read_interactions(seconds).frame["timestamp"].to_list() == [20_200_131, 20_209_999]


def test_the_year_9999_is_kept() -> None:
    never = 253_402_300_799
    frame = pl.DataFrame({"user": [1, 2], "item": [1, 2], "ts": [1_600_000_000, never]})
    assert read_interactions(frame).frame["timestamp"].to_list() == [1_600_000_000, never]
    milliseconds = frame.with_columns(ts=pl.Series([1_600_000_000_000, never]))
    assert read_interactions(milliseconds).frame["timestamp"].to_list() == [1_600_000_000, never // 1000]


# ------------------------------------------------------------------------------------------ columns


def test_counts_are_suggested_as_weight(write: Write) -> None:
    path = write("user,item,Qty\n1,2,3\n1,3,4\n")
    note = "column 'Qty' is not used; if it counts repetitions, use it as weight: columns={'weight': 'Qty'}"
    assert read_interactions(path).notes == (note,)
    assert note in inspect(path).notes
    assert read_interactions(path, columns={"weight": "Qty"}).notes == ()
    assert read_interactions(path, columns={"weight": None}).notes == ()


def test_side_tables_follow_the_columns_of_the_interactions(write: Write) -> None:
    rows = write("CustomerNo,ArticleNo\n1,a\n2,b\n", "orders.csv")
    items = write("Name,ArticleNo\nHeat,a\nAlien,b\n", "articles.csv")
    users = write("nr,age\n1,30\n2,40\n", "customers.csv")
    columns = {"user_id": "CustomerNo", "item_id": "ArticleNo"}
    data = read_dataset(rows, columns=columns, items=items, users=users, users_id="nr")
    assert data.item_table is not None
    assert data.user_table is not None
    assert data.item_table["Name"].to_list() == ["Heat", "Alien"]
    assert data.user_table["age"].to_list() == [30, 40]
    with pytest.raises(DataError, match=r"no column for user_id; columns found: 'nr', 'age'.*users_id="):
        read_dataset(rows, columns=columns, users=users)
    with pytest.raises(DataError, match=r"no column 'Article' for item_id.*did you mean 'ArticleNo'"):
        read_dataset(rows, columns=columns, items=items, items_id="Article")
    found = inspect_side(items, columns={"item_id": "ArticleNo"})
    assert found is not None
    assert [column.name for column in found.columns] == ["Name"]
    assert inspect_side(items) is None


def test_titles_come_from_any_column() -> None:
    rows = pl.DataFrame({"user_id": [1, 2], "item_id": [1, 2]})
    items = pl.DataFrame({"item_id": [1, 2], "TITLE": ["a", "b"], "Bezeichnung": ["x", None]})
    assert read_dataset(rows, items=items).titles(np.array([1, 0])) == ["b", "a"]
    assert read_dataset(rows, items=items.drop("TITLE")).titles(np.array([0])) == ["1"]
    named = read_dataset(rows, items=items, title="Bezeichnung")
    assert named.titles(np.array([0, 1])) == ["x", "2"]
    assert named.feature_spec.item_features == read_dataset(rows, items=items).feature_spec.item_features
    with pytest.raises(DataError, match="no column 'Titel', declared as title"):
        read_dataset(rows, items=items, title="Titel")


# ------------------------------------------------------------------------------------------ limits


def test_a_gzip_bomb(write: Write) -> None:
    text = "user,item\n" + "1,2\n" * 1_000_000
    path = write(gzip.compress(text.encode()), "bomb.csv.gz")
    message = fault(path, max_gb=0.001)
    assert "unpacks to more than 0.001 GiB" in message
    assert "max_gb=0.002" in message
    assert "unpacks to more than 0.1 GiB" in fault(path, max_gb=0.1)  # short rows take more than their 4 MB of text
    assert read_interactions(path, max_gb=0.12).frame.height == 1


def test_parquet_with_absurdly_many_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pl.DataFrame({"user": [1], "item": [1]}).select(pl.all().repeat_by(1_000_000).explode()).write_parquet(path)
    assert path.stat().st_size < 100_000
    assert "claims 1,000,000 rows" in fault(path, max_gb=0.01)
    assert "max_gb=" in fault(path, max_gb=0.1)
    assert read_interactions(path, max_gb=0.12).frame.height == 1


LIMITED = """
import resource, sys
from palate.data.reading import read_interactions
from palate.errors import DataError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_interactions(sys.argv[1], max_gb=0.5)
except DataError:
    pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20)
"""


@pytest.mark.parametrize("rows", [4_000_000, 30_000_000])
@pytest.mark.parametrize("name", ["bomb.csv.gz", "bomb.parquet"])
def test_reading_keeps_within_the_limit(name: str, rows: int, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith("gz"):
        path.write_bytes(gzip.compress(b"user,item\n" + b"1,2\n" * rows, compresslevel=1))
    else:
        pl.select(user=pl.repeat(1, rows), item=pl.repeat(2, rows)).write_parquet(path)
    done = subprocess.run([sys.executable, "-c", LIMITED, path], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.55


@pytest.mark.parametrize("depth", [70, 500, 5_000, 100_000])
def test_deeply_nested_json(write: Write, depth: int) -> None:
    line = '{"user": 1, "item": 2, "x": ' + "[" * depth + "]" * depth + "}\n"
    assert "nested" in fault(write(line, "x.jsonl"))
    fine = json.dumps({"user": 1, "item": 2, "x": [[{"y": 1}]]}) + "\n"
    assert read_interactions(write(fine, "y.jsonl")).frame.rows() == [(1, 2)]


def test_pipes_and_devices_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    for path in (tmp_path / "pipe.csv", Path("/dev/zero")):
        assert "is a pipe or a device; expected a regular file" in fault(path)


def test_a_header_of_any_length(write: Write) -> None:
    others = [f"a_rather_long_name_of_a_column_{k}" for k in range(5_000)]
    text = ",".join(["user", "item", *others]) + "\n" + ",".join(["1", "2", *["x"] * 5_000]) + "\n"
    assert len(text.split("\n")[0]) > 1 << 16
    assert read_interactions(write(text)).frame.rows() == [("1", "2")]
    assert read_interactions(write(gzip.compress(text.encode()), "x.csv.gz")).frame.rows() == [("1", "2")]


# ------------------------------------------------------------------------------------------ at a glance


def test_a_data_set_prints_its_counts() -> None:
    rows = pl.DataFrame({"user_id": [1, 1, 2], "item_id": [1, 2, 2], "rating": [1, 5, 3], "timestamp": [0, 86_400, 9]})
    items = pl.DataFrame({"item_id": [1, 2], "<b>": [1, 2]})
    data = Dataset.from_frame(rows, items)
    assert repr(data).splitlines() == [
        "Dataset: 2 users, 2 items, 3 interactions",
        "  time           1970-01-01 to 1970-01-02",
        "  ratings        1 to 5, mean 3.00",
        "  item features  <b>",
        "  user features  none",
    ]
    page = data._repr_html_()
    assert page.count("<tr>") == 5
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    bare = Dataset.from_frame(rows.select("user_id", "item_id"))
    assert repr(bare).count("none") == 4
    assert "0 interactions" in repr(bare.take(np.zeros(3, dtype=bool)))
