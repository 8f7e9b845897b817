"""Generated conditions for `Rules.where`: each is answered or refused within a second and 500 MB.

    python benchmarks/filters.py [--count 10000] [--items 100000] [--seed 1]

`tests/conditions.py` generates them: valid ones, forbidden ones, broken ones and bombs of up to 10,000 characters. Time
is processor time, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

from common import ROOT, peak_bytes, write_result

sys.path.append(str(ROOT / "tests"))

from conditions import condition, item_table
from palate.errors import ConfigError
from palate.ranking.filters import where


def main() -> None:
    """Ask all conditions and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    table, rng = item_table(given.items), random.Random(given.seed)
    where(table, "year > 1")
    took: dict[str, list[tuple[float, str]]] = {"answered": [], "refused": []}
    before = peak_memory(reset=True)
    for number in range(given.count):
        asked, start = condition(rng), time.process_time()
        try:
            where(table, asked)
            outcome = "answered"
        except ConfigError:
            outcome = "refused"
        took[outcome].append((time.process_time() - start, asked))
        if took[outcome][-1][0] > 1:
            print("SLOW", took[outcome][-1], flush=True)
        if (number + 1) % 1000 == 0:
            print(f"{number + 1:,}", flush=True)
    write_result(
        "filters",
        "Generated conditions for filters",
        [
            f"{given.count:,} conditions on {given.items:,} items, texts of about 400 characters, seed {given.seed}.",
            f"Peak memory: {peak_memory() - before:.0f} MB above the {before:.0f} MB before the first condition.",
        ],
        ["outcome", "conditions", "median, ms", "99 %, ms", "slowest, ms"],
        [row(outcome, sorted(seconds for seconds, _ in times)) for outcome, times in took.items()],
    )


def peak_memory(reset: bool = False) -> float:
    """Most memory that this process has taken, in MB; optionally since now (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes() / 2**20


def row(outcome: str, seconds: list[float]) -> list[str]:
    """A line of the table, of sorted times."""
    marks = (len(seconds) // 2, int(len(seconds) * 0.99), len(seconds) - 1)
    return [outcome, f"{len(seconds):,}", *(f"{1000 * seconds[mark]:.1f}" for mark in marks)]


if __name__ == "__main__":
    main()
