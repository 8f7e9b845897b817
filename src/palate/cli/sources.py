"""`palate data sources | fetch`. Nothing here loads torch."""

from __future__ import annotations

from palate.cli import visible
from palate.cli.show import table
from palate.data.sources import SOURCES, load_tables


def sources() -> None:
    """List the data sets that palate knows by name."""
    print(table(["name", "what"], [[name, source] for name, source in SOURCES.items()]))


def fetch(name: str) -> None:
    """Download a data set into the cache and show what it holds.

    Args:
        name: A name listed by palate data sources.
    """
    tables = load_tables(name)
    print(f"{name}: {tables.interactions.height:,} interactions")
    for note in tables.notes:
        print(f"  {visible(note)}")
