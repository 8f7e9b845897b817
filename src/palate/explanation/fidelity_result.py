"""Fidelity: how faithful each explainer is to one model: users' values, intervals, paired tests, a verdict in words.

Legend: U users.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import polars as pl

from palate.errors import ConfigError
from palate.evaluation.compare import ALPHA, Difference
from palate.evaluation.result import Estimate, aligned
from palate.evaluation.statistics import RESAMPLES, bootstrap_means, holm, interval, resamples, sign_flip_p
from palate.explanation.explanation import and_list
from palate.explanation.measures import measure_of
from palate.explanation.orders import ORDERS

NAIVE_ORDERS = ("random", "popularity")
"""Orders that every explainer must beat."""


CONFIDENCE_NAMES = {"softmax": "the softmax over all items", "sigmoid": "the sigmoid of the score"}


@dataclass(frozen=True, eq=False, kw_only=True)
class Curves:
    """Means over users with 0, 10, ... 100 percent of the history removed, float64 `[11]` each.

    Attributes:
        without: Confidence without the most important items (the deletion curve).
        alone: Confidence from the most important items alone (the insertion curve).
        rank: Median rank of the item along the deletion curve.
    """

    without: np.ndarray
    alone: np.ndarray
    rank: np.ndarray


@dataclass(frozen=True, eq=False, kw_only=True)
class Fidelity:
    """The result of `fidelity`.

    Attributes:
        model: Its name.
        confidence: What f is: softmax, sigmoid or score.
        users, items: Ids of the U users and of the item that each is recommended.
        values: Method -> measure -> value of each user, float64 `[U]`, NaN if there is none. Explainers come first,
            then `ORDERS`.
        curves: Method -> deletion and insertion curves; empty without percent steps.
        agreement: Spearman's correlation of two methods' values over a user's history, mean over users.
        stability: Method -> the same for one method under two seeds; only for methods that draw samples.
        seconds: Method -> seconds for one explanation.
        seed: Seed of users, resamples and sign flips.
        notes: What a reader must know beyond the numbers, as sentences.
    """

    model: str
    confidence: str
    users: pl.Series
    items: pl.Series
    values: dict[str, dict[str, np.ndarray]]
    curves: dict[str, Curves]
    agreement: dict[tuple[str, str], float]
    stability: dict[str, Estimate]
    seconds: dict[str, float]
    seed: int
    notes: tuple[str, ...] = field(default=())

    @property
    def explainers(self) -> list[str]:
        """The methods that ask the model."""
        return [name for name in self.values if name not in ORDERS]

    @property
    def measures(self) -> list[str]:
        """The names of the measures."""
        return list(next(iter(self.values.values())))

    @property
    def headline(self) -> str:
        """The measure that ranks the methods: cdcg at the longest explanation."""
        return max((name for name in self.measures if name.startswith("cdcg@")), key=lambda name: int(name[5:]))

    def estimates(self, method: str) -> dict[str, Estimate]:
        """Measure -> mean over users and its 95 % bootstrap interval."""
        return dict(
            zip(self.measures, means(np.stack(list(self.values[method].values()), axis=1), self.seed), strict=True)
        )

    def compare(self, measure: str, against: tuple[str, ...] | None = None) -> tuple[Difference, ...]:
        """Compare every explainer with every order on one measure: paired over users, Holm-corrected over all pairs.

        Args:
            measure: For example cdcg@5.
            against: Names of orders. Defaults to all that were measured.

        Raises:
            ConfigError: It was not measured.
        """
        if measure not in self.measures:
            raise ConfigError(f"{measure!r} was not measured; choose from {', '.join(self.measures)}")
        orders = [name for name in self.values if name in (against or tuple(ORDERS))]
        return self.paired(measure, [(name, order) for name in self.explainers for order in orders])

    def paired(self, measure: str, pairs: list[tuple[str, str]]) -> tuple[Difference, ...]:
        """Compare the given pairs of methods on one measure, Holm-corrected together."""
        lower = measure_of(measure).better == "lower"
        gaps = [_gap(self.values[a][measure], self.values[b][measure]) for a, b in pairs]
        raw = [sign_flip_p(gap, self.seed) for gap in gaps]
        found = []
        for (a, b), gap, p, adjusted in zip(pairs, gaps, raw, holm(raw), strict=True):
            value = float(gap.mean()) if len(gap) else float("nan")
            low, high = _interval(gap, self.seed)
            verdict = _verdict(a, b, measure, (value, low, high), adjusted, lower)
            found.append(Difference(
                first=a, second=b, value=value, low=low, high=high, p=p, holm=adjusted, verdict=verdict
            ))  # fmt: skip
        return tuple(found)

    def frame(self) -> pl.DataFrame:
        """One row for each method and measure: `method`, `measure`, `better`, `value`, `low`, `high`, `n`."""
        rows = []
        for method in self.values:
            for name, estimate in self.estimates(method).items():
                rows.append({
                    "method": method, "measure": name, "better": measure_of(name).better, **vars(estimate)
                })  # fmt: skip
        return pl.DataFrame(rows)

    def ranked(self) -> list[str]:
        """All methods, the most faithful by `headline` first."""
        return sorted(self.values, key=lambda name: float(np.nanmean(self.values[name][self.headline])))

    def verdict(self) -> list[str]:
        """Which explainer to use for this model, as sentences without full stops."""
        explainers = [name for name in self.ranked() if name in self.explainers]
        if not explainers:
            return ["No explainer was measured, only orders that ignore the model"]
        best, rest, measure = explainers[0], explainers[1:], self.headline
        lost = _not_better_than_naive(self.compare(measure))
        if lost.get(best):
            orders = and_list(lost[best])
            return [
                f"No explainer is reliable for {self.model}: on {measure}, the best one ({best}) does not beat "
                f"{orders} order"
            ]
        paired = self.paired(measure, [(best, name) for name in rest])
        equal = [each.second for each in paired if each.holm >= ALPHA and each.second not in lost]
        behind = [name for name in rest if name not in equal and name not in lost]
        mean, naive = self.estimates(best)[measure], and_list(NAIVE_ORDERS)
        lines = [
            f"The most faithful explainer of {self.model} is {best}: {measure} {mean}, the lowest of all explainers"
        ]
        if equal:
            count = len(self.users)
            lines.append(f"No significant difference from {best} on {measure} over {count:,} users: {and_list(equal)}")
        if behind:
            lines.append(f"Less faithful than {best} on {measure}, but better than {naive} order: {and_list(behind)}")
        lines += [
            f"{name} does not beat {and_list(orders)} order on {measure}; do not use it for this model"
            for name, orders in lost.items()
        ]
        return lines

    def table(self, measures: list[str] | None = None) -> tuple[list[str], list[list[str]]]:
        """Header and rows as text, one row for each method, the most faithful first; 95 % intervals in brackets.

        Args:
            measures: Names of measures. Defaults to `shown`.
        """
        wanted = measures or self.shown
        header = ["method", *(f"{name} {'↓' if measure_of(name).better == 'lower' else '↑'}" for name in wanted)]
        rows = []
        for method in self.ranked():
            found, stable = self.estimates(method), self.stability.get(method)
            rows.append([
                method, *(f"{found[m].value:.3f} ({found[m].low:.3f} to {found[m].high:.3f})" for m in wanted),
                "-" if stable is None else f"{stable.value:.3f}",
                f"{1000 * self.seconds[method]:.1f}" if method in self.seconds else "-",
            ])  # fmt: skip
        return [*header, "seed stability", "ms each"], rows

    @property
    def shown(self) -> list[str]:
        """The measures of a short table: those of the longest explanation, pos for the shortest list."""
        length = self.headline[5:]
        first = next(name for name in self.measures if name.startswith("pos@") and name.endswith(f",{length}"))
        return [self.headline, first, f"del@{length}", f"ins@{length}"]

    def __str__(self) -> str:
        header, rows = self.table()
        confidence = CONFIDENCE_NAMES.get(self.confidence, "the score")
        title = f"{self.model}, {len(self.users):,} users, the top item of each; confidence is {confidence}"
        return "\n".join([title, "", *aligned(header, rows), "", *self.verdict(), *self.notes])


def means(table: np.ndarray, seed: int) -> list[Estimate]:
    """Mean and 95 % bootstrap interval of each column of users' values, float64 `[U, C]`, without NaN."""
    there = ~np.isnan(table)
    part, weight = np.where(there, table, 0.0), there.astype(np.float64)
    draws, count = bootstrap_means(part, weight, seed), weight.sum(0)
    found = []
    for column, n in enumerate(count.astype(int).tolist()):
        low, high = interval(draws[:, column], n)
        value = float(part[:, column].sum() / n) if n else float("nan")
        found.append(Estimate(value=value, low=low, high=high, n=n))
    return found


