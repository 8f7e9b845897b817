"""SPLITS: name -> function Dataset -> Split(train, valid, test).

Every split assigns whole rows, depends on nothing but the data, its options and `seed`, and describes itself in
`Split.notes`. Splits that hold out users or items entirely are in `palate.data.splits.cold_start`, published ones in
`palate.data.splits.predefined`; `read_split` takes parts that exist already.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np

from palate.data.dataset import Dataset
from palate.data.splits.build import TEST, TEST_HISTORY, TRAIN, VALID, VALID_HISTORY, build_split, check_shares
from palate.data.splits.build import Split as Split
from palate.data.splits.cold_start import (
    new_items,
    new_users,
    new_users_and_items,
    random_places,
    strong_generalisation,
)
from palate.data.splits.predefined import predefined_split
from palate.data.splits.sessions import sessions
from palate.data.splits.tables import read_split as read_split
from palate.errors import ConfigError, DataError


def split_dataset(data: Dataset, name: str = "temporal", **options: Any) -> Split:
    """Split a data set into train, valid and test parts.

    Args:
        data: The whole data set, or the train part of a split.
        name: A key of `SPLITS`.
        options: Those of the function in `SPLITS`.

    Raises:
        ConfigError: There is no such split or option, or an option is out of range.
        DataError: A part would be empty.
    """
    if name not in SPLITS:
        raise ConfigError(f"there is no split {name!r}; choose one of {', '.join(SPLITS)}")
    known = list(inspect.signature(SPLITS[name]).parameters)[1:]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ConfigError(f"split {name!r} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    return SPLITS[name](data, **options)


NEW_ROWS = 0.5
"""Largest share of test rows with new users or items under which the temporal split is the default."""


def default_split(data: Dataset, valid: float = 0.1, test: float = 0.1) -> tuple[str, str]:
    """Choose a split by what a table looks like.

    The temporal split is the honest one: nothing is learned from the future. It measures little where most of its test
    rows belong to users or items that training never saw, and is not possible without times.

    Args:
        data: The data set to split.
        valid, test: Shares of the rows.

    Returns:
        A key of `SPLITS`, "temporal", "per-user" or "sessions", and the reason in words; empty for the temporal split.
    """
    if data.events.sessions:
        return "sessions", "split sessions, because the users are sessions"
    if data.timestamp is None:
        return "per-user", "split per-user, because the data has no times"
    last = len(data) - max(1, round(test * len(data)))
    first = max(last - round(valid * len(data)), 0)
    times = np.partition(data.timestamp, [first, last])
    held_out, train = data.timestamp >= times[last], data.timestamp < times[first]
    known = np.ones(int(np.count_nonzero(held_out)), dtype=bool)
    for index, count in ((data.user, data.n_users), (data.item, data.n_items)):
        trained = np.zeros(count, dtype=bool)
        trained[index[train]] = True
        known &= trained[index[held_out]]
    new = 1 - float(known.mean())
    if new <= NEW_ROWS:
        return "temporal", ""
    return "per-user", (
        f"split per-user, because {new:.1%} of the test rows of the temporal split would have users or items that are "
        "not in train"
    )


def random(data: Dataset, *, valid: float = 0.1, test: float = 0.1, seed: int = 0) -> Split:
    """Assign rows at random, independent of users.

    Args:
        data: The data set to split.
        valid, test: Shares of the rows; `valid=0` for no valid part.
        seed: Seed of the random choice.
    """
    check_shares(valid, test)
    n_valid, n_test = round(valid * len(data)), round(test * len(data))
    part = np.zeros(len(data), dtype=np.int8)
    rows = np.random.default_rng(seed).choice(len(data), n_valid + n_test, replace=False)
    part[rows[:n_test]] = TEST
    part[rows[n_test:]] = VALID
    return build_split(data, part, valid=valid, advice="use a larger share, or more rows")


def per_user(
    data: Dataset,
    *,
    valid: float = 0.1,
    test: float = 0.1,
    rounding: Literal["chance", "up"] = "chance",
    seed: int = 0,
) -> Split:
    """Assign the same share of each user's rows at random; each user keeps at least one row in train.

    Args:
        data: The data set to split.
        valid, test: Shares of each user's rows; `valid=0` for no valid part.
        rounding: Rounding of fractional numbers of rows: "chance" rounds up or down at random, so that the shares hold
            overall; "up" always rounds up.
        seed: Seed of the random choice.
    """
    check_shares(valid, test)
    if rounding not in ("chance", "up"):
        raise ConfigError(f"rounding = {rounding!r}: give 'chance' or 'up'")
    rng = np.random.default_rng(seed)
    counts = np.diff(data.offsets)
    at_most = np.maximum(counts - 1, 0)
    # Just below 1, so that a whole number of rows is not rounded up because of its last bit.
    offsets = [np.full(len(counts), 1 - 1e-9) if rounding == "up" else rng.random(len(counts)) for _ in range(2)]
    n_test = np.minimum((counts * test + offsets[0]).astype(np.int64), at_most)
    n_valid = np.minimum((counts * valid + offsets[1]).astype(np.int64), at_most - n_test)
    place = random_places(data.user, rng)
    part = np.zeros(len(data), dtype=np.int8)
    part[place < (n_test + n_valid).astype(np.int32)[data.user]] = VALID
    part[place < n_test.astype(np.int32)[data.user]] = TEST
    return build_split(
        data,
        part,
        valid=valid,
        advice="a user with one row keeps it in train; use larger shares, or users with more rows",
    )


def leave_last_out(data: Dataset, *, valid: int = 1, test: int = 1, seed: int = 0) -> Split:
    """Assign each user's last rows to test, those before to valid; each user keeps at least one row in train.

    Rows are ordered by time; equal times, and data without times, by the order of the input. Later rows of other users
    are in train, so this split leaks the future: use `temporal` for headline numbers, and this split to compare with
    published results.

    Args:
        data: The data set to split.
        valid, test: Rows of each user, 1 in the usual protocol; `valid=0` for no valid part. A user with too few rows
            fills train first, then test, then valid.
        seed: No effect; this split is not random.
    """
    faults = [f"valid = {valid} is not a number of rows; give 0 or more"] * (valid < 0)
    faults += [f"test = {test} is not a number of rows; give 1 or more"] * (test < 1)
    if faults:
        raise ConfigError.faults("split", faults)
    part = np.zeros(len(data), dtype=np.int8)
    counts, ends = np.diff(data.offsets), data.offsets[1:]
    for place in range(min(test + valid, int(counts.max(initial=0)))):
        part[ends[counts > place + 1] - 1 - place] = TEST if place < test else VALID
    notes = []
    if data.timestamp is None:
        notes.append("leave-last-out: this data has no timestamps; the order of the input is used instead")
    short = int(((counts > 0) & (counts <= test + valid)).sum())
    if short:
        notes.append(f"leave-last-out: {short} users have too few rows for all parts; they fill train first, then test")
    advice = f"a user needs {1 + test + valid} rows to be in all parts; use longer histories, or valid=0"
    return build_split(data, part, valid=valid, advice=advice, notes=tuple(notes))


def temporal(
    data: Dataset,
    *,
    valid: float = 0.1,
    test: float = 0.1,
    targets: Literal["all", "last", "successive"] = "all",
    drop_repeats: bool = False,
    seed: int = 0,
) -> Split:
    """Split at two points in time, the same for all users: train, then valid, then test.

    Rows with the timestamp of a cut all move to the later part, so every row of train is older than all rows of valid
    and test.

    Args:
        data: The data set to split; needs timestamps.
        valid, test: Shares of the rows, the latest ones; `valid=0` for no valid part.
        targets: What valid and test ask. "all": one question for each user, asked at the cut, whose targets are all
            rows of the user in the part. "last": the last row of each user in the part; the others are part of the
            history. "successive": each row in turn, asked of all rows before it. Rows with nothing before them ask
            nothing.
        drop_repeats: Drop rows that repeat the item of the user's row directly before them.
        seed: No effect; this split is not random.

    Raises:
        DataError: There are no timestamps, or too many rows share one.
    """
    check_shares(valid, test)
    if targets not in ("all", "last", "successive"):
        raise ConfigError(f"targets = {targets!r}: give 'all', 'last' or 'successive'")
    if data.timestamp is None:
        raise DataError(
            "a temporal split needs timestamps, which this data lacks; name their column, or use the split 'random'"
        )
    data, repeats = _without_immediate_repeats(data) if drop_repeats else (data, [])
    assert data.timestamp is not None
    n_valid, n_test = round(valid * len(data)), round(test * len(data))
    part = np.zeros(len(data), dtype=np.int8)
    notes = []
    places = [(name, code, n) for name, code, n in (("valid", VALID, n_valid + n_test), ("test", TEST, n_test)) if n]
    times = np.partition(data.timestamp, [len(data) - n for *_, n in places]) if places else data.timestamp
    for name, code, n in places:
        cut = times[len(data) - n]
        later = data.timestamp >= cut
        part[later] = code
        ties = int(later.sum()) - n
        notes.append(
            f"temporal: {name} begins at {np.datetime64(int(cut), 's')} UTC"
            + (f"; {_extra_rows(ties)} moved to {name} because of equal timestamps" if ties else "")
        )
    if targets == "last":
        part, first = _only_last_targets(data, part)
        notes += first
    advice = "rows with equal timestamps stay together; use other shares, or finer timestamps"
    successive = targets == "successive"
    return build_split(data, part, valid=valid, advice=advice, successive=successive, notes=(*repeats, *notes))


def _without_immediate_repeats(data: Dataset) -> tuple[Dataset, list[str]]:
    """The data without rows that repeat the user's row directly before them, and a note with their number."""
    same = np.zeros(len(data), dtype=bool)
    same[1:] = (data.user[1:] == data.user[:-1]) & (data.item[1:] == data.item[:-1])
    dropped = int(same.sum())
    return data.take(~same), [f"temporal: {dropped:,} rows repeat the row before them and were dropped"] * (dropped > 0)


