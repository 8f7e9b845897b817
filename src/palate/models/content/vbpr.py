"""vbpr: matrix factorization with a second factor that is computed from the item's content (He and McAuley 2016).

score(u, i) = b_i + <p_u, q_i> + <t_u, E f_i> + <c, f_i>
loss        = mean of -log sigma(score(u, i) - score(u, j)) + reg |v|^2 for each vector v of the pair

f_i is fixed (`content="frozen"`: the vectors of `palate.models.content.content_vectors`, that is words, tags,
categories, numbers, and vectors that came with the items, for example from an image encoder of your own) or learned
(`content="trained"`: `palate.models.content.encoders` computes [E f_i, c f_i] from the features and is trained with the
model).

New items have b = 0 and q = 0. `id_dropout` trains for this: b and q of random items are left out of a step. Users the
model does not know are folded in: [p, t] minimises the loss of their history, see `palate.models.mf.fold_in`.

Legend: B queries, N items, P positives, C = 1 + K items scored for each, R distinct items, D width of [p, t], F of f.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.config import CompleteTraining, check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.features.schema import FeatureBatch, FeatureSchema
from palate.models.base import GradientModel
from palate.models.content.content_vectors import (
    BlockWeights,
    block_sizes,
    content_vectors,
    dense_vectors,
    dense_width,
)
from palate.models.content.encoders import CONTENT_GRADIENTS, ContentEncoder, encode_all
from palate.models.mf.dots import dots
from palate.models.mf.fold_in import logistic
from palate.training import losses
from palate.training.batches import Negatives, Pairs, pairs
from palate.training.loop import FitContext, Loss


@dataclass(frozen=True, kw_only=True)
class VBPRConfig:
    """Settings of `vbpr`."""

    dim: int = 64
    """Width of p and q."""
    content_dim: int = 32
    """Width of t and of E f."""
    content: Literal["frozen", "trained"] = "trained"
    """Whether an item's content is a fixed vector, or read by encoders that are trained with the model."""
    text: Literal["cnn", "bag"] = "bag"
    """How texts are read (trained): cnn (words in their order), or bag (bag of words: fast)."""
    items_per_step: int = 256
    """Most items that a training step encodes (trained); the others keep the vector of their last encoding."""
    dropout: float = 0.2
    """Share of the encoder's entries dropped during training (trained)."""
    id_dropout: float = 0.1
    """Share of a step's items that are represented by their content alone."""
    negatives: int = 1
    """Sampled negatives of each positive."""
    init: float = 0.1
    """Standard deviation of the initial vectors' entries."""
    reg: float = 0.005
    """L2 of the vectors and biases of each pair."""

    def __post_init__(self) -> None:
        check(
            self,
            **{name: getattr(self, name) >= 1 for name in ("dim", "content_dim", "items_per_step", "negatives")},
            **{name: getattr(self, name) >= 0 for name in ("init", "reg")},
            **{name: 0 <= getattr(self, name) < 1 for name in ("dropout", "id_dropout")},
        )


class FrozenContent(nn.Module):
    """A linear map of fixed content vectors.

    Args:
        features: How items are encoded.
        dim: Width of the output.
    """

    statistics: Tensor

    def __init__(self, features: FeatureSchema, dim: int) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("statistics", torch.zeros(block_sizes(features)[2], 2))
        self.linear = nn.Linear(dense_width(features), dim, bias=False)

    def learn_statistics(self, encoded: FeatureBatch) -> None:
        """Take mean text lengths and norms from the training items."""
        self.statistics.copy_(content_vectors(encoded, self.features, BlockWeights()).statistics)

    def vectors(self, encoded: FeatureBatch) -> Tensor:
        """f, `[N, F]`."""
        return dense_vectors(content_vectors(encoded, self.features, BlockWeights(), self.statistics))

    def forward(self, vector_NF: Tensor) -> Tensor:
        """`[N, D]`."""
        out_ND: Tensor = self.linear(vector_NF)
        return out_ND


