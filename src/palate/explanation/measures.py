"""MEASURES: how faithful an order of history items is to the model, by what removing and keeping them does.

An explanation of why user u is recommended item y is an order of u's history, the most important item first. x is the
history, f(.) the model's confidence in y (see `palate.explanation.masked`), rank(.) the rank of y among the items that
are not in the whole history: removed items stay out of the list, because the user has seen them.

Fixed length Ke (Baklanov, Bogina, Elisha, Schein, Allerhand, Barkan, Koenigstein 2025, "Refining fidelity metrics for
explainable recommendations", SIGIR; formulas as written out by Barkan et al. 2026, "Fidelity-aware recommendation
explanations via stochastic path integration", AAAI): e are the first Ke items,

    pos@K,Ke = 1[rank(x without e) <= K]      cdcg@Ke = 1 / log2(1 + rank(x without e))
    del@Ke = f(x without e) / f(x)            ins@Ke  = f(e alone) / f(x)

(The authors' code, FidelityMetrics4XRec, averages f and not its ratio to f(x); the formulas have the ratio.)

Percent steps (Barkan, Bogina, Gurevitch, Asher, Koenigstein 2024, "A counterfactual framework for learning and
evaluating explanations for recommender systems", WWW; checked against the authors' code, LXR): the history is split
into ten parts of equal size, the first parts one item larger if the length is no multiple of ten. Step s = 0 .. 10
removes the first s parts,

    pos-p@K  = mean over s of 1[rank(x without the first s parts) <= K]
    neg-p@K  = mean over s of 1[rank(x without the last s parts) <= K], the least important first
    del-p    = mean over s of f(x without the first s parts)
    ins-p    = mean over s of f(the first s parts alone)
    ndcg-p   = mean over s of 1 / log2(1 + rank(x without the first s parts))

For tied scores, the rank is the expected rank, so that the order of the catalogue favours no method.

Legend: U users, E explanation lengths, S = 11 percent steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

PERCENT_PARTS = 10
"""Parts of a history in percent steps."""


@dataclass(frozen=True)
class Measure:
    """What a measure means.

    Attributes:
        better: Whether higher or lower values are better.
        help: The measure in words.
    """

    better: Literal["higher", "lower"]
    help: str


MEASURES: dict[str, Measure] = {
    "cdcg": Measure("lower", "1 / log2(1 + rank) without the first Ke items"),
    "pos": Measure("lower", "whether the item is still in the top K without the first Ke items"),
    "del": Measure("lower", "share of the confidence that remains without the first Ke items"),
    "ins": Measure("higher", "share of the confidence that the first Ke items alone give"),
    "pos-p": Measure("lower", "share of ten steps with the item still in the top K, removing the most important first"),
    "neg-p": Measure(
        "higher", "share of ten steps with the item still in the top K, removing the least important first"
    ),
    "del-p": Measure("lower", "mean confidence over ten steps, removing the most important items first"),
    "ins-p": Measure("higher", "mean confidence over ten steps, from the most important items alone"),
    "ndcg-p": Measure("lower", "mean 1 / log2(1 + rank) over ten steps, removing the most important items first"),
}
"""Name before `@` -> what it means."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Steps:
    """Confidence and rank along one kind of steps; one row for each user, one column for each step.

    Attributes:
        without: Confidence without the first items, float64 `[U, steps]`.
        alone: Confidence from the first items alone, float64 `[U, steps]`.
        rank: Rank of the item, from 1, without the first items, float64 `[U, steps]`.
        rank_last: Rank without the last items; None if it was not computed.
    """

    without: np.ndarray
    alone: np.ndarray
    rank: np.ndarray
    rank_last: np.ndarray | None = None


def percent_step_sizes(lengths: np.ndarray) -> np.ndarray:
    """How many items each percent step removes, int64 `[U, 11]`, for histories of these lengths `[U]`."""
    step = np.arange(PERCENT_PARTS + 1)
    sizes: np.ndarray = lengths[:, None] // PERCENT_PARTS * step + np.minimum(lengths[:, None] % PERCENT_PARTS, step)
    return sizes


def fixed_length_sizes(lengths: np.ndarray, explanation: Sequence[int]) -> np.ndarray:
    """How many items an explanation of each length has, int64 `[U, E]`: the whole history if it is shorter."""
    sizes: np.ndarray = np.minimum(lengths[:, None], np.asarray(explanation, dtype=np.int64))
    return sizes


def fixed_length_measures(
    steps: Steps, whole: np.ndarray, explanation: Sequence[int], k: Sequence[int]
) -> dict[str, np.ndarray]:
    """cdcg, pos, del, ins at each length, float64 `[U]` each.

    Args:
        steps: One step for each length.
        whole: Confidence with the whole history, float64 `[U]`; if it is not above 0, del and ins are NaN.
        explanation: The lengths Ke.
        k: The list lengths K of pos.
    """
    found = {}
    base = np.where(whole > 0, whole, np.nan)
    for place, length in enumerate(explanation):
        found[f"cdcg@{length}"] = discounted_gain(steps.rank[:, place])
        for cut in k:
            found[f"pos@{cut},{length}"] = (steps.rank[:, place] <= cut).astype(np.float64)
        found[f"del@{length}"] = steps.without[:, place] / base
        found[f"ins@{length}"] = steps.alone[:, place] / base
    return found


def percent_step_measures(steps: Steps, k: Sequence[int]) -> dict[str, np.ndarray]:
    """pos-p, neg-p, del-p, ins-p, ndcg-p, float64 `[U]` each; `steps` are those of `percent_step_sizes`."""
    assert steps.rank_last is not None  # percent steps remove items from both ends
    found = {
        "del-p": steps.without.mean(1),
        "ins-p": steps.alone.mean(1),
        "ndcg-p": discounted_gain(steps.rank).mean(1),
    }
    for cut in k:
        found[f"pos-p@{cut}"] = (steps.rank <= cut).mean(1)
        found[f"neg-p@{cut}"] = (steps.rank_last <= cut).mean(1)
    return found


def discounted_gain(rank: np.ndarray) -> np.ndarray:
    """1 / log2(1 + rank): 1 for the top item, towards 0 for low ranks."""
    discount: np.ndarray = 1.0 / np.log2(1.0 + rank)
    return discount


def measure_of(name: str) -> Measure:
    """The measure behind a name such as cdcg@5 or pos@20,5."""
    return MEASURES[name.partition("@")[0]]
