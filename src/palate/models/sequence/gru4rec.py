"""GRU4Rec: a gated recurrent unit over the history (Hidasi et al. 2016), with a loss over many items.

x'_t = dropout(sqrt(D) x_t)
r = sigmoid(W_r x'_t + U_r h_{t-1});  z = sigmoid(W_z x'_t + U_z h_{t-1});  n = tanh(W_n x'_t + r * U_n h_{t-1})
h_t = (1 - z) n + z h_{t-1},  h_0 = 0             (biases left out); with more layers, h_t of one is x'_t of the next
h   = norm(h_t)

The scale of the input and the normalisation of the output are those of SASRec: without them, training from small item
vectors barely moves in its first epochs.

One more event costs one step from h_t, whatever the length of the history. A history longer than `length` is read from
its newest `length` events on, as in training.

Legend: T events, D width, L events of one history.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from palate.config import MAX_LAYERS, check

# The command line resolves inherited annotations by the names of this module.
from palate.models.content.encoders import TextEncoder as TextEncoder
from palate.models.sequence.losses import LossName as LossName
from palate.models.sequence.packed import Packed
from palate.models.sequence.shell import SequenceConfig, SequenceModel, drop


@dataclass(frozen=True, kw_only=True)
class GRU4RecConfig(SequenceConfig):
    """Settings of `gru4rec`."""

    dim: int = 128
    """Width of item vectors and hidden states."""
    dropout: float = 0.2
    """Share of the entries of item vectors, and between layers, dropped during training."""
    layers: int = 1
    """Number of recurrent layers, at most 64."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, layers=1 <= self.layers <= MAX_LAYERS)


class GRU4Rec(SequenceModel):
    """A gated recurrent unit over the history."""

    Config = GRU4RecConfig

    def _encoder(self) -> Recurrent:
        assert isinstance(self.config, GRU4RecConfig)
        return Recurrent(self.config)


class Recurrent(nn.Module):
    """Recurrent layers; see the module for the formulas.

    Args:
        config: Reads `dim`, `dropout` and `layers`.
    """

    def __init__(self, config: GRU4RecConfig) -> None:
        super().__init__()
        self.reach, self.dropout = math.inf, config.dropout
        between = config.dropout if config.layers > 1 else 0.0
        self.scale, self.norm = config.dim**0.5, nn.LayerNorm(config.dim)
        self.layers = nn.GRU(config.dim, config.dim, config.layers, batch_first=True, dropout=between)

    def draw(self) -> None:
        """The initial weights are those of torch's layer."""

    def forward(self, x_TD: Tensor, rows: Packed) -> Tensor:
        """`[T, D]`."""
        # Padded: torch's backward of packed steps fills a gradient of the whole input at every place.
        x_BLD = rows.pad(drop(x_TD * self.scale, self.dropout, self.training))
        hidden_TD: Tensor = self.norm(rows.unpad(self.layers(x_BLD)[0]))
        return hidden_TD

    def start(self, x_LD: Tensor, room: int) -> tuple[Tensor, Tensor]:
        """See `palate.models.sequence.shell.Encoder`."""
        hidden_LD, state = self.layers(x_LD * self.scale)
        hidden_D: Tensor = self.norm(hidden_LD[-1])
        return hidden_D, state

    def advance(self, x_D: Tensor, state: Tensor, place: int) -> tuple[Tensor, Tensor]:
        """See `palate.models.sequence.shell.Encoder`."""
        hidden_1D, state = self.layers(x_D.unsqueeze(0) * self.scale, state)
        hidden_D: Tensor = self.norm(hidden_1D[0])
        return hidden_D, state
