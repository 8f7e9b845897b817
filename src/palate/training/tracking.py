"""Callbacks that hand each epoch to an experiment tracker: TensorBoard, MLflow (the `track` extra).

    with TensorBoard("runs/logs") as tracker:
        model.fit(data, training, validate, on_epoch=tracker.on_epoch)

Both write the same names over epochs: `train/loss`, `train/samples_per_second`, and `valid/NAME` for each metric on
valid.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from palate.errors import MissingExtra
from palate.training.job import Epoch


def values(record: Epoch) -> dict[str, float]:
    """What is written of an epoch."""
    speed = record.samples / record.seconds if record.seconds else 0.0
    written = {"train/loss": record.loss, "train/samples_per_second": speed}
    return written | {f"valid/{name}": value for name, value in record.valid.items()}


class TensorBoard:
    """Writes event files; `tensorboard --logdir FOLDER` shows them.

    Args:
        folder: Where to; made if absent.

    Raises:
        MissingExtra: TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtra(f"TensorBoard is not installed ({error}): pip install 'palate[track]'") from error
        self._writer: Any = SummaryWriter(str(folder))

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def on_epoch(self, record: Epoch) -> None:
        """To be called after each epoch, as `palate.training.loop.Job.on_epoch`."""
        for name, value in values(record).items():
            self._writer.add_scalar(name, value, record.epoch)
        self._writer.flush()


class MLflow:
    """Writes into one run of MLflow, under its own current settings (tracking URI, environment variables).

    Args:
        experiment: Made if absent.
        name: Of the run; MLflow invents one by default.
        settings: Written once as the run's parameters, for example `palate.config.to_dict(training)`.

    Raises:
        MissingExtra: MLflow is not installed.
    """

    def __init__(
        self, experiment: str = "palate", name: str | None = None, settings: dict[str, Any] | None = None
    ) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise MissingExtra(f"MLflow is not installed ({error}): pip install 'palate[track]'") from error
        self._mlflow: Any = mlflow
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
        """To be called after each epoch, as `palate.training.loop.Job.on_epoch`."""
        # MLflow takes no "@" in a name: ndcg@10 is written as ndcg_at_10.
        named = {name.replace("@", "_at_"): value for name, value in values(record).items()}
        self._mlflow.log_metrics(named, step=record.epoch, run_id=self.run_id)
