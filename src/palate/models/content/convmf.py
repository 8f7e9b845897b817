"""convmf: biased matrix factorization for ratings whose item vectors start from the content (Kim et al. 2016, ConvMF).

prediction(u, i) = b + b_u + b_i + <p_u, q_i>,  [q_i, b_i] = encode(content_i) + eps_i
loss = mean of (r - prediction)^2 + penalties n^reg_power (reg |p_u|^2 + bias_reg b_u^2), and the same penalty on eps_i

`palate.models.content.encoders` encodes texts by the paper's CNN, and all other features too. As in the paper, factors
and encoder are trained in turns. A round first trains the factors as `mf` does, with the encoder's output as it is (in
the first round zero). Then it trains the encoder, with the users as they are, to predict the ratings without eps:

mean of (r - b - b_u - <[p_u, 1], encode(content_i)>)^2

where the paper regresses on q_i. So an item counts by its number of ratings, and the encoder learns what new items
need. The encoder's epoch is chosen by the ratings of items that it is not trained on. For a new item eps is 0:

prediction(u, new i) = b + b_u + c_u + <[p_u, 1], encode(content_i)>,  c_u = sum of residuals / (n_u + 10)

where the residuals are those of u's n_u ratings under the second formula without c_u: users who chose better items than
their content suggests will do so again. Users the model does not know are folded in by ridge regression from a history.

Legend: N items, U users, P pairs, R distinct rows, T ratings, D dim, E = D + 1: [p_u, 1] and [q_i, b_i], F = E + 1:
[p_u, 1, c_u] and [q_i, b_i, 1 for new items, else 0], G = F + 1: [p_u, 1, c_u, b_u].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.config import CompleteTraining, check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.features.schema import FeatureBatch, FeatureSchema
from palate.data.ragged import Ragged
from palate.models.base import GradientModel
from palate.models.content.encoders import CONTENT_GRADIENTS, ContentEncoder, encode_all
from palate.models.layers import SHRINK
from palate.models.mf.fold_in import history_ratings, l2_share, l2_shares, mean_rating, ridge
from palate.training import losses
from palate.training.batches import Pairs, pairs
from palate.training.loop import Epoch, FitContext, Loss, TrainRun, run

MAX_RATINGS_PER_ITEM = 256
"""Most ratings of an item in a batch of the encoder's training."""
RATINGS_PER_BLOCK = 2**18
"""Ratings at once when residuals are computed."""
ENCODER_BATCH_SIZE, ENCODER_PATIENCE = 64, 8
"""Training settings of the encoder; an epoch is every rated item once."""
MIN_MEAN_WEIGHT = 1e-9
"""Smallest mean of sample weights that is divided by."""
VALIDATION_SHARE, MIN_VALIDATED_ITEMS = 0.1, 20
"""Share of the items whose ratings choose the encoder's epoch, and the fewest rated items for that."""


