"""METRICS: name -> Metric; pure functions from lists, exposure or prediction errors to numbers.

Ties. Where t other candidates score the same as a target and g score higher, the target's place is uniform over
g + 1 .. g + t + 1. Every accuracy metric here is its exact expectation over those places (McSherry & Najork, ECIR
2008), so a model that gives all items one score gets its expected value, not luck: 0.1 for hit@10 among 100 candidates.

A user's targets are the distinct relevant items; n of them; items no list can hold (new, already seen) stay in n.

Legend: T targets, B users, K places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from palate.errors import ConfigError
from palate.evaluation.ranked import NEVER, Catalogue, Ranked


@dataclass(frozen=True)
class Metric:
    """One entry of `METRICS`.

    Attributes:
        function: Its arguments follow `of`.
        of: What it is computed from. targets, lists: (ranked, k) -> float64 `[users]`, where lists need no targets.
            catalogue: (how often each item was listed, `[N]`) -> float. ratings: no function, see `weigh` and `power`.
        better: Which way is better, where one is.
        cut: Whether the name takes a cut-off: always, never, or both ways.
        help: What it says, in a line.
        weigh: Whether users count by their rows (micro average) or equally.
        power: The mean over users is (mean of value ** power) ** (1 / power).
    """

    function: Callable[..., Any] | None
    of: Literal["targets", "lists", "catalogue", "ratings"]
    better: Literal["higher", "lower"] | None
    help: str
    cut: Literal["always", "never", "either"] = "always"
    weigh: bool = False
    power: int = 1

    def __call__(self, ranked: Ranked, k: int | None) -> Tensor:
        """One value per user, float64; only for `of` targets or lists.

        Raises:
            ValueError: The lists are shorter than k.
        """
        if self.function is None or (k is not None and k > ranked.items.shape[1]):
            raise ValueError(f"no values at k = {k} from lists of {ranked.items.shape[1]}")
        return torch.as_tensor(self.function(ranked, k))


def recall(ranked: Ranked, k: int) -> Tensor:
    """Targets listed / n."""
    return _per_user(ranked, _listed(ranked, k)) / _n(ranked)


def capped_recall(ranked: Ranked, k: int) -> Tensor:
    """Targets listed / min(k, n), the recall of Liang et al., WWW 2018."""
    return _per_user(ranked, _listed(ranked, k)) / _n(ranked).clamp(max=k)


def precision(ranked: Ranked, k: int) -> Tensor:
    """Targets listed / k, also where the list is shorter than k."""
    return _per_user(ranked, _listed(ranked, k)) / k


def hit(ranked: Ranked, k: int) -> Tensor:
    """1 if at least one target is listed."""
    return _first_place(ranked, k).sum(1).clamp(max=1.0)


def mrr(ranked: Ranked, k: int) -> Tensor:
    """1 / place of the first target, 0 if none is listed."""
    return (_first_place(ranked, k) / torch.arange(1, k + 1)).sum(1)


def ndcg(ranked: Ranked, k: int) -> Tensor:
    """DCG / ideal DCG; DCG = sum of 1 / log2(place + 1) over listed targets, ideal: min(k, n) targets on top."""
    discount = 1.0 / torch.log2(torch.arange(2, k + 2, dtype=torch.float64))
    total = _running_sum(discount)
    ideal = total[_n(ranked).clamp(max=k).long()]
    return _per_user(ranked, _mean_over_places(ranked, k, total)) / ideal


def average_precision(ranked: Ranked, k: int) -> Tensor:
    """Sum over listed targets of precision at their place / min(k, n)."""
    total = _running_sum(1.0 / torch.arange(1, k + 1, dtype=torch.float64))
    above, group = _neighbours(ranked)
    tied = ranked.ties.double() + 1
    start, stop = ranked.greater.clamp(max=k), (ranked.greater + ranked.ties + 1).clamp(max=k)
    # At place g + j its precision is (1 + above + (group - 1)(j - 1) / (tied - 1)) / (g + j) in expectation.
    slope = (group - 1) / (tied - 1).clamp(min=1)
    constant = 1 + above - slope * (ranked.greater + 1)
    value = (constant * (total[stop] - total[start]) + slope * (stop - start)) / tied
    return _per_user(ranked, value) / _n(ranked).clamp(max=k)


def auc(ranked: Ranked, k: int | None) -> Tensor:
    """Share of (target, other candidate) pairs in the right order; a tie is half right.

    With a cut-off, all that comes after place k counts as in random order. A target no list can hold loses all its
    pairs; where every candidate is a target there are no pairs: 0.5.
    """
    if (k is None and not ranked.full) or bool((ranked.n_candidates < 0).any()):
        raise ValueError("auc needs rank(..., count=True), and full=True where it has no cut-off")
    reachable = ranked.greater < NEVER
    n = ranked.n_candidates.double()[ranked.row]
    end = n if k is None else n.clamp(max=k)
    tied = (ranked.ties + 1).double()
    start = torch.minimum(ranked.greater.double(), end)
    inside = torch.minimum(tied, end - start)
    place = (inside * (start + (inside + 1) / 2) + (tied - inside) * (end + n + 1) / 2) / tied
    found = _per_user(ranked, reachable.double())
    others = ranked.n_candidates - found
    below = _per_user(ranked, torch.where(reachable, n - place, 0.0)) - found * (found - 1) / 2
    return torch.where(others > 0, below / (_n(ranked) * others).clamp(min=1), 0.5)


def novelty(ranked: Ranked, k: int) -> Tensor:
    """Mean self-information of the listed items, -log2(share of people), in bits (Zhou et al., PNAS 2010).

    Share of people: past interactions / people, between 1 / people and 1. An empty list counts as 0.
    """
    known = _catalogue(ranked)
    share = known.popularity.clamp(min=1) / max(known.n_users, 1)
    return _mean_of_listed(ranked, k, torch.log2(share.clamp(max=1)).neg())


def popularity(ranked: Ranked, k: int) -> Tensor:
    """Mean number of past interactions of the listed items (average recommendation popularity); an empty list is 0."""
    return _mean_of_listed(ranked, k, _catalogue(ranked).popularity)


def tail_share(ranked: Ranked, k: int) -> Tensor:
    """Share of listed items from `Catalogue.tail` (Abdollahpouri et al., RecSys 2017); an empty list is 0."""
    return _mean_of_listed(ranked, k, _catalogue(ranked).tail.double())


def diversity(ranked: Ranked, k: int) -> Tensor:
    """Mean of 1 - likeness over all pairs of a list (Ziegler et al., WWW 2005); fewer than two items: 0."""
    vectors = _catalogue(ranked).vectors
    if vectors is None:
        raise ValueError("diversity needs Catalogue.vectors")
    items = ranked.items[:, :k]
    listed = items >= 0
    n = listed.sum(1).double()
    alike = torch.zeros(len(ranked), dtype=torch.float64)
    for start in range(0, len(ranked), 4096):
        rows = slice(start, start + 4096)
        vectors_BKD = vectors[items[rows].clamp(min=0)] * listed[rows, :, None]
        # Sum over pairs i < j of v_i . v_j = (|sum of v|^2 - sum of |v|^2) / 2.
        alike[rows] = (vectors_BKD.sum(1).square().sum(1) - vectors_BKD.square().sum((1, 2))).double() / 2
    return torch.where(n > 1, 1 - alike / (n * (n - 1) / 2).clamp(min=1), 0.0)


def coverage(exposure: np.ndarray) -> float:
    """Share of all items that stand in at least one list."""
    return float((exposure > 0).mean())


def gini(exposure: np.ndarray) -> float:
    """Inequality of how often items are listed: 0 all equally often, towards 1 a few have it all."""
    n, total = len(exposure), exposure.sum()
    if not total:
        return 0.0
    rank_from_least = np.arange(1, n + 1)
    return float(((2 * rank_from_least - n - 1) * np.sort(exposure)).sum() / (n * total))


METRICS: dict[str, Metric] = {
    "ndcg": Metric(ndcg, "targets", "higher", "targets listed, the higher the place the more; 1 is a perfect list"),
    "recall": Metric(recall, "targets", "higher", "share of a user's targets that are listed"),
    "capped_recall": Metric(capped_recall, "targets", "higher", "targets listed / min(k, targets)"),
    "precision": Metric(precision, "targets", "higher", "share of the k places that hold a target"),
    "hit": Metric(hit, "targets", "higher", "share of users with at least one target listed (hit rate)"),
    "map": Metric(average_precision, "targets", "higher", "mean average precision, over min(k, targets)"),
    "mrr": Metric(mrr, "targets", "higher", "1 / place of the first target"),
    "auc": Metric(auc, "targets", "higher", "share of target-other pairs in the right order", cut="either"),
    "coverage": Metric(coverage, "catalogue", "higher", "share of all items that stand in some list"),
    "gini": Metric(gini, "catalogue", "lower", "inequality of how often items are listed"),
    "novelty": Metric(novelty, "lists", None, "mean self-information of listed items, bits"),
    "diversity": Metric(diversity, "lists", None, "mean unlikeness of two items of a list"),
    "popularity": Metric(popularity, "lists", None, "mean past interactions of listed items"),
    "tail_share": Metric(tail_share, "lists", None, "share of listed items from the long tail"),
    "rmse": Metric(None, "ratings", "lower", "root of the mean squared error over all ratings", "never", True, 2),
    "mae": Metric(None, "ratings", "lower", "mean absolute error over all ratings", "never", True),
    "user_rmse": Metric(None, "ratings", "lower", "mean over users of their own rmse", "never"),
    "user_mae": Metric(None, "ratings", "lower", "mean over users of their own mae", "never"),
}


def parse(names: Iterable[str]) -> dict[str, tuple[Metric, int | None]]:
    """Names such as "ndcg@10" or "rmse" -> (metric, k).

    Raises:
        ConfigError: Names every name that is unknown, or has or lacks a cut-off.
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
                + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(METRICS)}")
            )
        elif at and metric.cut == "never":
            faults.append(f"{base!r} has no cut-off; write {base!r}, not {name!r}")
        elif at and not (cut.isascii() and cut.isdigit() and int(cut) > 0):
            faults.append(f"{name!r}: the cut-off after '@' must be a whole number above 0, as in {base + '@10'!r}")
        elif not at and metric.cut == "always":
            faults.append(f"{base!r} needs a cut-off, as in {base + '@10'!r}")
        else:
            found[name] = (metric, int(cut) if at else None)
    if faults:
        raise ConfigError.faults("metrics", faults)
    return found


