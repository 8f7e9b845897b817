"""Served: one loaded run, ready for questions; ids, cards of items as JSON, hidden and added items."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson
import polars as pl
import torch
from torch import Tensor

from palate.data.features.infer import TITLE
from palate.data.features.table import title_column
from palate.device import on_cpu
from palate.errors import ArtifactError, PalateError, TrainingError, UnknownId
from palate.ranking.index import Index
from palate.ranking.ranked import sketch
from palate.recommender.artifact_files import CARD
from palate.recommender.cold_start import earlier_notes
from palate.recommender.id_translation import check_id_type
from palate.recommender.one_list import best_items, query_of_user
from palate.recommender.recommender import Recommender

POSTER_COLUMNS = ("poster", "image", "cover")
"""Columns of images, of any kind of table, that a card shows."""
RECALL_USERS, RECALL_K = 200, 10
"""Users and list length that the recall of approximate lists is measured with."""
MIN_RECALL = 0.95
"""Below this, lists are exact."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Served:
    """A run that is served. It never changes: added and hidden items make a new one.

    Attributes:
        name: As requests call it.
        rec: The recommender, with the items that were added since.
        trained: The recommender as it was saved.
        model_id: Changes with the run and with added items.
        saved_at, loaded_at: Seconds since 1970 UTC.
        folder: Where the run was loaded from; None for a recommender in memory.
        index: For approximate lists; None for exact ones.
        recall: Share of the exact top 10 that approximate lists hold, measured at load.
        hidden: Items that no list holds, int64, ascending.
    """

    name: str
    rec: Recommender
    trained: Recommender
    model_id: str
    saved_at: float
    loaded_at: float
    folder: Path | None = None
    index: Index | None = None
    recall: float | None = None
    hidden: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    def renamed(self, name: str) -> Served:
        """The same run under another name."""
        return replace(self, name=name)

    @cached_property
    def folds_in(self) -> bool:
        """Whether feedback changes the scores, and not only what is left out."""
        return "history" in self.rec.model.answers

    @cached_property
    def middle(self) -> float:
        """The middle of the rating scale; ratings from there on count as liking."""
        low, high = self.rec.data.rating_scale or (0.0, 0.0)
        return (low + high) / 2

    @cached_property
    def titles(self) -> list[str]:
        """Titles of all items; the ids as text if there are none."""
        return self.rec.data.titles(np.arange(self.rec.data.n_items))

    @cached_property
    def item_ids(self) -> list[str | int]:
        """Ids of all items, in index order."""
        return self.rec.data.items.ids.to_list()

    @cached_property
    def _heads(self) -> dict[int, bytes]:
        return {}

    def head(self, item: int) -> bytes:
        """The beginning of an item of a list as JSON: `{"item_id":...,"title":...`."""
        found = self._heads.get(item)
        if found is None:
            found = orjson.dumps({"item_id": self.item_ids[item], "title": self.titles[item]})[:-1]
            self._heads[item] = found
        return found

    def user_index(self, user_id: str | int) -> int:
        """The index of a user among those known; -1 for anybody else."""
        return self.rec.known.users.position(user_id)

    def item_index(self, item_id: str | int) -> int:
        """The index of an item; -1 if it is not known."""
        return self.rec.data.items.position(item_id)

    def require_item(self, item_id: str | int) -> int:
        """The index of an item.

        Raises:
            UnknownId: It is not known.
        """
        found = self.item_index(item_id)  # quick; the error, and ids in another form, are left to the map
        return found if found >= 0 else int(self.rec.data.items.require([item_id], "item")[0])

    def require_items(self, item_ids: Sequence[str | int]) -> np.ndarray:
        """The indices of items, int64.

        Raises:
            UnknownId: Some are not known.
        """
        return self.rec.data.items.require(item_ids, "item")

    def require_user_type(self, user_id: str | int) -> None:
        """Refuse an id that no user of this data can have.

        Raises:
            DataError: It is text and ids here are whole numbers, or the reverse.
        """
        check_id_type(pl.Series([user_id]), self.rec.known.users, "user")

    def unknown_user(self, user_id: str | int) -> UnknownId:
        """The error for a user of whom nothing is known."""
        users = self.rec.data.users
        kind = "text" if users.is_text else "whole numbers"
        return UnknownId(
            f"unknown user {user_id!r}: not among the {len(users)} users (ids here are {kind}, for example "
            f"{users.ids[0]!r}), and without feedback; give their items instead, history=[...]; or pass "
            f"unknown='popularity' for a list by popularity"
        )

    @cached_property
    def title_column(self) -> str | None:
        """The column of the item table that holds the titles."""
        table = self.rec.data.item_table
        return None if table is None else title_column(table.columns, self.rec.data.item_kinds)

    @cached_property
    def kinds(self) -> dict[str, str]:
        """Columns of the item table without ids, and what they hold."""
        data = self.rec.data
        if data.item_table is None:
            return {}
        found = {c: data.item_features.kinds.get(c, "ignore") for c in data.item_table.columns if c != "item_id"}
        return found | ({self.title_column: TITLE} if self.title_column else {})

    @cached_property
    def poster_column(self) -> str | None:
        """The column of the item table that holds images as bytes."""
        table = self.rec.data.item_table
        if table is None:
            return None
        names = [name for name, dtype in table.schema.items() if dtype == pl.Binary]
        return next((n for n in names if n.lower() in POSTER_COLUMNS), next(iter(names), None))

    @cached_property
    def card_columns(self) -> list[str]:
        """Columns that cards show: neither ids, titles, images nor vectors."""
        table = self.rec.data.item_table
        if table is None:
            return []
        hidden = {name for name, kind in self.kinds.items() if kind in ("image", "vector", TITLE)}
        hidden |= {name for name, dtype in table.schema.items() if dtype == pl.Binary}
        return [name for name in table.columns if name != "item_id" and name not in hidden]

    def fields(self, item: int) -> dict[str, Any]:
        """The values of an item that a card shows, by column."""
        table = self.rec.data.item_table
        if table is None or not self.card_columns:
            return {}
        row = table.row(item, named=True)
        return {name: _plain(row[name]) for name in self.card_columns}

    def poster_url(self, item: int) -> str | None:
        """Where the picture of an item is; None if it has none."""
        table, column = self.rec.data.item_table, self.poster_column
        if table is None or column is None or table[column][item] is None:
            return None
        return f"/v1/items/{quote(str(self.item_ids[item]), safe='')}/poster"

    @staticmethod
    def plain(value: Any) -> Any:
        """A value of a table as JSON has it."""
        return _plain(value)

    @cached_property
    def user_texts(self) -> list[str]:
        """Ids of all users of the training data, as text."""
        return self.rec.data.users.ids.cast(pl.String).to_list()

    def vectors(self) -> Tensor:
        """Vectors of all items whose cosine is the similarity of two items, float `[N, D]`."""
        found = on_cpu(self.rec.model.item_vectors())
        data = self.rec.data
        return sketch(data, data.n_items, seed=0) if found is None else found.detach()


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (list, tuple, pl.Series)):
        return [_plain(one) for one in value]
    return str(value)