def _only_last_targets(data: Dataset, part: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Each user's rows in valid and in test but the last become history; a row without any before it is no target."""
    history = {VALID: VALID_HISTORY, TEST: TEST_HISTORY}
    is_last = np.ones(len(data), dtype=bool)
    is_last[:-1] = (data.user[1:] != data.user[:-1]) | (part[1:] != part[:-1])
    is_first = np.arange(len(data)) == data.offsets[data.user]
    target, found = is_last & ~is_first, part.copy()
    for code, before in history.items():
        found[(part == code) & ~target] = before
    alone = int((is_last & is_first & (part != TRAIN)).sum())
    return found, [f"temporal: {alone:,} users have a single row, in valid or test, and are not asked"] * (alone > 0)


def _extra_rows(count: int) -> str:
    return f"{count:,} extra row{'s' if count != 1 else ''}"


def k_fold(data: Dataset, *, fold: int = 1, k: int = 5, valid: float = 0.1, seed: int = 0) -> Split:
    """One fold of a random k-fold split: each row is in the test part of exactly one of the k folds.

    Args:
        data: The data set to split.
        fold: The fold that is test, 1 to k.
        k: Number of folds.
        valid: Share of the other rows, at random; 0 for no valid part.
        seed: Seed of the folds, to be the same for all of them.

    Raises:
        DataError: There are fewer rows than folds.
    """
    check_shares(valid)
    faults = [f"k = {k} folds need k of 2 or more"] * (k < 2)
    faults += [f"fold = {fold} is not one of 1 to {k}"] * (not 1 <= fold <= k)
    if faults:
        raise ConfigError.faults("split", faults)
    if k > len(data):
        raise DataError(f"a split of {len(data)} rows into {k} folds leaves no rows for some folds; use fewer folds")
    folds = np.random.default_rng(seed).permutation(len(data)) % k + 1
    return predefined_split(data, parts=folds, fold=fold, valid=valid, seed=seed)


def kfold(data: Dataset, k: int = 5, seed: int = 0, valid: float = 0.1) -> Iterator[Split]:
    """Iterate over all k folds of `k_fold`.

    Args:
        data: The data set to split.
        k, seed, valid: As in `k_fold`.
    """
    for fold in range(1, k + 1):
        yield k_fold(data, fold=fold, k=k, valid=valid, seed=seed)


SPLITS: dict[str, Callable[..., Split]] = {
    "temporal": temporal,
    "random": random,
    "per-user": per_user,
    "leave-last-out": leave_last_out,
    "sessions": sessions,
    "k-fold": k_fold,
    "predefined": predefined_split,
    "new-users": new_users,
    "new-items": new_items,
    "new-users-and-items": new_users_and_items,
    "strong-generalisation": strong_generalisation,
}
"""All splits by name."""
