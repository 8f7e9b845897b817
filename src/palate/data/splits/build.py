"""Split: one data set as train, valid and test parts; `build_split` makes them from one code for each row.

All parts share one numbering: the users and items of train come first, then those that valid adds, then those that test
adds. The id maps of a part end with its own ids, so `train.spec` counts only what is in train.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import polars as pl

from palate.data.dataset import Dataset
from palate.data.events import Events
from palate.data.ids import IdMap, map_of, release
from palate.errors import ArtifactError, ConfigError, DataError

TRAIN, VALID, TEST, VALID_HISTORY, TEST_HISTORY = range(5)
"""The part of a row; the last two are the histories of held-out users: input of a query, never of training."""
NOWHERE = 5
"""The code of a row in no part."""


_BLOCK_ROWS = 1 << 22


@dataclass(frozen=True, eq=False)
class Split:
    """Train, valid and test parts of a data set; no row is in two parts.

    Attributes:
        train: For fitting; its id maps and side tables hold its own users and items only.
        valid: For choosing epochs and settings; its `history` holds the rows of train or, for held-out users, some of
            their own rows. Empty if `valid=0`.
        test: For reporting; its `history` holds the rows of train and valid or, for held-out users, some of their own.
        notes: How the split was made and how many users and items are new, in words.
    """

    train: Dataset
    valid: Dataset
    test: Dataset
    notes: tuple[str, ...] = ()

    def describe(self) -> pl.DataFrame:
        """Counts of each part.

        Returns:
            One row for each part: `part`, `rows`, `users`, `items`; `new_users` and `new_items`, which are not in
                train;
            `new_rows`, the share of rows with a new user or item.
        """
        parts = {"train": self.train, "valid": self.valid, "test": self.test}
        return pl.DataFrame([{"part": name} | self._counts(part) for name, part in parts.items()])

    def _counts(self, part: Dataset) -> dict[str, int | float]:
        users, items = part.active_users, np.flatnonzero(part.item_counts)
        new = (part.user >= self.train.n_users) | (part.item >= self.train.n_items)
        return {
            "rows": len(part),
            "users": len(users),
            "items": len(items),
            "new_users": int((users >= self.train.n_users).sum()),
            "new_items": int((items >= self.train.n_items).sum()),
            "new_rows": float(new.mean()) if len(part) else 0.0,
        }


def check_shares(valid: float, test: float | None = None) -> None:
    """Check shares of valid and test.

    Raises:
        ConfigError: A share is out of range, or the two leave nothing for train.
    """
    faults = []
    if not 0 <= valid < 1:
        faults.append(f"valid = {valid} is not a share; use 0 for no valid part, or a number between 0 and 1")
    if test is not None and not 0 < test < 1:
        faults.append(f"test = {test} is not a share; use a number between 0 and 1")
    if not faults and test is not None and valid + test >= 1:
        faults.append(f"valid = {valid} and test = {test} leave nothing for train; their sum must be below 1")
    if faults:
        raise ConfigError.faults("split", faults)


def without_new_items(data: Dataset, group: np.ndarray, split: str) -> tuple[Dataset, str]:
    """Drop the rows of held-out users with items that are not in train.

    Args:
        data: The data set to split.
        group: The part of each user, int8 `[n_users]`; `TRAIN` is 0.
        split: Name of the split, for the note.

    Returns:
        The data, and a note with the number of rows.
    """
    held = group[data.user] > 0
    known = np.zeros(data.n_items, dtype=bool)
    known[data.item[~held]] = True
    new = held & ~known[data.item]
    count = f"{int(new.sum()):,} of {int(held.sum()):,} held-out rows"
    return data.take(~new), f"{split}: {count} have items that are not in train, and were dropped"


def build_split(
    data: Dataset,
    part: np.ndarray,
    *,
    valid: float,
    advice: str,
    held_out: bool = False,
    successive: bool = False,
    notes: tuple[str, ...] = (),
) -> Split:
    """Build the three parts with their own numbering and histories.

    Args:
        data: The data set to split; its row order is kept.
        part: The part of each row, int8 `[rows]`: `TRAIN`, `VALID`, `TEST`, `VALID_HISTORY`, `TEST_HISTORY`, `NOWHERE`.
        valid: The requested share or number; 0 allows an empty valid part.
        advice: What to change if a part would be empty, for the message.
        held_out: Whether the users of valid and test are held out: their histories are then only the rows with the code
            `VALID_HISTORY` or `TEST_HISTORY`. Otherwise histories hold these rows and those of all earlier parts.
        successive: Whether each row of valid and test is a question of its own (`Events.successive`).
        notes: How the split was made.

    Raises:
        DataError: A requested part would have no rows, or `data` is itself a valid or test part.
    """
    if data.history is not None:
        raise DataError("this data is already a valid or test part; split the whole data set, or its train part")
    rows = [int(np.count_nonzero(part == code)) for code in range(6)]
    wanted = {"train": TRAIN, "valid": VALID, "test": TEST}
    missing = [name for name, code in wanted.items() if not rows[code] and (valid or code != VALID)]
    if missing:
        raise DataError(
            f"this split of {len(data)} rows, {data.n_users} users and {data.n_items} items leaves no rows for "
            f"{' and '.join(missing)}: {advice}"
        )
    groups = [part == TRAIN, (part == VALID) | (part == VALID_HISTORY), (part == TEST) | (part == TEST_HISTORY)]
    users = _Numbering(data.user, groups, data.users, data.user_table)
    items = _Numbering(data.item, groups, data.items, data.item_table)

    def cut(level: int, rows: np.ndarray, history: Dataset | None, events: Events = data.events) -> Dataset:
        columns = _columns(data, rows, users, items)
        return replace(data, **_maps(users, items, level), **columns, history=history, events=events)

    def under_maps_of(train: Dataset, level: int) -> Dataset:
        """Train under the id maps of a later part: the same arrays, and the same object if no id is new."""
        maps = _maps(users, items, level)
        return train if maps["users"] is train.users and maps["items"] is train.items else replace(train, **maps)

    train = cut(0, groups[0], None)
    asked = replace(data.events, successive=successive)
    if held_out or rows[VALID_HISTORY]:
        known = (part == VALID_HISTORY) if held_out else (part == TRAIN) | (part == VALID_HISTORY)
        before_valid = cut(1, known, None)
    else:
        before_valid = under_maps_of(train, 1)
    valid_part = cut(1, part == VALID, before_valid, asked)
    if held_out:
        before_test = cut(2, part == TEST_HISTORY, None)
    elif len(valid_part) or rows[TEST_HISTORY]:
        before_test = cut(2, (part != TEST) & (part != NOWHERE), None)
    else:
        before_test = under_maps_of(train, 2)
    split = Split(train, valid_part, cut(2, part == TEST, before_test, asked))
    return replace(split, notes=notes + _describe_parts(split))


class _Numbering:
    """New indices of users or items: those of train in their old order, then those that valid adds, then test."""

    def __init__(self, index: np.ndarray, groups: list[np.ndarray], ids: IdMap, table: pl.DataFrame | None) -> None:
        known = np.zeros(len(ids), dtype=bool)
        added = []
        for rows in groups:
            here = np.zeros(len(ids), dtype=bool)
            here[index[rows]] = True
            added.append(np.flatnonzero(here & ~known))
            known |= here
        order = np.concatenate(added)
        self.number = np.full(len(ids), -1, dtype=np.int32)
        self.number[order] = np.arange(len(order), dtype=np.int32)
        # The first part that holds each user or item; new indices ascend with the old ones within a part.
        self.part = np.full(len(ids), len(groups), dtype=np.int8)
        for part, new in enumerate(added):
            self.part[new] = part
        counts = np.cumsum([len(a) for a in added])
        # Parts with the same ids share one map.
        maps = {int(n): (IdMap(ids.ids[order[:n]]), None if table is None else table[order[:n]]) for n in set(counts)}
        self.levels = [maps[int(n)] for n in counts]


def _maps(users: _Numbering, items: _Numbering, level: int) -> dict[str, Any]:
    user_map, user_table = users.levels[level]
    item_map, item_table = items.levels[level]
    return {"users": user_map, "items": item_map, "user_table": user_table, "item_table": item_table}


def _columns(data: Dataset, rows: np.ndarray, users: _Numbering, items: _Numbering) -> dict[str, Any]:
    """The rows of a part, ordered by their new users: those of train, then those that valid adds, then test."""
    part = users.part[data.user]
    masks = [rows & (part == level) for level in range(len(users.levels))]
    masks = [mask for mask in masks if mask.any()] or [rows]
    columns: dict[str, Any] = {
        "user": _select_rows(data.user, masks, users.number),
        "item": _select_rows(data.item, masks, items.number),
    }
    for name in ("rating", "timestamp", "weight"):
        column = getattr(data, name)
        columns[name] = None if column is None else _select_rows(column, masks)
    return columns


def _select_rows(column: np.ndarray, masks: Sequence[np.ndarray], number: np.ndarray | None = None) -> np.ndarray:
    """The rows of several masks, one mask after another; mapped from disk, by a file without a name, if the column is.

    Args:
        column: `[rows]`.
        masks: Bool, `[rows]` each.
        number: The values of the result are `number[value]`. Defaults to the values themselves.

    Raises:
        ArtifactError: The file cannot be written.
    """
    mapped = map_of(column)
    if mapped is None or os.name == "nt":
        parts = [column[mask] for mask in masks]
        found = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return found if number is None else number[found]
    rows = sum(int(np.count_nonzero(mask)) for mask in masks)
    dtype = column.dtype if number is None else number.dtype
    folder = None if mapped.filename is None else _writable(Path(mapped.filename).parent)
    if not rows:
        return np.empty(0, dtype=dtype)
    try:
        with TemporaryFile(dir=folder) as file:
            for mask in masks:
                for start in range(0, len(column), _BLOCK_ROWS):
                    block = slice(start, start + _BLOCK_ROWS)
                    values = column[block][mask[block]]
                    file.write(np.ascontiguousarray(values if number is None else number[values]).data)
            file.flush()
            found = np.memmap(file, dtype, mode="c", shape=(rows,))
        found.filename = None if folder is None else str(folder / "part")  # tells parts of this part where to lie
    except OSError as error:
        raise ArtifactError(
            f"the parts of the split cannot be written beside the data set ({error}); they take up to twice its space: "
            "free some, or move the data set to a larger disk"
        ) from error
    release(column)
    return np.asarray(found)


def _writable(folder: Path) -> Path | None:
    return folder if os.access(folder, os.W_OK) else None


def _describe_parts(split: Split) -> tuple[str, ...]:
    lines = []
    for line in split.describe().iter_rows(named=True):
        text = f"{line['part']}: {line['rows']} rows of {line['users']} users and {line['items']} items"
        if line["part"] != "train" and line["rows"]:
            text += (
                f"; {line['new_users']} users and {line['new_items']} items are new (not in train), "
                f"in {line['new_rows']:.1%} of the rows"
            )
        lines.append(text)
    return tuple(lines)


def align(part: Dataset, train: Dataset) -> Dataset:
    """Data under the training data's indices, with a `history`; new users and items follow after those of training.

    Args:
        part: A part of the split that gave `train`, which is returned as it is; or other interactions, which are mapped
            by their ids. Data without a `history` of its own gets `train` as its history.
        train: The training data.

    Raises:
        DataError: The ids are of another type than those of `train`.
    """
    sides = ((train.users, part.users), (train.items, part.items))
    if part.history is not None and all(theirs.ids[: len(ours)].equals(ours.ids) for ours, theirs in sides):
        return part
    users, items = train.users.extend(part.users.ids), train.items.extend(part.items.ids)
    tables: dict[str, Any] = {
        "user_table": _joined_table(train.user_table, part.user_table, users, "user_id"),
        "item_table": _joined_table(train.item_table, part.item_table, items, "item_id"),
    }
    past = _reindexed(part.history or train, users, items)
    return replace(_reindexed(part, users, items), history=replace(past, **tables), **tables)


def joined_rows(train: Dataset, others: Sequence[Dataset]) -> Dataset:
    """All rows of some data sets as one, under the training data's indices; new users and items follow.

    Args:
        train: The training data; its rating scale and declared kinds are kept.
        others: Other data with ids of the same type. Its `history` counts too. Rows that `train` or an earlier data set
            holds already are left out, as often as they are held; columns that `train` lacks are dropped.

    Raises:
        DataError: The ids are of another type than those of `train`, or a data set lacks a column of `train`.
    """
    users, items = train.users, train.items
    tables: dict[str, Any] = {"user_table": train.user_table, "item_table": train.item_table}
    for data in others:
        users, items = users.extend(data.users.ids), items.extend(data.items.ids)
        for key, ids in (("user", users), ("item", items)):
            tables[f"{key}_table"] = _joined_table(
                tables[f"{key}_table"], getattr(data, f"{key}_table"), ids, f"{key}_id"
            )
    names = [name for name in ("rating", "timestamp", "weight") if getattr(train, name) is not None]
    pieces = [[train], *([other] if other.history in (None, train) else [other.history, other] for other in others)]
    if not train.events.repeats:
        pieces = [[data] for piece in pieces for data in piece]
    frames = [pl.concat([_index_frame(data, users, items, names) for data in piece]) for piece in pieces]
    if train.events.repeats:  # equal events of one data set stay apart: each has its number
        frames = [frame.with_columns(pl.int_range(pl.len()).over(frame.columns).alias("again")) for frame in frames]
    rows = frames[0]
    for frame in frames[1:]:
        new = frame.join(rows, on=frame.columns, how="anti", nulls_equal=True, maintain_order="left")
        rows = pl.concat([rows, new])
    rows = rows.sort(["user", *(name for name in names if name == "timestamp")], maintain_order=True)
    columns: dict[str, Any] = {name: rows[name].to_numpy(writable=True) for name in ["user", "item", *names]}
    return replace(train, users=users, items=items, history=None, **tables, **columns)


def _index_frame(data: Dataset, users: IdMap, items: IdMap, names: Sequence[str]) -> pl.DataFrame:
    """Rows as indices of larger id maps, with some of the columns.

    Raises:
        DataError: There is no such column.
    """
    missing = [name for name in names if getattr(data, name) is None]
    if missing:
        raise DataError(f"these rows have no {' and no '.join(missing)}, and the training data has; add the column")
    user, item = users.index(data.users.ids)[data.user], items.index(data.items.ids)[data.item]
    columns = {"user": user.astype(np.int32), "item": item.astype(np.int32)}
    return pl.DataFrame(columns | {name: getattr(data, name) for name in names})


def training_rows_note(part: Dataset, train: Dataset) -> tuple[str, ...]:
    """A note on rows of a part that are training rows too: an evaluation on them does not measure generalisation.

    Args:
        part: Under the training data's indices (`align`).
        train: The training data.

    Returns:
        One note, or none if no user and item of the part meet in the training data.
    """
    trained = train.user.astype(np.int64) * part.n_items + train.item
    seen = int(np.isin(part.user.astype(np.int64) * part.n_items + part.item, trained).sum())
    if not seen:
        return ()
    return (
        f"{seen:,} of {len(part):,} rows are in the training data: the model has seen them, so these results do not "
        "measure how well it predicts new rows",
    )


def _reindexed(data: Dataset, users: IdMap, items: IdMap) -> Dataset:
    """The same rows under other id maps, without side tables and history."""
    user, item = users.index(data.users.ids)[data.user], items.index(data.items.ids)[data.item]
    order = np.argsort(user, kind="stable")
    names = ("rating", "timestamp", "weight")
    rest: dict[str, Any] = {name: None if getattr(data, name) is None else getattr(data, name)[order] for name in names}
    rows = {"user": user[order].astype(np.int32), "item": item[order].astype(np.int32)}
    return replace(data, users=users, items=items, user_table=None, item_table=None, history=None, **rows, **rest)


def _joined_table(ours: pl.DataFrame | None, theirs: pl.DataFrame | None, ids: IdMap, key: str) -> pl.DataFrame | None:
    """One side table for all ids; the training data's row wins where both have one."""
    known = [table for table in (ours, theirs) if table is not None]
    if not known:
        return None
    table = pl.concat(known, how="diagonal_relaxed").unique(key, keep="first", maintain_order=True)
    return pl.DataFrame({key: ids.ids}).join(table, on=key, how="left", maintain_order="left")
