"""Any `nn.Module` with `forward(users, items) -> scores` as a model of palate: `OfModule` is all it takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palate.config import CompleteTraining, check
from palate.data.dataset import Dataset, Queries, Spec
from palate.models.base import GradientModel
from palate.training.batches import Negatives, Pairs, pairs
from palate.training.loop import FitContext
from palate.training.losses import bce


class Net(nn.Module):
    """Your module. It knows nothing of palate."""

    def __init__(self, n_users: int, n_items: int, dim: int) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(n_users, dim), nn.Embedding(n_items, dim)
        self.hidden = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, 1))

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores `[P]` of pairs of a user index `[P]` and an item index `[P]`."""
        return self.hidden(torch.cat([self.user(users), self.item(items)], dim=1)).squeeze(1)


@dataclass(frozen=True, kw_only=True)
class OfModuleConfig:
    """Settings of `OfModule`: what `Net` is built from, and the sampled negatives."""

    dim: int = 16
    """Length of the vectors."""
    negatives: int = 4
    """Items the user does not have that each interaction is contrasted with."""

    def __post_init__(self) -> None:
        check(self, dim=self.dim >= 1, negatives=self.negatives >= 1)


class OfModule(GradientModel):
    """Learns to score a user's items above sampled ones."""

    Config = OfModuleConfig
    loss_name = "binary cross-entropy per pair"

    def __init__(self, config: OfModuleConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.net = Net(spec.n_users, spec.n_items, config.dim)

    def fit_context(self, data: Dataset, settings: CompleteTraining) -> FitContext:
        return FitContext(data, Negatives(data, self.config.negatives))

    def batches(self, context: FitContext, rng: torch.Generator, size: int) -> Iterator[Pairs]:
        return pairs(context.data, rng, size, context.negatives)

    def loss(self, batch: Pairs, context: FitContext) -> Tensor:
        return bce(self._grid(batch.user, torch.cat([batch.item.unsqueeze(1), batch.negative], dim=1)))

    def _score(self, queries: Queries) -> Tensor:
        items = torch.arange(self.spec.n_items, device=queries.user.device)
        return self._grid(queries.user, items.expand(len(queries), -1))

    def _grid(self, user_B: Tensor, item_BC: Tensor) -> Tensor:
        """The module's scores of C items for each of B users, `[B, C]`."""
        return self.net(user_B.repeat_interleave(item_BC.shape[1]), item_BC.flatten()).view(item_BC.shape)
