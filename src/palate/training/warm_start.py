"""Warm start: training that goes on from the weights of a model fitted to fewer rows, users and items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from palate.config import Training

if TYPE_CHECKING:
    from palate.training.train_run import Epoch


@dataclass(frozen=True, eq=False, kw_only=True)
class WarmStart:
    """What training continues from.

    Attributes:
        model: The fitted model, of the same class and settings; its users and items are the first ones of the new data.
        records: The records of its training.
        share: Share of the rounds of a full training to make.
        weights: Whether to begin with its weights; else only what was chosen on the validation part is kept: settings,
            epochs, weights of a blend's members.
    """

    model: Any
    records: Sequence[Epoch] = ()
    share: float = 0.2
    weights: bool = True

    def rounds(self, full: int) -> int:
        """How many rounds (epochs, sweeps) to make where a full training makes `full`: at least one."""
        return max(1, round(self.share * full))

    def training(self, training: Training) -> Training:
        """Training settings with fewer epochs: a share of those that were best, else of those that were made."""
        made = [record for record in self.records if not record.member]
        best = [record.epoch for record in made if record.best]
        full = best[-1] if best else made[-1].epoch if made else training.epochs
        return training if full is None else replace(training, epochs=self.rounds(full))

    def member(self, part: str, name: str) -> WarmStart:
        """The start of a model inside this one.

        Args:
            part: Its attribute.
            name: Its name in the records.
        """
        own = [record for record in self.records if record.member == name or record.member.startswith(f"{name}/")]
        records = [replace(record, member=record.member.removeprefix(name).removeprefix("/")) for record in own]
        return WarmStart(model=getattr(self.model, part), records=records, share=self.share, weights=self.weights)


@torch.no_grad()
def continue_from(model: nn.Module, start: WarmStart) -> None:
    """Copy the weights of the smaller model to start from; rows of new users and items keep their initial values.

    Buffers keep what the new data determines, except the statistics of batch normalisation.
    """
    if not start.weights:
        return
    old = dict(start.model.named_parameters()) | _statistics(start.model)
    for name, new in (dict(model.named_parameters()) | _statistics(model)).items():
        known = old[name]
        new[tuple(slice(0, length) for length in known.shape)] = known


def _statistics(model: nn.Module) -> dict[str, Tensor]:
    """Running statistics, which steps change as they change weights."""
    parts = model.named_modules()
    norms = [(place, part) for place, part in parts if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)]
    return {f"{place}.{name}": tensor for place, part in norms for name, tensor in part.named_buffers()}
