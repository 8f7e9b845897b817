"""The outermost layer of the application: request ids, host names, keys, limits, headers, metrics and logs.

A plain ASGI layer: Starlette's own middleware would cost as much as a whole list.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from palate.errors import ConfigError, quoted
from palate.serving.logs import log, log_failure
from palate.serving.problems import Problem
from palate.serving.service import Service

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "font-src 'none'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_FIXED = [
    (b"content-security-policy", CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
]
_NO_STORE = (b"cache-control", b"no-store")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9_-]{1,64}")
_OPEN = ("/healthz/", "/v1/session", "/static/")
_READS = ("/v1/recommend", "/v1/rank", "/v1/predict", "/v1/explain")
"""Paths that are asked by POST and change nothing."""


def scope_of(method: str, path: str) -> str | None:
    """The scope that a request needs; None for none."""
    if not (path.startswith("/v1/") or path == "/metrics") or path.startswith(_OPEN):
        return None
    if method in ("GET", "HEAD", "OPTIONS") or path in _READS:
        return "read"
    return "admin" if path == "/v1/items" or path.startswith("/v1/items/") else "write"


class Guard:
    """The layer around the application.

    Args:
        app: The application.
        service: Its service.

    Raises:
        ConfigError: The rate limit is not valid.
    """

    def __init__(self, app: Any, service: Service) -> None:
        self.app, self.service = app, service
        self.settings = service.settings
        self.hosts = frozenset(host.lower() for host in self.settings.allowed_hosts)
        self.limit, self.limiter = None, None
        if self.settings.rate_limit is not None:
            self.limit = rate_limit(self.settings.rate_limit)
            self.limiter = FixedWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        state = scope.setdefault("state", {})
        state["request_id"], state["key"] = request_id, None
        status, recorded = 0, False

        def record() -> None:
            nonlocal recorded
            if not recorded:
                recorded = True
                self._record(scope, status, began)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = {name for name, _ in message["headers"]}
                extra = [(b"x-request-id", request_id.encode()), *_FIXED]
                message["headers"] = [*message["headers"], *extra, *([] if b"cache-control" in own else [_NO_STORE])]
            elif not message.get("more_body", False):
                record()  # Before the end of the answer is sent: a client that has it finds it counted.
            await send(message)

        try:
            try:
                self._check(scope, headers)
                await self._check_key(scope, headers)
                body = await self._body(scope, headers, receive)
                await self.app(scope, body, answer)
            except Problem as problem:
                await problem.response(request_id)(scope, receive, answer)
        except OSError:  # The client went away.
            status = status or 499
        except Exception as error:
            log_failure("failure", error, request_id=request_id, route=_route(scope))
            if not status:
                detail = f"an unexpected error; the log has more under request {request_id}"
                await Problem("internal", detail).response(request_id)(scope, receive, answer)
        finally:
            record()

    def _check(self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes]) -> None:
        """Refuse what can be refused without reading the body."""
        if self.hosts:
            host = headers.get(b"host", b"").decode("latin-1").lower()
            name = host if host.endswith("]") else re.sub(r":\d+$", "", host)
            if name not in self.hosts:
                raise Problem("bad-host", f"the host name {quoted(name)} is not allowed (--allowed-host NAME)")
        if scope["method"] in ("POST", "PATCH", "PUT", "DELETE"):
            length = headers.get(b"content-length", b"0")
            if length.isdigit() and int(length) > self.settings.max_body:
                raise self._too_large()
            there = length != b"0" or b"transfer-encoding" in headers
            kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
            if there and kind != b"application/json" and scope["path"].startswith("/v1/"):
                raise Problem("unsupported-media-type", "send JSON, with Content-Type: application/json")

    async def _check_key(self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes]) -> None:
        needed = scope_of(scope["method"], scope["path"])
        if needed is None:
            return
        key = await self.service.key_of(headers)
        scope["state"]["key"] = key
        if self.limit is not None and self.limiter is not None:
            client = key.id or (scope.get("client") or ("",))[0]
            if not self.limiter.hit(self.limit, client):
                reset = self.limiter.get_window_stats(self.limit, client).reset_time - time.time()
                raise Problem(
                    "rate-limited", f"more than {self.settings.rate_limit} requests; wait", retry_after=max(reset, 1)
                )
        if needed not in key.scopes:
            raise Problem("forbidden", f"this needs a key with the scope {needed}; yours has {' '.join(key.scopes)}")

    async def _body(self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes], receive: Receive) -> Receive:
        """The body, read whole before anything is done: bounded in size and time."""
        if scope["method"] in ("GET", "HEAD") or not (
            headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers
        ):
            return receive
        chunks, size, more = [], 0, True
        try:
            async with asyncio.timeout(self.settings.body_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ConnectionResetError
                    chunk = message.get("body", b"")
                    more, size = message.get("more_body", False), size + len(chunk)
                    if size > self.settings.max_body:
                        raise self._too_large()
                    chunks.append(chunk)
        except TimeoutError:
            raise Problem("timeout", f"the body took more than {self.settings.body_seconds:g} s to arrive") from None
        whole: Message | None = {"type": "http.request", "body": b"".join(chunks), "more_body": False}

        async def again() -> Message:
            nonlocal whole
            if whole is None:
                return await receive()
            message, whole = whole, None
            return message

        return again

    def _too_large(self) -> Problem:
        return Problem("too-large", f"a body has at most {self.settings.max_body:,} bytes")

    def _record(self, scope: MutableMapping[str, Any], status: int, began: float) -> None:
        seconds = time.perf_counter() - began
        route = _route(scope)
        self.service.metrics.request(route, scope["method"], status, seconds)
        wanted = self.settings.log
        if wanted == "requests" or (wanted == "errors" and status >= 400):
            state = scope["state"]
            key = state["key"].id if state["key"] is not None else ""
            log(
                "request", route=route, method=scope["method"], status=status, ms=round(seconds * 1000, 2),
                request_id=state["request_id"], **({"key": key} if key else {}),
            )  # fmt: skip


def _route(scope: MutableMapping[str, Any]) -> str:
    """The route's pattern, without ids; `other` for a path that is none."""
    path = getattr(scope.get("route"), "path", None)
    if path is not None and path != "":
        return str(path).replace(":path}", "}")
    return "/static" if scope["path"].startswith("/static/") or scope["path"] == "/" else "other"


def rate_limit(text: str) -> Any:
    """A rate limit from text.

    Raises:
        ConfigError: It is not valid.
    """
    try:
        return parse(text)
    except ValueError:
        raise ConfigError(f"rate_limit = {quoted(text)} is not a rate; write, for example, 100/second") from None
