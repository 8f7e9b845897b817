"""Lists over HTTP: the same as in Python, with feedback in them, strict about what they are asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from palate.recommender.recommender import Recommender
from palate.serving import schemas

Serve = Callable[..., TestClient]


def ask(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/recommend", json=body)
    assert answer.status_code == 200, answer.text
    return schemas.RecommendAnswer.model_validate(answer.json(), strict=False).model_dump() and answer.json()


def ids(answer: dict[str, Any]) -> list[Any]:
    return [item["item_id"] for item in answer["items"]]


@pytest.mark.parametrize("model", ["ease", "mf", "popularity"])
def test_lists_are_those_of_the_recommender(serve: Serve, runs: dict[str, Path], model: str) -> None:
    client, rec = serve(runs[model]), Recommender.load(runs[model])
    for user in (1, 2, 30, 60):
        found, expected = ask(client, user_id=user, k=7), rec.recommend(users=[user], k=7)
        assert ids(found) == expected["item_id"].to_list()
        assert found["route"] == expected["route"][0]
        assert [i["score"] for i in found["items"]] == pytest.approx(expected["score"].to_list(), rel=1e-6)
        assert [i["rank"] for i in found["items"]] == list(range(1, 8))
        assert [i["title"] for i in found["items"]] == rec.data.titles(rec.data.items.index(expected["item_id"]))
        by_path = client.get(f"/v1/recommend/{user}?k=7").json()
        assert by_path["items"] == found["items"]
    options = {"history": [101, 103, 105], "k": 5}
    assert ids(ask(client, **options)) == rec.recommend(history=[101, 103, 105], k=5)["item_id"].to_list()
    fresh = rec.recommend(users=[3], history=[100, 102], k=5)["item_id"].to_list()
    assert ids(ask(client, user_id=3, history=[100, 102], k=5)) == fresh


def test_every_answer_says_where_it_comes_from(serve: Serve, runs: dict[str, Path]) -> None:
    client = serve(runs["mf"])
    found = client.post("/v1/recommend", json={"user_id": 1}, headers={"X-Request-ID": "mine-1"})
    answer = found.json()
    assert answer["request_id"] == found.headers["x-request-id"] == "mine-1"
    assert (answer["model"], answer["route"]) == ("mf", "history")  # the held-out rows are newer than training
    assert len(answer["model_id"]) == 12
    assert 0 <= answer["model_age_s"] < 3600
    assert answer["feedback_seen_until"].endswith("Z")
    assert ask(client, history=[101])["feedback_seen_until"] is None
    assert client.get("/v1/recommend/1", headers={"X-Request-ID": "bad id\x7f"}).headers["x-request-id"] != "bad id\x7f"


@pytest.mark.parametrize("model", ["ease", "mf"])
def test_feedback_is_in_the_next_list(serve: Serve, runs: dict[str, Path], model: str) -> None:
    client, rec = serve(runs[model]), Recommender.load(runs[model])
    before = ask(client, user_id=5, k=8)
    liked = ids(before)[2]
    stored = client.post("/v1/feedback", json={"user_id": 5, "item_id": liked})
    assert stored.status_code == 200, stored.text
    assert schemas.FeedbackAnswer.model_validate(stored.json()).results[0].result == "new"
    after = ask(client, user_id=5, k=8)
    assert liked not in ids(after)
    assert after["route"] == "history"
    assert after["feedback"] == {"stored": 1, "folded_in": 1, "excluded": 1}
    assert ids(after) == rec.recommend(users=[5], history=[liked], k=8)["item_id"].to_list()
    assert client.request("DELETE", "/v1/feedback", json={"user_id": 5, "item_id": liked}).json()["removed"] == 1
    undone = ask(client, user_id=5, k=8)
    assert undone["items"] == before["items"]
    assert undone["route"] == before["route"]


def test_what_is_not_liked_is_left_out_and_not_folded_in(serve: Serve, runs: dict[str, Path]) -> None:
    client = serve(runs["ease"])
    first = ids(ask(client, user_id=5, k=8))
    entries = ({"type": "not_interested"}, {"type": "seen"}, {"type": "rating", "value": 1})
    for item, entry in zip(first, entries, strict=False):
        assert client.post("/v1/feedback", json={"user_id": 5, "item_id": item, **entry}).status_code == 200
    after = ask(client, user_id=5, k=5)
    assert after["feedback"] == {"stored": 3, "folded_in": 0, "excluded": 3}
    assert ids(after) == first[3:]
    assert not set(first[:3]) & set(ids(ask(client, user_id=5, k=40, include_seen=True)))


def test_a_model_that_rates_folds_in_low_ratings(serve: Serve, runs: dict[str, Path]) -> None:
    client, rec = serve(runs["mf"]), Recommender.load(runs["mf"])
    item = ids(ask(client, user_id=5))[0]
    client.post("/v1/feedback", json={"user_id": 5, "item_id": item, "type": "rating", "value": 1})
    expected = rec.recommend(users=[5], history=[item], ratings=[1.0], k=10)
    assert ids(ask(client, user_id=5)) == expected["item_id"].to_list()


def test_a_user_of_feedback_alone(serve: Serve, runs: dict[str, Path]) -> None:
    client, rec = serve(runs["ease"]), Recommender.load(runs["ease"])
    assert client.post("/v1/recommend", json={"user_id": 777}).status_code == 404
    assert ask(client, user_id=777, unknown="popularity")["route"].startswith("popularity")
    for item in (101, 103):
        client.post("/v1/feedback", json={"user_id": 777, "item_id": item})
    found = ask(client, user_id=777, k=6)
    assert found["route"] == "history"
    assert ids(found) == rec.recommend(history=[101, 103], k=6)["item_id"].to_list()
    assert client.get("/v1/users/777").json()["feedback"]["count"] == 2


def test_rules_candidates_and_reasons(serve: Serve, runs: dict[str, Path]) -> None:
    client = serve(runs["ease"])
    plain = ask(client, user_id=9, k=10)
    assert ids(ask(client, user_id=9, k=9, exclude=ids(plain)[:1])) == ids(plain)[1:]
    years = ask(client, user_id=9, filter="year >= 1985", fields=True)
    assert years["items"]
    assert all(item["fields"]["year"] >= 1985 for item in years["items"])
    chosen = ids(plain)[3:6]
    assert ids(ask(client, user_id=9, candidates=chosen)) == chosen
    assert ids(ask(client, user_id=9, diversity=0.9)) != ids(plain)
    counts = {item["item_id"]: item["interactions"] for item in client.get("/v1/items?limit=40").json()["items"]}
    popular, rare = (ask(client, user_id=9, familiarity=sign, k=10) for sign in (1, -1))
    assert sum(counts[i] for i in ids(popular)) > sum(counts[i] for i in ids(rare))
    told = ask(client, user_id=9, explain=True, k=3)
    assert ids(told) == ids(plain)[:3]
    assert all(item["reason"] for item in told["items"])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"filter": "year > 3000"}, "filter"),
        ({"candidates": []}, "candidates"),
        ({"exclude": [100 + i for i in range(40)]}, "excluded"),
    ],
)
def test_an_empty_list_says_why(serve: Serve, runs: dict[str, Path], body: dict[str, Any], reason: str) -> None:
    found = ask(serve(runs["ease"]), user_id=9, **body)
    assert found["items"] == []
    assert found["empty_reason"] == reason
    assert found["notes"][0].startswith("0 of 10 items are listed")


def test_the_cache_never_shows_old_feedback(serve: Serve, runs: dict[str, Path]) -> None:
    client = serve(runs["ease"])
    for _ in range(3):
        first = ids(ask(client, user_id=4))[0]
        assert ids(ask(client, user_id=4))[0] == first
        client.post("/v1/feedback", json={"user_id": 4, "item_id": first, "type": "seen"})
        assert first not in ids(ask(client, user_id=4))
    stats = client.get("/v1/stats").json()
    assert stats["cache_hit_rate"] > 0.3
    assert stats["feedback_rows"] == 3


def test_rank_predict_similar(serve: Serve, runs: dict[str, Path]) -> None:
    client, rec = serve([runs["mf"], runs["ease"]]), Recommender.load(runs["mf"])
    ranked = client.post("/v1/rank", json={"user_id": 3, "items": [101, 5, 102, 103]}).json()
    schemas.RankAnswer.model_validate(ranked)
    assert sorted(ids(ranked)) == [101, 102, 103]
    scores = [item["score"] for item in ranked["items"]]
    assert scores == sorted(scores, reverse=True)
    assert ranked["unknown_items"] == [5]
    predicted = client.post("/v1/predict", json={"history": [101, 103], "ratings": [5, 1], "items": [102, 999]}).json()
    schemas.PredictAnswer.model_validate(predicted)
    assert [item["route"] for item in predicted["items"]] == ["history", "fallback"]
    assert all(1 <= item["prediction"] <= 5 for item in predicted["items"])
    ranks_only = client.post("/v1/predict", json={"user_id": 3, "items": [101], "model": "ease"})
    assert (ranks_only.status_code, ranks_only.json()["type"]) == (409, "urn:palate:error:cannot-answer")
    near = client.get("/v1/similar/101?k=4").json()
    schemas.SimilarAnswer.model_validate(near)
    assert ids(near) == rec.similar(101, 4)["item_id"].to_list()


def test_explanations_add_up(serve: Serve, runs: dict[str, Path]) -> None:
    client = serve(runs["ease"])
    item = ids(ask(client, user_id=3))[0]
    body = {"user_id": 3, "item_id": item, "counterfactual": True, "top": 3}
    found = client.post("/v1/explain", json=body)
    assert found.status_code == 200, found.text
    answer = schemas.ExplainAnswer.model_validate(found.json())
    total = answer.base + sum(one.value for one in answer.contributions) + answer.other + answer.residual
    assert total == pytest.approx(answer.score, abs=1e-5)
    assert len(answer.contributions) == 3
    assert answer.rank == 1
    assert answer.counterfactual is not None
    assert answer.counterfactual.sentence
    removed = [one["item_id"] for one in answer.counterfactual.removed or ()]
    rec = Recommender.load(runs["ease"])
    history = [row["item_id"] for row in client.get("/v1/users/3?limit=1000").json()["training"]["items"]]
    without = rec.recommend(history=[i for i in reversed(history) if i not in removed], k=10 + len(removed))
    left = [i for i in without["item_id"].to_list() if i not in removed][:10]
    assert item not in left
    nothing = client.post("/v1/explain", json={"user_id": 888, "item_id": item, "unknown": "popularity"})
    assert nothing.status_code == 409


BAD: list[tuple[Any, int, str]] = [
    ({}, 422, "config-error"),
    ({"user_id": 1, "k": 0}, 422, "invalid-request"),
    ({"user_id": 1, "k": -3}, 422, "invalid-request"),
    ({"user_id": 1, "k": 1001}, 422, "config-error"),
    ({"user_id": 1, "k": "10"}, 422, "invalid-request"),
    ({"user_id": 1, "k": 1.5}, 422, "invalid-request"),
    ({"user_id": 1, "kk": 3}, 422, "invalid-request"),
    ({"user_id": True}, 422, "invalid-request"),
    ({"user_id": 1.0}, 422, "invalid-request"),
    ({"user_id": [1]}, 422, "invalid-request"),
    ({"user_id": 2**70}, 422, "invalid-request"),
    ({"user_id": "1"}, 422, "data-error"),
    ({"user_id": 99999}, 404, "unknown-id"),
    ({"history": [1, 2]}, 404, "unknown-id"),
    ({"history": ["101"]}, 404, "unknown-id"),
    ({"history": [101] * 6000}, 422, "config-error"),
    ({"history": [101], "ratings": [3, 4]}, 422, "config-error"),
    ({"user_id": 1, "ratings": [3]}, 422, "config-error"),
    ({"user_id": 1, "features": {"age": 3}}, 422, "config-error"),
    ({"features": {"colour": "red"}}, 422, "data-error"),
    ({"features": {"age": {"deep": 1}}}, 422, "invalid-request"),
    ({"user_id": 1, "diversity": 2}, 422, "invalid-request"),
    ({"user_id": 1, "exclude": [5]}, 404, "unknown-id"),
    ({"user_id": 1, "candidates": "all"}, 422, "invalid-request"),
    ({"user_id": 1, "model": "gpt"}, 404, "unknown-id"),
    ({"user_id": 1, "filter": "year >"}, 422, "config-error"),
    ({"user_id": 1, "filter": "1=1; DROP TABLE items"}, 422, "config-error"),
    ({"user_id": 1, "filter": "(SELECT 1) = 1"}, 422, "config-error"),
    ({"user_id": 1, "filter": "(" * 500 + "year > 1" + ")" * 500}, 422, "config-error"),
    ({"user_id": 1, "filter": "x" * 20_000}, 422, "invalid-request"),
    ([], 422, "invalid-request"),
    ("text", 422, "invalid-request"),
]


@pytest.mark.parametrize(("body", "status", "kind"), BAD, ids=[str(body)[:40] for body, *_ in BAD])
def test_bad_requests_are_problems(serve: Serve, runs: dict[str, Path], body: Any, status: int, kind: str) -> None:
    found = serve(runs["ease"]).post("/v1/recommend", json=body)
    assert found.headers["content-type"] == "application/problem+json"
    document = schemas.ProblemDocument.model_validate(found.json())
    assert (found.status_code, document.type) == (status, f"urn:palate:error:{kind}")
    assert document.status == status
    assert document.request_id == found.headers["x-request-id"]
    assert "Traceback" not in found.text
