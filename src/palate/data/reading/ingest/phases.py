"""The phases of an ingestion that read the sources, deal their rows to shards, and merge and sort the shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from palate.data.external_sort import (
    as_records,
    by_user_and_time,
    deal,
    read_records,
    record_type,
    shard_bounds,
    shard_path,
    write_array,
)
from palate.data.reading.blocks import BlockSource, OtherQuotes, open_blocks
from palate.data.reading.checks import ROW, Duplicates, Findings, blanks_note, duplicate_notes, merge_duplicates
from palate.data.reading.ingest.state import Dictionary, State, WorkFolder
from palate.data.reading.interactions import (
    Scale,
    column_types,
    convert,
    empty_lines_note,
    equal_ratings_note,
    no_rows,
    sums_fault,
)
from palate.data.reading.table import KNOWN_NAMES, ROLES, Columns, Role, find_columns, suggest_weight
from palate.data.reading.times import apply_rule, time_rule
from palate.errors import ConfigError, DataError

_BASE_MB = 200
"""MB that Python and its libraries take."""
_BYTES_PER_TEXT_BYTE = 12
"""Bytes of memory for each byte of a block while it is checked."""
_BYTES_PER_ROW = 220
"""Bytes of memory for each row of a shard while it is merged and sorted."""
_NAMES = {"user_id": "user", "item_id": "item"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the sources are read; all of it but memory and connection decides the result.

    Attributes:
        sources: Files and queries, each with the columns that its path tells.
        columns, separator, has_header, encoding, rating_scale, timestamp_format, connection: As in `read_interactions`.
        duplicates: The rule for rows of one user and item.
        memory_gb: Peak of memory to stay under.
        on_progress: Takes a line about what was done.
    """

    sources: Sequence[tuple[Any, dict[str, str | None]]]
    columns: Columns | None
    separator: str | None
    has_header: bool | None
    encoding: str
    duplicates: Duplicates
    rating_scale: Scale | None
    timestamp_format: str | None
    connection: Any
    memory_gb: float
    on_progress: Callable[[str], None]

    @property
    def block_bytes(self) -> int:
        """Bytes of a block of a source."""
        return max(int((self.memory_gb * 1000 - _BASE_MB) * 1e6) // 2 // _BYTES_PER_TEXT_BYTE, 1 << 16)

    @property
    def shard_rows(self) -> int:
        """Rows of a shard."""
        return max(int((self.memory_gb * 1000 - _BASE_MB) * 1e6) * 3 // 4 // _BYTES_PER_ROW, 1 << 10)

    def open(self, number: int, plain_quotes: bool = False) -> BlockSource:
        """Open a source."""
        source, partitions = self.sources[number]
        names = self.columns.values() if isinstance(self.columns, Mapping) else []
        return open_blocks(
            source,
            partitions,
            known=[*(name for name in names if isinstance(name, str)), *KNOWN_NAMES],
            plain_quotes=plain_quotes,
            separator=self.separator,
            has_header=self.has_header,
            encoding=self.encoding,
            connection=self.connection,
        )


def open_all(options: Options) -> list[BlockSource]:
    """Open all sources; they must have the same columns.

    Raises:
        DataError: Lists all columns that are missing, and sources with other columns than the first.
    """
    found, faults, first = [], [], None
    for number in range(len(options.sources)):
        source = options.open(number)
        roles, missing = find_columns(source.table, options.columns)
        faults += [f"{source.table.label}: {fault}" for fault in missing]
        columns = [str(role) for role in ROLES if role in roles]
        first = first or columns
        if not missing and columns != first:
            faults.append(f"{source.table.label} has {', '.join(columns)}, and the first source {', '.join(first)}")
        found.append(source)
    if len(found) == 1 and faults:
        raise DataError.faults(found[0].table.label, [fault.partition(": ")[2] for fault in faults])
    if faults:
        raise DataError.faults(f"{len(found)} sources", faults)
    return found


def read(work: WorkFolder, options: Options, opened: list[BlockSource]) -> None:
    """Read all sources into one file of records, with codes for ids.

    Args:
        work: The work folder.
        options: How they are read.
        opened: From `open_all`.

    Raises:
        DataError: Lists all faults.
    """
    ids = _dictionaries(work)
    while work.state.source < len(opened):
        number = work.state.source
        if number in work.state.plain_quotes:
            opened[number] = options.open(number, plain_quotes=True)
        source = opened[number]
        roles, _ = find_columns(source.table, options.columns)
        if not work.state.position:
            _begin(work, source, roles, options)
        elif not source.resumes:
            ids = _restart(work)
        names, types = list(dict.fromkeys(roles.values())), column_types(roles, options.timestamp_format)
        try:
            for frame, position in source.frames(names, types, work.state.position, options.block_bytes):
                _add_block(work, frame, roles, options, ids, source.table.is_text)
                work.state.position = position
                work.save()
                options.on_progress(_how_far(work.state, source))
        except OtherQuotes:
            ids = _restart(work)
            work.state.plain_quotes.append(number)
            continue
        work.state.source, work.state.position = number + 1, 0
        work.save()
    _end_reading(work, *ids, no_rows(opened[0].table))


def _dictionaries(work: WorkFolder) -> tuple[Dictionary, Dictionary]:
    """The ids so far; removes the rows of a block that was not completed."""
    work.rows.touch()
    with work.rows.open("r+b") as file:
        file.truncate(work.state.rows * _row_type(work.state).itemsize)
    users, items = (Dictionary(work.folder, name, work.state.block) for name in ("users", "items"))
    return users, items


def _begin(work: WorkFolder, source: BlockSource, roles: Mapping[Role, str], options: Options) -> None:
    """Begin a source."""
    state = work.state
    if len(state.starts) == state.source:
        before = state.starts[-1][0] + state.source_rows if state.starts else 0
        state.starts.append((before, source.table.label))
    state.columns = [_NAMES.get(str(role), str(role)) for role in ROLES if role in roles]
    state.source_rows = 0
    if not state.source:
        state.suggestions = suggest_weight(source.table, roles, options.columns)
    work.begin_source()


def _restart(work: WorkFolder) -> tuple[Dictionary, Dictionary]:
    work.restart_source()
    return _dictionaries(work)


def _row_type(state: State) -> np.dtype[Any]:
    return record_type(state.columns, row=np.int64)


def _add_block(
    work: WorkFolder,
    frame: pl.DataFrame,
    roles: Mapping[Role, str],
    options: Options,
    ids: tuple[Dictionary, Dictionary],
    is_text: bool,
) -> None:
    """Check a block and append its rows."""
    state = work.state
    before, label = state.starts[-1]

    def prepare(found: Findings) -> None:
        found.later = state.checks.later
        found.suffix = f" of {label}" if len(options.sources) > 1 else ""

    first = state.source_rows + 1
    numbered = frame.with_columns(pl.int_range(first, first + frame.height, dtype=pl.Int64, eager=True).alias(ROW))
    rows, found = convert(numbered, roles, options.rating_scale, options.timestamp_format, is_text, prepare)
    state.checks.add(found)
    state.source_rows += frame.height
    state.block += 1
    if rows.is_empty():
        return
    columns: dict[str, np.ndarray] = {"row": rows[ROW].to_numpy() + before}
    for role, dictionary in zip(("user_id", "item_id"), ids, strict=True):
        if len(dictionary) and dictionary.ids.dtype != rows[role].dtype:
            kinds = " and ".join(
                "text" if dtype == pl.String else "whole numbers" for dtype in (dictionary.ids.dtype, rows[role].dtype)
            )
            raise DataError(
                f"{label}: {role} mixes {kinds} (from row {first:,} on); write the ids of all sources as text"
            )
        columns[_NAMES[role]] = dictionary.codes(rows[role], state.block - 1)
    for name in state.columns[2:]:
        columns[name] = rows[name].fill_null(0).to_numpy()
    needed = sum(dictionary.megabytes for dictionary in ids)
    if needed > (options.memory_gb * 1000 - _BASE_MB) / 2:
        raise ConfigError(
            f"the ids of {len(ids[0]):,} users and {len(ids[1]):,} items take about {needed:,.0f} MB, too much for "
            f"memory = '{options.memory_gb:g}GB'; give '{(2 * needed + _BASE_MB) / 1000 * 1.2:.1f}GB' or more, and it "
            "goes on where it stopped"
        )
    with work.rows.open("ab") as file:
        write_array(file, as_records(columns, _row_type(state)))
    state.rows += rows.height


def _how_far(state: State, source: BlockSource) -> str:
    share = f" ({min(state.position / source.size, 1):.0%})" if source.size and source.table.is_text else ""
    return f"read {state.source_rows:,} rows of {source.table.label}{share}"


def _end_reading(work: WorkFolder, users: Dictionary, items: Dictionary, nothing: str) -> None:
    """Judge what only the whole table tells; raise all faults, or go on to the next phase."""
    state, checks = work.state, work.state.checks
    whole = Findings(pl.Series(dtype=pl.Int64), pl.Series(dtype=pl.Boolean), later=checks.later)
    notes = empty_lines_note(checks.empty_lines)
    for role, dictionary in (("user_id", users), ("item_id", items)):
        if f"{role} blanks" in checks.later and checks.later[f"{role} blanks"].count:
            ids = dictionary.ids.alias(role)
            notes.append(blanks_note(ids, ids.str.strip_chars(), checks.later[f"{role} blanks"]))
    if "timestamp" in state.columns:
        state.rule = time_rule("timestamp", whole)
    faults = [*map(str, checks.faults.values()), *whole.texts]
    if state.starts[-1][0] + state.source_rows:
        nothing = "the table holds no interactions; at least one row is needed"
    raise_faults(work, faults if faults or state.rows else [nothing])
    checks.notes = [*notes, *checks.notes, *whole.notes, *state.suggestions]
    state.phase = "deal"
    work.save()


def raise_faults(work: WorkFolder, faults: list[str]) -> None:
    """Raise faults of the sources, if there are any, and throw the work away: corrected sources are other sources.

    Raises:
        DataError: Lists all of them.
    """
    if faults:
        label = work.state.starts[0][1] if len(work.state.starts) == 1 else f"{len(work.state.starts)} sources"
        work.remove()
        raise DataError.faults(label, faults)


def shard_by_user(work: WorkFolder, options: Options) -> None:
    """Sort the ids, and deal the rows to shards of consecutive users; codes become indices."""
    state, dtype = work.state, _row_type(work.state)
    for path in work.folder.glob("shard-*"):
        path.unlink()
    ranks = {}
    for name in ("user", "item"):
        ids = Dictionary(work.folder, f"{name}s", state.block).ids
        order = ids.arg_sort().to_numpy()
        ranks[name] = np.empty(len(ids), dtype=np.int32)
        ranks[name][order] = np.arange(len(ids), dtype=np.int32)
        ids[order].rename("id").to_frame().write_parquet(work.folder / f"{name}s.parquet")
    counts = np.zeros(len(ranks["user"]), dtype=np.int64)
    chunk = max(options.shard_rows // 2, 1)
    for rows in read_records(work.rows, dtype, chunk):
        counts += np.bincount(ranks["user"][rows["user"]], minlength=len(counts))
    bounds = shard_bounds(counts, options.shard_rows)

    def chunks() -> Iterator[np.ndarray]:
        done = 0
        for rows in read_records(work.rows, dtype, chunk):
            for name, rank in ranks.items():
                rows[name] = rank[rows[name]]
            if "timestamp" in state.columns:
                rows["timestamp"] = apply_rule(np.ascontiguousarray(rows["timestamp"]), state.rule)
            yield rows
            done += len(rows)
            options.on_progress(f"dealt {done:,} of {state.rows:,} rows to {len(bounds) - 1} shards")

    deal(chunks(), bounds, work.folder)
    state.phase, state.bounds = "sort", bounds.tolist()
    work.save()


def sort_shards(work: WorkFolder, options: Options) -> None:
    """Merge rows of one user and item, and sort, shard by shard.

    Raises:
        DataError: Ratings of a user and item differ under "error", or sums are outside the scale.
    """
    state, shards = work.state, len(work.state.bounds) - 1
    work.rows.unlink(missing_ok=True)
    while state.shard < shards:
        records = np.fromfile(shard_path(work.folder, state.shard), _row_type(state))
        frame, conflicts = _merged(records, state, options)
        del records
        columns = {name: frame[name].to_numpy() for name in sorted_columns(state, options)}
        with work.sorted_shard(state.shard).open("wb") as file:
            write_array(file, by_user_and_time(as_records(columns, record_type(columns))))
        state.merged.conflicts += conflicts
        state.shard += 1
        work.save()
        shard_path(work.folder, state.shard - 1).unlink()
        options.on_progress(f"sorted {state.shard} of {shards} shards")
    ids = {name: pl.read_parquet(work.folder / f"{name}.parquet")["id"] for name in ("users", "items")}
    merged = state.merged
    faults = merged.conflicts.texts(ids["users"], ids["items"], state.row_name)
    if merged.sums and options.rating_scale is not None:
        faults.append(sums_fault(merged.sums, options.rating_scale, state.row_name(merged.first_sum)))
    raise_faults(work, faults)
    state.checks.notes += duplicate_notes(merged.counts, options.duplicates)
    if "rating" in state.columns and merged.low == merged.high and merged.rows > 1:
        state.checks.notes.append(equal_ratings_note(merged.low))
    state.phase = "write"
    work.save()


def sorted_columns(state: State, options: Options) -> list[str]:
    """The columns after merging: the rule "sum" counts the rows of data without ratings and weights."""
    counted = options.duplicates == "sum" and not {"rating", "weight"} & set(state.columns)
    return [*state.columns, "weight"] if counted else state.columns


def _merged(records: np.ndarray, state: State, options: Options) -> tuple[pl.DataFrame, Any]:
    """A shard with one row for each user and item, as columns; notes its ratings."""
    names = {"user": "user_id", "item": "item_id", "row": ROW}
    frame = pl.DataFrame(
        {names.get(name, name): np.ascontiguousarray(records[name]) for name in records.dtype.names or ()}
    )
    counts = Counter(state.merged.counts)
    frame, conflicts = merge_duplicates(frame, options.duplicates, counts)
    state.merged.counts = dict(counts)
    scale, state.merged.rows = options.rating_scale, state.merged.rows + frame.height
    if "rating" in frame.columns and frame.height:
        rating, merged = frame["rating"].to_numpy(), state.merged
        merged.low, merged.high = float(rating.min(initial=merged.low)), float(rating.max(initial=merged.high))
        if options.duplicates == "sum" and scale is not None:
            outside = frame[ROW].to_numpy()[(rating < np.float32(scale[0])) | (rating > np.float32(scale[1]))]
            merged.sums += len(outside)
            if len(outside):
                first = int(outside.min())
                merged.first_sum = min(merged.first_sum, first) if merged.first_sum else first
    return frame.rename({"user_id": "user", "item_id": "item"}), conflicts
