"""Dataset: interactions as compact arrays, ready for models. `Spec` and `Queries` can be imported from here too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
import torch

import palate
from palate.data.events import Events
from palate.data.features.schema import FeatureBatch, FeatureSchema
from palate.data.features.table import FeatureTable, aligned_table, title_column, titles
from palate.data.ids import IdMap, fingerprint_of, index_interactions, unliked_note
from palate.data.notebook import summary_of, table_of
from palate.data.queries import Queries as Queries
from palate.data.queries import Questions, build_queries, last_question, questions_of
from palate.data.queries import Spec as Spec
from palate.data.ragged import Ragged
from palate.errors import DataError

if TYPE_CHECKING:
    from palate.data.splits.build import Split


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """Interactions as parallel arrays ordered by user, then time, then input order. Frozen.

    Attributes:
        users, items: Id maps. In a part of a split, the indices below the counts of the train part are those of train;
            new users and items follow.
        user, item: Indices, int32 `[rows]`.
        rating, weight: float32 `[rows]` or None.
        timestamp: Seconds since 1970 UTC, int64 `[rows]`, or None.
        item_table, user_table: Attributes of items and users, or None: one row for each id, in index order, `item_id` /
            `user_id` first; null where unknown.
        history: The interactions of these users before this part (for a valid part, those of train), under the indices
            of this part. None for data that was not split.
        rating_scale: Lowest and highest possible rating, or None.
        item_kinds, user_kinds: Declared kinds of side-table columns; the other kinds are inferred.
        notes: What was dropped, merged or converted while reading, in words.
        events: Whether repeats were kept, whether the users are sessions, and what a held-out part asks.
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
    events: Events = field(default=Events())

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
        events: Events = Events(),  # noqa: B008
    ) -> Dataset:
        """Build a data set from a checked frame (see `palate.data.reading.read_interactions`).

        Args:
            interactions: `user_id`, `item_id` and optionally `rating`, `timestamp`, `weight`.
            items, users: Side tables with `item_id` / `user_id`. Rows of users without interactions are dropped, those
                of items are kept in `unused_items`.
            rating_scale: Lowest and highest possible rating. Defaults to the lowest and highest rating in the data.
            notes: Kept in `notes`.
            item_kinds, user_kinds: Column of a side table -> "number", "category", "tags", "date", "text", "image",
                "vector", "ignore" (do not use the column) or "title" (show it as the title of items). Other kinds are
                inferred.
            events: Whether several rows of one user and item are events of their own, and whether users are sessions.

        Raises:
            DataError: There are no interactions; a side table repeats an id, or lacks a column whose kind is declared.
            ConfigError: A kind does not exist.
        """
        fields = index_interactions(interactions, rating_scale)
        tables: dict[str, Any] = {}
        unused_items = None
        for side, table, kinds in (("item", items, item_kinds), ("user", users, user_kinds)):
            if table is not None or kinds:
                ids = fields[f"{side}s"]
                key: Literal["item_id", "user_id"] = "item_id" if side == "item" else "user_id"
                tables[f"{side}_table"], others, found = aligned_table(table, ids, key, kinds or {})
                unused_items = others if side == "item" else unused_items
                notes = (*notes, *found)
        rating = fields["rating"]
        if rating is not None:
            notes = (*notes, *unliked_note(int((rating <= 0).sum()), len(rating), float(rating.max())))
        tables |= {"item_kinds": dict(item_kinds or {}), "user_kinds": dict(user_kinds or {})}
        data = cls(**fields, **tables, notes=notes, events=events)
        data.__dict__["unused_items"] = unused_items
        return data

    @classmethod
    def read(cls, source: Any, **options: Any) -> Dataset:
        """Read files, queries or frames: shorthand for `palate.read_dataset`.

        Args:
            source: A file, query or frame.
            options: Its other arguments, for example `items=`, `users=` and `columns=`.

        Raises:
            DataError: The table has faults; all are listed.
        """
        return palate.read_dataset(source, **options)

    @classmethod
    def open(cls, folder: str | Path) -> Dataset:
        """Open a data set on disk: shorthand for `palate.open_dataset`. Columns stay on disk until they are read.

        Args:
            folder: What `palate data ingest`, `palate.data.store.save_dataset` or another program wrote.

        Raises:
            ArtifactError: A file is missing, truncated or edited, or the folder has another format.
        """
        return palate.open_dataset(folder)

    @classmethod
    def load(cls, name: str, path: str | Path | None = None) -> Dataset:
        """Load a named data set: shorthand for `palate.load_dataset`.

        Args:
            name: A key of `SOURCES`, for example "movielens-100k".
            path: The zip file or folder of the data set, read instead of a download.

        Raises:
            ConfigError: The name is unknown, or the data set takes no path.
            SourceError: The data set cannot be downloaded, or the files at `path` are not those of the data set.
        """
        return palate.load_dataset(name, path)

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
        """What this data offers a model; compared with the model's `needs`."""
        found = {"interactions"}
        found |= {"rating"} if self.rating is not None else set()
        found |= {"time"} if self.timestamp is not None else set()
        kinds = set() if self.item_table is None else set(self.item_features.kinds.values())
        found |= ({"item_features"} if kinds else set()) | {f"item_{kind}" for kind in kinds & {"text", "image"}}
        found |= {"user_features"} if self.user_table is not None and self.user_features.kinds else set()
        return frozenset(found)

    @cached_property
    def spec(self) -> Spec:
        """The counts from which a model is built."""
        scale = self.rating_scale if self.rating is not None else None
        return Spec(n_users=self.n_users, n_items=self.n_items, rating_scale=scale)

    @cached_property
    def feature_spec(self) -> Spec:
        """`spec` with the feature schemas of the side tables, learned from the items and users of this data.

        Raises:
            DataError: A column does not hold values of its declared kind.
        """
        return replace(self.spec, item_features=self.item_features.schema, user_features=self.user_features.schema)

    def encoded_items(self, features: FeatureSchema) -> FeatureBatch:
        """The features of all items, in index order; computed once for equal schemas.

        Args:
            features: The encoding, `spec.item_features` of a model.
        """
        return self.item_features.encode(features)

    def encoded_users(self, features: FeatureSchema) -> FeatureBatch:
        """The features of all users, in index order; computed once for equal schemas.

        Args:
            features: The encoding, `spec.user_features` of a model.
        """
        return self.user_features.encode(features)

    @property
    def feature_notes(self) -> tuple[str, ...]:
        """Which columns of the side tables are not used, and why, in words."""
        return self.item_features.notes + self.user_features.notes

    @cached_property
    def item_features(self) -> FeatureTable:
        """The features of the items; kinds are inferred on first use."""
        return FeatureTable(self.item_table, "item_id", self.item_kinds, self.n_items)

    @cached_property
    def user_features(self) -> FeatureTable:
        """The features of the users; kinds are inferred on first use."""
        return FeatureTable(self.user_table, "user_id", self.user_kinds, self.n_users)

    @property
    def attribute_schema(self) -> FeatureSchema | None:
        """Encoding of the user columns that the fallback uses (`palate.models.fallback`); None without any."""
        return None if self.user_table is None else self.user_features.attribute_schema

    @cached_property
    def offsets(self) -> np.ndarray:
        """The rows of user u are `offsets[u]:offsets[u + 1]`, int64 `[n_users + 1]`."""
        return np.searchsorted(self.user, np.arange(self.n_users + 1, dtype=self.user.dtype)).astype(np.int64)

    @cached_property
    def by_item(self) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers ordered by item, int64 `[rows]`, and the offsets of the items, int64 `[n_items + 1]`."""
        order = np.argsort(self.item, kind="stable")
        return order, np.concatenate(([0], np.cumsum(self.item_counts))).astype(np.int64)

    @cached_property
    def item_counts(self) -> np.ndarray:
        """Number of interactions of each item, int64 `[n_items]`."""
        counts = np.zeros(self.n_items, dtype=np.int64)
        for start in range(0, len(self), 1 << 22):  # by blocks: `bincount` copies what it counts
            counts += np.bincount(self.item[start : start + (1 << 22)], minlength=self.n_items)
        return counts

    @cached_property
    def item_weights(self) -> np.ndarray:
        """Summed weights of each item's interactions, float64 `[n_items]`; counts for data without weights."""
        if self.weight is None:
            return self.item_counts.astype(np.float64)
        return np.bincount(self.item, weights=self.weight, minlength=self.n_items)

    @cached_property
    def liked_rating(self) -> float:
        """The rating of what is chosen without one: halfway from the mean to the top of the scale."""
        return 0.0 if self.rating is None else (float(self.rating.mean()) + float((self.rating_scale or (0, 0))[1])) / 2

    @cached_property
    def last_time(self) -> int:
        """The time of the newest row; 0 without times."""
        return 0 if self.timestamp is None else int(self.timestamp.max())

    @cached_property
    def active_users(self) -> np.ndarray:
        """Indices of the users with at least one row in this part, int64, ascending."""
        return np.flatnonzero(np.diff(self.offsets))

    @cached_property
    def histories(self) -> Ragged:
        """Each user's items, oldest first, with repeats if they were kept; `n_users` rows.

        The order is that of time, and of the input among equal times. The other columns have the same order: the rows
        of user u, also in `timestamp` and `rating`, are `offsets[u]:offsets[u + 1]`.
        """
        return Ragged(torch.from_numpy(self.item.astype(np.int64)), torch.from_numpy(self.offsets))

    @cached_property
    def questions(self) -> Questions:
        """What this held-out part asks: one question for each user or, if it is successive, for each row."""
        return questions_of(self)

    @cached_property
    def known(self) -> Dataset:
        """Where the histories of queries come from: the rows before this part; for data that was not split, its own."""
        part = last_question(self) if self.events.successive else self
        return self if part.history is None else part.history

    @cached_property
    def fingerprint(self) -> str:
        """A hash of ids and rows, 16 hex digits; equal data has equal fingerprints."""
        names = ("user", "item", "rating", "timestamp", "weight")
        columns = {name: getattr(self, name) for name in names}
        columns |= dict.fromkeys(name for name in ("sessions", "successive") if getattr(self.events, name))
        return fingerprint_of([self.users, self.items], columns)

    def require(
        self, needs: frozenset[str], who: str, remedy: str = "", weights: bool = True, histories: bool = True
    ) -> None:
        """Check that this data offers what a model needs.

        Args:
            needs: Those of the model.
            who: Name of the model, for the message.
            remedy: What to do if something is missing; ends the message. Defaults to nothing.
            weights: Whether the model learns from sample weights. Defaults to true.
            histories: Whether the model answers users by their history alone. Defaults to true.

        Raises:
            DataError: Lists everything that is missing; or the data has sample weights that are all 0 or that the model
                cannot use, or sessions that it cannot answer.
        """
        missing = needs - self.provides
        if missing:
            raise DataError(
                f"{who} needs {', '.join(sorted(missing))}, which this data lacks "
                f"(it has {', '.join(sorted(self.provides))})" + (remedy and f"; {remedy}")
            )
        if self.events.sessions and not histories:
            raise DataError(
                f"{who} knows only the users it was trained on, and this data holds sessions, each of which is new; "
                "choose a model that reads histories, for example itemknn, ease or vmis-knn"
            )
        if self.weight is not None and not weights:
            raise DataError(
                f"{who} cannot learn from sample weights, and this data has a column weight; "
                "train on `data.without_weights()`, or choose a model that uses weights"
            )
        if self.weight is not None and len(self.weight) and not self.weight.any():
            raise DataError(
                f"the sample weights of all {len(self.weight):,} rows are 0, so {who} has nothing to learn from; "
                "weight at least one row above 0, or train on `data.without_weights()`"
            )

    def take(self, rows: np.ndarray) -> Dataset:
        """Select rows; id maps, side tables and `history` stay the same.

        Args:
            rows: A bool mask `[rows]`, or ascending row numbers.
        """

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

    def with_items(self, table: pl.DataFrame, notes: tuple[str, ...]) -> Dataset:
        """The same interactions with new items after the known ones; cached results that stay valid are kept.

        Args:
            table: The larger item table: the rows of this data's items first, in index order.
            notes: Those of the larger data.
        """
        items = IdMap(table["item_id"].rename("id"))
        larger = replace(self, items=items, item_table=table, notes=notes)
        # A cached property is an entry of `__dict__`; users and rows are the same, so theirs stay.
        same = ("user_features", "offsets", "active_users", "histories")
        larger.__dict__.update({name: self.__dict__[name] for name in same if name in self.__dict__})
        if "item_features" in self.__dict__:
            larger.__dict__["item_features"] = self.item_features.extended(table)
        return larger

    @cached_property
    def unused_items(self) -> pl.DataFrame | None:
        """Rows of the item table for items without interactions, which `Recommender.add_items` takes.

        Only data as it was read knows them (`from_frame`); None for its parts, and without such items.
        """
        return None

    @cached_property
    def without_repeats(self) -> Dataset:
        """The same data with the last row of each user and item only, for models that read a history as a set.

        This data itself unless repeats were kept (`events.repeats`) and there are any.
        """
        if not self.events.repeats or not len(self):
            return self
        key = self.user * np.int64(self.n_items) + self.item
        order = np.argsort(key, kind="stable")
        last = np.ones(len(key), dtype=bool)
        last[order[:-1]] = key[order[1:]] != key[order[:-1]]
        count = len(last) - int(last.sum())
        repeated = f"{count:,} of {len(self):,} rows are repeated by a later one"
        note = f"{repeated}, and this model learns from the last one only"
        return replace(self.take(last), notes=(*self.notes, note)) if count else self

    @cached_property
    def is_choice(self) -> np.ndarray:
        """Whether each row counts as a choice where lists are made or judged, bool `[rows]`.

        A rating of zero or less says that the item is not liked, or not rated. All rows count if no rating is above 0.
        """
        if self.rating is None or self.rating_scale is None or self.rating_scale[1] <= 0:
            return np.ones(len(self), dtype=bool)
        return self.rating > 0

    def training_rows(self, repeats: bool, ratings: bool) -> Dataset:
        """The rows that a model learns from.

        Args:
            repeats: Whether it learns from all events of a user and item; else from the last one.
            ratings: Whether it learns from all ratings; else only from choices (`is_choice`).
        """
        found = self if repeats else self.without_repeats
        if ratings or found.is_choice.all() or not found.is_choice.any():
            return found
        return found.take(found.is_choice)

    def without_weights(self) -> Dataset:
        """The same data with every interaction counted once."""
        history = None if self.history is None else self.history.without_weights()
        return replace(self, weight=None, history=history)

    def queries(self, users: np.ndarray, spec: Spec) -> Queries:
        """Build queries for these users that do not contain the rows of this part.

        The histories are in the order of `histories`, with `Queries.times` and `Queries.ratings` beside them. Of a
        successive part, each user is asked about their last row (see `questions` for all of them).

        Args:
            users: User indices of this data, int64 `[B]`.
            spec: Spec of the model. A user beyond its `n_users` becomes -1, items beyond its `n_items` are removed from
                the histories.

        Returns:
            Queries with the histories of `known`, and with user features if `spec` has them. The users of sessions are
            -1.
        """
        rows = torch.from_numpy(np.asarray(users, dtype=np.int64))
        start, length = (
            torch.from_numpy(column)[rows] for column in (self.known.offsets[:-1], np.diff(self.known.offsets))
        )
        return build_queries(self, self.known, rows, start, length, spec)

    def frame(self) -> pl.DataFrame:
        """The interactions with ids instead of indices: `user_id`, `item_id` and the other columns of this data."""
        columns = {"user_id": self.users.ids[self.user], "item_id": self.items.ids[self.item]}
        for name in ("rating", "timestamp", "weight"):
            if getattr(self, name) is not None:
                columns[name] = pl.Series(name, np.asarray(getattr(self, name)))
        return pl.DataFrame(columns)

    def split(self, name: str = "temporal", **options: Any) -> Split:
        """Split into train, valid and test parts: shorthand for `palate.split_dataset`.

        Args:
            name: A key of `SPLITS`.
            options: Those of the function in `SPLITS`, for example `valid=0.1`, `test=0.1` and `seed=0`.

        Raises:
            ConfigError: There is no such split or option, or an option is out of range.
            DataError: A part would be empty.
        """
        return palate.split_dataset(self, name, **options)

    def titles(self, items: np.ndarray) -> list[str]:
        """Titles of items.

        Args:
            items: Item indices.

        Returns:
            The item table's column declared as "title", or called `title` or `name` in any case; else the id.
        """
        return titles(self.item_table, self.items, np.asarray(items, dtype=np.int64), self.item_kinds)

    @property
    def has_titles(self) -> bool:
        """Whether the item table has a column of titles (see `titles`)."""
        return self.item_table is not None and title_column(self.item_table.columns, self.item_kinds) is not None

    def __repr__(self) -> str:
        counts, *lines = summary_of(self)
        return "\n".join([f"Dataset: {counts[1]}", *(f"  {name:15}{value}" for name, value in lines)])

    def _repr_html_(self) -> str:
        """The summary as a table, for notebooks."""
        return table_of(summary_of(self))
