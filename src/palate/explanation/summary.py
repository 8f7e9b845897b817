"""summarise(): what a model's top items depend on over many users: history items, features, numbers, concentration.

Legend: U users, G grid values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from palate.data.dataset import Dataset
from palate.data.features.schema import Column, FeatureBatch, FeatureSchema
from palate.data.queries import Queries
from palate.errors import DataError
from palate.evaluation.metrics import gini
from palate.explanation.explain import explain
from palate.explanation.explained_users import candidate_users, draw_users, history_data
from palate.explanation.explanation import Contribution, Explanation
from palate.explanation.players import reads_user
from palate.ranking.topk import rank

SAMPLES_PER_USER = 200
"""Masks for each explanation of shap and lime: over many users, their noise averages out."""
GRID_VALUES = 9
"""Values that partial dependence sets a number to."""
MAX_NEW_ITEMS_PER_BLOCK = 64
"""Items that are encoded anew at once."""
MIN_RESIDUAL_SHARE = 0.01
"""Residuals of at least this share of all contributions are noted."""
TOP_CONTRIBUTIONS = 5
"""Largest contributions whose share of an explanation says how concentrated it is."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Summary:
    """What the top items of many users depend on.

    Attributes:
        model: Its class name.
        method: The explainer.
        users: How many users were explained.
        history: One row for each item of their histories, the largest share first: `item_id`, `title`, `users` (who
            have it), `mean_abs` (mean |contribution| over these), `share` (of all |contributions| of all history
            items), `largest_for` (for how many users it is the largest contribution).
        features: One row for each feature column, word and column of image regions: `kind`, `column`, `word` (null
            except for words), `users` (for whom it was a player), `mean_abs` and `mean` contribution (over all users).
            Empty if the model reads no features.
        dependence: Partial dependence on each number: `side` (user or item), `column`, `value` (as in the table),
            `score` (mean over users with the number set to it), `change` (from the mean with their own values). Empty
            likewise.
        gini: Gini coefficient of the history items' shares: 0 if all are equal, towards 1 if few have most.
        top_share: Share of an explanation's |contributions| that its five largest have, mean over users.
        notes: What a reader must know beyond the numbers, as sentences.
    """

    model: str
    method: str
    users: int
    history: pl.DataFrame
    features: pl.DataFrame
    dependence: pl.DataFrame
    gini: float
    top_share: float
    notes: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        lines = [f"{self.model}: contributions to the top items of {self.users:,} users, explained by {self.method}"]
        if self.history.height:
            lines.append(
                f"The Gini coefficient over {self.history.height:,} history items is {self.gini:.2f}. "
                f"The {TOP_CONTRIBUTIONS} largest contributions have {self.top_share:.0%} of an explanation on average."
            )
        return "\n".join([*lines, *self.notes])


def summarise(
    model: Any,
    data: Dataset,
    users: int | np.ndarray = 200,
    method: str | None = None,
    samples: int = SAMPLES_PER_USER,
    seed: int = 0,
) -> Summary:
    """Explain the top item of many users and add up the contributions.

    Args:
        model: Fitted.
        data: What it was fitted to, or a part of a split.
        users: How many users to draw, or user indices.
        method: A name in `EXPLAINERS`. Defaults to exact if the score is a sum over the history, else occlusion.
        samples: How many masks shap and lime score for each explanation.
        seed: Seed of users and masks.

    Raises:
        ConfigError: `users` is below 1, or there is no such method.
        CannotAnswer: Nothing can be switched off, or the method is not available for the model.
        DataError: The model itself answers none of these users.
    """
    queries, item_U = _top_items(model, data, users, seed)
    explained = [
        explain(model, data, queries.take(torch.tensor([row])), item, method, samples, seed + row)
        for row, item in enumerate(item_U.tolist())
    ]
    history = _history(explained, data)
    return Summary(
        model=type(model).__name__,
        method=explained[0].method,
        users=len(explained),
        history=history,
        features=_features(explained),
        dependence=_dependence(model, data, queries, item_U),
        gini=gini(history["share"].to_numpy()) if history.height else 0.0,
        top_share=float(np.mean([_top_share(one) for one in explained])),
        notes=_notes(explained),
    )


def _top_items(model: Any, data: Dataset, users: int | np.ndarray, seed: int) -> tuple[Queries, Tensor]:
    """Users whom the model itself answers, and the top item of each."""
    drawn = draw_users(candidate_users(history_data(data), users), users, seed)
    queries = data.queries(drawn, model.spec)
    item_U = rank(model, queries, 1).items[:, 0]
    answered = (model.answerable(queries) & (item_U >= 0)).nonzero().squeeze(1)
    if not len(answered):
        raise DataError(f"{type(model).__name__} itself answers none of these {len(drawn):,} users")
    return queries.take(answered), item_U[answered]


def _history(explained: list[Explanation], data: Dataset) -> pl.DataFrame:
    """What each history item contributes."""
    rows = []
    for one in explained:
        items = one.of("history")  # the largest first
        rows += [(c.key, abs(c.value), place == 0 and c.value != 0) for place, c in enumerate(items)]
    long = pl.DataFrame(
        rows, schema={"item_id": data.items.ids.dtype, "size": pl.Float64, "largest": pl.Boolean}, orient="row"
    )
    by_item = long.group_by("item_id").agg(
        users=pl.len(), mean_abs=pl.col("size").mean(), share=pl.col("size").sum(), largest_for=pl.col("largest").sum()
    )
    total = max(float(by_item["share"].sum()), np.finfo(float).tiny)
    by_item = by_item.with_columns(share=pl.col("share") / total).sort(["share", "item_id"], descending=[True, False])
    titles = pl.Series("title", data.titles(data.items.index(by_item["item_id"])), dtype=pl.String)
    return by_item.insert_column(1, titles)


