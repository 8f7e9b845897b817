"""The shell that all sequence models share; an encoder makes the difference.

x_t         = v_{i_t} + g_t                        i_t the t-th event's item; g_t the time since the event before
                                                   (`time_gaps`; else 0)
h_1 .. h_t  = encoder(x_1 .. x_t)                  causal: h_t reads no later event
score(i)    = <h_t, v_i>                           tied: the same item vectors read the history and are scored
v_i         = q_i, or d_i q_i + encode(features_i) (`content`)

A user is a history: its newest `length` events, in order, repeats included. There is no row for a user, so known users
and new ones are scored by one formula; an empty history scores every item 0. Training reads each user's newest
`length` + 1 events once an epoch: at every event the next one is to be predicted, by a loss of
`palate.models.sequence.losses`. Nothing is computed for padding.

With `content`, training drops the item's own vector (d = 0) with probability `id_dropout`, so that features alone can
carry an item: an item that training never saw has d = 0.

Legend: B queries, T events, N items, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from palate.config import CompleteTraining, check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.features.schema import FeatureBatch
from palate.data.ragged import Ragged
from palate.errors import DataError
from palate.models.base import GradientModel
from palate.models.content.encoders import ContentEncoder, TextEncoder, encode_all
from palate.models.content.encoders_image import augmented
from palate.models.layers import dropout_mask
from palate.models.sequence.feed import GAPS, SequenceContext, Steps, sequence_context, time_gaps, with_negatives
from palate.models.sequence.losses import LossName, next_event_loss
from palate.models.sequence.packed import Packed, newest
from palate.training.losses import Link

ITEM_STD = 0.02
"""Standard deviation of the initial entries of q."""
ROWS_PER_BLOCK = 512
"""Histories encoded at once."""


@dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """Settings that all sequence models share."""

    dim: int = 64
    """Width of item vectors and hidden states."""
    length: int = 200
    """Most events of a history; the newest are kept."""
    dropout: float = 0.1
    """Share of the entries of vectors and hidden layers dropped during training."""
    loss: LossName = "softmax"
    """What is minimised: softmax over all items, or sampled-softmax or gbce over shared negatives."""
    negatives: int = 256
    """Items drawn for a step, shared by all its events (sampled-softmax, gbce)."""
    calibration: float = 0.75
    """How much of the overconfidence that few negatives cause is removed, from 0 to 1 (gbce)."""
    time_gaps: bool = False
    """Whether the time between events is read; needs times."""
    content: bool = False
    """Whether item features are read, so that new items can be scored; needs features."""
    columns: tuple[str, ...] = ()
    """Item columns to read (content). Defaults to all."""
    text: TextEncoder = "bag"
    """How texts are read (content): bag (bag of words: fast), or cnn (words in their order)."""
    id_dropout: float = 0.3
    """Probability that a training step drops an item's own vector (content)."""

    def __post_init__(self) -> None:
        check(
            self, dim=self.dim >= 1, length=self.length >= 1, dropout=0 <= self.dropout < 1,
            negatives=self.negatives >= 1, calibration=0 <= self.calibration <= 1, id_dropout=0 <= self.id_dropout < 1,
        )  # fmt: skip


class Encoder(Protocol):
    """What a sequence model brings: a causal network from events to hidden states, and the same one step at a time.

    Attributes:
        reach: How many events back from itself, itself included, a hidden state reads; infinite for all.
    """

    reach: float

    def __call__(self, x_TD: Tensor, rows: Packed) -> Tensor:
        """The hidden state at every event, `[T, D]`."""
        ...

    def draw(self) -> None:
        """Draw initial weights that differ from those of torch's layers."""
        ...

    def start(self, x_LD: Tensor, room: int) -> tuple[Tensor, Any]:
        """The hidden state at the last of L events, `[D]`, and what later steps need; `room` is the most events."""
        ...

    def advance(self, x_D: Tensor, state: Any, place: int) -> tuple[Tensor, Any]:
        """The hidden state at one more event, `[D]`, and the new state; `place` is the event's, from 0."""
        ...


