"""API keys: made here, shown once, stored as hashes.

A key is `palate_ID_SECRET`; the secret has 256 random bits. So a plain SHA-256 protects it: there is nothing to guess,
and a slow hash would only let strangers keep the service busy. Keys are found by their id and compared in constant
time. Each worker keeps the table for a few seconds: a new or revoked key counts everywhere after that.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa

from palate.errors import ConfigError, UnknownId, quoted
from palate.serving import database as db
from palate.serving.database import api_keys
from palate.serving.problems import Problem

SCOPES = ("read", "write", "admin")
"""read: lists, explanations, items, users; write: feedback; admin: items. Each is needed for itself."""
REFRESH_SECONDS = 2.0
_KEY = re.compile(r"palate_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True)
class ApiKey:
    """A key without its secret.

    Attributes:
        id: Its public part, which logs show.
        name: Whom it was made for.
        scopes: Some of `SCOPES`.
        hash: SHA-256 of the secret.
        created: Seconds since 1970 UTC.
    """

    id: str
    name: str
    scopes: frozenset[str]
    hash: str
    created: int


ANYBODY = ApiKey("", "anybody", frozenset(SCOPES), "", 0)
"""Who asks where no key exists."""
NOBODY = "0" * 64
"""In place of the hash of a key that does not exist."""


class KeyRing:
    """The keys of a store, read again every few seconds.

    Args:
        reader: Of the store.
    """

    def __init__(self, reader: db.Reader) -> None:
        self.reader = reader
        self._keys: dict[str, ApiKey] = {}
        self._read_at = float("-inf")

    @property
    def stale(self) -> bool:
        """Whether the keys should be read again."""
        return time.monotonic() > self._read_at + REFRESH_SECONDS

    def refresh(self) -> None:
        """Read the keys.

        Raises:
            Problem: The store cannot be read, and no earlier state is known.
        """
        try:
            self._keys = {key.id: key for key in read_keys(self.reader)}
        except Problem:
            if self._read_at == float("-inf"):
                raise
        self._read_at = time.monotonic()

    @property
    def needed(self) -> bool:
        """Whether requests need a key: as soon as there is any."""
        return bool(self._keys)

    def check(self, given: str | None) -> ApiKey:
        """Whose key this is.

        Args:
            given: The key of a request; None for none.

        Raises:
            Problem: There is none, or it is not valid.
        """
        if not self._keys:
            return ANYBODY
        if given is None:
            raise Problem("unauthorized", "this service needs an API key: send it as Authorization: Bearer KEY")
        found = _KEY.fullmatch(given)
        key = self._keys.get(found[1]) if found else None
        # A key of no known id is compared too, so that neither the answer nor its time tells which ids there are.
        same = hmac.compare_digest(_hash(found[2] if found else ""), NOBODY if key is None else key.hash)
        if key is None or not same:
            raise Problem("unauthorized", "the API key is not valid; it may have been revoked")
        return key


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def read_keys(reader: db.Reader) -> list[ApiKey]:
    """The keys of a store, oldest first."""
    rows = reader.rows("SELECT id, name, scopes, hash, created FROM api_keys ORDER BY created, id")
    return [ApiKey(id, name, frozenset(scopes.split()), hash_, created) for id, name, scopes, hash_, created in rows]


def add_key(engine: sa.Engine, name: str, scopes: Collection[str]) -> str:
    """Make a key; returns it, which nobody can do again.

    Args:
        engine: Of the store.
        name: Whom it is for.
        scopes: Some of `SCOPES`.

    Raises:
        ConfigError: There is no such scope.
    """
    wrong = [scope for scope in scopes if scope not in SCOPES]
    if wrong or not scopes:
        raise ConfigError(f"scopes = {quoted(' '.join(wrong))}: choose one or more of {', '.join(SCOPES)}")
    key_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    row = {"id": key_id, "name": name, "hash": _hash(secret), "scopes": " ".join(scopes), "created": int(time.time())}
    with engine.begin() as connection:
        connection.execute(api_keys.insert(), row)
    return f"palate_{key_id}_{secret}"


def revoke_key(engine: sa.Engine, key_id: str) -> None:
    """Remove a key.

    Args:
        engine: Of the store.
        key_id: Its public part.

    Raises:
        UnknownId: There is no such key.
    """
    with engine.begin() as connection:
        if not connection.execute(api_keys.delete().where(api_keys.c.id == key_id)).rowcount:
            raise UnknownId(f"there is no key {quoted(key_id)}; `palate keys list` shows all")
