"""dropoutnet: a warm model for what is known, a content tower that tells where a new item would stand in it.

score(u, i) = c_u + <x_u, y_i>     the warm model's own: iALS, or MF with y_i = (q_i, b_i), x_u = (p_u, 1)
y_i         = the warm model's vector for an item of the training data, exactly
y_i         = s t(x_i) for a new item, t the content tower (`palate.models.encoders.ContentEncoder`)

The tower is trained on the warm items' vectors, so that its dot products with everybody are theirs:

loss = mean_u (<x_u, t_i> - <x_u, y_i>)^2 / v = |(t_i - y_i) L|^2,  L L' = G = sum_u x_u x_u' / users / v

the mean over all users at once, where Volkovs, Yu, Poutanen 2017 ("DropoutNet: addressing cold start in recommender
systems") sample some; v brings the mean of <x_u, y_i>^2 to 1. The tower gives t L, each entry in standard deviations of
y L from its mean, and so learns everywhere at one pace. Theirs has the item's vector as input too, left out at random;
here warm items never go through the tower, so it is left out always, and dropout is on the content.

An epoch is every item once, `batch_size` of them a step but no more than 256. A share of the items is held out of the
tower's training: their loss chooses the epoch, and s is the least-squares factor between their dot products as the
tower tells them and as they are, times `boost`: so a new item's score stands for the score it would have, and competes
with warm items on one scale.

Legend: B queries, N items, P items of a batch, E width of y.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from palate.config import Recipe, check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.encoded import Encoded
from palate.errors import DataError
from palate.models.base import GradientModel
from palate.models.content_cnn import content_of
from palate.models.encoders import ContentEncoder, TextEncoder, encode_all
from palate.models.encoders_image import augmented
from palate.models.ials import IALS, IALSConfig
from palate.models.mf import MF, MFConfig
from palate.models.mf_foldin import fold_in
from palate.training.loop import Epoch, Job, run

MOST = 256
"""Items of a step."""


@dataclass(frozen=True, kw_only=True)
class DropoutNetConfig:
    """Settings of `dropoutnet`."""

    warm: Literal["ials", "mf"] = "ials"
    """The warm model; mf learns by its loss bce."""
    dim: int = 64
    """Width of the warm model's vectors."""
    alpha: float = 0.1
    """iALS: weight of all pairs against the observed ones."""
    reg: float = 0.01
    """L2 on the warm model's vectors."""
    columns: tuple[str, ...] = ()
    """Item columns to read; default all."""
    text: TextEncoder = "cnn"
    """How texts are read: cnn (words in their order), or bag (TF-IDF: quick)."""
    dropout: float = 0.3
    """Share of the tower's entries dropped while training."""
    boost: float = 1.0
    """Times the scale of new items' scores; above 1 lists more of them than their expected scores earn."""
    held_out: float = 0.1
    """Share of items held out of the tower's training."""

    def __post_init__(self) -> None:
        check(self, dim=self.dim >= 1, alpha=self.alpha > 0, reg=self.reg >= 0, dropout=0 <= self.dropout < 1,
              boost=self.boost > 0, held_out=0 < self.held_out < 1)  # fmt: skip

    def warm_config(self) -> IALSConfig | MFConfig:
        """Of the warm model."""
        if self.warm == "mf":
            return MFConfig(dim=self.dim, reg=self.reg, bias_reg=self.reg)
        return IALSConfig(dim=self.dim, alpha=self.alpha, reg=self.reg)


@dataclass(frozen=True, eq=False)
class Warm:
    """Some warm items: what is known of them, and what the tower is to tell, y L, float32 `[P, E]`."""

    content: Encoded
    target: Tensor

    def __len__(self) -> int:
        return len(self.target)

    def take(self, rows: Tensor) -> Warm:
        """Some of them."""
        return Warm(self.content.take(rows), self.target[rows])


