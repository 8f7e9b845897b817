"""vmis-knn and markov: equal to plain Python, explained by what they add up, and safe with strange histories."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.data.dataset import Dataset, Queries
from palate.data.events import Events
from palate.data.ragged import Ragged
from palate.errors import ArtifactError
from palate.explanation.explain import explain, reasons
from palate.models import MODELS
from palate.models.base import Model
from palate.models.buffers import check_tensors
from palate.models.neighbours import nearest
from palate.models.sequence import markov
from palate.recommender.recommender import Recommender

NAMES = ["vmis-knn", "markov"]
SESSIONS = st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=9), min_size=1, max_size=12)


def read(sessions: Sequence[Sequence[int]], times: bool = True) -> Dataset:
    rows = [(s, item, 10 * s + place) for s, session in enumerate(sessions) for place, item in enumerate(session)]
    frame = pl.DataFrame(rows, schema=["session", "item_id", "timestamp"], orient="row")
    return Dataset.read(frame if times else frame.drop("timestamp"), session="session")


def fitted(name: str, data: Dataset, **config: Any) -> Model:
    model = MODELS[name](MODELS[name].Config(**config), data.spec)
    model.fit(data)
    return model


def ask(data: Dataset, sessions: Sequence[Sequence[int]]) -> Queries:
    rows = Ragged.of([data.items.index(pl.Series(session, dtype=pl.Int64)).tolist() for session in sessions])
    return Queries(torch.full((len(sessions),), -1), rows)


def vmis(data: Dataset, session: list[int], m: int, k: int, decay: float, window: int, max_history: int) -> list[float]:
    """Scores by the formula, session by session."""
    past = [data.item[data.offsets[u] : data.offsets[u + 1]].tolist() for u in range(data.n_users)]
    session = session[-max_history:]
    weight = {item: ((place + 1) / len(session)) ** decay for place, item in enumerate(session)}
    age = {item: len(session) - 1 - place for place, item in enumerate(session)}
    newest = [number for number in reversed(range(len(past))) if set(past[number]) & set(session)]
    # The index holds the m newest sessions of each item.
    holds = {i: [n for n in reversed(range(len(past))) if i in past[n]][:m] for i in weight}
    similar = {n: sum(weight[i] for i in weight if n in holds[i]) for n in newest}
    newest = [n for n in newest if similar[n] > 0][:m]
    scores = [0.0] * data.n_items
    for n in sorted(newest, key=lambda n: (-similar[n], -n))[:k]:
        match = max(0.0, 1 - min(age[i] for i in weight if n in holds[i]) / window)
        for item in set(past[n]):
            scores[item] += similar[n] * match * math.log(len(past) / sum(item in one for one in past))
    return scores


@settings(max_examples=80)
@given(
    SESSIONS, SESSIONS, st.integers(1, 6), st.integers(1, 5), st.sampled_from([0.0, 1.0, 2.0]), st.integers(1, 5),
    st.integers(1, 6), st.booleans(),
)  # fmt: skip
def test_vmis_knn_is_the_formula(
    past: list[list[int]], asked: list[list[int]], m: int, k: int, decay: float, window: int, length: int, times: bool
) -> None:
    data = read(past, times)
    known = set(data.items.ids)
    asked = [[item for item in session if item in known] for session in asked]
    queries = ask(data, asked)
    settings = {"m": m, "k": k, "decay": decay, "window": window, "max_history": length}
    model = fitted("vmis-knn", data, **settings)
    expected = [vmis(data, row.tolist(), **settings) for row in queries.history]
    np.testing.assert_allclose(model._score(queries), np.array(expected).reshape(len(asked), -1), atol=1e-5)
    check_tensors(model)


def rules(data: Dataset, session: list[int], gaps: int, last: int, decay: float) -> list[float]:
    """Scores of Markov rules by the formula, event by event."""
    follows: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for user in range(data.n_users):
        events = data.item[data.offsets[user] : data.offsets[user + 1]].tolist()
        for place, item in enumerate(events):
            for gap in range(1, gaps + 1):
                if place + gap < len(events) and events[place + gap] != item:
                    follows[item][events[place + gap]] += 1 / gap
    scores = [0.0] * data.n_items
    for age, item in enumerate(reversed(session[-last:])):
        for after, count in follows[item].items():
            scores[after] += decay**age * count / sum(follows[item].values())
    return scores


@settings(max_examples=80)
@given(SESSIONS, SESSIONS, st.integers(1, 4), st.integers(1, 4), st.sampled_from([0.3, 1.0]))
def test_markov_is_the_formula(
    past: list[list[int]], asked: list[list[int]], gaps: int, last: int, decay: float
) -> None:
    data = read(past)
    known = set(data.items.ids)
    queries = ask(data, [[item for item in session if item in known] for session in asked])
    model = fitted("markov", data, gaps=gaps, last=last, decay=decay)
    expected = [rules(data, row.tolist(), gaps, last, decay) for row in queries.history]
    np.testing.assert_allclose(model._score(queries), np.array(expected).reshape(len(asked), -1), atol=1e-5)
    check_tensors(model)


def test_markov_counts_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    data = read([[0, 1, 2, 3, 1], [2, 1, 0], [3, 3, 2]])
    whole = markov.transitions(data, 3).toarray()
    monkeypatch.setattr(markov, "ROWS_PER_BLOCK", 2)
    np.testing.assert_allclose(markov.transitions(data, 3).toarray(), whole)


@settings(max_examples=60)
@given(SESSIONS, st.lists(st.integers(0, 7), min_size=1, max_size=9), st.sampled_from(NAMES))
def test_contributions_and_sessions_add_up_to_the_score(past: list[list[int]], session: list[int], name: str) -> None:
    data = read([*past, list(range(8))])
    model, queries = fitted(name, data), ask(data, [session])
    scores = model._score(queries)[0]
    for item in range(data.n_items):
        share, rest = model.history_contributions(queries, item)
        assert float(share.sum()) + rest == pytest.approx(float(scores[item]), abs=1e-5)
        if name == "vmis-knn":
            users, added = model.neighbours(queries, item)  # type: ignore[operator]
            assert added.sum() == pytest.approx(float(scores[item]), abs=1e-5)
            assert all(item in data.item[data.offsets[u] : data.offsets[u + 1]] for u in users)
            assert (np.diff(added) <= 0).all()


def test_users_are_not_their_own_neighbours() -> None:
    data = replace(read([[0, 1, 2], [0, 3], [4, 5]]), events=Events(repeats=True))
    model = fitted("vmis-knn", data)
    queries = data.queries(np.array([0, 1, 2]), data.spec)
    assert queries.user.tolist() == [0, 1, 2]
    scores = model.score(queries)
    assert scores[0].nonzero().flatten().tolist() == [0, 3]  # of the other session with item 0
    assert scores[2].count_nonzero() == 0
    assert model.score(queries.anonymous())[2].count_nonzero() == 2


@pytest.mark.parametrize("name", NAMES)
def test_histories_as_they_come(name: str) -> None:
    data = read([[0, 1, 2], [0, 1], [2, 0, 1], [1, 2]])
    model = fitted(name, data)
    rng = np.random.default_rng(0)
    huge = rng.integers(0, 3, 100_000).tolist()
    queries = ask(data, [[0], [0, 0, 0, 0], huge, [], [2, 2, 1]])
    scores = model.score(queries)
    assert bool(scores.isfinite().all())
    assert scores.shape == (5, 3)
    newest = ask(data, [huge[-100:]])
    assert torch.equal(model.score(newest)[0], scores[2])
    equal = Dataset.read(data.frame().with_columns(timestamp=pl.lit(5)), session="user_id")
    assert bool(fitted(name, equal).score(queries).isfinite().all())
    backwards = replace(queries, times=torch.arange(len(queries.history.values)).flip(0))
    assert torch.equal(model.score(backwards), scores)
    alone = read([[3]])
    assert fitted(name, alone).score(ask(alone, [[3], []])).shape == (2, 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_training_history_of_100_000_events(name: str) -> None:
    rng = np.random.default_rng(1)
    data = read([rng.integers(0, 50, 100_000).tolist(), [1, 2, 3], [2, 3]])
    model = fitted(name, data)
    assert bool(model.score(ask(data, [[2]])).isfinite().all())


def test_unknown_items_are_skipped() -> None:
    parts = read([[0, 1, 2], [0, 1], [2, 0, 1], [1, 2], [0, 9, 1]]).split("sessions", valid=0, test=0.2)
    model = fitted("markov", parts.train)
    questions = parts.test.questions
    [which] = questions.blocks(10)
    assert questions.queries(which, model.spec).history.values.tolist() == [0, 0]


def test_blocks_do_not_change_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    data = read([rng.integers(0, 9, 6).tolist() for _ in range(60)])
    queries = data.queries(np.arange(60), data.spec)
    model = fitted("vmis-knn", data, k=5)
    scores = model.score(queries)
    monkeypatch.setattr(nearest, "MAX_ENTRIES_PER_BLOCK", 50)
    assert torch.equal(model.score(queries), scores)


def planted(users: int = 500) -> tuple[Dataset, list[tuple[list[str], str, str]]]:
    """`cause k` is followed by `effect k` in nine of ten cases, with at most one click between them; else chance."""
    rng = np.random.default_rng(3)
    rows: list[tuple[int, str, int]] = []
    for session in range(users):
        clicks: list[str] = []
        for k in rng.choice(12, 2, replace=False):
            clicks += [f"noise {n}" for n in rng.integers(0, 20, int(rng.integers(0, 3)))]
            clicks.append(f"cause {k}")
            clicks += [f"noise {rng.integers(0, 20)}"] * int(rng.random() < 0.3)
            clicks += [f"effect {k}"] * int(rng.random() < 0.9)
        rows += [(session, item, 100 * session + place) for place, item in enumerate(clicks)]
    data = Dataset.read(pl.DataFrame(rows, schema=["s", "item_id", "timestamp"], orient="row"), session="s")
    asked = []
    for _ in range(60):
        first, other = rng.choice(12, 2, replace=False)
        clicks = [f"noise {n}" for n in rng.integers(0, 20, 3)] + [f"cause {first}"]
        clicks.insert(int(rng.integers(0, 2)), f"cause {other}")
        clicks += [f"noise {rng.integers(0, 20)}"] * int(rng.random() < 0.5)
        asked.append((clicks, f"effect {first}", f"cause {first}"))
    return data, asked


# Without an item, other sessions become neighbours: what occlusion measures of vmis-knn is more than the item's share.
@pytest.mark.parametrize(
    ("name", "method"),
    [("vmis-knn", "exact"), ("vmis-knn", "shap"), ("markov", "exact"), ("markov", "shap"), ("markov", "occlusion")],
)
def test_the_true_cause_comes_first(name: str, method: str) -> None:
    data, asked = planted()
    model = fitted(name, data)
    found = []
    for clicks, effect, cause in asked:
        query = Queries(torch.tensor([-1]), Ragged.of([data.items.index(clicks).tolist()]))
        told = explain(model, data, query, int(data.items.index([effect])[0]), method, samples=200)
        history = told.of("history")
        found.append(history[0].key == cause and history[0].value > 0)
    assert np.mean(found) >= 0.95


def test_lists_say_which_sessions_are_behind_them() -> None:
    data, asked = planted()
    model = fitted("vmis-knn", data)
    clicks, effect, cause = asked[0]
    item = int(data.items.index([effect])[0])
    query = Queries(torch.tensor([-1]), Ragged.of([data.items.index(clicks).tolist()]))
    told = explain(model, data, query, item)
    [note] = [note for note in told.notes if "sessions" in note]
    users, _ = model.neighbours(query, item)  # type: ignore[operator]
    assert note.startswith(f"{len(users)} similar sessions hold {effect}")
    assert str(data.users.ids[int(users[0])]) in note
    [[sentence]] = reasons(model, data, query, torch.tensor([[item]]))
    assert cause in sentence


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded(name: str, tmp_path: Any) -> None:
    data, asked = planted()
    rec = Recommender.train(data, name)
    rec.save(tmp_path / "run")
    again = Recommender.load(tmp_path / "run")
    lists = [one.recommend(history=asked[0][0], k=5, exclude_seen=False) for one in (rec, again)]
    assert lists[0].equals(lists[1])
    assert set(lists[0]["route"]) == {"history"}
    assert rec.recommend(users=[data.users.ids[0]], k=3)["route"].unique().to_list() == ["history"]
    for buffer in rec.model.dynamic_buffers:
        whole = getattr(rec.model, buffer)
        setattr(rec.model, buffer, whole[:-1])
        with pytest.raises(ArtifactError):
            check_tensors(rec.model)
        setattr(rec.model, buffer, whole)
