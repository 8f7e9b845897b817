"""run(): the only training loop. It steps, watches `valid`, keeps the best weights, checkpoints and resumes.

It prints nothing: `on_epoch` and `on_step` are called with what happened.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from typing import Any

from palate.device import bfloat16_matmul, module_device, to_device
from palate.training.optimizers import Optimizer
from palate.training.train_run import Epoch, FitContext, Loss, State, TrainRun, check_divergence, finite, resume, save

__all__ = ["Epoch", "FitContext", "Loss", "TrainRun", "run"]


def run(model: Any, context: Any, job: TrainRun) -> list[Epoch]:
    """Train a model; it ends with its best weights.

    Args:
        model: A `Trainable` `torch.nn.Module`; batches are moved to its device.
        context: Handed to `model.batches` and `model.loss`; `context.data` are the rows to learn from.
        job: Settings, randomness and callbacks.

    Returns:
        One record for each epoch, those before a resume included.

    Raises:
        TrainingError: A loss is not finite; epoch, step and lr are named.
        ArtifactError: The checkpoint belongs to another run, or cannot be read or written.
        ConfigError, MissingExtra: FBGEMM was asked for, and cannot do this.
    """
    job = job.together(model, context)
    optimizer = Optimizer(model, job.settings, job.world)
    try:
        state = resume(model, optimizer, context.data, job)
        while state.epoch < job.settings.epochs and not 0 < job.settings.patience <= state.waited:
            with bfloat16_matmul() if job.settings.matmul == "bfloat16" else nullcontext():
                _epoch(model, optimizer, context, job, state)
            record = _judge(model.eval(), context, job, state)
            state.next_epoch(record, job.rng.get_state())
            save(model, optimizer, context.data, job, state)
            if job.on_epoch is not None:
                job.on_epoch(record)
    finally:
        optimizer.release()
    if state.best:
        model.load_state_dict(state.best)
    model.eval()
    return state.records


def _epoch(model: Any, optimizer: Optimizer, context: Any, job: TrainRun, state: State) -> None:
    """The rest of one epoch, from `state.step` on."""
    model.train()
    before, device, start = state.seconds, module_device(model), time.perf_counter()
    saved = start
    total = state.records[-1].samples if state.records else len(context.data)
    source = model if job.world is None else job.world.divided(model, job, state.epoch)
    for step, batch in enumerate(source.batches(context, job.rng, job.settings.batch_size)):
        if step < state.step:  # Resumed within the epoch: draw what was drawn, train only what is left.
            continue
        optimizer.zero_grad()
        batch = to_device(batch, device)
        loss = source.loss(batch, context)
        objective, shown = loss[:2] if isinstance(loss, Loss) else (loss, loss)
        value = finite(shown, objective, state, job.settings.lr)
        if state.first_batch is None and not state.records:
            state.first_batch, state.first_loss = batch, value
        objective.backward()
        optimizer.step()
        now = time.perf_counter()
        state.took(value, len(batch), before + now - start)
        if job.on_step is not None:
            job.on_step(state.epoch + 1, state.samples, total, value)
        if job.due(now - saved):
            save(model, optimizer, context.data, job, state)
            saved = time.perf_counter()
    check_divergence(source, context, state, job.settings.lr)


def _judge(model: Any, context: Any, job: TrainRun, state: State) -> Epoch:
    """The epoch's record; its weights are kept if it is the best so far."""
    valid, best = {}, False
    if job.validate is not None:
        model.refresh(context)
        valid = job.validate(model)
        value, sign = valid[job.validate.metric], 1 if job.validate.higher_is_better else -1
        # A metric that is not a number is never better, and anything is better than it.
        best = not math.isnan(value) and not sign * value <= sign * state.best_value
        if best:
            state.keep(model.state_dict(), value)
        state.waited = 0 if best else state.waited + 1
    return Epoch(
        state.epoch + 1, state.loss_sum / max(state.samples, 1), valid, state.seconds, state.samples, best,
        loss_name=getattr(model, "loss_name", "loss"),
    )  # fmt: skip
