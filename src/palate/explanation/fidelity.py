"""fidelity(): how faithful each explainer's order of the history is to one model, measured over many users.

Each user is recommended their top item. Each explainer orders the user's history by its contributions. Parts of the
history are removed in that order and the model is asked again (`palate.explanation.measures` has the formulas).

Known users are asked about by the fold-in of their history, as in explanations (`palate.explanation.players`). So the
item is the top item of the fold-in, and the model that is measured is the one that is explained.

Legend: U users, D distinct (user, history item) pairs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from palate.data.dataset import Dataset
from palate.errors import ConfigError
from palate.evaluation.result import Estimate
from palate.explanation import EXPLAINERS
from palate.explanation.agreement import correlation
from palate.explanation.explained_users import ExplainedUsers, find_users, history_data
from palate.explanation.explanation import Explanation
from palate.explanation.fidelity_result import Curves, Fidelity, means
from palate.explanation.masked import MaskedHistoryScores
from palate.explanation.measures import (
    fixed_length_measures,
    fixed_length_sizes,
    percent_step_measures,
    percent_step_sizes,
)
from palate.explanation.methods import fits_gradient, is_additive, unsupported_error
from palate.explanation.orders import ORDERS
from palate.explanation.players import Game
from palate.explanation.shapley import SAMPLES

Explain = Callable[[Game, int], Explanation]
"""An explainer: takes a game and a seed, returns an explanation."""

SAMPLING_EXPLAINERS = ("shap", "lime")
"""Explainers that draw masks."""
HISTORY_EXPLAINERS = tuple(name for name in EXPLAINERS if name != "grad-cam")
"""Explainers that can order a history; grad-cam explains images."""
SECOND_SEED = 2**31 - 1
"""Added to a seed if a second one is needed."""


def fidelity(
    model: Any,
    data: Dataset,
    methods: Sequence[str] | Mapping[str, Explain] | None = None,
    *,
    users: int | np.ndarray = 1000,
    samples: int = SAMPLES,
    k: Sequence[int] = (5, 10, 20),
    lengths: Sequence[int] = (1, 2, 3, 4, 5),
    percent: bool = True,
    stable: int = 100,
    seed: int = 0,
    name: str | None = None,
    on_method: Callable[[str, float], None] | None = None,
) -> Fidelity:
    """Measure explainers, and `ORDERS` for comparison, on users of a data set.

    Args:
        model: Fitted; must answer `history`.
        data: What it was fitted to, or a part of a split: histories come from `Dataset.queries`.
        methods: Names in `HISTORY_EXPLAINERS`, or explainers of your own by name. Defaults to all that are available
            for the model.
        users: How many users to draw from those with two distinct items or more, or user indices.
        samples: How many masks shap and lime score for each explanation.
        k: List lengths K.
        lengths: Explanation lengths Ke.
        percent: Also measure percent steps, at about four times the cost of the fixed lengths.
        stable: On how many users shap and lime are run again under a second seed; 0 for none.
        seed: Seed of users, masks, ties and resamples.
        name: The model's name in tables. Defaults to its class name.
        on_method: Called with a method's name and the seconds it took, after it was measured.

    Raises:
        CannotAnswer: The model does not answer histories, or an explainer is not available for it.
        ConfigError: A list or an explanation has length 0, or `users` is below 1.
        DataError: No user has a history that can be explained.
    """
    if min(*k, *lengths, 1) < 1 or not (k and lengths):
        raise ConfigError(
            f"k = {tuple(k)} and lengths = {tuple(lengths)} must each hold at least one number, 1 or more"
        )
    explained = find_users(model, data, users, seed)
    values: dict[str, np.ndarray] = {}
    seconds, stability = {}, {}
    for method, explain in explainers(explained.games[0], methods, samples).items():
        start = time.perf_counter()
        values[method] = contributions(explained, explain, seed)
        seconds[method] = (time.perf_counter() - start) / len(explained.games)
        if method in SAMPLING_EXPLAINERS and stable:
            stability[method] = _stability(explained, explain, values[method], min(stable, len(explained.games)), seed)
        if on_method is not None:
            on_method(method, time.perf_counter() - start)
    values |= {order: order_of(history_data(data), explained.masked, seed) for order, order_of in ORDERS.items()}
    found: dict[str, dict[str, np.ndarray]] = {}
    curves: dict[str, Curves] = {}
    for method, value_D in values.items():
        found[method], curve = measure(explained.masked, value_D, k, lengths, percent, seed)
        curves |= {} if curve is None else {method: curve}
    row_D = explained.masked.row_D.numpy()
    return Fidelity(
        model=name or type(model).__name__,
        confidence=explained.masked.link,
        users=data.users.ids[explained.users].rename("user_id"),
        items=data.items.ids[explained.masked.item_U.numpy()].rename("item_id"),
        values=found,
        curves=curves,
        agreement={(a, b): _mean(correlation(values[a], values[b], row_D)) for a, b in combinations(values, 2)},
        stability=stability,
        seconds=seconds,
        seed=seed,
        notes=_notes(explained),
    )


def explainers(
    game: Game, methods: Sequence[str] | Mapping[str, Explain] | None, samples: int = SAMPLES
) -> dict[str, Explain]:
    """Explainers by name. Defaults to all of `HISTORY_EXPLAINERS` that are available for a game.

    Args:
        game: Its model and players decide which explainers are available.
        methods, samples: As in `fidelity`.

    Raises:
        ConfigError: There is no such explainer.
        CannotAnswer: An explainer that was asked for is not available for the model.
    """
    if isinstance(methods, Mapping):
        return dict(methods)
    unknown = [name for name in methods or () if name not in HISTORY_EXPLAINERS]
    if unknown:
        names = ", ".join(HISTORY_EXPLAINERS)
        raise ConfigError(f"there is no explainer {unknown[0]!r} of histories; choose from {names}")
    available = {"exact": is_additive(game), "gradient": fits_gradient(game)}
    for name in methods or ():
        if not available.get(name, True):
            raise unsupported_error(game, name)
    chosen = HISTORY_EXPLAINERS if methods is None else methods
    return {name: _with_samples(name, samples) for name in chosen if available.get(name, True)}


def contributions(explained: ExplainedUsers, explain: Explain, seed: int, first: int | None = None) -> np.ndarray:
    """An explainer's contributions of all history entries, float64 `[D]`, or only of those of the `first` users."""
    found = []
    for place, game in enumerate(explained.games[:first]):
        value_of = {c.key: c.value for c in explain(game, seed + place).contributions if c.kind == "history"}
        found += [value_of.get(player.key, 0.0) for player in game.players]
    return np.array(found)


