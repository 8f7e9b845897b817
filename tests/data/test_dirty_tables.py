"""Random dirty tables are read or refused; benchmarks/dirty_tables.py reads 5,000."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import pytest

from dirty import Dirt, Trial, attempt, wrong_with
from palate.data.dataset import Dataset
from palate.errors import ConfigError, DataError

TABLES = 200


@pytest.mark.timeout(600)
def test_dirty_tables_are_read_or_refused(tmp_path: Path) -> None:
    found: list[Trial] = []
    for number in range(TABLES):
        (folder := tmp_path / str(number)).mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of features that a model ignores; they are no part of this promise
            found.append(attempt(0, number, folder))
    assert not [trial for trial in found if not trial.sound]
    # A generator that makes only broken tables, or none, would show nothing.
    outcomes = Counter(trial.code for trial in found)
    assert min(outcomes[0], outcomes[2]) > TABLES / 10, outcomes
    assert Counter(trial.read for trial in found)["ok"] > TABLES / 10


def test_the_check_finds_what_no_command_may_print() -> None:
    assert wrong_with(0, "user  item\n1  2\n", "") == ""
    assert wrong_with(2, "Traceback (most recent call last):", "") == "a traceback"
    assert wrong_with(2, " \n", " \n") == "an error without a word"
    assert "control" in wrong_with(0, "a \x1b[31m title", "")
    assert not Trial(0, "", "KeyError: 'x'", "", 0, "", 0.0).sound
    assert not Trial(0, "", "ok", "", 1, "", 0.0).sound


def test_levels_of_dirt() -> None:
    clean = Dirt(1)
    clean.level = 0.0
    assert {clean.pick((1, 2, 3)) for _ in range(100)} == {1}
    assert not any(clean.maybe(1.0) for _ in range(100))


@pytest.mark.parametrize("encoding", ["punycode", "idna", "hex", "undefined"])
def test_codecs_that_cannot_replace_a_wrong_byte_are_refused(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.csv").write_bytes("user_id,item_id\nå,1\n".encode())
    with pytest.raises(ConfigError, match="cannot be used for tables; usual ones are utf-8"):
        Dataset.read(tmp_path / "a.csv", encoding=encoding)


def test_errors_do_not_repeat_a_header_of_any_length(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x" * 70_000 + ",y\n1,2\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"columns found: 'xxx.*\.\.\., 'y'") as error:
        Dataset.read(tmp_path / "a.csv")
    assert len(str(error.value)) < 1_000
