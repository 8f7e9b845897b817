"""The command line with side tables: kinds shown and declared, people by attributes, items that come later."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import polars as pl
import pytest

from palate.cli import suggested
from palate.recommender.recommender import Recommender
from tastes import GENRES
from test_cli import Done, palate


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ratings of 40 people of four tastes, films and people as CSV."""
    folder = tmp_path_factory.mktemp("tables")
    rows = [
        (f"u{u:02}", f"f{4 * ((u + n) % 12) + u % 4:02}", 4 + n % 2, 1000 * u + n) for u in range(40) for n in range(8)
    ]
    pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "timestamp"], orient="row").write_csv(
        folder / "rows.csv"
    )
    pl.DataFrame(
        {
            "item_id": [f"f{n:02}" for n in range(50)],
            "title": [f"The {GENRES[n % 4]} of {n}" for n in range(50)],
            "genres": [f"{GENRES[n % 4]}|{GENRES[n % 4]} film" for n in range(50)],
            "year": [1950 + n for n in range(49)] + [None],
            "maker": ["the same"] * 50,
        }
    ).write_csv(folder / "films.csv")
    people = pl.DataFrame({"user_id": [f"u{n:02}" for n in range(40)], "club": [GENRES[n % 4] for n in range(40)]})
    people.with_columns(age=pl.int_range(20, 60)).write_csv(folder / "people.csv")
    (folder / "new.csv").write_text("item_id,title,genres,year\nn1,A new horror,horror|horror film,2020\nn2,?,,\n")
    return folder


@pytest.fixture(scope="module")
def run(tables: Path) -> Path:
    done = trained(tables, "content-knn", "--item-kind", "year=ignore")
    assert done.code == 0, done.err
    return tables / "run"


def trained(tables: Path, model: str, *words: str) -> Done:
    sides = ("--items", tables / "films.csv", "--users", tables / "people.csv")
    return palate("train", model, tables / "rows.csv", *sides, "--out", tables / "run", "--split", "random", *words)


def test_inspect_shows_kinds(tables: Path) -> None:
    done = palate("data", "inspect", tables / "films.csv")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].endswith("films.csv: 50 items")
    assert [line.split()[:3] for line in lines[2:]] == [
        ["column", "kind", "missing"],
        ["title", "text", "0.0%"],
        ["genres", "tags", "0.0%"],
        ["year", "number", "2.0%"],
        ["maker", "-", "0.0%"],
    ]
    assert "comedy|comedy film" in done.out
    assert "all values are equal: the same" in done.out
    assert len({line.index("0.0%") for line in lines if "0.0%" in line}) == 1
    declared = palate("data", "inspect", tables / "films.csv", "--kind", "year=category", "--kind", "maker=tags").out
    assert "category (declared)" in declared
    assert "tags (declared)" in declared
    assert "40 users" in palate("data", "inspect", tables / "people.csv").out
    assert "interactions" in palate("data", "inspect", tables / "rows.csv").out


def test_kinds_that_make_no_sense(tables: Path) -> None:
    for kind, told in {
        "year": "write COLUMN=KIND",
        "year=integer": "year = 'integer' is not one of number, category",
        "yaer=number": "no column 'yaer', declared as number; did you mean 'year'",
        "title=number": "title is declared as number and holds text that is not a number",
    }.items():
        inspected = palate("data", "inspect", tables / "films.csv", "--kind", kind)
        done = trained(tables, "content-knn", "--item-kind", kind)
        assert (inspected.code, done.code) == (2, 2)
        assert told in inspected.err
        assert told in done.err
    done = palate("train", "popularity", tables / "rows.csv", "--item-kind", "year=number", "--out", tables / "no")
    assert "there is no item table" in done.err


def test_training_says_what_is_left_out_and_keeps_kinds(run: Path, tables: Path) -> None:
    found = Recommender.load(run)
    assert dict(found.data.item_kinds) == {"year": "ignore"}
    features = found.model.spec.item_features
    assert features is not None
    assert [column.name for column in features.columns] == ["title", "genres"]
    assert json.loads((run / "train.json").read_text())["item_kind"] == ["year=ignore"]
    done = palate("train", "content-knn", "--config", run / "train.json", "--out", tables / "again")
    assert done.code == 0, done.err
    assert "item table: column 'maker' is not used: all values are equal: the same" in done.out
    assert "2 of 50 items have no interactions and were dropped\n" in done.out
    assert "the 2 items without interactions are not in this run, which holds out rows; --refit" in done.out
    again = Recommender.load(tables / "again").model.spec
    assert again.item_features == features


