"""`palate data inspect | onboard | sources | protocols | fetch`."""

from __future__ import annotations

import sys
from typing import Annotated

import polars as pl
from cyclopts import App

from palate.cli import Flat, Length, flags_of, visible, with_flags
from palate.cli.inputs import Reading, SideTables, dataset, kinds
from palate.cli.show import table
from palate.data.reading import inspect as inspect_table
from palate.data.reading import inspect_side
from palate.data.sources import SOURCES, load_tables
from palate.errors import ConfigError
from palate.evaluation.protocols import PROTOCOLS
from palate.recommender.onboarding import onboard as most_informative

data = App(name="data", help="Inspect a table, list known data sets and protocols, download a data set.")

_ANY_TABLE = ("separator", "has_header", "encoding", "connection", "max_gb")
"""Arguments of the reader that go with tables of items and users too."""
_ANY_TABLE_FLAGS = {"--user-id", "--item-id", "--separator", "--header", "--encoding", "--connection", "--max-gb"}


@data.command
def inspect(
    file: str,
    *,
    kind: list[str] | None = None,
    reading: Annotated[Reading, Flat] = Reading(),  # noqa: B008
) -> None:
    """Show what a table holds: counts, sparsity, ratings, time span, and every fault. Exit code 2 if there are faults.

    For a table of items or users: each column's kind, missing values and examples.

    Args:
        file: A file, or a query with --connection.
        kind: For a table of items or users, the kind of a column, for example year=number; may be given several times.
        reading: How it is read.
    """
    options = {name: reading.options()[name] for name in _ANY_TABLE}
    ids = {role: name for role in ("user_id", "item_id") if (name := getattr(reading, role)) is not None}
    side = None if len(ids) == 2 else inspect_side(file, kinds(kind), ids or None, **options)
    if side is None and kind:
        raise ConfigError(f"--kind declares columns of items or users, and {file} holds interactions; leave it out")
    if side is not None and (unused := [flag for flag in reading.given() if flag not in _ANY_TABLE_FLAGS]):
        raise ConfigError(
            f"{file} holds {side.key.removesuffix('_id')}s, not interactions; leave out {', '.join(unused)}"
        )
    found = side or inspect_table(file, **reading.options())
    print(visible(with_flags(str(found), flags_of(["data", "inspect"]))))
    if found.faults:
        sys.exit(2)


@data.command
def onboard(
    data: str,
    *,
    k: Annotated[int, Length] = 10,
    diversity: float = 0.5,
    reading: Annotated[Reading, Flat] = Reading(),  # noqa: B008
    side_tables: Annotated[SideTables, Flat] = SideTables(),  # noqa: B008
) -> None:
    """List the items to ask a new user about: informative ones that differ from each other.

    Args:
        data: Name of a data set (palate data sources), a file, or a query with --connection.
        k: Number of items.
        diversity: From 0, the most informative items, to 1, the most different ones.
        reading: How DATA is read.
        side_tables: Its side tables and filters.
    """
    found = most_informative(dataset(data, reading, side_tables), k, diversity)
    print(table(found.columns, found.with_columns(pl.col("entropy", "information").round(3)).rows()))


@data.command
def sources() -> None:
    """List the data sets that palate knows by name."""
    print(table(["name", "what"], [[name, source] for name, source in SOURCES.items()]))


@data.command
def protocols() -> None:
    """List the published evaluation protocols for --protocol of train, tune and compare."""
    print(table(["name", "as in", "what"], [[name, how.paper, how.description] for name, how in PROTOCOLS.items()]))


@data.command
def fetch(name: str) -> None:
    """Download a data set into the cache and show what it holds.

    Args:
        name: A name listed by palate data sources.
    """
    tables = load_tables(name)
    print(f"{name}: {tables.interactions.height:,} interactions")
    for note in tables.notes:
        print(f"  {visible(note)}")
