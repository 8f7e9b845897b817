"""SASRec: causal self-attention over the history (Kang and McAuley 2018), with a loss over many items.

x'_t = dropout(sqrt(D) x_t + p_t)        p_t the vector of place t, counted from the oldest kept event
layers "transformer", in the order of pmixer's reproduction, which Klenitskiy and Vasilev 2023 train with full softmax:
       a = norm(x);  b = norm(a + dropout(attention(a, x, x)));  x = b + dropout(W dropout(relu(U b)))
layers "ligr" (Borisyuk et al. 2025; eSASRec, Tikhonovich et al. 2025):
       a = norm(x);  x = x + sigmoid(G x) * dropout(attention(a, a, a))
       b = norm(x);  x = x + sigmoid(H x) * dropout(W (silu(U b) * V b))
h    = norm(x)

Attention is causal, over `heads` heads of width D / heads, and its weights are not dropped: their dropout would take
torch's slow kernel (two to three times an epoch), and what attention puts out is dropped instead.

One more event costs one step: keys and values of the kept events stay in a cache. Places are counted from the oldest
kept event, so when a history is longer than `length`, its window slides and every place changes: the cache is then made
anew from the newest `length` events.

Legend: B histories, T events, L longest history, D width, A heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.config import MAX_LAYERS, check

# The command line resolves inherited annotations by the names of this module.
from palate.models.content.encoders import TextEncoder as TextEncoder
from palate.models.sequence.losses import LossName as LossName
from palate.models.sequence.packed import Packed
from palate.models.sequence.shell import ITEM_STD, SequenceConfig, SequenceModel, drop

OneMore = Callable[[Tensor, int], Tensor]
"""From the input at one more event, `[D]`, and the event's place to the output there, `[D]`, of a layer or of all."""
LIGR_WIDTH = 4
"""Width of the feed-forward part of a "ligr" layer, in D."""


