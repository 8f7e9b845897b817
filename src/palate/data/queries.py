"""What a model is built from and asked (`Spec`, `Queries`), and what a held-out part asks (`Events`, `Questions`).

A question of a part has a history, all that is known before it, and targets, the rows that answer it: one question for
each user or, of a successive part (`Events.successive`), one for each row, whose history is the user's history before
the part and the user's earlier rows in it.

Legend: Q questions, B queries, T history values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from palate.data.features.schema import FeatureBatch, FeatureSchema
from palate.data.ragged import Ragged, ranges
from palate.errors import DataError

if TYPE_CHECKING:
    from palate.data.dataset import Dataset

FEATURES = frozenset({"item_features", "user_features", "item_text", "item_image"})
"""Those `needs` of a model that side tables provide."""
MAX_HISTORY_VALUES = 2**22
"""History values of the questions that are asked at once; a single question may have more."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a model is built from: counts and feature schemas. JSON-able, so that loading a model needs no data."""

    n_users: int
    n_items: int
    rating_scale: tuple[float, float] | None = None
    """Lowest and highest possible rating; None without ratings."""
    new_items: int = 0
    """Number of items that were added after training and are known by their features only; they are the last ones."""
    item_features: FeatureSchema | None = None
    user_features: FeatureSchema | None = None
    """How the columns of the side tables are encoded; None for models that do not read them."""

    def require_size(self, n_users: int, n_items: int, who: str) -> None:
        """Check that training data has the counts that a model was built for.

        Args:
            n_users, n_items: Counts of the data.
            who: Name of the model, for the message.

        Raises:
            DataError: They differ.
        """
        if (self.n_users, self.n_items) != (n_users, n_items):
            raise DataError(
                f"{who} was built for {self.n_users} users and {self.n_items} items, and this data has {n_users} and "
                f"{n_items}; build the model on this data's `spec`"
            )


@dataclass(frozen=True, eq=False)
class Queries:
    """What a model is asked, for B users at once.

    Attributes:
        user: Index of a known user or -1, int64 `[B]`.
        history: Item indices, oldest first, B rows; every index is below the model's `n_items`.
        ratings: Ratings aligned with `history.values`, float32 `[total]`, or None.
        features: Attributes of each user, B rows, for models that read them; or None.
        times: Time of each interaction of the history, seconds since 1970 UTC, int64 `[total]`, or None.
        asked_at: Time of each query, seconds since 1970 UTC, int64 `[B]`; None is the end of training.
        fresh: Known users whose history is newer than the one in training, bool `[B]`; None is none. Models that can
            fold in a history answer these users from it, like new users.
    """

    user: Tensor
    history: Ragged
    ratings: Tensor | None = None
    features: FeatureBatch | None = None
    times: Tensor | None = None
    asked_at: Tensor | None = None
    fresh: Tensor | None = None

    def __len__(self) -> int:
        return len(self.user)

    @property
    def trained(self) -> Tensor:
        """Known users whose history is the one in training, bool `[B]`."""
        known = self.user >= 0
        return known if self.fresh is None else known & ~self.fresh

    def take(self, rows: Tensor) -> Queries:
        """The given queries, in the given order."""
        places = self.history.positions(rows)
        return Queries(
            self.user[rows],
            self.history.take(rows),
            ratings=None if self.ratings is None else self.ratings[places],
            features=None if self.features is None else self.features.take(rows),
            times=None if self.times is None else self.times[places],
            asked_at=None if self.asked_at is None else self.asked_at[rows],
            fresh=None if self.fresh is None else self.fresh[rows],
        )

    def block(self, start: int, stop: int) -> Queries:
        """The queries `start` to `stop - 1`, without copying the histories."""
        values, rows = slice(int(self.history.offsets[start]), int(self.history.offsets[stop])), slice(start, stop)
        features = self.features
        return Queries(
            self.user[rows],
            self.history.rows(start, stop),
            ratings=None if self.ratings is None else self.ratings[values],
            features=None if features is None else features.take(torch.arange(start, stop, device=self.user.device)),
            times=None if self.times is None else self.times[values],
            asked_at=None if self.asked_at is None else self.asked_at[rows],
            fresh=None if self.fresh is None else self.fresh[rows],
        )

    def keep(self, mask: Tensor) -> Queries:
        """The same queries with only those history values (and their ratings and times) where `mask` holds.

        Args:
            mask: bool `[total]`.
        """
        ratings, times = (None if column is None else column[mask] for column in (self.ratings, self.times))
        return replace(self, history=self.history.keep(mask), ratings=ratings, times=times)

    def choices(self, rating_scale: tuple[float, float] | None) -> Queries:
        """The same queries without history items that are no choices (see `palate.data.dataset.Dataset.is_choice`).

        Args:
            rating_scale: That of the model's training data, or None.
        """
        if self.ratings is None or rating_scale is None or rating_scale[0] > 0 or rating_scale[1] <= 0:
            return self
        chosen = self.ratings > 0
        return self if bool(chosen.all()) else self.keep(chosen)

    def anonymous(self) -> Queries:
        """The same histories and features, for users that are all unknown (-1)."""
        return replace(self, user=torch.full_like(self.user, -1), fresh=None)


