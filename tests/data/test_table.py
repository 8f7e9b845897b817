"""Tables that are as they should be: every format, every way to name the columns, ids exactly as given."""

from __future__ import annotations

import csv
import gzip
import sqlite3
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palate.data.dataset import Dataset
from palate.data.reading.delimited import SEPARATORS
from palate.data.reading.interactions import check_options, read_interactions
from palate.errors import ConfigError

Write = Callable[..., Path]
ROWS = [("007", "a", 4.0, 100), ("8", "b b", 3.5, 200), ("007", "c", 1.0, 90)]


def frame_of(rows: list[tuple[Any, ...]] = ROWS) -> pl.DataFrame:
    names = ["user_id", "item_id", "rating", "timestamp"]
    return pl.DataFrame(rows, schema=names[: len(rows[0])], orient="row")


def lines(separator: str = ",", header: str = "user_id item_id rating timestamp", end: str = "\n") -> str:
    rows = [header.split(), *[tuple(map(str, row)) for row in ROWS]] if header else [map(str, row) for row in ROWS]
    return "".join(separator.join(row) + end for row in rows)


def test_types_and_values(write: Write) -> None:
    frame = read_interactions(write(lines())).frame
    assert frame.schema == {
        "user_id": pl.String,
        "item_id": pl.String,
        "rating": pl.Float32,
        "timestamp": pl.Int64,
    }
    assert frame.rows() == ROWS


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [False, True])
def test_separator_line_end_and_byte_order_mark_do_not_matter(
    write: Write, separator: str, end: str, bom: bool
) -> None:
    text = lines(separator, end=end)
    path = write(text.encode("utf-8-sig") if bom else text)
    assert read_interactions(path).frame.rows() == ROWS
    assert read_interactions(path, separator=separator).frame.rows() == ROWS


@pytest.mark.parametrize("separator", [" ", "^", "~~", "<=>"])
def test_other_separators_can_be_given(write: Write, separator: str) -> None:
    rows = [("1", "2", 3.0), ("1", "3", 4.0)]
    text = "".join(separator.join(map(str, row)) + "\n" for row in [("user", "item", "rating"), *rows])
    assert read_interactions(write(text), separator=separator).frame.rows() == rows


@pytest.mark.parametrize("how", ["csv", "gz", "parquet", "jsonl", "polars", "lazy", "pandas", "arrow", "sql", "engine"])
def test_every_source_gives_the_same(write: Write, tmp_path: Path, how: str) -> None:
    frame, options = frame_of(), {}
    source: Any = tmp_path / f"table.{how}"
    if how == "csv":
        frame.write_csv(source)
    elif how == "gz":
        source = write(gzip.compress(lines().encode()), "table.csv.gz")
    elif how == "parquet":
        frame.write_parquet(source)
    elif how == "jsonl":
        frame.write_ndjson(source)
    elif how in ("polars", "lazy"):
        source = frame if how == "polars" else frame.lazy()
    elif how in ("pandas", "arrow"):
        pytest.importorskip("pyarrow")
        if how == "pandas":
            pytest.importorskip("pandas")
        source = frame.to_pandas() if how == "pandas" else frame.to_arrow()
    else:
        sqlalchemy = pytest.importorskip("sqlalchemy")
        database = sqlite3.connect(tmp_path / "data.db")
        database.execute("create table ratings (u text, i text, r real, t integer)")
        database.executemany("insert into ratings values (?, ?, ?, ?)", ROWS)
        database.commit()
        database.close()
        source = "select u as user_id, i as item_id, r as rating, t as timestamp from ratings"
        url = f"sqlite:///{tmp_path / 'data.db'}"
        options = {"connection": url if how == "sql" else sqlalchemy.create_engine(url)}
    checked = read_interactions(source, **options)
    assert checked.frame.rows() == ROWS
    assert checked.frame.schema == read_interactions(frame).frame.schema
    if how == "engine":
        options["connection"].dispose()


