"""Sessions: histories without users, named by a column or cut from a user's events at gaps of time."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import polars as pl

from palate.data.reading.checks import ROW, Findings, plural
from palate.data.reading.table import Columns
from palate.errors import ConfigError

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_gap(gap: str | float) -> float:
    """A gap of time in seconds.

    Args:
        gap: A number of seconds, or text such as "90s", "30m", "2h" or "1d".

    Raises:
        ConfigError: It is neither, or not above 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", str(gap).strip().lower())
    seconds = float(found[1]) * _SECONDS[found[2] or "s"] if found else math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise ConfigError(f"session_gap = {gap!r} is not a time above 0; write for example '30m', '2h' or '90s'")
    return seconds


def refuse_user_table(users: Any) -> None:
    """Refuse a table of users for sessions that are cut by time: no session has a row in it.

    Raises:
        ConfigError: There is one.
    """
    if users is not None:
        raise ConfigError("users= describes users, and session_gap= cuts them into sessions; leave out one of them")


def session_columns(columns: Columns | None, session: str | int, gap: str | float | None) -> Columns:
    """The mapping of columns with the column of sessions in the place of the users.

    Args:
        columns: As the caller gave them.
        session: Column of session ids.
        gap: The gap of time, or None.

    Raises:
        ConfigError: Both are given, or the mapping names another column of users.
    """
    if gap is not None:
        raise ConfigError(
            "session= names the sessions, and session_gap= cuts users' events into sessions; give one of them"
        )
    if columns is not None and not isinstance(columns, Mapping):
        raise ConfigError("session= goes with columns by name; in a list of roles, put user_id where the sessions are")
    given: dict[str, Any] = dict(columns or {})
    if given.get("user_id") is not None:
        raise ConfigError(
            f"session = {session!r} and user_id = {given['user_id']!r}: sessions take the place of users; leave out "
            "user_id=, or cut the users' events into sessions with session_gap="
        )
    return {**given, "user_id": session}


def cut_sessions(frame: pl.DataFrame, seconds: float, found: Findings) -> pl.DataFrame:
    """Cut each user's events where no event follows within the gap: `user_id` becomes "USER/1", "USER/2", ...

    Args:
        frame: Typed rows with the column `ROW`, in any order.
        seconds: The gap.
        found: Takes a note, and a fault if there are no times.

    Returns:
        The rows in the same order.
    """
    if "timestamp" not in frame.columns:
        found.faults.append(
            "session_gap= needs times, and no column for timestamp was found; name it: columns={'timestamp': ...}"
        )
        return frame
    users = frame["user_id"].n_unique()
    ordered = frame.sort("user_id", "timestamp", ROW)
    # Within a user, the first difference is null: numbers begin at 1.
    gaps = pl.col("timestamp").diff() > seconds
    number = gaps.fill_null(value=False).cum_sum().over("user_id").cast(pl.Int64) + 1
    ordered = ordered.with_columns(user_id=pl.format("{}/{}", "user_id", number))
    cut = ordered.sort(ROW)
    total = plural(cut["user_id"].n_unique(), "session")
    found.notes.append(f"{plural(users, 'user')} cut into {total} at gaps of more than {seconds:,g} seconds")
    return cut
