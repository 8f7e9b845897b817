"""Lists for everybody into a file: `palate recommend RUN --all --out FILE`, `palate similar RUN --all --out FILE`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import polars as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from palate.cli import Switch
from palate.data.ids import IdMap
from palate.data.reading import read_columns, read_side
from palate.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Everybody:
    """Lists of all users, or of all items, in a file."""

    all: Annotated[bool, Switch] = False
    """Write the lists of all known users (or of all items) to the file --out. Run again after an interruption, the
    command goes on where it stopped."""
    out: Path | None = None
    """The file of --all: .parquet, .csv or .jsonl; one that exists is replaced once the new one is complete."""
    shard: str | None = None
    """Of --all: i/n writes the i-th of n parts, for several machines. Defaults to everything."""
    one_row: Annotated[bool, Switch] = False
    """Of --all: one row for each user (or item), with lists, or columns item_1, item_2 ... in CSV. Defaults to one row
    for each listed item."""

    def options(self, **others: Any) -> dict[str, Any] | None:
        """The arguments of the call that writes the file; None if no file is asked for.

        Args:
            others: Flags that do not go with a file, with what was given for them.

        Raises:
            ConfigError: The flags do not go together.
        """
        if not self.all:
            given = [f"--{name}" for name in ("out", "shard") if getattr(self, name) is not None]
            given += ["--one-row"] * self.one_row
            if given:
                raise ConfigError(f"{', '.join(given)} goes with --all; add it, or leave out {', '.join(given)}")
            return None
        if self.out is None:
            raise ConfigError("--all writes a file; name it: --out lists.parquet (or .csv, .jsonl)")
        if given := [f"--{name.replace('_', '-')}" for name, value in others.items() if value not in (None, False)]:
            raise ConfigError(f"{', '.join(given)} does not go with --all; leave it out")
        return {"path": self.out, "one_row": self.one_row, "shard": _shard(self.shard), "titles": True}


def users_of(file: Path, known: IdMap) -> pl.Series:
    """The user ids of a file: a table with a column of ids, or one id a line.

    Raises:
        DataError: There is no column of ids, or ids are repeated, empty or of another type.
    """
    columns = read_columns(file).columns
    only = columns[0] if len(columns) == 1 else None
    return read_side(file, "user_id", known.ids.dtype, id_column=only)["user_id"]


def write_with_bar(write: Callable[..., int], what: str, options: dict[str, Any]) -> None:
    """Call `write` with a progress bar on standard error, and say what was written.

    Args:
        write: `recommend_all` or `similar_all` of a recommender.
        what: Who the lists are for, "users" or "items".
        options: Its arguments.
    """
    console, total = Console(stderr=True), 0
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def show(done: int, count: int) -> None:
            nonlocal total
            total = count
            bar.update(task, completed=done, total=count)

        before = write(**options, on_progress=show)
    if before:
        print(f"went on after {before:,} {what} that an interrupted run had done", file=sys.stderr)
    print(f"wrote the lists of {total:,} {what} to {options['path']}")


def _shard(text: str | None) -> tuple[int, int]:
    if text is None:
        return 1, 1
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if found is None:
        raise ConfigError(f"--shard {text} is not of the form i/n; for example --shard 1/4")
    return int(found[1]), int(found[2])
