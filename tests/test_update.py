"""Updates: models learn new rows, users and items; what an update equals, what it keeps and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import palate
from palate import Recommender
from palate.cli import main
from palate.data.dataset import Dataset
from palate.data.splits.build import joined_rows
from palate.errors import ConfigError, DataError
from palate.recommender.update import continues

BRIEF = {"epochs": 5}
CONTINUED = ["mf", "neumf", "multvae", "ials", "svdpp", "lightgcn", "autorec", "blend", "hybrid", "dropoutnet"]
COMPUTED = ["ease", "itemknn", "userknn", "rp3beta", "puresvd", "popularity", "bias", "sparse-ease", "content-knn"]


@pytest.fixture(scope="module")
def tables() -> tuple[Dataset, pl.DataFrame]:
    """A data set of the first four fifths of the rows in time, and the rows after them."""
    whole = palate.Dataset.load("synthetic-2000")
    frame = whole.frame().sort("timestamp")
    cut = int(frame.height * 0.8)
    assert whole.item_table is not None
    return Dataset.from_frame(frame[:cut], whole.item_table), frame[cut:]


def trained(name: str, data: Dataset) -> Recommender:
    name = "u-autorec" if name == "autorec" else name
    config = {"members": ["mf", "itemknn"]} if name == "blend" else None
    return Recommender.train(data, name, config, training=BRIEF if continues_by_name(name) else None, seed=3)


def continues_by_name(name: str) -> bool:
    return name not in COMPUTED and name != "ials"


@pytest.mark.parametrize("name", [*CONTINUED, *COMPUTED])
def test_every_kind_of_model_learns_new_rows(name: str, tables: tuple[Dataset, pl.DataFrame], tmp_path: Path) -> None:
    data, new = tables
    before = trained(name, data)
    after, what = before.update(new)
    assert what.rows == len(after.data) == len(data) + new.height
    assert what.new_users == after.data.n_users - data.n_users > 0
    assert after.data.users.ids[: data.n_users].equals(data.users.ids)
    assert after.data.items.ids[: data.n_items].equals(data.items.ids)
    known = [after.data.users.ids[0], after.data.users.ids[-1]]
    found = after.recommend(known, k=5)
    assert found.height == 10
    assert bool(found["score"].is_finite().all())
    seen = after.data.frame().filter(pl.col("user_id").is_in(known)).select("user_id", "item_id")
    assert found.join(seen, on=["user_id", "item_id"], how="semi").is_empty()
    after.save(tmp_path / "run")
    assert Recommender.load(tmp_path / "run").recommend(known, k=5).equals(found)
    assert before.data is data  # what was is left as it was


@pytest.mark.parametrize("name", COMPUTED)
def test_models_computed_from_counts_equal_a_full_refit(name: str, tables: tuple[Dataset, pl.DataFrame]) -> None:
    data, new = tables
    before = trained(name, data)
    after, what = before.update(new)
    assert what.share == 1
    assert "equals a full refit" in str(what)
    assert not continues(after.model)
    fresh = type(after.model)(after.model.config, after.model.spec)
    fresh.fit(after.data)
    queries = after.data.queries(after.data.active_users, after.model.spec)
    torch.testing.assert_close(after.model.score(queries), fresh.score(queries), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["mf", "neumf", "multvae"])
def test_training_goes_on_from_the_weights(name: str, tables: tuple[Dataset, pl.DataFrame]) -> None:
    """The first epoch of an update begins where training ended: its loss is below that of a first epoch."""
    data, new = tables
    before = trained(name, data)
    after, what = before.update(new)
    assert what.share == 0.2
    assert "not the same as a full refit" in str(what)
    first = Recommender.train(after.data, name, training={"epochs": 1}, seed=3).records[0]
    assert after.records[-1].member == "update"
    assert after.records[-1].loss < 0.98 * first.loss


def test_factors_go_on_from_the_factors(tables: tuple[Dataset, pl.DataFrame]) -> None:
    """Factors are the same up to a rotation in any run; an update does not rotate them."""
    data, new = tables
    before = trained("ials", data)
    after, _ = before.update(new)
    other = Recommender.train(data, "ials", seed=4)
    old, now, far = (r.model.item_vectors()[: data.n_items].flatten() for r in (before, after, other))
    alike = torch.corrcoef(torch.stack([old, now, far]))
    assert alike[0, 1] > 0.8 > alike[0, 2]


def test_epochs_are_a_share_of_those_that_were_best(tables: tuple[Dataset, pl.DataFrame]) -> None:
    data, new = tables
    parts = data.split("temporal", valid=0.1, test=0.1)
    before = Recommender.train(parts.train, "mf", valid=parts.valid, training={"epochs": 20, "patience": 0}, seed=1)
    best = max(record.epoch for record in before.records if record.best)
    after, _ = before.update(new, share=0.5)
    assert sum(record.member == "update" for record in after.records) == max(1, round(best / 2))
    again, _ = after.update(new, share=0.5)  # counts from the full training, not from the update
    assert len(again.records) - len(after.records) == max(1, round(best / 2))


def test_held_out_parts_become_training_data(tables: tuple[Dataset, pl.DataFrame]) -> None:
    data, new = tables
    parts = data.split("temporal", valid=0.1, test=0.1)
    held = Recommender.train(parts.train, "ease", seed=1)
    held = Recommender(**{**vars(held), "parts": {"valid": parts.valid, "test": parts.test}})
    after, what = held.update(new)
    assert len(after.data) == len(data) + new.height
    assert what.new_rows == new.height
    assert not after.parts


@pytest.mark.parametrize("name", ["mf", "ease", "ials", "blend"])
def test_a_refit_trains_anew_with_what_validation_chose(name: str, tables: tuple[Dataset, pl.DataFrame]) -> None:
    data, _ = tables
    parts = data.split("per-user", valid=0.1, test=0.1)
    config = {"members": ["mf", "itemknn"]} if name == "blend" else None
    training = {"epochs": 12, "patience": 0} if name in ("mf", "blend") else None
    chosen = Recommender.train(parts.train, name, config, training, parts.valid, seed=1)
    chosen = Recommender(**{**vars(chosen), "parts": {"valid": parts.valid, "test": parts.test}})
    again = chosen.refit()
    assert len(again.data) == len(data)
    assert not again.parts
    made = [record for record in again.records if record.member.startswith("refit")]
    if name == "mf":
        best = max(record.epoch for record in chosen.records if record.best)
        assert len(made) == best
        fresh = Recommender.train(again.data, "mf", training={"epochs": best, "patience": 0}, seed=1)
        torch.testing.assert_close(fresh.model.state_dict()["item.weight"], again.model.state_dict()["item.weight"])
    elif name == "blend":
        assert torch.equal(again.model.weight, chosen.model.weight)  # type: ignore[arg-type]
    else:
        assert again.model.config == chosen.model.config


def test_lists_leave_out_what_was_held_out(tables: tuple[Dataset, pl.DataFrame]) -> None:
    """A run that keeps its test part counts its rows as history and as seen, also of users who are in no other part."""
    data, _ = tables
    parts = data.split("temporal", valid=0.1, test=0.2)
    rec = Recommender.train(parts.train, "ease", seed=1)
    rec = Recommender(**{**vars(rec), "parts": {"valid": parts.valid, "test": parts.test}})
    users = rec.known.users.ids
    assert len(users) > rec.data.n_users
    found = rec.recommend(users, k=20)
    assert found["user_id"].n_unique() == len(users)
    assert found.join(data.frame(), on=["user_id", "item_id"], how="semi").is_empty()
    fresh = found.filter(pl.col("user_id") == users[len(users) - 1])
    assert fresh["route"].unique().to_list() == ["history"]


def test_repeated_events_are_joined_as_often_as_they_happened() -> None:
    """Equal rows are events of their own in data that keeps repeats; a part's history holds those of train again."""
    events = pl.DataFrame({"user_id": ["a", "a", "a", "b", "b", "b"], "item_id": [1, 1, 2, 1, 2, 2]})
    whole = palate.Dataset.read(events, duplicates="keep")
    half = np.array([True, False, True, True, True, False])
    train, test = whole.take(half), replace(whole.take(~half), history=whole.take(half))
    joined = joined_rows(train, [test])
    assert sorted(joined.frame().rows()) == sorted(events.rows())
    assert joined.item.tolist() == [0, 1, 0, 0, 1, 1]  # those of the part follow those of its history


