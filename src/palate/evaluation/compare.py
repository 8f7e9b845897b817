"""compare(): which of several evaluated models is better on a metric, by how much, and whether that is significant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import polars as pl

from palate.errors import ConfigError
from palate.evaluation.metrics import METRICS, Metric, MetricLike, metric_names, user_sums
from palate.evaluation.result import Evaluation, aligned
from palate.evaluation.statistics import RESAMPLES, interval, resamples, sign_flip_p
from palate.evaluation.statistics import holm as holm_adjusted

ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference of two models on the same users.

    Attributes:
        first, second: Names of the models.
        value: Metric of the first minus metric of the second.
        low, high: 95 % interval of the difference: paired bootstrap over users, not adjusted for several comparisons.
        p: p value of the paired sign-flip test (`palate.evaluation.statistics.sign_flip_p`, which assumes symmetry).
        holm: p, adjusted for all comparisons made together (Holm 1979).
        verdict: In words. A difference is significant if `holm` is below 0.05, whatever the interval says.
    """

    first: str
    second: str
    value: float
    low: float
    high: float
    p: float
    holm: float
    verdict: str

    @property
    def significant(self) -> bool:
        """Whether the adjusted p value is below 0.05."""
        return self.holm < ALPHA and self.value != 0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All comparisons on one metric.

    Attributes:
        metric: For example ndcg@10.
        part: The slice, for example "all".
        n: Number of users compared.
        differences: One for each pair.
    """

    metric: str
    part: str
    n: int
    differences: tuple[Difference, ...]

    def frame(self) -> pl.DataFrame:
        """One row for each pair, with the fields of `Difference`."""
        return pl.DataFrame([vars(d) for d in self.differences])

    def __str__(self) -> str:
        rows = [
            [
                f"{d.first} - {d.second}",
                f"{d.value:+.4f}",
                f"{d.low:+.4f} to {d.high:+.4f}",
                f"{d.p:.4f}",
                f"{d.holm:.4f}",
            ]
            for d in self.differences
        ]
        lines = [f"{self.metric}, {self.part} rows, {self.n:,} users", ""]
        lines += [*aligned(["pair", "difference", "95 % interval", "p", "p (Holm)"], rows), ""]
        return "\n".join(lines + [d.verdict for d in self.differences])


def compare(
    evaluations: Mapping[str, Evaluation], metric: MetricLike, baseline: str | None = None, part: str = "all"
) -> Comparison:
    """Compare models pair by pair on the users they share.

    Args:
        evaluations: Name -> evaluation; two or more, under the same protocol.
        metric: Name or function of a metric with a value for each user; RMSE and MAE are compared over all ratings.
        baseline: Compare every other model with this one. Defaults to every pair.
        part: The slice.

    Raises:
        ConfigError: Fewer than two models, different protocols, or a metric, slice or baseline that does not exist.
    """
    (metric,) = metric_names([metric])
    kind = _check(evaluations, metric, baseline, part)
    names = list(evaluations)
    pairs = list(combinations(names, 2)) if baseline is None else [(n, baseline) for n in names if n != baseline]
    seed = next(iter(evaluations.values())).protocol.seed
    slices = {name: e.slices[part] for name, e in evaluations.items()}
    sums = {name: user_sums(one.values[metric], one.weights, kind) for name, one in slices.items()}
    shared = np.all([weight > 0 for _, weight in sums.values()], axis=0)
    parts = np.stack([sums[name][0][shared] for name in names], axis=1)
    weight = sums[names[0]][1][shared]
    values = _pooled(parts.sum(0), weight.sum(), kind)
    draws = np.concatenate(
        [_pooled(drawn @ parts, (drawn @ weight)[:, None], kind) for drawn in resamples(len(weight), seed, RESAMPLES)]
    )
    column = {name: i for i, name in enumerate(names)}
    p = [sign_flip_p(parts[:, column[a]] - parts[:, column[b]], seed) for a, b in pairs]
    found = []
    for (a, b), raw, adjusted in zip(pairs, p, holm_adjusted(p), strict=True):
        low, high = interval(draws[:, column[a]] - draws[:, column[b]], len(weight))
        value = float(values[column[a]] - values[column[b]])
        words = _verdict(a, b, metric, kind, (value, low, high), adjusted)
        found.append(
            Difference(first=a, second=b, value=value, low=low, high=high, p=raw, holm=adjusted, verdict=words)
        )
    return Comparison(metric=metric, part=part, n=int(shared.sum()), differences=tuple(found))


def better_of(difference: Difference, metric: str) -> str | None:
    """The better one of two models; None if the difference is not significant or the metric has no better direction."""
    better = METRICS[metric.partition("@")[0]].better
    if not difference.significant or better is None:
        return None
    return difference.first if (difference.value > 0) == (better == "higher") else difference.second


def _check(evaluations: Mapping[str, Evaluation], metric: str, baseline: str | None, part: str) -> Metric:
    if len(evaluations) < 2:
        raise ConfigError(f"a comparison needs at least two evaluations, and got {len(evaluations)}")
    hashes = {name: e.protocol.hash for name, e in evaluations.items()}
    if len(set(hashes.values())) > 1:
        listed = ", ".join(f"{name} {value}" for name, value in hashes.items())
        raise ConfigError(
            f"these evaluations were made under different protocols and cannot be compared ({listed}); "
            "evaluate all models on the same part with the same metrics, candidates and seed"
        )
    if baseline is not None and baseline not in evaluations:
        raise ConfigError(f"there is no evaluation of the baseline {baseline!r}; choose from {', '.join(evaluations)}")
    kind = METRICS.get(metric.partition("@")[0])
    if kind is not None and kind.source == "catalogue":
        raise ConfigError(
            f"{metric} is a property of all lists together and has no value for each user, so there is no paired test; "
            "compare its intervals"
        )
    lacking = [name for name, e in evaluations.items() if metric not in e.slices.get(part, e.slices["all"]).values]
    if kind is None or lacking:
        raise ConfigError(f"{metric!r} was not measured for {', '.join(lacking or evaluations)}")
    if any(part not in e.slices for e in evaluations.values()):
        known = ", ".join(next(iter(evaluations.values())).slices)
        raise ConfigError(f"there is no slice {part!r}; choose from {known}")
    return kind


def _pooled(part: np.ndarray, weight: np.ndarray | float, kind: Metric) -> np.ndarray:
    return np.asarray((part / weight) ** (1 / kind.power))


def _verdict(a: str, b: str, metric: str, kind: Metric, difference: tuple[float, float, float], p: float) -> str:
    """One sentence, which says so if interval and test disagree: the test decides."""
    value, low, high = difference
    if p >= ALPHA or value == 0:
        odd = "; the interval excludes 0, but the adjusted p value decides" if low * high > 0 else ""
        return (
            f"no significant difference between {a} and {b} on {metric}: {value:+.4f} "
            f"(95 % interval {low:+.4f} to {high:+.4f}, adjusted p = {p:.3f}{odd})"
        )
    if kind.better is None:
        first, verb = value > 0, "has a higher value than"
    else:
        first, verb = (value > 0) == (kind.better == "higher"), "is better than"
    winner, loser = (a, b) if first else (b, a)
    # The difference as a positive number, in favour of the one that is named first.
    ends = (low, high) if value > 0 else (-high, -low)
    odd = "; the interval includes 0, but the adjusted p value decides" if low * high <= 0 else ""
    p_words = f"adjusted p {f'= {p:.3f}' if p >= 0.001 else '< 0.001'}"
    return (
        f"{winner} {verb} {loser} on {metric} by {abs(value):.4f} "
        f"(95 % interval {ends[0]:.4f} to {ends[1]:.4f}, {p_words}{odd})"
    )
