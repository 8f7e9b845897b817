"""The feedback store: what users said of items, on disk before it is acknowledged.

Reads see whatever any worker has committed. Writes are committed in groups by one thread of each worker: one
transaction, and so one wait for the disk, for all that arrived during the last one. A group is stored whole or not.

The state of a user is known by three numbers (`Stamp`), because a row keeps its id until it is replaced and no id is
used twice: if count, largest id and sum of ids are as before, so are the rows.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import polars as pl
import sqlalchemy as sa

from palate.serving import database as db
from palate.serving.problems import Problem

Type = Literal["like", "rating", "not_interested", "seen"]
Mode = Literal["overwrite", "keep"]

REPLY_SECONDS = 24 * 3600
"""How long answers to idempotency keys are kept."""
MAX_QUEUE, MAX_GROUP = 1000, 200
"""Writes that may wait for the disk, and writes in one transaction."""
ROWS_PER_STATEMENT = 400
_PURGE_SECONDS = 3600.0
_ROWS = "SELECT id, user_id, item_id, type, value, timestamp, stored_ms FROM feedback WHERE user_id = ?"


class Stamp(NamedTuple):
    """What changes whenever the feedback of a user, or the catalogue, changes."""

    rows: int
    last: int
    total: int
    catalogue: int


@dataclass(frozen=True)
class Entry:
    """What one user says of one item; ids as text."""

    user_id: str
    item_id: str
    type: str
    value: float | None
    timestamp: int


class Row(NamedTuple):
    """An entry in the store; `stored_ms` is the server's time in milliseconds."""

    id: int
    user_id: str
    item_id: str
    type: str
    value: float | None
    timestamp: int
    stored_ms: int

    @property
    def previous(self) -> dict[str, Any]:
        """As clients see what an entry replaced."""
        return {"type": self.type, "value": self.value, "timestamp": self.timestamp}


@dataclass(frozen=True)
class Change:
    """One request to write: entries to store and pairs to remove, all or nothing.

    Attributes:
        entries: What to store, in order.
        mode: Whether an entry replaces an earlier one of the same user and item, or the earlier one stays.
        removed: Pairs of user and item to remove.
        forget: A user of whom everything is removed.
        key: The idempotency key; empty for none.
        fingerprint: Of the request, which a repeated key must match.
    """

    entries: Sequence[Entry] = ()
    mode: Mode = "overwrite"
    removed: Sequence[tuple[str, str]] = ()
    forget: str | None = None
    key: str = ""
    fingerprint: str = ""

    @property
    def users(self) -> set[str]:
        """Everybody whose rows it may change."""
        pairs = {entry.user_id for entry in self.entries} | {user for user, _ in self.removed}
        return pairs | ({self.forget} if self.forget is not None else set())


@dataclass
class Outcome:
    """What became of a change.

    Attributes:
        results: For each entry or pair: new, overwritten, kept, removed or absent; and the row that was there before.
        stored_ms: When it was stored, in milliseconds.
        replayed: Whether the key was known, so that nothing was done again.
        conflict: Whether the key was known for another request.
        removed: Rows that were removed.
    """

    results: list[tuple[str, dict[str, Any] | None]] = field(default_factory=list)
    stored_ms: int = 0
    replayed: bool = False
    conflict: bool = False
    removed: int = 0


