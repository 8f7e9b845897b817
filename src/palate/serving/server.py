"""serve(): the processes of the service: one, or several workers that share a port, a store and their metrics."""

from __future__ import annotations

import ipaddress
import json
import logging
import multiprocessing
import os
import socket
import sys
import time
from asyncio import TimerHandle, Transport
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn._subprocess import subprocess_started
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from palate.config import from_dict, to_dict
from palate.errors import ConfigError, PalateError, quoted
from palate.recommender.artifact_files import read_card
from palate.serving import metrics
from palate.serving.app import create_app, store_beside
from palate.serving.database import shown
from palate.serving.guard import LOOPBACK_NAMES, rate_limit
from palate.serving.keys import read_keys
from palate.serving.logs import log
from palate.serving.routes_status import WORKERS
from palate.serving.settings import Place, Settings
from palate.serving.store import Store
from palate.serving.watch import newest_run

HEADER_SECONDS, MAX_HEADER_BYTES = 10.0, 1 << 16
"""How long a client may take to send the head of a request, and how large it may be."""
MAX_CONNECTIONS = 2000
"""Open connections of a worker; further ones are closed at once."""
GRACE_SECONDS = 10
"""How long requests in progress may take when the service stops."""
RATE_LIMIT = "100/second"
"""The rate limit of a service that others can reach, unless one is set."""
READY_SECONDS = 120.0
RESTART_SECONDS = 1.0
"""Least time between the starts of a worker."""
_ARGUMENTS = "PALATE_SERVE"
"""Environment variable that tells workers what to serve."""


def serve(runs: Sequence[Path], place: Place, settings: Settings, watch: Path | None = None) -> None:
    """Serve runs until the process receives a signal to stop.

    Args:
        runs: Folders of runs, the default one first; may be empty if `watch` holds a run.
        place: Where to listen.
        settings: Settings of the application.
        watch: As in `palate.serving.app.create_app`.

    Raises:
        ConfigError: The address cannot be used, or is open to others without keys.
        ArtifactError: A run cannot be loaded.
    """
    runs = list(runs)
    if not runs:
        newest = None if watch is None else newest_run(watch)
        if newest is None:
            where = "" if watch is None else f", and {watch} holds none yet"
            raise ConfigError(f"name the folder of a run to serve: palate serve RUN{where}")
        runs = [newest]
    settings = _checked(runs, place, settings)
    _raise_file_limit()
    listening = _listen(place)
    port = listening.getsockname()[1]
    host = f"[{place.host}]" if ":" in place.host else place.host
    said = f"serving {', '.join(map(str, runs))} on http://{host}:{port}/ (Ctrl-C stops it)"
    os.environ[WORKERS] = str(place.workers)
    _log_as_json()
    if place.workers == 1:
        app = create_app(runs, settings, watch=watch)
        _Server(_config(app, place), said).run([listening])
        return
    for run in runs:
        read_card(run)
    arguments: dict[str, object] = {"runs": [str(run) for run in runs], "settings": to_dict(settings)}
    arguments["watch"] = None if watch is None else str(watch)
    os.environ[_ARGUMENTS] = json.dumps(arguments)
    folder = metrics.shared_folder()
    try:
        workers = Workers(_config("palate.serving.server:application", place), [listening], said)
        workers.run()
    finally:
        metrics.remove_folder(folder)
    if workers.failed:
        raise ConfigError("no worker could start; the lines above say why")


def _checked(runs: Sequence[Path], place: Place, settings: Settings) -> Settings:
    """Settings with a store, and with limits and host names that suit the address."""
    settings = replace(settings, store=settings.store or store_beside(runs[0]))
    if settings.rate_limit is not None:
        rate_limit(settings.rate_limit)
    store = Store(str(settings.store))
    try:
        keys = read_keys(store.reader)
        name = shown(store.engine)
    finally:
        store.close()
    if is_loopback(place.host):
        if not settings.allowed_hosts:
            settings = replace(settings, allowed_hosts=LOOPBACK_NAMES)
        return settings
    if not keys and not place.allow_anonymous:
        raise ConfigError(
            f"host = {quoted(place.host)} can be reached by others, and the store {name} has no API keys; "
            f"make one with palate keys add NAME --store {name}, or let everybody in with --allow-anonymous"
        )
    return settings if settings.rate_limit is not None else replace(settings, rate_limit=RATE_LIMIT)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(place: Place) -> socket.socket:
    """A socket that is bound; it listens once a worker is ready."""
    found = None
    try:
        [family, *_, address], *_ = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
        found = socket.socket(family)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        if found is not None:
            found.close()
        raise ConfigError(
            f"host = {quoted(place.host)}, port = {place.port} cannot be used: {error.strerror or error}; choose "
            "another port, or 0 for any free one"
        ) from error
    found.set_inheritable(True)
    return found


