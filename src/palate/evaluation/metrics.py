"""METRICS: name -> Metric; pure functions of lists, exposure or prediction errors.

Ties: if g candidates score higher than a target and t others score the same, the rank of the target is uniform over
g + 1 .. g + t + 1. Every accuracy metric is its exact expectation over these ranks (McSherry & Najork, ECIR 2008). A
model that gives all items the same score therefore has hit@10 = 0.1 among 100 candidates, whatever the item order.

The targets of a user are the n distinct relevant items. Targets that no list can hold (new or already seen items) count
in n.

A metric of your own is a function `(ranked, k) -> one value per user`, passed beside names:

    def found_at_once(ranked, k=3): ...
    rec.evaluate(parts.test, ["ndcg@10", found_at_once])                  # reported as found_at_once@3
    rec.evaluate(parts.test, [Metric(share_of_old_films, "lists", None, "share of listed films before 1970")])

Legend: T targets, B users, K ranks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from palate.errors import ConfigError
from palate.ranking.ranked import NEVER, Catalogue, Ranked

LISTS_PER_BLOCK = 4096
"""Lists whose item vectors are held at once."""
DEFAULT_CUT = 10
"""Cut-off of a function whose parameter `k` has no default."""


@dataclass(frozen=True)
class Metric:
    """One entry of `METRICS`.

    Attributes:
        function: The formula; its arguments depend on `source`.
        source: What it is computed from. "targets": (ranked, k) -> float64 `[users]`. "lists": the same, without the
            targets. "catalogue": (how often each item was listed, `[N]`) -> float. "ratings": prediction errors, no
            function; see `per_rating` and `power`.
        better: Which direction is better; None for neither.
        help: One line that says what it measures.
        cut: Whether the name takes a cut-off (`@10`): always, never or either.
        per_rating: Whether the mean is over ratings (micro average) instead of users.
        power: The mean over users is (mean of value ** power) ** (1 / power).
    """

    function: Callable[..., Any] | None
    source: Literal["targets", "lists", "catalogue", "ratings"]
    better: Literal["higher", "lower"] | None
    help: str
    cut: Literal["always", "never", "either"] = "always"
    per_rating: bool = False
    power: int = 1

    def __call__(self, ranked: Ranked, k: int | None) -> Tensor:
        """One value per user, float64; only for metrics of targets or lists.

        Raises:
            ValueError: The lists are shorter than k.
            ConfigError: A function of the user's does not return one number per user.
        """
        if self.function is None or (k is not None and k > ranked.items.shape[1]):
            raise ValueError(f"k = {k} is larger than the lists, which hold {ranked.items.shape[1]} items")
        value = self.function(ranked, k)
        try:
            value = torch.as_tensor(value, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(f"{_wrong_value(self, ranked)} {type(value).__name__}") from error
        if value.shape != (len(ranked),):
            raise ConfigError(f"{_wrong_value(self, ranked)} the shape {tuple(value.shape)}")
        return value


MetricLike = str | Metric | Callable[..., Any]
"""A name such as ndcg@10, or a metric of the user's: a function `(ranked, k)`, or a `Metric` of one."""


def _wrong_value(metric: Metric, ranked: Ranked) -> str:
    name = getattr(metric.function, "__name__", "a metric")
    return f"{name} must return one number for each of the {len(ranked)} users it is given, and returned"


def recall(ranked: Ranked, k: int) -> Tensor:
    """Targets among the first k / n."""
    return _per_user(ranked, _probability_listed(ranked, k)) / _n_targets(ranked)


def capped_recall(ranked: Ranked, k: int) -> Tensor:
    """Targets among the first k / min(k, n), the recall of Liang et al., WWW 2018."""
    return _per_user(ranked, _probability_listed(ranked, k)) / _n_targets(ranked).clamp(max=k)