def load_run(folder: Path, name: str | None, exact_items: int) -> Served:
    """Load a run; its files are verified against their hashes, and it must answer a question.

    Args:
        folder: That `Recommender.save` or `palate train` wrote.
        name: As requests call it. Defaults to the model's name.
        exact_items: As in `Settings`.

    Raises:
        ArtifactError: The folder is missing, incomplete or edited.
        TrainingError: The model gives scores that are no numbers.
    """
    try:
        card = folder / CARD
        saved_at, content = card.stat().st_mtime, card.read_bytes()
    except OSError:
        saved_at, content = 0.0, b""  # `load` says what is wrong.
    rec = Recommender.load(folder)
    if not content:
        raise ArtifactError(f"{folder} was replaced while it was read; load it again")
    return prepared(rec, name or rec.name, hashlib.sha256(content).hexdigest()[:12], saved_at, folder, exact_items)


def prepared(
    rec: Recommender, name: str, model_id: str, saved_at: float, folder: Path | None, exact_items: int
) -> Served:
    """A recommender made ready: its caches filled, its index built if the catalogue is large.

    Args:
        rec: The recommender.
        name, model_id, saved_at, folder: As in `Served`.
        exact_items: As in `Settings`.
    """
    rec.model.eval()
    served = Served(
        name=name, rec=rec, trained=rec, model_id=model_id, saved_at=saved_at, loaded_at=time.time(), folder=folder
    )
    items, scores = best_items(rec.model, query_of_user(rec, 0), 1)
    if items and not np.isfinite(scores).all():
        raise TrainingError(f"{name} gives scores that are no numbers; train it again")
    if rec.data.n_items > exact_items and rec.model.item_factors() is not None:
        served = with_index(served)
    return served


def with_index(served: Served) -> Served:
    """With an index for approximate lists, if FAISS is installed and enough of the exact lists is found."""
    try:
        index = served.rec.index
    except PalateError:
        return served
    rec, users = served.rec, range(min(served.rec.data.n_users, RECALL_USERS))
    found = total = 0
    for user in users:
        query = query_of_user(rec, user)
        exact, _ = best_items(rec.model, query, RECALL_K)
        near = index.rank(query, RECALL_K).items[0].tolist()
        found, total = found + len(set(exact) & set(near)), total + len(exact)
    recall = found / max(total, 1)
    return replace(served, index=index if recall >= MIN_RECALL else None, recall=recall)


def with_stored_items(served: Served, stored: Sequence[tuple[str, str | None, bool]]) -> tuple[Served, list[str]]:
    """The run with items that were added to the store, and without those that are hidden; and notes.

    Args:
        served: Any state of the run.
        stored: Id as text, fields as JSON, hidden; in the order in which they were added.
    """
    base, notes = served.trained, []
    parse = base.data.items.parse
    added = [json.loads(fields) for _, fields, _ in stored if fields is not None]
    known = base.data.items.index([row["item_id"] for row in added]) if added else np.zeros(0)
    new = [row for row, index in zip(added, known, strict=True) if index < 0]
    rec = base
    if new:
        try:
            rec = base.add_items(table_of(new))
            notes = list(rec.data.notes[len(earlier_notes(base.data)) :])
        except PalateError as error:  # The run does without them; whoever added them was told what is wrong.
            notes = [f"{served.name}: {error}"]
    digest = hashlib.sha256(served.model_id.partition("+")[0].encode())
    digest.update(orjson.dumps([str(row["item_id"]) for row in new]))
    whole = served.model_id.partition("+")[0]
    hidden = rec.data.items.index([parse(item) for item, _, is_hidden in stored if is_hidden])
    hidden = np.unique(hidden[hidden >= 0])
    fresh = replace(
        served,
        rec=rec,
        model_id=f"{whole}+{digest.hexdigest()[:6]}" if rec is not base else whole,
        hidden=torch.from_numpy(hidden),
        index=served.index if rec is base else None,
    )
    return fresh, notes


def table_of(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """A table of new items from JSON objects; a column that a row lacks is null there."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return pl.DataFrame({name: [row.get(name) for row in rows] for name in columns}, strict=False)