def test_items_that_nobody_bought(tables: Path) -> None:
    words = [tables / "rows.csv", "--items", tables / "films.csv", "--split", "none", "--out", tables / "whole"]
    done = palate("train", "content-knn", *words)
    assert "the 2 items without interactions are in the catalogue too" in done.out
    known = Recommender.load(tables / "whole")
    assert known.model.spec.n_items == 50
    assert set(known.recommend(known.data.users.ids[:5], k=50)["item_id"]) > set(known.data.items.ids[48:])
    done = palate("train", "popularity", *words)
    assert "popularity cannot recommend the 2 items without interactions: it knows items by their" in done.out


def test_people_by_attributes(tables: Path) -> None:
    done = trained(tables, "two-tower", "--training.epochs", "2")
    assert done.code == 0, done.err
    (tables / "someone.csv").write_text("club,age\nhorror,30\ncomedy,\n")
    told = palate("recommend", tables / "run", "--features", tables / "someone.csv", "-k", "3")
    assert told.code == 0, told.err
    assert told.out.count("route content") == 2
    assert "new user 2: route content" in told.out
    both = palate(
        "recommend", tables / "run", "--features", tables / "someone.csv", "--history", "f02", "--history", ""
    )
    assert both.code == 0, both.err
    assert "history" in both.out
    wrong = palate("recommend", tables / "run", "--user", "u01", "--features", tables / "someone.csv")
    assert "--features describes new users, and --user names known ones" in wrong.err
    (tables / "odd.csv").write_text("club,age\nhorror,old\n")
    odd = palate("recommend", tables / "run", "--features", tables / "odd.csv")
    assert odd.code == 2
    assert "age was learned as number and now holds text that is not a number ('old' in row 1)" in odd.err


def test_people_by_attributes_that_the_model_cannot_use(tables: Path) -> None:
    assert trained(tables, "mf", "--training.epochs", "1").code == 0
    (tables / "someone.csv").write_text("club,age\nhorror,30\n,\n")
    told = palate("recommend", tables / "run", "--features", tables / "someone.csv", "-k", "3", "--explain")
    assert told.code == 0, told.err
    assert "new user 1: route popularity_within" in told.out
    assert re.search(r"Recommended because it is popular with similar users \(age \S+ to \S+, club horror\)", told.out)
    assert "new user 2: route popularity\n" in told.out
    plain = palate("train", "mf", tables / "rows.csv", "--training.epochs", "1", "--out", tables / "plain")
    assert plain.code == 0, plain.err
    refused = palate("recommend", tables / "plain", "--features", tables / "someone.csv")
    assert refused.code == 2
    assert "this model cannot use features of users: its training data has no user table" in refused.err


def test_items_given_with_the_question(tables: Path) -> None:
    assert trained(tables, "content-knn", "--item-kind", "year=ignore").code == 0
    run, before = tables / "run", Recommender.load(tables / "run").data.n_items
    (tables / "odd.csv").write_text("item_id,title\nn1,A new horror\n")
    like = palate("similar", run, "--item", "n1", "--items", tables / "new.csv", "-k", "3", "--csv")
    assert like.code == 0, like.err
    assert like.out.splitlines()[1].startswith("n1,")
    listed = palate("recommend", run, "--history", "n1", "--items", tables / "odd.csv", "-k", "3", "--json")
    assert listed.code == 0, listed.err
    assert len(json.loads(listed.out)) == 3  # what is said stands beside it
    assert "new items: genres: there is no such column; it is unknown in all 1 rows" in listed.err
    assert Recommender.load(run).data.n_items == before
    unknown = palate("recommend", run, "--history", "n1")
    assert unknown.code == 2


def test_new_items_are_judged_alone_and_among_all(tables: Path) -> None:
    words = ("--split", "new-users-and-items", "--valid", "0", "--test", "0.4")
    sides = ("--items", tables / "films.csv", "--out", tables / "cold")
    done = palate("train", "content-knn", tables / "rows.csv", *sides, *words)
    assert done.code == 0, done.err
    assert "rows are in no part" in done.out
    told = {kind: palate("evaluate", tables / "cold", "--candidates", kind) for kind in ("full", "warm", "new")}
    assert [each.code for each in told.values()] == [0, 0, 0]
    found = {kind: re.findall(r"protocol (\w{12})|(\d+) users", each.out) for kind, each in told.items()}
    assert len({str(each) for each in found.values()}) == 3
    asked, unasked = told["full"].out, palate("evaluate", tables / "cold").out
    assert unasked.split("\n\n")[:2] == asked.split("\n\n")[:2]


def test_what_is_not_known_of_people_is_counted(tables: Path) -> None:
    assert trained(tables, "popularity").code == 0
    (tables / "someone.csv").write_text("club\nopera\n")
    told = palate("recommend", tables / "run", "--features", tables / "someone.csv", "-k", "3")
    assert told.code == 0, told.err
    assert "club: 1 values do not occur in training and count as unknown" in told.err
    assert "age: there is no such column; it is unknown in all 1 rows" in told.err
    assert "new user 1: route popularity\n" in told.out


