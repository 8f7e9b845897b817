"""`palate tune` and `palate compare`, in this process but for the final runs of a contest."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from palate.cli import main
from palate.data.dataset import Dataset
from palate.data.synthetic import synthetic
from palate.evaluation.protocols import prepare

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
        (["--models", "ease", "--protocol", "anelli", "--min-user", "3"], "leave out --split, --min-user"),
        (["--models", "ease", "--given", "x"], "--given is a file for a --protocol"),
        (["--models", "ease", "--fold", "2"], "the split 'random' has no --fold"),
    ],
)
def test_bad_input_is_one_message(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("compare", *DATA, *words, "--budget", "1", "--out", str(tmp_path / "out")) == 2
    assert told in capsys.readouterr().err


@pytest.mark.timeout(240)
def test_compare_under_a_protocol_of_given_candidates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = synthetic(1000).interactions
    rows.write_csv(tmp_path / "rows.csv")
    last = rows.sort("timestamp").group_by("user_id", maintain_order=True).agg(pl.last("item_id"))
    last.with_columns(negatives=pl.lit(rows["item_id"].unique().sort()[:30].to_list())).write_parquet(
        tmp_path / "f.parquet"
    )
    words = ["--protocol", "ncf", "--given", str(tmp_path / "f.parquet"), "--models", "popularity,ease"]
    how = ["--budget", "1", "--seeds", "1", "--out", str(tmp_path / "out")]
    assert run("compare", str(tmp_path / "rows.csv"), *words, *how) == 0
    said = capsys.readouterr().out
    assert "protocol ncf: one held-out row of each user" in said
    assert "ndcg@10" in said[said.index("\nmodel") :]
    assert "novelty@10" not in said
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    given = prepare("ncf", Dataset.read(tmp_path / "rows.csv"), given=tmp_path / "f.parquet")
    assert f"Protocol {given.protocol.hash}." in report


def test_tune_under_a_protocol_goes_by_its_headline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--protocol", "strong-generalisation", "--trials", "1", "--out", str(tmp_path)]
    assert run("tune", "ease", "synthetic-3000", *words) == 0
    assert "best ndcg@100 on valid" in capsys.readouterr().out