def _per_user(ranked: Ranked, value_T: Tensor) -> Tensor:
    return torch.zeros(len(ranked), dtype=torch.float64).index_add_(0, ranked.row, value_T.double())


def _n(ranked: Ranked) -> Tensor:
    """Number of targets, at least 1, so that users without any get 0 rather than NaN."""
    return ranked.targets.lengths.double().clamp(min=1)


def _running_sum(terms: Tensor) -> Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.float64), terms.cumsum(0)])


def _mean_over_places(ranked: Ranked, k: int, total: Tensor) -> Tensor:
    """Expected gain of each target; `total[p]` is the gain of places 1..p added up, `[k + 1]`."""
    tied = ranked.ties + 1
    return (total[(ranked.greater + tied).clamp(max=k)] - total[ranked.greater.clamp(max=k)]) / tied


def _listed(ranked: Ranked, k: int) -> Tensor:
    """Probability that each target stands among the first k."""
    return _mean_over_places(ranked, k, torch.arange(k + 1, dtype=torch.float64))


def _first_place(ranked: Ranked, k: int) -> Tensor:
    """Probability that a user's first target stands at place 1..k, float64 `[B, k]`.

    It belongs to the best-scored group of m tied items, c of them targets, behind g others; it stands at g + j with
    probability C(m - j, c - 1) / C(m, c).
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


def _neighbours(ranked: Ranked) -> tuple[Tensor, Tensor]:
    """For each target: how many of its user's targets score higher, and how many the same (itself included)."""
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
