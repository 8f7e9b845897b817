"""A real service for the browser tests: two trained runs of a synthetic catalogue with hostile titles, and Chromium."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from playwright.sync_api import Browser, sync_playwright

from palate import Dataset, Recommender
from palate.data.sources.synthetic import synthetic
from palate.recommender.evaluation_file import write_summary

N_ITEMS = 13_000
LONG = "The very long title of a film whose makers could not decide and so kept every word of its working title twice"
HOSTILE = {
    "script": "<script>document.title='stolen'</script><img src=x onerror=alert(1)>",
    "escape": "\x1b[31mred alert\x1b[0m",
    "sql": "Robert'); DROP TABLE feedback;--",
    "long": LONG,
    "rtl": "مدينة الملائكة والظلال",
}
"""Titles of the most popular items, so that a visitor without a history meets them."""
CHROMIUM = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
STARTS_WITHIN = 120.0


def chromium() -> str | None:
    """The browser on this machine: `PALATE_CHROMIUM`, or where Linux distributions put it."""
    named = os.environ.get("PALATE_CHROMIUM")
    return named or next((path for path in CHROMIUM if Path(path).exists()), None) or shutil.which("chromium")


def train(folder: Path, n_items: int = N_ITEMS, n_interactions: int = 60_000, hostile: bool = True) -> list[Path]:
    """Two runs of one synthetic catalogue: `ials`, which folds feedback in, and `mf`, which learns by epochs."""
    tables = synthetic(n_interactions, n_items=n_items, seed=3)
    assert tables.items is not None
    items = tables.items.with_columns(pl.col("title").str.replace(" ", " of "))  # one word that all titles share
    if hostile:
        counts = tables.interactions["item_id"].value_counts(sort=True)
        names = dict(zip(counts["item_id"].head(len(HOSTILE)).to_list(), HOSTILE.values(), strict=True))
        renamed = pl.col("item_id").replace_strict(names, default=pl.col("title"), return_dtype=pl.String)
        items = items.with_columns(renamed.alias("title"))
    everything = pl.concat([tables.interactions, _one_for_each(n_items, tables.interactions)])
    once = everything.unique(["user_id", "item_id"], keep="first", maintain_order=True)
    parts = Dataset.read(once, items=items, users=tables.users).split("random", valid=0.1, test=0.1)
    settings = {"ials": ({"dim": 16, "iterations": 4}, {}), "mf": ({"dim": 16}, {"epochs": 4})}
    baseline = Recommender.train(parts.train, "popularity").evaluate(parts.test)
    for name, (config, training) in settings.items():
        rec = Recommender.train(parts.train, name, config, training, valid=parts.valid, seed=1)
        rec.save(folder / name, {"valid": parts.valid, "test": parts.test})
        write_summary(folder / name, name, {name: rec.evaluate(parts.test), "popularity": baseline})
    return [folder / name for name in settings]


def _one_for_each(n_items: int, like: pl.DataFrame) -> pl.DataFrame:
    """An interaction for each item, so that few items are missing from the training part."""
    item = pl.int_range(n_items, eager=True)
    start, users = like["timestamp"].min(), like["user_id"].n_unique()
    columns = {"user_id": item % users, "item_id": item, "rating": 3 + item % 3, "timestamp": start + item}
    return pl.DataFrame(columns).cast(dict(like.schema))


@dataclass(frozen=True)
class Service:
    """A running service."""

    url: str
    store: str
    runs: tuple[Path, ...]


@contextlib.contextmanager
def serving(runs: list[Path], folder: Path, watch: Path | None = None) -> Iterator[Service]:
    """`palate serve` on a free port, ready to answer."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url, store = f"http://127.0.0.1:{port}/", f"sqlite:///{folder / 'feedback.db'}"
    command = [sys.executable, "-m", "palate", "serve", *map(str, runs), "--port", str(port), "--store", store]
    command += [] if watch is None else ["--watch", str(watch)]
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen([*command, "--log", "errors"], stdout=log, stderr=log)
        try:
            _wait(url + "healthz/ready", process, folder / "serve.log")
            yield Service(url, store, tuple(runs))
        finally:
            process.terminate()
            process.wait(timeout=20)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.2)
    raise TimeoutError(f"{url} did not answer within {STARTS_WITHIN:.0f} s: {log.read_text()}")


@contextlib.contextmanager
def browser(path: str) -> Iterator[Browser]:
    """Headless Chromium that asks nothing of the network by itself."""
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-background-networking", "--disable-gpu", "--disable-extensions"]
        opened = playwright.chromium.launch(executable_path=path, args=arguments, timeout=STARTS_WITHIN * 1000)
        try:
            yield opened
        finally:
            opened.close()