@dataclass(frozen=True, kw_only=True)
class SASRecConfig(SequenceConfig):
    """Settings of `sasrec`."""

    layers: int = 2
    """Number of attention layers, at most 64."""
    heads: int = 1
    """Attention heads; they divide `dim`."""
    layer: Literal["transformer", "ligr"] = "transformer"
    """Kind of layer: that of SASRec, or pre-norm with gated skips (LiGR), which deep stacks need."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, layers=1 <= self.layers <= MAX_LAYERS, heads=self.heads >= 1 and self.dim % self.heads == 0)


class SASRec(SequenceModel):
    """Causal self-attention over the history."""

    Config = SASRecConfig

    def _encoder(self) -> Attention:
        assert isinstance(self.config, SASRecConfig)
        return Attention(self.config)


class Attention(nn.Module):
    """Places and layers; see the module for the formulas.

    Args:
        config: Reads `dim`, `length`, `dropout`, `layers`, `heads` and `layer`.
    """

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        self.reach = math.inf
        self.scale, self.dropout = config.dim**0.5, config.dropout
        self.place = nn.Embedding(config.length, config.dim)
        kind = Transformer if config.layer == "transformer" else LiGR
        self.layers = nn.ModuleList(kind(config.dim, config.heads, config.dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim, eps=1e-8)

    def draw(self) -> None:
        """Small normal weights; those of queries, keys and values by Glorot and Bengio 2010."""
        nn.init.normal_(self.place.weight, std=ITEM_STD)
        for name, part in self.named_modules():
            if isinstance(part, nn.Linear):
                nn.init.zeros_(part.bias)
                if name.endswith(("query", "key_value")):
                    nn.init.xavier_uniform_(part.weight)
                else:
                    nn.init.normal_(part.weight, std=ITEM_STD)

    def forward(self, x_TD: Tensor, rows: Packed) -> Tensor:
        """`[T, D]`."""
        x_TD = drop(x_TD * self.scale + self.place(rows.place), self.dropout, self.training)
        for layer in self.layers:
            x_TD = layer(x_TD, rows)
        hidden_TD: Tensor = self.norm(x_TD)
        return hidden_TD

    def start(self, x_LD: Tensor, room: int) -> tuple[Tensor, OneMore]:
        """See `palate.models.sequence.shell.Encoder`; the state is what to do with one more event."""
        x_LD, layers, place_LD = x_LD * self.scale + self.place.weight[: len(x_LD)], [], self.place.weight
        for layer in self.layers:
            assert isinstance(layer, Transformer | LiGR)
            x_LD, of_layer = layer.begin(x_LD, room)
            layers.append(of_layer)
        hidden_D: Tensor = self.norm(x_LD[-1])
        scale, last = self.scale, norm(self.norm)

        def one_more(x_D: Tensor, place: int) -> Tensor:
            x_D = torch.add(place_LD[place], x_D, alpha=scale)
            for of_layer in layers:
                x_D = of_layer(x_D, place)
            return last(x_D)

        return hidden_D, one_more

    def advance(self, x_D: Tensor, state: OneMore, place: int) -> tuple[Tensor, OneMore]:
        """See `palate.models.sequence.shell.Encoder`."""
        return state(x_D, place), state


class CausalAttention(nn.Module):
    """Multi-head attention that reads no later event.

    Args:
        dim: D.
        heads: A.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key_value, self.output = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, asking_TD: Tensor, read_TD: Tensor, rows: Packed) -> Tensor:
        """`[T, D]`.

        Args:
            asking_TD: What queries are made of.
            read_TD: What keys and values are made of.
            rows: Where the histories begin and end.
        """
        made_TE = torch.cat([self.query(asking_TD), self.key_value(read_TD)], dim=1)
        mixed = []
        for events, some in rows.groups:
            queries, keys, values = (self._split(part) for part in some.pad(made_TE[events]).chunk(3, dim=2))
            read_BALd = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
            mixed.append(some.unpad(read_BALd.transpose(1, 2).flatten(2)))
        mixed_TD: Tensor = self.output(torch.cat(mixed))
        return mixed_TD

    def _split(self, value_BLD: Tensor) -> Tensor:
        """`[B, A, L, D / A]`."""
        return value_BLD.view(*value_BLD.shape[:2], self.heads, -1).transpose(1, 2)

    def begin(self, asking_LD: Tensor, read_LD: Tensor, room: int) -> tuple[Tensor, Callable[..., Tensor]]:
        """Attention over one history, `[L, D]`, and a function for one more event that keeps keys and values."""
        queries = self._split(self.query(asking_LD).unsqueeze(0))
        keys, values = (self._split(part.unsqueeze(0)) for part in self.key_value(read_LD).chunk(2, dim=1))
        heads, width, length = self.heads, keys.shape[3], keys.shape[2]
        cache_2ALd = keys.new_zeros(2, heads, room, width)
        cache_2ALd[:, :, :length] = torch.cat([keys, values])
        key_ALd, value_ALd = cache_2ALd
        query, key_value, output = linear(self.query, width**-0.5), linear(self.key_value), linear(self.output)

        def one_more(asking_D: Tensor, read_D: Tensor, place: int) -> Tensor:
            cache_2ALd[:, :, place] = key_value(read_D).view(2, heads, width)
            asking_Ad1, stop = query(asking_D).view(heads, width, 1), place + 1
            share_AL1 = torch.softmax(torch.bmm(key_ALd[:, :stop], asking_Ad1), 1)
            return output(torch.bmm(share_AL1.mT, value_ALd[:, :stop]).view(-1))

        read_1ALd = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        mixed_LD: Tensor = self.output(read_1ALd[0].transpose(0, 1).flatten(1))
        return mixed_LD, one_more