def precision(ranked: Ranked, k: int) -> Tensor:
    """Targets among the first k / k, even if the list is shorter than k."""
    return _per_user(ranked, _probability_listed(ranked, k)) / k


def hit(ranked: Ranked, k: int) -> Tensor:
    """1 if at least one target is among the first k."""
    return _first_target_ranks(ranked, k).sum(1).clamp(max=1.0)


def mrr(ranked: Ranked, k: int) -> Tensor:
    """1 / rank of the first target, 0 if no target is among the first k."""
    return (_first_target_ranks(ranked, k) / torch.arange(1, k + 1)).sum(1)


def ndcg(ranked: Ranked, k: int) -> Tensor:
    """DCG / ideal DCG, where DCG = sum of 1 / log2(rank + 1) over listed targets; the ideal list begins with all n."""
    discount = 1.0 / torch.log2(torch.arange(2, k + 2, dtype=torch.float64))
    total = _cumulative(discount)
    ideal = total[_n_targets(ranked).clamp(max=k).long()]
    return _per_user(ranked, _mean_over_ranks(ranked, k, total)) / ideal


def average_precision(ranked: Ranked, k: int) -> Tensor:
    """Sum over listed targets of the precision at their rank / min(k, n)."""
    total = _cumulative(1.0 / torch.arange(1, k + 1, dtype=torch.float64))
    above, group = _targets_above_and_tied(ranked)
    tied = ranked.ties.double() + 1
    start, stop = ranked.greater.clamp(max=k), (ranked.greater + ranked.ties + 1).clamp(max=k)
    # At rank g + j the precision is (1 + above + (group - 1)(j - 1) / (tied - 1)) / (g + j) in expectation.
    slope = (group - 1) / (tied - 1).clamp(min=1)
    constant = 1 + above - slope * (ranked.greater + 1)
    value = (constant * (total[stop] - total[start]) + slope * (stop - start)) / tied
    return _per_user(ranked, value) / _n_targets(ranked).clamp(max=k)


def auc(ranked: Ranked, k: int | None) -> Tensor:
    """Share of (target, other candidate) pairs in the right order; a tie counts as half.

    With a cut-off, items beyond rank k count as randomly ordered. A target that no list can hold loses all its pairs.
    If every candidate is a target there are no pairs, and the value is 0.5.
    """
    if (k is None and not ranked.full) or bool((ranked.n_candidates < 0).any()):
        raise ValueError("auc needs rank(..., count=True), and full=True without a cut-off")
    reachable = ranked.greater < NEVER
    n = ranked.n_candidates.double()[ranked.row]
    end = n if k is None else n.clamp(max=k)
    tied = (ranked.ties + 1).double()
    start = torch.minimum(ranked.greater.double(), end)
    inside = torch.minimum(tied, end - start)
    mean_rank = (inside * (start + (inside + 1) / 2) + (tied - inside) * (end + n + 1) / 2) / tied
    found = _per_user(ranked, reachable.double())
    others = ranked.n_candidates - found
    below = _per_user(ranked, torch.where(reachable, n - mean_rank, 0.0)) - found * (found - 1) / 2
    return torch.where(others > 0, below / (_n_targets(ranked) * others).clamp(min=1), 0.5)


def novelty(ranked: Ranked, k: int) -> Tensor:
    """Mean self-information of the listed items, -log2(share of users), in bits (Zhou et al., PNAS 2010).

    The share of an item is its training interactions / users, between 1 / users and 1. An empty list has 0.
    """
    known = _catalogue(ranked)
    share = known.popularity.clamp(min=1) / max(known.n_users, 1)
    return _mean_of_listed(ranked, k, torch.log2(share.clamp(max=1)).neg())


def popularity(ranked: Ranked, k: int) -> Tensor:
    """Mean training interactions of the listed items (average recommendation popularity); an empty list has 0."""
    return _mean_of_listed(ranked, k, _catalogue(ranked).popularity)


