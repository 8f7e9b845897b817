"""The typed client against a real server: answers, errors, keys, repetitions; and its own process without torch."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from running import Server

from palate.errors import CannotAnswer, ConfigError, DataError, UnknownId
from palate.recommender.recommender import Recommender
from palate.serving.client import Client, ServiceError
from palate.serving.keys import add_key
from palate.serving.store import Store


@pytest.fixture(scope="module")
def url(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("client")
    server = Server(folder / "log", runs["ease"], runs["mf"], store=f"sqlite:///{folder}/store.db")
    try:
        yield f"http://127.0.0.1:{server.wait().port}"
    finally:
        server.stop()


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as opened:
        yield opened
        for user in (3, 7, 9001):
            opened.forget(user)


def test_lists_are_those_of_the_recommender(client: Client, runs: dict[str, Path]) -> None:
    rec = Recommender.load(runs["ease"])
    expected = rec.recommend([3], k=5)
    found = client.recommend(3, k=5)
    assert [item.item_id for item in found.items] == expected["item_id"].to_list()
    assert [item.score for item in found.items] == pytest.approx(expected["score"].to_list(), abs=1e-5)
    assert (found.route, found.model, found.k) == (expected["route"][0], "ease", 5)
    new = client.recommend(history=[101, 103], k=3, filter="year >= 1980", explain=True, fields=True)
    assert new.route == "history"
    assert all(item.reason and item.fields and item.fields["year"] >= 1980 for item in new.items)
    assert client.recommend(3, k=2, model="mf").model == "mf"
    assert not {item.item_id for item in client.recommend(3, k=5, exclude=[found.items[0].item_id]).items} & {
        found.items[0].item_id
    }


def test_all_other_questions(client: Client, runs: dict[str, Path]) -> None:
    rec = Recommender.load(runs["mf"])
    ranked = client.rank([101, 102, 999], 3)
    assert ranked.unknown_items == [999]
    assert {item.item_id for item in ranked.items} == {101, 102}
    predicted = client.predict([101, 102], 3, model="mf")
    assert predicted.rating_scale == (1, 5)
    expected = rec.predict([3], [101, 102])
    assert [one.item_id for one in predicted.items] == expected["item_id"].to_list()
    similar = client.similar(101, 4)
    expected = Recommender.load(runs["ease"]).similar(101, 4)
    assert [item.item_id for item in similar.items] == expected["item_id"].to_list()
    listed = client.recommend(3, k=1).items[0]
    why = client.explain(listed.item_id, 3, counterfactual=True)
    assert why.score == pytest.approx(listed.score, abs=1e-4)
    assert why.score == pytest.approx(
        why.base + sum(one.value for one in why.contributions) + why.other + why.residual, abs=1e-3
    )
    assert why.counterfactual is not None
    assert client.items("amelie")["items"][0]["title"] == "Amélie 7"
    assert client.item(107)["title"] == "Amélie 7"
    assert len(client.onboard(4)["items"]) == 4
    assert client.models()["names"] == ["ease", "mf"]
    assert client.ready()


def test_feedback_counts_and_is_undone(client: Client) -> None:
    before = client.recommend(7, k=5)
    first = before.items[0].item_id
    stored = client.feedback(7, first, "rating", 5)
    assert [result.result for result in stored.results] == ["new"]
    after = client.recommend(7, k=5)
    assert first not in [item.item_id for item in after.items]
    assert after.feedback is not None
    assert after.feedback.stored == 1
    assert client.user(7)["feedback"]["items"][0]["value"] == 5
    kept = client.feedback(7, first, "rating", 1, mode="keep")
    assert kept.results[0].result == "kept"
    assert client.undo(7, first).removed == 1
    assert [item.item_id for item in client.recommend(7, k=5).items] == [item.item_id for item in before.items]
    many = client.feedback_many([{"user_id": 9001, "item_id": item} for item in (101, 103)])
    assert many.accepted == 2
    assert client.recommend(9001, k=3).route == "history"
    assert client.forget(9001)["removed"] == 2
    with pytest.raises(UnknownId, match="9001"):
        client.recommend(9001)


def test_a_repeated_key_is_stored_once(client: Client) -> None:
    one = client.feedback(3, 120, idempotency_key="again-1")
    two = client.feedback(3, 120, idempotency_key="again-1")
    assert one.results == two.results
    assert one.stored_at == two.stored_at
    with pytest.raises(ServiceError, match="idempotency") as refused:
        client.feedback(3, 121, idempotency_key="again-1")
    assert (refused.value.status, refused.value.kind) == (409, "idempotency-conflict")


def test_errors_are_those_of_palate(client: Client) -> None:
    with pytest.raises(UnknownId, match="unknown user 4711: not among the 60 users"):
        client.recommend(4711)
    with pytest.raises(CannotAnswer, match="ranks items; it does not predict ratings"):
        client.predict([101], 3)
    with pytest.raises(ConfigError, match="k"):
        client.recommend(3, k=0)
    with pytest.raises(ConfigError, match=r"where|filter|nonsense"):
        client.recommend(3, filter="nonsense >")
    with pytest.raises(DataError, match="text"):
        client.recommend("three")
    with pytest.raises(CannotAnswer):
        client.add_items([{"item_id": 5000, "title": "x"}])
    with pytest.raises(ConfigError, match=r"3 faults\n  - feedback"):
        client.feedback_many([{"user_id": 3, "item_id": 101, "type": "adore"}, {"user_id": 3.5, "item_id": 101}])


def test_hidden_items_are_in_no_list(client: Client) -> None:
    [first] = client.recommend(3, k=1).items
    assert client.hide(first.item_id)["hidden"]
    assert client.recommend(3, k=1).items[0].item_id != first.item_id
    assert not client.hide(first.item_id, hidden=False)["hidden"]
    assert client.recommend(3, k=1).items[0].item_id == first.item_id


def test_a_key_is_sent(server: Callable[..., Server], runs: dict[str, Path], tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/store.db"
    opened = Store(store)
    try:
        key = add_key(opened.engine, "reader", ["read"])
    finally:
        opened.close()
    url = f"http://127.0.0.1:{server(runs['ease'], store=store).port}"
    with Client(url, retries=0) as nobody, pytest.raises(ServiceError) as refused:
        nobody.recommend(3)
    assert (refused.value.status, refused.value.kind) == (401, "unauthorized")
    with Client(url, key.split()[-1]) as reader:
        assert len(reader.recommend(3, k=4).items) == 4
        with pytest.raises(ServiceError, match="scope write") as refused:
            reader.feedback(3, 101)
    assert refused.value.kind == "forbidden"
    assert refused.value.request_id


class Flaky(BaseHTTPRequestHandler):
    """Answers 503, closes without an answer, and then answers; notes what it was sent."""

    seen: list[tuple[str, Any]] = []  # noqa: RUF012

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append((self.path, self.headers["Idempotency-Key"]))
        if len(self.seen) == 2:
            self.close_connection = True
            return
        content = {"detail": "busy", "type": "urn:palate:error:overloaded", "request_id": "r"}
        if len(self.seen) > 2:
            content = {"accepted": 1, "results": [], "stored_at": "now", "request_id": "r"}
        body = json.dumps(content).encode()
        self.send_response(200 if len(self.seen) > 2 else 503)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def flaky() -> Iterator[str]:
    Flaky.seen.clear()
    server = HTTPServer(("127.0.0.1", 0), Flaky)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_feedback_is_sent_again_under_the_same_key(flaky: str) -> None:
    began = time.monotonic()
    with Client(flaky) as client:
        assert client.feedback(1, 2).accepted == 1
    assert time.monotonic() - began >= 1  # as Retry-After says
    assert len(Flaky.seen) == 3
    assert len({key for _, key in Flaky.seen}) == 1
    assert len(Flaky.seen[0][1]) == 32


def test_new_items_are_not_sent_twice(flaky: str) -> None:
    Flaky.seen.append(("", ""))
    with Client(flaky) as client, pytest.raises(ServiceError, match="no answer from"):
        client.add_items([{"item_id": 1}])
    assert len(Flaky.seen) == 2


def test_a_service_that_is_gone(flaky: str) -> None:
    with Client("http://127.0.0.1:9", retries=1, timeout=1) as client:
        assert not client.ready()
        with pytest.raises(ServiceError, match=r"no answer from http://127\.0\.0\.1:9") as refused:
            client.recommend(1)
    assert refused.value.status == 0


def test_the_client_needs_no_torch(url: str) -> None:
    code = f"""
import sys
from palate.serving.client import Client
with Client({url!r}) as client:
    print(len(client.recommend(3, k=6).items))
assert not {{"torch", "polars", "numpy", "fastapi", "sqlalchemy"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "6"
