"""summarise(): what a model's lists rest on over many people: history items, features, numbers, and how concentrated.

Legend: U people, G grid values.
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
from palate.data.encoded import Column, Encoded, Features
from palate.data.queries import Queries
from palate.errors import DataError
from palate.evaluation.metrics import gini
from palate.evaluation.rank import rank
from palate.explanation.explain import explain
from palate.explanation.explanation import Explanation
from palate.explanation.people import able, drawn, known_of
from palate.explanation.players import reads_user

SAMPLES = 200
"""Masks for each explanation: over many people the noise of each averages out."""
GRID = 9
"""Values at which a number is set."""
BLOCK = 64
"""People whose items are encoded anew at once."""
FIRST = 5
"""Contributions whose share of an explanation says how concentrated it is."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Summary:
    """What the top items of many people rest on.

    Attributes:
        model: Its class.
        method: The explainer.
        people: How many were asked about.
        history: One row for each item of their histories, the weightiest first: `item_id`, `title`, `people` (who had
            it), `mean_abs` (mean |contribution| over these), `share` (of all |contributions| of all history items),
            `moved` (of how many people it was the largest contribution).
        features: One row for each feature column, word and column of image regions: `kind`, `column`, `word` (null but
            for words), `people` (for whom it was a player), `mean_abs` and `mean` contribution (over all people). Empty
            where the model reads none.
        dependence: Partial dependence on each number: `side` (user or item), `column`, `value` (as in the table),
            `score` (mean over people with the number set to it), `change` (from the mean with their own). Empty
            likewise.
        gini: Inequality of history items' shares: 0 all alike, towards 1 a few carry all lists.
        first: Share of an explanation's |contributions| that its five largest hold, mean over people.
        notes: What a reader must know, in words.
    """

    model: str
    method: str
    people: int
    history: pl.DataFrame
    features: pl.DataFrame
    dependence: pl.DataFrame
    gini: float
    first: float
    notes: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        lines = [f"{self.model}: why {self.people:,} people are recommended their top item, by {self.method}"]
        if self.history.height:
            lines.append(
                f"contributions of history items: Gini {self.gini:.2f} over {self.history.height:,} items; the "
                f"{FIRST} largest hold {self.first:.0%} of an explanation"
            )
        return "\n".join([*lines, *self.notes])


