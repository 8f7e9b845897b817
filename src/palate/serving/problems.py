"""Errors as RFC 9457 problem documents; each `PalateError` is one 4xx with its own words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from starlette.responses import Response

from palate.errors import CannotAnswer, ConfigError, DataError, PalateError, TrainingError, UnknownId

MEDIA_TYPE = "application/problem+json"
MAX_FAULTS = 20
"""Faults listed in one problem."""

KINDS: dict[str, tuple[int, str]] = {
    "bad-json": (400, "The body is not valid JSON"),
    "unauthorized": (401, "An API key is needed"),
    "forbidden": (403, "The API key does not allow this"),
    "unknown-id": (404, "Unknown id"),
    "not-found": (404, "Not found"),
    "method-not-allowed": (405, "Method not allowed"),
    "timeout": (408, "The request took too long to arrive"),
    "cannot-answer": (409, "The model cannot answer this"),
    "idempotency-conflict": (409, "The idempotency key was used for another request"),
    "too-large": (413, "The body is too large"),
    "unsupported-media-type": (415, "The body must be JSON"),
    "bad-host": (421, "The service does not answer to this host name"),
    "invalid-request": (422, "The request is not valid"),
    "config-error": (422, "An option is not valid"),
    "data-error": (422, "A value cannot be used"),
    "rate-limited": (429, "Too many requests"),
    "internal": (500, "The service failed"),
    "store-unavailable": (503, "The feedback store is not available"),
    "overloaded": (503, "The service is busy"),
    "not-ready": (503, "The service is not ready"),
}
"""Name of a kind of problem -> HTTP status and title."""

OF_ERRORS: list[tuple[type[PalateError], str]] = [
    (UnknownId, "unknown-id"),
    (CannotAnswer, "cannot-answer"),
    (TrainingError, "cannot-answer"),
    (DataError, "data-error"),
    (ConfigError, "config-error"),
    (PalateError, "invalid-request"),
]
"""The kind of problem of each error; the first that fits."""


class Problem(Exception):
    """An error of the service itself.

    Args:
        kind: A name in `KINDS`.
        detail: What was given, what was expected and what to do.
        retry_after: Seconds after which the request may succeed; None if it will not.
        faults: Further faults, if there are several.
    """

    def __init__(self, kind: str, detail: str, *, retry_after: float | None = None, faults: Sequence[str] = ()) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.retry_after, self.faults = kind, detail, retry_after, list(faults)[:MAX_FAULTS]

    @property
    def status(self) -> int:
        """The HTTP status."""
        return KINDS[self.kind][0]

    @classmethod
    def of(cls, error: PalateError) -> Problem:
        """The problem that says what an error says."""
        kind = next(name for one, name in OF_ERRORS if isinstance(error, one))
        first, *lines = str(error).split("\n  - ")
        return cls(kind, str(error), faults=lines if first.endswith("faults") else ())

    def document(self, request_id: str) -> dict[str, Any]:
        """The members of the problem document."""
        status, title = KINDS[self.kind]
        found = {
            "type": f"urn:palate:error:{self.kind}",
            "title": title,
            "status": status,
            "detail": self.detail,
            "request_id": request_id,
        }
        return found | ({"faults": self.faults} if self.faults else {})

    def headers(self) -> Mapping[str, str]:
        """Headers that go with the status."""
        found = {}
        if self.retry_after is not None:
            found["Retry-After"] = str(max(1, round(self.retry_after)))
        if self.status == 401:
            found["WWW-Authenticate"] = 'Bearer realm="palate"'
        return found

    def response(self, request_id: str) -> Response:
        """The HTTP response."""
        body = orjson.dumps(self.document(request_id))
        return Response(body, self.status, dict(self.headers()), MEDIA_TYPE)
