"""Kill -9 during a stream of feedback, lists right after feedback, runs swapped under load: what is lost, late, failed.

    python benchmarks/serving_faults.py [--kills 10] [--seconds 60] [--rate 200] [--lists 1000] [--swaps 100]
        [--only sqlite-server postgresql-lists ...]

Every part runs a real `palate serve` with two workers on loopback; SQLite and a real PostgreSQL of its own. A
client that gets no acknowledgement sends the same entry with the same idempotency key again, as clients should.

- worker, server, database: `rate` entries a second for `seconds`; in the middle a worker, all processes of the service,
  or PostgreSQL are killed with SIGKILL (and started again). Afterwards the store is compared with the acknowledgements.
- nothing: the same stream without a kill.
- lists: one worker acknowledges feedback, the other one is asked for a list at once.
- swaps: a run is replaced while three clients ask for lists.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common import RESULTS, ROOT, write_result

sys.path.insert(0, str(ROOT / "tests" / "serving"))
from running import ITEMS, Cluster, Connection, Server, postgres, small_data

from palate.recommender.recommender import Recommender
from palate.serving.store import read_all

CLIENTS = 8
KINDS = ("worker", "server", "database", "nothing")
PARTS = (
    "sqlite-nothing", "sqlite-worker", "sqlite-server", "sqlite-lists", "sqlite-swaps", "postgresql-nothing",
    "postgresql-worker", "postgresql-server", "postgresql-database", "postgresql-lists",
)  # fmt: skip
RESULT = RESULTS / "serving_faults.md"


class Client(threading.Thread):
    """Sends entries at a steady rate until `stop` is set; resends each entry until it is acknowledged."""

    def __init__(self, port: Callable[[], int], first_user: int, every: float, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.port, self.first_user, self.every, self.stop = port, first_user, every, stop
        self.acknowledged: list[tuple[str, str]] = []
        self.repeated = 0

    def run(self) -> None:
        connection: Connection | None = None
        number, due = 0, time.monotonic()
        while not self.stop.is_set():
            user, item = self.first_user + number // ITEMS, 100 + number % ITEMS
            body = {"user_id": user, "item_id": item, "idempotency_key": f"{user}-{item}"}
            status = 0
            try:
                connection = connection or Connection(self.port(), 10)
                status = connection.ask("POST", "/v1/feedback", body)[0]
            except (OSError, ValueError):
                connection = None
            if status != 200:
                self.repeated += 1
                time.sleep(0.1)
                continue
            self.acknowledged.append((str(user), str(item)))
            number, due = number + 1, due + self.every
            time.sleep(max(0.0, due - time.monotonic()))


def killed(kind: str, url: str, run: Path, home: Path, cluster: Cluster, options: Any) -> dict[str, float]:
    """One service, and a stream with a kill in its middle as often as asked; the store is compared at the end."""
    rng = random.Random(kind + url.partition(":")[0])

    def start() -> Server:
        log = home / f"{kind}-{len(servers)}.log"
        return Server(log, run, "--workers", 2, "--log", "off", store=url).wait()

    servers: list[Server] = []
    servers.append(start())
    first = 1_000_000 * (1 + KINDS.index(kind))  # users that no other stream has
    clients: list[Client] = []
    before, undisturbed = 0, 0.0
    for round_ in range(options.kills):
        stop = threading.Event()
        users = [first + 10_000 * round_ + 1000 * n for n in range(CLIENTS)]
        own = [Client(lambda: servers[-1].port, user, CLIENTS / options.rate, stop) for user in users]
        began = time.monotonic()
        for client in own:
            client.start()
        time.sleep(options.seconds * rng.uniform(0.3, 0.7))
        before += sum(len(client.acknowledged) for client in own)
        undisturbed += time.monotonic() - began
        if kind == "worker":
            os.kill(rng.choice(servers[-1].children()), signal.SIGKILL)
        elif kind == "server":
            servers[-1].kill()
            servers.append(start())
        elif kind == "database":
            cluster.kill()
            cluster.start()
        # The stream goes on for a while after the service is back.
        time.sleep(max(0.1 * options.seconds, began + options.seconds - time.monotonic()))
        stop.set()
        for client in own:
            client.join(60)
        clients += own
    servers[-1].stop()
    table = read_all(url)
    pairs = list(zip(table["user_id"].to_list(), table["item_id"].to_list(), strict=True))
    acknowledged = {pair for client in clients for pair in client.acknowledged}
    return {
        "rate": before / undisturbed,
        "acknowledged": len(acknowledged),
        "repeated": sum(client.repeated for client in clients),
        "lost": len(acknowledged - set(pairs)),
        "twice": len(pairs) - len(set(pairs)),
    }


def lists_after_feedback(run: Path, url: str, home: Path, count: int) -> int:
    """Of `count` lists from one worker, asked for right after another one acknowledged feedback: how many lack it."""
    server = Server(home / "lists.log", run, "--workers", 2, "--log", "off", store=url).wait()
    workers: dict[int, Connection] = {}
    while len(workers) < 2:
        connection = server.connect()
        workers.setdefault(connection.ask("GET", "/v1/stats")[2]["worker"], connection)
    one, other = workers.values()
    stale = 0
    for number in range(count):
        writer, reader = (one, other) if number % 2 else (other, one)
        user = 1_000_000 + number
        reader.ask("POST", "/v1/recommend", {"user_id": user, "unknown": "popularity"})  # fills the reader's cache
        item = 100 + number % ITEMS
        assert writer.ask("POST", "/v1/feedback", {"user_id": user, "item_id": item})[0] == 200
        answer = reader.ask("POST", "/v1/recommend", {"user_id": user, "k": ITEMS})[2]
        listed = [entry["item_id"] for entry in answer["items"]]
        stale += item in listed or answer["feedback"]["folded_in"] != 1
    server.stop()
    return stale


def swapped(run: Path, url: str, home: Path, count: int) -> tuple[int, int]:
    """Requests and failed ones while a run is replaced `count` times."""
    server = Server(home / "swaps.log", run, "--watch", run, "--log", "errors", store=url).wait()
    stop, statuses = threading.Event(), list[int]()

    def load() -> None:
        connection, user = server.connect(), 0
        while not stop.is_set():
            user = user % 50 + 1
            try:
                statuses.append(connection.ask("POST", "/v1/recommend", {"user_id": user})[0])
            except (OSError, ValueError):
                statuses.append(0)
                connection = server.connect()

    threads = [threading.Thread(target=load, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(count):
        Recommender.train(small_data(), "ease", {"reg": 10.0 + number}).save(run)
        until = time.monotonic() + 120
        while len(server.events("swap")) <= number and time.monotonic() < until:
            time.sleep(0.05)
        assert len(server.events("swap")) == number + 1
    stop.set()
    for thread in threads:
        thread.join(30)
    server.stop()
    return len(statuses), sum(status != 200 for status in statuses)


def measured(part: str, url: str, run: Path, home: Path, cluster: Cluster, options: Any) -> tuple[str, ...]:
    """The row of a part."""
    began = time.monotonic()
    if part in KINDS:
        found = killed(part, url, run, home, cluster, options)
        counts = (f"{found[key]:,}" for key in ("acknowledged", "repeated", "lost", "twice"))
        what = "steady stream" if part == "nothing" else f"kill -9 of {part}"
        return (what, f"{options.kills}", f"{options.seconds:g}", f"{found['rate']:.0f}", *counts)
    if part == "lists":
        stale = lists_after_feedback(run, url, home, options.lists)
        seconds = time.monotonic() - began
        return ("list right after feedback", f"{options.lists:,}", f"{seconds:.0f}", "", "", "", str(stale), "")
    requests, failed = swapped(run, url, home, options.swaps)
    seconds = time.monotonic() - began
    return ("run swapped", f"{options.swaps}", f"{seconds:.0f}", "", f"{requests:,} lists", "", str(failed), "")


def kept() -> dict[tuple[str, str], tuple[str, ...]]:
    """Rows that were measured before."""
    if not RESULT.is_file():
        return {}
    rows = [line.strip("| ").split(" | ") for line in RESULT.read_text().splitlines() if line.startswith("| ")][1:]
    return {(row[0], row[1]): tuple(row) for row in rows}


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("kills", 10), ("rate", 200), ("lists", 1000), ("swaps", 100)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    rows = kept()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        run = home / "run"
        Recommender.train(small_data(), "ease").save(run)
        cluster = stack.enter_context(postgres())
        for name in options.only:
            store, part = name.split("-")
            url = cluster.url if store == "postgresql" else f"sqlite:///{home}/{part}.db"
            what, *numbers = measured(part, url, run, home, cluster, options)
            rows[store, what] = (store, what, *numbers, f"{os.getloadavg()[0]:.1f}")
            print(rows[store, what], flush=True)
    about = [
        f"Two workers on loopback, {CLIENTS} clients, made-up data, EASE; PostgreSQL 15. Parts that this command did "
        "not measure (`--only`) are of an earlier one.",
        "kill: entries at a steady rate, a kill in the middle, each entry sent until it is acknowledged; lost: "
        "acknowledged and not stored; twice: stored more than once; a second: acknowledged before the kill.",
        "list right after feedback: asked of the other worker at once; lost or failed: it does not reflect it.",
        "run swapped: under the load of three clients; failed: any answer but 200.",
        f"steady stream: as kill, without one. {options.rate} entries a second are sent; fewer are acknowledged where "
        "the machine is too busy.",
        "load: of the machine during the last minute, all its other work included; it has 2 cores.",
    ]
    header = ("store", "what", "times", "seconds", "a second", "acknowledged", "sent again", "lost or failed", "twice")
    title = "Feedback, freshness and hot swap under faults"
    write_result("serving_faults", title, about, (*header, "load"), list(rows.values()))


if __name__ == "__main__":
    main()
