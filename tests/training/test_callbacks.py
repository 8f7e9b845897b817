"""The progress bar and the loggers, run for real; a missing package is named."""

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
from palate.training.callbacks import MLflow, Progress, TensorBoard, logged_values
from palate.training.loop import Epoch, run

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
    """Without a tracking URI it writes files into `mlruns`, and makes no database."""
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert not mlflow.is_tracking_uri_set()
    try:
        with MLflow("tests", "first", {"lr": 0.05}) as tracker:
            for record in RECORDS:
                tracker.on_epoch(record)
        client = mlflow.MlflowClient()
        found = client.get_run(tracker.run_id)
        history = client.get_metric_history(tracker.run_id, "valid/ndcg_at_10")
    finally:
        mlflow.set_tracking_uri(None)
    assert [path.name for path in tmp_path.iterdir()] == ["mlruns"]
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
    with pytest.raises(MissingExtra, match=r"is not installed .*: .* install "):
        tracker(tmp_path)


def watched(console: Console) -> str:
    with torch.random.fork_rng(devices=[]), Progress(console) as progress:
        told = job(Given(0.5, 0.25), epochs=2)
        run(Toy(), Data(), replace(told, on_epoch=progress.on_epoch, on_step=progress.on_step))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def lines_of(*records: Epoch) -> list[str]:
    file = io.StringIO()
    with Progress(Console(file=file, width=120)) as progress:
        for record in records:
            progress.on_epoch(record)
    return file.getvalue().splitlines()


def test_without_a_terminal_each_epoch_is_one_line() -> None:
    lines = watched(Console(file=io.StringIO(), width=120)).splitlines()
    assert len(lines) == 2
    assert re.fullmatch(
        r"epoch   1  train loss \d\.\d{3}, valid score 0\.500  [\d,]+ samples/s  \d+\.\d s  best", lines[0]
    )
    assert re.fullmatch(r"epoch   2  train loss \d\.\d{3}, valid score 0\.250  [\d,]+ samples/s  \d+\.\d s", lines[1])


def test_the_losses_stand_side_by_side_and_are_named_once() -> None:
    named = [replace(record, loss_name="squared error per rating") for record in RECORDS]
    assert lines_of(*named) == [
        "loss: squared error per rating",
        "epoch   1  train loss 0.500, valid loss 0.625, valid ndcg@10 0.250  50 samples/s  2.0 s  best",
        "epoch   2  train loss 0.375, valid loss 0.750, valid ndcg@10 0.125  100 samples/s  1.0 s",
    ]


def test_a_member_is_named_and_so_is_each_new_loss() -> None:
    first = Epoch(1, 0.04125, seconds=1.0, samples=10, member="mf", loss_name="binary cross-entropy per pair")
    second = Epoch(1, 12.0, seconds=1.0, samples=10, member="multdae", loss_name="negative log-likelihood per item")
    assert lines_of(first, second) == [
        "loss: binary cross-entropy per pair",
        "mf  epoch   1  train loss 0.0413  10 samples/s  1.0 s",
        "loss: negative log-likelihood per item",
        "multdae  epoch   1  train loss 12.000  10 samples/s  1.0 s",
    ]
    assert logged_values(first) == {"mf/train/loss": 0.04125, "mf/train/samples_per_second": 10.0}


def test_on_a_terminal_there_is_a_bar_with_loss_speed_and_time_left() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with Progress(console) as progress:
        for done in (100, 200, 300):
            progress.on_step(1, done, ROWS, 0.5)
            progress._drawn = 0.0  # the bar is drawn ten times a second at most; here at each step
        progress._bar.refresh()
        drawn = console.file.getvalue()  # type: ignore[attr-defined]
    assert "epoch 1" in drawn
    assert "train loss 0.500" in drawn
    assert "50%" in drawn
    assert "samples/s" in drawn
    assert re.search(r"\d:\d\d:\d\d|-:--:--", drawn)
