"""load_dataset: a named data set as a `Dataset`."""

from __future__ import annotations

from pathlib import Path

from palate.data.dataset import Dataset
from palate.data.sources import load_tables


def load_dataset(name: str, path: str | Path | None = None) -> Dataset:
    """Load a named data set, downloaded and cached if needed.

    Args:
        name: A key of `SOURCES`, or "synthetic-" and a number of interactions: synthetic-5000, synthetic-1e6.
        path: The zip file or folder of the data set, read instead of a download.

    Raises:
        ConfigError: The name is unknown, or the data set takes no path.
        SourceError: The data set cannot be downloaded, or the files at `path` are not those of the data set.
    """
    tables = load_tables(name, path)
    return Dataset.from_frame(
        tables.interactions, tables.items, tables.users, rating_scale=tables.rating_scale, notes=tables.notes
    )
