"""What comparing hashes costs when a large artifact is loaded: `Recommender.load` with and without `verify`.

    python benchmarks/artifact_hashing.py [--gb 1] [--repeats 5]

The artifact is an EASE of that size, read from the file cache. Seconds of the clock and of the processor are medians;
those of the processor hardly depend on what else the machine does. Copying the folder is for comparison.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from common import write_result

from palate import Dataset, Recommender
from palate.config import CompleteTraining
from palate.models import MODELS


def saved(folder: Path, size: float) -> float:
    """Write an artifact of about `size` GB; returns its size in GB."""
    items = int((size * 1e9 / 4) ** 0.5)
    data = Dataset.from_frame(pl.DataFrame({"user_id": np.arange(items) % 1000, "item_id": np.arange(items)}))
    ease = MODELS["ease"]
    model = ease(ease.Config(), data.spec)
    Recommender(name="ease", model=model, data=data, training=CompleteTraining(), records=[]).save(folder)
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e9


def timed(run: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds of the clock and of the processor, after one run that is not counted."""
    run()
    took = []
    for _ in range(repeats):
        clock, cpu = time.perf_counter(), time.process_time()
        run()
        took.append((time.perf_counter() - clock, time.process_time() - cpu))
    return statistics.median(clock for clock, _ in took), statistics.median(cpu for _, cpu in took)


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gb", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "run"
        size = saved(place, given.gb)

        def copied() -> None:
            shutil.rmtree(Path(folder) / "copy", ignore_errors=True)
            shutil.copytree(place, Path(folder) / "copy")

        measured = [
            ("load", timed(lambda: Recommender.load(place), given.repeats)),
            ("load, verify=False", timed(lambda: Recommender.load(place, verify=False), given.repeats)),
            ("copy the folder", timed(copied, given.repeats)),
        ]
    write_result(
        "artifact_hashing",
        "Cost of comparing hashes",
        [f"An artifact of {size:.2f} GB, from the file cache; medians of {given.repeats}."],
        ["what", "s", "processor s"],
        [[what, f"{clock:.2f}", f"{cpu:.2f}"] for what, (clock, cpu) in measured],
    )


if __name__ == "__main__":
    main()
