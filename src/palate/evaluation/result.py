"""Evaluation: what `evaluate` found: values of each user, means with intervals, slices, routes; JSON-able."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from palate.config import from_dict, to_dict
from palate.errors import ConfigError
from palate.evaluation.metrics import METRICS, Metric
from palate.evaluation.protocol import Protocol
from palate.evaluation.statistics import bootstrap_means, interval

FORMAT = 1
"""Of `Evaluation.to_dict`; another number is refused."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its 95 % interval.

    Attributes:
        value: Over the users that have one.
        low, high: Percentile bootstrap over users.
        n: Users behind it.
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{number(self.value)} ({number(self.low)} to {number(self.high)})"


@dataclass(frozen=True, eq=False, kw_only=True)
class Slice:
    """One kind of rows.

    Attributes:
        rows: Rows of the part that are of this kind.
        users: People they belong to.
        ratings: How many predicted rows each user has, int64 `[U]`; the weights of rmse and mae.
        values: Metric -> value of each user, float64 `[U]`, NaN for a user without one. rmse and mae: the user's own.
        estimates: Metric -> mean and interval.
    """

    rows: int
    users: int
    ratings: np.ndarray
    values: dict[str, np.ndarray]
    estimates: dict[str, Estimate]


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """How one model did on one part under one protocol.

    Attributes:
        model: Its name.
        protocol: The conditions; results compare only under equal hashes.
        users: Ids of the U people judged.
        slices: "all" first; where the part holds new users or items also "warm" (neither new), "new_user", "new_item".
        routes: Share of the people answered as a known user, by history, by popularity.
        exposure: How many lists each item stands in, int64 `[n_items]`; lists as long as coverage and gini ask for.
        popularity: Training interactions of each item, int64 `[n_items]`.
        seconds: "predict", and "fit" where it was told.
        notes: What a reader must know, in words.
    """

    model: str
    protocol: Protocol
    users: pl.Series
    slices: dict[str, Slice]
    routes: dict[str, float]
    exposure: np.ndarray
    popularity: np.ndarray
    seconds: dict[str, float]
    notes: tuple[str, ...] = field(default=())

    def __getitem__(self, metric: str) -> Estimate:
        """The estimate over all rows."""
        if metric not in self.estimates:
            raise ConfigError(f"{metric!r} was not measured for {self.model}; there is {', '.join(self.estimates)}")
        return self.estimates[metric]

    @property
    def estimates(self) -> dict[str, Estimate]:
        """Metric -> mean and interval over all rows."""
        return self.slices["all"].estimates

    @property
    def values(self) -> dict[str, np.ndarray]:
        """Metric -> value of each user over all rows."""
        return self.slices["all"].values

    def frame(self, part: str = "all") -> pl.DataFrame:
        """One row for each user: `user_id` and a column for each metric of a slice; null where a user has no value."""
        columns = {name: pl.Series(name, values).fill_nan(None) for name, values in self.slices[part].values.items()}
        return pl.DataFrame({"user_id": self.users, **columns})

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values, each user's included."""
        return {
            "format": FORMAT,
            "model": self.model,
            "hash": self.protocol.hash,
            "protocol": self.protocol.to_dict(),
            "users": self.users.to_list(),
            "slices": {name: _slice_to_dict(part) for name, part in self.slices.items()},
            "routes": dict(self.routes),
            "exposure": self.exposure.tolist(),
            "popularity": self.popularity.tolist(),
            "seconds": dict(self.seconds),
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Evaluation:
        """From `to_dict`'s values.

        Raises:
            ConfigError: Another format, a missing key, or a hash that is not the protocol's (it was edited).
        """
        if values.get("format") != FORMAT:
            raise ConfigError(f"evaluation format {values.get('format')!r} is not {FORMAT}, the one this version reads")
        try:
            protocol = Protocol.from_dict(dict(values["protocol"]))
            if values["hash"] != protocol.hash:
                raise ConfigError(f"the protocol was edited: its hash is {protocol.hash}, not {values['hash']}")
            return cls(
                model=values["model"],
                protocol=protocol,
                users=pl.Series("user_id", values["users"]),
                slices={name: _slice_from_dict(part) for name, part in values["slices"].items()},
                routes=dict(values["routes"]),
                exposure=np.array(values["exposure"], dtype=np.int64),
                popularity=np.array(values["popularity"], dtype=np.int64),
                seconds=dict(values["seconds"]),
                notes=tuple(values["notes"]),
            )
        except KeyError as error:
            raise ConfigError(f"this evaluation lacks {error.args[0]!r}; write it again with to_dict") from error

    def __str__(self) -> str:
        others = [name for name in self.slices if name != "all"]
        rows = [
            [name, number(e.value), f"{number(e.low)} to {number(e.high)}", f"{e.n:,}"]
            + [
                number(self.slices[s].estimates[name].value if name in self.slices[s].estimates else math.nan)
                for s in others
            ]
            for name, e in self.estimates.items()
        ]
        judged = f"{self.slices['all'].rows:,} rows of {len(self.users):,} users"
        lines = [f"{self.model}: {judged}, protocol {self.protocol.hash}"]
        lines += ["", *aligned(["metric", "value", "95 % interval", "users", *others], rows), ""]
        lines += [f"{name}: {self.slices[name].rows:,} rows of {self.slices[name].users:,} users" for name in others]
        lines += ["answered by " + ", ".join(f"{name} {share:.1%}" for name, share in self.routes.items() if share)]
        lines += [", ".join(f"{seconds:.1f} s to {what}" for what, seconds in self.seconds.items()), *self.notes]
        return "\n".join(lines)


def estimates(values: Mapping[str, np.ndarray], ratings: np.ndarray, seed: int) -> dict[str, Estimate]:
    """Mean and interval of each metric's values over users; metrics nobody has a value of are left out."""
    known = {name: column for name, column in values.items() if not np.isnan(column).all()}
    if not known:
        return {}
    kinds = [METRICS[name.partition("@")[0]] for name in known]
    parts, weights = zip(*(sums(c, ratings, kind) for c, kind in zip(known.values(), kinds, strict=True)), strict=True)
    part, weight = np.stack(parts, axis=1), np.stack(weights, axis=1)
    means, draws = part.sum(0) / weight.sum(0), bootstrap_means(part, weight, seed)
    found = {}
    for column, (name, kind) in enumerate(zip(known, kinds, strict=True)):
        low, high = interval(draws[:, column] ** (1 / kind.power))
        value = float(means[column] ** (1 / kind.power))
        found[name] = Estimate(value=value, low=low, high=high, n=int((weight[:, column] > 0).sum()))
    return found


def sums(values: np.ndarray, ratings: np.ndarray, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """What each user adds to a metric's numerator and denominator; 0 and 0 where there is no value."""
    there = ~np.isnan(values)
    weight = np.where(there, ratings if metric.weigh else 1, 0).astype(np.float64)
    return np.where(there, values, 0.0) ** metric.power * weight, weight


def number(value: float) -> str:
    """Four decimals below 10, fewer above."""
    if math.isnan(value):
        return "-"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"


def aligned(header: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table: the first column to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, ["-" * w for w in widths], *rows]:
        cells = [row[0].ljust(widths[0])] + [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines


def _slice_to_dict(part: Slice) -> dict[str, Any]:
    return {
        "rows": part.rows,
        "users": part.users,
        "ratings": part.ratings.tolist(),
        "values": {name: _plain(values) for name, values in part.values.items()},
        "estimates": {name: _numbers(to_dict(e)) for name, e in part.estimates.items()},
    }


def _slice_from_dict(values: Mapping[str, Any]) -> Slice:
    nan = float("nan")
    return Slice(
        rows=values["rows"],
        users=values["users"],
        ratings=np.array(values["ratings"], dtype=np.int64),
        values={name: np.array(column, dtype=np.float64) for name, column in values["values"].items()},
        estimates={
            name: from_dict(Estimate, {k: nan if v is None else v for k, v in e.items()})
            for name, e in values["estimates"].items()
        },
    )


def _plain(values: np.ndarray) -> list[float | None]:
    return [None if math.isnan(v) else v for v in values.tolist()]


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}
