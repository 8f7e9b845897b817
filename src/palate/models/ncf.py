"""Neural collaborative filtering: GMF, MLP and NeuMF.

GMF:    score(u, i) = w . (p_u * q_i) + b
MLP:    score(u, i) = w . h_L + b,  h_l = relu(W_l h_(l-1) + b_l),  h_0 = [u_u; v_i]
NeuMF:  score(u, i) = w . [p_u * q_i; h_L] + b, with its own embeddings for each half

Source: He, Liao, Zhang, Nie, Hu, Chua 2017, "Neural collaborative filtering". Their scores go through a sigmoid; the
order of a list does not change by it, so here a score is the logit.

Losses: `bce` with K uniform negatives of each positive, drawn anew each epoch (equation 7); `mse` on ratings, with
rating(u, i) = mean + b_u + b_i + the score's formula; `joint` (the default) trains a ranking head by bce and a rating
head by mse on the same towers, so that one model answers both; without ratings it is bce. Predictions are held to the
rating scale. With `mse` the predicted rating is the score.

These models do not beat a tuned dot product (Rendle et al. 2020); `mf` is the baseline to print beside them.

A history is answered by fold-in, see `palate.models.ncf_foldin`.

Legend: B queries, P pairs, D width of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from palate.config import Recipe, check
from palate.data.dataset import Dataset, Queries, Spec
from palate.models.base import GradientModel
from palate.models.ncf_foldin import fold_in
from palate.models.ncf_layers import Net, Towers
from palate.training.batches import Pairs, pairs
from palate.training.loop import Epoch, Job, run
from palate.training.losses import Link
from palate.training.negatives import Negatives

Loss = Literal["joint", "bce", "mse"]


@dataclass(frozen=True, kw_only=True)
class GMFConfig:
    """Settings of `gmf`."""

    dim: int = 32
    """Width of user and item vectors."""
    dropout: float = 0.0
    """Share of the product's entries dropped while training."""
    loss: Loss = "joint"
    """What is minimised: bce ranks, mse predicts ratings, joint does both where there are ratings."""
    negatives: int = 4
    """Sampled negatives of each positive (bce, joint)."""
    rating_weight: float = 0.3
    """Weight of the squared rating error beside the ranking loss (joint)."""

    def __post_init__(self) -> None:
        check(self, dim=self.dim >= 1, **_ranges(self))


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """Settings of `mlp`."""

    dim: int = 32
    """Width of user and item vectors; the first layer reads two of them."""
    layers: tuple[int, ...] = (64, 32, 16)
    """Widths of the hidden layers."""
    dropout: float = 0.0
    """Share of each hidden layer's units dropped while training."""
    loss: Loss = "joint"
    """What is minimised: bce ranks, mse predicts ratings, joint does both where there are ratings."""
    negatives: int = 4
    """Sampled negatives of each positive (bce, joint)."""
    rating_weight: float = 0.3
    """Weight of the squared rating error beside the ranking loss (joint)."""

    def __post_init__(self) -> None:
        check(self, dim=self.dim >= 1, layers=_widths(self.layers), **_ranges(self))

    @classmethod
    def textbook(cls) -> MLPConfig:
        """The textbook net: embeddings of 50, concatenated, dense 128 relu, dense 64 relu, sigmoid."""
        return cls(dim=50, layers=(128, 64), loss="bce")


@dataclass(frozen=True, kw_only=True)
class NeuMFConfig:
    """Settings of `neumf`."""

    dim: int = 32
    """Width of GMF's user and item vectors."""
    mlp_dim: int = 32
    """Width of the MLP's user and item vectors."""
    layers: tuple[int, ...] = (64, 32, 16)
    """Widths of the MLP's hidden layers."""
    dropout: float = 0.0
    """Share of the product's entries and of hidden units dropped while training."""
    loss: Loss = "joint"
    """What is minimised: bce ranks, mse predicts ratings, joint does both where there are ratings."""
    negatives: int = 4
    """Sampled negatives of each positive (bce, joint)."""
    rating_weight: float = 0.3
    """Weight of the squared rating error beside the ranking loss (joint)."""
    pretrain_epochs: int = 0
    """Most epochs that GMF and the MLP are each trained alone before they are joined; 0 for none."""

    def __post_init__(self) -> None:
        check(
            self,
            dim=self.dim >= 1,
            mlp_dim=self.mlp_dim >= 1,
            layers=_widths(self.layers),
            pretrain_epochs=self.pretrain_epochs >= 0,
            **_ranges(self),
        )


