"""Callbacks of a training run: a progress bar, and loggers for TensorBoard and MLflow (the `track` extra).

    with Progress() as progress, TensorBoard("runs/logs") as logger:
        def on_epoch(record):
            progress.on_epoch(record)
            logger.on_epoch(record)

        model.fit(data, training, validate, on_epoch=on_epoch, on_step=progress.on_step)

Both loggers use the same names: `train/loss`, `train/samples_per_second`, and `valid/NAME` for the loss and each metric
on the validation part. Names of a model that is trained inside another one (a blend's member) start with `MEMBER/`.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from palate.extras import missing_extra
from palate.training.train_run import Epoch

REDRAW_SECONDS = 0.1
"""Time between two updates of the bar."""
LOSS_SMOOTHING = 0.98
"""Weight of earlier steps in the bar's running mean of the loss."""


class Progress:
    """A bar for the current epoch, and a line for each finished one.

    Args:
        console: Where to draw. Defaults to standard error. Without a terminal only the lines are written.
        lines: Whether to write a line for each finished epoch.
    """

    def __init__(self, console: Console | None = None, lines: bool = True) -> None:
        self._console, self._lines = console or Console(stderr=True), lines
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("train loss {task.fields[loss]}, {task.fields[speed]:,.0f} samples/s"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._epoch = 0
        self._loss = 0.0
        self._start = self._drawn = 0.0
        self._first = 0
        self._loss_name = "loss"

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def on_step(self, epoch: int, done: int, total: int, loss: float) -> None:
        """Call after each step; see `palate.training.train_run.TrainRun.on_step`."""
        now = time.perf_counter()
        if epoch != self._epoch:
            self._begin(epoch, done, total, loss, now)
        self._loss = LOSS_SMOOTHING * self._loss + (1 - LOSS_SMOOTHING) * loss
        if now - self._drawn < REDRAW_SECONDS or self._task is None:
            return
        self._drawn = now
        speed = (done - self._first) / max(now - self._start, 1e-9)
        self._bar.update(self._task, completed=done, total=max(total, done), loss=_number(self._loss), speed=speed)

    def on_epoch(self, record: Epoch) -> None:
        """Call after each epoch; see `palate.training.train_run.TrainRun.on_epoch`."""
        if record.loss_name != self._loss_name and self._lines:
            self._print(f"loss: {record.loss_name}")
        self._epoch, self._loss_name = 0, record.loss_name  # The next step begins a new bar.
        values = {"train loss": record.loss}
        for name in sorted(record.valid, key=lambda name: name != "loss"):  # The losses side by side.
            values[f"valid {name}"] = record.valid[name]
        parts = [
            f"{record.member}  " * bool(record.member) + f"epoch {record.epoch:>3}",
            ", ".join(f"{name} {_number(value)}" for name, value in values.items()),
            f"{record.samples / max(record.seconds, 1e-9):,.0f} samples/s",
            f"{record.seconds:.1f} s",
        ]
        if self._lines:
            self._print("  ".join(parts + ["best"] * record.best))

    def _begin(self, epoch: int, done: int, total: int, loss: float, now: float) -> None:
        """Replace the bar by one for this epoch."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(f"epoch {epoch}", total=total, completed=done, loss=_number(loss), speed=0.0)
        self._epoch, self._loss, self._start, self._first = epoch, loss, now, done

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _number(value: float) -> str:
    """Three decimals, or three significant digits of small values."""
    return f"{value:.3f}" if abs(value) >= 0.1 or not value else f"{value:.3g}"


class TensorBoard:
    """Writes event files, which `tensorboard --logdir FOLDER` shows.

    Args:
        folder: Where to write; created if it does not exist.

    Raises:
        MissingExtra: TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing_extra(f"TensorBoard is not installed ({error})", "track") from error
        self._writer: Any = SummaryWriter(str(folder))

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def on_epoch(self, record: Epoch) -> None:
        """Call after each epoch; see `palate.training.train_run.TrainRun.on_epoch`."""
        for name, value in logged_values(record).items():
            self._writer.add_scalar(name, value, record.epoch)
        self._writer.flush()


class MLflow:
    """Writes one MLflow run, to where MLflow's tracking URI points.

    Without a tracking URI (`mlflow.set_tracking_uri`, `MLFLOW_TRACKING_URI`) and without a file `mlflow.db` here, the
    run is written as plain files into the folder `mlruns`: making MLflow's database takes seconds.

    Args:
        experiment: Name of the experiment; created if it does not exist.
        name: Name of the run. Defaults to one that MLflow makes up.
        settings: Logged once as the run's parameters, for example `palate.config.to_dict(training)`.

    Raises:
        MissingExtra: MLflow is not installed.
    """

    def __init__(
        self, experiment: str = "palate", name: str | None = None, settings: dict[str, Any] | None = None
    ) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise missing_extra(f"MLflow is not installed ({error})", "track") from error
        self._mlflow: Any = mlflow
        if not self._mlflow.is_tracking_uri_set() and not Path("mlflow.db").exists():
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow prefers the database and asks for this.
            self._mlflow.set_tracking_uri(Path("mlruns"))
        self._mlflow.set_experiment(experiment)
        self.run_id: str = self._mlflow.start_run(run_name=name).info.run_id
        if settings:
            self._mlflow.log_params(settings)

    def __enter__(self) -> MLflow:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mlflow.end_run("FINISHED" if kind is None else "FAILED")

    def on_epoch(self, record: Epoch) -> None:
        """Call after each epoch; see `palate.training.train_run.TrainRun.on_epoch`."""
        # MLflow allows no "@" in a name: ndcg@10 becomes ndcg_at_10.
        metrics = {name.replace("@", "_at_"): value for name, value in logged_values(record).items()}
        self._mlflow.log_metrics(metrics, step=record.epoch, run_id=self.run_id)


def logged_values(record: Epoch) -> dict[str, float]:
    """What the loggers write of an epoch, by name."""
    speed = record.samples / record.seconds if record.seconds else 0.0
    values = {"train/loss": record.loss, "train/samples_per_second": speed}
    values |= {f"valid/{name}": value for name, value in record.valid.items()}
    return {f"{record.member}/{name}": value for name, value in values.items()} if record.member else values
