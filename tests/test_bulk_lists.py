"""Lists for everybody: the same lists as for single users, resumable after a kill, in place only when complete."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

import palate
from palate.errors import ArtifactError, ConfigError, UnknownId
from palate.recommender import bulk_lists
from test_artifact import files_no_larger_than
from test_cli import palate as command


@pytest.fixture(scope="module")
def rec() -> palate.Recommender:
    """iALS of a split, so that held-out rows are newer history."""
    parts = palate.Dataset.load("synthetic-6000").split("temporal", valid=0.1, test=0.1)
    trained = palate.Recommender.train(parts.train, "ials", seed=1)
    return replace(trained, parts={"valid": parts.valid, "test": parts.test})


@pytest.fixture(scope="module")
def run(rec: palate.Recommender, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bulk") / "run"
    rec.save(folder)
    return folder


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_lists, "MAX_USERS_PER_PART", 16)


def read(path: Path) -> pl.DataFrame:
    readers = {".parquet": pl.read_parquet, ".csv": pl.read_csv, ".jsonl": pl.read_ndjson}
    return readers[path.suffix](path)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
@pytest.mark.usefixtures("small_parts")
def test_lists_are_those_of_single_users(suffix: str, rec: palate.Recommender, tmp_path: Path) -> None:
    path = tmp_path / f"lists{suffix}"
    assert rec.recommend_all(path, k=7) == 0
    expected = rec.recommend(rec.known.users.ids, k=7)
    found = read(path)
    assert found.columns == expected.columns
    assert found.drop("score").cast(expected.drop("score").schema).equals(expected.drop("score"))
    assert (found["score"] - expected["score"]).abs().max() < 1e-6
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.usefixtures("small_parts")
def test_rules_and_users_are_heeded(rec: palate.Recommender, tmp_path: Path) -> None:
    users = rec.data.users.ids[[40, 3, 17]]
    rules = palate.Rules(where="year >= 1990", diversity=0.3, popularity=-0.5)
    rec.recommend_all(tmp_path / "a.parquet", users=users, k=5, rules=rules, exclude_seen=False)
    assert read(tmp_path / "a.parquet").equals(rec.recommend(users, k=5, rules=rules, exclude_seen=False))
    unknown = [*users.to_list(), 999_999]
    with pytest.raises(UnknownId, match="999999"):
        rec.recommend_all(tmp_path / "b.parquet", users=unknown)
    rec.recommend_all(tmp_path / "b.parquet", users=unknown, unknown="popularity")
    assert read(tmp_path / "b.parquet")["route"].to_list()[-1] == "popularity"
    with pytest.raises(ConfigError, match="user 5 is given twice"):
        rec.recommend_all(tmp_path / "c.parquet", users=[5, 4, 5])


def test_one_row_a_user(rec: palate.Recommender, tmp_path: Path) -> None:
    # All but four items are excluded, so that lists are short, and one user has all of these four.
    full = rec.known.users.ids[int(rec.known.user[0])]
    kept = rec.recommend(full, k=999, exclude_seen=False).join(rec.recommend(full, k=999), on="item_id", how="anti")[
        "item_id"
    ][:4]
    rules = palate.Rules(exclude=tuple(rec.data.items.ids.filter(~rec.data.items.ids.is_in(kept.implode()))))
    rec.recommend_all(tmp_path / "long.parquet", rules=rules, k=3)
    long = read(tmp_path / "long.parquet")
    assert full not in long["user_id"]
    rec.recommend_all(tmp_path / "rows.parquet", rules=rules, k=3, one_row=True)
    rows = read(tmp_path / "rows.parquet")
    assert rows.columns == ["user_id", "route", "item_id", "score"]
    assert rows["user_id"].to_list() == rec.known.users.ids.to_list()
    assert rows.filter(user_id=full).row(0)[2:] == ([], [])
    again = rows.explode("item_id", "score", empty_as_null=True).drop_nulls("item_id")
    assert again.select("user_id", "item_id", "score").equals(long.select("user_id", "item_id", "score"))
    rec.recommend_all(tmp_path / "rows.csv", rules=rules, k=3, one_row=True, titles=True)
    wide = pl.read_csv(tmp_path / "rows.csv")
    kinds = [f"{name}_{place}" for name in ("item", "title", "score") for place in (1, 2, 3)]
    assert wide.columns == ["user_id", "route", *kinds]
    assert wide.filter(user_id=full).row(0)[1:] == (None,) * 10
    first = wide.drop_nulls("item_1").row(0, named=True)
    assert first["title_1"] == rec.data.titles(rec.data.items.index([first["item_1"]]))[0]


def test_shards_are_the_whole(rec: palate.Recommender, tmp_path: Path) -> None:
    rec.recommend_all(tmp_path / "whole.parquet", k=4)
    for i in (1, 2, 3):
        rec.recommend_all(tmp_path / f"{i}.parquet", k=4, shard=(i, 3))
    assert pl.concat(read(tmp_path / f"{i}.parquet") for i in (1, 2, 3)).equals(read(tmp_path / "whole.parquet"))
    for wrong in ((0, 3), (4, 3)):
        with pytest.raises(ConfigError, match="is out of range; give i/n with i from 1 to n"):
            rec.recommend_all(tmp_path / "x.parquet", shard=wrong)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
@pytest.mark.usefixtures("small_parts")
def test_an_interrupted_call_goes_on_and_gives_the_same_file(
    suffix: str, rec: palate.Recommender, tmp_path: Path
) -> None:
    whole, path, seen = tmp_path / f"whole{suffix}", tmp_path / f"lists{suffix}", []
    rec.recommend_all(whole)
    path.write_text("the old lists")

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        if len(seen) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rec.recommend_all(path, on_progress=stop)
    n_users = rec.known.n_users
    assert seen == [(16 * part, n_users) for part in range(6)]
    assert path.read_text() == "the old lists"
    assert rec.recommend_all(path) == 80
    assert path.read_bytes() == whole.read_bytes()
    assert not (tmp_path / f".{path.name}.parts").exists()


@pytest.mark.usefixtures("small_parts")
def test_parts_of_another_call_are_not_used(rec: palate.Recommender, tmp_path: Path) -> None:
    other = palate.Recommender.train(rec.data, "ials", seed=2)

    def stop(done: int, total: int) -> None:
        if done >= 48:
            raise KeyboardInterrupt

    for arguments in ({"k": 3}, {"users": rec.known.users.ids[::-1]}, {"rules": palate.Rules(diversity=0.5)}):
        with pytest.raises(KeyboardInterrupt):
            rec.recommend_all(tmp_path / "x.csv", on_progress=stop, **arguments)  # type: ignore[arg-type]
        assert rec.recommend_all(tmp_path / "x.csv") == 0
    with pytest.raises(KeyboardInterrupt):
        other.recommend_all(tmp_path / "x.csv", on_progress=stop)
    assert rec.recommend_all(tmp_path / "x.csv") == 0


@pytest.mark.usefixtures("small_parts")
def test_a_call_beside_another_is_refused(rec: palate.Recommender, tmp_path: Path) -> None:
    said = []

    def beside(done: int, total: int) -> None:
        if not said:
            with pytest.raises(ConfigError, match="another process is writing") as refused:
                rec.recommend_all(tmp_path / "x.csv")
            said.append(str(refused.value))

    rec.recommend_all(tmp_path / "x.csv", on_progress=beside)
    assert said


KILLED = """
import sys, time
from palate.recommender import bulk_lists
bulk_lists.MAX_USERS_PER_PART = 16
import palate
rec = palate.Recommender.load(sys.argv[1])
def slow(done, total):
    print(done, flush=True)
    time.sleep(0.05)
