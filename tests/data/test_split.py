"""Every split keeps the contract of a split; each one does what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.data.dataset import Dataset
from palate.data.events import Events
from palate.data.splits import SPLITS, Split, default_split, kfold
from palate.errors import ConfigError, DataError

HELD_OUT = {"sessions", "new-users", "new-users-and-items", "strong-generalisation"}
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "temporal": [{}, {"targets": "last"}, {"targets": "successive"}],
    "sessions": [{}],
    "random": [{}],
    "per-user": [{}, {"rounding": "up"}],
    "leave-last-out": [{"valid": 1}, {"valid": 2, "test": 2}],
    "k-fold": [{"k": 3, "fold": 2}],
    "predefined": [{"parts": "names"}, {"parts": "folds", "fold": 0}],
    "new-users": [{}, {"given": 1}, {"given": 3, "order": "random"}],
    "new-items": [{}, {"others": 0.2}],
    "new-users-and-items": [{}, {"given": 1}, {"given": 1, "skip": 2}],
    "strong-generalisation": [{}, {"fold_in": 0.5}],
}
CASES = [(name, options) for name, all_options in OPTIONS.items() for options in all_options]


def dataset(pairs: list[tuple[int, int]], times: list[int] | None, text: bool = False) -> Dataset:
    """Rows whose `weight` is their number in the input, with side tables that repeat the id."""
    users = [f"{u:03}" if text else u for u, _ in pairs]
    frame = pl.DataFrame({"user_id": users, "item_id": [i for _, i in pairs]}).with_columns(
        rating=pl.int_range(len(pairs)) % 5, weight=pl.int_range(len(pairs))
    )
    if times is not None:
        frame = frame.with_columns(timestamp=pl.Series(times))
    side = {key: frame.select(key).unique().with_columns(same=pl.col(key)) for key in ("user_id", "item_id")}
    return Dataset.from_frame(frame, items=side["item_id"], users=side["user_id"], rating_scale=(0.0, 9.0))


def small(users: int, items: int, times: int, rows: int, seed: int) -> Dataset:
    """Few rows, in no order, with ties in time."""
    rng = np.random.default_rng(seed)
    pairs = {(int(u), int(i)) for u, i in rng.integers(0, (users, items), (rows, 2))}
    order = rng.permutation(sorted(pairs)).tolist()
    return dataset([(u, i) for u, i in order], rng.integers(0, times, len(order)).tolist(), text=seed % 2 == 0)


def uneven(seed: int = 0, users: int = 40, items: int = 60, rows: int = 900) -> Dataset:
    """Some users with many rows, some with one; the same for items."""
    rng = np.random.default_rng(seed)
    pairs = {(int(users * a * a), int(items * b * b)) for a, b in rng.random((rows, 2))}
    return dataset(sorted(pairs), rng.integers(0, 10**6, len(pairs)).tolist())


def run(data: Dataset, name: str, options: dict[str, Any]) -> Split:
    folds = np.random.default_rng(5).permutation(len(data)) % 3
    if str(options.get("parts")) == "names":
        options = options | {"parts": np.array(["train", "test", "valid"])[folds]}
    if str(options.get("parts")) == "folds":
        options = options | {"parts": folds}
    if name not in ("leave-last-out", "k-fold", "predefined"):
        options = {"valid": 0.2, "test": 0.2} | options
    return SPLITS[name](data, **options)


def tags(data: Dataset | None) -> list[int]:
    assert data is not None
    assert data.weight is not None
    return data.weight.astype(int).tolist()


def parts_of(split: Split) -> dict[str, Dataset]:
    found = {"train": split.train, "valid": split.valid, "test": split.test}
    assert split.valid.history is not None
    assert split.test.history is not None
    return found | {"before valid": split.valid.history, "before test": split.test.history}


def check_rows(data: Dataset, part: Dataset) -> None:
    """A part's rows are rows of the data, in its order, and its tables are those of its ids."""
    whole = {row["weight"]: row for row in data.frame().iter_rows(named=True)}
    assert all(whole[row["weight"]] == row for row in part.frame().iter_rows(named=True))
    assert part.timestamp is not None
    order = list(zip(part.user.tolist(), part.timestamp.tolist(), tags(part), strict=True))
    assert order == sorted(order)
    for ids, table, key in ((part.users, part.user_table, "user_id"), (part.items, part.item_table, "item_id")):
        assert table is not None
        assert table[key].to_list() == table["same"].to_list() == ids.ids.to_list()
    assert part.rating_scale == data.rating_scale
    assert (part.user.dtype, part.item.dtype) == (np.int32, np.int32)