def _ranges(config: GMFConfig | MLPConfig | NeuMFConfig) -> dict[str, bool]:
    return {
        "dropout": 0 <= config.dropout < 1,
        "negatives": config.negatives >= 1,
        "rating_weight": config.rating_weight >= 0,
    }


def _widths(layers: tuple[int, ...]) -> bool:
    return len(layers) >= 1 and all(width >= 1 for width in layers)


ANSWERS = frozenset({"known_user", "history", "similar_items", "rating"})
RECIPE = Recipe(weight_decay=0.3)
"""docs/decisions/14-recipes.md."""


class GMF(GradientModel):
    """Generalised matrix factorization: a weighted product of two vectors."""

    Config = GMFConfig
    recipe = RECIPE
    answers = ANSWERS

    def __init__(self, config: GMFConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: GMFConfig = config
        towers = Towers(spec, config.dim, 0, (), config.dropout)
        self.net = Net(spec, towers, config.loss, config.negatives, config.rating_weight)
        self.needs, self.answers, self.monitor, self.confidence = _contract(self.net)

    def start(self, data: Dataset) -> None:
        self.net.draw(data)

    def batches(self, data: Dataset, rng: torch.Generator, size: int) -> Iterator[Pairs]:
        return _batches(self.net, data, rng, size)

    def loss(self, batch: Pairs) -> Tensor:
        return self.net.loss(batch)

    def _score(self, queries: Queries) -> Tensor:
        return self.net.score(_people(self.net, queries, self.spec))

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        return self.net.score(_people(self.net, queries, self.spec), item_I)

    def _predict(self, queries: Queries, row_P: Tensor, item_P: Tensor) -> Tensor:
        return self.net.predict(_people(self.net, queries, self.spec), row_P, item_P)

    def item_vectors(self) -> Tensor:
        return self.net.towers.item.weight.detach()


class MLP(GradientModel):
    """Two vectors, concatenated, through hidden layers."""

    Config = MLPConfig
    recipe = RECIPE
    answers = ANSWERS

    def __init__(self, config: MLPConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: MLPConfig = config
        towers = Towers(spec, 0, config.dim, config.layers, config.dropout)
        self.net = Net(spec, towers, config.loss, config.negatives, config.rating_weight)
        self.needs, self.answers, self.monitor, self.confidence = _contract(self.net)

    def start(self, data: Dataset) -> None:
        self.net.draw(data)

    def batches(self, data: Dataset, rng: torch.Generator, size: int) -> Iterator[Pairs]:
        return _batches(self.net, data, rng, size)

    def loss(self, batch: Pairs) -> Tensor:
        return self.net.loss(batch)

    def _score(self, queries: Queries) -> Tensor:
        return self.net.score(_people(self.net, queries, self.spec))

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        return self.net.score(_people(self.net, queries, self.spec), item_I)

    def _predict(self, queries: Queries, row_P: Tensor, item_P: Tensor) -> Tensor:
        return self.net.predict(_people(self.net, queries, self.spec), row_P, item_P)

    def item_vectors(self) -> Tensor:
        return self.net.towers.item.weight.detach()


class NeuMF(GradientModel):
    """GMF and MLP side by side under one head."""

    Config = NeuMFConfig
    recipe = RECIPE
    answers = ANSWERS

    def __init__(self, config: NeuMFConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: NeuMFConfig = config
        towers = Towers(spec, config.dim, config.mlp_dim, config.layers, config.dropout)
        self.net = Net(spec, towers, config.loss, config.negatives, config.rating_weight)
        self.needs, self.answers, self.monitor, self.confidence = _contract(self.net)

    def _fit(self, data: Dataset, job: Job) -> list[Epoch]:
        if not self.config.pretrain_epochs:
            return super()._fit(data, job)
        shared = {name: getattr(self.config, name) for name in ("dropout", "loss", "negatives", "rating_weight")}
        gmf = GMF(GMFConfig(dim=self.config.dim, **shared), self.spec)
        mlp = MLP(MLPConfig(dim=self.config.mlp_dim, layers=self.config.layers, **shared), self.spec)
        epochs = replace(job.training, epochs=self.config.pretrain_epochs)
        for name, tower in (("gmf", gmf), ("mlp", mlp)):
            tower.start(data)
            run(tower, data, replace(_stage(job, name), training=epochs, on_epoch=None))
        _fuse(gmf.net, mlp.net, self.net)
        return run(self, data, _stage(job, "neumf"))

    def start(self, data: Dataset) -> None:
        self.net.draw(data)

    def batches(self, data: Dataset, rng: torch.Generator, size: int) -> Iterator[Pairs]:
        return _batches(self.net, data, rng, size)

    def loss(self, batch: Pairs) -> Tensor:
        return self.net.loss(batch)

    def _score(self, queries: Queries) -> Tensor:
        return self.net.score(_people(self.net, queries, self.spec))

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        return self.net.score(_people(self.net, queries, self.spec), item_I)

    def _predict(self, queries: Queries, row_P: Tensor, item_P: Tensor) -> Tensor:
        return self.net.predict(_people(self.net, queries, self.spec), row_P, item_P)

    def item_vectors(self) -> Tensor:
        return self.net.towers.item.weight.detach()


def _contract(net: Net) -> tuple[frozenset[str], frozenset[str], str, Link]:
    """What an instance needs, what it answers, the metric on `valid` that chooses its epoch, and what scores mean."""
    needs = frozenset({"interactions"} | ({"rating"} if net.rating is not None else set()))
    answers = ANSWERS if net.rating is not None else ANSWERS - {"rating"}
    return (needs, answers, "rmse", "score") if net.rank is None else (needs, answers, "ndcg@10", "sigmoid")


def _batches(net: Net, data: Dataset, rng: torch.Generator, size: int) -> Iterator[Pairs]:
    return pairs(data, rng, size, None if net.rank is None else Negatives(data, net.negatives))


def _people(net: Net, queries: Queries, spec: Spec) -> Tensor:
    """Everybody asked about, `[B, D]`: known users from the table, others by fold-in."""
    people_BD = net.people(queries.user.clamp(min=0))
    unknown = (queries.user < 0).nonzero().squeeze(1)
    if len(unknown):
        people_BD[unknown] = fold_in(net, queries.take(unknown), spec.rating_scale)
    return people_BD


def _stage(job: Job, name: str) -> Job:
    """The same job with a checkpoint folder of its own."""
    return replace(job, checkpoint=None if job.checkpoint is None else job.checkpoint / name)


@torch.no_grad()
def _fuse(gmf: Net, mlp: Net, into: Net) -> None:
    """Join two trained towers as the paper does: each keeps its vectors and layers, and half of its head."""
    for table in ("user", "item"):
        halves = [getattr(net.towers, table).weight for net in (gmf, mlp)]
        getattr(into.towers, table).weight.copy_(torch.cat(halves, 1))
    into.towers.layers.load_state_dict(mlp.towers.layers.state_dict())
    for name, weight in (("rank", "weight"), ("rating", "linear.weight")):
        left, right, joined = (getattr(net, name) for net in (gmf, mlp, into))
        if joined is None:
            continue
        other = right.state_dict()
        state = {key: (value + other[key]) / 2 for key, value in left.state_dict().items() if key != weight}
        joined.load_state_dict(state | {weight: torch.cat([left.state_dict()[weight], other[weight]], 1) / 2})