def _gap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    gap = one - other
    there: np.ndarray = gap[~np.isnan(gap)]
    return there


def _interval(gap: np.ndarray, seed: int) -> tuple[float, float]:
    if not len(gap):
        return float("nan"), float("nan")
    draws = np.concatenate([drawn @ gap for drawn in resamples(len(gap), seed, RESAMPLES)]) / len(gap)
    return interval(draws, len(gap))


def _verdict(a: str, b: str, measure: str, values: tuple[float, float, float], holm: float, lower: bool) -> str:
    value, low, high = values
    amount = f"({value:+.4f}, 95 % interval {low:+.4f} to {high:+.4f})"
    if holm >= ALPHA or not value:
        return f"No significant difference between {a} and {b} on {measure} {amount}"
    better, worse = (a, b) if (value < 0) == lower else (b, a)
    return f"{better} is more faithful than {worse} on {measure} {amount}"


def _not_better_than_naive(differences: tuple[Difference, ...]) -> dict[str, list[str]]:
    """Explainers that are not significantly better than every naive order, with the orders they do not beat."""
    found: dict[str, list[str]] = {}
    for each in differences:
        if each.second in NAIVE_ORDERS and not (each.high < 0 and each.holm < ALPHA):
            found.setdefault(each.first, []).append(each.second)
    return found
