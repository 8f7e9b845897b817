"""The data that a command works on: how tables are read, filtered and split.

What loads torch is imported where it is used: `palate data inspect` needs the flags only.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palate.data.features.infer import TITLE
from palate.data.reading import Duplicates, Tables, read_interactions, read_side
from palate.data.reading.formats import is_store
from palate.data.reading.interactions import filter_interactions
from palate.data.reading.sessions import refuse_user_table, session_columns
from palate.data.reading.table import MAX_GB
from palate.data.sources import SOURCES, load_tables
from palate.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

    from palate.data.dataset import Dataset
    from palate.evaluation.protocols import Prepared

NO_COLUMN = "none"
"""In place of a column's name: the table has no such column, or it is to be ignored."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a table of interactions is read."""

    user_id: str | None = None
    """Column of user ids: its name, or its position from 0. Defaults to the column with a usual name."""
    item_id: str | None = None
    """Column of item ids, likewise."""
    rating: str | None = None
    """Column of ratings, likewise; none ignores it."""
    timestamp: str | None = None
    """Column of times, likewise; none ignores it."""
    weight: str | None = None
    """Column of sample weights, likewise; none ignores it. Models that cannot use weights refuse them."""
    separator: str | None = None
    """Separator of columns. Defaults to a guess among comma, tab, semicolon, bar and ::."""
    header: bool | None = None
    """Whether the first line holds column names. Defaults to a guess."""
    encoding: str = "utf-8"
    """Encoding of text files."""
    duplicates: Duplicates | None = None
    """What becomes of several rows of one user and item; error refuses ratings that differ, keep keeps all events.
    Defaults to keep for sessions, else to error."""
    session: str | None = None
    """Column of session ids, by name or position, for histories without users; in the place of --user-id."""
    session_gap: str | None = None
    """Cuts each user's events into sessions where more time than this lies between two of them, for example 30m."""
    rating_scale: tuple[float, float] | None = None
    """Lowest and highest rating allowed. Defaults to any."""
    timestamp_format: str | None = None
    """Format of the times, as in strptime, for example %m/%d/%Y. Defaults to ISO 8601 and seconds since 1970."""
    connection: str | None = None
    """Database URL, if the table is a query."""
    max_gb: float = MAX_GB
    """Limit, in GiB, on what a compressed file (.gz, Parquet) may take in memory."""

    def options(self) -> dict[str, Any]:
        """The arguments of `read_interactions` and `inspect`."""
        roles = {name: getattr(self, name) for name in ("user_id", "item_id", "rating", "timestamp", "weight")}
        return {
            "columns": {role: _column(name) for role, name in roles.items() if name is not None} or None,
            "separator": self.separator,
            "has_header": self.header,
            "encoding": self.encoding,
            "duplicates": self.duplicates,
            "session": None if self.session is None else _column(self.session),
            "session_gap": self.session_gap,
            "rating_scale": self.rating_scale,
            "timestamp_format": self.timestamp_format,
            "connection": self.connection,
            "max_gb": self.max_gb,
        }

    def given(self) -> list[str]:
        """The flags that differ from their defaults."""
        return _changed(self, Reading())


@dataclass(frozen=True, kw_only=True)
class SideTables:
    """Tables of items and users, and filters."""

    items: str | None = None
    """Table of item features (titles, genres): a file or a query."""
    users: str | None = None
    """Table of user features."""
    items_id: str | None = None
    """Column of ids in --items. Defaults to the column that --item-id names, or to a usual name."""
    users_id: str | None = None
    """Column of ids in --users, likewise."""
    title: str | None = None
    """Column of --items with the titles shown in lists. Defaults to title or name."""
    item_kind: tuple[str, ...] = ()
    """Kind of a column of --items, for example year=number: number, category, tags, date, text, image, vector, or
    ignore to leave it out; may be given several times. Defaults to what palate data inspect shows."""
    user_kind: tuple[str, ...] = ()
    """Kind of a column of --users, likewise."""
    min_rating: float | None = None
    """Drop interactions with a lower rating. Defaults to none; in lists, ratings of zero or less are no choices."""
    min_user: int = 0
    """Drop users with fewer interactions."""
    min_item: int = 0
    """Drop items with fewer interactions."""

    def given(self) -> list[str]:
        """The flags that differ from their defaults."""
        return _changed(self, SideTables())