def test_new_and_changed_items(tables: tuple[Dataset, pl.DataFrame]) -> None:
    data, new = tables
    before = Recommender.train(data, "content-knn")
    assert data.item_table is not None
    changed = data.item_table[:2].with_columns(pl.lit("Renamed").alias("title"))
    added = data.item_table[:1].with_columns(pl.lit(999_999, data.items.ids.dtype).alias("item_id"))
    after, what = before.update(new, items=pl.concat([changed, added]))
    assert after.data.titles(after.data.items.index(changed["item_id"]).copy())[0] == "Renamed"
    assert 999_999 in after.data.items.ids
    assert what.new_items >= 1


def test_columns_that_are_not_given_stay_as_they_are() -> None:
    rows = pl.DataFrame({"user_id": [1, 1, 2, 2, 3], "item_id": [1, 2, 2, 3, 1]})
    table = {
        "item_id": [1, 2, 3],
        "title": ["one", "two", "three"],
        "genre": ["a", "b", "a"],
        "year": [1990, 1991, None],
    }
    before = Recommender.train(Dataset.read(rows, items=pl.DataFrame(table)), "content-knn")
    after, what = before.update(items=pl.DataFrame({"item_id": [3, 1, 4], "genre": ["b", None, "a"]}))
    assert what.new_items == 1
    assert after.data.item_table is not None
    assert after.data.item_table.sort("item_id").to_dict(as_series=False) == {
        "item_id": [1, 2, 3, 4],
        "title": ["one", "two", "three", None],
        "genre": [None, "b", "b", "a"],
        "year": [1990, 1991, None, None],
    }


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (None, {}, "nothing to learn"),
        ({"user_id": [1], "item_id": [1]}, {}, "no rating and no timestamp"),
        ({"user_id": ["a"], "item_id": ["b"], "rating": [1.0], "timestamp": [1]}, {}, "ids of type String"),
        ({"user_id": [1], "item_id": [1], "rating": [99.0], "timestamp": [1]}, {}, "99"),
        (
            {"user_id": [1], "item_id": [1], "rating": [3.0], "timestamp": [1]},
            {"share": 0},
            "share = 0 is out of range",
        ),
        (None, {"items": pl.DataFrame({"item_id": [1], "price": [2.0]})}, "no table of items"),
    ],
)
def test_what_cannot_be_learned(rows: dict[str, list[object]] | None, options: dict[str, object], message: str) -> None:
    whole = palate.Dataset.load("synthetic-2000")
    before = Recommender.train(Dataset.from_frame(whole.frame()), "popularity")
    with pytest.raises((ConfigError, DataError), match=message):
        before.update(None if rows is None else pl.DataFrame(rows), **options)


