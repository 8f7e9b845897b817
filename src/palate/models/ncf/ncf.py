"""Neural collaborative filtering: GMF, MLP and NeuMF.

GMF:    score(u, i) = w . (p_u * q_i) + b
MLP:    score(u, i) = w . h_L + b,  h_l = relu(W_l h_(l-1) + b_l),  h_0 = [u_u; v_i]
NeuMF:  score(u, i) = w . [p_u * q_i; h_L] + b, with separate embeddings for each half

Source: He, Liao, Zhang, Nie, Hu, Chua 2017, "Neural collaborative filtering". A score is the logit; the paper's sigmoid
does not change the order of a list. These models do not beat a tuned dot product (Rendle et al. 2020); compare `mf`.

Losses: `bce` (the default) makes lists, with K uniform negatives of each positive, drawn anew each epoch (equation 7).
`mse` predicts ratings: rating(u, i) = mean + b_u + b_i + the score's formula, and the score is that rating. `joint`
trains a ranking head by bce and a rating head by mse on the same towers, and is bce if the data has no ratings; both
come out worse than those of a model for each (docs/decisions/23-defaults.md). Sample weights multiply the loss of a
positive and of its negatives.

Legend: B queries, I items, P pairs or positives, N candidates of each, D width of a user's row, W of a head, H of h_L.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from palate.config import CompleteTraining, check
from palate.data.dataset import Dataset, Queries, Spec
from palate.models.base import GradientModel
from palate.models.ncf.fold_in import fold_in
from palate.models.ncf.layers import Net, Workspace
from palate.training import losses
from palate.training.batches import Negatives, Pairs, pairs
from palate.training.loop import Epoch, FitContext, TrainRun
from palate.training.optimizers import steps_by_rows

LossName = Literal["joint", "bce", "mse"]
PREDICTED_PAIRS_PER_BLOCK = 2**16
"""Pairs whose hidden layers exist at once while ratings are predicted."""


@dataclass(frozen=True, kw_only=True)
class GMFConfig:
    """Settings of `gmf`."""

    dim: int = 32
    """Width of user and item embeddings."""
    dropout: float = 0.0
    """Share of the product's entries dropped during training."""
    loss: LossName = "bce"
    """What is minimised: bce makes lists, mse predicts ratings, joint does both if the data has ratings."""
    negatives: int = 4
    """Sampled negatives of each positive (bce, joint)."""
    rating_weight: float = 0.3
    """Weight of the squared rating error beside the ranking loss (joint)."""

    def __post_init__(self) -> None:
        _check(self, dim=self.dim >= 1)


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """Settings of `mlp`."""

    dim: int = 32
    """Width of user and item embeddings; the first layer reads one of each."""
    layers: tuple[int, ...] = (64, 32, 16)
    """Widths of the hidden layers."""
    dropout: float = 0.0
    """Share of each hidden layer's units dropped during training."""
    loss: LossName = "bce"
    """What is minimised: bce makes lists, mse predicts ratings, joint does both if the data has ratings."""
    negatives: int = 4
    """Sampled negatives of each positive (bce, joint)."""
    rating_weight: float = 0.3
    """Weight of the squared rating error beside the ranking loss (joint)."""

    def __post_init__(self) -> None:
        _check(self, dim=self.dim >= 1)

    @classmethod
    def textbook(cls, loss: LossName = "bce") -> MLPConfig:
        """The textbook net: embeddings of 50, concatenated, dense 128 relu, dense 64 relu, one output.

        Args:
            loss: bce, whose output is the logit of a sigmoid, or mse, whose output is the rating less mean and biases.
        """
        return cls(dim=50, layers=(128, 64), loss=loss)


@dataclass(frozen=True, kw_only=True)
class NeuMFConfig:
    """Settings of `neumf`."""

    dim: int = 32
    """Width of GMF's user and item embeddings."""
    mlp_dim: int = 32
    """Width of the MLP's user and item embeddings."""
    layers: tuple[int, ...] = (64, 32, 16)
    """Widths of the MLP's hidden layers."""
    dropout: float = 0.0
    """Share of the product's entries and of hidden units dropped during training."""
    loss: LossName = "bce"
    """What is minimised: bce makes lists, mse predicts ratings, joint does both if the data has ratings."""
    negatives: int = 4
    """Sampled negatives of each positive (bce, joint)."""
    rating_weight: float = 0.3
    """Weight of the squared rating error beside the ranking loss (joint)."""
    pretrain_epochs: int = 0
    """Maximum number of epochs that GMF and the MLP are each trained alone before they are joined; 0 for none."""

    def __post_init__(self) -> None:
        _check(self, dim=self.dim >= 1, mlp_dim=self.mlp_dim >= 1, pretrain_epochs=self.pretrain_epochs >= 0)


