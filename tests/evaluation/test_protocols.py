"""Named protocols: the right rows in the right parts, hashes that tell all, errors that say what is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from palate.data.dataset import Dataset
from palate.data.events import Events
from palate.data.sources import load_tables
from palate.data.sources.synthetic import synthetic
from palate.data.splits import SPLITS
from palate.data.splits.predefined import read_candidates
from palate.errors import ConfigError, DataError, SourceError
from palate.evaluation.evaluate import evaluate
from palate.evaluation.protocols import PROTOCOLS, Prepared, prepare
from palate.models.baselines.popularity import Popularity

NEEDS_RATINGS = ["anelli", "u1", "5fold", "90-10", "80-20"]


def made(rows: pl.DataFrame) -> Dataset:
    return Dataset.from_frame(rows, rating_scale=(1.0, 5.0))


@pytest.fixture(scope="module")
def data() -> Dataset:
    """60 people of 80 items, 15 to 45 rows each, all ratings from 1 to 5; text ids."""
    rng = np.random.default_rng(0)
    pairs = [(u, i) for u in range(60) for i in rng.choice(80, int(rng.integers(15, 46)), replace=False)]
    frame = pl.DataFrame(pairs, schema=["user_id", "item_id"], orient="row")
    return made(
        frame.select(
            pl.format("u{}", "user_id").alias("user_id"),
            pl.format("i{}", "item_id").alias("item_id"),
            rating=pl.Series(rng.choice([1.0, 2.0, 3.0, 4.0, 5.0], len(pairs), p=[0.05, 0.1, 0.15, 0.4, 0.3])),
            timestamp=pl.Series(rng.permutation(len(pairs))),
        )
    )


def outside(name: str, data: Dataset) -> Any:
    """What must come from outside, made of the data itself."""
    rows = data.frame()
    if PROTOCOLS[name].given == "folds":
        return rows.select("user_id", "item_id", fold=pl.int_range(len(rows)) % 5 + 1, ua=pl.lit(True))
    if PROTOCOLS[name].given == "candidates":
        last = rows.group_by("user_id", maintain_order=True).agg(pl.last("item_id"))
        return last.with_columns(negatives=pl.lit(["i0", "i1", "i2", "no such item"]))
    return None


def suited(name: str, data: Dataset) -> Dataset:
    return replace(data, events=Events(sessions=True)) if PROTOCOLS[name].given == "sessions" else data


def ready(name: str, data: Dataset, **options: Any) -> Prepared:
    return prepare(name, suited(name, data), given=outside(name, data), **options)


def pairs(part: Dataset | None) -> set[tuple[Any, Any]]:
    assert part is not None
    return set(part.frame().select("user_id", "item_id").iter_rows())


@pytest.mark.parametrize("name", PROTOCOLS)
def test_no_row_is_in_two_parts_and_the_hash_is_that_of_the_evaluation(name: str, data: Dataset) -> None:
    found = ready(name, data)
    train, valid, test = (pairs(part) for part in (found.parts.train, found.parts.valid, found.parts.test))
    assert train
    assert valid
    assert test
    assert not train & valid
    assert not train & test
    assert not valid & test
    assert not test & pairs(found.parts.test.history)
    assert found.parts.notes[0].startswith(f"protocol {name}")
    model = Popularity(Popularity.Config(), found.parts.train.spec)
    model.fit(found.parts.train)
    judged = evaluate(model, found.parts.test, protocol=found.protocol, candidates=found.candidates)
    assert judged.protocol == found.protocol
    assert set(judged.estimates) == {m for m in PROTOCOLS[name].metrics if m not in ("rmse", "mae")} or "rmse" in judged


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_hash_is_stable_and_tells_data_and_chance_apart(name: str, data: Dataset) -> None:
    hashes = {ready(name, data).protocol.hash}
    assert hashes == {ready(name, made(data.frame().sample(fraction=1, shuffle=True, seed=1))).protocol.hash}
    if PROTOCOLS[name].seeded:
        hashes.add(ready(name, data, seed=1).protocol.hash)
    if PROTOCOLS[name].folds > 1:
        hashes |= {ready(name, data, fold=2).protocol.hash, ready(name, data, fold=2, seed=1).protocol.hash}
    hashes.add(ready(name, data.take(np.arange(len(data)) % 10 > 0)).protocol.hash)
    assert len(hashes) == 2 + PROTOCOLS[name].seeded + 2 * (PROTOCOLS[name].folds > 1)


def test_no_two_protocols_share_a_hash_but_u1_is_the_first_of_five_folds(data: Dataset) -> None:
    hashes = {name: ready(name, data).protocol.hash for name in PROTOCOLS}
    assert hashes.pop("u1") == hashes["5fold"]
    assert len(set(hashes.values())) == len(hashes)


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if PROTOCOLS[name].split != "predefined"])
def test_the_split_options_make_the_same_parts_again(name: str, data: Dataset) -> None:
    how = PROTOCOLS[name]
    found = ready(name, data, seed=3)
    assert found.protocol.split in SPLITS
    if how.min_rating is None and not how.min_user:
        again = suited(name, data).split(found.protocol.split, **dict(found.protocol.split_options))
        assert again.test.fingerprint == found.parts.test.fingerprint
        assert found.protocol.filters == ()
    else:
        filters = [] if how.min_rating is None else [f"min_rating {how.min_rating:g}"]
        filters += [f"min_user {how.min_user}, min_item {how.min_item}"] * (how.min_user > 0)
        assert found.protocol.filters == tuple(filters)


def test_temporal_and_leave_last_out_hold_out_the_latest(data: Dataset) -> None:
    parts = ready("temporal", data).parts
    times = [part.timestamp for part in (parts.train, parts.valid, parts.test)]
    assert times[0].max() < times[1].min() <= times[1].max() < times[2].min()
    assert len(parts.test) == round(0.1 * len(data))
    parts = ready("leave-last-out", data).parts
    last = (
        data.frame().sort("timestamp").group_by("user_id").agg(pl.last("item_id"), pl.col("item_id").get(-2).alias("2"))
    )
    assert pairs(parts.test) == set(last.select("user_id", "item_id").iter_rows())
    assert pairs(parts.valid) == set(last.select("user_id", "2").iter_rows())


def test_strong_generalisation_is_that_of_liang(data: Dataset) -> None:
    """One item belongs to a single person alone: where that person is held out, the row is dropped, and counted."""
    odd = pl.DataFrame({"user_id": [f"u{u}" for u in range(60)], "item_id": [f"only {u}" for u in range(60)]})
    odd = odd.with_columns(rating=pl.lit(5.0), timestamp=pl.lit(0))
    whole = made(
        pl.concat([data.frame().with_columns(pl.col("rating").cast(pl.Float64)), odd.cast({"timestamp": pl.Int64})])
    )
    found = ready("strong-generalisation", whole)
    parts = found.parts
    good = whole.frame().filter(pl.col("rating") >= 4)
    people = [set(part.frame()["user_id"]) for part in (parts.train, parts.valid, parts.test)]
    assert [len(group) for group in people] == [48, 6, 6]
    assert set.union(*people) == set(good["user_id"])
    assert pairs(parts.train) == set(
        good.filter(pl.col("user_id").is_in(people[0])).select("user_id", "item_id").iter_rows()
    )
    known = set(parts.train.frame()["item_id"])
    kept = good.filter(pl.col("item_id").is_in(known))
    for part, group in ((parts.valid, people[1]), (parts.test, people[2])):
        rows = set(kept.filter(pl.col("user_id").is_in(group)).select("user_id", "item_id").iter_rows())
        assert pairs(part) | pairs(part.history) == rows
        assert part.history is not None
        for user in part.active_users:
            shown, asked = int((part.history.user == user).sum()), int((part.user == user).sum())
            assert asked == (shown + asked) // 5
    assert any("12 of " in note and "were dropped" in note for note in parts.notes)
    assert dict(found.protocol.split_options)["drop_new_items"] is True
    assert found.protocol.metrics[:2] == ("ndcg@100", "capped_recall@20")


def test_strong_generalisation_leaves_short_histories_without_targets_and_needs_no_ratings() -> None:
    rows = [(u, i) for u in range(40) for i in range(5)] + [(u, 1000 + u) for u in range(40)]
    rows = [row for row in rows if row[1] != row[0] % 5]  # four common items and one of one's own: five rows
    frame = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    with pytest.raises(DataError, match="leaves no rows for"):
        prepare("strong-generalisation", Dataset.from_frame(frame))  # four known rows each: nothing to be found
    more = pl.concat([frame, frame.select("user_id").unique().with_columns(item_id=pl.lit(7, pl.Int64))])
    found = prepare("strong-generalisation", Dataset.from_frame(more))
    assert len(found.parts.test) == 4
    assert found.protocol.filters == ("min_user 5, min_item 0",)


def test_anelli_filters_first_and_holds_out_a_fifth_rounded_up(data: Dataset) -> None:
    rare = pl.DataFrame(
        {"user_id": ["u0"] * 9 + ["few"] * 9, "item_id": [f"rare {i}" for i in range(9)] + [f"i{i}" for i in range(9)]}
    )
    rare = rare.with_columns(rating=pl.lit(5.0, pl.Float32), timestamp=pl.lit(0, pl.Int64))
    whole = made(pl.concat([data.frame(), rare]))
    parts = [ready("anelli", whole, fold=fold).parts for fold in (1, 2)]
    for part in parts:
        rows = pl.concat([x.frame() for x in (part.train, part.valid, part.test)])
        assert rows["rating"].min() == 4
        assert rows.group_by("user_id").len()["len"].min() >= 10
        assert rows.group_by("item_id").len()["len"].min() >= 10
        assert "few" not in rows["user_id"]
        assert not rows["item_id"].str.starts_with("rare").any()
        sizes = dict(rows.group_by("user_id").len().iter_rows())
        held = dict(part.test.frame().group_by("user_id").len().iter_rows())
        assert held == {user: -(-n // 5) for user, n in sizes.items()}
        assert set(part.valid.frame()["user_id"]) == set(sizes)
    both = pairs(parts[0].test) & pairs(parts[1].test)
    assert 0 < len(both) < len(parts[0].test)  # independent draws, not a cross-validation


def test_80_10_10_takes_a_tenth_of_each_user(data: Dataset) -> None:
    parts = ready("80-10-10", data).parts
    counts = [np.bincount(part.user, minlength=60) for part in (parts.train, parts.valid, parts.test)]
    assert (np.abs(counts[2] - 0.1 * sum(counts)) < 1).all()
    assert (np.abs(counts[1] - 0.1 * sum(counts)) < 1).all()


@pytest.mark.parametrize(("name", "share"), [("90-10", 0.1), ("80-20", 0.2)])
def test_random_shares_of_the_ratings(name: str, share: float, data: Dataset) -> None:
    found = ready(name, data)
    assert len(found.parts.test) == round(share * len(data))
    assert len(found.parts.valid) == round(0.1 * (1 - share) * len(data))
    assert found.protocol.metrics[:2] == ("rmse", "mae")


def test_five_folds_are_each_row_once_and_valid_comes_out_of_train(data: Dataset) -> None:
    folds = outside("5fold", data)
    seen = []
    for fold in range(1, 6):
        parts = ready("5fold", data, fold=fold).parts
        assert pairs(parts.test) == set(folds.filter(fold=fold).select("user_id", "item_id").iter_rows())
        assert len(parts.valid) == round(0.1 * (len(data) - len(parts.test)))
        seen += sorted(pairs(parts.test))
    assert len(seen) == len(set(seen)) == len(data)
    assert pairs(ready("u1", data).parts.test) == pairs(ready("5fold", data).parts.test)


def test_ncf_ranks_the_held_out_row_among_what_is_given(data: Dataset) -> None:
    found = ready("ncf", data)
    file = outside("ncf", data)
    assert pairs(found.parts.test) == set(file.select("user_id", "item_id").iter_rows())
    rest = data.frame().join(file, on=["user_id", "item_id"], how="anti")
    last = rest.group_by("user_id", maintain_order=True).agg(pl.last("item_id"))
    assert pairs(found.parts.valid) == set(last.iter_rows())
    assert found.candidates is not None
    names = found.parts.test.items.ids[found.candidates.values.numpy()]
    assert names.to_list() == ["i0", "i1", "i2"] * 60
    assert "60 of 240 candidates" in found.parts.notes[-1]
    assert (found.protocol.candidates, found.protocol.exclude_seen) == ("given", False)
    other = prepare("ncf", data, given=file.with_columns(negatives=pl.lit(["i5"])))
    assert other.protocol.hash != found.protocol.hash


def test_candidate_files(data: Dataset, tmp_path: Path) -> None:
    numbers = made(pl.DataFrame({"user_id": [0, 0, 0, 1, 1, 1], "item_id": [1, 2, 3, 1, 2, 3], "rating": [1.0] * 6}))
    (tmp_path / "x.negative").write_text("(0,3)\t5\t1\n(1,2)\t9\n")
    expected = pl.DataFrame({"user_id": [0, 1], "item_id": [3, 2], "negatives": [[5, 1], [9]]})
    assert read_candidates(str(tmp_path / "x.negative"), numbers).equals(expected)
    expected.write_parquet(tmp_path / "x.parquet")
    assert read_candidates(tmp_path / "x.parquet", numbers).equals(expected)
    expected.write_ndjson(tmp_path / "x.jsonl")
    assert prepare("ncf", numbers, given=tmp_path / "x.jsonl").parts.test.frame().shape[0] == 2
    texts = made(numbers.frame().with_columns(pl.col("user_id", "item_id").cast(pl.String)))
    assert read_candidates(tmp_path / "x.parquet", texts)["negatives"].to_list() == [["5", "1"], ["9"]]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("(0,3) 5\n", "line 1 of .* is not"),
        ("(0,3)\t5\n(0,2)\t5\n(1,1)\n", "2 faults"),
        ("", "0 held-out rows|leaves no rows"),
    ],
)
def test_bad_candidate_files(content: str, told: str, tmp_path: Path) -> None:
    data = made(pl.DataFrame({"user_id": [0, 0, 1, 1], "item_id": [2, 3, 1, 2], "rating": [1.0] * 4}))
    (tmp_path / "x.negative").write_text(content)
    with pytest.raises(DataError, match=told):
        prepare("ncf", data, given=tmp_path / "x.negative")
    with pytest.raises(DataError, match="has no column negatives"):
        prepare("ncf", data, given=data.frame())
    with pytest.raises(DataError, match="must hold lists"):
        prepare("ncf", data, given=data.frame().with_columns(negatives=pl.lit(3)))
    with pytest.raises(DataError, match=r"1 of 2 held-out rows .* user 7 and item 2"):
        prepare("ncf", data, given=pl.DataFrame({"user_id": [0, 7], "item_id": [3, 2], "negatives": [[1], [1]]}))


@pytest.mark.parametrize("name", [*NEEDS_RATINGS, "temporal", "temporal-last", "temporal-successive"])
def test_data_that_cannot_serve_it(name: str, data: Dataset) -> None:
    lacking = "rating" if name in NEEDS_RATINGS else "time"
    bare = Dataset.from_frame(data.frame().drop("rating", "timestamp"))
    with pytest.raises(DataError, match=f"protocol {name} needs {lacking}, which this data lacks"):
        ready(name, bare)


def test_other_data_than_the_folds(data: Dataset) -> None:
    with pytest.raises(DataError, match=r"MovieLens-100K \(100,000 rows of 943 users .* this data has 1,7"):
        prepare("u1", data)
    frame = outside("u1", data)
    with pytest.raises(DataError, match="the folds have"):
        prepare("u1", data, given=frame[:-1])
    strange = frame.with_columns(
        pl.when(pl.int_range(len(frame)) == 3).then(pl.lit("x")).otherwise("user_id").alias("user_id")
    )
    with pytest.raises(DataError, match=r"1 of .* rows have no part"):
        prepare("5fold", data, given=strange)


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("liang", {}, "there is no protocol 'liang'; choose from temporal"),
        ("anelli", {"fold": 6}, "fold = 6: it has folds 1 to 5"),
        ("anelli", {"fold": 0}, "fold = 0"),
        ("temporal", {"fold": 2}, "it has no folds"),
        ("ncf", {}, "the file of held-out rows and candidates is missing; pass given="),
        ("90-10", {"given": "x", "fold": 3}, "2 faults"),
    ],
)
def test_what_cannot_be_asked(name: str, options: dict[str, Any], told: str, data: Dataset) -> None:
    with pytest.raises(ConfigError, match=told):
        prepare(name, data, **options)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_part_is_refused(name: str, data: Dataset) -> None:
    with pytest.raises(DataError, match="needs the whole data set"):
        ready(name, data.split("random").test)


def test_new_people_are_asked_for_the_same_whatever_is_shown(data: Dataset) -> None:
    found = [ready(f"new-users-{given}", data).parts for given in (0, 1, 3, 10)]
    assert len({parts.test.fingerprint for parts in found}) == 1
    for given, parts in zip((0, 1, 3, 10), found, strict=True):
        assert parts.test.history is not None
        lengths = np.diff(parts.test.history.offsets)[parts.test.active_users]
        assert (lengths == given).all()
        assert (parts.test.active_users >= parts.train.n_users).all()


def test_new_items_compete_with_new_items_or_with_all(data: Dataset) -> None:
    alone, among = ready("new-items", data), ready("new-items-among-all", data)
    assert (alone.protocol.candidates, among.protocol.candidates) == ("new", "full")
    assert (alone.parts.test.item >= alone.parts.train.n_items).all()
    warm = (among.parts.test.item < among.parts.train.n_items).mean()
    assert 0.2 < warm < 0.8


def test_new_people_and_new_items_at_once(data: Dataset) -> None:
    found = [ready(f"new-users-and-items-{given}", data).parts for given in (0, 1, 3, 10)]
    assert len({parts.test.fingerprint for parts in found}) == 1
    for given, parts in zip((0, 1, 3, 10), found, strict=True):
        assert parts.test.history is not None
        assert (np.diff(parts.test.history.offsets)[parts.test.active_users] == given).all()
        assert (parts.test.history.item < parts.train.n_items).all()
        assert 0 < (parts.test.item >= parts.train.n_items).mean() < 1


def test_synthetic_data_serves_what_needs_nothing_published() -> None:
    tables = synthetic(20_000)
    whole = Dataset.from_frame(tables.interactions, tables.items, tables.users)
    for name in (n for n, how in PROTOCOLS.items() if not how.given):
        parts = prepare(name, whole).parts
        assert parts.train.item_table is not None
        assert parts.train.item_table["item_id"].to_list() == parts.train.items.ids.to_list()


def test_the_published_folds_of_real_data(real_data: Callable[[str], Path]) -> None:
    archive = real_data("ml-100k") / "ml-100k-original.zip"
    tables = load_tables("movielens-100k", archive)
    found = prepare("u1", Dataset.from_frame(tables.interactions), given=archive)
    assert (len(found.parts.test), len(found.parts.valid), found.parts.test.n_users) == (20_000, 8_000, 943)
    with pytest.raises(SourceError):
        prepare("u1", Dataset.from_frame(tables.interactions), given=archive.with_name("items.parquet"))


def test_the_sizes_that_anelli_and_he_publish(real_data: Callable[[str], Path]) -> None:
    folder = real_data("ml-1m")
    rows = pl.read_parquet(folder / "ratings.parquet").sort("user_id", "timestamp", "seq")
    data = Dataset.from_frame(rows.select("user_id", "item_id", "rating", "timestamp"))
    parts = prepare("anelli", data).parts
    test = dict(parts.test.frame().group_by("user_id").len().iter_rows())
    assert [test[user] for user in range(1, 7)] == [9, 15, 8, 4, 17, 10]  # as in the authors' files
    found = prepare("ncf", data, given=folder / "ncf_leave_one_out.parquet")
    model = Popularity(Popularity.Config(), found.parts.train.spec)
    model.fit(found.parts.train)
    judged = evaluate(model, found.parts.test, protocol=found.protocol, candidates=found.candidates)
    assert judged["hit@10"].value == pytest.approx(0.4533, abs=0.002)  # Ferrari Dacrema et al., TOIS 2021
    assert judged["ndcg@10"].value == pytest.approx(0.2542, abs=0.002)
