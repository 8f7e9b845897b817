"""A training run: what it is given, what it gives back, and its state in memory and on disk.

A checkpoint folder holds `state-*/`, with the tensors in a safetensors file and all else in a JSON file, and `latest`,
which names the state that counts. A new state is written and flushed beside the old one. Only then is `latest`
replaced, in one step, so that a kill, a power cut or a full disk at any moment leaves this state or the one before.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from palate.config import CompleteTraining, Training, to_dict
from palate.data.dataset import Dataset
from palate.errors import ArtifactError, ConfigError, TrainingError
from palate.training.batches import Negatives
from palate.training.optimizers import Optimizer
from palate.training.warm_start import WarmStart, continue_from


@dataclass(frozen=True)
class Epoch:
    """The record of one pass over the training rows.

    Attributes:
        epoch: Number of the epoch, from 1.
        loss: Mean training loss, without penalties; the same quantity as `valid["loss"]`.
        valid: Metrics on the validation part, and `loss` where it was measured; empty without a validation part.
        seconds: Wall time of the training steps, without validation.
        samples: Rows seen, without negatives.
        best: Whether this is the best epoch so far by the monitored metric.
        member: Which model was trained, where a model trains others (a blend's members, a stage of training).
        loss_name: What the losses measure, and per what: the model's `loss_name`.
    """

    epoch: int
    loss: float
    valid: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    samples: int = 0
    best: bool = False
    member: str = ""
    loss_name: str = "loss"


def best_epoch(records: Sequence[Epoch]) -> Epoch | None:
    """The epoch whose weights were kept: the last one that was the best so far; None without a validation part."""
    return next((record for record in reversed(records) if record.best), None)


class Loss(NamedTuple):
    """The loss of a batch.

    Attributes:
        objective: What is minimised: the mean loss of the batch plus penalties, a scalar.
        shown: The loss without penalties, a scalar, in the unit that `GradientModel.loss_name` names. It means the same
            on training and on validation rows, so that both curves can be compared.
        over, shown_over: What each is the mean over, a number or a sum of weights; the batch's rows by default. The
            mean of the losses of a batch's parts, weighted by these, is the loss of the batch.
    """

    objective: Tensor
    shown: Tensor
    over: Tensor | float | None = None
    shown_over: Tensor | float | None = None


@dataclass(frozen=True, eq=False)
class FitContext:
    """What training needs of the data beside the model, built once a fit and handed to `batches` and `loss`.

    Attributes:
        data: The rows to learn from or, for the loss on a validation part, those of the part.
        negatives: Draws items that a user does not have, for models that learn from contrast.
    """

    data: Dataset
    negatives: Negatives | None = None


class Validate(Protocol):
    """Judges a model on the validation part, and on nothing else."""

    metric: str
    """The monitored metric, a key of what the call returns."""
    higher_is_better: bool

    def __call__(self, model: Any) -> dict[str, float]: ...

    def for_member(self, model: Any) -> Validate | None:
        """The same part for a model inside the judged one; None if it holds nothing that model can answer."""
        ...

    def sampled(self, model: Any, max_users: int) -> Validate:
        """The same metric on a fixed random sample of at most so many users, for quick comparisons."""
        ...


class Trainable(Protocol):
    """What the loop asks of a model; `palate.models.base.GradientModel` is one."""

    def batches(self, context: Any, rng: torch.Generator, size: int) -> Iterator[Any]:
        """One epoch of batches, each with a length; all randomness comes from `rng`."""
        ...

    def loss(self, batch: Any, context: Any) -> Tensor | Loss:
        """The mean loss of a batch."""
        ...

    def refresh(self, context: Any = None) -> None:
        """Rebuild what is computed from the weights."""
        ...


class Seeds(NamedTuple):
    """Independent random streams of one seed.

    Attributes:
        weights: Initial weights.
        order: Order of rows, and negatives.
        noise: Dropout and other noise of training steps.
    """

    weights: int
    order: int
    noise: int

    @classmethod
    def of(cls, seed: int) -> Seeds:
        """Spawned from one seed by `numpy.random.SeedSequence`."""
        return cls(*(int(s.generate_state(1, np.uint64)[0] >> 1) for s in np.random.SeedSequence(seed).spawn(3)))


@dataclass(frozen=True, kw_only=True)
class TrainRun:
    """One training run.

    Attributes:
        training: Settings; only models with members leave any open, for these to fill.
        rng: Decides order and negatives.
        validate: Judges on the validation part; None trains all epochs.
        checkpoint: Folder to save the state of the run in and to resume from; None for neither.
        every: Seconds between checkpoints within an epoch; there is always one after an epoch.
        on_epoch: Called after each epoch.
        on_step: Called after each step with (epoch, rows done, rows in all, loss).
        start: What to continue from; models that are computed from counts ignore it. None starts anew.
        world: The processes that train together (`palate.training.processes.World`); None if there is one.
    """

    training: Training
    rng: torch.Generator
    validate: Validate | None = None
    checkpoint: Path | None = None
    every: float = 60.0
    on_epoch: Callable[[Epoch], None] | None = None
    on_step: Callable[[int, int, int, float], None] | None = None
    start: WarmStart | None = None
    world: Any = None

    def together(self, model: Any, context: Any) -> TrainRun:
        """The run as one of the processes that torchrun started makes it; itself where there is one process.

        Raises:
            ConfigError: The processes cannot train this together, or nobody has prepared them for it.
        """
        if os.environ.get("WORLD_SIZE", "1") == "1":
            return self
        if divide is None:
            raise ConfigError(
                f"torchrun started {os.environ['WORLD_SIZE']} processes: `import palate.training.processes` before "
                "`fit`, so that they train together (`Recommender.train` does it)"
            )
        return divide(model, context, self)

    def begin(self, model: Any) -> None:
        """Give a model with initial weights those of the model to continue from, if there is one."""
        if self.start is not None:
            continue_from(model, self.start)

    @property
    def settings(self) -> CompleteTraining:
        """The settings, none of them left open.

        Raises:
            ConfigError: A setting is left open.
        """
        return self.training.complete()

    @contextmanager
    def first(self) -> Iterator[bool]:
        """A block of code whose effect one process is enough for; gives whether this is the one, the others wait."""
        with self.world.busy() if self.world is not None else nullcontext():
            yield self.world is None or self.world.first

    def share(self, rows: int) -> slice:
        """Of so many rows, those that this process computes: all of them if there is one."""
        if self.world is None:
            return slice(0, rows)
        return slice(rows * self.world.rank // self.world.size, rows * (self.world.rank + 1) // self.world.size)

    def total(self, compute: Callable[[], Tensor]) -> Tensor:
        """The sum of what each process computes, of one shape; they wait for each other."""
        if self.world is None:
            return compute()
        with self.world.busy():
            part = compute()
        return self.world.sum(part)  # type: ignore[no-any-return]

    def due(self, seconds: float) -> bool:
        """Whether to write a checkpoint within an epoch, so many seconds after the last one."""
        wish = self.checkpoint is not None and seconds >= self.every
        return wish if self.world is None else bool(self.world.agreed(wish))


divide: Callable[[Any, Any, TrainRun], TrainRun] | None = None
"""Makes a run that of one of several processes. `palate.training.processes` sets it, which no model has to know."""
NUMBERS = ("epoch", "step", "loss_sum", "samples", "seconds", "best_value", "waited")


@dataclass
class State:
    """Where a run stands; all of it goes into a checkpoint.

    Attributes:
        order: State of the job's generator at the start of this epoch.
        epoch: Epochs done.
        step: Steps done in this epoch; `loss_sum`, `samples` and `seconds` are this epoch's too.
        records: Of the epochs done.
        best: Weights of the best epoch so far, `best_value` its metric; empty and NaN before there is one.
        waited: Epochs since.
        first_batch: The first batch of the run, and `first_loss` its loss before training; not in the checkpoint.
    """

    order: Tensor
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    samples: int = 0
    seconds: float = 0.0
    records: list[Epoch] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_value: float = math.nan
    waited: int = 0
    first_batch: Any = None
    first_loss: float = math.nan

    def took(self, loss: float, samples: int, seconds: float) -> None:
        """A step was made; `seconds` is the epoch's time so far."""
        self.step += 1
        self.samples += samples
        self.loss_sum += loss * samples
        self.seconds = seconds

    def next_epoch(self, record: Epoch, order: Tensor) -> None:
        """The epoch is done."""
        self.records.append(record)
        self.epoch, self.step, self.loss_sum, self.samples, self.seconds = self.epoch + 1, 0, 0.0, 0, 0.0
        self.order = order

    def keep(self, weights: dict[str, Tensor], value: float) -> None:
        """These weights are the best so far."""
        self.best_value = value
        if not self.best:
            self.best = {name: tensor.clone() for name, tensor in weights.items()}
        for name, tensor in weights.items():
            self.best[name].copy_(tensor)


def save(model: Any, optimizer: Optimizer, data: Any, job: TrainRun, state: State) -> None:
    """Write a run's whole state, where it has a checkpoint folder.

    Raises:
        ArtifactError: It cannot be written, for example because the disk is full.
    """
    if job.checkpoint is None:
        return
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in state.best.items()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer.state().items()}
    tensors |= {"rng.order": state.order, "rng.torch": torch.get_rng_state()}
    info: dict[str, Any] = {name: getattr(state, name) for name in NUMBERS}
    info |= {"records": [asdict(record) for record in state.records], "run": identity(model, data, job)}
    with job.first() as first:
        if first:
            _write(job.checkpoint, tensors, info)


