"""Everything but lists: feedback over HTTP, users, items, models, keys, limits, the document, hot swap."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import small_data
from starlette.testclient import TestClient

from palate.errors import ConfigError
from palate.recommender.evaluation_file import write_summary
from palate.recommender.recommender import Recommender
from palate.serving import schemas
from palate.serving.app import create_app
from palate.serving.export import interactions
from palate.serving.settings import Settings
from palate.serving.watch import Watch

Serve = Callable[..., TestClient]


def ids(answer: dict[str, Any]) -> list[Any]:
    return [item["item_id"] for item in answer["items"]]


def listed(client: TestClient, user: int, **options: Any) -> list[Any]:
    return ids(client.post("/v1/recommend", json={"user_id": user, **options}).json())


def test_feedback_says_what_it_replaced(serve: Serve, runs: dict[str, Path]) -> None:
    client = serve(runs["ease"])
    body = {"feedback": [{"user_id": 1, "item_id": 101, "type": "rating", "value": 4, "timestamp": 7}], "mode": "keep"}
    assert client.post("/v1/feedback", json=body).json()["results"][0]["result"] == "new"
    again = client.post("/v1/feedback", json={"user_id": 1, "item_id": 101, "type": "not_interested"}).json()
    before = {"type": "rating", "value": 4.0, "timestamp": 7}
    assert again["results"] == [{"user_id": 1, "item_id": 101, "result": "overwritten", "previous": before}]
    undone = client.delete("/v1/feedback?user_id=1&item_id=101").json()
    schemas.UndoAnswer.model_validate(undone)
    assert undone["results"][0]["previous"]["type"] == "not_interested"
    assert client.delete("/v1/feedback?user_id=1&item_id=101").json()["removed"] == 0


def test_idempotency_keys(serve: Serve, runs: dict[str, Path]) -> None:
    client = serve(runs["ease"])
    body = {"user_id": 1, "item_id": 101}
    first = client.post("/v1/feedback", json=body, headers={"Idempotency-Key": "k1"})
    second = client.post("/v1/feedback", json={**body, "idempotency_key": "k1"})
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert second.json()["results"] == first.json()["results"]
    assert second.json()["stored_at"] == first.json()["stored_at"]
    other = client.post("/v1/feedback", json={"user_id": 1, "item_id": 102}, headers={"Idempotency-Key": "k1"})
    assert (other.status_code, other.json()["type"]) == (409, "urn:palate:error:idempotency-conflict")
    differ = client.post("/v1/feedback", json={**body, "idempotency_key": "a"}, headers={"Idempotency-Key": "b"})
    assert differ.status_code == 422
    assert client.post("/v1/feedback", json=body, headers={"Idempotency-Key": "x" * 200}).status_code == 422


@pytest.mark.parametrize(
    ("entry", "status"),
    [
        ({"item_id": 999999}, 404),
        ({"item_id": "101"}, 404),
        ({"user_id": "anna"}, 422),
        ({"user_id": "a\x00b"}, 422),
        ({"type": "love"}, 422),
        ({"type": "rating"}, 422),
        ({"type": "like", "value": 3}, 422),
        ({"type": "rating", "value": 7}, 422),
        ({"type": "rating", "value": "4"}, 422),
        ({"timestamp": -1}, 422),
        ({"timestamp": 10**30}, 422),
        ({"extra": 1}, 422),
    ],
)
def test_bad_feedback_stores_nothing(serve: Serve, runs: dict[str, Path], entry: dict[str, Any], status: int) -> None:
    client = serve(runs["ease"])
    good = {"user_id": 1, "item_id": 101}
    found = client.post("/v1/feedback", json={"feedback": [good, good | entry]})
    assert found.status_code == status, found.text
    assert client.get("/v1/stats").json()["feedback_rows"] == 0


def test_users_and_forgetting(serve: Serve, runs: dict[str, Path]) -> None:
    client, data = serve(runs["ease"]), Recommender.load(runs["ease"]).known
    client.post("/v1/feedback", json={"user_id": 2, "item_id": 101, "type": "seen"})
    found = client.get("/v1/users/2?limit=3").json()
    rows = data.frame().filter(user_id=2)
    assert (found["known"], found["training"]["count"]) == (True, rows.height)
    assert [one["item_id"] for one in found["training"]["items"]] == rows["item_id"].to_list()[::-1][:3]
    assert [one["timestamp"] for one in found["training"]["items"]] == rows["timestamp"].to_list()[::-1][:3]
    assert found["feedback"]["items"][0]["type"] == "seen"
    assert found["attributes"] == {"age": 22}
    gone = client.delete("/v1/users/2").json()
    assert (gone["removed"], gone["in_training"]) == (1, True)
    assert str(rows.height) in gone["notes"][0]
    assert client.get("/v1/users/2").json()["feedback"]["count"] == 0
    assert client.get("/v1/users/4242").status_code == 404
    assert [one["user_id"] for one in client.get("/v1/users?search=5&limit=3").json()["items"]] == [5, 50, 51]


def test_search_and_cards(serve: Serve, runs: dict[str, Path]) -> None:
    client = serve(runs["ease"])
    everything = client.get("/v1/items?limit=100").json()
    assert everything["total"] == len(everything["items"]) == 40
    counts = [item["interactions"] for item in everything["items"]]
    assert counts == sorted(counts, reverse=True)
    for text in ("amelie", "AMÉLIE", "ame 7"):
        assert ids(client.get("/v1/items", params={"search": text}).json()) == [107], text
    assert client.get("/v1/items?search=melie").json()["total"] == 0
    assert client.get("/v1/items?search=%25%27--").json()["total"] == 0
    card = client.get("/v1/items/107").json()
    assert card["fields"] == {"genres": "Comedy", "year": 1967}
    assert 1 <= card["mean_rating"] <= 5
    assert client.get("/v1/items/1").status_code == 404
    assert client.get("/v1/items/107/poster").status_code == 404
    # A title is text: the page shows it, nobody runs it.
    assert client.get("/v1/items/108").json()["title"] == "Film 8 <b>&"


def test_hidden_items_are_in_no_list(serve: Serve, runs: dict[str, Path]) -> None:
    client = serve(runs["ease"])
    first = listed(client, 3)[0]
    assert client.patch(f"/v1/items/{first}", json={"hidden": True}).json()["hidden"] is True
    assert first not in listed(client, 3, k=40)
    assert first not in ids(client.post("/v1/rank", json={"user_id": 3, "items": [first, 101, 102]}).json())
    assert first not in ids(client.get("/v1/similar/101?k=39").json())
    assert first not in ids(client.get("/v1/onboard?k=40").json())
    assert first not in ids(client.get("/v1/items?limit=100").json())
    assert first not in client.get("/v1/map").json()["item_ids"]
    assert first in ids(client.get("/v1/items?limit=100&hidden=true").json())
    client.patch(f"/v1/items/{first}", json={"hidden": False})
    assert listed(client, 3)[0] == first


def test_new_items(serve: Serve, runs: dict[str, Path]) -> None:
    body = {"items": [{"item_id": 900, "title": "New", "genres": "Comedy", "year": 1999}]}
    refused = serve(runs["ease"]).post("/v1/items", json=body)
    assert refused.status_code == 409
    client = serve(runs["content-knn"])
    before = client.get("/v1/models").json()["models"][0]["model_id"]
    added = client.post("/v1/items", json=body)
    assert added.status_code == 200, added.text
    assert added.json()["n_items"] == 41
    assert added.json()["model_id"] != before
    assert client.get("/v1/items/900").json()["new"] is True
    assert 900 in listed(client, 3, k=41)
    assert client.post("/v1/feedback", json={"user_id": 3, "item_id": 900}).status_code == 200
    assert 900 not in listed(client, 3, k=41)
    assert client.post("/v1/items", json=body).status_code == 422
    assert client.post("/v1/items", json={"items": [{"title": "x"}]}).status_code == 422
    # Another start of the service knows it, too.
    assert serve(runs["content-knn"]).get("/v1/items/900").status_code == 200


def test_models_schema_map_onboarding(serve: Serve, runs: dict[str, Path]) -> None:
    client = serve([runs["mf"], runs["ease"], runs["mf"]])
    models = client.get("/v1/models").json()
    assert models["names"] == ["mf", "ease", "mf-2"]
    card = models["models"][0]
    data = Recommender.load(runs["mf"]).data
    assert card["data"]["interactions"] == len(data)
    assert [one["epoch"] for one in card["learning_curve"]] == [1, 2]
    assert card["metrics"] is None
    assert "palate evaluate" in card["metrics_note"]
    assert any("up to 1970-01-12" in text for text in card["limits"])
    assert ids(client.post("/v1/recommend", json={"user_id": 1, "model": "ease"}).json())
    schema = client.get("/v1/schema").json()
    year = next(column for column in schema["items"] if column["name"] == "year")
    assert (year["min"], year["max"]) == (1960, 1999)
    genres = next(column for column in schema["items"] if column["name"] == "genres")
    assert {one["value"] for one in genres["values"]} <= {"Drama", "Comedy", "Action"}
    assert schema["rating_scale"] == {"min": 1.0, "max": 5.0, "step": 1.0}
    found = client.get("/v1/map")
    places = found.json()
    assert len(places["x"]) == len(places["titles"]) == places["total"] == 40
    assert max(map(abs, places["x"] + places["y"])) <= 1
    assert client.get("/v1/map", headers={"If-None-Match": found.headers["etag"]}).status_code == 304
    asked = client.get("/v1/onboard?k=5").json()
    assert len(asked["items"]) == 5
    assert all(item["information"] > 0 for item in asked["items"])


def test_limits(serve: Serve, runs: dict[str, Path]) -> None:
    client = serve(runs["ease"], max_body=2000, rate_limit="12/minute", allowed_hosts=("testserver",))
    big = client.post(
        "/v1/recommend", content=b'{"history":[' + b"1," * 2000 + b"1]}", headers={"Content-Type": "application/json"}
    )
    assert (big.status_code, big.json()["type"]) == (413, "urn:palate:error:too-large")

    def chunks() -> Any:
        yield from (b"x" * 900 for _ in range(5))

    streamed = client.post("/v1/recommend", content=chunks(), headers={"Content-Type": "application/json"})
    assert streamed.status_code == 413
    assert client.post("/v1/recommend", content="user_id=1").status_code == 415
    assert client.get("/v1/stats", headers={"Host": "evil.example"}).status_code == 421
    statuses = [client.get("/v1/recommend/1").status_code for _ in range(15)]
    assert set(statuses) == {200, 429}
    last = client.get("/v1/recommend/1")
    assert 1 <= int(last.headers["retry-after"]) <= 60
    assert client.get("/healthz/live").status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"",
        b"\xff\xfe",
        b'{"user_id":1',
        b"[" * 100_000,
        b'{"a":' * 5000,
        b"null",
        b"NaN",
        b'{"user_id":NaN}',
        b'{"user_id":1e999}',
    ],
)
def test_bodies_that_are_no_requests(serve: Serve, runs: dict[str, Path], content: bytes) -> None:
    for path in ("/v1/recommend", "/v1/feedback", "/v1/explain", "/v1/items"):
        found = serve(runs["ease"]).post(path, content=content, headers={"Content-Type": "application/json"})
        assert found.status_code in (400, 422), (path, found.text)
        assert found.headers["content-type"] == "application/problem+json"


def test_what_is_not_there(serve: Serve, runs: dict[str, Path]) -> None:
    client = serve(runs["ease"])
    for path in (
        "/nothing",
        "/v1/nothing",
        "/v1/../../etc/passwd",
        "/static/../../../etc/passwd",
        "/static/%2e%2e/app.py",
        "/docs",
    ):
        found = client.get(path)
        assert found.status_code == 404, path
        assert "x-request-id" in found.headers
    for path in (
        "/v1/recommend/%00",
        "/v1/recommend/" + "9" * 30,
        "/v1/recommend/" + "x" * 600,
        "/v1/recommend/1?kk=3",
    ):
        assert client.get(path).status_code in (404, 422), path
    assert client.get("/v1/items?serach=film").json()["detail"].startswith("there is no query parameter 'serach'")
    assert client.delete("/v1/feedback?user_id=%00&item_id=1").status_code in (404, 422)
    assert client.put("/v1/feedback", json={}).status_code == 405
    assert client.get("/v1/feedback").status_code == 405
    assert (
        client.options(
            "/v1/recommend", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        ).status_code
        == 405
    )
    headers = client.get("/v1/recommend/1", headers={"Origin": "https://evil.example"}).headers
    assert not [name for name in headers if name.startswith("access-control")]
    assert "default-src 'none'" in headers["content-security-policy"]


def test_an_unexpected_error_says_nothing(
    serve: Serve, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    client = serve(runs["ease"])

    def fail(*given: Any, **options: Any) -> Any:
        raise ZeroDivisionError("the secret of a folder")

    monkeypatch.setattr("palate.serving.lists.person", fail)
    found = client.post("/v1/recommend", json={"user_id": 1})
    assert (found.status_code, found.headers["content-type"]) == (500, "application/problem+json")
    assert "secret" not in found.text
    assert found.headers["x-request-id"] in found.json()["detail"]


def test_the_document_is_complete(serve: Serve, runs: dict[str, Path]) -> None:
    document = serve(runs["ease"]).get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    paths = {
        "/v1/recommend", "/v1/recommend/{user_id}", "/v1/rank", "/v1/predict", "/v1/similar/{item_id}", "/v1/explain",
        "/v1/feedback", "/v1/users/{user_id}", "/v1/users", "/v1/items", "/v1/items/{item_id}", "/v1/onboard",
        "/v1/models", "/v1/map", "/v1/schema", "/v1/session", "/v1/stats", "/healthz/live", "/healthz/ready",
        "/metrics",
    }  # fmt: skip
    assert paths <= set(document["paths"])
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], (path, method)
            assert operation["description"], (path, method)
            assert "application/problem+json" in operation["responses"]["422"]["content"]
            if "requestBody" in operation:
                name = json.dumps(operation["requestBody"]).partition("schemas/")[2].partition('"')[0]
                assert document["components"]["schemas"][name]["examples"], name


def test_metrics_count(serve: Serve, runs: dict[str, Path]) -> None:
    client = serve(runs["ease"])
    for user in (1, 1, 2):
        client.post("/v1/recommend", json={"user_id": user})
    client.get("/v1/recommend/99999")
    client.post("/v1/feedback", json={"user_id": 1, "item_id": 101})
    text = client.get("/metrics").text
    assert 'palate_requests_total{method="POST",route="/v1/recommend",status="200"} 3.0' in text
    assert 'status="404"} 1.0' in text
    assert 'palate_cache_total{result="hit"} 1.0' in text
    assert 'palate_feedback_total{result="new",type="like"} 1.0' in text
    assert not re.search(r'[/"]99999\b', text)  # ids are no labels; a time may hold these digits


def test_an_answer_is_counted_before_it_leaves(serve: Serve, runs: dict[str, Path]) -> None:
    """Who has the answer and asks another worker for the numbers finds it counted."""
    app: Any = serve(runs["ease"]).app
    service = app.state.service
    seen: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            seen.append(service.metrics.total)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    path = {"path": "/v1/recommend/1", "raw_path": b"/v1/recommend/1", "root_path": "", "query_string": b""}
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": "GET", **path,
        "headers": [(b"host", b"testserver")], "client": ("127.0.0.1", 1), "server": ("testserver", 80),
    }  # fmt: skip
    before = service.metrics.total
    asyncio.run(app(scope, receive, send))
    assert seen == [before + 1]
    assert service.metrics.total == before + 1


def test_logs_are_json_without_bodies(serve: Serve, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[bytes] = []

    class Out:
        write = staticmethod(lines.append)
        flush = staticmethod(lambda: None)

    monkeypatch.setattr("palate.serving.logs._out", Out)
    client = serve(runs["ease"], log="requests")
    client.get("/v1/recommend/1?k=3&filter=year%20%3E%201990")
    client.get("/v1/items?search=private", headers={"Authorization": "Bearer private"})
    found = [json.loads(line) for line in lines]
    found = [one for one in found if one["event"] == "request"]
    assert [one["route"] for one in found] == ["/v1/recommend/{user_id}", "/v1/items"]
    assert all(one["status"] == 200 and one["request_id"] and one["ms"] > 0 for one in found)
    assert b"private" not in b"".join(lines)


def test_a_new_run_is_swapped_in_and_a_broken_one_is_not(runs: dict[str, Path], tmp_path: Path) -> None:
    home = tmp_path / "watched"
    shutil.copytree(runs["ease"], home / "first")
    app = create_app(home / "first", Settings(store=f"sqlite:///{tmp_path}/s.db", log="off"))
    service = app.state.service
    watch = Watch(service, home, service.run(None))

    async def story() -> None:
        old = service.run(None)
        assert not await watch.look()
        newer = Recommender.train(small_data(), "ease", seed=0)
        newer.save(home / "second")
        os.utime(home / "second/recommender.json", (2e9, 2e9))
        assert await watch.look()
        new = service.run(None)
        assert new.model_id != old.model_id
        assert new.rec.data.n_users == newer.data.n_users
        broken = home / "third"
        shutil.copytree(home / "second", broken)
        weights = bytearray((broken / "weights.safetensors").read_bytes())
        weights[-1] ^= 1
        (broken / "weights.safetensors").write_bytes(weights)
        os.utime(broken / "recommender.json", (2.1e9, 2.1e9))
        assert not await watch.look()
        assert service.run(None) is new
        assert not await watch.look()  # and is not read again and again
        shutil.rmtree(broken)
        assert await watch.look()

    asyncio.run(story())
    service.close()


def test_a_run_of_other_ids_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(runs["ease"], tmp_path / "watched/first")
    app = create_app(tmp_path / "watched/first", Settings(store=f"sqlite:///{tmp_path}/s.db", log="off"))
    service = app.state.service
    data = small_data().frame()
    import polars as pl

    from palate.data.dataset import Dataset

    texts = Dataset.from_frame(data.with_columns(pl.col("user_id", "item_id").cast(pl.String)))
    Recommender.train(texts, "ease", seed=0).save(tmp_path / "watched/second")
    os.utime(tmp_path / "watched/second/recommender.json", (2e9, 2e9))
    old = service.run(None)
    assert not asyncio.run(Watch(service, tmp_path / "watched", old).look())
    assert service.run(None) is old
    service.close()


def test_the_export_is_a_table_of_interactions(serve: Serve, runs: dict[str, Path], tmp_path: Path) -> None:
    client = serve(runs["ease"])
    entries = [
        {"user_id": 1, "item_id": 101, "timestamp": 5}, {"user_id": 2, "item_id": 102, "type": "seen"},
        {"user_id": 2, "item_id": 103, "type": "rating", "value": 2, "timestamp": 9},
    ]  # fmt: skip
    client.post("/v1/feedback", json={"feedback": entries})
    url = f"sqlite:///{tmp_path}/feedback.db"
    found = interactions(runs["ease"], url)
    data = Recommender.load(runs["ease"]).data
    assert data.rating is not None
    liked = (float(data.rating.mean()) + 5) / 2
    assert found.rows() == [(1, 101, pytest.approx(liked), 5), (2, 103, 2.0, 9)]
    assert interactions(runs["ease"], url, everything=True)["type"].to_list() == ["like", "seen", "rating"]


@pytest.mark.parametrize("wrong", [{"rate_limit": "often"}, {"max_body": 0}, {"threads": 0}])
def test_settings_are_checked(runs: dict[str, Path], tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        TestClient(create_app(runs["ease"], Settings(store=f"sqlite:///{tmp_path}/s.db", **wrong))).__enter__()


def test_a_card_shows_what_was_measured_of_this_run_only(serve: Serve, runs: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs["ease"], folder)
    rec, other = Recommender.load(folder), Recommender.load(runs["popularity"])
    found = rec.evaluate(rec.parts["test"], ["ndcg@10", "gini@10"])
    baseline = other.evaluate(other.parts["test"], ["ndcg@10"])
    write_summary(folder, "ease", {"ease": found, "popularity": baseline})
    [card] = serve(folder, store=f"sqlite:///{tmp_path}/one.db").get("/v1/models").json()["models"]
    metrics = {one["metric"]: one for one in card["metrics"]}
    estimate = found["ndcg@10"]
    assert metrics["ndcg@10"] == {
        "metric": "ndcg@10", "value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n,
        "better": "higher",
    }  # fmt: skip
    assert metrics["gini@10"]["better"] == "lower"
    assert card["slices"][0]["slice"] == "all"
    assert [one["name"] for one in card["baselines"]] == ["popularity"]
    Recommender.load(runs["popularity"]).save(folder)  # Another run takes the place; the file stays.
    assert (folder / "evaluation.json").exists()
    [card] = serve(folder, store=f"sqlite:///{tmp_path}/two.db").get("/v1/models").json()["models"]
    assert card["metrics"] is None
