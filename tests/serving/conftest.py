"""A small trained run, applications in this process, a real PostgreSQL, and servers in processes of their own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock
from running import Server, postgres, small_data
from starlette.testclient import TestClient

from palate.recommender.recommender import Recommender
from palate.serving.app import create_app
from palate.serving.settings import Settings

if TYPE_CHECKING:
    from page_service import Service
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The page's service: two runs of one catalogue, in a process of its own."""
    pytest.importorskip("playwright", reason="pip install 'palate[browser]'")
    from page_service import serving, train

    base, folder = tmp_path_factory.getbasetemp(), tmp_path_factory.mktemp("page")
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with FileLock(shared / "page.lock"):  # The first process trains for all.
        if not (shared / "page-runs").exists():
            train(folder / "new")
            (folder / "new").rename(shared / "page-runs")
    names = sorted(path.name for path in (shared / "page-runs").iterdir())
    runs = [shutil.copytree(shared / "page-runs" / name, folder / name) for name in names]
    with serving(runs, folder, watch=runs[0]) as running:
        yield running


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    """Headless Chromium; tests that need it skip where there is none.

    Not for the session: Playwright keeps an event loop running in this thread, where `asyncio.run` then fails.
    """
    pytest.importorskip("playwright", reason="pip install 'palate[browser]'")
    from page_service import browser, chromium

    path = chromium()
    if path is None:
        pytest.skip("no Chromium found; set PALATE_CHROMIUM to its path")
    with browser(path) as opened:
        yield opened


SETTINGS: dict[str, tuple[Any, Any]] = {"mf": ({"dim": 8, "loss": "mse"}, {"epochs": 2})}
"""Settings of models and of their training, where they are not the defaults."""


class Runs(dict[str, Path]):
    """Folders of runs on the small data, by model; each is trained when it is first asked for."""

    def __init__(self, home: Path) -> None:
        super().__init__()
        self.home = home

    def __missing__(self, name: str) -> Path:
        parts = small_data().split("random", valid=0.1, test=0.1, seed=0)
        config, training = SETTINGS.get(name, (None, None))
        Recommender.train(parts.train, name, config, training, seed=1).save(self.home / name, {"test": parts.test})
        self[name] = self.home / name
        return self[name]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of runs on the small data, by model."""
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., TestClient]]:
    """`serve(runs, **settings)` is a client of an application in this process."""
    open_clients: list[TestClient] = []

    def start(runs: Any, watch: Path | None = None, **settings: Any) -> TestClient:
        settings = {"store": f"sqlite:///{tmp_path}/feedback.db", "log": "off"} | settings
        client = TestClient(create_app(runs, Settings(**settings), watch=watch), raise_server_exceptions=False)
        client.__enter__()
        open_clients.append(client)
        return client

    yield start
    for client in open_clients:
        client.__exit__(None, None, None)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """`server(*words)` is a real server, `palate serve` with these words, in a process of its own."""
    started: list[Server] = []

    def start(*words: object, store: str | None = None) -> Server:
        one = Server(tmp_path / f"server-{len(started)}.log", *words, store=store or f"sqlite:///{tmp_path}/store.db")
        started.append(one)
        return one.wait()

    yield start
    for one in started:
        one.stop()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a real PostgreSQL server of these tests; skips where none can be started."""
    with postgres() as cluster:
        yield cluster.url