def test_a_query_over_an_open_connection() -> None:
    with sqlite3.connect(":memory:") as connection:
        source = "WITH t(user, item) AS (VALUES (1, 'x'), (2, 'y')) SELECT * FROM t"
        assert read_interactions(source, connection=connection).frame.rows() == [(1, "x"), (2, "y")]
    connection.close()


def test_whole_number_ids_of_typed_sources_stay_numbers(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": [7, 8], "item": [1, 2]}, schema={"user": pl.UInt16, "item": pl.Int32})
    assert read_interactions(frame).frame.schema == {"user_id": pl.Int64, "item_id": pl.Int64}
    frame.write_ndjson(tmp_path / "x.ndjson")
    assert read_interactions(tmp_path / "x.ndjson").frame.rows() == [(7, 1), (8, 2)]
    named = frame.with_columns(pl.col("item").cast(pl.String).cast(pl.Categorical))
    assert read_interactions(named).frame.rows() == [(7, "1"), (8, "2")]


def test_floats_that_are_whole_numbers_are_taken_as_such_and_said() -> None:
    checked = read_interactions(pl.DataFrame({"user": [1.0, 2.0], "item": ["a", "b"]}))
    assert checked.frame["user_id"].to_list() == [1, 2]
    assert checked.notes == ("user_id: the column holds floats, all of them whole numbers; read as whole numbers",)


@pytest.mark.parametrize(
    "header",
    [
        "userId movieId rating timestamp",
        "User_ID Item_ID RATING Time",
        "uid iid stars ts",
        "reviewerID asin overall unixReviewTime",
        "user_id:token item_id:token rating:float timestamp:float",
        "user business_id score date",
    ],
)
def test_usual_names_are_recognised(write: Write, header: str) -> None:
    assert read_interactions(write(lines(header=header))).frame.rows() == ROWS


def test_the_more_exact_of_two_usual_names_is_taken(write: Write) -> None:
    frame = read_interactions(write("user,user_id,movie,movieId\nAnn,1,Heat,2\n")).frame
    assert frame.rows() == [("1", "2")]


def test_a_mapping_names_what_is_unusual(write: Write) -> None:
    path = write("kunde,artikel,rating,when\n1,2,3,4\n")
    frame = read_interactions(path, columns={"user_id": "kunde", "item_id": "artikel", "timestamp": "when"}).frame
    assert frame.row(0, named=True) == {"user_id": "1", "item_id": "2", "rating": 3.0, "timestamp": 4}
    frame = read_interactions(path, columns={"user_id": 0, "item_id": "artikel", "rating": None}).frame
    assert frame.row(0, named=True) == {"user_id": "1", "item_id": "2"}
    frame = read_interactions(path, columns={"user_id": "artikel", "item_id": "kunde", "weight": "rating"}).frame
    assert frame.rows() == [("2", "1", 3.0)]
    assert frame.columns == ["user_id", "item_id", "weight"]


@pytest.mark.parametrize(
    "columns",
    [
        ["user_id", "item_id", "rating", "timestamp"],
        {"user_id": 0, "item_id": 1, "rating": 2, "timestamp": 3},
        {"user_id": "0", "item_id": "1", "rating": "2", "timestamp": "3"},
    ],
)
def test_files_without_a_header(write: Write, columns: Any) -> None:
    assert read_interactions(write(lines("\t", header="")), columns=columns).frame.rows() == ROWS


def test_a_list_leaves_columns_out_and_replaces_a_header(write: Write) -> None:
    frame = read_interactions(write("1,9,2\n3,9,4\n"), columns=["item_id", None, "user_id"]).frame
    assert frame.rows() == [("2", "1"), ("4", "3")]
    assert frame.columns == ["user_id", "item_id"]
    with_header = write("who,what,how much\n1,9,2\n3,9,4\n")
    frame = read_interactions(with_header, columns=["user_id", "item_id", "rating"]).frame
    assert frame["user_id"].to_list() == ["1", "3"]


def test_words_without_a_header(write: Write) -> None:
    path = write("ann\theat\nbob\talien\n")
    assert read_interactions(path, columns=["user_id", "item_id"]).frame.rows() == [("ann", "heat"), ("bob", "alien")]
    assert read_interactions(path, columns=["user_id", "item_id"], has_header=True).frame.rows() == [("bob", "alien")]


def test_quotes(write: Write) -> None:
    frame = read_interactions(write('user,item\n"1,5",a\n"say ""hi""",b\n')).frame
    assert frame.rows() == [("1,5", "a"), ('say "hi"', "b")]
    # Outside CSV a quote in the middle of a value is just a character.
    frame = read_interactions(write('user\titem\nx\t"Great" Scott\ny\tb "c"\n')).frame
    assert frame["item_id"].to_list() == ['"Great" Scott', 'b "c"']


def test_another_encoding(write: Write) -> None:
    text = "user,item\ncafé,1\n"
    for encoding in ("latin-1", "cp1252", "utf-16"):
        frame = read_interactions(write(text.encode(encoding)), encoding=encoding).frame
        assert frame.rows() == [("café", "1")]


def test_ratings_keep_their_type_whatever_they_come_as() -> None:
    for values in ([1, 2], [1.0, 2.0], ["1", " 2 "], [True, False]):
        frame = read_interactions(pl.DataFrame({"user": [1, 2], "item": [1, 2], "rating": values})).frame
        assert frame["rating"].to_list() == [float(str(v).strip()) if isinstance(v, str) else float(v) for v in values]


def test_a_constant_rating_is_said(write: Write) -> None:
    checked = read_interactions(write("user,item,rating\n1,2,5\n2,2,5\n"))
    assert checked.notes == ("all ratings are 5: they show who chose what, not who liked what more",)


def test_empty_lines_are_skipped_and_counted(write: Write) -> None:
    checked = read_interactions(write("\n\nuser,item\n1,2\n\n2,2\n\n"))
    assert checked.frame.rows() == [("1", "2"), ("2", "2")]
    assert checked.notes == ("2 empty lines skipped",)


SECONDS = 981_173_106


@pytest.mark.parametrize("power", [0, 3, 6, 9])
def test_whole_number_times_of_one_unit(write: Write, power: int) -> None:
    path = write(f"user,item,ts\n1,2,{SECONDS * 10**power}\n1,3,{(SECONDS + 1) * 10**power}\n1,4,0\n")
    checked = read_interactions(path)
    assert checked.frame["timestamp"].to_list() == [SECONDS, SECONDS + 1, 0]
    assert bool(checked.notes) == (power > 0)


@pytest.mark.parametrize(
    "text",
    [
        "2001-02-03 04:05:06",
        "2001-02-03T04:05:06Z",
        "2001-02-03T04:05:06.789",
        "2001/02/03 04:05:06+00:00",
        "2001-02-03T06:05:06+0200",
        "2001-02-02T22:35:06 -05:30",
        "981173106.9",
    ],
)
def test_times_as_text(write: Write, text: str) -> None:
    assert read_interactions(write(f"user,item,ts\n1,2,{text}\n")).frame["timestamp"].to_list() == [SECONDS]


def test_dates_and_datetimes_of_frames() -> None:
    zone = timezone(timedelta(hours=2))
    moments: list[list[Any]] = [
        [datetime(2001, 2, 3, 4, 5, 6)],
        [datetime(2001, 2, 3, 6, 5, 6, tzinfo=zone)],
        [date(2001, 2, 3)],
    ]
    for values in moments:
        series = pl.Series("time", values)
        if isinstance(values[0], datetime) and values[0].tzinfo:
            series = series.dt.convert_time_zone("Asia/Tokyo")
        frame = read_interactions(pl.DataFrame({"user": [1], "item": [1], "time": series})).frame
        expected = SECONDS if isinstance(values[0], datetime) else SECONDS // 86_400 * 86_400
        assert frame["timestamp"].to_list() == [expected]


@given(
    st.lists(st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1)), min_size=1, max_size=8),
    st.sampled_from(["T", " "]),
    st.sampled_from([None, 0, 90, -570]),
)
def test_iso_times_equal_pythons(moments: list[datetime], between: str, zone: int | None) -> None:
    offset = UTC if zone is None else timezone(timedelta(minutes=zone))
    moments = [moment.replace(tzinfo=offset) for moment in moments]
    texts = [moment.isoformat(between) for moment in moments]
    if zone is None:
        texts = [text.removesuffix("+00:00") for text in texts]
    frame = pl.DataFrame({"user": range(len(texts)), "item": range(len(texts)), "ts": texts})
    expected = [int(moment.replace(microsecond=0).timestamp()) for moment in moments]
    assert read_interactions(frame).frame["timestamp"].to_list() == expected


