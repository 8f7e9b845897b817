"""deepfm: DeepFM, DCN-v2 and Wide & Deep: one network over the ids of user and item and all of their features.

score = b + sum_f <w_f, v_f> + MLP(x) + cross(x),   x = [v_1; ...; v_F], a vector of width D for each field

cross = "fm":     sum_{f < g} <v_f, v_g>                                   Guo et al. 2017, "DeepFM"
cross = "cross":  <w, x_L>,  x_{l+1} = x * (W_l x_l + b_l) + x_l,  x_0 = x   Wang et al. 2021, "DCN V2"
cross = "wide":   0: the linear part and the MLP                           Cheng et al. 2016, "Wide & deep learning"

Loss: `bce` with K uniform negatives of each positive, b = -log K; or `mse` on ratings, b their mean.

During training a share `id_dropout` of the ids counts as unknown, so that new items, and users known only by their
features, are scored by their features. Texts are read as bags of words; images are not read.

The network is written for the fields of users against the fields of items. To score B users and N items, everything
that depends on one user or one item is computed once: all of `wide` and `fm`, and the first layer of the MLP and of the
cross part.

Legend: B queries, N items, P pairs, C items scored for each positive, R rows, D width of a field, X width of all fields
of a user or of an item, H width of a hidden layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.config import MAX_LAYERS, CompleteTraining, check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.features.schema import FeatureBatch, FeatureSchema, nothing_known
from palate.models.base import GradientModel
from palate.models.content.encoders import CONTENT_GRADIENTS, HIDDEN_SHARE, ColumnEncoder, column_slices
from palate.models.mf.fold_in import mean_rating
from palate.training import losses
from palate.training.batches import Negatives, Pairs, pairs
from palate.training.loop import FitContext

MAX_HIDDEN_VALUES = 2**24
"""Hidden units in memory at once when all pairs are scored: 64 MB."""
ITEMS_PER_BLOCK = 1024
"""Items whose fields are computed at once."""

Cross = Literal["fm", "cross", "wide"]


@dataclass(frozen=True, kw_only=True)
class DeepFMConfig:
    """Settings of `deepfm`."""

    dim: int = 16
    """Width of a field's vector."""
    cross: Cross = "fm"
    """The part beside the MLP: fm (DeepFM), cross (DCN-v2), or wide (Wide & Deep: the linear part only)."""
    layers: tuple[int, ...] = (64, 32)
    """Widths of the MLP's hidden layers."""
    cross_layers: int = 2
    """Layers of the cross part."""
    dropout: float = 0.1
    """Share of hidden units dropped during training."""
    id_dropout: float = 0.1
    """Share of ids that count as unknown during training."""
    loss: Literal["bce", "mse"] = "bce"
    """What is minimised: bce to rank items, mse to predict ratings."""
    negatives: int = 4
    """Sampled negatives of each positive (bce)."""
    init: float = 0.05
    """Standard deviation of the initial vectors' entries."""

    def __post_init__(self) -> None:
        check(
            self,
            **{name: getattr(self, name) >= 1 for name in ("dim", "negatives")},
            cross_layers=1 <= self.cross_layers <= MAX_LAYERS,
            **{name: 0 <= getattr(self, name) < 1 for name in ("dropout", "id_dropout")},
            layers=len(self.layers) >= 1 and all(width >= 1 for width in self.layers),
            init=self.init >= 0,
        )


@dataclass(frozen=True, eq=False)
class FieldVectors:
    """The fields of R users or items.

    Attributes:
        fields: All fields side by side, float32 `[R, X]`.
        linear: First-order part, float32 `[R]`.
    """

    fields: Tensor
    linear: Tensor