def tail_share(ranked: Ranked, k: int) -> Tensor:
    """Share of listed items in `Catalogue.tail` (Abdollahpouri et al., RecSys 2017); an empty list has 0."""
    return _mean_of_listed(ranked, k, _catalogue(ranked).tail.double())


def diversity(ranked: Ranked, k: int) -> Tensor:
    """Mean of 1 - similarity over all pairs of a list (Ziegler et al., WWW 2005); 0 for fewer than two items."""
    vectors = _catalogue(ranked).vectors
    if vectors is None:
        raise ValueError("diversity needs Catalogue.vectors")
    items = ranked.items[:, :k]
    listed = items >= 0
    n = listed.sum(1).double()
    similarity = torch.zeros(len(ranked), dtype=torch.float64)
    for start in range(0, len(ranked), LISTS_PER_BLOCK):
        rows = slice(start, start + LISTS_PER_BLOCK)
        vectors_BKD = vectors[items[rows].clamp(min=0)] * listed[rows, :, None]
        # Sum over pairs i < j of v_i . v_j = (|sum of v|^2 - sum of |v|^2) / 2.
        similarity[rows] = (vectors_BKD.sum(1).square().sum(1) - vectors_BKD.square().sum((1, 2))).double() / 2
    return torch.where(n > 1, 1 - similarity / (n * (n - 1) / 2).clamp(min=1), 0.0)


def coverage(exposure: np.ndarray) -> float:
    """Distinct listed items / items of the catalogue (`Evaluation.exposure` has one entry for each)."""
    return float((exposure > 0).mean())


def gini(exposure: np.ndarray) -> float:
    """Inequality of exposure: 0 if all items are listed equally often, near 1 if few items fill all lists."""
    n, total = len(exposure), exposure.sum()
    if not total:
        return 0.0
    rank_from_least = np.arange(1, n + 1)
    return float(((2 * rank_from_least - n - 1) * np.sort(exposure)).sum() / (n * total))


METRICS: dict[str, Metric] = {
    "ndcg": Metric(ndcg, "targets", "higher", "discounted gain of the targets in the first k; 1 for a perfect list"),
    "recall": Metric(recall, "targets", "higher", "share of a user's targets in the first k"),
    "capped_recall": Metric(capped_recall, "targets", "higher", "targets in the first k / min(k, number of targets)"),
    "precision": Metric(precision, "targets", "higher", "share of the first k ranks that hold a target"),
    "hit": Metric(hit, "targets", "higher", "share of users with a target in the first k (hit rate)"),
    "map": Metric(average_precision, "targets", "higher", "mean average precision, over min(k, number of targets)"),
    "mrr": Metric(mrr, "targets", "higher", "mean reciprocal rank: 1 / rank of the first target"),
    "auc": Metric(
        auc, "targets", "higher", "share of (target, other item) pairs in the right order", cut="either"
    ),
    "coverage": Metric(
        coverage, "catalogue", "higher",
        "share of the catalogue that is in at least one list; the catalogue is all items the model can score",
    ),
    "gini": Metric(gini, "catalogue", "lower", "inequality of how often items are listed; 0 is equal"),
    "novelty": Metric(novelty, "lists", None, "mean self-information of the listed items, in bits"),
    "diversity": Metric(diversity, "lists", None, "mean dissimilarity of two items of a list"),
    "popularity": Metric(popularity, "lists", None, "mean training interactions of the listed items"),
    "tail_share": Metric(tail_share, "lists", None, "share of the listed items that are in the long tail"),
    "rmse": Metric(None, "ratings", "lower", "root mean squared error over all ratings", "never", True, 2),
    "mae": Metric(None, "ratings", "lower", "mean absolute error over all ratings", "never", True),
    "user_rmse": Metric(None, "ratings", "lower", "mean over users of each user's RMSE", "never"),
    "user_mae": Metric(None, "ratings", "lower", "mean over users of each user's MAE", "never"),
}  # fmt: skip