class Store:
    """The feedback store.

    Args:
        url: As in `Settings.store`. Tables that are missing are created.

    Raises:
        ConfigError: The database cannot be opened.
    """

    def __init__(self, url: str) -> None:
        self.engine = db.connect(url)
        db.create_tables(self.engine)
        self.reader = db.Reader(self.engine)
        self.quick = self.reader.is_file
        """Whether reads are so short that they need no thread."""
        self._queue: queue.Queue[tuple[Callable[[sa.Connection], Any] | Change, Future[Any]] | None]
        self._queue = queue.Queue(MAX_QUEUE)
        self._purged = float("-inf")
        self._writer = threading.Thread(target=self._write_groups, name="palate-store", daemon=True)
        self._writer.start()

    def close(self) -> None:
        """Finish the writes that wait, and close all connections."""
        self._queue.put(None)
        self._writer.join()
        self.reader.close()
        self.engine.dispose()

    def stamp(self, user_id: str) -> Stamp:
        """The state of a user's feedback and of the catalogue."""
        [row] = self.reader.rows(
            "SELECT COUNT(*), COALESCE(MAX(id), 0), COALESCE(SUM(id), 0), "
            "(SELECT value FROM meta WHERE name = 'catalogue') FROM feedback WHERE user_id = ?",
            user_id,
        )
        return Stamp(int(row[0]), int(row[1]), int(row[2]), int(row[3]))

    def of_user(self, user_id: str, limit: int) -> list[Row]:
        """The newest rows of a user, oldest first."""
        found = self.reader.rows(f"{_ROWS} ORDER BY id DESC LIMIT ?", user_id, limit)
        return [Row(*row) for row in reversed(found)]

    def items(self) -> list[tuple[str, str | None, bool]]:
        """Items that were added or hidden: id, fields as JSON, whether hidden; in the order of their first change."""
        rows = self.reader.rows("SELECT item_id, fields, hidden FROM items ORDER BY number, item_id")
        return [(str(item), fields, bool(hidden)) for item, fields, hidden in rows]

    def count(self) -> int:
        """Rows of all users."""
        return int(self.reader.rows("SELECT COUNT(*) FROM feedback")[0][0])

    def submit(self, change: Change) -> Future[Outcome]:
        """Store a change; the future is done once it is on disk.

        Raises:
            Problem: Too many writes wait already.
        """
        return self._submit(change)

    def transact(self, work: Callable[[sa.Connection], Any]) -> Future[Any]:
        """Run a function within a transaction that is committed before the future is done."""
        return self._submit(work)

    def _submit(self, work: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            self._queue.put_nowait((work, done))
        except queue.Full:
            raise Problem(
                "overloaded", f"{MAX_QUEUE:,} writes wait for the disk already; try again", retry_after=1
            ) from None
        return done

    def _write_groups(self) -> None:
        while (first := self._queue.get()) is not None:
            group = [first]
            while len(group) < MAX_GROUP:
                try:
                    more = self._queue.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    self._queue.put(None)
                    break
                group.append(more)
            self._commit(group)

    def _commit(self, group: list[tuple[Any, Future[Any]]]) -> None:
        """One transaction for all; whoever waits gets the outcome after the commit, or the error."""
        group = [(work, done) for work, done in group if done.set_running_or_notify_cancel()]
        try:
            with db.available(), self.engine.begin() as connection:
                self._lock(connection, [work for work, _ in group if isinstance(work, Change)])
                self._purge(connection)
                found = [apply(connection, w) if isinstance(w, Change) else w(connection) for w, _ in group]
        # Whatever goes wrong, nobody may wait for ever.
        except BaseException as error:
            for _, done in group:
                done.set_exception(error)
            return
        for (_, done), outcome in zip(group, found, strict=True):
            done.set_result(outcome)

    def _lock(self, connection: sa.Connection, changes: Iterable[Change]) -> None:
        """On PostgreSQL, let one worker at a time change these users; all lock in the same order."""
        if self.quick:  # SQLite has one writer at a time.
            return
        names = {f"user {user}" for change in changes for user in change.users}
        names |= {f"key {change.key}" for change in changes if change.key}
        numbers = sorted(
            int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big", signed=True) for name in names
        )
        for start in range(0, len(numbers), ROWS_PER_STATEMENT):
            lock = sa.text("SELECT pg_advisory_xact_lock(n) FROM unnest(CAST(:numbers AS bigint[])) n")
            connection.execute(lock, {"numbers": numbers[start : start + ROWS_PER_STATEMENT]})

    def _purge(self, connection: sa.Connection) -> None:
        """Now and then, forget answers to old idempotency keys."""
        if time.monotonic() < self._purged + _PURGE_SECONDS:
            return
        old = db.replies.c.stored_ms < milliseconds() - 1000 * REPLY_SECONDS
        keys = sa.select(db.replies.c.key).where(old)
        connection.execute(db.reply_users.delete().where(db.reply_users.c.key.in_(keys)))
        connection.execute(db.replies.delete().where(old))
        self._purged = time.monotonic()


def milliseconds() -> int:
    """The server's time in milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


def apply(connection: sa.Connection, change: Change) -> Outcome:
    """Carry out a change within a transaction.

    Args:
        connection: With a transaction that the caller commits.
        change: What to do. A known idempotency key only repeats the outcome.
    """
    now = milliseconds()
    if change.key:
        known = connection.execute(sa.select(db.replies).where(db.replies.c.key == change.key)).first()
        if known is not None and known.fingerprint != change.fingerprint:
            return Outcome(conflict=True)
        if known is not None:
            results = [tuple(one) for one in json.loads(known.body)]
            return Outcome(results, known.stored_ms, replayed=True)
    if change.forget is not None:
        return Outcome(stored_ms=now, removed=_forget(connection, change.forget))
    results = _remove(connection, change.removed) if change.removed else _write(connection, change, now)
    if change.key:
        body = json.dumps(results)
        connection.execute(
            db.replies.insert(),
            {"key": change.key, "fingerprint": change.fingerprint, "body": body, "stored_ms": now},
        )
        connection.execute(db.reply_users.insert(), [{"key": change.key, "user_id": u} for u in sorted(change.users)])
    return Outcome(results, now, removed=sum(result == "removed" for result, _ in results))


def _existing(connection: sa.Connection, pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Row]:
    """The rows of these pairs."""
    found, todo = {}, list(dict.fromkeys(pairs))
    for start in range(0, len(todo), ROWS_PER_STATEMENT):
        part = todo[start : start + ROWS_PER_STATEMENT]
        chosen = sa.tuple_(db.feedback.c.user_id, db.feedback.c.item_id).in_(part)
        rows = [Row(*row) for row in connection.execute(sa.select(db.feedback).where(chosen))]
        found.update({(row.user_id, row.item_id): row for row in rows})
    return found


def _write(connection: sa.Connection, change: Change, now: int) -> list[tuple[str, dict[str, Any] | None]]:
    """Store entries in order: an entry that replaces another one gets a new row, so that it counts as the newest."""
    before = _existing(connection, ((entry.user_id, entry.item_id) for entry in change.entries))
    new: dict[tuple[str, str], Entry] = {}
    results: list[tuple[str, dict[str, Any] | None]] = []
    for entry in change.entries:
        pair = (entry.user_id, entry.item_id)
        earlier = new.get(pair)
        there = before[pair].previous if earlier is None and pair in before else None
        if earlier is not None:
            there = {"type": earlier.type, "value": earlier.value, "timestamp": earlier.timestamp}
        if there is not None and change.mode == "keep":
            results.append(("kept", there))
            continue
        new.pop(pair, None)
        new[pair] = entry
        results.append(("new" if there is None else "overwritten", there))
    _delete(connection, [before[pair].id for pair in new if pair in before])
    if new:
        values = [vars(entry) | {"stored_ms": now} for entry in new.values()]
        # One statement a row: that ids grow in this order is promised for single rows alone.
        for row in values:
            connection.execute(db.feedback.insert().inline(), row)
    return results


def _remove(connection: sa.Connection, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, dict[str, Any] | None]]:
    before = _existing(connection, pairs)
    _delete(connection, [row.id for row in before.values()])
    left = dict(before)
    found: list[tuple[str, dict[str, Any] | None]] = []
    for pair in pairs:
        row = left.pop(pair, None)
        found.append(("absent", None) if row is None else ("removed", row.previous))
    return found


def _delete(connection: sa.Connection, ids: Sequence[int]) -> None:
    for start in range(0, len(ids), ROWS_PER_STATEMENT):
        part = ids[start : start + ROWS_PER_STATEMENT]
        connection.execute(db.feedback.delete().where(db.feedback.c.id.in_(part)))


def _forget(connection: sa.Connection, user_id: str) -> int:
    """Remove all that is stored of a user; gives the number of rows of feedback."""
    keys = sa.select(db.reply_users.c.key).where(db.reply_users.c.user_id == user_id)
    connection.execute(db.replies.delete().where(db.replies.c.key.in_(keys)))
    connection.execute(db.reply_users.delete().where(db.reply_users.c.key.in_(keys)))
    return int(connection.execute(db.feedback.delete().where(db.feedback.c.user_id == user_id)).rowcount)


def add_items(connection: sa.Connection, rows: Sequence[tuple[str, str]]) -> None:
    """Store new items.

    Args:
        connection: With a transaction that the caller commits.
        rows: Id as text, and fields as JSON.
    """
    version = _next_catalogue(connection)
    for item_id, fields in rows:
        row = {"item_id": item_id, "fields": fields, "hidden": False, "number": version}
        connection.execute(db.items.delete().where(db.items.c.item_id == item_id))
        connection.execute(db.items.insert(), row)


def hide_item(connection: sa.Connection, item_id: str, hidden: bool) -> None:
    """Hide an item from all lists, or show it again; within a transaction that the caller commits."""
    version = _next_catalogue(connection)
    changed = connection.execute(db.items.update().where(db.items.c.item_id == item_id).values(hidden=hidden))
    if not changed.rowcount:
        row = {"item_id": item_id, "fields": None, "hidden": hidden, "number": version}
        connection.execute(db.items.insert(), row)


def _next_catalogue(connection: sa.Connection) -> int:
    """A new version of the catalogue; the row is locked until the transaction ends."""
    chosen = db.meta.c.name == "catalogue"
    connection.execute(db.meta.update().where(chosen).values(value=db.meta.c.value + 1))
    return int(connection.execute(sa.select(db.meta.c.value).where(chosen)).scalar_one())


def read_all(url: str) -> pl.DataFrame:
    """The whole store: `user_id`, `item_id`, `type`, `value`, `timestamp` in order of arrival; ids as text.

    Args:
        url: As in `Settings.store`.

    Raises:
        ConfigError: The database cannot be opened.
    """
    engine = db.connect(url)
    db.create_tables(engine)
    columns = [db.feedback.c[name] for name in ("user_id", "item_id", "type", "value", "timestamp")]
    schema = {"user_id": pl.String, "item_id": pl.String, "type": pl.String, "value": pl.Float64, "timestamp": pl.Int64}
    pieces = [pl.DataFrame(schema=schema)]
    try:
        with engine.connect() as connection:
            chosen = sa.select(*columns).order_by(db.feedback.c.id)
            for part in connection.execution_options(yield_per=50_000).execute(chosen).partitions():
                pieces.append(pl.DataFrame([tuple(row) for row in part], schema=schema, orient="row"))
    finally:
        engine.dispose()
    return pl.concat(pieces)
