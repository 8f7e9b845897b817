"""Splits that hold out users or items entirely: new-users, new-items, new-users-and-items, strong-generalisation.

The rows of a held-out user are divided into the history that a query contains (`part.history`) and the targets (the
rows of the part). The history of such a part holds rows of its held-out users only, never rows of train.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from palate.data.dataset import Dataset
from palate.data.splits.build import (
    NOWHERE,
    TEST,
    TEST_HISTORY,
    TRAIN,
    VALID,
    VALID_HISTORY,
    Split,
    build_split,
    check_shares,
    without_new_items,
)
from palate.errors import ConfigError


def new_users(
    data: Dataset,
    *,
    valid: float = 0.1,
    test: float = 0.1,
    given: int = 0,
    skip: int = 0,
    order: Literal["first", "random"] = "first",
    seed: int = 0,
) -> Split:
    """Hold out random users; the first rows of each are the history, the others the targets.

    Args:
        data: The data set to split.
        valid, test: Shares of the users; `valid=0` for no valid part. Users with at most `given` (or `skip`) rows stay
            in train, because they would have no targets.
        given: Rows of each held-out user in the history; 0 for users without any history.
        skip: The first `skip` rows of each held-out user are never targets, given or not, so that results for several
            values of `given` up to `skip` have the same targets.
        order: "first" takes the history by time, "random" at random.
        seed: Seed of the random choice.
    """
    check_shares(valid, test)
    if given < 0 or skip < 0 or order not in ("first", "random"):
        raise ConfigError(f"given = {given}, skip = {skip}, order = {order!r}: use 0 or more rows, 'first' or 'random'")
    rng = np.random.default_rng(seed)
    before = max(given, skip)
    group, notes = _hold_out(np.diff(data.offsets), before + 1, valid, test, rng)
    rows = np.flatnonzero(group[data.user])
    user = data.user[rows]
    place = rows - data.offsets[user] if order == "first" else random_places(user, rng)
    part = np.zeros(len(data), dtype=np.int8)
    part[rows] = _history_skipped_or_target(group[user], place, given, before)
    if before > given:
        notes += (f"new-users: {int((part == NOWHERE).sum())} rows of held-out users are neither history nor targets",)
    advice = f"only users with more than {before} rows can be held out; use a larger share, or fewer given rows"
    return build_split(data, part, valid=valid, advice=advice, held_out=True, notes=notes)


def strong_generalisation(
    data: Dataset,
    *,
    valid: float = 0.1,
    test: float = 0.1,
    fold_in: float = 0.8,
    drop_new_items: bool = False,
    seed: int = 0,
) -> Split:
    """Hold out random users; a random share of the rows of each is the history (Liang et al. 2018).

    Train holds all rows of the other users. `floor((1 - fold_in) * n)` of the n rows of a held-out user are targets, at
    least one.

    Args:
        data: The data set to split.
        valid, test: Shares of the users; `valid=0` for no valid part. Users with one row stay in train.
        fold_in: Share of the rows of a held-out user in the history.
        drop_new_items: Drop held-out rows of items that are not in train before the rows are divided, as Liang et al.
            do; a user left with fewer than 1 / (1 - fold_in) rows then has no targets. `notes` counts both.
        seed: Seed of the random choice.
    """
    check_shares(valid, test)
    if not 0 < fold_in < 1:
        raise ConfigError(f"fold_in = {fold_in} is not a share; use a number between 0 and 1")
    rng = np.random.default_rng(seed)
    counts = np.diff(data.offsets)
    group, notes = _hold_out(counts, 2, valid, test, rng)
    least = 1
    if drop_new_items:
        data, dropped = without_new_items(data, group, "strong-generalisation")
        counts, notes, least = np.diff(data.offsets), (*notes, dropped), 0
    # The tiny addition keeps 0.2 * 5 from rounding to 0.
    targets = np.maximum(np.floor((1 - fold_in) * counts + 1e-9), least).astype(np.int32)
    idle = int(((group > 0) & (targets == 0)).sum())
    if idle:
        notes = (*notes, f"strong-generalisation: {idle} held-out users have too few rows left for a target")
    rows = np.flatnonzero(group[data.user])
    user = data.user[rows]
    part = np.zeros(len(data), dtype=np.int8)
    part[rows] = _history_or_target(group[user], random_places(user, rng) >= targets[user])
    advice = "only users with two rows or more can be held out; use a larger share, or more users"
    return build_split(data, part, valid=valid, advice=advice, held_out=True, notes=notes)


def new_items(data: Dataset, *, valid: float = 0.1, test: float = 0.1, others: float = 0.0, seed: int = 0) -> Split:
    """Hold out random items, some for valid and others for test.

    Histories are the rows of earlier parts, as in other splits: train for valid, train and valid for test.

    Args:
        data: The data set to split.
        valid, test: Shares of the items; `valid=0` for no valid part.
        others: Share of the rows of the other items that valid (if there is one) and test each receive in addition, at
            random.
        seed: Seed of the random choice.
    """
    check_shares(valid, test)
    if not 0 <= others < 0.5:
        raise ConfigError(f"others = {others} is not a share below one half; valid and test each take this share")
    rng = np.random.default_rng(seed)
    group, notes = _hold_out(data.item_counts, 1, valid, test, rng, noun="item")
    part = group[data.item]
    if others:
        chance = rng.random(len(data))
        drawn = np.where(chance < others, TEST, np.where((chance < 2 * others) & (valid > 0), VALID, TRAIN))
        part = np.where(part == TRAIN, drawn, part).astype(np.int8)
    advice = "use a larger share, or more items"
    return build_split(data, part, valid=valid, advice=advice, notes=notes)


def new_users_and_items(
    data: Dataset, *, valid: float = 0.1, test: float = 0.1, given: int = 0, skip: int = 0, seed: int = 0
) -> Split:
    """Hold out random users and random items: queries for new users, whose targets are known and new items.

    The history of a new user is the first rows of items that were not held out. Targets are the other rows of such
    items, and all rows of the new items of the same part. Rows of train's users with new items, and of users of one
    part with new items of the other, are in no part.

    Args:
        data: The data set to split.
        valid, test: Shares of the users, and of the items; `valid=0` for no valid part.
        given, skip: As in `new_users`.
        seed: Seed of the random choice.
    """
    check_shares(valid, test)
    if given < 0 or skip < 0:
        raise ConfigError(f"given = {given}, skip = {skip}: use 0 or more rows")
    rng = np.random.default_rng(seed)
    item_group, notes = _hold_out(data.item_counts, 1, valid, test, rng, noun="item")
    known, before = item_group[data.item] == TRAIN, max(given, skip)
    counts = np.bincount(data.user[known], minlength=data.n_users)
    group, more = _hold_out(counts, before + 1, valid, test, rng)
    user_group = group[data.user]
    part = np.full(len(data), NOWHERE, dtype=np.int8)
    part[known & (user_group == TRAIN)] = TRAIN
    rows = np.flatnonzero(known & (user_group != TRAIN))
    user = data.user[rows]
    place = np.arange(len(rows)) - np.searchsorted(user, user)
    part[rows] = _history_skipped_or_target(user_group[rows], place, given, before)
    both = (user_group != TRAIN) & (item_group[data.item] == user_group)
    part[both] = user_group[both]
    notes += (*more, f"new-users-and-items: {int((part == NOWHERE).sum()):,} rows are in no part")
    advice = f"only users with more than {before} rows can be held out; use a larger share, or fewer given rows"
    return build_split(data, part, valid=valid, advice=advice, held_out=True, notes=notes)


def random_places(user: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The position of each row, from 0, in a random order of the rows of its user.

    Args:
        user: User indices, ascending, int32 `[rows]`.
        rng: Draws the order.

    Returns:
        int32 `[rows]`.
    """
    # One sort by (user, random number) in a single key; stable, so that the result is the same on every machine.
    key = user.astype(np.int64) << 32
    key |= rng.integers(0, 1 << 32, len(user), dtype=np.uint32)
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(user, prepend=-1))
    place = np.empty(len(user), dtype=np.int32)
    place[order] = np.arange(len(user)) - np.repeat(starts, np.diff(starts, append=len(user)))
    return place


