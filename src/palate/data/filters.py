"""Filters that say what they removed: a least rating, and users and items with enough interactions."""

from __future__ import annotations

import numpy as np
import polars as pl

from palate.data.checks import counted
from palate.data.table import Checked
from palate.errors import ConfigError, DataError


def filter_interactions(
    frame: pl.DataFrame, *, min_rating: float | None = None, min_user: int = 0, min_item: int = 0
) -> Checked:
    """Keep only interactions that are good enough, of users and items with enough of them.

    With both `min_user` and `min_item` this is the k-core: leaving out an item takes rows from users, who may then have
    too few, and so on until nothing changes. The result does not depend on the order of the rows.

    Args:
        frame: Interactions as `palate.data.table.read_interactions` gives them.
        min_rating: Least rating to keep; comes before the counting.
        min_user, min_item: Least interactions of each user and each item that stays; 0 and 1 remove nothing.

    Returns:
        The rows that stay, in their order, and a note for each filter that removed any.

    Raises:
        ConfigError: A filter is out of range.
        DataError: There are no ratings to filter by, or nothing is left.
    """
    faults = [f"{name} = {n} is below 0" for name, n in (("min_user", min_user), ("min_item", min_item)) if n < 0]
    if faults:
        raise ConfigError.faults("filter", faults)
    notes = []
    kept = frame
    if min_rating is not None:
        if "rating" not in frame.columns:
            raise DataError(f"min_rating = {min_rating:g} needs ratings; the columns are {', '.join(frame.columns)}")
        kept = frame.filter(pl.col("rating") >= min_rating)
        if kept.height < frame.height:
            notes.append(f"min_rating {min_rating:g}: {_removed(frame, kept)}")
    if min_user > 1 or min_item > 1:
        before = kept
        mask, rounds = _core(kept, min_user, min_item)
        kept = kept.filter(mask)
        if kept.height < before.height:
            sizes = f"min_user {min_user}, min_item {min_item}"
            notes.append(f"{sizes}: {_removed(before, kept)} in {counted(rounds, 'round')}")
    if kept.is_empty():
        raise DataError(f"no interactions are left of {frame.height:,}: {'; '.join(notes) or 'there were none'}")
    return Checked(kept, tuple(notes))


def _core(frame: pl.DataFrame, min_user: int, min_item: int) -> tuple[pl.Series, int]:
    """Which rows are in the k-core, and after how many rounds nothing changed any more."""
    user, item = (_codes(frame[key]) for key in ("user_id", "item_id"))
    n_users, n_items = (int(codes.max(initial=-1)) + 1 for codes in (user, item))
    rows, rounds = np.arange(frame.height), 0
    while True:
        enough = (np.bincount(user, minlength=n_users) >= min_user)[user]
        enough &= (np.bincount(item, minlength=n_items) >= min_item)[item]
        if enough.all():
            break
        user, item, rows = user[enough], item[enough], rows[enough]
        rounds += 1
    mask = np.zeros(frame.height, dtype=bool)
    mask[rows] = True
    return pl.Series(mask), rounds


def _codes(ids: pl.Series) -> np.ndarray:
    return ids.rank("dense").to_numpy().astype(np.int64) - 1


def _removed(before: pl.DataFrame, after: pl.DataFrame) -> str:
    gone = {key: before[f"{key}_id"].n_unique() - after[f"{key}_id"].n_unique() for key in ("user", "item")}
    whole = " and ".join(counted(n, key) for key, n in gone.items())
    return f"{before.height - after.height:,} of {counted(before.height)} removed, with them {whole}"
