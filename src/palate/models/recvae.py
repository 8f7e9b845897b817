"""RecVAE: a variational autoencoder of histories with a composite prior and alternating updates (Shenbin et al. 2020).

z ~ q(z | x) = N(mu, var), mu when asked;  score(u, .) = V z + c
loss = -sum_{i in history} log softmax(score)_i + gamma * |history| * KL(q(z | x) | p(z | x))
p(z | x) = 3/20 N(0, 1) + 3/4 q_old(z | x) + 1/10 N(0, e^10)

q_old is the encoder of the epoch before. An epoch is three passes that step the encoder (with dropout of the input), a
copy of it into q_old, and one pass that steps the decoder (without dropout).

Legend: B users, N items, D hidden width, Z latent width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.config import Recipe, check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.ragged import Ragged
from palate.models.base import GradientModel
from palate.models.layers import outputs
from palate.models.multvae import HistoryLayer, misfit
from palate.training.batches import Histories, histories

ENCODER_PASSES = 3
PRIOR = ((3 / 20, 0.0), (3 / 4, None), (1 / 10, 10.0))
"""Weight and log variance of the prior's parts; None is the old encoder."""


@dataclass(frozen=True, kw_only=True)
class RecVAEConfig:
    """Settings of `recvae`."""

    hidden: int = 600
    """Width of the encoder's layers."""
    dim: int = 200
    """Width of the latent vector z."""
    dropout: float = 0.5
    """Share of a history's items that the encoder does not see while it is stepped."""
    gamma: float = 0.005
    """Weight of the KL term for each item of a history."""

    def __post_init__(self) -> None:
        check(self, hidden=self.hidden >= 1, dim=self.dim >= 1, dropout=0 <= self.dropout < 1, gamma=self.gamma >= 0)


class RecVAE(GradientModel):
    """Variational autoencoder with a composite prior, encoder and decoder trained in turns."""

    Config = RecVAEConfig
    recipe = Recipe(epochs=50, batch_size=256, lr=5e-4, patience=10)
    answers = frozenset({"known_user", "history", "similar_items"})
    confidence = "softmax"

    def __init__(self, config: RecVAEConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: RecVAEConfig = config
        self.encoder = Encoder(spec.n_items, config.hidden, config.dim)
        self.old = Encoder(spec.n_items, config.hidden, config.dim).requires_grad_(False)
        self.decoder = nn.Linear(config.dim, spec.n_items)

    def start(self, data: Dataset) -> None:
        super().start(data)
        self.old.load_state_dict(self.encoder.state_dict())

    def batches(self, data: Dataset, rng: torch.Generator, size: int) -> Iterator[Histories]:
        for _ in range(ENCODER_PASSES):
            yield from histories(data, rng, size, "encoder")
        if self.training:
            self.old.load_state_dict(self.encoder.state_dict())
        yield from histories(data, rng, size, "decoder")

    def loss(self, batch: Histories) -> Tensor:
        train_encoder = batch.stage == "encoder"
        dropout = self.config.dropout if self.training and train_encoder else 0.0
        with torch.set_grad_enabled(torch.is_grad_enabled() and train_encoder):
            mean_BZ, log_var_BZ = self.encoder(batch.history, dropout)
            z_BZ = mean_BZ
            if self.training:
                z_BZ = mean_BZ + torch.randn_like(mean_BZ) * torch.exp(0.5 * log_var_BZ)
        if not train_encoder:
            return misfit(self.decoder(z_BZ), batch.history).mean()
        scores_BN = F.linear(z_BZ, self.decoder.weight.detach(), self.decoder.bias.detach())
        divergence_B = _log_normal(z_BZ, mean_BZ, log_var_BZ).sum(1) - self._log_prior(z_BZ, batch.history).sum(1)
        weight_B = self.config.gamma * batch.history.lengths
        return (misfit(scores_BN, batch.history) + weight_B * divergence_B).mean()

    def _log_prior(self, z_BZ: Tensor, history: Ragged) -> Tensor:
        with torch.no_grad():
            old_mean_BZ, old_log_var_BZ = self.old(history)
        parts = []
        for weight, log_var in PRIOR:
            mean = old_mean_BZ if log_var is None else torch.zeros(())
            spread = old_log_var_BZ if log_var is None else torch.tensor(log_var)
            parts.append(_log_normal(z_BZ, mean, spread) + torch.tensor(weight).log())
        return torch.logsumexp(torch.stack(parts), dim=0)

    def _score(self, queries: Queries) -> Tensor:
        scores_BN: Tensor = self.decoder(self.encoder(queries.history)[0])
        return scores_BN

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        return outputs(self.decoder, self.encoder(queries.history)[0], item_I)

    def item_vectors(self) -> Tensor:
        return self.decoder.weight.detach()


class Encoder(nn.Module):
    """Five layers with swish and LayerNorm, each reading the sum of all before it; gives mean and log variance.

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
        """Mean and log variance, `[B, Z]` each."""
        hidden_BD = self.norms[0](F.silu(self.first(history, dropout)))
        before_BD = hidden_BD
        for layer, norm in zip(self.layers, list(self.norms)[1:], strict=True):
            hidden_BD = norm(F.silu(layer(hidden_BD) + before_BD))
            before_BD = before_BD + hidden_BD
        return self.mean(hidden_BD), self.log_var(hidden_BD)


def _log_normal(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    return -0.5 * (log_var + 1.8378770664093453 + (x - mean).square() / log_var.exp())
