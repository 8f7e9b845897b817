"""Sessions and events on the command line: read, train, evaluate, recommend, explain; and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from test_cli import palate


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng, rows = np.random.default_rng(0), []
    for visit in range(150):
        item = int(rng.integers(12))
        for place in range(int(rng.integers(1, 7))):
            rows.append((f"v{visit:03}", f"u{visit % 30}", f"i{item}", 1_600_000_000 + visit * 3600 + place * 60))
            item = (item + 1) % 12 if rng.random() < 0.8 else int(rng.integers(12))
    file = tmp_path_factory.mktemp("clicks") / "clicks.csv"
    pl.DataFrame(rows, schema=["visit", "user", "item", "time"], orient="row").write_csv(file)
    return file


def test_sessions_from_the_file_to_the_list(clicks: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    made = palate("train", "vmis-knn", clicks, "--session", "visit", "--protocol", "session-prefixes", "--out", run)
    assert "protocol session-prefixes: each prefix of a held-out session predicts the item after it" in made.out
    found = palate("evaluate", run)
    assert "hit@20" in found.out
    listed = palate("recommend", run, "--history", "i1,i2", "-k", "3", "--explain")
    assert "i3" in listed.out
    told = palate("explain", run, "--history", "i1,i2", "--item", "i3")
    assert "similar sessions hold i3" in told.out


def test_a_gap_cuts_sessions_and_repeats_are_said(clicks: Path, tmp_path: Path) -> None:
    shown = palate("data", "inspect", clicks, "--session-gap", "30m")
    assert "users cut into 150 sessions at gaps of more than 1,800 seconds" in shown.out
    options = ("--user-id", "user", "--duplicates", "keep", "--split", "none")
    made = palate("train", "itemknn", clicks, *options, "--out", tmp_path / "run")
    assert "rows are repeated by a later one, and this model learns from the last one only" in made.out


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--session visit --session-gap 30m", "--session names the sessions, and --session-gap cuts users' events"),
        (
            "--session visit --user-id user",
            "leave out --user-id, or cut the users' events into sessions with --session",
        ),
        ("--session-gap soon", "--session-gap 'soon' is not a time above 0; write for example '30m'"),
        ("--session seance", "no column 'seance' for user_id"),
        ("--user-id user --protocol session-prefixes --duplicates keep", "read it with --session or --session-gap"),
    ],
)
def test_what_is_refused(clicks: Path, flags: str, told: str, tmp_path: Path) -> None:
    refused = palate("train", "markov", clicks, *flags.split(), "--out", tmp_path / "run")
    assert refused.code == 2
    assert told in refused.err
    assert not (tmp_path / "run").exists()


def test_models_of_known_users_refuse_sessions(clicks: Path, tmp_path: Path) -> None:
    taken = palate("train", "svdpp", clicks, "--session", "visit", "--out", tmp_path / "run")
    assert taken.code == 2
    assert "needs rating" in taken.err


@pytest.mark.timeout(240)
def test_comparisons_by_time_show_the_popularity_of_the_last_days(clicks: Path, tmp_path: Path) -> None:
    words = ("--user-id", "user", "--duplicates", "keep", "--models", "markov", "--budget", "0", "--seeds", "1")
    found = palate("compare", clicks, *words, "--protocol", "temporal-last", "--out", tmp_path / "out")
    assert found.code == 0, found.err
    assert "recent-popularity takes part too: it is the baseline of splits by time" in found.out
    assert "pays on this data: markov is the best of the models that read the order of events" in found.out
    table = found.out[found.out.index("\nmodel") :]
    assert [line.split()[0] for line in table.splitlines()[2:4]] in (
        ["markov", "recent-popularity"],
        ["recent-popularity", "markov"],
    )