rec.recommend_all(sys.argv[2], k=5, on_progress=slow)
"""


@pytest.mark.usefixtures("small_parts")
def test_killed_twice_and_resumed(rec: palate.Recommender, run: Path, tmp_path: Path) -> None:
    path = tmp_path / "lists.parquet"
    reached = []
    for _ in range(2):
        child = subprocess.Popen([sys.executable, "-c", KILLED, run, path], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        with child.stdout:
            for line in child.stdout:
                if int(line) >= 48 * (len(reached) + 1):
                    break
            child.send_signal(signal.SIGKILL)
            child.wait()
        assert not path.exists()
        reached.append(len(list((tmp_path / ".lists.parquet.parts").glob("0*"))))
    assert reached == sorted(reached)
    assert reached[0] >= 3
    subprocess.run([sys.executable, "-c", KILLED, run, path], check=True, capture_output=True)
    rec.recommend_all(tmp_path / "whole.parquet", k=5)
    assert path.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_a_full_disk_is_one_error_and_what_is_done_is_kept(rec: palate.Recommender, tmp_path: Path) -> None:
    path = tmp_path / "lists.csv"
    with files_no_larger_than(500), pytest.raises(ArtifactError, match=r"cannot write .*run it again: it goes on"):
        rec.recommend_all(path)
    assert not path.exists()
    rec.recommend_all(path)
    assert len(read(path)) == 10 * rec.known.n_users


@pytest.mark.parametrize("model", ["ials", "itemknn"])
def test_similar_items_of_all_items(model: str, rec: palate.Recommender, tmp_path: Path) -> None:
    trained = rec if model == "ials" else palate.Recommender.train(rec.data, model)
    trained.similar_all(tmp_path / "s.parquet", k=6)
    found = read(tmp_path / "s.parquet")
    assert found.columns == ["of", "item_id", "score", "rank", "route"]
    assert found["of"].unique(maintain_order=True).to_list() == [
        item for item in trained.data.items.ids if trained.similar(item, 6).height
    ]
    for item in trained.data.items.ids[:40]:
        expected, own = trained.similar(item, 6), found.filter(of=item)
        assert own["rank"].to_list() == expected["rank"].to_list()
        assert (own["score"] - expected["score"]).abs().max() < 1e-5
        assert set(own["route"]) == set(expected["route"])
        clear = expected.filter((pl.col("score") - expected["score"][-1]) > 1e-4)["item_id"]
        assert set(clear) <= set(own["item_id"])


def test_names_that_say_no_format_are_refused(rec: palate.Recommender, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"let it end in .parquet, .csv or .jsonl"):
        rec.recommend_all(tmp_path / "lists.xlsx")
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(ConfigError, match="is a folder; name a file"):
        rec.similar_all(tmp_path / "d.csv")


def test_from_the_command_line(rec: palate.Recommender, run: Path, tmp_path: Path) -> None:
    done = command("recommend", run, "--all", "--out", tmp_path / "a.csv", "-k", "4", "--diversity", "0.2")
    assert done.code == 0, done.err
    assert done.out == f"wrote the lists of {rec.known.n_users} users to {tmp_path / 'a.csv'}\n"
    expected = rec.recommend(rec.known.users.ids, k=4, rules=palate.Rules(diversity=0.2))
    assert read(tmp_path / "a.csv")["item_id"].equals(expected["item_id"])
    assert "title" in read(tmp_path / "a.csv").columns
    (tmp_path / "users.txt").write_text("9\n4\n")
    words = ["recommend", run, "--all", "--users", tmp_path / "users.txt", "--out", tmp_path / "b.jsonl", "--one-row"]
    assert command(*words).code == 0
    assert [json.loads(line)["user_id"] for line in (tmp_path / "b.jsonl").read_text().splitlines()] == [9, 4]
    done = command("similar", run, "--all", "--out", tmp_path / "s.parquet", "--shard", "1/2", "-k", "3")
    assert done.out.startswith(f"wrote the lists of {rec.data.n_items // 2} items to")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--all"], "--all writes a file; name it: --out lists.parquet"),
        (["--out", "x.csv", "--one-row"], "--out, --one-row goes with --all"),
        (["--all", "--out", "x.csv", "--user", "3"], "--user does not go with --all"),
        (["--all", "--out", "x.csv", "--json"], "--json does not go with --all"),
        (["--users", "u.txt"], "--users goes with --all"),
        (["--all", "--out", "x.csv", "--shard", "half"], "--shard half is not of the form i/n"),
        (["--all", "--out", "x.csv", "--shard", "3/2"], "--shard 3/2 is out of range"),
        (["--all", "--out", "x.txt"], "let it end in .parquet, .csv or .jsonl"),
        (["--all", "--out", "x.csv", "-k", "0"], "-k 0 is out of range"),
    ],
)
def test_flags_that_do_not_go_together(words: list[str], said: str, run: Path, tmp_path: Path) -> None:
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        done = command("recommend", run, *words)
    finally:
        os.chdir(here)
    assert done.code == 2
    assert said in done.err
    assert not list(tmp_path.glob("*.csv"))


def test_formulas_are_escaped_in_csv(tmp_path: Path) -> None:
    rows = pl.DataFrame({"user_id": ["=1+1", "b", "b"], "item_id": ["+x", "+x", "y"]})
    rec = palate.Recommender.train(palate.Dataset.from_frame(rows), "popularity")
    rec.save(tmp_path / "run")
    command("recommend", tmp_path / "run", "--all", "--out", tmp_path / "a.csv", "--include-seen")
    assert "'=1+1,'+x" in (tmp_path / "a.csv").read_text()
    command("recommend", tmp_path / "run", "--all", "--out", tmp_path / "a.csv", "--include-seen", "--raw")
    assert "\n=1+1,+x" in (tmp_path / "a.csv").read_text()


@pytest.mark.slow
def test_movielens_1m_takes_seconds(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    data = palate.Dataset.read(real_data("ml-1m") / "ratings.parquet")
    trained = palate.Recommender.train(data, "ials", {"iterations": 1})
    start = time.process_time()
    trained.recommend_all(tmp_path / "lists.parquet")
    assert time.process_time() - start < 10  # CPU seconds of all threads; 5 s of wall time on two free cores
    assert pl.read_parquet(tmp_path / "lists.parquet").height == 10 * data.n_users
