"""`palate data inspect`. Nothing here loads torch: looking at a table takes no longer than reading it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from palate.cli import Flat, flags_of, visible, with_flags
from palate.cli.inputs import Reading, kinds
from palate.data.layout import describe_store
from palate.data.reading import inspect as inspect_table
from palate.data.reading import inspect_side
from palate.data.reading.formats import is_store
from palate.errors import ConfigError

_ANY_TABLE = ("separator", "has_header", "encoding", "connection", "max_gb")
"""Arguments of the reader that go with tables of items and users too."""
_ANY_TABLE_FLAGS = {"--user-id", "--item-id", "--separator", "--header", "--encoding", "--connection", "--max-gb"}


def inspect(
    file: str,
    *,
    kind: list[str] | None = None,
    reading: Annotated[Reading, Flat] = Reading(),  # noqa: B008
) -> None:
    """Show what a table holds: counts, sparsity, ratings, time span, and every fault. Exit code 2 if there are faults.

    For a table of items or users: each column's kind, missing values and examples.

    Args:
        file: A file, the folder of a data set on disk, or a query with --connection.
        kind: For a table of items or users, the kind of a column, for example year=number; may be given several times.
        reading: How it is read.
    """
    if is_store(file):
        if unused := [*reading.given(), *(["--kind"] if kind else [])]:
            raise ConfigError(f"{file} is a data set on disk, which was read already; leave out {', '.join(unused)}")
        print(visible(with_flags("\n".join(describe_store(Path(file))))))
        return
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