class DropoutNet(GradientModel):
    """A warm model (iALS or MF) for known items, and for new ones a content tower that foretells its vectors."""

    Config = DropoutNetConfig
    recipe = Recipe(epochs=40, batch_size=256, lr=1e-3, patience=5)
    needs = frozenset({"interactions", "item_features"})
    answers = frozenset({"known_user", "history", "new_item", "similar_items"})
    item: Tensor
    root: Tensor
    middle: Tensor
    spread: Tensor
    scale: Tensor

    def __init__(self, config: DropoutNetConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config: DropoutNetConfig = config
        if spec.item_features is None or not spec.item_features.columns:
            raise DataError("dropoutnet needs item_features, which this data lacks; give a table of items")
        known = replace(spec, n_items=spec.n_items - spec.new_items, new_items=0)
        self.warm = (MF if config.warm == "mf" else IALS)(cast("Any", config.warm_config()), known)
        width = config.dim + (config.warm == "mf")
        self.tower = ContentEncoder(
            spec.item_features, width, columns=config.columns, text=config.text, dropout=config.dropout
        )
        self.register_buffer("item", torch.zeros(spec.n_items, width))
        self.register_buffer("root", torch.eye(width))
        self.register_buffer("middle", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.register_buffer("scale", torch.ones(()))
        self.learning: Warm | None = None

    def _fit(self, data: Dataset, job: Job) -> list[Epoch]:
        self._warm_up(data, job)
        everything = Warm(content_of(data, self.spec), self.item @ self.root)
        self.middle.copy_(everything.target.mean(0))
        self.spread.copy_(everything.target.std(0, correction=0))
        order = torch.randperm(len(everything), generator=job.rng)
        held = everything.take(order[: max(1, round(self.config.held_out * len(order)))])
        self.learning = everything.take(order[len(held) :]) if len(order) > 1 else held
        judge = HeldOut(held)
        folder = None if job.checkpoint is None else job.checkpoint / "tower"
        try:
            self.start(data)
            records = run(self, data, replace(job, validate=judge, checkpoint=folder))
        finally:
            self.learning = None
        self.scale.fill_(self.config.boost * judge.factor(self))
        return records

    def _warm_up(self, data: Dataset, job: Job) -> None:
        """Fit the warm model and take over its vectors; from here on it is left as it is."""
        self.warm.requires_grad_(True)
        folder = None if job.checkpoint is None else job.checkpoint / "warm"
        self.warm.fit(data, job.training, job.validate, checkpoint=folder, every=job.every, on_step=job.on_step)
        self.warm.requires_grad_(False)
        if isinstance(self.warm, MF):
            self.item.copy_(torch.cat([self.warm.item.weight, self.warm.item_bias.weight], 1))
            people = torch.cat([self.warm.user.weight, torch.ones(self.spec.n_users, 1)], 1)
        else:
            self.item.copy_(self.warm.item)
            people = self.warm.user
        gram = people.T.double() @ people.double() / len(people)
        square = torch.einsum("ne,ef,nf->n", self.item.double(), gram, self.item.double()).mean()
        # Where nobody differs there is nothing to tell: a little on the diagonal keeps the root from failing there.
        least = 1e-6 * gram.diagonal().mean() + 1e-12
        root = torch.linalg.cholesky(gram + least * torch.eye(len(gram), dtype=torch.float64))
        self.root.copy_(root / square.clamp(min=1e-12).sqrt())

    def start(self, data: Dataset) -> None:
        for module in self.tower.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        self.scale.fill_(1.0)

    def batches(self, data: Dataset, rng: torch.Generator, size: int) -> Iterator[Warm]:
        assert self.learning is not None
        for rows in torch.randperm(len(self.learning), generator=rng).split(min(size, MOST)):  # type: ignore[no-untyped-call]
            some = self.learning.take(rows)
            yield replace(some, content=augmented(some.content, rng))

    def loss(self, batch: Warm) -> Tensor:
        error_PE: Tensor = self.middle + self.tower(batch.content) * self.spread - batch.target
        return error_PE.square().sum(1).mean()

    def _score(self, queries: Queries) -> Tensor:
        offset_B1, person_BE = self._people(queries)
        scores_BN: Tensor = offset_B1 + person_BE @ self.item.T
        return scores_BN

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        offset_B1, person_BE = self._people(queries)
        return offset_B1 + person_BE @ self.item[item_I].T

    def _people(self, queries: Queries) -> tuple[Tensor, Tensor]:
        """c_u, `[B, 1]`, and x_u, `[B, E]`: the warm model's for a known user, else folded in."""
        warm, known_B = self.warm, queries.user.clamp(min=0)
        new = (queries.user < 0).nonzero().squeeze(1)
        if isinstance(warm, IALS):
            return torch.zeros(len(queries), 1), warm.people(queries, self.item)
        vector_BE = torch.cat([warm.user.weight[known_B], torch.ones(len(queries), 1)], 1)
        offset_B1 = warm.bias + warm.user_bias.weight[known_B]
        if len(new):
            folded = fold_in(self._grown(warm), queries.take(new))
            vector_BE[new, :-1], offset_B1[new] = folded[:, :-1], warm.bias + folded[:, -1:]
        return offset_B1, vector_BE

    def _grown(self, warm: MF) -> Any:
        """What the fold-in reads of the warm model, with the new items among the others."""
        return SimpleNamespace(
            config=warm.config, sampled=warm.sampled, bias=warm.bias, spec=warm.spec,
            item=SimpleNamespace(weight=self.item[:, :-1]), item_bias=SimpleNamespace(weight=self.item[:, -1:]),
        )  # fmt: skip

    def _new_items(self, features: Encoded) -> dict[str, Tensor]:
        told = self.told(features)
        return {"item": self.scale * torch.linalg.solve_triangular(self.root, told, upper=False, left=False)}

    def told(self, content: Encoded) -> Tensor:
        """t L of some items, `[P, E]`."""
        return self.middle + encode_all(self.tower, content) * self.spread

    def item_vectors(self) -> Tensor:
        return self.item

    def item_factors(self) -> Tensor:
        return self.item

    def query_factors(self, queries: Queries) -> Tensor:
        return self._people(queries)[1]


class HeldOut:
    """Judges a tower on warm items it does not learn from.

    Args:
        items: These.
    """

    metric = "loss"
    higher_is_better = False

    def __init__(self, items: Warm) -> None:
        self.items = items

    def __call__(self, model: DropoutNet) -> dict[str, float]:
        """The loss on these items."""
        error_PE = model.told(self.items.content) - self.items.target
        return {"loss": float(error_PE.square().sum(1).mean())}

    def factor(self, model: DropoutNet) -> float:
        """s that minimises |s t L - y L|^2; 1 where the tower tells nothing of them."""
        told_PE = model.told(self.items.content)
        across, square = float((told_PE * self.items.target).sum()), float(told_PE.square().sum())
        return across / square if across > 0 and square > 0 else 1.0
