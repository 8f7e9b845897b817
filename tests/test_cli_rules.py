"""Rules of a list and questions to new people, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from test_cli import palate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ratings of 12 people and 16 films; and a run."""
    place = tmp_path_factory.mktemp("rules")
    rows = [(u, (3 * u + n) % 16, 1 + (u + n) % 5, 100 * u + n) for u in range(12) for n in range(6)]
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")
    table.write_csv(place / "rows.csv")
    films = {"item_id": list(range(16)), "title": [f"film {n}" for n in range(16)], "year": list(range(1990, 2006))}
    pl.DataFrame(films).write_csv(place / "films.csv")
    words = ("--items", place / "films.csv", "--out", place / "run", "--split", "none")
    done = palate("train", "itemknn", place / "rows.csv", *words)
    assert done.code == 0, done.err
    return place


def listed(folder: Path, *words: str) -> list[int]:
    done = palate("recommend", folder / "run", "--user", "3", "-k", "20", "--json", *words)
    assert done.code == 0, done.err
    return [int(row["item_id"]) for row in json.loads(done.out)]


def test_where_and_exclude(folder: Path) -> None:
    everything = listed(folder)
    late = listed(folder, "--where", "year >= 2000 AND title LIKE 'film%'")
    assert late == [item for item in everything if item >= 10]
    assert listed(folder, "--exclude", "0", "--exclude", str(everything[0])) == [i for i in everything[1:] if i != 0]
    done = palate("recommend", folder / "run", "--user", "3", "--where", "yaer > 2000")
    assert (done.code, done.out) == (2, "")
    assert "there is no column 'yaer' in the item table; it has item_id, title, year" in done.err
    assert "did you mean 'year'?" in done.err


def test_an_empty_list_says_which_rule_made_it_empty(folder: Path) -> None:
    for where, why in {
        "year > 3000": "no item matches --where 'year > 3000'",
        "year IN (1999, 2000)": "all 2 items that match --where are in the history (--include-seen lists them too)",
    }.items():
        done = palate("recommend", folder / "run", "--user", "3", "--where", where)
        assert done.code == 0, done.err
        assert f"user 3: nothing to recommend: {why}" in done.out


def test_what_re_ranks(folder: Path) -> None:
    newest = listed(folder, "--recency", "1000", "--recency-by", "year")
    assert newest == sorted(newest, reverse=True)
    assert sorted(listed(folder, "--diversity", "0.9")) == sorted(newest)
    assert listed(folder, "--popularity", "1000") != listed(folder, "--popularity", "-1000")


def test_questions_to_a_new_person(folder: Path) -> None:
    done = palate("data", "onboard", folder / "rows.csv", "--items", folder / "films.csv", "-k", "3")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].split() == ["rank", "item_id", "title", "interactions", "entropy", "information"]
    assert [line.split()[0] for line in lines[-3:]] == ["1", "2", "3"]