@dataclass(frozen=True, kw_only=True)
class ConvMFConfig:
    """Settings of `convmf`."""

    dim: int = 64
    """Width of user and item vectors."""
    init: float = 0.02
    """Standard deviation of the initial vectors' entries."""
    reg: float = 1.2
    """L2 of a user's vector and of an item's distance from its content; grows with the ratings n as n ** reg_power."""
    bias_reg: float = 0.5
    """L2 of a bias, likewise."""
    reg_power: float = 0.5
    """With 1 the L2 is the same for every rating, with 0 for every vector."""
    rounds: int = 1
    """How often factors and encoder take turns."""
    columns: tuple[str, ...] = ()
    """Item columns to read. Defaults to all."""
    text: Literal["cnn", "bag"] = "cnn"
    """How texts are read: cnn (words in their order), or bag (bag of words: fast)."""
    dropout: float = 0.3
    """Share of the encoder's entries dropped during training."""
    content_epochs: int = 30
    """Most epochs of the encoder in a round."""
    content_lr: float = 1e-3
    """Step size of the encoder (Adam)."""
    content_decay: float = 0.1
    """Decoupled weight decay of the encoder."""

    def __post_init__(self) -> None:
        check(
            self,
            **{name: getattr(self, name) >= 1 for name in ("dim", "rounds", "content_epochs")},
            **{name: getattr(self, name) >= 0 for name in ("init", "reg", "bias_reg", "content_decay")},
            reg_power=0 <= self.reg_power <= 1,
            dropout=0 <= self.dropout < 1,
            content_lr=self.content_lr > 0,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class ConvMFContext(FitContext):
    """The fit context of the factors.

    Attributes:
        user_share, item_share: Weight of the L2 in each pair, float32 `[U]` and `[N]`; see `l2_shares`.
    """

    user_share: Tensor
    item_share: Tensor


class ConvMF(GradientModel):
    """Matrix factorization for ratings; item vectors start from texts, read by a CNN, and from other features."""

    Config = ConvMFConfig
    needs = frozenset({"interactions", "rating", "item_features"})
    answers = frozenset({"known_user", "history", "new_item", "similar_items", "rating"})
    monitor = "rmse"
    uses_weights = True
    gradients = CONTENT_GRADIENTS
    loss_name = losses.UNITS["mse"]
    undivided = "its encoder is trained on batches of unequal weight"
    bias: Tensor
    prior: Tensor
    vector: Tensor
    content_bias: Tensor

    def __init__(self, config: ConvMFConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: ConvMFConfig = config
        self.features = spec.item_features or FeatureSchema()
        known, width = spec.n_items - spec.new_items, config.dim + 1
        self.user = nn.Embedding(spec.n_users, config.dim)
        self.user_bias = nn.Embedding(spec.n_users, 1)
        self.rest = nn.Embedding(known, config.dim)  # eps
        self.rest_bias = nn.Embedding(known, 1)
        self.encoder = ContentEncoder(
            self.features, width, columns=config.columns, text=config.text, dropout=config.dropout
        )
        self.register_buffer("bias", torch.zeros(()))
        self.register_buffer("prior", torch.zeros(spec.n_items, width))  # encode(content)
        self.register_buffer("vector", torch.zeros(spec.n_items, width + 1))  # [q, b, is new]
        self.register_buffer("content_bias", torch.zeros(spec.n_users, 1))  # c

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        self.init_from_data(data)
        job.begin(self)
        context = self.fit_context(data, job.settings)
        records: list[Epoch] = []
        for number in range(self.config.rounds):
            records = self._train(context, _stage(job, f"{number}-factors"))
            self._train_encoder(data, _stage(job, f"{number}-content"))
            self.refresh(context)
        return records

    def init_from_data(self, data: Dataset) -> None:
        super().init_from_data(data)
        for table in (self.user, self.rest):
            nn.init.normal_(table.weight, std=self.config.init)
        for table in (self.user_bias, self.rest_bias):
            nn.init.zeros_(table.weight)
        for name in ("prior", "vector", "content_bias"):
            setattr(self, name, torch.zeros_like(getattr(self, name)))
        self.bias.fill_(mean_rating(data))

    def fit_context(self, data: Dataset, settings: CompleteTraining) -> ConvMFContext:
        user_share, item_share = l2_shares(data, self.config.reg_power)
        return ConvMFContext(data=data, user_share=user_share, item_share=item_share)

    def batches(self, context: ConvMFContext, rng: torch.Generator, size: int) -> Iterator[Pairs]:
        return pairs(context.data, rng, size)

    def loss(self, batch: Pairs, context: ConvMFContext) -> Loss:
        assert batch.rating is not None  # `needs` holds rating
        user_R, user = torch.unique(batch.user, return_inverse=True)
        item_R, item = torch.unique(batch.item, return_inverse=True)
        p_RD, b_R1 = self.user(user_R), self.user_bias(user_R)
        eps_RD, eps_R1, prior_RE = self.rest(item_R), self.rest_bias(item_R), self.prior[item_R]
        # `F.embedding` rather than an index: its gradient is faster.
        p_PD, q_PD = F.embedding(user, p_RD), F.embedding(item, eps_RD + prior_RE[:, :-1])
        biases_P1 = F.embedding(user, b_R1) + F.embedding(item, eps_R1 + prior_RE[:, -1:])
        prediction_P = self.bias + biases_P1.squeeze(1) + (p_PD * q_PD).sum(1)
        squared = losses.mse(prediction_P, batch.rating, batch.weight)
        weight_P = torch.ones_like(prediction_P) if batch.weight is None else batch.weight
        user_weight_R = weight_P.new_zeros(len(user_R)).index_add(0, user, weight_P)
        item_weight_R = weight_P.new_zeros(len(item_R)).index_add(0, item, weight_P)
        penalty = self._penalty(p_RD, b_R1, context.user_share[user_R] * user_weight_R)
        penalty = penalty + self._penalty(eps_RD, eps_R1, context.item_share[item_R] * item_weight_R)
        return Loss(squared + penalty / len(batch), squared)

    def _penalty(self, vector_RD: Tensor, bias_R1: Tensor, weight_R: Tensor) -> Tensor:
        squares_R = self.config.reg * vector_RD.square().sum(1) + self.config.bias_reg * bias_R1.square().sum(1)
        return (squares_R * weight_R).sum()

    def _refresh(self, context: ConvMFContext | None) -> None:
        if context is not None:
            vector_NE = self.prior + torch.cat([self.rest.weight, self.rest_bias.weight], 1)
            self.vector = F.pad(vector_NE, (0, 1))

    def _train_encoder(self, data: Dataset, job: TrainRun) -> None:
        """Train the encoder; the item vectors stay as they are, and eps becomes their distance from the new content."""
        config, content = self.config, data.encoded_items(self.features)
        user_UE = torch.cat([self.user.weight, torch.ones_like(self.user_bias.weight)], 1).detach()
        user, item = (torch.from_numpy(column.astype(np.int64)) for column in (data.user, data.item))
        target = torch.from_numpy(np.asarray(data.rating)) - self.bias - self.user_bias.weight.detach()[user, 0]
        weight = torch.ones_like(target) if data.weight is None else torch.from_numpy(np.array(data.weight))
        settings = replace(
            job.training, epochs=config.content_epochs, lr=config.content_lr, weight_decay=config.content_decay,
            optimizer="adam", batch_size=ENCODER_BATCH_SIZE, patience=ENCODER_PATIENCE,
        )  # fmt: skip
        train, valid = RatedItems.split(data, job.training.seed)
        context = RegressionContext(
            data=train, content=content, user=user, user_vector=user_UE, target=target, weight=weight
        )
        validate = EncoderValidator(replace(context, data=valid)) if len(valid) else None
        run(ContentRegression(self.encoder), context, replace(job, training=settings, validate=validate, on_epoch=None))
        with torch.no_grad():
            self.prior = encode_all(self.encoder, content)
            rest_NE = self.vector[:, :-1] - self.prior
            self.rest.weight.copy_(rest_NE[:, :-1])
            self.rest_bias.weight.copy_(rest_NE[:, -1:])
            self.content_bias = mean_residuals(user_UE, self.prior, user, item, target, weight)

    def _new_items(self, features: FeatureBatch) -> dict[str, Tensor]:
        prior_NE = encode_all(self.encoder, features)
        return {"prior": prior_NE, "vector": F.pad(prior_NE, (0, 1), value=1.0)}

    def _score(self, queries: Queries) -> Tensor:
        user_BG = self.represent(queries)
        return self.bias + user_BG[:, -1:] + user_BG[:, :-1] @ self.vector.T

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        user_BG = self.represent(queries)
        return self.bias + user_BG[:, -1:] + user_BG[:, :-1] @ self.vector[item_I].T

    def _predict(self, queries: Queries, row_P: Tensor, item_P: Tensor) -> Tensor:
        user_PG = self.represent(queries)[row_P]
        return self.bias + user_PG[:, -1] + (user_PG[:, :-1] * self.vector[item_P]).sum(1)

    def _known_users(self, user_B: Tensor) -> Tensor:
        bias_B1 = self.user_bias.weight[user_B]
        return torch.cat([self.user.weight[user_B], torch.ones_like(bias_B1), self.content_bias[user_B], bias_B1], 1)

    def _fold_in(self, queries: Queries) -> Tensor:
        config, history = self.config, queries.history
        rating_T = history_ratings(queries, float(self.bias), self.spec.rating_scale) - self.bias
        reg_E = torch.tensor([config.reg] * config.dim + [config.bias_reg]).clamp(min=1e-6).to(self.vector.device)
        penalty_BE = l2_share(history.lengths.unsqueeze(1), config.reg_power) * reg_E
        vector_NE = torch.cat([self.vector[:, : config.dim], torch.ones_like(self.vector[:, :1])], 1)
        # [p, b], where the item's bias is subtracted from the rating.
        found_BE = ridge(history, vector_NE, rating_T - self.vector[history.values, config.dim], penalty_BE)
        p_BD, bias_B1 = found_BE[:, :-1], found_BE[:, -1:]
        user_BE, row_T = torch.cat([p_BD, torch.ones_like(bias_B1)], 1), history.row_of_value
        target_T = rating_T - bias_B1[row_T, 0]
        weight_T = torch.ones_like(target_T)
        content_bias_B1 = mean_residuals(user_BE, self.prior, row_T, history.values, target_T, weight_T)
        return torch.cat([user_BE, content_bias_B1, bias_B1], 1)

    def item_vectors(self) -> Tensor:
        return self.vector[:, : self.config.dim]

    def item_factors(self) -> Tensor:
        return self.vector

    def query_factors(self, queries: Queries) -> Tensor:
        return self.represent(queries)[:, :-1]


def _stage(job: TrainRun, name: str) -> TrainRun:
    """The same run with a checkpoint folder of its own."""
    return replace(job, checkpoint=None if job.checkpoint is None else job.checkpoint / name)


@dataclass(frozen=True, eq=False)
class RatedItems:
    """Items and the ratings of each; the rows that the encoder's training loop counts.

    Attributes:
        item: int64 `[R]`.
        rows: For every item of the data, the row numbers of its ratings.
        fingerprint: Of the data.
    """

    item: Tensor
    rows: Ragged
    fingerprint: str

    def __len__(self) -> int:
        return len(self.item)

    @classmethod
    def split(cls, data: Dataset, seed: int) -> tuple[RatedItems, RatedItems]:
        """The rated items in two random parts: to train on, and to choose the epoch by (empty if there are few)."""
        order, offsets = data.by_item
        rows = Ragged(torch.from_numpy(order), torch.from_numpy(offsets))
        rated = torch.from_numpy(np.flatnonzero(data.item_counts))
        shuffled = rated[torch.randperm(len(rated), generator=torch.Generator().manual_seed(seed))]
        count = int(VALIDATION_SHARE * len(rated)) if len(rated) >= MIN_VALIDATED_ITEMS else 0
        train, valid = (cls(part, rows, data.fingerprint) for part in (shuffled[count:], shuffled[:count]))
        return train, valid


@dataclass(frozen=True, eq=False, kw_only=True)
class RegressionContext:
    """The fit context of the encoder.

    Attributes:
        data: The items.
        content: Features of all items.
        user: The user of each rating, int64 `[T]`.
        user_vector: [p, 1], float32 `[U, E]`.
        target: r - b - b_u of each rating, float32 `[T]`.
        weight: Sample weight of each rating, float32 `[T]`.
    """

    data: RatedItems
    content: FeatureBatch
    user: Tensor
    user_vector: Tensor
    target: Tensor
    weight: Tensor

    def squared_error(self, vector_RE: Tensor, rows: Ragged) -> Tensor:
        """The weighted mean squared error of <[p, 1], vector> over the ratings of each of R items."""
        rating_T = rows.values
        prediction_T = (self.user_vector[self.user[rating_T]] * vector_RE[rows.row_of_value]).sum(1)
        weight_T = self.weight[rating_T]
        return losses.mse(prediction_T, self.target[rating_T], weight_T / weight_T.mean().clamp(min=MIN_MEAN_WEIGHT))


class ContentRegression(nn.Module):
    """The training of the encoder: a regression of ratings on content. It is what `run` trains.

    Args:
        encoder: Encodes features as `[R, E]`.
    """

    def __init__(self, encoder: ContentEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def batches(self, context: RegressionContext, rng: torch.Generator, size: int) -> Iterator[RatedItems]:
        """All items once, in random order, each with at most `MAX_RATINGS_PER_ITEM` ratings."""
        order = context.data.item[torch.randperm(len(context.data), generator=rng)]
        for item in torch.split(order, size):
            rows = context.data.rows.take(item)
            if bool((rows.lengths > MAX_RATINGS_PER_ITEM).any()):
                rows = rows.shuffled(rng).keep(rows.place_of_value < MAX_RATINGS_PER_ITEM)
            yield RatedItems(item, rows, context.data.fingerprint)

    def loss(self, batch: RatedItems, context: RegressionContext) -> Tensor:
        """Mean squared error per rating."""
        return context.squared_error(self.encoder(context.content.take(batch.item)), batch.rows)

    def refresh(self, context: RegressionContext | None = None) -> None:
        """Nothing is computed from the weights."""


class EncoderValidator:
    """Chooses the encoder's epoch: the RMSE on items it is not trained on.

    Args:
        context: With these items as its data.
    """

    metric = "rmse"
    higher_is_better = False

    def __init__(self, context: RegressionContext) -> None:
        self.context = context

    def __call__(self, model: Any) -> dict[str, float]:
        """The metric by its name."""
        items = self.context.data
        vector_RE = encode_all(model.encoder, self.context.content.take(items.item))
        return {self.metric: float(self.context.squared_error(vector_RE, items.rows.take(items.item)).sqrt())}

    def for_member(self, model: Any) -> None:
        """The regression has no members."""

    def sampled(self, model: Any, max_users: int) -> EncoderValidator:
        """All of it: it has no users."""
        return self


def mean_residuals(
    user_vector: Tensor, item_vector: Tensor, user: Tensor, item: Tensor, target: Tensor, weight: Tensor
) -> Tensor:
    """The mean of each user's residuals, shrunk as if `SHRINK` more of them were 0, `[U, 1]`.

    Args:
        user_vector: `[U, E]`.
        item_vector: `[N, E]`.
        user, item, target, weight: User, item, target and sample weight of each rating, `[T]`.
    """
    total_U, weight_U = (target.new_zeros(len(user_vector)) for _ in range(2))
    for start in range(0, len(user), RATINGS_PER_BLOCK):
        rows = slice(start, start + RATINGS_PER_BLOCK)
        residual_T = target[rows] - (user_vector[user[rows]] * item_vector[item[rows]]).sum(1)
        total_U.index_add_(0, user[rows], weight[rows] * residual_T)
        weight_U.index_add_(0, user[rows], weight[rows])
    mean_U: Tensor = total_U / (weight_U + SHRINK)
    return mean_U.unsqueeze(1)
