"""`palate tune` and `palate compare`, in this process but for the final runs of a contest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from palate.cli import main
from palate.data.dataset import Dataset
from palate.data.sources.synthetic import synthetic
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
    assert run("train", "ease", "--config", str(tmp_path / "run" / "train.json"), "--out", str(tmp_path / "again")) == 0
    capsys.readouterr()
    assert run("tune", "ease", *DATA, "--trials", "2", "--training.lr", "1", "--out", str(tmp_path / "no")) == 2
    assert "ease takes no gradient steps and so has no --training.lr" in capsys.readouterr().err


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
        (["--models", "ease", "--seeds", "0"], "give at least 1 seed, and a budget of 0 or more"),
        (["--models", "ease", "--valid", "0"], "settings are chosen on the valid part"),
        (["--models", "ease", "--metric", "ndgc@10"], "ndcg"),
        (["--models", "ease", "--protocol", "anelli", "--min-user", "3"], "leave out --split, --min-user"),
        (["--models", "ease", "--given", "x"], "--given is a file for a --protocol"),
        (
            ["--models", "ease,ials", "--training.epochs", "2"],
            "takes no gradient steps and so has no --training.epochs",
        ),
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
    assert "protocol ncf: test is one row of each user" in said
    assert "ndcg@10" in said[said.index("\nmodel") :]
    assert "novelty@10" not in said
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    given = prepare("ncf", Dataset.read(tmp_path / "rows.csv"), given=tmp_path / "f.parquet")
    assert f"Protocol {given.protocol.hash}." in report


def test_compare_as_they_come(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--models", "popularity,ease", "--seeds", "1", "--out", str(tmp_path)]
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert run("compare", *DATA, *words) == 2
    assert "--budget 10 needs Optuna" in (said := capsys.readouterr()).err
    assert said.out == ""
    assert run("compare", *DATA, *words, "--budget", "0") == 0
    assert "trial" not in capsys.readouterr().out
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "ease was not tuned (budget 0): it has its default settings" in report
    assert not (tmp_path / "study.db").exists()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("what", ["tune", "compare"])
def test_stopped_and_shared_searches_end_as_undisturbed_ones(what: str) -> None:
    """Real processes: one moment for each signal and two processes at once; the whole table has ten of each."""
    script = Path(__file__).parents[1] / "benchmarks" / "stopped_searches.py"
    words = [sys.executable, str(script), "--moments", "1", "--pairs", "1", "--what", what]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("| yes") == 3


def test_tune_under_a_protocol_goes_by_its_headline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--protocol", "strong-generalisation", "--trials", "1", "--out", str(tmp_path)]
    assert run("tune", "ease", "synthetic-3000", *words) == 0
    assert "best ndcg@100 on valid" in capsys.readouterr().out
