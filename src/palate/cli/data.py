"""`palate data inspect | sources | protocols | fetch`."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import App

from palate.cli.options import Flat, Reading
from palate.cli.show import table
from palate.data.sources import SOURCES, load_tables
from palate.data.table import inspect as inspect_table
from palate.evaluation.protocols import PROTOCOLS

data = App(name="data", help="Look at a table, list the known data sets and protocols, fetch a data set.")


@data.command
def inspect(file: str, *, reading: Annotated[Reading, Flat] = Reading()) -> None:  # noqa: B008
    """What a table holds: counts, sparsity, ratings, time span, and every fault. Exit code 1 where there are faults.

    Args:
        file: A file, or a query with --connection.
        reading: How it is read.
    """
    found = inspect_table(file, **reading.options())
    print(found)
    if found.faults:
        sys.exit(1)


@data.command
def sources() -> None:
    """The data sets that palate knows by name."""
    print(table(["name", "what"], [[name, source] for name, source in SOURCES.items()]))


@data.command
def protocols() -> None:
    """The published ways of judging that `--protocol` of train, tune and compare takes."""
    print(table(["name", "as in", "what"], [[name, how.paper, how.what] for name, how in PROTOCOLS.items()]))


@data.command
def fetch(name: str) -> None:
    """Bring a data set into the cache and say what it holds.

    Args:
        name: As `palate data sources` lists it.
    """
    tables = load_tables(name)
    print(f"{name}: {tables.interactions.height:,} interactions")
    for note in tables.notes:
        print(f"  {note}")