def summarise(
    model: Any,
    data: Dataset,
    users: int | np.ndarray = 200,
    method: str | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Summary:
    """Explain the top item of many people and add up what it is due to.

    Args:
        model: Fitted.
        data: What it was fitted to, or a part of a split.
        users: How many people, drawn by `seed`; or which, as indices.
        method: A name in `EXPLAINERS`; default: exact where the score is a sum over the history, else shap.
        samples: Masks for each explanation, for shap and lime.
        seed: Draws people and masks.

    Raises:
        ConfigError: No people are asked for, or there is no such method.
        CannotAnswer: Nothing can be switched off, or the method does not fit the model.
        DataError: The model answers none of these people itself.
    """
    queries, item_U = _asked(model, data, users, seed)
    explained = [
        explain(model, data, queries.take(torch.tensor([row])), item, method, samples, seed + row)
        for row, item in enumerate(item_U.tolist())
    ]
    history = _history(explained, data)
    return Summary(
        model=type(model).__name__,
        method=explained[0].method,
        people=len(explained),
        history=history,
        features=_features(explained),
        dependence=_dependence(model, data, queries, item_U),
        gini=gini(history["share"].to_numpy()) if history.height else 0.0,
        first=float(np.mean([_first(one) for one in explained])),
        notes=_notes(explained),
    )


def _asked(model: Any, data: Dataset, users: int | np.ndarray, seed: int) -> tuple[Queries, Tensor]:
    """People whom the model itself answers, and the top item of each."""
    asked = drawn(able(known_of(data), users), users, seed)
    queries = data.queries(asked, model.spec)
    item_U = rank(model, queries, 1).items[:, 0]
    there = (model.answerable(queries) & (item_U >= 0)).nonzero().squeeze(1)
    if not len(there):
        raise DataError(f"{type(model).__name__} answers none of these {len(asked):,} people itself")
    return queries.take(there), item_U[there]


def _history(explained: list[Explanation], data: Dataset) -> pl.DataFrame:
    """The history items' weights."""
    rows = []
    for one in explained:
        items = one.of("history")  # the largest first
        rows += [(c.key, abs(c.value), place == 0 and c.value != 0) for place, c in enumerate(items)]
    long = pl.DataFrame(
        rows, schema={"item_id": data.items.ids.dtype, "size": pl.Float64, "largest": pl.Boolean}, orient="row"
    )
    by_item = long.group_by("item_id").agg(
        people=pl.len(), mean_abs=pl.col("size").mean(), share=pl.col("size").sum(), moved=pl.col("largest").sum()
    )
    total = max(float(by_item["share"].sum()), np.finfo(float).tiny)
    by_item = by_item.with_columns(share=pl.col("share") / total).sort(["share", "item_id"], descending=[True, False])
    titles = pl.Series("title", data.titles(data.items.index(by_item["item_id"])), dtype=pl.String)
    return by_item.insert_column(1, titles)


def _features(explained: list[Explanation]) -> pl.DataFrame:
    """The features', words' and regions' weights; regions of a column count together."""
    rows = []
    for number, one in enumerate(explained):
        for c in one.of("feature", "word", "region"):
            column, word = (c.key[0], c.key[2]) if c.kind == "word" else (c.key, None)
            rows.append((number, c.kind, column[0] if c.kind == "region" else column, word, abs(c.value), c.value))
    names = {"number": pl.Int64, "kind": pl.String, "column": pl.String, "word": pl.String}
    long = pl.DataFrame(rows, schema={**names, "size": pl.Float64, "value": pl.Float64}, orient="row")
    keys, people = ["kind", "column", "word"], len(explained)
    once = long.group_by("number", *keys).agg(pl.col("size", "value").sum())
    return (
        once.group_by(keys)
        .agg(people=pl.len(), mean_abs=pl.col("size").sum() / people, mean=pl.col("value").sum() / people)
        .sort(["mean_abs", *keys], descending=[True, False, False, False])
    )


def _first(one: Explanation) -> float:
    sizes = [abs(c.value) for c in one.of()]
    return sum(sizes[:FIRST]) / total if (total := sum(sizes)) else 0.0


def _dependence(model: Any, data: Dataset, queries: Queries, item_U: Tensor) -> pl.DataFrame:
    """Partial dependence on every number of users and items (Friedman 2001), others left as they are."""
    spec, rows = model.spec, []
    if spec.user_features is not None and queries.features is not None and reads_user(model):
        everybody = data.encoded_users(spec.user_features)

        def as_user(features: Encoded) -> Tensor:
            return _own(model, replace(queries, features=features), item_U)

        rows += list(_curves("user", spec.user_features, everybody, queries.features, as_user))
    if spec.item_features is not None and "new_item" in model.answers:
        everything = data.encoded_items(spec.item_features)

        def as_item(features: Encoded) -> Tensor:
            return _as_new(model, queries, features)

        rows += list(_curves("item", spec.item_features, everything, everything.take(item_U), as_item))
    names: dict[str, Any] = {"side": pl.String, "column": pl.String}
    numbers = dict.fromkeys(("value", "score", "change"), pl.Float64)
    return pl.DataFrame(rows, schema=names | numbers, orient="row")


def _curves(
    side: str, features: Features, all_: Encoded, own: Encoded, score: Callable[[Encoded], Tensor]
) -> Iterator[tuple[str, str, float, float, float]]:
    place, middle = 0, float("nan")
    for column in features.of("number", "date"):
        if column.kind == "number" and bool(all_.known[:, place].any()):
            middle = float(score(own).mean())
            for value in _grid(all_.numbers[:, place][all_.known[:, place]]):
                numbers, known = own.numbers.clone(), own.known.clone()
                numbers[:, place], known[:, place] = value, True
                mean = float(score(replace(own, numbers=numbers, known=known)).mean())
                yield side, column.name, _plain(column, value), mean, mean - middle
        place += len(column.mean)


def _grid(values: Tensor) -> list[float]:
    """Distinct quantiles from 5 to 95 percent."""
    share = torch.linspace(0.05, 0.95, GRID, dtype=torch.float64)
    return [float(value) for value in torch.unique(torch.quantile(values.double(), share))]


def _plain(column: Column, value: float) -> float:
    """A standardised number as it stands in the table, but for rounding."""
    return float(f"{column.mean[0] + column.std[0] * value:.6g}")


def _own(model: Any, queries: Queries, item_U: Tensor) -> Tensor:
    """Each person's score of their own item, `[U]`."""
    item, column = torch.unique(item_U, return_inverse=True)
    scores: Tensor = model.score(queries, item).gather(1, column[:, None])[:, 0]
    return scores


def _as_new(model: Any, queries: Queries, features: Encoded) -> Tensor:
    """Each person's score of their own item with these features, as a new item, `[U]`."""
    found = []
    for rows in torch.arange(len(queries)).split(BLOCK):  # type: ignore[no-untyped-call]
        grown = model.with_items(features.take(rows))
        first = model.spec.n_items
        found.append(_own(grown, queries.take(rows), torch.arange(first, first + len(rows))))
    return torch.cat(found)


def _notes(explained: list[Explanation]) -> tuple[str, ...]:
    residual = [abs(one.residual) for one in explained]
    size = [sum(abs(c.value) for c in one.of()) for one in explained]
    if sum(residual) <= 0.01 * sum(size):
        return ()
    share = sum(residual) / max(sum(size), np.finfo(float).tiny)
    return (f"residuals come to {share:.0%} of the contributions: what is explained is not all of what is scored",)
