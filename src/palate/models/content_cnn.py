"""text-cnn and image-cnn: what somebody liked and what an item is, by words or by pixels alone.

v_i = encode(text or image of i)                      `palate.models.encoders`, trained end to end
u   = m + W m,  m = sum_j a_j v_j / sum_j a_j,  a_j = exp(<w, tanh(v_j)>)      over the items j of the history
score(u, i) = r_i (cos(u, v_i) - mean_u' cos(u', v_i)) / temperature + b_i
b_i = log(1 + n_i) less its mean over i, n_i the rows of i; 0 for new items
r_i = min(1, mean_j s_j / s_i),  s_i = std_u' cos(u', v_i);  1 while training

No item and no user has learned parameters of its own, so an item of today is as good as one of the training data. How
popular an item is is counted, and its mean over people u' taken off what is read: without that the reader learns by
heart which items are popular, the quickest way to a lower loss, and of other items that says nothing. Nor does it say
of other items how far they divide people: one that would do so more than usual is held to the usual measure. A new item
then comes into lists for whom it suits, and no item into many lists for what its content looks like (cosines make such
hubs: Radovanovic, Nanopoulos, Ivanovic 2010). u' are a step's people while training, then up to PEOPLE of the data.

Loss: softmax over the items of a step, see `palate.models.pools`: of a person's items there, some are the history and
the others are to be found. A step encodes `pool` items at most, so an epoch encodes users / batch_size * pool of them:
with batch_size 256, some 9,000 on MovieLens-1M, each of its 3,700 items two to three times.

Legend: B queries, N items, P items of a step, U its users, D dim.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from palate.config import Recipe, check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.encoded import Encoded, Features, Kind
from palate.data.ragged import Ragged
from palate.errors import ConfigError, DataError
from palate.models.base import GradientModel
from palate.models.content_net import ContentNet
from palate.models.encoders import ContentEncoder, TextEncoder, encode_all
from palate.models.encoders_image import augmented
from palate.models.pools import Pool, pools

PEOPLE = 20_000
"""Most people that means and deviations over people are taken of."""
ANSWERS = frozenset({"known_user", "history", "new_item", "similar_items"})


@dataclass(frozen=True, kw_only=True)
class TextCNNConfig:
    """Settings of `text-cnn`."""

    dim: int = 64
    """Width of user and item vectors."""
    columns: tuple[str, ...] = ()
    """Text columns to read; default all."""
    text: TextEncoder = "cnn"
    """How texts are read: cnn (words in their order), or bag (TF-IDF: quick)."""
    words: int = 64
    """Width of a word's vector."""
    vectors: str = ""
    """File of pre-trained word vectors, `word v1 v2 ...` on each line; default none."""
    dropout: float = 0.2
    """Share of the encoder's entries dropped while training."""
    temperature: float = 0.1
    """Divides the cosine; lower makes the softmax sharper."""
    pool: int = 512
    """Most items that a step encodes."""

    def __post_init__(self) -> None:
        check(self, dim=self.dim >= 1, words=self.words >= 1, dropout=0 <= self.dropout < 1,
              temperature=self.temperature > 0, pool=self.pool >= 2)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ImageCNNConfig:
    """Settings of `image-cnn`."""

    dim: int = 64
    """Width of user and item vectors."""
    columns: tuple[str, ...] = ()
    """Image columns to read; default all."""
    dropout: float = 0.2
    """Share of the encoder's entries dropped while training."""
    temperature: float = 0.1
    """Divides the cosine; lower makes the softmax sharper."""
    pool: int = 384
    """Most items that a step encodes."""
    augment: bool = True
    """Whether pictures are mirrored, moved and of other light at each step."""

    def __post_init__(self) -> None:
        check(self, dim=self.dim >= 1, dropout=0 <= self.dropout < 1, temperature=self.temperature > 0,
              pool=self.pool >= 2)  # fmt: skip


class TextRecommender(GradientModel):
    """Likes and items by their words alone, read by a CNN."""

    Config = TextCNNConfig
    recipe = Recipe(epochs=30, batch_size=256, lr=3e-3, patience=6)
    needs = frozenset({"interactions", "item_text"})
    answers = ANSWERS
    confidence = "softmax"
    held = ("content", "histories")
    item: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, config: TextCNNConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: TextCNNConfig = config
        columns = chosen(spec.item_features, "text", config.columns, "text-cnn")
        encoder = ContentEncoder(columns, config.dim, text=config.text, words=config.words, dropout=config.dropout)
        self.net = ContentNet(encoder, config.dim, config.temperature)
        self.register_buffer("item", torch.zeros(spec.n_items, config.dim))
        self.register_buffer("scale", torch.full((spec.n_items,), 1 / config.temperature))
        self.register_buffer("bias", torch.zeros(spec.n_items))
        self.content: Encoded | None = None
        self.histories: Ragged | None = None

    def start(self, data: Dataset) -> None:
        super().start(data)
        self.content, self.histories = content_of(data, self.spec), some_histories(data)
        self.bias.copy_(popularity_bias(data))
        if self.config.vectors:
            self.net.encoder.load_words(Path(self.config.vectors))

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if not mode and self.content is not None and self.histories is not None:
            self.item.copy_(encode_all(self.net.encoder, self.content))
            self.scale.copy_(self.net.observe(self.item, self.histories))
        return self

    def batches(self, data: Dataset, rng: torch.Generator, size: int) -> Iterator[Pool]:
        for pool in pools(data, rng, size, self.config.pool, least=1):
            yield with_content(pool, self.content)

    def loss(self, batch: Pool) -> Tensor:
        return self.net.loss(batch, self.bias)

    def _score(self, queries: Queries) -> Tensor:
        return self.net.score(self.item, self.scale, queries.history) + self.bias

    def _new_items(self, features: Encoded) -> dict[str, Tensor]:
        vector_XD = encode_all(self.net.encoder, features)
        return {"item": vector_XD, "scale": self.net.scale(vector_XD), "bias": torch.zeros(len(features))}

    def item_vectors(self) -> Tensor:
        return self.item