@dataclass(frozen=True, eq=False, kw_only=True)
class Questions:
    """Questions of a part, by user and, of a successive part, in the order of the rows.

    Attributes:
        part: The held-out part.
        known: The rows that histories are taken from.
        user: Who is asked, int64 `[Q]`, ascending; a user has several questions in a successive part only.
        start, length: The history of question q is the rows `start[q]` to `start[q] + length[q] - 1` of `known`, int64
            `[Q]`.
        first, count: Its targets are the rows `first[q]` to `first[q] + count[q] - 1` of the part, int64 `[Q]`.
    """

    part: Dataset
    known: Dataset
    user: np.ndarray
    start: np.ndarray
    length: np.ndarray
    first: np.ndarray
    count: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    def of(self, users: np.ndarray) -> Questions:
        """The questions of some users.

        Args:
            users: User indices, ascending.
        """
        mask = np.isin(self.user, users)
        if mask.all():
            return self
        fields = ("user", "start", "length", "first", "count")
        return replace(self, **{name: getattr(self, name)[mask] for name in fields})

    def blocks(self, most: int) -> Iterator[slice]:
        """Consecutive questions, at most `most` and with at most `MAX_HISTORY_VALUES` history values in all."""
        total, begin = np.concatenate(([0], np.cumsum(self.length))), 0
        while begin < len(self):
            full = int(np.searchsorted(total, total[begin] + MAX_HISTORY_VALUES, side="right")) - 1
            end = min(max(full, begin + 1), begin + most, len(self))
            yield slice(begin, end)
            begin = end

    def queries(self, which: slice, spec: Spec) -> Queries:
        """The queries of some questions, asked at the time of their first target.

        Args:
            which: Consecutive questions.
            spec: Spec of the model, as in `Dataset.queries`.
        """
        start, length = (torch.from_numpy(column[which]) for column in (self.start, self.length))
        queries = build_queries(self.part, self.known, torch.from_numpy(self.user[which]), start, length, spec)
        if self.part.timestamp is None:
            return queries
        return replace(queries, asked_at=torch.from_numpy(self.part.timestamp[self.first[which]].astype(np.int64)))

    def targets(self, which: slice) -> Ragged:
        """The rows of the part that answer some questions, one row of row numbers for each question."""
        first, count = (torch.from_numpy(column[which]) for column in (self.first, self.count))
        return Ragged.from_lengths(ranges(first, count), count)


def questions_of(part: Dataset) -> Questions:
    """All questions of a part; rows of a successive part with nothing before them ask nothing.

    Args:
        part: A held-out part; or data that was not split, whose users are then asked with their own rows as history.
    """
    if not part.events.successive:
        user = part.active_users
        known = part if part.history is None else part.history
        return Questions(
            part=part, known=known, user=user, start=known.offsets[user], length=np.diff(known.offsets)[user],
            first=part.offsets[user], count=np.diff(part.offsets)[user],
        )  # fmt: skip
    known = timeline(part)
    user, row = part.user.astype(np.int64), np.arange(len(part))
    place = row - part.offsets[user]
    before = np.diff(known.offsets)[user] - np.diff(part.offsets)[user] + place
    asked = before > 0
    return Questions(
        part=part, known=known, user=user[asked], start=known.offsets[user[asked]], length=before[asked],
        first=row[asked], count=np.ones(int(asked.sum()), dtype=np.int64),
    )  # fmt: skip


def timeline(part: Dataset) -> Dataset:
    """The rows before a part and the rows of the part as one data set, each user's earlier rows first."""
    if part.history is None:
        return part
    pieces = (part.history, part)
    order = np.argsort(np.concatenate([piece.user for piece in pieces]), kind="stable")

    def joined(name: str) -> np.ndarray | None:
        columns = [getattr(piece, name) for piece in pieces]
        return None if any(column is None for column in columns) else np.concatenate(columns)[order]

    columns: dict[str, Any] = {name: joined(name) for name in ("user", "item", "rating", "timestamp", "weight")}
    return replace(part, history=None, events=replace(part.events, successive=False), **columns)


def last_question(part: Dataset) -> Dataset:
    """A successive part with each user's last question only: the rows before it become history."""
    whole = timeline(part)
    counts = np.diff(part.offsets)
    held = np.zeros(len(whole), dtype=bool)
    held[whole.offsets[1:][counts > 0] - 1] = True
    last = np.zeros(len(part), dtype=bool)
    last[part.offsets[1:][counts > 0] - 1] = True
    return replace(part.take(last), history=whole.take(~held), events=whole.events)


def build_queries(data: Dataset, known: Dataset, user: Tensor, start: Tensor, length: Tensor, spec: Spec) -> Queries:
    """Queries whose histories are consecutive rows of `known`.

    Args:
        data: Whose users ask: their attributes, and whether they are sessions.
        known: The rows that histories are taken from.
        user: User indices, int64 `[B]`.
        start, length: First row and number of rows of each history, int64 `[B]`.
        spec: Spec of the model. A user beyond its `n_users` becomes -1, items beyond its `n_items` are removed from the
            histories.
    """
    places = ranges(start, length)
    values = torch.from_numpy(known.item)[places].long()
    ratings, times = (
        None if column is None else torch.from_numpy(np.ascontiguousarray(column))[places]
        for column in (known.rating, known.timestamp)
    )
    trained = torch.zeros_like(user, dtype=torch.bool) if data.events.sessions else user < spec.n_users
    features = None if spec.user_features is None else data.encoded_users(spec.user_features).take(user)
    queries = Queries(torch.where(trained, user, -1), Ragged.from_lengths(values, length), ratings, features, times)
    inside = values < spec.n_items
    return queries if bool(inside.all()) else queries.keep(inside)
