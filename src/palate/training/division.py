"""Division of a training step among processes: each computes the loss of a share of every batch.

Legend: N rows of a batch, D columns.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from palate.errors import ConfigError
from palate.training.train_run import Loss

if TYPE_CHECKING:
    from palate.training.processes import World


@dataclass(frozen=True, eq=False)
class Share:
    """The rows of a batch that this process trains; its length is that of the whole batch.

    Attributes:
        batch: A batch of these rows.
        whole: Length of the whole batch.
        noise: Seed of this process' noise in the step.
    """

    batch: Any
    whole: int
    noise: int

    def __len__(self) -> int:
        return self.whole


class Division:
    """A model's batches and loss, divided among processes.

    A batch with fewer than two rows for each process, as the last one of an epoch may be, is trained whole by all: the
    mean of equal losses and gradients is the same.

    Args:
        world: The processes.
        model: What is trained.
        noise: Seed of the run's noise.
        epoch: Number of the epoch, from 0.
    """

    def __init__(self, world: World, model: Any, noise: int, epoch: int) -> None:
        self.world, self.model, self.noise, self.epoch = world, model, noise, epoch
        self.norms = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]

    def batches(self, context: Any, rng: torch.Generator, size: int) -> Iterator[Share]:
        """Shares of the model's batches.

        Raises:
            ConfigError: There are more processes than rows in a batch, or the batches cannot be divided.
        """
        world = self.world
        for number, batch in enumerate(self.model.batches(context, rng, size)):
            if not hasattr(batch, "take"):
                raise ConfigError(
                    f"{type(self.model).__name__} cannot be trained by {world.size} processes: its batches "
                    f"({type(batch).__name__}) have no method take(rows); start it without torchrun"
                )
            rows = getattr(batch, "n_rows", len(batch))
            if rows < world.size and number == 0:
                raise ConfigError(
                    f"{world.size} processes are more than the {rows} rows of a batch: start at most {rows} "
                    "(torchrun --nproc-per-node), or raise batch_size if there are more rows"
                )
            some = torch.arange(world.rank, rows, world.size)
            noise = np.random.SeedSequence([self.noise, world.rank, self.epoch, number])
            share = batch.take(some) if rows >= 2 * world.size else batch
            yield Share(share, len(batch), int(noise.generate_state(1)[0]))

    def loss(self, share: Share, context: Any) -> Loss:
        """The loss of the whole batch; its gradient is this process' part."""
        torch.manual_seed(share.noise)
        with _common_statistics(self.norms, self.world):
            loss = self.model.loss(share.batch, context)
        return self.world.mean_loss(loss if isinstance(loss, Loss) else Loss(loss, loss.detach()), len(share.batch))


@contextmanager
def _common_statistics(norms: Sequence[nn.Module], world: World) -> Iterator[None]:
    """Batch normalisation by mean and variance over the shares of all processes, while the block runs."""
    for norm in norms:
        norm.forward = functools.partial(_normalised, norm, world)
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _normalised(norm: Any, world: World, x_ND: Tensor) -> Tensor:
    """As `torch.nn.BatchNorm1d`, over the rows of all processes."""
    if not norm.training:
        return type(norm).forward(norm, x_ND)  # type: ignore[no-any-return]
    total_D1: Tensor = _Sum.apply(torch.cat([x_ND.sum(0), x_ND.new_full((1,), len(x_ND))]), world)  # type: ignore[no-untyped-call]
    count = float(total_D1[-1].detach())
    mean_D = total_D1[:-1] / count
    apart_ND = x_ND - mean_D
    variance_D: Tensor = _Sum.apply(apart_ND.square().sum(0), world) / count  # type: ignore[no-untyped-call]
    with torch.no_grad():
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean_D, norm.momentum)
        norm.running_var.lerp_(variance_D * (count / max(count - 1, 1)), norm.momentum)
    return apart_ND * (variance_D + norm.eps).rsqrt() * norm.weight + norm.bias  # type: ignore[no-any-return]


class _Sum(torch.autograd.Function):
    """The sum over all processes; what each of them gets of it has a gradient, and these add up, too."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, world: World) -> Tensor:
        ctx.world = world
        return world.sum(value.clone())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.world.sum(gradient.clone()), None
