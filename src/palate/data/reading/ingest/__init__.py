"""Ingest: tables of any size -> a data set on disk (`palate.data.store`), with a bounded part of them in memory.

1. Read. Blocks of rows are checked as in `palate.data.reading.interactions`; ids become codes in the order of their
   first appearance, and the rows are appended to one file.
2. Deal. The ids are sorted, codes become indices, and the rows are dealt to shards of consecutive users
   (`palate.data.external_sort`).
3. Sort. Each shard is merged (rows of one user and item) and sorted by itself.
4. Write. Filters are applied, and the shards become the columns of the data set.

The work lies in a folder beside the target, `.NAME.ingest`. After each block and each shard it notes how far it is: an
ingestion that was killed goes on there. Faults are collected until all rows were read, and raised together.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palate.data.events import Events
from palate.data.layout import check_target
from palate.data.reading.blocks import expand_folders
from palate.data.reading.checks import Duplicates
from palate.data.reading.formats import is_store
from palate.data.reading.ingest import phases
from palate.data.reading.ingest.state import WorkFolder
from palate.data.reading.ingest.write import Filters as Filters
from palate.data.reading.ingest.write import Side as Side
from palate.data.reading.ingest.write import Target, write
from palate.data.reading.interactions import Scale, check_filters, check_options
from palate.data.reading.sessions import session_columns
from palate.data.reading.table import Columns
from palate.errors import ArtifactError, ConfigError

LEAST_GB = 0.3
"""Memory that any ingestion needs."""


@dataclass(frozen=True, kw_only=True)
class Ingested:
    """What `ingest` wrote.

    Attributes:
        folder: The data set; open it with `palate.Dataset.open`.
        rows, users, items: Counts.
        fingerprint: That of the data set.
        notes: What was removed, merged or converted, in words.
    """

    folder: Path
    rows: int
    users: int
    items: int
    fingerprint: str
    notes: tuple[str, ...]


def ingest(
    sources: Sequence[Any],
    out: str | Path,
    *,
    columns: Columns | None = None,
    separator: str | None = None,
    has_header: bool | None = None,
    encoding: str = "utf-8",
    duplicates: Duplicates | None = None,
    session: str | int | None = None,
    rating_scale: Scale | None = None,
    timestamp_format: str | None = None,
    connection: Any = None,
    items: Side = Side(),  # noqa: B008
    users: Side = Side(),  # noqa: B008
    filters: Filters = Filters(),  # noqa: B008
    memory: str | float = "1GB",
    on_progress: Callable[[str], None] = lambda text: None,
) -> Ingested:
    """Write tables of any size as a data set on disk, equal to what `Dataset.read` makes of them.

    Stopped and run again with the same sources and options, it goes on where it was.

    Args:
        sources: Paths of delimited text (also .gz), Parquet or JSON lines; of folders of such files, whose names may
            tell columns (`date=2024-05-01`); or queries. Together they are one table.
        out: Folder of the data set; an existing data set is replaced.
        columns, separator, has_header, encoding, duplicates, session, rating_scale, timestamp_format, connection: As in
            `palate.data.reading.read_interactions`.
        items, users: Side tables.
        filters: Interactions to leave out.
        memory: Peak of memory to stay under: text such as "600MB", or a number of GB; at least 300 MB. Side tables come
            on top.
        on_progress: Called with one line after each step.

    Raises:
        DataError: Lists all faults of the tables.
        ConfigError: An option is out of range, or the ids do not fit the memory.
        ArtifactError: The folder holds something else, or cannot be written, for example because the disk is full.
    """
    out = Path(out).expanduser()
    given = columns if session is None else session_columns(columns, session, None)
    rule: Duplicates = duplicates or ("error" if session is None else "keep")
    check_options(given, rule, rating_scale, timestamp_format)
    check_filters(["rating"], filters.min_rating, filters.min_user, filters.min_item)
    gigabytes = _check(sources, memory)
    check_target(out)
    for key, side in (("item_id", items), ("user_id", users)):
        side.read(key, None, given, connection)  # its faults come before hours of reading
    options = phases.Options(
        sources=expand_folders(sources), columns=given, separator=separator, has_header=has_header, encoding=encoding,
        duplicates=rule, rating_scale=rating_scale, timestamp_format=timestamp_format, connection=connection,
        memory_gb=gigabytes, on_progress=on_progress,
    )  # fmt: skip
    target = Target(
        out=out, items=items, users=users, filters=filters, rating_scale=rating_scale, columns=given,
        connection=connection, events=Events(repeats=rule == "keep", sessions=session is not None),
    )  # fmt: skip
    try:
        about = _run(options, target)
    except OSError as error:
        raise ArtifactError(
            f"{out} cannot be written ({error}); free some space if the disk is full, and run the same command again: "
            "it goes on where it stopped"
        ) from error
    counts = {name: about[name] for name in ("rows", "users", "items", "fingerprint")}
    return Ingested(folder=out, notes=tuple(about["notes"]), **counts)


def gigabytes_of(memory: str | float) -> float:
    """A size of memory in GB: text such as "1GB" or "600MB", or a number of GB; 0 for what is neither."""
    parts = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*([mg]b?)?", str(memory).strip().lower())
    return float(parts[1]) / (1000 if (parts[2] or "g")[0] == "m" else 1) if parts else 0.0


def _check(sources: Sequence[Any], memory: str | float) -> float:
    """Check sources and memory; gives the memory in GB."""
    gigabytes = gigabytes_of(memory)
    faults = [f"memory = {memory!r} is not a size of {LEAST_GB:g} GB or more; write for example '1GB' or '600MB'"]
    faults = faults if gigabytes < LEAST_GB else []
    faults += ["there are no sources; name at least one file, folder or query"] * (not sources)
    stores = [str(source) for source in sources if is_store(source)]
    faults += [f"{store} is a data set on disk already; use it as it is" for store in stores]
    if faults:
        raise ConfigError.faults("ingest", faults)
    return gigabytes


def _run(options: phases.Options, target: Target) -> dict[str, Any]:
    """All phases that are not done yet; the manifest of the data set."""
    opened = phases.open_all(options)
    settings = {
        name: value
        for name, value in vars(options).items()
        if name not in ("sources", "connection", "memory_gb", "on_progress")
    }
    plan = repr([[source.signature for source in opened], options.sources, settings, target.filters])
    with WorkFolder.opened(target.out, hashlib.sha256(plan.encode()).hexdigest()) as work:
        if work.state.phase == "read":
            phases.read(work, options, opened)
        if work.state.phase == "deal":
            phases.shard_by_user(work, options)
        if work.state.phase == "sort":
            phases.sort_shards(work, options)
        about = write(work, target, phases.sorted_columns(work.state, options))
        work.remove()
    return about
