"""`palate data onboard | protocols`."""

from __future__ import annotations

from typing import Annotated

import polars as pl

from palate.cli import Flat, Length
from palate.cli.inputs import Reading, SideTables, dataset
from palate.cli.show import table
from palate.evaluation.protocols import PROTOCOLS
from palate.recommender.onboarding import onboard as most_informative


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


def protocols() -> None:
    """List the published evaluation protocols for --protocol of train, tune and compare."""
    print(table(["name", "as in", "what"], [[name, how.paper, how.description] for name, how in PROTOCOLS.items()]))
