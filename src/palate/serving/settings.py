"""Settings of the service; they can be imported without the extra `serve`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from palate.config import check
from palate.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the service; limits hold for each worker."""

    store: str | None = None
    """Database of feedback and API keys as a SQLAlchemy URL: sqlite:///FILE or postgresql://USER@HOST/NAME. Defaults
    to a SQLite file beside the first run."""
    rate_limit: str | None = None
    """Requests allowed for each API key, or else each client address, for example 100/second. Defaults to no limit."""
    max_body: int = 1 << 20
    """Largest request body, in bytes."""
    max_k: int = 1000
    """Longest list."""
    max_history: int = 5000
    """Longest history in a request, and most feedback of a user that is folded in: the newest."""
    body_seconds: float = 10.0
    """How long a client may take to send a request."""
    threads: int = 2
    """Threads for answers that take long."""
    max_waiting: int = 64
    """Answers that may wait for a thread; further requests get 503."""
    cache: int = 10_000
    """Answers that are kept; 0 for none."""
    exact_items: int = 100_000
    """Catalogues of more items are searched approximately, if the model and the extra `ann` allow it."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names that requests may use. Defaults to any; on a loopback address, to its names only."""
    log: Literal["requests", "errors", "off"] = "requests"
    """What is logged: requests (all), errors (answers from 400 on), or off."""

    def __post_init__(self) -> None:
        check(
            self,
            max_body=self.max_body >= 1,
            max_k=self.max_k >= 1,
            max_history=self.max_history >= 1,
            body_seconds=self.body_seconds > 0,
            threads=self.threads >= 1,
            max_waiting=self.max_waiting >= 0,
            cache=self.cache >= 0,
            exact_items=self.exact_items >= 0,
        )


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the service listens, and with how many processes."""

    host: str = "127.0.0.1"
    """Address to listen on. Any but a loopback address needs API keys in the store."""
    port: int = 8000
    """Port to listen on; 0 for any free one."""
    workers: int = 1
    """Processes. Each loads the models."""
    allow_anonymous: bool = False
    """Listen on any address without API keys: everybody who reaches it can read and write."""
    proxies: tuple[str, ...] = ()
    """Addresses of reverse proxies whose X-Forwarded-For header is believed. Defaults to none."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535 or self.workers < 1:
            raise ConfigError(
                f"port = {self.port}, workers = {self.workers}: give a port up to 65535 and 1 worker or more"
            )
