"""Trackers and the progress bar, run for real; the missing package is named."""

from __future__ import annotations

import builtins
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from toy import ROWS, Data, Given, Toy, job

from palate.errors import MissingExtra
from palate.training.loop import Epoch, run
from palate.training.progress import Progress
from palate.training.tracking import MLflow, TensorBoard

RECORDS = [
    Epoch(1, 0.5, {"ndcg@10": 0.25, "loss": 0.625}, seconds=2.0, samples=100, best=True),
    Epoch(2, 0.375, {"ndcg@10": 0.125, "loss": 0.75}, seconds=1.0, samples=100),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_each_epoch(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with TensorBoard(tmp_path) as tracker:
        for record in RECORDS:
            tracker.on_epoch(record)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    found = {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert found == {
        "train/loss": [(1, 0.5), (2, 0.375)],
        "train/samples_per_second": [(1, 50.0), (2, 100.0)],
        "valid/ndcg@10": [(1, 0.25), (2, 0.125)],
        "valid/loss": [(1, 0.625), (2, 0.75)],
    }


@pytest.mark.filterwarnings("ignore")
def test_mlflow_gets_each_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database takes it half a minute to set up
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tmp_path.as_uri())
    try:
        with MLflow("tests", "first", {"lr": 0.05}) as tracker:
            for record in RECORDS:
                tracker.on_epoch(record)
        client = mlflow.MlflowClient()
        found = client.get_run(tracker.run_id)
        history = client.get_metric_history(tracker.run_id, "valid/ndcg_at_10")
    finally:
        mlflow.set_tracking_uri(before)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"lr": "0.05"}
    assert found.data.metrics["train/loss"] == 0.375
    assert [(point.step, point.value) for point in history] == [(1, 0.25), (2, 0.125)]


@pytest.mark.parametrize(
    ("package", "tracker"), [("torch.utils.tensorboard", TensorBoard), ("mlflow", lambda folder: MLflow())]
)
def test_a_missing_package_is_named(
    package: str, tracker: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name == package:
            raise ImportError(f"No module named {package!r}")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingExtra, match=r"palate\[track\]"):
        tracker(tmp_path)


def watched(console: Console) -> str:
    with torch.random.fork_rng(devices=[]), Progress(console) as progress:
        told = job(Given(0.5, 0.25), epochs=2)
        run(Toy(), Data(), replace(told, on_epoch=progress.on_epoch, on_step=progress.on_step))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_without_a_terminal_each_epoch_is_one_line() -> None:
    lines = watched(Console(file=io.StringIO(), width=120)).splitlines()
    assert len(lines) == 2
    assert re.fullmatch(r"epoch   1  loss \d\.\d{4}  score 0\.5000  [\d,]+ samples/s  \d+\.\d s  best", lines[0])
    assert re.fullmatch(r"epoch   2  loss \d\.\d{4}  score 0\.2500  [\d,]+ samples/s  \d+\.\d s", lines[1])


def test_on_a_terminal_there_is_a_bar_with_loss_speed_and_time_left() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with Progress(console) as progress:
        for done in (100, 200, 300):
            progress.on_step(1, done, ROWS, 0.5)
            progress._drawn = 0.0  # the bar is drawn ten times a second at most; here at each step
        progress._bar.refresh()
        drawn = console.file.getvalue()  # type: ignore[attr-defined]
    assert "epoch 1" in drawn
    assert "loss 0.5000" in drawn
    assert "50%" in drawn
    assert "samples/s" in drawn
    assert re.search(r"\d:\d\d:\d\d|-:--:--", drawn)
