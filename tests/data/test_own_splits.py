"""Splits that somebody made: tables of parts, held-out users with histories, and a column of parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import palate
from palate.cli import main
from palate.data.dataset import Dataset
from palate.data.splits import Split, read_split
from palate.errors import ConfigError, DataError

ROWS = palate.load_dataset("synthetic-1000").frame()


def shuffled(part: Dataset | None) -> pl.DataFrame:
    assert part is not None
    return part.frame().sample(fraction=1.0, shuffle=True, seed=1)


def rows_of(part: Dataset | None) -> list[tuple[Any, ...]]:
    assert part is not None
    return sorted(part.frame().rows())


def test_held_out_users_come_with_a_history() -> None:
    """The tables of a strong-generalisation split give the same parts, in pandas too, and the same evaluation."""
    pytest.importorskip("pandas", reason="pandas is not installed")
    made = Dataset.from_frame(ROWS).split("strong-generalisation", seed=2)
    own = read_split(
        shuffled(made.train),
        valid=shuffled(made.valid).to_pandas(),
        valid_history=shuffled(made.valid.history),
        test=shuffled(made.test),
        test_history=shuffled(made.test.history),
    )
    for name in ("train", "valid", "test"):
        ours, theirs = getattr(own, name), getattr(made, name)
        assert rows_of(ours) == rows_of(theirs)
        assert (ours.history is None) == (theirs.history is None)
        assert ours.history is None or rows_of(ours.history) == rows_of(theirs.history)
    found = [palate.Recommender.train(parts.train, "ease").evaluate(parts.test, ["ndcg@10"]) for parts in (own, made)]
    assert found[0]["ndcg@10"].value == pytest.approx(found[1]["ndcg@10"].value)
    assert found[0].routes["history"] == 1.0


def test_users_of_train_have_their_earlier_rows_as_history(tmp_path: Path) -> None:
    made = Dataset.from_frame(ROWS).split("temporal")
    for name in ("train", "valid", "test"):
        getattr(made, name).frame().rename({"user_id": "customer"}).write_csv(tmp_path / f"{name}.csv")
    items = pl.DataFrame({"item_id": ROWS["item_id"].unique().sort().cast(pl.String)}).with_columns(year=pl.lit(1999))
    items.write_csv(tmp_path / "items.csv")
    own = read_split(
        tmp_path / "train.csv",
        valid=tmp_path / "valid.csv",
        test=tmp_path / "test.csv",
        items=tmp_path / "items.csv",
        columns={"user_id": "customer"},
    )
    assert len(own.test.history or ()) == len(own.train) + len(own.valid)
    assert own.train.spec.n_items == made.train.spec.n_items
    assert own.train.item_table is not None
    assert own.train.item_table.columns == ["item_id", "year"]


def test_a_history_adds_to_the_rows_of_users_of_train() -> None:
    train = pl.DataFrame({"user_id": [1, 1, 2], "item_id": [1, 2, 1]})
    more, test = pl.DataFrame({"user_id": [2], "item_id": [2]}), pl.DataFrame({"user_id": [2], "item_id": [3]})
    own = read_split(train, test=test, test_history=more)
    assert rows_of(own.train) == [(1, 1), (1, 2), (2, 1)]
    assert rows_of(own.test.history) == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert len(own.valid) == 0


def pairs(*rows: tuple[Any, Any], **more: Any) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=["user_id", "item_id"], orient="row").with_columns(**more)


@pytest.mark.parametrize(
    ("tables", "error", "message"),
    [
        ({"test": pairs((1, 1), (9, 9))}, DataError, "1 pairs .* user 1 and item 1 in train and test; remove"),
        ({"test": pairs(("1", "5"))}, DataError, r"test has the columns user_id \(text\).* train has .*whole numbers"),
        ({"test": pairs((1, 5), rating=pl.lit(2.0))}, DataError, "test has the columns .*, rating, and train has"),
        ({"test": pairs((1, None)), "valid": pairs((None, 1))}, DataError, "(?s)2 faults.*valid: .*test: "),
        ({"test": pairs((1, 5)), "valid_history": pairs((3, 1))}, ConfigError, "valid_history= is the history"),
        ({"test": pairs((1, 5)), "session_gap": "30m"}, ConfigError, "session_gap="),
        ({"test": pairs((1, 5)).clear()}, DataError, "test: "),
    ],
    ids=["shared pair", "kind of ids", "columns", "all faults", "history alone", "session_gap", "no rows"],
)
def test_tables_that_do_not_fit(tables: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_split(pairs((1, 1), (1, 2), (2, 1)), **tables)


def test_repeated_events_may_be_in_two_parts() -> None:
    own = read_split(pairs((1, 1), (1, 2), (2, 1)), test=pairs((1, 1)), duplicates="keep")
    assert (len(own.train), len(own.test)) == (3, 1)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a name, a truth and a fold for each row."""
    file = tmp_path_factory.mktemp("own") / "rows.csv"
    place = pl.int_range(pl.len())
    names = np.array(["train", "Train", "train", "val", "test"])[np.arange(len(ROWS)) % 5]
    ROWS.with_columns(fold=place % 3 + 1, late=place % 4 == 0, part=pl.Series(names)).rename(
        {"user_id": "customer"}
    ).write_csv(file)
    return file


def sizes(parts: Split) -> tuple[int, int, int]:
    return len(parts.train), len(parts.valid), len(parts.test)


def test_a_column_of_the_table_names_the_parts(table: Path) -> None:
    columns, n = {"user_id": "customer"}, len(ROWS)
    data = Dataset.read(table, columns=columns)
    fifth, third, quarter = -(-n // 5), -(-n // 3), -(-n // 4)
    assert sizes(data.split("predefined", parts=table, column="part", columns=columns))[1:] == (n // 5, n // 5)
    by_fold = data.split("predefined", parts=table, column="fold", fold=1, columns=columns, valid=0)
    assert sizes(by_fold) == (n - third, 0, third)
    frame = pl.read_csv(table, schema_overrides={"customer": pl.String, "item_id": pl.String})
    by_truth = data.split("predefined", parts=frame, column="late", columns=columns, valid=0)
    assert sizes(by_truth) == (n - quarter, 0, quarter)
    only = frame.select("customer", "item_id", "part")
    assert sizes(data.split("predefined", parts=only, columns=columns))[0] >= 3 * (fifth - 1)


def test_the_command_line_takes_the_column(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "popularity", str(table), "--user-id", "customer", "--out", str(tmp_path / "run")]

    def run(*more: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main([*words, *more])
        out, errors = capsys.readouterr()
        return int(end.value.code or 0), out + errors

    code, said = run("--split-column", "fold", "--fold", "2")
    assert code == 0
    assert f"test: {len(ROWS) // 3} rows" in said
    rec = palate.Recommender.load(tmp_path / "run")
    assert len(rec.parts["test"]) == len(ROWS) // 3
    for more, message in [
        (["--split-column", "fold"], "fold numbers; give --fold, one of 1, 2, 3"),
        (["--split-column", "nope"], "has no column 'nope'"),
        (["--split-column", "part", "--split", "random", "--test", "0.2"], "leave out --split, --test"),
        (["--split-column", "part", "--session-gap", "30m"], "leave out one"),
        (["--split-column", "part", "--protocol", "anelli"], "leave out --split-column"),
    ]:
        code, said = run(*more)
        assert code == 2
        assert message in said
