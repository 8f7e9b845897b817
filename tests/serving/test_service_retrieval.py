"""Approximate lists of the service: recall on a planted catalogue, what is never listed, and when lists stay exact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from starlette.testclient import TestClient

from palate.data.dataset import Dataset
from palate.recommender.recommender import Recommender

pytest.importorskip("faiss", reason="pip install 'palate[ann]'")

Serve = Callable[..., TestClient]
GROUPS, OF_GROUP, USERS, CHOSEN = 40, 75, 240, 30
N_ITEMS = GROUPS * OF_GROUP


def trained(home: Path, tastes: int) -> Path:
    """A run on 3,000 items in 40 groups; each user chooses from as many groups as `tastes` says."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(USERS):
        groups = rng.permutation(GROUPS)[:tastes]
        items = rng.choice(np.concatenate([group * OF_GROUP + np.arange(OF_GROUP) for group in groups]), CHOSEN, False)
        rows += [(user, int(item)) for item in items]
    rows += [(item % USERS, item) for item in range(N_ITEMS)]  # each item occurs
    frame = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").unique(maintain_order=True)
    items = pl.DataFrame({"item_id": range(N_ITEMS), "group": [str(item // OF_GROUP) for item in range(N_ITEMS)]})
    config = {"dim": 48, "iterations": 4}
    Recommender.train(Dataset.from_frame(frame, items), "ials", config, seed=0).save(home)
    return home


def retrieval(client: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/v1/models").json()["models"][0]["retrieval"]
    return found


def listed(client: TestClient, user: int, **asked: Any) -> list[int]:
    answer = client.post("/v1/recommend", json={"user_id": user, **asked})
    assert answer.status_code == 200, answer.text
    return [one["item_id"] for one in answer.json()["items"]]


def test_recall_is_measured_and_stated(serve: Serve, tmp_path: Path) -> None:
    run = trained(tmp_path / "run", tastes=1)
    exact, near = serve(run), serve(run, exact_items=N_ITEMS - 1)
    assert retrieval(exact) == {"method": "exact", "recall": None, "items": N_ITEMS}
    stated = retrieval(near)
    assert stated["method"] == "faiss"
    lists = [(listed(exact, user), listed(near, user)) for user in range(200)]
    assert stated["recall"] == pytest.approx(np.mean([len(set(one) & set(other)) / 10 for one, other in lists]))
    assert stated["recall"] >= 0.95
    same = next(user for user, (one, other) in enumerate(lists) if one == other)
    scores = [
        [one["score"] for one in client.post("/v1/recommend", json={"user_id": same}).json()["items"]]
        for client in (exact, near)
    ]
    assert scores[1] == pytest.approx(scores[0], rel=1e-4)  # the model's own scores, not those of the index


def test_approximate_lists_leave_out_what_exact_ones_do(serve: Serve, tmp_path: Path) -> None:
    near = serve(trained(tmp_path / "run", tastes=1), exact_items=0)
    seen = near.get("/v1/users/3?limit=100").json()["training"]["items"]
    before = listed(near, 3, k=20)
    assert len(before) == 20
    assert not {one["item_id"] for one in seen} & set(before)
    assert before[0] not in listed(near, 3, exclude=before[:1])
    assert near.post("/v1/feedback", json={"user_id": 3, "item_id": before[1]}).status_code == 200
    after = near.post("/v1/recommend", json={"user_id": 3, "k": 20}).json()
    assert before[1] not in [one["item_id"] for one in after["items"]]
    assert after["feedback"]["folded_in"] == 1
    assert near.patch(f"/v1/items/{before[2]}", json={"hidden": True}).status_code == 200
    assert before[2] not in listed(near, 3, k=20)
    few = [before[0], before[5], 0, 1]
    assert set(listed(near, 3, candidates=few, k=4)) <= set(few)
    group = before[0] // OF_GROUP + 1
    assert {item // OF_GROUP for item in listed(near, 3, filter=f"group = '{group}'")} == {group}
    assert len(listed(near, 3, familiarity=0.5)) == len(listed(near, 3, diversity=0.5)) == 10
    assert near.post("/v1/recommend", json={"history": before[:3]}).json()["route"] == "history"


def test_lists_are_exact_where_too_little_is_found(serve: Serve, tmp_path: Path) -> None:
    run = trained(tmp_path / "run", tastes=GROUPS)  # no groups: near items lie in many cells
    exact, near = serve(run), serve(run, exact_items=0)
    stated = retrieval(near)
    assert stated["method"] == "exact"
    assert 0 < stated["recall"] < 0.95
    assert [listed(near, user) for user in range(5)] == [listed(exact, user) for user in range(5)]
