"""Options that several commands share: how a table is read, how it is split; and the file behind `--config`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from cyclopts import App, ArgumentCollection, Parameter
from cyclopts.config import Dict

from palate.data.dataset import Dataset
from palate.data.filters import filter_interactions
from palate.data.sources import SOURCES, load_tables
from palate.data.split import SPLITS
from palate.data.table import Duplicates, Tables, read_interactions, read_side
from palate.errors import ConfigError
from palate.evaluation.protocol import Protocol
from palate.evaluation.protocols import Prepared, prepare

Flat = Parameter(name="*")
"""The fields of a dataclass as flags without a prefix."""
Switch = Parameter(negative="")
"""A flag without a `--no-` form."""
PROTOCOL = "protocol.json"
"""In a run's folder: how `palate evaluate` judges its test part."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a table of interactions is read."""

    user_id: str | None = None
    """Column of user ids: its name, or its place from 0; default: found by its usual names."""
    item_id: str | None = None
    """Column of item ids, likewise."""
    rating: str | None = None
    """Column of ratings, likewise; there need not be one."""
    timestamp: str | None = None
    """Column of times, likewise; there need not be one."""
    separator: str | None = None
    """What stands between columns; default: guessed among comma, tab, semicolon, bar and ::."""
    header: bool | None = None
    """Whether the first line holds names; default: guessed."""
    encoding: str = "utf-8"
    """Of text files."""
    duplicates: Duplicates = "error"
    """What becomes of several rows of one user and item; error refuses ratings that differ."""
    rating_scale: tuple[float, float] | None = None
    """Lowest and highest rating allowed; default: any."""
    connection: str | None = None
    """Database URL, where the table is a query."""

    def options(self) -> dict[str, Any]:
        """What `read_interactions` and `inspect` take."""
        roles = {name: getattr(self, name) for name in ("user_id", "item_id", "rating", "timestamp")}
        columns = {role: int(c) if c.isdecimal() else c for role, c in roles.items() if c is not None}
        return {
            "columns": columns or None,
            "separator": self.separator,
            "has_header": self.header,
            "encoding": self.encoding,
            "duplicates": self.duplicates,
            "rating_scale": self.rating_scale,
            "connection": self.connection,
        }


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What goes with the interactions, and what is left out of them."""

    items: str | None = None
    """Table of what is known of the items (titles, genres): a file or a query."""
    users: str | None = None
    """Table of what is known of the users."""
    item_kind: tuple[str, ...] = ()
    """What a column of --items holds, for example year=number: number, category, tags, date, text, image, vector, or
    ignore to leave it out; may be given several times. Default: found out (palate data inspect shows it)."""
    user_kind: tuple[str, ...] = ()
    """What a column of --users holds, likewise."""
    min_rating: float | None = None
    """Leave out interactions with a lower rating."""
    min_user: int = 0
    """Leave out users with fewer interactions."""
    min_item: int = 0
    """Leave out items with fewer interactions."""


def dataset(data: str, reading: Reading, beside: Beside) -> Dataset:
    """The data set that an argument `DATA` names.

    Args:
        data: A name in `SOURCES`, a file, or a query (with a connection).
        reading: How a file or query is read.
        beside: Side tables and filters.

    Raises:
        ConfigError: A name that is like a known data set, but not one; or side tables for a known data set.
    """
    if data in SOURCES or data.startswith("synthetic-"):
        if beside.items is not None or beside.users is not None or reading != Reading():
            raise ConfigError(
                f"{data} is a known data set with its own tables; leave out the options that describe one"
            )
        tables = load_tables(data)
    else:
        _check_name(data, reading.connection)
        checked = read_interactions(data, **reading.options())
        items, users = (
            None if side is None else read_side(side, key, checked.frame[key].dtype, connection=reading.connection)
            for side, key in ((beside.items, "item_id"), (beside.users, "user_id"))
        )
        tables = Tables(
            interactions=checked.frame, items=items, users=users, rating_scale=reading.rating_scale, notes=checked.notes
        )
    limits: dict[str, Any] = {"min_rating": beside.min_rating, "min_user": beside.min_user, "min_item": beside.min_item}
    kept = filter_interactions(tables.interactions, **limits)
    notes = tables.notes + kept.notes
    return Dataset.from_frame(
        kept.frame,
        tables.items,
        tables.users,
        rating_scale=tables.rating_scale,
        notes=notes,
        item_kinds=kinds(beside.item_kind),
        user_kinds=kinds(beside.user_kind),
    )


def kinds(given: Sequence[str] | None) -> dict[str, str]:
    """Declared kinds of columns, from texts such as year=number.

    Raises:
        ConfigError: There is no = in a text.
    """
    wrong = [repr(text) for text in given or () if "=" not in text]
    if wrong:
        raise ConfigError(f"{', '.join(wrong)} names no kind: write COLUMN=KIND, for example year=number")
    return dict(text.rsplit("=", 1) for text in given or ())


@dataclass(frozen=True, kw_only=True)
class Splitting:
    """How a data set is split."""

    split: str | None = None
    """temporal (the default: the latest are held out; needs times), random, per-user, leave-last-out, k-fold,
    new-users, new-items, new-users-and-items, strong-generalisation; none trains on everything."""
    valid: float | None = None
    """Share that chooses the epoch (leave-last-out: rows of each user); 0 for none; default: 0.1, or 1 row."""
    test: float | None = None
    """Share held out for `palate evaluate`, likewise."""
    protocol: str | None = None
    """In place of filters and split: a published protocol, which also says metrics and candidates (`palate data
    protocols` lists them)."""
    fold: int | None = None
    """Which fold, of a protocol or of k-fold; default: the first."""
    given: str | None = None
    """File that a protocol needs. ncf: held-out rows with their candidates; u1 and 5fold: MovieLens-100K's zip, where
    it cannot be fetched."""

    def prepared(self, data: Dataset, filters: tuple[str, ...], seed: int) -> Prepared | None:
        """The parts, and how they are judged; None where everything is to train on.

        Args:
            data: What is split.
            filters: What was removed from it, in words.
            seed: Of the split.
        """
        if self.protocol is not None:
            return prepare(self.protocol, data, seed=seed, fold=self.fold, given=self.given)
        split = self.split or "temporal"
        names = [name for name in SPLITS if name != "given"]
        if split == "none":
            return None
        if split not in names:
            raise ConfigError(f"there is no split {split!r}; choose one of {', '.join([*names, 'none'])}")
        rule = inspect.signature(SPLITS[split]).parameters
        options = {name: getattr(self, name) for name in ("valid", "test", "fold") if getattr(self, name) is not None}
        for name, value in options.items():
            if name not in rule:
                raise ConfigError(f"the split {split!r} has no --{name}")
            if isinstance(rule[name].default, int):
                if value != int(value):
                    raise ConfigError(f"--{name} {value} of the split {split!r} is a number of rows, so a whole number")
                options[name] = int(value)
        defaults = {name: option.default for name, option in rule.items() if option.default is not option.empty}
        options = defaults | options | {"seed": seed}
        how = Protocol(filters=filters, split=split, split_options=tuple(sorted(options.items())))
        return Prepared(parts=data.split(split, **options), protocol=how)


def prepared(
    data: str, reading: Reading, beside: Beside, splitting: Splitting, seed: int
) -> tuple[Dataset, Prepared | None]:
    """The data set that an argument `DATA` names, whole and split.

    Raises:
        ConfigError: Filters or a split beside a protocol, which has its own.
    """
    limits = {name: getattr(beside, name) for name in ("min_rating", "min_user", "min_item")}
    filters = tuple(f"{name} {limit:g}" for name, limit in limits.items() if limit)
    if splitting.protocol is not None:
        ours = [name for name in ("split", "valid", "test") if getattr(splitting, name) is not None]
        twice = [f"--{name.replace('_', '-')}" for name in [*ours, *(name for name, limit in limits.items() if limit)]]
        if twice:
            raise ConfigError(
                f"--protocol {splitting.protocol} has its own filters and split: leave out {', '.join(twice)}"
            )
    elif splitting.given is not None:
        raise ConfigError("--given is a file for a --protocol; name one (palate data protocols)")
    whole = dataset(data, reading, beside)
    return whole, splitting.prepared(whole, filters, seed)


def _check_name(data: str, connection: str | None) -> None:
    """A name that is neither a file nor a query was meant to be a known data set."""
    near = get_close_matches(data.lower(), SOURCES, n=1)
    if connection is None and near and not Path(data).exists():
        raise ConfigError(f"there is no file and no data set {data!r}; did you mean {near[0]!r}?")


def from_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill what no flag gave from the file that `--config` names: flag, then file, then default.

    Raises:
        ConfigError: The file cannot be read, or holds settings that the command does not have.
    """
    given = [token.value for argument in arguments if "--config" in argument.names for token in argument.tokens]
    if not given:
        return
    settings = _read(Path(given[0]))
    names = [n.removeprefix("--") for a in arguments for n in a.names if n.startswith("--") and n != "--config"]
    faults = [_unknown(key, names) for key in _keys(settings) if key.replace("_", "-") not in names]
    if faults:
        raise ConfigError.faults(f"{given[0]}, for palate {' '.join(commands)}", faults)
    # Under the command's name, for at the top a key such as "data" is taken for the command `palate data`.
    for command in reversed(commands):
        settings = {command: settings}
    Dict(settings, source=given[0])(app, commands, arguments)


def _keys(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _unknown(key: str, names: list[str]) -> str:
    near = get_close_matches(key.replace("_", "-"), names, n=1)
    return f"unknown setting {key!r}" + (f"; did you mean {near[0].replace('-', '_')!r}?" if near else "")


def _read(path: Path) -> dict[str, Any]:
    if path.suffix not in (".json", ".yaml", ".yml"):
        raise ConfigError(f"--config {path}: its name must end in .json, .yaml or .yml")
    try:
        text = path.read_text(encoding="utf-8")
        settings = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"--config {path} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"--config {path} must hold settings by name, not {type(settings).__name__}")
    return settings