def check_maps(split: Split) -> None:
    """Train knows its own ids; the later parts add theirs behind."""
    train = split.train
    assert sorted(set(train.user.tolist())) == list(range(train.n_users))
    assert sorted(set(train.item.tolist())) == list(range(train.n_items))
    for side in ("users", "items"):
        ids = [getattr(part, side).ids.to_list() for part in (train, split.valid, split.test)]
        assert ids[1][: len(ids[0])] == ids[0]
        assert ids[2][: len(ids[1])] == ids[1]
        assert all(len(set(part)) == len(part) for part in ids)
        for part in (split.valid, split.test):
            assert part.history is not None
            assert getattr(part.history, side).ids.to_list() == getattr(part, side).ids.to_list()


def check_new_pairs(data: Dataset, split: Split, everything: list[int]) -> None:
    """Pairs of a known user with a new item belong to no part: their number is told, and none but such are left out."""
    assert len(set(everything)) == len(everything)
    users, items = split.train.users.ids.to_list(), split.train.items.ids.to_list()
    known = data.frame().filter(pl.col("user_id").is_in(users) & pl.col("item_id").is_in(items))
    assert sorted(tags(split.train)) == sorted(known["weight"].to_list())
    assert f"new-users-and-items: {len(data) - len(everything):,} rows are in no part" in split.notes


def check_partition(data: Dataset, split: Split, name: str, last: bool = False) -> None:
    """No row twice, none lost; histories hold what came before and nothing else."""
    kept = {part: tags(found) for part, found in parts_of(split).items()}
    everything = kept["train"] + kept["valid"] + kept["test"]
    if name in HELD_OUT:
        everything += kept["before valid"] + kept["before test"]
    if name == "new-users-and-items":
        check_new_pairs(data, split, everything)
    elif last:
        assert sorted(everything + kept["before test"]) == sorted(tags(data) + kept["train"] + kept["valid"])
        assert set(kept["train"]) <= set(kept["before valid"]) <= set(kept["before test"])
        return
    else:
        assert sorted(everything) == sorted(tags(data))
    if name not in HELD_OUT:
        assert kept["before valid"] == kept["train"]
        assert sorted(kept["before test"]) == sorted(kept["train"] + kept["valid"])
        return
    people = {part: set(found.frame()["user_id"]) for part, found in parts_of(split).items()}
    assert people["before valid"] <= people["valid"]
    assert people["before test"] <= people["test"]
    assert not people["train"] & people["valid"]
    assert not people["train"] & people["test"]
    assert not people["valid"] & people["test"]


@pytest.mark.parametrize(("name", "options"), CASES)
@settings(max_examples=30)
@given(st.integers(1, 12), st.integers(1, 20), st.integers(1, 30), st.integers(1, 90), st.integers(0, 2**32))
def test_every_split_keeps_the_contract(
    name: str, options: dict[str, Any], users: int, items: int, times: int, rows: int, seed: int
) -> None:
    data = small(users, items, times, rows, seed)
    try:
        split = run(data, name, options)
    except DataError as error:
        assert "leaves no rows for" in str(error)  # noqa: PT017  # small data may not give every part a row
        return
    for part in parts_of(split).values():
        check_rows(data, part)
    check_maps(split)
    check_partition(data, split, name, options.get("targets") == "last")
    assert min(len(split.train), len(split.valid), len(split.test)) > 0


@pytest.mark.parametrize(("name", "options"), CASES)
def test_splits_of_uneven_data(name: str, options: dict[str, Any]) -> None:
    data = uneven()
    split = run(data, name, options)
    for part in parts_of(split).values():
        check_rows(data, part)
    check_maps(split)
    check_partition(data, split, name, options.get("targets") == "last")