class SequenceModel(GradientModel):
    """A causal encoder between tied item vectors; the subclasses say which encoder."""

    Config: ClassVar[type[SequenceConfig]] = SequenceConfig
    config: SequenceConfig
    default_training = CompleteTraining(epochs=100, batch_size=32, lr=1e-3, patience=5)
    answers = frozenset({"known_user", "history", "new_item", "similar_items"})
    uses_weights = True
    reads_repeats = True
    reads_order = True
    confidence: Link = "softmax"
    loss_name = "cross-entropy per event"
    vector: Tensor

    def __init__(self, config: SequenceConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config = config
        self.item = nn.Embedding(spec.n_items - spec.new_items, config.dim)
        self.gap = nn.Embedding(GAPS, config.dim) if config.time_gaps else None
        self.encoder: Any = self._encoder()
        self.content: ContentEncoder | None = None
        if config.time_gaps:
            self.needs = self.needs | {"time"}
        if config.loss == "gbce":
            self.confidence, self.loss_name = "sigmoid", "calibrated binary cross-entropy per event"
        if config.content:
            self._read_content(config, spec)
        else:
            self.answers = self.answers - {"new_item"}

    def _encoder(self) -> Encoder:
        raise NotImplementedError

    def _read_content(self, config: SequenceConfig, spec: Spec) -> None:
        if spec.item_features is None or not spec.item_features.columns:
            raise DataError(
                f"{type(self).__name__} with content needs item_features, which this data lacks; give a table of "
                "items, or leave content off"
            )
        self.needs = self.needs | {"item_features"}
        self.content = ContentEncoder(
            spec.item_features, config.dim, columns=config.columns, text=config.text, dropout=config.dropout
        )
        self.register_buffer("vector", torch.zeros(spec.n_items, config.dim))

    @classmethod
    def spec_of(cls, data: Dataset) -> Spec:
        """The spec with the features of items, if there are any: the setting `content` reads them."""
        features = data.item_features.schema if data.item_table is not None else None
        return replace(data.spec, item_features=features, user_features=data.attribute_schema)

    def init_from_data(self, data: Dataset) -> None:
        super().init_from_data(data)
        nn.init.normal_(self.item.weight, std=ITEM_STD)
        if self.gap is not None:
            nn.init.normal_(self.gap.weight, std=ITEM_STD)
        self.encoder.draw()

    def fit_context(self, data: Dataset, settings: CompleteTraining) -> SequenceContext:
        return sequence_context(data, self.config.length, self.config.time_gaps)

    def batches(self, context: SequenceContext, rng: torch.Generator, size: int) -> Iterator[Steps]:
        n_items = self.item.num_embeddings
        for steps in context.batches(rng, size):
            if self.config.loss != "softmax":
                steps = with_negatives(steps, self.config.negatives, n_items, rng)
            if self.content is not None and self.training:
                steps = self._with_content(steps, context, rng)
            yield steps

    def _with_content(self, steps: Steps, context: SequenceContext, rng: torch.Generator) -> Steps:
        """The batch with the features of the items whose vectors it needs."""
        assert self.spec.item_features is not None  # checked by `_read_content`
        encoded, own = context.data.encoded_items(self.spec.item_features), None
        if steps.negative is not None:
            own = torch.unique(torch.cat([steps.item, steps.target, steps.negative]))
            encoded = encoded.take(own)
        return replace(steps, own=own, content=augmented(encoded, rng))

    def loss(self, batch: Steps, context: SequenceContext) -> Tensor:
        table, look_up = self._vectors(batch)
        # One look-up: each would fill a gradient of the whole table.
        wanted = [batch.item] if batch.negative is None else [batch.item, batch.target, batch.negative]
        read_TD, *sampled = torch.split(look_up(torch.cat(wanted)), [len(index) for index in wanted])
        hidden_TD = self.encoder(self.inputs(read_TD, batch.gap), batch.rows)
        hidden_TD = hidden_TD if len(batch.asked) == len(hidden_TD) else hidden_TD[batch.asked]
        if batch.negative is None:
            return next_event_loss("softmax", hidden_TD, table, batch.target, batch.weight)
        positive_TD, negative_KD = sampled
        return next_event_loss(
            self.config.loss, hidden_TD, negative_KD, batch.target, batch.weight, positive_TD=positive_TD,
            negative_C=batch.negative, n_items=self.item.num_embeddings, calibration=self.config.calibration,
        )  # fmt: skip

    def _vectors(self, batch: Steps) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The vectors of all items (of those the step needs, with negatives), and what looks them up by item."""
        if self.content is None:
            return self.item.weight, self.item
        if batch.content is None:
            return self.vector, self.vector.__getitem__
        own_PD = self.item.weight if batch.own is None else self.item(batch.own)
        kept_P1 = torch.rand(len(own_PD), 1, device=own_PD.device) >= self.config.id_dropout
        vector_PD = own_PD * kept_P1 + self.content(batch.content)
        if batch.own is None:
            return vector_PD, vector_PD.__getitem__
        own = batch.own
        return vector_PD, lambda item: vector_PD[torch.searchsorted(own, item)]

    def inputs(self, vector_TD: Tensor, gap_T: Tensor | None) -> Tensor:
        """What the encoder reads, x, `[T, D]`.

        Args:
            vector_TD: Vectors of the events' items.
            gap_T: The kind of time before each event (`palate.models.sequence.feed.time_gaps`). Defaults to unknown.
        """
        if self.gap is None:
            return vector_TD
        gap_T = torch.zeros(len(vector_TD), dtype=torch.int64, device=vector_TD.device) if gap_T is None else gap_T
        read_TD: Tensor = vector_TD + self.gap(gap_T)
        return read_TD

    def _refresh(self, context: SequenceContext | None) -> None:
        if context is not None and self.content is not None:
            assert self.spec.item_features is not None  # checked by `_read_content`
            encoded: FeatureBatch = context.data.encoded_items(self.spec.item_features)
            self.vector.copy_(encode_all(self.content, encoded)).add_(self.item.weight)

    def hidden(self, queries: Queries) -> Tensor:
        """h at the last event of each history, `[B, D]`; zeros for an empty one."""
        blocks = range(0, max(len(queries), 1), ROWS_PER_BLOCK)
        times = queries.times if self.gap is not None else None
        return torch.cat([self._hidden(queries.history, times, start) for start in blocks])

    def _hidden(self, history: Ragged, times: Tensor | None, start: int) -> Tensor:
        stop = min(start + ROWS_PER_BLOCK, len(history))
        kept = Ragged(history.values, history.offsets[start : stop + 1])
        place, rows = newest(kept, self.config.length)
        table = self.item_vectors()
        found = table.new_zeros(stop - start, self.config.dim)
        some = rows.lengths.nonzero().squeeze(1)
        if len(some):
            gap = None if times is None else time_gaps(times, history.offsets)[place]
            hidden_TD = self.encoder(self.inputs(table[history.values[place]], gap), rows)
            found[some] = hidden_TD[rows.offsets[1:][some] - 1]
        return found

    def _score(self, queries: Queries) -> Tensor:
        return self.hidden(queries) @ self.item_vectors().T

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        return self.hidden(queries) @ self.item_vectors()[item_I].T

    def _new_items(self, features: FeatureBatch) -> dict[str, Tensor]:
        assert self.content is not None  # `answers` has new_item with content only
        return {"vector": encode_all(self.content, features)}

    def item_vectors(self) -> Tensor:
        return self.item.weight.detach() if self.content is None else self.vector

    def item_factors(self) -> Tensor:
        return self.item_vectors()

    def query_factors(self, queries: Queries) -> Tensor:
        return self.hidden(queries)


def drop(value: Tensor, dropout: float, training: bool) -> Tensor:
    """Dropout by `palate.models.layers.dropout_mask`: a quarter of the random numbers."""
    if not (training and dropout):
        return value
    kept = dropout_mask(value.shape, dropout, value.device)
    return value * kept.to(value.dtype).mul_(1 / (1 - dropout))
