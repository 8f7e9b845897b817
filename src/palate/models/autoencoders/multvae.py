"""Mult-DAE and Mult-VAE: autoencoders of interactions with a multinomial likelihood (Liang et al. 2018).

h = tanh(W dropout(x_u / |x_u|) + b)
Mult-DAE:  score(u, .) = V h + c
           loss = -sum_{i in history} w_i log softmax(score)_i
Mult-VAE:  mu, log var = A h;  z ~ N(mu, var) in training and z = mu otherwise;  score(u, .) = V tanh(U z) + c
           loss = -sum_{i in history} w_i log softmax(score)_i + beta * KL(N(mu, var) | N(0, 1))

x_u is the multi-hot history, w_i the sample weight of the interaction (1 for data without weights). Weights multiply
the log-likelihood only: the input x_u holds each item once, whatever its weight.

beta rises linearly from 0 to `beta` over the first `anneal` share of all updates. It is a share, not a count: training
on small data never reaches the paper's 200,000 updates. All layers of Mult-VAE start with the authors' weights (Glorot
and Bengio 2010), except that log var starts at -4: at 0, the noise of z hides mu from the decoder in the first epochs.

The loss curves show the negative log-likelihood per target item, without KL: on training data the items of the history,
with dropout and noise; on a validation part its rows, predicted from the history without either.

Legend: B users, N items, D width, Z latent width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palate.config import CompleteTraining, check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.ragged import Ragged
from palate.models.autoencoders.layers import HistoryLayer, multinomial_loss, sample_latent, xavier
from palate.models.base import GradientModel
from palate.models.buffers import MAX_COUNT, check_range
from palate.models.layers import outputs
from palate.training.batches import Histories, histories
from palate.training.loop import FitContext, Loss

INITIAL_LOG_VAR = -4.0
"""log var of z before training; docs/decisions/17-narrow-at-first.md."""


@dataclass(frozen=True, kw_only=True)
class MultDAEConfig:
    """Settings of `multdae`."""

    dim: int = 200
    """Width of the hidden layer."""
    dropout: float = 0.5
    """Share of a history's items dropped from the input, drawn anew in each step."""

    def __post_init__(self) -> None:
        check(self, dim=self.dim >= 1, dropout=0 <= self.dropout < 1)


@dataclass(frozen=True, kw_only=True)
class MultVAEConfig:
    """Settings of `multvae`."""

    hidden: int = 600
    """Width of the encoder's and the decoder's hidden layer."""
    dim: int = 64
    """Width of the latent vector z; the paper's 200 suits data with more users than MovieLens-1M."""
    dropout: float = 0.5
    """Share of a history's items dropped from the input, drawn anew in each step."""
    beta: float = 0.2
    """Final weight of the KL term."""
    anneal: float = 0.2
    """Share of all updates over which the weight of the KL term rises from 0."""

    def __post_init__(self) -> None:
        check(
            self, hidden=self.hidden >= 1, dim=self.dim >= 1, dropout=0 <= self.dropout < 1,
            beta=self.beta >= 0, anneal=0 <= self.anneal <= 1,
        )  # fmt: skip


