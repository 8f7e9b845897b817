"""text-cnn and image-cnn: items are represented by their texts or images alone, users by the items of their history.

v_i = encode(text or image of i)                      `palate.models.content.encoders`, trained end to end
u   = m + W m,  m = sum_j a_j v_j / sum_j a_j,  a_j = exp(<w, tanh(v_j)>)      over the items j of the history
score(u, i) = r_i (cos(u, v_i) - mean_u' cos(u', v_i)) / temperature + b_i
b_i = log(1 + n_i) minus its mean over i, n_i the interactions of i (their summed weights); 0 for new items
r_i = min(1, mean_j s_j / s_i),  s_i = std_u' cos(u', v_i);  1 during training

Loss: softmax over the candidates of a step, see `palate.models.content.candidates`.

No parameter belongs to a single item or user, so a new item is scored as well as one of the training data. Popularity
is counted (b) and not learned: the mean over users u' is subtracted from the cosine, because an encoder otherwise
learns which items are popular, the fastest way to a lower loss, and this says nothing about new items. r limits items
whose cosines vary more over users than usual: without it such items would appear in too many lists (hubs: Radovanovic,
Nanopoulos, Ivanovic 2010). During training, the users u' are those of the step; afterwards up to `MAX_OBSERVED_USERS`.

A step encodes at most `pool` items, so an epoch encodes users / batch_size * pool of them: with batch_size 256 some
9,000 on MovieLens-1M, each of its 3,700 items two to three times.

Legend: B queries, N items, X new items, P candidates, U users of a step, D dim.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.config import CompleteTraining, check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.features.schema import FeatureBatch, FeatureSchema
from palate.data.ragged import Ragged
from palate.device import module_device, to_device
from palate.errors import ConfigError, DataError
from palate.models.base import GradientModel
from palate.models.content.candidates import (
    CandidateBatch,
    CandidateContext,
    CandidateSampler,
    candidate_loss,
    mean_rows,
)
from palate.models.content.encoders import CONTENT_GRADIENTS, ContentEncoder, TextEncoder, encode_all
from palate.models.content.encoders_image import augmented

MAX_OBSERVED_USERS = 20_000
"""Most training users that means and standard deviations over users are computed from."""
MIN_VARIANCE = 1e-6
"""Smallest variance of an item's cosines over users, so that no division is by 0."""


@dataclass(frozen=True, kw_only=True)
class ContentCNNConfig:
    """Settings that `text-cnn` and `image-cnn` share."""

    dim: int = 64
    """Width of user and item vectors."""
    columns: tuple[str, ...] = ()
    """Columns to read. Defaults to all of the kind."""
    dropout: float = 0.2
    """Share of the encoder's entries dropped during training."""
    temperature: float = 0.1
    """Divides the cosine; a lower value makes the softmax sharper."""
    pool: int = 512
    """Most items that a training step encodes."""

    def __post_init__(self) -> None:
        check(self, dim=self.dim >= 1, dropout=0 <= self.dropout < 1, temperature=self.temperature > 0,
              pool=self.pool >= 2)  # fmt: skip

    def encoder(self, columns: FeatureSchema) -> ContentEncoder:
        """The encoder of items."""
        return ContentEncoder(columns, self.dim, dropout=self.dropout)


