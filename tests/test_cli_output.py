"""What commands print: nothing that a terminal obeys or a spreadsheet runs; programs get whole texts; any encoding."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from palate.data.dataset import Dataset
from palate.recommender.recommender import Recommender
from test_cli import palate

ESCAPES = "\x1b[31mred\x07\x9b2J\u202e"
TITLES = (f"{ESCAPES} film", "=1+2", "@SUM(A1)", "-film", "\tfilm", "＝1+2", "日本 🎬", "long " * 40 + "end")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose ids and titles hold what does not belong there."""
    items = [f"{'=' if n % 2 else '日'}{n}" for n in range(8)]
    rows = [(f"ü{u}" if u else f"u\x1b[2J{u}", items[(u + k * 3) % 8]) for u in range(8) for k in range(4)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    data = Dataset.from_frame(frame, pl.DataFrame({"item_id": items, "title": TITLES}))
    folder = tmp_path_factory.mktemp("runs") / "itemknn"
    Recommender.train(data, "itemknn").save(folder)
    return folder


def process(*words: str | bytes | Path, **environment: str) -> tuple[int, bytes, bytes]:
    """Run a command as a process of its own: exit status, output, errors."""
    done = subprocess.run(
        [sys.executable, "-m", "palate", *words],
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )
    return done.returncode, done.stdout, done.stderr


def no_control(text: str) -> bool:
    """Whether nothing but line breaks, and the tabs that CSV keeps, would be obeyed by a terminal."""
    return not [c for c in text if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 or c == "\u202e"]


def test_terminals_get_no_escapes(run: Path) -> None:
    user = "u\x1b[2J0"
    for words in (
        ("recommend", run, "--user", user, "--explain", "--include-seen", "-k", "8"),
        ("recommend", run, "--user", user, "--include-seen", "-k", "8", "--json"),
        ("recommend", run, "--user", user, "--include-seen", "-k", "8", "--csv"),
        ("similar", run, "--item", "日0", "-k", "8"),
        ("explain", run, "--user", user, "--item", "日0"),
        ("explain", run, "--user", user, "--item", "日0", "--json"),
        ("explain", run, "--global", "--users", "3"),
        ("explain", run, "--user", "\x1b[2J", "--item", "日0"),
    ):
        done = palate(*words)
        assert done.code == (2 if "\x1b[2J" in words else 0), done.err
        assert done.out + done.err
        assert no_control(done.out + done.err), words
    assert "\\x1b[31mred" in palate("recommend", run, "--user", user, "--include-seen", "-k", "8").out


def test_programs_get_whole_titles(run: Path) -> None:
    ask = ("recommend", run, "--user", "ü1", "--include-seen", "-k", "8")
    told = json.loads(palate(*ask, "--json").out)
    assert {row["title"] for row in told} == set(TITLES)
    raw = list(csv.DictReader(io.StringIO(palate(*ask, "--csv", "--raw").out)))
    assert {row["title"] for row in raw} == set(TITLES)
    assert "long " * 40 + "end" not in palate(*ask).out


def test_spreadsheets_get_no_formulas(run: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(palate("recommend", run, "--user", "ü1", "--csv", "-k", "8").out)))
    rows += csv.DictReader(io.StringIO(palate("similar", run, "--item", "日0", "--csv", "-k", "8").out))
    texts = [row[name] for row in rows for name in ("item_id", "title")]
    assert not [text for text in texts if text[0] in "=+-@\t\r\n＝＋－＠"]
    assert "'=1+2" in texts
    raw = palate("recommend", run, "--user", "ü1", "--csv", "--raw", "-k", "8").out
    assert "=" in {row["item_id"][0] for row in csv.DictReader(io.StringIO(raw))}


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
)
def test_output_that_holds_ascii_only(run: Path, environment: dict[str, str]) -> None:
    ask = ("recommend", run, "--user", "ü1".encode(), "--include-seen", "-k", "8")
    code, out, err = process(*ask, **environment)
    assert (code, b"Traceback" in err) == (0, False), err
    assert b"\\u65e5\\u672c" in out
    code, out, err = process(*ask, "--json", **environment)
    assert code == 0, err
    assert {row["title"] for row in json.loads(out)} == set(TITLES)


def test_bytes_that_are_no_text(run: Path, tmp_path: Path) -> None:
    code, _, err = process("recommend", run, "--user", b"\xff\xfe")
    assert (code, b"Traceback" in err) == (2, False), err
    assert err.startswith(b"palate: the argument "), err
    for words in (
        ("recommend", run, "--history", b"\xff,\xfe"),
        ("recommend", run, "--user", "ü1".encode(), "--exclude", b"\xff"),
        ("recommend", run, "--user", "ü1".encode(), "--where", b"title = '\xff'"),
        ("explain", run, "--user", b"\xff", "--item", b"\xff"),
        ("similar", run, "--item", b"\xff"),
        ("data", "inspect", b"\xff.csv"),
        ("train", "popularity", b"\xff.csv", "--out", tmp_path / "run"),
        ("recommend", run, "--user", b"\xff", "--unknown", "popularity"),
    ):
        found = palate(*map(os.fsdecode, words))
        assert found.code == 2
        assert found.err.startswith("palate: the argument "), found.err
        assert "is not valid UTF-8" in found.err


def test_a_reader_that_goes_away_ends_the_command_quietly(run: Path, tmp_path: Path) -> None:
    train = (
        f"{sys.executable} -m palate train mf synthetic-500 --split none --training.epochs 40 --out {tmp_path / 'r'}"
    )
    ask = f"{sys.executable} -m palate recommend {run} --user ü1 --include-seen"
    for command in (train, ask):
        done = subprocess.run(
            ["bash", "-c", f"{command} | head -1"], capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        assert done.stdout.count(b"\n") == 1
        assert b"Traceback" not in done.stderr
        assert b"BrokenPipe" not in done.stderr


def test_a_warning_of_a_fit_is_a_note_that_names_the_flag(tmp_path: Path) -> None:
    rows = [(u, i) for u in range(9) for i in range(12 if u == 0 else 4)]
    table = tmp_path / "plays.csv"
    pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").write_csv(table)
    out = tmp_path / "run"
    code, _, errors = process("train", "itemknn", table, "--out", out, "--split", "none", "--max-history", "6")
    assert (code, errors.decode().strip()) == (
        0,
        "itemknn counts users with more than 6 items (1 of 9) by an evenly spaced sample of so many, because time "
        "grows with the square of a user's items; set --max-history to change this",
    )
