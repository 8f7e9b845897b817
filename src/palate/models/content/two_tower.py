"""two-tower: ids and features of users and items in two towers; ids are dropped at random, so that both work without.

v_i         = d_i q_i + encode(x_i)                          q_i the item's own vector, x_i its features
u           = d_u p_u + m + W m + b + e_u encode(y_u)        m the mean of v_j over the history, y_u the user's features
score(u, i) = cos(u, v_i) / temperature

During training, d is 0 for a share `id_dropout` of items and users and 1 for the others; so is e_u, and a share of the
histories is dropped. Afterwards d_i is 1 for the items of the training data and 0 for new ones. d_u is 1 for known
users and 0 for new users and for users whose history is newer than training. e_u is 1 if any feature is known. So one
formula scores known users, histories, users known only by their features, and new items.

Loss: softmax over the candidates of a step (`palate.models.content.candidates`): all items of a small catalogue whose
features are fast to encode (no CNN), otherwise a sample. Sources: Covington, Adams, Sargin 2016 (two towers), Yi et al.
2019 (correction for sampling), Volkovs, Yu, Poutanen 2017 (dropping ids).

Legend: B queries, N items, P candidates, U users of a step, D dim.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.config import CompleteTraining, check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.features.schema import FeatureBatch
from palate.errors import DataError
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

MAX_EXACT_ITEMS = 20_000
"""Largest catalogue of which all items are candidates, if no CNN reads them."""
MAX_SAMPLED_ITEMS = 4096
"""Candidates of a step in a larger catalogue."""
ID_STD = 0.1
"""Standard deviation of the initial entries of p and q."""


@dataclass(frozen=True, kw_only=True)
class TwoTowerConfig:
    """Settings of `two-tower`."""

    dim: int = 64
    """Width of user and item vectors."""
    columns: tuple[str, ...] = ()
    """Item columns to read. Defaults to all."""
    text: TextEncoder = "cnn"
    """How texts are read: cnn (words in their order), or bag (bag of words: fast)."""
    dropout: float = 0.2
    """Share of the encoders' entries dropped during training."""
    id_dropout: float = 0.3
    """Probability that a training step drops an item's or user's own vector, a history, or a user's features."""
    temperature: float = 0.1
    """Divides the cosine; a lower value makes the softmax sharper."""
    pool: int = 384
    """Most items that a training step encodes, if a CNN reads them."""

    def __post_init__(self) -> None:
        check(self, dim=self.dim >= 1, dropout=0 <= self.dropout < 1, id_dropout=0 <= self.id_dropout <= 1,
              temperature=self.temperature > 0, pool=self.pool >= 2)  # fmt: skip