BUILT_IN = frozenset(METRICS)
"""The names that functions of the user's cannot take."""


def metric_names(metrics: Iterable[MetricLike]) -> tuple[str, ...]:
    """Names of metrics, for example for `Protocol(metrics=...)`. Functions become entries of `METRICS`.

    A function `(ranked, k)` gets the lists and targets of some users (`palate.ranking.ranked.Ranked`) and returns one
    number per user, `[users]`; NaN for a user without a value. Its name is that of the function with the default of its
    parameter `k` as cut-off, else @10. It counts as a metric of the targets for which higher is better; pass a `Metric`
    to say otherwise. A function replaces one of the same name.

    Args:
        metrics: Names and functions.

    Raises:
        ConfigError: A function has no name, or the name of a built-in metric.
    """
    return tuple(metric if isinstance(metric, str) else _add(metric) for metric in metrics)


def own_metrics(names: Iterable[str]) -> dict[str, Metric]:
    """The entries of `METRICS` behind some names that are not built in."""
    bases = dict.fromkeys(name.partition("@")[0] for name in names)
    return {base: METRICS[base] for base in bases if base in METRICS and base not in BUILT_IN}


def _add(metric: Metric | Callable[..., Any]) -> str:
    """Make a function an entry of `METRICS`; returns its name with its cut-off."""
    function = metric.function if isinstance(metric, Metric) else metric
    base = getattr(function, "__name__", "")
    if function is None or not base.isidentifier():
        raise ConfigError(f"a metric must be a name or a function that has one, not {function!r}; define it with `def`")
    if base in BUILT_IN:
        raise ConfigError(f"the metric function {base!r} has the name of a built-in metric; give it another name")
    if not isinstance(metric, Metric):
        metric = Metric(function, "targets", "higher", (inspect.getdoc(function) or base).partition("\n")[0])
    METRICS[base] = metric
    cut = inspect.signature(function).parameters.get("k")
    given = DEFAULT_CUT if cut is None or cut.default is inspect.Parameter.empty else cut.default
    return base if metric.cut == "never" or given is None else f"{base}@{given}"


def parse(names: Iterable[str]) -> dict[str, tuple[Metric, int | None]]:
    """Metrics by name, for example "ndcg@10" or "rmse" -> (metric, k).

    Raises:
        ConfigError: Lists all names that are unknown, lack a cut-off or must not have one.
    """
    found: dict[str, tuple[Metric, int | None]] = {}
    faults = []
    for name in names:
        base, at, cut = name.partition("@")
        metric = METRICS.get(base)
        if metric is None:
            near = get_close_matches(base.lower(), METRICS, n=1, cutoff=0.5)
            faults.append(
                f"unknown metric {name!r}; "
                + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(METRICS)}, and functions of your own")
            )
        elif at and metric.cut == "never":
            faults.append(f"{base!r} takes no cut-off; write {base!r} instead of {name!r}")
        elif at and not (cut.isascii() and cut.isdigit() and int(cut) > 0):
            faults.append(
                f"{name!r}: the cut-off after '@' must be a whole number above 0, for example {base + '@10'!r}"
            )
        elif not at and metric.cut == "always":
            faults.append(f"{base!r} needs a cut-off, for example {base + '@10'!r}")
        else:
            found[name] = (metric, int(cut) if at else None)
    if faults:
        raise ConfigError.faults("metrics", faults)
    return found


@dataclass(frozen=True, eq=False)
class Weights:
    """How much the value of each user counts in a mean.

    Attributes:
        ratings: Number of predicted ratings of each user, the weights of RMSE and MAE, int64 `[U]`.
        questions: Number of lists of each user, the weights of other metrics, int64 `[U]`: 1 unless each row of the
            part is a question of its own.
    """

    ratings: np.ndarray
    questions: np.ndarray

    def of(self, metric: Metric) -> np.ndarray:
        """The weights of a metric."""
        return self.ratings if metric.per_rating else self.questions


