"""explain(): one item of one query by one method; explain_list() and reasons(): all items of lists by the default
method.

The default is `exact` if the score is a sum over the history, else `occlusion`: both need no sampling, cost little more
for a whole list than for one item, and order histories at least as faithfully as `shap` on the measured models
(benchmarks/results/fidelity_ml_1m.md). A list and the explanation of one of its items use the same function and so
agree.

Legend: B queries, K items of each.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import get_args

import torch
from torch import Tensor

from palate.data.dataset import Dataset
from palate.data.queries import Queries
from palate.errors import CannotAnswer, ConfigError
from palate.explanation import EXPLAINERS
from palate.explanation.explanation import Explanation, Kind
from palate.explanation.gradcam import reads_images
from palate.explanation.methods import (
    exact_of,
    fits_gradient,
    gradient,
    is_additive,
    occlusion_of,
    unsupported_error,
)
from palate.explanation.neighbours import neighbour_note
from palate.explanation.players import DEFAULT_KINDS, Game, game, games
from palate.explanation.shapley import SAMPLES, check_samples
from palate.models.base import Model

METHOD_KINDS: dict[str | None, tuple[Kind, ...]] = {"exact": ("history",), "grad-cam": ("region",)}
"""Methods that explain players of one kind."""
FEATURE_KINDS: tuple[Kind, ...] = ("feature", "word")
"""What `gradient` explains if it cannot explain the history."""
POPULAR = "Recommended because it is popular; nothing is known about this user"
LISTED_REASONS = 3
"""Contributions that may be named in each sentence of a list."""


def explain(
    model: Model,
    data: Dataset,
    queries: Queries,
    item: int,
    method: str | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
    kinds: Collection[Kind] | None = None,
) -> Explanation:
    """Explain why a model scores an item as it does for one query.

    Args:
        model: Fitted.
        data: What it was fitted to: ids, titles, side tables.
        queries: One row.
        item: An index.
        method: A name in `EXPLAINERS`. Defaults to exact if the score is a sum over the history, else occlusion.
        samples: How many masks shap and lime score.
        seed: Seed of what is sampled.
        kinds: What may be switched off: any of history, feature, word, region. Defaults to all but regions; for exact
            to the history, for gradient to the history or else features and words, for grad-cam to regions.

    Raises:
        ConfigError: There is no such method or kind, or `samples` is below 1.
        CannotAnswer: Nothing can be switched off, or the method is not available for the model; the error names those
            that are.
    """
    check_samples(samples)
    _check_names(method, kinds)
    if method is None:
        first = explain_list(model, data, queries, [item], kinds)[0]
        return replace(first, notes=(*first.notes, *neighbour_note(model, data, queries, item)))
    if method == "grad-cam" and not reads_images(model):
        raise unsupported_error(game(model, data, queries, item), method)
    if method == "gradient" and kinds is None:
        return gradient(_differentiable_game(model, data, queries, item))
    one = game(model, data, queries, item, kinds or METHOD_KINDS.get(method, DEFAULT_KINDS))
    found = EXPLAINERS[method](one, samples=samples, seed=seed)
    return replace(found, notes=(*found.notes, *neighbour_note(model, data, queries, item)))


def _check_names(method: str | None, kinds: Collection[Kind] | None) -> None:
    if method is not None and method not in EXPLAINERS:
        near = get_close_matches(method, EXPLAINERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"there is no method {method!r}; choose one of {', '.join(EXPLAINERS)}{hint}")
    known = [kind for kind in get_args(Kind) if kind != "base"]
    unknown = sorted(set(kinds or ()) - set(known))
    if unknown:
        raise ConfigError(f"{', '.join(map(repr, unknown))} cannot be switched off; choose from {', '.join(known)}")


def explain_list(
    model: Model, data: Dataset, queries: Queries, items: Sequence[int], kinds: Collection[Kind] | None = None
) -> list[Explanation]:
    """Explain several items of one query by the default method; arguments and errors as of `explain`.

    All items are explained from the same masked queries, so that a list costs little more than one item.
    """
    asked = games(model, data, queries, items, kinds or DEFAULT_KINDS)
    return exact_of(asked) if all(is_additive(one) for one in asked) else occlusion_of(asked)


def _differentiable_game(model: Model, data: Dataset, queries: Queries, item: int) -> Game:
    """The game that `gradient` can explain: of the history, or else of features and words."""
    found, errors = [], []
    for kinds in (("history",), FEATURE_KINDS):
        try:
            found.append(game(model, data, queries, item, kinds))
        except CannotAnswer as error:
            errors.append(error)
    if not found:
        raise errors[0]
    return next((one for one in found if fits_gradient(one)), found[0])


def reasons(
    model: Model, data: Dataset, queries: Queries, items_BK: Tensor, top: int = LISTED_REASONS
) -> list[list[str]]:
    """A sentence for each listed item, by the default method.

    Args:
        model: Fitted.
        data: What it was fitted to.
        queries: Whose lists these are.
        items_BK: Item indices; -1 beyond the end of a shorter list, which gets an empty text.
        top: How many of the largest contributions may be named.
    """
    answered = model.answerable(queries).tolist()
    found = []
    for row, listed in enumerate(items_BK.tolist()):
        items = [item for item in listed if item >= 0]
        query = queries.take(torch.tensor([row]))
        texts = _sentences(model, data, query, items, top) if answered[row] and items else [POPULAR] * len(items)
        found.append(texts + [""] * (len(listed) - len(items)))
    return found


def _sentences(model: Model, data: Dataset, query: Queries, items: list[int], top: int) -> list[str]:
    """The reasons for the items of one list. An item that is listed is recommended, whatever it ranks without rules."""
    try:
        explained = explain_list(model, data, query, items)
    except CannotAnswer:
        return [f"{type(model).__name__} gives no reasons: no part of this query can be switched off"] * len(items)
    listed = [one if one.rank is None else replace(one, rank=place + 1) for place, one in enumerate(explained)]
    return [one.sentence(top, k=len(items)) for one in listed]
