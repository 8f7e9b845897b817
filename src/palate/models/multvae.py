"""Mult-DAE and Mult-VAE: autoencoders of histories with a multinomial likelihood (Liang et al. 2018).

h = tanh(W dropout(x_u / |x_u|) + b)
Mult-DAE:  score(u, .) = V h + c                       loss = -sum_{i in history} log softmax(score)_i
Mult-VAE:  mu, log var = A h;  z ~ N(mu, var), mu when asked;  score(u, .) = V tanh(U z) + c
           loss = -sum_{i in history} log softmax(score)_i + beta * KL(N(mu, var) | N(0, 1))

beta rises from 0 to `beta` over the first `anneal` share of all updates (a share, not a count: the paper's 200,000
updates are never reached on small data). Weights start as the authors' (Glorot and Bengio 2010), but log var at START:
at 0 the noise of z drowns what mu says at first, and the decoder learns later to listen.

Legend: B users, N items, D width, Z latent width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from palate.config import Recipe, check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.ragged import Ragged
from palate.models.base import GradientModel
from palate.models.layers import outputs, sum_rows
from palate.training.batches import Histories, histories
from palate.training.loop import Epoch, Job

START = -4.0
"""log var of z before training; docs/decisions/17-narrow-at-first.md."""


@dataclass(frozen=True, kw_only=True)
class MultDAEConfig:
    """Settings of `multdae`."""

    dim: int = 200
    """Width of the hidden layer."""
    dropout: float = 0.5
    """Share of a history's items that the encoder does not see, drawn anew each time."""

    def __post_init__(self) -> None:
        check(self, dim=self.dim >= 1, dropout=0 <= self.dropout < 1)


@dataclass(frozen=True, kw_only=True)
class MultVAEConfig:
    """Settings of `multvae`."""

    hidden: int = 600
    """Width of the encoder's and the decoder's hidden layer."""
    dim: int = 64
    """Width of the latent vector z; the authors' 200 is for more people than have rated MovieLens-1M."""
    dropout: float = 0.5
    """Share of a history's items that the encoder does not see, drawn anew each time."""
    beta: float = 0.2
    """Final weight of the KL term."""
    anneal: float = 0.2
    """Share of all updates over which beta rises from 0."""

    def __post_init__(self) -> None:
        check(
            self, hidden=self.hidden >= 1, dim=self.dim >= 1, dropout=0 <= self.dropout < 1,
            beta=self.beta >= 0, anneal=0 <= self.anneal <= 1,
        )  # fmt: skip


