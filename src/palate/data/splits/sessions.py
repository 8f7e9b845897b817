"""Splits of sessions: the latest are held out, and each of their rows is predicted from those before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from palate.data.dataset import Dataset
from palate.data.reading.formats import open_table
from palate.data.splits.build import TEST, VALID, Split, build_split, check_shares, without_new_items
from palate.errors import DataError

_ADVICE = "sessions that end in the same second stay together; use other shares, or more sessions"


def sessions(
    data: Dataset, *, valid: float = 0.1, test: float = 0.1, drop_new_items: bool = False, seed: int = 0
) -> Split:
    """Hold out the latest sessions: each of their rows is a question, asked of the rows before it.

    A session is as late as its last row; sessions that end in one second stay together, in the later part. Data without
    timestamps is taken in the order of the session ids.

    Args:
        data: The data set to split.
        valid, test: Shares of the sessions, the latest ones; `valid=0` for no valid part.
        drop_new_items: Drop held-out rows of items that are not in train before the questions are made.
        seed: No effect; this split is not random.

    Raises:
        DataError: Too many sessions end in the same second.
    """
    check_shares(valid, test)
    part = _latest(data, round(valid * len(data.active_users)), round(test * len(data.active_users)))
    notes = ("sessions: this data has no timestamps; the order of the session ids is used instead",)
    return _held_out(data, part, valid, drop_new_items, () if data.timestamp is not None else notes)


def given_sessions(data: Dataset, held_out: pl.DataFrame, *, valid: float = 0.1, drop_new_items: bool = False) -> Split:
    """As `sessions`, with given sessions as test; valid are the latest sessions of `data`.

    Args:
        data: The other sessions.
        held_out: From `read_prefixes`: `user_id`, `item_id`.
        valid: Share of the sessions of `data`.
        drop_new_items: As in `sessions`.
    """
    check_shares(valid)
    frame = data.frame().select("user_id", "item_id", *(["timestamp"] if data.timestamp is not None else []))
    dropped = [name for name in ("rating", "weight") if getattr(data, name) is not None]
    notes = (f"sessions: the given sessions have no {' and no '.join(dropped)}, so this column is not used",)
    if data.timestamp is not None:
        held_out = held_out.with_columns(timestamp=pl.lit(data.last_time))
    whole = Dataset.from_frame(
        pl.concat([frame, held_out.cast({name: frame.schema[name] for name in frame.columns})]),
        data.item_table,
        data.user_table,
        notes=data.notes,
        item_kinds=data.item_kinds,
        user_kinds=data.user_kinds,
        events=data.events,
    )
    part = np.zeros(whole.n_users, dtype=np.int8)
    part[whole.users.index(data.users.ids)] = _latest(data, round(valid * len(data.active_users)), 0)
    part[whole.users.index(held_out["user_id"])] = TEST
    return _held_out(whole, part, valid, drop_new_items, notes if dropped else ())


def _latest(data: Dataset, n_valid: int, n_test: int) -> np.ndarray:
    """The code of each session's part, int8 `[n_users]`: the latest are test, those before them valid."""
    users, part = data.active_users, np.zeros(data.n_users, dtype=np.int8)
    end = users if data.timestamp is None else data.timestamp[data.offsets[1:][users] - 1]
    ordered = np.sort(end)
    for code, count, later in ((VALID, n_valid, n_test), (TEST, n_test, 0)):
        if count:
            part[users[end >= ordered[max(len(users) - count - later, 0)]]] = code
    return part


def _held_out(data: Dataset, group: np.ndarray, valid: float, drop: bool, notes: tuple[str, ...]) -> Split:
    """Sessions by the code of their part, int8 `[n_users]`."""
    if drop:
        data, dropped = without_new_items(data, group, "sessions")
        notes = (*notes, dropped)
    held = np.flatnonzero(group)
    short = int((np.diff(data.offsets)[held] < 2).sum())
    if short:
        notes = (
            *notes,
            f"sessions: {short:,} of {len(held):,} held-out sessions have fewer than 2 rows and ask nothing",
        )
    return build_split(data, group[data.user], valid=valid, advice=_ADVICE, held_out=True, successive=True, notes=notes)


def read_prefixes(source: Any, data: Dataset) -> pl.DataFrame:
    """Read held-out sessions that are published as prefixes, each with the item that follows it.

    Args:
        source: A file or frame with the columns `prefix` (a list of item ids) and `target`; the prefixes of a session
            stand together, the longest first.
        data: The other sessions, whose ids the new session ids continue.

    Returns:
        `user_id` and `item_id`, one row for each click, in order.

    Raises:
        DataError: A column is missing, or the prefixes are not all those of whole sessions.
    """
    table = open_table(source)
    label = str(source) if isinstance(source, (str, Path)) else table.label
    missing = [name for name in ("prefix", "target") if name not in table.names]
    if missing:
        raise DataError(f"{label} has no column {' and '.join(missing)}; prefixes need prefix (a list) and target")
    frame = table.read(["prefix", "target"], {})
    if not isinstance(frame.schema["prefix"], pl.List):
        raise DataError(f"column prefix of {label} must hold lists of item ids, not {frame.schema['prefix']}")
    frame = frame.with_columns(whole=pl.concat_list("prefix", "target"))
    goes_on = frame.select(pl.col("prefix") == pl.col("whole").shift(-1))["prefix"].fill_null(value=False)
    first = frame.filter(~goes_on.shift(1, fill_value=False))["whole"]
    asked = int(first.list.len().sum() or 0) - len(first)
    if asked != len(frame) or not len(frame):
        raise DataError(
            f"{label} holds {len(frame):,} prefixes, and its sessions have {asked:,}; expected all prefixes of each "
            "session, one below the other, the longest first"
        )
    number = pl.Series("user_id", np.arange(len(first)))
    ids = "held-out " + number.cast(pl.String) if data.users.is_text else number + int(data.users.ids.max()) + 1  # type: ignore[arg-type]
    return pl.DataFrame({"user_id": ids, "item_id": first}).explode("item_id")