class Transformer(nn.Module):
    """One layer of SASRec.

    Args:
        dim: D.
        heads: A.
        dropout: Share of entries dropped in training.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.first, self.second = nn.LayerNorm(dim, eps=1e-8), nn.LayerNorm(dim, eps=1e-8)
        self.attention = CausalAttention(dim, heads)
        self.inner, self.outer = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x_TD: Tensor, rows: Packed) -> Tensor:
        """`[T, D]`."""
        asking_TD = self.first(x_TD)
        return self._feed(asking_TD, self.attention(asking_TD, x_TD, rows))

    def _feed(self, asking_TD: Tensor, mixed_TD: Tensor) -> Tensor:
        x_TD: Tensor = self.second(asking_TD + drop(mixed_TD, self.dropout, self.training))
        inner_TD = drop(F.relu(self.inner(x_TD)), self.dropout, self.training)
        return x_TD + drop(self.outer(inner_TD), self.dropout, self.training)

    def begin(self, x_LD: Tensor, room: int) -> tuple[Tensor, OneMore]:
        """As `forward` for one history; and what to do with one more event."""
        asking_LD = self.first(x_LD)
        mixed_LD, attend = self.attention.begin(asking_LD, x_LD, room)
        first, second, inner, outer = norm(self.first), norm(self.second), linear(self.inner), linear(self.outer)

        def one_more(x_D: Tensor, place: int) -> Tensor:
            asking_D = first(x_D)
            x_D = second(asking_D.add_(attend(asking_D, x_D, place)))
            return x_D.add_(outer(inner(x_D).relu_()))

        return self._feed(asking_LD, mixed_LD), one_more


class LiGR(nn.Module):
    """One layer with gated skips; arguments as of `Transformer`."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.first, self.second = nn.LayerNorm(dim, eps=1e-8), nn.LayerNorm(dim, eps=1e-8)
        self.attention = CausalAttention(dim, heads)
        self.inner, self.outer = nn.Linear(dim, 2 * LIGR_WIDTH * dim), nn.Linear(LIGR_WIDTH * dim, dim)
        self.first_gate, self.second_gate = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x_TD: Tensor, rows: Packed) -> Tensor:
        """`[T, D]`."""
        read_TD = self.first(x_TD)
        return self._feed(x_TD, self.attention(read_TD, read_TD, rows))

    def _feed(self, x_TD: Tensor, mixed_TD: Tensor) -> Tensor:
        x_TD = x_TD + torch.sigmoid(self.first_gate(x_TD)) * drop(mixed_TD, self.dropout, self.training)
        gate_TE, value_TE = self.inner(self.second(x_TD)).chunk(2, dim=-1)
        inner_TE = drop(F.silu(gate_TE) * value_TE, self.dropout, self.training)
        fed_TD = drop(self.outer(inner_TE), self.dropout, self.training)
        return x_TD + torch.sigmoid(self.second_gate(x_TD)) * fed_TD

    def begin(self, x_LD: Tensor, room: int) -> tuple[Tensor, OneMore]:
        """As `forward` for one history; and what to do with one more event."""
        read_LD = self.first(x_LD)
        mixed_LD, attend = self.attention.begin(read_LD, read_LD, room)
        first, second, inner, outer = norm(self.first), norm(self.second), linear(self.inner), linear(self.outer)
        first_gate, second_gate = linear(self.first_gate), linear(self.second_gate)

        def one_more(x_D: Tensor, place: int) -> Tensor:
            read_D = first(x_D)
            x_D = torch.addcmul(x_D, first_gate(x_D).sigmoid_(), attend(read_D, read_D, place))
            gate_E, value_E = inner(second(x_D)).chunk(2)
            return torch.addcmul(x_D, second_gate(x_D).sigmoid_(), outer(F.silu(gate_E) * value_E))

        return self._feed(x_LD, mixed_LD), one_more


def linear(layer: nn.Linear, scale: float = 1.0) -> Callable[[Tensor], Tensor]:
    """The layer's output, times `scale`, for one event; without its module, which would take five times as long."""
    weight, bias = (part if scale == 1 else part * scale for part in (layer.weight, layer.bias))
    return lambda x_D: torch.addmv(bias, weight, x_D)


def norm(layer: nn.LayerNorm) -> Callable[[Tensor], Tensor]:
    """As `linear`, for layer normalisation."""
    weight, bias, shape, eps = layer.weight, layer.bias, layer.normalized_shape, layer.eps
    return lambda x_D: torch.layer_norm(x_D, shape, weight, bias, eps)
