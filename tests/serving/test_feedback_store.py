"""The feedback store on SQLite and on a real PostgreSQL: all or nothing, once, seen at once by everybody."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from palate.errors import ConfigError
from palate.serving import database, store
from palate.serving.problems import Problem
from palate.serving.store import Change, Entry, Store, read_all

Open = Callable[[], Store]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    found: str = request.getfixturevalue("postgres_url")
    engine = database.connect(found)
    database.tables.drop_all(engine)
    engine.dispose()
    return found


@pytest.fixture
def opened(url: str) -> Iterator[Open]:
    """`opened()` is one worker's view of the store."""
    found: list[Store] = []

    def open_one() -> Store:
        found.append(Store(url))
        return found[-1]

    yield open_one
    for one in found:
        one.close()


def like(user: str, item: str, type: str = "like", value: float | None = None) -> Entry:
    return Entry(user, item, type, value, 1000)


def put(one: Store, *entries: Entry, **options: Any) -> store.Outcome:
    return one.submit(Change(entries, **options)).result(30)


def state(one: Store, user: str) -> list[tuple[str, str, float | None]]:
    return [(row.item_id, row.type, row.value) for row in one.of_user(user, 100)]


def test_entries_replace_or_keep_and_are_undone(opened: Open) -> None:
    one = opened()
    assert put(one, like("u", "a"), like("u", "b")).results == [("new", None), ("new", None)]
    [(result, before)] = put(one, like("u", "a", "rating", 4.0)).results
    assert (result, before) == ("overwritten", {"type": "like", "value": None, "timestamp": 1000})
    assert put(one, like("u", "a"), mode="keep").results[0][0] == "kept"
    # What was said last comes last, also if it was said before.
    assert state(one, "u") == [("b", "like", None), ("a", "rating", 4.0)]
    gone = one.submit(Change(removed=[("u", "a"), ("u", "zzz"), ("u", "a")])).result(30)
    assert [result for result, _ in gone.results] == ["removed", "absent", "absent"]
    assert state(one, "u") == [("b", "like", None)]


def test_a_batch_speaks_twice_of_a_pair(opened: Open) -> None:
    one = opened()
    found = put(one, like("u", "a"), like("u", "b"), like("u", "a", "rating", 2.0)).results
    assert [result for result, _ in found] == ["new", "new", "overwritten"]
    assert state(one, "u") == [("b", "like", None), ("a", "rating", 2.0)]


def test_another_worker_sees_it_at_once(opened: Open) -> None:
    one, other = opened(), opened()
    for number in range(20):
        writer, reader = (one, other) if number % 2 else (other, one)
        before = reader.stamp("u")
        put(writer, like("u", f"item {number}"))
        after = reader.stamp("u")
        assert after != before
        assert after.rows == number + 1
        assert state(reader, "u")[-1][0] == f"item {number}"


def test_a_stamp_never_comes_back(opened: Open) -> None:
    one = opened()
    seen = set()
    for round_ in range(3):
        put(one, like("u", "a"), like("u", "b"))
        seen.add(one.stamp("u"))
        one.submit(Change(removed=[("u", "b" if round_ % 2 else "a")])).result(30)
        seen.add(one.stamp("u"))
    assert len(seen) == 6


def test_a_key_does_it_once(opened: Open) -> None:
    one, other = opened(), opened()
    first = put(one, like("u", "a"), key="k", fingerprint="f")
    one.submit(Change(removed=[("u", "a")])).result(30)
    again = put(other, like("u", "a"), key="k", fingerprint="f")
    assert (again.replayed, again.results, again.stored_ms) == (True, first.results, first.stored_ms)
    assert state(one, "u") == []
    assert put(one, like("u", "b"), key="k", fingerprint="other").conflict
    assert state(one, "u") == []


