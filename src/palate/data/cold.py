"""Splits that hold out users or items entirely: new-users, new-items, new-users-and-items, strong-generalisation.

A held-out user's rows are cut in two: those a model may see when it is asked about the user (`part.history`), and those
it must find (the part's rows). The history of these parts holds the held-out users' own rows only, never train's.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from palate.data.dataset import Dataset
from palate.data.parts import NOWHERE, TEST, TEST_HISTORY, TRAIN, VALID, VALID_HISTORY, Split, assemble, check_shares
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
    """Users at random, entirely out of train; the first few rows of each are its history, the others are to be found.

    Args:
        data: What is split.
        valid, test: Shares of the users; `valid=0` for none. Users with `given` (or `skip`) rows or fewer stay in
            train, for there would be nothing left to find.
        given: Rows of each held-out user that a model may see; 0 is a user of whom nothing is known.
        skip: Look for none of so many rows of each, be they given or not, so that the same rows are to be found
            whatever `given` is up to this.
        order: Which rows these are: the user's first by time, or any.
        seed: Decides who, and which rows.
    """
    check_shares(valid, test)
    if given < 0 or skip < 0 or order not in ("first", "random"):
        raise ConfigError(
            f"given = {given}, skip = {skip}, order = {order!r}: give 0 or more rows, 'first' or 'random'"
        )
    rng = np.random.default_rng(seed)
    before = max(given, skip)
    group, notes = _held_out(np.diff(data.offsets), before + 1, valid, test, rng)
    rows = np.flatnonzero(group[data.user])
    user = data.user[rows]
    place = rows - data.offsets[user] if order == "first" else random_places(user, rng)
    part = np.zeros(len(data), dtype=np.int8)
    part[rows] = _shown_or_target(group[user], place, given, before)
    if before > given:
        notes += (f"new-users: {int((part == NOWHERE).sum())} rows of held-out users are neither shown nor looked for",)
    advice = f"only users with more than {before} rows can be held out; ask for a larger share, or fewer given rows"
    return assemble(data, part, valid=valid, advice=advice, held_out=True, notes=notes)


def strong_generalisation(
    data: Dataset,
    *,
    valid: float = 0.1,
    test: float = 0.1,
    fold_in: float = 0.8,
    drop_new_items: bool = False,
    seed: int = 0,
) -> Split:
    """Users at random, entirely out of train; a random share of each one's rows is its history (Liang et al. 2018).

    Train is all rows of the other users. `floor((1 - fold_in) * n)` of a held-out user's n rows are to be found, at
    least one.

    Args:
        data: What is split.
        valid, test: Shares of the users; `valid=0` for none. Users with one row stay in train.
        fold_in: Share of a held-out user's rows that a model may see.
        drop_new_items: Leave out held-out rows of items that train lacks, before a user's rows are cut in two, as Liang
            et al. do; a user left with fewer than 1 / (1 - fold_in) rows then has nothing to be found. `notes` counts
            both. Otherwise such rows stay.
        seed: Decides who, and which rows.
    """
    check_shares(valid, test)
    if not 0 < fold_in < 1:
        raise ConfigError(f"fold_in = {fold_in} is not a share; give a number between 0 and 1")
    rng = np.random.default_rng(seed)
    counts = np.diff(data.offsets)
    group, notes = _held_out(counts, 2, valid, test, rng)
    least = 1
    if drop_new_items:
        data, dropped = _of_known_items(data, group)
        counts, notes, least = np.diff(data.offsets), (*notes, dropped), 0
    # The tiny addition keeps 0.2 * 5 from becoming 0.
    targets = np.maximum(np.floor((1 - fold_in) * counts + 1e-9), least).astype(np.int32)
    idle = int(((group > 0) & (targets == 0)).sum())
    if idle:
        notes = (*notes, f"strong-generalisation: {idle} held-out users have too few rows left for any to be found")
    rows = np.flatnonzero(group[data.user])
    user = data.user[rows]
    part = np.zeros(len(data), dtype=np.int8)
    part[rows] = _seen_or_target(group[user], random_places(user, rng) >= targets[user])
    advice = "only users with two rows or more can be held out; ask for a larger share, or bring more users"
    return assemble(data, part, valid=valid, advice=advice, held_out=True, notes=notes)


def new_items(data: Dataset, *, valid: float = 0.1, test: float = 0.1, others: float = 0.0, seed: int = 0) -> Split:
    """Items at random, entirely out of train: some for valid, others for test.

    Histories are the rows before, as in the other splits: train's for valid, train's and valid's for test.

    Args:
        data: What is split.
        valid, test: Shares of the items; `valid=0` for none.
        others: Share of the other items' rows, at random, that valid (where there is one) and test each hold besides.
        seed: Decides which.
    """
    check_shares(valid, test)
    if not 0 <= others < 0.5:
        raise ConfigError(f"others = {others} is not a share below one half; valid and test take so much each")
    rng = np.random.default_rng(seed)
    group, notes = _held_out(data.item_counts, 1, valid, test, rng, what="item")
    part = group[data.item]
    if others:
        chance = rng.random(len(data))
        drawn = np.where(chance < others, TEST, np.where((chance < 2 * others) & (valid > 0), VALID, TRAIN))
        part = np.where(part == TRAIN, drawn, part).astype(np.int8)
    advice = "ask for a larger share, or bring more items"
    return assemble(data, part, valid=valid, advice=advice, notes=notes)


def new_users_and_items(
    data: Dataset, *, valid: float = 0.1, test: float = 0.1, given: int = 0, skip: int = 0, seed: int = 0
) -> Split:
    """Users and items at random, both entirely out of train: new people are asked about known and new items.

    What a new person may be shown are their first rows of items that were not held out. To be found are their other
    rows of such items, and all of their rows of the part's own new items. Rows of train's users with new
    items, and of one part's users with the other's items, are in no part.

    Args:
        data: What is split.
        valid, test: Shares of the users, and of the items; `valid=0` for none.
        given: Rows of each held-out user that a model may see; 0 is a user of whom nothing is known.
        skip: As in `new_users`.
        seed: Decides who and which.
    """
    check_shares(valid, test)
    if given < 0 or skip < 0:
        raise ConfigError(f"given = {given}, skip = {skip}: give 0 or more rows")
    rng = np.random.default_rng(seed)
    fate, notes = _held_out(data.item_counts, 1, valid, test, rng, what="item")
    known, before = fate[data.item] == TRAIN, max(given, skip)
    counts = np.bincount(data.user[known], minlength=data.n_users)
    group, more = _held_out(counts, before + 1, valid, test, rng)
    theirs = group[data.user]
    part = np.full(len(data), NOWHERE, dtype=np.int8)
    part[known & (theirs == TRAIN)] = TRAIN
    rows = np.flatnonzero(known & (theirs != TRAIN))
    user = data.user[rows]
    place = np.arange(len(rows)) - np.searchsorted(user, user)
    part[rows] = _shown_or_target(theirs[rows], place, given, before)
    both = (theirs != TRAIN) & (fate[data.item] == theirs)
    part[both] = theirs[both]
    notes += (*more, f"new-users-and-items: {int((part == NOWHERE).sum()):,} rows are in no part")
    advice = f"only users with more than {before} rows can be held out; ask for a larger share, or fewer given rows"
    return assemble(data, part, valid=valid, advice=advice, held_out=True, notes=notes)


def random_places(user: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The place of each row, 0 first, among its user's rows in a random order.

    Args:
        user: User indices, ascending, int32 `[rows]`.
        rng: Decides the order.

    Returns:
        int32 `[rows]`.
    """
    # One sort of (user, chance) in a single key; stable, so that equal keys fall the same way on every machine.
    key = user.astype(np.int64) << 32
    key |= rng.integers(0, 1 << 32, len(user), dtype=np.uint32)
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(user, prepend=-1))
    place = np.empty(len(user), dtype=np.int32)
    place[order] = np.arange(len(user)) - np.repeat(starts, np.diff(starts, append=len(user)))
    return place


