"""compare(): which of several evaluated models is better on a metric, by how much, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import polars as pl

from palate.errors import ConfigError
from palate.evaluation.metrics import METRICS, Metric
from palate.evaluation.result import Evaluation, aligned, sums
from palate.evaluation.statistics import RESAMPLES, interval, resamples, sign_flip_p
from palate.evaluation.statistics import holm as holm_adjusted

ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two models on the same users.

    Attributes:
        first, second: Their names.
        value: First's metric minus second's.
        low, high: 95 % interval of the difference, paired bootstrap over users.
        p: Of "no difference": paired sign-flip test on what each user adds to the metric.
        holm: p, adjusted for all comparisons made together (Holm 1979).
        verdict: In words; a difference counts where `holm` is below 0.05.
    """

    first: str
    second: str
    value: float
    low: float
    high: float
    p: float
    holm: float
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All comparisons on one metric.

    Attributes:
        metric: For example ndcg@10.
        part: The slice, for example "all".
        n: Users compared.
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
    evaluations: Mapping[str, Evaluation], metric: str, baseline: str | None = None, part: str = "all"
) -> Comparison:
    """Compare models pair by pair on the users they share.

    Args:
        evaluations: Name -> evaluation; two or more, under one protocol.
        metric: A metric with a value for each user; rmse and mae are compared as pooled over all ratings.
        baseline: Compare every other model with this one; default: every pair.
        part: The slice.

    Raises:
        ConfigError: Fewer than two models, different protocols, or a metric, slice or baseline that is not there.
    """
    kind = _check(evaluations, metric, baseline, part)
    names = list(evaluations)
    pairs = list(combinations(names, 2)) if baseline is None else [(n, baseline) for n in names if n != baseline]
    any_one = next(iter(evaluations.values()))
    seed = any_one.protocol.seed
    added = {name: sums(e.slices[part].values[metric], e.slices[part].ratings, kind) for name, e in evaluations.items()}
    shared = np.all([weight > 0 for _, weight in added.values()], axis=0)
    parts = np.stack([added[name][0][shared] for name in names], axis=1)
    weight = added[names[0]][1][shared]
    values = _pooled(parts.sum(0), weight.sum(), kind)
    draws = np.concatenate(
        [_pooled(drawn @ parts, (drawn @ weight)[:, None], kind) for drawn in resamples(len(weight), seed, RESAMPLES)]
    )
    at = {name: i for i, name in enumerate(names)}
    p = [sign_flip_p(parts[:, at[a]] - parts[:, at[b]], seed) for a, b in pairs]
    found = []
    for (a, b), raw, adjusted in zip(pairs, p, holm_adjusted(p), strict=True):
        low, high = interval(draws[:, at[a]] - draws[:, at[b]])
        value = float(values[at[a]] - values[at[b]])
        words = _verdict(a, b, metric, kind, (value, low, high), adjusted)
        found.append(
            Difference(first=a, second=b, value=value, low=low, high=high, p=raw, holm=adjusted, verdict=words)
        )
    return Comparison(metric=metric, part=part, n=int(shared.sum()), differences=tuple(found))


def _check(evaluations: Mapping[str, Evaluation], metric: str, baseline: str | None, part: str) -> Metric:
    if len(evaluations) < 2:
        raise ConfigError(f"a comparison needs two evaluations or more, not {len(evaluations)}")
    hashes = {name: e.protocol.hash for name, e in evaluations.items()}
    if len(set(hashes.values())) > 1:
        told = ", ".join(f"{name} {value}" for name, value in hashes.items())
        raise ConfigError(
            f"these evaluations were made under different protocols and cannot be compared ({told}); "
            "evaluate all models on the same part with the same metrics, candidates and seed"
        )
    if baseline is not None and baseline not in evaluations:
        raise ConfigError(f"the baseline {baseline!r} is not among {', '.join(evaluations)}")
    kind = METRICS.get(metric.partition("@")[0])
    if kind is not None and kind.of == "catalogue":
        raise ConfigError(
            f"{metric} belongs to all lists together, not to users: it has an interval but no paired test"
        )
    lacking = [name for name, e in evaluations.items() if metric not in e.slices.get(part, e.slices["all"]).values]
    if kind is None or lacking:
        raise ConfigError(f"{metric!r} was not measured for {', '.join(lacking or evaluations)}")
    if any(part not in e.slices for e in evaluations.values()):
        raise ConfigError(f"there is no slice {part!r}; there is {', '.join(next(iter(evaluations.values())).slices)}")
    return kind


def _pooled(part: np.ndarray, weight: np.ndarray | float, kind: Metric) -> np.ndarray:
    return np.asarray((part / weight) ** (1 / kind.power))


def _verdict(a: str, b: str, metric: str, kind: Metric, difference: tuple[float, float, float], holm: float) -> str:
    value, low, high = difference
    if holm >= ALPHA or value == 0:
        return f"no difference between {a} and {b} is shown on {metric} ({value:+.4f}, 95 % {low:+.4f} to {high:+.4f})"
    if kind.better is None:
        more, less = (a, b) if value > 0 else (b, a)
        verb = "is above"
    else:
        more, less = (a, b) if (value > 0) == (kind.better == "higher") else (b, a)
        verb = "beats"
    ends = sorted((abs(low), abs(high))) if low * high > 0 else [low, high] if value > 0 else [-high, -low]
    return f"{more} {verb} {less} by {abs(value):.4f} {metric} (95 % {ends[0]:.4f} to {ends[1]:.4f})"
