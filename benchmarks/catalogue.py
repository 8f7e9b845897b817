"""Lists from a million items with features: approximate against exact, in a process that has loaded the artifact.

A two-tower model learns from made-up people and 2,000 items; 998,000 items more, known by their features alone, are
added by `Recommender.add_items`, and the whole is saved. A fresh process loads it, builds the index, and asks for lists
of 256 people at once.

    OMP_NUM_THREADS=2 python benchmarks/catalogue.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from common import peak_bytes, write_result

from palate.config import Training
from palate.data.dataset import Dataset
from palate.data.sources.synthetic import item_table, make_world
from palate.models.content.two_tower import TwoTower, TwoTowerConfig
from palate.ranking.index import PROBES
from palate.ranking.topk import rank
from palate.recommender.id_translation import from_users
from palate.recommender.recommender import Recommender

ITEMS, KNOWN = 1_000_000, 2_000
PEOPLE, BATCHES = 256, 3
TOPICS, WIDTH = 64, 32
SHARES = (1 / 64, 1 / 32, PROBES, 1 / 8)


def table(topic: np.ndarray, second: np.ndarray, release: np.ndarray, rng: np.random.Generator) -> pl.DataFrame:
    """Titles, genres, years, and a vector of each item: its topics' directions and as much noise."""
    found = item_table(topic, second, release, TOPICS, rng)
    direction = np.random.default_rng(0).normal(size=(TOPICS, WIDTH)).astype(np.float32)
    vector = 0.7 * direction[topic] + 0.3 * direction[second]
    vector += rng.standard_normal(vector.shape, dtype=np.float32)
    return found.with_columns(pl.Series("look", vector).cast(pl.Array(pl.Float32, WIDTH)))


def make(folder: Path) -> dict[str, float]:
    """Train, add items, save."""
    world = make_world(100_000, 2_000, KNOWN, n_topics=TOPICS, seed=0)
    rng = np.random.default_rng(1)
    known = table(world.topics, world.second_topics, world.releases, rng)
    data = Dataset.from_frame(world.tables().interactions, known, item_kinds={"look": "vector"})
    start = time.perf_counter()
    config = TwoTowerConfig(text="bag")
    rec = Recommender.train(
        data, TwoTower(config, TwoTower.spec_of(data)), training=Training(epochs=5, batch_size=256, lr=1e-2)
    )
    fitted = time.perf_counter()
    more = ITEMS - KNOWN
    topic, second = (rng.integers(TOPICS, size=more) for _ in range(2))
    late = table(topic, second, np.full(more, world.releases.max()), rng)
    grown = rec.add_items(late.with_columns(pl.col("item_id") + KNOWN))
    added = time.perf_counter()
    grown.save(folder)
    return {"fit": fitted - start, "add": added - fitted, "save": time.perf_counter() - added}


def memory() -> float:
    """Peak of this process so far, in MB."""
    return peak_bytes() / 2**20


def ask(folder: Path) -> dict[str, object]:
    """Load, build, ask."""
    start = time.perf_counter()
    rec = Recommender.load(folder)
    found: dict[str, object] = {"load": time.perf_counter() - start, "loaded MB": memory()}
    start = time.perf_counter()
    index = rec.index
    found |= {"build": time.perf_counter() - start, "built MB": memory(), "index MB": index.bytes / 2**20}
    users = np.random.default_rng(2).permutation(rec.data.n_users)[: BATCHES * PEOPLE].reshape(BATCHES, PEOPLE)
    first = time.perf_counter()
    rec.recommend(rec.data.users.ids[users[0]], k=10, approximate=True)
    found["first"] = time.perf_counter() - first
    times: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    for row in users:
        for name, near in (("approximate", True), ("exact", False)):
            start, work = time.perf_counter(), time.process_time()
            rec.recommend(rec.data.users.ids[row], k=10, approximate=near)
            times.setdefault(name, []).append(time.perf_counter() - start)
            cpu.setdefault(name, []).append(time.process_time() - work)
    found |= {"seconds": times, "cpu": cpu}
    found["rows"] = rows = []
    some = from_users(rec.data, rec.model.spec, users.reshape(-1))
    best = rank(rec.model, some, 100).items
    for share in SHARES:
        index.probes = share
        row = {"share": share}
        for k in (10, 100):
            start = time.perf_counter()
            lists = index.rank(some, k).items
            row[f"seconds {k}"] = (time.perf_counter() - start) / BATCHES
            row[f"recall {k}"] = float((best[:, :k].unsqueeze(2) == lists.unsqueeze(1)).any(2).float().mean())
        rows.append(row)
    found["peak MB"] = memory()
    found["others"] = os.getloadavg()[0]
    return found


def main() -> None:
    """Make it, and ask it in a process of its own."""
    if "--ask" in sys.argv:
        print(json.dumps(ask(Path(sys.argv[-1]))))
        return
    with tempfile.TemporaryDirectory() as home:
        made = make(Path(home) / "run")
        told = subprocess.run(
            [sys.executable, __file__, "--ask", str(Path(home) / "run")], capture_output=True, text=True, check=True
        )
    tell(made, json.loads(told.stdout))


def tell(made: dict[str, float], found: dict[str, Any]) -> None:
    """Write the table."""
    medians = [float(np.median(found[of][name])) for of in ("seconds", "cpu") for name in ("approximate", "exact")]
    near, exact, near_cpu, exact_cpu = medians
    about = [
        f"Data: {ITEMS:,} made-up items with title, genres, year and a vector of {WIDTH}; two-tower (dim 64) learns "
        f"from 100,000 ratings of {KNOWN:,} of them (fit {made['fit']:.0f} s), the others are added by `add_items` "
        f"({made['add']:.0f} s), the whole is saved ({made['save']:.0f} s).",
        f"A fresh process loads it in {found['load']:.1f} s and builds the index in {found['build']:.1f} s.",
        f"Memory: {found['loaded MB']:.0f} MB at most while loading, {found['built MB']:.0f} MB while building; the "
        f"index itself takes {found['index MB']:.0f} MB; {found['peak MB']:.0f} MB with exact lists, for comparison.",
        f"`recommend` for {PEOPLE} people, k = 10, ids to frame, median of {BATCHES} batches: {near:.2f} s approximate "
        f"(the first {found['first']:.2f} s), {exact:.2f} s exact; of the processor's time "
        f"{near_cpu:.2f} s and {exact_cpu:.2f} s. Load average of the machine meanwhile: {found['others']:.1f} "
        f"(above 2, seconds are too many).",
        f"Table: {BATCHES * PEOPLE} people; recall: share of the exact list that the approximate one holds; the "
        f"default share of cells is {PROBES:.4f}.",
    ]
    header = ["share of cells", "recall@10", f"s for {PEOPLE} (k=10)", "recall@100", f"s for {PEOPLE} (k=100)"]
    rows = [
        [f"{r['share']:.4f}", *(f"{r[name]:.3f}" for name in ("recall 10", "seconds 10", "recall 100", "seconds 100"))]
        for r in found["rows"]
    ]
    write_result("catalogue", "Lists from a million items", about, header, rows)


if __name__ == "__main__":
    main()