def _check(config: GMFConfig | MLPConfig | NeuMFConfig, **rules: bool) -> None:
    if not isinstance(config, GMFConfig):
        rules["layers"] = len(config.layers) >= 1 and all(width >= 1 for width in config.layers)
    rules |= {"dropout": 0 <= config.dropout < 1, "negatives": config.negatives >= 1}
    check(config, **rules, rating_weight=config.rating_weight >= 0)


@dataclass(frozen=True, eq=False)
class NCFContext(FitContext):
    """What training needs beside the model."""

    dense: tuple[bool, bool] = (True, True)
    """Whether the optimizer moves all rows of the user and of the item table, and so takes dense gradients."""
    memory: Workspace = field(default_factory=Workspace)
    """Holds the layers of a training step."""


class NCF(GradientModel):
    """GMF, MLP and NeuMF; the type of the config decides which."""

    default_training = CompleteTraining(weight_decay=0.3)  # docs/decisions/14-recipes.md
    answers = frozenset({"known_user", "history", "similar_items", "rating"})
    uses_weights = True
    prior: Tensor | None

    def __init__(self, config: GMFConfig | MLPConfig | NeuMFConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: GMFConfig | MLPConfig | NeuMFConfig = config
        if isinstance(config, NeuMFConfig):
            gmf, mlp, layers = config.dim, config.mlp_dim, config.layers
        else:
            gmf, mlp, layers = (config.dim, 0, ()) if isinstance(config, GMFConfig) else (0, config.dim, config.layers)
        ranks = config.loss != "mse"
        rates = config.loss == "mse" or (config.loss == "joint" and spec.rating_scale is not None)
        self.net = Net(spec, gmf, mlp, layers, config.dropout, ranks=ranks, rates=rates)
        self.register_buffer("prior", None, persistent=False)  # of new users; `_refresh` computes it
        self.needs = self.needs | {"rating"} if rates else self.needs
        self.answers = self.answers if rates else self.answers - {"rating"}
        self.monitor, self.confidence = ("ndcg@10", "sigmoid") if ranks else ("rmse", "score")
        self.remedy = "" if ranks else "without ratings use the ranking loss bce, the default"
        self.loss_name = losses.UNITS["bce" if ranks else "mse"]
        if ranks and rates:
            self.loss_name += f" + {config.rating_weight:g} * {losses.UNITS['mse']}"

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        config = self.config
        continues = job.start is not None and job.start.weights
        if not isinstance(config, NeuMFConfig) or not config.pretrain_epochs or continues:
            return super()._fit(data, job)
        shared = {name: getattr(config, name) for name in ("dropout", "loss", "negatives", "rating_weight")}
        gmf = NCF(GMFConfig(dim=config.dim, **shared), self.spec)
        mlp = NCF(MLPConfig(dim=config.mlp_dim, layers=config.layers, **shared), self.spec)
        context = self.fit_context(data, job.settings)
        for tower in (gmf, mlp):
            tower.init_from_data(data)
        brief, records = replace(job.training, epochs=config.pretrain_epochs), []
        for name, tower in (("gmf", gmf), ("mlp", mlp), ("neumf", self)):
            stage = replace(job, checkpoint=job.checkpoint and job.checkpoint / name)
            if tower is self:
                _join(gmf.net, mlp.net, self.net)
            else:
                stage = replace(stage, training=brief, on_epoch=None)
            records = tower._train(context, stage)
        return records

    def init_from_data(self, data: Dataset) -> None:
        self.net.init_from_data(data)

    def fit_context(self, data: Dataset, settings: CompleteTraining) -> NCFContext:
        negatives = Negatives(data, self.config.negatives) if self.net.ranks else None
        user, item = (not steps_by_rows(table, settings) for table in (self.net.user, self.net.item))
        return NCFContext(data, negatives, (user, item))

    def batches(self, context: NCFContext, rng: torch.Generator, size: int) -> Iterator[Pairs]:
        return pairs(context.data, rng, size, context.negatives)

    def loss(self, batch: Pairs, context: NCFContext) -> Tensor:
        """bce (He et al. 2017, equation 7), mse on the positives' ratings, or their weighted sum."""
        net, (dense_users, dense_items) = self.net, context.dense
        item_PN = batch.item.unsqueeze(1)
        if batch.negative is not None:
            item_PN = torch.cat([item_PN, batch.negative], 1)
        user = net.inputs("user", _look_up(net.user, batch.user, dense_users))
        if dense_items and self.spec.n_items <= item_PN.numel():  # each item once, not each pair
            item, index_PN = net.inputs("item", net.item.weight), item_PN
        else:
            item = net.inputs("item", _look_up(net.item, item_PN.flatten(), dense_items))
            index_PN = torch.arange(item_PN.numel(), device=item_PN.device).view(item_PN.shape)
        output_PNK = net.score_pairs(user, item, index_PN, context.memory)
        parts = [losses.bce(output_PNK[..., 0], batch.weight)] if net.ranks else []
        if net.user_bias is not None:
            assert batch.rating is not None  # `needs` holds rating
            rating_P = net.ratings(output_PNK[:, 0, -1], net.user_bias(batch.user), batch.item)
            parts.append(losses.mse(rating_P, batch.rating, batch.weight))
        return parts[0] if len(parts) == 1 else parts[0] + self.config.rating_weight * parts[1]

    def _known_users(self, user_B: Tensor) -> Tensor:
        return self.net.user_rows(user_B)

    def _fold_in(self, queries: Queries) -> Tensor:
        prior = self.net.user_prior() if self.prior is None else self.prior
        return fold_in(self.net, queries, prior, self.spec.rating_scale, self.config.negatives)

    def _refresh(self, context: object) -> None:
        self.prior = self.net.user_prior()

    def _score(self, queries: Queries) -> Tensor:
        return self._score_items(queries, slice(None))

    def _score_items(self, queries: Queries, item_I: Tensor | slice) -> Tensor:
        net, rows_BD = self.net, self.represent(queries)
        scores_BI = net.score_all(net.inputs("user", rows_BD), net.inputs("item", net.item.weight[item_I]))
        if net.ranks or net.item_bias is None:
            return scores_BI
        return scores_BI.add_(net.mean + rows_BD[:, -1:] + net.item_bias.weight[item_I].T)

    def _predict(self, queries: Queries, row_P: Tensor, item_P: Tensor) -> Tensor:
        net, rows_BD, found, size = self.net, self.represent(queries), list[Tensor](), PREDICTED_PAIRS_PER_BLOCK
        user = net.inputs("user", rows_BD)
        for row, item in zip(torch.split(row_P, size), torch.split(item_P, size), strict=True):
            output_P1K = net.score_pairs(net.inputs("item", net.item(item)), user, row.unsqueeze(1), Workspace())
            found.append(net.ratings(output_P1K[:, 0, -1], rows_BD[row, -1:], item))
        return torch.cat(found)

    def item_vectors(self) -> Tensor:
        return self.net.item.weight.detach()


class GMF(NCF):
    """Generalised matrix factorization: a weighted product of two embeddings."""

    Config = GMFConfig


class MLP(NCF):
    """Two embeddings, concatenated, through hidden layers."""

    Config = MLPConfig


class NeuMF(NCF):
    """GMF and MLP side by side under one head."""

    Config = NeuMFConfig


def _look_up(table: nn.Embedding, index: Tensor, dense: bool) -> Tensor:
    """Rows of a table. `index_select` sums a dense gradient four times as fast as `nn.Embedding` does."""
    return table.weight.index_select(0, index) if dense else table(index)


@torch.no_grad()
def _join(gmf: Net, mlp: Net, into: Net) -> None:
    """Join two trained towers (He et al. 2017, 3.4.1): each keeps its embeddings and layers, and half of its head."""
    left, right = gmf.state_dict(), mlp.state_dict()
    state = dict(right)  # the layers are the MLP's
    for name, value in left.items():
        joins = name in ("user.weight", "item.weight", "head.weight")
        both = torch.cat([value, right[name]], 1) if joins else value + right[name]
        state[name] = both if name in ("user.weight", "item.weight") else both / 2
    into.load_state_dict(state)