@pytest.mark.parametrize(("name", "options"), CASES)
def test_one_seed_one_split(name: str, options: dict[str, Any]) -> None:
    first, again = (run(uneven(), name, options | {"seed": 3}) for _ in range(2))
    other = run(uneven(), name, options | {"seed": 4})
    for part, same in zip(parts_of(first).values(), parts_of(again).values(), strict=True):
        assert part.fingerprint == same.fingerprint
    assert first.notes == again.notes
    chance = name not in ("temporal", "leave-last-out", "sessions") and options.get("parts") != "names"
    assert (first.train.fingerprint != other.train.fingerprint) == chance


@pytest.mark.parametrize(("name", "options"), CASES)
def test_valid_may_be_left_out(name: str, options: dict[str, Any]) -> None:
    if options.get("parts") == "names":
        options = {"parts": np.arange(len(uneven())) % 3 == 0}
    split = run(uneven(), name, options | {"valid": 0})
    assert len(split.valid) == 0
    check_maps(split)
    check_partition(uneven(), split, name, options.get("targets") == "last")


def test_every_split_is_tried() -> None:
    assert set(OPTIONS) == set(SPLITS)


# What stands in the notes.


def test_describe_counts_what_is_new() -> None:
    split = SPLITS["temporal"](small(12, 60, 30, 90, seed=0), valid=0.1, test=0.3)
    train = {key: set(split.train.frame()[key]) for key in ("user_id", "item_id")}
    for line, part in zip(split.describe().iter_rows(named=True), (split.train, split.valid, split.test), strict=True):
        frame = part.frame()
        new = {key: set(frame[key]) - train[key] for key in train}
        touched = frame.filter(pl.col("user_id").is_in(new["user_id"]) | pl.col("item_id").is_in(new["item_id"]))
        assert line["rows"] == len(frame)
        assert (line["users"], line["items"]) == (frame["user_id"].n_unique(), frame["item_id"].n_unique())
        assert (line["new_users"], line["new_items"]) == (len(new["user_id"]), len(new["item_id"]))
        assert line["new_rows"] == pytest.approx(len(touched) / len(frame))
    assert split.describe()["part"].to_list() == ["train", "valid", "test"]
    assert split.describe()["new_items"][2] > 0
    assert f"{split.describe()['new_items'][2]} items are new (not in train)" in split.notes[-1]


# Shares and places, one split after the other.


@pytest.mark.parametrize("name", ["random", "temporal"])
def test_shares_of_rows_are_exact(name: str) -> None:
    data = dataset([(n % 7, n) for n in range(200)], list(range(200)))
    split = SPLITS[name](data, valid=0.15, test=0.25)
    assert (len(split.train), len(split.valid), len(split.test)) == (120, 30, 50)


def test_temporal_never_trains_on_the_future() -> None:
    split = SPLITS["temporal"](uneven(), valid=0.1, test=0.2)
    train, valid, test = (part.timestamp for part in (split.train, split.valid, split.test))
    assert train is not None
    assert valid is not None
    assert test is not None
    assert train.max() < valid.min()
    assert valid.max() < test.min()


def test_temporal_keeps_a_second_together_and_says_so() -> None:
    times = [0, 1, 2, 3, 3, 3, 6, 7, 8, 8]
    split = SPLITS["temporal"](dataset([(0, n) for n in range(10)], times), valid=0.5, test=0.1)
    assert tags(split.train) == [0, 1, 2]
    assert tags(split.valid) == [3, 4, 5, 6, 7]
    assert tags(split.test) == [8, 9]
    assert (
        split.notes[0] == "temporal: valid begins at 1970-01-01T00:00:03 UTC; 1 extra row moved to valid because of "
        "equal timestamps"
    )
    assert split.notes[1].startswith("temporal: test begins at 1970-01-01T00:00:08 UTC; 1 extra row")