class FieldEncoder(nn.Module):
    """Users or items as fields: the id, and one field for each column that is not an image.

    Args:
        count: Number of ids that training knows; one more row stands for unknown ids.
        features: The columns.
        dim: D.
        init: Standard deviation of the initial vectors of ids and of values of columns.
    """

    def __init__(self, count: int, features: FeatureSchema, dim: int, init: float) -> None:
        super().__init__()
        self.count, self.dim, self.init = count, dim, init
        self.table, self.bias = nn.Embedding(count + 1, dim), nn.Embedding(count + 1, 1)
        read = [(column, place) for column, place in column_slices(features) if column.kind != "image"]
        encoders = [ColumnEncoder(column, place, dim, "bag", 0, 0.0, HIDDEN_SHARE) for column, place in read]
        self.columns = nn.ModuleList(encoders)
        # Narrower encodings, those of numbers, are mapped to width D.
        self.widen = nn.ModuleList(nn.Identity() if e.width == dim else nn.Linear(e.width, dim) for e in encoders)
        self.first_order = nn.Linear(dim * len(encoders), 1, bias=False) if encoders else None
        self.width = dim * (1 + len(encoders))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the vectors of ids and of values; the unknown id and the linear part are zero."""
        for table in self.modules():
            if isinstance(table, nn.Embedding):
                nn.init.normal_(table.weight, std=self.init)
        nn.init.zeros_(self.bias.weight)
        nn.init.zeros_(self.table.weight[self.count])
        if self.first_order is not None:
            nn.init.zeros_(self.first_order.weight)

    def forward(self, index_R: Tensor, encoded: FeatureBatch, id_dropout: float = 0.0) -> FieldVectors:
        """The fields of some rows.

        Args:
            index_R: Indices of ids; -1 for an unknown id.
            encoded: Features.
            id_dropout: Share of the ids that count as unknown.
        """
        known_R = index_R >= 0
        if id_dropout:
            known_R = known_R & (torch.rand(len(index_R), device=index_R.device) >= id_dropout)
        row_R = torch.where(known_R, index_R, self.count)
        read = [wide(column(encoded)) for column, wide in zip(self.columns, self.widen, strict=True)]
        linear_R = self.bias(row_R).squeeze(1)
        if self.first_order is not None:
            linear_R = linear_R + self.first_order(torch.cat(read, 1)).squeeze(1)
        return FieldVectors(torch.cat([self.table(row_R), *read], 1), linear_R)


class FieldNet(nn.Module):
    """The score of a user and an item from their fields.

    Args:
        user, item: Widths X of a user's and of an item's fields.
        dim: D.
        cross: The part beside the MLP.
        layers: Widths of the MLP's hidden layers.
        cross_layers: Layers of the cross part.
        dropout: Share of hidden units dropped during training.
    """

    def __init__(
        self, user: int, item: int, dim: int, cross: Cross, layers: Sequence[int], cross_layers: int, dropout: float
    ) -> None:
        super().__init__()
        self.dim, self.cross, both = dim, cross, user + item
        widths = [both, *layers]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], 1)
        crosses = cross_layers if cross == "cross" else 0
        self.crosses = nn.ModuleList(nn.Linear(both, both) for _ in range(crosses))
        self.cross_head = nn.Linear(both, 1, bias=False) if crosses else None
        self.user_width, self.widest = user, max(widths if not crosses else [both, *widths])

    def pairs(self, user: FieldVectors, item: FieldVectors, row_P: Tensor, item_P: Tensor) -> Tensor:
        """Scores of pairs of a row of `user` and a row of `item`, `[P]`."""
        u_PX, i_PX = F.embedding(row_P, user.fields), F.embedding(item_P, item.fields)
        own_user_P = F.embedding(row_P, self._own_part(user)).squeeze(1)
        score_P = own_user_P + F.embedding(item_P, self._own_part(item)).squeeze(1)
        if self.cross == "fm":
            score_P = score_P + (self._field_sum(u_PX) * self._field_sum(i_PX)).sum(1)
        both_PX = torch.cat([u_PX, i_PX], 1)
        hidden_PH = self.layers[0](both_PX)
        crossed_PX = self.crosses[0](both_PX) if self.crosses else None
        return score_P + self._joint_part(hidden_PH, crossed_PX, both_PX)

    def all_pairs(self, user: FieldVectors, item: FieldVectors) -> Tensor:
        """Scores of every user and item, `[B, N]`, computed in blocks."""
        score_BN = self._own_part(user) + self._own_part(item).T
        if self.cross == "fm":
            score_BN = score_BN + self._field_sum(user.fields) @ self._field_sum(item.fields).T
        hidden = self._halves(self.layers[0], user, item)
        crossed = self._halves(self.crosses[0], user, item) if self.crosses else None
        step = max(1, MAX_HIDDEN_VALUES // max(len(item.fields) * self.widest, 1))
        for start in range(0, len(user.fields), step):
            block = slice(start, start + step)
            both_BNX = crossed_BNX = None
            if crossed is not None:
                u_BX = user.fields[block]
                u_BNX = u_BX.unsqueeze(1).expand(-1, len(item.fields), -1)
                both_BNX = torch.cat([u_BNX, item.fields.unsqueeze(0).expand(len(u_BX), -1, -1)], 2)
                crossed_BNX = crossed[0][block].unsqueeze(1) + crossed[1]
            hidden_BNH = hidden[0][block].unsqueeze(1) + hidden[1]
            score_BN[block] += self._joint_part(hidden_BNH, crossed_BNX, both_BNX)
        return score_BN

    def _halves(self, layer: nn.Module, user: FieldVectors, item: FieldVectors) -> tuple[Tensor, Tensor]:
        """A layer's output for the fields of users and for those of items; it is their sum for the fields of both."""
        weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
        return user.fields @ weight[:, : self.user_width].T, item.fields @ weight[:, self.user_width :].T + bias

    def _joint_part(self, hidden: Tensor, crossed: Tensor | None, both: Tensor | None) -> Tensor:
        """The MLP and the cross part from the output of their first layers on, `[...]`."""
        for layer in list(self.layers)[1:]:
            hidden = layer(self.dropout(F.relu(hidden)))
        score: Tensor = self.head(self.dropout(F.relu(hidden))).squeeze(-1)
        if crossed is None or both is None or self.cross_head is None:
            return score
        value = both * crossed + both
        for layer in list(self.crosses)[1:]:
            value = both * layer(value) + value
        score = score + self.cross_head(value).squeeze(-1)
        return score

    def _own_part(self, side: FieldVectors) -> Tensor:
        """What each row adds to all of its pairs, `[R, 1]`."""
        if self.cross != "fm":
            return side.linear.unsqueeze(1)
        square_R = self._field_sum(side.fields).square().sum(1) - side.fields.square().sum(1)
        return (side.linear + square_R / 2).unsqueeze(1)

    def _field_sum(self, fields_RX: Tensor) -> Tensor:
        """The sum of the fields, `[R, D]`."""
        return fields_RX.view(len(fields_RX), -1, self.dim).sum(1)