PRINTABLE = st.characters(exclude_categories=("Cs", "Cc"))
IDS = st.text(PRINTABLE, min_size=1, max_size=12).filter(lambda text: text.strip() != "")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(IDS, IDS), min_size=1, max_size=20, unique=True),
    separator=st.sampled_from([",", "\t", ";", "|"]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_ids_survive_exactly(tmp_path: Path, rows: list[tuple[str, str]], separator: str, end: str) -> None:
    path = tmp_path / "ids.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=separator, lineterminator=end)
        writer.writerow(["user_id", "item_id"])
        writer.writerows(rows)
    assert read_interactions(path, separator=separator, has_header=True).frame.rows() == rows


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(IDS, IDS), min_size=1, max_size=20, unique=True),
    separator=st.sampled_from(["::", "||", "<->"]),
)
def test_ids_survive_separators_of_several_characters(
    tmp_path: Path, rows: list[tuple[str, str]], separator: str
) -> None:
    rows = [r for r in rows if not set(separator) & set("".join(r))]
    path = tmp_path / "ids.dat"
    path.write_bytes("".join(separator.join(row) + "\n" for row in [("user_id", "item_id"), *rows]).encode())
    if rows:
        assert read_interactions(path, separator=separator, has_header=True).frame.rows() == rows


