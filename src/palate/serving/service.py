"""Service: what all requests share: the runs, the store, keys, metrics, a cache of answers, threads."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import sqlalchemy as sa

from palate.errors import UnknownId
from palate.serving.keys import ApiKey, KeyRing
from palate.serving.logs import log
from palate.serving.metrics import Metrics
from palate.serving.problems import Problem
from palate.serving.served import Served, with_stored_items
from palate.serving.settings import Settings
from palate.serving.store import Change, Outcome, Row, Stamp, Store

T = TypeVar("T")

INLINE_SECONDS = 0.004
"""Work that takes less CPU time than this runs at once; a thread would cost more than it gains."""
READERS = 8
"""Threads, and so connections, that read from a database server."""
SMOOTHING = 0.2
"""Share of the newest measurement in what a kind of work is expected to take."""


class Service:
    """The state of one worker.

    Args:
        runs: The runs, the default one first.
        settings: Settings.
        store: The feedback store.
    """

    def __init__(self, runs: Sequence[Served], settings: Settings, store: Store) -> None:
        self.settings, self.store = settings, store
        self.runs: dict[str, Served] = {served.name: served for served in runs}
        self.keys, self.metrics = KeyRing(store.reader), Metrics()
        self.pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="palate-answer")
        self.readers = ThreadPoolExecutor(READERS, thread_name_prefix="palate-reader")
        self.background = ThreadPoolExecutor(1, thread_name_prefix="palate-background")
        self.waiting = 0
        self.catalogue = -1
        """The state of the store's items that the runs show; -1 for none."""
        self.notes: list[str] = []
        self._cost: dict[tuple[str, str], float] = {}
        self._cache: OrderedDict[object, tuple[Stamp, bytes]] = OrderedDict()
        self._changing = asyncio.Lock()
        self._watch_models()

    def _watch_models(self) -> None:
        for served in self.runs.values():
            self.metrics.saved.labels(served.name).set(served.saved_at)

    def close(self) -> None:
        """End the threads; writes that wait are finished."""
        self.pool.shutdown(cancel_futures=True)
        self.readers.shutdown(cancel_futures=True)
        self.background.shutdown(cancel_futures=True)
        self.store.close()

    def run(self, name: str | None) -> Served:
        """The run that a request names; the first by default.

        Raises:
            UnknownId: There is none of that name.
        """
        if name is None:
            return next(iter(self.runs.values()))
        found = self.runs.get(name)
        if found is None:
            raise UnknownId(f"unknown model {name!r}: choose one of {', '.join(self.runs)}")
        return found

    async def read(self, work: Callable[[], T]) -> T:
        """Ask the store; on a thread if the answer may take long."""
        try:
            if self.store.quick:
                return work()
            return await asyncio.get_running_loop().run_in_executor(self.readers, work)
        except Problem:
            self.metrics.store_errors.inc()
            raise

    async def read_slowly(self, work: Callable[[], T]) -> T:
        """Do something that takes long but is no work of a model, on a thread."""
        return await asyncio.get_running_loop().run_in_executor(self.readers, work)

    async def transact(self, work: Callable[[sa.Connection], None]) -> None:
        """Change the store; the change is on disk when this returns.

        Raises:
            Problem: The store is locked, full or cannot be reached.
        """
        await asyncio.wrap_future(self.store.transact(work))

    async def stamp(self, user_id: str | int | None) -> Stamp:
        """The state of a user's feedback, after the runs were brought up to the store's items.

        Raises:
            Problem: The store cannot be read.
        """
        user = "" if user_id is None else str(user_id)
        found = await self.read(lambda: self.store.stamp(user))
        if found.catalogue != self.catalogue:
            await self.show_items(found.catalogue)
        return found

    async def rows(self, user_id: str | int | None, stamp: Stamp) -> list[Row]:
        """The stored feedback of a user, oldest first; the newest, if there is more than can be used."""
        if user_id is None or not stamp.rows:
            return []
        return await self.read(lambda: self.store.of_user(str(user_id), self.settings.max_history))

    async def write(self, change: Change) -> Outcome:
        """Store a change; it is on disk when this returns.

        Raises:
            Problem: The store is locked, full or cannot be reached; or the key was used for another request.
        """
        try:
            outcome = await asyncio.wrap_future(self.store.submit(change))
        except Problem:
            self.metrics.store_errors.inc()
            raise
        if outcome.conflict:
            raise Problem("idempotency-conflict", "this idempotency key was used for another request; use a new one")
        return outcome

    async def show_items(self, version: int) -> None:
        """Bring the runs up to the items that the store adds and hides."""
        async with self._changing:
            if version == self.catalogue:
                return
            stored = await self.read(self.store.items)
            loop = asyncio.get_running_loop()
            notes: list[str] = []
            for name, served in list(self.runs.items()):
                shown, found = await loop.run_in_executor(self.background, with_stored_items, served, stored)
                notes += found
                self.runs[name] = shown
            self.notes, self.catalogue = notes, version

    async def replace_run(self, served: Served) -> None:
        """Put a run in the place of the one of its name; requests in progress end with the old one."""
        async with self._changing:
            stored = await self.read(self.store.items)
            loop = asyncio.get_running_loop()
            shown, _ = await loop.run_in_executor(self.background, with_stored_items, served, stored)
            self.runs[served.name] = replace(shown, loaded_at=time.time())
            self._cost = {key: cost for key, cost in self._cost.items() if key[0] != served.name}
            self._watch_models()
        log("swap", model=served.name, model_id=served.model_id)

    async def compute(self, served: Served, kind: str, work: Callable[[], T]) -> T:
        """Do work of a model: at once if such work is short, else on a thread.

        Args:
            served: Whose model works.
            kind: Work of one kind takes about equally long.
            work: The work.

        Raises:
            Problem: Too much work waits already.
        """
        key = (served.name, kind)
        if self._cost.get(key, 1.0) < INLINE_SECONDS:
            return self._timed(key, work)
        if self.waiting >= self.settings.max_waiting + self.settings.threads:
            raise Problem("overloaded", f"{self.waiting} answers wait already; try again", retry_after=1)
        self.waiting += 1
        self.metrics.waiting.set(self.waiting)
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, self._timed, key, work)
        finally:
            self.waiting -= 1
            self.metrics.waiting.set(self.waiting)

    def _timed(self, key: tuple[str, str], work: Callable[[], T]) -> T:
        began = time.thread_time()
        try:
            return work()
        finally:
            took = time.thread_time() - began
            self._cost[key] = (1 - SMOOTHING) * self._cost.get(key, took) + SMOOTHING * took

    def cached(self, key: object, stamp: Stamp) -> bytes | None:
        """The kept answer to a question, if the user's feedback and the catalogue are as they were."""
        found = self._cache.get(key)
        good = found is not None and found[0] == stamp
        self.metrics.hit(good)
        if found is None or not good:
            return None
        self._cache.move_to_end(key)
        return found[1]

    def keep(self, key: object, stamp: Stamp, answer: bytes) -> None:
        """Keep an answer; the one that was not asked for longest is forgotten."""
        if not self.settings.cache:
            return
        self._cache[key] = stamp, answer
        self._cache.move_to_end(key)
        if len(self._cache) > self.settings.cache:
            self._cache.popitem(last=False)

    async def key_of(self, headers: dict[bytes, bytes]) -> ApiKey:
        """Whose key a request carries.

        Raises:
            Problem: Keys are needed, and there is none or it is not valid.
        """
        if self.keys.stale:
            await self.read(self.keys.refresh)
        if not self.keys.needed:
            return self.keys.check(None)
        given = headers.get(b"x-api-key")
        if given is None:
            word, _, value = headers.get(b"authorization", b"").partition(b" ")
            given = value.strip() if word.lower() == b"bearer" else None
        return self.keys.check(None if given is None else given.decode("latin-1"))
