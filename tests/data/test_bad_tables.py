"""Tables with faults: each is named, all at once, with rows and values; and what becomes of repeated rows."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.data.reading.interactions import Duplicates, read_interactions
from palate.errors import DataError

Write = Callable[..., Path]


def fault(source: Any, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_interactions(source, **options)
    return str(caught.value)


def test_all_faults_are_reported_together(write: Write) -> None:
    text = "user,item,rating,time\n,b,x,1\na,,nan,2\nq,r,inf,\nz,z,9,5\nlong,er,1,2,3\nu, ,,-\n"
    message = fault(write(text), rating_scale=(1.0, 5.0))
    assert message.splitlines()[0].endswith("9 faults")
    assert [line[4:].split("; accepted are")[0] for line in message.splitlines()[1:]] == [
        "more fields than in the first line in 1 row (row 5)",
        "user_id: empty in 1 row (row 1)",
        "item_id: empty in 2 rows (rows 2, 6)",
        "rating: empty in 1 row (row 6)",
        "rating: not a number in 1 row ('x' in row 1)",
        "rating: NaN or infinite in 2 rows ('nan' in row 2, 'inf' in row 3)",
        "rating: outside the scale 1 to 5 in 1 row ('9' in row 4)",
        "timestamp: empty in 1 row (row 3)",
        "timestamp: not a time in 1 row ('-' in row 6)",
    ]


def test_many_faults_of_a_kind_are_counted(write: Write) -> None:
    rows = "".join(f"{k},{k},oops{k}\n" for k in range(1234))
    message = fault(write("user,item,rating\n" + rows))
    first = ", ".join(f"'oops{k}' in row {k + 1}" for k in range(5))
    assert f"rating: not a number in 1,234 rows ({first} and 1,229 more)" in message


def test_faults_of_columns_and_of_rows_come_together(write: Write) -> None:
    message = fault(write("usr,item,rating\n1,2,x\n"))
    assert "no column for user_id; columns found: 'usr', 'item', 'rating'; near: 'usr'" in message
    assert "not a number in 1 row ('x' in row 1)" in message


def test_a_column_that_is_not_there(write: Write) -> None:
    path = write("kunde,item,rating\n1,2,3\n")
    message = fault(path, columns={"user_id": "kunden", "rating": 7})
    assert "no column 'kunden' for user_id; columns found: 'kunde', 'item', 'rating'; did you mean 'kunde'?" in message
    assert "no column 7 for rating: positions count from 0 to 2" in message


def test_columns_that_could_be_either(write: Write) -> None:
    message = fault(write("user,asin,parent_asin\n1,2,3\n"))
    assert "item_id could be any of 'asin', 'parent_asin'; choose one with columns={'item_id': 'asin'}" in message
    assert "rating could be any of 'rating', 'rating'" in fault(write("user,item,rating,rating\n1,2,3,4\n"))
    message = fault(write("user,item,x,x\n1,2,3,4\n"), columns={"rating": "x"})
    assert "column 'x' for rating: several columns are called 'x'" in message


def test_one_column_in_two_roles(write: Write) -> None:
    message = fault(write("user,item,x\n1,2,3\n"), columns={"rating": "x", "weight": "x"})
    assert "column 'x' is used as rating and as weight" in message


def test_no_header_and_no_order_given(write: Write) -> None:
    message = fault(write("1\t2\t3\t881250949\n"))
    assert "the first line looks like data, not names (4 columns)" in message
    assert "columns=['user_id', 'item_id', 'rating', 'timestamp']" in message


def test_a_list_of_the_wrong_length(write: Write) -> None:
    message = fault(write("1,2,3\n"), columns=["user_id", "item_id"])
    assert "columns names 2 columns, the file has 3" in message


def test_the_wrong_separator(write: Write) -> None:
    message = fault(write("user\titem\n1\t2\n"), separator=",")
    assert r"has one column with separator ',': 'user\titem'" in message
    assert r"'\t' (2 columns)" in message


def test_a_separator_that_is_not_guessed(write: Write) -> None:
    for text in ("user^item\n1^2\n", "1 2 5\n1 3 4\n2 3 1\n"):
        message = fault(write(text))
        assert f"the file has one column, {text.splitlines()[0]!r}" in message
        assert "pass separator=, for example separator=' '" in message
    assert read_interactions(write("1 2\n1 3\n"), separator=" ", columns=["user_id", "item_id"]).frame.height == 2


@pytest.mark.parametrize("data", ["", "\n\n   \n", "\ufeff"])
def test_an_empty_file(write: Write, data: str) -> None:
    assert "is empty; expected a table with at least one row" in fault(write(data))
    assert "is empty" in fault(write(data, "table.jsonl"))


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_a_header_only(write: Write, end: str) -> None:
    assert "the table has a header but no rows" in fault(write("user,item,rating" + end))


def test_no_rows(tmp_path: Path) -> None:
    frame = pl.DataFrame(schema={"user": pl.Int64, "item": pl.Int64})
    assert "the frame: the table has no rows" in fault(frame)
    frame.write_parquet(tmp_path / "x.parquet")
    assert "the table has no rows" in fault(tmp_path / "x.parquet")


def test_paths(tmp_path: Path, write: Write) -> None:
    write("user,item\n1,2\n", "ratings.csv")
    assert "is a folder" in fault(tmp_path)
    message = fault(tmp_path / "rating.csv")
    assert "there is no file" in message
    assert "did you mean ratings.csv?" in message
    assert "there is no file" in fault(str(tmp_path / "no" / "such.csv"))


def test_things_that_are_no_tables() -> None:
    assert "cannot read a table from int" in fault(5)
    assert "a query needs connection=" in fault("SELECT 1")


def test_text_that_is_not_utf_8(write: Write) -> None:
    message = fault(write("user,item,title\n1,2,ok\n3,4,café\n".encode("latin-1")))
    assert "is not utf-8: byte 0xE9 at offset 30 (line 3)" in message
    assert "encoding='latin-1'" in message
    message = fault(write("user,item\ncafé,1\n".encode("latin-1"), "table.jsonl"))
    assert "is not utf-8: byte 0xE9" in message
    assert "is UTF-16 text; pass encoding='utf-16'" in fault(write("user,item\n1,2\n".encode("utf-16")))
    assert "is not ascii: byte 0xC3" in fault(write("user,item\ncafé,1\n"), encoding="ascii")


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.parquet", "x.jsonl", "x.csv.gz", "x"])
def test_ten_megabytes_of_random_bytes(write: Write, name: str) -> None:
    data = np.random.default_rng(0).bytes(10_000_000)
    assert "is not a" in fault(write(data, name))
    fault(write(data.replace(b"\0", b"x"), name))


def test_random_text_never_passes_for_a_table(write: Write) -> None:
    rng = np.random.default_rng(1)
    for alphabet in (b',\n"abc 123\t;|:', b"\r\n,", b'"', b"\n", b'{}[]":,1\n'):
        data = bytes(rng.choice(list(alphabet), 5_000).tolist())
        for name in ("x.csv", "x.jsonl"):
            fault(write(data, name))


def test_truncated_parquet(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pl.DataFrame({"user": range(10_000), "item": range(10_000)}).write_parquet(path)
    data = path.read_bytes()
    for keep in (4, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:keep])
        assert "is a truncated or damaged Parquet file" in fault(path)
    path.write_bytes(b"user,item\n1,2\n")
    assert "is not a Parquet file: it does not start with PAR1" in fault(path)


def test_truncated_gzip(write: Write) -> None:
    packed = gzip.compress(os.urandom(100_000).hex().encode())
    assert "ended before the end-of-stream marker" in fault(write(packed[:5_000], "x.csv.gz"))


def test_archives(write: Write) -> None:
    assert "is a zip archive or a workbook" in fault(write(b"PK\x03\x04rest", "x.csv"))


def test_json_lines(write: Write) -> None:
    message = fault(write('{"user":1,"item":2}\nfoo\n{"user":1,"item":NaN}\n[3]\n', "x.jsonl"))
    assert [line[4:10] for line in message.splitlines()[1:]] == ["line 2", "line 3", "line 4"]
    assert "holds one JSON list" in fault(write('[{"user":1},\n{"user":2}]', "x.json"))
    message = fault(write('{"user":1,"item":2}\n{"user":null,"item":2}\n{"item":2}\n', "x.jsonl"))
    assert "user_id: empty in 2 rows (rows 2, 3)" in message


def test_quotes_that_do_not_close(write: Write) -> None:
    message = fault(write('user,item\n"1,5\n2,2\n'))
    assert "a quote is not closed, or has text after it" in message


def test_queries_that_fail(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    assert "the query failed" in fault("SELECT * FROM nothing", connection=f"sqlite:///{tmp_path / 'x.db'}")
    assert "not a usable SQLAlchemy URL" in fault("SELECT 1", connection="no url")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pl.Series([1.5, 2.0]), r"user_id: not a whole number in 1 row \(1.5 in row 1\)"),
        (pl.Series([1.0, None]), r"user_id: empty in 1 row \(row 2\)"),
        (pl.Series([1.0, float("nan")]), r"user_id: empty in 1 row \(row 2\)"),
        (pl.Series(["a", None]), r"user_id: empty in 1 row \(row 2\)"),
        (pl.Series(["a", "  "]), r"user_id: empty in 1 row \(row 2\)"),
        (pl.Series([None, None]), r"user_id: empty in 2 rows"),
        (pl.Series([True, False]), r"the column is Boolean"),
        (pl.Series([[1], [2]]), r"the column is List"),
        (
            pl.Series([2**63, 1], dtype=pl.UInt64),
            r"larger than 9,223,372,036,854,775,807.* in 1 row \(9223372036854775808 in row 1\); convert",
        ),
    ],
)
def test_ids_that_are_none(column: pl.Series, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_interactions(pl.DataFrame({"user": column, "item": [1, 2]}))


@pytest.mark.parametrize(
    ("role", "values", "message"),
    [
        ("rating", [1.0, None], r"rating: empty in 1 row \(row 2\)"),
        ("rating", [1e39, 1.0], r"rating: NaN or infinite in 1 row \(1e\+39 in row 1\)"),
        ("rating", [[1], [2]], r"rating: not a number \(the column is List"),
        ("rating", ["3,5", "1"], r"rating: not a number in 1 row \('3,5' in row 1\)"),
        ("weight", [1.0, -0.5], r"weight: below 0 in 1 row \(-0.5 in row 2\)"),
        ("timestamp", [1, None], r"timestamp: empty in 1 row \(row 2\)"),
        ("timestamp", [float("nan"), 1.0], r"timestamp: not a time in 1 row \(nan in row 1\)"),
        ("timestamp", ["2001-02-30", "2001-02-03"], r"timestamp: not a time in 1 row \('2001-02-30' in row 1\)"),
        ("timestamp", ["2001-02-03 24:00", "2001-02-03"], r"timestamp: not a time in 1 row"),
        ("timestamp", ["yesterday", "today"], r"timestamp: not a time in 2 rows"),
        ("timestamp", [True, False], r"timestamp: not a time \(the column is Boolean\)"),
    ],
)
def test_values_that_cannot_be_used(role: str, values: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_interactions(pl.DataFrame({"user": [1, 2], "item": [1, 2], role: values}))


def test_times_in_several_units(write: Write) -> None:
    rows = ["881250949", "881250949", "881250949000", "881250949000000", "0", "881250949000000000"]
    message = fault(write("user,item,ts\n" + "".join(f"{k},1,{t}\n" for k, t in enumerate(rows))))
    assert "timestamp: units are mixed, 2 in seconds (881250949 in row 1, 881250949 in row 2)" in message
    assert "1 in milliseconds (881250949000 in row 3)" in message
    assert "1 in microseconds (881250949000000 in row 4)" in message
    assert "1 in nanoseconds (881250949000000000 in row 6)" in message


def test_times_as_numbers_and_dates(write: Write) -> None:
    message = fault(write("user,item,ts\n1,1,881250949\n1,2,1997-12-04\n1,3,881250950\n"))
    assert "whole numbers and dates are mixed, unlike the rest in 1 row ('1997-12-04' in row 2)" in message


# ------------------------------------------------------------------------------------------ repeated rows


def test_different_ratings_of_one_pair_are_a_fault(write: Write) -> None:
    message = fault(write("user,item,rating\n1,2,3\n1,2,3\n1,3,4\n1,4,1\n1,3,5\n"))
    assert "different ratings in 1 user-item pair: user '1' item '3': 4 (row 3), 5 (row 5)" in message
    assert "duplicates='last', 'first', 'mean' or 'sum'" in message


def test_equal_rows_are_removed_and_counted(write: Write) -> None:
    checked = read_interactions(write("user,item,rating\n1,2,3\n1,2,3\n1,3,4\n1,2,3\n"))
    assert checked.frame.rows() == [("1", "2", 3.0), ("1", "3", 4.0)]
    assert checked.notes == ("2 rows equal to an earlier row removed",)


def test_repeated_events_keep_the_last(write: Write) -> None:
    checked = read_interactions(write("user,item,ts\n1,2,30\n1,3,10\n1,2,20\n"))
    assert checked.frame.rows() == [("1", "2", 30), ("1", "3", 10)]
    assert checked.notes == ("2 rows of the same user and item merged into 1 (last)",)


def test_different_weights_of_one_pair_are_a_fault(write: Write) -> None:
    path = write("user,item,weight\n1,2,3\n1,2,4\n")
    assert "different weights in 1 user-item pair" in fault(path)
    assert read_interactions(path, duplicates="sum").frame.rows() == [("1", "2", 7.0)]


def test_sums_that_leave_the_scale(write: Write) -> None:
    path = write("user,item,rating\n1,2,3\n1,2,4\n")
    assert "1 sum of repeated rows outside the scale 1 to 5" in fault(path, duplicates="sum", rating_scale=(1.0, 5.0))


Row = dict[str, Any]


def merged(rows: list[Row], policy: str) -> list[Row]:
    """What `read_interactions` promises, one row after another."""
    if policy == "sum" and not {"rating", "weight"} & set(rows[0]):
        rows = [{**row, "weight": 1.0} for row in rows]
    numbered = list(enumerate(rows))
    if policy in ("error", "first", "last"):
        numbered = [(k, row) for k, row in numbered if row not in rows[:k]]
    groups: dict[tuple[Any, Any], list[tuple[int, Row]]] = {}
    for k, row in numbered:
        groups.setdefault((row["user_id"], row["item_id"]), []).append((k, row))
    out = []
    for group in groups.values():
        group.sort(key=lambda pair: (pair[1].get("timestamp", 0), pair[0]))
        place, kept = group[0] if policy == "first" else group[-1]
        kept = dict(kept)
        for name in {"rating", "weight"} & set(kept) if policy in ("mean", "sum") else ():
            total = sum(row[name] for _, row in group)
            kept[name] = total / len(group) if policy == "mean" else total
        out.append((place, kept))
    return [row for _, row in sorted(out, key=lambda pair: pair[0])]


@given(data=st.data(), policy=st.sampled_from(["error", "last", "first", "mean", "sum"]), text=st.booleans())
def test_each_policy_equals_plain_python(data: st.DataObject, policy: Duplicates, text: bool) -> None:
    names = data.draw(st.sets(st.sampled_from(["rating", "timestamp", "weight"])))
    values = {"rating": st.sampled_from([1.0, 2.5, 4.0]), "timestamp": st.integers(0, 3), "weight": st.integers(0, 2)}
    small = st.integers(0, 2)
    row = st.fixed_dictionaries(
        {"user_id": small, "item_id": small} | {name: values[name] for name in sorted(names)},
    )
    rows = data.draw(st.lists(row, min_size=1, max_size=12))
    frame = pl.DataFrame(rows)
    if text:
        frame = frame.with_columns(pl.col("user_id", "item_id").cast(pl.String))
        rows = [{**row, "user_id": str(row["user_id"]), "item_id": str(row["item_id"])} for row in rows]
    conflict = any(
        (a["user_id"], a["item_id"]) == (b["user_id"], b["item_id"])
        and any(a[n] != b[n] for n in names - {"timestamp"})
        for a in rows
        for b in rows
    )
    if policy == "error" and conflict:
        assert "different" in fault(frame)
        return
    found = read_interactions(frame, duplicates=policy).frame
    expected = merged(rows, policy)
    assert found.height == len(expected)
    for name in found.columns:
        wanted = [row[name] for row in expected]
        assert found[name].to_list() == (pytest.approx(wanted) if name in ("rating", "weight") else wanted)
