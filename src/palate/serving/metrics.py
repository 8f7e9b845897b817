"""Numbers for Prometheus, right with several workers, and a short summary for the page."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable with the folder where workers leave their numbers."""
BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
RECENT = 2000
"""Requests that the latency on the page is measured over."""


def shared_folder() -> Path:
    """A new, empty folder for the numbers of several workers; set before they start.

    Numbers that earlier workers left would be added to those of these workers.
    """
    folder = Path(tempfile.mkdtemp(prefix="palate-metrics-"))
    os.environ[FOLDER] = str(folder)
    return folder


def remove_folder(folder: Path) -> None:
    """Remove the folder of `shared_folder`."""
    os.environ.pop(FOLDER, None)
    shutil.rmtree(folder, ignore_errors=True)


class _AllWorkers:
    """Adds up the files of all workers, but for the empty ones of a worker that starts or was killed while it did."""

    def collect(self) -> Iterable[Any]:
        """Their metrics."""
        from prometheus_client.multiprocess import MultiProcessCollector

        files = []
        for path in Path(os.environ[FOLDER]).glob("*.db"):
            with suppress(FileNotFoundError):  # that of a dead worker
                files += [str(path)] if path.stat().st_size else []
        merged: Iterable[Any] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        return merged


class Metrics:
    """The numbers of one application."""

    def __init__(self) -> None:
        # Not with the module: the library looks for the folder of several workers when it is imported.
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.shared = FOLDER in os.environ
        self.registry = CollectorRegistry()
        # With several workers a registry that has a collector of its own must hold none of these.
        own = None if self.shared else self.registry
        options: dict[str, Any] = {"registry": own}
        self.requests = Counter("palate_requests", "Requests answered.", ["route", "method", "status"], **options)
        self.seconds = Histogram("palate_request_seconds", "Time to answer.", ["route"], buckets=BUCKETS, **options)
        self.lists = Counter("palate_lists", "Lists by who answered.", ["model", "route"], **options)
        self.cache = Counter("palate_cache", "Answers taken from the cache.", ["result"], **options)
        self.feedback = Counter("palate_feedback", "Feedback acknowledged.", ["type", "result"], **options)
        self.store_errors = Counter("palate_store_errors", "Requests that the store failed.", **options)
        self.swaps = Counter("palate_swaps", "Runs swapped in while serving.", ["result"], **options)
        modes: dict[str, Any] = {"multiprocess_mode": "livesum"} if self.shared else {}
        self.waiting = Gauge("palate_waiting", "Answers that wait for a thread.", **modes, **options)
        newest: dict[str, Any] = {"multiprocess_mode": "livemostrecent"} if self.shared else {}
        self.saved = Gauge("palate_model_saved_seconds", "When the run was saved.", ["model"], **newest, **options)
        if self.shared:
            self.registry.register(_AllWorkers())
        self._children: dict[tuple[str, str, int], tuple[Any, Any]] = {}
        self.started = time.monotonic()
        self.recent: deque[float] = deque(maxlen=RECENT)
        self.total = self.errors = self.hits = self.misses = 0
        self.listed: Tally[Any] = Tally()

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one request."""
        key = (route, method, status)
        found = self._children.get(key)
        if found is None:
            found = self.requests.labels(route, method, str(status)), self.seconds.labels(route)
            self._children[key] = found
        found[0].inc()
        found[1].observe(seconds)
        self.recent.append(seconds)
        self.total += 1
        self.errors += status >= 500

    def hit(self, found: bool) -> None:
        """Count a question to the cache."""
        self.hits, self.misses = self.hits + found, self.misses + (not found)
        self.cache.labels("hit" if found else "miss").inc()

    def text(self) -> bytes:
        """All numbers of all workers, as Prometheus reads them."""
        from prometheus_client import generate_latest

        return bytes(generate_latest(self.registry))

    def summary(self) -> dict[str, Any]:
        """Requests and latency of this worker."""
        recent = np.array(self.recent or [0.0]) * 1000
        asked = self.hits + self.misses
        return {
            "uptime_s": round(time.monotonic() - self.started, 1),
            "requests": self.total,
            "errors": self.errors,
            "latency_ms": {
                "p50": round(float(np.quantile(recent, 0.5)), 2),
                "p95": round(float(np.quantile(recent, 0.95)), 2),
                "p99": round(float(np.quantile(recent, 0.99)), 2),
                "count": len(self.recent),
            },
            "cache_hit_rate": round(self.hits / asked, 4) if asked else None,
        }
