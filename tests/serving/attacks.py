"""Attacks on a running service, in the order of the OWASP API Security Top 10 (2023), and what each must get.

Each entry of `ATTACKS` is sent to a real server. `test_attacks.py` checks the outcomes, `benchmarks/security.py` writes
them down.
"""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Any

from running import Server

from palate.serving.keys import add_key, read_keys, revoke_key
from palate.serving.store import Store

API = {
    1: "API1 object level authorization", 2: "API2 authentication", 3: "API3 object property level authorization",
    4: "API4 resource consumption", 5: "API5 function level authorization", 6: "API6 sensitive business flows",
    7: "API7 server side request forgery", 8: "API8 misconfiguration and injection", 9: "API9 inventory",
    10: "API10 unsafe consumption",
}  # fmt: skip
BODY_SECONDS = 5


@dataclass(frozen=True)
class Reply:
    """What came back: 0 for a closed connection without an answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Target:
    """A server with API keys, its store, and the folder of its run."""

    server: Server
    run: Path
    store: str
    keys: dict[str, str]

    def raw(self, data: bytes, seconds: float = 20) -> Reply:
        """Send bytes on a new connection, and read one answer."""
        with socket.create_connection(("127.0.0.1", self.server.port), seconds) as connection:
            with suppress(OSError):  # It has answered, and reads no further.
                connection.sendall(data)
            return read_reply(connection)

    def ask(self, method: str, path: str, body: Any = None, key: str | None = "read", **headers: str) -> Reply:
        """A request with a key of these scopes; `body` is JSON, or bytes as they are."""
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "Connection: close", f"Content-Length: {len(content)}"]
        own = {"Host": f"127.0.0.1:{self.server.port}", "Content-Type": "application/json"}
        own |= {} if key is None else {"Authorization": f"Bearer {self.keys[key]}"}
        own |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines += [f"{name}: {value}" for name, value in own.items() if value is not None]
        return self.raw("\r\n".join([*lines, "", ""]).encode() + content)

    def rows(self) -> int:
        """Rows of feedback in the store."""
        with sqlite3.connect(self.store.removeprefix("sqlite:///")) as database:
            return int(database.execute("SELECT count(*) FROM feedback").fetchone()[0])


def read_reply(connection: socket.socket) -> Reply:
    """One answer, to the end of the connection or of its content."""
    data = b""
    try:
        while b"\r\n\r\n" not in data and (more := connection.recv(65536)):
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        while len(body) < int(headers.get("content-length", 0)) and (more := connection.recv(65536)):
            body += more
        return Reply(int(lines[0].split()[1]), headers, body)
    except (OSError, IndexError, ValueError):
        return Reply(0, {}, data)


@contextmanager
def target(run: Path, folder: Path, *words: object) -> Iterator[Target]:
    """A server with a read, a write and an admin key."""
    store = f"sqlite:///{folder}/attacked.db"
    opened = Store(store)
    try:
        scopes = {"read": ["read"], "write": ["read", "write"], "admin": ["read", "write", "admin"]}
        keys = {name: add_key(opened.engine, name, given).split()[-1] for name, given in scopes.items()}
    finally:
        opened.close()
    server = Server(folder / "attacked.log", run, "--body-seconds", BODY_SECONDS, *words, store=store)
    try:
        yield Target(server.wait(), run, store, keys)
    finally:
        server.stop()


Attack = Callable[[Target], Reply]
ATTACKS: list[tuple[int, str, Attack, tuple[int, ...]]] = []
"""(number in `API`, what is tried, the attack, statuses that are right)."""


def attack(api: int, what: str, *right: int) -> Callable[[Attack], Attack]:
    """Add an attack."""

    def add(function: Attack) -> Attack:
        ATTACKS.append((api, what, function, right))
        return function

    return add


def simple(api: int, what: str, right: tuple[int, ...], method: str, path: str, body: Any = None, **given: Any) -> None:
    """Add an attack of one request."""
    ATTACKS.append((api, what, lambda at: at.ask(method, path, body, **given), right))


def fed(**fields: Any) -> dict[str, Any]:
    return {"user_id": 3, "item_id": 101, **fields}


# API1 ---------------------------------------------------------------------------------------------------------------
simple(1, "path traversal in a user id", (404,), "GET", "/v1/users/..%2F..%2F..%2Fetc%2Fpasswd")
simple(1, "path traversal in an item's poster", (404,), "GET", "/v1/items/..%2F..%2Fetc%2Fpasswd/poster")
simple(1, "forget a user with a read key", (403,), "DELETE", "/v1/users/3")
simple(1, "ids beyond 64 bits", (404, 422), "GET", f"/v1/users/{'9' * 400}")
simple(1, "a list as user id", (422,), "POST", "/v1/recommend", {"user_id": [1, 2, 3]})


@attack(1, "forget a wildcard; nothing is removed", 200, 404)
def _(at: Target) -> Reply:
    at.ask("POST", "/v1/feedback", fed(), key="write")
    before = at.rows()
    reply = at.ask("DELETE", "/v1/users/%25", key="write")
    return reply if at.rows() == before else Reply(599, {}, b"removed")


# API2 ---------------------------------------------------------------------------------------------------------------
simple(2, "no key", (401,), "GET", "/v1/models", key=None)
simple(2, "no key, on /metrics", (401,), "GET", "/metrics", key=None)
simple(2, "a made-up key", (401,), "GET", "/v1/models", key=None, Authorization="Bearer abcdefgh.12345678")
simple(2, "an empty key", (401,), "GET", "/v1/models", key=None, Authorization="Bearer ")
simple(2, "another scheme", (401,), "GET", "/v1/models", key=None, Authorization="Basic YWRtaW46YWRtaW4=")
simple(2, "a key of 10,000 characters", (401,), "GET", "/v1/models", key=None, Authorization="Bearer " + "x" * 10_000)
simple(2, "SQL as key", (401,), "GET", "/v1/models", key=None, X_API_Key="' OR '1'='1' --")


@attack(2, "the key in the address", 401, 422)
def _(at: Target) -> Reply:
    return at.ask("GET", f"/v1/models?api_key={at.keys['admin']}", key=None)


@attack(2, "a real key with another last character", 401)
def _(at: Target) -> Reply:
    key = at.keys["admin"]
    return at.ask("GET", "/v1/models", key=None, Authorization=f"Bearer {key[:-1]}{'b' if key[-1] == 'a' else 'a'}")


@attack(2, "the id of a real key alone", 401)
def _(at: Target) -> Reply:
    opened = Store(at.store)
    try:
        [key, *_] = read_keys(opened.reader)
    finally:
        opened.close()
    return at.ask("GET", "/v1/models", key=None, Authorization=f"Bearer {key.id}")


@attack(2, "a revoked key, ten seconds later", 401)
def _(at: Target) -> Reply:
    opened = Store(at.store)
    try:
        key = add_key(opened.engine, "leaked", ["read"]).split()[-1]
        [found] = [one for one in read_keys(opened.reader) if one.name == "leaked"]
        revoke_key(opened.engine, found.id)
    finally:
        opened.close()
    until = time.monotonic() + 10
    while (reply := at.ask("GET", "/v1/models", key=None, X_API_Key=key)).status != 401 and time.monotonic() < until:
        time.sleep(0.5)
    return reply


# API3 ---------------------------------------------------------------------------------------------------------------
simple(3, "a field that is not there (admin: true)", (422,), "POST", "/v1/feedback", fed(admin=True), key="write")
simple(3, "setting when feedback was stored", (422,), "POST", "/v1/feedback", fed(stored_at="2001"), key="write")
simple(3, "an unknown mode", (422,), "POST", "/v1/feedback", fed(mode="superuser"), key="write")
simple(3, "__proto__ in a body", (422,), "POST", "/v1/recommend", {"user_id": 3, "__proto__": {"admin": True}})
simple(3, "a number as text", (422,), "POST", "/v1/recommend", {"user_id": 3, "k": "10"})
simple(3, "true as a number", (422,), "POST", "/v1/recommend", {"user_id": True})
simple(3, "a rating far outside the scale", (422,), "POST", "/v1/feedback", fed(type="rating", value=1e30), key="write")
simple(3, "an unknown query parameter", (422,), "GET", "/v1/items?search=a&hidden_too=1")

# API4 ---------------------------------------------------------------------------------------------------------------
simple(4, "a body of 2 MB", (413,), "POST", "/v1/recommend", b" " * (2 << 20))
simple(4, "100,000 nested lists", (400, 422), "POST", "/v1/recommend", b"[" * 100_000)
simple(4, "100,000 nested objects as features", (400, 422), "POST", "/v1/recommend",
       b'{"features":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001)  # fmt: skip
simple(4, "k of a billion", (422,), "POST", "/v1/recommend", {"user_id": 3, "k": 10**9})
simple(4, "a negative k", (422,), "POST", "/v1/recommend", {"user_id": 3, "k": -1})
simple(4, "a history of 50,000 items", (422,), "POST", "/v1/recommend", {"history": [101] * 50_000})
simple(4, "a filter of 5,000 conditions", (422,), "POST", "/v1/recommend",
       {"user_id": 3, "filter": " OR ".join(["a=1"] * 1600)})  # fmt: skip
simple(4, "a filter with 4,000 parentheses", (422,), "POST", "/v1/recommend",
       {"user_id": 3, "filter": "(" * 4000 + "year > 1" + ")" * 4000})  # fmt: skip
simple(4, "a filter that backtracks", (200, 422), "POST", "/v1/recommend",
       {"user_id": 3, "filter": "title LIKE '" + "%a" * 2000 + "%'"})  # fmt: skip
simple(4, "1,001 entries of feedback", (422,), "POST", "/v1/feedback", {"feedback": [fed()] * 1001}, key="write")
simple(4, "a billion samples of SHAP", (422,), "POST", "/v1/explain", fed(samples=10**9))
simple(4, "all users at once", (422,), "GET", "/v1/users?limit=1000000000000")
simple(4, "a number of 10,000 digits", (400, 422), "POST", "/v1/recommend", b'{"k":' + b"9" * 10_000 + b"}")
simple(4, "infinity as a number", (400, 422), "POST", "/v1/recommend", b'{"user_id": 3, "diversity": 1e999}')
simple(4, "NaN as a number", (400, 422), "POST", "/v1/recommend", b'{"user_id": 3, "diversity": NaN}')
simple(4, "a compressed body", (400, 415, 422), "POST", "/v1/recommend", b"\x1f\x8b" + b"\0" * 1000,
       Content_Encoding="gzip")  # fmt: skip
simple(4, "a head of 100 kB", (0, 400, 431), "GET", "/v1/models", Cookie="x" * 100_000)


def head(at: Target, *lines: str) -> bytes:
    """The head of a POST with the write key."""
    own = ["POST /v1/recommend HTTP/1.1", f"Host: 127.0.0.1:{at.server.port}", "Content-Type: application/json"]
    return "\r\n".join([*own, f"Authorization: Bearer {at.keys['write']}", *lines, "", ""]).encode()


@attack(4, "2 MB in chunks, without a length", 413)
def _(at: Target) -> Reply:
    return at.raw(head(at, "Transfer-Encoding: chunked") + (b"10000\r\n" + b" " * 65536 + b"\r\n") * 32 + b"0\r\n\r\n")


@attack(4, "a body that never comes", 408)
def _(at: Target) -> Reply:
    return at.raw(head(at, "Content-Length: 1000") + b"{")


@attack(4, "a head that never ends", 0, 400, 408)
def _(at: Target) -> Reply:
    return at.raw(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", 30)


@attack(4, "300 connections that say nothing, and one that asks", 200)
def _(at: Target) -> Reply:
    idle = [socket.create_connection(("127.0.0.1", at.server.port), 10) for _ in range(300)]
    try:
        return at.ask("POST", "/v1/recommend", {"user_id": 3})
    finally:
        for one in idle:
            one.close()


# API5 ---------------------------------------------------------------------------------------------------------------
simple(5, "feedback with a read key", (403,), "POST", "/v1/feedback", fed())
simple(5, "undoing feedback with a read key", (403,), "DELETE", "/v1/feedback", {"user_id": 3, "item_id": 101})
simple(5, "new items with a write key", (403,), "POST", "/v1/items", {"items": [{"item_id": 9}]}, key="write")
simple(5, "hiding an item with a write key", (403,), "PATCH", "/v1/items/101", {"hidden": True}, key="write")
simple(5, "TRACE", (403, 405), "TRACE", "/v1/models")
simple(5, "PUT", (403, 404, 405), "PUT", "/v1/feedback", fed())
simple(5, "upper case in the path", (403, 404), "POST", "/V1/FEEDBACK", fed())
simple(5, "a doubled slash in the path", (403, 404), "POST", "//v1/feedback", fed())
simple(5, "a dot segment in the path", (403, 404, 405), "POST", "/v1/rank/../feedback", fed())


@attack(5, "another method by a header; nothing is removed", 200)
def _(at: Target) -> Reply:
    at.ask("POST", "/v1/feedback", fed(), key="write")
    before = at.rows()
    reply = at.ask("GET", "/v1/users/3", X_HTTP_Method_Override="DELETE", X_Method_Override="DELETE")
    return reply if at.rows() == before else Reply(599, {}, b"removed")


# API6 ---------------------------------------------------------------------------------------------------------------
@attack(6, "the same feedback 20 times under one idempotency key; one row", 200)
def _(at: Target) -> Reply:
    before = at.rows()
    for _ in range(20):
        reply = at.ask("POST", "/v1/feedback", fed(user_id=77_001), key="write", Idempotency_Key="twenty")
    return reply if at.rows() == before + 1 else Reply(599, {}, b"stored more than once")


@attack(6, "other feedback under a used idempotency key", 409)
def _(at: Target) -> Reply:
    at.ask("POST", "/v1/feedback", fed(user_id=77_002), key="write", Idempotency_Key="used")
    return at.ask("POST", "/v1/feedback", fed(user_id=77_003), key="write", Idempotency_Key="used")


@attack(6, "reading another key's stored answer by its idempotency key", 200, 409)
def _(at: Target) -> Reply:
    at.ask("POST", "/v1/feedback", fed(user_id=77_004), key="write", Idempotency_Key="mine")
    reply = at.ask("POST", "/v1/feedback", fed(user_id=77_005), key="admin", Idempotency_Key="mine")
    return Reply(599, {}, b"told") if b"77004" in reply.body else reply


@attack(6, "a thousand likes of one item by made-up users; another user's list stays", 200)
def _(at: Target) -> Reply:
    before = at.ask("POST", "/v1/recommend", {"user_id": 9, "k": 20}).json["items"]
    likes = [fed(user_id=500_000 + user, item_id=139) for user in range(1000)]
    at.ask("POST", "/v1/feedback", {"feedback": likes}, key="write")
    reply = at.ask("POST", "/v1/recommend", {"user_id": 9, "k": 20})
    return reply if reply.json["items"] == before else Reply(599, {}, b"the list changed")


# API7 ---------------------------------------------------------------------------------------------------------------
simple(7, "an address as a feature of a user", (404, 409, 422), "POST", "/v1/recommend",
       {"features": {"avatar": "http://169.254.169.254/latest/meta-data"}})  # fmt: skip
simple(7, "a file as the picture of a new item", (409, 422), "POST", "/v1/items",
       {"items": [{"item_id": 901, "image": "file:///etc/passwd"}]}, key="admin")  # fmt: skip
simple(7, "another host name (DNS rebinding)", (421,), "GET", "/", key=None, Host="evil.example")
simple(7, "an absolute address as target", (400, 404, 421), "GET", "http://169.254.169.254/", Host="169.254.169.254")
simple(7, "a forged X-Forwarded-Host", (200,), "GET", "/healthz/ready", key=None, X_Forwarded_Host="evil.example")

# API8 ---------------------------------------------------------------------------------------------------------------
simple(8, "SQL after a filter", (422,), "POST", "/v1/recommend",
       {"user_id": 3, "filter": "year > 1; DROP TABLE feedback"})  # fmt: skip
simple(8, "a subquery in a filter", (422,), "POST", "/v1/recommend",
       {"user_id": 3, "filter": "year IN (SELECT value FROM feedback)"})  # fmt: skip
simple(8, "a file read by a filter", (422,), "POST", "/v1/recommend",
       {"user_id": 3, "filter": "title IN (SELECT * FROM read_csv('/etc/passwd'))"})  # fmt: skip
simple(8, "SQL in the search", (200,), "GET", "/v1/items?search=%27%20UNION%20SELECT%20secret%20FROM%20keys--")
simple(8, "SQL as a user id in a path", (404, 422), "GET", "/v1/recommend/3%20OR%201%3D1")
simple(8, "a format string as a model", (404, 422), "POST", "/v1/recommend", {"user_id": 3, "model": "{0.__class__}%s"})
simple(8, "a file as a model", (404, 422), "POST", "/v1/recommend", {"user_id": 3, "model": "../../../../etc/passwd"})
simple(8, "a line break in an idempotency key", (422,), "POST", "/v1/feedback", fed(idempotency_key="a\r\nX: b"),
       key="write")  # fmt: skip
simple(8, "NUL in an id", (404, 422), "POST", "/v1/feedback", fed(user_id="a\0b"), key="write")
simple(8, "a lone surrogate in an id", (400, 404, 422), "POST", "/v1/feedback",
       b'{"user_id": "\\ud800", "item_id": 101}', key="write")  # fmt: skip
simple(8, "invalid UTF-8 in a body", (400, 422), "POST", "/v1/recommend", b'{"user_id": "\xff\xfe"}')
simple(8, "a form of another site (text/plain)", (415,), "POST", "/v1/feedback", fed(), key="write",
       Content_Type="text/plain")  # fmt: skip
simple(8, "leaving static files upwards", (404,), "GET", "/static/../app.py", key=None)
simple(8, "leaving static files upwards, encoded", (404,), "GET", "/static/%2e%2e%2fapp.py", key=None)
simple(8, "leaving static files by a full path", (404,), "GET", "/static//etc/passwd", key=None)


def without(reply: Reply, *names: str) -> Reply:
    """The reply, if it has none of these headers."""
    found = [name for name in names if name in reply.headers]
    return Reply(599, reply.headers, str(found).encode()) if found else reply


@attack(8, "another site's script (CORS): no permission in the answer", 200)
def _(at: Target) -> Reply:
    return without(at.ask("GET", "/v1/models", Origin="https://evil.example"), "access-control-allow-origin")


@attack(8, "another site's preflight: no permission in the answer", 401, 403, 404, 405)
def _(at: Target) -> Reply:
    reply = at.ask("OPTIONS", "/v1/feedback", Origin="https://evil.example", Access_Control_Request_Method="POST")
    return without(reply, "access-control-allow-origin", "access-control-allow-methods")


@attack(8, "framing the page: refused by its headers", 200)
def _(at: Target) -> Reply:
    reply = at.ask("GET", "/", key=None)
    policy = reply.headers.get("content-security-policy", "")
    safe = "frame-ancestors 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
    return reply if safe and reply.headers["x-content-type-options"] == "nosniff" else Reply(599, reply.headers, b"")


@attack(8, "the server's name and version", 200)
def _(at: Target) -> Reply:
    return without(at.ask("GET", "/healthz/live", key=None), "server", "x-powered-by")


@attack(8, "markup in a title: JSON that no browser runs", 200)
def _(at: Target) -> Reply:
    reply = at.ask("GET", "/v1/items/102")
    safe = reply.headers["content-type"] == "application/json" and reply.headers["x-content-type-options"] == "nosniff"
    return reply if safe else Reply(599, reply.headers, b"")


@attack(8, "two lengths of one body (request smuggling)", 0, 400)
def _(at: Target) -> Reply:
    smuggled = b"0\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
    return at.raw(head(at, f"Content-Length: {len(smuggled)}", "Transfer-Encoding: chunked") + smuggled)


@attack(8, "a line break in X-Request-ID: another id in the answer", 200)
def _(at: Target) -> Reply:
    reply = at.ask("GET", "/healthz/live", key=None, X_Request_ID="a%0d%0aSet-Cookie: b=c")
    bad = "set-cookie" in reply.headers or "Set-Cookie" in reply.headers.get("x-request-id", "")
    return Reply(599, reply.headers, b"") if bad else reply


@attack(8, "terminal escapes in an address: not in the log as they are", 404)
def _(at: Target) -> Reply:
    reply = at.ask("GET", "/v1/items/%1b%5b2J%1b%5d0;owned%07")
    time.sleep(0.2)
    return Reply(599, {}, b"") if "\x1b" in at.server.text else reply


@attack(8, "no HTTP at all", 0, 400)
def _(at: Target) -> Reply:
    return at.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)))


# API9 ---------------------------------------------------------------------------------------------------------------
for forgotten in ("/docs", "/redoc", "/v2/models", "/admin", "/debug", "/.env", "/.git/config", "/server-status"):
    simple(9, f"a forgotten address: {forgotten}", (404,), "GET", forgotten, key="admin")


# API10 --------------------------------------------------------------------------------------------------------------
def served(run: Path, at: Target) -> Reply:
    """What `palate serve` does with a folder: the exit code 2 counts as 422."""
    words = [sys.executable, "-m", "palate", "serve", str(run), "--port", "0", "--store", at.store]
    done = subprocess.run(words, capture_output=True, timeout=120, check=False)
    safe = done.returncode == 2 and b"Traceback" not in done.stderr
    return Reply(422 if safe else 599, {}, done.stderr)


@attack(10, "a run whose weights were changed: not served", 422)
def _(at: Target) -> Reply:
    run = at.run.with_name("changed-weights")
    copytree(at.run, run, dirs_exist_ok=True)
    weights = bytearray((run / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (run / "weights.safetensors").write_bytes(weights)
    return served(run, at)


@attack(10, "a run with a pickle in place of its weights: not served, not run", 422)
def _(at: Target) -> Reply:
    run = at.run.with_name("pickled-weights")
    copytree(at.run, run, dirs_exist_ok=True)
    mark = run / "owned"
    command = f"touch {mark}".encode()
    # What pickle.dumps gives for an object that runs a command when it is loaded.
    (run / "weights.safetensors").write_bytes(b"cos\nsystem\n(S'" + command + b"'\ntR.")
    reply = served(run, at)
    return Reply(599, {}, b"run") if mark.exists() else reply


@attack(10, "a run that names a file outside of it: not served", 422)
def _(at: Target) -> Reply:
    run = at.run.with_name("linked-users")
    copytree(at.run, run, dirs_exist_ok=True)
    (run / "users.parquet").unlink()
    (run / "users.parquet").symlink_to("/etc/passwd")
    return served(run, at)
