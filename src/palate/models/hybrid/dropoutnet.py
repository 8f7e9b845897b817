"""DropoutNet: a warm model for known items, and a content tower that predicts the warm model's vectors of new items.

score(u, i) = c_u + <x_u, y_i>     the warm model's own: iALS, or MF with y_i = (q_i, b_i), x_u = (p_u, 1)
y_i         = the warm model's vector, for an item of the training data
y_i         = s t(x_i) for a new item, t the content tower (`palate.models.content.encoders.ContentEncoder`)

The tower is fitted to the vectors of the warm items, so that its dot products with all users match theirs:

loss = mean_u (<x_u, t_i> - <x_u, y_i>)^2 / v = |(t_i - y_i) L|^2,  L L' = G = sum_u x_u x_u' / users / v

the mean over all users at once, where Volkovs, Yu, Poutanen 2017 ("DropoutNet: addressing cold start in recommender
systems") sample some; v scales the mean of <x_u, y_i>^2 to 1. The tower outputs t L, with each entry in standard
deviations of y L from its mean, so that all entries are learned at one pace. In the paper the item's vector is an input
too and is dropped at random. Here warm items never pass through the tower, so it is always dropped; dropout is applied
to the content.

An epoch visits each item once, `batch_size` of them a step but no more than 256. A share of the items is held out of
the tower's training. Their loss chooses the epoch, and s is the least-squares factor between their predicted and their
true dot products, times `boost`. So a new item's score is on the scale of warm items, and competes with them.

Legend: B queries, N items, P items of a batch, E width of y.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from palate.config import CompleteTraining, check
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.features.schema import FeatureBatch
from palate.device import module_device, to_device
from palate.errors import DataError
from palate.models.base import GradientModel
from palate.models.content.encoders import CONTENT_GRADIENTS, ContentEncoder, TextEncoder, encode_all
from palate.models.content.encoders_image import augmented
from palate.models.mf.ials import IALS, IALSConfig
from palate.models.mf.mf import MF, MFConfig
from palate.training.loop import Epoch, FitContext, TrainRun
from palate.training.warm_start import continue_from

MAX_ITEMS_PER_STEP = 256


@dataclass(frozen=True, kw_only=True)
class DropoutNetConfig:
    """Settings of `dropoutnet`."""

    warm: Literal["ials", "mf"] = "ials"
    """The warm model; mf is trained with its loss bce."""
    dim: int = 64
    """Width of the warm model's vectors."""
    alpha: float | None = None
    """iALS: weight of all pairs relative to the observed ones. Defaults to the best on valid; see `ials`."""
    reg: float | None = None
    """L2 penalty on the warm model's vectors. Defaults to the best on valid for ials, and to 0.01 for mf."""
    columns: tuple[str, ...] = ()
    """Item columns to read. Defaults to all."""
    text: TextEncoder = "cnn"
    """Text encoder: cnn (reads words in their order) or bag (TF-IDF, fast)."""
    dropout: float = 0.3
    """Dropout rate of the tower."""
    boost: float = 1.0
    """Factor on the scores of new items; above 1 lists more of them than their expected scores would."""
    held_out: float = 0.1
    """Share of items held out of the tower's training."""

    def __post_init__(self) -> None:
        check(self, dim=self.dim >= 1, alpha=self.alpha is None or self.alpha > 0,
              reg=self.reg is None or self.reg >= 0, dropout=0 <= self.dropout < 1,
              boost=self.boost > 0, held_out=0 < self.held_out < 1)  # fmt: skip

    def warm_config(self) -> IALSConfig | MFConfig:
        """Settings of the warm model."""
        if self.warm == "mf":
            reg = 0.01 if self.reg is None else self.reg
            return MFConfig(dim=self.dim, reg=reg, bias_reg=reg)
        return IALSConfig(dim=self.dim, alpha=self.alpha, reg=self.reg)


@dataclass(frozen=True, eq=False)
class WarmItems:
    """Items of the training data: their features, and what the tower should predict, y L, float32 `[P, E]`."""

    content: FeatureBatch
    target: Tensor

    def __len__(self) -> int:
        return len(self.target)

    def take(self, rows: Tensor) -> WarmItems:
        """The given items, in the given order."""
        return WarmItems(self.content.take(rows), self.target[rows])


