"""Neighbour models on catalogues of growing size: time and peak memory of a fit, for a fixed number of rows.

A million interactions of 50,000 users are spread over 1,000 to 1,000,000 items, each item about equally often. The
sizes grow by factors of about 3.16, so that a column is a log-log plot as text: `slope` is the exponent of CPU time in
the number of items, since the line before. Each fit is a process of its own.

With `--long`, one user has 100,000 items, beside 200,000 ordinary interactions, and models have several bounds
(`max_history`) of the items of a user; written as neighbours_long_history.md.

    OMP_NUM_THREADS=2 python benchmarks/neighbours_size.py
    OMP_NUM_THREADS=1 python benchmarks/neighbours_size.py --long
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
import warnings

import numpy as np
import polars as pl
from common import peak_bytes, write_result

from palate.data.dataset import Dataset
from palate.models import MODELS

ROWS, USERS = 1_000_000, 50_000
SIZES = (1_000, 3_162, 10_000, 31_623, 100_000, 316_228, 1_000_000)
NAMES = ("itemknn", "rp3beta", "userknn")
LONG, ORDINARY = 100_000, 200_000
LONG_NAMES = ("itemknn", "rp3beta", "gf-cf", "userknn")
BOUNDS = (10_000, 35_000)
QUERIES = 64


def spread(items: int, rng: np.random.Generator) -> pl.DataFrame:
    """About ROWS distinct interactions."""
    item = np.concatenate([rng.permutation(items) for _ in range(-(-ROWS // items))])[:ROWS]
    return pl.DataFrame({"user_id": rng.integers(0, USERS, ROWS), "item_id": item}).unique(maintain_order=True)


def with_long_history(rng: np.random.Generator) -> pl.DataFrame:
    """One user with LONG items, and ORDINARY interactions of 10,000 others."""
    others = pl.DataFrame({"user_id": rng.integers(1, 10_001, ORDINARY), "item_id": rng.integers(0, LONG, ORDINARY)})
    one = pl.DataFrame({"user_id": np.zeros(LONG, dtype=np.int64), "item_id": rng.permutation(LONG)})
    return pl.concat([one, others]).unique(maintain_order=True)


def gigabytes() -> float:
    """Peak memory of this process so far."""
    return peak_bytes() / 2**30


def measure(name: str, items: int, bound: int) -> dict[str, float]:
    """Fit one model and score some queries; no items for the data with a long history, no bound for the default."""
    rng = np.random.default_rng(0)
    data = Dataset.read(with_long_history(rng) if items == 0 else spread(items, rng))
    before = gigabytes()
    config = MODELS[name].Config(max_history=bound) if bound else MODELS[name].Config()
    model = MODELS[name](config, data.spec)
    warnings.simplefilter("ignore")
    start, work = time.perf_counter(), time.process_time()
    model.fit(data)
    fitted, worked = time.perf_counter(), time.process_time()
    model.score(data.queries(np.arange(1, 1 + QUERIES), data.spec))
    return {
        "items": data.n_items, "rows": len(data), "fit": fitted - start, "cpu": worked - work,
        "score": time.perf_counter() - fitted, "before": before, "peak": gigabytes(),
    }  # fmt: skip


def measured(name: str, items: int, bound: int = 0) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--measure", name, str(items), str(bound)]
    found: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def figures(found: dict[str, float]) -> list[str]:
    """Rows, times and memory, as texts."""
    return [
        f"{found['rows']:,}", f"{found['fit']:.1f}", f"{found['cpu']:.1f}", f"{1000 * found['score'] / QUERIES:.1f}",
        f"{found['before']:.2f}", f"{found['peak']:.2f}",
    ]  # fmt: skip


def load() -> str:
    """The load of the machine, in words."""
    return f"The load average at the end was {os.getloadavg()[0]:.1f}: CPU seconds are comparable, seconds are not."


def long_history() -> None:
    """The table of one user with very many items."""
    rows = []
    for name in LONG_NAMES:
        for bound in BOUNDS if hasattr(MODELS[name].Config(), "max_history") else (0,):
            rows.append([name, f"{bound:,}" if bound else "-", *figures(measured(name, 0, bound))])
            print(*rows[-1], sep="  ", flush=True)
    about = [
        f"Data: one user with {LONG:,} items and {ORDINARY:,} random interactions of 10,000 others, seed 0; repeated "
        "pairs are dropped. Settings are the defaults but for `max_history`, whose default is the lower value.",
        load(),
    ]
    header = ["model", "max_history", "rows", "fit, s", "fit, CPU s", "score, ms a user", "before, GB", "peak, GB"]
    write_result("neighbours_long_history", "Neighbour models with one very long history", about, header, rows)


def main() -> None:
    """Measure every size in a process of its own and write the table."""
    if "--measure" in sys.argv:
        print(json.dumps(measure(sys.argv[-3], int(sys.argv[-2]), int(sys.argv[-1]))))
        return
    if "--long" in sys.argv:
        long_history()
        return
    rows = []
    for name in NAMES:
        last: dict[str, float] = {}
        for items in SIZES:
            found = measured(name, items)
            slope = "-"
            if last:
                slope = f"{math.log(found['cpu'] / last['cpu']) / math.log(found['items'] / last['items']):+.2f}"
            last = found
            line = figures(found)
            rows.append([name, f"{found['items']:,}", *line[:3], slope, *line[3:]])
            print(*rows[-1], sep="  ", flush=True)
    about = [
        f"Data: {ROWS:,} random interactions of {USERS:,} users, seed 0; repeated pairs are dropped. Default settings.",
        f"Peak is of the whole process, scores of {QUERIES} users included; `before` is its peak with the data read.",
        load(),
    ]
    header = ["model", "items", "rows", "fit, s", "fit, CPU s", "slope", "score, ms a user", "before, GB", "peak, GB"]
    write_result("neighbours_size", "Neighbour models by size of the catalogue", about, header, rows)


if __name__ == "__main__":
    main()