def _history_or_target(group: np.ndarray, in_history: np.ndarray) -> np.ndarray:
    """Codes of rows of held-out users: VALID or TEST becomes VALID_HISTORY or TEST_HISTORY where `in_history`."""
    return np.where(in_history, np.where(group == VALID, VALID_HISTORY, TEST_HISTORY), group).astype(np.int8)


def _history_skipped_or_target(group: np.ndarray, place: np.ndarray, given: int, before: int) -> np.ndarray:
    """The first `given` rows are history, the following up to `before` are in no part, the others are targets."""
    return np.where((place >= given) & (place < before), NOWHERE, _history_or_target(group, place < given))


def _hold_out(
    counts: np.ndarray, minimum: int, valid: float, test: float, rng: np.random.Generator, noun: str = "user"
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Draw who is held out: TRAIN, VALID or TEST for each user (or item), int8 `[n]`; and a note."""
    eligible = np.flatnonzero(counts >= minimum)
    total = int((counts > 0).sum())
    n_valid, n_test = round(valid * total), round(test * total)
    chosen = rng.permutation(eligible)[: n_valid + n_test]
    group = np.zeros(len(counts), dtype=np.int8)
    group[chosen[:n_test]] = TEST
    group[chosen[n_test:]] = VALID
    notes = (f"{total - len(eligible)} {noun}s with fewer than {minimum} rows cannot be held out and stay in train",)
    return group, notes if len(eligible) < total else ()
