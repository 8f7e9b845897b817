"""Updates and refits: a trained recommender learns new rows, new users, new items and changed attributes.

Gradient models and iALS go on from their weights for a share of the epochs of their training (`WarmStart`). Models that
are computed from counts are computed anew with the settings that training chose, which equals a full refit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import polars as pl

from palate.data.dataset import Dataset
from palate.data.reading import read_interactions, read_side
from palate.data.splits.build import joined_rows
from palate.errors import ConfigError, DataError
from palate.models.base import GradientModel, Model
from palate.models.mf.ials import IALS
from palate.recommender.artifact import Artifact
from palate.training.train_run import Epoch
from palate.training.warm_start import WarmStart

A = TypeVar("A", bound=Artifact)


@dataclass(frozen=True, kw_only=True)
class Update:
    """What an update did.

    Attributes:
        new_rows, new_users, new_items: How many were added.
        rows: Interactions in all.
        share: Share of a full training's rounds that were made; 1 for models computed anew.
    """

    new_rows: int
    new_users: int
    new_items: int
    rows: int
    share: float

    def __str__(self) -> str:
        added = (
            f"{self.new_rows:,} new rows ({self.new_rows / max(self.rows, 1):.1%} of {self.rows:,}), "
            f"{self.new_users:,} new users, {self.new_items:,} new items"
        )
        if self.share >= 1:
            return f"{added}; computed anew from all rows, which equals a full refit"
        return (
            f"{added}; training continued from the saved weights for {self.share:.0%} of its rounds, which is not "
            "the same as a full refit"
        )


def updated(
    before: A,
    rows: Any = None,
    *,
    items: Any = None,
    users: Any = None,
    share: float = 0.2,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_step: Callable[[int, int, int, float], None] | None = None,
    **reading: Any,
) -> tuple[A, Update]:
    """A trained recommender with more data; its indices stay, new users and items follow.

    Held-out parts become training data: what is updated is in production, and no longer measured.

    Args:
        before: The trained recommender.
        rows: New interactions: a file, query or frame with the columns of the training data. Defaults to none.
        items, users: Rows of new or changed items and users, with columns of the side tables of training.
        share: Share of the rounds of a full training to make, above 0 and at most 1.
        on_epoch, on_step: As in `palate.training.train_run.TrainRun`.
        reading: Options of `palate.data.reading.read_interactions`.

    Raises:
        ConfigError: Nothing is new, or `share` is out of range.
        DataError: The rows lack a column of the training data, or have ids of another type; there is no side table that
            `items` or `users` could extend.
        TrainingError: The loss is no longer finite, or diverged.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"share = {share} is out of range; give a number above 0 and at most 1")
    if rows is None and items is None and users is None:
        raise ConfigError("there is nothing to learn; give new rows, items= or users=")
    data, notes = _with_rows(before.known, rows, reading)
    data = _with_table(data, "item", items)
    data = _with_table(data, "user", users)
    data = replace(data, notes=(*before.data.notes, *notes))
    model = _larger(before.model, data)
    start = WarmStart(model=before.model, records=before.records, share=share)
    training = start.training(before.training.filled(model.default_training))
    found = model.fit(data, training, on_epoch=on_epoch, on_step=on_step, start=start)
    records = [*before.records, *(_marked(record, "update") for record in found)]
    after = replace(before, model=model, data=data, records=records, parts={})
    known = before.known
    return after, Update(
        new_rows=len(data) - len(known),
        new_users=data.n_users - known.n_users,
        new_items=data.n_items - known.n_items,
        rows=len(data),
        share=share if continues(model) else 1.0,
    )


def refitted(
    before: A,
    *,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_step: Callable[[int, int, int, float], None] | None = None,
) -> A:
    """The same recommender trained anew on all known interactions, held-out parts included, with what was chosen.

    Settings, numbers of epochs and weights of a blend's members stay as they were chosen on the validation part. The
    result is for production: no part is left to measure it.

    Args:
        before: The trained recommender, with its held-out parts.
        on_epoch, on_step: As in `palate.training.train_run.TrainRun`.

    Raises:
        TrainingError: The loss is no longer finite, or diverged.
    """
    model = _larger(before.model, before.known)
    start = WarmStart(model=before.model, records=before.records, share=1.0, weights=False)
    training = start.training(before.training.filled(model.default_training))
    found = model.fit(before.known, training, on_epoch=on_epoch, on_step=on_step, start=start)
    records = [*before.records, *(_marked(record, "refit") for record in found)]
    return replace(before, model=model, data=before.known, records=records, parts={})


def continues(model: Model) -> bool:
    """Whether an update goes on from the weights of a model, or of one inside it, instead of computing it anew."""
    return any(isinstance(part, (GradientModel, IALS)) for part in model.modules())


def _marked(record: Epoch, stage: str) -> Epoch:
    return replace(record, member=f"{stage}/{record.member}".rstrip("/"), best=False)


def _with_rows(known: Dataset, rows: Any, reading: dict[str, Any]) -> tuple[Dataset, tuple[str, ...]]:
    """The known rows and the new ones, and notes about the new ones."""
    if rows is None:
        return known, ()
    scale = known.rating_scale if known.rating is not None else None
    checked = read_interactions(rows, **({"rating_scale": scale} | reading))
    unused = [c for c in ("rating", "timestamp", "weight") if c in checked.frame.columns and getattr(known, c) is None]
    notes = tuple(f"column {name} of the new rows is not used: the training data has none" for name in unused)
    new = Dataset.from_frame(checked.frame.drop(unused))
    return joined_rows(known, [new]), checked.notes + notes


def _with_table(data: Dataset, side: str, source: Any) -> Dataset:
    """The data with new or changed rows of a side table; ids without interactions follow the others."""
    if source is None:
        return data
    key, ids, before = f"{side}_id", getattr(data, f"{side}s"), getattr(data, f"{side}_table")
    if before is None:
        raise DataError(f"the training data has no table of {side}s, so {side}s= has nothing to add to; train with one")
    table = read_side(source, key, ids.ids.dtype)
    unknown = [name for name in table.columns if name not in before.columns]
    if unknown:
        raise DataError(
            f"{side}s=: the {side} table of training has no column {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(before.columns)}"
        )
    ids = ids.extend(table[key])
    kept = [name for name in before.columns if name not in table.columns]
    changed = table.join(before.select(key, *kept), on=key, how="left", maintain_order="left")
    both = pl.concat([changed, before], how="diagonal_relaxed").unique(key, keep="first", maintain_order=True)
    joined = pl.DataFrame({key: ids.ids}).join(both.select(before.columns), on=key, how="left", maintain_order="left")
    return replace(data, **{f"{side}s": ids, f"{side}_table": joined})


def _larger(model: Model, data: Dataset) -> Model:
    """The same model, not fitted, for all users and items of the data; features are encoded as in training."""
    spec = replace(model.spec, n_users=data.n_users, n_items=data.n_items, new_items=0)
    return type(model)(model.config, spec)