def _changed(options: Any, default: Any) -> list[str]:
    """The flags of the fields that differ."""
    return [f"--{name.replace('_', '-')}" for name in vars(options) if getattr(options, name) != getattr(default, name)]


def dataset(data: str, reading: Reading, side_tables: SideTables) -> Dataset:
    """The data set that an argument `DATA` names.

    Args:
        data: A name in `SOURCES`, a file, the folder of a data set on disk, or a query (with a connection).
        reading: How a file or query is read.
        side_tables: Side tables and filters.

    Raises:
        ConfigError: The name is close to a known data set but is not one; or tables are described for a known data set.
    """
    from palate.data.dataset import Dataset

    if is_store(data):
        return _stored(data, reading, side_tables)
    if data in SOURCES or data.startswith("synthetic-"):
        names = ("items", "users", "items_id", "users_id", "title")
        described = [f"--{name.replace('_', '-')}" for name in names if getattr(side_tables, name) is not None]
        if described or reading != Reading():
            flags = ", ".join([*described, *reading.given()])
            raise ConfigError(f"{data} is a known data set with its own tables; leave out {flags}")
        tables = load_tables(data)
    else:
        _check_name(data, reading.connection)
        tables = _read(data, reading, side_tables)
    limits: dict[str, Any] = {name: getattr(side_tables, name) for name in ("min_rating", "min_user", "min_item")}
    kept = filter_interactions(tables.interactions, **limits)
    return Dataset.from_frame(
        kept.frame.drop("weight", strict=False) if reading.weight == NO_COLUMN else kept.frame,
        tables.items,
        tables.users,
        rating_scale=tables.rating_scale,
        notes=tables.notes + kept.notes,
        item_kinds=kinds(side_tables.item_kind) | ({} if side_tables.title is None else {side_tables.title: TITLE}),
        user_kinds=kinds(side_tables.user_kind),
        events=tables.events,
    )


def _stored(data: str, reading: Reading, side_tables: SideTables) -> Dataset:
    """A data set on disk, which is read and filtered already.

    Raises:
        ConfigError: Something is said about how to read or filter it.
    """
    import palate

    given = [
        flag for flag in reading.given() if (flag, reading.weight) != ("--weight", NO_COLUMN)
    ] + side_tables.given()
    if given:
        raise ConfigError(
            f"{data} is a data set on disk, which was read and filtered when it was written; leave out "
            f"{', '.join(given)}, or give {'them' if len(given) > 1 else 'it'} to palate data ingest"
        )
    found = palate.open_dataset(data)
    return found.without_weights() if reading.weight == NO_COLUMN else found


def check_side_tables(side_tables: SideTables) -> None:
    """Refuse descriptions of side tables that are not given.

    Raises:
        ConfigError: There are such.
    """
    without = [f"--{one}-id" for one in ("items", "users") if getattr(side_tables, f"{one}_id") is not None]
    without = [flag for flag in without if getattr(side_tables, flag[2:-3]) is None]
    if side_tables.items is None and side_tables.title is not None:
        without.append("--title")
    if without:
        raise ConfigError(f"{', '.join(without)} describes a table that is not given; add --items or --users")