def resume(model: Any, optimizer: Optimizer, data: Any, job: TrainRun) -> State:
    """Put a run back where its checkpoint says; without one, its beginning.

    Raises:
        ArtifactError: The checkpoint belongs to another run, or cannot be read.
    """
    with job.first() as first:
        state = _resume(model, optimizer, data, job) if first else State(order=job.rng.get_state())
    if job.world is not None:
        job.world.take_over(model, optimizer, state, job)
    return state


def _resume(model: Any, optimizer: Optimizer, data: Any, job: TrainRun) -> State:
    found = _read(job.checkpoint) if job.checkpoint is not None else None
    if found is None:
        return State(order=job.rng.get_state())
    tensors, info = found
    before, now = info.pop("run"), identity(model, data, job)
    if before != now:
        differ = ", ".join(sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name)))
        raise ArtifactError(
            f"the checkpoint in {job.checkpoint} is of another run (its {differ} differ); "
            "name another folder or delete it"
        )

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    model.load_state_dict(part("model."))
    optimizer.load_state(part("optimizer."))
    job.rng.set_state(tensors["rng.order"])
    torch.set_rng_state(tensors["rng.torch"])
    records = [Epoch(**record) for record in info.pop("records")]
    return State(order=tensors["rng.order"], best=part("best."), records=records, **info)


