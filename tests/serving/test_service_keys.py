"""API keys: scopes, revoking, and what a wrong key learns."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from palate.serving import guard, keys
from palate.serving.store import Store

Serve = Callable[..., TestClient]


def test_keys_and_scopes(serve: Serve, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "REFRESH_SECONDS", 0.0)
    url = f"sqlite:///{tmp_path}/feedback.db"
    client = serve(runs["ease"])
    assert client.get("/v1/session").json()["auth_required"] is False
    store = Store(url)
    made = {scope: keys.add_key(store.engine, scope, [scope]) for scope in keys.SCOPES}
    assert "palate_" not in str(store.reader.rows("SELECT * FROM api_keys"))
    body, entry = {"user_id": 1}, {"user_id": 1, "item_id": 101}
    refused = client.post("/v1/recommend", json=body)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Bearer")
    wrong = made["read"][:-1] + ("A" if made["read"][-1] != "A" else "B")
    for bad in (wrong, "palate_00000000_" + "a" * 43, "x", "", "palate_é"):
        header = {"Authorization": f"Bearer {bad}".encode()}
        assert client.post("/v1/recommend", json=body, headers=header).status_code == 401
    assert client.get("/v1/session").json()["scopes"] == []
    table = [
        ("POST", "/v1/recommend", body, "read"), ("GET", "/v1/users/1", None, "read"),
        ("GET", "/metrics", None, "read"),
        ("GET", "/v1/models", None, "read"), ("POST", "/v1/feedback", entry, "write"),
        ("DELETE", "/v1/feedback", entry, "write"), ("DELETE", "/v1/users/1", None, "write"),
        ("PATCH", "/v1/items/101", {"hidden": False}, "admin"),
    ]  # fmt: skip
    for method, path, content, needed in table:
        for scope, key in made.items():
            found = client.request(method, path, json=content, headers={"X-API-Key": key})
            assert found.status_code == (200 if scope == needed else 403), (method, path, scope)
    assert client.get("/healthz/ready").status_code == 200
    assert client.get("/").status_code in (200, 404)
    keys.revoke_key(store.engine, made["read"].split("_")[1])
    assert client.post("/v1/recommend", json=body, headers={"X-API-Key": made["read"]}).status_code == 401
    store.close()


def test_wrong_keys_are_refused_alike(
    serve: Serve, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guess learns nothing from how it is refused: each is hashed and compared in constant time, in full length."""
    store = Store(f"sqlite:///{tmp_path}/feedback.db")
    key = keys.add_key(store.engine, "reader", ["read"])
    store.close()
    client = serve(runs["ease"])
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def watched(one: str, other: str) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(keys.hmac, "compare_digest", watched)
    _, known, secret = key.split("_", 2)
    flip = "A" if secret[0] != "A" else "B"
    guesses = {
        "known id, wrong from the first letter": f"palate_{known}_{flip}{secret[1:]}",
        "known id, wrong in the last letter": key[:-1] + ("A" if key[-1] != "A" else "B"),
        "known id, no secret": f"palate_{known}_",
        "unknown id, right secret": f"palate_{int(known, 16) ^ 1:08x}_{secret}",
        "unknown id, wrong secret": "palate_00000000_" + "a" * 43,
        "another prefix": f"cheese_{known}_{secret}",
        "no key at all": "x",
    }
    found = {}
    for what, guess in guesses.items():
        answer = client.get("/v1/models", headers={"X-API-Key": guess})
        problem = {name: value for name, value in answer.json().items() if name != "request_id"}
        headers = {name: value for name, value in answer.headers.items() if name not in ("x-request-id", "date")}
        found[what] = (answer.status_code, problem, headers)
    assert {status for status, *_ in found.values()} == {401}
    first = next(iter(found.values()))
    assert all(one == first for one in found.values()), found
    assert compared == [(64, 64)] * len(guesses)
    assert client.get("/v1/models", headers={"X-API-Key": key}).status_code == 200


@pytest.mark.parametrize(
    ("path", "scope"),
    [("/v1/recommend", "read"), ("/v1/feedback", "write"), ("/v1/items", "admin"), ("/v1/anything/new", "write")],
)
def test_what_is_posted_needs_a_scope(path: str, scope: str) -> None:
    assert guard.scope_of("POST", path) == scope
    assert guard.scope_of("GET", path) == "read"
    assert guard.scope_of("GET", "/healthz/live") is None
