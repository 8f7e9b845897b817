"""Structured logs: one JSON object a line on standard error, without personal data beyond ids.

No line holds a body, a query string, a header, an address of a client or a traceback but that of an unexpected error.
"""

from __future__ import annotations

import sys
import time
import traceback
from typing import Any

import orjson

_out = sys.stderr.buffer


def log(event: str, **members: Any) -> None:
    """Write one line.

    Args:
        event: What happened.
        members: About it; JSON-able.
    """
    line = orjson.dumps({"time": timestamp(), "event": event, **members}, default=str, option=orjson.OPT_APPEND_NEWLINE)
    try:
        _out.write(line)
        _out.flush()
    except (OSError, ValueError):  # Nobody reads any more; that must not fail a request.
        pass


def log_failure(event: str, error: BaseException, **members: Any) -> None:
    """Write one line about an unexpected error, with its traceback."""
    log(event, error=type(error).__name__, traceback="".join(traceback.format_exception(error))[-8000:], **members)


def timestamp(seconds: float | None = None) -> str:
    """A time as ISO 8601 UTC with milliseconds; defaults to now."""
    seconds = time.time() if seconds is None else seconds
    whole = int(seconds)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int((seconds - whole) * 1000):03d}Z"
