"""A dataset on disk is the dataset that was saved; a broken folder is named; a failure leaves the old one."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.data import external_sort as blocks_module
from palate.data.dataset import Dataset
from palate.data.external_sort import Block
from palate.data.splits import build as build_module
from palate.data.store import open_dataset, save_dataset, write_blocks
from palate.errors import ArtifactError, DataError


def dataset(rows: int = 300, text: bool = True) -> Dataset:
    rng = np.random.default_rng(rows)
    users = pl.Series("user_id", rng.integers(0, 20, rows))
    frame = pl.DataFrame([users.cast(pl.String) if text else users]).with_columns(
        item_id=pl.Series(rng.integers(0, 30, rows)),
        rating=pl.Series(rng.random(rows).round(2)),
        timestamp=pl.Series(rng.integers(0, 99, rows)),
        weight=pl.Series(rng.random(rows)),
    )
    items = frame.select("item_id").unique(maintain_order=True).with_columns(tags=pl.lit(["a", "ж"]), year=pl.lit(1999))
    return Dataset.from_frame(frame, items=items, rating_scale=(0.0, 1.0), notes=("made for a test", "ünï"))


def same(first: Dataset, second: Dataset) -> bool:
    """Whether two datasets agree in everything, histories included."""
    if first.fingerprint != second.fingerprint or (first.history is None) != (second.history is None):
        return False
    for name in ("item_table", "user_table"):
        one, other = getattr(first, name), getattr(second, name)
        if (one is None) != (other is None) or (one is not None and not one.equals(other)):
            return False
    if (first.rating_scale, first.notes) != (second.rating_scale, second.notes):
        return False
    return first.history is None or second.history is None or same(first.history, second.history)


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("part", ["whole", "train", "test", "no valid", "bare"])
def test_what_is_saved_is_what_is_opened(tmp_path: Path, mmap: bool, part: str) -> None:
    data = dataset(text=part != "bare")
    if part == "bare":
        data = replace(data, rating=None, timestamp=None, weight=None, item_table=None, rating_scale=None, notes=())
    elif part != "whole":
        split = data.split("temporal", valid=0 if part == "no valid" else 0.1)
        data = split.valid if part == "no valid" else getattr(split, part)
    save_dataset(data, tmp_path / "deep" / "data")
    opened = open_dataset(tmp_path / "deep" / "data", mmap)
    assert same(opened, data)
    assert opened.users.ids.dtype == data.users.ids.dtype
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["data"]


def test_a_mapped_dataset_works_like_any_other_and_never_writes(tmp_path: Path) -> None:
    data = dataset()
    save_dataset(data, tmp_path / "data")
    opened = open_dataset(tmp_path / "data")
    base = opened.user
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap)
    split, expected = opened.split("random"), data.split("random")
    assert same(split.test, expected.test)
    queries = opened.queries(np.arange(5), opened.spec)
    assert queries.ratings is not None
    queries.history.values.zero_()
    assert opened.rating is not None
    opened.rating[:] = 9
    assert same(open_dataset(tmp_path / "data"), data)


def mapped(column: np.ndarray | None) -> bool:
    """Whether an array lies on disk."""
    while isinstance(column, np.ndarray):
        if isinstance(column, np.memmap):
            return True
        column = column.base  # type: ignore[assignment]
    return False


@pytest.mark.parametrize("name", ["temporal", "random", "leave-last-out", "new-users"])
def test_parts_of_a_mapped_dataset_lie_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(build_module, "_BLOCK_ROWS", 50)
    data = dataset()
    save_dataset(data, tmp_path / "data")
    files = sorted(tmp_path.rglob("*"))
    found, expected = Dataset.open(tmp_path / "data").split(name), data.split(name)
    for part, other in zip(
        (found.train, found.valid, found.test), (expected.train, expected.valid, expected.test), strict=True
    ):
        assert same(part, other)
        for column in ("user", "item", "rating", "timestamp", "weight"):
            assert mapped(getattr(part, column))
    again, once = found.train.split("random"), expected.train.split("random")
    assert same(again.test, once.test)
    assert mapped(again.test.item)
    assert sorted(tmp_path.rglob("*")) == files


def test_parts_that_do_not_fit_the_disk(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    save_dataset(dataset(3000), tmp_path / "data")
    opened = Dataset.open(tmp_path / "data")
    request.getfixturevalue("small_files")
    with pytest.raises(ArtifactError, match=r"parts of the split cannot be written .*: free some"):
        opened.split("random")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_saving_again_replaces(tmp_path: Path) -> None:
    save_dataset(dataset(300), tmp_path / "data")
    first = open_dataset(tmp_path / "data")
    print_before = first.fingerprint
    save_dataset(dataset(200), tmp_path / "data")
    assert same(open_dataset(tmp_path / "data"), dataset(200))
    assert first.fingerprint == print_before
    save_dataset(open_dataset(tmp_path / "data"), tmp_path / "data")
    assert same(open_dataset(tmp_path / "data"), dataset(200))


def test_an_empty_folder_is_filled_and_a_strange_one_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    save_dataset(dataset(), tmp_path / "empty")
    assert same(open_dataset(tmp_path / "empty"), dataset())
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("dear")
    for place in (tmp_path / "thesis", tmp_path / "thesis" / "chapter1.txt"):
        with pytest.raises(ArtifactError, match="is not a data set folder"):
            save_dataset(dataset(), place)
    with pytest.raises(ArtifactError, match="cannot be written"):
        save_dataset(dataset(), tmp_path / "thesis" / "chapter1.txt" / "data")
    assert (tmp_path / "thesis" / "chapter1.txt").read_text() == "dear"


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 2000 bytes: what a full disk does, without filling one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    save_dataset(dataset(40), tmp_path / "data")
    request.getfixturevalue("small_files")
    with pytest.raises(ArtifactError, match=r"cannot be written .* an existing data set is unchanged"):
        save_dataset(dataset(3000), tmp_path / "data")
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_blocks(tmp_path / "data", [(np.zeros(9000, np.int32), np.zeros(9000, np.int32))], n_users=1, n_items=1)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert same(open_dataset(tmp_path / "data"), dataset(40))


def test_a_failure_at_the_last_moment_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_dataset(dataset(40), tmp_path / "data")
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError("the disk was pulled out")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(ArtifactError, match="the disk was pulled out"):
        save_dataset(dataset(50), tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert same(open_dataset(tmp_path / "data"), dataset(40))


def edit(**changes: object) -> Callable[[Path], object]:
    def change(folder: Path) -> object:
        about = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        return (folder / "dataset.json").write_text(json.dumps(about | changes), encoding="utf-8")

    return change


def cut(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-20])


def forged(change: Callable[[Path], object]) -> Callable[[Path], object]:
    """A change with a manifest that tells no hashes, as another program may write it."""

    def both(folder: Path) -> object:
        change(folder)
        return edit(files={})(folder)

    return both


def put(name: str, place: int, value: float) -> Callable[[Path], object]:
    """A change of one value of a column."""

    def change(folder: Path) -> None:
        column = np.load(folder / f"{name}.npy", allow_pickle=False)
        column[place] = value
        np.save(folder / f"{name}.npy", column, allow_pickle=False)

    return change


def replace_table(name: str, table: pl.DataFrame) -> Callable[[Path], object]:
    return lambda folder: table.write_parquet(folder / f"{name}.parquet")


INCOMPLETE = "is not a complete data set folder"
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda folder: folder.rename(folder.with_name("elsewhere")), INCOMPLETE),
    "no json": (lambda folder: (folder / "dataset.json").unlink(), INCOMPLETE),
    "cut json": (cut("dataset.json"), INCOMPLETE),
    "a list": (lambda folder: (folder / "dataset.json").write_text("[]"), "dataset.json holds list, not an object"),
    "no rows entry": (edit(rows=None), "rows, users and items are"),
    "newer format": (edit(format=3), "has format 3, this version of palate reads 2; use the version that wrote it"),
    "other rows": (edit(rows=3), r"user.npy holds int32 \(300,\), not 3 rows"),
    "other users": (edit(users=7), r"user.npy: values outside 0 to 6 \(\d+\)"),
    "more users": (edit(users=27), "users.parquet holds 20 rows, not 27"),
    "strange column": (edit(columns=["user", "item", "../user"]), INCOMPLETE),
    "missing column": (edit(columns=["user"]), INCOMPLETE),
    "two missing arrays": (
        lambda folder: [(folder / f"{name}.npy").unlink() for name in ("item", "rating")],
        "(?s)2 faults.*item.npy is missing.*rating.npy is missing",
    ),
    "cut array": (cut("rating.npy"), r"rating.npy holds 1,308 bytes, not 1,328: it was truncated or edited"),
    "cut array without hashes": (forged(cut("rating.npy")), r"rating.npy holds 1,180 bytes of values, not 1,200"),
    "edited array": (put("rating", 7, 0.5), "rating.npy was edited: its hash is not the one in dataset.json"),
    "cut ids": (cut("users.parquet"), "users.parquet holds .* bytes, not"),
    "cut ids without hashes": (forged(cut("users.parquet")), INCOMPLETE),
    "no table": (lambda folder: (folder / "item_table.parquet").unlink(), "item_table.parquet is missing"),
    "objects": (
        forged(lambda folder: np.save(folder / "user.npy", np.array([{}] * 300), allow_pickle=True)), "holds object",
    ),
    "other type": (forged(lambda folder: np.save(folder / "user.npy", np.zeros(300))), "user.npy holds float64"),
    "no array": (forged(lambda folder: (folder / "user.npy").write_bytes(b"user")), INCOMPLETE),
    "item too large": (forged(put("item", 9, 30)), r"item.npy: values outside 0 to 29 \(1\)"),
    "negative item": (forged(put("item", 9, -1)), r"item.npy: values outside 0 to 29 \(1\)"),
    "users not in order": (forged(put("user", 299, 0)), r"user.npy: users that are not in ascending order \(1\)"),
    "time runs back": (forged(put("timestamp", 0, 10**9)), r"timestamp.npy: times before the user's row above \(1\)"),
    "not finite": (forged(put("rating", 3, np.nan)), r"rating.npy: values that are not finite \(1\)"),
    "short table": (
        forged(replace_table("item_table", pl.DataFrame({"item_id": [1]}))), "item_table.parquet holds 1 rows, not 30",
    ),
    "other table": (
        forged(replace_table("item_table", pl.DataFrame({"item_id": list(range(1, 31))}))), "are not those of items",
    ),
    "repeated ids": (forged(replace_table("items", pl.DataFrame({"id": [1] * 30}))), "empty or repeated ids"),
    "ids of floats": (forged(replace_table("items", pl.DataFrame({"id": [0.5] * 30}))), "items.parquet holds Float64"),
}  # fmt: skip


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_folder_is_named(tmp_path: Path, fault: str, mmap: bool) -> None:
    save_dataset(dataset(), tmp_path / "data")
    change, message = BROKEN[fault]
    change(tmp_path / "data")
    with pytest.raises(ArtifactError, match=message):
        open_dataset(tmp_path / "data", mmap)


def test_a_manifest_of_another_program_needs_little(tmp_path: Path) -> None:
    data = replace(dataset(), item_table=None, notes=())
    save_dataset(data, tmp_path / "data")
    path = tmp_path / "data" / "dataset.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({name: about[name] for name in ("format", "rows", "users", "items", "columns")}))
    found = Dataset.open(tmp_path / "data")
    assert found.fingerprint == data.fingerprint
    assert data.rating is not None
    assert found.rating_scale == (data.rating.min(), data.rating.max())


# Blocks.


def cut_up(columns: dict[str, np.ndarray], sizes: list[int]) -> Iterator[Block]:
    start = 0
    for number, size in enumerate(sizes):
        block = {name: column[start : start + size] for name, column in columns.items()}
        yield block if number % 2 else tuple(block.values())
        start += size


@settings(max_examples=15)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 9), st.integers(4, 50), st.integers(0, 99))
def test_blocks_give_the_dataset_of_their_rows(sizes: list[int], users: int, chunk: int, seed: int) -> None:
    if not sum(sizes):
        return
    rng = np.random.default_rng(seed)
    rows = sum(sizes)
    columns = {
        "user": rng.integers(0, users, rows),
        "item": rng.integers(0, 12, rows, dtype=np.int16),
        "rating": rng.random(rows),
        "timestamp": rng.integers(0, 5, rows),
    }
    frame = pl.DataFrame({"user_id": columns["user"], "item_id": columns["item"].astype(np.int64)}).with_columns(
        rating=pl.Series(columns["rating"]), timestamp=pl.Series(columns["timestamp"])
    )
    expected = Dataset.from_frame(frame)
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setattr(blocks_module, "_CHUNK_ROWS", chunk)
        data = write_blocks(Path(folder, "data"), cut_up(columns, sizes), n_users=users, n_items=12)
        assert data.frame().equals(expected.frame())
    assert data.rating_scale == expected.rating_scale
    assert (data.n_users, data.n_items) == (users, 12)


def test_blocks_bring_side_tables_and_notes(tmp_path: Path) -> None:
    table = pl.DataFrame({"item_id": [0, 1], "title": ["A", "B"]})
    block = {"user": np.array([1, 0]), "item": np.array([1, 0]), "weight": np.array([2.0, 1.0])}
    data = write_blocks(
        tmp_path / "data", [block], n_users=3, n_items=2, item_table=table, rating_scale=(1.0, 5.0), notes=("made up",)
    )
    assert data.titles(np.array([1, 0])) == ["B", "A"]
    assert (data.notes, data.rating_scale, data.n_users) == (("made up",), (1.0, 5.0), 3)
    assert data.weight is not None
    assert data.weight.tolist() == [1, 2]
    assert data.rating is None
    with pytest.raises(DataError, match="item_table has 2 rows; expected one for each of the 5 indices"):
        write_blocks(tmp_path / "other", [block], n_users=3, n_items=5, item_table=table)


def column(*values: float) -> np.ndarray:
    return np.array(values)


BAD_BLOCKS: list[tuple[list[dict[str, Any]], str]] = [
    ([], "no interactions"),
    ([{"user": column(), "item": column()}], "block 1: 2 faults.*user holds float64.*item holds float64"),
    (
        [{"user": np.array([0, 2]), "item": np.array([-1, 0])}],
        "user runs from 0 to 2; .* 0 to 1.*item runs from -1 to 0",
    ),
    ([{"user": np.array([0]), "item": np.array([0, 1])}], r"differ in length: user \(1,\), item \(2,\)"),
    ([{"user": np.zeros((2, 2), int), "item": np.zeros((2, 2), int)}], "differ in length"),
    ([{"user": np.array([0])}], "block 1: it holds user; expected user, item and optionally rating"),
    ([{"user": np.array([0]), "item": np.array([0]), "stars": np.array([1])}], "it holds user, item, stars"),
    (
        [
            {"user": np.array([0]), "item": np.array([0])},
            {"user": np.array([0]), "item": np.array([1]), "rating": column(1)},
        ],
        "block 2: it holds user, item, rating; expected user, item",
    ),
    (
        [
            {"user": np.array([0, 0]), "item": np.array([0, 1]), "rating": column(np.nan, 1)}
            | {"weight": column(1e300, np.inf), "timestamp": column(1, 2.5)}
        ],
        "3 faults.*rating holds 1 values that are not finite.*weight holds 2 values.*timestamp holds float64",
    ),
]


@pytest.mark.parametrize(("blocks", "message"), BAD_BLOCKS)
def test_bad_blocks_are_refused_and_leave_nothing(tmp_path: Path, blocks: list[Block], message: str) -> None:
    with pytest.raises(DataError, match=f"(?s){message}"):
        write_blocks(tmp_path / "data", blocks, n_users=2, n_items=2)
    assert not list(tmp_path.iterdir())
