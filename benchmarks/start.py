"""What a command costs before it does anything: processor seconds beside those of importing PyTorch.

    python benchmarks/start.py [--repeats 11]

A run of `mf` on MovieLens-100K is saved, and a CSV file of 1 MB is written. In turns, each in a process of its own:
`python -c "import torch"`, `palate recommend RUN --user 42` and `palate data inspect FILE`. Medians of processor time,
user and system. The ratio is the median over the rounds.

Bars: recommend <= 1.5x of importing PyTorch, inspect <= 1.0 s.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import real_data, write_result

from palate import Dataset, Recommender


def seconds(words: list[str]) -> float:
    """Processor time of a command."""
    before = os.times()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=11)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        data = Dataset.read(real_data("ml-100k") / "ratings.parquet")
        Recommender.train(data, "mf", training={"epochs": 1}).save(Path(folder, "run"))
        table = Path(folder, "ratings.csv")
        data.frame().head(45_000).write_csv(table)
        commands = {
            "import torch": ["-c", "import torch"],
            "palate recommend": ["-m", "palate", "recommend", str(Path(folder, "run")), "--user", "42"],
            "palate data inspect": ["-m", "palate", "data", "inspect", str(table)],
        }
        rounds = [{name: seconds(words) for name, words in commands.items()} for _ in range(repeats)]
        size = table.stat().st_size / 1e6
    rows = [
        [
            name,
            f"{statistics.median(each[name] for each in rounds):.2f}",
            f"{statistics.median(each[name] / each['import torch'] for each in rounds):.2f}",
        ]
        for name in commands
    ]
    about = [
        f"{repeats} rounds in turns; medians. The file of `inspect` has {size:.2f} MB and 45,000 rows.",
        "Bars: recommend <= 1.5, inspect <= 1.0 s.",
    ]
    write_result("start", "What a command costs before it does anything", about, ["command", "CPU s", "ratio"], rows)


if __name__ == "__main__":
    main()