class DeepFM(GradientModel):
    """One deep network over the ids and all features of user and item: DeepFM, DCN-v2 or Wide & Deep."""

    Config = DeepFMConfig
    answers = frozenset({"known_user", "new_item", "new_user", "similar_items", "rating"})
    uses_weights = True
    gradients = CONTENT_GRADIENTS
    bias: Tensor
    fields: Tensor
    linear: Tensor

    def __init__(self, config: DeepFMConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: DeepFMConfig = config
        self.confidence, self.loss_name = losses.LINKS[config.loss], losses.UNITS[config.loss]
        self.item_features = spec.item_features or FeatureSchema()
        self.user_features = spec.user_features or FeatureSchema()
        if config.loss == "mse":
            self.needs = self.needs | {"rating"}
            self.remedy = "without ratings use loss = bce, the default"
        self.monitor = "rmse" if config.loss == "mse" else "ndcg@10"
        self.answers = self.answers - ({"rating"} if config.loss == "bce" else set())
        self.answers -= set() if self.item_features.columns else {"new_item"}
        self.answers -= set() if self.user_features.columns else {"new_user"}
        self.user = FieldEncoder(spec.n_users, self.user_features, config.dim, config.init)
        self.item = FieldEncoder(spec.n_items - spec.new_items, self.item_features, config.dim, config.init)
        self.net = FieldNet(
            self.user.width, self.item.width, config.dim, config.cross, config.layers, config.cross_layers,
            config.dropout,
        )  # fmt: skip
        self.register_buffer("bias", torch.zeros(()))
        # The fields of all items.
        self.register_buffer("fields", torch.zeros(spec.n_items, self.item.width))
        self.register_buffer("linear", torch.zeros(spec.n_items))

    @classmethod
    def spec_of(cls, data: Dataset) -> Spec:
        """With the features of users and items, if there are any; neither is needed."""
        return data.feature_spec

    def init_from_data(self, data: Dataset) -> None:
        super().init_from_data(data)
        # Again, because the tables inside were reset after the encoders that contain them.
        self.user.reset_parameters()
        self.item.reset_parameters()
        self.bias.fill_(mean_rating(data) if self.config.loss == "mse" else -log(self.config.negatives))

    def fit_context(self, data: Dataset, settings: CompleteTraining) -> FitContext:
        return FitContext(data, Negatives(data, self.config.negatives) if self.config.loss == "bce" else None)

    def batches(self, context: FitContext, rng: torch.Generator, size: int) -> Iterator[Pairs]:
        return pairs(context.data, rng, size, context.negatives)

    def loss(self, batch: Pairs, context: FitContext) -> Tensor:
        item_PC = batch.item.unsqueeze(1)
        if batch.negative is not None:
            item_PC = torch.cat([item_PC, batch.negative], 1)
        user_R, user_P = torch.unique(batch.user, return_inverse=True)
        item_R, place_PC = torch.unique(item_PC, return_inverse=True)
        id_dropout = self.config.id_dropout if self.training else 0.0
        users = self.user(user_R, context.data.encoded_users(self.user_features).take(user_R), id_dropout)
        if self.training:
            items = self.item(item_R, context.data.encoded_items(self.item_features).take(item_R), id_dropout)
        else:
            items = FieldVectors(self.fields[item_R], self.linear[item_R])
        row = user_P.unsqueeze(1).expand_as(place_PC).reshape(-1)
        score_PC = self.bias + self.net.pairs(users, items, row, place_PC.reshape(-1)).view(place_PC.shape)
        if self.config.loss == "bce":
            return losses.bce(score_PC, batch.weight)
        assert batch.rating is not None  # `needs` holds rating
        return losses.mse(score_PC[:, 0], batch.rating, batch.weight)

    def _refresh(self, context: FitContext | None) -> None:
        if context is None:
            return
        index_N = torch.arange(self.spec.n_items, device=self.fields.device)
        items = self._encode_items(index_N, context.data.encoded_items(self.item_features))
        self.fields, self.linear = items.fields, items.linear

    def _encode_items(self, index_N: Tensor, encoded: FeatureBatch) -> FieldVectors:
        """The fields of some items, computed in blocks."""
        blocks = torch.arange(len(index_N), device=index_N.device).split(ITEMS_PER_BLOCK)  # type: ignore[no-untyped-call]
        found = [self.item(index_N[rows], encoded.take(rows)) for rows in blocks]
        return FieldVectors(torch.cat([one.fields for one in found]), torch.cat([one.linear for one in found]))

    def _new_items(self, features: FeatureBatch) -> dict[str, Tensor]:
        items = self._encode_items(torch.full((len(features),), -1, device=self.fields.device), features)
        return {"fields": items.fields, "linear": items.linear}

    def _users(self, queries: Queries) -> FieldVectors:
        """The fields of the users; those of features come from the query."""
        features = queries.features
        encoded = nothing_known(self.user_features, len(queries)) if features is None else features
        users: FieldVectors = self.user(queries.user, encoded)
        return users

    def _score(self, queries: Queries) -> Tensor:
        return self.bias + self.net.all_pairs(self._users(queries), FieldVectors(self.fields, self.linear))

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        some = FieldVectors(self.fields[item_I], self.linear[item_I])
        return self.bias + self.net.all_pairs(self._users(queries), some)

    def _predict(self, queries: Queries, row_P: Tensor, item_P: Tensor) -> Tensor:
        items = FieldVectors(self.fields, self.linear)
        return self.bias + self.net.pairs(self._users(queries), items, row_P, item_P)

    def item_vectors(self) -> Tensor:
        return self.fields