class TwoTower(GradientModel):
    """Ids, histories and features of users and items in two towers; answers new items and new users."""

    Config = TwoTowerConfig
    default_training = CompleteTraining(epochs=30, batch_size=256, lr=2e-3, patience=5)
    needs = frozenset({"interactions", "item_features"})
    answers = frozenset({"known_user", "history", "new_item", "new_user", "similar_items"})
    confidence = "softmax"
    uses_weights = True
    gradients = CONTENT_GRADIENTS | {"history"}
    loss_name = "negative log-likelihood per item"
    vector: Tensor

    def __init__(self, config: TwoTowerConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: TwoTowerConfig = config
        if spec.item_features is None or not spec.item_features.columns:
            raise DataError("two-tower needs item_features, which this data lacks; give a table of items")
        self.item_features = spec.item_features
        self.item = nn.Embedding(spec.n_items - spec.new_items, config.dim)
        self.user = nn.Embedding(spec.n_users, config.dim)
        self.item_encoder = ContentEncoder(
            spec.item_features, config.dim, columns=config.columns, text=config.text, dropout=config.dropout
        )
        self.user_encoder: ContentEncoder | None = None
        if spec.user_features is not None and spec.user_features.columns:
            self.user_encoder = ContentEncoder(spec.user_features, config.dim, text="bag", dropout=config.dropout)
        else:
            self.answers = self.answers - {"new_user"}
        self.history = nn.Linear(config.dim, config.dim)
        self.register_buffer("vector", torch.zeros(spec.n_items, config.dim))

    @property
    def max_candidates(self) -> int:
        """Most candidates of a step."""
        if self.item_encoder.has_cnn:
            return self.config.pool
        return MAX_EXACT_ITEMS if self.spec.n_items <= MAX_EXACT_ITEMS else MAX_SAMPLED_ITEMS

    def init_from_data(self, data: Dataset) -> None:
        super().init_from_data(data)
        for table in (self.item, self.user):
            nn.init.normal_(table.weight, std=ID_STD)

    def fit_context(self, data: Dataset, settings: CompleteTraining) -> CandidateContext:
        return CandidateContext(data=data, candidates=CandidateSampler(data, self.max_candidates))

    def batches(self, context: CandidateContext, rng: torch.Generator, size: int) -> Iterator[CandidateBatch]:
        for batch in context.candidates.batches(rng, size):
            if not self.training:
                yield batch
                continue
            content = context.data.encoded_items(self.item_features).take(batch.item)
            yield replace(batch, content=augmented(content, rng))

    def loss(self, batch: CandidateBatch, context: CandidateContext) -> Tensor:
        if batch.content is None:
            vector_PD = self.vector[batch.item]
        else:
            vector_PD = self.item_encoder(batch.content) + self._drop_rows(self.item(batch.item))
        user_UD = self._drop_rows(self.user(batch.user))
        user_UD = user_UD + self._from_history(self._drop_rows(mean_rows(vector_PD, batch.history)))
        if self.user_encoder is not None and self.spec.user_features is not None:
            features = context.data.encoded_users(self.spec.user_features).take(batch.user)
            user_UD = user_UD + self._drop_rows(self._from_features(self.user_encoder, features))
        return candidate_loss(self._cosines(user_UD, vector_PD), batch)

    def _drop_rows(self, vector_UD: Tensor) -> Tensor:
        """In training, the vectors with a random share of them set to zero."""
        if not self.training:
            return vector_UD
        return vector_UD * (torch.rand(len(vector_UD), 1, device=vector_UD.device) >= self.config.id_dropout)

    def _from_history(self, mean_BD: Tensor) -> Tensor:
        """m + W m + b, `[B, D]`."""
        user_BD: Tensor = mean_BD + self.history(mean_BD)
        return user_BD

    def _from_features(self, encoder: ContentEncoder, features: FeatureBatch) -> Tensor:
        """encode(y), `[B, D]`; zeros if no feature is known."""
        vector_BD: Tensor = encoder(features)
        return vector_BD * features.any_known.unsqueeze(1)

    def _cosines(self, user_BD: Tensor, vector_ND: Tensor) -> Tensor:
        """Cosines over the temperature, which divides the users' vectors: they are fewer than the scores."""
        return F.normalize(user_BD, dim=1).div(self.config.temperature) @ F.normalize(vector_ND, dim=1).T

    def _refresh(self, context: CandidateContext | None) -> None:
        if context is not None:
            self.vector.copy_(encode_all(self.item_encoder, context.data.encoded_items(self.item_features)))
            self.vector.add_(self.item.weight)

    def _score(self, queries: Queries) -> Tensor:
        return self._cosines(self._users(queries), self.vector)

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        return self._cosines(self._users(queries), self.vector[item_I])

    def _users(self, queries: Queries) -> Tensor:
        """u, `[B, D]`; known users too have the history and the features of the query."""
        user_BD = self._from_history(mean_rows(self.vector, queries.history))
        trained = queries.trained.nonzero().squeeze(1)
        user_BD = user_BD.index_add(0, trained, self.user.weight[queries.user[trained]])
        if self.user_encoder is not None and queries.features is not None:
            user_BD = user_BD + self._from_features(self.user_encoder, queries.features)
        return user_BD

    def _new_items(self, features: FeatureBatch) -> dict[str, Tensor]:
        return {"vector": encode_all(self.item_encoder, features)}

    def item_vectors(self) -> Tensor:
        return self.vector

    def item_factors(self) -> Tensor:
        return F.normalize(self.vector, dim=1)

    def query_factors(self, queries: Queries) -> Tensor:
        return self._users(queries)
