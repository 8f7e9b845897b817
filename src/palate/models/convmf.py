"""ConvMF: biased matrix factorization for ratings whose items are tied to what they are (Kim et al. 2016).

prediction(u, i) = b + b_u + b_i + <p_u, q_i>,  [q_i, b_i] = encoder(content_i) + eps_i
loss = mean of (r - prediction)^2 + penalties n^reg_power (reg |p_u|^2 + bias_reg b_u^2), the same over eps_i

with the encoder of `palate.models.encoders`: the paper's text CNN, and whatever else is known of an item. As in the
paper factors and encoder take turns. A round trains the factors as `mf` does, with the encoder as it is (in the first
round: nothing); then the encoder, with the users as they are, to predict the ratings of its items by itself,

    mean of (r - b - b_u - <[p_u, 1], encoder(content_i)>)^2

where the paper regresses on q_i: so an item counts by its ratings, and the encoder learns what an item that nobody has
rated needs. A share of the items is kept from the encoder; its epoch is chosen by their ratings. A new item has eps 0:

prediction(u, new i) = b + b_u + c_u + <[p_u, 1], encoder(content_i)>,  c_u = sum of what that leaves / (n_u + 10)

with the sum over u's ratings, without c_u: whose films were better than films of their kind are chooses well again.
A person the model has never seen is answered by ridge from a history, as in `palate.models.mf_foldin`.

Legend: B queries, N items, P pairs, R distinct rows, T history items, D dim, E = D + 1 with the bias as last entry,
F = E + 1 with what is new as last entry: [q_i, b_i, 0], for a new item 1; [p_u, 1, c_u].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.config import check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.encoded import Encoded, Features
from palate.models.base import GradientModel
from palate.models.convmf_reader import Reader, left_over, reading
from palate.models.encoders import ContentEncoder, encode_all
from palate.models.fold_in import l2_share, ridge, told_ratings
from palate.training import losses
from palate.training.batches import Pairs, pairs
from palate.training.loop import Epoch, Job, run


@dataclass(frozen=True, kw_only=True)
class ConvMFConfig:
    """Settings of `convmf`."""

    dim: int = 64
    """Width of user and item vectors."""
    init: float = 0.02
    """Standard deviation of the first vectors' entries."""
    reg: float = 1.2
    """L2 of a user's vector and of an item's distance from its content; grows with the ratings n as n ** reg_power."""
    bias_reg: float = 0.5
    """L2 of a bias, likewise."""
    reg_power: float = 0.5
    """1 is the same for every rating, 0 the same for every vector."""
    rounds: int = 1
    """How often factors and encoder take turns."""
    columns: tuple[str, ...] = ()
    """Item columns to read; default all."""
    text: Literal["cnn", "bag"] = "cnn"
    """How texts are read: as words in order, or as a bag of words, which is far quicker."""
    dropout: float = 0.3
    """Share of the encoder's entries dropped while training."""
    content_epochs: int = 30
    """Most passes of the encoder over the items in a round."""
    content_lr: float = 1e-3
    """Step size of the encoder (Adam)."""
    content_decay: float = 0.1
    """Decoupled L2 shrinkage of the encoder."""

    def __post_init__(self) -> None:
        check(
            self,
            **{name: getattr(self, name) >= 1 for name in ("dim", "rounds", "content_epochs")},
            **{name: getattr(self, name) >= 0 for name in ("init", "reg", "bias_reg", "content_decay")},
            reg_power=0 <= self.reg_power <= 1,
            dropout=0 <= self.dropout < 1,
            content_lr=self.content_lr > 0,
        )


