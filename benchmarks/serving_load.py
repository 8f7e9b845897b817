"""Load on the service: requests per second, latency, CPU per request, beside a bare FastAPI endpoint and Cornac's.

    python benchmarks/serving_load.py [--seconds 60 --runs FOLDER --cornac PYTHON]

MovieLens-1M, one worker, loopback, `wrk` in a process of its own: lists of 10 items for random known users (POST
/v1/recommend), by 8 connections and by one. Then lists of random known users with three newer items each, which are
folded in, by one connection, for five models. CPU per request is user and system time of the server's process from
`/proc`, divided by the requests answered.

Bars (on a free core): 1,500 requests/s, p50 <= 5 ms, p99 <= 20 ms with 8 connections; p50 <= 0.6 ms with one; CPU
<= 0.7 ms a request. With newer items: p50 <= 8 ms.

`--runs` is a folder with runs named ease, ials, mf, multvae and neumf; what is missing is trained there. `--cornac` is
a Python with Cornac and Flask installed; its server gets the same users.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import real_data, write_result

from palate.data.dataset import Dataset
from palate.recommender.recommender import Recommender

MODELS = ("ease", "ials", "mf", "multvae", "neumf")
WRK = """
local users, items = {%s}, {%s}
math.randomseed(1)
request = function()
  local user = users[math.random(#users)]
  %s
end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('RESULT {"requests": %%d, "seconds": %%f, "p50": %%f, "p99": %%f, "errors": %%d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""
POST = """return wrk.format("POST", "/v1/recommend", {["Content-Type"] = "application/json"}, %s)"""
KNOWN = POST % """'{"user_id": ' .. user .. ', "k": 10}'"""
FRESH = (
    POST
    % """string.format('{"user_id": %%s, "k": 10, "history": [%%s, %%s, %%s]}', user,
    items[math.random(#items)], items[math.random(#items)], items[math.random(#items)])"""
)
CORNAC_GET = """return wrk.format("GET", "/recommend?k=10&remove_seen=true&uid=" .. user)"""

BARE = """
import orjson, uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel

class Asked(BaseModel):
    user_id: int
    k: int = 10

class Listed(BaseModel):
    items: list[dict]

app = FastAPI()
items = [{"item_id": i, "title": f"Film {i} (1999)", "score": 1 / (i + 1), "rank": i + 1} for i in range(10)]

@app.post("/v1/recommend", response_model=Listed)
async def recommend(asked: Asked) -> Response:
    return Response(orjson.dumps({"items": items, "user_id": asked.user_id}), media_type="application/json")

@app.get("/ready")
async def ready() -> dict:
    return {}

uvicorn.run(app, port=PORT, access_log=False, log_level="warning")
"""
CORNAC = """
import csv, sys
from cornac.data import Dataset
from cornac.models import MF
_, *rows = csv.reader(open(sys.argv[1]))
data = Dataset.from_uir([(user, item, float(rating)) for user, item, rating in rows])
print(MF(k=64, max_iter=1, seed=1).fit(data).save(sys.argv[2], save_trainset=True))
"""


def runs_in(folder: Path) -> dict[str, Path]:
    """Folders of runs on MovieLens-1M, trained if they are not there: quality does not matter here."""
    missing = [name for name in MODELS if not (folder / name / "recommender.json").exists()]
    if missing:
        source = real_data("ml-1m")
        data = Dataset.read(source / "ratings.parquet", items=source / "movies.parquet")
        for name in missing:
            training = {"epochs": 1} if name in ("mf", "multvae", "neumf") else None
            Recommender.train(data, name, training=training, seed=0).save(folder / name)
    return {name: folder / name for name in MODELS}


@contextmanager
def server(command: list[str], port: int, ready: str, log: Path) -> Iterator[int]:
    """The process id of a server, once it answers."""
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
    try:
        until = time.monotonic() + 300
        asked = ["curl", "-sf", "-o", os.devnull, f"http://127.0.0.1:{port}{ready}"]
        while subprocess.run(asked, check=False).returncode:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{command}: not ready\n{log.read_text()[-2000:]}")
            time.sleep(0.3)
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(pid: int, port: int, script: Path, connections: int, seconds: int) -> dict[str, Any]:
    """What `wrk` found, and the server's CPU per request in ms."""
    before = cpu_seconds(pid)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", "-s", str(script)]
    command.append(f"http://127.0.0.1:{port}")
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(re.search(r"RESULT (.*)", said)[1])  # type: ignore[index]
    return found | {"cpu_ms": (cpu_seconds(pid) - before) / max(found["requests"], 1) * 1000}


def cells(found: dict[str, Any]) -> list[str]:
    return [
        f"{found['requests'] / found['seconds']:,.0f}", f"{found['p50']:.2f}", f"{found['p99']:.1f}",
        f"{found['cpu_ms']:.3f}", str(found["errors"]),
    ]  # fmt: skip


def palate(run: Path, port: int, home: Path, *words: str) -> list[str]:
    """The command of the service, with a store of its own."""
    store = f"sqlite:///{home}/{run.name}.db"
    return [
        sys.executable, "-m", "palate", "serve", str(run), "--port", str(port), "--store", store, "--log", "off", *words
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--runs", type=Path, default=Path("runs/serving_load"))
    parser.add_argument("--port", type=int, default=8700)
    parser.add_argument("--cornac", help="a Python with Cornac and Flask")
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed")
    runs = runs_in(given.runs)
    data = Recommender.load(runs["mf"]).data
    users, items = (",".join(map(str, known.ids.to_list())) for known in (data.users, data.items))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        scripts = {}
        for name, what in (("known", KNOWN), ("fresh", FRESH), ("cornac", CORNAC_GET)):
            scripts[name] = home / f"{name}.lua"
            scripts[name].write_text(WRK % (users, items, what.replace("%%s", "%s")))
        (home / "bare.py").write_text(BARE.replace("PORT", str(given.port)))
        servers = {
            "palate, mf": (palate(runs["mf"], given.port, home, "--cache", "0"), "/healthz/ready", "known"),
            "palate, mf, with its cache": (palate(runs["mf"], given.port, home), "/healthz/ready", "known"),
            "palate, ease": (palate(runs["ease"], given.port, home, "--cache", "0"), "/healthz/ready", "known"),
            "bare FastAPI endpoint": ([sys.executable, str(home / "bare.py")], "/ready", "known"),
        }
        if given.cornac:
            servers["Cornac's server, MF"] = (
                cornac(given.cornac, data, home, given.port), "/recommend?uid=1&k=1", "cornac"
            )  # fmt: skip
        rows = []
        for name, (command, ready, script) in servers.items():
            with server(command, given.port, ready, home / "log") as pid:
                load(pid, given.port, scripts[script], 8, 3)
                for connections in (8, 1):
                    found = load(pid, given.port, scripts[script], connections, given.seconds)
                    rows.append([name, str(connections), *cells(found)])
                    print(rows[-1], flush=True)
        for name, run in runs.items():
            with server(palate(run, given.port, home), given.port, "/healthz/ready", home / "log") as pid:
                load(pid, given.port, scripts["fresh"], 1, 2)
                found = load(pid, given.port, scripts["fresh"], 1, max(given.seconds // 4, 2))
                rows.append([f"palate, {name}, three newer items folded in", "1", *cells(found)])
                print(rows[-1], flush=True)
    write_result(
        "serving_load",
        "Load on the service",
        [
            f"MovieLens-1M, k = 10, one worker, loopback, wrk with one thread, {given.seconds} s each ("
            f"{max(given.seconds // 4, 2)} s with newer items), random known users. Load of the machine at the end: "
            f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores: above 2, requests per second and latency are "
            "those of the share of a core that was left, and only CPU per request can be compared with the bar.",
            "Bars, on a free core: 1,500 requests/s, p50 5 ms, p99 20 ms with 8 connections; p50 0.6 ms with one; "
            "CPU 0.7 ms a request; p50 8 ms with newer items.",
        ],
        ["server", "connections", "requests/s", "p50, ms", "p99, ms", "CPU, ms/request", "errors"],
        rows,
    )


def cornac(python: str, data: Dataset, home: Path, port: int) -> list[str]:
    """Train and save a model of Cornac on the same rows; the command of its server."""
    rows = data.frame().select("user_id", "item_id", "rating")
    rows.write_csv(home / "rows.csv")
    (home / "cornac_train.py").write_text(CORNAC)
    words = [python, home / "cornac_train.py", home / "rows.csv", home / "cornac"]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    os.environ |= {"MODEL_PATH": said.split()[-1], "MODEL_CLASS": "cornac.models.MF"}
    code = f"from cornac.serving.app import app; app.run(port={port}, threaded=False)"
    return [python, "-c", code]


if __name__ == "__main__":
    main()