@dataclass(frozen=True, kw_only=True)
class TextCNNConfig(ContentCNNConfig):
    """Settings of `text-cnn`."""

    text: TextEncoder = "cnn"
    """How texts are read: cnn (words in their order), or bag (bag of words: fast)."""
    words: int = 64
    """Width of a word vector (cnn)."""
    vectors: str = ""
    """File of pre-trained word vectors with lines `word v1 v2 ...` (cnn). Defaults to none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, words=self.words >= 1)

    def encoder(self, columns: FeatureSchema) -> ContentEncoder:
        """The encoder of items."""
        return ContentEncoder(columns, self.dim, text=self.text, words=self.words, dropout=self.dropout)


@dataclass(frozen=True, kw_only=True)
class ImageCNNConfig(ContentCNNConfig):
    """Settings of `image-cnn`."""

    pool: int = 384
    """Most items that a training step encodes."""
    augment: bool = True
    """Whether training images are randomly flipped, shifted and re-lit."""


class ContentCNN(GradientModel):
    """Content-based recommender; its two subclasses say which columns the encoder reads."""

    kind: ClassVar[Literal["text", "image"]]
    config: ContentCNNConfig
    default_training = CompleteTraining(epochs=30, batch_size=256, lr=3e-3, patience=6)
    answers = frozenset({"known_user", "history", "new_item", "similar_items"})
    confidence = "softmax"
    uses_weights = True
    gradients = CONTENT_GRADIENTS | {"history"}
    loss_name = "negative log-likelihood per item"
    undivided = "its loss subtracts the mean of all users of a batch"
    item: Tensor
    scale: Tensor
    bias: Tensor
    mean_user: Tensor
    covariance: Tensor
    spread: Tensor

    def __init__(self, config: ContentCNNConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        columns = columns_of_kind(spec.item_features, self.kind, config.columns, f"{self.kind}-cnn")
        self.encoder = config.encoder(columns)
        self.attention = nn.Linear(config.dim, 1, bias=False)
        self.user = nn.Linear(config.dim, config.dim)
        self.register_buffer("item", torch.zeros(spec.n_items, config.dim))  # v
        self.register_buffer("scale", torch.full((spec.n_items,), 1 / config.temperature))  # r / temperature
        self.register_buffer("bias", torch.zeros(spec.n_items))  # b
        # Mean and covariance of the unit vectors of users, and the mean of s over the training items.
        self.register_buffer("mean_user", torch.zeros(config.dim))
        self.register_buffer("covariance", torch.eye(config.dim))
        self.register_buffer("spread", torch.ones(()))

    def init_from_data(self, data: Dataset) -> None:
        super().init_from_data(data)
        log_N = torch.from_numpy(data.item_weights).float().log1p()
        self.bias.copy_(log_N - log_N.mean())

    def fit_context(self, data: Dataset, settings: CompleteTraining) -> CandidateContext:
        sampler = CandidateSampler(data, self.config.pool, min_history=1)
        return CandidateContext(data=data, candidates=sampler)

    def batches(self, context: CandidateContext, rng: torch.Generator, size: int) -> Iterator[CandidateBatch]:
        for batch in context.candidates.batches(rng, size):
            yield replace(batch, content=self._content(context, batch.item, rng)) if self.training else batch

    def _content(self, context: CandidateContext, item_P: Tensor, rng: torch.Generator) -> FeatureBatch:
        """Features of the candidates, as a training step reads them."""
        return self._encoded_items(context.data).take(item_P)

    def _encoded_items(self, data: Dataset) -> FeatureBatch:
        assert self.spec.item_features is not None  # `columns_of_kind` found some
        return data.encoded_items(self.spec.item_features)

    def loss(self, batch: CandidateBatch, context: CandidateContext) -> Tensor:
        if batch.content is None:
            item = batch.item
            score_UP = self._scores(batch.history, self.item[item], self.scale[item], self.bias[item])
            return candidate_loss(score_UP, batch)
        vector_PD = self.encoder(batch.content)
        user_UD = self._users(vector_PD, batch.history)
        cosine_UP = (user_UD - user_UD.mean(0)) @ F.normalize(vector_PD, dim=1).T
        return candidate_loss(cosine_UP / self.config.temperature + self.bias[batch.item], batch)

    def _refresh(self, context: CandidateContext | None) -> None:
        if context is None:
            return
        self.item.copy_(encode_all(self.encoder, self._encoded_items(context.data)))
        users = torch.from_numpy(context.data.active_users)
        some = users[:: max(1, -(-len(users) // MAX_OBSERVED_USERS))]
        user_BD = self._users(self.item, to_device(context.data.histories.take(some), module_device(self)))
        self.mean_user.copy_(user_BD.mean(0))
        self.covariance.copy_((user_BD - self.mean_user).T @ (user_BD - self.mean_user) / len(user_BD))
        self.spread.copy_(self._deviation(self.item).mean())
        self.scale.copy_(self._scale(self.item))

    def _users(self, vector_ND: Tensor, history: Ragged) -> Tensor:
        """u / |u| for histories of items with these vectors, `[B, D]`."""
        weight_N = self.attention(torch.tanh(vector_ND)).squeeze(1).exp()
        mean_BD = mean_rows(vector_ND, history, weight_N)
        return F.normalize(mean_BD + self.user(mean_BD), dim=1)

    def _deviation(self, vector_ND: Tensor) -> Tensor:
        """s of each item, `[N]`, greater than 0."""
        unit_ND = F.normalize(vector_ND, dim=1)
        deviation_N: Tensor = ((unit_ND @ self.covariance) * unit_ND).sum(1).clamp(min=MIN_VARIANCE).sqrt()
        return deviation_N

    def _scale(self, vector_ND: Tensor) -> Tensor:
        """r / temperature of each item, `[N]`."""
        return (self.spread / self._deviation(vector_ND)).clamp(max=1) / self.config.temperature

    def _scores(self, history: Ragged, vector_ND: Tensor, scale_N: Tensor, bias_N: Tensor) -> Tensor:
        """Scores of items, `[B, N]`; histories are of all items of the model."""
        user_BD = self._users(self.item, history) - self.mean_user
        scores_BN: Tensor = (user_BD @ F.normalize(vector_ND, dim=1).T) * scale_N + bias_N
        return scores_BN

    def _score(self, queries: Queries) -> Tensor:
        return self._scores(queries.history, self.item, self.scale, self.bias)

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        return self._scores(queries.history, self.item[item_I], self.scale[item_I], self.bias[item_I])

    def _new_items(self, features: FeatureBatch) -> dict[str, Tensor]:
        vector_XD = encode_all(self.encoder, features)
        return {"item": vector_XD, "scale": self._scale(vector_XD), "bias": self.bias.new_zeros(len(features))}

    def item_vectors(self) -> Tensor:
        return self.item


class TextRecommender(ContentCNN):
    """Content-based: a CNN encodes item texts; users are represented by the items of their history."""

    Config = TextCNNConfig
    needs = frozenset({"interactions", "item_text"})
    kind = "text"
    config: TextCNNConfig

    def init_from_data(self, data: Dataset) -> None:
        super().init_from_data(data)
        if self.config.vectors:
            self.encoder.load_words(Path(self.config.vectors))


class ImageRecommender(ContentCNN):
    """Content-based: a CNN encodes item images; users are represented by the items of their history."""

    Config = ImageCNNConfig
    needs = frozenset({"interactions", "item_image"})
    kind = "image"
    config: ImageCNNConfig

    def _content(self, context: CandidateContext, item_P: Tensor, rng: torch.Generator) -> FeatureBatch:
        content = super()._content(context, item_P, rng)
        return augmented(content, rng) if self.config.augment else content


def columns_of_kind(
    features: FeatureSchema | None, kind: Literal["text", "image"], columns: tuple[str, ...], model: str
) -> FeatureSchema:
    """The columns of one kind that a model reads.

    Args:
        features: The columns of the item table.
        kind: The kind.
        columns: Names of the columns to read; empty for all.
        model: Name of the model, for errors.

    Raises:
        DataError: There are no columns of the kind.
        ConfigError: `columns` names a column that does not exist or is of another kind.
    """
    there = () if features is None else features.of(kind)
    if not there:
        raise DataError(f"{model} needs item_{kind}, which this data lacks; give an item table with a {kind} column")
    unknown = set(columns) - {column.name for column in there}
    if unknown:
        names = ", ".join(column.name for column in there)
        raise ConfigError(f"columns = {', '.join(sorted(unknown))}: there is no such {kind} column; there are: {names}")
    return FeatureSchema(columns=tuple(column for column in there if not columns or column.name in columns))
