"""Processes that tests of the service start, and the small data that they serve."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from palate.data.dataset import Dataset

USERS, ITEMS = 60, 40
GENRES = ("Drama", "Comedy", "Action")


def small_data() -> Dataset:
    """60 users with two tastes, 40 items with titles, genres and years, ratings and times."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(1, USERS + 1):
        taste = user % 2
        liked = rng.permutation(ITEMS)[:14]
        rows += [
            (user, 100 + int(item), float(3 + (item % 2 == taste) * 2 - rng.integers(0, 2)), 1_000_000 + 60 * n)
            for n, item in enumerate(liked)
            if item % 2 == taste or rng.random() < 0.3
        ]
    ratings = pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")
    items = pl.DataFrame(
        {
            "item_id": [100 + i for i in range(ITEMS)],
            "title": [f"Amélie {i}" if i == 7 else f"Film {i} <b>&" for i in range(ITEMS)],
            "genres": ["|".join({GENRES[i % 2], GENRES[i % 3]}) for i in range(ITEMS)],
            "year": [1960 + i for i in range(ITEMS)],
        }
    )
    users = pl.DataFrame({"user_id": range(1, USERS + 1), "age": [20 + u % 40 for u in range(1, USERS + 1)]})
    return Dataset.from_frame(ratings, items, users, rating_scale=(1.0, 5.0))


class Server:
    """`palate serve` in a process group of its own.

    Args:
        log: Where its output goes.
        words: Of the command after `palate serve`.
        store: The store, as a database URL.
    """

    def __init__(self, log: Path, *words: object, store: str) -> None:
        self.log = log
        self.connections: list[Connection] = []
        command = [sys.executable, "-m", "palate", "serve", *map(str, words), "--port", "0", "--store", store]
        with log.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        self.port = 0

    def wait(self, seconds: float = 240) -> Server:
        """Wait until it is ready."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.process.poll() is None:
            if found := re.search(r"http://[^/]*:(\d+)/", self.text):
                self.port = int(found[1])
                return self
            time.sleep(0.05)
        raise AssertionError(f"not ready: {self.text[-3000:]}")

    @property
    def text(self) -> str:
        """Its output so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of its log about one kind of event."""
        lines = [json.loads(line) for line in self.text.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def children(self) -> list[int]:
        """Process ids of its workers."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with suppress(OSError):
                    stat = (entry / "stat").read_text().rpartition(")")[2].split()
                    if int(stat[1]) == self.process.pid and stat[0] != "Z":
                        found.append(int(entry.name))
        return found

    def kill(self) -> None:
        """Kill it and all of its workers, without warning."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        while self.connections:
            self.connections.pop().close()

    def stop(self) -> int:
        """End it; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
        self.kill()
        return self.process.returncode

    def connect(self, timeout: float = 30) -> Connection:
        """A new connection, kept alive between requests."""
        self.connections.append(Connection(self.port, timeout))
        return self.connections[-1]


class Connection:
    """One HTTP connection; small, so that what is measured is the server."""

    def __init__(self, port: int, timeout: float = 30) -> None:
        self.port = port
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.stream = self.socket.makefile("rb")

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], Any]:
        """Status, headers and content of an answer."""
        content = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: localhost:{self.port}", f"Content-Length: {len(content)}"]
        lines += ["Content-Type: application/json"] if body is not None else []
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode() + content)
        first = self.stream.readline()
        if not first:
            raise ConnectionResetError("closed")
        found: dict[str, str] = {}
        while (line := self.stream.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().partition(":")
            found[name.lower()] = value.strip()
        payload = self.stream.read(int(found.get("content-length", 0)))
        kind = found.get("content-type", "")
        return int(first.split()[1]), found, json.loads(payload) if "json" in kind else payload

    def close(self) -> None:
        """Close it."""
        self.stream.close()
        self.socket.close()


class Cluster:
    """A PostgreSQL server in a folder.

    Args:
        home: The folder.
        user: The user of the system that runs it; PostgreSQL refuses to run as root.
        bin: Where its programs are.
    """

    def __init__(self, home: Path, user: str | None, bin: Path) -> None:
        self.home, self.user, self.bin = home, user, bin
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"postgresql://palate@127.0.0.1:{self.port}/postgres"

    def run(self, *words: object) -> None:
        """Run one of its programs as its user."""
        command = [str(self.bin / str(words[0])), *map(str, words[1:])]
        if self.user is not None:
            command = ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups", *command]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/tmp")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-p {self.port} -k {self.home} -c listen_addresses=127.0.0.1 -c max_connections=100"
        until = time.monotonic() + 120
        while True:  # What a killed server left behind may keep its memory and its port for a moment.
            try:
                self.run(
                    "pg_ctl", "-D", self.home / "data", "-l", self.home / "log", "-w", "-t", 120, "-o", options, "start"
                )
                return
            except subprocess.CalledProcessError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.5)

    def kill(self) -> None:
        """Kill the server and all that it started, without warning."""
        pid = int((self.home / "data/postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for one in [pid, *map(int, children)]:
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        until = time.monotonic() + 10
        while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
            time.sleep(0.02)

    def stop(self) -> None:
        """End it."""
        with suppress(subprocess.CalledProcessError):
            self.run("pg_ctl", "-D", self.home / "data", "-m", "immediate", "stop")


@contextmanager
def postgres() -> Iterator[Cluster]:
    """A new PostgreSQL server; skips where there is none, or no user that may run it.

    Its folder is not one of pytest's, which nobody but their owner may enter.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    path = found[-1] if found else Path(shutil.which("initdb") or "")
    if not path.is_file() or not (path.parent / "pg_ctl").is_file():
        pytest.skip("PostgreSQL is not installed: no initdb and pg_ctl")
    user = None
    if os.geteuid() == 0:
        names = [name for name in ("postgres", "nobody") if any(one.pw_name == name for one in pwd.getpwall())]
        if not names or shutil.which("setpriv") is None:
            pytest.skip("PostgreSQL does not run as root, and there is no other user to run it as")
        user = names[0]
    with tempfile.TemporaryDirectory(prefix="palate-postgres-") as folder:
        home = Path(folder)
        if user is not None:
            os.chown(home, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        cluster = Cluster(home, user, path.parent)
        cluster.run("initdb", "-D", home / "data", "-U", "palate", "-A", "trust", "--no-locale", "-E", "UTF8")
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()
