"""What a table holds, at a glance: counts, ratings, time span, how active users and how popular items are, faults."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import numpy as np
import polars as pl

_QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
_BAR = 30


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Counts and faults of a table; everything but `rows` is about the rows without a fault.

    Attributes:
        label: The file, query or frame.
        columns: (name, what it holds, role or "" where it is not used).
        rows: Data rows read, without empty lines.
        interactions, users, items: After faulty rows and duplicates were left out.
        density: Share of all user-item pairs that are there; sparsity is 1 - density.
        ratings: (lowest, highest, count) of each bar of the histogram, ascending; at most 20 values have a bar each.
        time_span: First and last second since 1970 UTC; None without time.
        tied: Share of rows whose user has another row in the same second.
        per_user, per_item: Rows of the user / item at quantiles 0, 0.25, 0.5, 0.75, 0.9, 1.
        duplicates: Rows merged into others.
        faults, notes: What `read_interactions` would raise, and what it would say.
    """

    label: str
    columns: tuple[tuple[str, str, str], ...]
    rows: int = 0
    interactions: int
    users: int
    items: int
    density: float
    ratings: tuple[tuple[float, float, int], ...] = ()
    time_span: tuple[int, int] | None = None
    tied: float = 0.0
    per_user: tuple[int, ...] = ()
    per_item: tuple[int, ...] = ()
    duplicates: int = 0
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The inspection as aligned text."""
        width = max([len(name) for name, _, _ in self.columns], default=0)
        out = [self.label, "", "columns"]
        out += [f"  {name:{width}}  {kind:13}  {role or '-'}" for name, kind, role in self.columns]
        out += ["", f"{'rows':14}{self.rows:>13,}"]
        for name in ("interactions", "users", "items", "duplicates"):
            out.append(f"{name:14}{getattr(self, name):>13,}")
        out.append(f"{'sparsity':14}{1 - self.density:>13.4%}")
        if self.time_span is not None:
            first, last = (str(np.datetime64(second, "s"))[:-3].replace("T", " ") for second in self.time_span)
            out += [f"{'time':14}{first} to {last} UTC", f"{'tied in time':14}{self.tied:>13.2%}"]
        if self.per_user:
            heads = "".join(f"{head:>9}" for head in ("least", "25 %", "median", "75 %", "90 %", "most"))
            out += ["", f"{'rows for each':14}{heads}"]
            for name, values in (("user", self.per_user), ("item", self.per_item)):
                out.append(f"  {name:12}" + "".join(f"{value:>9,}" for value in values))
        if self.ratings:
            out += ["", "ratings", *_bars(self.ratings)]
        for title, texts in (("notes", self.notes), ("faults", self.faults)):
            out += ["", title] if texts else []
            for text in texts:
                out += textwrap.wrap(text, 120, initial_indent="  - ", subsequent_indent="    ")
        return out

    def __str__(self) -> str:
        return "\n".join(self.lines())


def describe(label: str, columns: tuple[tuple[str, str, str], ...], frame: pl.DataFrame) -> Inspection:
    """The counts of checked rows (`palate.data.table.inspect` adds faults and notes)."""
    users, items = (frame[key].n_unique() if key in frame.columns else 0 for key in ("user_id", "item_id"))
    seconds = frame["timestamp"].drop_nulls() if "timestamp" in frame.columns else pl.Series(dtype=pl.Int64)
    tied = 0.0
    if len(seconds) and users:
        same = frame.group_by("user_id", "timestamp").len().filter(pl.col("len") > 1)["len"].sum()
        tied = float(same) / frame.height
    return Inspection(
        label=label,
        columns=columns,
        interactions=frame.height,
        users=users,
        items=items,
        density=frame.height / (users * items) if users and items else 0.0,
        ratings=_histogram(frame["rating"]) if "rating" in frame.columns else (),
        time_span=(int(seconds.min()), int(seconds.max())) if len(seconds) else None,  # type: ignore[arg-type]
        tied=tied,
        per_user=_quantiles(frame, "user_id"),
        per_item=_quantiles(frame, "item_id"),
    )


def _quantiles(frame: pl.DataFrame, key: str) -> tuple[int, ...]:
    if key not in frame.columns or frame.is_empty():
        return ()
    counts = frame.group_by(key).len()["len"]
    return tuple(int(counts.quantile(q, "nearest") or 0) for q in _QUANTILES)


def _histogram(ratings: pl.Series) -> tuple[tuple[float, float, int], ...]:
    if ratings.is_empty():
        return ()
    if ratings.n_unique() <= 20:
        return tuple((value, value, count) for value, count in ratings.value_counts().sort("rating").rows())
    low, high = float(ratings.min()), float(ratings.max())  # type: ignore[arg-type]
    width = (high - low) / 10
    place = ((ratings.cast(pl.Float64) - low) / width).floor().cast(pl.Int64).clip(0, 9)
    counts = dict(place.alias("place").value_counts().rows())
    return tuple((low + k * width, low + (k + 1) * width, counts.get(k, 0)) for k in range(10))


def _bars(ratings: tuple[tuple[float, float, int], ...]) -> list[str]:
    most = max(count for _, _, count in ratings)
    names = [f"{low:g}" if low == high else f"{low:.4g} to {high:.4g}" for low, high, _ in ratings]
    width = max(map(len, names))
    return [
        f"  {name:>{width}}  {'█' * round(_BAR * count / most):{_BAR}}  {count:>11,}"
        for name, (_, _, count) in zip(names, ratings, strict=True)
    ]
