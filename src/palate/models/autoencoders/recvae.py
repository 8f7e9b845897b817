"""RecVAE: a variational autoencoder of interactions with a composite prior and alternating updates.

z ~ q(z | x) = N(mu, var) in training and z = mu otherwise;  score(u, .) = V z + c
loss = -sum_{i in history} w_i log softmax(score)_i + gamma * (sum_{i in history} w_i) * KL(q(z | x) | p(z | x))
log p(z | x) = sum_d log(3/20 N(z_d; 0, 1) + 3/4 q_old(z_d | x) + 1/10 N(z_d; 0, e^10))

Source: Shenbin et al. 2020, "RecVAE: a New Variational Autoencoder for Top-N Recommendations with Implicit Feedback".
w_i is the sample weight of the interaction (1 for data without weights); the encoder's input x holds each item once,
whatever its weight. The KL term is estimated with the sampled z.

The prior mixes the three densities in each coordinate d of z. The paper writes one mixture of the densities of whole
vectors. The authors' published code (`CompositePrior.forward`, github.com/ilya-shenbin/RecVAE) applies logsumexp to the
densities of each coordinate and sums over coordinates afterwards, and the published results come from that code.
palate does as the code does.

q_old is the encoder of the previous epoch. An epoch makes three passes that update the encoder (with dropout of the
input), copies the encoder to q_old, and makes one pass that updates the decoder (without dropout).

The loss curves show the negative log-likelihood per target item, without KL; see `palate.models.autoencoders.multvae`.

Legend: B users, N items, D hidden width, Z latent width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.config import CompleteTraining, check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.ragged import Ragged
from palate.models.autoencoders.layers import HistoryLayer, multinomial_loss, sample_latent, total_weight
from palate.models.base import GradientModel
from palate.models.layers import outputs
from palate.training.batches import Histories, histories
from palate.training.loop import FitContext, Loss

ENCODER_PASSES = 3
"""Passes over the data that update the encoder, for each one that updates the decoder."""
STANDARD_WEIGHT, OLD_WEIGHT, WIDE_WEIGHT = 3 / 20, 3 / 4, 1 / 10
"""Mixture weights of the prior's components: standard normal, previous encoder, wide normal."""
WIDE_LOG_VAR = 10.0


@dataclass(frozen=True, kw_only=True)
class RecVAEConfig:
    """Settings of `recvae`."""

    hidden: int = 600
    """Width of the encoder's layers."""
    dim: int = 200
    """Width of the latent vector z."""
    dropout: float = 0.5
    """Share of a history's items dropped from the input while the encoder is updated."""
    gamma: float = 0.005
    """Weight of the KL term for each item of a history."""

    def __post_init__(self) -> None:
        check(self, hidden=self.hidden >= 1, dim=self.dim >= 1, dropout=0 <= self.dropout < 1, gamma=self.gamma >= 0)


class RecVAE(GradientModel):
    """Variational autoencoder of interactions with a composite prior; encoder and decoder are trained in turns."""

    Config = RecVAEConfig
    default_training = CompleteTraining(epochs=50, batch_size=256, lr=5e-4, patience=10)
    answers = frozenset({"known_user", "history", "similar_items"})
    gradients = frozenset({"history"})
    uses_weights = True
    confidence = "softmax"
    loss_name = "negative log-likelihood per item"

    def __init__(self, config: RecVAEConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: RecVAEConfig = config
        self.encoder = Encoder(spec.n_items, config.hidden, config.dim)
        self.old = Encoder(spec.n_items, config.hidden, config.dim).requires_grad_(False)
        self.decoder = nn.Linear(config.dim, spec.n_items)

    def init_from_data(self, data: Dataset) -> None:
        super().init_from_data(data)
        self.old.load_state_dict(self.encoder.state_dict())

    def batches(self, context: FitContext, rng: torch.Generator, size: int) -> Iterator[Histories]:
        if self.training:
            for _ in range(ENCODER_PASSES):
                yield from histories(context.data, rng, size, "encoder")
            self.old.load_state_dict(self.encoder.state_dict())
        yield from histories(context.data, rng, size, "decoder")

    def loss(self, batch: Histories, context: FitContext) -> Loss:
        if not self.training:
            return multinomial_loss(self.decoder(self.encoder(batch.history)[0]), batch)
        if batch.stage == "decoder":
            with torch.no_grad():
                z_BZ = sample_latent(*self.encoder(batch.history))
            return multinomial_loss(self.decoder(z_BZ), batch)
        mean_BZ, log_var_BZ = self.encoder(batch.history, self.config.dropout)
        z_BZ = sample_latent(mean_BZ, log_var_BZ)
        scores_BN = F.linear(z_BZ, self.decoder.weight.detach(), self.decoder.bias.detach())
        log_ratio_BZ = _log_normal(z_BZ, mean_BZ, log_var_BZ) - self._log_prior(z_BZ, batch.history)
        kl_weight_B = self.config.gamma * total_weight(batch.target, batch.target_weight)
        return multinomial_loss(scores_BN, batch, kl_weight_B * log_ratio_BZ.sum(1))

    def _log_prior(self, z_BZ: Tensor, history: Ragged) -> Tensor:
        """log p(z_d | x) of each coordinate, `[B, Z]`."""
        with torch.no_grad():
            old_mean_BZ, old_log_var_BZ = self.old(history)
        zero = z_BZ.new_zeros(())
        components = (
            math.log(STANDARD_WEIGHT) + _log_normal(z_BZ, zero, zero),
            math.log(OLD_WEIGHT) + _log_normal(z_BZ, old_mean_BZ, old_log_var_BZ),
            math.log(WIDE_WEIGHT) + _log_normal(z_BZ, zero, zero + WIDE_LOG_VAR),
        )
        return torch.logsumexp(torch.stack(components), dim=0)

    def _score(self, queries: Queries) -> Tensor:
        scores_BN: Tensor = self.decoder(self.encoder(queries.history)[0])
        return scores_BN

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        return outputs(self.decoder, self.encoder(queries.history)[0], item_I)

    def item_vectors(self) -> Tensor:
        return self.decoder.weight.detach()


class Encoder(nn.Module):
    """Five layers with swish and LayerNorm, each of which also reads the sum of all layers before it.

    Args:
        n_items: N.
        hidden: Width of the layers.
        dim: Width of z.
    """

    def __init__(self, n_items: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.first = HistoryLayer(n_items, hidden)
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden, eps=0.1) for _ in range(5))
        self.mean = nn.Linear(hidden, dim)
        self.log_var = nn.Linear(hidden, dim)

    def forward(self, history: Ragged, dropout: float = 0.0) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z | x), `[B, Z]` each.

        Args:
            history: Item indices, B rows.
            dropout: Share of the items dropped at random; the others are scaled up.
        """
        hidden_BD = self.norms[0](F.silu(self.first(history, dropout)))
        sum_BD = hidden_BD
        for layer, norm in zip(self.layers, list(self.norms)[1:], strict=True):
            hidden_BD = norm(F.silu(layer(hidden_BD) + sum_BD))
            sum_BD = sum_BD + hidden_BD
        return self.mean(hidden_BD), self.log_var(hidden_BD)


def _log_normal(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Log density of N(mean, e^log_var) at x, entry by entry."""
    return -0.5 * (log_var + math.log(2 * math.pi) + (x - mean).square() / log_var.exp())