class MultDAE(GradientModel):
    """Denoising autoencoder of histories with a multinomial likelihood."""

    Config = MultDAEConfig
    recipe = Recipe(epochs=100, batch_size=256, lr=2e-3, patience=10)
    answers = frozenset({"known_user", "history", "similar_items"})
    confidence = "softmax"

    def __init__(self, config: MultDAEConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: MultDAEConfig = config
        self.encoder = HistoryLayer(spec.n_items, config.dim)
        self.decoder = nn.Linear(config.dim, spec.n_items)

    def batches(self, data: Dataset, rng: torch.Generator, size: int) -> Iterator[Histories]:
        return histories(data, rng, size)

    def loss(self, batch: Histories) -> Tensor:
        hidden_BD = torch.tanh(self.encoder(batch.history, self.config.dropout if self.training else 0.0))
        return misfit(self.decoder(hidden_BD), batch.history).mean()

    def _score(self, queries: Queries) -> Tensor:
        scores_BN: Tensor = self.decoder(torch.tanh(self.encoder(queries.history)))
        return scores_BN

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        return outputs(self.decoder, torch.tanh(self.encoder(queries.history)), item_I)

    def item_vectors(self) -> Tensor:
        return self.decoder.weight.detach()


class MultVAE(GradientModel):
    """Variational autoencoder of histories with a multinomial likelihood."""

    Config = MultVAEConfig
    recipe = Recipe(epochs=100, batch_size=512, lr=3e-3, patience=10)
    answers = frozenset({"known_user", "history", "similar_items"})
    confidence = "softmax"
    updates: Tensor

    def __init__(self, config: MultVAEConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: MultVAEConfig = config
        self.encoder = HistoryLayer(spec.n_items, config.hidden)
        self.latent = nn.Linear(config.hidden, 2 * config.dim)
        self.hidden = nn.Linear(config.dim, config.hidden)
        self.decoder = nn.Linear(config.hidden, spec.n_items)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.rise = 1.0

    def _fit(self, data: Dataset, job: Job) -> list[Epoch]:
        steps = -(-len(data.active_users) // job.how.batch_size)
        self.rise = max(1.0, self.config.anneal * steps * job.how.epochs)
        return super()._fit(data, job)

    def start(self, data: Dataset) -> None:
        super().start(data)
        self.updates.zero_()
        for layer in (self.latent, self.hidden, self.decoder):
            xavier(layer)
        with torch.no_grad():
            self.latent.bias[self.config.dim :] += START

    def batches(self, data: Dataset, rng: torch.Generator, size: int) -> Iterator[Histories]:
        return histories(data, rng, size)

    def loss(self, batch: Histories) -> Tensor:
        mean_BZ, log_var_BZ = self._encode(batch.history, self.config.dropout if self.training else 0.0)
        z_BZ = mean_BZ
        if self.training:
            self.updates += 1
            z_BZ = mean_BZ + torch.randn_like(mean_BZ) * torch.exp(0.5 * log_var_BZ)
        divergence_B = 0.5 * (log_var_BZ.exp() + mean_BZ.square() - 1 - log_var_BZ).sum(1)
        beta = self.config.beta * min(1.0, float(self.updates) / self.rise)
        return (misfit(self._decode(z_BZ), batch.history) + beta * divergence_B).mean()

    def _score(self, queries: Queries) -> Tensor:
        return self._decode(self._encode(queries.history)[0])

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        return outputs(self.decoder, torch.tanh(self.hidden(self._encode(queries.history)[0])), item_I)

    def _encode(self, history: Ragged, dropout: float = 0.0) -> tuple[Tensor, Tensor]:
        mean_BZ, log_var_BZ = self.latent(torch.tanh(self.encoder(history, dropout))).chunk(2, dim=1)
        return mean_BZ, log_var_BZ

    def _decode(self, z_BZ: Tensor) -> Tensor:
        scores_BN: Tensor = self.decoder(torch.tanh(self.hidden(z_BZ)))
        return scores_BN

    def item_vectors(self) -> Tensor:
        return self.decoder.weight.detach()


class HistoryLayer(nn.Module):
    """A dense layer on L2-normalised histories, computed on their items only: `W dropout(x / |x|) + b`.

    Args:
        n_items: N.
        dim: Width of the output.
    """

    def __init__(self, n_items: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_items, dim))
        self.bias = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fresh weights."""
        xavier(self)

    def forward(self, history: Ragged, dropout: float = 0.0) -> Tensor:
        """`[B, D]`; `dropout` is the share of items left out, the rest scaled up."""
        value = history.lengths.clamp(min=1).rsqrt()[history.row_of_value]
        return sum_rows(self.weight, history, value, dropout) + self.bias


def xavier(layer: HistoryLayer | nn.Linear) -> None:
    """Xavier weights and near-zero biases, as the authors of Mult-VAE have them."""
    nn.init.xavier_uniform_(layer.weight)
    nn.init.normal_(layer.bias, std=0.001)


def misfit(scores_BN: Tensor, history: Ragged) -> Tensor:
    """`-sum_{i in history} log softmax(score)_i` for each row, `[B]`."""
    row_T = history.row_of_value
    place_T = row_T * scores_BN.shape[1] + history.values
    found_B: Tensor = _Misfit.apply(scores_BN, place_T, row_T, history.lengths)  # type: ignore[no-untyped-call]
    return found_B


class _Misfit(torch.autograd.Function):
    """See `misfit`; its gradient, |history| * softmax(score) - history, is written over what the forward pass keeps.

    Autograd's own would fill two more matrices of that size.
    """

    @staticmethod
    def forward(ctx: Any, scores_BN: Tensor, place_T: Tensor, row_T: Tensor, length_B: Tensor) -> Tensor:
        log_BN = torch.log_softmax(scores_BN, dim=1)
        ctx.kept = log_BN, place_T, row_T, length_B
        return -torch.zeros(len(scores_BN)).index_add(0, row_T, log_BN.view(-1)[place_T])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope_B: Tensor) -> tuple[Tensor, None, None, None]:
        (log_BN, place_T, row_T, length_B), ctx.kept = ctx.kept, None
        slope_BN = log_BN.exp_().mul_((slope_B * length_B).unsqueeze(1))
        slope_BN.view(-1).index_add_(0, place_T, -slope_B[row_T])
        return slope_BN, None, None, None