def test_the_command(tables: tuple[Dataset, pl.DataFrame], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, new = tables
    data.frame().write_csv(tmp_path / "old.csv")
    new.write_csv(tmp_path / "new.csv")
    run, other = str(tmp_path / "run"), str(tmp_path / "other")

    def code(*words: str) -> int:
        with pytest.raises(SystemExit) as end:
            main(words)
        return int(end.value.code or 0)

    assert code("train", "ease", str(tmp_path / "old.csv"), "--out", run) == 0
    assert code("update", run, str(tmp_path / "new.csv"), "--out", other) == 0
    printed = capsys.readouterr().out
    assert f"{new.height:,} new rows" in printed
    assert "are training data now" in printed
    assert code("recommend", other, "--user", str(new["user_id"][-1])) == 0
    assert code("update", run) == 2
    assert "nothing to learn" in capsys.readouterr().err
    assert code("update", run, "--rating", "stars") == 2
    assert "describe ROWS" in capsys.readouterr().err
    assert code("update", run, "--items", str(tmp_path / "new.csv")) == 2
    assert "no table of items" in capsys.readouterr().err
    assert code("train", "ease", str(tmp_path / "old.csv"), "--out", run, "--refit") == 0
    printed = capsys.readouterr().out
    assert f"training anew on all {data.frame().height:,} interactions" in printed
    assert len(Recommender.load(run).data) == data.frame().height
    assert code("evaluate", run) == 0
    shown = capsys.readouterr().out
    assert "before the run was trained anew" in shown
    assert shown.splitlines()[-3] in printed
    assert code("evaluate", run, "--metric", "ndcg@10") == 2
    assert code("train", "ease", str(tmp_path / "old.csv"), "--out", run, "--refit", "--split", "none") == 2
