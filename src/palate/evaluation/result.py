"""Evaluation: the result of `evaluate`: values of each user, means with intervals, slices, routes; JSON-able."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from palate.config import from_dict, to_dict
from palate.errors import ConfigError
from palate.evaluation.measure import Measured, Task, slices, why_no_ratings
from palate.evaluation.metrics import METRICS, Weights, user_sums
from palate.evaluation.protocol import Protocol
from palate.evaluation.statistics import FEW_USERS, bootstrap_catalogue, bootstrap_means, interval

FORMAT = 1
"""Version of `Evaluation.to_dict`; other versions are refused."""
CATALOGUE_RESAMPLES = 200


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its 95 % interval.

    Attributes:
        value: The mean over the users that have a value.
        low, high: Bootstrap interval over users (`palate.evaluation.statistics.interval`).
        n: Number of users that have a value.
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{number(self.value)} ({number(self.low)} to {number(self.high)})"


@dataclass(frozen=True, eq=False, kw_only=True)
class Slice:
    """The results on one kind of rows.

    Attributes:
        rows: Number of rows of this kind in the part.
        users: Number of users with such rows.
        weights: How much each user counts in the means.
        values: Metric -> value of each user, float64 `[U]`, NaN for a user without a value. For rmse and mae: the
            user's own RMSE and MAE.
        estimates: Metric -> mean and interval.
    """

    rows: int
    users: int
    weights: Weights
    values: dict[str, np.ndarray]
    estimates: dict[str, Estimate]


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """The results of one model on one part under one protocol.

    Attributes:
        model: Name of the model.
        protocol: The protocol; results can be compared only if its hash is equal.
        users: Ids of the U evaluated users.
        slices: "all" first; if the part has new users or items also "warm" (neither is new), "new_user" and "new_item".
        routes: Share of the users by route: known_user, history, content, popularity_within and popularity of the
            lists; if only ratings are evaluated, `fallback` (mean ratings) instead of the two popularities.
        exposure: Number of lists that hold each item of the catalogue, int64 `[n_items]`. Lists are as long as coverage
            and gini ask for.
        popularity: Training interactions of each item, int64 `[n_items]`.
        seconds: Wall time: "predict", and "fit" if it was passed.
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
            raise ConfigError(f"{metric!r} was not measured for {self.model}; choose from {', '.join(self.estimates)}")
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
        """The values of each user on one slice.

        Args:
            part: A key of `slices`.

        Returns:
            `user_id`, with the ids of the data, and a column for each metric; null for a user without a value.

        Raises:
            ConfigError: There is no such slice.
        """
        if part not in self.slices:
            raise ConfigError(f"part = {part!r} is no slice of this evaluation; it has {', '.join(self.slices)}")
        columns = {name: pl.Series(name, values).fill_nan(None) for name, values in self.slices[part].values.items()}
        return pl.DataFrame({"user_id": self.users, **columns})

    def summary(self) -> pl.DataFrame:
        """The means of all slices.

        Returns:
            One row for each slice and metric: `slice`, `metric`, `value`, `low` and `high` (the 95 % interval), `n`
            (the users that have a value), and the `rows` and `users` of the slice.
        """
        columns = ("slice", "metric", "value", "low", "high", "n", "rows", "users")
        found = [
            (name, metric, e.value, e.low, e.high, e.n, part.rows, part.users)
            for name, part in self.slices.items()
            for metric, e in part.estimates.items()
        ]
        types = [pl.String, pl.String, *[pl.Float64] * 3, *[pl.Int64] * 3]
        return pl.DataFrame(found, schema=dict(zip(columns, types, strict=True)), orient="row")

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values, including those of each user."""
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
        """From the values of `to_dict`.

        Raises:
            ConfigError: The format is another, a key is missing, or the protocol was edited (its hash differs).
        """
        if values.get("format") != FORMAT:
            raise ConfigError(
                f"this evaluation has format {values.get('format')!r}, and this version reads format {FORMAT}; "
                "evaluate again"
            )
        try:
            protocol = Protocol.from_dict(dict(values["protocol"]))
            if values["hash"] != protocol.hash:
                raise ConfigError(
                    f"the protocol was edited: its hash is {protocol.hash}, and the evaluation was made under "
                    f"{values['hash']}; evaluate again"
                )
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
        size = f"{self.slices['all'].rows:,} rows of {len(self.users):,} users"
        lines = [f"{self.model}: {size}, protocol {self.protocol.hash}"]
        lines += ["", *aligned(["metric", "value", "95 % interval", "users", *others], rows), ""]
        lines += [f"{name}: {self.slices[name].rows:,} rows of {self.slices[name].users:,} users" for name in others]
        lines += ["users by route: " + ", ".join(f"{name} {share:.1%}" for name, share in self.routes.items() if share)]
        lines += [", ".join(f"{seconds:.1f} s to {what}" for what, seconds in self.seconds.items()), *self.notes]
        return "\n".join(lines)


def slice_results(task: Task, users: np.ndarray, measured: Measured) -> dict[str, Slice]:
    """Values and intervals of each slice; only "all" if the part has no new users or items."""
    found = {}
    for kind, mask in slices(task.part, task.part.user, task.part.item, task.model.spec).items():
        if kind == "warm" and mask.all():
            continue
        weights = measured.weights(kind)
        values = {name: measured.values[kind, name] for name in task.wanted if (kind, name) in measured.values}
        found[kind] = Slice(
            rows=int(mask.sum()),
            users=len(np.unique(task.part.user[mask])),
            weights=weights,
            values=values,
            estimates=estimate_means(values, weights, task.protocol.seed),
        )
    return found


def estimate_means(values: Mapping[str, np.ndarray], weights: Weights, seed: int) -> dict[str, Estimate]:
    """Mean and interval of each metric over users; metrics without any value are omitted.

    Args:
        values: Metric -> value of each user, NaN for a user without a value, `[U]`.
        weights: How much each user counts.
        seed: Seed of the resamples.
    """
    known = {name: column for name, column in values.items() if not np.isnan(column).all()}
    if not known:
        return {}
    kinds = [METRICS[name.partition("@")[0]] for name in known]
    sums = [user_sums(column, weights, kind) for column, kind in zip(known.values(), kinds, strict=True)]
    part, weight = (np.stack(columns, axis=1) for columns in zip(*sums, strict=True))
    means, draws = part.sum(0) / weight.sum(0), bootstrap_means(part, weight, seed)
    found = {}
    for column, (name, kind) in enumerate(zip(known, kinds, strict=True)):
        n = int((weight[:, column] > 0).sum())
        low, high = interval(draws[:, column] ** (1 / kind.power), n)
        found[name] = Estimate(value=float(means[column] ** (1 / kind.power)), low=low, high=high, n=n)
    return found


def estimate_catalogue(task: Task, measured: Measured) -> dict[str, Estimate]:
    """Coverage and Gini with intervals.

    A resample of lists has fewer distinct lists and so covers less. The resampled values are therefore shifted to the
    value itself, and only their spread is used; an interval of few distinct values is widened to hold the value.
    """
    found = {}
    n_items = task.model.spec.n_items
    for name in task.names("catalogue"):
        metric, k = task.wanted[name]
        listed = measured.listed[:, :k].numpy()
        exposure = np.bincount(listed[listed >= 0], minlength=n_items)
        assert metric.function is not None  # only rating metrics have none
        value = metric.function(exposure)
        draws = bootstrap_catalogue(listed, n_items, [metric.function], task.protocol.seed, CATALOGUE_RESAMPLES)
        low, high = interval(np.clip(draws[:, 0] - draws.mean() + value, 0.0, 1.0), len(listed))
        found[name] = Estimate(value=value, low=min(low, value), high=max(high, value), n=len(listed))
    return found


def reader_notes(task: Task, measured: Measured, found: Mapping[str, Slice], asked: Sequence[str]) -> tuple[str, ...]:
    """What a reader of the results must know, in words.

    Args:
        task: What was measured.
        measured: Counts.
        found: The slices.
        asked: Metrics that the caller named.
    """
    notes = []
    if any(name not in task.wanted for name in asked) and (reason := why_no_ratings(task.model, task.part)) is not None:
        notes.append(reason)
    if measured.unreachable:
        notes.append(
            f"{measured.unreachable:,} of {measured.targets:,} targets count as missed: new items that the model "
            "cannot score, or items the user already has"
        )
    users = {name: max((e.n for e in part.estimates.values()), default=0) for name, part in found.items()}
    few = [f"{name} ({n})" for name, n in users.items() if 0 < n < FEW_USERS]
    if few:
        notes.append(f"intervals over fewer than {FEW_USERS} users tend to be too narrow: {', '.join(few)}")
    return tuple(notes)


def number(value: float) -> str:
    """Four decimals below 10, fewer above; "-" for NaN."""
    if math.isnan(value):
        return "-"
    return f"{value:z.4f}" if abs(value) < 10 else f"{value:,.1f}"


def aligned(header: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table: the first column is aligned left, the others right."""
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
        "ratings": part.weights.ratings.tolist(),
        **({} if (part.weights.questions == 1).all() else {"questions": part.weights.questions.tolist()}),
        "values": {name: _nan_to_none(values) for name, values in part.values.items()},
        "estimates": {name: _without_nan(to_dict(e)) for name, e in part.estimates.items()},
    }


def _slice_from_dict(values: Mapping[str, Any]) -> Slice:
    nan = float("nan")
    ratings = np.array(values["ratings"], dtype=np.int64)
    questions = np.array(values.get("questions", np.ones_like(ratings)), dtype=np.int64)
    return Slice(
        rows=values["rows"],
        users=values["users"],
        weights=Weights(ratings, questions),
        values={name: np.array(column, dtype=np.float64) for name, column in values["values"].items()},
        estimates={
            name: from_dict(Estimate, {k: nan if v is None else v for k, v in e.items()})
            for name, e in values["estimates"].items()
        },
    )


def _nan_to_none(values: np.ndarray) -> list[float | None]:
    return [None if math.isnan(v) else v for v in values.tolist()]


def _without_nan(values: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}
