"""How many negatives a second does one thread draw, on three sizes of data, by uniform chance and by popularity?

    python benchmarks/negatives_speed.py [--repeats 7] [--batches 40]

Users of a batch are drawn by their activity, as in training. Prints medians over repeats, by the clock of the process,
so that other work on the machine counts less. Bar: millions a second.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import polars as pl
import torch
from common import write_result

from palate.data.dataset import Dataset
from palate.data.ids import IdMap
from palate.training.batches import Negatives

COUNT = 4
SIZES = {
    "as ML-100K": (943, 1_682, 100_000),
    "as ML-20M": (138_000, 27_000, 20_000_000),
    "1.5M items": (1_000_000, 1_500_000, 20_000_000),
}


def dataset(users: int, items: int, rows: int) -> Dataset:
    """Long-tailed users and items, no pair twice; the densest corner is filled up, so rows are a little fewer."""
    rng = np.random.default_rng(0)
    user, item = users * rng.random(rows) ** 1.7, items * rng.random(rows) ** 2.5
    pair = np.sort(user.astype(np.int64) * items + item.astype(np.int64))
    pair = pair[np.diff(pair, prepend=-1) > 0]
    return Dataset(
        users=IdMap(pl.Series("id", np.arange(users))),
        items=IdMap(pl.Series("id", np.arange(items))),
        user=(pair // items).astype(np.int32),
        item=(pair % items).astype(np.int32),
    )


def speed(negatives: Negatives, data: Dataset, size: int, batches: int, repeats: int) -> float:
    """Median negatives in a second."""
    rng = torch.Generator().manual_seed(1)
    rows = [torch.randint(len(data), (size,), generator=rng).numpy() for _ in range(batches)]
    users = [torch.from_numpy(data.user[some]).long() for some in rows]
    found = []
    for _ in range(repeats):
        start = time.process_time()
        for batch in users:
            negatives.draw(batch, rng)
        found.append(size * COUNT * batches / (time.process_time() - start))
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batches", type=int, default=40)
    given = parser.parse_args()
    torch.set_num_threads(1)
    table = []
    for name, (users, items, rows) in SIZES.items():
        data = dataset(users, items, rows)
        for power in (0.0, 0.75):
            start = time.process_time()
            negatives = Negatives(data, COUNT, power)
            built = time.process_time() - start
            speeds = [speed(negatives, data, size, given.batches, given.repeats) for size in (2048, 16384)]
            table.append(
                [name, f"{users:,} x {items:,}", f"{len(data):,}", "uniform" if power == 0 else f"popularity ^ {power}"]
                + [f"{built:.2f} s"]
                + [f"{value / 1e6:.1f}M" for value in speeds]
            )
    write_result(
        "negatives_speed",
        "Negatives drawn in a second, one thread",
        [
            f"Made-up long-tailed data, {COUNT} negatives of each positive.",
            f"Median of {given.repeats} repeats, process time.",
        ],
        ["data", "users x items", "pairs", "chance", "building", "batch 2,048", "batch 16,384"],
        table,
    )


if __name__ == "__main__":
    main()