class MultDAE(GradientModel):
    """Denoising autoencoder of interactions with a multinomial likelihood."""

    Config = MultDAEConfig
    default_training = CompleteTraining(epochs=100, batch_size=256, lr=2e-3, patience=10)
    answers = frozenset({"known_user", "history", "similar_items"})
    gradients = frozenset({"history"})
    uses_weights = True
    confidence = "softmax"
    loss_name = "negative log-likelihood per item"

    def __init__(self, config: MultDAEConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: MultDAEConfig = config
        self.encoder = HistoryLayer(spec.n_items, config.dim)
        self.decoder = nn.Linear(config.dim, spec.n_items)

    def batches(self, context: FitContext, rng: torch.Generator, size: int) -> Iterator[Histories]:
        return histories(context.data, rng, size)

    def loss(self, batch: Histories, context: FitContext) -> Loss:
        hidden_BD = self._encode(batch.history, self.config.dropout if self.training else 0.0)
        return multinomial_loss(self.decoder(hidden_BD), batch)

    def _score(self, queries: Queries) -> Tensor:
        scores_BN: Tensor = self.decoder(self._encode(queries.history))
        return scores_BN

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        return outputs(self.decoder, self._encode(queries.history), item_I)

    def _encode(self, history: Ragged, dropout: float = 0.0) -> Tensor:
        return torch.tanh(self.encoder(history, dropout))

    def item_vectors(self) -> Tensor:
        return self.decoder.weight.detach()


@dataclass(frozen=True, eq=False)
class AnnealingContext:
    """Fit context of `multvae`.

    Attributes:
        data: The rows to learn from or, for the loss on a validation part, those of the part.
        anneal_steps: Number of updates over which the weight of the KL term rises from 0, at least 1.
    """

    data: Dataset
    anneal_steps: float


class MultVAE(GradientModel):
    """Variational autoencoder of interactions with a multinomial likelihood."""

    Config = MultVAEConfig
    default_training = CompleteTraining(epochs=100, batch_size=512, lr=3e-3, patience=10)
    answers = frozenset({"known_user", "history", "similar_items"})
    gradients = frozenset({"history"})
    uses_weights = True
    confidence = "softmax"
    loss_name = "negative log-likelihood per item"
    updates: Tensor

    def __init__(self, config: MultVAEConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: MultVAEConfig = config
        self.encoder = HistoryLayer(spec.n_items, config.hidden)
        self.latent = nn.Linear(config.hidden, 2 * config.dim)
        self.hidden = nn.Linear(config.dim, config.hidden)
        self.decoder = nn.Linear(config.hidden, spec.n_items)
        # Training steps so far. A buffer, so that a resumed run continues the annealing.
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def check_buffers(self) -> None:
        check_range("updates", self.updates, 0, MAX_COUNT)

    def init_from_data(self, data: Dataset) -> None:
        super().init_from_data(data)
        self.updates.zero_()
        for layer in (self.latent, self.hidden, self.decoder):
            xavier(layer)
        with torch.no_grad():
            self.latent.bias[self.config.dim :] += INITIAL_LOG_VAR

    def fit_context(self, data: Dataset, settings: CompleteTraining) -> AnnealingContext:
        steps = -(-len(data.active_users) // settings.batch_size)
        return AnnealingContext(data, max(1.0, self.config.anneal * steps * settings.epochs))

    def batches(self, context: AnnealingContext, rng: torch.Generator, size: int) -> Iterator[Histories]:
        return histories(context.data, rng, size)

    def loss(self, batch: Histories, context: AnnealingContext) -> Loss:
        if not self.training:
            return multinomial_loss(self._decode(self._encode(batch.history)[0]), batch)
        self.updates += 1
        beta = self.config.beta * min(1.0, float(self.updates) / context.anneal_steps)
        mean_BZ, log_var_BZ = self._encode(batch.history, self.config.dropout)
        divergence_B = 0.5 * (log_var_BZ.exp() + mean_BZ.square() - 1 - log_var_BZ).sum(1)
        return multinomial_loss(self._decode(sample_latent(mean_BZ, log_var_BZ)), batch, beta * divergence_B)

    def _score(self, queries: Queries) -> Tensor:
        return self._decode(self._encode(queries.history)[0])

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        return outputs(self.decoder, torch.tanh(self.hidden(self._encode(queries.history)[0])), item_I)

    def _encode(self, history: Ragged, dropout: float = 0.0) -> tuple[Tensor, Tensor]:
        """Mean and log variance of z, `[B, Z]` each."""
        mean_BZ, log_var_BZ = self.latent(torch.tanh(self.encoder(history, dropout))).chunk(2, dim=1)
        return mean_BZ, log_var_BZ

    def _decode(self, z_BZ: Tensor) -> Tensor:
        scores_BN: Tensor = self.decoder(torch.tanh(self.hidden(z_BZ)))
        return scores_BN

    def item_vectors(self) -> Tensor:
        return self.decoder.weight.detach()
