"""The database of the service: tables, connections, and the errors of a store that cannot be used.

SQLite runs in WAL mode with `synchronous=FULL`, PostgreSQL with `synchronous_commit=on`: a transaction that is
committed is on disk.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from palate.errors import ConfigError, PalateError, quoted
from palate.serving.problems import Problem

SCHEMA_VERSION = 1
LOCK_SECONDS = 2.0
"""How long a statement waits for a lock before the request gets 503."""
STATEMENT_SECONDS = 10.0
"""How long a statement of PostgreSQL may run."""
CONNECT_SECONDS = 3
_SCHEMA_LOCK = 0x70616C617465
"""Advisory lock of PostgreSQL that is held while tables are created."""

tables = sa.MetaData()
_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""SQLite numbers rows only in columns of type INTEGER."""

meta = sa.Table(
    "meta",
    tables,
    sa.Column("name", sa.String(40), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)
"""`schema`: the version of these tables; `catalogue`: a number that grows with each change of `items`."""

feedback = sa.Table(
    "feedback",
    tables,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("item_id", sa.Text, nullable=False),
    sa.Column("type", sa.String(20), nullable=False),
    sa.Column("value", sa.Float),
    sa.Column("timestamp", sa.BigInteger, nullable=False),
    sa.Column("stored_ms", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("user_id", "item_id"),
    sa.Index("feedback_by_user", "user_id", "id"),
    sqlite_autoincrement=True,
)
"""One row for each user and item; `id` grows with each write and is never used twice."""

replies = sa.Table(
    "replies",
    tables,
    sa.Column("key", sa.String(200), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("stored_ms", sa.BigInteger, nullable=False, index=True),
)
"""The answers to requests with idempotency keys."""

reply_users = sa.Table(
    "reply_users",
    tables,
    sa.Column("key", sa.String(200), primary_key=True),
    sa.Column("user_id", sa.Text, primary_key=True, index=True),
)
"""The users that each answer in `replies` speaks of, so that they can be forgotten."""

items = sa.Table(
    "items",
    tables,
    sa.Column("item_id", sa.Text, primary_key=True),
    sa.Column("fields", sa.Text),
    sa.Column("hidden", sa.Boolean, nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),
)
"""Items that were added (`fields`, as JSON) or hidden; `number` is their order."""

api_keys = sa.Table(
    "api_keys",
    tables,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("created", sa.BigInteger, nullable=False),
)


def connect(url: str) -> sa.Engine:
    """The engine of a store; connections are made when they are needed.

    Args:
        url: As in `Settings.store`.

    Raises:
        ConfigError: It is not a URL, or of another database.
    """
    try:
        address = sa.make_url(url)
    except SQLAlchemyError:
        raise ConfigError(
            f"store = {quoted(url)} is not a database URL; write sqlite:///FILE or postgresql://USER@HOST/NAME"
        ) from None
    if address.get_backend_name() == "sqlite":
        if not address.database or address.database == ":memory:":
            raise ConfigError("store: an SQLite store needs a file, sqlite:///FILE")
        engine = sa.create_engine(
            address, connect_args={"timeout": LOCK_SECONDS, "check_same_thread": False}, pool_timeout=LOCK_SECONDS
        )
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine
    if address.get_backend_name() == "postgresql":
        limits = {"lock_timeout": f"{LOCK_SECONDS:g}s", "statement_timeout": f"{STATEMENT_SECONDS:g}s"}
        options = " ".join(f"-c {name}={value}" for name, value in {"synchronous_commit": "on", **limits}.items())
        return sa.create_engine(
            address.set(drivername="postgresql+psycopg"),
            connect_args={"connect_timeout": CONNECT_SECONDS, "options": options, "keepalives_idle": 10},
            pool_timeout=LOCK_SECONDS,
            pool_recycle=1800,
        )
    raise ConfigError(f"store = {quoted(url)}: only sqlite and postgresql can be used")


def _prepare_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # Transactions are begun by `_begin_sqlite` alone.
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # At once for writing: a transaction that reads first could not wait for another one to end.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


class Reader:
    """Reads what is committed, each statement by itself, without waiting for writers.

    SQLite is asked through the driver: a question takes 10 microseconds there, and 100 through a pool.

    Args:
        engine: From `connect`.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self.engine, self.is_file = engine, engine.dialect.name == "sqlite"
        self._pool = None if self.is_file else engine.execution_options(isolation_level="AUTOCOMMIT")
        self._own = threading.local()
        self._opened: list[Any] = []

    def rows(self, sql: str, *values: Any) -> list[Any]:
        """The rows of a SELECT.

        Args:
            sql: With ? for each of `values`.
            values: In order.

        Raises:
            Problem: The store cannot be read.
        """
        with available():
            if self._pool is not None:
                with self._pool.connect() as connection:
                    return list(connection.exec_driver_sql(sql.replace("?", "%s"), values).fetchall())
            own: Any = getattr(self._own, "connection", None)
            if own is None:
                pooled = self.engine.raw_connection()
                self._opened.append(pooled)
                own = self._own.connection = pooled.driver_connection
            try:
                return list(own.execute(sql, values))
            except sqlite3.Error as error:
                raise OperationalError(sql, None, error) from error

    def close(self) -> None:
        """Close the connections of all threads."""
        while self._opened:
            self._opened.pop().close()


def create_tables(engine: sa.Engine) -> None:
    """Create the tables that are missing; several processes may do so at once.

    Raises:
        ConfigError: The database cannot be opened, or was written by a newer palate.
    """
    try:
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
            tables.create_all(connection)
            known = connection.execute(sa.select(meta.c.value).where(meta.c.name == "schema")).scalar()
            if known is None:
                rows = [{"name": "schema", "value": SCHEMA_VERSION}, {"name": "catalogue", "value": 0}]
                connection.execute(meta.insert(), rows)
    except SQLAlchemyError as error:
        raise ConfigError(f"store = {shown(engine)} cannot be opened: {_reason(error)}") from error
    if known is not None and known > SCHEMA_VERSION:
        raise ConfigError(f"store = {shown(engine)} was written by a newer palate; upgrade, or name another store")


def shown(engine: sa.Engine) -> str:
    """The URL of a store without its password."""
    return engine.url.render_as_string(hide_password=True)


def _reason(error: Exception) -> str:
    """The first line of what the driver says."""
    cause = getattr(error, "orig", None) or error
    return next(iter(str(cause).strip().splitlines()), type(cause).__name__)[:200]


@contextmanager
def available() -> Iterator[None]:
    """Turn errors of the database into a problem: 503, with nothing of the transaction stored.

    Raises:
        Problem: The store is locked, full, or cannot be reached.
    """
    try:
        yield
    except PalateError:
        raise
    except (OperationalError, DBAPIError, PoolTimeout) as error:
        raise Problem(
            "store-unavailable",
            "The feedback store is locked, full or cannot be reached, and nothing of this request was stored; "
            "try again, with the same idempotency key if there was one",
            retry_after=1,
        ) from error
