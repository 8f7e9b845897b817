"""SPLITS: name -> function Dataset -> Split(train, valid, test).

Every split is made of whole rows, decided by `seed` alone, and says in `Split.notes` how it was made. The splits that
hold out users or items entirely are in `palate.data.cold`, published ones in `palate.data.given`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np

from palate.data.cold import new_items, new_users, new_users_and_items, random_places, strong_generalisation
from palate.data.dataset import Dataset
from palate.data.given import given
from palate.data.parts import TEST, VALID, assemble, check_shares
from palate.data.parts import Split as Split
from palate.errors import ConfigError, DataError


def split(data: Dataset, name: str = "temporal", **options: Any) -> Split:
    """Split by the rule of that name.

    Args:
        data: The whole data set, or the train part of a split.
        name: A key of `SPLITS`.
        options: Those of the rule's function.

    Raises:
        ConfigError: There is no such split, or it has no such option, or an option is out of range.
        DataError: A part would be left empty.
    """
    if name not in SPLITS:
        raise ConfigError(f"there is no split {name!r}; choose one of {', '.join(SPLITS)}")
    known = list(inspect.signature(SPLITS[name]).parameters)[1:]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ConfigError(f"split {name!r} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    return SPLITS[name](data, **options)


def random(data: Dataset, *, valid: float = 0.1, test: float = 0.1, seed: int = 0) -> Split:
    """Rows at random, whoever they belong to.

    Args:
        data: What is split.
        valid, test: Shares of the rows; `valid=0` for none.
        seed: Decides which.
    """
    check_shares(valid, test)
    n_valid, n_test = round(valid * len(data)), round(test * len(data))
    part = np.zeros(len(data), dtype=np.int8)
    rows = np.random.default_rng(seed).choice(len(data), n_valid + n_test, replace=False)
    part[rows[:n_test]] = TEST
    part[rows[n_test:]] = VALID
    return assemble(data, part, valid=valid, advice="ask for a larger share, or bring more rows")


def per_user(
    data: Dataset,
    *,
    valid: float = 0.1,
    test: float = 0.1,
    rounding: Literal["chance", "up"] = "chance",
    seed: int = 0,
) -> Split:
    """Rows at random, the same share of every user's; each user keeps at least one row in train.

    Args:
        data: What is split.
        valid, test: Shares of each user's rows; `valid=0` for none.
        rounding: Of a share of a user's rows that is no whole number: up or down by chance, so that the shares hold
            overall; or always up.
        seed: Decides which.
    """
    check_shares(valid, test)
    if rounding not in ("chance", "up"):
        raise ConfigError(f"rounding = {rounding!r}: give 'chance' or 'up'")
    rng = np.random.default_rng(seed)
    counts = np.diff(data.offsets)
    most = np.maximum(counts - 1, 0)
    # Just below 1: a share that is a whole number stays it, whatever its last bit.
    more = [np.full(len(counts), 1 - 1e-9) if rounding == "up" else rng.random(len(counts)) for _ in range(2)]
    n_test = np.minimum((counts * test + more[0]).astype(np.int64), most)
    n_valid = np.minimum((counts * valid + more[1]).astype(np.int64), most - n_test)
    place = random_places(data.user, rng)
    part = np.zeros(len(data), dtype=np.int8)
    part[place < (n_test + n_valid).astype(np.int32)[data.user]] = VALID
    part[place < n_test.astype(np.int32)[data.user]] = TEST
    return assemble(
        data,
        part,
        valid=valid,
        advice="a user with one row keeps it in train; ask for larger shares, or bring users with more rows",
    )


def leave_last_out(data: Dataset, *, valid: int = 1, test: int = 1, seed: int = 0) -> Split:
    """Each user's last rows for test, those before for valid; each user keeps at least one row in train.

    By time; equal times, and data without times, by the order of the input. Other people's later rows are in train, so
    this split leaks the future: use `temporal` for a headline number and this one to compare with published results.

    Args:
        data: What is split.
        valid, test: Rows of each user, 1 for the usual protocol; `valid=0` for none. A user with too few rows gives
            test one first, then valid.
        seed: Without effect: nothing here is left to chance.
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
        notes.append("leave-last-out: this data has no timestamps; the order of the input stands for time")
    short = int(((counts > 0) & (counts <= test + valid)).sum())
    if short:
        notes.append(f"leave-last-out: {short} users have too few rows for every part; train comes first, then test")
    advice = f"a user needs {1 + test + valid} rows to be in every part; bring longer histories, or valid=0"
    return assemble(data, part, valid=valid, advice=advice, notes=tuple(notes))


def temporal(data: Dataset, *, valid: float = 0.1, test: float = 0.1, seed: int = 0) -> Split:
    """One moment for everybody: what comes later is valid, and later still test. Train never sees the future.

    Rows of the very second of a cut all go to the later part, so no row of train is as late as any of valid or test.

    Args:
        data: What is split; needs timestamps.
        valid, test: Shares of the rows, the latest; `valid=0` for none.
        seed: Without effect: nothing here is left to chance.

    Raises:
        DataError: There are no timestamps, or too many rows share one.
    """
    check_shares(valid, test)
    if data.timestamp is None:
        raise DataError("a temporal split needs timestamps, which this data lacks; name the column, or split at random")
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
            + (f"; {ties} more rows of that second than asked for went there with it" if ties else "")
        )
    advice = "rows that share a second stay together; ask for other shares, or bring finer or more timestamps"
    return assemble(data, part, valid=valid, advice=advice, notes=tuple(notes))


def k_fold(data: Dataset, *, fold: int = 1, k: int = 5, valid: float = 0.1, seed: int = 0) -> Split:
    """One fold of a random k-fold: each row is in the test part of exactly one of the k folds.

    Args:
        data: What is split.
        fold: Which fold is test, 1 to k.
        k: Number of folds.
        valid: Share of the other rows, at random; 0 for none.
        seed: Decides the folds; the same for all k of them.

    Raises:
        DataError: There are fewer rows than folds.
    """
    check_shares(valid)
    faults = [f"k = {k} folds need k of 2 or more"] * (k < 2)
    faults += [f"fold = {fold} is not one of 1 to {k}"] * (not 1 <= fold <= k)
    if faults:
        raise ConfigError.faults("split", faults)
    if k > len(data):
        raise DataError(f"a split of {len(data)} rows into {k} folds leaves no rows for some; ask for fewer folds")
    folds = np.random.default_rng(seed).permutation(len(data)) % k + 1
    return given(data, parts=folds, fold=fold, valid=valid, seed=seed)


def kfold(data: Dataset, k: int = 5, seed: int = 0, valid: float = 0.1) -> Iterator[Split]:
    """All k folds of `k_fold`, one after another."""
    for fold in range(1, k + 1):
        yield k_fold(data, fold=fold, k=k, valid=valid, seed=seed)


SPLITS: dict[str, Callable[..., Split]] = {
    "temporal": temporal,
    "random": random,
    "per-user": per_user,
    "leave-last-out": leave_last_out,
    "k-fold": k_fold,
    "given": given,
    "new-users": new_users,
    "new-items": new_items,
    "new-users-and-items": new_users_and_items,
    "strong-generalisation": strong_generalisation,
}
"""Every way to split, by the name the command line and a protocol know it by."""
