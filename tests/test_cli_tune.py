"""`palate tune` and `palate compare`, in this process but for the final runs of a contest."""

from __future__ import annotations

from pathlib import Path

import pytest

from palate.cli import main

pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'palate[tune]'")

DATA = ["synthetic-1000", "--split", "random"]


def run(*words: str) -> int:
    try:
        main(list(words))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_found_settings_go_straight_into_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tune", "ease", *DATA, "--trials", "2", "--out", str(tmp_path / "tune")) == 0
    assert "of 2 trials" in capsys.readouterr().out
    settings = str(tmp_path / "tune" / "ease.json")
    assert run("train", "ease", *DATA, "--config", settings, "--out", str(tmp_path / "run")) == 0


@pytest.mark.timeout(240)
def test_a_rating_metric_orders_lowest_first_and_names_who_cannot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--models", "ease,i-autorec,bias", "--metric", "rmse", "--budget", "1", "--seeds", "1"]
    quick = ["--training.epochs", "1"]
    assert run("compare", *DATA, *words, *quick, "--out", str(tmp_path)) == 0
    said = capsys.readouterr().out
    table = said[said.index("\nmodel") :].splitlines()
    rows = [line.split() for line in table if line.startswith(("bias ", "i-autorec "))]
    assert [float(row[1]) for row in rows[:2]] == sorted(float(row[1]) for row in rows[:2])
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "ease could not take part" in report
    assert "tuning of bias" in report


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--models", "eese"], "did you mean 'ease'"),
        (["--models", "ease", "--seeds", "0"], "must be at least 1"),
        (["--models", "ease", "--valid", "0"], "settings are chosen on the valid part"),
        (["--models", "ease", "--metric", "ndgc@10"], "ndcg"),
    ],
)
def test_bad_input_is_one_message(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("compare", *DATA, *words, "--budget", "1", "--out", str(tmp_path / "out")) == 2
    assert told in capsys.readouterr().err