def _features(explained: list[Explanation]) -> pl.DataFrame:
    """What each feature, word and image contributes; the regions of a column count together."""
    rows = []
    for number, one in enumerate(explained):
        for c in one.of("feature", "word", "region"):
            rows.append((number, c.kind, *_column_and_word(c), abs(c.value), c.value))
    names = {"number": pl.Int64, "kind": pl.String, "column": pl.String, "word": pl.String}
    long = pl.DataFrame(rows, schema={**names, "size": pl.Float64, "value": pl.Float64}, orient="row")
    keys, users = ["kind", "column", "word"], len(explained)
    per_user = long.group_by("number", *keys).agg(pl.col("size", "value").sum())
    return (
        per_user.group_by(keys)
        .agg(users=pl.len(), mean_abs=pl.col("size").sum() / users, mean=pl.col("value").sum() / users)
        .sort(["mean_abs", *keys], descending=[True, False, False, False])
    )


def _column_and_word(contribution: Contribution) -> tuple[str, str | None]:
    if contribution.kind == "word":
        return contribution.key[0], contribution.key[2]
    return contribution.key[0] if contribution.kind == "region" else contribution.key, None


def _top_share(one: Explanation) -> float:
    sizes = [abs(c.value) for c in one.of()]
    return sum(sizes[:TOP_CONTRIBUTIONS]) / total if (total := sum(sizes)) else 0.0


def _dependence(model: Any, data: Dataset, queries: Queries, item_U: Tensor) -> pl.DataFrame:
    """Partial dependence on every number of users and items (Friedman 2001), with all else unchanged."""
    spec, rows = model.spec, []
    if spec.user_features is not None and queries.features is not None and reads_user(model):
        all_users = data.encoded_users(spec.user_features)

        def with_user_features(features: FeatureBatch) -> Tensor:
            return _item_scores(model, replace(queries, features=features), item_U)

        rows += list(_curves("user", spec.user_features, all_users, queries.features, with_user_features))
    if spec.item_features is not None and "new_item" in model.answers:
        all_items = data.encoded_items(spec.item_features)

        def with_item_features(features: FeatureBatch) -> Tensor:
            return _new_item_scores(model, queries, features)

        rows += list(_curves("item", spec.item_features, all_items, all_items.take(item_U), with_item_features))
    names: dict[str, Any] = {"side": pl.String, "column": pl.String}
    numbers = dict.fromkeys(("value", "score", "change"), pl.Float64)
    return pl.DataFrame(rows, schema=names | numbers, orient="row")


def _curves(
    side: str, schema: FeatureSchema, rows: FeatureBatch, own: FeatureBatch, score: Callable[[FeatureBatch], Tensor]
) -> Iterator[tuple[str, str, float, float, float]]:
    place, mean_of_own = 0, float("nan")
    for column in schema.of("number", "date"):
        if column.kind == "number" and bool(rows.known[:, place].any()):
            mean_of_own = float(score(own).mean())
            for value in _grid(rows.numbers[:, place][rows.known[:, place]]):
                numbers, known = own.numbers.clone(), own.known.clone()
                numbers[:, place], known[:, place] = value, True
                mean = float(score(replace(own, numbers=numbers, known=known)).mean())
                yield side, column.name, _in_table_units(column, value), mean, mean - mean_of_own
        place += len(column.mean)


def _grid(values: Tensor) -> list[float]:
    """Distinct quantiles from 5 to 95 percent."""
    share = torch.linspace(0.05, 0.95, GRID_VALUES, dtype=torch.float64)
    return [float(value) for value in torch.unique(torch.quantile(values.double(), share))]


def _in_table_units(column: Column, value: float) -> float:
    """A standardised number as it is in the table, up to rounding."""
    return float(f"{column.mean[0] + column.std[0] * value:.6g}")


def _item_scores(model: Any, queries: Queries, item_U: Tensor) -> Tensor:
    """Each user's score of one item, `[U]`."""
    item, column = torch.unique(item_U, return_inverse=True)
    scores: Tensor = model.score(queries, item).gather(1, column[:, None])[:, 0]
    return scores


def _new_item_scores(model: Any, queries: Queries, features: FeatureBatch) -> Tensor:
    """Each user's score of a new item with their row of features, `[U]`."""
    found, first = [], model.spec.n_items
    for rows in torch.arange(len(queries)).split(MAX_NEW_ITEMS_PER_BLOCK):  # type: ignore[no-untyped-call]
        larger = model.with_items(features.take(rows))
        found.append(_item_scores(larger, queries.take(rows), torch.arange(first, first + len(rows))))
    return torch.cat(found)


def _notes(explained: list[Explanation]) -> tuple[str, ...]:
    residual = sum(abs(one.residual) for one in explained)
    total = sum(abs(c.value) for one in explained for c in one.of())
    if residual <= MIN_RESIDUAL_SHARE * total:
        return ()
    share = residual / max(total, np.finfo(float).tiny)
    return (f"The residuals are {share:.0%} as large as the contributions: part of the scores is not explained.",)