def test_temporal_without_time_to_split_by() -> None:
    with pytest.raises(DataError, match="needs timestamps, which this data lacks"):
        SPLITS["temporal"](dataset([(0, 0), (0, 1)], None))
    with pytest.raises(DataError, match="leaves no rows for train and valid: rows with equal timestamps stay together"):
        SPLITS["temporal"](dataset([(0, n) for n in range(10)], [5] * 10))


def test_leave_last_out_by_hand() -> None:
    #      user 0: four rows, two at the same time; user 1: two rows; user 2: one; user 3: three
    pairs = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (2, 0), (3, 0), (3, 1), (3, 2)]
    times = [5, 9, 9, 1, 2, 1, 0, 3, 2, 1]
    split = SPLITS["leave-last-out"](dataset(pairs, times))
    assert tags(split.test) == [2, 4, 7]
    assert tags(split.valid) == [1, 8]
    assert tags(split.train) == [3, 0, 5, 6, 9]
    assert split.notes[0] == "leave-last-out: 2 users have too few rows for all parts; they fill train first, then test"


def test_leave_last_out_without_times_goes_by_the_input() -> None:
    split = SPLITS["leave-last-out"](dataset([(0, 2), (0, 1), (0, 0)], None))
    assert (tags(split.train), tags(split.valid), tags(split.test)) == ([0], [1], [2])
    assert "no timestamps; the order of the input is used instead" in split.notes[0]


def test_per_user_shares_hold_for_short_histories_too() -> None:
    data = dataset([(user, item) for user in range(400) for item in range(3)], None)
    split = SPLITS["per-user"](data, valid=0.1, test=0.1)
    assert len(split.train) + len(split.valid) + len(split.test) == 1200
    assert len(split.test) == pytest.approx(120, abs=30)
    assert len(split.valid) == pytest.approx(120, abs=30)
    assert split.train.n_users == 400
    exact = SPLITS["per-user"](dataset([(u, i) for u in range(9) for i in range(20)], None), valid=0.1, test=0.25)
    assert np.bincount(exact.test.user).tolist() == [5] * 9
    assert np.bincount(exact.valid.user).tolist() == [2] * 9
    assert len(set(exact.test.item.tolist())) > 10


def test_per_user_leaves_everybody_a_row() -> None:
    data = dataset([(user, item) for user in range(20) for item in range(1 + user % 3)], None)
    split = SPLITS["per-user"](data, valid=0.45, test=0.5)
    assert sorted(set(split.train.frame()["user_id"])) == list(range(20))