def test_many_workers_with_the_same_keys_do_each_once(opened: Open) -> None:
    workers = [opened() for _ in range(3)]
    results: list[store.Outcome] = []
    errors: list[BaseException] = []

    def work(one: Store) -> None:
        for number in range(15):
            entries = [like(f"u{number % 3}", f"i{number}"), like(f"u{(number + 1) % 3}", f"i{number}")]
            while True:
                try:
                    results.append(put(one, *entries, key=f"k{number}", fingerprint="f"))
                    break
                except Problem:  # Locked for long: as a client would, try again.
                    time.sleep(0.05)
                except BaseException as error:
                    errors.append(error)
                    return

    threads = [threading.Thread(target=work, args=(one,)) for one in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert len(results) == 45
    assert sum(not outcome.replayed for outcome in results) == 15
    assert workers[0].count() == 30


def test_forgetting_leaves_nothing_of_a_user(opened: Open, url: str) -> None:
    one = opened()
    put(one, like("gone", "a"), like("stays", "a"), key="k", fingerprint="f")
    put(one, like("gone", "b"))
    assert one.submit(Change(forget="gone")).result(30).removed == 2
    assert state(one, "stays") == [("a", "like", None)]
    engine = database.connect(url)
    with engine.connect() as connection:
        for table in database.tables.sorted_tables:
            for row in connection.execute(sa.select(table)):
                assert "gone" not in str(tuple(row)), table.name
    engine.dispose()


def test_a_clock_that_goes_backwards_changes_no_order(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    one = opened()
    put(one, like("u", "first"), key="old", fingerprint="f")
    monkeypatch.setattr(store, "milliseconds", lambda: 5)
    put(one, like("u", "second"))
    put(one, like("u", "first", "rating", 1.0))
    assert [item for item, *_ in state(one, "u")] == ["second", "first"]
    assert put(one, like("u", "first"), key="old", fingerprint="f").replayed


def test_old_keys_are_forgotten(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    one = opened()
    put(one, like("u", "a"), key="k", fingerprint="f")
    now = store.milliseconds()
    monkeypatch.setattr(store, "milliseconds", lambda: now + 1000 * (store.REPLY_SECONDS + 60))
    later = opened()
    assert put(later, like("u", "b"), key="k", fingerprint="other").results == [("new", None)]


def test_odd_ids_and_values_come_back_as_they_are(opened: Open, url: str) -> None:
    one = opened()
    odd = ["'); DROP TABLE feedback;--", "<script>", "\x1b[31m", "ä\u202e語😀", " ", "%_\\", "a" * 512]
    put(one, *(like(user, item, "rating", 0.1) for user in odd[:2] for item in odd))
    assert [item for item, *_ in state(one, odd[0])] == odd
    table = read_all(url)
    assert table["item_id"].to_list() == odd * 2
    assert table["value"].unique().to_list() == [0.1]


def test_a_failing_group_stores_nothing(opened: Open) -> None:
    one = opened()

    def fail(connection: sa.Connection) -> None:
        connection.execute(sa.text("SELECT no_such_column FROM feedback"))

    good = one.submit(Change([like("u", "a")]))
    good.result(30)
    with pytest.raises(Problem) as caught:
        one.transact(fail).result(30)
    assert caught.value.status == 503
    assert one.count() == 1


def test_a_locked_sqlite_store_is_503(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_SECONDS", 0.2)
    one = Store(f"sqlite:///{tmp_path}/store.db")
    put(one, like("u", "a"))
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Problem) as caught:
        put(one, like("u", "b"), key="k", fingerprint="f")
    assert (caught.value.status, caught.value.headers()["Retry-After"]) == (503, "1")
    assert state(one, "u") == [("a", "like", None)]  # reading goes on
    other.execute("ROLLBACK")
    other.close()
    assert not put(one, like("u", "b"), key="k", fingerprint="f").replayed
    one.close()


def test_a_full_sqlite_store_is_503_and_half_of_a_batch_is_never_there(tmp_path: Path) -> None:
    one = Store(f"sqlite:///{tmp_path}/store.db")
    put(one, like("u", "a"))

    @sa.event.listens_for(one.engine, "begin")
    def little_room(connection: sa.Connection) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 3}")

    with pytest.raises(Problem) as caught:
        put(one, *(like("u", f"item {n} {'x' * 400}") for n in range(200)))
    assert caught.value.status == 503
    assert state(one, "u") == [("a", "like", None)]
    assert put(one, like("u", "b")).results == [("new", None)]
    one.close()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("nonsense", "is not a database URL"),
        ("mysql://host/db", "only sqlite and postgresql"),
        ("sqlite://", "needs a file"),
        ("sqlite:////no/such/folder/x.db", "cannot be opened"),
        ("postgresql://nobody@127.0.0.1:1/x", "cannot be opened"),
    ],
)
def test_stores_that_cannot_be_opened(given: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Store(given)


def test_passwords_are_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        Store("postgresql://nobody:geheim@127.0.0.1:1/x")
    assert "geheim" not in str(caught.value)