def identity(model: Any, data: Any, job: TrainRun) -> dict[str, Any]:
    """What must be equal for a resume to make sense; `epochs` may grow, and `device` be another one."""
    settings = to_dict(job.training)
    for name in ("epochs", "device"):
        del settings[name]
    run = {"model": type(model).__name__, "training settings": settings, "rows": len(data)}
    run["data"] = getattr(data, "fingerprint", None)
    run["config"] = to_dict(model.config) if hasattr(model, "config") else None
    # The data's fingerprint leaves side tables out; what was learned from them stands in the spec.
    spec = json.dumps(to_dict(model.spec)) if hasattr(model, "spec") else ""
    run["features"] = hashlib.sha256(spec.encode()).hexdigest()[:16]
    run["weights"] = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    run["metric"] = None if job.validate is None else job.validate.metric
    return json.loads(json.dumps(run))  # type: ignore[no-any-return]  # as it comes back from disk


def _write(folder: Path, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
    new, replaced = None, False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix="state-", dir=folder))
        save_file(_apart(tensors), new / "state.safetensors")
        (new / "state.json").write_text(json.dumps(info))
        pointer = folder / "latest.tmp"
        pointer.write_text(new.name)
        for path in (new / "state.safetensors", new / "state.json", new, pointer):
            _flush(path)
        os.replace(pointer, folder / "latest")
        replaced = True
        _flush(folder)
    except (OSError, SafetensorError) as error:
        if new is not None and not replaced:
            shutil.rmtree(new, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise ArtifactError(
            f"cannot write the checkpoint in {folder} ({reason}); the one before is untouched: "
            "free space or name another folder, and start again to go on from it"
        ) from error
    for old in folder.glob("state-*"):
        if old != new:
            shutil.rmtree(old, ignore_errors=True)


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, none sharing memory with another (tied weights), which safetensors refuses."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return apart


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    if not (folder / "latest").exists():
        return None
    try:
        state = folder / (folder / "latest").read_text().strip()
        # Clones: what is loaded may still be the file's own memory, and the file goes with the next checkpoint.
        tensors = {name: tensor.clone() for name, tensor in load_file(state / "state.safetensors").items()}
        info = json.loads((state / "state.json").read_text())
        missing = {"run", "records", *NUMBERS} - info.keys() | {"rng.order", "rng.torch"} - tensors.keys()
        if missing:
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtifactError(f"the checkpoint in {folder} cannot be read ({error}); delete it to start anew") from error
    return tensors, info


def finite(shown: Tensor, objective: Tensor, state: State, lr: float) -> float:
    """The loss of a step as a number.

    Args:
        shown, objective: As in `Loss`.
        state: The run before the step.
        lr: The learning rate, for the message.

    Raises:
        TrainingError: One of both is not finite.
    """
    value = shown.item()
    if not (math.isfinite(value) and math.isfinite(objective.item())):
        raise TrainingError(
            f"the loss became {value} in epoch {state.epoch + 1}, step {state.step + 1}, with lr {lr}; "
            "lower lr or set grad_clip, and look for extreme values in the data"
        )
    return value


MAX_RISE = 1e4
"""Factor by which the loss may rise above that of the untrained model."""


def check_divergence(model: Any, context: Any, state: State, lr: float) -> None:
    """Compare the epoch's mean loss, and the loss of the run's first batch, with that batch's loss before training.

    Both must have risen: the mean alone also rises if the first batch happened to hold easy rows. A resumed run, whose
    first batch is gone, is not checked.

    Args:
        model: The model after an epoch, or what divides its batches among processes.
        context: Its fit context.
        state: The run; `loss_sum` and `samples` are the epoch's.
        lr: The learning rate, for the message.

    Raises:
        TrainingError: Training diverged.
    """
    limit, mean = MAX_RISE * state.first_loss, state.loss_sum / max(state.samples, 1)
    if state.first_batch is None or not 0 < limit < mean:
        return
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        loss = model.loss(state.first_batch, context)
    again = float(loss.shown if isinstance(loss, Loss) else loss)
    if not again <= limit:
        raise TrainingError(
            f"training diverged: the loss rose from {state.first_loss:.3g} before training to {again:.3g} after epoch "
            f"{state.epoch + 1}, with lr {lr}; lower lr or set grad_clip"
        )
