"""What a training run is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from palate.config import Recipe, Training


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training rows gave.

    Attributes:
        epoch: 1 for the first.
        loss: Mean training loss.
        valid: Metrics on the valid part, and `loss` where it was measured; empty without a valid part.
        seconds: Wall time of the training steps, validation apart.
        samples: Rows seen, negatives apart.
        best: Whether this is the best epoch so far by the monitored metric.
    """

    epoch: int
    loss: float
    valid: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    samples: int = 0
    best: bool = False


class Validate(Protocol):
    """Judges a model on the `valid` part, and on nothing else."""

    metric: str
    """The monitored metric, a key of what the call returns."""
    higher_is_better: bool

    def __call__(self, model: Any) -> dict[str, float]: ...


class Trainable(Protocol):
    """What the loop asks of a model; `palate.models.base.GradientModel` is one."""

    def batches(self, data: Any, rng: torch.Generator, size: int) -> Iterator[Any]: ...
    def loss(self, batch: Any) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training run.

    Attributes:
        training: Settings; only models with members leave any open, for these to fill.
        rng: Decides order and negatives.
        validate: Judge on `valid`; None trains all epochs.
        checkpoint: Folder to save the state of the run in and to resume from; None for neither.
        every: Seconds between checkpoints within an epoch; there is always one after an epoch.
        on_epoch: Called after each epoch.
        on_step: Called after each step with (epoch, rows done, rows in all, loss).
    """

    training: Training
    rng: torch.Generator
    validate: Validate | None = None
    checkpoint: Path | None = None
    every: float = 60.0
    on_epoch: Callable[[Epoch], None] | None = None
    on_step: Callable[[int, int, int, float], None] | None = None

    @property
    def how(self) -> Recipe:
        """The settings, none of them left open.

        Raises:
            ConfigError: One is.
        """
        return self.training.complete()
