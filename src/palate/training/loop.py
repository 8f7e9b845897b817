"""run(): the only training loop. It steps, watches `valid`, keeps the best weights, checkpoints and resumes.

It prints nothing: `on_epoch` and `on_step` are called with what happened.
"""

from __future__ import annotations

import math
import time
from typing import Any

from palate.errors import TrainingError
from palate.training.checkpoint import State, resume, save
from palate.training.job import Epoch, Job, Trainable, Validate
from palate.training.matmul import matmul
from palate.training.optimizers import Optimizer

__all__ = ["Epoch", "Job", "Trainable", "Validate", "run"]


def run(model: Any, data: Any, job: Job) -> list[Epoch]:
    """Train a model; it ends with its best weights.

    Args:
        model: A `Trainable` `torch.nn.Module` on the CPU.
        data: Handed to `model.batches`; its length is the number of rows.
        job: Settings, chance and watchers.

    Returns:
        One record for each epoch, those before a resume included.

    Raises:
        TrainingError: A loss is not finite; epoch, step and lr are named.
        ArtifactError: The checkpoint belongs to another run, or cannot be read or written.
        ConfigError, MissingExtra: FBGEMM was asked for, and cannot do this.
    """
    optimizer = Optimizer(model, job.how)
    try:
        state = resume(model, optimizer, data, job)
        while state.epoch < job.how.epochs and not 0 < job.how.patience <= state.waited:
            with matmul(job.how.matmul):
                _epoch(model, optimizer, data, job, state)
            record = _judge(model.eval(), job, state)
            state.next_epoch(record, job.rng.get_state())
            save(model, optimizer, data, job, state)
            if job.on_epoch is not None:
                job.on_epoch(record)
    finally:
        optimizer.release()
    if state.best:
        model.load_state_dict(state.best)
    model.eval()
    return state.records


def _epoch(model: Any, optimizer: Optimizer, data: Any, job: Job, state: State) -> None:
    """The rest of one epoch, from `state.step` on."""
    model.train()
    before, saved = state.seconds, time.perf_counter()
    start = saved
    total = state.records[-1].samples if state.records else len(data)
    for step, batch in enumerate(model.batches(data, job.rng, job.how.batch_size)):
        if step < state.step:  # Resumed within the epoch: draw what was drawn, train only what is left.
            continue
        optimizer.zero_grad()
        loss = model.loss(batch)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss became {value} in epoch {state.epoch + 1}, step {step + 1}, with lr {job.how.lr}; "
                "lower lr or set grad_clip, and look for extreme values in the data"
            )
        loss.backward()
        optimizer.step()
        now = time.perf_counter()
        state.took(value, len(batch), before + now - start)
        if job.on_step is not None:
            job.on_step(state.epoch + 1, state.samples, total, value)
        if job.checkpoint is not None and now - saved >= job.every:
            save(model, optimizer, data, job, state)
            saved = time.perf_counter()


def _judge(model: Any, job: Job, state: State) -> Epoch:
    """The epoch's record; its weights are kept if it is the best so far."""
    valid = job.validate(model) if job.validate is not None else {}
    best = False
    if job.validate is not None:
        sign = 1 if job.validate.higher_is_better else -1
        value = valid[job.validate.metric]
        # A metric that is not a number is never better, and anything is better than it.
        best = not math.isnan(value) and not sign * value <= sign * state.best_value
        if best:
            state.keep(model.state_dict(), value)
        state.waited = 0 if best else state.waited + 1
    return Epoch(state.epoch + 1, state.loss_sum / max(state.samples, 1), valid, state.seconds, state.samples, best)
