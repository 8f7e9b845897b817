"""Options that several commands share: how a table is read, how it is split; and the file behind `--config`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
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
from palate.data.split import SPLITS, Split
from palate.data.table import Duplicates, Tables, read_interactions, read_side
from palate.errors import ConfigError

Flat = Parameter(name="*")
"""The fields of a dataclass as flags without a prefix."""
Switch = Parameter(negative="")
"""A flag without a `--no-` form."""


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
    return Dataset.from_frame(kept.frame, tables.items, tables.users, rating_scale=tables.rating_scale, notes=notes)


@dataclass(frozen=True, kw_only=True)
class Splitting:
    """How a data set is split."""

    split: str = "temporal"
    """temporal (the latest are held out; needs times), random, per-user, leave-last-out, k-fold, new-users, new-items,
    strong-generalisation; none trains on everything."""
    valid: float | None = None
    """Share that chooses the epoch (leave-last-out: rows of each user); 0 for none; default: 0.1, or 1 row."""
    test: float | None = None
    """Share held out for `palate evaluate`, likewise."""

    def parts(self, data: Dataset, seed: int) -> Split | None:
        """The parts; None where everything is to train on."""
        names = [name for name in SPLITS if name != "given"]
        if self.split == "none":
            return None
        if self.split not in names:
            raise ConfigError(f"there is no split {self.split!r}; choose one of {', '.join([*names, 'none'])}")
        rule = inspect.signature(SPLITS[self.split]).parameters
        shares = {name: getattr(self, name) for name in ("valid", "test") if getattr(self, name) is not None}
        for name, share in shares.items():
            if name not in rule:
                raise ConfigError(f"the split {self.split!r} has no --{name}")
            if isinstance(rule[name].default, int):
                if share != int(share):
                    raise ConfigError(
                        f"--{name} {share} of the split {self.split!r} is a number of rows, so a whole number"
                    )
                shares[name] = int(share)
        return data.split(self.split, seed=seed, **shares)


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