@dataclass(frozen=True, eq=False)
class TowerContext(FitContext):
    """What training needs: the items that the tower learns from."""

    items: WarmItems | None = None


class DropoutNet(GradientModel):
    """A warm model (iALS or MF) for known items, and a content tower that predicts its vectors of new items."""

    Config = DropoutNetConfig
    default_training = CompleteTraining(epochs=40, batch_size=256, lr=1e-3, patience=5)
    needs = frozenset({"interactions", "item_features"})
    answers = frozenset({"known_user", "history", "new_item", "similar_items"})
    uses_weights = True
    loss_name = "squared error per item"
    gradients = CONTENT_GRADIENTS
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
        self.additive = self.warm.additive
        width = config.dim + (config.warm == "mf")
        self.tower = ContentEncoder(
            spec.item_features, width, columns=config.columns, text=config.text, dropout=config.dropout
        )
        self.register_buffer("item", torch.zeros(spec.n_items, width))
        self.register_buffer("root", torch.eye(width))
        self.register_buffer("middle", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.register_buffer("scale", torch.ones(()))

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        records = self._fit_warm(data, job)
        everything = self._warm_items(data)
        self.middle.copy_(everything.target.mean(0))
        self.spread.copy_(everything.target.std(0, correction=0))
        order = torch.randperm(len(everything), generator=job.rng)
        held_out = everything.take(order[: max(1, round(self.config.held_out * len(order)))])
        learning = everything.take(order[len(held_out) :]) if len(order) > 1 else held_out
        judge = HeldOutItems(held_out)
        folder = None if job.checkpoint is None else job.checkpoint / "tower"
        self.init_from_data(data)
        if job.start is not None:
            continue_from(self.tower, job.start.member("tower", "tower"))
        records += self._train(TowerContext(data, items=learning), replace(job, validate=judge, checkpoint=folder))
        self.scale.fill_(self.config.boost * judge.factor(self))
        return records

    def _fit_warm(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        """Fit the warm model and copy its vectors; from here on it is frozen."""
        self.warm.requires_grad_(True)
        on_epoch, validate = job.on_epoch, job.validate
        start = None if job.start is None else job.start.member("warm", "warm")
        records = self.warm.fit(
            data,
            job.training if start is None else start.training(job.training),
            None if validate is None else validate.for_member(self.warm),
            checkpoint=None if job.checkpoint is None else job.checkpoint / "warm",
            every=job.every,
            on_epoch=None if on_epoch is None else lambda record: on_epoch(replace(record, member="warm")),
            on_step=job.on_step,
            start=start,
        )
        self.warm.requires_grad_(False)
        if isinstance(self.warm, MF):
            self.item.copy_(torch.cat([self.warm.item.weight, self.warm.item_bias.weight], 1))
            user_UE = torch.cat([self.warm.user.weight, torch.ones_like(self.warm.user_bias.weight)], 1)
        else:
            self.item.copy_(self.warm.item)
            user_UE = self.warm.user
        gram_EE = user_UE.T.double() @ user_UE.double() / len(user_UE)
        square = torch.einsum("ne,ef,nf->n", self.item.double(), gram_EE, self.item.double()).mean()
        # If all users are equal the matrix is singular: a little on the diagonal keeps its root defined.
        least = 1e-6 * gram_EE.diagonal().mean() + 1e-12
        root_EE = torch.linalg.cholesky(gram_EE + least * torch.eye(len(gram_EE)).to(gram_EE))
        self.root.copy_(root_EE / square.clamp(min=1e-12).sqrt())
        return [replace(record, member="warm") for record in records]

    def init_from_data(self, data: Dataset) -> None:
        for module in self.tower.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        self.scale.fill_(1.0)

    def _warm_items(self, data: Dataset) -> WarmItems:
        assert self.spec.item_features is not None  # the tower cannot be built without
        return WarmItems(data.encoded_items(self.spec.item_features), self.item @ self.root)

    def fit_context(self, data: Dataset, settings: CompleteTraining) -> TowerContext:
        return TowerContext(data, items=self._warm_items(data))

    def batches(self, context: TowerContext, rng: torch.Generator, size: int) -> Iterator[WarmItems]:
        assert context.items is not None
        order = torch.randperm(len(context.items), generator=rng)
        for rows in order.split(min(size, MAX_ITEMS_PER_STEP)):  # type: ignore[no-untyped-call]
            some = context.items.take(rows)
            yield replace(some, content=augmented(some.content, rng)) if self.training else some

    def loss(self, batch: WarmItems, context: TowerContext) -> Tensor:
        error_PE: Tensor = self.middle + self.tower(batch.content) * self.spread - batch.target
        return error_PE.square().sum(1).mean()

    def _score(self, queries: Queries) -> Tensor:
        row_BF = self.represent(queries)
        return row_BF[:, :1] + row_BF[:, 1:] @ self.item.T

    def _score_items(self, queries: Queries, item_I: Tensor) -> Tensor:
        row_BF = self.represent(queries)
        return row_BF[:, :1] + row_BF[:, 1:] @ self.item[item_I].T

    def _known_users(self, user_B: Tensor) -> Tensor:
        """(c_u, x_u), `[B, 1 + E]`."""
        if isinstance(self.warm, IALS):
            vector_BE = self.warm.user[user_B]
            return torch.cat([torch.zeros_like(vector_BE[:, :1]), vector_BE], 1)
        bias_B1 = self.warm.user_bias.weight[user_B]
        return torch.cat([self.warm.bias + bias_B1, self.warm.user.weight[user_B], torch.ones_like(bias_B1)], 1)

    def _fold_in(self, queries: Queries) -> Tensor:
        if isinstance(self.warm, IALS):
            vector_BE = self.warm.fold_in(queries.history, self.item)
            return torch.cat([torch.zeros_like(vector_BE[:, :1]), vector_BE], 1)
        folded_BE = self.warm.fold_in(self.item[:, :-1], self.item[:, -1]).rows(queries)
        bias_B1 = folded_BE[:, -1:]
        return torch.cat([self.warm.bias + bias_B1, folded_BE[:, :-1], torch.ones_like(bias_B1)], 1)

    def history_contributions(self, queries: Queries, item: int) -> tuple[Tensor, float]:
        assert isinstance(self.warm, IALS)  # `additive` is not set with mf
        return self.warm.contributions(queries.history, self.item, item), 0.0

    def _new_items(self, features: FeatureBatch) -> dict[str, Tensor]:
        predicted = self.predicted(features)
        return {"item": self.scale * torch.linalg.solve_triangular(self.root, predicted, upper=False, left=False)}

    def predicted(self, content: FeatureBatch) -> Tensor:
        """The tower's t L for items with these features, `[P, E]`."""
        return self.middle + encode_all(self.tower, content) * self.spread

    def item_vectors(self) -> Tensor:
        return self.item

    def item_factors(self) -> Tensor:
        return self.item

    def query_factors(self, queries: Queries) -> Tensor:
        return self.represent(queries)[:, 1:]


class HeldOutItems:
    """Judges a tower on warm items that it does not learn from (a `palate.training.train_run.Validate`).

    Args:
        items: The held-out items.
    """

    metric = "loss"
    higher_is_better = False

    def __init__(self, items: WarmItems) -> None:
        self.items = items

    def __call__(self, model: DropoutNet) -> dict[str, float]:
        """The loss on these items."""
        items = to_device(self.items, module_device(model))
        error_PE = model.predicted(items.content) - items.target
        return {"loss": float(error_PE.square().sum(1).mean())}

    def for_member(self, model: Any) -> None:
        """A tower has no models inside."""

    def sampled(self, model: Any, max_users: int) -> HeldOutItems:
        """All of it: it has no users."""
        return self

    def factor(self, model: DropoutNet) -> float:
        """s that minimises |s t L - y L|^2; 1 if the tower predicts nothing of these items."""
        predicted_PE = model.predicted(self.items.content)
        across, square = float((predicted_PE * self.items.target).sum()), float(predicted_PE.square().sum())
        return across / square if across > 0 and square > 0 else 1.0
