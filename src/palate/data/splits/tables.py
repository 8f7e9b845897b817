"""read_split: train, valid and test parts that somebody made, each a table of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from palate.data.dataset import Dataset
from palate.data.reading import CheckedInteractions, read_interactions, read_side
from palate.data.splits.build import TEST, TEST_HISTORY, TRAIN, VALID, VALID_HISTORY, Split, build_split
from palate.errors import ConfigError, DataError

_CODES = {
    "train": TRAIN,
    "valid_history": VALID_HISTORY,
    "valid": VALID,
    "test_history": TEST_HISTORY,
    "test": TEST,
}
_PAIR = ["user_id", "item_id"]


def read_split(
    train: Any,
    *,
    test: Any,
    valid: Any = None,
    valid_history: Any = None,
    test_history: Any = None,
    items: Any = None,
    users: Any = None,
    items_id: str | None = None,
    users_id: str | None = None,
    item_kinds: Mapping[str, str] | None = None,
    user_kinds: Mapping[str, str] | None = None,
    **options: Any,
) -> Split:
    """Make a split of parts that exist already, as frames or files with ids.

    Each table is read and checked as `palate.read_dataset` does it. All need the same columns and the same kind of ids.

    Args:
        train: Interactions for fitting: a path, a query (with `connection`) or a polars, pandas or Arrow frame.
        test: Targets for reporting.
        valid: Targets that choose epochs and settings. Defaults to no valid part.
        valid_history, test_history: What the users of `valid` and `test` did before their targets: input of their
            queries, never of training. For users who are not in `train` (strong generalisation). Other users have their
            rows of the earlier parts as their history, and these rows in addition. Default to none.
        items, users, items_id, users_id, item_kinds, user_kinds: As in `palate.read_dataset`.
        options: Those of `palate.data.reading.read_interactions`, for all tables of interactions.

    Raises:
        DataError: Lists the faults of all tables; their columns or ids differ; a user and an item are in two tables
            (unless `duplicates="keep"`).
        ConfigError: An option is out of range, or a history has no part.
    """
    given = {"train": train, "valid_history": valid_history, "valid": valid, "test_history": test_history, "test": test}
    if valid_history is not None and valid is None:
        raise ConfigError(
            "valid_history= is the history of the users of valid=; give both, or leave out valid_history="
        )
    if options.get("session_gap") is not None:
        raise ConfigError("session_gap= cuts one table into sessions; cut before you split, and pass session=")
    checked = _checked({name: table for name, table in given.items() if table is not None}, options)
    rows = pl.concat([one.frame.with_columns(part=pl.lit(_CODES[name])) for name, one in checked.items()])
    if not checked["train"].events.repeats:
        _refuse_shared_pairs(rows)
    shared: dict[str, Any] = {name: options[name] for name in ("connection", "max_gb") if name in options}
    shared["mapping"] = options.get("columns")
    item_table, user_table = (
        None if table is None else read_side(table, key, rows[key].dtype, id_column=id_column, **shared)
        for table, key, id_column in ((items, "item_id", items_id), (users, "user_id", users_id))
    )
    data = Dataset.from_frame(
        rows.drop("part"),
        item_table,
        user_table,
        rating_scale=options.get("rating_scale"),
        notes=tuple(f"{name}: {note}" for name, one in checked.items() for note in one.notes),
        item_kinds=item_kinds,
        user_kinds=user_kinds,
        events=checked["train"].events,
    )
    part = _in_order_of(data, rows)
    asked = np.unique(data.user[part != TRAIN])
    held_out = {"valid_history", "test_history"} & set(checked) and not np.isin(asked, data.user[part == TRAIN]).any()
    advice = "give each part at least one row"
    return build_split(data, part, valid=0.0 if valid is None else 1.0, advice=advice, held_out=bool(held_out))


def _checked(tables: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, CheckedInteractions]:
    """The tables of interactions, read and checked; the faults of all are reported together."""
    found: dict[str, CheckedInteractions] = {}
    faults: list[str] = []
    for name, table in tables.items():
        try:
            found[name] = read_interactions(table, **options)
        except DataError as error:
            faults.append(f"{name}: {error}")
    if not faults:
        columns = {name: _columns(one.frame) for name, one in found.items()}
        faults = [
            f"{name} has the columns {text}, and train has {columns['train']}; all parts need the same"
            for name, text in columns.items()
            if text != columns["train"]
        ]
    if faults:
        raise DataError.faults("the parts of the split", faults)
    return found


def _columns(frame: pl.DataFrame) -> str:
    """The columns in words, those of ids with their kind."""
    kinds = {key: "text" if frame[key].dtype == pl.String else "whole numbers" for key in _PAIR}
    return ", ".join(f"{name} ({kinds[name]})" if name in kinds else name for name in frame.columns)


def _refuse_shared_pairs(rows: pl.DataFrame) -> None:
    """Raise an error if a user and an item are in two tables; within one, the reader has merged them."""
    shared = rows.filter(pl.struct(_PAIR).is_duplicated())
    if shared.is_empty():
        return
    user, item, *_ = shared.row(0)
    first = shared.filter((pl.col("user_id") == user) & (pl.col("item_id") == item))["part"]
    names = [name for code in first for name, of in _CODES.items() if of == code]
    count = shared.select(_PAIR).n_unique()
    raise DataError(
        f"{count:,} pairs of a user and an item are in more than one part, for example user {user!r} and item {item!r} "
        f"in {' and '.join(names)}; remove them from one, or pass duplicates='keep' if they are events of their own"
    )


def _in_order_of(data: Dataset, rows: pl.DataFrame) -> np.ndarray:
    """The part of each row of the data, int8 `[rows]`: a data set orders its rows by user, time and input order."""
    user = data.users.index(rows["user_id"])
    order = np.lexsort((rows["timestamp"].to_numpy(), user) if "timestamp" in rows.columns else (user,))
    return rows["part"].to_numpy().astype(np.int8)[order]
