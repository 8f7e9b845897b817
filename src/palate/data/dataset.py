"""Dataset: who liked what, as compact arrays ready for models. `Spec` and `Queries` can be imported from here too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch

from palate.data.encoded import Encoded, Features
from palate.data.gather import fingerprint_of, gathered
from palate.data.ids import IdMap
from palate.data.queries import Queries as Queries
from palate.data.queries import Spec as Spec
from palate.data.ragged import Ragged
from palate.data.side import Side, aligned_table, titles
from palate.errors import DataError

if TYPE_CHECKING:
    from palate.data.split import Split


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """Interactions as parallel arrays ordered by user, then time, then input order. Frozen.

    Attributes:
        users, items: Id maps; in a part of a split the indices below the train part's counts are train's own,
            new users and items follow after them.
        user, item: int32 `[rows]`, indices.
        rating, weight: float32 `[rows]` or None.
        timestamp: int64 `[rows]`, seconds since 1970 UTC, or None.
        item_table, user_table: What is known of items and users beside the interactions; one row for each id, in index
            order, `item_id` / `user_id` first; null where unknown.
        history: What was known of these users before this part (the train rows for a valid part); its indices are this
            part's. None for data that was not split.
        rating_scale: Lowest and highest possible rating.
        item_kinds, user_kinds: Declared kinds of the side tables' columns, or "ignore"; all others are inferred.
        notes: What was dropped or counted on the way here, in words.
    """

    users: IdMap
    items: IdMap
    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray | None = None
    timestamp: np.ndarray | None = None
    weight: np.ndarray | None = None
    item_table: pl.DataFrame | None = None
    user_table: pl.DataFrame | None = None
    history: Dataset | None = None
    rating_scale: tuple[float, float] | None = None
    item_kinds: Mapping[str, str] = field(default_factory=dict)
    user_kinds: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def from_frame(
        cls,
        interactions: pl.DataFrame,
        items: pl.DataFrame | None = None,
        users: pl.DataFrame | None = None,
        rating_scale: tuple[float, float] | None = None,
        notes: tuple[str, ...] = (),
        item_kinds: Mapping[str, str] | None = None,
        user_kinds: Mapping[str, str] | None = None,
    ) -> Dataset:
        """Build from a checked frame (`palate.data.table.read_interactions` makes one).

        Args:
            interactions: `user_id`, `item_id` and optionally `rating`, `timestamp`, `weight`.
            items, users: Side tables with `item_id` / `user_id`; rows for ids without interactions are left out.
            rating_scale: Default: lowest and highest rating seen.
            notes: Carried along.
            item_kinds, user_kinds: Column of a side table -> number, category, tags, date, text, image, vector or
                "ignore", where what `palate.data.features.infer` finds is not what is meant.

        Raises:
            DataError: No interactions; a side table repeats an id, or lacks a column whose kind is declared.
            ConfigError: There is no such kind.
        """
        fields = gathered(interactions, rating_scale)
        item_table, on_items = aligned_table(items, fields["items"], "item_id", item_kinds or {})
        user_table, on_users = aligned_table(users, fields["users"], "user_id", user_kinds or {})
        return cls(
            **fields,
            item_table=item_table,
            user_table=user_table,
            item_kinds=dict(item_kinds or {}),
            user_kinds=dict(user_kinds or {}),
            notes=(*notes, *on_items, *on_users),
        )

    @classmethod
    def read(
        cls,
        source: Any,
        *,
        items: Any = None,
        users: Any = None,
        item_kinds: Mapping[str, str] | None = None,
        user_kinds: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Dataset:
        """From files, queries or frames; `options` are those of `read_interactions`, the rest those of `from_frame`."""
        from palate.data.table import read_interactions, read_side

        checked = read_interactions(source, **options)
        return cls.from_frame(
            checked.frame,
            items=None if items is None else read_side(items, "item_id", checked.frame["item_id"].dtype),
            users=None if users is None else read_side(users, "user_id", checked.frame["user_id"].dtype),
            rating_scale=options.get("rating_scale"),
            notes=checked.notes,
            item_kinds=item_kinds,
            user_kinds=user_kinds,
        )

    @classmethod
    def load(cls, name: str, path: str | Path | None = None) -> Dataset:
        """A named data set of `palate.data.sources.SOURCES`, fetched and cached if need be."""
        from palate.data.sources import load_tables

        tables = load_tables(name, path)
        return cls.from_frame(
            tables.interactions, tables.items, tables.users, rating_scale=tables.rating_scale, notes=tables.notes
        )

    def __len__(self) -> int:
        return len(self.user)

    @property
    def n_users(self) -> int:
        return len(self.users)

    @property
    def n_items(self) -> int:
        return len(self.items)

    @property
    def provides(self) -> frozenset[str]:
        """What this data can give a model; compared with a model's `needs`."""
        found = {"interactions"}
        found |= {"rating"} if self.rating is not None else set()
        found |= {"time"} if self.timestamp is not None else set()
        kinds = set(self._item_side.kinds.values())
        found |= ({"item_features"} if kinds else set()) | {f"item_{kind}" for kind in kinds & {"text", "image"}}
        found |= {"user_features"} if self.user_side.kinds else set()
        return frozenset(found)

    @cached_property
    def spec(self) -> Spec:
        """The counts a model is built from."""
        scale = self.rating_scale if self.rating is not None else None
        return Spec(n_users=self.n_users, n_items=self.n_items, rating_scale=scale)

    @cached_property
    def described(self) -> Spec:
        """`spec` with how to encode what the side tables hold, learned from this data's own items and users.

        Raises:
            DataError: A declared kind does not fit its column.
        """
        return replace(self.spec, item_features=self._item_side.features, user_features=self.user_side.features)

    def encoded_items(self, features: Features) -> Encoded:
        """What is known of all items, in index order; made once for the same features."""
        return self._item_side.encoded(features)

    def encoded_users(self, features: Features) -> Encoded:
        """What is known of all users, likewise."""
        return self.user_side.encoded(features)

    @property
    def feature_notes(self) -> tuple[str, ...]:
        """Which columns of the side tables are left out and why, in words."""
        return self._item_side.notes + self.user_side.notes

    @cached_property
    def _item_side(self) -> Side:
        return Side(self.item_table, "item_id", self.item_kinds, self.n_items)

    @cached_property
    def user_side(self) -> Side:
        return Side(self.user_table, "user_id", self.user_kinds, self.n_users)

    @cached_property
    def offsets(self) -> np.ndarray:
        """Rows of user u are `offsets[u]:offsets[u + 1]`, int64 `[n_users + 1]`."""
        return np.concatenate(([0], np.cumsum(np.bincount(self.user, minlength=self.n_users)))).astype(np.int64)

    @cached_property
    def by_item(self) -> tuple[np.ndarray, np.ndarray]:
        """The column view: row numbers ordered by item, int64 `[rows]`, and offsets, int64 `[n_items + 1]`."""
        order = np.argsort(self.item, kind="stable")
        counts = np.bincount(self.item, minlength=self.n_items)
        return order, np.concatenate(([0], np.cumsum(counts))).astype(np.int64)

    @cached_property
    def item_counts(self) -> np.ndarray:
        """Interactions of each item, int64 `[n_items]`."""
        return np.bincount(self.item, minlength=self.n_items)

    @cached_property
    def active_users(self) -> np.ndarray:
        """Indices of the users with at least one row here, int64, ascending."""
        return np.flatnonzero(np.diff(self.offsets))

    @cached_property
    def histories(self) -> Ragged:
        """Each user's items, oldest first; `n_users` rows."""
        return Ragged(torch.from_numpy(self.item.astype(np.int64)), torch.from_numpy(self.offsets))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of ids and rows: equal data, equal fingerprint."""
        columns = {name: getattr(self, name) for name in ("user", "item", "rating", "timestamp", "weight")}
        return fingerprint_of([self.users, self.items], columns)

    def require(self, needs: frozenset[str], who: str) -> None:
        """Check that this data holds what a model needs.

        Raises:
            DataError: Names the model, all that is missing and what there is.
        """
        missing = needs - self.provides
        if missing:
            raise DataError(
                f"{who} needs {', '.join(sorted(missing))}, which this data lacks "
                f"(it has {', '.join(sorted(self.provides))})"
            )

    def take(self, rows: np.ndarray) -> Dataset:
        """The given rows (bool mask, or row numbers in the order of users) under the same id maps; `history` stays."""

        def pick(column: np.ndarray | None) -> np.ndarray | None:
            return None if column is None else column[rows]

        return replace(
            self,
            user=self.user[rows],
            item=self.item[rows],
            rating=pick(self.rating),
            timestamp=pick(self.timestamp),
            weight=pick(self.weight),
        )

    def queries(self, users: np.ndarray, spec: Spec) -> Queries:
        """What a model of `spec` is asked for these users before this part's rows are known.

        Args:
            users: User indices of this data.
            spec: The model's; users and items beyond its counts are unknown to it: the user becomes -1, the items leave
                the history.

        Returns:
            Queries whose histories come from `history` or, for data that was not split, from the rows themselves; with
            what is known of the users, where the model was built for that.
        """
        known = self.history if self.history is not None else self
        rows = torch.from_numpy(np.asarray(users, dtype=np.int64))
        history = known.histories.take(rows)
        ratings = None
        if known.rating is not None:
            ratings = torch.from_numpy(np.ascontiguousarray(known.rating))[known.histories.positions(rows)]
        inside = history.values < spec.n_items
        if not bool(inside.all()):
            history = history.keep(inside)
            ratings = None if ratings is None else ratings[inside]
        user = torch.where(rows < spec.n_users, rows, torch.full_like(rows, -1))
        features = None if spec.user_features is None else self.encoded_users(spec.user_features).take(rows)
        return Queries(user, history, ratings, features)

    def frame(self) -> pl.DataFrame:
        """The interactions in outside ids."""
        columns = {"user_id": self.users.ids[self.user], "item_id": self.items.ids[self.item]}
        for name in ("rating", "timestamp", "weight"):
            if getattr(self, name) is not None:
                columns[name] = pl.Series(name, np.asarray(getattr(self, name)))
        return pl.DataFrame(columns)

    def split(self, name: str = "temporal", **options: Any) -> Split:
        """Split into train, valid and test by a rule of `palate.data.split.SPLITS`.

        Raises:
            ConfigError: There is no such split, or it does not know an option.
            DataError: A part would be left empty.
        """
        from palate.data.split import split

        return split(self, name, **options)

    def titles(self, items: np.ndarray) -> list[str]:
        """What people call these items: the item table's `title` (or `name`), else the id."""
        return titles(self.item_table, self.items, np.asarray(items, dtype=np.int64))
