"""What a table holds at a glance: of interactions counts, ratings, times and faults; of a side table its columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from palate.data.features.infer import ColumnReport, infer_columns
from palate.data.reading.formats import open_table
from palate.data.reading.interactions import check_source
from palate.data.reading.side_tables import read_side
from palate.data.reading.table import KNOWN_NAMES, Columns, find_columns, find_id_column
from palate.errors import DataError, MissingExtra

_QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
_BAR_WIDTH = 30


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Counts and faults of a table of interactions; all numbers except `rows` are of the rows without a fault.

    Attributes:
        label: The file, query or frame.
        columns: (name, what it holds, role or "" if it is not used).
        rows: Number of data rows, without empty lines.
        interactions, users, items: Counts without faulty rows and duplicates.
        density: Share of all user-item pairs that occur; sparsity is 1 - density.
        ratings: (lowest, highest, count) of each bar of the histogram, ascending; up to 20 values have a bar each.
        time_span: First and last second since 1970 UTC; None without timestamps.
        tied: Share of rows whose user has another row in the same second.
        per_user, per_item: Rows of a user / item at quantiles 0, 0.25, 0.5, 0.75, 0.9, 1.
        duplicates: Number of rows merged into others.
        faults, notes: What `read_interactions` would raise, and its notes.
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


@dataclass(frozen=True, kw_only=True)
class SideInspection:
    """The columns of a table of items or users.

    Attributes:
        label: The file, query or frame.
        key: "item_id" or "user_id".
        rows: Number of items or users.
        columns: All columns except the ids.
        notes: How many images cannot be used, and why.
        faults: Empty; a side table with faults is an error.
    """

    label: str
    key: str
    rows: int
    columns: tuple[ColumnReport, ...]
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The inspection as aligned text."""
        cells = [("column", "kind", "missing", "examples")]
        for one in self.columns:
            kind = f"{one.kind or '-'}{' (declared)' if one.declared else ''}"
            cells.append((one.name, kind, f"{one.missing:.1%}", one.why or ", ".join(one.examples)))
        widths = [max(len(row[k]) for row in cells) for k in range(3)]
        out = [f"{self.label}: {self.rows:,} {self.key.removesuffix('_id')}s", ""]
        for name, kind, missing, examples in cells:
            start = f"  {name:{widths[0]}}  {kind:{widths[1]}}  {missing:>{widths[2]}}  "
            out.append((start + textwrap.shorten(examples, 120 - len(start), placeholder=" ...")).rstrip())
        wrapped = (textwrap.wrap(note, 116, initial_indent="  - ", subsequent_indent="    ") for note in self.notes)
        return [*out, *(["", "notes"] if self.notes else []), *(line for lines in wrapped for line in lines)]

    def __str__(self) -> str:
        return "\n".join(self.lines())


def inspect(source: Any, **options: Any) -> Inspection:
    """Inspect a table of interactions. Faults are listed, not raised.

    Args:
        source: As in `read_interactions`.
        options: Those of `read_interactions`.

    Raises:
        DataError: The source cannot be read as a table.
        ConfigError: An option is out of range.
    """
    table, frame, roles, findings = check_source(source, **options)
    role_of = {name: role for role, name in roles.items()}
    columns = tuple((n, k, str(role_of.get(n, ""))) for n, k in zip(table.names, table.kinds, strict=True))
    return replace(
        _count(table.label, columns, frame),
        rows=len(findings.rows),
        duplicates=findings.merged,
        faults=tuple(findings.texts),
        notes=tuple(findings.notes),
    )


def inspect_side(
    source: Any, kinds: dict[str, str] | None = None, columns: Columns | None = None, **options: Any
) -> SideInspection | None:
    """Inspect a table of items or users.

    Args:
        source: As in `read_side`.
        kinds: Declared kinds of its columns.
        columns: Names of the columns of ids, for example `{"item_id": "ArticleNo"}`. Default to the usual names.
        options: Other options of `read_side`.

    Returns:
        None if the source is not a side table: it has both users and items, or neither.

    Raises:
        DataError: The ids are empty or repeated, or a column is not of its declared kind.
    """
    table = open_table(source, known=[*KNOWN_NAMES, "id"], **options)
    roles, _ = find_columns(table, columns)
    if {"user_id", "item_id"} <= set(roles):
        return None
    key = next((key for key in ("item_id", "user_id") if key in roles), "item_id")
    try:
        name = find_id_column(table, key, mapping=columns)
    except DataError:
        return None
    try:
        frame = read_side(source, key, id_column=name, **options)
    except DataError:
        if "rating" in roles:  # interactions whose column of users has an unusual name
            return None
        raise
    reports = tuple(infer_columns(frame, key, kinds or {}))
    notes = tuple(_image_notes(frame, key, reports))
    return SideInspection(label=table.label, key=key, rows=frame.height, columns=reports, notes=notes)


def _image_notes(frame: pl.DataFrame, key: str, reports: Sequence[ColumnReport]) -> Iterator[str]:
    """Which images cannot be used. They are decoded, once: training finds them in the cache."""
    for name in [one.name for one in reports if one.kind == "image"]:
        from palate.data.features.encode import IMAGE_SIZE
        from palate.data.features.images import read_images

        try:
            yield from read_images(frame[name], IMAGE_SIZE, frame[key])[1]
        except MissingExtra as error:
            yield f"{name}: the images were not checked: {error}"


def _count(label: str, columns: tuple[tuple[str, str, str], ...], frame: pl.DataFrame) -> Inspection:
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
        f"  {name:>{width}}  {'█' * round(_BAR_WIDTH * count / most):{_BAR_WIDTH}}  {count:>11,}"
        for name, (_, _, count) in zip(names, ratings, strict=True)
    ]
