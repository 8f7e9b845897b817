"""Real servers in processes of their own: killed, raced, swapped, kept waiting."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from running import ITEMS, Cluster, Connection, Server, postgres, small_data

from palate.errors import ConfigError
from palate.recommender.recommender import Recommender
from palate.serving import metrics
from palate.serving.server import Place, is_loopback, serve
from palate.serving.settings import Settings
from palate.serving.store import read_all

Start = Callable[..., Server]
ENDED = (0, -signal.SIGTERM)
"""Status of a server that ended when it was told to."""


class Stream(threading.Thread):
    """A client that sends feedback with keys, tries again what was not acknowledged, and remembers what was.

    Attributes:
        acknowledged: Pairs of user and item that the service said are stored.
        sent: Requests, repeated ones included.
        refused: Answers other than 200.
    """

    def __init__(self, server: Server, first_user: int, count: int) -> None:
        super().__init__(daemon=True)
        self.server, self.first_user, self.left = server, first_user, count
        self.acknowledged: list[tuple[str, str]] = []
        self.sent, self.refused, self.stop = 0, list[int](), threading.Event()

    def run(self) -> None:
        connection: Connection | None = None
        number = 0
        while number < self.left and not self.stop.is_set():
            user, item = self.first_user + number // ITEMS, 100 + number % ITEMS
            body = {"user_id": user, "item_id": item, "idempotency_key": f"key-{user}-{item}"}
            try:
                connection = connection or self.server.connect(10)
                self.sent += 1
                status, _, answer = connection.ask("POST", "/v1/feedback", body)
            except (OSError, ValueError):
                connection = None
                time.sleep(0.02)
                continue
            if status == 200:
                assert answer["accepted"] == 1
                self.acknowledged.append((str(user), str(item)))
                number += 1
            else:
                self.refused.append(status)
                time.sleep(0.05)


def stored_once(url: str, acknowledged: list[tuple[str, str]]) -> None:
    """Everything that was acknowledged is stored, and nothing twice."""
    table = read_all(url)
    pairs = list(zip(table["user_id"].to_list(), table["item_id"].to_list(), strict=True))
    assert len(pairs) == len(set(pairs))
    assert not set(acknowledged) - set(pairs)


def wait_until(true: Callable[[], Any], seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


def workers_of(server: Server) -> dict[int, Connection]:
    """A connection to each of two workers; a worker that was started again answers once it is ready."""
    found: dict[int, Connection] = {}

    def both() -> bool:
        connection = server.connect()
        pid = connection.ask("GET", "/v1/stats")[2]["worker"]
        if pid in found:
            connection.close()
        found.setdefault(pid, connection)
        return len(found) == 2

    wait_until(both)
    return found


def test_two_workers(server: Start, runs: dict[str, Path], tmp_path: Path) -> None:
    one = server(runs["ease"], "--workers", 2, "--log", "errors")
    first, second = workers_of(one).values()
    for number in range(60):  # What one worker stores, the other one knows.
        user = 1 + number % 50
        writer, reader = (first, second) if number % 2 else (second, first)
        before = reader.ask("POST", "/v1/recommend", {"user_id": user})[2]
        item = before["items"][0]["item_id"]
        assert writer.ask("POST", "/v1/feedback", {"user_id": user, "item_id": item})[0] == 200
        after = reader.ask("POST", "/v1/recommend", {"user_id": user})[2]
        assert item not in [entry["item_id"] for entry in after["items"]]
        assert after["feedback"]["folded_in"] == before["feedback"]["folded_in"] + 1
    text = first.ask("GET", "/metrics")[2].decode()
    counted = 'palate_requests_total{method="POST",route="/v1/recommend",status="200"} 120.0'
    assert counted in text, text
    assert counted in second.ask("GET", "/metrics")[2].decode()

    stream = Stream(one, 1000, 10**6)
    stream.start()
    wait_until(lambda: len(stream.acknowledged) > 50)
    victim = one.children()[0]
    os.kill(victim, signal.SIGKILL)
    before_kill = len(stream.acknowledged)
    wait_until(lambda: len(stream.acknowledged) > before_kill + 50)
    wait_until(lambda: len(one.children()) == 2 and victim not in one.children())
    wait_until(lambda: one.events("worker-died"))
    stream.stop.set()
    stream.join(30)
    assert not stream.refused
    # The numbers of the dead worker stay.
    workers_of(one)
    assert counted in one.connect().ask("GET", "/metrics")[2].decode()
    assert one.stop() in ENDED
    stored_once(f"sqlite:///{tmp_path}/store.db", stream.acknowledged)


def test_metrics_do_without_a_worker_that_was_killed_while_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import prometheus_client  # noqa: F401  # before the variable is set, which decides how this process counts

    monkeypatch.setenv(metrics.FOLDER, str(tmp_path))
    (tmp_path / "counter_1234.db").touch()
    (tmp_path / "histogram_1234.db").write_bytes(bytes(1 << 16))
    assert metrics.Metrics().text() == b""


def test_a_server_that_is_killed_loses_nothing(server: Start, runs: dict[str, Path], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    one = server(runs["ease"], "--log", "off", store=url)
    stream = Stream(one, 1000, 200)
    stream.start()
    wait_until(lambda: len(stream.acknowledged) > 60)
    one.kill()
    stream.stop.set()
    stream.join(30)
    stored_once(url, stream.acknowledged)
    # Started again, it knows everything, and the stream goes on where it was, with the same keys.
    again = server(runs["ease"], "--log", "off", "--body-seconds", 1, store=url)
    user, items = 1000, {int(item) for user, item in stream.acknowledged if user == "1000"}
    listed = again.connect().ask("POST", "/v1/recommend", {"user_id": user, "k": 40, "unknown": "popularity"})[2]
    assert not items & {entry["item_id"] for entry in listed["items"]}
    more = Stream(again, 1000, 200)
    more.start()
    more.join(300)
    assert len(more.acknowledged) == 200
    stored_once(url, stream.acknowledged + more.acknowledged)
    assert read_all(url).height == 200
    slow_clients_and_many_connections(again)
    assert again.stop() in ENDED


def slow_clients_and_many_connections(server: Server) -> None:
    """A body that does not come gets 408; a thousand idle connections keep nobody from an answer."""
    slow = socket.create_connection(("127.0.0.1", server.port), 20)
    head = f"POST /v1/recommend HTTP/1.1\r\nHost: localhost:{server.port}\r\nContent-Type: application/json\r\n"
    slow.sendall(head.encode() + b'Content-Length: 100\r\n\r\n{"user')
    crowd = []
    for _ in range(1000):
        one = socket.create_connection(("127.0.0.1", server.port), 20)
        one.sendall(b"GET /v1/recommend/1 HTTP/1.1\r\nHost: ")
        crowd.append(one)
    asked = server.connect()
    for user in range(1, 21):
        assert asked.ask("POST", "/v1/recommend", {"user_id": user})[0] == 200
    assert b" 408 " in slow.recv(1000).split(b"\r\n")[0]
    wait_until(lambda: crowd[0].recv(10) == b"", 30)  # Heads that never end are not waited for.
    large = socket.create_connection(("127.0.0.1", server.port), 20)
    with suppress(OSError):
        large.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 10_000_000)
    answer = b""
    with suppress(OSError):
        answer = large.recv(100)
    assert not answer or b" 400 " in answer.split(b"\r\n")[0]
    for one in [slow, large, *crowd]:
        one.close()
    assert server.connect().ask("GET", "/healthz/ready")[0] == 200


@pytest.fixture
def own_postgres() -> Any:
    """A PostgreSQL server of one test, which kills it."""
    with postgres() as cluster:
        yield cluster


def test_a_database_that_is_killed_loses_nothing(server: Start, runs: dict[str, Path], own_postgres: Cluster) -> None:
    one = server(runs["ease"], "--log", "off", store=own_postgres.url)
    stream = Stream(one, 1000, 10**6)
    stream.start()
    wait_until(lambda: len(stream.acknowledged) > 60)
    own_postgres.kill()
    wait_until(lambda: stream.refused)
    asked = one.connect()
    status, headers, problem = asked.ask("POST", "/v1/recommend", {"user_id": 1})
    assert (status, problem["type"]) == (503, "urn:palate:error:store-unavailable")
    assert int(headers["retry-after"]) >= 1
    assert asked.ask("GET", "/healthz/ready")[0] == 503
    assert asked.ask("GET", "/healthz/live")[0] == 200
    own_postgres.start()
    before = len(stream.acknowledged)
    wait_until(lambda: len(stream.acknowledged) > before + 60)
    stream.stop.set()
    stream.join(30)
    assert set(stream.refused) == {503}
    assert one.connect().ask("POST", "/v1/recommend", {"user_id": 1})[0] == 200
    assert one.stop() in ENDED
    stored_once(own_postgres.url, stream.acknowledged)


def test_runs_are_swapped_without_a_failed_request(server: Start, runs: dict[str, Path], tmp_path: Path) -> None:
    watched = tmp_path / "run"
    shutil.copytree(runs["ease"], watched)
    one = server(watched, "--watch", watched, "--log", "errors")
    stop = threading.Event()
    statuses: list[int] = []
    seen: set[str] = set()

    def load() -> None:
        connection, user = one.connect(), 0
        while not stop.is_set():
            user = user % 50 + 1
            status, _, answer = connection.ask("POST", "/v1/recommend", {"user_id": user})
            statuses.append(status)
            seen.add(answer.get("model_id", ""))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(4):
        Recommender.train(small_data(), "ease", {"reg": 10.0 + number}).save(watched)
        wait_until(lambda number=number: len(one.events("swap")) == number + 1)
    (watched / "weights.safetensors").write_bytes(b"broken")
    os.utime(watched / "recommender.json")
    wait_until(lambda: one.events("swap-refused"))
    done = len(statuses)
    wait_until(lambda: len(statuses) > done + 20)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert set(statuses) == {200}
    assert len(seen) >= 4
    assert one.stop() in ENDED


def test_places_that_cannot_be_used(runs: dict[str, Path], tmp_path: Path) -> None:
    settings = Settings(store=f"sqlite:///{tmp_path}/s.db")
    with pytest.raises(ConfigError, match=r"palate keys add NAME .*--allow-anonymous"):
        serve([runs["ease"]], Place(host="0.0.0.0"), settings)
    with pytest.raises(ConfigError, match="palate serve RUN"):
        serve([], Place(), settings)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="cannot be used"):
            serve([runs["ease"]], Place(port=taken.getsockname()[1]), settings)
    with pytest.raises(ConfigError, match="port = 70000"):
        Place(port=70000)
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "example.com")] == [True] * 3 + [
        False
    ] * 2