def measure(
    masked: MaskedHistoryScores, value_D: np.ndarray, k: Sequence[int], lengths: Sequence[int], percent: bool, seed: int
) -> tuple[dict[str, np.ndarray], Curves | None]:
    """All measures of one order of the histories, float64 `[U]` each, and its curves if percent steps are asked for.

    Args:
        masked: The users.
        value_D: Orders the histories, the largest value first.
        k, lengths, percent: As in `fidelity`.
        seed: Orders ties.
    """
    place_D = masked.order(value_D, seed)
    whole = masked.whole[0]
    fixed = masked.steps(place_D, fixed_length_sizes(masked.lengths, lengths))
    values = fixed_length_measures(fixed, whole, lengths, k)
    if not percent:
        return values, None
    steps = masked.steps(place_D, percent_step_sizes(masked.lengths), both_ends=True)
    means = {"without": steps.without.mean(0), "alone": steps.alone.mean(0), "rank": np.median(steps.rank, axis=0)}
    return values | percent_step_measures(steps, k), Curves(**means)


def estimate(values: np.ndarray, seed: int) -> Estimate:
    """Mean and 95 % interval of users' values, without NaN."""
    return means(values[:, None], seed)[0]


def _stability(explained: ExplainedUsers, explain: Explain, value_D: np.ndarray, first: int, seed: int) -> Estimate:
    """How an explainer agrees with itself under a second seed, on the first users."""
    again_D = contributions(explained, explain, seed + SECOND_SEED, first)
    row_D = explained.masked.row_D.numpy()[: len(again_D)]
    return estimate(correlation(value_D[: len(again_D)], again_D, row_D), seed)


def _with_samples(name: str, samples: int) -> Explain:
    return lambda game, seed: EXPLAINERS[name](game, samples=samples, seed=seed)


def _mean(values: np.ndarray) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")


def _notes(explained: ExplainedUsers) -> tuple[str, ...]:
    """How many users the model itself would score otherwise, by their trained vectors."""
    folded_in = sum(game.differs_from_ranker for game in explained.games)
    if not folded_in:
        return ()
    return (
        f"{folded_in:,} of {len(explained.games):,} users are explained and measured by the fold-in of their history, "
        "not by the trained vector that ranks for them.",
    )
