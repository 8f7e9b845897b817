"""two-tower: ids and all features on both sides, with ids left out at random so that the towers work without them.

v_i = d_i q_i + encode(x_i)                          q_i a vector of the item's own, x_i what is known of it
u   = d_u p_u + m + W m + b + e_u encode(y_u)        m the mean of v_j over the history, y_u what is known of the user
score(u, i) = cos(u, v_i) / temperature

While training, d is 0 for a share `id_dropout` of items and users and 1 for the others; so is e_u, and a share of the
histories is left out. Afterwards d_i is 1 for the items of the training data and 0 for new ones, d_u likewise, and e_u
is 1 where anything is known. So a known user, a history, a person known by their features alone and a new item are all
answered by one formula.

Loss: softmax over the items of a step (`palate.models.pools`): the whole catalogue where it is small and its content is
quick to encode (no CNN), else a pool whose chances are corrected for. Sources: Covington, Adams, Sargin 2016 (the
towers), Yi et al. 2019 (the correction), Volkovs, Yu, Poutanen 2017 (dropping ids).

Legend: B queries, N items, P items of a step, U its users, D dim.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.config import Recipe, check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.encoded import Encoded
from palate.errors import DataError
from palate.models.base import GradientModel
from palate.models.content_cnn import content_of, with_content
from palate.models.encoders import ContentEncoder, TextEncoder, encode_all
from palate.models.pools import Pool, mean_rows, pool_loss, pools

EXACT = 20_000
"""Largest catalogue that a step looks at whole, where no CNN has to read it."""
LARGE = 4096
"""Items of a step in a larger one."""


@dataclass(frozen=True, kw_only=True)
class TwoTowerConfig:
    """Settings of `two-tower`."""

    dim: int = 64
    """Width of user and item vectors."""
    columns: tuple[str, ...] = ()
    """Item columns to read; default all."""
    text: TextEncoder = "cnn"
    """How texts are read: cnn (words in their order), or bag (TF-IDF: quick)."""
    dropout: float = 0.2
    """Share of the encoders' entries dropped while training."""
    id_dropout: float = 0.3
    """Share of items and users trained without their own vectors, of users without history, without features."""
    temperature: float = 0.1
    """Divides the cosine; lower makes the softmax sharper."""
    pool: int = 384
    """Most items that a step encodes where a CNN reads them."""

    def __post_init__(self) -> None:
        check(self, dim=self.dim >= 1, dropout=0 <= self.dropout < 1, id_dropout=0 <= self.id_dropout <= 1,
              temperature=self.temperature > 0, pool=self.pool >= 2)  # fmt: skip


class TwoTower(GradientModel):
    """Ids, histories and features of both sides in two towers; answers new items and new users."""

    Config = TwoTowerConfig
    recipe = Recipe(epochs=30, batch_size=256, lr=2e-3, patience=5)
    needs = frozenset({"interactions", "item_features"})
    answers = frozenset({"known_user", "history", "new_item", "new_user", "similar_items"})
    confidence = "softmax"
    held = ("items", "users")
    vector: Tensor

    def __init__(self, config: TwoTowerConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: TwoTowerConfig = config
        if spec.item_features is None or not spec.item_features.columns:
            raise DataError("two-tower needs item_features, which this data lacks; give a table of items")
        self.item = nn.Embedding(spec.n_items - spec.new_items, config.dim)
        self.user = nn.Embedding(spec.n_users, config.dim)
        self.content = ContentEncoder(
            spec.item_features, config.dim, columns=config.columns, text=config.text, dropout=config.dropout
        )
        self.about: ContentEncoder | None = None
        if spec.user_features is not None and spec.user_features.columns:
            self.about = ContentEncoder(spec.user_features, config.dim, text="bag", dropout=config.dropout)
        else:
            self.answers = self.answers - {"new_user"}
        self.history = nn.Linear(config.dim, config.dim)
        self.register_buffer("vector", torch.zeros(spec.n_items, config.dim))
        self.items: Encoded | None = None
        self.users: Encoded | None = None

    @property
    def pool(self) -> int:
        """Items of a step."""
        if self.content.dear:
            return self.config.pool
        return EXACT if self.spec.n_items <= EXACT else LARGE

    def start(self, data: Dataset) -> None:
        super().start(data)
        for table in (self.item, self.user):
            nn.init.normal_(table.weight, std=0.1)
        self.items = content_of(data, self.spec)
        if self.about is not None and self.spec.user_features is not None:
            self.users = data.encoded_users(self.spec.user_features)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if not mode and self.items is not None:
            self.vector.copy_(encode_all(self.content, self.items))
            self.vector.add_(self.item.weight.detach())
        return self

    def batches(self, data: Dataset, rng: torch.Generator, size: int) -> Iterator[Pool]:
        for pool in pools(data, rng, size, self.pool):
            yield with_content(pool, self.items, rng)

    def loss(self, batch: Pool) -> Tensor:
        assert batch.content is not None
        vector_PD = self.content(batch.content) + self._kept(len(batch.item)) * self.item(batch.item)
        mean_UD = self._kept(len(batch)) * mean_rows(vector_PD, batch.history)
        person_UD = self._kept(len(batch)) * self.user(batch.user) + mean_UD + self.history(mean_UD)
        if self.about is not None and self.users is not None:
            person_UD = person_UD + self._kept(len(batch)) * self._about(self.users.take(batch.user))
        return pool_loss(self._cosines(person_UD, vector_PD), batch)

    def _kept(self, rows: int) -> Tensor:
        """0 for what is left out of a training step, else 1, `[rows, 1]`."""
        if not self.training:
            return torch.ones(rows, 1)
        return (torch.rand(rows, 1) >= self.config.id_dropout).float()

    def _about(self, features: Encoded) -> Tensor:
        """What features say of people, `[B, D]`; nothing where nothing is known."""
        assert self.about is not None
        about_BD: Tensor = self.about(features)
        return about_BD * features.any_known.unsqueeze(1)

    def _cosines(self, person_BD: Tensor, vector_ND: Tensor) -> Tensor:
        cosine_BN: Tensor = F.normalize(person_BD, dim=1) @ F.normalize(vector_ND, dim=1).T
        return cosine_BN.div(self.config.temperature)

    def _score(self, queries: Queries) -> Tensor:
        return self._cosines(self._people(queries), self.vector)

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        return self._cosines(self._people(queries), self.vector[item_I])

    def _people(self, queries: Queries) -> Tensor:
        known_B1 = (queries.user >= 0).unsqueeze(1)
        mean_BD = mean_rows(self.vector, queries.history)
        person_BD: Tensor = known_B1 * self.user.weight[queries.user.clamp(min=0)] + mean_BD + self.history(mean_BD)
        if self.about is not None and queries.features is not None:
            person_BD = person_BD + self._about(queries.features)
        return person_BD

    def _new_items(self, features: Encoded) -> dict[str, Tensor]:
        return {"vector": encode_all(self.content, features)}

    def item_vectors(self) -> Tensor:
        return self.vector

    def item_factors(self) -> Tensor:
        return F.normalize(self.vector, dim=1)

    def query_factors(self, queries: Queries) -> Tensor:
        return self._people(queries)
