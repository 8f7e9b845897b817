"""Ingestion in blocks gives the dataset of `Dataset.read`, its notes and its faults; it survives being stopped."""

from __future__ import annotations

import gzip
import io
import json
import resource
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import palate
from palate.cli import main
from palate.data.dataset import Dataset
from palate.data.reading import read_interactions
from palate.data.reading.ingest import Filters, Side, ingest, phases
from palate.data.reading.ingest.state import WorkFolder
from palate.data.reading.interactions import filter_interactions
from palate.errors import ArtifactError, ConfigError, DataError, PalateError


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 2 kB and shards of about 100 rows, so that small tables take many of both."""
    monkeypatch.setattr(phases.Options, "block_bytes", 2000)
    monkeypatch.setattr(phases.Options, "shard_rows", 100)


def rows(n: int = 1500, seed: int = 0, users: int = 60, items: int = 40) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "user_id": [f"u{u}" for u in rng.integers(0, users, n)],
            "item_id": [f"{'é' * (i % 3)}item {i}" for i in rng.integers(0, items, n)],
            "rating": rng.integers(0, 6, n) * 0.5,
            "timestamp": rng.integers(10**12, 2 * 10**12, n),
        }
    )


def same(found: Dataset, expected: Dataset) -> None:
    assert found.fingerprint == expected.fingerprint
    assert found.notes == expected.notes
    assert found.rating_scale == expected.rating_scale
    assert found.events == expected.events


@pytest.mark.parametrize("duplicates", ["last", "first", "mean", "sum", "keep"])
def test_a_table_in_blocks_is_the_table(tmp_path: Path, duplicates: Any) -> None:
    rows().write_csv(tmp_path / "a.csv")
    found = ingest([tmp_path / "a.csv"], tmp_path / "store", duplicates=duplicates)
    expected = palate.read_dataset(tmp_path / "a.csv", duplicates=duplicates)
    same(Dataset.open(tmp_path / "store"), expected)
    assert (found.fingerprint, found.rows, found.users) == (expected.fingerprint, len(expected), expected.n_users)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "store"]


def test_counted_rows_become_weights(tmp_path: Path) -> None:
    rows(300).select("user_id", "item_id").write_csv(tmp_path / "a.csv", separator=";", quote_style="always")
    ingest([tmp_path / "a.csv"], tmp_path / "store", duplicates="sum")
    same(Dataset.open(tmp_path / "store"), palate.read_dataset(tmp_path / "a.csv", duplicates="sum"))


def write_gzip(frame: pl.DataFrame, path: Path) -> None:
    path.write_bytes(gzip.compress(frame.write_csv(separator="|").encode("utf-16")))


FORMS: dict[str, tuple[Callable[[pl.DataFrame, Path], Any], dict[str, Any]]] = {
    "a.parquet": (lambda frame, path: frame.write_parquet(path, row_group_size=100), {}),
    "a.jsonl": (lambda frame, path: frame.write_ndjson(path), {}),
    "a.csv.gz": (write_gzip, {"encoding": "utf-16"}),
    "a.dat": (lambda frame, path: path.write_text(frame.write_csv(include_header=False).replace(",", "::")), {
        "columns": ["user_id", "item_id", "rating", "timestamp"], "has_header": False,
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_all_forms(tmp_path: Path, name: str) -> None:
    write, options = FORMS[name]
    frame = rows().unique(["user_id", "item_id"], keep="first", maintain_order=True)
    write(frame if "dat" in name else frame.with_columns(item_id=pl.col("item_id").rank("dense")), tmp_path / name)
    ingest([tmp_path / name], tmp_path / "store", **options)
    same(Dataset.open(tmp_path / "store"), palate.read_dataset(tmp_path / name, **options))


def test_a_query_in_chunks_begins_anew_after_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from palate.data.reading import blocks

    monkeypatch.setattr(blocks, "_QUERY_ROWS", 100)
    url = f"sqlite:///{tmp_path}/a.db"
    rows().unique(["user_id", "item_id"], keep="first", maintain_order=True).write_database("t", url)
    query = "SELECT * FROM t"
    stopped_at(5, [query], tmp_path / "store", connection=url)
    ingest([query], tmp_path / "store", connection=url)
    same(Dataset.open(tmp_path / "store"), palate.read_dataset(query, connection=url))
    with pytest.raises(DataError, match="the query failed"):
        ingest(["SELECT * FROM nothing"], tmp_path / "other", connection=url)
    with pytest.raises(DataError, match="the query gives no rows"):
        ingest(["SELECT * FROM t WHERE rating > 9"], tmp_path / "other", connection=url)


def test_folders_with_partitions_are_one_table(tmp_path: Path) -> None:
    frame = rows().unique(["user_id", "item_id"], keep="first", maintain_order=True)
    frame = frame.with_columns(rating=pl.Series(np.arange(frame.height) % 3 + 1.0))
    folder = tmp_path / "table"
    for rating in (1, 2, 3):
        (folder / f"rating={rating}").mkdir(parents=True)
        part = frame.filter(pl.col("rating") == rating).drop("rating")
        part.write_parquet(folder / f"rating={rating}" / "part-0.parquet")
    (folder / "_SUCCESS").write_text("")
    found = ingest([folder], tmp_path / "store")
    frame.sort("rating", maintain_order=True).write_parquet(tmp_path / "whole.parquet")
    assert found.fingerprint == palate.read_dataset(tmp_path / "whole.parquet").fingerprint
    (folder / "part-1.parquet").write_bytes((folder / "rating=1" / "part-0.parquet").read_bytes())
    with pytest.raises(DataError, match="different partition columns: none and rating"):
        ingest([folder], tmp_path / "store")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="folder without files"):
        ingest([tmp_path / "empty"], tmp_path / "store")


def test_line_breaks_and_unpaired_quotes(tmp_path: Path) -> None:
    broken = rows(400).with_columns(item_id=pl.col("item_id") + '\n"x", y').unique(["user_id", "item_id"])
    broken.write_csv(tmp_path / "a.csv")
    odd = rows(400).with_columns(item_id=pl.col("item_id") + ' 5"').unique(["user_id", "item_id"])
    odd.write_csv(tmp_path / "b.tsv", separator="\t", quote_style="never")
    for name in ("a.csv", "b.tsv"):
        found = ingest([tmp_path / name], tmp_path / "store")
        assert found.fingerprint == palate.read_dataset(tmp_path / name).fingerprint
    (tmp_path / "c.csv").write_text('user,item\na,"b\n' + "c,d\n" * 20_000)
    with pytest.raises(DataError, match="a quote is not closed"):
        ingest([tmp_path / "c.csv"], tmp_path / "store")


FAULTY = {
    "several": "user,item,rating,time\n1,m1,five,1\n,m2,4,2\n2,m3,9,5\n\n" + "3,m{},2,7\n" * 300 + "4,m5,x,1\n,m2,1,\n",
    "fields": "user,item\n" + "3,m{}\n" * 300 + "4,m5,7\n4,m6\n5,m5,7\n",
    "units": "user,item,time\n" + "3,m{},881250949\n" * 300 + "4,m5,881250949000\n" * 3,
    "dates": "user,item,time\n" + "3,m{},1997-12-04\n" * 300 + "4,m5,881250949\n",
    "compact": "user,item,time\n" + "3,m{},20200922\n" * 300 + "4,m5,20201399\n5,m5,1\n",
    "local dates": "user,item,time\n" + "3,m{},22.9.2020\n" * 300,
    "conflicts": "user,item,rating\n" + "".join(f"{k % 40},m,{k}\n" for k in range(400)),
    "no rows": "user,item\n",
    "no columns": "reader,rating\n1,2\n",
}


@pytest.mark.parametrize("name", FAULTY)
def test_faults_are_those_of_the_whole_table(tmp_path: Path, name: str) -> None:
    text = FAULTY[name]
    (tmp_path / "a.csv").write_text("".join(line.format(k) for k, line in enumerate(text.splitlines(keepends=True))))
    options: dict[str, Any] = {"rating_scale": (1.0, 5.0)} if name == "several" else {}
    with pytest.raises(DataError) as expected:
        palate.read_dataset(tmp_path / "a.csv", **options)
    with pytest.raises(DataError) as found:
        ingest([tmp_path / "a.csv"], tmp_path / "store", **options)
    assert str(found.value) == str(expected.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_only_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user,item\n\n\n")
    with pytest.raises(DataError, match="holds no interactions; at least one row is needed"):
        ingest([tmp_path / "a.csv"], tmp_path / "store")


NOTED = {
    "blanks": "user,item\n" + "3,m{}\n" * 300 + " 3,m1\n\n4, m2\n",
    "floats": "user,item,count\n" + "3,m{},4\n" * 300,
    "compact": "user,item,time\n" + "3,m{},20200922\n" * 300,
    "dates": "user,item,time\n" + "3,m{},2020-09-22T10:30:00+02:00\n" * 300,
    "the year 9999": "user,item,time\n" + "3,m{},253370764800\n" * 300 + "4,m1,1000000000000\n",
    "equal ratings": "user,item,rating\n" + "3,m{},4\n" * 300,
}


@pytest.mark.parametrize("name", NOTED)
def test_notes_are_those_of_the_whole_table(tmp_path: Path, name: str) -> None:
    lines = NOTED[name].splitlines(keepends=True)
    (tmp_path / "a.csv").write_text("".join(line.format(k) for k, line in enumerate(lines)))
    ingest([tmp_path / "a.csv"], tmp_path / "store")
    same(Dataset.open(tmp_path / "store"), palate.read_dataset(tmp_path / "a.csv"))


TIMES = st.sampled_from(["0", "7", "881250949", "881250949000", "253370764800", "20200922", "20201399", "2020-09-22"])


@settings(max_examples=8)
@given(st.lists(TIMES, min_size=1, max_size=8), st.integers(1, 20))
def test_times_of_any_mixture(times: list[str], repeats: int) -> None:
    text = "user,item,time\n" + "".join(f"u,{k},{time}\n" for k, time in enumerate(times * repeats))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases.Options, "block_bytes", 150)
        from tempfile import TemporaryDirectory

        with TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "a.csv").write_text(text)
            results = []
            for read in (palate.read_dataset, lambda path: ingest([path], folder / "store")):
                try:
                    results.append(read(folder / "a.csv").fingerprint)
                except DataError as error:
                    results.append(str(error))
            assert results[0] == results[1]


def test_rows_of_several_sources_are_named(tmp_path: Path) -> None:
    rows(100, 0).unique(["user_id", "item_id"], maintain_order=True).write_csv(tmp_path / "a.csv")
    rows(100, 0).head(3).with_columns(rating=pl.lit(-1.0)).write_csv(tmp_path / "b.csv")
    sources = [tmp_path / "a.csv", tmp_path / "b.csv"]
    with pytest.raises(DataError, match=r"2 sources: different ratings .* -1 \(row 1 of .*b.csv\)"):
        ingest(sources, tmp_path / "store")
    with pytest.raises(DataError, match=r"outside the scale 0 to 5 in 3 rows \(-1.0 in row 1 of .*b.csv, "):
        ingest(sources, tmp_path / "store", rating_scale=(0.0, 5.0))
    rows(9).drop("timestamp").write_csv(tmp_path / "b.csv")
    with pytest.raises(DataError, match=r"b\.csv has user_id, item_id, rating, and the first source user_id"):
        ingest(sources, tmp_path / "store")
    rows(9).with_columns(user_id=pl.int_range(9)).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match="user_id mixes text and whole numbers"):
        ingest([tmp_path / "a.csv", tmp_path / "b.parquet"], tmp_path / "store")


def test_bad_json_lines_are_counted(tmp_path: Path) -> None:
    lines = [json.dumps({"user": 1, "item": k}) for k in range(300)]
    lines[7], lines[250] = "nonsense", '{"user": 1,'
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"(?s)2 faults.*line 8 is not a JSON object.*line 251 is not a JSON object"):
        ingest([tmp_path / "a.jsonl"], tmp_path / "store")


# Stopped, and run again.


class Stopped(Exception):
    pass


def stopped_at(step: int, sources: list[Any], out: Path, **options: Any) -> list[str]:
    """Run until the given step; the progress until then."""
    told: list[str] = []

    def stop(text: str) -> None:
        told.append(text)
        if len(told) == step:
            raise Stopped

    with pytest.raises(Stopped):
        ingest(sources, out, on_progress=stop, **options)
    return told


def test_a_stopped_ingestion_goes_on(tmp_path: Path) -> None:
    rows(700).write_csv(tmp_path / "a.csv")
    whole: list[str] = []
    expected = ingest([tmp_path / "a.csv"], tmp_path / "expected", duplicates="last", on_progress=whole.append)
    phases_stopped = set()
    for step in (1, 9, len(whole) - 12, len(whole) - 3, len(whole)):
        out = tmp_path / str(step)
        told = stopped_at(step, [tmp_path / "a.csv"], out, duplicates="last")
        work = tmp_path / f".{step}.ingest"
        phases_stopped.add(told[-1].split()[0])
        if told[-1].startswith("read"):  # killed while the next block was written
            with (work / "rows").open("ab") as file:
                file.write(b"half a row")
        after: list[str] = []
        found = ingest([tmp_path / "a.csv"], out, duplicates="last", on_progress=after.append)
        assert found.fingerprint == expected.fingerprint
        assert found.notes == expected.notes
        again = len(told) + len(after) - len(whole)
        assert again <= (len(whole) if told[-1].startswith("dealt") else 0)
        assert not work.exists()
    assert phases_stopped == {"read", "dealt", "sorted"}


def test_other_options_or_files_begin_anew(tmp_path: Path) -> None:
    rows().write_csv(tmp_path / "a.csv")
    stopped_at(5, [tmp_path / "a.csv"], tmp_path / "store", duplicates="last")
    ingest([tmp_path / "a.csv"], tmp_path / "store", duplicates="first")
    same(Dataset.open(tmp_path / "store"), palate.read_dataset(tmp_path / "a.csv", duplicates="first"))
    stopped_at(5, [tmp_path / "a.csv"], tmp_path / "store", duplicates="last")
    rows(seed=1).write_csv(tmp_path / "a.csv")
    ingest([tmp_path / "a.csv"], tmp_path / "store", duplicates="last")
    same(Dataset.open(tmp_path / "store"), palate.read_dataset(tmp_path / "a.csv", duplicates="last"))


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 20,000 bytes: what a full disk does, without filling one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_an_error_after_which_it_goes_on(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    rows(40).unique(["user_id", "item_id"]).write_csv(tmp_path / "old.csv")
    old = ingest([tmp_path / "old.csv"], tmp_path / "store").fingerprint
    rows().write_csv(tmp_path / "a.csv")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    request.getfixturevalue("small_files")
    with pytest.raises(ArtifactError, match=r"cannot be written .* it goes on where it stopped"):
        ingest([tmp_path / "a.csv"], tmp_path / "store", duplicates="last")
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert Dataset.open(tmp_path / "store").fingerprint == old
    after: list[str] = []
    ingest([tmp_path / "a.csv"], tmp_path / "store", duplicates="last", on_progress=after.append)
    assert not after[0].startswith("read 4")  # the first blocks are there already
    same(Dataset.open(tmp_path / "store"), palate.read_dataset(tmp_path / "a.csv", duplicates="last"))


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    rows(40).write_csv(tmp_path / "a.csv")
    with WorkFolder.opened(tmp_path / "store", "another"), pytest.raises(ArtifactError, match="is in use"):
        ingest([tmp_path / "a.csv"], tmp_path / "store", duplicates="last")


def test_ids_that_do_not_fit_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows().write_csv(tmp_path / "a.csv")
    monkeypatch.setattr(phases, "_BASE_MB", 299.998)
    with pytest.raises(ConfigError, match=r"the ids of \d+ users .* too much for memory = '0.3GB'; give '.*GB'"):
        ingest([tmp_path / "a.csv"], tmp_path / "store", memory="300MB", duplicates="last")


@pytest.mark.parametrize("memory", ["1KB", "much", "100MB", 0, float("nan"), -1])
def test_memory_that_is_none(tmp_path: Path, memory: Any) -> None:
    with pytest.raises(ConfigError, match=r"is not a size of 0\.3 GB or more"):
        ingest([tmp_path / "a.csv"], tmp_path / "store", memory=memory)


# Filters, side tables, and the command line.


def test_filters(tmp_path: Path) -> None:
    rows().unique(["user_id", "item_id"], keep="first", maintain_order=True).write_csv(tmp_path / "a.csv")
    limits: dict[str, Any] = {"min_rating": 1.0, "min_user": 9, "min_item": 14}
    ingest([tmp_path / "a.csv"], tmp_path / "store", filters=Filters(**limits))
    checked = read_interactions(tmp_path / "a.csv")
    kept = filter_interactions(checked.frame, **limits)
    same(Dataset.open(tmp_path / "store"), Dataset.from_frame(kept.frame, notes=checked.notes + kept.notes))
    assert "rounds" in kept.notes[1]
    with pytest.raises(DataError, match="no interactions remain"):
        ingest([tmp_path / "a.csv"], tmp_path / "store", filters=Filters(min_user=9999))
    rows(50).select("user_id", "item_id").unique().write_csv(tmp_path / "b.csv")
    with pytest.raises(DataError, match="min_rating = 1 needs ratings"):
        ingest([tmp_path / "b.csv"], tmp_path / "store", filters=Filters(min_rating=1.0))


def test_side_tables_become_part_of_it(tmp_path: Path) -> None:
    frame = rows().unique(["user_id", "item_id"], keep="first", maintain_order=True)
    frame.write_csv(tmp_path / "a.csv")
    items = frame.select("item_id").unique(maintain_order=True).with_row_index("year")
    pl.concat([items, items.head(2).with_columns(item_id=pl.lit("new ") + pl.col("item_id"))]).write_csv(
        tmp_path / "items.csv"
    )
    frame.select("user_id").unique().with_columns(age=pl.lit(7)).write_csv(tmp_path / "users.csv")
    sides = {"items": tmp_path / "items.csv", "users": tmp_path / "users.csv"}
    kinds = {"year": "category"}
    ingest(
        [tmp_path / "a.csv"], tmp_path / "store",
        items=Side(source=sides["items"], kinds=kinds), users=Side(source=sides["users"]),
    )  # fmt: skip
    found, expected = (
        Dataset.open(tmp_path / "store"),
        palate.read_dataset(tmp_path / "a.csv", **sides, item_kinds=kinds),
    )
    same(found, expected)
    for name in ("item_table", "user_table", "unused_items"):
        assert getattr(found, name).equals(getattr(expected, name))
    assert found.item_kinds == kinds
    with pytest.raises(DataError, match="there is no file"):
        ingest([tmp_path / "a.csv"], tmp_path / "other", items=Side(source=tmp_path / "nothing.csv"))


def command(*words: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert isinstance(ended.value.code, int)
    return ended.value.code, out.getvalue(), err.getvalue()


def test_the_command_line_takes_a_store_for_a_table(tmp_path: Path) -> None:
    frame = rows().unique(["user_id", "item_id"], keep="first", maintain_order=True)
    frame.rename({"user_id": "reader"}).write_csv(tmp_path / "a.csv")
    store, run = tmp_path / "store", tmp_path / "run"
    code, out, _ = command("data", "ingest", tmp_path / "a.csv", "--out", store, "--user-id", "reader", "--min-user", 3)
    assert code == 0
    assert "converted from milliseconds" in out
    assert "saved" in out
    assert command("data", "inspect", store)[1].startswith(f"{store}: a data set on disk; all its files are complete")
    assert command("train", "popularity", store, "--out", run)[0] == 0
    assert command("evaluate", run, store)[0] == 0
    assert command("update", run, store)[0] == 0
    refused = [
        (
            ("train", "popularity", store, "--out", run, "--user-id", "u", "--min-item", "3"),
            "--user-id, --min-item, or",
        ),
        (("train", "popularity", store, "--out", run, "--split-column", "p"), "leave out --split-column"),
        (("data", "inspect", store, "--user-id", "u"), "leave out --user-id"),
        (("data", "ingest", store, "--out", run), "is a data set on disk already"),
        (("data", "ingest", tmp_path / "a.csv", "--out", run), "is not a data set folder"),
        (
            ("data", "ingest", tmp_path / "a.csv", "--out", tmp_path / "b", "--session-gap", "1h"),
            "cannot use --session-g",
        ),
        (("data", "ingest", tmp_path / "a.csv", "--out", tmp_path / "b", "--title", "t"), "--title describes a table"),
        (("data", "ingest", tmp_path / "a.csv", "--out", tmp_path / "b"), "--user-id"),
        (("data", "ingest", tmp_path / "a.csv", "--out", tmp_path / "b", "--memory", "1KB"), "--memory '1KB' is not a"),
    ]
    for words, message in refused:
        code, _, err = command(*words)
        assert code == 2
        assert message in err
        assert "Traceback" not in err


def test_a_store_can_be_read_like_a_table(tmp_path: Path) -> None:
    rows(200).write_csv(tmp_path / "a.csv")
    ingest([tmp_path / "a.csv"], tmp_path / "store", duplicates="last")
    expected = palate.read_dataset(tmp_path / "a.csv", duplicates="last")
    same(palate.read_dataset(tmp_path / "store"), expected)
    assert Dataset.from_frame(read_interactions(tmp_path / "store").frame).fingerprint == expected.fingerprint
    for read in (palate.read_dataset, read_interactions):
        with pytest.raises(ConfigError, match="is a data set on disk, which was read already; leave out duplicates="):
            read(tmp_path / "store", duplicates="last")
    with pytest.raises(PalateError, match="is a folder"):
        palate.read_dataset(tmp_path)
