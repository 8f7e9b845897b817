"""A progress bar for a training run: loss, speed and time left, on the terminal.

with Progress() as progress:
    model.fit(data, training, validate, on_epoch=progress.on_epoch, on_step=progress.on_step)
"""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from palate.training.job import Epoch

BETWEEN = 0.1
"""Seconds between two looks at the bar; steps in between cost a clock reading each."""
SMOOTHING = 0.98
"""Weight of the past in the running mean of the loss."""


class Progress:
    """One bar for the epoch that runs, one line for each that is done.

    Args:
        console: Where to draw; default: standard error. Nothing but the lines is written where it is no terminal.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("loss {task.fields[loss]:.4f}  {task.fields[speed]:,.0f} samples/s"),
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

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def on_step(self, epoch: int, done: int, total: int, loss: float) -> None:
        """To be called after each step, as `palate.training.loop.Job.on_step`."""
        now = time.perf_counter()
        if epoch != self._epoch:
            self._begin(epoch, done, total, loss, now)
        self._loss = SMOOTHING * self._loss + (1 - SMOOTHING) * loss
        if now - self._drawn < BETWEEN or self._task is None:
            return
        self._drawn = now
        speed = (done - self._first) / max(now - self._start, 1e-9)
        self._bar.update(self._task, completed=done, total=max(total, done), loss=self._loss, speed=speed)

    def on_epoch(self, record: Epoch) -> None:
        """To be called after each epoch, as `palate.training.loop.Job.on_epoch`."""
        parts = [f"epoch {record.epoch:>3}  loss {record.loss:.4f}"]
        parts += [f"{name} {value:.4f}" for name, value in record.valid.items()]
        parts += [f"{record.samples / max(record.seconds, 1e-9):,.0f} samples/s", f"{record.seconds:.1f} s"]
        self._console.print(
            "  ".join(parts) + ("  best" if record.best else ""), markup=False, highlight=False, soft_wrap=True
        )

    def _begin(self, epoch: int, done: int, total: int, loss: float, now: float) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(f"epoch {epoch}", total=total, completed=done, loss=loss, speed=0.0)
        self._epoch, self._loss, self._start, self._first = epoch, loss, now, done
