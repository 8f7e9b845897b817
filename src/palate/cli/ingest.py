"""`palate data ingest`. Nothing here loads torch, unless there are side tables."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

from palate.cli import Flat, suggested, visible, with_flags
from palate.cli.inputs import Reading, SideTables, check_side_tables, kinds
from palate.data.features.infer import TITLE
from palate.errors import ConfigError

_SECONDS = 5.0
"""Between two lines of progress."""


def ingest(
    *sources: str,
    out: Path,
    memory: str = "1GB",
    reading: Annotated[Reading, Flat] = Reading(),  # noqa: B008
    side_tables: Annotated[SideTables, Flat] = SideTables(),  # noqa: B008
) -> None:
    """Write tables of any size as a data set on disk, in little memory. Other commands take its folder as DATA.

    Run again after it was stopped, the same command goes on where it was. Exit code 2 if the tables have faults.

    Args:
        sources: Files of delimited text, Parquet or JSON lines, folders of such files, or queries with --connection;
            together one table.
        out: Folder of the data set; a data set that is there is replaced once the new one is complete.
        memory: Peak of memory to stay under, for example 600MB; at least 300MB. Side tables come on top.
        reading: How the sources are read.
        side_tables: Side tables and filters, which become part of the data set.
    """
    from palate.data.reading.ingest import ingest as write_store
    from palate.data.reading.ingest.write import Filters, Side

    unusable = [flag for flag in reading.given() if flag in ("--session-gap", "--max-gb")]
    if unusable:
        raise ConfigError(f"palate data ingest reads in blocks and cannot use {', '.join(unusable)}; leave it out")
    check_side_tables(side_tables)
    options = {name: value for name, value in reading.options().items() if name not in ("session_gap", "max_gb")}
    titled = {} if side_tables.title is None else {side_tables.title: TITLE}
    last = time.monotonic()

    def show(text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS:
            last = time.monotonic()
            print(f"  {visible(text)}", file=sys.stderr, flush=True)

    found = write_store(
        sources,
        out,
        **options,
        items=Side(
            source=side_tables.items, id_column=side_tables.items_id, kinds=kinds(side_tables.item_kind) | titled
        ),
        users=Side(source=side_tables.users, id_column=side_tables.users_id, kinds=kinds(side_tables.user_kind)),
        filters=Filters(
            min_rating=side_tables.min_rating, min_user=side_tables.min_user, min_item=side_tables.min_item
        ),
        memory=memory,
        on_progress=show,
    )
    for note in found.notes:
        print(f"  {visible(with_flags(note))}")
    print(
        f"saved {found.rows:,} interactions of {found.users:,} users and {found.items:,} items in {visible(str(out))}"
    )
    print(f"  {visible(suggested('train', 'mf', out, out='RUN'))}")