class ImageRecommender(GradientModel):
    """Likes and items by their pictures alone, read by a CNN."""

    Config = ImageCNNConfig
    recipe = Recipe(epochs=30, batch_size=256, lr=3e-3, patience=6)
    needs = frozenset({"interactions", "item_image"})
    answers = ANSWERS
    confidence = "softmax"
    held = ("content", "histories")
    item: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, config: ImageCNNConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: ImageCNNConfig = config
        columns = chosen(spec.item_features, "image", config.columns, "image-cnn")
        self.net = ContentNet(
            ContentEncoder(columns, config.dim, dropout=config.dropout), config.dim, config.temperature
        )
        self.register_buffer("item", torch.zeros(spec.n_items, config.dim))
        self.register_buffer("scale", torch.full((spec.n_items,), 1 / config.temperature))
        self.register_buffer("bias", torch.zeros(spec.n_items))
        self.content: Encoded | None = None
        self.histories: Ragged | None = None

    def start(self, data: Dataset) -> None:
        super().start(data)
        self.content, self.histories = content_of(data, self.spec), some_histories(data)
        self.bias.copy_(popularity_bias(data))

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if not mode and self.content is not None and self.histories is not None:
            self.item.copy_(encode_all(self.net.encoder, self.content))
            self.scale.copy_(self.net.observe(self.item, self.histories))
        return self

    def batches(self, data: Dataset, rng: torch.Generator, size: int) -> Iterator[Pool]:
        for pool in pools(data, rng, size, self.config.pool, least=1):
            yield with_content(pool, self.content, rng if self.config.augment else None)

    def loss(self, batch: Pool) -> Tensor:
        return self.net.loss(batch, self.bias)

    def _score(self, queries: Queries) -> Tensor:
        return self.net.score(self.item, self.scale, queries.history) + self.bias

    def _new_items(self, features: Encoded) -> dict[str, Tensor]:
        vector_XD = encode_all(self.net.encoder, features)
        return {"item": vector_XD, "scale": self.net.scale(vector_XD), "bias": torch.zeros(len(features))}

    def item_vectors(self) -> Tensor:
        return self.item


def chosen(features: Features | None, kind: Kind, columns: tuple[str, ...], who: str) -> Features:
    """The columns of one kind that a model reads.

    Raises:
        DataError: There are none.
        ConfigError: `columns` names what is not there, or is of another kind.
    """
    there = () if features is None else features.of(kind)
    if not there:
        raise DataError(f"{who} needs item_{kind}, which this data lacks; give an item table with a {kind} column")
    strange = set(columns) - {column.name for column in there}
    if strange:
        names = ", ".join(column.name for column in there)
        raise ConfigError(f"columns = {', '.join(sorted(strange))}: no {kind} column is called so; there are: {names}")
    return Features(columns=tuple(column for column in there if not columns or column.name in columns))


def content_of(data: Dataset, spec: Spec) -> Encoded:
    """What is known of the items of the training data."""
    assert spec.item_features is not None  # the encoder could not be built without
    return data.encoded_items(spec.item_features)


def some_histories(data: Dataset) -> Ragged:
    """Those of up to PEOPLE people, evenly spread."""
    people = torch.from_numpy(data.active_users)
    return data.histories.take(people[:: max(1, -(-len(people) // PEOPLE))])


def popularity_bias(data: Dataset) -> Tensor:
    """`log(1 + n_i)` less its mean over the items, `[N]`; an item of unknown popularity is taken for a usual one: 0."""
    log_N = torch.from_numpy(data.item_counts).float().log1p()
    return log_N - log_N.mean()


def with_content(pool: Pool, content: Encoded | None, rng: torch.Generator | None = None) -> Pool:
    """A step with what is known of its items; with `rng` their pictures are changed by chance."""
    assert content is not None  # only while the model is fitted
    some = content.take(pool.item)
    return replace(pool, content=some if rng is None else augmented(some, rng))