def _of_known_items(data: Dataset, group: np.ndarray) -> tuple[Dataset, str]:
    """Without held-out users' rows of items that nobody in train has; and how many these were."""
    held = group[data.user] > 0
    known = np.zeros(data.n_items, dtype=bool)
    known[data.item[~held]] = True
    new = held & ~known[data.item]
    told = f"{int(new.sum()):,} of {int(held.sum()):,} held-out rows are of items that train lacks, and were dropped"
    return data.take(~new), f"strong-generalisation: {told}"


def _seen_or_target(group: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Codes of held-out users' rows: VALID or TEST becomes VALID_HISTORY or TEST_HISTORY where `seen`."""
    return np.where(seen, np.where(group == VALID, VALID_HISTORY, TEST_HISTORY), group).astype(np.int8)


def _shown_or_target(group: np.ndarray, place: np.ndarray, given: int, before: int) -> np.ndarray:
    """As `_seen_or_target`, of which the first `given` rows are seen; those after them up to `before` are nowhere."""
    return np.where((place >= given) & (place < before), NOWHERE, _seen_or_target(group, place < given))


def _held_out(
    counts: np.ndarray, least: int, valid: float, test: float, rng: np.random.Generator, what: str = "user"
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Who is held out: int8 `[n]`, 0 for train, VALID or TEST; and what to say about it."""
    able = np.flatnonzero(counts >= least)
    total = int((counts > 0).sum())
    n_valid, n_test = round(valid * total), round(test * total)
    chosen = rng.permutation(able)[: n_valid + n_test]
    group = np.zeros(len(counts), dtype=np.int8)
    group[chosen[:n_test]] = TEST
    group[chosen[n_test:]] = VALID
    notes = (f"{total - len(able)} {what}s with fewer than {least} rows can not be held out and stay in train",)
    return group, notes if len(able) < total else ()
