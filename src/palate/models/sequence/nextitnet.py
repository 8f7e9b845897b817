"""NextItNet: a causal convolutional network over the history (Yuan et al. 2019), with a loss over many items.

x'_t = dropout(x_t)
block with dilation q:  a = relu(norm(conv_q x));  b = relu(norm(conv_2q a));  x = x + dropout(b)
conv_q x at t = W_0 x_t + W_1 x_{t-q} + ... + W_{k-1} x_{t-(k-1)q} + c,  k = `kernel`; an event before the first is 0
h    = norm(x)

h_t reads the last 1 + 3 (k - 1) sum_q q events, 61 by default, and knows no place but the distance from t. A history
longer than `length` is read from its newest `length` events on.

One more event costs one step: the last inputs of each convolution stay in a cache.

Legend: T events, D width, L events of one history.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.config import check

# The command line resolves inherited annotations by the names of this module.
from palate.models.content.encoders import TextEncoder as TextEncoder
from palate.models.sequence.losses import LossName as LossName
from palate.models.sequence.packed import Packed
from palate.models.sequence.shell import SequenceConfig, SequenceModel, drop


@dataclass(frozen=True, kw_only=True)
class NextItNetConfig(SequenceConfig):
    """Settings of `nextitnet`."""

    kernel: int = 3
    """Events that a convolution reads, `dilation` apart."""
    dilations: tuple[int, ...] = (1, 4, 1, 4)
    """One block for each: its two convolutions have this dilation and twice this."""

    def __post_init__(self) -> None:
        super().__post_init__()
        widths = self.dilations
        check(self, kernel=self.kernel >= 2, dilations=len(widths) >= 1 and all(one >= 1 for one in widths))


class NextItNet(SequenceModel):
    """Dilated causal convolutions over the history."""

    Config = NextItNetConfig

    def _encoder(self) -> Convolutions:
        assert isinstance(self.config, NextItNetConfig)
        return Convolutions(self.config)


class Convolutions(nn.Module):
    """Residual blocks; see the module for the formulas.

    Args:
        config: Reads `dim`, `dropout`, `kernel` and `dilations`.
    """

    def __init__(self, config: NextItNetConfig) -> None:
        super().__init__()
        self.dropout, self.scale = config.dropout, config.dim**0.5
        pairs = [(config.dim, config.kernel, one) for one in config.dilations]
        self.blocks = nn.ModuleList(Block(*sizes) for sizes in pairs)
        self.norm = nn.LayerNorm(config.dim)
        self.reach: float = 1 + 3 * (config.kernel - 1) * sum(config.dilations)

    def draw(self) -> None:
        """The initial weights are those of torch's layers."""

    def forward(self, x_TD: Tensor, rows: Packed) -> Tensor:
        """`[T, D]`."""
        x_TD, before = drop(x_TD * self.scale, self.dropout, self.training), Before(rows)
        for block in self.blocks:
            x_TD = x_TD + drop(block(x_TD, before), self.dropout, self.training)
        hidden_TD: Tensor = self.norm(x_TD)
        return hidden_TD

    def start(self, x_LD: Tensor, room: int) -> tuple[Tensor, list[Tensor]]:
        """See `palate.models.sequence.shell.Encoder`; the state is the last inputs of each convolution."""
        x_LD, state = x_LD * self.scale, []
        before = Before(Packed(torch.tensor([0, len(x_LD)], device=x_LD.device)))
        for block in self.blocks:
            assert isinstance(block, Block)
            middle_LD = block.first(x_LD, before)
            state += [block.first.tail(x_LD), block.second.tail(middle_LD)]
            x_LD = x_LD + block.second(middle_LD, before)
        hidden_D: Tensor = self.norm(x_LD[-1])
        return hidden_D, state

    def advance(self, x_D: Tensor, state: list[Tensor], place: int) -> tuple[Tensor, list[Tensor]]:
        """See `palate.models.sequence.shell.Encoder`."""
        x_D, kept, tails = x_D * self.scale, [], iter(state)
        for block in self.blocks:
            assert isinstance(block, Block)
            inner_D = x_D
            for convolution in (block.first, block.second):
                window_WD = torch.cat([next(tails), inner_D.unsqueeze(0)])
                kept.append(window_WD[1:])
                inner_D = convolution.last(window_WD)
            x_D = x_D + inner_D
        hidden_D: Tensor = self.norm(x_D)
        return hidden_D, kept


class Before:
    """What stands before the events of packed histories, by distance; looked up once for all convolutions.

    Args:
        rows: Where the histories begin and end.
    """

    def __init__(self, rows: Packed) -> None:
        self._rows, self._known = rows, dict[int, tuple[Tensor, Tensor]]()

    def take(self, x_TD: Tensor, steps: int) -> Tensor:
        """The event that many places before each event, `[T, D]`; zeros before the first."""
        if steps not in self._known:
            index_T, exists_T = self._rows.before(steps)
            self._known[steps] = index_T, exists_T.unsqueeze(1)
        index_T, exists_T1 = self._known[steps]
        return x_TD.index_select(0, index_T) * exists_T1


class Block(nn.Module):
    """The two convolutions of a residual block.

    Args:
        dim: D.
        kernel: Events that a convolution reads.
        dilation: Their distance in the first convolution; twice this in the second.
    """

    def __init__(self, dim: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.first, self.second = Convolution(dim, kernel, dilation), Convolution(dim, kernel, 2 * dilation)

    def forward(self, x_TD: Tensor, before: Before) -> Tensor:
        """`[T, D]`."""
        made_TD: Tensor = self.second(self.first(x_TD, before), before)
        return made_TD


class Convolution(nn.Module):
    """relu(norm(conv x)), over packed histories: it reads no later event and nothing of another history.

    Args:
        dim: D.
        kernel: Events that it reads.
        dilation: Their distance.
    """

    def __init__(self, dim: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.kernel, self.dilation = kernel, dilation
        self.linear, self.norm = nn.Linear(kernel * dim, dim), nn.LayerNorm(dim)

    def forward(self, x_TD: Tensor, before: Before) -> Tensor:
        """`[T, D]`."""
        taps = [before.take(x_TD, tap * self.dilation) for tap in range(self.kernel - 1, 0, -1)]
        return F.relu(self.norm(self.linear(torch.cat([*taps, x_TD], dim=1))))

    def tail(self, x_LD: Tensor) -> Tensor:
        """The last events that the next output reads, oldest first; zeros before the first."""
        span = (self.kernel - 1) * self.dilation
        padded = F.pad(x_LD, (0, 0, span, 0))
        return padded[len(padded) - span :]

    def last(self, window_WD: Tensor) -> Tensor:
        """The output at the last event of a window that holds all that it reads, `[D]`."""
        made_D = torch.addmv(self.linear.bias, self.linear.weight, window_WD[:: self.dilation].flatten())
        norm = self.norm
        return torch.layer_norm(made_D, norm.normalized_shape, norm.weight, norm.bias, norm.eps).relu_()