def test_each_row_is_test_in_one_fold() -> None:
    data = uneven()
    folds = list(kfold(data, k=4, seed=2, valid=0.25))
    assert sorted(tag for fold in folds for tag in tags(fold.test)) == sorted(tags(data))
    sizes = [len(fold.test) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    for number, fold in enumerate(folds, start=1):
        assert len(fold.valid) == round(0.25 * (len(data) - len(fold.test)))
        assert tags(SPLITS["k-fold"](data, fold=number, k=4, seed=2, valid=0.25).train) == tags(fold.train)


def test_given_by_a_frame_of_ids() -> None:
    data = dataset([(0, 0), (0, 1), (1, 0), (1, 1)], None, text=True)
    parts = pl.DataFrame(
        {
            "item_id": [1, 0, 1, 0, 5],
            "user_id": ["001", "001", "000", "000", "000"],
            "fold": [1, 2, 2, 3, 1],
            "late": [True, False, True, False, True],
            "part": ["test", "valid", "train", "train", "test"],
        }
    )
    by_fold = data.split("predefined", parts=parts, column="fold", fold=2, valid=0)
    assert (tags(by_fold.train), tags(by_fold.test)) == ([0, 3], [1, 2])
    assert by_fold.notes[0] == "predefined: 1 pairs in parts are not in this data"
    by_truth = data.split("predefined", parts=parts, column="late", valid=0.5)
    assert tags(by_truth.test) == [1, 3]
    assert sorted(tags(by_truth.train) + tags(by_truth.valid)) == [0, 2]
    by_name = data.split("predefined", parts=parts.select("user_id", "item_id", "part"))
    assert (tags(by_name.train), tags(by_name.valid), tags(by_name.test)) == ([0, 1], [2], [3])


GIVEN_FAULTS: list[tuple[Callable[[pl.DataFrame], Any], dict[str, Any], type[Exception], str]] = [
    (
        lambda f: f[1:],
        {"column": "fold", "fold": 1},
        DataError,
        "1 of 4 rows have no part, for example user 0 and item 0",
    ),
    (
        lambda f: pl.concat([f, f[:1].with_columns(fold=pl.lit(2, pl.Int64))]),
        {"column": "fold", "fold": 1},
        DataError,
        "user 0 and item 0 more than once",
    ),
    (lambda f: f, {"column": "fold", "fold": 9}, ConfigError, "fold = 9 is not one of the folds in parts; .* 1, 2"),
    (lambda f: f, {"column": "fold"}, ConfigError, r"fold numbers; give fold=\.\.\., one of 1, 2"),
    (lambda f: f, {"fold": 1}, ConfigError, r"column=\.\.\.; the frame has user_id, item_id, fold, name"),
    (lambda f: f, {"column": "nome"}, ConfigError, "no column 'nome'"),
    (lambda f: f.drop("item_id"), {"column": "fold"}, DataError, "item_id"),
    (lambda f: f.clear(), {"column": "fold", "fold": 1}, DataError, "4 of 4 rows have no part"),
    (lambda f: f["fold"][:2], {"fold": 1}, DataError, "2 values for 4 rows"),
    (lambda f: ["train", None, "test", "test"], {}, DataError, "1 of 4 rows have no part"),
    (lambda f: ["train", "tset", "test", "dev"], {}, DataError, "train, valid or test, not 'dev', 'tset'"),
    (lambda f: [0.5] * 4, {}, DataError, "not Float64"),
    (lambda f: ["train"] * 4, {"valid": 0}, DataError, "leaves no rows for test"),
    (lambda f: ["test"] * 4, {"valid": 0}, DataError, "leaves no rows for train"),
]


@pytest.mark.parametrize(("change", "options", "error", "message"), GIVEN_FAULTS)
def test_given_parts_of_no_use(
    change: Callable[[pl.DataFrame], Any], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    frame = pl.DataFrame(
        {"user_id": [0, 0, 1, 1], "item_id": [0, 1, 0, 1], "fold": [1, 2, 1, 2], "name": ["train"] * 4}
    )
    with pytest.raises(error, match=message):
        dataset([(0, 0), (0, 1), (1, 0), (1, 1)], None).split("predefined", parts=change(frame), **options)


# Splits that cannot be.


@pytest.mark.parametrize("name", ["random", "per-user", "temporal", "new-users", "new-items", "strong-generalisation"])
def test_impossible_shares_are_all_named(name: str) -> None:
    data = uneven()
    with pytest.raises(ConfigError, match=r"(?s)2 faults.*valid = -0.1 is not a share.*test = 1 is not a share"):
        data.split(name, valid=-0.1, test=1)
    with pytest.raises(ConfigError, match=r"valid = 0.6 and test = 0.4 leave nothing for train"):
        data.split(name, valid=0.6, test=0.4)
    with pytest.raises(ConfigError, match=r"test = 0 is not a share"):
        data.split(name, test=0)
    with pytest.raises(ConfigError, match=r"valid = nan is not a share"):
        data.split(name, valid=float("nan"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("leave-last-out", {"valid": -1, "test": 0}, "(?s)2 faults.*valid = -1.*test = 0"),
        ("k-fold", {"k": 1, "fold": 2}, "(?s)2 faults.*k = 1 folds.*fold = 2 is not one of 1 to 1"),
        ("k-fold", {"fold": 0}, "fold = 0 is not one of 1 to 5"),
        ("k-fold", {"valid": 1}, "valid = 1 is not a share"),
        ("new-users", {"given": -1}, "given = -1"),
        ("strong-generalisation", {"fold_in": 1}, "fold_in = 1 is not a share"),
    ],
)
def test_impossible_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        uneven().split(name, **options)


@pytest.mark.parametrize(
    ("name", "options", "missing"),
    [
        ("random", {}, "valid and test: use a larger share"),
        ("per-user", {}, "valid and test: a user with one row keeps it"),
        ("temporal", {}, "valid and test: "),
        ("leave-last-out", {}, "valid and test: a user needs 3 rows"),
        ("new-users", {"test": 0.9, "valid": 0}, "train: only users with more than 0 rows can be held out"),
        ("new-items", {"test": 0.9, "valid": 0}, "train: use a larger share"),
        ("strong-generalisation", {"test": 0.9, "valid": 0}, "test: only users with two rows or more"),
    ],
)
def test_a_single_row_cannot_be_split(name: str, options: dict[str, Any], missing: str) -> None:
    with pytest.raises(DataError, match=f"split of 1 rows, 1 users and 1 items leaves no rows for {missing}"):
        dataset([(0, 0)], [0]).split(name, **options)


def test_more_folds_than_rows() -> None:
    with pytest.raises(DataError, match="split of 3 rows into 5 folds leaves no rows for some"):
        dataset([(0, 0), (0, 1), (1, 1)], None).split("k-fold")


def test_parts_are_not_split_again_but_train_is() -> None:
    split = SPLITS["random"](uneven())
    with pytest.raises(DataError, match="already a valid or test part"):
        split.test.split("random")
    again = split.train.split("temporal")
    check_partition(split.train, again, "temporal")
    check_maps(again)


# Real data: the published folds, and a cut whose size is known.


def test_published_folds_of_movielens_100k(real_data: Callable[[str], Path]) -> None:
    frame = pl.read_parquet(real_data("ml-100k") / "ratings.parquet")
    data = Dataset.from_frame(frame.select("user_id", "item_id", "rating", "timestamp"))
    parts = frame.select("user_id", "item_id", "u_fold", "ua_test")
    seen = []
    for fold in range(1, 6):
        split = data.split("predefined", parts=parts, column="u_fold", fold=fold, valid=0.05)
        assert (len(split.train), len(split.valid), len(split.test)) == (76_000, 4_000, 20_000)
        expected = frame.filter(pl.col("u_fold") == fold).select("user_id", "item_id", "rating")
        found = split.test.frame().select("user_id", "item_id", pl.col("rating").cast(expected["rating"].dtype))
        assert found.sort("user_id", "item_id").equals(expected.sort("user_id", "item_id"))
        seen.append(len(split.test.active_users))
    assert seen[0] < 943
    ua = data.split("predefined", parts=parts, column="ua_test", valid=0)
    assert np.bincount(ua.test.user, minlength=943).tolist() == [10] * 943


def test_the_temporal_cut_of_movielens_1m(real_data: Callable[[str], Path]) -> None:
    frame = pl.read_parquet(real_data("ml-1m") / "ratings.parquet").select("user_id", "item_id", "rating", "timestamp")
    split = Dataset.from_frame(frame).split("temporal", valid=0, test=0.2)
    assert split.test.timestamp is not None
    assert split.train.timestamp is not None
    assert (len(split.test), split.test.timestamp.min()) == (200_045, 975_768_738)
    assert split.train.timestamp.max() < 975_768_738


def test_the_default_split_follows_the_table() -> None:
    rng = np.random.default_rng(0)
    pairs = pl.DataFrame({"user_id": np.repeat(np.arange(40), 30), "item_id": rng.integers(0, 60, 1200)}).unique(
        maintain_order=True
    )
    mixed = pairs.with_columns(timestamp=pl.Series(rng.integers(0, 10**9, pairs.height)))
    in_turn = pairs.with_columns(timestamp=pl.col("user_id") * 1000)  # each user comes after the one before has left
    assert default_split(Dataset.from_frame(mixed)) == ("temporal", "")
    name, reason = default_split(Dataset.from_frame(in_turn))
    assert name == "per-user"
    assert "100.0% of the test rows" in reason
    assert default_split(Dataset.from_frame(pairs)) == ("per-user", "split per-user, because the data has no times")
    sessions = replace(Dataset.from_frame(mixed), events=Events(sessions=True))
    assert default_split(sessions)[0] == "sessions"
