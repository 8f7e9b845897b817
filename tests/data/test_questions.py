"""What a held-out part asks: by hand, and against plain Python; evaluation of successive targets and of sessions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.data import queries as questions
from palate.data.dataset import Dataset
from palate.data.events import Events
from palate.data.ragged import Ragged
from palate.errors import ConfigError, DataError
from palate.evaluation.compare import compare
from palate.evaluation.evaluate import Evaluation, evaluate
from palate.evaluation.protocol import Protocol
from palate.evaluation.protocols import prepare
from palate.explanation.fidelity import fidelity
from palate.models import MODELS
from palate.models.base import Model

ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 8)), min_size=2, max_size=60)


def read(rows: list[tuple[int, int, int]], **options: Any) -> Dataset:
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    return Dataset.read(frame, **{"duplicates": "keep"} | options)


def asked(part: Dataset) -> list[tuple[Any, list[Any], list[Any]]]:
    """Every question of a part as ids: user, history, targets."""
    items, found = part.items.ids.to_list(), []
    whole = part.questions
    for which in whole.blocks(2):
        queries, targets = whole.queries(which, part.spec), whole.targets(which)
        for row, user in enumerate(whole.user[which]):
            history = [items[item] for item in queries.history[row].tolist()]
            found.append((part.users.ids[int(user)], history, [items[part.item[at]] for at in targets[row].tolist()]))
    return found


def fitted(name: str, train: Dataset) -> Model:
    model = MODELS[name](MODELS[name].Config(), MODELS[name].spec_of(train))
    model.fit(train)
    return model


@settings(max_examples=60)
@given(ROWS, st.sampled_from(["all", "last", "successive"]))
def test_questions_are_those_of_plain_python(rows: list[tuple[int, int, int]], targets: Any) -> None:
    data = read(rows)
    try:
        parts = data.split("temporal", valid=0.2, test=0.3, targets=targets)
    except DataError:
        return
    ordered = sorted(rows, key=lambda row: row[2])
    for part in (parts.valid, parts.test):
        begin, end = part.timestamp.min(), part.timestamp.max()
        if targets == "last":  # the part begins with its history
            cuts = [int(np.datetime64(n.split(" begins at ")[1].split(" UTC")[0]).astype(int)) for n in parts.notes[:2]]
            begin = cuts[0] if part is parts.valid else cuts[1]
            end = cuts[1] - 1 if part is parts.valid else 10**9
        expected = []
        for user in sorted({row[0] for row in rows}):
            mine = [row for row in ordered if row[0] == user]
            places = [at for at, row in enumerate(mine) if begin <= row[2] <= end]
            before = [item for _, item, _ in mine]
            if targets == "all" and places:
                expected.append((user, before[: places[0]], [before[at] for at in places]))
            if targets == "last":
                expected += [(user, before[:at], [before[at]]) for at in places[-1:] if at]
            if targets == "successive":
                expected += [(user, before[:at], [before[at]]) for at in places if at]
        assert sorted(map(repr, asked(part))) == sorted(map(repr, expected))


def test_a_question_is_asked_at_the_time_of_its_target() -> None:
    parts = read([(0, i % 3, i) for i in range(20)]).split("temporal", valid=0, test=0.2, targets="successive")
    [which] = parts.test.questions.blocks(100)
    queries = parts.test.questions.queries(which, parts.train.spec)
    assert queries.asked_at is not None
    assert queries.asked_at.tolist() == [16, 17, 18, 19]
    assert [int(queries.times[stop - 1]) for stop in queries.history.offsets[1:]] == [15, 16, 17, 18]
    # Whoever asks about users, as explanations do, asks about the last row.
    assert parts.test.queries(np.array([0]), parts.train.spec).history.values.tolist() == [i % 3 for i in range(19)]
    assert len(parts.test.known) == 19


def test_blocks_are_bounded_by_history_values(monkeypatch: pytest.MonkeyPatch) -> None:
    part = read([(0, i % 3, i) for i in range(40)]).split("temporal", valid=0, test=0.5, targets="successive").test
    monkeypatch.setattr(questions, "MAX_HISTORY_VALUES", 70)
    blocks = list(part.questions.blocks(5))
    lengths = [part.questions.length[which].tolist() for which in blocks]
    assert [length for one in lengths for length in one] == list(range(20, 40))
    assert all(len(one) == 1 or sum(one) <= 70 for one in lengths)
    assert len(lengths[0]) == 3
    monkeypatch.setattr(questions, "MAX_HISTORY_VALUES", 10)
    assert [len(part.questions.user[which]) for which in part.questions.blocks(5)] == [1] * 20


def clicks(n: int = 60, seed: int = 0) -> pl.DataFrame:
    """Sessions of 1 to 6 clicks on 9 items, in order of time; an item is often followed by the next one."""
    rng = np.random.default_rng(seed)
    rows = []
    for session in range(n):
        item = int(rng.integers(9))
        for click in range(int(rng.integers(1, 7))):
            rows.append((f"s{session}", f"i{item}", session * 10 + click))
            item = (item + 1) % 9 if rng.random() < 0.8 else int(rng.integers(9))
    return pl.DataFrame(rows, schema=["visit", "item_id", "timestamp"], orient="row")


def test_sessions_split_by_hand() -> None:
    data = Dataset.read(clicks(), session="visit")
    assert data.events == Events(repeats=True, sessions=True)
    parts = data.split("sessions", valid=0.2, test=0.1)
    ids = [set(part.frame()["user_id"]) for part in (parts.train, parts.valid, parts.test)]
    assert ids == [{f"s{i}" for i in range(*span)} for span in ((0, 42), (42, 54), (54, 60))]
    assert parts.test.history is not None
    assert len(parts.test.history) == 0
    whole = {s: g["item_id"].to_list() for (s,), g in clicks().group_by("visit", maintain_order=True)}
    expected = [(s, whole[s][:at], [whole[s][at]]) for s in ids[2] for at in range(1, len(whole[s]))]
    assert sorted(asked(parts.test)) == sorted(expected)
    short = sum(len(whole[s]) == 1 for s in ids[1] | ids[2])
    assert f"sessions: {short} of 18 held-out sessions have fewer than 2 rows and ask nothing" in parts.notes
    queries = parts.train.queries(np.arange(5), parts.train.spec)
    assert queries.user.tolist() == [-1] * 5


def test_sessions_that_all_end_at_once() -> None:
    data = Dataset.read(clicks().with_columns(timestamp=pl.lit(7)), session="visit")
    with pytest.raises(DataError, match="leaves no rows for train and valid: sessions that end in the same second"):
        data.split("sessions")
    parts = Dataset.read(clicks().drop("timestamp"), session="visit").split("sessions", test=0.2)
    assert "the order of the session ids is used instead" in parts.notes[0]


def test_new_items_of_held_out_sessions_can_be_dropped() -> None:
    rows = clicks().with_columns(item_id=pl.when(pl.col("visit") == "s59").then(pl.lit("new")).otherwise("item_id"))
    rows = pl.concat([rows, pl.DataFrame({"visit": ["s59"], "item_id": ["i1"], "timestamp": [999]})])
    parts = Dataset.read(rows, session="visit").split("sessions", test=0.05, valid=0, drop_new_items=True)
    new = rows.filter(pl.col("item_id") == "new").height
    assert any(note.startswith(f"sessions: {new} of ") for note in parts.notes)
    assert "new" not in parts.test.items.ids.to_list()


def evaluated(name: str, parts: Any, protocol: Protocol) -> Evaluation:
    return evaluate(fitted(name, parts.train), parts.test, protocol=protocol, name=name)


def test_sessions_are_evaluated_by_prefix_and_compared_by_session() -> None:
    ready = prepare("session-prefixes", Dataset.read(clicks(200), session="visit"))
    model = fitted("itemknn", ready.parts.train)
    found = evaluate(model, ready.parts.test, protocol=ready.protocol, name="itemknn")
    hits, sessions = [], []
    for session, history, [target] in asked(ready.parts.test):
        queries = replace(
            ready.parts.test.queries(np.array([0]), model.spec),
            history=Ragged.of([ready.parts.test.items.index(history).tolist()]),
            times=None,
        )
        scores = model.score(queries)[0]
        place = int(ready.parts.test.items.index([target])[0])
        rank = 1 + int((scores > scores[place]).sum() + (scores[:place] == scores[place]).sum())
        hits.append(1 / rank)
        sessions.append(session)
    assert found["mrr@20"].n == len(set(sessions))
    assert found.slices["all"].weights.questions.sum() == len(hits)
    assert found["mrr@20"].value == pytest.approx(np.mean(hits), abs=0.02)  # ties are averaged over
    assert found.routes["history"] == 1
    assert set(found.slices) == {"all"}
    again = Evaluation.from_dict(found.to_dict())
    assert again["mrr@20"] == found["mrr@20"]
    assert (again.slices["all"].weights.questions == found.slices["all"].weights.questions).all()
    others = {name: evaluated(name, ready.parts, ready.protocol) for name in ("popularity", "itemknn")}
    difference = compare(others, "mrr@20").differences[0]
    assert difference.value == pytest.approx(others["popularity"]["mrr@20"].value - others["itemknn"]["mrr@20"].value)
    assert difference.significant


def test_block_size_does_not_change_the_result() -> None:
    parts = read([(u, (u + i) % 7, 10 * i + u) for u in range(9) for i in range(12)]).split(
        "temporal", valid=0, test=0.3, targets="successive"
    )
    model = fitted("itemknn", parts.train)
    one, other = (evaluate(model, parts.test, ["ndcg@3", "hit@1"], block=block) for block in (1, 100))
    assert one.estimates == other.estimates


def test_seen_items_and_models_without_histories() -> None:
    data = Dataset.read(clicks(200), session="visit")
    with pytest.raises(DataError, match="NeuMF knows only the users it was trained on, and this data holds sessions"):
        data.require(frozenset({"interactions"}), "NeuMF", histories=False)
    ready = prepare("session-prefixes", data)
    assert not ready.protocol.exclude_seen
    repeated = [target in history for _, history, [target] in asked(ready.parts.test)]
    found = evaluate(fitted("popularity", ready.parts.train), ready.parts.test, ["hit@9"], protocol=ready.protocol)
    assert any(repeated)
    assert found["hit@9"].value == 1.0  # all nine items are listed, those of the session too


def test_fidelity_of_successive_parts_asks_about_the_last_row() -> None:
    ready = prepare("session-prefixes", Dataset.read(clicks(300), session="visit"))
    model = fitted("itemknn", ready.parts.train)
    found = fidelity(model, ready.parts.test, users=10)
    assert 0 < len(found.users) <= 10


def test_given_prefixes_make_whole_sessions() -> None:
    data = Dataset.read(clicks(), session="visit")
    table = pl.DataFrame(
        {
            "prefix": [["i1", "i2", "i1"], ["i1", "i2"], ["i1"], ["i3"], ["i4", "i4"], ["i4"]],
            "target": ["i5", "i1", "i2", "i4", "i0", "i4"],
        }
    )
    ready = prepare("session-prefixes", data, given=table)
    assert sorted((history, target) for _, history, [target] in asked(ready.parts.test)) == sorted(table.rows())
    assert len(ready.parts.valid.active_users) == 6
    assert ready.parts.train.events.sessions
    for faulty in (table[:2], table.reverse()):
        with pytest.raises(DataError, match="expected all prefixes of each session"):
            prepare("session-prefixes", data, given=faulty)
    with pytest.raises(DataError, match="has no column prefix and target"):
        prepare("session-prefixes", data, given=clicks())
    with pytest.raises(DataError, match="must hold lists"):
        prepare("session-prefixes", data, given=table.with_columns(prefix=pl.lit("i1")))
    with pytest.raises(DataError, match="needs sessions, and this data holds users"):
        prepare("session-prefixes", Dataset.read(clicks(), columns={"user_id": "visit"}))


# Reading sessions.


def test_a_gap_of_time_cuts_sessions() -> None:
    rows = [("a", "x", 100), ("a", "y", 160), ("b", "x", 0), ("a", "x", 221), ("b", "x", 60), ("a", "z", 90)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    data = Dataset.read(frame, session_gap="1m")
    assert data.frame().rows() == [
        ("a/1", "z", 90),
        ("a/1", "x", 100),
        ("a/1", "y", 160),
        ("a/2", "x", 221),
        ("b/1", "x", 0),
        ("b/1", "x", 60),
    ]
    assert data.events == Events(repeats=True, sessions=True)
    assert data.notes[0] == "2 users cut into 3 sessions at gaps of more than 60 seconds"


@given(ROWS, st.integers(1, 4))
def test_cuts_are_those_of_plain_python(rows: list[tuple[int, int, int]], gap: int) -> None:
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for user in sorted({row[0] for row in rows}):
        mine = sorted((row for row in rows if row[0] == user), key=lambda row: row[2])
        number, last = 1, mine[0][2]
        for _, item, time in mine:
            number += time - last > gap
            last = time
            found.setdefault((user, number), []).append((item, time))
    data = read(rows, session_gap=gap, duplicates=None).frame()
    got = {k: g.select("item_id", "timestamp").rows() for (k,), g in data.group_by("user_id", maintain_order=True)}
    assert got == {f"{user}/{number}": rows for (user, number), rows in found.items()}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"session_gap": "soon"}, "session_gap = 'soon' is not a time above 0; write for example '30m'"),
        ({"session_gap": 0}, "is not a time above 0"),
        ({"session_gap": "-3m"}, "is not a time above 0"),
        ({"session": "visit", "session_gap": "3m"}, "give one of them"),
        ({"session": "visit", "columns": {"user_id": "timestamp"}}, "sessions take the place of users"),
        ({"session": "visit", "columns": ["user_id", "item_id", None]}, "put user_id where the sessions are"),
        ({"session_gap": "3m", "users": pl.DataFrame({"user_id": ["s1"]})}, "session_gap= cuts them into sessions"),
    ],
)
def test_bad_sessions(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Dataset.read(clicks(), **options)


def test_sessions_without_their_column_or_times() -> None:
    with pytest.raises(DataError, match="no column 'session' for user_id"):
        Dataset.read(clicks(), session="session")
    with pytest.raises(DataError, match="session_gap= needs times"):
        Dataset.read(clicks().drop("timestamp"), session_gap="3m", columns={"user_id": "visit"})


def test_rows_that_repeat_the_one_before_can_be_dropped() -> None:
    data = read([(0, item, time) for time, item in enumerate([1, 1, 2, 1, 1, 1, 3, 2, 2, 4, 5, 6])])
    parts = data.split("temporal", valid=0, test=0.3, drop_repeats=True)
    assert parts.train.frame()["item_id"].to_list() == [1, 2, 1, 3, 2, 4][:6]
    assert parts.notes[0] == "temporal: 4 rows repeat the row before them and were dropped"


def test_a_user_with_one_row_is_not_asked_for_the_last_one() -> None:
    data = read([(0, 1, 1), (0, 2, 2), (0, 3, 9), (1, 1, 9), (2, 1, 1)])
    parts = data.split("temporal", valid=0, test=0.4, targets="last")
    assert asked(parts.test) == [(0, [1, 2], [3])]
    assert "temporal: 1 users have a single row, in valid or test, and are not asked" in parts.notes
    assert torch.equal(parts.test.histories.values, torch.tensor([2]))