def test_approximate_lists(tables: Path, run: Path) -> None:
    assert trained(tables, "mf", "--training.epochs", "1").code == 0
    asked = ("--user", "u01", "--user", "u02", "-k", "5", "--csv")
    near = palate("recommend", tables / "run", *asked, "--approximate")
    assert near.code == 0, near.err
    assert len(near.out.splitlines()) == 11
    exact = palate("recommend", tables / "run", *asked)
    scores = {tuple(line.split(",")[:2]) for line in exact.out.splitlines()}
    assert len(scores & {tuple(line.split(",")[:2]) for line in near.out.splitlines()}) > 4
    boosted = palate("recommend", tables / "run", *asked, "--approximate", "--popularity", "1")
    assert boosted.code == 2
    assert "approximate lists score only a few" in boosted.err
    assert palate("train", "itemknn", tables / "rows.csv", "--out", tables / "plain").code == 0
    refused = palate("recommend", tables / "plain", *asked, "--approximate")
    assert refused.code == 2
    assert (
        "ItemKNN does not score items by dot products, so it has no approximate lists; ask for exact ones"
        in refused.err
    )


def test_items_that_come_later(run: Path, tables: Path) -> None:
    trained(tables, "content-knn", "--item-kind", "year=ignore")
    before = palate("evaluate", run).out.splitlines()
    done = palate("add-items", run, tables / "new.csv", "--out", tables / "larger")
    assert done.code == 0, done.err
    assert "2 new items, " in done.out
    assert "n1" in palate("recommend", tables / "larger", "--history", "f02,f06", "-k", "40").out
    assert "f" in palate("similar", tables / "larger", "--item", "n1").out
    after = palate("evaluate", tables / "larger")
    assert after.code == 0, after.err
    assert before[0].split("protocol")[0] == after.out.splitlines()[0].split("protocol")[0]
    assert "new items: title: there is no such column" not in done.err
    card = (tables / "larger" / "recommender.json").read_bytes()
    twice = palate("add-items", tables / "larger", tables / "new.csv")
    assert twice.code == 0, twice.err
    assert twice.out == f"{tables / 'larger'} is unchanged: the table holds no new items\n"
    change = suggested("update", tables / "larger", items=tables / "new.csv")
    assert twice.err == f"  2 of 2 items are known already and stay as they are; {change} changes their features\n"
    assert (tables / "larger" / "recommender.json").read_bytes() == card
    whole = pl.concat([pl.read_csv(tables / "films.csv"), pl.read_csv(tables / "new.csv")], how="diagonal_relaxed")
    whole.write_csv(tables / "morning.csv")
    morning = palate("add-items", run, tables / "morning.csv", "--out", tables / "morning")
    assert morning.code == 0, morning.err
    assert "4 new items, 52 in all" in morning.out  # n1 and n2, and two films that nobody rated
    assert "48 of 52 items are known already" in morning.err
    assert palate(*shlex.split(change)[1:]).code == 0
    assert palate("add-items", run, tables / "new.csv").code == 0  # in place, the held-out part stays
    assert palate("evaluate", run).code == 0
    assert (run / "train.json").exists()
    other = palate("train", "popularity", tables / "rows.csv", "--out", tables / "plain")
    assert other.code == 0
    assert (
        "Popularity knows items by their interactions alone"
        in palate("add-items", tables / "plain", tables / "new.csv").err
    )


def test_one_absurd_vector_does_not_spoil_a_run(tmp_path: Path) -> None:
    rows = [(f"u{u}", f"i{(u * 7 + k * 3) % 30}") for u in range(40) for k in range(8)]
    pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").write_csv(tmp_path / "rows.csv")
    vectors = {"item_id": [f"i{k}" for k in range(30)], "vec": [[k / 30, (k % 7) / 7, 1.0] for k in range(30)]}
    pl.DataFrame(vectors).write_parquet(tmp_path / "items.parquet")
    new = {"item_id": ["n1", "n2"], "vec": [[3.4e38, 0.0, 0.0], [0.1, 0.2, 0.3]]}
    pl.DataFrame(new).write_parquet(tmp_path / "new.parquet")
    given = (tmp_path / "rows.csv", "--items", tmp_path / "items.parquet", "--split", "none")
    done = palate("train", "two-tower", *given, "--out", tmp_path / "run", "--training.epochs", "1")
    assert done.code == 0, done.err
    added = palate("add-items", tmp_path / "run", tmp_path / "new.parquet")
    assert "vec: 1 vectors are longer than" in added.err
    assert added.code == 0
    listed = palate("recommend", tmp_path / "run", "--user", "u1", "-k", "40", "--json")
    assert listed.code == 0, listed.err
    assert {"n1", "n2"} <= {row["item_id"] for row in json.loads(listed.out)}