def _read(data: str, reading: Reading, side_tables: SideTables) -> Tables:
    """A file or query, with its side tables."""
    check_side_tables(side_tables)
    options = reading.options()
    if reading.session_gap is not None:
        refuse_user_table(side_tables.users)
    checked = read_interactions(data, **options)
    shared = {"mapping": options["columns"], "connection": reading.connection, "max_gb": reading.max_gb}
    items, users = (
        None if side is None else read_side(side, key, checked.frame[key].dtype, id_column=id_column, **shared)
        for side, key, id_column in (
            (side_tables.items, "item_id", side_tables.items_id),
            (side_tables.users, "user_id", side_tables.users_id),
        )
    )
    return Tables(
        interactions=checked.frame,
        items=items,
        users=users,
        rating_scale=reading.rating_scale,
        notes=checked.notes,
        events=checked.events,
    )


def kinds(given: Sequence[str] | None) -> dict[str, str]:
    """Declared kinds of columns, from texts such as year=number.

    Raises:
        ConfigError: A text has no =.
    """
    wrong = [repr(text) for text in given or () if "=" not in text]
    if wrong:
        raise ConfigError(f"{', '.join(wrong)} declares no kind; write COLUMN=KIND, for example year=number")
    return dict(text.rsplit("=", 1) for text in given or ())


def _column(name: str) -> str | int | None:
    """A column as the reader takes it: a name, a position, or None for no column."""
    return None if name == NO_COLUMN else int(name) if name.isdecimal() else name


def _check_name(data: str, connection: str | None) -> None:
    """Refuse a name that is neither a file nor a query and is close to a known data set."""
    near = get_close_matches(data.lower(), SOURCES, n=1)
    if connection is None and near and not Path(data).exists():
        raise ConfigError(f"there is no file and no data set {data!r}; did you mean {near[0]!r}?")


PROTOCOL = "protocol.json"
"""File in a run's folder: how `palate evaluate` evaluates its test part."""


@dataclass(frozen=True, kw_only=True)
class Splitting:
    """How a data set is split."""

    split: str | None = None
    """temporal (holds out the latest rows), random, per-user, leave-last-out, sessions, k-fold, new-users, new-items,
    new-users-and-items, strong-generalisation; none trains on all rows. Defaults to temporal if the table has times
    and at least half of the test rows then belong to users and items of train, else to per-user."""
    valid: float | None = None
    """Share of the rows that chooses the epoch (leave-last-out: rows per user); 0 for none. Defaults to 0.1, or 1."""
    test: float | None = None
    """Share of the rows held out for palate evaluate, likewise."""
    protocol: str | None = None
    """Published protocol that replaces filters and split, and sets metrics and candidates (see palate data
    protocols)."""
    fold: int | None = None
    """Fold of a protocol, of k-fold or of --split-column. Defaults to the first, with --split-column to none."""
    split_column: str | None = None
    """Column of DATA that names the part of each row (train, valid, test), or is true for test, or numbers the folds
    (with --fold); in the place of --split."""
    given: str | None = None
    """File that a protocol needs. ncf: held-out rows with their candidates; u1 and 5fold: the zip file of
    MovieLens-100K, if it cannot be downloaded. session-prefixes: held-out prefixes."""

    def prepared(
        self, data: Dataset, filters: tuple[str, ...], seed: int, parts: pl.DataFrame | None = None
    ) -> Prepared | None:
        """The parts and their protocol; None if all rows are for training.

        Args:
            data: What is split.
            filters: The filters that were applied, in words.
            seed: Seed of the split.
            parts: What `split_column` holds, as `palate.data.splits.predefined.read_parts` reads it.

        Raises:
            ConfigError: There is no such split, or an option does not go with it.
        """
        from palate.data.splits import SPLITS, default_split, split_dataset
        from palate.evaluation.protocol import Protocol
        from palate.evaluation.protocols import Prepared, prepare

        if self.protocol is not None:
            return prepare(self.protocol, data, seed=seed, fold=self.fold, given=self.given)
        shares = {name: getattr(self, name) or 0.1 for name in ("valid", "test")}
        chosen = self.split if parts is None else "predefined"
        split, reason = (chosen, "") if chosen else default_split(data, **shares)
        given = {name: getattr(self, name) for name in ("valid", "test", "fold") if getattr(self, name) is not None}
        if split == "none":
            if given:
                flags = ", ".join(f"--{name}" for name in given)
                raise ConfigError(f"--split none holds nothing out; leave out {flags}, or name another --split")
            return None
        names = [name for name in SPLITS if name != "predefined"]
        if split not in names and parts is None:
            raise ConfigError(f"there is no split {split!r}; choose one of {', '.join([*names, 'none'])}")
        rule = inspect.signature(SPLITS[split]).parameters
        defaults = {name: option.default for name, option in rule.items() if option.default is not option.empty}
        options = defaults | _checked_options(split, given, rule) | {"seed": seed}
        if parts is not None:
            options = {"column": self.split_column, **{k: options[k] for k in ("fold", "valid", "seed")}}
        protocol = Protocol(filters=filters, split=split, split_options=tuple(sorted(options.items())))
        found = split_dataset(data, split, **options, **({} if parts is None else {"parts": parts}))
        notes = (f"{reason} (--split names another)",) if reason else ()
        return Prepared(parts=replace(found, notes=notes + found.notes), protocol=protocol)