def user_sums(values: np.ndarray, weights: Weights, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """Each user's share of a metric's numerator and denominator, `[U]` each; 0 and 0 for users without a value.

    Args:
        values: The metric of each user, NaN for users without a value.
        weights: How much each user counts.
        metric: Says which weights count, and by which power values are averaged.
    """
    known = ~np.isnan(values)
    weight = np.where(known, weights.of(metric), 0).astype(np.float64)
    return np.where(known, values, 0.0) ** metric.power * weight, weight


def _per_user(ranked: Ranked, value_T: Tensor) -> Tensor:
    return torch.zeros(len(ranked), dtype=torch.float64).index_add_(0, ranked.row, value_T.double())


def _n_targets(ranked: Ranked) -> Tensor:
    """Number of targets, at least 1, so that users without targets get 0 instead of NaN."""
    return ranked.targets.lengths.double().clamp(min=1)


def _cumulative(terms: Tensor) -> Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.float64), terms.cumsum(0)])


def _mean_over_ranks(ranked: Ranked, k: int, total: Tensor) -> Tensor:
    """Expected gain of each target; `total[p]` is the summed gain of ranks 1..p, `[k + 1]`."""
    tied = ranked.ties + 1
    return (total[(ranked.greater + tied).clamp(max=k)] - total[ranked.greater.clamp(max=k)]) / tied


def _probability_listed(ranked: Ranked, k: int) -> Tensor:
    """Probability that each target is among the first k."""
    return _mean_over_ranks(ranked, k, torch.arange(k + 1, dtype=torch.float64))


def _first_target_ranks(ranked: Ranked, k: int) -> Tensor:
    """Probability that a user's first target has rank 1..k, float64 `[B, k]`.

    The first target is in the group of m tied items, c of them targets, that follows g better ones. Its rank is g + j
    with probability C(m - j, c - 1) / C(m, c).
    """
    best = torch.full((len(ranked),), NEVER).scatter_reduce(0, ranked.row, ranked.greater, "amin")
    in_best = ranked.greater == best[ranked.row]
    c = _per_user(ranked, in_best)[:, None]
    m = torch.zeros(len(ranked), dtype=torch.int64).scatter_reduce(0, ranked.row, (ranked.ties + 1) * in_best, "amax")
    m = m.double()[:, None]
    j = torch.arange(1, k + 1, dtype=torch.float64) - best[:, None]
    possible = (j >= 1) & (j <= m - c + 1) & (c >= 1)
    chance = torch.exp(_log_choose(m - j, c - 1) - _log_choose(m, c))
    return torch.where(possible, chance, 0.0)


def _log_choose(n: Tensor, r: Tensor) -> Tensor:
    n, r = n.clamp(min=0), r.clamp(min=0)
    return torch.lgamma(n + 1) - torch.lgamma(r + 1) - torch.lgamma((n - r).clamp(min=0) + 1)


def _targets_above_and_tied(ranked: Ranked) -> tuple[Tensor, Tensor]:
    """For each target: how many targets of its user score higher, and how many the same (itself included)."""
    key = ranked.row * (NEVER + 1) + ranked.greater
    _, group, count = torch.unique(key, return_inverse=True, return_counts=True)
    first = count.cumsum(0) - count
    return first[group] - ranked.targets.offsets[ranked.row], count[group]


def _catalogue(ranked: Ranked) -> Catalogue:
    if ranked.catalogue is None:
        raise ValueError("this metric needs Ranked.catalogue")
    return ranked.catalogue


def _mean_of_listed(ranked: Ranked, k: int, value_N: Tensor) -> Tensor:
    items = ranked.items[:, :k]
    listed = items >= 0
    total = (value_N[items.clamp(min=0)] * listed).sum(1).double()
    return total / listed.sum(1).clamp(min=1)