@dataclass(frozen=True, eq=False, kw_only=True)
class VBPRContext(FitContext):
    """The fit context of `vbpr`.

    Attributes:
        encoder: Of the model.
        features: How items are encoded.
    """

    encoder: ContentEncoder | FrozenContent
    features: FeatureSchema

    @cached_property
    def content(self) -> FeatureBatch | Tensor:
        """What the encoder reads of all items: their features, or f; computed when first needed."""
        encoded = self.data.encoded_items(self.features)
        return self.encoder.vectors(encoded) if isinstance(self.encoder, FrozenContent) else encoded


class VBPR(GradientModel):
    """Matrix factorization with a second factor from the items' content, for ranking."""

    Config = VBPRConfig
    needs = frozenset({"interactions", "item_features"})
    answers = frozenset({"known_user", "history", "new_item", "similar_items"})
    confidence = "sigmoid"
    uses_weights = True
    loss_name = losses.UNITS["bpr"]
    content: Tensor
    vector: Tensor
    offset: Tensor

    def __init__(self, config: VBPRConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: VBPRConfig = config
        self.features, known = spec.item_features or FeatureSchema(), spec.n_items - spec.new_items
        width = config.dim + config.content_dim
        self.user = nn.Embedding(spec.n_users, width)
        self.item = nn.Embedding(known, config.dim)
        self.item_bias = nn.Embedding(known, 1)
        # The encoder's output is E f and, as the last entry, <c, f>.
        self.encoder: ContentEncoder | FrozenContent
        if config.content == "frozen":
            self.encoder = FrozenContent(self.features, config.content_dim + 1)
        else:
            self.encoder = ContentEncoder(
                self.features, config.content_dim + 1, text=config.text, dropout=config.dropout
            )
            self.gradients = CONTENT_GRADIENTS
            self.undivided = "each step encodes some of the items of the whole batch (not so with content = 'frozen')"
        self.register_buffer("content", torch.zeros(spec.n_items, config.content_dim + 1))
        # The sums of both parts: [q, E f], and b + <c, f>.
        self.register_buffer("vector", torch.zeros(spec.n_items, width))
        self.register_buffer("offset", torch.zeros(spec.n_items))

    def init_from_data(self, data: Dataset) -> None:
        super().init_from_data(data)
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=self.config.init)
        nn.init.zeros_(self.item_bias.weight)
        self.content = torch.zeros_like(self.content)  # of items that no step has encoded yet
        if isinstance(self.encoder, FrozenContent):
            self.encoder.learn_statistics(data.encoded_items(self.features))

    def fit_context(self, data: Dataset, settings: CompleteTraining) -> VBPRContext:
        negatives = Negatives(data, self.config.negatives)
        return VBPRContext(data=data, negatives=negatives, encoder=self.encoder, features=self.features)

    def batches(self, context: VBPRContext, rng: torch.Generator, size: int) -> Iterator[Pairs]:
        return pairs(context.data, rng, size, context.negatives)

    def loss(self, batch: Pairs, context: VBPRContext) -> Loss:
        assert batch.negative is not None
        item_PC = torch.cat([batch.item.unsqueeze(1), batch.negative], dim=1)
        item_R, place_PC = torch.unique(item_PC, return_inverse=True)
        user_U, place_P = torch.unique(batch.user, return_inverse=True)
        user_UD = self.user(user_U)
        vector_RD, offset_R, bias_R = self._item_parts(item_R, context)
        score_PC = dots(F.embedding(place_P, user_UD), vector_RD, place_PC)
        score_PC = score_PC + F.embedding(place_PC, offset_R.unsqueeze(1)).squeeze(-1)
        bpr = losses.bpr(score_PC, batch.weight)
        # Each vector counts as often as it occurs in the batch, each time with the weight of the pair.
        weight_P = torch.ones_like(score_PC[:, 0]) if batch.weight is None else batch.weight
        weight_U = weight_P.new_zeros(len(user_U)).index_add(0, place_P, weight_P)
        weight_R = weight_P.new_zeros(len(item_R)).index_add(
            0, place_PC.flatten(), weight_P.repeat_interleave(item_PC.shape[1])
        )
        squares = (user_UD.square().sum(1) * weight_U).sum() / len(batch)
        squares = squares + ((vector_RD.square().sum(1) + bias_R.square()) * weight_R).sum() / item_PC.numel()
        return Loss(bpr + self.config.reg * squares, bpr)

    def _item_parts(self, item_R: Tensor, context: VBPRContext) -> tuple[Tensor, Tensor, Tensor]:
        """[q, E f], b + <c, f> and b of distinct items; in training some of them without q and b."""
        if not self.training:
            return self.vector[item_R], self.offset[item_R], self.item_bias.weight[item_R, 0]
        if isinstance(context.content, Tensor):
            content_RD = self.encoder(context.content[item_R])
        else:
            content_RD = encode_some(self.encoder, context.content, self.content, item_R, self.config.items_per_step)
        keep_R1 = (torch.rand(len(item_R), 1, device=item_R.device) >= self.config.id_dropout).float()
        bias_R = (self.item_bias(item_R) * keep_R1).squeeze(1)
        vector_RD = torch.cat([self.item(item_R) * keep_R1, content_RD[:, :-1]], 1)
        return vector_RD, bias_R + content_RD[:, -1], bias_R

    def _refresh(self, context: VBPRContext | None) -> None:
        if context is None:
            return
        self.content = self._encode(context.content)
        self.vector = torch.cat([self.item.weight, self.content[:, :-1]], 1)
        self.offset = self.item_bias.weight.squeeze(1) + self.content[:, -1]

    def _encode(self, content: FeatureBatch | Tensor) -> Tensor:
        """[E f, <c, f>] of items, `[N, D]`."""
        return self.encoder(content) if isinstance(content, Tensor) else encode_all(self.encoder, content)

    def _new_items(self, features: FeatureBatch) -> dict[str, Tensor]:
        encoder = self.encoder
        content_ND = self._encode(encoder.vectors(features) if isinstance(encoder, FrozenContent) else features)
        q_ND = content_ND.new_zeros(len(features), self.config.dim)
        return {
            "content": content_ND, "vector": torch.cat([q_ND, content_ND[:, :-1]], 1), "offset": content_ND[:, -1],
        }  # fmt: skip

    def _score(self, queries: Queries) -> Tensor:
        return torch.addmm(self.offset, self.represent(queries), self.vector.T)

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        return torch.addmm(self.offset[item_I], self.represent(queries), self.vector[item_I].T)

    def _known_users(self, user_B: Tensor) -> Tensor:
        return F.embedding(user_B, self.user.weight)

    def _fold_in(self, queries: Queries) -> Tensor:
        penalty_D = self.vector.new_full(
            (self.vector.shape[1],), (1 + self.config.negatives) * max(self.config.reg, 1e-6)
        )
        known = len(self.item.weight)
        return logistic(queries.history, self.vector, self.offset, penalty_D, self.config.negatives, known)

    def item_vectors(self) -> Tensor:
        return self.vector

    def item_factors(self) -> Tensor:
        return torch.cat([self.vector, self.offset.unsqueeze(1)], 1)

    def query_factors(self, queries: Queries) -> Tensor:
        return F.pad(self.represent(queries), (0, 1), value=1.0)


def encode_some(encoder: nn.Module, content: FeatureBatch, last_ND: Tensor, item_R: Tensor, most: int) -> Tensor:
    """Vectors of distinct items of a training step, `[R, D]`, at a cost that does not grow with the batch.

    Only `most` of the items, chosen at random, are encoded and pass a gradient on. The others have the vector of their
    last encoding. Over an epoch every item is encoded many times.

    Args:
        encoder: Encodes rows of features as vectors.
        content: Features of all items.
        last_ND: The vector of each item's last encoding; updated in place.
        item_R: The items.
        most: Most items to encode.
    """
    place = torch.arange(len(item_R), device=item_R.device)
    if len(item_R) > most:
        # torch's global generator, as dropout uses it: a training run forks and checkpoints it.
        place = torch.randperm(len(item_R), device=item_R.device)[:most]
    encoded_MD = encoder(content.take(item_R[place]))
    vector_RD = last_ND[item_R].index_copy(0, place, encoded_MD)
    last_ND[item_R[place]] = encoded_MD.detach()
    return vector_RD