def prepared(
    data: str, reading: Reading, side_tables: SideTables, splitting: Splitting, seed: int
) -> tuple[Dataset, Prepared | None]:
    """The data set that an argument `DATA` names, whole and split.

    Raises:
        ConfigError: Filters or a split go with a protocol, which has its own.
    """
    limits = {name: getattr(side_tables, name) for name in ("min_rating", "min_user", "min_item")}
    filters = tuple(f"{name} {limit:g}" for name, limit in limits.items() if limit)
    if splitting.protocol is not None:
        ours = [name for name in ("split", "split_column", "valid", "test") if getattr(splitting, name) is not None]
        twice = [f"--{name.replace('_', '-')}" for name in [*ours, *(name for name, limit in limits.items() if limit)]]
        if twice:
            raise ConfigError(
                f"--protocol {splitting.protocol} has its own filters and split; leave out {', '.join(twice)}"
            )
    elif splitting.given is not None:
        raise ConfigError("--given is a file for a --protocol; name the protocol too (see palate data protocols)")
    own = [f"--{name}" for name in ("split", "test") if getattr(splitting, name) is not None]
    if splitting.split_column is not None and own:
        raise ConfigError(f"--split-column {splitting.split_column} names the test rows; leave out {', '.join(own)}")
    whole = dataset(data, reading, side_tables)
    parts = None if splitting.split_column is None else _own_parts(data, reading, splitting.split_column)
    return whole, splitting.prepared(whole, filters, seed, parts)


def _own_parts(data: str, reading: Reading, column: str) -> pl.DataFrame:
    """The column of the table that names the part of each row.

    Raises:
        ConfigError: There is no such column, or the rows have no part of their own.
    """
    from palate.data.splits.predefined import read_parts

    if data in SOURCES or data.startswith("synthetic-") or is_store(data):
        kind = "data set on disk" if is_store(data) else "known data set"
        raise ConfigError(f"{data} is a {kind}, whose columns are read already; leave out --split-column")
    options = reading.options()
    if reading.session_gap is not None:
        raise ConfigError("--session-gap makes sessions of rows, which then have no --split-column; leave out one")
    if reading.session is not None:
        options["columns"] = session_columns(options["columns"], options["session"], None)
    given = {name: options[name] for name in ("separator", "has_header", "encoding", "connection", "max_gb")}
    return read_parts(data, column, options["columns"], **given).rename({"part": column})


def _checked_options(split: str, given: dict[str, Any], rule: Any) -> dict[str, Any]:
    """The options of a split; numbers of rows are whole."""
    options = dict(given)
    for name, value in given.items():
        if name not in rule:
            raise ConfigError(f"the split {split!r} has no --{name}")
        if isinstance(rule[name].default, int):
            if value != int(value):
                raise ConfigError(f"--{name} {value}: the split {split!r} expects a whole number of rows")
            options[name] = int(value)
    return options