def _raise_file_limit() -> None:
    """Let the process open as many files, and so connections, as the system allows it."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else 1 << 16
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, 1 << 16), hard))


def _config(app: Any, place: Place) -> uvicorn.Config:
    return uvicorn.Config(
        app, factory=isinstance(app, str), workers=place.workers, http=BoundedProtocol, ws="none", lifespan="on",
        log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=GRACE_SECONDS,
        proxy_headers=bool(place.proxies), forwarded_allow_ips=list(place.proxies), timeout_worker_healthcheck=30,
        backlog=2048,
    )  # fmt: skip


def application() -> Any:
    """The application of a worker, from what `serve` left in the environment."""
    _log_as_json()
    given = json.loads(os.environ[_ARGUMENTS])
    try:
        return create_app(given["runs"], from_dict(Settings, given["settings"]), watch=given["watch"])
    except PalateError as error:
        log("start-failed", reason=str(error))
        sys.exit(STARTUP_FAILURE)


class BoundedProtocol(HttpToolsProtocol):
    """HTTP as uvicorn speaks it, with limits on time and size of the head of a request, and on connections."""

    _timer: TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._timer is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        # After the parser: a body may follow the head in the same data.
        if self._timer is not None and self._head_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request is too large.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._timer is None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        self._stop_timer()
        # Counted again: a head that came at once passed the parser before `data_received` looked at its size.
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEADER_BYTES:
            raise ValueError("the head of the request is too large")  # The parser's error, which is answered by 400.
        super().on_headers_complete()

    def _expect_head(self) -> None:
        self._head_bytes = 0
        self._timer = self.loop.call_later(HEADER_SECONDS, self._too_slow)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        self.transport.close()


class _Server(uvicorn.Server):
    """A server that says when it is ready."""

    def __init__(self, config: uvicorn.Config, said: str) -> None:
        super().__init__(config)
        self.said = said

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(self.said, flush=True)


class ForkedProcess(Process):
    """A worker that is a copy of this process: it starts at once, and shares the memory of what is imported.

    This process has one thread and has loaded no data, so that a copy of it is whole.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        given = {"config": config, "target": self.target, "sockets": sockets, "stdin_fileno": None}
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=subprocess_started, kwargs=given)  # type: ignore[assignment]


class Workers(Multiprocess):
    """Several workers; one that dies is started again, and its numbers stay in the metrics.

    Attributes:
        failed: Whether the service ended because no worker could start.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket], said: str) -> None:
        super().__init__(config, sockets)
        self.said, self.failed = said, False
        self._been_ready = False
        self._started_at: dict[int, float] = {}

    def init_processes(self) -> None:
        """Start all workers, and say when they are ready."""
        for _ in range(self.processes_num):
            process = ForkedProcess(self.config, self.sockets)
            process.start()
            self.processes.append(process)
        until = time.monotonic() + READY_SECONDS
        while time.monotonic() < until and not self.should_exit.is_set():
            self.handle_signals()
            if any(process.exitcode is not None for process in self.processes):
                self.failed = True
                self.should_exit.set()
                return
            if all(process.is_ready(timeout=1) for process in self.processes):
                self._been_ready = True
                print(self.said, flush=True)
                return
            time.sleep(0.05)

    def keep_subprocess_alive(self) -> None:
        """Start workers that died again."""
        from prometheus_client import multiprocess

        for place, process in enumerate(self.processes):
            if self.should_exit.is_set() or process.is_alive(timeout=self.config.timeout_worker_healthcheck):
                continue
            # A run that cannot be loaded any more must not keep a processor busy; the other workers have it in memory.
            if time.monotonic() < self._started_at.get(place, 0.0) + RESTART_SECONDS:
                continue
            process.kill()
            process.join()
            pid = process.pid
            log("worker-died", pid=pid, exit=process.exitcode)
            multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]
            new = ForkedProcess(self.config, self.sockets)
            new.start()
            self.processes[place], self._started_at[place] = new, time.monotonic()


class _JsonHandler(logging.Handler):
    """Lines of other libraries as JSON."""

    def emit(self, record: logging.LogRecord) -> None:
        log("message", logger=record.name, level=record.levelname.lower(), text=record.getMessage()[:2000])


def _log_as_json() -> None:
    """Let uvicorn's warnings be JSON, too."""
    for name in ("uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [_JsonHandler()], False
        logger.setLevel(logging.WARNING)