NUMBER_LIKE = st.sampled_from(["7", "007", "7.0", "1e3", "-0", "nan", "null", "None", "true", "+5", " 7", "0x1f"])


@given(st.lists(NUMBER_LIKE, min_size=1, unique=True), st.sampled_from(SEPARATORS))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ids_that_look_like_something_else(tmp_path: Path, ids: list[str], separator: str) -> None:
    path = tmp_path / "ids.csv"
    path.write_text("".join(f"{separator.join(row)}\n" for row in [("user", "item"), *[(i, "1") for i in ids]]))
    assert read_interactions(path).frame["user_id"].to_list() == ids


def test_a_dataset_from_files(write: Write) -> None:
    items = write("movieId,title\na,Heat\nc,Alien\n", "movies.csv")
    users = pl.DataFrame({"user": ["8", "007"], "age": [30, 40]})
    data = Dataset.read(write(lines()), items=items, users=users)
    assert (len(data), data.n_users, data.n_items) == (3, 2, 3)
    assert data.provides == {"interactions", "rating", "time", "item_features", "user_features"}
    assert data.frame().sort("timestamp")["item_id"].to_list() == ["c", "a", "b b"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item": "x"}, "did you mean 'item_id'"),
        (["user_id", "itm_id"], "did you mean 'item_id'"),
        (["user_id", "user_id"], "'user_id' is named twice"),
        ("user_id,item_id", "a mapping from role to column name or a list"),
    ],
)
def test_wrong_roles(write: Write, columns: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_interactions(write(lines()), columns=columns)


def test_other_wrong_options(write: Write) -> None:
    with pytest.raises(ConfigError, match="duplicates = 'maybe' is not one of error, last, first, mean, sum"):
        check_options(None, "maybe", None)  # the tests' own type checker would stop read_interactions
    with pytest.raises(ConfigError, match="rating_scale"):
        read_interactions(write(lines()), rating_scale=(5.0, 1.0))
    with pytest.raises(ConfigError, match="encoding 'latin-99' is unknown"):
        read_interactions(write(lines()), encoding="latin-99")
    with pytest.raises(ConfigError, match="separator '' is not usable"):
        read_interactions(write(lines()), separator="")