class ConvMF(GradientModel):
    """Matrix factorization for ratings whose items start from their texts, by a CNN, and other features."""

    Config = ConvMFConfig
    needs = frozenset({"interactions", "rating", "item_features"})
    answers = frozenset({"known_user", "history", "new_item", "similar_items", "rating"})
    monitor = "rmse"
    bias: Tensor
    prior: Tensor
    vector: Tensor
    choice: Tensor
    user_weight: Tensor
    item_weight: Tensor

    def __init__(self, config: ConvMFConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: ConvMFConfig = config
        self.features, known, width = spec.item_features or Features(), spec.n_items - spec.new_items, config.dim + 1
        self.user = nn.Embedding(spec.n_users, config.dim)
        self.user_bias = nn.Embedding(spec.n_users, 1)
        self.rest = nn.Embedding(known, config.dim)
        self.rest_bias = nn.Embedding(known, 1)
        self.encoder = ContentEncoder(
            self.features, width, columns=config.columns, text=config.text, dropout=config.dropout
        )
        self.register_buffer("bias", torch.zeros(()))
        # What the encoder makes of each item, that with eps and whether it is new, and c_u.
        self.register_buffer("prior", torch.zeros(spec.n_items, width))
        self.register_buffer("vector", torch.zeros(spec.n_items, width + 1))
        self.register_buffer("choice", torch.zeros(spec.n_users, 1))
        # Weight of the L2 in one pair; only training reads it, so it is not saved.
        self.register_buffer("user_weight", torch.ones(spec.n_users), persistent=False)
        self.register_buffer("item_weight", torch.ones(known), persistent=False)
        self._fitting = False

    def _fit(self, data: Dataset, job: Job) -> list[Epoch]:
        self.start(data)
        items = data.encoded_items(self.features)
        records: list[Epoch] = []
        self._fitting = True
        try:
            for turn in range(self.config.rounds):
                records = run(self, data, _stage(job, f"{turn}-factors"))
                self._read(data, items, _stage(job, f"{turn}-content"))
        finally:
            self._fitting = False
        return records

    def start(self, data: Dataset) -> None:
        super().start(data)
        for table in (self.user, self.rest):
            nn.init.normal_(table.weight, std=self.config.init)
        for table in (self.user_bias, self.rest_bias):
            nn.init.zeros_(table.weight)
        for name in ("prior", "vector", "choice"):
            setattr(self, name, torch.zeros_like(getattr(self, name)))
        assert data.rating is not None  # `needs` holds rating
        self.bias.fill_(float(np.mean(data.rating, dtype=np.float64)))
        self.user_weight.copy_(l2_share(torch.from_numpy(np.diff(data.offsets)), self.config.reg_power))
        self.item_weight.copy_(l2_share(torch.from_numpy(data.item_counts), self.config.reg_power))

    def _read(self, data: Dataset, items: Encoded, job: Job) -> None:
        """The encoder's turn; the items stay where they are, and eps is measured from their new content."""
        config = self.config
        people_UE = torch.cat([self.user.weight, torch.ones_like(self.user_bias.weight)], 1).detach()
        target = torch.from_numpy(np.asarray(data.rating)) - self.bias
        target -= self.user_bias.weight.detach()[torch.from_numpy(data.user).long(), 0]
        how = replace(
            job.training, epochs=config.content_epochs, lr=config.content_lr, weight_decay=config.content_decay,
            optimizer="adam", batch_size=Reader.BATCH, patience=Reader.PATIENCE,
        )  # fmt: skip
        reading(self.encoder, items, data, people_UE, target, replace(job, training=how, validate=None, on_epoch=None))
        with torch.no_grad():
            prior_NE = encode_all(self.encoder, items)
            moved_NE = self.vector[:, :-1] - prior_NE
            self.rest.weight.copy_(moved_NE[:, :-1])
            self.rest_bias.weight.copy_(moved_NE[:, -1:])
            self.prior = prior_NE
            user, item = (torch.from_numpy(column.astype(np.int64)) for column in (data.user, data.item))
            self.choice = left_over(people_UE, prior_NE, user, item, target)
        self._settle()

    def batches(self, data: Dataset, rng: torch.Generator, size: int) -> Iterator[Pairs]:
        return pairs(data, rng, size)

    def loss(self, batch: Pairs) -> Tensor:
        assert batch.rating is not None
        user_R, user, count_U = torch.unique(batch.user, return_inverse=True, return_counts=True)
        item_R, item, count_I = torch.unique(batch.item, return_inverse=True, return_counts=True)
        p_RD, b_R1 = self.user(user_R), self.user_bias(user_R)
        eps_RD, c_R1, prior_RE = self.rest(item_R), self.rest_bias(item_R), self.prior[item_R]
        penalty = self._penalty(p_RD, b_R1, self.user_weight[user_R] * count_U)
        penalty = penalty + self._penalty(eps_RD, c_R1, self.item_weight[item_R] * count_I)
        # `F.embedding` rather than an index: its gradient is quicker.
        p_PD, q_PD = F.embedding(user, p_RD), F.embedding(item, eps_RD + prior_RE[:, :-1])
        biases_P1 = F.embedding(user, b_R1) + F.embedding(item, c_R1 + prior_RE[:, -1:])
        prediction_P = self.bias + biases_P1.squeeze(1) + (p_PD * q_PD).sum(1)
        return losses.mse(prediction_P, batch.rating) + penalty / len(batch)

    def _penalty(self, vector_RD: Tensor, bias_R1: Tensor, weight_R: Tensor) -> Tensor:
        squares_R = self.config.reg * vector_RD.square().sum(1) + self.config.bias_reg * bias_R1.square().sum(1)
        return (squares_R * weight_R).sum()

    def train(self, mode: bool = True) -> ConvMF:
        """As in torch; on the way to eval while fitting, the items' vectors are put together anew."""
        super().train(mode)
        if not mode and self._fitting:
            self._settle()
        return self

    @torch.no_grad()
    def _settle(self) -> None:
        vector_NE = self.prior + torch.cat([self.rest.weight, self.rest_bias.weight], 1)
        self.vector = F.pad(vector_NE, (0, 1))

    def _new_items(self, features: Encoded) -> dict[str, Tensor]:
        prior_NE = encode_all(self.encoder, features)
        return {"prior": prior_NE, "vector": F.pad(prior_NE, (0, 1), value=1.0)}

    def _score(self, queries: Queries) -> Tensor:
        person_BF, bias_B1 = self._people(queries)
        return self.bias + bias_B1 + person_BF @ self.vector.T

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        person_BF, bias_B1 = self._people(queries)
        return self.bias + bias_B1 + person_BF @ self.vector[item_I].T

    def _predict(self, queries: Queries, row_P: Tensor, item_P: Tensor) -> Tensor:
        person_BF, bias_B1 = self._people(queries)
        return self.bias + bias_B1[row_P, 0] + (person_BF[row_P] * self.vector[item_P]).sum(1)

    def _people(self, queries: Queries) -> tuple[Tensor, Tensor]:
        """[p, 1, c] and bias of each query, `[B, F]` and `[B, 1]`: trained for a known user, else by ridge."""
        known_B, dim = queries.user.clamp(min=0), self.config.dim
        person_BF = torch.cat([self.user.weight[known_B], torch.ones(len(queries), 1), self.choice[known_B]], 1)
        bias_B1 = self.user_bias.weight[known_B]
        new = (queries.user < 0).nonzero().squeeze(1)
        if len(new):
            found_BE, choice_B1 = self._fold_in(queries.take(new))
            person_BF[new, :dim], bias_B1[new], person_BF[new, -1:] = found_BE[:, :-1], found_BE[:, -1:], choice_B1
        return person_BF, bias_B1

    def _fold_in(self, queries: Queries) -> tuple[Tensor, Tensor]:
        """Of people of whom a history is known: vectors and, last, biases, `[B, E]`; and c, `[B, 1]`."""
        config, history = self.config, queries.history
        rating_T = told_ratings(queries, float(self.bias), self.spec.rating_scale) - self.bias
        reg_E = torch.tensor([config.reg] * config.dim + [config.bias_reg]).clamp(min=1e-6)
        penalty_BE = l2_share(history.lengths.unsqueeze(1), config.reg_power) * reg_E
        q_ND, item_bias_T = self.vector[:, : config.dim], self.vector[history.values, config.dim]
        vector_NE = torch.cat([q_ND, torch.ones(len(q_ND), 1)], 1)
        found_BE = ridge(history, vector_NE, rating_T - item_bias_T, penalty_BE)
        person_BE, row_T = torch.cat([found_BE[:, :-1], torch.ones(len(found_BE), 1)], 1), history.row_of_value
        target_T = rating_T - found_BE[row_T, -1]
        return found_BE, left_over(person_BE, self.prior, row_T, history.values, target_T)

    def item_vectors(self) -> Tensor:
        return self.vector[:, : self.config.dim]

    def item_factors(self) -> Tensor:
        return self.vector

    def query_factors(self, queries: Queries) -> Tensor:
        return self._people(queries)[0]


def _stage(job: Job, name: str) -> Job:
    """The same job with a checkpoint folder of its own."""
    return replace(job, checkpoint=None if job.checkpoint is None else job.checkpoint / name)
