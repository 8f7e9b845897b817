"""The last phase of an ingestion: filters, side tables, and the data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from palate.config import to_dict
from palate.data.events import Events
from palate.data.external_sort import ColumnFiles, read_records, record_type
from palate.data.ids import IdMap, fingerprint_of, unliked_note
from palate.data.layout import read_columns, replace_folder, write_manifest
from palate.data.reading.ingest.state import WorkFolder
from palate.data.reading.interactions import Scale, removed_rows
from palate.data.reading.side_tables import read_side
from palate.data.reading.table import Columns
from palate.errors import DataError

_CHUNK_ROWS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Interactions to leave out, as in `palate.data.reading.interactions.filter_interactions`.

    Attributes:
        min_rating: Lowest rating to keep.
        min_user, min_item: Minimum number of interactions of each remaining user and item.
    """

    min_rating: float | None = None
    min_user: int = 0
    min_item: int = 0


@dataclass(frozen=True, kw_only=True)
class Side:
    """A side table and how it is read.

    Attributes:
        source: As in `palate.data.reading.read_side`.
        id_column: Name of its column of ids.
        kinds: Declared kinds of its columns.
    """

    source: Any = None
    id_column: str | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)

    def read(self, key: str, dtype: Any, columns: Columns | None, connection: Any) -> pl.DataFrame | None:
        """The table; None if there is none."""
        if self.source is None:
            return None
        return read_side(self.source, key, dtype, id_column=self.id_column, mapping=columns, connection=connection)


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is written beside the rows.

    Attributes:
        out: Folder of the data set.
        items, users: Side tables.
        filters: Interactions to leave out.
        rating_scale: Lowest and highest possible rating. Defaults to those of the data.
        events: How the rows are to be read.
        columns, connection: As in `read_interactions`.
    """

    out: Path
    items: Side
    users: Side
    filters: Filters
    rating_scale: Scale | None
    events: Events
    columns: Columns | None
    connection: Any


Keep = Callable[[np.ndarray], np.ndarray]


def write(work: WorkFolder, target: Target, columns: list[str]) -> dict[str, Any]:
    """Write the data set from the sorted shards.

    Args:
        work: The work folder.
        target: What is written.
        columns: Those of the shards.

    Returns:
        The entries of its manifest.

    Raises:
        DataError: The filters leave no rows, or a side table has faults.
    """
    ids = {name: pl.read_parquet(work.folder / f"{name}.parquet")["id"] for name in ("users", "items")}
    rows = _Shards(work, columns)
    keep, notes, counts = _filtered(rows, {name: len(values) for name, values in ids.items()}, target.filters)
    kept = {name: counts[name] > 0 for name in ids}
    numbers = {name: np.cumsum(mask, dtype=np.int32) - np.int32(1) for name, mask in kept.items()}
    ids = {name: values.filter(pl.Series(kept[name])) for name, values in ids.items()}
    total = int(counts["users"].sum())
    notes = [*work.state.checks.notes, *notes]
    with replace_folder(target.out) as new:
        low, high, unliked = np.inf, -np.inf, 0
        with ColumnFiles(new, columns, total) as files:
            for chunk in rows.chunks():
                chunk = chunk[keep(chunk)]
                chunk["user"], chunk["item"] = numbers["users"][chunk["user"]], numbers["items"][chunk["item"]]
                files.append(chunk)
                if "rating" in columns:
                    rating = chunk["rating"]
                    low, high = float(rating.min(initial=low)), float(rating.max(initial=high))
                    unliked += int((rating <= 0).sum())
        for name, values in ids.items():
            values.to_frame().write_parquet(new / f"{name}.parquet")
        tables, found = _side_tables(target, ids, new)
        scale = None if "rating" not in columns else target.rating_scale or (low, high)
        notes += [*found, *unliked_note(unliked, total, high)]
        about = {
            "rows": total,
            **{name: len(values) for name, values in ids.items()},
            "columns": columns,
            "tables": tables,
            "rating_scale": scale,
            "kinds": [dict(target.items.kinds), dict(target.users.kinds)],
            "notes": notes,
            "events": to_dict(target.events),
            "fingerprint": _fingerprint(new, ids, columns, target.events),
        }
        write_manifest(new, about)
    return about


class _Shards:
    """The rows of all sorted shards, in order."""

    def __init__(self, work: WorkFolder, columns: list[str]) -> None:
        self.columns, self._type = columns, record_type(columns)
        self._files = [work.sorted_shard(number) for number in range(work.state.shard)]

    def chunks(self) -> Iterator[np.ndarray]:
        for file in self._files:
            yield from read_records(file, self._type, _CHUNK_ROWS)


def _filtered(
    rows: _Shards, sizes: Mapping[str, int], filters: Filters
) -> tuple[Keep, list[str], dict[str, np.ndarray]]:
    """Which rows of a chunk are kept, notes, and the number of kept rows of each user and item.

    A user or item is removed if it has too few rows; then all are counted again, until none is removed.
    """
    alive = {name: np.ones(size, dtype=bool) for name, size in sizes.items()}

    def rated(chunk: np.ndarray) -> np.ndarray:
        if filters.min_rating is None:
            return np.ones(len(chunk), dtype=bool)
        return np.asarray(chunk["rating"] >= np.float32(filters.min_rating))

    def keep(chunk: np.ndarray) -> np.ndarray:
        mask: np.ndarray = rated(chunk) & alive["users"][chunk["user"]] & alive["items"][chunk["item"]]
        return mask

    def counted() -> dict[str, np.ndarray]:
        counts = {name: np.zeros(size, dtype=np.int64) for name, size in sizes.items()}
        for chunk in rows.chunks():
            mask = keep(chunk)
            for name, count in counts.items():
                count += np.bincount(chunk[name.removesuffix("s")][mask], minlength=len(count))
        return counts

    if filters.min_rating is not None and "rating" not in rows.columns:
        raise DataError(f"min_rating = {filters.min_rating:g} needs ratings; the columns are {', '.join(rows.columns)}")
    before, notes = None, []
    if filters.min_rating is not None:
        before = sum(len(chunk) for chunk in rows.chunks())
    counts = counted()
    if before is not None and int(counts["users"].sum()) < before:
        gone = {name.removesuffix("s"): int((count == 0).sum()) for name, count in counts.items()}
        notes.append(f"min_rating {filters.min_rating:g}: {removed_rows(before, int(counts['users'].sum()), gone)}")
    first, rounds = counts, 0
    least = {"users": filters.min_user, "items": filters.min_item}
    while any(((count > 0) & (count < least[name])).any() for name, count in counts.items()):
        for name, count in counts.items():
            alive[name] &= count >= max(least[name], 1)
        counts, rounds = counted(), rounds + 1
    if rounds:
        gone = {name.removesuffix("s"): int((first[name] > 0).sum() - (counts[name] > 0).sum()) for name in counts}
        text = removed_rows(int(first["users"].sum()), int(counts["users"].sum()), gone, rounds)
        notes.append(f"min_user {filters.min_user}, min_item {filters.min_item}: {text}")
    if not counts["users"].any():
        raise DataError(f"no interactions remain: {'; '.join(notes)}")
    return keep, notes, counts


def _side_tables(target: Target, ids: Mapping[str, pl.Series], new: Path) -> tuple[list[str], list[str]]:
    """Write the side tables in index order; returns their names, and notes."""
    names: list[str] = []
    notes: list[str] = []
    for side, one in (("item", target.items), ("user", target.users)):
        if one.source is None and not one.kinds:
            continue
        from palate.data.features.table import aligned_table  # loads torch

        known = IdMap(ids[f"{side}s"])
        given = one.read(f"{side}_id", known.ids.dtype, target.columns, target.connection)
        key: Any = f"{side}_id"
        table, others, found = aligned_table(given, known, key, one.kinds)
        notes += found
        for name, part in ((f"{side}_table", table), ("unused_items", others if side == "item" else None)):
            if part is not None:
                part.write_parquet(new / f"{name}.parquet")
                names.append(name)
    return names, notes


def _fingerprint(folder: Path, ids: Mapping[str, pl.Series], columns: list[str], events: Events) -> str:
    """That of the data set."""
    parts: dict[str, Any] = {
        name: map(itemgetter(name), read_columns(folder, [name])) if name in columns else None
        for name in ("user", "item", "rating", "timestamp", "weight")
    }
    parts |= dict.fromkeys(name for name in ("sessions", "successive") if getattr(events, name))
    return fingerprint_of([IdMap(values) for values in ids.values()], parts)
